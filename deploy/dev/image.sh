#!/usr/bin/env bash
# The container: built, and run for real.
#
#   image.sh build    the Dockerfile, with docker, podman or buildah, whichever is there. BUILDER and RUNTIME name other base images;
#                     where deploy/dev/base-images.sh has made some, those are taken, and the crates that cargo has already
#   image.sh test     runs it as a cluster does - another user, nothing to write but the folder, no capabilities - on a PostgreSQL of its
#                     own on 127.0.0.1: a backup and a restore, its size, and how soon it is ready
#
# IMAGE is its name, localhost/holdfast:VERSION unless given. PROGRAM=FILE puts this program into it instead of building one.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd -P)
version=$(sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' "$root/Cargo.toml")
image=${IMAGE:-localhost/holdfast:$version}
largest=$((60 * 1000 * 1000))
soon=2000 # ms

usage() { sed -n '4,9s/^# *//p' "$0" >&2; exit 2; }
say() { echo "==> $*"; }
fail() { echo "image.sh: $*" >&2; exit 1; }
has() { command -v "$1" >/dev/null; }
made_here() { has buildah && buildah inspect --type image "localhost/$1" >/dev/null 2>&1; }

builds() { # what builds images on this machine
    if has podman; then echo podman build
    elif has buildah; then echo buildah build
    elif docker info >/dev/null 2>&1; then echo docker build
    else fail "docker, podman or buildah is needed: apt-get install podman buildah runc"
    fi
}

build() {
    local tool arguments context=$root file=$root/Dockerfile revision epoch
    read -ra tool <<<"$(builds)"
    revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
    epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)}
    arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "SOURCE_DATE_EPOCH=$epoch"
        --build-arg "CREATED=$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)")
    [[ ${tool[0]} == docker ]] || arguments+=(--format docker --layers --timestamp "$epoch") # STOPSIGNAL is in both formats
    if [[ -z ${BUILDER:-} ]] && made_here holdfast-builder; then
        BUILDER=localhost/holdfast-builder
        local registry=${CARGO_HOME:-$HOME/.cargo}/registry
        arguments+=(--volume "$registry:/usr/local/cargo/registry" --build-arg CARGO_NET_OFFLINE=true)
    fi
    if [[ -z ${RUNTIME:-} ]] && made_here holdfast-runtime; then RUNTIME=localhost/holdfast-runtime; fi
    [[ -z ${BUILDER:-} ]] || arguments+=(--build-arg "BUILDER=$BUILDER")
    [[ -z ${RUNTIME:-} ]] || arguments+=(--build-arg "RUNTIME=$RUNTIME")
    [[ ${tool[0]} == docker ]] || ! has runc || arguments+=(--runtime runc)
    if [[ -n ${PROGRAM:-} ]]; then
        dir=$(mktemp -d)
        context=$dir file=$dir/Dockerfile
        trap finish EXIT
        mkdir -p "$context/out"
        cp "$root/LICENSE" "$root/NOTICE" "$context"
        [[ ! -d $root/target/notices ]] || (cd "$root" && cp --parents -r target/notices "$context")
        cp "$PROGRAM" "$context/out/holdfast"
        sed -n -e '/^ARG RUNTIME=/p' -e '/^FROM ${RUNTIME}/,$p' "$root/Dockerfile" | sed 's/^COPY --from=build /COPY /; s#COPY /out/#COPY out/#' >"$file"
    fi
    say "${tool[*]}: $image"
    "${tool[@]}" "${arguments[@]}" --tag "$image" --file "$file" "$context"
}

# Whatever was started is ended, and nothing else.
dir='' container=''
finish() {
    [[ -z $container ]] || podman rm --force --time 5 "$container" >/dev/null 2>&1 || true
    if [[ -n $dir ]]; then
        [[ ! -d $dir/postgres ]] || "$root/deploy/dev/postgres.sh" stop "$dir/postgres" || true
        rm -rf "$dir"
    fi
}

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
psql_in() { psql -qXAt -v ON_ERROR_STOP=1 "$@"; }

platform() { # the sample platform, on a PostgreSQL of its own
    local role
    "$root/deploy/dev/postgres.sh" start "$dir/postgres"
    superuser() { "$root/deploy/dev/postgres.sh" url "$dir/postgres" "${1:-postgres}"; }
    psql_in -f "$root/deploy/platform/roles.sql" "$(superuser)"
    for role in platform holdfast_state holdfast_backup holdfast_restore; do
        random >"$dir/secrets/$role"
        psql_in "$(superuser)" <<<"alter role $role password '$(<"$dir/secrets/$role")'"
    done
    psql_in "$(superuser)" <<<'create database platform owner platform'
    owner="postgres://platform:$(<"$dir/secrets/platform")@127.0.0.1:$(<"$dir/postgres/port")/platform"
    psql_in -f "$root/deploy/platform/schema.sql" "$owner"
    psql_in -f "$root/deploy/platform/grants.sql" "$owner"
    psql_in -v scale=1 -v seed=1 -f "$root/deploy/platform/generate.sql" "$owner"
}

run() { # options... -- arguments of holdfast
    local options=()
    while [[ $1 != -- ]]; do options+=("$1"); shift; done
    shift
    podman --runtime runc run --network host --read-only --read-only-tmpfs=false --user "$user:$user" --cap-drop all --security-opt no-new-privileges \
        --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --volume "$dir/secrets:/secrets:ro" "${options[@]}" "$image" "$@"
}

