#!/usr/bin/env bash
# A private S3 server for the tests of the archive: versitygw, which keeps objects as files below one directory.
#
#   s3.sh install                     builds the pinned version, where it is not there yet; it needs Go
#   s3.sh path                        prints where it is; fails where it is not
#   s3.sh run DIR PORT [OPTION]...    in the foreground, on 127.0.0.1 only; PORT 0: a free one. Each folder in DIR/data is a bucket.
#                                     The key is `test-key-id` with `test-secret-key`. Prints one line `port=...` when it
#                                     is ready; ends as soon as its stdin is closed, so that nothing outlives a test that is killed
set -euo pipefail

version=v1.8.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast
binary=$cache/versitygw-$version

usage() { sed -n '4,8s/^# *//p' "$0" >&2; exit 2; }
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

case ${1:-} in
install)
    [[ ! -x $binary ]] || exit 0
    if ! command -v go >/dev/null; then
        echo "Go is missing, so the tests of an archive in S3 are SKIPPED: https://go.dev/dl, then make setup." >&2
        exit 0
    fi
    echo "Building an S3 server for the tests (versitygw $version): a few minutes, once."
    mkdir -p "$cache"
    build=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$build"' EXIT
    GOBIN=$build GOFLAGS=-buildvcs=false go install "github.com/versity/versitygw/cmd/versitygw@$version" 2>"$build/log" ||
        { tail -n 20 "$build/log" >&2; echo "The S3 server could not be built; the tests that need it are SKIPPED." >&2; exit 0; }
    # Only what is whole gets its name.
    mv "$build/versitygw" "$binary"
    ;;
path)
    [[ -x $binary ]] || { echo "there is no S3 server; deploy/dev/s3.sh install builds it" >&2; exit 1; }
    echo "$binary"
    ;;
run)
    [[ $# -ge 3 ]] || usage
    dir=$2 port=$3
    shift 3
    mkdir -p "$dir/data" "$dir/meta"
    while [[ $port == 0 ]] || listening "$port"; do # below the ports that the kernel gives to clients
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    done
    ROOT_ACCESS_KEY=test-key-id ROOT_SECRET_KEY=test-secret-key \
        "$binary" --port "127.0.0.1:$port" --quiet "$@" posix --sidecar "$dir/meta" "$dir/data" >"$dir/log" 2>&1 </dev/null &
    server=$!
    trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true' EXIT
    until listening "$port"; do
        kill -0 "$server" 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
        sleep 0.1
    done
    echo "port=$port"
    cat >/dev/null
    ;;
*) usage ;;
esac
