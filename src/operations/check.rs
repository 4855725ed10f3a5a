//! Whether a passphrase opens a file: told from the beginning of the file, without an operation and without the platform's
//! database. Wrong ones are counted here, whichever call they came with.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::call::Caller;
use super::verify::same;
use super::{Error, Holdfast, Result, blocking};
use crate::archive;
use crate::folder::Folder;
use crate::model::backup::{Backup, State};
use crate::model::manifest::PassphraseNote;
use crate::model::{BackupId, Manifest, Opener, Passphrase};

/// Wrong passphrases that a caller may send for one backup within `PERIOD`.
pub const MOST: usize = 5;
const PERIOD: Duration = Duration::from_secs(60);

/// What a file says of its encryption, now that it was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    pub backup: Backup,
    /// Whether it was the passphrase in use now that opened it.
    pub current_passphrase: bool,
}

impl Holdfast {
    /// Whether a passphrase opens a backup; without one, whether that in use now does. Says nothing of the rest of the file.
    ///
    /// # Errors
    /// `PassphraseIncorrect` when it does not; `Damaged` when the file is not what was written, so that nobody can say it.
    pub async fn check_passphrase(&self, caller: &Caller, id: &BackupId, passphrase: Option<Passphrase>) -> Result<Opened> {
        self.accepting()?;
        let place = self.0.transfers.clone().try_acquire_owned().map_err(|_| Error::TooManyTransfers)?;
        let in_use = self.0.in_use.read(id).ok_or_else(|| Error::BackupInUse(id.clone()))?;
        let stored = self.0.parts.state.backup(id).await?.ok_or_else(|| Error::BackupNotFound(id.clone()))?;
        let backup = match stored.backup.state {
            State::Invalid => stored.backup,
            _ => self.ready_backup(id).await?,
        };
        if !backup.encrypted() {
            return Ok(Opened { backup, current_passphrase: false });
        }
        let passphrase = match passphrase {
            None => self.passphrase().await?.1,
            given => given,
        };
        let opener = passphrase.map(Opener::Passphrase);
        let held = (place, in_use);
        self.check_volume().await?;
        let manifest = self.try_to_open(held, caller.principal(), &backup, opener.as_ref()).await?.1;
        let opened_by = self.note_opened(&backup, opener.as_ref()).await?;
        let Manifest { passphrase, recipients, .. } = manifest;
        let backup = Backup { passphrase, recipients, opened_by, ..backup };
        Ok(Opened { current_passphrase: backup.opened_by.is_some(), backup })
    }

    /// Opens a file as far as its manifest. What is `held` is given back when the file was read, also where nobody waits for
    /// the answer any more.
    pub(super) async fn try_to_open<T: Send + 'static>(
        &self,
        held: T,
        who: &str,
        backup: &Backup,
        opener: Option<&Opener>,
    ) -> Result<(T, Manifest)> {
        let (holdfast, who, about, opener) = (self.clone(), who.to_owned(), backup.clone(), opener.cloned());
        let opened = blocking(move || {
            let open = || open(&holdfast.0.parts.folder, &about, opener.as_ref());
            holdfast.0.attempts.attempt(&who, &about.id, open).map(|manifest| (held, manifest))
        });
        opened.await?
    }

    /// Notes that the passphrase in use now opened a file, if this is the one, and tells which it is.
    pub(super) async fn note_opened(&self, backup: &Backup, opener: Option<&Opener>) -> Result<Option<PassphraseNote>> {
        let Some(passphrase) = opener.and_then(Opener::passphrase) else { return Ok(None) };
        let (encryption, present) = match self.passphrase().await {
            Err(Error::SealBroken) => return Ok(None),
            present => present?,
        };
        let note = encryption.passphrase.filter(|_| present.as_ref() == Some(passphrase));
        if let Some(note) = note.filter(|note| !backup.opens_with(Some(*note), self.0.system.id)) {
            self.0.parts.state.note_opened(&backup.id, note).await?;
        }
        Ok(note)
    }
}

