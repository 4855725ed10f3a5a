-- What the roles of Holdfast may do in a database of the sample platform. Run by `platform`, the owner, after schema.sql; may be
-- run again. A database made from a template has the grants on tables, but not those on the database: run it there too.

set search_path = '';
select
    -- The tables of ../catalog.toml.
    array[
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
    ]::regclass[] as tables,
    -- Its sequences that no column owns.
    array['platform.client_number', 'platform.login_event_id']::regclass[] as sequences,
    -- Outside the backup: read to tell what a restore means for them.
    array[
        'platform.session', 'platform.adapter_type',
        'reporting.usage_report', 'reporting.work_item', 'reporting.support_ticket', 'reporting.adapter_statistic'
    ]::regclass[] as outside
\gset

\ir ../postgres/grants.sql

-- Nobody else is here, so nobody else needs what PostgreSQL gives to all.
select pg_catalog.format('revoke all on database %I from public', pg_catalog.current_database()) \gexec
