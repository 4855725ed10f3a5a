//! What happened, for the audit log and for those who want to be told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::failure::Reason;
use super::name::OperationId;

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
}

impl Caller {
    /// The service itself, in one of its roles, for example `scheduler`.
    pub fn internal(role: &str) -> Self {
        let actor = Actor { principal: format!("system:{role}"), authentication: "internal".into(), ..Actor::default() };
        Self { actor, method: String::new() }
    }

    pub fn principal(&self) -> &str {
        &self.actor.principal
    }
}

/// One event. It has no secrets and no rows of the platform but the names that the catalog's checks and watches select.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// For example `restore.completed`; a column of its own in the database.
    #[serde(skip)]
    pub kind: String,
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
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}
