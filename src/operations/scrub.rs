//! The scrub: every file is read again from the disk, one after the other and out of everybody's way, so that damage is found
//! while there are other backups. What the passphrase in use opens is decoded to its end as well.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::verify::look_at_file;
use super::{Error, Holdfast, Result};
use crate::model::Opener;
use crate::model::backup::Backup;
use crate::model::verification::{Verification, VerifyLevel};

const LOOK: Duration = Duration::from_secs(60);
/// Lowest of all (setpriority(2)); the I/O schedulers that know priorities follow it.
const NICE: i32 = 19;

impl Holdfast {
    /// Scrubs for as long as the service runs. Replicas share the work: whoever claims a file reads it.
    pub(super) async fn scrub_always(self) {
        let period = self.0.parts.scrub_period;
        // A file is due after half the time, so that it is read within the whole of it.
        let (due, look) = (period / 2, LOOK.min(period / 10));
        let scrub = async {
            loop {
                match self.0.parts.state.claim_scrub(due).await {
                    Ok(Some(backup)) => self.scrub(backup).await,
                    Ok(None) => sleep(look).await,
                    Err(error) => {
                        tracing::warn!(%error, "the next file to be scrubbed is not known");
                        sleep(look).await;
                    }
                }
            }
        };
        self.0.stopping.run_until_cancelled(scrub).await;
    }

    async fn scrub(&self, backup: Backup) {
        let id = backup.id.clone();
        match self.scrubbed(backup).await {
            Ok(()) => tracing::debug!(backup = %id, "a file was scrubbed"),
            // It was given up meanwhile.
            Err(Error::BackupNotFound(_) | Error::BackupNotReady(..)) => {}
            Err(error) => tracing::warn!(%error, backup = %id, "a file could not be scrubbed; it is read again the next time"),
        }
    }

    async fn scrubbed(&self, backup: Backup) -> Result<()> {
        self.check_volume().await?;
        let system = self.0.system.id;
        let (level, opener) = match self.passphrase().await {
            _ if !backup.encrypted() => (VerifyLevel::Contents, None),
            // Of one of another system, or that was never opened, it is not known whether this opens it.
            Ok((encryption, Some(passphrase)))
                if backup.source_system != Some(system) || backup.opens_with(encryption.passphrase, system) =>
            {
                (VerifyLevel::Contents, Some(Opener::Passphrase(passphrase)))
            }
            _ => (VerifyLevel::Checksum, None),
        };
        let (level, looked) = match self.look_out_of_the_way(&backup, level, opener.clone()).await {
            Err(Error::PassphraseIncorrect(_) | Error::SecretKeyRequired(_)) => {
                let level = VerifyLevel::Checksum;
                (level, self.look_out_of_the_way(&backup, level, None).await?)
            }
            looked => (level, looked?),
        };
        let (checks, contents) = looked;
        if checks.iter().any(|check| !check.passed) {
            // It may have gone in between.
            self.check_volume().await?;
        }
        let verification = Verification { backup: backup.id.clone(), level, checks, notices: Vec::new() };
        self.note_verification(None, &verification).await?;
        match contents {
            Some(contents) => self.note_contents(&backup, &contents, opener.as_ref()).await,
            None => Ok(()),
        }
    }

    /// In a thread of its own: a priority stays with its thread.
    async fn look_out_of_the_way(
        &self,
        backup: &Backup,
        level: VerifyLevel,
        opener: Option<Opener>,
    ) -> Result<super::verify::Looked> {
        let (folder, backup, stopped) = (self.0.parts.folder.clone(), backup.clone(), self.stopping());
        let trust = self.trust().await?;
        let (sender, looked) = oneshot::channel();
        let look = move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "the scrub has the priority of everybody else");
            }
            // Nobody is interested any more when the service stops.
            let _ = sender.send(look_at_file(&folder, &backup, level, opener.as_ref(), &trust, &stopped));
        };
        let thread = std::thread::Builder::new().name("scrub".into()).spawn(look);
        thread.map_err(|_| Error::Bug("no thread can be started"))?;
        looked.await.map_err(|_| Error::Bug("reading a file panicked"))?
    }
}
