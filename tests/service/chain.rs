//! The audit log proves itself: whoever alters it beside the service is found out, at the latest by a backup file elsewhere.

use std::process::Output;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::world::{PASSPHRASE, World};

/// Hashes the whole log anew, as anybody can who may write the table and reads the documentation.
const FORGE: &str = "do $$ declare hash bytea := decode(repeat('00', 32), 'hex'); one record; begin
        for one in select id, jsonb_build_array(number, id, to_char(event_time at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), type, body)::text as record
            from holdfast.event order by number loop
            hash := sha256(hash || convert_to(one.record, 'UTF8'));
            update holdfast.event set hash = hash_of_all.hash from (select hash) as hash_of_all where id = one.id;
        end loop;
        update holdfast.event_counter set last = (select max(number) from holdfast.event), head = hash;
    end $$";

fn verify(world: &World, arguments: &[&str], stdin: &str) -> Output {
    world.cli(&[&["audit", "verify"], arguments].concat(), stdin)
}

/// The head of a log that is whole.
fn head(world: &World) -> String {
    let output = verify(world, &["--json"], "");
    assert!(output.status.success(), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    format!("{}:{}", found["number"], found["hash"].as_str().unwrap())
}

#[track_caller]
fn refuses(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(79) && said.contains("AUDIT_LOG_ALTERED") && said.contains(why), "{why}: {said}");
}

/// A superuser whose statements no trigger sees.
async fn intruder(world: &World) -> PgConnection {
    let mut connection = world.superuser().await;
    connection.execute("set session_replication_role = replica").await.unwrap();
    connection
}

