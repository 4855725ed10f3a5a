//! A backup as the catalog knows it, and which ones retention gives up.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::manifest::{EndRecord, Manifest, PassphraseNote};
use super::name::{BackupId, FileName, OperationId, ResourceName, Sha256, TableName};
use super::verification::LastVerification;

/// What caused a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    OnDemand,
    Scheduled,
    /// Made just before a restore, so that it can be undone.
    Safety,
    /// Found in the folder, or in the archive.
    Imported,
    /// Sent by a caller.
    Uploaded,
}

impl Trigger {
    pub fn word(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Scheduled => "scheduled",
            Self::Safety => "safety",
            Self::Imported => "imported",
            Self::Uploaded => "uploaded",
        }
    }

    /// Whether this system made it, just then. A file that came from elsewhere may be of any age.
    pub fn made_here(self) -> bool {
        !matches!(self, Self::Imported | Self::Uploaded)
    }
}

/// Who wrote a file, as its signature tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// This system, or one whose certificate is trusted: the fingerprint of the key. Empty for a file of this system that was
    /// written before files were signed: the catalog knows its SHA-256.
    Native(String),
    /// Somebody else: the fingerprint of the key that it says it was signed with, or nothing where it was not signed.
    Foreign(Option<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The file is being written.
    Creating,
    /// Read back, proven and durable.
    Ready,
    /// Damage was found.
    Invalid,
    /// No longer on the volume.
    Missing,
    /// The file is being removed.
    Deleting,
}

/// One backup: a file, and what is known of it. Of an encrypted one that came from elsewhere some is not, until somebody
/// opens it (`learn`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub id: BackupId,
    /// `None`: it was not opened yet.
    pub uid: Option<Uuid>,
    pub state: State,
    pub trigger: Trigger,
    pub description: String,
    pub creator: String,
    /// The operation that made it here.
    pub operation: Option<OperationId>,
    pub create_time: DateTime<Utc>,
    pub snapshot_time: Option<DateTime<Utc>>,
    /// When the file was complete, proven and durable, where it was made here.
    pub complete_time: Option<DateTime<Utc>>,
    pub file_name: FileName,
    pub size_bytes: u64,
    pub sha256: Sha256,
    /// Which passphrase opens it, where it is encrypted and that is known: one of the system that it comes from.
    pub passphrase: Option<PassphraseNote>,
    /// The passphrase of this system that was in use when it was last seen to open it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_by: Option<PassphraseNote>,
    /// Who opens it with a secret key, where that is known: fingerprints of certificates, or key ids before it was opened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// No passphrase opens it, only the secret key of a recipient.
    #[serde(default)]
    pub write_only: bool,
    pub resources: Vec<ResourceContent>,
    /// Empty: not known.
    pub format_version: String,
    pub source_system: Option<Uuid>,
    /// `None`: it was not read to its end yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// One sentence on why it is in its state.
    pub state_detail: String,
    pub pinned: bool,
    #[serde(default)]
    pub last_verification: Option<LastVerification>,
}

/// The part of a file that belongs to one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceContent {
    pub name: ResourceName,
    pub title: String,
    pub items: u64,
    /// Before compression.
    pub bytes: u64,
}

/// Safety backups that are kept.
pub const SAFETY_BACKUPS: usize = 3;

impl Backup {
    /// A whole file, of which no more is known than its name and its digest.
    pub fn found(file_name: FileName, size_bytes: u64, sha256: Sha256, creator: &str) -> Self {
        Self {
            id: file_name.id().clone(),
            uid: None,
            state: State::Ready,
            trigger: Trigger::Imported,
            description: String::new(),
            creator: creator.to_owned(),
            operation: None,
            create_time: file_name.id().time(),
            snapshot_time: None,
            complete_time: None,
            file_name,
            size_bytes,
            sha256,
            passphrase: None,
            opened_by: None,
            recipients: Vec::new(),
            write_only: false,
            resources: Vec::new(),
            format_version: String::new(),
            source_system: None,
            origin: None,
            state_detail: String::new(),
            pinned: false,
            last_verification: None,
        }
    }

