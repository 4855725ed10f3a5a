-- What a bad day does to the platform: rows gone, changed, swapped and added, some of it hard to see. The demo runs it
-- as `platform` between a backup and a restore. It keeps to every foreign key.

begin;
set local search_path = '';
set local client_min_messages = warning;

-- A third of the accounts disappears, with passwords, second factors and roles. Those who reported something must stay.
create temporary table lost on commit drop as
    select id from platform.account
    where id % 3 = 0 and not exists (select from reporting.support_ticket as ticket where ticket.reporter_id = account.id);
update platform.account set manager_id = null where manager_id in (select id from pg_temp.lost);
delete from platform.account where id in (select id from pg_temp.lost);

-- The administrator has a new password and no second factor, and somebody else has come to be an administrator.
update platform.password set hash = '$argon2id$v=19$m=65536,t=3,p=4$c29tZWJvZHk$bm90IHlvdXJz', expires_at = null where account_id = 1;
delete from platform.totp_factor where account_id = 1;
with intruder as (
    insert into platform.account (external_id, login_name, display_name, state, administrator, org_unit_id)
    values ('00000000-0000-4000-8000-000000000bad', 'support2', 'Support', 'active', true, 1) returning id
), granted as (
    insert into platform.account_role (account_id, role_id) select id, 1 from intruder
)
insert into platform.session (id, account_id, token_hash, expires_at)
select '00000000-0000-4000-8000-000000000bad', id, '\xbad0', 'infinity' from intruder;

-- Two accounts have exchanged their names, which are unique.
create temporary table named on commit drop as
    select id, login_name from platform.account where state = 'active' and id > 1 order by id limit 2;
update platform.account set login_name = id::text where id in (select id from pg_temp.named);
update platform.account set login_name = other.login_name from pg_temp.named as other
    where account.id in (select id from pg_temp.named) and account.id <> other.id;

-- Equal to their own comparison, yet not the same: upper case in case-insensitive text, and 1.0 for 1.00.
update platform.account set email = pg_catalog.upper(email::text) where id % 5 = 1;
update platform.client_application set name = pg_catalog.upper(name collate "C");
update platform.adapter set weight = weight * 1.000;

-- A quarter of the adapters disappears, two others exchange names, settings are changed.
create temporary table removed on commit drop as
    select id from platform.adapter
    where id % 4 = 0 and not exists (select from reporting.support_ticket as ticket where ticket.adapter_id = adapter.id);
delete from platform.adapter_link where target_id in (select id from pg_temp.removed);
delete from platform.adapter where id in (select id from pg_temp.removed);
create temporary table renamed on commit drop as select id, name from platform.adapter order by id limit 2;
update platform.adapter set name = id::text where id in (select id from pg_temp.renamed);
update platform.adapter set name = other.name from pg_temp.renamed as other
    where adapter.id in (select id from pg_temp.renamed) and adapter.id <> other.id;
update platform.adapter set settings = pg_catalog.jsonb_set(settings, '{host}', '"elsewhere"') where id % 2 = 1;
update platform.adapter_secret set value = pg_catalog.sha256(value) where adapter_id % 3 = 1;

-- Licenses are gone, and what is left has other features.
delete from platform.license where number collate "C" like '%1' or number collate "C" like '%2';
delete from platform.license_feature where feature = 'analytics.export';
update platform.license set valid_until = '2099-12-31', file = file || '\x00'::bytea;

-- And here and there.
update platform.org_unit set parent_id = 1 where id > 1;
delete from platform.account_note where note is null or note = '';
insert into platform.account_note (note) select note from platform.account_note limit 3;
delete from platform.login_event where occurred_at >= '2025-12-01 00:00+00' and occurred_at < '2026-01-01 00:00+00';
update platform.notification_template set body = body || ' ' where language = 'de';
update platform.login_provider set priority = -priority;
update platform.system_setting set text = '' where text is null;
update platform.system_setting set text = null where key = 'odd/1';
insert into platform.adapter_maintenance (adapter_id, during, reason)
select id, '[2026-03-01 00:00+00,2026-03-02 00:00+00)', 'none' from platform.adapter where id % 4 <> 0 order by id limit 1;
delete from platform."Audit Trail" where "No." % 2 = 0;

commit;
