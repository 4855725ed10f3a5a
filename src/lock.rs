//! The maintenance lock as its holder sees it: a lease with an end, kept alive while the work lasts.
//!
//! Two implementations of [`Locks`] host it: this service on its database, or another service that is called. The holder
//! counts from before it asked, on a clock that does not step; so it always gives up before the lock is given to somebody
//! else. What a paused holder does after that is stopped by the fence in the database.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::model::lock::{Holder, Lease, Lock, Terms};

/// The holder stops this long before its lease is over.
const MARGIN: Duration = Duration::from_secs(5);
/// A renewal that failed is tried again after this long, or sooner when the lease is short.
const RETRY: Duration = Duration::from_secs(2);
/// Longest time a call may take; one that hangs is made again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the lock service did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} holds the maintenance lock: {}", .0.principal, .0.reason)]
    Held(Box<Holder>),
    /// Nobody has it; a software update that waits for it comes first.
    #[error("{} waits for the maintenance lock: {}", .0.principal, .0.reason)]
    Awaited(Box<Holder>),
    /// The lease of the holder before is over; its last transaction is not.
    #[error("the last transaction of the holder before is still being ended")]
    Draining,
    /// The lease is over and somebody else was granted the lock, or it was taken away, or will be over before it can be
    /// renewed.
    #[error("the maintenance lock was lost")]
    Lost,
    #[error("no present holder of the lock has this fencing token")]
    TokenMismatch,
    #[error("the lock service does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The caller holds the lock already, under this `request_id` and other terms.
    #[error("the request_id belongs to another request for the lock")]
    RequestIdReused,
    #[error("another service hosts the maintenance lock")]
    Elsewhere,
    /// To ask again changes nothing: what it answers is not in the contract, or it refuses this service.
    #[error("the lock service cannot be used: {0}")]
    Unusable(String),
}

/// A host of the lock. No call waits for the lock.
pub trait Locks: Send + Sync {
    /// # Errors
    /// `Error::Held`, `Error::Awaited`, `Error::Draining`.
    fn acquire(&self, terms: Terms) -> BoxFuture<'static, Result<Lease, Error>>;

    /// Extends a lease by its ttl from now.
    ///
    /// # Errors
    /// `Error::Lost`.
    fn renew(&self, lease: Lease) -> BoxFuture<'static, Result<(), Error>>;

    /// Gives the lock back. A lease that is over already is no error.
    fn release(&self, lease: Lease) -> BoxFuture<'static, Result<(), Error>>;

    /// Ends whatever was granted under these terms, if it was: the answer may have been lost, or died with who got it.
    fn forget(&self, terms: Terms) -> BoxFuture<'static, Result<(), Error>>;

    fn look(&self) -> BoxFuture<'static, Result<Lock, Error>>;
}

/// A lease, and when it was asked for.
#[derive(Debug, Clone)]
pub struct Held {
    pub lease: Lease,
    asked: Instant,
}

/// Calls the host of the lock, from a runtime that does nothing else: no work of this process delays a renewal.
#[derive(Clone)]
pub struct Keeper {
    locks: Arc<dyn Locks>,
    runtime: Handle,
    ttl: Duration,
}

impl Keeper {
    /// `locks` must have been made in `runtime`, where its connections live.
    pub fn new(locks: Arc<dyn Locks>, runtime: Handle, ttl: Duration) -> Self {
        Self { locks, runtime, ttl }
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub async fn acquire(&self, terms: Terms) -> Result<Held, Error> {
        let asked = Instant::now();
        let lease = self.call(self.locks.acquire(terms)).await?;
        Ok(Held { lease, asked })
    }

    /// Keeps a lease alive. Ends only when it is lost; dropped, it is kept no longer.
    pub async fn keep(&self, held: &Held) -> Error {
        let (locks, Held { lease, asked }) = (self.locks.clone(), held.clone());
        let keeping = async move { keep(lease.ttl, asked, || locks.renew(lease.clone())).await };
        AbortOnDropHandle::new(self.runtime.spawn(keeping.in_current_span())).await.unwrap_or(Error::Lost)
    }

    pub async fn release(&self, held: &Held) -> Result<(), Error> {
        self.call(self.locks.release(held.lease.clone())).await
    }

    pub async fn forget(&self, terms: Terms) -> Result<(), Error> {
        // Three calls in a row, each with a limit of its own.
        self.call_within(3 * PATIENCE, self.locks.forget(terms)).await
    }

    pub async fn look(&self) -> Result<Lock, Error> {
        self.call(self.locks.look()).await
    }

    async fn call<T: Send + 'static>(&self, call: BoxFuture<'static, Result<T, Error>>) -> Result<T, Error> {
        self.call_within(PATIENCE, call).await
    }

