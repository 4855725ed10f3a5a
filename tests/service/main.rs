//! The real service over gRPC, on a real PostgreSQL that the tests start themselves, with the sample platform in it.
//!
//! Every test has a database, a folder and a `holdfast serve` of its own (`world`); the service logs in with its three
//! roles, none of them a superuser. Names of hazards stand in the names of the tests that cover them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(clippy::print_stderr, reason = "what was measured, and what was left out")]

mod canary;
mod collector;
mod disk;
mod proxy;
mod tls;
mod update_service;
mod world;
mod zoo;

mod abuse;
mod audit;
mod backup;
mod bad_disk;
mod beside;
mod bucket;
mod chain;
mod check;
mod check_config;
mod cli;
mod clocks;
mod conformance;
mod consequences;
mod crash;
mod damage;
mod drift;
mod durability;
mod encryption;
mod files;
mod full;
mod golden;
mod health;
mod history;
mod hostile;
mod identity;
mod interop;
mod kills;
mod load;
mod lock;
mod metrics;
mod offsite;
mod operations;
mod panics;
mod pooler;
mod power;
mod preview;
mod recipients;
mod remote_lock;
mod replicas;
mod restore;
mod retention;
mod roles;
mod round_trip;
mod schedule;
mod secrets;
mod short_way;
mod signing;
mod start;
mod stop;
mod swapped;
mod sync;
mod telemetry;
mod transfers;
mod unattended;
mod undo;
mod upload;
mod verify;
mod violations;
mod webhook;
mod wire;
mod write_back;
