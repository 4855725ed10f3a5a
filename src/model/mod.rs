//! The words of Holdfast and the rules that hold between them.
//!
//! Values only: no I/O, no async, no clock (`now` is always an argument). What comes from outside becomes one of
//! these types in one place, and inside there are only valid values.

pub mod archive;
pub mod backup;
pub mod catalog;
pub mod chain;
pub mod copy;
pub mod event;
pub mod failure;
pub mod lock;
pub mod manifest;
pub mod name;
pub mod notice;
pub mod operation;
pub mod schedule;
pub mod secret;
pub mod settings;
mod strength;
pub mod trace;
pub mod verification;

pub use backup::Backup;
pub use catalog::Catalog;
pub use copy::{ContentDigest, CopyFormat, Piece};
pub use event::Event;
pub use failure::{Failure, Reason};
pub use manifest::{EndRecord, Manifest};
pub use name::{BackupId, FileName, OperationId, ResourceName, Sha256, TableName, UploadId};
pub use notice::Notice;
pub use operation::Operation;
pub use schedule::Schedule;
pub use secret::{Opener, Passphrase, SecretKey, SessionKey};
pub use trace::TraceId;
