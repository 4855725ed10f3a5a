-- Fills the platform of the benchmarks. Run by its owner in an empty database:
--
--     psql -v ON_ERROR_STOP=1 -v scale=1 -v seed=1 -v tables=300 -f data.sql
--
-- scale 1 is 1.4 GB as text: 4.5 million narrow rows, 600,000 of JSON, 45 blobs of 1 to 20 MB; `tables` small tables whatever the
-- scale. The same scale and seed make the same data, anywhere: everything is derived from a hash of seed, name and number.

begin;
set local client_min_messages = warning;
set local timezone = 'UTC';
set local synchronous_commit = off;
set local max_parallel_workers_per_gather = 0;

create schema bench;

create table bench.station (
    id integer primary key,
    name text not null unique,
    region text not null
);
create table bench.measurement (
    id bigint primary key,
    station_id integer not null,
    at timestamptz not null,
    kind text not null,
    value numeric(12, 3) not null,
    source inet not null,
    remark text
);
create table bench.document (
    id bigint primary key,
    key uuid not null unique,
    body jsonb not null
);
create table bench.blob (
    id integer primary key,
    name text not null unique,
    content bytea not null
);
-- What does not shrink is stored as it is.
alter table bench.blob alter content set storage external;

-- Where everything comes from: a number from 0 to below `among`.
create function pg_temp.number(key text, i bigint, among bigint) returns bigint language sql immutable parallel safe
    return (pg_catalog.hashtextextended(key || i, :seed) & 9223372036854775807) % among;

create function pg_temp.pick(key text, i bigint, choice text[]) returns text language sql immutable parallel safe
    return choice[1 + pg_temp.number(key, i, pg_catalog.cardinality(choice))];

create function pg_temp.words(key text, i bigint, count bigint) returns text language sql immutable parallel safe
    return (select pg_catalog.string_agg(pg_temp.pick(key, i * 64 + word, '{valve,pressure,north,checked,by,the,night,shift,für,
        station,again,after,restart,Łódź,delayed,until,Monday,sensor,replaced,日本語,limit,exceeded,nominal,calibrated}'), ' ' order by word)
        from pg_catalog.generate_series(1, count) as word);

insert into bench.station
select i, 'station ' || i, pg_temp.pick('region', i, '{north,south,east,west,Übersee}')
from pg_catalog.generate_series(1, greatest(10, (5000 * :scale)::integer)) as i;

insert into bench.measurement
select i, 1 + pg_temp.number('station', i, greatest(10, (5000 * :scale)::integer)), timestamptz '2025-01-01 00:00+00' + i * interval '7.013 seconds',
    pg_temp.pick('kind', i, '{temperature,pressure,flow,level,voltage}'), pg_temp.number('value', i, 100000000) / 1000.0,
    '10.0.0.0'::inet + pg_temp.number('source', i, 65536),
    case i % 4 when 0 then null else pg_temp.pick('remark', i, '{ok,"sensor replaced","limit exceeded, see report"}') || ' ' || pg_temp.number('report', i, 1000000) end
from pg_catalog.generate_series(1, greatest(100, (4500000 * :scale)::bigint)) as i;

insert into bench.document
select i, pg_catalog.md5(:'seed' || 'key' || i)::uuid, pg_catalog.jsonb_build_object('number', i, 'state', pg_temp.pick('state', i, '{open,closed,late}'),
    'total', round(pg_temp.number('total', i, 10000000) / 100.0, 2), 'customer', pg_catalog.md5(:'seed' || 'customer' || i % 50000), 'text', pg_temp.words('text', i, 44),
    'tags', pg_catalog.jsonb_build_array(pg_temp.pick('tag', i, '{a,b,c,d}'), pg_temp.pick('tag', -i, '{e,f,g,h}')),
    'lines', (select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('article', pg_catalog.md5('article' || pg_temp.number('article', i * 8 + line, 100000)),
        'count', pg_temp.number('count', i * 8 + line, 100), 'price', round(pg_temp.number('price', i * 8 + line, 100000) / 100.0, 2)))
        from pg_catalog.generate_series(1, 4) as line))
from pg_catalog.generate_series(1, greatest(20, (600000 * :scale)::bigint)) as i;

-- 1 MiB, 8, 15, 2, 9, ...: 10.5 MiB on average.
insert into bench.blob
select i, 'blob ' || i, (select pg_catalog.string_agg(pg_catalog.sha256(pg_catalog.int8send(:seed * 1000000000000 + i * 1000000000::bigint + piece)), ''::bytea)
    from pg_catalog.generate_series(1, (1 + (i - 1) * 7 % 20) * 32768) as piece)
from pg_catalog.generate_series(1, greatest(1, (45 * :scale)::integer)) as i;

-- As a restore of pg_dump makes them: after the rows.
create index on bench.measurement (station_id, at);
create index on bench.measurement (at);
create index on bench.document ((body ->> 'customer'));
alter table bench.measurement add foreign key (station_id) references bench.station;

select pg_catalog.format('create table bench.setting_%s (id integer primary key, name text not null unique, value text, changed timestamptz not null)', n),
    pg_catalog.format('insert into bench.setting_%s select i, ''setting '' || i, pg_temp.words(''setting %1$s'', i, 6), ''2026-01-01''::timestamptz + i * interval ''1 hour''
        from pg_catalog.generate_series(1, 10 + %1$s %% 40) as i', n)
from pg_catalog.generate_series(1, :tables) as n \gexec

commit;
