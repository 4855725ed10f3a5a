//! The life of an operation: accepted -> waiting for the lock -> at work -> ended. It belongs to no call: whoever
//! started it may hang up.
//!
//! While it works, its row in the database is kept fresh and its lease is renewed. It stops early when it is cancelled, the
//! service stops, the lease is lost or its time is over - unless it is committing, from where it only goes forward.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::call::Caller;
use super::works::Work;
use super::{Error, Holdfast, Result, now, trail};
use crate::fault;
use crate::lock::{self, Held};
use crate::model::lock::Holder;
use crate::model::operation::{Kind, Operation, Outcome, Phase};
use crate::model::{Event, OperationId, Reason};
use crate::postgres::state::{Accepted, Alive, Commit, Request};
use crate::telemetry;

impl Holdfast {
    /// The operation of an earlier call with the same `request_id`.
    pub(super) async fn known(&self, caller: &str, request: &Request) -> Result<Option<Operation>> {
        match self.0.parts.state.known_request(caller, request).await? {
            Accepted::New => Ok(None),
            Accepted::Known(operation) => Ok(Some(*operation)),
            Accepted::Reused(id) => Err(Error::RequestIdReused(id)),
        }
    }

    /// Starts an operation: takes the lock, or refuses at once when it may not wait for it; writes the row; begins to work.
    /// A caller that hangs up in the middle of it changes nothing.
    pub(super) async fn begin<F>(
        &self,
        mut operation: Operation,
        request: Request,
        lock_wait: Duration,
        work: impl FnOnce(Arc<Work>) -> F + Send + 'static,
    ) -> Result<Operation>
    where
        F: Future<Output = Result<Outcome>> + Send + 'static,
    {
        const PANICKED: Error = Error::Bug("an operation could not be accepted");
        let span = trail::span(&operation);
        operation.trace_id = telemetry::trace_id(&span);
        let (holdfast, about) = (self.clone(), operation.clone());
        let accepting = async move {
            let about = operation.clone();
            let accepted = AssertUnwindSafe(holdfast.accept(operation, request, lock_wait, work)).catch_unwind().await;
            accepted.unwrap_or_else(|_| {
                holdfast.0.tasks.spawn(holdfast.clone().let_go_later(about));
                Err(PANICKED)
            })
        };
        let accepted = self.0.tasks.spawn(accepting.instrument(span.clone())).await.map_err(|_| PANICKED)?;
        if let Err(error) = &accepted {
            trail::failed(&span, &error.failure());
            (self.0.parts.told)(&about);
        }
        accepted
    }

    async fn accept<F>(
        &self,
        operation: Operation,
        request: Request,
        lock_wait: Duration,
        work: impl FnOnce(Arc<Work>) -> F + Send + 'static,
    ) -> Result<Operation>
    where
        F: Future<Output = Result<Outcome>> + Send + 'static,
    {
        self.accepting()?;
        let held = match lock_wait.is_zero() {
            true => match self.hold(&operation).await {
                Err(Error::Lock(lock::Error::Held(holder))) => return self.earlier(&operation.caller, &request, holder).await,
                held => held?,
            },
            false => None,
        };
        fault::point("accepting");
        // Before its row is there: whoever looks after the dead must not find one of this process that nobody works on.
        let running = Arc::new(Work::new(operation.clone()));
        let entry = self.at_work(running.clone());
        let accepted = self.0.parts.state.accept(&operation, &request).await;
        if let (Some(held), false) = (&held, matches!(accepted, Ok(Accepted::New))) {
            self.release(held).await;
        }
        match accepted? {
            Accepted::New => {}
            Accepted::Known(operation) => return Ok(*operation),
            Accepted::Reused(id) => return Err(Error::RequestIdReused(id)),
        }
        tracing::info!(operation_id = %operation.id, kind = ?operation.kind, caller = operation.caller, "operation accepted");
        let holdfast = self.clone();
        let living = async move {
            let _entry = entry;
            holdfast.live(running, held, lock_wait, work).await;
        };
        self.0.tasks.spawn(living.in_current_span());
        Ok(operation)
    }

