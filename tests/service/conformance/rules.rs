//! One caller after the other: what is granted, shown, refused, lost and broken.

use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::{AcquireLockRequest, ExpiryPolicy, LockLease, LockPurpose, RenewLockRequest, WatchLockRequest};
use prost::Message;
use tonic::Code;

use super::{Caller, Refused, Subject, held, refused, seconds, wanted};
use crate::update_service::{LOCK, Line, Update, Way};
use crate::world::{eventually_async, rounds};

/// A refusal names whoever is in the way.
pub fn is_in_the_way(refused: &Refused, principal: &str, request: &AcquireLockRequest) {
    let told = |name: &str| refused.metadata.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!((told("holder"), told("holderId")), (principal, request.holder_id.as_str()), "{refused:?}");
    assert_eq!((told("reason"), told("operation")), (request.reason.as_str(), request.operation.as_str()), "{refused:?}");
    let purpose = LockPurpose::try_from(request.purpose).unwrap().as_str_name();
    assert_eq!(told("purpose"), purpose.trim_start_matches("LOCK_PURPOSE_"), "{refused:?}");
    let time = |name: &str| chrono::DateTime::parse_from_rfc3339(told(name)).unwrap_or_else(|_| panic!("{name} in {refused:?}"));
    let ttl = request.ttl.map_or(60, |ttl| ttl.seconds);
    let lasts = (time("expireTime") - time("acquireTime")).num_seconds();
    assert!(lasts >= ttl || refused.reason == "LOCK_STALE", "{refused:?}");
}

pub async fn a_grant_is_shown_to_others_without_its_secret(subject: &mut Subject) {
    let (holder, other) = (subject.update_service(), subject.administrator());
    let free = other.look().await;
    assert_eq!((free.name.as_str(), free.state(), free.holder.as_ref()), (LOCK, State::Free, None));
    let request = AcquireLockRequest {
        operation: "operations/of-another-service".into(),
        ttl: seconds(900),
        request_id: "once".into(),
        ..held("update-1")
    };
    let lease = holder.acquire(request.clone()).await.unwrap();
    assert_eq!(lease.lock, LOCK);
    assert!(lease.fencing_token > free.fencing_token);
    assert_eq!((lease.ttl, lease.renew_interval), (seconds(900), seconds(300)));
    assert!(lease.lease_id.len() == 32 && lease.lease_id.bytes().all(|digit| digit.is_ascii_hexdigit()), "128 bits in hex");

    let mut seen = Vec::new();
    let lock = other.look().await;
    let shown = lock.holder.clone().unwrap();
    assert_eq!((lock.state(), lock.fencing_token), (State::Held, lease.fencing_token));
    assert_eq!((shown.principal.as_str(), shown.holder_id.as_str()), (holder.principal, "update-1"));
    assert_eq!((shown.purpose(), shown.expiry_policy()), (LockPurpose::SoftwareUpdate, ExpiryPolicy::Hold));
    assert_eq!((&shown.reason, &shown.operation), (&request.reason, &request.operation));
    assert_eq!((shown.fencing_token, shown.expire_time), (lease.fencing_token, lease.expire_time));
    let since = |time: Option<prost_types::Timestamp>| time.unwrap().seconds;
    assert_eq!(since(shown.expire_time) - since(shown.acquire_time), 900);
    seen.push(lock.encode_to_vec());
    let refusal = other.acquire(wanted("another")).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Aborted, "LOCK_HELD"));
    is_in_the_way(&refusal, holder.principal, &request);
    seen.push(refusal.bytes);
    let mut watched = other.calls.clone().watch_lock(WatchLockRequest { name: LOCK.into() }).await.unwrap().into_inner();
    seen.push(watched.message().await.unwrap().unwrap().encode_to_vec());

    // A renewal tells a new reason, and changes nothing else.
    let (name, lease_id) = (LOCK.to_owned(), lease.lease_id.clone());
    let renewal = RenewLockRequest { name, lease_id, ttl: seconds(600), reason: "Update update-1: step 3 of 7".into() };
    let renewed = holder.renew_as(renewal).await.unwrap();
    assert_eq!((&renewed.lease_id, renewed.fencing_token), (&lease.lease_id, lease.fencing_token));
    assert_eq!((renewed.ttl, renewed.renew_interval), (seconds(600), seconds(200)));
    assert_eq!(holder.renew(&lease).await.unwrap().ttl, seconds(600), "unchanged unless another is sent");
    let lock = other.look().await;
    let again = lock.holder.clone().unwrap();
    assert_eq!((again.reason.as_str(), again.acquire_time), ("Update update-1: step 3 of 7", shown.acquire_time));
    let nanos = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos)).unwrap();
    assert!(nanos(again.renew_time) > nanos(shown.renew_time), "{again:?}");
    seen.push(lock.encode_to_vec());

    let free = holder.release(&lease).await;
    assert_eq!((free.state(), free.holder.as_ref(), free.fencing_token), (State::Free, None, lease.fencing_token));
    seen.push(free.encode_to_vec());
    let next = other.acquire(wanted("another")).await.unwrap();
    assert!(next.lease_id != lease.lease_id && next.fencing_token > lease.fencing_token);
    seen.push(subject.written().await.into_bytes());
    for bytes in seen {
        assert!(!bytes.windows(32).any(|part| part == lease.lease_id.as_bytes()), "{}", String::from_utf8_lossy(&bytes));
    }
}

