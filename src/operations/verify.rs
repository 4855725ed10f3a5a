//! Verifying a backup, from top to bottom: its file as it is on the volume, what is in it, and whether it can be restored.
//!
//! A file that is damaged is INVALID from then on, and not counted as a good one; one that is whole again is READY. What
//! only does not fit the database of today is no damage.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backup::digest;
use super::call::{Caller, VerifyRequest};
use super::proof::Hashing;
use super::signing::foreign;
use super::works::Work;
use super::{Error, Holdfast, Result, new_operation_id, now};
use crate::archive::{self, Contents, Trust};
use crate::folder::{self, Folder};
use crate::model::backup::{Backup, State};
use crate::model::event::{Event, backup_name};
use crate::model::notice::Notice;
use crate::model::operation::{Kind, Operation, Outcome, Phase, Progress};
use crate::model::verification::{Aspect, Check, LastVerification, Verification, VerifyLevel};
use crate::model::{BackupId, Opener, OperationId, Sha256};
use crate::postgres::state::Request;
use crate::postgres::{self, Purpose, Restore};

/// What a look at a file found, and what the file says of itself when it was read to its end and all of it holds.
pub(super) type Looked = (Vec<Check>, Option<Contents>);

impl Holdfast {
    /// Starts a verification. Only a rehearsal needs the maintenance lock.
    pub async fn verify_backup(&self, caller: &Caller, request: VerifyRequest) -> Result<Operation> {
        self.accepting()?;
        let VerifyRequest { backup: id, level, opener, request_id } = request;
        let about = format!("verify {id} {level:?}");
        let key = Request { request_id: (!request_id.is_empty()).then(|| request_id.clone()), digest: digest(&about) };
        if let Some(operation) = self.known(caller.principal(), &key).await? {
            return Ok(operation);
        }
        let place = self.0.transfers.clone().try_acquire_owned().map_err(|_| Error::TooManyTransfers)?;
        let in_use = self.0.in_use.read(&id).ok_or_else(|| Error::BackupInUse(id.clone()))?;
        let mut held = Arc::new((place, in_use));
        let stored = self.0.parts.state.backup(&id).await?.ok_or_else(|| Error::BackupNotFound(id.clone()))?;
        let usable = stored.backup.state == State::Ready || self.comes_back(&stored);
        let backup = match stored.backup.state {
            State::Creating => return Err(Error::BackupNotReady(id, "it is being made".into())),
            State::Deleting => return Err(Error::BackupNotReady(id, "it is being deleted".into())),
            State::Ready | State::Invalid | State::Missing => stored.backup,
        };
        if level == VerifyLevel::Rehearsal && !usable {
            return Err(Error::BackupNotReady(id, format!("{}; verify its contents first", backup.state_detail)));
        }
        if level > VerifyLevel::Checksum {
            held = self.check_before(held, caller, &backup, opener.as_ref()).await?;
        }
        let kind = if level == VerifyLevel::Rehearsal { Kind::Rehearsal } else { Kind::Verify };
        let accepted = Operation::accepted(new_operation_id(), kind, caller, &request_id, now());
        let operation = Operation { target: Some(id), ..accepted };
        let (holdfast, about) = (self.clone(), operation.clone());
        let run = move |work| async move {
            let _held = held;
            holdfast.run_verification(&work, &about, backup, level, opener).await
        };
        self.begin(operation, key, Duration::ZERO, run).await
    }

    /// Notes what has become of a file that could not be used.
    pub(super) async fn look_again(&self, backup: &Backup) -> Result<()> {
        self.note_damage(backup, None).await
    }

    /// The same, of one that somebody has read to its end and found to be damaged within.
    pub(super) async fn note_damage(&self, backup: &Backup, within: Option<&Error>) -> Result<()> {
        self.check_volume().await?;
        let (folder, of, stopped) = (self.0.parts.folder.clone(), backup.clone(), self.stopping());
        let look = move || look_at_file(&folder, &of, VerifyLevel::Checksum, None, &Trust::default(), &stopped);
        let (mut checks, mut level) = (super::blocking(look).await??.0, VerifyLevel::Checksum);
        if let Some(error) = within.filter(|_| checks.iter().all(|check| check.passed)) {
            checks.push(failed(Aspect::Structure, format!("{error}.")));
            level = VerifyLevel::Contents;
        }
        self.note_verification(None, &Verification { backup: backup.id.clone(), level, checks, notices: Vec::new() }).await
    }

