-- The roles of the sample platform and of Holdfast, for the whole cluster. Run once by a superuser; may be run again.
-- They have no password until somebody gives them one (`alter role ... password`), so nobody can log in before.

\ir ../postgres/roles.sql

do $$
declare
    wanted record;
begin
    for wanted in
        select * from (values
            -- Owns the database `platform` and what is in it. The tests make databases as this role.
            ('platform', 'login createdb'),
            -- Owns the tables with triggers; schema.sql says why.
            ('platform_triggers', 'nologin')
        ) as roles (name, options)
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted.name) then
            execute pg_catalog.format('create role %I', wanted.name);
        end if;
        execute pg_catalog.format('alter role %I nosuperuser nocreaterole nobypassrls noreplication %s',
            wanted.name, wanted.options);
    end loop;
end $$;

set client_min_messages = warning;
grant platform_triggers to platform, holdfast_restore;
