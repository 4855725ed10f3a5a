//! A backup, from top to bottom: read one snapshot, write one file, prove it from the disk, publish it, give up what is
//! too old. Whatever fails before the file has its name leaves nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::call::{BackupRequest, Caller};
use super::proof::Hashing;
use super::works::Work;
use super::{Error, Holdfast, Result, new_operation_id, now};
use crate::archive::{self, Contents, Protection, Trust, Writer};
use crate::fault;
use crate::folder::Draft;
use crate::model::backup::{Backup, Origin, State, Trigger};
use crate::model::manifest::{FormatVersion, SequenceState};
use crate::model::operation::{BackupResult, Kind, Operation, Outcome, Phase, Progress};
use crate::model::schedule::Driver;
use crate::model::{BackupId, EndRecord, FileName, Manifest, Notice, Opener, OperationId, Passphrase, Piece, SessionKey, Sha256};
use crate::postgres::state::Request;
use crate::postgres::{self, Snapshot};

/// Pieces on their way from the database to the file.
const PIECES_IN_FLIGHT: usize = 2;
/// A backup that is in the way of others, or finds a table locked, begins again so often.
const ATTEMPTS: u32 = 3;

/// A file that is written and durable, but does not have its name yet.
struct Written {
    draft: Draft,
    end: EndRecord,
    sha256: Sha256,
    bytes: u64,
    /// Opens it where no passphrase does, until it is proven.
    session_key: Option<SessionKey>,
    /// Who wrote it, once it is proven.
    origin: Option<Origin>,
}

/// A backup that is proven and does not have its name yet.
pub struct Made {
    pub backup: Backup,
    pub draft: Draft,
    pub notices: Vec<Notice>,
}

impl Holdfast {
    /// Starts a backup. `None` when the request was only to be validated.
    pub async fn backup(&self, caller: &Caller, request: BackupRequest) -> Result<Option<Operation>> {
        self.accepting()?;
        let digest = digest(&format!("backup {:?} {:?} {:?}", request.description, request.trigger, request.scheduled_time));
        let key = Request { request_id: (!request.request_id.is_empty()).then(|| request.request_id.clone()), digest };
        if let Some(operation) = self.known(caller.principal(), &key).await? {
            return Ok(Some(operation));
        }
        let scheduled = request.trigger == Trigger::Scheduled;
        if scheduled && self.0.parts.driver == Driver::Internal {
            return Err(Error::ScheduleDrivenInternally);
        }
        if scheduled && !self.schedule().await?.setting.value.enabled {
            return Err(Error::ScheduleDisabled);
        }
        if let Err(error) = self.check_rate(request.trigger).await {
            self.refused(caller, error.failure().reason);
            return Err(error);
        }
        self.check_volume().await?;
        self.check_space().await?;
        // A stored passphrase that does not open is better known now than at night.
        self.protection().await?;
        if request.validate_only {
            self.0.parts.state.inspect(&self.0.parts.catalog).await?;
            self.lock_is_free().await?;
            return Ok(None);
        }
        match scheduled {
            true => self.drive(caller, request, key).await.map(Some),
            false => self.begin_backup(new_operation_id(), caller, request, key).await.map(Some),
        }
    }

    pub(super) async fn begin_backup(
        &self,
        id: OperationId,
        caller: &Caller,
        request: BackupRequest,
        key: Request,
    ) -> Result<Operation> {
        let accepted = Operation::accepted(id, Kind::Backup, caller, &request.request_id, now());
        let operation = Operation { trigger: Some(request.trigger), ..accepted };
        let (holdfast, lock_wait) = (self.clone(), request.lock_wait);
        let run = move |work: Arc<Work>| async move { holdfast.run_backup(&work, &work.operation(), request).await };
        self.begin(operation, key, lock_wait, run).await
    }

