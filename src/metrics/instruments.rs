//! The instruments: most of them read the figures of the last look, a few count what this process does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Counter, Histogram, Meter};

use crate::model::Reason;
use crate::model::backup::{State, Trigger};
use crate::model::operation::{Kind, Operation, Outcome};
use crate::model::schedule::RunState;
use crate::operations::call::Figures;

/// Seconds, as OpenTelemetry's conventions for RPC have them.
const CALLS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const OPERATIONS: [f64; 12] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0];

/// The figures of the last look; `None` where there was none that succeeded: then nothing is told of them.
pub type Shared = Arc<Mutex<Option<Figures>>>;

/// An instrument's callback, which has the figures.
fn with<T>(
    figures: &Shared,
    observe: impl Fn(&Figures, &dyn AsyncInstrument<T>) + Send + Sync + 'static,
) -> impl Fn(&dyn AsyncInstrument<T>) + Send + Sync + 'static {
    let figures = figures.clone();
    move |instrument| {
        if let Some(figures) = &*figures.lock().unwrap_or_else(PoisonError::into_inner) {
            observe(figures, instrument);
        }
    }
}

/// Instruments that read the figures.
pub fn observe(meter: &Meter, figures: &Shared) {
    let gauge =
        |name: &'static str, unit: &'static str, description: &'static str, observe: fn(&Figures, &dyn AsyncInstrument<i64>)| {
            let gauge = meter.i64_observable_gauge(name).with_unit(unit).with_description(description);
            gauge.with_callback(with(figures, observe)).build();
        };
    gauge("backup.last_success.timestamp", "s", "When the newest good file was complete and proven", |figures, gauge| {
        for (trigger, name) in [(Trigger::OnDemand, "on_demand"), (Trigger::Scheduled, "scheduled")] {
            let good = figures.backups.iter().filter(|backup| backup.state == State::Ready && backup.trigger == trigger);
            if let Some(time) = good.filter_map(|backup| backup.complete_time).max() {
                gauge.observe(time.timestamp(), &[KeyValue::new("trigger", name)]);
            }
        }
    });
    gauge("backup.files", "", "Backups in the catalog by what is known of their files", |figures, gauge| {
        for (state, name) in [
            (State::Creating, "creating"),
            (State::Ready, "ready"),
            (State::Invalid, "invalid"),
            (State::Missing, "missing"),
            (State::Deleting, "deleting"),
        ] {
            let count = figures.backups.iter().filter(|backup| backup.state == state).count() as u64;
            // What the archive has is not lost.
            let elsewhere = if state == State::Missing { figures.only_archived } else { 0 };
            gauge.observe(number(count - elsewhere), &[KeyValue::new("state", name)]);
        }
        gauge.observe(number(figures.only_archived), &[KeyValue::new("state", "archived")]);
    });
    gauge("backup.unencrypted_files", "", "Good backups that anybody who has the file can read", |figures, gauge| {
        let plain = figures.backups.iter().filter(|backup| backup.state == State::Ready && !backup.encrypted());
        gauge.observe(number(plain.count() as u64), &[]);
    });
    gauge("backup.retention.limit", "", "Backups that retention keeps", |figures, gauge| {
        gauge.observe(figures.max_count.into(), &[]);
    });
    gauge("backup.retention.excess", "", "Backups beyond the limit that could not be deleted yet", |figures, gauge| {
        let counted = figures.backups.iter().filter(|backup| backup.counts()).count() as u64;
        gauge.observe(number(counted.saturating_sub(figures.max_count.into())), &[]);
    });
    gauge("backup.schedule.enabled", "", "1: backups are made by schedule", |figures, gauge| {
        gauge.observe(figures.schedule_enabled.into(), &[]);
    });
    gauge("backup.schedule.next_run.timestamp", "s", "When the next scheduled backup is due", |figures, gauge| {
        if let Some(time) = figures.next_run {
            gauge.observe(time.timestamp(), &[]);
        }
    });
    gauge("backup.encryption.enabled", "", "1: new backups are encrypted", |figures, gauge| {
        gauge.observe(figures.encrypted.into(), &[]);
    });
    gauge("backup.encryption.passphrase_generation", "", "Number of the passphrase in use", |figures, gauge| {
        gauge.observe(figures.passphrase_generation.into(), &[]);
    });
    gauge("backup.storage.usable", "", "1: the backup volume is there", |figures, gauge| {
        gauge.observe(figures.space.is_some().into(), &[]);
    });
    gauge("backup.storage.available", "By", "Free space of the backup volume", |figures, gauge| {
        if let Some(space) = figures.space {
            gauge.observe(number(space.available), &[]);
        }
    });
    gauge("backup.storage.size", "By", "Size of the backup volume", |figures, gauge| {
        if let Some(space) = figures.space {
            gauge.observe(number(space.total), &[]);
        }
    });
    gauge("backup.storage.used", "By", "Size of all backup files", |figures, gauge| {
        let here = figures.backups.iter().filter(|backup| backup.state != State::Missing);
        gauge.observe(number(here.map(|backup| backup.size_bytes).sum()), &[]);
    });
    gauge("backup.archive.files", "", "Backups that are in the archive", |figures, gauge| {
        if let Some(archive) = &figures.archive {
            gauge.observe(number(archive.count), &[]);
        }
    });
    gauge("backup.archive.backlog", "", "Backups that wait to be copied to the archive", |figures, gauge| {
        if let Some(archive) = &figures.archive {
            gauge.observe(number(archive.backlog), &[]);
        }
    });
    gauge("backup.archive.failing", "", "1: the archive does not work", |figures, gauge| {
        if let Some(archive) = &figures.archive {
            gauge.observe(archive.failure.is_some().into(), &[]);
        }
    });
    gauge("backup.archive.snapshot.timestamp", "s", "How new the newest data in the archive are", |figures, gauge| {
        if let Some(time) = figures.archive.as_ref().and_then(|archive| archive.newest_snapshot_time) {
            gauge.observe(time.timestamp(), &[]);
        }
    });
    gauge("backup.archive.oldest_waiting.timestamp", "s", "Since when the backup waits that waits longest", |figures, gauge| {
        if let Some(time) = figures.archive.as_ref().and_then(|archive| archive.oldest_waiting_time) {
            gauge.observe(time.timestamp(), &[]);
        }
    });
    let runs = meter.u64_observable_counter("backup.schedule.runs").with_description("Scheduled runs by their result");
    let observe = |figures: &Figures, counter: &dyn AsyncInstrument<u64>| {
        for (state, name) in [
            (RunState::Succeeded, "succeeded"),
            (RunState::Failed, "failed"),
            (RunState::Skipped, "skipped"),
            (RunState::Missed, "missed"),
        ] {
            let count = figures.runs.iter().find(|(found, _)| *found == state).map_or(0, |(_, count)| *count);
            counter.observe(count, &[KeyValue::new("state", name)]);
        }
    };
    runs.with_callback(with(figures, observe)).build();
    let refusals = meter.u64_observable_counter("backup.auth.failures");
    let refusals = refusals.with_description("Callers that this process refused, since it began, by the reason");
    let observe = |figures: &Figures, counter: &dyn AsyncInstrument<u64>| {
        for reason in
            [Reason::CredentialsMissing, Reason::CredentialsInvalid, Reason::PermissionMissing, Reason::IdentityUnavailable]
        {
            let count = figures.refusals.iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| *count);
            counter.observe(count, &[KeyValue::new("reason", reason.word())]);
        }
    };
    refusals.with_callback(with(figures, observe)).build();
    let build = meter.u64_observable_gauge("backup.build_info").with_description("1, and which version this is");
    build.with_callback(|gauge| gauge.observe(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))])).build();
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is counted along the way, since this process began.
pub struct Counted {
    calls: Histogram<f64>,
    operations: Counter<u64>,
    durations: Histogram<f64>,
}

