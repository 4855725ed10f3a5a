#!/usr/bin/env bash
# Whether what is linked into Holdfast may be: licences, sources and bans of deny.toml, and known vulnerabilities.
#
#   deny.sh install   builds the pinned cargo-deny, where it is not there yet
#   deny.sh check     fails on what deny.toml does not allow; advisories only where their database can be fetched
set -euo pipefail

version=0.20.2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast
binary=$cache/cargo-deny-$version

usage() { sed -n '4,5s/^# *//p' "$0" >&2; exit 2; }

case ${1:-} in
install)
    [[ ! -x $binary ]] || exit 0
    echo "Building cargo-deny $version, which checks licences and advisories: a few minutes, once."
    mkdir -p "$cache"
    build=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$build"' EXIT
    # It runs for a second, so it is built fast rather than made fast.
    CARGO_TARGET_DIR=$build/target CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        cargo install --quiet --locked --no-track --root "$build" --version "=$version" cargo-deny 2>"$build/log" ||
        { tail -n 20 "$build/log" >&2; echo "cargo-deny could not be built; licences and advisories are SKIPPED." >&2; exit 0; }
    # Only what is whole gets its name.
    mv "$build/bin/cargo-deny" "$binary"
    ;;
check)
    cd "$(dirname "$0")/../.."
    if [[ ! -x $binary ]]; then
        echo "SKIPPED: licences, sources and advisories; there is no cargo-deny, deploy/dev/deny.sh install builds it" >&2
        exit 0
    fi
    "$binary" --locked check --show-stats bans licenses sources
    if timeout 60 "$binary" fetch db >/dev/null 2>&1; then
        "$binary" --locked check --disable-fetch --show-stats advisories
    else
        echo "SKIPPED: advisories; their database (https://github.com/RustSec/advisory-db) could not be fetched from here" >&2
    fi
    ;;
*) usage ;;
esac
