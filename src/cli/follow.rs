//! Following an operation to its end, whatever happens to the connection meanwhile.
//!
//! Every message of the watch is a complete state, so a watch that broke is simply made again. Nothing done here, not
//! even Ctrl-C, has an effect on the operation itself.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::connect::{Client, pause};
use super::output::id;
use super::problem::Problem;
use super::progress::Meter;
use crate::grpc::proto::backup::{Operation, WatchOperationRequest, operation};

/// How long a service may be away before following is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// The service sends something at least every 15 s; a stream that is silent for three times as long is dead.
pub const SILENCE: Duration = Duration::from_secs(45);

/// Shows how an operation goes on and returns its last state.
///
/// # Errors
/// When it cannot be followed any more, or on Ctrl-C. An operation that failed is not an error here.
pub async fn follow(client: &Client, operation: Operation) -> Result<Operation, Problem> {
    let id = id(&operation.name);
    tokio::select! {
        ended = to_the_end(client, operation) => ended,
        _ = tokio::signal::ctrl_c() => Err(Problem::Interrupted(format!(
            "Interrupted. The operation goes on.\n  follow it: holdfast operations watch {id}\n  cancel it: holdfast operations cancel {id}"
        ))),
    }
}

/// The operation, unless it failed.
pub fn succeeded(operation: Operation) -> Result<Operation, Problem> {
    match operation.result {
        Some(operation::Result::Error(error)) => Err(Problem::Operation(Box::new(error))),
        _ => Ok(operation),
    }
}

async fn to_the_end(client: &Client, mut latest: Operation) -> Result<Operation, Problem> {
    let mut meter = Meter::of_operation();
    let mut outage = Outage::default();
    while !latest.done {
        let before = revision(&latest);
        let Err(status) = watch(client, &mut latest, &mut meter).await else { continue };
        if revision(&latest) != before {
            outage = Outage::default();
        }
        let remark = || meter.remark("The connection was lost; trying again. The operation goes on if the service does.");
        if let Err(status) = outage.wait(status, remark).await {
            let goes_on =
                format!("{}; the operation may go on: holdfast operations watch {}", status.message(), id(&latest.name));
            let status = if broken(&status) { Status::unavailable(goes_on) } else { status };
            return Err(client.explained(status).into());
        }
    }
    Ok(latest)
}

/// A service that is away, since the last message of a watch.
#[derive(Default)]
pub struct Outage {
    since: Option<Instant>,
    attempt: u32,
}

impl Outage {
    /// Waits before the watch is made again, longer each time; the first time `remark` says so.
    ///
    /// # Errors
    /// The status, when it is not about the way to the service, or when the service has been away for too long.
    pub async fn wait(&mut self, status: Status, remark: impl FnOnce()) -> Result<(), Status> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !broken(&status) || since.elapsed() > PATIENCE {
            return Err(status);
        }
        if self.attempt == 0 {
            remark();
        }
        sleep(pause(self.attempt)).await;
        self.attempt += 1;
        Ok(())
    }
}

/// One watch, until the operation has ended or the stream has.
async fn watch(client: &Client, latest: &mut Operation, meter: &mut Meter) -> Result<(), Status> {
    let silent = |_| Status::unavailable("the service fell silent");
    let request = WatchOperationRequest { name: latest.name.clone(), error_as_status: false };
    let mut states = timeout(SILENCE, client.operations().watch_operation(request)).await.map_err(silent)??.into_inner();
    while let Some(state) = timeout(SILENCE, states.message()).await.map_err(silent)?? {
        if revision(&state) >= revision(latest) {
            meter.operation(&state);
            *latest = state;
        }
        if latest.done {
            return Ok(());
        }
    }
    Err(Status::unavailable("the service ended the watch"))
}

/// Whether a watch ended because of the way there, not because of what was asked.
fn broken(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted | Code::DeadlineExceeded
    )
}

fn revision(operation: &Operation) -> i64 {
    operation.metadata.as_ref().map_or(0, |about| about.revision)
}
