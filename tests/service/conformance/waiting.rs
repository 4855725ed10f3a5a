//! Many callers: one at a time has the lock, those who wait get it, and nobody gets it who is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use holdfast::grpc::proto::lock::AcquireLockRequest;
use holdfast::grpc::proto::lock::lock::State;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request};

use super::rules::is_in_the_way;
use super::{LONG, Subject, seconds, wanted};
use crate::world::rounds;

const CALLERS: u32 = 12;

/// What the holders themselves see.
#[derive(Default)]
struct Witness {
    inside: AtomicBool,
    newest: AtomicI64,
    grants: AtomicU32,
}

impl Witness {
    fn enter(&self, token: i64) {
        assert!(!self.inside.swap(true, Ordering::SeqCst), "two holders");
        let before = self.newest.swap(token, Ordering::SeqCst);
        assert!(token > before, "{token} after {before}");
        self.grants.fetch_add(1, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.inside.store(false, Ordering::SeqCst);
    }
}

pub async fn of_many_callers_at_once_one_at_a_time_has_the_lock(subject: &mut Subject) {
    let wanted_grants = rounds(30, 500);
    let witness = Arc::new(Witness::default());
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        let caller = if number % 2 == 0 { subject.administrator() } else { subject.update_service() };
        let witness = witness.clone();
        callers.push(tokio::spawn(async move {
            let mut refusals = 0;
            while witness.grants.load(Ordering::SeqCst) < wanted_grants {
                match caller.acquire(wanted(&format!("caller-{number}"))).await {
                    Ok(lease) => {
                        witness.enter(lease.fencing_token);
                        assert_eq!(caller.renew(&lease).await.unwrap().fencing_token, lease.fencing_token);
                        witness.leave();
                        caller.release(&lease).await;
                    }
                    Err(refusal) => {
                        assert_eq!(refusal.reason, "LOCK_HELD");
                        refusals += 1;
                    }
                }
            }
            refusals
        }));
    }
    let mut refusals = 0;
    for caller in callers {
        refusals += caller.await.unwrap();
    }
    let grants = witness.grants.load(Ordering::SeqCst);
    eprintln!("{grants} grants and {refusals} refusals for {CALLERS} callers");
    assert!(refusals > 0, "nobody met anybody");
    let lock = subject.administrator().look().await;
    assert_eq!((lock.state(), lock.fencing_token), (State::Free, witness.newest.load(Ordering::SeqCst)));
}

pub async fn every_caller_that_waits_gets_its_turn(subject: &mut Subject) {
    let first = subject.administrator();
    let lease = first.acquire(wanted("first")).await.unwrap();
    let witness = Arc::new(Witness::default());
    let mut callers = Vec::new();
    for number in 0..CALLERS / 2 {
        let (caller, witness) = (subject.update_service(), witness.clone());
        let request = AcquireLockRequest { wait_timeout: seconds(60), ..wanted(&format!("caller-{number}")) };
        callers.push(tokio::spawn(async move {
            let lease = caller.acquire(request).await.expect("its turn comes");
            witness.enter(lease.fencing_token);
            caller.renew(&lease).await.unwrap();
            witness.leave();
            caller.release(&lease).await;
        }));
    }
    first.renew(&lease).await.unwrap();
    assert!(!callers.iter().any(tokio::task::JoinHandle::is_finished));
    first.release(&lease).await;
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(witness.grants.load(Ordering::SeqCst), CALLERS / 2);
}

pub async fn a_wait_ends_and_tells_who_is_in_the_way(subject: &mut Subject) {
    let (holder, other) = (subject.update_service(), subject.administrator());
    let request = wanted("update-1");
    holder.acquire(request.clone()).await.unwrap();
    let start = Instant::now();
    let refusal = other.acquire(AcquireLockRequest { wait_timeout: seconds(1), ..wanted("another") }).await.unwrap_err();
    // It may look a last time a little before the end.
    assert!(start.elapsed() >= Duration::from_millis(500), "it did not wait");
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Aborted, "LOCK_HELD"));
    is_in_the_way(&refusal, holder.principal, &request);
}

pub async fn a_caller_that_waits_gets_the_lock_of_a_holder_that_died(subject: &mut Subject) {
    let (holder, other) = (subject.update_service(), subject.administrator());
    let lease = holder.acquire(wanted("update-1")).await.unwrap();
    let request = AcquireLockRequest { wait_timeout: seconds(60), ..wanted("another") };
    let waiting = tokio::spawn(async move { other.acquire(request).await });
    subject.expire().await;
    let next = timeout(LONG, waiting).await.expect("it waits for nobody").unwrap().unwrap();
    assert!(next.fencing_token > lease.fencing_token);
}

pub async fn a_caller_whose_deadline_ended_the_wait_is_not_granted_the_lock_later(subject: &mut Subject) {
    let (holder, other) = (subject.update_service(), subject.administrator());
    let lease = holder.acquire(wanted("update-1")).await.unwrap();
    let mut request = Request::new(AcquireLockRequest { wait_timeout: seconds(60), ..wanted("another") });
    request.set_timeout(Duration::from_millis(300));
    let ended = other.calls.clone().acquire_lock(request).await.unwrap_err();
    assert!(matches!(ended.code(), Code::Cancelled | Code::DeadlineExceeded | Code::Aborted), "{ended:?}");
    // The deadline is over on the caller's side. A longer wait that comes after it on the same connection is over when it is on
    // the other side as well.
    let after = other.acquire(AcquireLockRequest { wait_timeout: seconds(1), ..wanted("after") }).await.unwrap_err();
    assert_eq!(after.reason, "LOCK_HELD");
    assert_eq!(holder.release(&lease).await.state(), State::Free);
    // Long enough for whoever still waits to look again.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let lock = holder.look().await;
        assert_eq!((lock.state(), lock.fencing_token), (State::Free, lease.fencing_token), "granted to one who is gone");
        sleep(Duration::from_millis(20)).await;
    }
    let next = holder.acquire(wanted("update-2")).await.unwrap();
    assert!(next.fencing_token > lease.fencing_token);
}
