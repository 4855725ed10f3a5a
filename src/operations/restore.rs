//! A restore, from top to bottom. The call checks all it can: the file's digest, the passphrase, whether the file fits the
//! database. The work then stages the whole file, and only when it proved whole applies it; all in one transaction.

use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::backup::{advance, digest};
use super::call::{Caller, RestoreRequest};
use super::in_use::Guard;
use super::proof::Hashing;
use super::work::Work;
use super::{Error, Holdfast, Result, blocking, new_operation_id, now};
use crate::archive::{self, Part};
use crate::model::backup::{Backup, State};
use crate::model::notice::Severity;
use crate::model::operation::{Kind, Operation, Outcome, Phase, Progress, RestoreResult};
use crate::model::{EndRecord, Event, Manifest, Notice, OperationId, Passphrase, Piece, ResourceName};
use crate::postgres::state::Request;
use crate::postgres::{self, Restore};

/// Pieces on their way from the file to the database.
const PIECES_IN_FLIGHT: usize = 2;

/// A backup file that may be restored: the one open file serves every pass, so that nobody can put another in its place.
struct Source {
    file: std::fs::File,
    backup: Backup,
    passphrase: Option<Passphrase>,
    manifest: Manifest,
    chosen: Vec<ResourceName>,
    /// What is known before anything is read.
    notices: Vec<Notice>,
    _in_use: Guard,
}

impl Holdfast {
    /// Starts a restore. `None` when the request was only to be validated.
    pub async fn restore(&self, caller: &Caller, request: RestoreRequest) -> Result<Option<Operation>> {
        self.accepting()?;
        let about = format!("restore {} {:?} {:?}", request.backup, request.resources, request.reason);
        let key =
            Request { request_id: (!request.request_id.is_empty()).then(|| request.request_id.clone()), digest: digest(&about) };
        if let Some(operation) = self.known(caller.principal(), &key).await? {
            return Ok(Some(operation));
        }
        let source = self.open(&request).await?;
        if request.validate_only {
            self.lock_is_free().await?;
            return Ok(None);
        }
        let accepted = Operation::accepted(new_operation_id(), Kind::Restore, caller, &request.request_id, now());
        let operation = Operation { target: Some(request.backup), reason: request.reason, ..accepted };
        let holdfast = self.clone();
        let run = move |work| async move { holdfast.run_restore(&work, source).await };
        self.begin(operation, key, request.lock_wait, run).await.map(Some)
    }

