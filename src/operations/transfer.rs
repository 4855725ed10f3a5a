//! What a transfer may take: so many bytes, and so much time of whoever is at its other end.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Error, Holdfast, Result};

/// Bytes a second that keep a transfer alive.
const LEAST: u64 = 10_000;
/// Longest transfer. Others wait for its place.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// The patience with one transfer. It is used up by waiting for the other end only, and comes back with what is moved.
pub struct Pace {
    patience: Duration,
    left: Duration,
    end: Instant,
}

impl Pace {
    fn new(patience: Duration) -> Self {
        Self { patience, left: patience, end: Instant::now() + LONGEST }
    }

    /// Waits until the other end has sent or taken the next piece.
    ///
    /// # Errors
    /// `Error::TransferTimedOut`.
    pub async fn keep<T>(&mut self, next: impl Future<Output = T>) -> Result<T> {
        let began = Instant::now();
        if began >= self.end {
            return Err(Error::TransferTimedOut("took longer than 6 hours"));
        }
        let moved = timeout(self.left, next).await;
        self.left = self.left.saturating_sub(began.elapsed());
        moved.map_err(|_| Error::TransferTimedOut("stood still, or was slower than 10 KB/s"))
    }

    /// So many bytes were moved.
    pub fn moved(&mut self, bytes: u64) {
        let earned = Duration::from_millis(bytes.saturating_mul(1000) / LEAST);
        self.left = self.patience.min(self.left.saturating_add(earned));
    }
}

impl Holdfast {
    pub(super) fn pace(&self) -> Pace {
        Pace::new(self.0.parts.limits.patience)
    }

    /// What a caller sends first.
    ///
    /// # Errors
    /// When it does not come in time, or the service stops.
    pub async fn in_time<T>(&self, first: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            first = async { self.pace().keep(first).await } => first,
            () = self.0.stopping.cancelled() => Err(Error::Draining),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    #[tokio::test(start_paused = true)]
    async fn p06_whoever_moves_10_kb_a_second_is_waited_for_and_whoever_stands_still_is_not() {
        let mut pace = Pace::new(PATIENCE);
        for _ in 0..100 {
            // 2 MiB windows: a burst of 1 MiB.
            pace.keep(sleep(Duration::from_secs(104))).await.unwrap();
            pace.moved(1 << 20);
        }
        let began = Instant::now();
        assert!(matches!(pace.keep(pending::<()>()).await, Err(Error::TransferTimedOut(_))));
        assert!(began.elapsed() <= PATIENCE, "a gigabyte buys no more");
    }

    #[tokio::test(start_paused = true)]
    async fn p06_whoever_is_slower_is_given_up_and_so_is_who_never_ends() {
        let mut pace = Pace::new(PATIENCE);
        let slow = async {
            for _ in 0..1000 {
                pace.keep(sleep(Duration::from_secs(1))).await?;
                pace.moved(LEAST / 2);
            }
            Ok::<_, Error>(())
        };
        assert!(slow.await.is_err());
        let mut pace = Pace::new(PATIENCE);
        sleep(LONGEST).await;
        assert!(pace.keep(ready(())).await.is_err());
    }
}
