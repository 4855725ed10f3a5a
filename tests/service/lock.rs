//! What is particular to the maintenance lock where Holdfast hosts it; what any host must do is in `conformance`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use holdfast::grpc::proto::backup::{Backup, BackupRequest, GetSystemStatusRequest, PreviewRestoreRequest, RestoreRequest};
use holdfast::grpc::proto::lock::{AcquireLockRequest, ExpiryPolicy, LockLease, LockPurpose, RenewLockRequest};
use sqlx::{Connection, Executor};
use tonic::Status;

use super::world::{PASSPHRASE, UPDATE_TOKEN, World, refused, superuser_url};
use super::zoo::{all_of, signal};

const LONG: Duration = Duration::from_secs(30);
/// What has become of the lock, in its order.
const CHANGES: &str =
    "select coalesce(string_agg(substr(type, 6), ' ' order by event_time), '') from holdfast.event where type like 'lock.%'";

fn update() -> AcquireLockRequest {
    AcquireLockRequest {
        name: "locks/platform-maintenance".into(),
        holder_id: "update-8.4.1".into(),
        purpose: LockPurpose::SoftwareUpdate.into(),
        reason: "Update to 8.4.1".into(),
        request_id: "update-8.4.1".into(),
        ..Default::default()
    }
}

impl World {
    async fn acquire(&self, request: AcquireLockRequest) -> Result<LockLease, Status> {
        self.locks(UPDATE_TOKEN).await.acquire_lock(request).await.map(tonic::Response::into_inner)
    }

    async fn renew(&self, lease: &LockLease) -> Result<LockLease, Status> {
        let request = RenewLockRequest { name: lease.lock.clone(), lease_id: lease.lease_id.clone(), ..Default::default() };
        self.locks(UPDATE_TOKEN).await.renew_lock(request).await.map(tonic::Response::into_inner)
    }

    async fn begin_preview(&self, backup: &Backup) -> Result<String, Status> {
        let request = PreviewRestoreRequest { name: backup.name.clone(), ..Default::default() };
        Ok(self.backups().await.preview_restore(request).await?.into_inner().name)
    }

