//! What an operation leaves in its trace: a span for itself, for each of its phases, and for each resource.
//!
//! It belongs to the trace of the call that started it, so that this one trace tells what became of the call; what the service starts
//! by itself begins a trace of its own. Names only say what is done: nobody's data, passphrase, token or lease is in them.

use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::model::operation::{Operation, Outcome, Phase};
use crate::model::{Failure, ResourceName};

/// The spans that are open now.
pub struct Trail {
    operation: Span,
    phase: Option<(Phase, Span)>,
    resource: Option<(ResourceName, Span)>,
}

/// The span of an operation, within the present one.
pub fn span(operation: &Operation) -> Span {
    info_span!(
        "operation",
        otel.name = operation.kind.word(),
        otel.status_code = Empty,
        backup.operation.id = %operation.id,
        backup.operation.type = operation.kind.word(),
        backup.trigger = operation.trigger.map(|trigger| trigger.word()),
        backup.id = operation.target.as_ref().map(|id| id.as_str()),
        backup.encrypted = Empty,
        backup.size = Empty,
        backup.lock.fencing_token = Empty,
        error.type = Empty,
    )
}

/// Notes that an operation failed, or did not begin.
pub fn failed(span: &Span, failure: &Failure) {
    span.record("otel.status_code", "error");
    span.record("error.type", failure.reason.word().as_str());
}

impl Trail {
    /// Of an operation that is accepted within the present span.
    pub fn new(operation: &Operation) -> Self {
        let mut trail = Self { operation: Span::current(), phase: None, resource: None };
        trail.follow(operation);
        trail
    }

    /// Where it is now: what is over ends, what is new begins.
    pub fn follow(&mut self, operation: &Operation) {
        if self.phase.as_ref().is_none_or(|(phase, _)| *phase != operation.phase) {
            // The last ends before the next begins.
            (self.resource, self.phase) = (None, None);
            let open = || {
                let name = operation.phase.word();
                let title = format!("backup.phase {name}");
                info_span!(parent: &self.operation, "phase", otel.name = title, backup.phase = name)
            };
            self.phase = (operation.phase != Phase::Done).then(|| (operation.phase, open()));
        }
    }

    /// The resource that is worked on now.
    pub fn resource(&mut self, resource: Option<&ResourceName>) {
        if self.resource.as_ref().map(|(name, _)| name) != resource {
            self.resource = None;
            let open = |name: &ResourceName| {
                let title = format!("backup.resource {name}");
                info_span!(parent: self.phase(), "resource", otel.name = title, backup.resource = name.as_str())
            };
            self.resource = resource.map(|name| (name.clone(), open(name)));
        }
    }

    /// The span of the present phase.
    pub fn phase(&self) -> &Span {
        self.phase.as_ref().map_or(&self.operation, |(_, span)| span)
    }

    /// How it ended.
    pub fn end(&mut self, operation: &Operation) {
        self.follow(operation);
        let span = &self.operation;
        span.record("backup.lock.fencing_token", operation.fencing_token);
        if let Some(id) = &operation.target {
            span.record("backup.id", id.as_str());
        }
        match &operation.outcome {
            Some(Outcome::Backup(result)) => {
                span.record("backup.encrypted", result.backup.encrypted());
                span.record("backup.size", result.backup.size_bytes);
            }
            Some(Outcome::Failed(failure)) => failed(span, failure),
            Some(Outcome::Restore(_) | Outcome::Preview(_) | Outcome::Verify(_)) | None => {}
        }
    }
}
