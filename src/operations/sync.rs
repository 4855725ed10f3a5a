//! The folder is the truth, the catalog an index: files that were copied in enter it, those that are gone are marked.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::call::{Caller, Rejected, Synced};
use super::verify::{hash, look_at_file};
use super::{Error, Holdfast, Result, blocking};
use crate::archive::{self, Contents, Error as Unreadable, Trust};
use crate::folder::{self, Folder};
use crate::model::backup::{Backup, State};
use crate::model::event::{Event, backup_name};
use crate::model::manifest::PassphraseNote;
use crate::model::verification::VerifyLevel;
use crate::model::{BackupId, FileName, Manifest, Opener, Reason, Sha256};
use crate::postgres::state::Stored;

/// Most files that are not taken for backups and are told of one by one.
const MAX_REJECTED: usize = 1000;
/// The same, in the log.
const MAX_LOGGED: usize = 20;
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// A file that has the name of a backup.
enum Examined {
    Whole(Box<Backup>),
    Not(Rejected),
    /// It was there a moment ago.
    Gone,
}

impl Holdfast {
    /// Compares the catalog with the folder until that has succeeded once.
    pub(super) async fn sync_at_start(self) {
        let caller = Caller::internal("folder");
        loop {
            let synced = tokio::select! {
                synced = self.sync_backups(&caller) => synced,
                () = self.0.stopping.cancelled() => return,
            };
            match synced {
                Ok(Synced { imported, missing, recovered, rejected, rejected_count }) => {
                    for Rejected { file_name, detail, .. } in rejected.iter().take(MAX_LOGGED) {
                        tracing::warn!(
                            file_name,
                            detail,
                            "a file in the backup folder is not taken for a backup, and left alone"
                        );
                    }
                    tracing::info!(
                        imported = imported.len(),
                        missing = missing.len(),
                        recovered = recovered.len(),
                        rejected = rejected_count,
                        "the backup folder was compared with the catalog"
                    );
                    return;
                }
                Err(error) => tracing::warn!(%error, "the backup folder could not be compared with the catalog yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(TRY_AGAIN) => {}
                () = self.0.stopping.cancelled() => return,
            }
        }
    }

    /// Enters files that were copied in, oldest first, marks those that are gone, and finds those that are back; then enters those
    /// that only the archive has. What is not a whole backup file is left alone. What was done before an error stays done.
    pub async fn sync_backups(&self, caller: &Caller) -> Result<Synced> {
        self.accepting()?;
        let _alone = self.0.syncing.lock().await;
        self.check_volume().await?;
        let folder = self.0.parts.folder.clone();
        // Before the catalog: a file that gets its name from here on is in neither, or in the catalog.
        let folder::Contents { backups: files, others } = blocking(move || folder.contents()).await??;
        let catalog = self.0.parts.state.backups().await?;
        let missing = self.mark_missing(caller, &catalog, |name| files.contains(name)).await?;
        let (mut recovered, wrong) = self.mark_found(caller, &catalog, |name| files.contains(name)).await?;

        let others = others.into_iter().map(|(file_name, detail)| rejected(file_name, Reason::NotABackupFile, detail));
        let mut all_rejected: Vec<Rejected> = others.chain(wrong).collect();
        let known: HashMap<&BackupId, &FileName> =
            catalog.iter().map(|stored| (&stored.backup.id, &stored.backup.file_name)).collect();
        let mut entered = Vec::new();
        for name in files {
            match known.get(name.id()) {
                Some(file_name) if **file_name == name => {}
                Some(_) => {
                    let detail = format!("Another file is backup {} already.", name.id());
                    all_rejected.push(rejected(name.to_string(), Reason::BackupAlreadyExists, detail));
                }
                None => match self.look(caller, &name).await? {
                    Examined::Whole(backup) => {
                        let event = Event::new("backup.imported", caller, backup_name(&backup.id));
                        let event = event.with("fileName", &backup.file_name).with("sha256", backup.sha256);
                        if self.0.parts.state.import(&backup, &event).await? {
                            tracing::info!(backup = %backup.id, "a file that was found in the backup folder is in the catalog now");
                            entered.push(backup.id);
                        } else {
                            // It was found in the archive meanwhile.
                            let stored = self.0.parts.state.backup(&backup.id).await?;
                            let missed =
                                |stored: &Stored| stored.backup.state == State::Missing && stored.backup.file_name == name;
                            if let Some(stored) = stored.filter(missed) {
                                self.note_presence(caller, &stored.backup, State::Ready, "", "backup.recovered").await?;
                                recovered.push(stored.backup.id);
                            }
                        }
                    }
                    Examined::Not(why) => all_rejected.push(why),
                    Examined::Gone => {}
                },
            }
        }
        let (in_archive, damaged) = self.sync_archive(caller).await;
        entered.extend(in_archive);
        all_rejected.extend(damaged);
        let rejected_count = all_rejected.len() as u64;
        all_rejected.truncate(MAX_REJECTED);
        let imported = match entered.is_empty() {
            true => Vec::new(),
            false => self.listed().await?.into_iter().filter(|listed| entered.contains(&listed.backup.id)).collect(),
        };
        Ok(Synced { imported, missing, recovered, rejected: all_rejected, rejected_count })
    }

    async fn mark_missing(&self, caller: &Caller, catalog: &[Stored], seen: impl Fn(&FileName) -> bool) -> Result<Vec<BackupId>> {
        let mut gone = Vec::new();
        for Stored { backup, .. } in catalog {
            if matches!(backup.state, State::Ready | State::Invalid) && !seen(&backup.file_name) {
                // It may have got its name since.
                let (folder, name) = (self.0.parts.folder.clone(), backup.file_name.clone());
                if !blocking(move || folder.contains(&name)).await?? {
                    gone.push(backup);
                }
            }
        }
        // Not because the volume is.
        self.check_volume().await?;
        let mut missing = Vec::new();
        for backup in gone {
            let detail = "The file is not on the volume.";
            if self.note_presence(caller, backup, State::Missing, detail, "backup.missing").await? {
                tracing::error!(backup = %backup.id, "the file of a backup is gone");
                missing.push(backup.id.clone());
            }
        }
        Ok(missing)
    }

    /// Those whose files are back, and files in their places that are others.
    async fn mark_found(
        &self,
        caller: &Caller,
        catalog: &[Stored],
        seen: impl Fn(&FileName) -> bool,
    ) -> Result<(Vec<BackupId>, Vec<Rejected>)> {
        let (mut recovered, mut wrong) = (Vec::new(), Vec::new());
        let back = catalog.iter().map(|stored| &stored.backup);
        for backup in back.filter(|backup| backup.state == State::Missing && seen(&backup.file_name)) {
            let (folder, of, stopped) = (self.0.parts.folder.clone(), backup.clone(), self.stopping());
            let (checks, _) =
                blocking(move || look_at_file(&folder, &of, VerifyLevel::Checksum, None, &Trust::default(), &stopped)).await??;
            // Anything but the file that was written is left for a verification to tell of, and what one has found before stays.
            let damage = backup.last_verification.as_ref().and_then(|last| last.damage.as_ref());
            let known = damage.is_some_and(|check| check.aspect.level() > VerifyLevel::Checksum);
            let whole = !known && checks.iter().all(|check| check.passed);
            if whole && self.note_presence(caller, backup, State::Ready, "", "backup.recovered").await? {
                recovered.push(backup.id.clone());
            }
            if checks.iter().any(|check| !check.passed) {
                let detail = format!("It is not the file of backup {}; it may not be copied to its end yet.", backup.id);
                wrong.push(rejected(backup.file_name.to_string(), Reason::BackupCorrupted, detail));
            }
        }
        Ok((recovered, wrong))
    }

    async fn note_presence(&self, caller: &Caller, backup: &Backup, state: State, detail: &str, kind: &str) -> Result<bool> {
        let event = Event::new(kind, caller, backup_name(&backup.id)).with("fileName", &backup.file_name).with("detail", detail);
        Ok(self.0.parts.state.move_backup(&backup.id, (backup.state, state), None, detail, &event).await?)
    }

    /// What a file is that has the name of a backup.
    async fn look(&self, caller: &Caller, name: &FileName) -> Result<Examined> {
        // Without it no more is known of an encrypted file than its name; a wrong one is nobody's fault.
        let (encryption, passphrase) = self.passphrase().await.unwrap_or_default();
        let (opener, trust) = (passphrase.map(Opener::Passphrase), self.trust().await?);
        let (folder, of, creator, stopped) =
            (self.0.parts.folder.clone(), name.clone(), caller.principal().to_owned(), self.stopping());
        let examined =
            blocking(move || look(&folder, of, opener.as_ref(), &trust, &creator, &stopped)).await.and_then(|found| found);
        match examined {
            Ok(Some(backup)) => Ok(Examined::Whole(Box::new(opened_by(backup, encryption.passphrase)))),
            Ok(None) => Ok(Examined::Gone),
            // A damaged file may make a parser panic.
            Err(error @ (Error::NotABackup(_) | Error::Damaged(_) | Error::NewerFormat { .. } | Error::Bug(_))) => {
                let failure = error.failure();
                let reason = if failure.reason == Reason::Internal { Reason::BackupCorrupted } else { failure.reason };
                Ok(Examined::Not(rejected(name.to_string(), reason, failure.message)))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps what a file that was found in the folder says of itself, now that somebody has opened it with this.
    pub(super) async fn note_contents(&self, backup: &Backup, contents: &Contents, opener: Option<&Opener>) -> Result<()> {
        let Contents { manifest, end, origin, .. } = contents;
        if backup.uid.is_none() {
            let mut backup = backup.clone();
            backup.learn(manifest, end, origin.clone());
            self.0.parts.state.note_contents(&backup).await?;
        } else if !backup.written_here() && backup.origin.as_ref() != Some(origin) {
            self.0.parts.state.note_origin(&backup.id, origin).await?;
        }
        self.note_opened(backup, opener).await?;
        Ok(())
    }
}

pub(super) fn rejected(file_name: String, reason: Reason, detail: impl Into<String>) -> Rejected {
    Rejected { file_name, reason, detail: detail.into() }
}

/// Reads a whole file of the folder, against the digest in its name.
fn look(
    folder: &Folder,
    name: FileName,
    opener: Option<&Opener>,
    trust: &Trust,
    creator: &str,
    stopped: &CancellationToken,
) -> Result<Option<Backup>> {
    let mut file = match folder.read(&name) {
        Err(folder::Error::Missing) => return Ok(None),
        file => file?,
    };
    let (size, sha256) = hash(&mut file, stopped)?;
    if !name.proves(sha256) {
        return Err(Error::Damaged("its SHA-256 is not that of its name; it may not be copied to its end yet".into()));
    }
    // Whoever copied it may not have waited for the disk.
    folder.confirm(&name)?;
    examine(&mut file, Backup::found(name, size, sha256, creator), opener, trust, stopped).map(Some)
}

/// What a file is whose digest is known to be that of its name: what its contents say, where the passphrase opens them.
pub(super) fn examine(
    file: &mut (impl Read + Seek + Send + Sync),
    mut backup: Backup,
    opener: Option<&Opener>,
    trust: &Trust,
    stopped: &CancellationToken,
) -> Result<Backup> {
    let renamed = || Error::Damaged("it was renamed: it is another backup than its name says".into());
    // What it begins with is read without the passphrase.
    let encrypted = match manifest(file, None) {
        Ok(_) => false,
        Err(Unreadable::PassphraseRequired | Unreadable::SecretKeyRequired(_)) => true,
        Err(error) => return Err(not_a_backup(error)),
    };
    if encrypted != backup.encrypted() {
        return Err(renamed());
    }
    match manifest(file, opener) {
        Ok(_) => {}
        Err(Unreadable::PassphraseRequired | Unreadable::PassphraseIncorrect) => return Ok(backup),
        Err(Unreadable::SecretKeyRequired(recipients)) => return Ok(Backup { recipients, write_only: true, ..backup }),
        Err(error) => return Err(error.into()),
    }
    let stop = |_: archive::Part<'_>| if stopped.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) };
    file.seek(SeekFrom::Start(0)).map_err(folder::Error::from)?;
    let Contents { manifest, end, origin, .. } = archive::read(file, opener, trust, stop)?;
    if manifest.backup != backup.id || manifest.encrypted() != encrypted {
        return Err(renamed());
    }
    backup.learn(&manifest, &end, origin);
    Ok(backup)
}

/// The same, with the passphrase in use, where that was what opened it.
pub(super) fn opened_by(backup: Backup, in_use: Option<PassphraseNote>) -> Backup {
    let opened_by = in_use.filter(|_| backup.encrypted() && backup.uid.is_some());
    Backup { opened_by, ..backup }
}

/// The name of a file that has lost it, out of its contents.
pub(super) fn named_by_itself(
    file: &mut (impl Read + Seek + Send + Sync),
    sha256: Sha256,
    opener: Option<&Opener>,
) -> Result<FileName> {
    match manifest(file, opener) {
        Ok(manifest) => Ok(FileName::new(manifest.backup.clone(), sha256, manifest.encrypted())),
        Err(Unreadable::PassphraseRequired | Unreadable::PassphraseIncorrect | Unreadable::SecretKeyRequired(_)) => {
            let problem =
                "the file is encrypted, and the passphrase in use here does not open it, so that its name is needed; send \
                           the one that it had in the backup folder"
                    .into();
            Err(Error::InvalidField { field: "header.file_name", problem })
        }
        Err(error) => Err(not_a_backup(error)),
    }
}

fn manifest(file: &mut (impl Read + Seek + Send + Sync), opener: Option<&Opener>) -> Result<Manifest, Unreadable> {
    file.seek(SeekFrom::Start(0)).map_err(Unreadable::Io)?;
    archive::manifest(file, opener)
}

/// Its digest is what it should be, so nothing has happened to it since: it was never a backup.
fn not_a_backup(error: Unreadable) -> Error {
    match error {
        Unreadable::NotABackup => Error::NotABackup("it begins as another kind of file does".into()),
        Unreadable::UnsupportedEncryption(why) | Unreadable::Damaged(why) | Unreadable::TooLarge(why) => {
            Error::NotABackup(why.into())
        }
        error => error.into(),
    }
}
