//! The reference itself: every fault is what its name says, an update does what it must, and the host's calendar means nothing.

use std::time::Duration;

use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::lock_service_client::LockServiceClient;
use holdfast::grpc::proto::lock::{AcquireLockRequest, GetLockRequest, Lock, LockLease, LockPurpose};
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::{ADMINISTRATOR, Fault, HOLDFAST, Host, LOCK, Stop, UPDATE_SERVICE, Update};
use crate::world::{Bearer, Calls, World};

/// For a call that is never answered: only that it is not may be told from it.
const A_MOMENT: Duration = Duration::from_millis(300);
const DAY: i64 = 24 * 3600;

fn calls(host: &Host) -> LockServiceClient<Calls> {
    let channel = Endpoint::from_shared(host.endpoint()).unwrap().connect_lazy();
    LockServiceClient::new(InterceptedService::new(channel, Bearer::of(HOLDFAST.token)))
}

async fn look(host: &Host) -> Result<Lock, Status> {
    Ok(calls(host).get_lock(GetLockRequest { name: LOCK.into() }).await?.into_inner())
}

async fn acquire(host: &Host, request_id: &str) -> Result<LockLease, Status> {
    let request = AcquireLockRequest {
        name: LOCK.into(),
        holder_id: "holdfast-0".into(),
        purpose: LockPurpose::Backup.into(),
        reason: "Backup".into(),
        request_id: request_id.into(),
        ..Default::default()
    };
    Ok(calls(host).acquire_lock(request).await?.into_inner())
}

#[tokio::test]
async fn every_fault_is_what_its_name_says_and_is_over_when_the_host_behaves_again() {
    let host = Host::start().await;
    for fault in [Fault::Dead, Fault::NotHttp2] {
        host.set(fault).await;
        assert!(look(&host).await.is_err() && acquire(&host, "").await.is_err(), "{fault:?}");
        host.set(Fault::None).await;
        assert_eq!(look(&host).await.unwrap().state(), State::Free, "{fault:?}");
    }
    for (fault, code) in [
        (Fault::NotGrpc, Code::Internal),
        (Fault::WrongTypes, Code::Internal),
        (Fault::Huge, Code::OutOfRange),
        (Fault::PermissionDenied, Code::PermissionDenied),
        (Fault::Unimplemented, Code::Unimplemented),
    ] {
        host.set(fault).await;
        assert_eq!(look(&host).await.unwrap_err().code(), code, "{fault:?}");
        assert_eq!(acquire(&host, "").await.unwrap_err().code(), code, "{fault:?}");
        host.set(Fault::None).await;
        assert_eq!(look(&host).await.unwrap().state(), State::Free, "{fault:?}");
    }
    host.set(Fault::Nonsense).await;
    assert_eq!(look(&host).await.unwrap().state, 99);
    assert_eq!(acquire(&host, "").await.unwrap().fencing_token, -1);
    for fault in [Fault::Hangs, Fault::BlackHole] {
        host.set(fault).await;
        assert!(timeout(A_MOMENT, look(&host)).await.is_err(), "{fault:?}");
    }
    host.set(Fault::Late(A_MOMENT)).await;
    let asked = tokio::time::Instant::now();
    look(&host).await.unwrap();
    assert!(asked.elapsed() >= A_MOMENT);
    host.set(Fault::None).await;
    assert_eq!(look(&host).await.unwrap().fencing_token, 0);
}

#[tokio::test]
async fn l05_a_lost_answer_is_lost_after_the_lock_was_taken() {
    let host = Host::start().await;
    host.set(Fault::LosesAnswer).await;
    assert!(acquire(&host, "once").await.is_err());
    assert_eq!(look(&host).await.unwrap().state(), State::Held);
    assert_eq!(acquire(&host, "once").await.unwrap().fencing_token, 1);
    host.expire();
    host.set(Fault::LosesAnswer).await;
    let update = Update::try_begin(&host.endpoint(), UPDATE_SERVICE.token, "update-1").await.unwrap();
    assert_eq!((update.fencing_token, look(&host).await.unwrap().fencing_token), (2, 2), "it asked again for the same");
    update.step("step 1 of 1").await.unwrap();
}

#[tokio::test]
async fn l11_a_host_that_lost_its_state_gives_the_lock_away_with_an_old_token() {
    let host = Host::start().await;
    let update = Update::begin(&host.endpoint(), UPDATE_SERVICE.token, "update-1").await.unwrap();
    host.set(Fault::LosesState).await;
    assert_eq!(acquire(&host, "").await.unwrap().fencing_token, update.fencing_token);
}

