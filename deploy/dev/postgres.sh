#!/usr/bin/env bash
# A private PostgreSQL below one directory, on 127.0.0.1 only. It never uses an existing cluster and never port 5432.
#
#   postgres.sh start DIR [PORT]          in the background; DIR is made where needed; no PORT: the one it had, or a free one
#   postgres.sh running DIR               whether it runs, as exit code
#   postgres.sh stop DIR                  ends it, keeps the data
#   postgres.sh url DIR [DATABASE]        prints the address for the superuser
#   postgres.sh run DIR [-c NAME=VALUE]...   for tests: in the foreground, with fsync off. Prints one line
#                                         `port=... superuser-url=...` when it is ready; ends, and removes DIR, as soon
#                                         as its stdin is closed, so that nothing outlives a test that is killed
#
# In DIR: data/, log, port, and superuser-password (mode 0600).
set -euo pipefail

usage() { sed -n '4,10s/^# *//p' "$0" >&2; exit 2; }
fail() { echo "postgres.sh: $*" >&2; exit 1; }

[[ $# -ge 2 ]] || usage
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd -P)
shift 2

bin=
for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V); do
    [[ ! -x $candidate/postgres ]] || bin=$candidate # the newest
done
[[ -n $bin ]] || ! command -v postgres >/dev/null || bin=$(dirname "$(command -v postgres)")
[[ -n $bin ]] || fail "no PostgreSQL server found; deploy/dev/install.sh installs it"

# PostgreSQL refuses to run as root. Then the system user `postgres` runs it; where DIR lies below a directory that is
# closed to that user (such as /root), with the one capability that opens it.
as_server=()
chmod 700 "$dir"
if [[ $EUID -eq 0 ]]; then
    id -u postgres >/dev/null 2>&1 || fail "this is root, and there is no system user postgres to run the server"
    chown postgres:postgres "$dir"
    as_server=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    "${as_server[@]}" ls "$dir" >/dev/null 2>&1 || as_server+=(--inh-caps=+dac_override --ambient-caps=+dac_override)
    "${as_server[@]}" ls "$dir" >/dev/null 2>&1 || fail "the system user postgres cannot reach $dir"
fi

random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() {
    local port
    while :; do # below the ports that the kernel gives to clients
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        listening "$port" || { echo "$port"; return; }
    done
}
url() { echo "postgres://postgres:$(<"$dir/superuser-password")@127.0.0.1:$(<"$dir/port")/${1:-postgres}"; }

initialise() { # arguments for initdb
    [[ -s $dir/data/PG_VERSION ]] && return
    rm -rf "$dir/data"
    (umask 077 && random >"$dir/superuser-password")
    [[ $EUID -ne 0 ]] || chown postgres:postgres "$dir/superuser-password"
    (cd / && "${as_server[@]}" "$bin/initdb" --pgdata="$dir/data" --username=postgres --pwfile="$dir/superuser-password" \
        --auth=scram-sha-256 --encoding=UTF8 --locale=C "$@") >"$dir/initdb.log" 2>&1 ||
        { cat "$dir/initdb.log" >&2; fail "initdb failed"; }
}

options() { # port
    printf '%s\n' -c "port=$1" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 \
        -c shared_buffers=64MB -c timezone=UTC
}

running() { [[ -d $dir/data ]] && (cd / && "${as_server[@]}" "$bin/pg_ctl" status -D "$dir/data") >/dev/null 2>&1; }

case $command in
running) running ;;
start)
    ! running || exit 0
    port=${1:-0}
    if [[ $# -eq 0 && -s $dir/port ]]; then
        listening "$(<"$dir/port")" || port=$(<"$dir/port")
    fi
    [[ $port != 5432 ]] || fail "5432 is the port of a PostgreSQL that somebody uses"
    initialise
    for _ in 1 2 3 4 5; do
        ((port > 0)) && chosen=$port || chosen=$(free_port)
        echo "$chosen" >"$dir/port"
        mapfile -t settings < <(options "$chosen")
        if (cd / && "${as_server[@]}" "$bin/pg_ctl" start -w -s -D "$dir/data" -l "$dir/log" -o "${settings[*]@Q}") >/dev/null 2>&1; then
            exit 0
        fi
        ((port == 0)) || break
    done
    tail -n 20 "$dir/log" >&2
    fail "PostgreSQL did not start; its log is $dir/log"
    ;;
stop)
    running || exit 0
    (cd / && "${as_server[@]}" "$bin/pg_ctl" stop -w -s -m fast -D "$dir/data")
    ;;
url)
    url "$@"
    ;;
run)
    server= input=
    finish() {
        trap - EXIT
        [[ -z $input ]] || kill "$input" 2>/dev/null || true
        if [[ -n $server ]]; then
            kill -INT "$server" 2>/dev/null || true # a fast shutdown
            wait "$server" 2>/dev/null || true
        fi
        rm -rf "$dir"
    }
    trap finish EXIT
    trap 'exit 1' INT TERM HUP
    initialise --no-sync
    for _ in 1 2 3 4 5; do
        port=$(free_port)
        echo "$port" >"$dir/port"
        mapfile -t settings < <(options "$port")
        # Should this script itself be killed, the kernel tells the server to end.
        (cd / && exec "${as_server[@]}" setpriv --pdeathsig INT "$bin/postgres" -D "$dir/data" "${settings[@]}" \
            -c fsync=off -c full_page_writes=off -c max_prepared_transactions=8 "$@") </dev/null >"$dir/log" 2>&1 &
        server=$!
        for _ in {1..300}; do
            grep -qs '^.*ready' "$dir/data/postmaster.pid" && break 2
            kill -0 "$server" 2>/dev/null || break
            sleep 0.05
        done
        kill -INT "$server" 2>/dev/null || true
        wait "$server" || true
        server=
    done
    [[ -n $server ]] || { tail -n 20 "$dir/log" >&2; fail "PostgreSQL did not start"; }
    echo "port=$port superuser-url=$(url)"
    cat <&0 >/dev/null &
    input=$!
    wait -n "$input" "$server" || true
    ;;
*) usage ;;
esac
