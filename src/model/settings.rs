//! Settings that callers change while the service runs. They live in the database and survive restarts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::manifest::PassphraseNote;

/// A setting with what is known of its last change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting<T> {
    pub value: T,
    /// Grows with every change; callers send it back to be told of changes by others.
    pub revision: i64,
    /// `None`: never changed by a caller.
    pub update_time: Option<DateTime<Utc>>,
    pub updater: String,
}

/// How many backups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    pub max_count: u32,
}

impl Retention {
    pub const RANGE: std::ops::RangeInclusive<u32> = 1..=1000;
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_count: 30 }
    }
}

/// A certificate whose secret key, kept off-line, opens new backups. It is configured, and no caller changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// In hexadecimal digits.
    pub fingerprint: String,
    /// Whose it is, as it says itself; empty: it does not.
    pub user_id: String,
    /// From then on nobody should encrypt to it.
    pub expire_time: Option<DateTime<Utc>>,
}

/// A key that files are, or were, signed with. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyNote {
    /// In hexadecimal digits.
    pub fingerprint: String,
    pub create_time: DateTime<Utc>,
    /// Who had it made.
    pub creator: String,
    /// OpenPGP, armored.
    pub certificate: Vec<u8>,
    /// Whether new files are signed with it.
    pub in_use: bool,
}

/// How new backups are encrypted. Holds no secret: the passphrase rests sealed beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// `None`: no passphrase opens new backups.
    pub passphrase: Option<PassphraseNote>,
    /// Number of the last passphrase ever set; 0 when there has never been one.
    pub last_generation: u32,
    /// Whether there were recipients when it was last changed. When they are gone by accident, and there is no passphrase, new
    /// backups would silently be plain: they are refused instead.
    #[serde(default)]
    pub recipients: bool,
}