#[tokio::test]
async fn an_update_takes_the_lock_tells_its_steps_and_gives_it_back() {
    let host = Host::start().await;
    let update = Update::begin(&host.endpoint(), UPDATE_SERVICE.token, "update-1").await.unwrap();
    update.step("step 3 of 7").await.unwrap();
    let holder = look(&host).await.unwrap().holder.unwrap();
    assert_eq!((holder.reason.as_str(), holder.holder_id.as_str()), ("Update update-1: step 3 of 7", "update-1"));
    update.end().await.unwrap();
    assert_eq!(look(&host).await.unwrap().state(), State::Free);
}

#[tokio::test]
async fn an_update_goes_on_without_the_lock_service_while_its_lease_lasts_and_not_a_step_longer() {
    let host = Host::start().await;
    let update = Update::begin(&host.endpoint(), UPDATE_SERVICE.token, "update-1").await.unwrap();
    host.set(Fault::Dead).await;
    update.step("step 1 of 2").await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(15 * 60)).await;
    assert!(matches!(update.step("step 2 of 2").await, Err(Stop::OutOfTime)));
    tokio::time::resume();
    host.set(Fault::None).await;
    update.step("step 2 of 2").await.unwrap();
}

#[tokio::test]
async fn an_update_stops_when_an_administrator_took_its_lock_away() {
    let host = Host::start().await;
    let update = Update::begin(&host.endpoint(), UPDATE_SERVICE.token, "update-1").await.unwrap();
    let channel = Endpoint::from_shared(host.endpoint()).unwrap().connect_lazy();
    let mut administrator = LockServiceClient::new(InterceptedService::new(channel, Bearer::of(ADMINISTRATOR.token)));
    let (name, reason, fencing_token) = (LOCK.into(), "Its machine is gone".into(), update.fencing_token);
    let request = holdfast::grpc::proto::lock::ForceReleaseLockRequest { name, fencing_token, reason };
    administrator.force_release_lock(request).await.unwrap();
    let stop = update.step("step 2 of 2").await;
    assert!(matches!(&stop, Err(Stop::LeaseLost(status)) if status.code() == Code::Aborted), "{stop:?}");
    update.end().await.unwrap();
}

#[tokio::test]
async fn l10_a_calendar_that_is_wrong_by_a_day_changes_no_lease() {
    for wrong_by in [-DAY, DAY] {
        let host = Host::start().await;
        let lease = acquire(&host, "").await.unwrap();
        let shown = |lease: &LockLease| lease.expire_time.unwrap().seconds;
        host.set_calendar(wrong_by);
        let lock = look(&host).await.unwrap();
        assert_eq!(lock.state(), State::Held);
        let holder = lock.holder.unwrap();
        assert_eq!(holder.expire_time.unwrap().seconds, shown(&lease) + wrong_by);
        assert_eq!(acquire(&host, "").await.unwrap_err().code(), Code::Aborted);
        let update = Update::try_begin(&host.endpoint(), UPDATE_SERVICE.token, "update-1").await;
        assert_eq!(update.err().unwrap().code(), Code::Aborted);
        host.expire();
        let update = Update::try_begin(&host.endpoint(), UPDATE_SERVICE.token, "update-1").await.unwrap();
        update.step("step 1 of 1").await.unwrap();
    }
}

#[tokio::test]
async fn l11_an_update_of_the_host_begins_only_when_the_database_has_seen_no_newer_token() {
    let world = World::new().await;
    world
        .sql_as_superuser(
            "grant usage on schema holdfast to platform; grant execute on function holdfast.advance_fence to platform;
             select holdfast.advance_fence(5)",
        )
        .await;
    let host = Host::with_database(&world.url("platform")).await;
    for token in 1..5 {
        assert!(host.begin_update("update-1").await.is_err(), "{token}");
        let lock = look(&host).await.unwrap();
        assert_eq!((lock.state(), lock.fencing_token), (State::Free, token), "a refused update keeps nothing");
    }
    // The database knows 5, and its holder may say so as often as it likes.
    for token in 5..8 {
        let update = host.begin_update("update-1").await.unwrap();
        assert_eq!(update.fencing_token, token);
        assert_eq!(world.value("select max_token from holdfast.fence").await, token.to_string());
        update.end().await.unwrap();
    }
}
