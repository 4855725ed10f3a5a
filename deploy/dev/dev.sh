#!/usr/bin/env bash
# Holdfast with the sample platform in one directory, without touching anything else on the machine.
#
#   dev.sh up [DIR]      builds, starts PostgreSQL and the service, loads the sample platform; harmless when they run
#   dev.sh down [DIR]    ends both and keeps the data
#
# DIR is .dev unless given. In it: env (to be sourced), secrets/, backups/, postgres/, holdfast.log, holdfast.pid.
# SCALE and SEED choose the size and the contents of the sample platform (deploy/platform/README.md).
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd -P)
command=${1:-}
dir=${2:-$root/.dev}
[[ $command == up || $command == down ]] || { sed -n '4,5s/^# *//p' "$0" >&2; exit 2; }
mkdir -p "$dir"
dir=$(cd "$dir" && pwd -P)
postgres=$root/deploy/dev/postgres.sh
platform=$root/deploy/platform
holdfast=${CARGO_TARGET_DIR:-$root/target}/debug/holdfast
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

say() { echo "==> $*"; }
fail() { echo "dev.sh: $*" >&2; exit 1; }

# The pid in holdfast.pid, if it is still the service and not a process that was given its number since.
service_pid() {
    local pid
    pid=$(cat "$dir/holdfast.pid" 2>/dev/null) && [[ -n $pid ]] || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q 'holdfast serve' && echo "$pid"
}

stop_service() {
    local pid
    if pid=$(service_pid); then
        kill -TERM "$pid"
        for _ in {1..300}; do service_pid >/dev/null || break; sleep 0.1; done
        ! service_pid >/dev/null || { echo "dev.sh: the service did not end in 30 s; killing it" >&2; kill -KILL "$pid"; }
    fi
    rm -f "$dir/holdfast.pid"
}

if [[ $command == down ]]; then
    stop_service
    [[ ! -d $dir/postgres ]] || "$postgres" stop "$dir/postgres"
    exit 0
fi

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
secret() { # a file with a random value, made where it is not there, for nobody else to read
    [[ -s $dir/secrets/$1 ]] || (umask 077 && random "$2" >"$dir/secrets/$1")
}
as_superuser() { psql -qXAt -v ON_ERROR_STOP=1 "$("$postgres" url "$dir/postgres" "${2:-postgres}")" <<<"$1"; }
free_port() {
    local port
    while port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

load_platform() {
    psql -qX -v ON_ERROR_STOP=1 -f "$platform/roles.sql" "$("$postgres" url "$dir/postgres")"
    local role
    for role in platform holdfast_state holdfast_backup holdfast_restore; do
        secret "$role-password" 24
        as_superuser "alter role $role password '$(<"$dir/secrets/$role-password")'"
    done
    database_url="postgres://platform:$(<"$dir/secrets/platform-password")@127.0.0.1:$(<"$dir/postgres/port")/platform"
    [[ ! -e $dir/loaded ]] || return 0
    say "Loading the sample platform (scale ${SCALE:-3})"
    as_superuser 'drop database if exists platform' 2>/dev/null # one that was not loaded to its end
    as_superuser 'create database platform owner platform'
    psql -qX -v ON_ERROR_STOP=1 -f "$platform/schema.sql" "$database_url"
    psql -qX -v ON_ERROR_STOP=1 -f "$platform/grants.sql" "$database_url"
    psql -qX -v ON_ERROR_STOP=1 -v scale="${SCALE:-3}" -v seed="${SEED:-1}" -f "$platform/generate.sql" "$database_url"
    : >"$dir/loaded"
}

start_service() { # port
    secret token 32
    secret update-token 32
    secret seal-key 32
    # The shell may have sourced .dev/env, which is for clients.
    env -u HOLDFAST_ENDPOINT -u HOLDFAST_TOKEN HOLDFAST_LISTEN="127.0.0.1:$1" HOLDFAST_FOLDER="$dir/backups" HOLDFAST_CATALOG="$root/deploy/catalog.toml" \
        HOLDFAST_DATABASE__HOST=127.0.0.1 HOLDFAST_DATABASE__PORT="$(<"$dir/postgres/port")" \
        HOLDFAST_DATABASE__NAME=platform HOLDFAST_DATABASE__SSLMODE=disable \
        HOLDFAST_DATABASE__STATE_USER=holdfast_state \
        HOLDFAST_DATABASE__STATE_PASSWORD_FILE="$dir/secrets/holdfast_state-password" \
        HOLDFAST_DATABASE__BACKUP_USER=holdfast_backup \
        HOLDFAST_DATABASE__BACKUP_PASSWORD_FILE="$dir/secrets/holdfast_backup-password" \
        HOLDFAST_DATABASE__RESTORE_USER=holdfast_restore \
        HOLDFAST_DATABASE__RESTORE_PASSWORD_FILE="$dir/secrets/holdfast_restore-password" \
        HOLDFAST_TOKEN_FILE="$dir/secrets/token" HOLDFAST_UPDATE_TOKEN_FILE="$dir/secrets/update-token" \
        HOLDFAST_SEAL_KEY_FILE="$dir/secrets/seal-key" \
        HOLDFAST_LIMITS__BACKUPS_PER_HOUR=0 HOLDFAST_ALLOW_PLAINTEXT_SECRETS=true \
        setsid "$holdfast" serve </dev/null >>"$dir/holdfast.log" 2>&1 &
    echo $! >"$dir/holdfast.pid"
    write_env "$1"
    for _ in {1..150}; do
        # shellcheck source=/dev/null
        if (. "$dir/env" && "$holdfast" status) >/dev/null 2>&1; then return; fi
        service_pid >/dev/null || sleep 0.2 # it may not have become `holdfast serve` yet
        service_pid >/dev/null || break
        sleep 0.2
    done
    tail -n 20 "$dir/holdfast.log" >&2
    stop_service
    fail "the service is not ready; its log is $dir/holdfast.log"
}

write_env() { # port
    (
        umask 077
        {
            echo "# For shells:  . ${dir@Q}/env"
            echo "export DATABASE_URL=${database_url@Q}"
            echo "export HOLDFAST_ENDPOINT='http://127.0.0.1:$1'"
            echo "export HOLDFAST_TOKEN='$(<"$dir/secrets/token")'"
            local folder=$dir/backups bin=${holdfast%/*}
            echo "export HOLDFAST_FOLDER=${folder@Q}"
            echo "export PATH=${bin@Q}:\"\$PATH\""
        } >"$dir/env"
    )
}

say "Building"
(cd "$root" && cargo build --locked)
(umask 077 && mkdir -p "$dir/secrets" "$dir/backups")
if ! "$postgres" running "$dir/postgres"; then
    stop_service # it would look for PostgreSQL where it was
    say "Starting PostgreSQL"
    "$postgres" start "$dir/postgres"
fi
load_platform
if service_pid >/dev/null; then
    say "Running already"
else
    say "Starting the service"
    start_service "$(free_port)"
fi
say "Ready. For a shell:  . ${dir@Q}/env"
