//! A restore that is met at any moment by the end of the service, of its session, of the database, or of its caller: all
//! of it is there or nothing, and what is told is what happened.

use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{Backup, RestoreRequest, WaitOperationRequest, WatchOperationRequest};
use sqlx::{Connection, PgConnection};

use super::proxy::{Cut, Proxy};
use super::world::{World, eventually_async, rounds};
use super::zoo::{BUSY, BUSY_DAMAGE, all_of, resource, run, signal};

/// A platform that is damaged, and restored under a fault.
struct Patient {
    world: World,
    backup: Backup,
    restored: String,
    damaged: String,
    /// From the answer of the call to the commit, when nobody disturbs it.
    lasts: Duration,
}

/// When a fault is to come.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Waiting,
    Committing,
    After(Duration),
}

impl Patient {
    /// A damaged platform, in a world whose service is not started yet.
    async fn new(world: World) -> Self {
        let mut world = world.with_zoo(BUSY, &resource("zoo", &["zoo.parent", "zoo.child"])).await;
        world.start().await.unwrap();
        world.build_gate().await;
        let restored = world.digests();
        let backup = world.backup().await;
        world.sql(BUSY_DAMAGE).await;
        let damaged = world.digests();
        let operation = world.begin_restore(&backup, "").await;
        let began = Instant::now();
        let id = operation.trim_start_matches("operations/");
        world.catch(&format!("select 'committed' from holdfast.restore_log where operation = '{id}'")).await;
        let lasts = began.elapsed();
        world.outcome(&operation).await.unwrap();
        assert_eq!(world.digests(), restored);
        world.sql(BUSY_DAMAGE).await;
        Self { world, backup, restored, damaged, lasts }
    }

    /// Two moments that are met for certain, then such as are spread over the whole of a restore and a little more.
    fn moments(&self, rounds: u32) -> impl Iterator<Item = Moment> + use<> {
        let lasts = self.lasts;
        let spread = (0..rounds).map(move |round| Moment::After(lasts * 11 * round / (10 * rounds)));
        [Moment::Waiting, Moment::Committing].into_iter().chain(spread)
    }

    /// Begins a restore and comes back at this moment of it. The session holds it there.
    async fn restore_until(&self, moment: Moment) -> (String, Option<PgConnection>) {
        let world = &self.world;
        let holder = match moment {
            Moment::Waiting => Some(world.open_transaction("lock table zoo.child in row exclusive mode").await),
            Moment::Committing => Some(world.close_gate().await),
            Moment::After(_) => None,
        };
        let operation = world.begin_restore(&self.backup, "").await;
        match moment {
            Moment::Waiting => world.until_waiting("holdfast_restore", "LOCK TABLE%").await,
            Moment::Committing => world.until_commit().await,
            Moment::After(delay) => tokio::time::sleep(delay).await,
        }
        (operation, holder)
    }

