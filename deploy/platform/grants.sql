-- What the roles of Holdfast may do in this database. Run by `platform`, the owner, after schema.sql; may be run again.
-- A database made from a template has the grants on tables, but not those on the database: run it there too.

begin;
set local search_path = '';
set local client_min_messages = warning;

do $$
declare
    -- The tables of ../catalog.toml.
    tables constant regclass[] := array[
        'platform.account', 'platform.password', 'platform.password_history', 'platform.totp_factor',
        'platform.external_login', 'platform.org_unit', 'platform.account_note',
        'platform.role', 'platform.permission', 'platform.role_permission', 'platform.account_role',
        'platform.login_provider', 'platform."Group Mapping"',
        'platform.client_application', 'platform.client_secret', 'platform.client_secret_use',
        'platform.adapter', 'platform.adapter_secret', 'platform.adapter_link', 'platform.adapter_maintenance',
        'platform.adapter_calibration_profiles_of_regulated_measuring_instruments',
        'platform.license', 'platform.license_feature', 'platform.license_feature_limit',
        'platform.notification_channel', 'platform.notification_subscription', 'platform.notification_template',
        'platform.system_setting',
        'platform.login_event', 'platform."Audit Trail"'
    ];
    -- Its sequences that no column owns; those of serial and identity columns are found.
    sequences regclass[] := array['platform.client_number', 'platform.login_event_id'];
    -- Outside the backup: read to tell what a restore means for them.
    outside constant regclass[] := array[
        'platform.session', 'platform.adapter_type',
        'reporting.usage_report', 'reporting.work_item', 'reporting.support_ticket', 'reporting.adapter_statistic'
    ];
    item regclass;
begin
    execute pg_catalog.format('revoke all on database %I from public', pg_catalog.current_database());
    execute pg_catalog.format('grant connect on database %I to holdfast_state, holdfast_backup, holdfast_restore',
        pg_catalog.current_database());
    execute pg_catalog.format('grant create on database %I to holdfast_state', pg_catalog.current_database());
    -- A restore loads everything into temporary tables before it touches anything.
    execute pg_catalog.format('grant temporary on database %I to holdfast_restore', pg_catalog.current_database());

    select sequences || coalesce(pg_catalog.array_agg(owned.objid::regclass), '{}') into sequences
    from pg_catalog.pg_depend as owned
        join pg_catalog.pg_class as sequence on sequence.oid = owned.objid and sequence.relkind = 'S'
    where owned.classid = 'pg_catalog.pg_class'::regclass and owned.refclassid = 'pg_catalog.pg_class'::regclass
        and owned.refobjid = any (tables) and owned.deptype in ('a', 'i');

    foreach item in array tables loop
        execute pg_catalog.format('grant select on %s to holdfast_backup', item);
        execute pg_catalog.format('grant select, insert, update, delete on %s to holdfast_restore', item);
    end loop;
    foreach item in array sequences loop
        execute pg_catalog.format('grant select on sequence %s to holdfast_backup', item);
        execute pg_catalog.format('grant select, update on sequence %s to holdfast_restore', item);
    end loop;
    foreach item in array outside loop
        execute pg_catalog.format('grant select on %s to holdfast_restore', item);
    end loop;
end $$;

grant usage on schema platform to holdfast_backup, holdfast_restore;
grant usage on schema reporting to holdfast_restore;

commit;
