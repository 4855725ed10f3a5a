-- One line for each table that is in the backup (those that `holdfast_backup` may read): name, rows, digest of the
-- contents. The digest is of the rows as text, whatever their order; two databases with the same lines hold the same.
-- Run as `platform`, with `psql -XAt`.

set search_path = '';
set timezone = 'UTC';
set datestyle = 'ISO, YMD';
set intervalstyle = 'postgres';
set extra_float_digits = 3;
set bytea_output = 'hex';

select pg_catalog.format(
    'select %L, pg_catalog.count(*), pg_catalog.md5(coalesce(pg_catalog.string_agg(digest, '''' order by digest collate "C"), '''')) '
    'from (select pg_catalog.md5(t::text) as digest from %s as t) as rows', oid::regclass, oid::regclass)
from pg_catalog.pg_class
where relkind in ('r', 'p') and not relispartition and relpersistence = 'p'
    and relnamespace::regnamespace::text !~ '^(pg_|information_schema$|holdfast$)'
    and pg_catalog.has_table_privilege('holdfast_backup', oid, 'select')
order by oid::regclass::text collate "C"
\gexec