    /// Opens a backup for a restore, and checks all that can be checked without writing.
    async fn open(&self, request: &RestoreRequest) -> Result<Source> {
        let parts = &self.0.parts;
        let in_use = self.0.in_use.read(&request.backup).ok_or_else(|| Error::BackupInUse(request.backup.clone()))?;
        let backup = self.ready_backup(&request.backup).await?;
        let (folder, name, passphrase) = (parts.folder.clone(), backup.file_name.clone(), request.passphrase.clone());
        let (size, sha256, note) = (backup.size_bytes, backup.sha256, backup.passphrase);
        let (file, manifest) = blocking(move || {
            let mut file = folder.read(&name)?;
            // The digest first: it tells a damaged file from a wrong passphrase.
            if Hashing::new(&mut file).finish().map_err(crate::folder::Error::from)? != (size, sha256) {
                return Err(Error::Damaged("its SHA-256 is not that of its name".into()));
            }
            file.seek(SeekFrom::Start(0)).map_err(crate::folder::Error::from)?;
            let manifest = archive::manifest(&file, passphrase.as_ref()).map_err(|error| match Error::from(error) {
                Error::PassphraseRequired(_) => Error::PassphraseRequired(note),
                Error::PassphraseIncorrect(_) => Error::PassphraseIncorrect(note),
                error => error,
            })?;
            Ok((file, manifest))
        })
        .await??;

        let in_file = |name: &ResourceName| manifest.resources.iter().any(|resource| resource.name == *name);
        let in_catalog = parts.catalog.resources().iter().map(|resource| &resource.name);
        let (mut chosen, kept): (Vec<_>, Vec<_>) = in_catalog.cloned().partition(in_file);
        if !request.resources.is_empty() {
            for name in &request.resources {
                parts.catalog.resource(name).ok_or_else(|| Error::ResourceUnknown(name.clone()))?;
                in_file(name).then_some(()).ok_or_else(|| Error::ResourceNotInBackup(name.clone()))?;
            }
            chosen.retain(|name| request.resources.contains(name));
        }
        let schema = parts.state.inspect(&parts.catalog).await?;
        for name in &chosen {
            if let Some(missing) = schema.depends_on(name).iter().find(|needed| !chosen.contains(needed) && in_file(needed)) {
                let problem = format!("{name} refers to {missing}: restore resources/{missing} with it");
                return Err(Error::InvalidField { field: "resources", problem });
            }
        }
        postgres::compatible(&schema, &manifest, &chosen)?;
        let unknown =
            manifest.resources.iter().map(|resource| &resource.name).filter(|name| parts.catalog.resource(name).is_none());
        let skipped = unknown.map(|name| {
            let message = "The file has data for a resource that this system does not know; it is skipped.";
            Notice::new(Severity::Warning, "RESOURCE_NOT_SUPPORTED", message).of(name)
        });
        let kept = kept.iter().map(|name| {
            let message = "The file has no data for this resource; the present data is kept.";
            Notice::new(Severity::Info, "RESOURCE_NOT_IN_BACKUP", message).of(name)
        });
        let notices = skipped.chain(kept).collect();
        Ok(Source { file, backup, passphrase: request.passphrase.clone(), manifest, chosen, notices, _in_use: in_use })
    }

    async fn run_restore(&self, work: &Arc<Work>, source: Source) -> Result<Outcome> {
        let parts = &self.0.parts;
        let Source { file, backup, passphrase, manifest, chosen, notices, _in_use } = source;
        let total = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
        let estimated_bytes =
            backup.resources.iter().filter(|resource| chosen.contains(&resource.name)).map(|resource| resource.bytes).sum();
        work.progress(|progress| *progress = Progress { estimated_bytes, total_resources: total, ..Progress::default() });

        let mut restore =
            Restore::begin(&parts.database, &parts.catalog, work.fencing_token(), work.id(), &manifest, &chosen).await?;
        parts.state.set_transaction(work.id(), restore.transaction()).await?;

        work.phase(Phase::Transferring, "Reads the file into staging tables.");
        let resource_of = |entry: &crate::model::manifest::TableEntry| {
            manifest.resources.iter().find(|resource| resource.tables.contains(&entry.name)).map(|resource| &resource.name)
        };
        let (pieces, incoming) = mpsc::channel(PIECES_IN_FLIGHT);
        let (expected, id) = (manifest.clone(), backup.id.clone());
        let reader = work.blocking(move || read_pieces(file, &backup, passphrase.as_ref(), &expected, pieces));
        let loader = async {
            // Gone when the loader is: a reader that waits for a place in the channel must learn of it.
            let mut incoming = incoming;
            let loaded = restore.load(&mut incoming, |entry, bytes| {
                work.progress(|progress| {
                    if let Some(resource) = resource_of(entry) {
                        advance(progress, resource, bytes);
                    }
                });
            });
            let loaded = loaded.await;
            // Rows that the database does not take may be those of a damaged file: only its end tells.
            let refused = matches!(
                loaded,
                Err(postgres::Error::Query(_) | postgres::Error::Constraint { .. } | postgres::Error::Incompatible(_))
            );
            while refused && incoming.recv().await.is_some() {}
            loaded
        };
        let (loaded, read) = tokio::join!(loader, reader);
        let end = match (loaded, read?) {
            (Ok(()), Ok(end)) => end,
            // The end that broke off tells nothing; the other one knows why.
            (Err(error), Ok(_) | Err(Error::Database(postgres::Error::BrokenOff))) => return Err(error.into()),
            (_, Err(error)) => return Err(error),
        };

        work.phase(Phase::Applying, "Replaces what differs.");
        let changes = restore.apply(&parts.catalog, &end).await?;
        let result = RestoreResult {
            backup: id,
            snapshot_time: manifest.snapshot_time,
            commit_time: now(),
            changes,
            notices,
            safety_backup: None,
        };
        work.commit("Commits.")?;
        let transaction = restore.transaction().to_owned();
        let result = match restore.commit(&result, &end, &[Event::restored(&work.operation(), &result)]).await {
            Ok(committed) => RestoreResult { commit_time: committed.time, ..result },
            Err(postgres::Error::CommitUnknown(cause)) => {
                tracing::warn!(error = %cause, operation_id = %work.id(), "the connection was lost during COMMIT; asking for the outcome");
                self.outcome_of(work.id(), &transaction).await.ok_or(postgres::Error::Unavailable(cause))?
            }
            Err(error) => return Err(error.into()),
        };

        work.phase(Phase::Finishing, "Raises the sequences.");
        if let Err(error) = parts.state.finish_sequences(&parts.catalog).await {
            tracing::warn!(%error, "sequences could not be raised yet; it is tried again until they are");
        }
        Ok(Outcome::Restore(Box::new(result)))
    }