    /// Lets the time of the present lease be over.
    async fn expire(&self) {
        self.sql_as_superuser("update holdfast.lease set expire_time = clock_timestamp() - interval '1 s'").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_runs_out_is_told_once_though_nobody_asks_for_the_lock() {
    let world = World::new().await;
    for (policy, told) in [(ExpiryPolicy::Release, "expired"), (ExpiryPolicy::Hold, "stale")] {
        world.forget_events().await;
        let lease = world.acquire(AcquireLockRequest { expiry_policy: policy.into(), ..update() }).await.unwrap();
        world.expire().await;
        world.becomes(CHANGES, &format!("acquired {told}"), LONG).await;
        // It came back before anybody else had the lock, and is late again.
        world.renew(&lease).await.unwrap();
        world.expire().await;
        world.becomes(CHANGES, &format!("acquired {told} resumed {told}"), LONG).await;
        world.renew(&lease).await.unwrap();
        world.renew(&lease).await.unwrap();
        world.end_update(lease).await;
        assert_eq!(world.value(CHANGES).await, format!("acquired {told} resumed {told} resumed released"));
    }
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_the_lock_while_the_end_of_a_lease_is_told_gets_it() {
    let world = World::new().await;
    let update = AcquireLockRequest { expiry_policy: ExpiryPolicy::Hold.into(), request_id: String::new(), ..update() };
    world.acquire(update.clone()).await.unwrap();
    // Nothing can be told for a while, so that it takes as long as it can.
    let mut other = sqlx::PgConnection::connect(&superuser_url(&world.database)).await.unwrap();
    other.execute("begin; lock table holdfast.event").await.unwrap();
    world.expire().await;
    let telling =
        "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like 'INSERT INTO holdfast.event%'
                                  and datname = current_database())::text";
    world.becomes(telling, "true", LONG).await;
    let (lease, ()) = tokio::join!(world.acquire(update), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        other.execute("commit").await.unwrap();
    });
    world.end_update(lease.unwrap()).await;
    assert_eq!(world.value(CHANGES).await, "acquired stale acquired released");
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_can_be_asked_for_again_after_the_seal_key_was_changed() {
    let mut world = World::new().await;
    let before = world.acquire(update()).await.unwrap();
    world.kill();
    std::fs::write(world.dir.path().join("seal-key"), "fedcba9876543210fedcba9876543210").unwrap();
    world.start().await.unwrap();
    // What it has in its hands is still good.
    world.renew(&before).await.unwrap();
    let again = world.acquire(update()).await.unwrap();
    assert_eq!(again.fencing_token, before.fencing_token);
    world.renew(&again).await.unwrap();
    assert_eq!(world.acquire(update()).await.unwrap().lease_id, again.lease_id);
    world.end_update(again).await;
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l18_a_backup_that_an_update_waits_for_is_told_that_it_waits_and_not_that_it_works() {
    let world = World::new().await;
    let table = world.lock_table("access exclusive").await;
    let running = world.begin_backup().await;
    let mut locks = world.locks(UPDATE_TOKEN).await;
    let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let waiting = tokio::spawn(async move { locks.acquire_lock(AcquireLockRequest { wait_timeout: wait, ..update() }).await });
    world.until("exists (select from holdfast.lock where waiting_until > now())").await;
    waiting.abort();
    // For as long as this takes, it is still there.
    world.sql_as_superuser("update holdfast.lock set waiting_until = now() + interval '1 h'").await;
    world.cancel(&running).await;
    world.wait(&running).await;
    let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("SOFTWARE_UPDATE_IN_PROGRESS", tonic::Code::FailedPrecondition as i32));
    assert!(error.message.starts_with("token:update-service waits for the maintenance lock since "), "{}", error.message);
    assert_eq!(error.metadata["holder"], "token:update-service");
    world.sql_as_superuser("update holdfast.lock set waiting_until = now()").await;
    drop(table);
    world.backup().await;
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_is_not_begun_during_an_update_and_gives_way_to_one() {
    let world = World::new().await;
    let backup = world.backup().await;
    let lease = world.acquire(update()).await.unwrap();
    let error = world.begin_preview(&backup).await.map_err(refused).unwrap_err();
    assert_eq!(error.reason, "SOFTWARE_UPDATE_IN_PROGRESS");
    world.end_update(lease).await;

    let table = world.lock_table("access exclusive").await;
    let operation = world.begin_preview(&backup).await.unwrap();
    world.until_waiting("holdfast_restore", "%").await;
    let lease = world.acquire(update()).await.unwrap();
    let error = world.outcome(&operation).await.unwrap_err();
    assert_eq!(error.reason, "SOFTWARE_UPDATE_IN_PROGRESS", "{error:?}");
    drop(table);
    world.end_update(lease).await;
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_gone_keeps_no_update_from_the_lock_of_a_backup_that_sleeps() {
    let world = World::new().await;
    let mut twin = world.twin();
    twin.start().await.unwrap();
    let table = world.lock_table("access exclusive").await;
    let operation = world.begin_backup().await;
    world.until_waiting("holdfast_backup", "%").await;
    let pid = world.pid().to_string();
    signal("-STOP", &pid);
    let (folder, away) = (world.folder(), world.dir.path().join("away"));
    std::fs::rename(&folder, &away).unwrap();
    world.expire().await;
    let lease = twin.acquire(update()).await.unwrap();
    std::fs::rename(&away, &folder).unwrap();
    signal("-CONT", &pid);
    drop(table);
    let error = twin.outcome(&operation).await.unwrap_err();
    assert!(["LEASE_LOST", "INTERRUPTED"].contains(&error.reason.as_str()), "{error:?}");
    twin.end_update(lease).await;
    let backup = twin.backup().await;
    twin.restore(&backup, "").await.unwrap();
    twin.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_keeps_its_owner_while_its_end_takes_long() {
    let world = World::new().await;
    let mut twin = world.twin();
    twin.start().await.unwrap();
    let table = world.lock_table("access exclusive").await;
    let operation = world.begin_backup().await;
    world.until_waiting("holdfast_backup", "%").await;
    // As a protected transaction that does not end: the lock cannot be given back, all else can be done.
    let mut protected = world.superuser().await;
    protected.execute(sqlx::raw_sql("begin; select from holdfast.lease for key share")).await.unwrap();
    drop(table);
    world.becomes("select count(*) from holdfast.backup where state = 'ready'", "1", LONG).await;
    // An owner that is silent for 10 s is dead.
    tokio::time::sleep(Duration::from_secs(14)).await;
    protected.close().await.unwrap();
    world.outcome(&operation).await.unwrap();
    for log in [world.log(), twin.log()] {
        assert!(!log.contains("the owner of an operation is dead"), "{log}");
    }
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l07_a_migration_that_knows_only_sql_keeps_holdfast_out_and_waits_for_it() {
    let world = World::new().await;
    let backup = world.backup().await;
    let keep_out = "begin; select pg_advisory_xact_lock(hashtext('holdfast.platform-maintenance'))";
    let mut migration = world.platform().await;
    migration.execute(sqlx::raw_sql(keep_out)).await.unwrap();
    world.damage();
    let (digests, files) = (world.digests(), world.files());
    let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("SOFTWARE_UPDATE_IN_PROGRESS", tonic::Code::FailedPrecondition as i32));
    let error = world.restore(&backup, "").await.unwrap_err();
    assert_eq!(error.reason, "SOFTWARE_UPDATE_IN_PROGRESS", "{error:?}");
    let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.backup_possible && !status.restore_possible, "{status:?}");
    assert_eq!(status.obstacles[0].reason, "SOFTWARE_UPDATE_IN_PROGRESS");
    assert_eq!((world.digests(), world.files()), (digests, files));
    world.is_tidy().await;
    // Who waits for the lock waits for it, too.
    let lock_wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let request = BackupRequest { lock_wait, ..Default::default() };
    let waiting = world.backups().await.backup(request).await.unwrap().into_inner().name;
    world
        .until("exists (select from holdfast.operation where not done and body->>'detail' like 'Waits for a software update%')")
        .await;
    migration.execute(sqlx::raw_sql("rollback")).await.unwrap();
    world.backup_outcome(&waiting).await.unwrap();

    // One that comes later waits until the restore is done.
    let table = world.lock_table("row exclusive").await;
    let operation = world.begin_restore(&backup, "").await;
    world.until_waiting("holdfast_restore", "LOCK TABLE%").await;
    let waiting = tokio::spawn(async move { migration.execute(sqlx::raw_sql(keep_out)).await.map(|_| migration) });
    world.until_waiting("platform", "begin; select pg_advisory_xact_lock%").await;
    drop(table);
    let migration = waiting.await.unwrap().unwrap();
    assert!(world.outcome(&operation).await.is_ok());
    migration.close().await.unwrap();
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l12_a_lease_is_renewed_in_time_while_all_processors_derive_keys_and_check_files() {
    /// The shortest there is.
    const TTL: f64 = 10.0;
    let world = World::with(&[("HOLDFAST_LOCK__TTL", "10s")]).await;
    world.set_passphrase(PASSPHRASE).await;
    world.grow().await;
    let backup = world.backup().await;
    world
        .sql_as_superuser(
            "create table holdfast.renewal (at timestamptz not null default clock_timestamp());
             create function holdfast.note_renewal() returns trigger language plpgsql security definer as $$ begin
                 insert into holdfast.renewal default values; return null; end $$;
             create trigger note after insert or update on holdfast.lease for each row execute function holdfast.note_renewal()",
        )
        .await;
    // It tries for 19 s to get its tables.
    let table = world.lock_table("access exclusive").await;
    let operation = world.begin_backup().await;
    // Each reads the file and derives its key before it asks for the lock. (Wrong passphrases would be limited.)
    let request = RestoreRequest { passphrase: PASSPHRASE.to_owned(), validate_only: true, ..all_of(&backup) };
    let (mut busy, derived) = (tokio::task::JoinSet::new(), Arc::new(AtomicU32::new(0)));
    for _ in 0..16 {
        let (mut backups, request) = (world.backups().await, request.clone());
        let derived = derived.clone();
        busy.spawn(async move {
            loop {
                match backups.restore(request.clone()).await.map_err(refused).unwrap_err().reason.as_str() {
                    "OPERATION_IN_PROGRESS" => _ = derived.fetch_add(1, Ordering::Relaxed),
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
    }
    // And for as long as that takes, others have the processors as well.
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..2 {
        let stop = stop.clone();
        let end = std::time::Instant::now() + Duration::from_secs(60);
        tokio::task::spawn_blocking(move || while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < end {});
    }
    let error = world.outcome(&operation).await;
    stop.store(true, Ordering::Relaxed);
    let error = error.unwrap_err();
    busy.abort_all();
    drop(table);
    assert_eq!(error.reason, "TABLES_LOCKED", "{error:?}");
    let gaps = "select count(*) || ' ' || max(gap) from (select extract(epoch from at - lag(at) over (order by at)) as gap from holdfast.renewal) as g where gap is not null";
    let gaps = world.value(gaps).await;
    let (renewals, longest) = gaps.split_once(' ').unwrap();
    let derived = derived.load(Ordering::Relaxed);
    eprintln!("{renewals} renewals, the longest pause between two {longest} s of {TTL}; {derived} keys were derived meanwhile");
    assert!(derived >= 16, "nothing kept the processors busy: {derived}");
    // Due after a third of it; on a machine that does other things as well any that is in time is one.
    assert!(renewals.parse::<u32>().unwrap() >= 2 && longest.parse::<f64>().unwrap() < TTL, "{gaps}");
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l14_whatever_ends_an_operation_its_locks_are_free_within_seconds() {
    let world = World::new().await;
    let backup = world.backup().await;
    let mut twin = world.twin();
    for end in ["cancelled", "cut off", "stopped", "killed"] {
        twin.start().await.unwrap();
        let table = world.lock_table("row exclusive").await;
        let operation = twin.begin_restore(&backup, "").await;
        world.until_waiting("holdfast_restore", "LOCK TABLE%").await;
        let began = std::time::Instant::now();
        match end {
            "cancelled" => twin.cancel(&operation).await,
            "cut off" => assert_ne!(world.terminate_sessions("holdfast_restore", "wait_event_type = 'Lock'").await, 0),
            "stopped" => assert_eq!(twin.terminate().await, Some(0)),
            _ => twin.kill(),
        }
        let held = "(select count(*) from holdfast.lease) + (select count(*) from holdfast.operation where not done)
            + (select count(*) from pg_locks join pg_stat_activity using (pid)
               where datname = current_database() and usename like 'holdfast%'
                 and (locktype = 'advisory' or (mode like '%Exclusive%' and relation::regclass::text like 'platform.%')))";
        world.becomes(held, "0", Duration::from_secs(15)).await;
        eprintln!("a restore that was {end} holds nothing after {:?}", began.elapsed());
        drop(table);
        assert!(world.outcome(&operation).await.is_err());
        world.is_tidy().await;
        twin.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_keep_neither_the_holder_nor_anybody_else_out() {
    const PLACES: usize = 50;
    const BEYOND: usize = 30;
    let world = World::new().await;
    let ttl = Some(prost_types::Duration { seconds: 900, nanos: 0 });
    let lease = world.acquire(AcquireLockRequest { ttl, ..update() }).await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    let began = std::time::Instant::now();
    for caller in 0..PLACES + BEYOND {
        let mut locks = world.locks(UPDATE_TOKEN).await;
        let wait_timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let (holder_id, request_id) = (format!("another-{caller}"), String::new());
        let request = AcquireLockRequest { holder_id, request_id, wait_timeout, ..update() };
        waiting.spawn(async move { locks.acquire_lock(request).await.map(|_| ()).unwrap_err() });
    }
    for _ in 0..BEYOND {
        let status = waiting.join_next().await.unwrap().unwrap();
        assert_eq!((status.code(), refused(status).reason.as_str()), (tonic::Code::Aborted, "LOCK_HELD"));
    }
    assert!(began.elapsed() < Duration::from_secs(50), "they waited: {:?}", began.elapsed());
    world.renew(&lease).await.unwrap();
    assert_eq!(world.try_backup(BackupRequest::default()).await.unwrap_err().reason, "SOFTWARE_UPDATE_IN_PROGRESS");
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    // The last of them to be noted is forgotten when it does not say so again.
    let waits = "select coalesce(waiting_until > clock_timestamp(), false)::text from holdfast.lock";
    world.becomes(waits, "false", LONG).await;
    world.end_update(lease).await;
    world.backup().await;
}
