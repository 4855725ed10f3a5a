//! The maintenance lock, hosted on the database: for this service and, by calls, for those it must not overlap with.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::call::Caller;
use super::recovery::discard_draft;
use super::{Holdfast, SealKey};
use crate::folder::Folder;
use crate::lock::{Error, Locks};
use crate::model::lock::{Holder, Lease, LeaseId, Lock, Purpose, Terms};
use crate::postgres;
use crate::postgres::state::{Asked, State};

type Result<T> = std::result::Result<T, Error>;

/// How often those who wait for the lock, or for a change of it, look at it.
const POLL: Duration = Duration::from_millis(250);

/// The lock on the database. Cheap to clone.
#[derive(Clone)]
pub struct Hosted {
    state: State,
    folder: Folder,
    seal_key: SealKey,
}

/// Without the database nobody is granted anything.
fn unavailable(error: postgres::Error) -> Error {
    Error::Unavailable(error.into())
}

/// The same, of one who asks for the lock: whoever has its row is on the way out.
fn draining(error: postgres::Error) -> Error {
    match error {
        postgres::Error::Locked(_) => Error::Draining,
        error => unavailable(error),
    }
}

impl Hosted {
    pub fn new(state: State, folder: Folder, seal_key: SealKey) -> Self {
        Self { state, folder, seal_key }
    }

    async fn acquire(&self, terms: &Terms, caller: &Caller) -> Result<Lease> {
        match self.state.ask_for_lock(terms).await.map_err(draining)? {
            Asked::Taken(holder) => Err(Error::Held(Box::new(holder))),
            Asked::Awaited(update) => Err(Error::Awaited(Box::new(update))),
            Asked::Draining => Err(Error::Draining),
            Asked::Reused => Err(Error::RequestIdReused),
            Asked::Elsewhere => Err(Error::Elsewhere),
            Asked::Known { fencing_token, sealed_id, expire_time } => {
                let id = match self.seal_key.open_lease_id(&sealed_id) {
                    Ok(id) => id,
                    // Sealed under another key.
                    Err(_) => {
                        let (id, sealed_id) = self.new_id()?;
                        self.state.replace_lease_id(fencing_token, &id, &sealed_id).await.map_err(unavailable)?;
                        id
                    }
                };
                Ok(Lease { id, fencing_token, ttl: terms.ttl, expire_time })
            }
            Asked::Free(grant) => {
                // A holder that only seemed dead has nothing left that it could publish when it wakes. The fence stops it in any
                // case, so a volume that does not work keeps nobody from the lock.
                let work = grant.evicted.as_deref().and_then(|operation| operation.strip_prefix("operations/")?.parse().ok());
                if let Some(operation) = work {
                    discard_draft(&self.folder, operation).await;
                }
                let (id, sealed_id) = self.new_id()?;
                grant.take(terms, id, &sealed_id, caller).await.map_err(unavailable)
            }
        }
    }

    fn new_id(&self) -> Result<(LeaseId, Vec<u8>)> {
        let no_random = || Error::Unavailable("the system has no random numbers".into());
        let id = LeaseId::random().ok_or_else(no_random)?;
        let sealed_id = self.seal_key.seal_lease_id(&id).map_err(|error| Error::Unavailable(error.into()))?;
        Ok((id, sealed_id))
    }

    async fn look(&self) -> Result<Lock> {
        self.state.look_at_lock().await.map_err(unavailable)?.ok_or(Error::Elsewhere)
    }
}

/// As its own client.
impl Locks for Hosted {
    fn acquire(&self, terms: Terms) -> BoxFuture<'static, Result<Lease>> {
        let hosted = self.clone();
        async move { Self::acquire(&hosted, &terms, &Caller::internal("holdfast")).await }.boxed()
    }

    fn renew(&self, lease: Lease) -> BoxFuture<'static, Result<()>> {
        let hosted = self.clone();
        async move {
            let caller = Caller::internal("holdfast");
            let renewed = hosted.state.renew_lease(&lease.id, Some(lease.ttl), None, &caller).await.map_err(unavailable)?;
            renewed.map(|_| ()).ok_or(Error::Lost)
        }
        .boxed()
    }

    fn release(&self, lease: Lease) -> BoxFuture<'static, Result<()>> {
        let hosted = self.clone();
        async move { hosted.state.release_lease(&lease.id, &Caller::internal("holdfast")).await.map_err(unavailable) }.boxed()
    }

    fn forget(&self, terms: Terms) -> BoxFuture<'static, Result<()>> {
        let hosted = self.clone();
        async move { hosted.state.end_lease_of(&terms.operation, &Caller::internal("holdfast")).await.map_err(unavailable) }
            .boxed()
    }

    fn look(&self) -> BoxFuture<'static, Result<Lock>> {
        let hosted = self.clone();
        async move { Self::look(&hosted).await }.boxed()
    }
}

