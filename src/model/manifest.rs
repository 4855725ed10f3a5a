//! What a backup file says about itself: `manifest.json` before the data, `end.json` behind it.
//!
//! Field names are the file format and change only with its version.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::backup::Trigger;
use super::chain::Head;
use super::copy::{CopyFormat, Tally};
use super::name::{BackupId, ResourceName, Sha256, TableName};
use super::trace::TraceId;

/// Version of the file format. A reader accepts its own major version only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FormatVersion {
    pub major: u16,
    pub minor: u16,
}

impl FormatVersion {
    /// The version that this program writes.
    pub const PRESENT: Self = Self { major: 1, minor: 1 };
    /// From this one on a file may be signed, and `end.json` has the SHA-256 of each table.
    pub const SIGNED: Self = Self { major: 1, minor: 1 };

    pub fn readable(self) -> bool {
        self.major == Self::PRESENT.major && self <= Self::PRESENT
    }
}

impl std::fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for FormatVersion {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FormatVersion {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self { major: number(major)?, minor: number(minor)? }))
            .ok_or_else(|| serde::de::Error::custom("a format version is MAJOR.MINOR"))
    }
}

/// Everything needed to decide whether and how to restore, before the first row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format_version: FormatVersion,
    pub backup: BackupId,
    /// Stays with the file over download and import.
    pub uid: Uuid,
    pub trigger: Trigger,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When the backup was asked for.
    pub create_time: DateTime<Utc>,
    /// The data is that of this time.
    pub snapshot_time: DateTime<Utc>,
    /// The system that the data comes from.
    pub system_id: Uuid,
    /// The program that wrote the file, for example `holdfast 0.1.0`.
    pub writer: String,
    /// Version of the PostgreSQL server, for example `15.18`.
    pub server_version: String,
    /// `None`: no passphrase opens the file.
    pub passphrase: Option<PassphraseNote>,
    /// Fingerprints of the OpenPGP certificates whose secret keys open the file as well. Without these and without a passphrase
    /// it is not encrypted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// The end of the system's audit log when the file was begun: a copy of the file elsewhere proves that the log had it.
    /// Files of old do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Head>,
    /// The trace in which it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
    pub resources: Vec<ResourceEntry>,
    pub tables: Vec<TableEntry>,
}

/// Which passphrase opens a file. Not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseNote {
    /// 1 for the first passphrase ever set on the system, and so on.
    pub generation: u32,
    pub set_time: DateTime<Utc>,
}

/// A resource and its tables, in the order of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceEntry {
    pub name: ResourceName,
    pub title: String,
    /// The first one holds the items that are counted.
    pub tables: Vec<TableName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sequences: Vec<TableName>,
}

/// One table as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    pub name: TableName,
    /// Folder of its members in the archive.
    pub path: String,
    pub format: CopyFormat,
    /// In the order in which COPY writes them; generated columns are left out.
    pub columns: Vec<ColumnEntry>,
    /// Names of the columns that tell its rows apart; empty for a table without a key.
    pub key: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnEntry {
    pub name: String,
    /// As `format_type` gives it with an empty search path, for example `character varying(64)`, `platform.state`.
    #[serde(rename = "type")]
    pub type_name: String,
}

/// What the data added up to. A file without it is cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    pub manifest_sha256: Sha256,
    /// One for each table of the manifest, in its order.
    pub tables: Vec<TableEnd>,
    pub sequences: Vec<SequenceState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEnd {
    pub name: TableName,
    #[serde(flatten)]
    pub tally: Tally,
    /// Of its members, one after the other. The digest beside it is a sum, and who chooses many rows finds others with the same one:
    /// this is what a signature holds to. `None` before format 1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
}

/// A sequence, read after the data: no row of the file has a higher number from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceState {
    pub name: TableName,
    pub last_value: i64,
    /// Whether `last_value` has been given out.
    pub is_called: bool,
}

impl Manifest {
    pub fn encrypted(&self) -> bool {
        self.passphrase.is_some() || !self.recipients.is_empty()
    }

    /// The text of `manifest.json`.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
    }

    /// Whether its parts agree: each table belongs to one resource and has the folder that its name and place give it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let mut owners = HashMap::new();
        for resource in &self.resources {
            for table in &resource.tables {
                if owners.insert(table, &resource.name).is_some() {
                    return Err("a table belongs to its resources twice");
                }
            }
        }
        for (place, table) in self.tables.iter().enumerate() {
            let resource = owners.remove(&table.name).ok_or("a table belongs to no resource, or stands in it twice")?;
            if table.path != Self::member_folder(resource, &table.name, place) {
                return Err("a table has another folder than its name gives it");
            }
        }
        if owners.is_empty() { Ok(()) } else { Err("a table of a resource is missing") }
    }

    /// Folder for the members of a table. Only characters that every file system takes; a name that has others, is long
    /// or has a dot of its own (`a.b` in `c` is not `b.c` in `a`) is told apart by the table's place in the manifest.
    pub fn member_folder(resource: &ResourceName, table: &TableName, place: usize) -> String {
        let name = format!("{}.{}", table.schema, table.name);
        let safe = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' };
        let cleaned: String = name.chars().take(60).map(safe).collect();
        let dotted = table.schema.contains('.') || table.name.contains('.');
        if cleaned == name && !dotted {
            format!("data/{resource}/{cleaned}")
        } else {
            format!("data/{resource}/{cleaned}~{place}")
        }
    }

    /// Name of the nth member of a table.
    pub fn member_name(folder: &str, number: usize) -> String {
        format!("{folder}/{number:05}.copy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_versions_compare_as_numbers() {
        let version = |text: &str| serde_json::from_str::<FormatVersion>(&format!("{text:?}"));
        assert!(version("1.0").unwrap().readable());
        assert!(version("1.1").unwrap().readable());
        assert!(!version("1.2").unwrap().readable());
        assert!(!version("2.0").unwrap().readable());
        for text in ["", "1", "1.", "+1.0", "1.0.0", "a.b"] {
            assert!(version(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_that_no_file_system_takes_still_have_a_folder_of_their_own() {
        let resource: ResourceName = "odd".parse().unwrap();
        let folder = |name: &str, place| Manifest::member_folder(&resource, &TableName::new("platform", name), place);
        assert_eq!(folder("account", 0), "data/odd/platform.account");
        assert_eq!(folder("Audit Trail", 1), "data/odd/platform.Audit_Trail~1");
        assert_eq!(folder("../../x", 2), "data/odd/platform..._.._x~2");
        assert!(folder(&"x".repeat(63), 3).len() < 100);
        let dotted = |schema, name| Manifest::member_folder(&resource, &TableName::new(schema, name), 4);
        assert_ne!(dotted("a.b", "c"), Manifest::member_folder(&resource, &TableName::new("a", "b.c"), 5));
        assert_eq!(dotted("a.b", "c"), "data/odd/a.b.c~4");
    }
}
