//! What callers learn of what went wrong in the modules below.

use std::io::ErrorKind;

use super::{FREE_SPACE, LATER, rfc3339};
use crate::model::lock::{Holder, NAME, Purpose};
use crate::model::{Failure, Reason};
use crate::{depot, folder, lock, postgres};

pub(super) fn folder(error: &folder::Error, failure: impl Fn(Reason) -> Failure) -> Failure {
    use folder::Error as Folder;
    if let Folder::Full(_) | Folder::Unavailable(_) = error {
        tracing::error!(error = error as &dyn std::error::Error, "the backup volume failed");
    }
    match error {
        Folder::Full(_) => failure(Reason::StorageFull).instructions(FREE_SPACE),
        Folder::Unavailable(_) | Folder::WorldWritable => failure(Reason::StorageUnavailable).retry_after(LATER),
        Folder::NotMounted | Folder::OtherVolume => failure(Reason::StorageUnavailable)
            .retry_after(LATER)
            .instructions("Mount the volume that holds the backups of this system."),
        Folder::Missing => failure(Reason::BackupFileMissing)
            .instructions("Copy the file back into the folder and verify it, or use another backup."),
        Folder::Exists => failure(Reason::Internal),
    }
}

pub(super) fn depot(error: &depot::Error, failure: impl Fn(Reason) -> Failure) -> Failure {
    use depot::Error as Depot;
    tracing::warn!(%error, cause = error.cause(), "the archive failed");
    let unavailable = |instructions: &str| failure(Reason::ArchiveUnavailable).retry_after(LATER).instructions(instructions);
    match error {
        Depot::Missing => failure(Reason::BackupFileMissing).instructions("Use another backup."),
        Depot::Damaged | Depot::Changed => {
            failure(Reason::BackupCorrupted).instructions("Use another backup, or a copy of this file from elsewhere.")
        }
        Depot::TimedOut | Depot::Unavailable(_) => unavailable("Nothing waits for it; it is tried again."),
        Depot::Full(_) => unavailable("Make place in the archive, or limit it with HOLDFAST_ARCHIVE__MAX_COUNT."),
        Depot::Refused(_) => unavailable("Check the keys that are configured for the archive, and what they may do."),
        Depot::NoBucket => unavailable("Create the bucket, or check its name and HOLDFAST_ARCHIVE__ENDPOINT."),
        Depot::Folder(_) | Depot::WorldWritable => unavailable("Mount the archive folder, and let only Holdfast write to it."),
        Depot::NotThere => {
            unavailable("Mount the archive of this system. A new one has a new address: another folder, or another prefix.")
        }
        Depot::Foreign(system) if system.is_nil() => {
            unavailable("Its identity file names no system. Choose another folder, bucket or prefix.")
        }
        Depot::Foreign(system) => unavailable(&format!(
            "Choose another folder, bucket or prefix. Only when that system is gone, and this one takes its place: set HOLDFAST_ARCHIVE__ADOPT={system}."
        )),
        Depot::BackupFolder => unavailable("Choose another folder: a copy in the same place is none."),
        Depot::Local(cause) if matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            failure(Reason::StorageFull).instructions(FREE_SPACE)
        }
        Depot::Local(_) => failure(Reason::StorageUnavailable).retry_after(LATER),
        Depot::Panicked => Failure::new(Reason::Internal, "Something went wrong within Holdfast; its log has the details."),
    }
}

pub(super) fn database(error: &postgres::Error, failure: impl Fn(Reason) -> Failure) -> Failure {
    use postgres::Error as Database;
    match error {
        Database::Unavailable(_) | Database::CommitUnknown(_) | Database::BrokenOff => {
            tracing::warn!(error = error as &dyn std::error::Error, "the database does not answer");
            failure(Reason::DatabaseUnavailable).retry_after(LATER)
        }
        Database::Standby => {
            failure(Reason::DatabaseUnavailable).retry_after(LATER).instructions("Let Holdfast connect to the primary.")
        }
        Database::Pooled(_) => failure(Reason::DatabaseUnavailable).instructions("Let Holdfast connect to PostgreSQL directly."),
        Database::Mismatch(_) => failure(Reason::CatalogMismatch)
            .instructions("Make the catalog and the database fit each other; `holdfast serve` checks it at its start."),
        Database::Locked(_) => {
            failure(Reason::TablesLocked).retry_after(LATER).instructions("Try again when the other session has ended.")
        }
        Database::Constraint { .. } => Failure { metadata: error.names(), ..failure(Reason::RestoreConstraintViolation) },
        Database::Referenced { .. } => Failure { metadata: error.names(), ..failure(Reason::RestoreConstraintViolation) }
            .instructions("Remove those rows, or say in the catalog that this reference is to be followed."),
        Database::NotExact { .. } => Failure { metadata: error.names(), ..failure(Reason::RestoreNotExact) },
        Database::Incompatible(_) => failure(Reason::BackupIncompatible)
            .instructions("Make the tables take what the file has, or restore with the version of the platform that it is of."),
        Database::FenceLost => lock(&lock::Error::Lost, failure),
        Database::Updating => failure(Reason::SoftwareUpdateInProgress).with("lock", NAME).subject(NAME).instructions(
            "Wait for its end, or call with lock_wait; it did not take the maintenance lock, so nobody can tell more of it.",
        ),
        Database::NotKept => {
            tracing::error!("the database did not keep the sealed passphrase as it was written; nothing was changed");
            Failure::new(Reason::Internal, "Something went wrong within Holdfast; its log has the details.")
        }
        Database::TimedOut(_) => failure(Reason::OperationTimedOut),
        Database::Query(_) => {
            tracing::error!(error = error as &dyn std::error::Error, "PostgreSQL refused a statement");
            Failure::new(Reason::Internal, "Something went wrong within Holdfast; its log has the details.")
        }
    }
}

