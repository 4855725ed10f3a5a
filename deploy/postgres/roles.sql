-- The three roles of Holdfast, for the whole cluster. Run once by a superuser or whoever may create roles; may be run again.
-- They have no password until somebody gives them one (`alter role ... password`), so nobody can log in before.
--
--     psql -v ON_ERROR_STOP=1 "$SUPERUSER" -f roles.sql
--
-- Other names, where a cluster serves two installations:  -v state=NAME -v backup=NAME -v restore=NAME, here and for grants.sql.

-- Owns its own schema `holdfast`, and sees nothing of the platform.
\if :{?state} \else \set state holdfast_state \endif
-- Reads what a backup contains.
\if :{?backup} \else \set backup holdfast_backup \endif
-- Writes what a backup contains.
\if :{?restore} \else \set restore holdfast_restore \endif

select pg_catalog.format('create role %I', name)
from (values (:'state'), (:'backup'), (:'restore')) as wanted (name)
where not exists (select from pg_catalog.pg_roles where rolname = name) \gexec

select pg_catalog.format('alter role %I login nosuperuser nocreatedb nocreaterole nobypassrls noreplication', name)
from (values (:'state'), (:'backup'), (:'restore')) as wanted (name) \gexec