    /// Takes over what a file that was read to its end says of itself. What callers have said of it since stays.
    pub fn learn(&mut self, manifest: &Manifest, end: &EndRecord, origin: Origin) {
        let tally = |name: &TableName| end.tables.iter().find(|table| table.name == *name).map(|table| table.tally);
        let contents = manifest.resources.iter().map(|resource| ResourceContent {
            name: resource.name.clone(),
            title: resource.title.clone(),
            items: resource.tables.first().and_then(tally).unwrap_or_default().rows,
            bytes: resource.tables.iter().filter_map(tally).map(|tally| tally.bytes).sum(),
        });
        self.resources = contents.collect();
        self.uid = Some(manifest.uid);
        // Whether it has a place among those that are kept does not depend on how it came into the catalog.
        if manifest.trigger == Trigger::Safety {
            self.trigger = Trigger::Safety;
        }
        if self.description.is_empty() {
            self.description.clone_from(&manifest.description);
        }
        self.create_time = manifest.create_time;
        self.snapshot_time = Some(manifest.snapshot_time);
        self.passphrase = manifest.passphrase;
        self.recipients.clone_from(&manifest.recipients);
        self.write_only = manifest.encrypted() && manifest.passphrase.is_none();
        self.format_version = manifest.format_version.to_string();
        self.source_system = Some(manifest.system_id);
        self.origin = Some(origin);
    }

    /// Whether this system wrote it: the catalog has its SHA-256 from then.
    pub fn written_here(&self) -> bool {
        self.operation.is_some()
    }

    pub fn encrypted(&self) -> bool {
        self.file_name.encrypted()
    }

    /// Whether the passphrase in use on this system opens it, as far as that is known: because it was made here with it, or
    /// because it did. Generations are counted by each system for itself, so that the number alone says nothing.
    pub fn opens_with(&self, present: Option<PassphraseNote>, system: Uuid) -> bool {
        let native = self.source_system == Some(system) && self.passphrase == present;
        present.is_some() && self.encrypted() && (native || self.opened_by == present)
    }

    /// Whether it is known what is in it: it was made here, or opened since.
    pub fn known(&self) -> bool {
        self.uid.is_some()
    }

    /// Whether retention counts it: usable, not pinned, and not one that only undoes a restore. Of a file from elsewhere that
    /// nobody has opened yet it is not known that it is a backup, and it takes the place of none.
    pub fn counts(&self) -> bool {
        self.state == State::Ready && self.known() && !self.pinned && self.trigger != Trigger::Safety
    }
}

/// Which safety backups are superfluous, oldest first. They neither take the place of other backups nor give theirs up.
pub fn expired_safety(newest_first: &[Backup]) -> Vec<BackupId> {
    let safety = |backup: &&Backup| backup.state == State::Ready && !backup.pinned && backup.trigger == Trigger::Safety;
    oldest_first(newest_first.iter().filter(safety).skip(SAFETY_BACKUPS))
}

/// Which backups the next successful one makes superfluous, oldest first.
///
/// `newest_first` is the catalog in the order in which files entered it, the newest one being proven good. Pinned
/// backups neither count nor go; the newest proven one always stays, and files that are damaged or missing do not take
/// the place of good ones.
pub fn expired(newest_first: &[Backup], keep: usize) -> Vec<BackupId> {
    oldest_first(newest_first.iter().filter(|backup| backup.counts()).skip(keep.max(1)))
}

/// Bytes that the next file is expected to take: a quarter more than the largest of the newest three that were made here.
/// Nothing before the first: there is no telling.
pub fn expected_size(newest_first: &[Backup]) -> u64 {
    let made_here = newest_first.iter().filter(|backup| backup.operation.is_some() && backup.state == State::Ready);
    made_here.take(3).map(|backup| backup.size_bytes + backup.size_bytes / 4).max().unwrap_or_default()
}