    /// The truth about a restore, as the database has it: its result when it was committed. Asks until it is answered.
    pub(super) async fn outcome_of(&self, operation: OperationId, transaction: &str) -> Option<RestoreResult> {
        loop {
            let state = &self.0.parts.state;
            match state.committed(transaction).await {
                Ok(Some(true)) => match state.restored(operation).await {
                    Ok(result) => return result,
                    Err(error) => tracing::warn!(%error, "the outcome of a restore is not known yet"),
                },
                Ok(Some(false)) => return None,
                Ok(None) => {}
                // A transaction that this server never had, after a failover for example: only the row can say more.
                Err(postgres::Error::Query(_)) => match state.restored(operation).await {
                    Ok(result) => return result,
                    Err(error) => tracing::warn!(%error, "the outcome of a restore is not known yet"),
                },
                Err(error) => tracing::warn!(%error, "the outcome of a restore is not known yet"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    pub(super) async fn ready_backup(&self, id: &crate::model::BackupId) -> Result<Backup> {
        let stored = self.0.parts.state.backup(id).await?.ok_or_else(|| Error::BackupNotFound(id.clone()))?;
        match stored.backup.state {
            State::Ready => Ok(stored.backup),
            State::Missing => Err(crate::folder::Error::Missing.into()),
            State::Creating => Err(Error::BackupNotReady(id.clone(), "it is being made".into())),
            State::Deleting => Err(Error::BackupNotReady(id.clone(), "it is being deleted".into())),
            State::Invalid => Err(Error::BackupNotReady(id.clone(), stored.backup.state_detail)),
        }
    }
}

/// Sends the pieces of a file, and returns its end record only when everything in it held and it is still the file that
/// was checked.
fn read_pieces(
    mut file: std::fs::File,
    backup: &Backup,
    passphrase: Option<&Passphrase>,
    expected: &Manifest,
    pieces: mpsc::Sender<Piece>,
) -> Result<EndRecord> {
    file.seek(SeekFrom::Start(0)).map_err(crate::folder::Error::from)?;
    let mut file = Hashing::new(file);
    let (manifest, end) = archive::read(&mut file, passphrase, |part| match part {
        Part::Manifest(_) => Ok(()),
        Part::Piece(piece) => pieces.blocking_send(piece).map_err(|_| Error::Database(postgres::Error::BrokenOff)),
    })?;
    if manifest != *expected || file.finish().map_err(crate::folder::Error::from)? != (backup.size_bytes, backup.sha256) {
        return Err(Error::Damaged("it was changed while it was being read".into()));
    }
    Ok(end)
}
