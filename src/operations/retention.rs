//! Deleting backups: those that retention gives up, and those that a caller names.
//!
//! The catalog says DELETING first, then the file goes, then the row; an interruption is finished at the next start. What is in
//! the archive stays there and in the catalog: nobody who calls can delete from the archive.

use std::collections::HashMap;

use super::call::Caller;
use super::{Error, Holdfast, Result};
use crate::model::BackupId;
use crate::model::backup::{Backup, State, expired, expired_safety};
use crate::model::event::{Event, backup_name};
use crate::model::settings::Retention;

impl Holdfast {
    /// Deletes what the limit makes superfluous, after a backup that succeeded. What is in use or cannot be removed is left for
    /// the next time; that never fails the backup.
    pub(super) async fn expire(&self) -> Result<(Vec<BackupId>, Vec<BackupId>)> {
        let (retention, _) = self.0.parts.state.setting::<Retention>("retention").await?;
        let keep = retention.value.max_count as usize;
        self.remove_all(|backups| expired(backups, keep)).await
    }

    /// Deletes safety backups but the newest ones, after a restore that made one.
    pub(super) async fn expire_safety(&self) -> Result<()> {
        self.remove_all(expired_safety).await.map(|_| ())
    }

    /// Deletes what it can of what is superfluous; the second answer is what it could not. What was pinned or changed since it
    /// was looked at stays.
    async fn remove_all(&self, superfluous: impl Fn(&[Backup]) -> Vec<BackupId>) -> Result<(Vec<BackupId>, Vec<BackupId>)> {
        let retainer = super::internal("retention");
        let stored = self.0.parts.state.backups().await?;
        let revisions: HashMap<BackupId, i64> = stored.iter().map(|stored| (stored.backup.id.clone(), stored.revision)).collect();
        let backups: Vec<Backup> = stored.into_iter().map(|stored| stored.backup).collect();
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        for id in superfluous(&backups) {
            match self.remove(&id, State::Ready, revisions.get(&id).copied(), ("backup.expired", &retainer)).await {
                Ok(()) => gone.push(id),
                Err(error) => {
                    tracing::warn!(backup = %id, %error, "a backup beyond the limit could not be deleted yet");
                    left.push(id);
                }
            }
        }
        Ok((gone, left))
    }

    /// Deletes a backup and its file, for good. `revision`: refused when it is another one now.
    pub async fn delete_backup(&self, caller: &Caller, id: &BackupId, revision: Option<i64>) -> Result<()> {
        let stored = self.0.parts.state.backup(id).await?.ok_or_else(|| Error::BackupNotFound(id.clone()))?;
        if revision.is_some_and(|revision| revision != stored.revision) {
            return Err(Error::EtagMismatch("the backup"));
        }
        if stored.backup.state == State::Creating {
            return Err(Error::BackupInUse(id.clone()));
        }
        if stored.backup.state == State::Missing && stored.archive_time.is_some() && self.0.parts.archive.is_some() {
            let problem = "its file is in the archive only, from where no call deletes".to_owned();
            return Err(Error::BackupNotReady(id.clone(), problem));
        }
        self.remove(id, stored.backup.state, revision, ("backup.deleted", caller)).await?;
        tracing::info!(backup = %id, caller = caller.principal(), "backup deleted");
        Ok(())
    }

    /// Removes a backup that is in `state` and of this `revision`; the event says what it is and who did it.
    pub(super) async fn remove(
        &self,
        id: &BackupId,
        state: State,
        revision: Option<i64>,
        (kind, caller): (&str, &Caller),
    ) -> Result<()> {
        let parts = &self.0.parts;
        let _removal = self.0.in_use.remove(id).ok_or_else(|| Error::BackupInUse(id.clone()))?;
        let Some(stored) = parts.state.backup(id).await? else { return Ok(()) };
        // Readers in other processes.
        if parts.state.is_read(id).await? {
            return Err(Error::BackupInUse(id.clone()));
        }
        let event = Event::new(kind, caller, backup_name(id)).with("fileName", &stored.backup.file_name);
        let states = (state, State::Deleting);
        if state != State::Deleting && !parts.state.move_backup(id, states, revision, "", &event).await? {
            return Err(Error::BackupInUse(id.clone()));
        }
        let name = stored.backup.file_name;
        self.ask_volume(move |folder| folder.remove(&name)).await?;
        self.leave(id, State::Deleting).await
    }
}