    /// The operation that has the lock, when it is that of an earlier call with the same `request_id`. Its row is written
    /// only after it got the lock.
    async fn earlier(&self, caller: &str, request: &Request, holder: Box<Holder>) -> Result<Operation> {
        let id = holder.operation.strip_prefix("operations/").and_then(|id| id.parse().ok());
        for _ in 0..20 {
            let written = match id {
                Some(id) if holder.purpose.own() => self.0.parts.state.operation(id).await?.is_some(),
                _ => true,
            };
            if let Some(operation) = self.known(caller, request).await? {
                return Ok(operation);
            }
            if written || request.request_id.is_none() {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(lock::Error::Held(holder).into())
    }

    async fn live<F>(self, work: Arc<Work>, held: Option<Held>, lock_wait: Duration, run: impl FnOnce(Arc<Work>) -> F)
    where
        F: Future<Output = Result<Outcome>> + Send + 'static,
    {
        let stopped = work.stopped();
        let interrupted = async {
            self.0.stopping.cancelled().await;
            work.stop(Error::Interrupted);
            std::future::pending().await
        };
        // The work comes last: it may always have something to do.
        let result = tokio::select! {
            biased;
            () = stopped.cancelled() => Err(work.cause().unwrap_or(Error::Interrupted)),
            () = interrupted => Err(Error::Interrupted),
            () = self.tend(&work) => Err(Error::Bug("an operation was left alone")),
            result = AssertUnwindSafe(self.locked(&work, held, lock_wait, run)).catch_unwind() => {
                result.unwrap_or(Err(Error::Bug("an operation panicked")))
            }
        };
        // However long the end takes, nobody may take its owner for dead.
        tokio::select! {
            () = self.tend(&work) => {}
            () = self.end(&work, result) => {}
        }
    }

    /// Works under the lock.
    async fn locked<F>(
        &self,
        work: &Arc<Work>,
        held: Option<Held>,
        wait: Duration,
        run: impl FnOnce(Arc<Work>) -> F,
    ) -> Result<Outcome>
    where
        F: Future<Output = Result<Outcome>> + Send + 'static,
    {
        let held = match held {
            None => self.wait_for_lock(work, wait).await?,
            held => held,
        };
        work.begin(held.as_ref().map_or(0, |held| held.lease.fencing_token));
        let keep = async {
            match &held {
                Some(held) => self.0.parts.locks.keep(held).await,
                // It looks at what an update changes.
                None if work.operation().kind == Kind::Preview => self.lock_is_taken_by_others().await,
                None => std::future::pending().await,
            }
        };
        fault::point("holding");
        let mut run = std::pin::pin!(run(work.clone()));
        let mut keep = std::pin::pin!(keep);
        let mut limit = std::pin::pin!(sleep(self.0.parts.operation_timeout));
        let (mut kept, mut in_time) = (true, true);
        loop {
            tokio::select! {
                biased;
                lost = &mut keep, if kept => {
                    kept = false;
                    work.stop(lost.into());
                }
                () = &mut limit, if in_time => {
                    in_time = false;
                    work.stop(Error::TimedOut);
                }
                result = &mut run => return result,
            }
        }
    }

    /// From here an operation only goes forward, and whoever wants to cancel it is told so.
    ///
    /// # Errors
    /// When it is to stop.
    pub(super) async fn commit(&self, work: &Work, detail: &str) -> Result<()> {
        work.commit(detail)?;
        match self.0.parts.state.begin_commit(work.id()).await? {
            Commit::Go => Ok(()),
            Commit::Cancelled => Err(Error::Cancelled),
            Commit::Ended => Err(lock::Error::Lost.into()),
        }
    }

    /// Keeps the row of an operation fresh, and listens to who wants it to stop. Never ends by itself.
    async fn tend(&self, work: &Work) {
        const CHANGES: Duration = Duration::from_millis(250);
        // A cancellation that came to another replica is heard of by the next one.
        const HEARTBEAT: Duration = Duration::from_secs(1);
        const REPORT: Duration = Duration::from_secs(4);
        let (mut written, mut last): (Option<Operation>, _) = (None, Instant::now());
        loop {
            sleep(CHANGES).await;
            fault::point("tending");
            let operation = work.operation();
            if written.as_ref() == Some(&operation) && last.elapsed() < HEARTBEAT {
                continue;
            }
            // A connection that fell silent must not keep the next from being used.
            let report = timeout(REPORT, self.0.pulse.report(&operation)).await;
            match report.map_err(|_| Error::TimedOut).and_then(|report| report.map_err(Error::from)) {
                Ok(Alive::Yes { cancel_requested, .. }) => {
                    if cancel_requested {
                        work.stop(Error::Cancelled);
                    }
                    (written, last) = (Some(operation), Instant::now());
                }
                Ok(Alive::No) => work.stop(lock::Error::Lost.into()),
                Err(error) => {
                    tracing::warn!(%error, operation_id = %operation.id, "the state of an operation could not be written")
                }
            }
        }
    }

    /// Gives the lock back and writes how an operation ended, in this order. Tries until both are done: the caller must
    /// learn the truth. What the service could not write before it stops, the next one finds out.
    async fn end(&self, work: &Work, result: Result<Outcome>) {
        /// Nobody waits for longer for a volume that hangs.
        const BLOCKING: Duration = Duration::from_secs(60);
        /// More than the server gives a statement.
        const ANSWER: Duration = Duration::from_secs(30);
        const LAST_CHANCE: Duration = Duration::from_secs(3);
        let mut operation = work.operation();
        fault::point("ending");
        if timeout(BLOCKING, work.blocking_ends()).await.is_err() {
            tracing::error!(operation_id = %operation.id, "a blocking part of the operation does not end");
        }
        operation.phase = Phase::Done;
        operation.end_time = Some(now());
        operation.detail.clear();
        operation.outcome = Some(match result {
            Ok(outcome) => {
                operation.progress.percent = 100;
                outcome
            }
            Err(error) => {
                let failure = error.failure();
                let failure = match failure.reason {
                    Reason::LeaseLost => failure.with("fencingToken", operation.fencing_token),
                    _ => failure,
                };
                tracing::warn!(operation_id = %operation.id, reason = failure.reason.word(), message = failure.message, "operation failed");
                Outcome::Failed(Box::new(failure))
            }
        });
        let write = async {
            // A database that went silent in the middle of it is asked again.
            loop {
                match timeout(ANSWER, self.write_end(&operation)).await.unwrap_or(Err(Error::TimedOut)) {
                    Ok(written) => return written,
                    Err(error) => {
                        tracing::warn!(%error, operation_id = %operation.id, "the outcome of an operation could not be written");
                        sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        };
        let given_up = async {
            self.0.stopping.cancelled().await;
            sleep(LAST_CHANCE).await;
        };
        tokio::select! {
            written = write => {
                work.ended(&written);
                (self.0.parts.told)(&written);
                tracing::info!(operation_id = %operation.id, "operation ended");
            }
            () = given_up => {
                work.ended(&operation);
                tracing::warn!(operation_id = %operation.id, "the next start writes how the operation ended");
            }
        }
    }

    /// Returns the operation as it is written.
    async fn write_end(&self, operation: &Operation) -> Result<Operation> {
        let state = &self.0.parts.state;
        let Some(Outcome::Failed(failure)) = &operation.outcome else {
            self.let_go(operation).await?;
            state.report(operation).await?;
            return Ok(operation.clone());
        };
        // After a defect as little is certain as after the death of a process.
        if failure.reason == Reason::Internal
            && let Some(outcome) = self.what_became_of(operation).await?
        {
            let mut operation = Operation { outcome: Some(outcome), ..operation.clone() };
            operation.progress.percent = 100;
            state.report(&operation).await?;
            return Ok(operation);
        }
        if operation.kind == Kind::Restore {
            self.discard_safety_backup(operation.id).await?;
        }
        self.let_go(operation).await?;
        state.report(operation).await?;
        Ok(operation.clone())
    }

    pub async fn get_operation(&self, id: OperationId) -> Result<Operation> {
        self.0.parts.state.operation(id).await?.ok_or(Error::OperationNotFound(id))
    }

    /// Newest first; `before` is the second answer of the call before.
    pub async fn list_operations(
        &self,
        page_size: u32,
        before: Option<OperationId>,
        active_only: bool,
    ) -> Result<(Vec<Operation>, Option<OperationId>)> {
        let mut operations = self.0.parts.state.operations(page_size, before, active_only).await?;
        let more = operations.len() > page_size as usize;
        operations.truncate(page_size as usize);
        let next = operations.last().filter(|_| more).map(|operation| operation.id);
        Ok((operations, next))
    }

    /// Waits until the operation's revision differs from `seen`, or `limit` is over; returns its latest state.
    pub async fn wait_for_change(&self, id: OperationId, seen: i64, limit: Duration) -> Result<Operation> {
        const POLL: Duration = Duration::from_millis(250);
        let end = Instant::now() + limit;
        loop {
            let operation = self.get_operation(id).await?;
            if operation.revision != seen || operation.done() || Instant::now() >= end || self.0.stopping.is_cancelled() {
                return Ok(operation);
            }
            sleep(POLL.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Asks an operation to stop. It has stopped when it is done.
    pub async fn cancel_operation(&self, caller: &Caller, id: OperationId) -> Result<()> {
        let event = Event::new("operation.cancel_requested", caller, format!("operations/{id}"));
        if !self.0.parts.state.request_cancel(id, &Event { operation: Some(id), ..event }).await? {
            let operation = self.get_operation(id).await?;
            // Cancelling what has ended has the wanted effect already.
            return if operation.done() { Ok(()) } else { Err(Error::NotCancellable(id)) };
        }
        tracing::info!(operation_id = %id, caller = caller.principal(), "cancellation requested");
        if let Some(work) = self.0.works.get(id) {
            work.stop(Error::Cancelled);
        }
        Ok(())
    }
}
