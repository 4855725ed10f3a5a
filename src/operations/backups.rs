//! The catalog of backups, as callers see it.

use std::collections::HashMap;

use super::call::{Listed, Page};
use super::{Error, Holdfast, Result};
use crate::model::BackupId;
use crate::model::backup::Backup;
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

    pub(super) async fn listed(&self) -> Result<Vec<Listed>> {
        let state = &self.0.parts.state;
        let (retention, _) = state.setting::<Retention>("retention").await?;
        let (encryption, _) = state.setting::<Encryption>("encryption").await?;
        let stored = state.backups().await?;
        let max_count = retention.value.max_count;
        let backups: Vec<Backup> = stored.iter().map(|stored| stored.backup.clone()).collect();
        let counted = backups.iter().filter(|backup| backup.counts());
        let places: HashMap<&BackupId, u32> = counted.map(|backup| &backup.id).zip(1..).collect();
        let listed = |stored: Stored| Listed {
            position: places.get(&stored.backup.id).copied(),
            // The next backup takes one place.
            next_to_expire: places.get(&stored.backup.id).is_some_and(|place| *place >= max_count),
            current_passphrase: stored.backup.passphrase.is_some()
                && stored.backup.source_system == self.0.system.id
                && stored.backup.passphrase == encryption.value.passphrase,
            max_count,
            sequence: stored.sequence,
            register_time: stored.register_time,
            revision: stored.revision,
            backup: stored.backup,
        };
        Ok(stored.into_iter().map(listed).collect())
    }
}
