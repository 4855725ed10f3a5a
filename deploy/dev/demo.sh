#!/usr/bin/env bash
# A day in the life of a backup: make one, open it by hand, lose data, get all of it back. Uses a directory, a PostgreSQL
# and a service of its own, and leaves nothing behind; it may run while `make dev` does.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd -P)
mkdir -p "$root/.dev"
work=$(mktemp -d "$root/.dev/demo-XXXXXX")
export GNUPGHOME=
started=$SECONDS
step=preparing

cleanup() {
    local code=$?
    trap '' INT TERM HUP
    trap - EXIT
    "$root/deploy/dev/dev.sh" down "$work" || true
    if [[ -n $GNUPGHOME ]]; then
        gpgconf --kill all 2>/dev/null || true # only what runs for this GNUPGHOME
        rm -rf "$GNUPGHOME"
    fi
    if ((code)) && [[ -s $work/holdfast.log ]]; then
        printf '\nThe last lines of the service:\n' >&2
        tail -n 15 "$work/holdfast.log" >&2
    fi
    rm -rf "$work"
    rmdir "$root/.dev" 2>/dev/null || true
    ((code == 0)) || printf '\nThe demo FAILED while %s.\n' "$step" >&2
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

heading() { step=$1 && printf '\n\033[1m── %s\033[0m\n' "$1"; }
fail() { echo "$*" >&2; exit 1; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; }
sql() { psql -qXAt -v ON_ERROR_STOP=1 "$DATABASE_URL" "$@"; }
digests() { sql -f "$root/deploy/platform/digest.sql"; }
sequences() { sql -c "select schemaname || '.' || sequencename, coalesce(last_value, 0) from pg_sequences
    where schemaname <> 'holdfast' order by 1"; }
field() { grep -oP "\"$1\"\s*:\s*\"\K[^\"]*" <<<"$2" | head -n 1; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f s", b - a }'; }

heading "A platform to look after"
"$root/deploy/dev/dev.sh" up "$work"
# shellcheck source=/dev/null
. "$work/env"
before=$(digests)
sequences_before=$(sequences)
ready=$SECONDS
sql -F ' ' -c "select 'It has', (select count(*) from platform.account), 'accounts,', (select count(*) from platform.adapter), 'adapters,',
    (select count(*) from platform.license), 'licenses;'"
echo "$(wc -l <<<"$before") tables are in the catalog, with $(awk -F'|' '{ n += $2 } END { print n }' <<<"$before") rows."

heading "Setting a passphrase"
passphrase="correct horse battery staple $(od -An -N4 -tu4 /dev/urandom | tr -d ' ')"
run 'printf %s "$P" | holdfast encryption set --passphrase-stdin'
printf %s "$passphrase" | holdfast encryption set --passphrase-stdin

heading "Making a backup"
run 'holdfast backup --wait --json'
from=$(now)
backup=$(holdfast backup --wait --json)
took_backup=$(since "$from")
echo "$backup"
name=$(field name "$backup")
file=$HOLDFAST_FOLDER/$(field fileName "$backup")
[[ -n $name && -f $file ]] || fail "there is no file $file"
digest=$(sha256sum "$file" | cut -d' ' -f1)
[[ $file == *"${digest:0:32}"* ]] || fail "the name of $file does not carry its SHA-256, $digest"
echo "$(stat -c %s "$file") bytes in $took_backup; the name of the file carries its SHA-256."

heading "Opening it without Holdfast"
GNUPGHOME=$(mktemp -d /tmp/holdfast-gpg-XXXXXX) # a short path: the agent has a socket in it
mkdir "$work/opened"
run "gpg -d ${file##*/} | tar --zstd -x"
printf %s "$passphrase" | gpg --batch --quiet --pinentry-mode loopback --passphrase-fd 0 -d "$file" 2>"$work/gpg.log" |
    tar --zstd -x -C "$work/opened" || { cat "$work/gpg.log" >&2; fail "gpg and tar cannot open $file"; }
(
    cd "$work/opened"
    echo "$(find . -type f | wc -l) files, $(du -sh . | cut -f1) in all. manifest.json begins:"
    head -c 2000 manifest.json | head -n 12 | cut -c -110 | sed 's/^/    /'
    echo "The first accounts:"
    find . -path '*account/*.copy' | LC_ALL=C sort | grep -m 1 'platform\.account/' | xargs -I{} head -n 3 {} | cut -c -110 | sed 's/^/    /'
)
rm -rf "$work/opened"

heading "A bad day"
run "psql -f deploy/platform/damage.sql"
sql -f "$root/deploy/platform/damage.sql"
damaged=$(digests)
sequences_damaged=$(sequences)
different=$(diff <(echo "$before") <(echo "$damaged") | grep -c '^>' || true)
((different > 0)) || fail "the damage changed nothing"
echo "$different tables are not what they were. Somebody has made an administrator of their own:"
sql -F '  ' -c "select login_name, display_name, state from platform.account where login_name = 'support2'" | sed 's/^/    /'

heading "Restoring with a wrong passphrase"
run "holdfast restore $name --yes --passphrase-stdin"
code=0
printf %s "not the passphrase" | holdfast restore "$name" --yes --passphrase-stdin || code=$?
((code == 67)) || fail "the exit code is $code; it should be 67, invalid argument"
[[ $(digests) == "$damaged" ]] || fail "a restore that was refused changed the database"
echo "Refused with exit code $code, and nothing has changed."

heading "Looking at what a restore would do"
run "holdfast restore $name --preview --passphrase-stdin"
printf %s "$passphrase" | holdfast restore "$name" --preview --passphrase-stdin
[[ $(digests) == "$damaged" ]] || fail "a preview changed the database"

heading "Restoring"
run "holdfast restore $name --yes --passphrase-stdin"
from=$(now)
printf %s "$passphrase" | holdfast restore "$name" --yes --passphrase-stdin
took_restore=$(since "$from")
after=$(digests)

heading "Comparing each table with what it was"
wrong=0
while IFS='|' read -r table rows digest; do
    hurt='           ' mark='✓'
    grep -qxF "$table|$rows|$digest" <<<"$damaged" || hurt='was damaged'
    grep -qxF "$table|$rows|$digest" <<<"$after" || { mark='✗ DIFFERENT' wrong=$((wrong + 1)); }
    printf '  %-76s %5s rows  %.8s  %s  %s\n' "$table" "$rows" "$digest" "$hurt" "$mark"
done <<<"$before"
((wrong == 0)) || fail "$wrong tables are not as they were"
[[ $after == "$before" ]] || fail "there are other tables than before"

lowered=$(paste -d'|' <(echo "$sequences_before") <(echo "$sequences_damaged") <(sequences) |
    awk -F'|' '$6 < $2 || $6 < $4 { print $1 }')
[[ -z $lowered ]] || fail "these sequences were lowered, and would give out ids a second time: $lowered"
[[ $(sql -c "select count(*) from platform.session where token_hash = '\xbad0'") == 0 ]] || fail "the intruder is still logged in"
echo "All $(wc -l <<<"$before") tables are as before, the intruder's session is ended, and no sequence was lowered."

heading "Undoing the restore, and undoing that"
run "holdfast undo --yes --passphrase-stdin"
printf %s "$passphrase" | holdfast undo --yes --passphrase-stdin >/dev/null
[[ $(digests) == "$damaged" ]] || fail "the undone restore did not bring back what was there before it"
echo "The bad day is back."
printf %s "$passphrase" | holdfast undo --yes --passphrase-stdin >/dev/null
[[ $(digests) == "$before" ]] || fail "undone twice, the restore is not there again"
echo "And all tables are as they were before it, again."

step=cleaning
printf '\nBackup %s, restore %s, the whole demo %s s after its database was ready.\n' "$took_backup" "$took_restore" "$((SECONDS - ready))"
printf 'Everything took %s s. It has been removed again.\n' "$((SECONDS - started))"
