//! Names and identifiers. A value of these types is well formed; text that is not never becomes one.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Text that is not the name it should be. `Display` says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}")]
pub struct Malformed {
    pub found: String,
    pub expected: &'static str,
}

pub(super) fn malformed<T>(found: &str, expected: &'static str) -> Result<T, Malformed> {
    Err(Malformed { found: found.chars().take(80).collect(), expected })
}

/// Serialises a type by its `Display` and reads it back by its `FromStr`.
macro_rules! serde_as_text {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use serde_as_text;

const SUFFIX_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const SUFFIX_LENGTH: usize = 8;

/// Id of a backup: `b-20260301t010000z-7f3k2qab`. Sorts by time; the suffix (40 random bits) keeps backups of one
/// second apart. It is never used as a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupId(String);

impl BackupId {
    const TIME: &'static str = "%Y%m%dt%H%M%Sz";

    /// A new id for a backup accepted `at` this time; `random` makes it unique.
    pub fn new(at: DateTime<Utc>, random: Uuid) -> Self {
        let bits = random.as_u128();
        let suffix: String = (0..SUFFIX_LENGTH).map(|i| SUFFIX_ALPHABET[(bits >> (5 * i) & 31) as usize] as char).collect();
        Self(format!("b-{}-{suffix}", at.format(Self::TIME)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the backup was accepted, to the second.
    pub fn time(&self) -> DateTime<Utc> {
        let time = self.0.get("b-".len()..).and_then(|rest| NaiveDateTime::parse_and_remainder(rest, Self::TIME).ok());
        time.map(|(time, _)| time.and_utc()).unwrap_or_default()
    }

    /// `<time>-<suffix>`, as it begins the name of the file.
    fn file_stem(&self) -> String {
        let (time, suffix) = self.0["b-".len()..].split_at("20260301t010000z".len());
        format!("{}{suffix}", time.to_ascii_uppercase())
    }
}

impl FromStr for BackupId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let well_formed = || {
            let (time, suffix) = text.strip_prefix("b-")?.split_once('-')?;
            // Earlier times are those of no backup, and the earliest are none on the wire.
            NaiveDateTime::parse_from_str(time, Self::TIME).ok().filter(|time| time.year() >= 1970)?;
            (time.len() == 16 && suffix.len() == SUFFIX_LENGTH && suffix.bytes().all(|b| SUFFIX_ALPHABET.contains(&b)))
                .then_some(())
        };
        match well_formed() {
            Some(()) => Ok(Self(text.to_owned())),
            None => malformed(text, "the id of a backup, for example b-20260301t010000z-7f3k2qab"),
        }
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(BackupId);

/// Id of an operation, a UUIDv7: ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationId(pub Uuid);

impl FromStr for OperationId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        text.parse().map(Self).or_else(|_| malformed(text, "the id of an operation, a UUID"))
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A file that a caller sends, and the process that takes it: `<process>.<id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId {
    pub process: Uuid,
    pub id: Uuid,
}

impl FromStr for UploadId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let (process, id) = text.split_once('.')?;
            Some(Self { process: process.parse().ok()?, id: id.parse().ok()? })
        };
        parse().map_or_else(|| malformed(text, "the id of an upload, two UUIDs"), Ok)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.process, self.id)
    }
}

/// SHA-256 of a whole file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl FromStr for Sha256 {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        from_hex(text).map(Self).map_or_else(|| malformed(text, "a SHA-256, 64 lower-case hex digits"), Ok)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

serde_as_text!(Sha256);

pub(super) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

pub(super) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f').then(|| (byte as char).to_digit(16)).flatten();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// Name of a backup file: `<time>-<id>-<first 32 hex digits of its SHA-256>.tar.zst`, with `.pgp` behind it when it is
/// encrypted. Every copy of the file proves itself by its name, and the id of the backup can be read off it. Sorts by time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName {
    id: BackupId,
    digest: [u8; 16],
    encrypted: bool,
}

impl FileName {
    pub fn new(id: BackupId, sha256: Sha256, encrypted: bool) -> Self {
        let mut digest = [0; 16];
        digest.copy_from_slice(&sha256.0[..16]);
        Self { id, digest, encrypted }
    }

    pub fn id(&self) -> &BackupId {
        &self.id
    }

    pub fn encrypted(&self) -> bool {
        self.encrypted
    }

    /// Whether a file with this SHA-256 is the one that was given this name.
    pub fn proves(&self, sha256: Sha256) -> bool {
        self.digest == sha256.0[..16]
    }
}

impl FromStr for FileName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let (stem, encrypted) = match text.strip_suffix(".tar.zst.pgp") {
                Some(stem) => (stem, true),
                None => (text.strip_suffix(".tar.zst")?, false),
            };
            let (stem, digest) = stem.rsplit_once('-')?;
            let id = BackupId::from_str(&format!("b-{}", stem.to_ascii_lowercase())).ok()?;
            (id.file_stem() == stem).then_some(Self { id, digest: from_hex(digest)?, encrypted })
        };
        parse().map_or_else(|| malformed(text, "the name of a backup file"), Ok)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.id.file_stem())?;
        write_hex(&self.digest, f)?;
        f.write_str(if self.encrypted { ".tar.zst.pgp" } else { ".tar.zst" })
    }
}

serde_as_text!(FileName);

/// Name of a resource of the catalog: lower-case letters, digits and hyphens, at most 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceName(String);

impl ResourceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResourceName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=63).contains(&text.len()) && text.as_bytes()[0].is_ascii_lowercase() && text.bytes().all(inside) {
            Ok(Self(text.to_owned()))
        } else {
            malformed(text, "the name of a resource: lower-case letters, digits and hyphens, for example login-accounts")
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(ResourceName);

/// A table or sequence with its schema. As text each part is an SQL identifier, in double quotes where it needs them
/// (PostgreSQL manual, 4.1.1): `platform.account`, `platform."Audit Trail"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// The name as SQL, with both parts always in quotes.
    pub fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// An identifier as SQL, in quotes.
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

impl FromStr for TableName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let (schema, rest) = identifier(text)?;
            let (name, rest) = identifier(rest.strip_prefix('.')?)?;
            rest.is_empty().then_some(Self { schema, name })
        };
        parse().map_or_else(|| malformed(text, "a table with its schema, for example platform.account"), Ok)
    }
}

/// The identifier that `text` begins with, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let (name, rest) = match text.strip_prefix('"') {
        None => {
            let end = text.find(|c: char| !plain(c)).unwrap_or(text.len());
            let name = text[..end].to_owned();
            (name.starts_with(|c: char| !c.is_ascii_digit() && c != '$').then_some(name)?, &text[end..])
        }
        Some(mut rest) => {
            let mut name = String::new();
            loop {
                let (part, after) = rest.split_once('"')?;
                name.push_str(part);
                match after.strip_prefix('"') {
                    Some(more) => {
                        name.push('"');
                        rest = more;
                    }
                    None => break (name, after),
                }
            }
        }
    };
    (!name.is_empty() && name.len() <= 63 && !name.contains('\0')).then_some((name, rest))
}

