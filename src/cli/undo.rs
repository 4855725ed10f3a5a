//! Undoing the last restore: its safety backup is restored, the same way as any other backup.
//!
//! The last restore is the one that was committed last. Only what it replaced is brought back. A restore without a safety backup is not passed over for an earlier one.

use anyhow::{Context, anyhow};
use tonic::Code;

use super::Session;
use super::advice::of_operation;
use super::backups::{get, newest};
use super::describe::restore::last_restore;
use super::describe::{self, step};
use super::names::BackupChoice;
use super::operations::page;
use super::output::{id, note, time};
use super::problem::Problem;
use super::restore::{How, carry_out};
use crate::grpc::proto::backup::{Operation, OperationType, RestoreResult, operation, resource_change};

#[derive(Debug, clap::Args)]
pub struct Undo {
    #[command(flatten)]
    how: How,
}

pub async fn undo(session: Session, undo: Undo) -> Result<(), Problem> {
    undo.how.without_surprise()?;
    let mut resources = undo.how.resources();
    let backup = match last(&session).await? {
        Some((operation, result)) => {
            note(&last_restore(&operation, &result));
            if result.safety_backup.is_empty() {
                return Err(anyhow!(
                    "the last restore was made without a safety backup and cannot be undone; \
                     to restore an older backup: holdfast list, then holdfast restore NAME"
                )
                .into());
            }
            if resources.is_empty() {
                let kept = resource_change::Action::Keep;
                resources = result
                    .changes
                    .iter()
                    .filter(|change| change.action() != kept)
                    .map(|change| change.resource.clone())
                    .collect();
                if resources.is_empty() {
                    return Err(anyhow!("the last restore replaced nothing; there is nothing to undo").into());
                }
            }
            let name = result.safety_backup.parse().context("the service named a safety backup that cannot be one")?;
            get(&session, &BackupChoice::Named(name)).await?
        }
        // Operations are forgotten after 30 days, and with the database.
        None => {
            let safety = newest(&session, describe::is_safety).await?;
            let safety = safety.ok_or_else(|| anyhow!("there is nothing to undo: no restore is known, and no safety backup"))?;
            let of = time(safety.snapshot_time);
            note(&format!(
                "No restore of the last 30 days is known. The newest safety backup is {}, with data of {of}.",
                id(&safety.name)
            ));
            safety
        }
    };
    carry_out(&session, backup, resources, &undo.how).await
}

/// The restore that was committed last, whichever was asked for first: one may have waited for the lock meanwhile.
///
/// # Errors
/// When one runs or waits: what is to be undone is known when that has ended.
async fn last(session: &Session) -> Result<Option<(Operation, RestoreResult)>, Problem> {
    let mut last: Option<(Operation, RestoreResult)> = None;
    let mut token = String::new();
    loop {
        let page = page(session, &token, false).await?;
        for operation in page.operations {
            let is_restore = operation.metadata.as_ref().is_some_and(|about| about.r#type() == OperationType::Restore);
            if is_restore && !operation.done {
                return Err(running(&operation));
            }
            let Some(operation::Result::Restore(result)) = operation.result.clone() else { continue };
            if last.as_ref().is_none_or(|(_, known)| committed(&result) > committed(known)) {
                last = Some((operation, result));
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(last);
        }
        token = page.next_page_token;
    }
}

fn committed(result: &RestoreResult) -> Option<(i64, i32)> {
    result.commit_time.map(|time| (time.seconds, time.nanos))
}

fn running(operation: &Operation) -> Problem {
    let about = operation.metadata.clone().unwrap_or_default();
    let message = format!("A restore has not ended: {}. What undo would bring back is known when it has.", step(operation));
    let [follow, cancel] = of_operation(&id(&operation.name));
    let asked = format!("It was asked for at {} by {}.", time(about.create_time), about.caller);
    Problem::refused_with(Code::Aborted, "OPERATION_IN_PROGRESS", message, format!("{asked} {follow}; {cancel}"))
}
