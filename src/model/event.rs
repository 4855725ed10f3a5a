//! What happened, for the audit log and for those who want to be told.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::backup::{Backup, Origin};
use super::failure::{Failure, Reason};
use super::name::{BackupId, OperationId, Sha256};
use super::operation::{Kind, Operation, Outcome, RestoreResult};
use super::trace::TraceId;

/// Who caused an event, as far as it was proven.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Actor {
    /// For example `user:alice`, `token:static`, `system:scheduler`.
    pub principal: String,
    /// How it was proven, for example `token`; `internal` for the service itself.
    pub authentication: String,
    pub peer_address: String,
    /// At most 128 characters.
    pub user_agent: String,
}

/// Who calls, and by which method.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    pub actor: Actor,
    /// Full gRPC method; empty for what the service does by itself.
    pub method: String,
    /// The trace of the call.
    pub trace_id: Option<TraceId>,
}

impl Caller {
    /// The service itself, in one of its roles, for example `scheduler`.
    pub fn internal(role: &str) -> Self {
        let actor = Actor { principal: format!("system:{role}"), authentication: "internal".into(), ..Actor::default() };
        Self { actor, ..Self::default() }
    }

    pub fn principal(&self) -> &str {
        &self.actor.principal
    }
}

/// One event. It has no secrets and no rows of the platform but the names that the catalog's checks and watches select.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// For example `restore.completed`; a column of its own in the database.
    #[serde(skip)]
    pub kind: String,
    #[serde(default)]
    pub actor: Actor,
    /// Full gRPC method; empty for what the service does by itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Resource concerned, for example `backups/b-...`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// `None`: it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Reason>,
    /// Why, as the caller says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// An event with its place in the order of publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The same however often the event is delivered.
    pub id: Uuid,
    pub number: i64,
    pub time: DateTime<Utc>,
    /// Stands for it and all before it (`chain`).
    pub hash: Sha256,
    pub event: Event,
}

/// Which events are asked for: those of any of these types. Empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Whole types.
    pub types: Vec<String>,
    /// Beginnings of types.
    pub families: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a type of events; send one such as `restore.completed`, or a family such as `restore.*`")]
pub struct NoType(String);

impl Filter {
    pub const MAX_TYPES: usize = 50;
    const MAX_TYPE: usize = 64;

    /// Of types, and of families with a `*` at the end.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, NoType> {
        let mut filter = Self::default();
        for text in texts.iter().map(AsRef::as_ref) {
            let (name, family) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
            let spelled = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '_';
            if name.len() > Self::MAX_TYPE || !name.chars().all(spelled) || (name.is_empty() && !family) {
                return Err(NoType(text.chars().take(Self::MAX_TYPE).collect()));
            }
            let list = if family { &mut filter.families } else { &mut filter.types };
            list.push(name.to_owned());
        }
        Ok(filter)
    }

    pub fn all(&self) -> bool {
        self.types.is_empty() && self.families.is_empty()
    }
}

