//! Copying to the archive: each backup that is READY, the newest first, by one process at a time and out of everybody's way. A
//! file counts as archived once it was read back from there (`depot`).
//!
//! An archive that fails, hangs or belongs to others delays nobody else. It is tried again, and told of: in the log, in the
//! status, and by an event when it begins and one when all has been copied again.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::SecondsFormat;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::call::{Caller, Rejected};
use super::outbox::pause;
use super::sync::rejected;
use super::{Error, Holdfast, Result};
use crate::depot::{self, Depot};
use crate::fault;
use crate::folder;
use crate::model::archive::ArchiveFacts;
use crate::model::backup::{Backup, State};
use crate::model::event::{Event, backup_name};
use crate::model::{BackupId, FileName, Reason};
use crate::postgres::state::{Archivist, Stored};

/// The archive of this system.
#[derive(Debug, Clone)]
pub struct Archive {
    pub depot: Depot,
    /// Files that are kept in it; 0: all.
    pub max_count: u32,
    /// A system whose place this one takes, with its archive.
    pub adopt: Option<Uuid>,
}

/// How often it is looked for files that wait; and how often a process that does not copy asks whether it is to.
const LOOK: Duration = Duration::from_secs(2);
/// After an error that is not the archive's.
const LATER: Duration = Duration::from_secs(20);
/// How often an archive that nothing is copied to is asked whether it is there.
const CHECK: Duration = Duration::from_secs(60);

/// When the archive was last looked at, by the process that copies.
#[derive(Default)]
struct Looks {
    checked: Option<Instant>,
    compared: Option<Instant>,
}

const ONLY_THERE: &str = "The file is in the archive only; it is brought back when it is used.";

impl Holdfast {
    /// Copies for as long as the service runs. Of several processes one does.
    pub(super) async fn archive_always(self, archive: Archive) {
        let archiving = async {
            loop {
                if let Err(error) = self.archive_alone(&archive).await {
                    tracing::warn!(%error, "it is not known what is to be copied to the archive; it is tried again");
                    sleep(LATER).await;
                }
                sleep(LOOK).await;
            }
        };
        self.0.stopping.run_until_cancelled(archiving).await;
    }

    /// Ends when another process copies, or with the connection to the database.
    async fn archive_alone(&self, archive: &Archive) -> Result<()> {
        let state = &self.0.parts.state;
        let Some(mut archivist) = state.archivist().await? else { return Ok(()) };
        state.use_archive(archive.depot.url()).await?;
        let (mut looks, mut attempt) = (Looks::default(), 0);
        loop {
            match self.archive_next(archive, &mut archivist, &mut looks).await {
                Ok(true) => attempt = 0,
                Ok(false) => {
                    attempt = 0;
                    let told = |since: chrono::DateTime<chrono::Utc>| {
                        let since = since.to_rfc3339_opts(SecondsFormat::Secs, true);
                        tracing::info!(since, "the archive works again, and everything is copied");
                        Event::new("archive.recovered", &archiver(), "").with("failingSince", since)
                    };
                    state.note_archive_works(told).await?;
                    sleep(LOOK).await;
                }
                Err(Error::Depot(error)) => {
                    let failure = Error::Depot(error).failure();
                    let event = Event { failure: Some(failure.reason), ..Event::new("archive.failed", &archiver(), "") };
                    state.note_archive_failure(&failure, &event.with("detail", &failure.message)).await?;
                    looks.checked = None;
                    sleep(pause(attempt, Uuid::new_v4().as_fields().0)).await;
                    attempt = attempt.saturating_add(1);
                }
                Err(error) => return Err(error),
            }
            archivist.check().await?;
        }
    }

    /// Copies one file. False: none waits.
    async fn archive_next(&self, archive: &Archive, archivist: &mut Archivist, looks: &mut Looks) -> Result<bool> {
        let due = |last: Option<Instant>, period: Duration| last.is_none_or(|last| last.elapsed() >= period);
        if due(looks.compared, self.0.parts.scrub_period) {
            self.own_archive(archive).await?;
            archive.depot.tidy().await?;
            self.compare_archive(&archiver(), archive).await?;
            (looks.compared, looks.checked) = (Some(Instant::now()), Some(Instant::now()));
        }
        let next = self.0.parts.state.next_for_archive(archive.max_count).await?;
        if next.is_some() || due(looks.checked, CHECK) {
            // It may be another one than a moment ago.
            self.own_archive(archive).await?;
            looks.checked = Some(Instant::now());
        }
        let Some(backup) = next else { return Ok(false) };
        archivist.check().await?;
        self.copy_to_archive(archive, &backup).await?;
        self.expire_archived(archive).await?;
        Ok(true)
    }