pub(super) fn lock(error: &lock::Error, failure: impl Fn(Reason) -> Failure) -> Failure {
    use lock::Error as Lock;
    match error {
        Lock::Held(holder) => held(holder, holder_text(holder)),
        Lock::Awaited(update) => {
            let since = rfc3339(update.acquire_time);
            held(update, format!("{} waits for the maintenance lock since {since}, and comes first: {}", update.principal, update.reason))
        }
        Lock::Draining => {
            let message = "Whoever had the maintenance lock before is giving it back; its last transaction has not ended yet.";
            Failure::new(Reason::OperationInProgress, message).subject(NAME).retry_after(LATER)
        }
        Lock::Lost => failure(Reason::LeaseLost).instructions("Everything was rolled back. Start it again."),
        Lock::Unavailable(_) => {
            tracing::warn!(error = error as &dyn std::error::Error, "the lock service does not answer");
            failure(Reason::LockServiceUnavailable)
                .subject(NAME)
                .retry_after(LATER)
                .instructions("Nothing was begun: without the lock a software update could run at the same time.")
        }
        Lock::Unusable(_) => {
            tracing::error!(error = error as &dyn std::error::Error, "the lock service cannot be used");
            failure(Reason::LockServiceUnusable).subject(NAME).instructions(
                "Nothing was begun. Check the lock service, and the address and credentials that are configured for it.",
            )
        }
        Lock::Elsewhere => failure(Reason::LockServiceUnusable).subject(NAME).instructions(
            "Nothing was begun. Another process of this installation was started with another HOLDFAST_LOCK__MODE: give all the same.",
        ),
        // Asked by others only, who are answered in other words.
        Lock::TokenMismatch | Lock::RequestIdReused => {
            Failure::new(Reason::Internal, "Something went wrong within Holdfast.")
        }
    }
}

/// Who has the lock, what for, why, since when and until when.
fn holder_text(holder: &Holder) -> String {
    let what = match (holder.purpose, holder.stale) {
        (Purpose::Backup, _) => "A backup is running",
        (Purpose::Restore, _) => "A restore is running",
        (Purpose::SoftwareUpdate, false) => "A software update is running",
        (Purpose::SoftwareUpdate, true) => "A software update was begun and not finished",
        (Purpose::Maintenance, _) => "An administrator is at work",
    };
    let Holder { principal, reason, .. } = holder;
    let (since, until, renewed) = (rfc3339(holder.acquire_time), rfc3339(holder.expire_time), rfc3339(holder.renew_time));
    let why = reason.trim_end_matches('.');
    let then = match holder.stale {
        false => format!("It has the lock until {until} unless it renews it"),
        true => format!("It has not renewed the lock since {renewed}, and keeps it"),
    };
    format!("{what}, since {since}, by {principal}: {why}. {then}")
}

/// Who is in the way, in words and as data, and what to do.
fn held(holder: &Holder, message: String) -> Failure {
    let own = holder.purpose.own();
    let reason = if own { Reason::OperationInProgress } else { Reason::SoftwareUpdateInProgress };
    let message = format!("{}.", message.trim_end_matches('.'));
    let mut failure = Failure::new(reason, message)
        .with("lock", NAME)
        .with("holder", &holder.principal)
        .with("holderId", &holder.holder_id)
        .with("holderReason", &holder.reason)
        .with("purpose", holder.purpose.word())
        .with("acquireTime", rfc3339(holder.acquire_time))
        .with("expireTime", rfc3339(holder.expire_time))
        .with("stale", holder.stale)
        .subject(NAME);
    if !holder.operation.is_empty() {
        failure = failure.with("operation", &holder.operation);
    }
    match (own, holder.stale) {
        (true, false) => failure.retry_after(LATER).instructions("Wait for its end, or call with lock_wait."),
        (false, false) => failure.instructions("Wait for its end, or call with lock_wait."),
        (_, true) => failure.instructions(
            "Let the update-service take it up again. Only when the update is known to be over or given up: an administrator ends the hold with ForceReleaseLock.",
        ),
    }
}
