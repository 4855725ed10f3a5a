//! What the three roles of Holdfast cannot do in PostgreSQL, whoever has their passwords.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use holdfast::grpc::proto::backup::ListBackupsRequest;
use holdfast::model::Catalog;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tonic::Code;

use super::world::{World, eventually_async, psql, repository, rounds};
use super::zoo::{GRANTS, all_of, run};

const ANY: &str = "select, insert, update, delete, truncate, references, trigger";
const WRITES: &str = "insert, update, delete, truncate, references, trigger";

/// A platform with the grants on its database, which a copy of the template does not have.
async fn granted() -> World {
    let world = World::new().await;
    psql(&world.url("platform"), &["-f", "deploy/platform/grants.sql"]);
    world.sql("create table platform.payroll (id int); insert into platform.payroll values (1); create schema hr; create table hr.person (id int)").await;
    world
}

/// Tables and views, those of the system left out, on which `role` has one of the rights, be it on a column only.
async fn tables(world: &World, role: &str, rights: &str) -> BTreeSet<String> {
    let of_columns: Vec<&str> = rights.split(", ").filter(|right| !["delete", "truncate", "trigger"].contains(right)).collect();
    let query = format!(
        "select string_agg(format('%s.%s', relnamespace::regnamespace, relname), ',') from pg_class
         where relkind in ('r', 'p', 'v', 'm', 'f') and relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'
             and (has_table_privilege('{role}', oid, '{rights}') or has_any_column_privilege('{role}', oid, '{}'))",
        of_columns.join(", ")
    );
    world.value(&query).await.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Each statement is refused for want of a right (SQLSTATE 42501).
async fn cannot(world: &World, role: &str, statements: &[&str]) {
    let mut connection = PgConnection::connect(&world.url(role)).await.unwrap();
    for statement in statements {
        let error = match connection.execute(sqlx::raw_sql(AssertSqlSafe((*statement).to_owned()))).await {
            Err(sqlx::Error::Database(error)) => error,
            other => panic!("{role}: {statement}: {other:?}"),
        };
        assert_eq!(error.code().as_deref(), Some("42501"), "{role}: {statement}: {error}");
    }
}

/// What none of them may.
const NOBODY: &[&str] = &[
    "copy (select 1) to program 'true'",
    "copy (select 1) to '/tmp/holdfast-was-here'",
    "create temporary table t (line text); copy t from '/etc/passwd'",
    "select pg_read_file('/etc/passwd')",
    "select pg_ls_dir('/')",
    "select lo_import('/etc/passwd')",
    "set session_replication_role = replica",
    "alter system set log_statement = 'none'",
    "select pg_reload_conf()",
    "create role another",
    "create database another",
    "create extension file_fdw",
    "set role platform",
    "set role postgres",
    "set session authorization postgres",
    "alter role holdfast_state superuser",
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'platform'",
    "select * from pg_authid",
    "select from platform.payroll",
    "select from hr.person",
    "create table platform.mine (id int)",
    "create table public.mine (id int)",
    "create function public.mine() returns int language sql return 1",
    "drop table platform.license",
    "alter table platform.license disable trigger all",
    "alter table platform.license owner to current_user",
    "truncate platform.license",
    "create trigger mine before insert on platform.license for each row execute function suppress_redundant_updates_trigger()",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_the_state_sees_nothing_of_the_platform() {
    let world = granted().await;
    // So that there is somebody to be ended.
    let _platform = world.platform().await;
    let seen = tables(&world, "holdfast_state", ANY).await;
    assert!(seen.len() > 5 && seen.iter().all(|table| table.starts_with("holdfast.")), "{seen:?}");
    cannot(
        &world,
        "holdfast_state",
        &NOBODY.iter().filter(|statement| !statement.contains("temporary")).copied().collect::<Vec<_>>(),
    )
    .await;
    cannot(
        &world,
        "holdfast_state",
        &[
            "select from platform.password",
            "select from reporting.support_ticket",
            "create temporary table t (id int)",
            "do $$ begin execute 'lock table platform.license in access share mode'; end $$",
            "select nextval('platform.client_number')",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_backups_reads_the_tables_of_the_catalog_and_does_nothing_else() {
    let world = granted().await;
    let _platform = world.platform().await;
    let text = std::fs::read_to_string(repository().join("deploy/catalog.toml")).unwrap();
    let catalog: BTreeSet<String> =
        Catalog::parse(&text).unwrap().tables().map(|(_, table)| format!("{}.{}", table.schema, table.name)).collect();
    assert_eq!(tables(&world, "holdfast_backup", "select").await, catalog);
    assert_eq!(tables(&world, "holdfast_backup", WRITES).await, BTreeSet::new());
    cannot(&world, "holdfast_backup", NOBODY).await;
    cannot(
        &world,
        "holdfast_backup",
        &[
            "select from reporting.support_ticket",
            "select from holdfast.setting",
            "insert into holdfast.event (type, body) values ('backup.completed', '{}')",
            "update platform.license set issued_to = 'nobody'",
            "delete from platform.license",
            "create temporary table t (id int)",
            "create schema mine",
            "do $$ begin execute 'lock table platform.license in exclusive mode'; end $$",
            "select from platform.license for update",
            "select nextval('platform.client_number')",
            "select setval('platform.client_number', 1)",
            "do $$ begin execute 'create table platform.mine (id int)'; end $$",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_restores_changes_rows_of_the_catalog_and_no_table() {
    let world = granted().await;
    let _platform = world.platform().await;
    let outside = |table: &String| !table.starts_with("platform.");
    let seen: BTreeSet<String> = tables(&world, "holdfast_restore", ANY).await.into_iter().filter(outside).collect();
    let known = ["holdfast.event", "holdfast.operation", "holdfast.restore_log"].map(str::to_owned);
    assert!(seen.iter().all(|table| known.contains(table) || table.starts_with("reporting.")), "{seen:?}");
    let written: Vec<String> = tables(&world, "holdfast_restore", WRITES).await.into_iter().filter(outside).collect();
    assert_eq!(written, ["holdfast.event", "holdfast.restore_log"]);
    // It owns what has triggers (schema.sql), and nothing else.
    let owned = "select string_agg(relname, ',' order by relname) from pg_class
        where relkind in ('r', 'p') and pg_has_role('holdfast_restore', relowner, 'usage')";
    assert_eq!(world.value(owned).await, "account,adapter");
    cannot(&world, "holdfast_restore", NOBODY).await;
    cannot(
        &world,
        "holdfast_restore",
        &[
            "delete from reporting.support_ticket",
            "select from holdfast.setting",
            "select from holdfast.lease",
            "select from holdfast.event",
            "select * from holdfast.operation",
            "insert into holdfast.event (type, body, number) values ('backup.completed', '{}', 1)",
            "insert into holdfast.event (type, body, hash) values ('backup.completed', '{}', '')",
            "update holdfast.event set type = ''",
            "delete from holdfast.event",
            "update holdfast.event_counter set last = 0",
            "delete from holdfast.restore_log",
            "update holdfast.setting set value = '{}'",
            "alter function holdfast.fence owner to current_user",
            "create table holdfast.mine (id int)",
            "create schema mine",
            "drop table platform.password",
            "alter table platform.password drop column hash",
            "create index on platform.password (hash)",
            "create rule mine as on insert to platform.password do instead nothing",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r29_triggers_defaults_and_expressions_of_a_low_privileged_owner_run_as_the_limited_role_or_not_at_all() {
    let world = World::zoo(
        "create table outside.ran (who text, what text); grant insert on outside.ran to public; grant usage on schema outside to public;
         create function outside.spy(what text) returns int language plpgsql as $$ begin insert into outside.ran values (current_user, what); return 1; end $$;
         create function outside.index_spy(int) returns int language plpgsql immutable as $$ begin perform outside.spy('index'); return $1; end $$;
         create function outside.trigger_spy() returns trigger language plpgsql as $$ begin perform outside.spy(tg_name); return coalesce(new, old); end $$;
         create table zoo.item (id int primary key, note text); insert into zoo.item values (1, 'a'), (2, 'b')",
        &["zoo.item"],
    )
    .await;
    let backup = world.backup().await;
    world
        .sql(
            "delete from zoo.item where id = 1; update zoo.item set note = 'x'; insert into zoo.item values (3, 'c');
             create index on zoo.item (outside.index_spy(id)); alter table zoo.item add check (outside.spy('check') > 0);
             alter table zoo.item add extra int default outside.spy('default');
             create trigger fires before insert or update or delete on zoo.item for each row execute function outside.trigger_spy();
             create constraint trigger later after insert or update or delete on zoo.item deferrable initially deferred
                 for each row execute function outside.trigger_spy();
             create trigger always after insert on zoo.item for each statement execute function outside.trigger_spy();
             alter table zoo.item enable always trigger always; alter table zoo.item owner to platform_triggers",
        )
        .await;
    world.sql(GRANTS).await;
    world.sql("truncate outside.ran").await;
    world.restore(&backup, "").await.unwrap();
    assert_eq!(world.rows("select distinct who from outside.ran").await, "(holdfast_restore)");
    let ran = world.rows("select distinct what from outside.ran").await;
    assert!(ran.contains("check") && !["fires", "later", "always"].iter().any(|trigger| ran.contains(trigger)), "{ran}");
}

#[tokio::test(flavor = "multi_thread")]
async fn b21_a_table_that_is_swapped_for_a_view_again_and_again_is_never_read_as_one() {
    let world = World::zoo(
        "create table zoo.item (id int primary key); insert into zoo.item values (1);
         create table outside.called (who text);
         create function outside.trap() returns int language plpgsql security definer as $$ begin
             insert into outside.called values (session_user); return 1; end $$;",
        &["zoo.item"],
    )
    .await;
    let mut swapping = world.platform().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let swaps = tokio::spawn(async move {
        let mut swaps = 0;
        while stopped.try_recv().is_err() {
            run(&mut swapping, "begin; alter table zoo.item rename to kept; create view zoo.item as select outside.trap() as id; grant select on zoo.item to holdfast_backup; commit").await;
            run(&mut swapping, "select pg_sleep(random() * 0.03)").await;
            run(&mut swapping, "begin; drop view zoo.item; alter table zoo.kept rename to item; commit").await;
            run(&mut swapping, "select pg_sleep(random() * 0.06)").await;
            swaps += 1;
        }
        swaps
    });
    let mut made = 0;
    for round in 0..rounds(12, 200) {
        match world.try_backup(Default::default()).await {
            Ok(_) => made += 1,
            Err(error) => assert!(["CATALOG_MISMATCH", "TABLES_LOCKED"].contains(&error.reason.as_str()), "{round}: {error:?}"),
        }
    }
    stop.send(()).unwrap();
    let swaps = swaps.await.unwrap();
    assert!(swaps > 0, "{made} backups, {swaps} swaps");
    assert_eq!(world.value("select count(*) from outside.called").await, "0");
    let backup = world.backup().await;
    world.try_restore(all_of(&backup)).await.unwrap();
}

/// A hot standby of a PostgreSQL, on loopback.
struct Standby {
    folder: PathBuf,
}

impl Standby {
    fn script(&self, command: &str) -> String {
        let output = Command::new(repository().join("deploy/dev/postgres.sh")).arg(command).arg(&self.folder).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn of(primary: &str, dir: &std::path::Path) -> Self {
        let standby = Self { folder: dir.join("standby") };
        std::fs::create_dir(&standby.folder).unwrap();
        let copy = Command::new("pg_basebackup")
            .args([
                "--write-recovery-conf",
                "--wal-method=stream",
                "--checkpoint=fast",
                "--no-sync",
                "--dbname",
                primary,
                "--pgdata",
            ])
            .arg(standby.folder.join("data"))
            .output()
            .expect("pg_basebackup runs");
        assert!(copy.status.success(), "{copy:?}");
        let (_, password) = primary.rsplit_once('@').unwrap().0.rsplit_once(':').unwrap();
        std::fs::write(standby.folder.join("superuser-password"), password).unwrap();
        // Where the tests run as root, PostgreSQL runs as somebody else.
        if rustix::process::geteuid().is_root() {
            assert!(Command::new("chown").args(["-R", "postgres:postgres"]).arg(&standby.folder).status().unwrap().success());
        }
        standby.script("start");
        standby
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = Command::new(repository().join("deploy/dev/postgres.sh")).arg("stop").arg(&self.folder).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b22_a_standby_is_not_used_until_it_is_the_primary() {
    let mut world = World::on_its_own_database_server().await;
    world.start().await.unwrap();
    world.backup().await;
    world.terminate().await;
    let files = world.files();
    // The database of this world is in it, too.
    let standby = Standby::of(&world.superuser_url(), world.dir.path());
    let port = std::fs::read_to_string(standby.folder.join("port")).unwrap().trim().to_owned();
    world.set("HOLDFAST_DATABASE__PORT", &port);
    world.start_to_listen().await.unwrap();
    eventually_async(Duration::from_secs(30), async || world.log().contains("standby").then_some(())).await;
    assert!(!world.ready().await);
    let refused = world.backups().await.list_backups(ListBackupsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(world.files(), files);

    psql(standby.script("url").trim(), &["-c", "select pg_promote()"]);
    world.becomes_ready(true).await;
    world.backup().await;
}
