//! The safety backup: a file with the data as it is just before a restore changes it. Restoring it undoes the restore.
//!
//! It is made while the tables are locked, so nothing can happen between it and the restore. A restore that does not take
//! place leaves none: it would push out one that undoes a restore which did.

use std::sync::Arc;

use tokio::time::timeout;

use super::backup::Made;
use super::recovery::VOLUME;
use super::works::Work;
use super::{Error, Holdfast, Result};
use crate::model::backup::Trigger;
use crate::model::operation::{Operation, Phase};
use crate::model::{BackupId, OperationId};
use crate::postgres::state::Stored;

impl Holdfast {
    /// Makes one for the restore `about`.
    ///
    /// # Errors
    /// Whatever a backup fails with, and that the restore can be made without one.
    pub(super) async fn make_safety_backup(&self, work: &Arc<Work>, about: &Operation, source: &BackupId) -> Result<BackupId> {
        work.phase(Phase::SafetyBackup, "Makes a backup of the present state.");
        let description = format!("before the restore of {source}");
        let made = async {
            let Made { backup, draft, .. } = self.make(work, about, Trigger::Safety, &description).await?;
            self.publish(work, backup, draft).await
        };
        match made.await {
            Ok(backup) => Ok(backup.id),
            Err(error @ (Error::Cancelled | Error::Interrupted | Error::Lock(_) | Error::TimedOut)) => Err(error),
            Err(error) => Err(Error::NoSafetyBackup(Box::new(error))),
        }
    }

    /// Removes the safety backup of a restore that did not take place, and that nobody works on any more. One that is in use,
    /// or on a volume that does not work, keeps nobody from learning how the restore ended.
    pub(super) async fn discard_safety_backup(&self, restore: OperationId) -> Result<()> {
        let Some(Stored { backup, .. }) = self.0.parts.state.backup_of(restore).await? else { return Ok(()) };
        let retainer = super::internal("retention");
        let removed = timeout(VOLUME, self.remove(&backup.id, backup.state, None, ("backup.expired", &retainer))).await;
        match removed.unwrap_or_else(|_| Err(Error::TimedOut)) {
            Err(Error::BackupInUse(id)) => {
                tracing::warn!(backup = %id, "a safety backup that undoes nothing is in use and stays")
            }
            // It is marked as deleted; whoever tidies the folder finishes it.
            Err(error @ (Error::Folder(_) | Error::TimedOut)) => {
                tracing::warn!(%error, "a safety backup that undoes nothing could not be removed yet");
            }
            removed => removed?,
        }
        Ok(())
    }
}
