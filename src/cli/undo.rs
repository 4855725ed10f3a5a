//! Undoing the last restore: its safety backup is restored, the same way as any other backup.
//!
//! Only what that restore replaced is brought back. A restore without a safety backup is not passed over for an earlier one.

use anyhow::{Context, anyhow};

use super::Session;
use super::backups::{get, newest};
use super::describe;
use super::describe::restore::last_restore;
use super::names::BackupChoice;
use super::operations::page;
use super::output::{id, note, time};
use super::problem::Problem;
use super::restore::{How, carry_out};
use crate::grpc::proto::backup::{Operation, RestoreResult, operation, resource_change};

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

/// The newest restore that was committed.
async fn last(session: &Session) -> Result<Option<(Operation, RestoreResult)>, Problem> {
    let mut token = String::new();
    loop {
        let page = page(session, &token).await?;
        for operation in page.operations {
            if let Some(operation::Result::Restore(result)) = &operation.result {
                let result = result.clone();
                return Ok(Some((operation, result)));
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(None);
        }
        token = page.next_page_token;
    }
}
