//! What a restore means for people is data: of the catalog's checks and watches, in previews, in results, and as events.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast::grpc::proto::backup::{ListResourcesRequest, Notice, RestoreRequest, RestoreResult};

use super::world::World;
use super::zoo::{all_of, resource};

fn subjects(notices: &[Notice], reason: &str) -> BTreeSet<String> {
    let found: Vec<_> = notices.iter().filter(|notice| notice.reason == reason).map(|notice| notice.subject.clone()).collect();
    let all: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(all.len(), found.len(), "{reason} is told twice");
    all
}

fn set(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl World {
    /// Rows of a query of one text column.
    async fn all(&self, query: &str) -> BTreeSet<String> {
        set(&self.value(&format!("select string_agg(r::text, ' ') from ({query}) as q(r)")).await)
    }

    async fn live(&self, resource: &str) -> Vec<Notice> {
        let resources =
            self.backups().await.list_resources(ListResourcesRequest::default()).await.unwrap().into_inner().resources;
        resources.into_iter().find(|found| found.name == format!("resources/{resource}")).unwrap().notices
    }
}

/// Previews, restores, and finds both to tell the same.
async fn restored(world: &World, backup: &holdfast::grpc::proto::backup::Backup) -> RestoreResult {
    let preview = world.preview(backup, "").await;
    let acknowledged_reasons = vec!["NO_ADMINISTRATOR_IN_BACKUP".into(), "CALLER_ACCOUNT_NOT_IN_BACKUP".into()];
    let result = world.try_restore(RestoreRequest { acknowledged_reasons, ..all_of(backup) }).await.unwrap();
    assert_eq!(result.notices, preview.warnings);
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn r20_adapters_whose_type_is_not_installed_are_restored_and_told_until_it_is() {
    let world = World::new().await;
    let backup = world.backup().await;
    let before = world.digests();
    let name = world.value("select type_name from platform.adapter order by id limit 1").await;
    world.sql(&format!("delete from platform.adapter_type where name = '{name}'; delete from platform.adapter_secret")).await;
    let adapters = world.all("select replace(name, ' ', '') from platform.adapter a where type_name not in (select name::text from platform.adapter_type)").await;
    let result = restored(&world, &backup).await;
    assert_eq!(world.digests(), before);
    let told = subjects(&result.notices, "ADAPTER_TYPE_NOT_INSTALLED");
    assert_eq!(told.iter().map(|name| name.replace(' ', "")).collect::<BTreeSet<_>>(), adapters);
    let live = world.live("adapters").await;
    assert_eq!(subjects(&live, "ADAPTER_TYPE_NOT_INSTALLED"), told);
    assert!(
        live.iter()
            .all(|notice| notice.instructions.contains("Install the adapter type") && notice.metadata.contains_key("type"))
    );
    assert_eq!(
        world.value("select count(*) from holdfast.event where type = 'adapter.type_missing'").await,
        told.len().to_string()
    );

    world.install_adapter_types().await;
    assert!(world.live("adapters").await.is_empty());
    assert!(subjects(&restored(&world, &backup).await.notices, "ADAPTER_TYPE_NOT_INSTALLED").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r21_licenses_that_a_file_does_not_have_are_cleared_and_each_feature_lost_is_told_once() {
    let world = World::new().await;
    world.sql("create table reporting.kept as select * from platform.license; create table reporting.features as select * from platform.license_feature;
               delete from platform.license_feature_limit; update platform.license set superseded_by = null; delete from platform.license").await;
    let backup = world.backup().await;
    world
        .sql(
            "insert into platform.license (id, number, product, valid_from, file)
                   select gen_random_uuid(), 'new-' || n, 'all', current_date, '' from generate_series(1, 3) as n;
               insert into platform.license_feature (license_id, feature, valid_until)
                   select l.id, f, case f when 'gone' then now() - interval '1 day' end
                   from platform.license as l, unnest('{alpha,beta,gone}'::text[]) as f where l.number like 'new-%'",
        )
        .await;
    let preview = world.preview(&backup, "").await;
    assert_eq!(world.value("select count(*) from holdfast.event where type like 'license%'").await, "0");
    let result = restored(&world, &backup).await;
    assert_eq!(subjects(&preview.warnings, "LICENSE_FEATURE_REMOVED"), set("alpha beta"));
    assert_eq!(subjects(&result.notices, "LICENSE_FEATURE_REMOVED"), set("alpha beta"));
    assert_eq!(subjects(&result.notices, "LICENSES_CLEARED").len(), 1);
    let event = "select string_agg((body->'attributes'->>'subject') || (body->>'target'), ' ') from (select * from holdfast.event where type = 'license.feature_removed' order by body->'attributes'->>'subject') as e";
    assert_eq!(world.value(event).await, "alpharesources/licenses betaresources/licenses");
    // Nothing is lost any more.
    let result = restored(&world, &backup).await;
    assert!(
        subjects(&result.notices, "LICENSE_FEATURE_REMOVED").is_empty()
            && subjects(&result.notices, "LICENSES_CLEARED").is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r21_a_restore_that_is_rolled_back_raises_no_event() {
    let world = World::new().await;
    let backup = world.backup().await;
    world.damage();
    world.sql("insert into platform.license (id, number, product, valid_from, file) values (gen_random_uuid(), 'n', 'p', current_date, '');
               insert into platform.license_feature (license_id, feature) select id, 'lost' from platform.license where number = 'n'").await;
    // Deferred: it fails when everything was done.
    world.sql_as_superuser("create function public.no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
        create constraint trigger no after insert on holdfast.restore_log deferrable initially deferred for each row execute function public.no()").await;
    let before = world.digests();
    world.restore(&backup, "").await.unwrap_err();
    assert_eq!(world.digests(), before);
    assert_eq!(world.value("select count(*) from holdfast.event where type in ('license.feature_removed', 'restore.completed', 'sessions.revoked')").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn r22_accounts_that_disappear_are_named_with_their_sessions_passwords_and_second_factors() {
    let world = World::new().await;
    world.sql("update platform.password set expires_at = now() - interval '1 day' where account_id = (select min(id) from platform.account where state = 'active' and id > 1)").await;
    let backup = world.backup().await;
    world.sql("insert into platform.account (external_id, login_name, display_name, state, org_unit_id) values (gen_random_uuid(), 'newcomer', 'New', 'active', 1);
               insert into platform.session (id, account_id, token_hash, expires_at) select gen_random_uuid(), id, '', 'infinity' from platform.account where login_name = 'newcomer';
               insert into platform.session (id, account_id, token_hash, expires_at) values (gen_random_uuid(), 1, '', 'infinity');
               insert into platform.totp_factor (id, account_id, label, secret, confirmed_at) select gen_random_uuid(), id, 'phone', '', now() from platform.account where login_name = 'newcomer';
               update platform.password set expires_at = null").await;
    let result = restored(&world, &backup).await;
    assert_eq!(subjects(&result.notices, "LOGIN_ACCOUNT_REMOVED"), set("newcomer"));
    assert_eq!(subjects(&result.notices, "SESSIONS_REVOKED"), set("newcomer"));
    assert_eq!(subjects(&result.notices, "MFA_REMOVED"), set("newcomer"));
    assert_eq!(subjects(&result.notices, "LOGIN_ACCOUNTS_REPLACED").len(), 1);
    let expired = world.all("select a.login_name from platform.account a join platform.password p on p.account_id = a.id where a.state = 'active' and p.expires_at <= now()").await;
    assert!(!expired.is_empty());
    assert_eq!(subjects(&result.notices, "PASSWORD_EXPIRED"), expired);
    assert_eq!(world.value("select count(*) from platform.session where account_id = 1 and token_hash = ''").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn r09_a_file_without_an_administrator_is_restored_only_for_who_accepts_that() {
    let world = World::new().await;
    for statement in [
        "update platform.account set administrator = false",
        "update platform.account set administrator = true, state = 'disabled'",
        "update platform.account set administrator = id = 1, state = 'active', external_subject = null; delete from platform.external_login; delete from platform.password",
    ] {
        world.sql("create table reporting.before as select id, administrator, state from platform.account").await;
        world.sql(statement).await;
        let backup = world.backup().await;
        world.sql("update platform.account a set administrator = b.administrator, state = b.state from reporting.before b where a.id = b.id; drop table reporting.before").await;
        let preview = world.preview(&backup, "").await;
        assert!(!preview.restorable, "{statement}");
        let blocking = preview.warnings.iter().find(|notice| notice.severity == 3).unwrap();
        assert_eq!(blocking.reason, "NO_ADMINISTRATOR_IN_BACKUP");
        let message = world.restore_fails(all_of(&backup), "WARNINGS_NOT_ACKNOWLEDGED").await;
        assert!(message.contains("NO_ADMINISTRATOR_IN_BACKUP"), "{message}");
        let codes = vec![holdfast::grpc::proto::backup::NoticeCode::NoAdministratorInBackup.into()];
        world.try_restore(RestoreRequest { acknowledged_warnings: codes, ..all_of(&backup) }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r28_callers_without_an_account_in_the_file_lock_themselves_out_only_if_they_say_so() {
    let mut world = World::new().await;
    world.set("HOLDFAST_TOKEN_SUBJECT", "user:newcomer");
    world.terminate().await;
    world.start().await.unwrap();
    let backup = world.backup().await;
    world.sql("insert into platform.account (external_id, login_name, display_name, state, org_unit_id) values (gen_random_uuid(), 'newcomer', 'New', 'active', 1)").await;
    let preview = world.preview(&backup, "").await;
    let blocking: Vec<_> = preview.warnings.iter().filter(|notice| notice.severity == 3).collect();
    assert_eq!(
        blocking.iter().map(|notice| (notice.reason.as_str(), notice.subject.as_str())).collect::<Vec<_>>(),
        [("CALLER_ACCOUNT_NOT_IN_BACKUP", "newcomer")]
    );
    assert!(!preview.restorable && blocking[0].message.contains("cannot sign in"));
    world.restore_fails(all_of(&backup), "WARNINGS_NOT_ACKNOWLEDGED").await;
    let codes = vec![holdfast::grpc::proto::backup::NoticeCode::CallerAccountNotInBackup.into()];
    world.try_restore(RestoreRequest { acknowledged_warnings: codes, ..all_of(&backup) }).await.unwrap();
    // Who is in the file is not warned.
    let backup = world.value("select count(*) from platform.account where login_name = 'newcomer'").await;
    assert_eq!(backup, "0");
    world.set("HOLDFAST_TOKEN_SUBJECT", "user:admin");
    world.sql("update platform.account set login_name = 'admin', state = 'active', valid_until = 'infinity' where id = 1").await;
    world.terminate().await;
    world.start().await.unwrap();
    let backup = world.backup().await;
    assert!(world.preview(&backup, "").await.restorable);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_more_often_than_anybody_reads_is_counted() {
    let rule = "[[resource.watch]]\nreason = 'ITEM_LOST'\nquery = 'select id as subject, note from zoo.item as item'\nmessage = '{subject} {note} {else}'\nevent = 'item.lost'\n";
    let world =
        World::zoo_with("create table zoo.item (id int primary key, note text)", &(resource("zoo", &["zoo.item"]) + rule)).await;
    let backup = world.backup().await;
    world.sql("insert into zoo.item select n, 'note ' || n from generate_series(1, 250) as n").await;
    let result = restored(&world, &backup).await;
    let lost: Vec<_> = result.notices.iter().filter(|notice| notice.reason == "ITEM_LOST").collect();
    assert_eq!(lost.len(), 101);
    assert_eq!(lost[0].message, "1 note 1 {else}");
    assert_eq!(lost[100].metadata["more"], "150");
    assert_eq!(
        world.value("select count(distinct body->'attributes'->>'note') from holdfast.event where type = 'item.lost'").await,
        "250"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r08_what_is_watched_is_compared_in_seconds_however_many_rows_it_has() {
    let rule = "[[resource.watch]]\nreason = 'ITEM_LOST'\nquery = 'select nullif(id, 7) as subject, note from zoo.item as item'\nmessage = '{subject} {note}'\n";
    let table = "create table zoo.item (id int primary key, note text); insert into zoo.item select n, 'note' from generate_series(1, 40000) as n";
    let world = World::zoo_with(table, &(resource("zoo", &["zoo.item"]) + rule)).await;
    let backup = world.backup().await;
    world.sql("update zoo.item set note = 'other'; insert into zoo.item values (0, 'new')").await;
    let began = std::time::Instant::now();
    let result = restored(&world, &backup).await;
    let lost: Vec<_> = result.notices.iter().filter(|notice| notice.reason == "ITEM_LOST").collect();
    assert!(lost.len() == 1 && lost[0].message == "0 new", "{lost:?}");
    // Each with each would take minutes, with the tables locked.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_does_not_work_stops_the_start_and_later_says_so() {
    let check = |query: &str| {
        format!(
            "{}[[resource.check]]\nreason = 'ODD'\nlive = true\nquery = \"{query}\"\nmessage = 'm'\n",
            resource("zoo", &["zoo.item"])
        )
    };
    let tables =
        "create table zoo.item (id int primary key); create table outside.other (id int); insert into outside.other values (7)";
    for (query, problem) in [
        ("select id from zoo.item", "subject"),
        ("select id as subject from zoo.nothing", "zoo.nothing"),
        ("delete from zoo.item returning id as subject", "ODD"),
        ("select 1 as subject; select 2", "ODD"),
        ("selec 1 as subject", "ODD"),
    ] {
        let mut world = World::zoo_without_service(tables, &check(query)).await;
        let message = world.start().await.unwrap_err();
        assert!(message.contains("ODD of resource zoo") && message.contains(problem), "{message}");
    }
    let world = World::zoo_with(tables, &check("select id as subject from outside.other as other")).await;
    assert_eq!(subjects(&world.live("zoo").await, "ODD"), set("7"));
    world.sql("drop table outside.other").await;
    assert_eq!(subjects(&world.live("zoo").await, "CHECK_FAILED"), set("ODD"));
}
