-- Fills the sample platform. Run by `platform` after schema.sql, once:
--
--     psql -v ON_ERROR_STOP=1 -v scale=1 -v seed=1 -f generate.sql
--
-- scale 1 is about 1,000 rows in all tables together, and it grows linearly. The same scale and seed make the same
-- data, anywhere: nothing here asks the clock or for chance, everything is derived from a hash of seed, name and number.

\if :{?scale} \else \set scale 1 \endif
\if :{?seed} \else \set seed 1 \endif

begin;
set local search_path = '';
set local client_min_messages = warning;
set local timezone = 'UTC';
set local datestyle = 'ISO, YMD';
set local intervalstyle = 'postgres';
set local bytea_output = 'hex';
set local synchronous_commit = off;

-- Where everything comes from ----------------------------------------------------------------------------------------

-- A number from 0 to below `among`.
create function pg_temp.number(key text, i bigint, among bigint) returns bigint language sql immutable parallel safe
    return (pg_catalog.hashtextextended((key || ':' || i::text) collate "C", :seed) & 9223372036854775807) % among;

create function pg_temp.bytes(key text, i bigint) returns bytea language sql immutable parallel safe
    return pg_catalog.sha256(pg_catalog.convert_to(:'seed' || ':' || key || ':' || i::text, 'UTF8'));

-- 32 bytes each, and no two alike, so that they do not shrink when they are compressed.
create function pg_temp.bytes(key text, i bigint, pieces bigint) returns bytea language sql immutable parallel safe
    return (select pg_catalog.string_agg(pg_temp.bytes(key, i * 1024 + piece), ''::bytea order by piece)
            from pg_catalog.generate_series(1, pieces) as piece);

create function pg_temp.base64(value bytea) returns text language sql immutable parallel safe
    return pg_catalog.rtrim(pg_catalog.replace(pg_catalog.encode(value, 'base64'), E'\n', ''), '=');

create function pg_temp.id(key text, i bigint) returns uuid language sql immutable parallel safe
    return pg_catalog.md5(:'seed' || ':' || key || ':' || i::text)::uuid;

create function pg_temp.pick(key text, i bigint, choice text[]) returns text language sql immutable parallel safe
    return choice[1 + pg_temp.number(key, i, pg_catalog.array_length(choice, 1))];

create function pg_temp.password_hash(key text, i bigint) returns text language sql immutable parallel safe
    return '$argon2id$v=19$m=65536,t=3,p=4$' || pg_temp.base64(pg_catalog.substr(pg_temp.bytes(key || ' salt', i), 1, 16))
        || '$' || pg_temp.base64(pg_temp.bytes(key, i));

-- Some moment in the three months before February 2026, to the microsecond.
create function pg_temp.moment(key text, i bigint) returns timestamptz language sql immutable parallel safe
    return timestamptz '2025-11-01 00:00+00' + pg_temp.number(key, i, 92::bigint * 86400 * 1000000) * interval '1 microsecond';

create function pg_temp.words(key text, i bigint, count bigint) returns text language sql immutable parallel safe
    return (select pg_catalog.string_agg(pg_temp.pick(key, i * 256 + word, '{the,report,für,customer,ought,to,be,checked,again,before,
        Straße,delivery,of,goods,is,late,since,Łódź,answered,on,Monday,naïve,retry,日本語,timeout,after,restart,and,then,😀,it,works}'),
        ' ' order by word) from pg_catalog.generate_series(1, count) as word);