/// What other services may ask of the lock.
impl Holdfast {
    fn hosted(&self) -> Result<&Hosted> {
        self.0.parts.hosted.as_ref().ok_or(Error::Elsewhere)
    }

    /// Takes the lock, waiting for it no longer than `wait`. A software update that waits comes before the next backup.
    pub async fn acquire_lock(&self, caller: &Caller, terms: Terms, wait: Duration) -> Result<Lease> {
        let hosted = self.hosted()?;
        let (end, mut place) = (Instant::now() + wait, None);
        loop {
            let refused = match hosted.acquire(&terms, caller).await {
                Err(error @ (Error::Held(_) | Error::Awaited(_) | Error::Draining)) => error,
                answer => return answer,
            };
            // Who waits takes a place among all calls; those beyond are refused at once.
            if place.is_none() {
                place = self.0.waiters.try_acquire().ok();
            }
            if place.is_none() || !self.until_worth_asking(hosted, &terms, &refused, end).await? {
                return Err(refused);
            }
        }
    }

    /// Waits until something has changed since a refusal, or it is time to ask for the last time. False: it was.
    async fn until_worth_asking(&self, hosted: &Hosted, terms: &Terms, refused: &Error, end: Instant) -> Result<bool> {
        let in_the_way = if let Error::Held(holder) = refused { Some(holder) } else { None };
        let too_late = || Instant::now() + POLL > end || self.0.stopping.is_cancelled();
        if in_the_way.is_some_and(|holder| holder.stale) || too_late() {
            return Ok(false);
        }
        for poll in 0.. {
            // Good for three seconds.
            if terms.purpose == Purpose::SoftwareUpdate && poll % 4 == 0 {
                hosted.state.note_waiting(terms).await.map_err(unavailable)?;
            }
            sleep(POLL).await;
            // Who only looks is in nobody's way.
            let same = hosted.look().await?.holder.filter(|holder| !holder.stale).map(|holder| holder.fencing_token);
            if same.is_none() || same != in_the_way.map(|holder| holder.fencing_token) || too_late() {
                break;
            }
        }
        Ok(true)
    }

    /// Extends a lease, by the time it was granted for unless another is named.
    pub async fn renew_lock(&self, caller: &Caller, id: &LeaseId, ttl: Option<Duration>, reason: Option<&str>) -> Result<Lease> {
        self.hosted()?.state.renew_lease(id, ttl, reason, caller).await.map_err(unavailable)?.ok_or(Error::Lost)
    }

    pub async fn release_lock(&self, caller: &Caller, id: &LeaseId) -> Result<Lock> {
        let hosted = self.hosted()?;
        hosted.state.release_lease(id, caller).await.map_err(unavailable)?;
        hosted.look().await
    }

    /// Takes the lock away from a holder that is gone.
    pub async fn force_release_lock(&self, caller: &Caller, fencing_token: i64, reason: &str) -> Result<Lock> {
        let hosted = self.hosted()?;
        if !hosted.state.revoke_lease(fencing_token, caller, reason).await.map_err(unavailable)? {
            return Err(Error::TokenMismatch);
        }
        tracing::warn!(
            fencing_token,
            principal = caller.principal(),
            reason,
            "the maintenance lock was taken away from its holder"
        );
        hosted.look().await
    }

    /// Wherever it is hosted. Whoever looks is not in the way of renewals.
    pub async fn get_lock(&self) -> Result<Lock> {
        match &self.0.parts.hosted {
            Some(hosted) => hosted.look().await,
            None => self.0.parts.locks.look().await,
        }
    }

    /// Waits until the lock differs from `seen`, renewals left out, or `limit` is over; returns it as it is then.
    pub async fn wait_for_lock_change(&self, seen: &Lock, limit: Duration) -> Result<Lock> {
        let end = Instant::now() + limit;
        loop {
            let lock = self.get_lock().await?;
            if lock.differs(seen) || Instant::now() + POLL > end {
                return Ok(lock);
            }
            sleep(POLL).await;
        }
    }

    /// Tells of a holder that does not renew the lock any more.
    pub(super) async fn tell_end_of_lease(&self) -> super::Result<()> {
        let Ok(hosted) = self.hosted() else { return Ok(()) };
        if let Some(Holder { principal, reason, .. }) = hosted.state.tell_end().await? {
            tracing::error!(
                principal,
                reason,
                "the holder of the maintenance lock does not renew it any more, and keeps it: somebody must look"
            );
        }
        Ok(())
    }
}
