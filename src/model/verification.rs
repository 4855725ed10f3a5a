//! What a verification of a backup looked at, and what it found.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::name::{BackupId, OperationId};
use super::notice::Notice;

/// How deep a verification goes. Each level includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyLevel {
    /// The file is there and its SHA-256 is that of its name. Needs no passphrase.
    Checksum,
    /// It opens, and everything in it holds.
    Contents,
    /// It can be restored: done in a transaction that is rolled back.
    Rehearsal,
}

impl VerifyLevel {
    pub fn word(self) -> &'static str {
        match self {
            Self::Checksum => "CHECKSUM",
            Self::Contents => "CONTENTS",
            Self::Rehearsal => "REHEARSAL",
        }
    }
}

/// One thing that was looked at. The names are published (`VerifyResult.Check`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// It is on the volume.
    File,
    Sha256,
    /// It begins as a backup file does.
    Header,
    /// It is decrypted to its end, and nobody altered it.
    OpenpgpIntegrity,
    /// Everything that belongs into a backup file is in it, in its order.
    Structure,
    /// Rows and digests of each table are those that were written.
    ResourceDigests,
    /// The tables of the database take what it has.
    Schema,
    Rehearsal,
}

impl Aspect {
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Sha256 => "sha256",
            Self::Header => "header",
            Self::OpenpgpIntegrity => "openpgp-integrity",
            Self::Structure => "structure",
            Self::ResourceDigests => "resource-digests",
            Self::Schema => "schema",
            Self::Rehearsal => "rehearsal",
        }
    }

    /// Whether a file that fails here is damaged. The others fail for what the database is now.
    pub fn of_the_file(self) -> bool {
        self.level() < VerifyLevel::Rehearsal
    }

    /// The verifications that look at it.
    pub fn level(self) -> VerifyLevel {
        match self {
            Self::File | Self::Sha256 | Self::Header => VerifyLevel::Checksum,
            Self::OpenpgpIntegrity | Self::Structure | Self::ResourceDigests => VerifyLevel::Contents,
            Self::Schema | Self::Rehearsal => VerifyLevel::Rehearsal,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub aspect: Aspect,
    pub passed: bool,
    /// One sentence.
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub backup: BackupId,
    pub level: VerifyLevel,
    /// In their order. The first that fails is the last.
    pub checks: Vec<Check>,
    pub notices: Vec<Notice>,
}

impl Verification {
    pub fn valid(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// What is wrong with the file itself, if anything is.
    pub fn damage(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.passed && check.aspect.of_the_file())
    }
}

/// The newest verification of a backup, as its entry keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerification {
    pub level: VerifyLevel,
    pub valid: bool,
    pub time: DateTime<Utc>,
    /// `None`: the scrub.
    pub operation: Option<OperationId>,
    /// What is known to be wrong with the file, from this one or one before that looked deeper.
    #[serde(default)]
    pub damage: Option<Check>,
}