pub async fn l05_a_lost_answer_asked_for_again_is_the_same_lease(subject: &mut Subject) {
    let port = subject.endpoint().rsplit_once(':').unwrap().1.parse().unwrap();
    let (line, other) = (Line::to(port).await, subject.administrator());
    // Each by a connection of its own: one that broke off is noticed later than the next call is made.
    let again = || Caller::at(&line.endpoint(), subject.update_service);
    for round in 0..rounds(5, 100) {
        let caller = again();
        let before = caller.look().await;
        assert_eq!(before.state(), State::Free);
        let request = AcquireLockRequest { request_id: format!("request-{round}"), ..held("update-1") };
        line.set(Way::Mute).await;
        let (lost, asked) = (caller.clone(), request.clone());
        let lost = tokio::spawn(async move { lost.calls.clone().acquire_lock(asked).await });
        eventually_async(super::LONG, async || (other.look().await.state() == State::Held).then_some(())).await;
        line.set(Way::Open).await;
        assert!(lost.await.unwrap().is_err(), "the answer was not lost");

        let caller = again();
        let refusal = other.acquire(request.clone()).await.unwrap_err();
        assert_eq!(refusal.reason, "LOCK_HELD", "the id of a request is its caller's");
        let refusal = caller.acquire(AcquireLockRequest { request_id: "another".into(), ..request.clone() }).await.unwrap_err();
        assert_eq!(refusal.reason, "LOCK_HELD");
        for other_terms in [
            AcquireLockRequest { holder_id: "update-2".into(), ..request.clone() },
            AcquireLockRequest { purpose: LockPurpose::Maintenance.into(), ..request.clone() },
            AcquireLockRequest { expiry_policy: ExpiryPolicy::Release.into(), ..request.clone() },
        ] {
            assert_eq!(caller.acquire(other_terms).await.unwrap_err().reason, "INVALID_FIELD");
        }
        let first = caller.acquire(request.clone()).await.unwrap();
        let second = caller.acquire(AcquireLockRequest { reason: "Again".into(), ..request }).await.unwrap();
        assert_eq!(other.look().await.holder.unwrap().reason, "Again", "the newest is what people are told");
        assert_eq!((&first.lease_id, first.fencing_token), (&second.lease_id, second.fencing_token));
        assert_eq!(first.fencing_token, other.look().await.fencing_token, "one grant");
        caller.renew(&first).await.unwrap();
        assert_eq!(caller.release(&first).await.state(), State::Free);
    }
}

