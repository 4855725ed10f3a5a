//! What is measured of the service.

use std::time::Duration;

use tokio::time::timeout;

use super::call::Figures;
use super::{Holdfast, Result, blocking};

/// Longest time to wait for a volume that may hang.
const VOLUME: Duration = Duration::from_secs(5);

impl Holdfast {
    pub async fn figures(&self) -> Result<Figures> {
        let state = &self.0.parts.state;
        let folder = self.0.parts.folder.clone();
        let space = timeout(VOLUME, blocking(move || folder.space())).await;
        let schedule = self.schedule().await?;
        let runs = state.slot_counts().await?;
        Ok(Figures {
            backups: state.backups().await?.into_iter().map(|stored| stored.backup).collect(),
            max_count: self.retention().await?.setting.value.max_count,
            schedule_enabled: schedule.setting.value.enabled,
            next_run: schedule.next_run,
            runs: runs.into_iter().filter_map(|(state, count)| Some((state, u64::try_from(count).ok()?))).collect(),
            encryption: self.encryption().await?.value,
            space: space.ok().and_then(|space| space.ok()?.ok()),
        })
    }
}
