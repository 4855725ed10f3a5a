//! The backup file that a restore or a preview reads: opened once and checked before anything else, then loaded into staging
//! tables. The one open file serves every pass, so that nobody can put another in its place.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::backup::advance;
use super::in_use::Guard;
use super::proof::Hashing;
use super::signing::{foreign, origin};
use super::works::Work;
use super::{Error, Holdfast, Result, blocking};
use crate::archive::{self, Contents, Part, Trust};
use crate::folder;
use crate::model::backup::{Backup, Origin, State, Trigger};
use crate::model::notice::Severity;
use crate::model::operation::{Phase, Progress};
use crate::model::{BackupId, Manifest, Notice, Opener, Piece, ResourceName};
use crate::postgres::{self, Restore};

/// Pieces on their way from the file to the database.
const PIECES_IN_FLIGHT: usize = 2;

/// A backup file that may be restored.
pub struct Source {
    file: File,
    pub backup: Backup,
    pub opener: Option<Opener>,
    pub manifest: Manifest,
    /// Resources to restore, in the order of the catalog.
    pub chosen: Vec<ResourceName>,
    /// Who wrote it, as far as that is known before it was read to its end.
    pub origin: Option<Origin>,
    trust: Trust,
    /// What else is known before anything is read.
    notices: Vec<Notice>,
    /// How the tables differed from those of the file when it was opened; part of the notices.
    pub drift: Vec<Notice>,
    _in_use: Guard,
}

