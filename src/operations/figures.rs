//! What is measured of the service.

use std::time::Duration;

use super::call::Figures;
use tokio::time::timeout;

use super::{Holdfast, Result};
use crate::folder::Folder;
use crate::model::backup::State;

/// Whoever asks does not wait for a volume that hangs.
const VOLUME: Duration = Duration::from_secs(2);

impl Holdfast {
    /// How old the data in the newest good backup is, of those that were asked for or planned. `None`: there is none.
    pub async fn newest_backup_age(&self) -> Result<Option<Duration>> {
        Ok(self.0.parts.state.newest_backup_age().await?)
    }

    pub async fn figures(&self) -> Result<Figures> {
        let state = &self.0.parts.state;
        // Of the volume, and not of what is below its mount point.
        let volume = self.0.volume;
        let look = move |folder: &Folder| folder.check(volume).and_then(|()| folder.space());
        let space = timeout(VOLUME, self.ask_volume(look)).await;
        let schedule = self.schedule().await?;
        let runs = state.slot_counts().await?;
        let encryption = self.encryption().await?.setting.value;
        let stored = state.backups().await?;
        let left = stored.iter().filter(|stored| stored.backup.state == State::Missing && stored.archive_time.is_some());
        let only_archived = left.count() as u64;
        Ok(Figures {
            backups: stored.into_iter().map(|stored| stored.backup).collect(),
            only_archived,
            archive: self.archive_facts().await?,
            max_count: self.retention().await?.setting.value.max_count,
            schedule_enabled: schedule.setting.value.enabled,
            next_run: schedule.next_run,
            runs: runs.into_iter().filter_map(|(state, count)| Some((state, u64::try_from(count).ok()?))).collect(),
            refusals: self.0.refusals.counts(),
            encrypted: !self.0.parts.recipients.is_empty() || encryption.passphrase.is_some(),
            passphrase_generation: encryption.passphrase.map_or(0, |note| note.generation),
            space: space.ok().and_then(Result::ok),
        })
    }
}