pub async fn l06_a_late_or_repeated_release_frees_nobody_elses_lock(subject: &mut Subject) {
    let (first, second) = (subject.update_service(), subject.administrator());
    let mut over = Vec::new();
    for ends in 0..3 {
        let lease = first.acquire(wanted("update-1")).await.unwrap();
        match ends {
            0 => assert_eq!(first.release(&lease).await.state(), State::Free),
            1 => assert_eq!(second.force_release(lease.fencing_token).await.unwrap().state(), State::Free),
            _ => subject.expire().await,
        }
        over.push(lease);
    }
    let present = second.acquire(wanted("another")).await.unwrap();
    for lease in over.iter().chain(&over) {
        let lock = first.release(lease).await;
        assert_eq!((lock.state(), lock.fencing_token), (State::Held, present.fencing_token));
        let refusal = first.renew(lease).await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Aborted, "LEASE_LOST"));
    }
    second.renew(&present).await.unwrap();
    assert_eq!(second.release(&present).await.state(), State::Free);
    assert_eq!(second.release(&present).await.state(), State::Free);
    let refusal = second.renew(&present).await.unwrap_err();
    assert_eq!(refusal.reason, "LEASE_LOST", "a lease that was given back is over");
}

/// The lease of a hold whose holder has died, and is known to be.
async fn stale(subject: &Subject, request: &AcquireLockRequest) -> LockLease {
    let (holder, other) = (subject.update_service(), subject.administrator());
    let lease = holder.acquire(request.clone()).await.unwrap();
    subject.expire().await;
    let lock = other.look().await;
    assert_eq!((lock.state(), lock.holder.unwrap().fencing_token), (State::Stale, lease.fencing_token));
    // Nobody else gets it, as often as they may ask: not another caller, not another holder of the same.
    for (caller, holder_id) in [(&other, "another"), (&other, "update-1"), (&holder, "update-2")] {
        let refusal = caller.acquire(wanted(holder_id)).await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "LOCK_STALE"));
        is_in_the_way(&refusal, holder.principal, request);
    }
    lease
}

pub async fn l08_a_hold_whose_holder_died_stays_until_it_is_taken_again(subject: &mut Subject) {
    let (holder, other) = (subject.update_service(), subject.administrator());
    let request = AcquireLockRequest { request_id: "update-1".into(), ..held("update-1") };
    let lease = stale(subject, &request).await;
    let again = holder.acquire(request).await.unwrap();
    assert!(again.fencing_token > lease.fencing_token && again.lease_id != lease.lease_id);
    let lock = other.look().await;
    assert_eq!((lock.state(), lock.fencing_token), (State::Held, again.fencing_token));
    assert_eq!(holder.renew(&lease).await.unwrap_err().reason, "LEASE_LOST");
    assert_eq!(holder.release(&lease).await.state(), State::Held);
    assert_eq!(holder.release(&again).await.state(), State::Free);
}

pub async fn l08_a_hold_whose_holder_died_stays_until_an_administrator_ends_it(subject: &mut Subject) {
    let (holder, administrator) = (subject.update_service(), subject.administrator());
    let lease = stale(subject, &held("update-1")).await;
    let free = administrator.force_release(lease.fencing_token).await.unwrap();
    assert_eq!((free.state(), free.holder), (State::Free, None));
    assert_eq!(holder.renew(&lease).await.unwrap_err().reason, "LEASE_LOST", "it was taken away");
    let next = administrator.acquire(wanted("another")).await.unwrap();
    assert!(next.fencing_token > lease.fencing_token);
    assert_eq!(holder.renew(&lease).await.unwrap_err().reason, "LEASE_LOST");
}

pub async fn a_lease_that_is_over_can_be_renewed_until_another_is_granted(subject: &mut Subject) {
    let (holder, other) = (subject.update_service(), subject.administrator());
    for (request, then) in [(wanted("update-1"), State::Free), (held("update-1"), State::Stale)] {
        let lease = holder.acquire(request).await.unwrap();
        subject.expire().await;
        let lock = other.look().await;
        assert_eq!((lock.state(), lock.holder.is_some()), (then, then == State::Stale));
        assert_eq!(holder.renew(&lease).await.unwrap().fencing_token, lease.fencing_token);
        let lock = other.look().await;
        assert_eq!((lock.state(), lock.holder.unwrap().fencing_token), (State::Held, lease.fencing_token));
        assert_eq!(other.acquire(wanted("another")).await.unwrap_err().reason, "LOCK_HELD");
        subject.expire().await;
        assert_eq!(holder.release(&lease).await.state(), State::Free, "a release succeeds when the lease is over");
    }
    let lease = holder.acquire(wanted("update-1")).await.unwrap();
    subject.expire().await;
    let next = other.acquire(wanted("another")).await.unwrap();
    assert!(next.fencing_token > lease.fencing_token);
    assert_eq!(holder.renew(&lease).await.unwrap_err().reason, "LEASE_LOST");
    other.renew(&next).await.unwrap();
}