    /// Makes sure that the archive is that of this system: its identity file says so. A new one gets it.
    async fn own_archive(&self, archive: &Archive) -> Result<()> {
        let (state, depot, system) = (&self.0.parts.state, &archive.depot, self.0.system.id);
        match depot.owner().await? {
            Some(owner) if owner == self.0.volume => return Err(depot::Error::BackupFolder.into()),
            Some(owner) if owner == system => {}
            Some(owner) if archive.adopt == Some(owner) => {
                depot.set_owner(system).await?;
                tracing::warn!(before = %owner, "the archive of another system is that of this one now");
                state.record(&Event::new("archive.adopted", &archiver(), "").with("systemBefore", owner)).await?;
            }
            Some(owner) => return Err(depot::Error::Foreign(owner).into()),
            None if state.use_archive(depot.url()).await? => return Err(depot::Error::NotThere.into()),
            None => depot.set_owner(system).await?,
        }
        Ok(state.note_identity().await?)
    }

    async fn copy_to_archive(&self, archive: &Archive, backup: &Backup) -> Result<()> {
        // Given up meanwhile.
        let Some(_in_use) = self.0.in_use.read(&backup.id) else { return Ok(()) };
        let name = backup.file_name.clone();
        let copied = match self.ask_volume(move |folder| folder.read(&name)).await {
            Ok(file) => {
                fault::point("archiving");
                archive.depot.put(&backup.file_name, (backup.size_bytes, backup.sha256), file).await
            }
            Err(Error::Folder(folder::Error::Missing)) => Err(depot::Error::Changed),
            Err(error) => return self.not_copied(backup, &error).await,
        };
        match copied {
            Ok(()) => {
                let event = Event::new("backup.archived", &archiver(), backup_name(&backup.id));
                self.0.parts.state.note_archived(&backup.id, &event.with("fileName", &backup.file_name)).await?;
                tracing::info!(backup = %backup.id, "a backup is in the archive");
                Ok(())
            }
            Err(error @ (depot::Error::Changed | depot::Error::Local(_))) => self.not_copied(backup, &error.into()).await,
            Err(error) => Err(error.into()),
        }
    }

    /// It is the file, and not the archive, that something is wrong with.
    async fn not_copied(&self, backup: &Backup, error: &Error) -> Result<()> {
        tracing::warn!(%error, backup = %backup.id, "a backup cannot be copied to the archive");
        match self.look_again(backup).await {
            Err(Error::BackupNotFound(_) | Error::BackupNotReady(..)) => Ok(()),
            noted => noted,
        }
    }

    /// Removes from the archive what is beyond its limit, after a copy that was proven. The newest always stays.
    async fn expire_archived(&self, archive: &Archive) -> Result<()> {
        if archive.max_count == 0 {
            return Ok(());
        }
        for stored in self.0.parts.state.archived().await?.into_iter().skip(archive.max_count as usize).rev() {
            archive.depot.remove(&stored.backup.file_name).await?;
            let event = Event::new("archive.expired", &archiver(), backup_name(&stored.backup.id));
            let event = event.with("fileName", &stored.backup.file_name);
            self.0.parts.state.note_not_archived(&stored.backup.id, true, &event).await?;
        }
        Ok(())
    }

