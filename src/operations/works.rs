//! Operations at work in this process: what they are doing now, and how they are told to stop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info_span;

use super::trail::Trail;
use super::{Error, Holdfast, Result, now};
use crate::model::operation::{Operation, Phase, Progress};
use crate::model::{BackupId, OperationId};

/// Operations that run in this process, so that a cancellation reaches them at once.
#[derive(Default)]
pub struct Works(Mutex<HashMap<OperationId, Arc<Work>>>);

impl Works {
    fn all(&self) -> MutexGuard<'_, HashMap<OperationId, Arc<Work>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ids(&self) -> Vec<OperationId> {
        self.all().keys().copied().collect()
    }

    pub fn get(&self, id: OperationId) -> Option<Arc<Work>> {
        self.all().get(&id).cloned()
    }
}

/// Lists an operation for as long as it lives, so that one whose task panicked is not taken for a living one.
pub struct Entry {
    holdfast: Holdfast,
    id: OperationId,
}

impl Holdfast {
    pub(super) fn at_work(&self, work: Arc<Work>) -> Entry {
        let id = work.id();
        self.0.works.all().insert(id, work);
        Entry { holdfast: self.clone(), id }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.holdfast.0.works.all().remove(&self.id);
    }
}

/// An operation at work.
pub struct Work {
    state: Mutex<WorkState>,
    stop: CancellationToken,
    blocking: TaskTracker,
}

struct WorkState {
    operation: Operation,
    trail: Trail,
    /// Why it stops.
    cause: Option<Error>,
}

impl Work {
    /// Within the span of the operation.
    pub fn new(operation: Operation) -> Self {
        let trail = Trail::new(&operation);
        let state = Mutex::new(WorkState { operation, trail, cause: None });
        Self { state, stop: CancellationToken::new(), blocking: TaskTracker::new() }
    }

    fn state(&self) -> MutexGuard<'_, WorkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn id(&self) -> OperationId {
        self.state().operation.id
    }

    pub fn operation(&self) -> Operation {
        self.state().operation.clone()
    }

    pub fn fencing_token(&self) -> i64 {
        self.state().operation.fencing_token
    }

    pub fn phase(&self, phase: Phase, detail: &str) {
        let WorkState { operation, trail, .. } = &mut *self.state();
        operation.phase = operation.phase.max(phase);
        detail.clone_into(&mut operation.detail);
        trail.follow(operation);
    }

    pub fn target(&self, id: &BackupId) {
        self.state().operation.target = Some(id.clone());
    }

    pub fn progress(&self, change: impl FnOnce(&mut Progress)) {
        let WorkState { operation, trail, .. } = &mut *self.state();
        let progress = &mut operation.progress;
        let before = progress.percent;
        change(progress);
        progress.percent = progress.percent.clamp(before, 99);
        trail.resource(progress.current_resource.as_ref());
    }

    /// Stops the work for this cause, unless it is committing or stopping already.
    pub fn stop(&self, cause: Error) {
        let mut state = self.state();
        if state.operation.phase < Phase::Committing && state.cause.is_none() {
            state.cause = Some(cause);
            self.stop.cancel();
        }
    }

    /// Cancelled when the work is to stop.
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// From here the work only goes forward. Fails when it is to stop.
    pub fn commit(&self, detail: &str) -> Result<()> {
        let mut state = self.state();
        if let Some(cause) = state.cause.take() {
            return Err(cause);
        }
        let WorkState { operation, trail, .. } = &mut *state;
        operation.phase = Phase::Committing;
        detail.clone_into(&mut operation.detail);
        trail.follow(operation);
        Ok(())
    }

    /// Why it stops, if it does. To be asked once.
    pub fn cause(&self) -> Option<Error> {
        self.state().cause.take()
    }

    /// Its work begins, under this token.
    pub fn begin(&self, fencing_token: i64) {
        let WorkState { operation, trail, .. } = &mut *self.state();
        operation.fencing_token = fencing_token;
        operation.start_time = Some(now());
        operation.phase = Phase::Preparing;
        trail.follow(operation);
    }

    /// This is how it ended, for its trace.
    pub fn ended(&self, operation: &Operation) {
        self.state().trail.end(operation);
    }

    /// Ends when its blocking parts have.
    pub async fn blocking_ends(&self) {
        self.blocking.close();
        self.blocking.wait().await;
    }

    /// Runs a part that blocks, under this name in the trace. Dropping the answer does not end it; closing its channels does.
    pub async fn blocking<T: Send + 'static>(&self, name: &str, part: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let span = info_span!(parent: self.state().trail.phase(), "part", otel.name = name);
        let part = move || span.in_scope(part);
        self.blocking.spawn_blocking(part).await.map_err(|_| Error::Bug("a blocking part of the work panicked"))
    }
}
