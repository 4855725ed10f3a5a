//! Ending what others left unfinished. An operation whose owner is dead is what the database and the folder say it is:
//! a restore whose row is in `restore_log` happened, a backup whose file has its name was made. All others never were.

use std::time::Duration;

use super::{Error, Holdfast, Result, now};
use crate::model::OperationId;
use crate::model::backup::{Backup, State};
use crate::model::event::Caller;
use crate::model::operation::{BackupResult, Kind, Operation, Outcome, Phase};
use crate::postgres::state::Stored;

const EVERY: Duration = Duration::from_secs(3);

impl Holdfast {
    /// Looks after orphans for as long as the service runs.
    pub(super) async fn recover_always(self) {
        let mut rounds = 0u32;
        loop {
            tokio::select! {
                () = self.round(rounds) => {}
                () = self.0.stopping.cancelled() => return,
            }
            rounds = rounds.wrapping_add(1);
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.0.stopping.cancelled() => return,
            }
        }
    }

    /// What fails is tried again in another round.
    async fn round(&self, number: u32) {
        const MINUTE: u32 = 20;
        if let Err(error) = self.recover().await {
            tracing::warn!(%error, "unfinished operations could not be looked after");
        }
        if number.is_multiple_of(MINUTE)
            && let Err(error) = self.tidy().await
        {
            tracing::warn!(%error, "the folder could not be tidied");
        }
        if number.is_multiple_of(60 * MINUTE)
            && let Err(error) = self.0.parts.state.forget_operations().await
        {
            tracing::warn!(%error, "old operations could not be forgotten");
        }
    }

    async fn recover(&self) -> Result<()> {
        let state = &self.0.parts.state;
        for (operation, transaction) in state.adopt_orphans(self.0.instance, &self.0.works.ids()).await? {
            let id = operation.id;
            tracing::warn!(operation_id = %id, "the owner of an operation is dead; ending the operation");
            if let Err(error) = self.end_orphan(operation, transaction).await {
                tracing::warn!(%error, operation_id = %id, "an operation without an owner could not be ended yet");
            }
        }
        self.tell_end_of_lease().await?;
        Ok(state.finish_sequences(&self.0.parts.catalog).await?)
    }

    async fn end_orphan(&self, operation: Operation, transaction: Option<String>) -> Result<()> {
        let state = &self.0.parts.state;
        // Before others may have the lock: should its owner live, it has nothing left that it could publish.
        if operation.kind != Kind::Preview {
            let (folder, id) = (self.0.parts.folder.clone(), operation.id);
            super::blocking(move || folder.discard(id)).await??;
        }
        // What a restore left to be done is best done while nobody else has the lock. It only raises sequences, so that it
        // harms nobody if it comes later.
        if let Err(error) = state.finish_sequences(&self.0.parts.catalog).await {
            tracing::warn!(%error, "the sequences of a restore could not be raised yet");
        }
        // Waits for the last transaction of the dead owner, so that its outcome is settled.
        self.let_go(&operation).await?;
        let outcome = match (operation.kind, transaction) {
            (Kind::Backup, _) => self.outcome_of_backup(&operation).await?,
            (Kind::Preview, _) => None,
            (Kind::Restore, transaction) => {
                let result = match transaction {
                    Some(transaction) => self.outcome_of(operation.id, &transaction).await,
                    None => None,
                };
                if result.is_none() {
                    self.discard_safety_backup(operation.id).await?;
                }
                result.map(|result| Outcome::Restore(Box::new(result)))
            }
        };
        let outcome = outcome.unwrap_or_else(|| Outcome::Failed(Box::new(Error::Interrupted.failure())));
        let ended =
            Operation { phase: Phase::Done, end_time: Some(now()), detail: String::new(), outcome: Some(outcome), ..operation };
        state.report(&ended, self.0.instance).await?;
        Ok(())
    }

    async fn outcome_of_backup(&self, operation: &Operation) -> Result<Option<Outcome>> {
        let Some(Stored { backup, .. }) = self.0.parts.state.backup_of(operation.id).await? else { return Ok(None) };
        if !self.settle(&backup).await? {
            return Ok(None);
        }
        let backup = Backup { state: State::Ready, ..backup };
        let result = BackupResult { backup, expired: Vec::new(), not_expired: Vec::new(), notices: Vec::new() };
        Ok(Some(Outcome::Backup(Box::new(result))))
    }

    /// A backup that is in the catalog was proven, so its name decides: with it the backup is whole, without it there is none.
    async fn settle(&self, backup: &Backup) -> Result<bool> {
        let parts = &self.0.parts;
        let (folder, name) = (parts.folder.clone(), backup.file_name.clone());
        let published = super::blocking(move || folder.contains(&name)).await??;
        if published {
            parts.state.set_backup_state(&backup.id, State::Creating, State::Ready, "").await?;
            // Entered now, or before; gone when its owner lived and took it back.
            let stored = parts.state.backup(&backup.id).await?;
            Ok(stored.is_some_and(|stored| stored.backup.state == State::Ready))
        } else {
            parts.state.forget_backup(&backup.id, State::Creating).await?;
            Ok(false)
        }
    }

    /// Finishes entries and deletions that were interrupted, and removes drafts that no operation writes any more.
    async fn tidy(&self) -> Result<()> {
        let parts = &self.0.parts;
        self.check_volume().await?;
        for Stored { backup, .. } in parts.state.backups().await? {
            let done = match backup.state {
                State::Deleting => {
                    self.remove(&backup.id, State::Deleting, ("backup.deleted", &Caller::internal("recovery"))).await
                }
                State::Creating if self.has_ended(backup.operation).await? => self.settle(&backup).await.map(|_| ()),
                _ => Ok(()),
            };
            if let Err(error) = done {
                tracing::warn!(%error, backup = %backup.id, "what was interrupted could not be finished yet");
            }
        }
        let folder = parts.folder.clone();
        for operation in super::blocking(move || folder.drafts()).await?? {
            if self.has_ended(operation).await? {
                let folder = parts.folder.clone();
                super::blocking(move || folder.discard(operation)).await??;
            }
        }
        Ok(())
    }

    async fn has_ended(&self, operation: OperationId) -> Result<bool> {
        Ok(self.0.parts.state.operation(operation).await?.is_none_or(|operation| operation.done()))
    }
}
