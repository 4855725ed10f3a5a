-- What the roles of Holdfast may do in one database. Run by its owner; may be run again, and has to be when the catalog has a
-- new table. A database made from a template has the grants on tables, but not those on the database: run it there too.
--
--     psql -v ON_ERROR_STOP=1 -v tables='{app.account,app.license}' "$OWNER" -f grants.sql
--
-- tables      those of the catalog (HOLDFAST_CATALOG)
-- sequences   theirs that no column owns; those of serial and identity columns are found
-- outside     tables that are in no backup and are read to tell what a restore means for them: those that refer to tables of
--             the catalog, and those that its checks and watches read

\if :{?tables} \else
do $$ begin raise exception 'say which tables: -v tables=''{schema.table,...}'''; end $$;
\quit
\endif
\if :{?sequences} \else \set sequences '{}' \endif
\if :{?outside} \else \set outside '{}' \endif
\if :{?state} \else \set state holdfast_state \endif
\if :{?backup} \else \set backup holdfast_backup \endif
\if :{?restore} \else \set restore holdfast_restore \endif

begin;
set local search_path = '';
set local client_min_messages = warning;
select pg_catalog.set_config('holdfast.' || name, value, true)
from (values ('tables', :'tables'), ('sequences', :'sequences'), ('outside', :'outside'), ('state', :'state'), ('backup', :'backup'),
    ('restore', :'restore')) as setting (name, value) \g /dev/null

do $$
declare
    tables constant regclass[] := pg_catalog.current_setting('holdfast.tables')::regclass[];
    sequences regclass[] := pg_catalog.current_setting('holdfast.sequences')::regclass[];
    outside constant regclass[] := pg_catalog.current_setting('holdfast.outside')::regclass[];
    state constant regrole := pg_catalog.quote_ident(pg_catalog.current_setting('holdfast.state'))::regrole;
    backup constant regrole := pg_catalog.quote_ident(pg_catalog.current_setting('holdfast.backup'))::regrole;
    restore constant regrole := pg_catalog.quote_ident(pg_catalog.current_setting('holdfast.restore'))::regrole;
    here constant text := pg_catalog.quote_ident(pg_catalog.current_database());
    item regclass;
    schema regnamespace;
begin
    execute pg_catalog.format('grant connect on database %s to %s, %s, %s', here, state, backup, restore);
    execute pg_catalog.format('grant create on database %s to %s', here, state);
    -- A restore loads everything into temporary tables before it touches anything.
    execute pg_catalog.format('grant temporary on database %s to %s', here, restore);

    select sequences || coalesce(pg_catalog.array_agg(owned.objid::regclass), '{}') into sequences
    from pg_catalog.pg_depend as owned
        join pg_catalog.pg_class as sequence on sequence.oid = owned.objid and sequence.relkind = 'S'
    where owned.classid = 'pg_catalog.pg_class'::regclass and owned.refclassid = 'pg_catalog.pg_class'::regclass
        and owned.refobjid = any (tables) and owned.deptype in ('a', 'i');

    foreach item in array tables loop
        execute pg_catalog.format('grant select on %s to %s', item, backup);
        execute pg_catalog.format('grant select, insert, update, delete on %s to %s', item, restore);
    end loop;
    foreach item in array sequences loop
        execute pg_catalog.format('grant select on sequence %s to %s', item, backup);
        execute pg_catalog.format('grant select, update on sequence %s to %s', item, restore);
    end loop;
    foreach item in array outside loop
        execute pg_catalog.format('grant select on %s to %s', item, restore);
    end loop;

    for schema in select distinct relnamespace::regnamespace from pg_catalog.pg_class where oid = any (tables || sequences) loop
        execute pg_catalog.format('grant usage on schema %s to %s, %s', schema, backup, restore);
    end loop;
    for schema in select distinct relnamespace::regnamespace from pg_catalog.pg_class where oid = any (outside) loop
        execute pg_catalog.format('grant usage on schema %s to %s', schema, restore);
    end loop;
end $$;

commit;
