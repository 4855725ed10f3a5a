//! Names as they are typed: `backups/b-...` or `b-...`, `latest` where a newest one makes sense, operations likewise.

use std::fmt;
use std::str::FromStr;

use crate::model::name::Malformed;
use crate::model::{BackupId, OperationId, ResourceName};

/// A backup that is named outright, as for what cannot be undone.
#[derive(Debug, Clone)]
pub struct BackupName(BackupId);

impl FromStr for BackupName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        text.strip_prefix("backups/").unwrap_or(text).parse().map(Self)
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backups/{}", self.0)
    }
}

/// A backup that is named, or the newest one that can be restored and is no safety backup.
#[derive(Debug, Clone)]
pub enum BackupChoice {
    Latest,
    Named(BackupName),
}

impl FromStr for BackupChoice {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == "latest" { Ok(Self::Latest) } else { text.parse().map(Self::Named) }
    }
}

/// An operation that is named, or the newest one.
#[derive(Debug, Clone)]
pub enum OperationChoice {
    Latest,
    Named(OperationId),
}

impl FromStr for OperationChoice {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        text.strip_prefix("operations/").unwrap_or(text).parse().map(Self::Named)
    }
}

/// A resource, typed with or without `resources/`.
#[derive(Debug, Clone)]
pub struct Resource(ResourceName);

impl FromStr for Resource {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        text.strip_prefix("resources/").unwrap_or(text).parse().map(Self)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resources/{}", self.0)
    }
}

/// The reason of a notice, spelt as the service spells it: one at a time, no patterns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason(String);

impl FromStr for Reason {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let spelt = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let reason = text.starts_with(|c: char| c.is_ascii_uppercase()) && text.chars().all(spelt);
        reason.then(|| Self(text.to_owned())).ok_or("this is not a reason such as LICENSES_CLEARED")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_accepted_with_and_without_their_collection() {
        for text in ["b-20260301t010000z-abcdefgh", "backups/b-20260301t010000z-abcdefgh"] {
            assert_eq!(text.parse::<BackupName>().unwrap().to_string(), "backups/b-20260301t010000z-abcdefgh");
        }
        assert!(matches!("latest".parse(), Ok(BackupChoice::Latest)));
        assert!("backups/latest".parse::<BackupChoice>().is_err());
        assert!("latest".parse::<BackupName>().is_err());
        assert!(matches!("operations/019c0000-0000-7000-8000-000000000000".parse(), Ok(OperationChoice::Named(_))));
        assert_eq!("licenses".parse::<Resource>().unwrap().to_string(), "resources/licenses");
    }
}
