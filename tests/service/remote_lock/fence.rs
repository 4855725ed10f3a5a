//! A lease alone does not stop whoever slept past its end. The fence in the database does: an update of the host raises it, and
//! nothing that was granted the lock before can commit after that.

use std::time::Duration;

use super::super::update_service::Fault;
use super::super::world::eventually_async;
use super::super::zoo::{all_of, signal};
use super::{At, HELD, SHORT, Site};

const WAITS_FOR_THE_FENCE: &str =
    "exists (select from pg_stat_activity where datname = current_database() and usename = 'platform'
    and query like '%advance_fence%' and wait_event_type = 'Lock')";

async fn sleeps_past_its_lease(site: &Site, at: At) {
    let backup = site.damaged().await;
    let before = site.world.digests();
    let restored = site.world.value("select count(*) from holdfast.restore_log").await;
    let operation = site.begin_held_restore(&backup, at).await;
    let pid = site.world.pid().to_string();
    signal("-STOP", &pid);
    site.host.expire();
    let updating = async {
        let update = site.host.begin_update("update-1").await.unwrap();
        update.step("step 1 of 1").await.unwrap();
        update
    };
    let ending = async {
        // It has the lock, and must not begin: the transaction before it still could commit.
        site.world.until(WAITS_FOR_THE_FENCE).await;
        assert_eq!(site.world.terminate_sessions("holdfast_restore", HELD).await, 1);
    };
    let (update, ()) = tokio::join!(updating, ending);
    site.go_on().await;
    signal("-CONT", &pid);
    let error = site.world.outcome(&operation).await.unwrap_err();
    assert!(["LEASE_LOST", "DATABASE_UNAVAILABLE"].contains(&error.reason.as_str()), "{at:?}: {error:?}");
    assert_eq!(site.world.value("select count(*) from holdfast.restore_log").await, restored);
    assert_eq!(site.world.digests(), before);
    assert_eq!(site.lock().await.holder.unwrap().fencing_token, update.fencing_token, "it let go of a lock that is not its own");
    update.end().await.unwrap();
    site.world.restore(&backup, "").await.unwrap();
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l01_l02_an_update_waits_for_a_restore_that_sleeps_and_the_restore_cannot_commit_when_it_wakes() {
    let site = Site::with(&[SHORT]).await;
    for at in [At::Work, At::Commit] {
        sleeps_past_its_lease(&site, at).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l02_a_backup_that_sleeps_past_its_lease_publishes_nothing_after_an_update_began() {
    let site = Site::with(&[SHORT]).await;
    let table = site.world.open_transaction("lock table zoo.item in access exclusive mode").await;
    let operation = site.world.begin_backup().await;
    site.world.until_waiting("holdfast_backup", "%").await;
    let pid = site.world.pid().to_string();
    signal("-STOP", &pid);
    site.host.expire();
    let update = site.host.begin_update("update-1").await.unwrap();
    sqlx::Connection::close(table).await.unwrap();
    signal("-CONT", &pid);
    let error = site.world.backup_outcome(&operation).await.unwrap_err();
    assert_eq!(error.reason, "LEASE_LOST", "{error:?}");
    assert!(site.world.files().is_empty() && site.world.drafts().is_empty());
    assert_eq!(site.lock().await.holder.unwrap().fencing_token, update.fencing_token);
    update.end().await.unwrap();
    site.world.backup().await;
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l11_a_restore_with_an_old_token_is_refused_by_the_database_alone() {
    let site = Site::new().await;
    let digests = site.world.digests();
    let backup = site.damaged().await;
    let newest = site.lock().await.fencing_token;
    // An update of a host that this one knows nothing of.
    for known in [newest + 1, newest + 5] {
        site.world.sql_as_superuser(&format!("update holdfast.fence set max_token = {known}")).await;
        let granted = site.lock().await.fencing_token;
        assert!(granted < known);
        site.world.restore_fails(all_of(&backup), "LOCK_SERVICE_UNUSABLE").await;
        site.lock_gets_free(Duration::from_secs(5)).await;
    }
    eventually_async(super::A_MINUTE, async || site.world.restore(&backup, "").await.ok()).await;
    assert_eq!(site.world.digests(), digests);
    assert!(site.lock().await.fencing_token > newest + 5);
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l11_a_restore_of_a_forgetful_host_is_not_overtaken_by_its_update() {
    let site = Site::new().await;
    let digests = site.world.digests();
    let backup = site.damaged().await;
    let operation = site.begin_held_restore(&backup, At::Work).await;
    site.host.set(Fault::LosesState).await;
    // The host believes that the lock is free, and counts from the beginning.
    let refused = site.host.begin_update("update-1").await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
    site.go_on().await;
    let outcome = site.world.outcome(&operation).await;
    let restored = site.world.digests() == digests;
    assert_eq!(outcome.is_ok(), restored, "{outcome:?}");
    site.is_tidy().await;
}