fn oldest_first<'a>(newest_first: impl Iterator<Item = &'a Backup>) -> Vec<BackupId> {
    let mut ids: Vec<BackupId> = newest_first.map(|backup| backup.id.clone()).collect();
    ids.reverse();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backups(states: &[State]) -> Vec<Backup> {
        let time = DateTime::from_timestamp(1_772_326_800, 0).unwrap();
        let backup = |(place, &state): (usize, &State)| {
            let id = BackupId::new(time, Uuid::from_u128(place as u128));
            let found = Backup::found(FileName::new(id, Sha256([0; 32]), false), 1, Sha256([0; 32]), "");
            Backup { state, trigger: Trigger::OnDemand, uid: Some(Uuid::nil()), ..found }
        };
        states.iter().enumerate().map(backup).collect()
    }

    #[test]
    fn the_oldest_go_first_and_only_beyond_the_limit() {
        let all = backups(&[State::Ready; 5]);
        assert_eq!(expired(&all, 3), [all[4].id.clone(), all[3].id.clone()]);
        assert!(expired(&all, 5).is_empty());
        assert!(expired(&[], 3).is_empty());
    }

    #[test]
    fn s01_damaged_files_never_push_out_a_good_one() {
        let mut states = [State::Invalid; 30];
        states[29] = State::Ready;
        assert!(expired(&backups(&states), 1).is_empty());
    }

    #[test]
    fn s04_files_that_nobody_could_open_yet_push_out_no_other() {
        let mut all = backups(&[State::Ready; 5]);
        for backup in &mut all[0..3] {
            backup.uid = None;
        }
        assert!(expired(&all, 2).is_empty());
        assert_eq!(expired(&all, 1), [all[4].id.clone()]);
    }

    #[test]
    fn s03_a_limit_of_zero_keeps_the_newest() {
        let all = backups(&[State::Ready; 3]);
        assert_eq!(expired(&all, 0), expired(&all, 1));
        assert!(!expired(&all, 0).contains(&all[0].id));
    }

    #[test]
    fn r11_safety_backups_are_apart_and_the_newest_three_stay() {
        let mut all = backups(&[State::Ready; 7]);
        all[0].trigger = Trigger::Safety;
        for backup in &mut all[2..6] {
            backup.trigger = Trigger::Safety;
        }
        assert_eq!(expired_safety(&all), [all[5].id.clone(), all[4].id.clone()]);
        assert_eq!(expired(&all, 1), [all[6].id.clone()]);
        assert!(expired(&all, 2).is_empty());
    }

    #[test]
    fn f04_the_next_file_is_expected_to_be_like_the_last_ones() {
        assert_eq!(expected_size(&[]), 0);
        let mut all = backups(&[State::Ready; 5]);
        for (backup, size) in all.iter_mut().zip([8 << 20, 16 << 20, 4 << 20, 1 << 30, 1 << 30]) {
            (backup.operation, backup.size_bytes) = (Some(OperationId(Uuid::nil())), size);
        }
        assert_eq!(expected_size(&all), 20 << 20);
        // One that was copied in tells nothing of this system, and neither does a damaged one.
        (all[1].operation, all[2].state) = (None, State::Invalid);
        assert_eq!(expected_size(&all), (1 << 30) + (1 << 28));
    }

    #[test]
    fn c06_a_generation_of_another_system_is_not_the_passphrase_in_use_here_unless_it_opened() {
        let note = |generation, time| Some(PassphraseNote { generation, set_time: DateTime::from_timestamp(time, 0).unwrap() });
        let (here, elsewhere) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut file = backups(&[State::Ready]).remove(0);
        file.file_name = FileName::new(file.id.clone(), Sha256([0; 32]), true);
        assert!(!file.opens_with(None, here) && !file.opens_with(note(1, 7), here));
        (file.passphrase, file.source_system) = (note(1, 7), Some(here));
        assert!(file.opens_with(note(1, 7), here));
        assert!(!file.opens_with(note(2, 8), here) && !file.opens_with(note(1, 8), here) && !file.opens_with(None, here));
        file.source_system = Some(elsewhere);
        assert!(!file.opens_with(note(1, 7), here));
        file.opened_by = note(3, 9);
        assert!(file.opens_with(note(3, 9), here) && !file.opens_with(note(4, 10), here));
    }

    #[test]
    fn pinned_backups_neither_count_nor_go() {
        let mut all = backups(&[State::Ready; 4]);
        all[3].pinned = true;
        all[0].pinned = true;
        assert_eq!(expired(&all, 1), [all[2].id.clone()]);
    }
}
