//! A defect that panics, anywhere in the life of an operation: its outcome is told as it is, nothing is left, and the same
//! process goes on with the next one.

use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::{BackupRequest, RestoreRequest};
use sqlx::Executor;

use super::world::{World, eventually};
use super::zoo::{BUSY, BUSY_DAMAGE, all_of, resource};

/// Where the maintenance lock must be free again soon; for machines that others use as well.
const SOON: Duration = Duration::from_secs(15);

async fn lock_is_free_soon(world: &World, what: &str) {
    let began = Instant::now();
    let taken = "select count(*) from holdfast.operation full join holdfast.lease on 'operations/' || id = lease.operation
        where not done or lease.operation is not null";
    world.becomes(taken, "0", SOON).await;
    eprintln!("after a panic at {what}: nothing is left after {:?}", began.elapsed());
}

fn panics(world: &World) -> usize {
    world.log().matches("\"message\":\"panic\"").count()
}

/// What happens by the clock happens however fast the operation would be.
async fn panicked(world: &World, point: &str, before: usize) {
    if point == "tending" {
        eventually(Duration::from_secs(30), || (panics(world) > before).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_l14_a_panic_anywhere_in_a_backup_leaves_the_truth_and_a_free_lock() {
    let mut world = World::new().await;
    let mut made = 0;
    for point in ["accepting", "holding", "tending", "writing", "publishing", "named", "published", "ending"] {
        world.terminate().await;
        let before = panics(&world);
        world.set("HOLDFAST_FAULT", point);
        world.start().await.unwrap();
        // For longer than an operation is left alone.
        let session = world.lock_table("access exclusive").await;
        let called = world.backups().await.backup(BackupRequest::default()).await;
        assert_eq!(called.is_err(), point == "accepting", "{called:?}");
        panicked(&world, point, before).await;
        drop(session);
        lock_is_free_soon(&world, point).await;
        if let Ok(operation) = called {
            match world.backup_outcome(&operation.into_inner().name).await {
                Ok(backup) => {
                    world.verifies(&backup);
                    made += 1;
                }
                Err(error) => assert!(["INTERNAL", "INTERRUPTED"].contains(&error.reason.as_str()), "{point}: {error:?}"),
            }
        }
        assert_eq!(panics(&world), before + 1, "{point}");
        world.is_tidy().await;
        // The process that panicked goes on.
        world.backup().await;
    }
    assert!(made >= 2, "what has its name is a backup");
    assert_eq!(world.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_l14_a_panic_anywhere_in_a_restore_leaves_all_or_nothing_and_a_free_lock() {
    let mut world = World::zoo_with(BUSY, &resource("zoo", &["zoo.parent", "zoo.child"])).await;
    let backup = world.backup().await;
    let restored = world.digests();
    let mut happened = Vec::new();
    for point in ["accepting", "holding", "tending", "writing", "applying", "committing", "committed", "ending"] {
        world.terminate().await;
        let before = panics(&world);
        world.set("HOLDFAST_FAULT", point);
        world.start().await.unwrap();
        world.sql(BUSY_DAMAGE).await;
        let damaged = world.digests();
        let request = RestoreRequest { skip_safety_backup: point != "writing", ..all_of(&backup) };
        let mut session = world.platform().await;
        if point == "tending" {
            session.execute("begin; lock table zoo.parent in row exclusive mode").await.unwrap();
        }
        let called = world.backups().await.restore(request).await;
        assert_eq!(called.is_err(), point == "accepting", "{called:?}");
        panicked(&world, point, before).await;
        drop(session);
        lock_is_free_soon(&world, point).await;
        let applied = match called {
            Ok(operation) => world.outcome(&operation.into_inner().name).await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(world.digests(), if applied { &restored } else { &damaged }.as_str(), "{point}");
        if applied {
            happened.push(point);
        }
        assert_eq!(panics(&world), before + 1, "{point}");
        world.is_tidy().await;
        world.restores_to(&backup, &restored).await;
    }
    assert!(happened.contains(&"committed") && !happened.contains(&"committing"), "{happened:?}");
    assert_eq!(world.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_who_looks_after_the_dead_goes_on_after_a_panic() {
    let mut world = World::without_service().await;
    let mut dead = world.twin();
    dead.start().await.unwrap();
    let session = dead.lock_table("access exclusive").await;
    let operation = dead.begin_backup().await;
    dead.until_waiting("holdfast_backup", "%").await;
    dead.kill();
    drop(session);
    world.set("HOLDFAST_FAULT", "recovering");
    world.start().await.unwrap();
    assert_eq!(world.outcome(&operation).await.unwrap_err().reason, "INTERRUPTED");
    assert!(panics(&world) == 1 && world.log().contains("a task panicked"), "{}", world.log());
    world.is_tidy().await;
    world.backup().await;
}
