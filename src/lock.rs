//! The maintenance lock as its holder sees it: a lease with an end, kept alive while the work lasts.
//!
//! The holder counts from before it asked, on a clock that does not step; so it always gives up before the lock service
//! gives the lock to somebody else. What a paused holder does after that is stopped by the fence in the database.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Length of a lease. A holder that dies blocks others for no longer.
pub const TTL: Duration = Duration::from_secs(30);
/// The holder stops this long before its lease is over.
const MARGIN: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(2);

/// The lease is over, or will be before it can be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the maintenance lock was lost")]
pub struct Lost;

/// Renews a lease that was asked for at `asked` every third of `ttl`; a renewal that fails is tried again every two
/// seconds. Returns only when the lease is lost. `renew` answers false when somebody else was granted the lock.
pub async fn keep<F, Answer, Error>(ttl: Duration, asked: Instant, mut renew: F) -> Lost
where
    F: FnMut() -> Answer,
    Answer: Future<Output = Result<bool, Error>>,
{
    let mut end = asked + ttl - MARGIN;
    let mut next = asked + ttl / 3;
    loop {
        sleep_until(next.min(end)).await;
        if Instant::now() >= end {
            return Lost;
        }
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = renew() => answer,
            () = sleep_until(end) => return Lost,
        };
        match answer {
            Ok(true) => {
                end = asked + ttl - MARGIN;
                next = asked + ttl / 3;
            }
            Ok(false) => return Lost,
            Err(_) => next = Instant::now() + RETRY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_renewed_is_not_lost() {
        let kept = keep(TTL, Instant::now(), || async { Ok::<_, ()>(true) });
        assert!(tokio::time::timeout(Duration::from_secs(3600), kept).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn l04_a_lock_service_that_does_not_answer_ends_the_work_before_the_lease_is_over() {
        let asked = Instant::now();
        assert_eq!(keep(TTL, asked, || async { Err(()) }).await, Lost);
        assert!(asked.elapsed() <= TTL - MARGIN + Duration::from_millis(10), "{:?}", asked.elapsed());
        let asked = Instant::now();
        assert_eq!(keep(TTL, asked, std::future::pending::<Result<bool, ()>>).await, Lost);
        assert!(asked.elapsed() <= TTL - MARGIN + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_another_was_granted_is_lost_at_once() {
        let asked = Instant::now();
        assert_eq!(keep(TTL, asked, || async { Ok::<_, ()>(false) }).await, Lost);
        assert!(asked.elapsed() <= TTL / 3 + Duration::from_millis(10));
    }
}