fn plain(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$'
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |name: &str| {
            let is_plain = name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit() || c == '$');
            if is_plain { name.to_owned() } else { quoted(name) }
        };
        write!(f, "{}.{}", part(&self.schema), part(&self.name))
    }
}

serde_as_text!(TableName);

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> BackupId {
        BackupId::new(DateTime::from_timestamp(1_772_326_800, 0).unwrap(), Uuid::from_u128(77))
    }

    #[test]
    fn a_backup_id_reads_back_and_sorts_by_time() {
        assert_eq!(id().as_str().parse::<BackupId>().unwrap(), id());
        assert!(id().as_str().starts_with("b-20260301t010000z-"));
        let later = BackupId::new(DateTime::from_timestamp(1_772_326_801, 0).unwrap(), Uuid::nil());
        assert!(id() < later);
    }

    #[test]
    fn a_path_is_not_a_name() {
        for text in [
            "../etc/passwd",
            "b-20260301t010000z-../../xx",
            "",
            "b--",
            "b-20261301t010000z-aaaaaaaa",
            "b-20260301t010000z-aaaaaaa/",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text}");
        }
        for text in ["20260301T010000Z-aaaaaaaa-0123.tar.zst", "a.tar.zst.pgp", ".tar.zst", "/20260301T010000Z-aaaaaaaa.tar.zst"]
        {
            assert!(text.parse::<FileName>().is_err(), "{text}");
        }
        assert!("Login Accounts".parse::<ResourceName>().is_err());
    }

    #[test]
    fn a_file_name_proves_the_file_and_names_the_backup() {
        let name = FileName::new(id(), Sha256([7; 32]), true);
        assert_eq!(name.to_string().parse::<FileName>().unwrap(), name);
        assert_eq!(name.id(), &id());
        assert!(name.proves(Sha256([7; 32])));
        assert!(!name.proves(Sha256([8; 32])));
        assert!(name.to_string().to_ascii_uppercase().parse::<FileName>().is_err());
    }

    #[test]
    fn table_names_follow_the_quoting_rules_of_sql() {
        for text in ["platform.account", "platform.\"Audit Trail\"", "\"a.b\".\"c\"\"d\"", "public._x1"] {
            assert_eq!(text.parse::<TableName>().unwrap().to_string(), text);
        }
        assert_eq!("\"plain\".x".parse::<TableName>().unwrap().to_string(), "plain.x");
        assert_eq!("a.\"b\"\"c\"".parse::<TableName>().unwrap().sql(), "\"a\".\"b\"\"c\"");
        for text in ["account", "a.b.c", "a.", ".b", "Platform.account", "a.b; drop table x", "a.\"b", "a.\"\"", "a.1b"] {
            assert!(text.parse::<TableName>().is_err(), "{text}");
        }
    }
}
