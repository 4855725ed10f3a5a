//! Bringing a file back from the archive, when it is gone from the folder or was found to be damaged there.
//!
//! A verification does it before it looks at the file. Whoever wants to use such a backup has it verified first, so that
//! everything after it goes its ordinary way; the file comes back for good.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::call::{Caller, VerifyRequest};
use super::proof::Hashing;
use super::works::Work;
use super::{Error, Holdfast, Result, blocking};
use crate::depot;
use crate::fault;
use crate::model::BackupId;
use crate::model::backup::{Backup, State};
use crate::model::operation::{Kind, Outcome, Phase};
use crate::model::verification::VerifyLevel;
use crate::postgres::state::Stored;

/// How long a call waits for a file. It comes all the same when that is over, and the caller is told what to follow.
const PATIENCE: Duration = Duration::from_secs(20);

impl Holdfast {
    /// Whether a backup that cannot be used as it is can be once its file is brought back.
    pub(super) fn comes_back(&self, stored: &Stored) -> bool {
        matches!(stored.backup.state, State::Missing | State::Invalid) && self.is_whole_there(stored)
    }

    /// Whether the archive has the whole file. What is damaged within is so there too.
    pub(super) fn is_whole_there(&self, stored: &Stored) -> bool {
        let within = stored.backup.last_verification.as_ref().and_then(|last| last.damage.as_ref());
        let within = within.is_some_and(|check| check.aspect.level() > VerifyLevel::Checksum);
        !within && stored.archive_time.is_some() && self.0.parts.archive.is_some()
    }

    /// Puts the file into the folder, as part of an operation. One that is damaged makes place for it when it is whole,
    /// durable and read back.
    ///
    /// # Errors
    /// When the archive fails, and when what it has is not the file; that is known from then on.
    pub(super) async fn bring_back(&self, work: &Arc<Work>, backup: &Backup) -> Result<()> {
        let parts = &self.0.parts;
        let Some(archive) = &parts.archive else { return Ok(()) };
        work.phase(Phase::Transferring, "Brings the file back from the archive.");
        self.check_space_for(backup.size_bytes).await?;
        let (folder, operation) = (parts.folder.clone(), work.id());
        let draft = blocking(move || folder.draft(operation)).await??;
        let digest = (backup.size_bytes, backup.sha256);
        let read = |bytes| work.progress(|progress| progress.completed_bytes += bytes);
        let got = match archive.depot.get(&backup.file_name, digest, draft, read).await {
            Err(error @ (depot::Error::Missing | depot::Error::Damaged)) => {
                // Or else it is the archive that is gone.
                self.is_own(archive).await?;
                self.note_lost(backup, &format!("It was to be brought back: {error}.")).await?;
                Err(error)
            }
            got => got,
        };
        let mut draft = got?;
        fault::point("bringing back");
        let (folder, name) = (parts.folder.clone(), backup.file_name.clone());
        let put = move || {
            let written = Hashing::new(draft.read_back()?);
            if written.finish().map_err(crate::folder::Error::from)? != digest {
                return Err(Error::ReadBack);
            }
            Ok(folder.replace(draft, &name)?)
        };
        work.blocking("backup.bring_back", put).await??;
        tracing::info!(backup = %backup.id, "a file was brought back from the archive");
        work.progress(|progress| progress.completed_bytes = 0);
        Ok(())
    }

    /// Has a file brought back, and waits for it, for a while.
    ///
    /// # Errors
    /// `Error::OnItsWay` when that takes longer.
    pub(super) fn have_brought_back<'a>(&'a self, id: &'a BackupId) -> BoxFuture<'a, Result<()>> {
        // A verification may rehearse a restore, which may have a file brought back: types cannot go round in circles.
        async move {
            let active = self.0.parts.state.operations(100, None, true).await?;
            let mut verifies = active.into_iter().filter(|operation| operation.kind == Kind::Verify);
            let mut operation = match verifies.find(|operation| operation.target.as_ref() == Some(id)) {
                Some(operation) => operation,
                None => {
                    let level = VerifyLevel::Checksum;
                    let request = VerifyRequest { backup: id.clone(), level, opener: None, request_id: String::new() };
                    self.verify_backup(&Caller::internal("archive"), request).await?
                }
            };
            let end = Instant::now() + PATIENCE;
            while !operation.done() {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Error::OnItsWay(id.clone(), operation.id));
                }
                operation = self.wait_for_change(operation.id, operation.revision, left).await?;
            }
            match operation.outcome {
                Some(Outcome::Failed(failure)) => Err(Error::NotBroughtBack(failure)),
                _ => Ok(()),
            }
        }
        .boxed()
    }
}
