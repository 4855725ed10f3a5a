//! A small update-service, for tests and for whoever writes the real one: it takes the maintenance lock as a client (`Update`),
//! and hosts LockService itself (`Host`), from memory. It is a real server and a real client; on demand it misbehaves (`Fault`).
//!
//! `rules` has the lock as a value, without clock or wire; `host` puts it on the wire; `faults` and `line` spoil it there.
//! deploy/update-service.md says in words what stands here as code.

mod client;
mod faults;
mod fields;
mod host;
mod line;
mod rules;
mod tests;

pub use client::{Stop, Update};
pub use faults::Fault;
pub use host::Host;
pub use line::{Line, Way};

pub const LOCK: &str = "locks/platform-maintenance";
/// `ErrorInfo.domain` of every refusal.
pub const DOMAIN: &str = "lock.holdfast";

/// Somebody a host knows: may take and read the lock; an administrator also breaks it.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub principal: &'static str,
    pub token: &'static str,
    pub administrator: bool,
}

pub const UPDATE_SERVICE: Caller =
    Caller { principal: "update-service", token: "token-of-the-update-service", administrator: false };
pub const HOLDFAST: Caller = Caller { principal: "holdfast", token: "token-of-holdfast-at-its-host", administrator: false };
pub const ADMINISTRATOR: Caller = Caller { principal: "administrator", token: "token-of-an-administrator", administrator: true };