    /// What became of it: true when it was applied. Told and true must be the same; afterwards the platform is damaged.
    async fn settles(&self, operation: &str, reasons: &[&str]) -> bool {
        let end = Instant::now() + Duration::from_secs(120);
        // The service may have lost the database a moment ago.
        let result = loop {
            assert!(Instant::now() < end, "{operation} does not end\n{}", self.world.log());
            let request = WaitOperationRequest { name: operation.to_owned(), ..Default::default() };
            match self.world.operations().await.wait_operation(request).await {
                Ok(answer) if answer.get_ref().done => break answer.into_inner().result.unwrap(),
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        match result {
            Outcome::Error(error) => {
                assert!(reasons.contains(&error.reason.as_str()), "{error:?}\n{}", self.world.log());
                assert_eq!(self.world.digests(), self.damaged, "{error:?}");
                false
            }
            Outcome::Restore(_) => {
                assert_eq!(self.world.digests(), self.restored);
                self.world.sql(BUSY_DAMAGE).await;
                true
            }
            other => panic!("{other:?}"),
        }
    }

    /// After all of it a restore works as ever.
    async fn recovers(&self, what: &str, outcomes: &[bool]) {
        let applied = outcomes.iter().filter(|applied| **applied).count();
        eprintln!("{what}: {applied} applied, {} not; undisturbed it takes {:?}", outcomes.len() - applied, self.lasts);
        self.world.restores_to(&self.backup, &self.restored).await;
    }
}

async fn let_go(holder: Option<PgConnection>) {
    if let Some(holder) = holder {
        // Gone already when the database is.
        let _ = holder.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r01_a_service_that_is_killed_at_any_moment_leaves_all_or_nothing_and_says_which() {
    let mut patient = Patient::new(World::without_service().await).await;
    let mut outcomes = Vec::new();
    for moment in patient.moments(rounds(8, 100)) {
        let (operation, holder) = patient.restore_until(moment).await;
        patient.world.kill();
        let_go(holder).await;
        patient.world.start_later().await;
        let applied = patient.settles(&operation, &["INTERRUPTED"]).await;
        // In its COMMIT the server goes on, or finds before that nobody is there.
        assert!(!applied || !matches!(moment, Moment::Waiting));
        outcomes.push(applied);
    }
    patient.recovers("service killed", &outcomes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r01_a_database_session_that_is_ended_at_any_moment_leaves_all_or_nothing_and_says_which() {
    let patient = Patient::new(World::without_service().await).await;
    let mut outcomes = Vec::new();
    for moment in patient.moments(rounds(10, 100)) {
        let (operation, holder) = patient.restore_until(moment).await;
        patient.world.terminate_sessions("holdfast_restore", "true").await;
        let applied = patient.settles(&operation, &["DATABASE_UNAVAILABLE"]).await;
        assert!(!applied || matches!(moment, Moment::After(_)), "{moment:?}");
        let_go(holder).await;
        outcomes.push(applied);
    }
    patient.recovers("session ended", &outcomes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r01_a_database_that_crashes_at_any_moment_leaves_all_or_nothing_and_says_which() {
    let patient = Patient::new(World::on_its_own_database_server().await).await;
    let session = "select string_agg(pid::text, ' ') from pg_stat_activity where datname = current_database() and usename = 'holdfast_restore'";
    let mut outcomes = Vec::new();
    for (round, moment) in patient.moments(rounds(6, 100)).enumerate() {
        let (operation, holder) = patient.restore_until(moment).await;
        // All of it, or one session without which it starts anew by itself.
        if round % 3 == 2 {
            for pid in patient.world.value(session).await.split(' ').filter(|pid| !pid.is_empty()) {
                signal("-KILL", pid);
            }
        } else {
            patient.world.crash_database().await;
        }
        let url = patient.world.url("platform");
        eventually_async(Duration::from_secs(60), async || PgConnection::connect(&url).await.ok()).await;
        let applied = patient.settles(&operation, &["DATABASE_UNAVAILABLE"]).await;
        assert!(!applied || matches!(moment, Moment::After(_)), "{moment:?}");
        let_go(holder).await;
        outcomes.push(applied);
    }
    patient.recovers("database crashed", &outcomes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r02_a_commit_that_nobody_is_left_to_hear_of_is_told_as_committed() {
    let mut patient = Patient::new(World::without_service().await).await;
    let (operation, gate) = patient.restore_until(Moment::Committing).await;
    // Stopped, the service does not hear the answer, and the server does not miss it.
    signal("-STOP", &patient.world.pid().to_string());
    let_go(gate).await;
    patient.world.until("exists (select from holdfast.restore_log where not sequences_raised)").await;
    patient.world.kill();
    patient.world.start_later().await;
    assert!(patient.settles(&operation, &[]).await);
    patient.recovers("committed unheard", &[true]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r02_a_connection_that_is_cut_during_commit_is_told_from_what_the_database_committed() {
    let mut world = World::without_service().await;
    let proxy = Proxy::new(world.port()).await;
    world.set("HOLDFAST_DATABASE__PORT", &proxy.port.to_string());
    let rows = "create table zoo.item (id int primary key); insert into zoo.item values (1)";
    let mut world = world.with_zoo(rows, &resource("zoo", &["zoo.item"])).await;
    world.start().await.unwrap();
    let backup = world.backup().await;
    let wanted = rounds(18, 200);
    let mut committed = 0;
    for round in 0..wanted {
        world.sql("update zoo.item set id = 2").await;
        let cut = [Cut::BeforeItArrives, Cut::BeforeItsAnswer, Cut::AtOnce][round as usize % 3];
        proxy.cut_next_commit(cut);
        let operation = world.begin_restore(&backup, "").await;
        let outcome = world.outcome(&operation).await;
        let restored = match world.value("select id from zoo.item").await.as_str() {
            "1" => true,
            "2" => false,
            other => panic!("{other}"),
        };
        assert_eq!(proxy.cuts(), round + 1, "the COMMIT was not met");
        assert_eq!(outcome.is_ok(), restored, "{cut:?} {outcome:?}\n{}", world.log());
        match cut {
            Cut::BeforeItArrives => assert!(!restored),
            Cut::BeforeItsAnswer => assert!(restored),
            Cut::AtOnce => {}
        }
        if let Err(error) = outcome {
            assert_eq!(error.reason, "DATABASE_UNAVAILABLE", "{error:?}");
        }
        committed += u32::from(restored);
    }
    assert_eq!(world.log().matches("the connection was lost during COMMIT").count(), wanted as usize);
    eprintln!("{wanted} of {wanted} connections cut during COMMIT: {committed} committed");
    world.restore(&backup, "").await.unwrap();
}

/// Rows that are more than sockets hold. Autovacuum would lock the table for as long as it gives the deleted ones back.
const LARGE: &str = "create table zoo.item (id int primary key, note bytea not null)
        with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
    insert into zoo.item select i, (select decode(string_agg(md5(i::text || j), ''), 'hex') from generate_series(1, 130000) j)
    from generate_series(1, 12) i";

/// A world with a table of large rows, whose service reaches the database through a proxy.
async fn behind_proxy() -> (World, Proxy) {
    let mut world = World::without_service().await;
    let proxy = Proxy::new(world.port()).await;
    world.set("HOLDFAST_DATABASE__PORT", &proxy.port.to_string());
    let mut world = world.with_zoo(LARGE, &resource("zoo", &["zoo.item"])).await;
    world.start().await.unwrap();
    (world, proxy)
}

/// How long it takes from now until somebody else gets this lock. It must be free within 15 s; a machine may be slow.
async fn lets_go(world: &World, lock: &str) -> Duration {
    let (mut other, began) = (world.platform().await, Instant::now());
    run(&mut other, &format!("set lock_timeout = '120s'; begin; {lock}; rollback")).await;
    other.close().await.unwrap();
    let waited = began.elapsed();
    eprintln!("paused: {lock} waited for {waited:?}");
    assert!(waited < Duration::from_secs(25), "{waited:?}\n{}", world.log());
    waited
}

const PAUSED: [&str; 3] = ["OPERATION_TIMED_OUT", "DATABASE_UNAVAILABLE", "LEASE_LOST"];

#[tokio::test(flavor = "multi_thread")]
async fn r08_a_restore_that_is_paused_in_its_copy_lets_others_go_on_within_15_seconds() {
    let (world, proxy) = behind_proxy().await;
    let backup = world.backup().await;
    let whole = world.digests();
    // Into empty tables it copies under their locks.
    world.sql("delete from zoo.item").await;
    let empty = world.digests();
    proxy.hold("COPY \"zoo\".\"item\"", false);
    let operation = world.begin_restore(&backup, "").await;
    proxy.until_held(1).await;
    signal("-STOP", &world.pid().to_string());
    world.until("exists (select from pg_stat_activity where datname = current_database() and state = 'active' and wait_event = 'ClientRead' and query like 'COPY%FROM STDIN%')").await;
    lets_go(&world, "lock table zoo.item in row exclusive mode").await;
    // The fence, too: whoever waits for the maintenance lock gets it.
    assert_eq!(world.value("select count(*) from pg_locks where relation = 'holdfast.lease'::regclass").await, "0");
    proxy.open();
    signal("-CONT", &world.pid().to_string());
    let error = world.outcome(&operation).await.unwrap_err();
    assert!(PAUSED.contains(&error.reason.as_str()), "{error:?}\n{}", world.log());
    assert_eq!(world.digests(), empty);
    world.is_tidy().await;
    world.restores_to(&backup, &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r08_a_backup_that_is_paused_in_its_copy_lets_an_alter_table_go_on_within_15_seconds() {
    let (world, proxy) = behind_proxy().await;
    proxy.hold("COPY (SELECT", false);
    let operation = world.begin_backup().await;
    proxy.until_held(1).await;
    signal("-STOP", &world.pid().to_string());
    world.until("exists (select from pg_stat_activity where datname = current_database() and usename = 'holdfast_backup' and wait_event = 'ClientWrite')").await;
    lets_go(&world, "alter table zoo.item add column more int").await;
    proxy.open();
    signal("-CONT", &world.pid().to_string());
    let error = world.outcome(&operation).await.unwrap_err();
    assert!(PAUSED.contains(&error.reason.as_str()), "{error:?}\n{}", world.log());
    world.is_tidy().await;
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r08_a_restore_that_is_paused_while_it_holds_the_tables_lets_writers_go_on_within_15_seconds() {
    let patient = Patient::new(World::without_service().await).await;
    let world = &patient.world;
    // Waits for the log when it has the tables and has changed them.
    let mut log = world.superuser().await;
    run(&mut log, "begin; lock table holdfast.restore_log in share mode").await;
    let operation = world.begin_restore(&patient.backup, "").await;
    world.until_waiting("holdfast_restore", "%restore_log%").await;
    signal("-STOP", &world.pid().to_string());
    run(&mut log, "rollback").await;
    lets_go(world, "lock table zoo.parent, zoo.child in row exclusive mode").await;
    signal("-CONT", &world.pid().to_string());
    assert!(!patient.settles(&operation, &PAUSED).await);
    patient.recovers("paused", &[false]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b16_r08_data_that_stop_on_their_way_for_some_seconds_fail_neither_backup_nor_restore() {
    let (world, proxy) = behind_proxy().await;
    let three_seconds = |role: &str, statement: &str, waits: &str| {
        format!(
            "exists (select from pg_stat_activity where datname = current_database() and usename = '{role}' and query like '{statement}'
             and wait_event = '{waits}' and clock_timestamp() - query_start > interval '3 s')"
        )
    };
    proxy.hold("COPY (SELECT", false);
    let operation = world.begin_backup().await;
    proxy.until_held(1).await;
    world.until(&three_seconds("holdfast_backup", "COPY%", "ClientWrite")).await;
    proxy.open();
    let backup = world.backup_outcome(&operation).await.unwrap();
    let whole = world.digests();
    world.sql("delete from zoo.item where id > 5").await;
    proxy.hold("COPY pg_temp.stage_", false);
    let operation = world.begin_restore(&backup, "").await;
    proxy.until_held(1).await;
    world.until(&three_seconds("holdfast_restore", "COPY%", "ClientRead")).await;
    proxy.open();
    world.outcome(&operation).await.unwrap();
    assert_eq!(world.digests(), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn r08_a_restore_stays_awake_while_its_safety_backup_takes_longer_than_the_server_waits() {
    let (world, proxy) = behind_proxy().await;
    let backup = world.backup().await;
    let whole = world.digests();
    world.sql("delete from zoo.item where id > 5").await;
    proxy.hold("READ ONLY; LOCK TABLE", true);
    let request = RestoreRequest { skip_safety_backup: false, ..all_of(&backup) };
    let operation = world.backups().await.restore(request).await.unwrap().into_inner().name;
    proxy.until_held(1).await;
    // As long as the server would let it idle, and some more.
    let mut clock = world.superuser().await;
    run(&mut clock, "select pg_sleep(13)").await;
    proxy.open();
    if let Err(error) = world.outcome(&operation).await {
        panic!("{error:?}\n{}", world.log());
    }
    assert_eq!(world.digests(), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn r27_callers_who_hang_up_at_any_moment_of_a_restore_change_nothing() {
    let patient = Patient::new(World::without_service().await).await;
    let world = &patient.world;
    let began = Instant::now();
    let operation = world.begin_restore(&patient.backup, "").await;
    let call = began.elapsed();
    assert!(patient.settles(&operation, &[]).await);
    // While it is accepted, at parts of what the call takes. Whoever asks again finds it, or starts it.
    let (wanted, mut outcomes) = (rounds(8, 100), Vec::new());
    let count = "select count(*) from holdfast.operation";
    let before: u32 = world.value(count).await.parse().unwrap();
    for round in 0..wanted {
        let request = RestoreRequest { request_id: format!("round {round}"), ..all_of(&patient.backup) };
        let (mut leaves, mut stays) = (world.backups().await, world.backups().await);
        let _ = tokio::time::timeout(call * 12 * round / (10 * wanted), leaves.restore(request.clone())).await;
        let operation = stays.restore(request).await.unwrap().into_inner();
        outcomes.push(patient.settles(&operation.name, &[]).await);
        assert_eq!(world.value(count).await, (before + round + 1).to_string());
    }
    assert_eq!(outcomes, vec![true; wanted as usize]);
    // While it waits and while it is watched.
    let holder = world.open_transaction("lock table zoo.child in row exclusive mode").await;
    let operation = world.begin_restore(&patient.backup, "").await;
    let request = WatchOperationRequest { name: operation.clone(), ..Default::default() };
    let mut watch = world.operations().await.watch_operation(request).await.unwrap().into_inner();
    watch.message().await.unwrap();
    drop(watch);
    let_go(Some(holder)).await;
    assert!(patient.settles(&operation, &[]).await);
    patient.recovers("hung up", &outcomes).await;
}