impl Holdfast {
    /// Opens a backup for a restore of these resources (none: all in the file), and checks all that can be checked without
    /// writing.
    pub(super) async fn open(
        &self,
        who: &str,
        id: &BackupId,
        opener: Option<&Opener>,
        resources: &[ResourceName],
    ) -> Result<Source> {
        let parts = &self.0.parts;
        let in_use = self.0.in_use.read(id).ok_or_else(|| Error::BackupInUse(id.clone()))?;
        let mut backup = self.ready_backup(id).await?;
        let (file, manifest) = match self.open_file(who, &backup, opener).await {
            Err(error @ (Error::Damaged(_) | Error::Folder(folder::Error::Missing))) => {
                backup = self.brought_back_instead(&backup, error).await?;
                self.open_file(who, &backup, opener).await?
            }
            opened => opened?,
        };
        let opener = opener.cloned();
        if manifest.backup != backup.id || backup.uid.is_some_and(|uid| uid != manifest.uid) {
            let problem =
                format!("it is another backup than its name and its entry say, {}; give it its own name", manifest.backup);
            return Err(Error::Damaged(problem));
        }
        let trust = self.trust().await?;
        let origin = origin(&backup, &trust);

        let in_file = |name: &ResourceName| manifest.resources.iter().any(|resource| resource.name == *name);
        let in_catalog = parts.catalog.resources().iter().map(|resource| &resource.name);
        let (mut chosen, kept): (Vec<_>, Vec<_>) = in_catalog.cloned().partition(in_file);
        if !resources.is_empty() {
            for name in resources {
                parts.catalog.resource(name).ok_or_else(|| Error::ResourceUnknown(name.clone()))?;
                in_file(name).then_some(()).ok_or_else(|| Error::ResourceNotInBackup(name.clone()))?;
            }
            chosen.retain(|name| resources.contains(name));
        }
        let schema = parts.state.inspect(&parts.catalog).await?;
        // What undoes a restore replaces what that restore replaced; its foreign keys are checked all the same.
        let whole = backup.trigger == Trigger::Safety;
        let missing = if whole { Vec::new() } else { missing(&chosen, |name| schema.depends_on(name), in_file) };
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|name| format!("resources/{name}")).collect();
            let problem = format!("what was chosen refers to others: restore {} with it", names.join(", "));
            return Err(Error::InvalidField { field: "resources", problem });
        }
        let drift = postgres::compatible(&schema, &manifest, &chosen)?;
        let notices = self.notices_about(&manifest, &kept).into_iter().chain(drift.iter().cloned()).collect();
        Ok(Source { file, backup, opener, manifest, chosen, origin, trust, notices, drift, _in_use: in_use })
    }

    /// Opens a file, and proves it by its digest.
    async fn open_file(&self, who: &str, backup: &Backup, opener: Option<&Opener>) -> Result<(File, Manifest)> {
        if opener.is_some() && backup.encrypted() {
            self.0.attempts.check(who, &backup.id)?;
        }
        let (holdfast, who, about, opener) = (self.clone(), who.to_owned(), backup.clone(), opener.cloned());
        let name = backup.file_name.clone();
        let mut file = self.ask_volume(move |folder| folder.read(&name)).await?;
        blocking(move || {
            // The digest first: it tells a damaged file from a wrong passphrase.
            if Hashing::new(&mut file).finish().map_err(folder::Error::from)? != (about.size_bytes, about.sha256) {
                return Err(Error::Damaged("its SHA-256 is not that of its name".into()));
            }
            file.seek(SeekFrom::Start(0)).map_err(folder::Error::from)?;
            let open = || archive::manifest(&file, opener.as_ref()).map_err(|error| Error::from(error).about(&about));
            let manifest = holdfast.0.attempts.attempt(&who, &about.id, open)?;
            Ok((file, manifest))
        })
        .await?
    }

    /// A backup that was thought good, and whose file could not be used: noted as what it is, and brought back where the archive
    /// has it whole.
    ///
    /// # Errors
    /// `error`, when it does not, or the file is as it should be.
    pub(super) async fn brought_back_instead(&self, backup: &Backup, error: Error) -> Result<Backup> {
        self.look_again(backup).await?;
        match self.0.parts.state.backup(&backup.id).await?.filter(|stored| self.comes_back(stored)) {
            Some(_) => self.ready_backup(&backup.id).await,
            None => Err(error),
        }
    }

    /// Loads a file into the staging tables, and returns what it says of itself when everything in it held. Damage is known from then on.
    pub(super) async fn load(&self, work: &Arc<Work>, source: &Source, restore: &mut Restore) -> Result<Contents> {
        let loaded = source.load(work, restore).await;
        if let Err(error @ Error::Damaged(_)) = &loaded
            && let Err(why) = self.note_damage(&source.backup, Some(error)).await
        {
            tracing::warn!(error = %why, backup = %source.backup.id, "damage could not be noted");
        }
        loaded
    }

    fn notices_about(&self, manifest: &Manifest, kept: &[ResourceName]) -> Vec<Notice> {
        let catalog = &self.0.parts.catalog;
        let unknown = manifest.resources.iter().map(|resource| &resource.name).filter(|name| catalog.resource(name).is_none());
        let skipped = unknown.map(|name| {
            let message = "The file has data for a resource that this system does not know; it is skipped.";
            Notice::new(Severity::Warning, "RESOURCE_NOT_SUPPORTED", message).of(name)
        });
        let kept = kept.iter().map(|name| {
            let message = "The file has no data for this resource; the present data is kept.";
            Notice::new(Severity::Info, "RESOURCE_NOT_IN_BACKUP", message).of(name)
        });
        let other = (manifest.system_id != self.0.system.id).then(|| {
            let message = format!("The file was made on another system, {}.", manifest.system_id);
            let notice = Notice::new(Severity::Blocking, "OTHER_SYSTEM", message);
            notice
                .instructions("Make sure that this is the file you mean: its accounts and secrets replace those of this system.")
        });
        let plain = (!manifest.encrypted()).then(|| Notice::new(Severity::Info, "NOT_ENCRYPTED", "The file is not encrypted."));
        other.into_iter().chain(skipped).chain(kept).chain(plain).collect()
    }

    /// The backup, which can be used. Its file is brought back from the archive where it has to be.
    pub(super) async fn ready_backup(&self, id: &BackupId) -> Result<Backup> {
        let find = async || self.0.parts.state.backup(id).await?.ok_or_else(|| Error::BackupNotFound(id.clone()));
        let mut stored = find().await?;
        if self.comes_back(&stored) {
            self.have_brought_back(id).await?;
            stored = find().await?;
        }
        match stored.backup.state {
            State::Ready => Ok(stored.backup),
            State::Missing => Err(folder::Error::Missing.into()),
            State::Creating => Err(Error::BackupNotReady(id.clone(), "it is being made".into())),
            State::Deleting => Err(Error::BackupNotReady(id.clone(), "it is being deleted".into())),
            State::Invalid => Err(Error::BackupInvalid(id.clone(), stored.backup.state_detail)),
        }
    }
}

