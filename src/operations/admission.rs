//! What keeps a backup from being started although nothing is broken: no room for its file, or too many before it.

use super::{Error, Holdfast, Result, blocking};
use crate::model::backup::{Backup, expected_size};

impl Holdfast {
    /// That the next file fits on the volume, as far as the last ones tell. Nothing is deleted to make room.
    pub(super) async fn check_space(&self) -> Result<()> {
        let folder = self.0.parts.folder.clone();
        let available = blocking(move || folder.space()).await??.available;
        let backups: Vec<Backup> = self.0.parts.state.backups().await?.into_iter().map(|stored| stored.backup).collect();
        let needed = expected_size(&backups);
        if needed > available { Err(Error::NoSpace { needed, available }) } else { Ok(()) }
    }

    /// That callers have not made as many backups as they may: each of them can cost an older one its place. Whoever has the
    /// lock is told for sure; before that it is a look.
    pub(super) async fn check_rate(&self) -> Result<()> {
        let Some(limit) = self.0.parts.backups_per_hour else { return Ok(()) };
        match self.0.parts.state.until_fewer_than(limit).await? {
            None => Ok(()),
            Some(wait) => Err(Error::TooManyBackups { limit, wait }),
        }
    }
}
