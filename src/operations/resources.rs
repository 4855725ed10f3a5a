//! What can be backed up, and whether it could be now.

use super::call::{ResourceState, SystemStatus};
use super::{Error, Holdfast, Result};
use crate::model::Notice;
use crate::model::backup::{Backup, State, Trigger};
use crate::model::catalog::Resource;
use crate::postgres;

impl Holdfast {
    /// The resources of the catalog as they are now.
    pub async fn list_resources(&self) -> Result<Vec<ResourceState>> {
        let parts = &self.0.parts;
        let schema = parts.state.inspect(&parts.catalog).await?;
        let items = parts.state.count_items(&parts.catalog).await?;
        let notices = parts.state.live_notices(&parts.catalog).await?;
        let state = |((resource, items), notices): ((&Resource, u64), Vec<Notice>)| ResourceState {
            resource: resource.clone(),
            depends_on: schema.depends_on(&resource.name).into_iter().collect(),
            items,
            notices,
        };
        Ok(parts.catalog.resources().iter().zip(items).zip(notices).map(state).collect())
    }

    /// Whether a backup or a restore would be accepted now, and if not, why. Answers with what it knows even when the
    /// volume does not work; without the database nothing is known, which is told at once.
    pub async fn system_status(&self) -> Result<SystemStatus> {
        let parts = &self.0.parts;
        let mut obstacles = Vec::new();
        obstacles.extend(self.accepting().err());
        obstacles.extend(self.check_volume().await.err());
        match parts.state.inspect(&parts.catalog).await {
            Err(error @ postgres::Error::Unavailable(_)) if error.passes() => return Err(error.into()),
            inspected => obstacles.extend(inspected.map_err(Error::from).err()),
        }
        obstacles.extend(self.lock_is_free().await.err());
        let obstacles: Vec<_> = obstacles.iter().map(Error::failure).collect();
        let mut backup_obstacles = obstacles.clone();
        backup_obstacles.extend(self.check_space().await.err().map(|error| error.failure()));
        backup_obstacles.extend(self.protection().await.err().map(|error| error.failure()));
        let volume = self.0.volume;
        let space = self.ask_volume(move |folder| folder.check(volume).and_then(|()| folder.space())).await.ok();
        let backups = parts.state.backups().await?;
        // One that came from elsewhere is as old as it is; it is the latest only where there is no other.
        let good = |backup: &&Backup| backup.state == State::Ready && backup.trigger != Trigger::Safety;
        let all = || backups.iter().map(|stored| &stored.backup).filter(good);
        let newest_data = || all().filter(|backup| backup.known()).max_by_key(|backup| backup.snapshot_time);
        let latest = all().find(|backup| backup.trigger.made_here()).or_else(newest_data);
        let encryption = self.encryption().await?.setting.value;
        let here = backups.iter().filter(|stored| stored.backup.state != State::Missing);
        Ok(SystemStatus {
            backup_obstacles,
            restore_obstacles: obstacles,
            active: parts.state.operations(100, None, true).await?,
            latest: latest.map(|backup| (backup.id.clone(), backup.snapshot_time)),
            next_run: self.schedule().await?.next_run,
            encryption_enabled: encryption.recipients || encryption.passphrase.is_some(),
            backup_count: backups.len() as u64,
            storage_total_bytes: space.map_or(0, |space| space.total),
            storage_available_bytes: space.map_or(0, |space| space.available),
            storage_used_bytes: here.map(|stored| stored.backup.size_bytes).sum(),
            system_id: self.0.system.id,
            archive: self.archive_facts().await?,
        })
    }
}
