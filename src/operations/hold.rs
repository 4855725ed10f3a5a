//! Holding the maintenance lock for an operation: asking for it, waiting for it, keeping it, giving it back.
//!
//! An operation asks with its own id, so whoever asks again for it - after a lost answer, or after its owner died - gets
//! the lease that was granted, and can give it back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::works::Work;
use super::{Error, Holdfast, Result};
use crate::lock::{self, Held};
use crate::model::backup::Trigger;
use crate::model::lock::{ExpiryPolicy, HOLDFAST, Lock, Purpose, Terms};
use crate::model::operation::{Kind, Operation, Phase};
use crate::postgres::{self, Advance};

/// Longest reason that a lock service takes.
const MAX_REASON: usize = 256;

impl Holdfast {
    /// `None`: this kind of operation needs no lock.
    fn terms(&self, operation: &Operation) -> Option<Terms> {
        let by = &operation.caller;
        let (purpose, reason) = match (operation.kind, operation.trigger) {
            (Kind::Preview | Kind::Verify, _) => return None,
            (Kind::Rehearsal, _) => (Purpose::Restore, format!("Rehearsal of a restore, started by {by}")),
            (Kind::Restore, _) => (Purpose::Restore, format!("Restore, started by {by}")),
            (Kind::Backup, Some(Trigger::Scheduled)) => (Purpose::Backup, format!("Scheduled backup, started by {by}")),
            (Kind::Backup, _) => (Purpose::Backup, format!("Backup, started by {by}")),
        };
        Some(Terms {
            principal: HOLDFAST.to_owned(),
            holder_id: self.0.holder_id.clone(),
            purpose,
            reason: reason.chars().take(MAX_REASON).collect(),
            operation: format!("operations/{}", operation.id),
            ttl: self.0.parts.locks.ttl(),
            expiry_policy: ExpiryPolicy::Release,
            request_id: operation.id.to_string(),
        })
    }

    /// Takes the lock for an operation, or is refused at once.
    pub(super) async fn hold(&self, operation: &Operation) -> Result<Option<Held>> {
        let held = self.ask_for_lock(operation).await;
        // What was granted without our knowing would be in the way until its lease is over.
        if let Err(error) = &held
            && !matches!(
                error,
                Error::Lock(lock::Error::Held(_) | lock::Error::Awaited(_) | lock::Error::Draining)
                    | Error::Database(postgres::Error::Updating)
            )
        {
            self.0.tasks.spawn(self.clone().let_go_later(operation.clone()));
        }
        held
    }

    async fn ask_for_lock(&self, operation: &Operation) -> Result<Option<Held>> {
        let Some(terms) = self.terms(operation) else { return Ok(None) };
        // Who has the lock is told before who works without it.
        if let Err(migration) = self.no_migration().await
            && self.get_lock().await?.holder.is_none()
        {
            return Err(migration);
        }
        let locks = &self.0.parts.locks;
        let name = terms.operation.clone();
        let held = locks.acquire(terms).await?;
        if self.0.parts.hosted.is_none()
            && let Err(error) = self.announce(&held, &name).await
        {
            self.release(&held).await;
            return Err(error);
        }
        Ok(Some(held))
    }

    /// Gives back a lease under which nothing was begun.
    pub(super) async fn release(&self, held: &Held) {
        if let Err(error) = self.0.parts.locks.release(held).await {
            tracing::warn!(%error, "the maintenance lock could not be released; it is free when its lease is over");
        }
    }

