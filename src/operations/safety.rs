//! The safety backup: a file with the data as it is just before a restore changes it. Restoring it undoes the restore.
//!
//! It is made while the tables are locked, so nothing can happen between it and the restore. A restore that does not take
//! place leaves none: it would push out one that undoes a restore which did.

use std::sync::Arc;

use super::backup::Made;
use super::call::Caller;
use super::works::Work;
use super::{Error, Holdfast, Result};
use crate::model::backup::Trigger;
use crate::model::operation::{Operation, Phase};
use crate::model::{BackupId, OperationId};

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

    /// Removes the safety backup of a restore that did not take place, and that nobody works on any more.
    pub(super) async fn discard_safety_backup(&self, restore: OperationId) -> Result<()> {
        let Some(stored) = self.0.parts.state.backup_of(restore).await? else { return Ok(()) };
        self.remove(&stored.backup.id, stored.backup.state, ("backup.expired", &Caller::internal("retention"))).await
    }
}