async fn run(connection: &mut PgConnection, statements: &str) {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_altered_removed_moved_or_put_in_is_named() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    for _ in 0..2 {
        world.backup().await;
    }
    let stranger = holdfast::grpc::proto::backup::audit_service_client::AuditServiceClient::new(world.channel().await);
    stranger.clone().list_audit_events(holdfast::grpc::proto::backup::ListAuditEventsRequest::default()).await.unwrap_err();
    world
        .becomes("select count(*) from holdfast.event where type = 'access.denied'", "1", std::time::Duration::from_secs(60))
        .await;
    let whole = head(&world);
    let last: i64 = whole.split_once(':').unwrap().0.parse().unwrap();
    assert!(last >= 8, "{whole}");
    assert_eq!(
        world.value("select type from holdfast.event where number = (select last from holdfast.event_counter)").await,
        "access.denied"
    );

    let mut intruder = intruder(&world).await;
    run(
        &mut intruder,
        "create table public.kept as table holdfast.event; create table public.counter as table holdfast.event_counter",
    )
    .await;
    let up = "update holdfast.event set number = number + 1000 where number > 4; update holdfast.event set number = number - 999 where number > 1000";
    let cases = [
        ("update holdfast.event set body = body || '{\"target\": \"nothing\"}' where number = 3", "event 3 was altered"),
        ("update holdfast.event set type = 'backup.listed' where number = 1", "event 1 was altered"),
        ("update holdfast.event set event_time = event_time + interval '1 us' where number = 5", "event 5 was altered"),
        ("update holdfast.event set hash = null where number = 6", "event 6 was altered"),
        ("delete from holdfast.event where number = 3", "event 3 is missing"),
        ("delete from holdfast.event where number in (1, 2)", "events 1 to 2 are missing"),
        (
            "delete from holdfast.event where number = 3; update holdfast.event set number = number - 1 where number > 3",
            "event 3 was altered",
        ),
        (
            &format!(
                "{up}; insert into holdfast.event select gen_random_uuid(), 5, event_time, type, body, hash from holdfast.event where number = 4"
            ),
            "event 5 was altered",
        ),
        (
            "insert into holdfast.event select gen_random_uuid(), 900, event_time, type, body, hash from holdfast.event where number = 4",
            &format!("events {} to 899 are missing", last + 1),
        ),
        (
            "update holdfast.event set number = 900 where number = 3; update holdfast.event set number = 3 where number = 4; update holdfast.event set number = 4 where number = 900",
            "event 3 was altered",
        ),
        (
            &format!("delete from holdfast.event where number = {last}"),
            &format!("the log ends with event {}, and it should with event {last}", last - 1),
        ),
        ("truncate holdfast.event", "the log ends with event 0"),
        ("update holdfast.event_counter set last = last - 1", &format!("event {last} was put in after the end of the log")),
    ];
    for (statements, why) in cases {
        run(&mut intruder, statements).await;
        refuses(&verify(&world, &[], ""), why);
        run(&mut intruder, "delete from holdfast.event; insert into holdfast.event select * from public.kept").await;
        run(&mut intruder, "update holdfast.event_counter set (last, head) = (select last, head from public.counter)").await;
        assert_eq!(head(&world), whole, "{why}");
    }
    intruder.close().await.unwrap();

    // By accident it cannot happen: not even as the owner of the table.
    let mut owner = PgConnection::connect(&world.url("holdfast_state")).await.unwrap();
    for statement in [
        "update holdfast.event set body = '{}' where number = 3",
        "update holdfast.event set number = 900 where number = 3",
        "update holdfast.event set hash = null",
        "delete from holdfast.event",
        "truncate holdfast.event",
    ] {
        let error = owner.execute(statement).await.unwrap_err().to_string();
        assert!(error.contains("the audit log is append-only"), "{statement}: {error}");
    }
    assert_eq!(head(&world), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rewritten_or_put_back_differs_from_what_a_backup_file_tells_and_a_restore_leaves_it_alone() {
    let world = World::new().await;
    world.install_adapter_types().await;
    world.set_passphrase(PASSPHRASE).await;
    let early = world.backup().await;
    let backup = world.backup().await;
    world.sql("update platform.license set issued_to = 'nobody'").await;
    world.restore(&early, PASSPHRASE).await.unwrap();
    let (path, early) = (world.file(&backup).display().to_string(), world.file(&early).display().to_string());
    let output = verify(&world, &["--file", &early, "--file", &path, "--passphrase-stdin"], PASSPHRASE);
    assert!(output.status.success(), "{output:?}");
    let shown = world.cli(&["inspect", &path, "--passphrase-stdin", "--json"], PASSPHRASE);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let told = &shown["manifest"]["audit"];
    let told = format!("{}:{}", told["number"], told["hash"].as_str().unwrap());
    let stored = "select number || ':' || encode(hash, 'hex') from holdfast.event where number = ";
    let number: i64 = told.split_once(':').unwrap().0.parse().unwrap();
    assert_eq!(world.value(&format!("{stored}{number}")).await, told);
    let now = head(&world);
    let alone = now.split_once(':').unwrap().1;
    for known in [&now, &told, alone] {
        assert!(verify(&world, &["--head", known], "").status.success(), "{known}");
    }
    refuses(&verify(&world, &["--head", &format!("{}:{alone}", number - 1)], ""), "has another hash than --head tells");

    // Who rewrites all of it leaves a log that is a chain again. Not that of the file.
    let mut intruder = intruder(&world).await;
    run(&mut intruder, "update holdfast.event set body = body || '{\"reason\": \"nothing\"}' where number = 2").await;
    run(&mut intruder, FORGE).await;
    assert_ne!(head(&world), now);
    refuses(
        &verify(&world, &["--file", &path, "--passphrase-stdin"], PASSPHRASE),
        &format!("event {number} has another hash than {}", backup.file_name),
    );
    refuses(&verify(&world, &["--head", alone], ""), "no event has the hash");
    run(&mut intruder, "update holdfast.event set body = body - 'reason' where number = 2").await;
    run(&mut intruder, FORGE).await;
    assert_eq!(head(&world), now);

    // As a database is that was put back to before the backup.
    run(&mut intruder, &format!("delete from holdfast.event where number >= {number}")).await;
    run(&mut intruder, FORGE).await;
    let before = head(&world);
    refuses(&verify(&world, &["--file", &path, "--passphrase-stdin"], PASSPHRASE), "it was put back or cut");
    assert!(verify(&world, &["--file", &early, "--passphrase-stdin"], PASSPHRASE).status.success());
    // And it goes on from there.
    world.set_passphrase("another correct horse battery").await;
    assert!(verify(&world, &["--head", &before], "").status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_a_version_without_a_chain_is_chained_in_its_order() {
    let world = World::new().await;
    for passphrase in [PASSPHRASE, "another correct horse battery"] {
        world.set_passphrase(passphrase).await;
        world.backup().await;
    }
    let whole = head(&world);
    // As the migration leaves it; more than one step has been numbered, and some wait.
    let mut intruder = intruder(&world).await;
    run(
        &mut intruder,
        "begin; update holdfast.event set hash = null; update holdfast.event_counter set head = decode(repeat('00', 32), 'hex');
         insert into holdfast.event (type, body, event_time) select 'test.written', '{}', now() - i * interval '1 s' from generate_series(1, 2500) as i; commit",
    )
    .await;
    assert!(verify(&world, &["--head", &whole], "").status.success());
    let last: i64 = whole.split_once(':').unwrap().0.parse().unwrap();
    assert!(head(&world).starts_with(&format!("{}:", last + 2500)));
    assert_eq!(world.value("select count(*) from holdfast.event where hash is null or number is null").await, "0");
}