impl Source {
    /// What somebody must know before it is restored, now that this is who wrote it.
    pub fn notices(&self, origin: Option<&Origin>) -> Vec<Notice> {
        foreign(origin).into_iter().chain(self.notices.iter().cloned()).collect()
    }

    /// Loads the file into the staging tables, and returns what it says of itself when everything in it held.
    ///
    /// # Errors
    /// Also when the tables are not those that the caller was told of, after a wait for a software update for example.
    async fn load(&self, work: &Arc<Work>, restore: &mut Restore) -> Result<Contents> {
        if restore.drift() != self.drift {
            return Err(postgres::Error::Incompatible("the tables were altered since it was opened; start again".into()).into());
        }
        let total = u32::try_from(self.chosen.len()).unwrap_or(u32::MAX);
        let contents = self.backup.resources.iter().filter(|resource| self.chosen.contains(&resource.name));
        let estimated_bytes = contents.map(|resource| resource.bytes).sum();
        work.progress(|progress| *progress = Progress { estimated_bytes, total_resources: total, ..Progress::default() });
        work.phase(Phase::Transferring, "Reads the file into staging tables.");
        let resource_of = |entry: &crate::model::manifest::TableEntry| {
            let owner = self.manifest.resources.iter().find(|resource| resource.tables.contains(&entry.name));
            owner.map(|resource| &resource.name)
        };
        let (pieces, incoming) = mpsc::channel(PIECES_IN_FLIGHT);
        let (backup, opener, expected) = (self.backup.clone(), self.opener.clone(), self.manifest.clone());
        let trust = self.trust.clone();
        let file = self.file.try_clone().map_err(crate::folder::Error::from)?;
        let reader =
            work.blocking("backup.decode", move || read_pieces(file, &backup, opener.as_ref(), &trust, &expected, pieces));
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
        match (loaded, read?) {
            // Its own files are known by their SHA-256.
            (Ok(()), Ok(contents)) if self.backup.written_here() => {
                Ok(Contents { origin: self.origin.clone().unwrap_or(contents.origin), ..contents })
            }
            (Ok(()), Ok(contents)) => Ok(contents),
            // The end that broke off tells nothing; the other one knows why.
            (Err(error), Ok(_) | Err(Error::Database(postgres::Error::BrokenOff))) => Err(error.into()),
            (_, Err(error)) => Err(error),
        }
    }
}

/// Resources that the chosen ones refer to, and those that these refer to, as far as the file has them.
fn missing(
    chosen: &[ResourceName],
    depends_on: impl Fn(&ResourceName) -> BTreeSet<ResourceName>,
    in_file: impl Fn(&ResourceName) -> bool,
) -> Vec<ResourceName> {
    let mut all = chosen.to_vec();
    let mut next = 0;
    while let Some(name) = all.get(next) {
        let new: Vec<_> = depends_on(name).into_iter().filter(|needed| in_file(needed) && !all.contains(needed)).collect();
        all.extend(new);
        next += 1;
    }
    all.split_off(chosen.len())
}

/// Sends the pieces of a file, and returns what it says of itself only when everything in it held and it is still the file that
/// was checked.
fn read_pieces(
    mut file: File,
    backup: &Backup,
    opener: Option<&Opener>,
    trust: &Trust,
    expected: &Manifest,
    pieces: mpsc::Sender<Piece>,
) -> Result<Contents> {
    file.seek(SeekFrom::Start(0)).map_err(crate::folder::Error::from)?;
    let mut file = Hashing::new(file);
    let contents = archive::read(&mut file, opener, trust, |part| match part {
        Part::Manifest(_) => Ok(()),
        Part::Piece(piece) => pieces.blocking_send(piece).map_err(|_| Error::Database(postgres::Error::BrokenOff)),
    })?;
    if contents.manifest != *expected || file.finish().map_err(crate::folder::Error::from)? != (backup.size_bytes, backup.sha256)
    {
        return Err(Error::Damaged("it was changed while it was being read".into()));
    }
    Ok(contents)
}