    /// Whether what was sent opens a file. Of a damaged file nobody can say it: that is found out later.
    async fn check_before<T: Clone + Send + 'static>(
        &self,
        held: T,
        caller: &Caller,
        backup: &Backup,
        opener: Option<&Opener>,
    ) -> Result<T> {
        if !backup.encrypted() {
            return Ok(held);
        }
        self.check_volume().await?;
        match self.try_to_open(held.clone(), caller.principal(), backup, opener).await {
            Err(error) if error.is_about_opener() => Err(error),
            _ => Ok(held),
        }
    }

    async fn run_verification(
        &self,
        work: &Arc<Work>,
        about: &Operation,
        backup: Backup,
        level: VerifyLevel,
        opener: Option<Opener>,
    ) -> Result<Outcome> {
        // A volume that is not there says nothing of its files.
        self.check_volume().await?;
        let (mut checks, contents) = self.look_or_bring_back(work, &backup, level, opener.as_ref()).await?;
        let mut notices = Vec::new();
        if level == VerifyLevel::Rehearsal && checks.iter().all(|check| check.passed) {
            notices = self.rehearse(work, about, &backup.id, opener.as_ref(), &mut checks).await?;
        } else if !backup.written_here() {
            notices.extend(foreign(contents.as_ref().map(|contents| &contents.origin)));
        }
        let verification = Verification { backup: backup.id.clone(), level, checks, notices };
        work.phase(Phase::Finishing, "Notes what was found.");
        self.note_verification(Some(about.id), &verification).await?;
        if let Some(contents) = contents {
            self.note_contents(&backup, &contents, opener.as_ref()).await?;
        }
        Ok(Outcome::Verify(Box::new(verification)))
    }

    /// Looks at the file. Where that is gone or damaged, and the archive has it whole, this is told, and it is brought back.
    async fn look_or_bring_back(
        &self,
        work: &Arc<Work>,
        backup: &Backup,
        level: VerifyLevel,
        opener: Option<&Opener>,
    ) -> Result<Looked> {
        let look = async || {
            work.phase(Phase::Transferring, "Reads the file.");
            work.progress(|progress| *progress = Progress { estimated_bytes: backup.size_bytes, ..Progress::default() });
            let (folder, of, with, stopped) = (self.0.parts.folder.clone(), backup.clone(), opener.cloned(), work.stopped());
            let trust = self.trust().await?;
            work.blocking("backup.verify", move || look_at_file(&folder, &of, level, with.as_ref(), &trust, &stopped)).await?
        };
        let note = async |(checks, _): &Looked| {
            let verification = Verification { backup: backup.id.clone(), level, checks: checks.clone(), notices: Vec::new() };
            self.note_verification(Some(work.id()), &verification).await
        };
        let looked = look().await?;
        let Some(bad) = looked.0.iter().find(|check| !check.passed) else { return Ok(looked) };
        // It may have gone in between.
        self.check_volume().await?;
        let stored = self.0.parts.state.backup(&backup.id).await?;
        if bad.aspect.level() > VerifyLevel::Checksum || !stored.is_some_and(|stored| self.is_whole_there(&stored)) {
            return Ok(looked);
        }
        note(&looked).await?;
        self.bring_back(work, backup).await?;
        let looked = look().await?;
        // Or a rehearsal would not take it.
        note(&looked).await?;
        Ok(looked)
    }

    /// Restores the file in a transaction, as a restore does, and rolls it back. Writers of its tables wait meanwhile.
    async fn rehearse(
        &self,
        work: &Arc<Work>,
        about: &Operation,
        id: &BackupId,
        opener: Option<&Opener>,
        checks: &mut Vec<Check>,
    ) -> Result<Vec<Notice>> {
        let parts = &self.0.parts;
        let source = match self.open(&about.caller, id, opener, &[]).await {
            Err(Error::Database(error @ postgres::Error::Incompatible(_))) => {
                checks.push(failed(Aspect::Schema, format!("{error}.")));
                return Ok(Vec::new());
            }
            source => source?,
        };
        checks.push(passed(Aspect::Schema, "The tables take what the file has."));
        let purpose = Purpose::Restore { fencing_token: work.fencing_token() };
        let (manifest, chosen) = (&source.manifest, &source.chosen);
        let begin = Restore::begin(&parts.database, &parts.catalog, purpose, work.id(), &about.caller, manifest, chosen);
        let mut restore = begin.await?;
        let rehearsed = async {
            let Contents { end, origin, .. } = self.load(work, &source, &mut restore).await?;
            work.phase(Phase::Applying, "Replaces what differs, to be rolled back.");
            restore.lock().await?;
            Ok::<_, Error>((restore.apply(&end).await?, source.notices(Some(&origin))))
        };
        let rehearsed = rehearsed.await;
        restore.roll_back().await;
        match rehearsed {
            Ok(((changes, found), notices)) => {
                let sum = changes.iter().map(|change| change.rows_added + change.rows_changed + change.rows_removed).sum::<u64>();
                let detail = format!("It was restored and rolled back; {sum} rows differed from those of today.");
                checks.push(passed(Aspect::Rehearsal, &detail));
                Ok(notices.into_iter().chain(found).collect())
            }
            // It can be restored only once this is mended. Tables that were altered meanwhile say nothing of it.
            Err(Error::Database(
                error @ (postgres::Error::Constraint { .. }
                | postgres::Error::Referenced { .. }
                | postgres::Error::NotExact { .. }),
            )) => {
                checks.push(failed(Aspect::Rehearsal, format!("{error}.")));
                Ok(source.notices(source.origin.as_ref()))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes down what was found, and what has become of the backup by it. Others may have verified it meanwhile.
    pub(super) async fn note_verification(&self, operation: Option<OperationId>, verification: &Verification) -> Result<()> {
        let id = &verification.backup;
        loop {
            let stored = self.0.parts.state.backup(id).await?.ok_or_else(|| Error::BackupNotFound(id.clone()))?;
            let backup = stored.backup;
            if backup.state == State::Deleting {
                return Err(Error::BackupNotReady(id.clone(), "it is being deleted".into()));
            }
            // What only a deeper look finds is not gone because a quicker one does not see it.
            let deeper = backup.last_verification.and_then(|last| last.damage);
            let deeper = deeper.filter(|check| check.aspect.level() > verification.level);
            let damage = verification.damage().cloned().or(deeper);
            let state = match &damage {
                None => State::Ready,
                Some(Check { aspect: Aspect::File, .. }) => State::Missing,
                Some(_) => State::Invalid,
            };
            let detail = damage.as_ref().map_or("", |check| check.detail.as_str());
            let kind = match state {
                _ if state == backup.state => None,
                State::Missing => Some("backup.missing"),
                State::Invalid => Some("backup.invalid"),
                _ => Some("backup.recovered"),
            };
            let event = kind.map(|kind| {
                let event = Event::new(kind, &super::internal("verification"), backup_name(id));
                Event { operation, ..event }.with("fileName", &backup.file_name).with("detail", detail)
            });
            let (level, valid) = (verification.level, verification.valid());
            let last = LastVerification { level, valid, time: now(), operation, damage: damage.clone() };
            if self.0.parts.state.note_verification(id, backup.state, state, detail, &last, event.as_ref()).await? {
                if damage.is_some() && kind.is_some() {
                    tracing::error!(backup = %id, detail, "a backup was found to be damaged or gone");
                }
                return Ok(());
            }
        }
    }
}

fn passed(aspect: Aspect, detail: &str) -> Check {
    Check { aspect, passed: true, detail: detail.to_owned() }
}

fn failed(aspect: Aspect, detail: String) -> Check {
    Check { aspect, passed: false, detail }
}

/// Whether the file is the one that was proven when it was made. It is at its beginning afterwards.
pub(super) fn same(file: &mut (impl Read + Seek), backup: &Backup, stopped: &CancellationToken) -> Result<bool> {
    Ok(hash(file, stopped)? == (backup.size_bytes, backup.sha256))
}

/// Size and SHA-256 of a file. It is at its beginning afterwards.
pub(super) fn hash(file: &mut (impl Read + Seek), stopped: &CancellationToken) -> Result<(u64, Sha256)> {
    file.seek(SeekFrom::Start(0)).map_err(folder::Error::from)?;
    let (mut hashing, mut piece) = (Hashing::new(file.by_ref()), vec![0; 256 << 10]);
    while hashing.read(&mut piece).map_err(folder::Error::from)? > 0 {
        if stopped.is_cancelled() {
            return Err(Error::Interrupted);
        }
    }
    let found = hashing.finish().map_err(folder::Error::from)?;
    file.seek(SeekFrom::Start(0)).map_err(folder::Error::from)?;
    Ok(found)
}

/// What can be said without the database. Ends with the first check that fails.
///
/// # Errors
/// When the volume does not work, or the work is to stop: that says nothing of the file.
pub(super) fn look_at_file(
    folder: &Folder,
    backup: &Backup,
    level: VerifyLevel,
    opener: Option<&Opener>,
    trust: &Trust,
    stopped: &CancellationToken,
) -> Result<Looked> {
    let mut file = match folder.read_anew(&backup.file_name) {
        Err(folder::Error::Missing) => return Ok((vec![failed(Aspect::File, "The file is not on the volume.".into())], None)),
        file => file?,
    };
    let mut checks = vec![passed(Aspect::File, "The file is on the volume.")];
    if !same(&mut file, backup, stopped)? {
        checks.push(failed(Aspect::Sha256, "The file is not what was written: its size or SHA-256 is another.".into()));
        return Ok((checks, None));
    }
    checks.push(passed(Aspect::Sha256, "Size and SHA-256 are those of the file that was written."));
    // How an encrypted file is encrypted is read without what opens it: whatever was sent, it says nothing of the file.
    match archive::manifest(&file, None).map_err(Error::from) {
        Ok(_) | Err(Error::PassphraseRequired(_) | Error::SecretKeyRequired(_)) => {
            checks.push(passed(Aspect::Header, "It begins as a backup file does."))
        }
        Err(error @ Error::Damaged(_)) => {
            checks.push(failed(Aspect::Header, format!("{error}.")));
            return Ok((checks, None));
        }
        Err(error) => return Err(error),
    }
    if level == VerifyLevel::Checksum {
        return Ok((checks, None));
    }
    file.seek(SeekFrom::Start(0)).map_err(folder::Error::from)?;
    let stop = |_: archive::Part<'_>| if stopped.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) };
    match archive::read(&mut file, opener, trust, stop) {
        Ok(contents) => {
            let Contents { manifest, end, .. } = &contents;
            if backup.encrypted() {
                checks.push(passed(Aspect::OpenpgpIntegrity, "It was decrypted to its end, and nobody altered it."));
            }
            checks.push(passed(Aspect::Structure, "Everything that belongs into it is there, in its order."));
            let rows: u64 = end.tables.iter().map(|table| table.tally.rows).sum();
            if manifest.backup == backup.id && backup.uid.is_none_or(|uid| uid == manifest.uid) {
                checks.push(passed(Aspect::ResourceDigests, &format!("{rows} rows of {} tables hold.", end.tables.len())));
                return Ok((checks, Some(contents)));
            }
            checks.push(failed(Aspect::ResourceDigests, "It is another backup than its name and its entry say.".into()));
        }
        Err(error @ Error::Damaged(_)) => checks.push(failed(Aspect::Structure, format!("{error}."))),
        Err(error) => return Err(error),
    }
    Ok((checks, None))
}
