-- What the golden files hold. The same on every machine.

insert into zoo.account (name, boss_id, mood, created, quota, tags, settings)
select 'account ' || i, nullif(i / 10, 0), (array['fine', 'it''s ok', 'NULL', '', null]::zoo.mood[])[i % 5 + 1],
    '2025-03-01T00:00:00Z'::timestamptz + i * interval '1 hour 1 microsecond', i * 1.125, array['t' || i, null, 'NULL', ''],
    jsonb_build_object('n', i, 'text', 'ä "' || i || '"')
from generate_series(1, 200) as i;
insert into zoo.photo select i, decode(md5(i::text) || '00ff0a5c', 'hex') from generate_series(1, 50) as i;
insert into zoo.event
select '2024-12-25'::date + i, i % 3, E'line\nbreak, tab\t and \\ ' || i, i * interval '1 day 1 second', i / 7.0
from generate_series(1, 500) as i;
insert into zoo.event values ('infinity', 0, null, '-1 mon', 'NaN'), ('4714-11-24 BC', 0, '', '0', '-0');
insert into zoo."Odd ""name""" values (1, E'\r'), (1, E'\r'), (null, ''), (2, null), (3, '\N'), (4, '\.');
