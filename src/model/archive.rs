//! What is known of the archive, the second place of the files.

use chrono::{DateTime, Utc};

use super::failure::Failure;

/// How the archive is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveFacts {
    /// Where it is. Has no secret in it.
    pub url: String,
    /// Backups whose file was proven in it.
    pub count: u64,
    /// Data of this time is in it: the newest snapshot of them.
    pub newest_snapshot_time: Option<DateTime<Utc>>,
    /// Backups that wait to be copied.
    pub backlog: u64,
    /// Since when the one waits that waits longest.
    pub oldest_waiting_time: Option<DateTime<Utc>>,
    /// Why it fails, and since when; `None`: it works.
    pub failure: Option<(Failure, DateTime<Utc>)>,
}