    /// Tells the database of a lease that another service granted.
    async fn announce(&self, held: &Held, operation: &str) -> Result<()> {
        match self.0.parts.state.advance_fence(held.lease.fencing_token, operation).await {
            Ok(Advance::Done) => Ok(()),
            Ok(Advance::Outdated) => {
                let problem = "it granted a fencing token that is not greater than those before; it may have lost its state";
                Err(lock::Error::Unusable(problem.into()).into())
            }
            Ok(Advance::NotInForce) => Err(lock::Error::Elsewhere.into()),
            Err(postgres::Error::Locked(_)) => Err(lock::Error::Draining.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lock for an operation as soon as it is free. What may pass is waited for until `wait` is over. A lease whose
    /// grant was not heard of is had by the next try, or given back at the end of the operation.
    pub(super) async fn wait_for_lock(&self, work: &Work, wait: Duration) -> Result<Option<Held>> {
        const POLL: Duration = Duration::from_millis(500);
        let end = Instant::now() + wait;
        let operation = work.operation();
        loop {
            let refused = match self.ask_for_lock(&operation).await {
                Err(error @ (Error::Lock(_) | Error::Database(_))) if error.may_pass() => error,
                answer => return answer,
            };
            if Instant::now() + POLL > end {
                return Err(refused);
            }
            match &refused {
                Error::Lock(lock::Error::Held(holder) | lock::Error::Awaited(holder)) => {
                    work.phase(Phase::WaitingForLock, &format!("Waits for {}: {}.", holder.principal, holder.reason));
                }
                Error::Database(postgres::Error::Updating) => {
                    work.phase(Phase::WaitingForLock, "Waits for a software update that works in the database.");
                }
                error => {
                    tracing::warn!(%error, "the maintenance lock could not be had; it is asked for again");
                    work.phase(Phase::WaitingForLock, &format!("Waits for the maintenance lock: {error}."));
                }
            }
            sleep(POLL).await;
        }
    }

    /// Gives back whatever was granted for an operation, also when nobody knows of it. Where another service hosts the lock,
    /// nobody waits for one that does not answer: nothing but the end of the lease depends on it.
    pub(super) async fn let_go(&self, operation: &Operation) -> Result<()> {
        let Some(terms) = self.terms(operation) else { return Ok(()) };
        match self.0.parts.locks.forget(terms).await {
            Err(error) if self.0.parts.hosted.is_none() => {
                tracing::warn!(%error, operation_id = %operation.id, "the maintenance lock could not be given back yet");
                self.0.tasks.spawn(self.clone().let_go_later(operation.clone()));
                Ok(())
            }
            done => Ok(done?),
        }
    }

    pub(super) async fn let_go_later(self, operation: Operation) {
        let Some(terms) = self.terms(&operation) else { return };
        // Then its lease is over in any case.
        let end = Instant::now() + 2 * terms.ttl;
        while Instant::now() < end && !self.0.stopping.is_cancelled() {
            sleep(Duration::from_secs(1)).await;
            if self.0.parts.locks.forget(terms.clone()).await.is_ok() {
                return;
            }
        }
    }

    /// Whether the lock could be had now.
    pub(super) async fn lock_is_free(&self) -> Result<()> {
        match self.get_lock().await?.holder {
            None => self.no_migration().await,
            Some(holder) => Err(lock::Error::Held(Box::new(holder)).into()),
        }
    }

    /// Whether no migration works in the database that knows only SQL. The transactions of an operation look again.
    async fn no_migration(&self) -> Result<()> {
        if self.0.parts.state.no_update().await? { Ok(()) } else { Err(postgres::Error::Updating.into()) }
    }

    /// Whether a software update, say, is at work: what is half done must not be looked at. A lock that cannot be asked
    /// keeps nobody from looking.
    pub(super) async fn not_taken_by_others(&self) -> std::result::Result<(), lock::Error> {
        match self.get_lock().await {
            Ok(Lock { holder: Some(holder), .. }) if !holder.purpose.own() => Err(lock::Error::Held(Box::new(holder))),
            _ => Ok(()),
        }
    }

    /// For work that needs no lock and gives way: ends when it must.
    pub(super) async fn lock_is_taken_by_others(&self) -> lock::Error {
        const POLL: Duration = Duration::from_secs(1);
        loop {
            sleep(POLL).await;
            if let Err(taken) = self.not_taken_by_others().await {
                return taken;
            }
        }
    }
}