impl Counted {
    pub fn new(meter: &Meter) -> Self {
        let calls = meter.f64_histogram("rpc.server.call.duration").with_unit("s").with_boundaries(CALLS.to_vec());
        let operations = meter.u64_counter("backup.operations");
        let durations = meter.f64_histogram("backup.operation.duration").with_unit("s").with_boundaries(OPERATIONS.to_vec());
        let counted = Self {
            calls: calls.with_description("Calls that this process answered").build(),
            operations: operations.with_description("Operations that ended in this process, or did not begin: refused").build(),
            durations: durations.with_description("From the beginning of their work to its end").build(),
        };
        // From the start, so that the first one is an increase.
        let triggers = [(Kind::Backup, Trigger::OnDemand), (Kind::Backup, Trigger::Scheduled)];
        let others = [Kind::Restore, Kind::Preview, Kind::Verify, Kind::Rehearsal].map(|kind| (kind, Trigger::OnDemand));
        for (kind, trigger) in triggers.into_iter().chain(others) {
            for outcome in ["success", "failure", "cancelled", "refused"] {
                counted.operations.add(0, &labels(kind, trigger, outcome));
            }
        }
        counted
    }

    /// A call that was answered.
    pub fn call(&self, method: &'static str, status: &'static str, at_fault: bool, took: Duration) {
        let error = at_fault.then(|| KeyValue::new("error.type", status));
        let labels = [("rpc.system.name", "grpc"), ("rpc.method", method), ("rpc.status_code", status)];
        let labels: Vec<KeyValue> = labels.map(|(name, value)| KeyValue::new(name, value)).into_iter().chain(error).collect();
        self.calls.record(took.as_secs_f64(), &labels);
    }

    /// An operation that ended, or, without an outcome, did not begin.
    pub fn operation(&self, operation: &Operation) {
        let outcome = match &operation.outcome {
            None => "refused",
            Some(Outcome::Failed(failure)) if failure.reason == Reason::CancelledByCaller => "cancelled",
            Some(Outcome::Failed(_)) => "failure",
            Some(Outcome::Backup(_) | Outcome::Restore(_) | Outcome::Preview(_) | Outcome::Verify(_)) => "success",
        };
        let labels = labels(operation.kind, operation.trigger.unwrap_or(Trigger::OnDemand), outcome);
        self.operations.add(1, &labels);
        if let (Some(begun), Some(ended)) = (operation.start_time, operation.end_time) {
            let took = (ended - begun).to_std().unwrap_or_default();
            self.durations.record(took.as_secs_f64(), &[labels[0].clone(), labels[2].clone()]);
        }
    }
}

/// No names, ids or principals: there are only so many series.
fn labels(kind: Kind, trigger: Trigger, outcome: &'static str) -> [KeyValue; 3] {
    [KeyValue::new("type", kind.word()), KeyValue::new("trigger", trigger.word()), KeyValue::new("outcome", outcome)]
}