impl Event {
    /// Something that `caller` did to `target`.
    pub fn new(kind: &str, caller: &Caller, target: impl ToString) -> Self {
        let Caller { actor, method, trace_id } = caller.clone();
        Self { kind: kind.to_owned(), actor, method, target: target.to_string(), trace_id, ..Self::default() }
    }

    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.attributes.insert(key.to_owned(), value.to_string());
        self
    }

    /// An operation that was accepted. Of what changes nothing only the end is told.
    pub fn started(operation: &Operation) -> Option<Self> {
        match operation.kind {
            Kind::Backup => Some(Self::of("backup.started", operation)),
            Kind::Restore => Some(Self::of("restore.started", operation)),
            Kind::Preview | Kind::Verify | Kind::Rehearsal => None,
        }
    }

    /// How an operation ended. A restore that was done has told so in its own transaction (`restored`).
    pub fn ended(operation: &Operation) -> Option<Self> {
        let failed = |kind: &str, failure: &Failure| Self::of(kind, operation).of_failure(failure);
        match (operation.kind, operation.outcome.as_ref()?) {
            (_, Outcome::Restore(_)) => None,
            (_, Outcome::Backup(result)) => Some(Self::of("backup.completed", operation).about(&result.backup)),
            (_, Outcome::Preview(_)) => Some(Self::of("restore.previewed", operation)),
            (_, Outcome::Verify(found)) => {
                Some(Self::of("backup.verified", operation).with("level", found.level.word()).with("valid", found.valid()))
            }
            (Kind::Backup, Outcome::Failed(failure)) => Some(failed("backup.failed", failure)),
            (Kind::Preview, Outcome::Failed(failure)) => Some(failed("restore.previewed", failure)),
            (Kind::Verify | Kind::Rehearsal, Outcome::Failed(failure)) => Some(failed("backup.verified", failure)),
            (Kind::Restore, Outcome::Failed(failure)) => match failure.reason {
                Reason::CancelledByCaller => Some(failed("restore.cancelled", failure)),
                _ => Some(failed("restore.failed", failure)),
            },
        }
    }

    /// A restore that is about to commit.
    pub fn restored(operation: &Operation, result: &RestoreResult) -> Self {
        let sum = |count: fn(&super::operation::ResourceChange) -> u64| result.changes.iter().map(count).sum::<u64>();
        let resources: Vec<&str> = result.changes.iter().map(|change| change.resource.as_str()).collect();
        Self::of("restore.completed", operation)
            .with("snapshotTime", result.snapshot_time.to_rfc3339_opts(SecondsFormat::Secs, true))
            .with("resources", resources.join(","))
            .with("safetyBackup", result.safety_backup.as_ref().map_or_else(|| "skipped".to_owned(), backup_name))
            .with("rowsRemoved", sum(|change| change.rows_removed))
            .with("rowsAdded", sum(|change| change.rows_added))
            .with("rowsChanged", sum(|change| change.rows_changed))
    }

    pub fn of(kind: &str, operation: &Operation) -> Self {
        Self {
            kind: kind.to_owned(),
            actor: operation.actor.clone(),
            method: operation.method.clone(),
            target: operation.target.as_ref().map(backup_name).unwrap_or_default(),
            operation: Some(operation.id),
            failure: None,
            reason: operation.reason.clone(),
            request_id: operation.request_id.clone(),
            trace_id: operation.trace_id,
            attributes: BTreeMap::new(),
        }
    }

    /// That it came to nothing, and what would have had to be accepted.
    pub fn of_failure(self, failure: &Failure) -> Self {
        let event = Self { failure: Some(failure.reason), ..self };
        match failure.metadata.get("warnings") {
            Some(warnings) => event.with("warnings", warnings),
            None => event,
        }
    }

    /// Who wrote the file.
    pub fn written_by(self, origin: &Origin) -> Self {
        match origin {
            Origin::Native(key) if key.is_empty() => self.with("origin", "native"),
            Origin::Native(key) => self.with("origin", "native").with("signingKey", key),
            Origin::Foreign(None) => self.with("origin", "foreign"),
            Origin::Foreign(Some(key)) => self.with("origin", "foreign").with("signingKey", key),
        }
    }

    fn about(self, backup: &Backup) -> Self {
        let event = Self { target: backup_name(&backup.id), ..self };
        let event = event.with("sizeBytes", backup.size_bytes).with("sha256", backup.sha256);
        event.with("encrypted", backup.encrypted()).with("fileName", &backup.file_name)
    }
}

/// Name of a backup in events.
pub fn backup_name(id: &BackupId) -> String {
    format!("backups/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_types_and_families_and_nothing_else() {
        let filter = Filter::parse(&["restore.*", "backup.completed", "*"]).unwrap();
        assert_eq!(filter, Filter { types: vec!["backup.completed".into()], families: vec!["restore.".into(), String::new()] });
        assert!(Filter::parse::<&str>(&[]).unwrap().all() && !filter.all());
        for wrong in ["", "Restore.*", "a*b", "**", "x y", "%", &"x".repeat(65)] {
            assert!(Filter::parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_of_an_older_or_newer_version_still_reads() {
        assert_eq!(serde_json::from_str::<Event>("{}").unwrap(), Event::default());
        assert_eq!(serde_json::from_str::<Event>(r#"{"target":"t","later":1}"#).unwrap().target, "t");
    }
}