    /// Enters files that only the archive has, oldest first, and notes those that it has lost. Returns what was entered, and
    /// what is no backup any more.
    pub(super) async fn compare_archive(&self, caller: &Caller, archive: &Archive) -> Result<(Vec<BackupId>, Vec<Rejected>)> {
        let state = &self.0.parts.state;
        // Before the archive: what is copied from here on is not taken for lost.
        let catalog: BTreeMap<FileName, Stored> =
            state.backups().await?.into_iter().map(|stored| (stored.backup.file_name.clone(), stored)).collect();
        let files = archive.depot.files().await?;
        let (mut entered, mut damaged) = (Vec::new(), Vec::new());
        for name in &files {
            match catalog.get(name) {
                None => {
                    let Some((size, sha256)) = digest_of(archive, name).await? else { continue };
                    if !name.proves(sha256) {
                        tracing::warn!(file = %name, "a file in the archive is damaged, and not taken for a backup");
                        let detail = "It is in the archive, and damaged: its SHA-256 is not that of its name.";
                        damaged.push(rejected(name.to_string(), Reason::BackupCorrupted, detail));
                        continue;
                    }
                    let found = Backup::found(name.clone(), size, sha256, caller.principal());
                    let backup = Backup { state: State::Missing, state_detail: ONLY_THERE.to_owned(), ..found };
                    let event = Event::new("backup.imported", caller, backup_name(&backup.id)).with("fileName", name);
                    if state.enter_archived(&backup, &event.with("sha256", sha256)).await? {
                        tracing::info!(backup = %backup.id, "a file that was found in the archive is in the catalog now");
                        entered.push(backup.id);
                    }
                }
                // A new copy of what is READY is made anyway, or it is found to be there already.
                Some(Stored { backup, archive_time: None, .. }) if matches!(backup.state, State::Missing | State::Invalid) => {
                    if digest_of(archive, name).await? == Some((backup.size_bytes, backup.sha256)) {
                        let event = Event::new("backup.archived", caller, backup_name(&backup.id)).with("fileName", name);
                        state.note_archived(&backup.id, &event).await?;
                    }
                }
                Some(_) => {}
            }
        }
        // Not because the archive is gone.
        self.is_own(archive).await?;
        for Stored { backup, archive_time, .. } in catalog.values() {
            if archive_time.is_some() && files.binary_search(&backup.file_name).is_err() {
                self.note_lost(backup, "The file is no longer in the archive.").await?;
            }
        }
        Ok((entered, damaged))
    }

    /// That it is this system's archive that is there.
    pub(super) async fn is_own(&self, archive: &Archive) -> Result<()> {
        match archive.depot.owner().await? {
            Some(owner) if owner == self.0.system.id => Ok(()),
            Some(owner) if owner == self.0.volume => Err(depot::Error::BackupFolder.into()),
            Some(owner) => Err(depot::Error::Foreign(owner).into()),
            None => Err(depot::Error::NotThere.into()),
        }
    }

    /// Notes that what the archive has of a backup is gone, or is not its file. It is copied again where that can be.
    pub(super) async fn note_lost(&self, backup: &Backup, detail: &str) -> Result<()> {
        tracing::error!(backup = %backup.id, detail, "the archive has lost a backup");
        let event = Event::new("archive.lost", &archiver(), backup_name(&backup.id));
        let event = event.with("fileName", &backup.file_name).with("detail", detail);
        Ok(self.0.parts.state.note_not_archived(&backup.id, false, &event).await?)
    }

    /// Looks for files that only the archive has. What is wrong with the archive is told where that is always told.
    pub(super) async fn sync_archive(&self, caller: &Caller) -> (Vec<BackupId>, Vec<Rejected>) {
        let Some(archive) = &self.0.parts.archive else { return Default::default() };
        let compared = async {
            match archive.depot.owner().await? {
                Some(owner) if owner == self.0.system.id => self.compare_archive(caller, archive).await,
                // Whoever copies makes it ours, or says why not.
                _ => Ok(Default::default()),
            }
        };
        compared.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the archive could not be compared with the catalog");
            Default::default()
        })
    }

    /// Leaves a backup whose file was removed from the folder to the archive, or forgets it where that does not have it.
    pub(super) async fn leave(&self, id: &BackupId, from: State) -> Result<()> {
        match self.0.parts.archive {
            Some(_) => self.0.parts.state.give_up_backup(id, from, ONLY_THERE).await?,
            None => _ = self.0.parts.state.forget_backup(id, from).await?,
        }
        Ok(())
    }

    /// How the archive is doing, if there is one.
    pub async fn archive_facts(&self) -> Result<Option<ArchiveFacts>> {
        let Some(archive) = &self.0.parts.archive else { return Ok(None) };
        Ok(Some(self.0.parts.state.archive_facts(archive.depot.url(), archive.max_count).await?))
    }
}

/// Of one file among many. One that is gone or cannot be read keeps nobody from the others.
async fn digest_of(archive: &Archive, name: &FileName) -> Result<Option<depot::Digest>> {
    match archive.depot.digest(name).await {
        Err(error @ depot::Error::TimedOut) => Err(error.into()),
        Err(error) => {
            tracing::warn!(file = %name, %error, "a file in the archive cannot be read");
            Ok(None)
        }
        digest => Ok(digest.ok()),
    }
}

fn archiver() -> Caller {
    Caller::internal("archive")
}
