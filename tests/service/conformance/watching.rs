//! Whoever watches: the lock as it is, then every change in its order, and a sign of life in between.

use std::time::Duration;

use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::{Lock, WatchLockRequest};
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::{Caller, LONG, Subject, held, wanted};
use crate::update_service::LOCK;
use crate::world::rounds;

const HEARTBEAT: Duration = Duration::from_secs(15);
/// A change is told when it happens, not with the next sign of life.
const SOON: Duration = Duration::from_secs(10);

/// One that watches, and the last that it saw.
struct Watch {
    messages: Streaming<Lock>,
    last: Option<(State, i64)>,
}

impl Watch {
    async fn by(caller: &Caller) -> Self {
        let messages = caller.calls.clone().watch_lock(WatchLockRequest { name: LOCK.into() }).await.unwrap().into_inner();
        Self { messages, last: None }
    }

    async fn next(&mut self) -> Lock {
        let message = timeout(LONG, self.messages.message()).await.expect("a message in time").unwrap();
        message.expect("the watch goes on")
    }

    /// The next change is this; the same once more is a sign of life.
    async fn sees(&mut self, state: State, token: i64) {
        let start = Instant::now();
        loop {
            let lock = self.next().await;
            let seen = (lock.state(), lock.fencing_token);
            assert_eq!(lock.holder.as_ref().map(|holder| holder.fencing_token), state_is_taken(seen.0).then_some(seen.1));
            if self.last.replace(seen) != Some(seen) {
                assert_eq!(seen, (state, token));
                assert!(start.elapsed() < SOON, "{seen:?} after {:?}", start.elapsed());
                return;
            }
        }
    }
}

fn state_is_taken(state: State) -> bool {
    matches!(state, State::Held | State::Stale)
}

pub async fn who_watches_sees_every_change_in_its_order(subject: &mut Subject) {
    let (holder, administrator) = (subject.update_service(), subject.administrator());
    let mut watches = [Watch::by(&administrator).await, Watch::by(&holder).await];
    let before = administrator.look().await.fencing_token;
    let mut sees = async |state, token| {
        for watch in &mut watches {
            watch.sees(state, token).await;
        }
    };
    sees(State::Free, before).await;
    let lease = holder.acquire(held("update-1")).await.unwrap();
    sees(State::Held, lease.fencing_token).await;
    holder.renew(&lease).await.unwrap();
    subject.expire().await;
    sees(State::Stale, lease.fencing_token).await;
    holder.renew(&lease).await.unwrap();
    sees(State::Held, lease.fencing_token).await;
    subject.expire().await;
    sees(State::Stale, lease.fencing_token).await;
    let again = holder.acquire(held("update-1")).await.unwrap();
    sees(State::Held, again.fencing_token).await;
    administrator.force_release(again.fencing_token).await.unwrap();
    sees(State::Free, again.fencing_token).await;
    let lease = holder.acquire(wanted("update-2")).await.unwrap();
    sees(State::Held, lease.fencing_token).await;
    subject.expire().await;
    sees(State::Free, lease.fencing_token).await;
    let lease = holder.acquire(wanted("update-3")).await.unwrap();
    sees(State::Held, lease.fencing_token).await;
    holder.release(&lease).await;
    sees(State::Free, lease.fencing_token).await;
}

pub async fn who_watches_never_goes_back_in_time(subject: &mut Subject) {
    let holder = subject.update_service();
    let mut watch = Watch::by(&subject.administrator()).await;
    watch.next().await;
    let mut last = 0;
    for round in 0..rounds(20, 200) {
        let lease = holder.acquire(wanted(&format!("update-{round}"))).await.unwrap();
        holder.release(&lease).await;
        last = lease.fencing_token;
    }
    let mut seen = (0, State::Free);
    while seen != (last, State::Free) {
        let lock = watch.next().await;
        let now = (lock.fencing_token, lock.state());
        // A grant is seen before its end.
        assert!(now.0 > seen.0 || now == seen || now == (seen.0, State::Free), "{now:?} after {seen:?}");
        seen = now;
    }
}

pub async fn who_watches_hears_something_in_fifteen_seconds(subject: &mut Subject) {
    let mut watch = Watch::by(&subject.administrator()).await;
    watch.next().await;
    let start = Instant::now();
    watch.next().await;
    // The contract's time, and what a machine that is busy with other tests may add.
    assert!(start.elapsed() < HEARTBEAT * 2, "{:?}", start.elapsed());
}
