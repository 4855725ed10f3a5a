//! The catalog of backups, as callers see it.

use std::collections::HashMap;

use super::call::{BackupChange, Caller, Listed, Page};
use super::signing::origin;
use super::{Error, Holdfast, Result};
use crate::model::BackupId;
use crate::model::backup::{Backup, State};
use crate::model::event::{Event, backup_name};
use crate::model::settings::{Encryption, Retention};
use crate::postgres::state::Stored;

impl Holdfast {
    /// Newest first; `after` is `next` of the page before.
    pub async fn list_backups(&self, page_size: u32, after: Option<i64>) -> Result<Page<Listed>> {
        let all = self.listed().await?;
        let total = all.len() as u64;
        let mut items: Vec<Listed> = all.into_iter().filter(|listed| after.is_none_or(|after| listed.sequence < after)).collect();
        let more = items.len() > page_size as usize;
        items.truncate(page_size as usize);
        let next = items.last().filter(|_| more).map(|listed| listed.sequence);
        Ok(Page { items, next, total })
    }

    pub async fn get_backup(&self, id: &BackupId) -> Result<Listed> {
        let found = self.listed().await?.into_iter().find(|listed| listed.backup.id == *id);
        found.ok_or_else(|| Error::BackupNotFound(id.clone()))
    }

    /// Changes what callers say of a backup. `revision`: refused when it is another one now.
    pub async fn update_backup(
        &self,
        caller: &Caller,
        id: &BackupId,
        change: BackupChange,
        revision: Option<i64>,
    ) -> Result<Listed> {
        let seen = self.0.parts.state.backup(id).await?.ok_or_else(|| Error::BackupNotFound(id.clone()))?;
        if revision.is_some_and(|revision| revision != seen.revision) {
            return Err(Error::EtagMismatch("the backup"));
        }
        if seen.backup.state == State::Deleting {
            return Err(Error::BackupNotReady(id.clone(), "it is being deleted".into()));
        }
        let description = change.description.unwrap_or_else(|| seen.backup.description.clone());
        let pinned = change.pinned.unwrap_or(seen.backup.pinned);
        if (&description, pinned) != (&seen.backup.description, seen.backup.pinned) {
            let event = Event::new("backup.updated", caller, backup_name(id))
                .with("pinned", pinned)
                .with("pinnedBefore", seen.backup.pinned)
                .with("description", &description);
            if !self.0.parts.state.describe_backup(&seen, &description, pinned, &event).await? {
                return Err(Error::EtagMismatch("the backup"));
            }
        }
        self.get_backup(id).await
    }

    pub(super) async fn listed(&self) -> Result<Vec<Listed>> {
        let state = &self.0.parts.state;
        let (retention, _) = state.setting::<Retention>("retention").await?;
        let (encryption, _) = state.setting::<Encryption>("encryption").await?;
        let trust = self.trust().await?;
        let stored = state.backups().await?;
        let max_count = retention.value.max_count;
        let backups: Vec<Backup> = stored.iter().map(|stored| stored.backup.clone()).collect();
        let counted = backups.iter().filter(|backup| backup.counts());
        let places: HashMap<&BackupId, u32> = counted.map(|backup| &backup.id).zip(1..).collect();
        let listed = |stored: Stored| Listed {
            position: places.get(&stored.backup.id).copied(),
            // The next backup takes one place.
            next_to_expire: places.get(&stored.backup.id).is_some_and(|place| *place >= max_count),
            current_passphrase: stored.backup.opens_with(encryption.value.passphrase, self.0.system.id),
            max_count,
            sequence: stored.sequence,
            register_time: stored.register_time,
            revision: stored.revision,
            archive_time: stored.archive_time,
            backup: Backup { origin: origin(&stored.backup, &trust), ..stored.backup },
        };
        Ok(stored.into_iter().map(listed).collect())
    }
}
