//! The lock service goes away while an operation runs under its lock: the work goes on for as long as its own lease lasts, and
//! not any longer.

use std::time::Duration;

use super::super::update_service::Fault;
use super::{At, SHORT, Site};

const NOT_RENEWED: &str = "the lease of the maintenance lock could not be renewed yet";
/// So long that there is time to come back between the first renewal that fails and the end.
const LONGER: (&str, &str) = ("HOLDFAST_LOCK__TTL", "20s");

async fn a_restore_outlasts_an_outage() {
    let site = Site::with(&[LONGER]).await;
    let digests = site.world.digests();
    let backup = site.damaged().await;
    let operation = site.begin_held_restore(&backup, At::Work).await;
    let token = site.lock().await.fencing_token;
    site.host.set(Fault::Dead).await;
    site.until_logged(NOT_RENEWED).await;
    site.host.set(Fault::None).await;
    site.until_renewed(1).await;
    site.go_on().await;
    site.world.outcome(&operation).await.unwrap();
    assert_eq!((site.world.digests(), site.lock().await.fencing_token), (digests, token));
    site.is_tidy().await;
}

async fn a_backup_outlasts_an_outage() {
    let site = Site::with(&[LONGER]).await;
    let table = site.world.open_transaction("lock table zoo.item in access exclusive mode").await;
    let operation = site.world.begin_backup().await;
    site.host.set(Fault::Dead).await;
    site.until_logged(NOT_RENEWED).await;
    site.host.set(Fault::None).await;
    site.until_renewed(1).await;
    sqlx::Connection::close(table).await.unwrap();
    site.world.backup_outcome(&operation).await.unwrap();
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l04_a_restore_and_a_backup_outlast_an_outage_that_is_shorter_than_their_lease() {
    tokio::join!(a_restore_outlasts_an_outage(), a_backup_outlasts_an_outage());
}

/// The lock service goes, or answers too late, and stays so until the restore has ended.
async fn a_restore_loses_its_lease(fault: Fault) {
    let site = Site::with(&[SHORT]).await;
    let backup = site.damaged().await;
    let before = site.world.digests();
    let operation = site.begin_held_restore(&backup, At::Work).await;
    site.host.set(fault).await;
    let error = site.world.outcome(&operation).await.unwrap_err();
    assert_eq!(error.reason, "LEASE_LOST", "{fault:?}: {error:?}");
    assert_eq!(site.world.digests(), before);
    site.go_on().await;
    site.host.set(Fault::None).await;
    // Given back as soon as it can be, or over.
    site.lock_gets_free(Duration::from_secs(15)).await;
    site.world.restore(&backup, "").await.unwrap();
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l04_a_restore_ends_without_a_change_when_its_lease_does_and_says_so_while_the_lock_service_is_away() {
    let [dead, black_hole, hangs] = [Fault::Dead, Fault::BlackHole, Fault::Hangs].map(a_restore_loses_its_lease);
    tokio::join!(dead, black_hole, hangs);
}

#[tokio::test(flavor = "multi_thread")]
async fn l04_a_backup_leaves_nothing_when_its_lease_ends() {
    let site = Site::with(&[SHORT]).await;
    let table = site.world.open_transaction("lock table zoo.item in access exclusive mode").await;
    let operation = site.world.begin_backup().await;
    site.host.set(Fault::Dead).await;
    let error = site.world.backup_outcome(&operation).await.unwrap_err();
    assert_eq!(error.reason, "LEASE_LOST", "{error:?}");
    sqlx::Connection::close(table).await.unwrap();
    assert!(site.world.files().is_empty() && site.world.drafts().is_empty());
    site.host.set(Fault::None).await;
    site.lock_gets_free(Duration::from_secs(15)).await;
    site.world.backup().await;
    site.is_tidy().await;
}

async fn a_restore_keeps_its_lease_with_late_answers() {
    let site = Site::with(&[SHORT]).await;
    let digests = site.world.digests();
    let backup = site.damaged().await;
    let operation = site.begin_held_restore(&backup, At::Work).await;
    site.host.set(Fault::Late(Duration::from_millis(500))).await;
    site.until_renewed(2).await;
    site.go_on().await;
    site.world.outcome(&operation).await.unwrap();
    assert_eq!(site.world.digests(), digests);
    site.host.set(Fault::None).await;
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l13_renewals_that_are_answered_late_keep_the_lock_and_later_ones_do_not() {
    // Of a lease of 10 s. The host has renewed it each time; nobody was told in time.
    let [half, twice] = [5, 20].map(|late| a_restore_loses_its_lease(Fault::Late(Duration::from_secs(late))));
    tokio::join!(a_restore_keeps_its_lease_with_late_answers(), half, twice);
}
