//! Processes that do not agree on who hosts the lock would not exclude each other. The database knows which one counts.

use super::super::update_service::LOCK;
use super::super::world::{World, refused};
use super::super::zoo::all_of;
use super::{A_MINUTE, At, Site};
use holdfast::grpc::proto::lock::GetLockRequest;

/// Another process, that hosts the lock itself; it is not started yet.
fn embedded(site: &Site) -> World {
    let mut twin = site.world.twin();
    for name in ["MODE", "ENDPOINT", "TOKEN_FILE"] {
        twin.unset(&format!("HOLDFAST_LOCK__{name}"));
    }
    twin
}

/// Starts a process in the other mode, up to where it waits.
async fn waits(process: &mut World, log: &str) {
    process.start_to_listen().await.unwrap();
    super::eventually_async(A_MINUTE, async || process.log().contains(log).then_some(())).await;
    assert!(!process.ready().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_hosts_the_lock_waits_for_a_restore_under_the_lock_of_another_and_ends_its_turn() {
    let site = Site::new().await;
    let digests = site.world.digests();
    let backup = site.damaged().await;
    let operation = site.begin_held_restore(&backup, At::Work).await;
    let mut embedded = embedded(&site);
    waits(&mut embedded, "not started yet").await;
    site.go_on().await;
    site.world.outcome(&operation).await.unwrap();
    assert_eq!(site.world.digests(), digests);
    embedded.becomes_ready(true).await;

    // From now on the lease of another host does not count.
    let error = site.world.backups().await.restore(all_of(&backup)).await.map_err(refused).unwrap_err();
    assert_eq!(error.reason, "LOCK_SERVICE_UNUSABLE");
    assert!(error.message.contains("HOLDFAST_LOCK__MODE"), "{}", error.message);
    site.lock_gets_free(A_MINUTE).await;
    embedded.backup().await;
    embedded.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_another_lock_waits_for_an_update_under_the_one_in_the_database() {
    let mut site = Site::new().await;
    site.world.kill();
    let mut embedded = embedded(&site);
    embedded.start().await.unwrap();
    let lease = embedded.begin_update().await;
    waits(&mut site.world, "is held by token:update-service: Update to 8.4.1").await;
    embedded.end_update(lease).await;
    site.world.becomes_ready(true).await;
    let backup = site.world.backup().await;

    let error = embedded.backups().await.restore(all_of(&backup)).await.map_err(refused).unwrap_err();
    assert_eq!(error.reason, "LOCK_SERVICE_UNUSABLE");
    let lock = embedded.locks(super::super::world::UPDATE_TOKEN).await.get_lock(GetLockRequest { name: LOCK.into() }).await;
    // It does not know who has it, and does not say that it is free.
    assert_eq!(refused(lock.unwrap_err()).reason, "NOT_SERVED");
    site.world.restore(&backup, "").await.unwrap();
    site.is_tidy().await;
}