-- Values that a careless copy would change.
create temporary table odd (i integer primary key, value text) on commit drop;
insert into odd values
    (1, ''), (2, null), (3, '\N'), (4, 'NULL'), (5, E'tab\there'), (6, E'line one\nline two\r\nline three'), (7, E'\\back\\slash\\'),
    (8, 'it''s "quoted", isn''t it'), (9, '\.'), (10, E'\x01\x1b[31m\x7f'), (11, ' leading and trailing '), (12, 'Zoë 𝔘nicode 👩‍👩‍👧 ﷽'),
    (13, E'e\u0301 is not \u00e9'), (14, '{"not": json'), (15, '$1 %s {0} ${HOME} `id`'), (16, ''';drop table platform.account;--'),
    (17, E'\u200f\u202eright to left'), (18, pg_catalog.repeat('long ', 4000)), (19, E'\ufeff'), (20, 'infinity');

-- As owner: the triggers are not for the first load.
alter table platform.account disable trigger user;
alter table platform.adapter disable trigger user;

-- Roles --------------------------------------------------------------------------------------------------------------

insert into platform.permission (key, description)
select area || '.' || verb, pg_catalog.initcap(verb) || ' ' || area
from pg_catalog.unnest('{accounts,roles,adapters,licenses,settings,backups}'::text[]) as area,
    pg_catalog.unnest('{read,write,delete,export}'::text[]) as verb;

insert into platform.role (id, name, description, builtin, created_at)
select i, coalesce(('{Administrator,Operator,Auditor,Adapter Engineer,"Revisor: Größe & Maß",Guest}'::text[])[i], 'Team ' || i),
    case i % 3 when 0 then null when 1 then '' else pg_temp.words('role', i, 8) end, i <= 6, timestamptz '2024-02-29 12:00+00'
from pg_catalog.generate_series(1, 6 + 2 * :scale) as i;

insert into platform.role_permission (role_id, permission, scopes)
select role.id, permission.key,
    case pg_temp.number('scope', role.id, 4) when 0 then '{}' when 1 then '{all}' when 2 then '{eu,"us, west",NULL}' else '{"a\"b"}' end::text[]
from platform.role, platform.permission
where role.id = 1 or pg_temp.number(permission.key, role.id, 8) = 0;

-- Login providers ----------------------------------------------------------------------------------------------------

insert into platform.login_provider (name, kind, title, priority, enabled, settings, client_secret, certificate_expires)
select case i when 1 then 'local' else kind || '-' || i end, kind::platform.provider_kind,
    case i when 1 then 'Password' else 'Log in with ' || pg_catalog.upper(kind) || ' ' || i end, i * 10, i <> 4,
    case i when 1 then '{}' else pg_catalog.jsonb_build_object('issuer', 'https://login' || i || '.example.org', 'scopes', pg_catalog.jsonb_build_array('openid', 'email'),
        'mapping', pg_catalog.jsonb_build_object('name', '$.preferred_username', 'ratio', 1.10, 'never', null),
        'certificate', pg_temp.base64(pg_temp.bytes('certificate', i, 12))) end,
    case when i > 1 then pg_temp.bytes('provider secret', i) end,
    case i when 2 then 'infinity' when 3 then '2025-12-31' else date '2026-06-01' + i::integer % 700 end
from (select i, case when i = 1 then 'local' else pg_temp.pick('kind', i, '{ldap,saml,oidc}') end as kind
      from pg_catalog.generate_series(1, 4 + :scale / 10) as i) as provider;

insert into platform."Group Mapping" ("Provider", "External Group", "Role ""ID""", "Größe / 人数")
select provider.name, 'cn=' || pg_temp.pick('group', i, '{admins,"R&D, \"new\"",Vertrieb,営業部}') || ',ou=' || i || ',dc=example',
    1 + pg_temp.number('mapping', i, 6), nullif(pg_temp.number('people', i, 50), 0)
from pg_catalog.generate_series(1, 3 * :scale) as i
    join (select name, pg_catalog.row_number() over (order by priority) as n from platform.login_provider) as provider
        on provider.n = 2 + i % 3;

-- Accounts -----------------------------------------------------------------------------------------------------------

-- Accounts are in units and units have heads: a cycle. Accounts may wait for their units until the commit.
set constraints all deferred;

insert into platform.account (id, external_id, login_name, email, display_name, state, administrator, org_unit_id, manager_id, provider,
    external_subject, must_change_password, valid_from, valid_until, failed_logins, last_login_at, last_login_from, session_limit,
    languages, tags, preferences, emergency_contact, created_at, updated_at)
overriding system value
select i, pg_temp.id('account', i),
    case i when 1 then 'admin' else pg_catalog.lower(first) || '.' || i end,
    case when i % 13 = 5 then null else (case i % 7 when 3 then first else pg_catalog.lower(first) end || '.' || i || '@'
        || pg_temp.pick('domain', i, '{example.com,Example.ORG,münchen.example}'))::platform.email_address end,
    case i when 1 then 'Administrator' when 7 then E'O''Brien "Bob"\t\\ Jr.' when 8 then '' else first || ' ' || last end,
    (case when i = 1 then 'active' when i % 29 = 4 then 'disabled' when i % 31 = 6 then 'locked' when i % 37 = 9 then 'deleted' when i % 23 = 2 then 'invited'
        else 'active' end)::platform.account_state,
    i = 1 or i % 50 = 11, 1 + pg_temp.number('unit', i, 6 * :scale),
    case when i > 1 and i % 11 <> 0 then 1 + pg_temp.number('manager', i, greatest(1, i / 8)) end,
    case when i % 5 = 0 then provider.name else 'local' end, case when i % 5 = 0 then 'sub|' || pg_temp.id('subject', i) end,
    i % 17 = 3,
    case i % 60 when 9 then '0044-03-15 BC' when 10 then '-infinity' when 11 then null else date '2019-01-01' + pg_temp.number('from', i, 2500)::integer end,
    case i % 9 when 4 then timestamptz '2026-12-31 23:59:59.999999+00' when 5 then timestamptz '2025-10-01 00:00+00' else 'infinity' end,
    pg_temp.number('failed', i, 4), case when i % 8 <> 1 then pg_temp.moment('login', i) end,
    case i % 5 when 0 then null when 1 then pg_catalog.format('2001:db8::%s/64', pg_catalog.to_hex(i % 65536)) else pg_catalog.format('10.%s.%s.7', i / 256 % 256, i % 256) end::inet,
    case i % 6 when 0 then null when 1 then '-1 year -2 mons +3 days 04:05:06.789' else pg_catalog.format('%s hours', 1 + i % 12) end::interval,
    case i % 4 when 0 then '{de,en}' when 1 then '{}' else '{en}' end::text[],
    case i % 6 when 0 then null when 1 then '{}' when 2 then '{NULL,"NULL","",vip}' when 3 then '[0:1]={from,zero}' else array[first, last] end::text[],
    pg_catalog.jsonb_build_object('theme', pg_temp.pick('theme', i, '{dark,light,système}'), 'page', 10 + i % 90,
        'columns', pg_catalog.jsonb_build_array('name', 'state', null, i % 3 = 0), 'zoom', (100 + i % 50)::numeric / 100, 'recent', pg_temp.words('recent', i, 6)),
    case i % 10 when 0 then row(last || ', ' || first, '+49 (0)30 ' || i)::platform.contact when 1 then row(null, '')::platform.contact end,
    timestamptz '2023-05-01 08:00+00' + pg_temp.number('created', i, 60000000) * interval '1 second', pg_temp.moment('updated', i)
from (select i, pg_temp.pick('first', i, '{Ada,Böðvar,Chloé,Dmitri,Edsger,Frances,Grace,Håkon,Ingrid,Jürgen,Kenji,Lucía,Maryam,Noël,Ólafur,Priya,Quentin,Radia,Søren,Tove}') as first,
        pg_temp.pick('last', i, '{Lovelace,"D''Angelo",García,Hopper,Nuñez,"van der Berg",Иванов,王,Çelik,Allen,Şahin,"Smith-Jones",Ng,Perlman,Æsir}') as last
      from pg_catalog.generate_series(1, 60 * :scale) as i) as person
    join (select name, pg_catalog.row_number() over (order by priority) as n from platform.login_provider) as provider on provider.n = 2 + i % 3;

insert into platform.org_unit (id, parent_id, name, cost_centre, head_account_id)
select i, case when i > 1 then 1 + pg_temp.number('parent', i, greatest(1, i / 4)) end,
    case i when 1 then 'Company' else pg_temp.pick('org', i, '{Sales,Entwicklung,"R&D",Support,経理,Warehouse}') || ' ' || i end,
    case i % 4 when 0 then null else pg_catalog.format('C%s', i % 9000) end,
    case when i % 3 <> 0 then 1 + pg_temp.number('head', i, 60 * :scale) end
from pg_catalog.generate_series(1, 6 * :scale) as i;

set constraints all immediate;

insert into platform.password (account_id, hash, changed_at, expires_at)
select id, pg_temp.password_hash('password', id), pg_temp.moment('changed', id),
    case id % 7 when 2 then null when 3 then timestamptz '2025-12-24 00:00+00' when 4 then 'infinity' else pg_temp.moment('changed', id) + interval '1 year' end
from platform.account where provider = 'local' and state <> 'invited';

insert into platform.password_history (account_id, position, hash, replaced_at)
select account_id, position, pg_temp.password_hash('old', account_id * 8 + position), changed_at - position * interval '90 days'
from platform.password, pg_catalog.generate_series(1, 3) as position
where position <= 2 or account_id % 2 = 0;

insert into platform.totp_factor (id, account_id, label, secret, digits, period, recovery_codes, confirmed_at)
select pg_temp.id('totp', account.id * 2 + device), account.id, case device when 0 then 'Phone' else 'Schlüssel №2' end,
    pg_catalog.substr(pg_temp.bytes('totp', account.id * 2 + device), 1, 20), 6 + 2 * device,
    interval '30 seconds' * (1 + device), array[pg_temp.number('code', account.id, 100000000)::text, null, 'used'],
    case when account.id % 6 <> 0 then pg_temp.moment('totp', account.id) end
from platform.account, pg_catalog.generate_series(0, 1) as device
where account.administrator and device = 0 or account.id % 3 = 0 and device = 0 or account.id % 12 = 0;

insert into platform.external_login (provider, subject, account_id, claims, linked_at)
select provider, external_subject, id,
    pg_catalog.format('{ "sub" : "%s",  "amr":["pwd","otp"],"b":1,"a":1.0, "a":2 , "none":"\u0000"}', external_subject)::json,
    pg_temp.moment('linked', id)
from platform.account where external_subject is not null;

insert into platform.account_role (account_id, role_id, granted_by, granted_at, valid)
select account.id, 1 + (pg_temp.number('role', account.id, 6 + 2 * :scale) + n) % (6 + 2 * :scale), nullif(pg_temp.number('by', account.id, 6), 0),
    pg_temp.moment('granted', account.id),
    case account.id % 7 when 0 then 'empty' when 1 then '[2025-01-01 00:00+00,2026-07-01 00:00+00)' else '(,)' end::tstzrange
from platform.account, pg_catalog.generate_series(0, 1) as n
where account.id > 1 and (n = 0 or account.id % 3 <> 0);
insert into platform.account_role (account_id, role_id, granted_by, granted_at) values (1, 1, null, '2023-05-01 08:00+00');

insert into platform.account_note (account_id, written_on, note)
select 1 + i, case i % 5 when 0 then null when 1 then date '0753-04-21 BC' else date '2025-06-30' end, value from odd;
insert into platform.account_note (account_id, written_on, note)
select case when i % 9 <> 0 then 1 + pg_temp.number('note', i / 2, 60 * :scale) end, date '2025-01-01' + pg_temp.number('note', i / 2, 365)::integer,
    pg_temp.words('note', i / 2, 4 + i / 2 % 20) -- so every second one is there twice
from pg_catalog.generate_series(1, 40 * :scale) as i;

-- Client applications ------------------------------------------------------------------------------------------------

insert into platform.client_application (id, number, name, owner_id, redirect_uris, grant_types, allowed_networks, token_lifetime, logo, created_at)
select pg_temp.id('client', i), 990 + 10 * i, pg_temp.pick('client', i, '{Portal,Mobile,"Étiquettes",Billing}') || ' ' || i,
    case when i % 4 <> 0 then 1 + pg_temp.number('owner', i, 60 * :scale) end,
    case i % 3 when 0 then '{}' else array['https://app' || i || '.example.org/callback', 'urn:ietf:wg:oauth:2.0:oob?a="b,c"'] end,
    case i % 3 when 0 then '{client_credentials}' else '{authorization_code,refresh_token,"device code"}' end::platform.grant_type[],
    case i % 4 when 0 then null when 1 then '{10.0.0.0/8,NULL,::/0}' else '{}' end::cidr[],
    pg_catalog.format('%s minutes', 5 + i % 60)::interval, case when i % 3 = 0 then pg_temp.bytes('logo', i, 8 + i % 24) when i % 3 = 1 then ''::bytea end,
    timestamptz '2024-01-01 00:00+00' + i * interval '1 hour'
from pg_catalog.generate_series(1, 8 * :scale) as i;

insert into platform.client_secret (client_id, version, hash, valid_until)
select pg_temp.id('client', i), version, pg_temp.password_hash('client', i * 4 + version),
    case version when 1 then timestamptz '2025-06-30 00:00+00' when 2 then 'infinity' end
from pg_catalog.generate_series(1, 8 * :scale) as i, pg_catalog.generate_series(1, 2) as version where version = 1 or i % 2 = 0;

insert into platform.client_secret_use (client_id, version, network, uses)
select client_id, version, pg_catalog.set_masklen((inet '10.0.0.0' + 256 * n)::cidr, 24), 9007199254740993 + n
from platform.client_secret, pg_catalog.generate_series(1, 2) as n where version = 2;

-- Adapters -----------------------------------------------------------------------------------------------------------

insert into platform.adapter_type (name, version, installed_at)
select name, '3.' || pg_catalog.length(name) || '.0', timestamptz '2025-09-01 00:00+00'
from pg_catalog.unnest('{sap.rfc,opcua,mqtt,jdbc,sftp,rest,kafka,as2}'::text[]) as name;

insert into platform.adapter (id, name, type_name, type_version, enabled, client_id, owner_id, endpoint, poll_every, weight, load, settings, updated_at)
select i, pg_temp.pick('site', i, '{Werk Süd,Plant North,倉庫,Usine,"Quai \"7\""}') || ' / ' || i,
    case when i % 9 = 4 then 'vendor.legacy-' || i % 3 else pg_temp.pick('type', i, '{sap.rfc,opcua,mqtt,jdbc,sftp,rest,kafka,as2}') end, -- 1 in 9 is not installed
    case when i % 5 <> 0 then '3.' || i % 7 end, i % 6 <> 2, case when i % 3 = 1 then pg_temp.id('client', 1 + pg_temp.number('adapter client', i, 8 * :scale)) end,
    1 + pg_temp.number('adapter owner', i, 60 * :scale),
    case i % 3 when 0 then 'opc.tcp://' when 1 then 'https://' else 'mqtt+tls://' end || 'device-' || i || '.plant.example:4840/path?x=' || i,
    case i % 4 when 0 then null when 1 then interval '1 mon -1 day' else pg_catalog.format('%s seconds', i % 300)::interval end,
    case i % 11 when 3 then 'NaN' when 4 then 1.0 when 5 then 1.00 when 6 then -0.000000000000000000000000000001 when 7 then 1e40 else i::numeric / 3 end,
    case i % 5 when 1 then null else pg_temp.number('load', i, 10001)::numeric / 100 end,
    pg_catalog.jsonb_build_object('host', 'device-' || i, 'port', 1024 + i % 60000, 'timeout', 1.50, 'retries', pg_catalog.jsonb_build_array(1, 2.0, 4e0, null),
        'tls', pg_catalog.jsonb_build_object('verify', i % 2 = 0, 'ca', pg_temp.base64(pg_temp.bytes('ca', i, 2 + pg_temp.number('ca', i, 16)))),
        'path', 'C:\data\in\' || i, 'greeting', E'Grüße,\n\t"you"', 'topics', pg_catalog.jsonb_build_array('plant/+/temperature', 'a/#')),
    pg_temp.moment('adapter', i)
from pg_catalog.generate_series(1, 20 * :scale) as i;

insert into platform.adapter_secret (adapter_id, name, value, rotated_at)
select i, name, pg_temp.bytes(name, i, case name when 'private key' then 38 else 1 end), case when i % 3 <> 0 then pg_temp.moment(name, i) end
from pg_catalog.generate_series(1, 20 * :scale) as i, pg_catalog.unnest('{password,"private key"}'::text[]) as name;

insert into platform.adapter_link (source_id, target_id, rule)
select i, 1 + i % (20 * :scale), case i % 4 when 0 then null when 1 then 'null' else pg_catalog.jsonb_build_object('when', i % 7, 'then', 'forward') end
from pg_catalog.generate_series(1, 20 * :scale) as i where i % 2 = 0 or i = 1;

insert into platform.adapter_calibration_profiles_of_regulated_measuring_instruments
select i, case i % 4 when 0 then null when 1 then '{NaN,Infinity,-Infinity,-0,1e-300,0.1}' else array[1.0 / i, pi.value, null] end,
    case i % 4 when 0 then '' else pg_temp.words('signed', i, 2) end, case i % 4 when 1 then 'infinity' when 2 then null else date '2024-02-29' end
from pg_catalog.generate_series(1, 20 * :scale) as i, (select 3.141592653589793::double precision as value) as pi where i % 2 = 0 or i % 4 = 1;

-- Licenses -----------------------------------------------------------------------------------------------------------

insert into platform.license (id, number, product, issued_to, valid_from, valid_until, seats, price, file, terms, superseded_by)
select pg_temp.id('license', i), pg_catalog.format('LIC-%s-%s', 2020 + i % 6, pg_catalog.lpad(i::text, 9, '0')),
    pg_temp.pick('product', i, '{Base,Analytics,"Edge Gateway",Konnektor}'), case i % 5 when 0 then null when 1 then '' else pg_temp.words('issued', i, 3) end,
    date '2022-01-01' + (i % 900)::integer, case i % 4 when 0 then 'infinity' when 1 then date '2025-08-31' else date '2026-01-01' + (i % 900)::integer end, -- 1 in 4 has expired
    case when i % 3 <> 0 then 5 * i % 1000 end, case i % 10 when 7 then 'NaN' when 8 then 0 else pg_temp.number('price', i, 1000000000)::numeric / 100 end,
    pg_temp.bytes('license', i, 32 + pg_temp.number('license', i, 97)),
    case when i % 2 = 0 then pg_catalog.format('{"product":  "x", "issue": %s, "ratio": 1.10}', i)::json end,
    case when i % 8 = 3 then pg_temp.id('license', i - 1) end
from pg_catalog.generate_series(1, 10 * :scale) as i;

insert into platform.license_feature (license_id, feature, quantity, valid_until)
select pg_temp.id('license', i), feature, case i % 6 when 0 then null when 1 then 'Infinity' else i * 1.50 end, case when i % 4 <> 0 then timestamptz '2026-08-31 21:59:59+00' end
from pg_catalog.generate_series(1, 10 * :scale) as i, pg_catalog.unnest('{adapters,accounts,analytics.export}'::text[]) as feature;

insert into platform.license_feature_limit (license_id, feature, dimension, maximum)
select license_id, feature, dimension, case dimension when 'per day' then 1000.000 else 99999999999999999999.9 end
from platform.license_feature, pg_catalog.unnest('{"per day","größte Datei",""}'::text[]) as dimension
where feature <> 'accounts' and (dimension = 'per day' or quantity is null);

-- Notification settings ----------------------------------------------------------------------------------------------

insert into platform.notification_channel (id, kind, name, target, settings, quiet_from, quiet_until)
select 5 * i, kind, kind || ' ' || i, case kind when 'email' then 'ops+' || i || '@example.org' when 'sms' then '+4930' || i else 'https://hooks.example.org/' || pg_temp.id('hook', i) end,
    pg_catalog.jsonb_build_object('signing_key', pg_temp.base64(pg_temp.bytes('hook', i)), 'retry', pg_catalog.jsonb_build_object('times', 5, 'wait', '30s')),
    case when i % 2 = 0 then time '22:00:00.5' end, case when i % 2 = 0 then time with time zone '06:30:00+05:45' when i % 3 = 0 then time with time zone '24:00:00-12' end
from (select i, pg_temp.pick('channel', i, '{email,webhook,sms}') as kind from pg_catalog.generate_series(1, 4 * :scale) as i) as channel;

insert into platform.notification_subscription (channel_id, account_id, event, threshold)
select 5 * (1 + i / 10), 1 + pg_temp.number('subscriber', i / 10, 60 * :scale), 'event.' || i % 10,
    case i % 10 when 0 then null when 1 then 'NaN' when 2 then '-Infinity' when 3 then '-0' when 4 then 0.1::double precision + 0.2 when 5 then 5e-324 else i / 7.0 end
from pg_catalog.generate_series(0, 40 * :scale - 1) as i;

insert into platform.notification_template (event, language, subject, body)
select 'event.' || i % 10, language, 'Event {{n}} ' || i, E'Hello {{name}},\r\n\r\n\t' || pg_temp.words('template', i, 30) || E'\n\\.\n-- \nBackup'
from pg_catalog.generate_series(0, 9) as i, pg_catalog.unnest('{en,de}'::text[]) as language;

-- System settings ----------------------------------------------------------------------------------------------------

insert into platform.system_setting (key, value, number, text, changed_by, changed_at)
select 'odd/' || i, pg_catalog.to_jsonb(value), case i when 1 then 'NaN' when 2 then 'Infinity' when 3 then 1.000 when 4 then 1e100 when 5 then -1e-100 end,
    value, case when i % 2 = 0 then 1 end,
    case i when 1 then 'infinity' when 2 then '-infinity' when 3 then '4713-01-01 00:00:00+00 BC' when 4 then '294276-12-31 23:59:59.999999+00' else timestamptz '2025-03-30 02:30:00.000001+01' end
from odd;
insert into platform.system_setting (key, value, text, changed_by, changed_at)
select pg_temp.pick('setting', i, '{mail,proxy,password.policy,session,branding}') || '.' || i,
    pg_catalog.jsonb_build_object('value', pg_temp.words('setting', i, 10), 'default', null), case when i % 3 = 0 then pg_temp.words('why', i, 5) end,
    case when i % 3 <> 0 then 1 + pg_temp.number('changed', i, 60 * :scale) end, pg_temp.moment('setting', i)
from pg_catalog.generate_series(1, 10 * :scale) as i;

-- Login events -------------------------------------------------------------------------------------------------------

insert into platform.login_event (id, occurred_at, account_id, login_name, succeeded, address, hardware, agent, details)
select i, case i % 100 when 17 then 'infinity' when 18 then timestamptz '2019-07-01 00:00+00' else pg_temp.moment('event', i) end,
    account.id, coalesce(account.login_name::text, 'nobody' || i), i % 12 <> 5 and account.id is not null,
    pg_catalog.format('192.0.%s.%s', i / 256 % 256, i % 256)::inet, case when i % 20 = 0 then '08:00:2b:01:02:03'::macaddr end,
    case i % 4 when 0 then null else 'Mozilla/5.0 (' || pg_temp.pick('agent', i, '{X11; Linux x86_64,Windows NT 10.0; Win64; x64,"Macintosh; Intel Mac OS X 10_15_7"}') || ') Gecko/20100101 Firefox/' || 100 + i % 40 end,
    case when i % 3 = 0 then pg_catalog.jsonb_build_object('trace', pg_temp.id('trace', i), 'ms', (i % 900)::numeric / 10) end
from pg_catalog.generate_series(1, 280 * :scale) as i
    left join platform.account on account.id = case when i % 15 <> 5 then 1 + pg_temp.number('who', i, 60 * :scale) end;

insert into platform."Audit Trail" ("No.", "Who's there?", "Zeitpunkt (UTC)", "a/b\c", "変更", "select")
overriding system value
select i, 'account:' || 1 + pg_temp.number('audit', i, 60 * :scale), case i % 20 when 0 then 'infinity' when 1 then null else pg_temp.moment('audit', i) at time zone 'UTC' end,
    case i % 3 when 0 then 'C:\x\' || i when 1 then '/var/' || i end, pg_catalog.jsonb_build_object('before', i, 'after', pg_temp.words('audit', i, 5)), (array[true, false, null])[1 + i % 3]
from pg_catalog.generate_series(1, 60 * :scale) as i;

-- Outside the backup -------------------------------------------------------------------------------------------------

insert into platform.session (id, account_id, client_id, token_hash, expires_at)
select pg_temp.id('session', i), 1 + pg_temp.number('session', i, 60 * :scale), case when i % 2 = 0 then pg_temp.id('client', 1 + pg_temp.number('session client', i, 8 * :scale)) end,
    pg_temp.bytes('session', i), timestamptz '2026-02-01 00:00+00' + i % 86400 * interval '1 second'
from pg_catalog.generate_series(1, 30 * :scale) as i;

insert into platform.change_log (changed_at, changed_by, operation, item)
select pg_temp.moment('change', i), 'platform', 'UPDATE', 'account ' || 1 + pg_temp.number('change', i, 60 * :scale) from pg_catalog.generate_series(1, 20 * :scale) as i;

insert into reporting.usage_report (account_id, license_id, month, hours)
select 1 + pg_temp.number('usage', i, 60 * :scale), case when i % 3 = 0 then pg_temp.id('license', 1 + pg_temp.number('usage license', i, 10 * :scale)) end, '2026-01-01', (i % 16000)::numeric / 100
from pg_catalog.generate_series(1, 20 * :scale) as i;

insert into reporting.work_item (assignee_id, title)
select 1 + pg_temp.number('work', i, 60 * :scale), pg_temp.words('work', i, 5) from pg_catalog.generate_series(1, 8 * :scale) as i;

insert into reporting.support_ticket (reporter_id, adapter_id, subject)
select 1 + pg_temp.number('ticket', i, 60 * :scale), case when i % 2 = 0 then 1 + pg_temp.number('ticket adapter', i, 20 * :scale) end, pg_temp.words('ticket', i, 6)
from pg_catalog.generate_series(1, 4 * :scale) as i;

insert into reporting.adapter_statistic (adapter_id, day, messages)
select 1 + i % (20 * :scale), date '2026-01-31' - (i / (20 * :scale))::integer, pg_temp.number('messages', i, 1000000) from pg_catalog.generate_series(0, 40 * :scale - 1) as i;

-- Sequences go on behind the ids given here --------------------------------------------------------------------------

select pg_catalog.count(*) as sequences from (values
    (pg_catalog.setval('platform.role_id_seq', (select max(id) from platform.role))),
    (pg_catalog.setval('platform.org_unit_id_seq', (select max(id) from platform.org_unit))),
    (pg_catalog.setval('platform.account_id_seq', (select max(id) from platform.account))),
    (pg_catalog.setval('platform.client_number', (select max(number) from platform.client_application))),
    (pg_catalog.setval('platform.adapter_id_seq', (select max(id) from platform.adapter))),
    (pg_catalog.setval('platform.notification_channel_id_seq', (select max(id) + 5 from platform.notification_channel), false)),
    (pg_catalog.setval('platform.login_event_id', (select max(id) from platform.login_event))),
    (pg_catalog.setval('platform."Audit Trail_No._seq"', (select max("No.") from platform."Audit Trail")))) as raised \gset

alter table platform.account enable trigger user;
alter table platform.adapter enable trigger user;

commit;