start() {
    container=holdfast-test-$$
    run --detach --name "$container" --volume "$dir/backups:/backups" --env HOLDFAST_LISTEN="127.0.0.1:$port" --env HOLDFAST_FOLDER=/backups \
        --env HOLDFAST_DATABASE__HOST=127.0.0.1 --env HOLDFAST_DATABASE__PORT="$(<"$dir/postgres/port")" \
        --env HOLDFAST_DATABASE__NAME=platform --env HOLDFAST_DATABASE__SSLMODE=disable \
        --env HOLDFAST_DATABASE__STATE_PASSWORD_FILE=/secrets/holdfast_state \
        --env HOLDFAST_DATABASE__BACKUP_PASSWORD_FILE=/secrets/holdfast_backup \
        --env HOLDFAST_DATABASE__RESTORE_PASSWORD_FILE=/secrets/holdfast_restore \
        --env HOLDFAST_TOKEN_FILE=/secrets/token --env HOLDFAST_SEAL_KEY_FILE=/secrets/seal-key \
        --env HOLDFAST_ALLOW_PLAINTEXT_SECRETS=true -- serve >/dev/null
    for _ in {1..300}; do
        ! said started >/dev/null || return 0
        [[ $(podman inspect --format '{{.State.Running}}' "$container") == true ]] || break
        sleep 0.1
    done
    podman logs "$container" >&2
    fail "it does not start"
}
said() { podman logs "$container" 2>&1 | grep "\"message\":\"$1\""; }
stop() { # ends as a cluster ends it
    podman stop --time 60 "$container" >/dev/null
    local code
    code=$(podman inspect --format '{{.State.ExitCode}}' "$container")
    [[ $code == 0 ]] || { podman logs "$container" >&2; fail "asked to stop, it ends with $code"; }
    podman rm "$container" >/dev/null
    container=''
}

# From the start of the process to its word that it has begun, in ms.
took() {
    local began ready
    began=$(podman inspect --format '{{.State.StartedAt.UTC.Format "2006-01-02T15:04:05.000000"}}' "$container")
    ready=$(said started | sed -n 's/.*"timestamp":"\([^"]*\)".*/\1/p')
    echo $((($(date --date="$ready" +%s%N) - $(date --date="${began}Z" +%s%N)) / 1000000))
}

client() { run --rm --env HOLDFAST_ENDPOINT="http://127.0.0.1:$port" -- --token-file /secrets/token "$@"; }

test_it() {
    local size fastest=1000000 ms before after
    if ! has podman || ! has runc; then
        echo "SKIPPED: the container; podman and runc run it: apt-get install podman buildah runc" >&2
        return
    fi
    podman image exists "$image" || fail "there is no $image; image.sh build makes it"
    trap finish EXIT
    dir=$(mktemp -d "${TMPDIR:-/var/tmp}/holdfast-image.XXXXXX")
    user=$((100000 + RANDOM))
    mkdir "$dir/secrets" "$dir/backups"
    while port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    say "PostgreSQL with the sample platform"
    platform
    random >"$dir/secrets/token"
    random >"$dir/secrets/seal-key"
    echo 'four words by chance' >"$dir/secrets/passphrase"
    chown -R "$user:$user" "$dir/secrets" "$dir/backups"
    chmod 0755 "$dir"
    chmod -R go= "$dir/secrets"

    say "As user $user, with a read-only root and no capabilities"
    start
    client encryption set --passphrase-file /secrets/passphrase >/dev/null
    before=$(psql_in -f "$root/deploy/platform/digest.sql" "$owner")
    client backup --wait
    psql_in -f "$root/deploy/platform/damage.sql" "$owner" >/dev/null
    [[ $(psql_in -f "$root/deploy/platform/digest.sql" "$owner") != "$before" ]] || fail "nothing was damaged"
    client restore latest --yes --passphrase-file /secrets/passphrase >/dev/null
    after=$(psql_in -f "$root/deploy/platform/digest.sql" "$owner")
    [[ $after == "$before" ]] || { diff <(echo "$before") <(echo "$after") >&2; fail "what was restored is not what was backed up"; }
    say "A backup and a restore; every table is what it was"
    stop

    for _ in 1 2 3; do # the best of three: the machine may have other work
        start
        ms=$(took)
        ((ms >= fastest)) || fastest=$ms
        stop
    done
    size=$(podman image inspect --format '{{.Size}}' "$image")
    say "$((size / 1000000)) MB; ready ${fastest} ms after its start"
    ((size < largest)) || fail "it is larger than $((largest / 1000000)) MB"
    ((fastest < soon)) || fail "it is ready later than $soon ms after its start"
    has_no_shell
    say "It holds"
}

has_no_shell() {
    local files
    container=$(podman create "$image")
    files=$(podman export "$container" | tar -t)
    podman rm "$container" >/dev/null
    container=''
    grep -q '^usr/bin/holdfast$' <<<"$files" || fail "its files cannot be listed"
    ! grep -E '(^|/)(sh|dash|bash|busybox|apt-get|dpkg|perl|python3?)$' <<<"$files" || fail "there is a shell or a package manager in it"
}

case ${1:-} in
build) build ;;
test) test_it ;;
*) usage ;;
esac