pub async fn a_forced_release_with_the_token_of_another_removes_nobody(subject: &mut Subject) {
    let administrator = subject.administrator();
    let before = administrator.acquire(wanted("before")).await.unwrap();
    administrator.release(&before).await;
    let mismatch = |refusal: &Refused| {
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Aborted, "FENCING_TOKEN_MISMATCH"), "{refusal:?}");
    };
    mismatch(&administrator.force_release(before.fencing_token).await.unwrap_err());
    let present = subject.update_service().acquire(held("update-1")).await.unwrap();
    for token in [before.fencing_token, present.fencing_token + 1, i64::MAX] {
        mismatch(&administrator.force_release(token).await.unwrap_err());
    }
    subject.update_service().renew(&present).await.unwrap();
    administrator.force_release(present.fencing_token).await.unwrap();
    mismatch(&administrator.force_release(present.fencing_token).await.unwrap_err());
}

pub async fn tokens_grow_and_a_hold_stays_over_a_restart(subject: &mut Subject) {
    let mut newest = 0;
    for round in 0..3 {
        let request = AcquireLockRequest { request_id: "once".into(), ..held("update-1") };
        let lease = subject.update_service().acquire(request.clone()).await.unwrap();
        assert!(lease.fencing_token > newest, "{lease:?}");
        newest = lease.fencing_token;
        subject.restart().await;
        let holder = subject.update_service();
        let lock = subject.administrator().look().await;
        assert_eq!((lock.state(), lock.fencing_token), (State::Held, newest));
        assert_eq!(holder.renew(&lease).await.unwrap().lease_id, lease.lease_id);
        let again = holder.acquire(request).await.unwrap();
        assert_eq!((again.lease_id, again.fencing_token), (lease.lease_id.clone(), newest), "a lost answer, over a restart");
        match round {
            0 => drop(subject.administrator().force_release(newest).await.unwrap()),
            _ => drop(holder.release(&lease).await),
        }
        subject.restart().await;
        let lock = subject.administrator().look().await;
        assert_eq!((lock.state(), lock.fencing_token), (State::Free, newest), "known also when nobody has it");
    }
}

pub async fn an_update_dies_and_goes_on_where_it_was(subject: &mut Subject) {
    let (endpoint, administrator, its_token) = (subject.endpoint(), subject.administrator(), subject.update_service.token);
    let begin = async || Update::try_begin(&endpoint, its_token, "update-8.4.1").await.unwrap();
    let reason = async || administrator.look().await.holder.unwrap().reason;
    let update = begin().await;
    update.step("step 3 of 7").await.unwrap();
    assert_eq!(reason().await, "Update update-8.4.1: step 3 of 7");
    let token = update.fencing_token;
    update.vanish();
    let back_soon = begin().await;
    assert_eq!(back_soon.fencing_token, token, "its lease was not over yet");
    back_soon.vanish();
    subject.expire().await;
    assert_eq!(administrator.look().await.state(), State::Stale);
    let other = Update::try_begin(&endpoint, its_token, "update-9").await;
    assert_eq!(refused(other.err().unwrap()).reason, "LOCK_STALE", "another update is another holder");
    let back_late = begin().await;
    assert!(back_late.fencing_token > token);
    back_late.step("step 4 of 7").await.unwrap();
    assert_eq!(reason().await, "Update update-8.4.1: step 4 of 7");
    back_late.end().await.unwrap();
    assert_eq!(administrator.look().await.state(), State::Free);
}