    async fn run_backup(&self, work: &Arc<Work>, about: &Operation, request: BackupRequest) -> Result<Outcome> {
        work.phase(Phase::Preparing, "Locks the tables and takes the snapshot.");
        self.check_rate(request.trigger).await?;
        let Made { backup, draft, notices } = self.make(work, about, request.trigger, &request.description).await?;
        self.commit(work, "Publishes the file.").await?;
        let backup = self.publish(work, backup, draft).await?;

        fault::point("published");
        work.phase(Phase::Finishing, "Gives up what is too old.");
        let (expired, not_expired) = self.expire().instrument(info_span!("backup.retention")).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "backups beyond the limit could not be deleted yet");
            Default::default()
        });
        Ok(Outcome::Backup(Box::new(BackupResult { backup, expired, not_expired, notices })))
    }

    /// Makes a file of the present data and proves it from the disk. It does not have its name yet.
    pub(super) async fn make(&self, work: &Arc<Work>, about: &Operation, trigger: Trigger, description: &str) -> Result<Made> {
        self.check_volume().await?;
        self.check_space().await?;
        let (note, protection) = self.protection().await?;
        let audit = self.0.parts.state.audit_head().await?;
        let signer = self.signing_key().await?;
        let (origin, trust) = (Origin::Native(signer.fingerprint()), self.trust().await?);
        let protection = Protection { signer: Some(signer), ..protection };
        let mut attempt = 1;
        let (manifest, notices, written) = loop {
            let manifest = |snapshot: &Snapshot| {
                let (resources, tables) = snapshot.schema().entries();
                Manifest {
                    format_version: FormatVersion::PRESENT,
                    backup: BackupId::new(about.create_time, Uuid::new_v4()),
                    uid: Uuid::new_v4(),
                    trigger,
                    description: description.to_owned(),
                    create_time: about.create_time,
                    snapshot_time: snapshot.time(),
                    system_id: self.0.system.id,
                    writer: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
                    server_version: snapshot.server_version().to_owned(),
                    passphrase: note,
                    recipients: protection.recipients.fingerprints(),
                    audit: Some(audit),
                    trace_id: about.trace_id,
                    resources,
                    tables,
                }
            };
            match self.write(work, manifest, protection.clone()).await {
                Err(Error::Database(postgres::Error::Locked(why))) if attempt < ATTEMPTS => {
                    tracing::warn!(operation_id = %about.id, ?why, "a table is locked; the backup begins again");
                    attempt += 1;
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                written => break written?,
            }
        };

        if trigger != Trigger::Safety {
            work.phase(Phase::Checking, "Reads the file back from the disk.");
        }
        let (proven, stopped) = (manifest.clone(), work.stopped());
        let written =
            work.blocking("backup.verify", move || prove(written, &proven, protection.passphrase, &trust, &stopped)).await??;
        let notices = notices.into_iter().chain(self.notices_about_recipients()).collect();
        if written.origin.as_ref() != Some(&origin) {
            return Err(Error::ReadBack);
        }
        Ok(Made { backup: describe(about, &manifest, &written, origin), draft: written.draft, notices })
    }

    /// Reads the database and writes the file, both at once, joined by a short channel. Each end takes a transfer that
    /// ends before its end for an error.
    async fn write(
        &self,
        work: &Arc<Work>,
        manifest: impl FnOnce(&Snapshot) -> Manifest,
        protection: Protection,
    ) -> Result<(Manifest, Vec<Notice>, Written)> {
        let parts = &self.0.parts;
        let snapshot = Snapshot::begin(&parts.database, &parts.catalog).await?;
        let (manifest, notices) = (manifest(&snapshot), snapshot.schema().notices());
        // The progress of a restore is not that of its safety backup.
        let main = manifest.trigger != Trigger::Safety;
        if main {
            work.target(&manifest.backup);
            work.phase(Phase::Transferring, "Reads the database and writes the file.");
            let total = u32::try_from(manifest.resources.len()).unwrap_or(u32::MAX);
            work.progress(|progress| {
                *progress = Progress { estimated_bytes: snapshot.size(), total_resources: total, ..Progress::default() };
            });
        }

        let (pieces, incoming) = mpsc::channel(PIECES_IN_FLIGHT);
        let (end, at_end) = oneshot::channel();
        let (folder, operation, head) = (parts.folder.clone(), work.id(), manifest.clone());
        let writer = work.blocking("backup.encode", move || {
            fault::point("writing");
            let writer = Writer::new(folder.draft(operation)?, &protection, &head)?;
            write_pieces(writer, incoming, at_end)
        });
        let reader = async {
            let copied = |table: &postgres::Table, bytes| {
                if main {
                    work.progress(|progress| advance(progress, &table.resource, bytes));
                }
            };
            let contents = snapshot.copy(pieces, copied).await?;
            // A writer that is gone has its own error to tell.
            let _ = end.send(contents.sequences);
            Ok::<_, postgres::Error>(contents.rows)
        };
        let (rows, written) = tokio::join!(reader, writer);
        let written = match (rows, written?) {
            (Ok(rows), Ok(written)) if rows.iter().eq(written.end.tables.iter().map(|table| &table.tally.rows)) => written,
            (Ok(_), Ok(_)) => return Err(Error::ReadBack),
            // The end that broke off tells nothing; the other one knows why.
            (Err(postgres::Error::BrokenOff) | Ok(_), Err(error)) => return Err(error),
            (Err(error), _) => return Err(error.into()),
        };
        Ok((manifest, notices, written))
    }

    /// Catalog first, then the name and READY, all under the fence: nobody is granted the lock in between. A crash is finished
    /// or undone at the next start, whichever the file says.
    pub(super) async fn publish(&self, work: &Work, backup: Backup, draft: Draft) -> Result<Backup> {
        let (parts, token) = (&self.0.parts, work.fencing_token());
        parts.state.register(&backup, token).await?;
        let named = async {
            let publication = parts.state.begin_publication(&backup.id, token).await?;
            fault::point("publishing");
            let (folder, name) = (parts.folder.clone(), backup.file_name.clone());
            work.blocking("backup.publish", move || folder.keep(draft, &name)).await??;
            fault::point("named");
            Ok::<_, Error>(publication)
        };
        let committed = match named.await {
            Ok(publication) => publication.commit().await,
            Err(error) => {
                if let Err(error) = parts.state.forget_backup(&backup.id, State::Creating).await {
                    tracing::warn!(%error, backup = %backup.id, "the entry of a backup that was not made is removed later");
                }
                return Err(error);
            }
        };
        if let Err(error) = committed {
            tracing::warn!(%error, backup = %backup.id, "a new backup could not be entered yet");
            self.enter(&backup, token).await?;
        }
        Ok(Backup { state: State::Ready, ..backup })
    }

    /// Enters a backup whose file has its name, and of which the database may not know yet. Asks until it is answered.
    ///
    /// # Errors
    /// `Error::Lock` when the lock was lost meanwhile: neither the file nor the entry is left then.
    async fn enter(&self, backup: &Backup, token: i64) -> Result<()> {
        let parts = &self.0.parts;
        loop {
            let entered = async {
                if parts.state.backup(&backup.id).await?.is_some_and(|stored| stored.backup.state == State::Ready) {
                    return Ok(());
                }
                parts.state.begin_publication(&backup.id, token).await?.commit().await
            };
            match entered.await {
                Ok(()) => return Ok(()),
                Err(postgres::Error::FenceLost) => match parts.state.forget_backup(&backup.id, State::Creating).await {
                    Ok(true) => {
                        let (folder, name) = (parts.folder.clone(), backup.file_name.clone());
                        super::blocking(move || folder.remove(&name)).await??;
                        return Err(postgres::Error::FenceLost.into());
                    }
                    // Somebody entered it, taking this process for dead; or gave it up.
                    Ok(false) => match parts.state.backup(&backup.id).await {
                        Ok(Some(_)) => return Ok(()),
                        Ok(None) => return Err(postgres::Error::FenceLost.into()),
                        Err(error) => tracing::warn!(%error, backup = %backup.id, "a new backup could not be entered yet"),
                    },
                    Err(error) => tracing::warn!(%error, backup = %backup.id, "a new backup could not be entered yet"),
                },
                Err(error) => tracing::warn!(%error, backup = %backup.id, "a new backup could not be entered yet"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn write_pieces(
    mut writer: Writer<Draft>,
    mut pieces: mpsc::Receiver<Piece>,
    at_end: oneshot::Receiver<Vec<SequenceState>>,
) -> Result<Written> {
    while let Some(piece) = pieces.blocking_recv() {
        writer.piece(&piece)?;
    }
    let sequences = at_end.blocking_recv().map_err(|_| postgres::Error::BrokenOff)?;
    let archive::Written { out, end, sha256, bytes, session_key } = writer.finish(sequences)?;
    Ok(Written { draft: out, end, sha256, bytes, session_key, origin: None })
}

/// Reads the file back from the disk and compares everything with what was sent.
fn prove(
    mut written: Written,
    manifest: &Manifest,
    passphrase: Option<Passphrase>,
    trust: &Trust,
    stopped: &CancellationToken,
) -> Result<Written> {
    let session_key = written.session_key.take().map(Opener::SessionKey);
    let opener = passphrase.map(Opener::Passphrase).or(session_key);
    let mut file = Hashing::new(written.draft.read_back()?);
    let stop = |_: archive::Part<'_>| if stopped.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) };
    let Contents { manifest: found, end, origin, .. } = archive::read(&mut file, opener.as_ref(), trust, stop)?;
    let (bytes, sha256) = file.finish().map_err(crate::folder::Error::from)?;
    if (&found, &end, bytes, sha256) == (manifest, &written.end, written.bytes, written.sha256) {
        Ok(Written { origin: Some(origin), ..written })
    } else {
        Err(Error::ReadBack)
    }
}

fn describe(about: &Operation, manifest: &Manifest, written: &Written, origin: Origin) -> Backup {
    let name = FileName::new(manifest.backup.clone(), written.sha256, manifest.encrypted());
    let mut backup = Backup::found(name, written.bytes, written.sha256, &about.caller);
    backup.learn(manifest, &written.end, origin);
    let (trigger, operation) = (manifest.trigger, Some(about.id));
    Backup { state: State::Creating, trigger, operation, complete_time: Some(now()), ..backup }
}

/// Counts bytes, and a resource as complete when the next one begins.
pub(super) fn advance(progress: &mut Progress, resource: &crate::model::ResourceName, bytes: u64) {
    if progress.current_resource.as_ref() != Some(resource) {
        progress.completed_resources += u32::from(progress.current_resource.is_some());
        progress.current_resource = Some(resource.clone());
    }
    progress.completed_bytes += bytes;
    let percent = progress.completed_bytes.saturating_mul(90).checked_div(progress.estimated_bytes).unwrap_or(0);
    progress.percent = u8::try_from(percent.min(90)).unwrap_or(90);
}

pub(super) fn digest(request: &str) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, request.as_bytes()).as_ref().to_vec()
}
