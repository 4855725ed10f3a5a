//! What keeps work from being started although nothing is broken: no room for its file, or too much before it.

use std::time::Duration;

use super::{Error, Holdfast, Result};
use crate::model::backup::{Backup, Trigger, expected_size};
use crate::model::schedule::Driver;

/// What callers may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most backups that they may make within an hour; `None`: any number.
    pub backups_per_hour: Option<u32>,
    /// Largest file that is taken in.
    pub upload_bytes: u64,
    /// How long a transfer may stand still. HTTP/2 makes a slow one come in bursts of half a window of the client, some of
    /// which have 2 MiB: at the least rate that is every 105 s.
    pub patience: Duration,
}

impl Holdfast {
    /// That the next backup fits on the volume, as far as the last ones tell.
    pub(super) async fn check_space(&self) -> Result<()> {
        let backups: Vec<Backup> = self.0.parts.state.backups().await?.into_iter().map(|stored| stored.backup).collect();
        self.check_space_for(expected_size(&backups)).await
    }

    /// That so many bytes fit. Nothing is deleted to make room.
    pub(super) async fn check_space_for(&self, needed: u64) -> Result<()> {
        let available = self.ask_volume(|folder| folder.space()).await?.available;
        if needed > available { Err(Error::NoSpace { needed, available }) } else { Ok(()) }
    }

    /// That callers have not made as many backups as they may, on demand or as those who drive the schedule: each of them can
    /// cost an older one its place. Whoever has the lock is told for sure; before that it is a look.
    pub(super) async fn check_rate(&self, trigger: Trigger) -> Result<()> {
        let Some(limit) = self.0.parts.limits.backups_per_hour else { return Ok(()) };
        if trigger == Trigger::Scheduled && self.0.parts.driver == Driver::Internal {
            return Ok(());
        }
        match self.0.parts.state.until_fewer_than(trigger, limit).await? {
            None => Ok(()),
            Some(wait) => Err(Error::TooManyBackups { limit, wait }),
        }
    }
}