/// Reads no more than the beginning, unless that does not open with what was given.
fn open(folder: &Folder, backup: &Backup, opener: Option<&Opener>) -> Result<Manifest> {
    let mut file = folder.read(&backup.file_name)?;
    let opened = archive::manifest(&file, opener).map_err(|error| Error::from(error).about(backup));
    match opened {
        // The digest tells damage from a wrong passphrase.
        Err(error) if error.is_a_wrong_opener() || matches!(error, Error::Damaged(_)) => {
            match same(&mut file, backup, &CancellationToken::new())? {
                true => Err(error),
                false => Err(Error::Damaged("its SHA-256 is not that of its name".into())),
            }
        }
        opened => opened,
    }
}

/// Wrong passphrases of the last minute, by caller and backup. In the memory of this process: another replica, or the next
/// start, counts anew.
#[derive(Default)]
pub struct Attempts(Mutex<HashMap<(String, BackupId), Arc<Wrong>>>);

type Wrong = Mutex<VecDeque<Instant>>;

impl Attempts {
    /// # Errors
    /// `Error::TooManyAttempts`, before anything is read for them.
    pub fn check(&self, who: &str, id: &BackupId) -> Result<()> {
        let wrong = self.of(who, id);
        // Whoever is at an attempt may take as long as the volume does, and nobody may wait for that here.
        if matches!(wrong.try_lock(), Err(TryLockError::WouldBlock)) {
            return Ok(());
        }
        admit(&wrong, id).map(|_| ())
    }

    /// Tries to open a backup, one attempt of a caller after the other, so that none slips through while others are tried.
    ///
    /// # Errors
    /// Those of `open`, and `Error::TooManyAttempts`.
    pub fn attempt<T>(&self, who: &str, id: &BackupId, open: impl FnOnce() -> Result<T>) -> Result<T> {
        let wrong = self.of(who, id);
        let mut wrong = admit(&wrong, id)?;
        let opened = open();
        if opened.as_ref().is_err_and(Error::is_a_wrong_opener) {
            wrong.push_back(Instant::now());
        }
        opened
    }

    fn of(&self, who: &str, id: &BackupId) -> Arc<Wrong> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody uses and that are forgiven.
        all.retain(|_, wrong| Arc::strong_count(wrong) > 1 || !recent(wrong).is_empty());
        all.entry((who.to_owned(), id.clone())).or_default().clone()
    }
}

fn admit<'a>(wrong: &'a Wrong, id: &BackupId) -> Result<std::sync::MutexGuard<'a, VecDeque<Instant>>> {
    let wrong = recent(wrong);
    match wrong.front().filter(|_| wrong.len() >= MOST) {
        None => Ok(wrong),
        Some(first) => Err(Error::TooManyAttempts(id.clone(), PERIOD.saturating_sub(first.elapsed()))),
    }
}

fn recent(wrong: &Wrong) -> std::sync::MutexGuard<'_, VecDeque<Instant>> {
    let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
    while wrong.front().is_some_and(|first| first.elapsed() >= PERIOD) {
        wrong.pop_front();
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> BackupId {
        BackupId::new(chrono::DateTime::UNIX_EPOCH, uuid::Uuid::nil())
    }

    fn wrong() -> Result<()> {
        Err(Error::PassphraseIncorrect(None))
    }

    #[test]
    fn wrong_passphrases_of_one_caller_for_one_backup_are_counted_and_right_ones_are_not() {
        let attempts = Attempts::default();
        for _ in 0..20 {
            attempts.attempt("alice", &id(), || Ok(())).unwrap();
        }
        for _ in 0..MOST {
            assert!(matches!(attempts.attempt("alice", &id(), wrong), Err(Error::PassphraseIncorrect(_))));
        }
        let refused = attempts.attempt("alice", &id(), || Ok(())).unwrap_err();
        assert!(matches!(refused, Error::TooManyAttempts(_, wait) if wait <= PERIOD && wait > PERIOD / 2), "{refused:?}");
        assert!(attempts.check("alice", &id()).is_err());
        assert!(attempts.attempt("bob", &id(), || Ok(())).is_ok());
        let other = BackupId::new(chrono::DateTime::UNIX_EPOCH, uuid::Uuid::max());
        assert!(attempts.attempt("alice", &other, || Ok(())).is_ok());
    }

    #[test]
    fn attempts_at_the_same_time_are_no_way_around_the_limit() {
        let attempts = Attempts::default();
        let tried = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    let open = || {
                        tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        std::thread::yield_now();
                        wrong()
                    };
                    attempts.attempt("alice", &id(), open).unwrap_err()
                });
            }
        });
        assert_eq!(tried.into_inner(), MOST);
    }
}
