//! What a person must know about a backup or a restore, as data: a reason, a weight, what it is about, what to do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::name::ResourceName;

/// Weight of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    /// Someone should act; nothing is refused.
    Warning,
    /// A restore is refused unless the caller acknowledges the reason.
    Blocking,
    /// A restore is refused.
    Refusal,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Notice {
    pub severity: Severity,
    /// For example `LICENSES_CLEARED`: one of the contract's codes, or one that the catalog defines.
    pub reason: String,
    pub resource: Option<ResourceName>,
    /// Item concerned, for example the name of an adapter.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// One sentence.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instructions: String,
    /// Values that appear in the message, for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl Notice {
    pub fn new(severity: Severity, reason: &str, message: impl Into<String>) -> Self {
        Self {
            severity,
            reason: reason.to_owned(),
            resource: None,
            subject: String::new(),
            message: message.into(),
            instructions: String::new(),
            metadata: BTreeMap::new(),
        }
    }

    pub fn of(mut self, resource: &ResourceName) -> Self {
        self.resource = Some(resource.clone());
        self
    }

    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    pub fn instructions(mut self, text: impl Into<String>) -> Self {
        self.instructions = text.into();
        self
    }
}

/// Whether a restore may go on with these notices. Else what is in the way.
pub fn in_the_way<'a>(notices: &'a [Notice], acknowledged: &[String]) -> Vec<&'a Notice> {
    let stops = |notice: &&Notice| match notice.severity {
        Severity::Info | Severity::Warning => false,
        Severity::Blocking => !acknowledged.contains(&notice.reason),
        Severity::Refusal => true,
    };
    notices.iter().filter(stops).collect()
}