    async fn call_within<T: Send + 'static>(
        &self,
        limit: Duration,
        call: BoxFuture<'static, Result<T, Error>>,
    ) -> Result<T, Error> {
        let call = self.runtime.spawn(timeout(limit, call).in_current_span());
        match AbortOnDropHandle::new(call).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(late)) => Err(Error::Unavailable(late.into())),
            Err(broken) => Err(Error::Unavailable(broken.into())),
        }
    }
}

/// Renews a lease that was asked for at `asked` every third of `ttl`; a renewal that fails is tried again and again.
/// Returns only when the lease is lost.
async fn keep<Answer>(ttl: Duration, asked: Instant, mut renew: impl FnMut() -> Answer) -> Error
where
    Answer: Future<Output = Result<(), Error>>,
{
    // A lease that is hardly longer than the margin still leaves time to work.
    let usable = ttl.saturating_sub(MARGIN).max(ttl / 2);
    let retry = RETRY.min(ttl / 15);
    let mut end = asked + usable;
    let mut next = asked + ttl / 3;
    loop {
        sleep_until(next.min(end)).await;
        let asked = Instant::now();
        if asked >= end {
            return Error::Lost;
        }
        let answer = tokio::select! {
            answer = timeout(PATIENCE, renew()) => answer,
            () = sleep_until(end) => return Error::Lost,
        };
        // An answer that comes after the end is no answer: this process may have been paused.
        let failed = match answer {
            _ if Instant::now() >= end => return Error::Lost,
            Ok(Ok(())) => {
                (end, next) = (asked + usable, asked + ttl / 3);
                continue;
            }
            Ok(Err(Error::Lost)) => return Error::Lost,
            Ok(Err(error)) => error,
            Err(late) => Error::Unavailable(late.into()),
        };
        tracing::warn!(error = &failed as &dyn std::error::Error, "the lease of the maintenance lock could not be renewed yet");
        next = Instant::now() + retry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    const A_MOMENT: Duration = Duration::from_millis(10);

    async fn lost<Answer: Future<Output = Result<(), Error>>>(renew: impl FnMut() -> Answer) -> Duration {
        let asked = Instant::now();
        assert!(matches!(keep(TTL, asked, renew).await, Error::Lost));
        asked.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_renewed_is_not_lost() {
        let kept = keep(TTL, Instant::now(), || async { Ok(()) });
        assert!(timeout(Duration::from_secs(3600), kept).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn l04_l16_a_lock_service_that_does_not_answer_ends_the_work_before_the_lease_is_over() {
        assert!(lost(|| async { Err(Error::Unavailable("gone".into())) }).await <= TTL - MARGIN + A_MOMENT);
        assert!(lost(std::future::pending::<Result<(), Error>>).await <= TTL - MARGIN + A_MOMENT);
        // What it answers is not to be understood: no reason to go on for longer.
        assert!(lost(|| async { Err(Error::Unusable("?".into())) }).await <= TTL - MARGIN + A_MOMENT);
    }

    #[tokio::test(start_paused = true)]
    async fn l16_a_call_that_hangs_is_made_again_in_time() {
        let mut calls = 0;
        let kept = keep(TTL, Instant::now(), || {
            calls += 1;
            let hangs = calls % 2 == 1;
            async move { if hangs { std::future::pending().await } else { Ok(()) } }
        });
        assert!(timeout(Duration::from_secs(3600), kept).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn l04_a_short_lease_outlasts_a_short_outage_too() {
        let short = Duration::from_secs(10);
        let mut calls = 0;
        let kept = keep(short, Instant::now(), || {
            calls += 1;
            let fails = calls % 3 != 0;
            async move { if fails { Err(Error::Unavailable("gone".into())) } else { Ok(()) } }
        });
        assert!(timeout(Duration::from_secs(3600), kept).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_another_was_granted_is_lost_at_once() {
        assert!(lost(|| async { Err(Error::Lost) }).await <= TTL / 3 + A_MOMENT);
    }

    #[tokio::test(start_paused = true)]
    async fn l13_an_answer_that_comes_after_the_end_is_no_answer() {
        // The process is paused while the answer is on its way.
        let elapsed = lost(|| async {
            tokio::time::advance(TTL * 2).await;
            Ok(())
        });
        assert!(elapsed.await >= TTL * 2);
    }
}
