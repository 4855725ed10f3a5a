#!/usr/bin/env bash
# What deploy/compose.yaml needs before Holdfast starts; runs in a container of PostgreSQL.
#
#   setup.sh secrets     random passwords and keys in /secrets, where they are not there yet; the folder /backups for Holdfast
#   setup.sh platform    the roles, and the sample platform, where it is not there yet
set -euo pipefail

secrets=${SECRETS:-/secrets}
deploy=${DEPLOY:-/deploy}
holdfast=65532

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
sql() { PGPASSWORD=$(<"$secrets/superuser") psql -qXAt -v ON_ERROR_STOP=1 -U postgres "$@"; }

case ${1:-} in
secrets)
    for name in superuser platform holdfast_state holdfast_backup holdfast_restore seal-key token update-token; do
        [[ -s $secrets/$name ]] || random >"$secrets/$name"
    done
    # That of the superuser is for PostgreSQL alone, which reads it as root.
    chmod 0400 "$secrets"/*
    chown "$holdfast:$holdfast" "$secrets" "$secrets"/* /backups
    chown 0:0 "$secrets/superuser"
    ;;
platform)
    sql -f "$deploy/platform/roles.sql" # and those of Holdfast, which it includes
    for role in platform holdfast_state holdfast_backup holdfast_restore; do
        sql <<<"alter role $role password '$(<"$secrets/$role")'"
    done
    if [[ -z $(sql -c "select 1 from pg_database where datname = 'platform'") ]]; then
        # Its name is given to it when it is whole.
        sql -c 'set client_min_messages = warning' -c 'drop database if exists platform_new' -c 'create database platform_new owner platform'
        export PGPASSWORD
        PGPASSWORD=$(<"$secrets/platform")
        platform() { psql -qX -v ON_ERROR_STOP=1 -U platform -d platform_new "$@"; }
        platform -f "$deploy/platform/schema.sql"
        platform -f "$deploy/platform/grants.sql"
        platform -v scale="${SCALE:-3}" -v seed="${SEED:-1}" -f "$deploy/platform/generate.sql"
        sql -c 'alter database platform_new rename to platform'
    fi
    ;;
*) sed -n '4,5s/^# *//p' "$0" >&2; exit 2 ;;
esac
