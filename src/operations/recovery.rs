//! Ending what others left unfinished. An operation whose owner is dead is what the database and the folder say it is:
//! a restore whose row is in `restore_log` happened, a backup whose file has its name was made. All others never were.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{sleep, timeout};

use super::{Error, Holdfast, Result, now};
use crate::fault;
use crate::folder::Folder;
use crate::model::backup::{Backup, State};
use crate::model::event::Caller;
use crate::model::operation::{BackupResult, Kind, Operation, Outcome, Phase};
use crate::model::{OperationId, UploadId};
use crate::postgres;
use crate::postgres::state::{Stored, Unfinished};

const EVERY: Duration = Duration::from_secs(1);

/// Looks at an operation, each a second after the one before, in which its owner was silent until it is dead.
const SILENT: u32 = 10;
/// The same of an owner that has no session of the database any more. It may come back; while the operation only waits for
/// the lock, there is less need to be quick.
const GONE: u32 = 3;
const GONE_WAITING: u32 = 8;
/// Longest time for which a volume that hangs is waited for.
pub(super) const VOLUME: Duration = Duration::from_secs(2);

/// How long the owners of operations have been silent. Counted in looks, not by a clock: nobody is dead because the database
/// was away, or was another one for a while.
#[derive(Default)]
struct Silences {
    /// Whether this process has looked before.
    looked: bool,
    all: HashMap<OperationId, Silence>,
}

struct Silence {
    heartbeat: DateTime<Utc>,
    silent: u32,
    gone: u32,
}

impl Silences {
    /// Notes what was found, and tells whose owner is dead: the operation and its last heartbeat. `ours` are those that this
    /// process works on, however long it could not report.
    fn look(&mut self, unfinished: &[Unfinished], ours: &[OperationId]) -> Vec<(OperationId, DateTime<Utc>)> {
        // What was silent before this process began counts too, so that its start need not wait.
        let began_before = !std::mem::replace(&mut self.looked, true);
        self.all.retain(|id, _| unfinished.iter().any(|operation| operation.id == *id));
        let mut dead = Vec::new();
        for operation in unfinished.iter().filter(|operation| !ours.contains(&operation.id)) {
            let Unfinished { id, heartbeat, silent_for, waiting, gone } = *operation;
            let before = if began_before { u32::try_from(silent_for.as_secs()).unwrap_or(u32::MAX) } else { 0 };
            let new = Silence { heartbeat, silent: before, gone: if gone { before } else { 0 } };
            let silence = self.all.entry(id).or_insert(new);
            match silence.heartbeat == heartbeat {
                true => silence.silent = silence.silent.saturating_add(1),
                false => (silence.heartbeat, silence.silent) = (heartbeat, 0),
            }
            silence.gone = if gone && silence.silent > 0 { silence.gone.saturating_add(1) } else { 0 };
            if silence.silent >= SILENT || silence.gone >= if waiting { GONE_WAITING } else { GONE } {
                dead.push((id, heartbeat));
            }
        }
        dead
    }

    /// Counts from the beginning.
    fn forget(&mut self) {
        for silence in self.all.values_mut() {
            (silence.silent, silence.gone) = (0, 0);
        }
    }
}

/// Removes the draft of an operation that must not publish it any more. The fence stops it in any case, so a volume that
/// does not work keeps nobody from the lock; whoever tidies the folder tries again.
pub(super) async fn discard_draft(folder: &Folder, operation: OperationId) {
    let folder = folder.clone();
    let discarded = timeout(VOLUME, super::blocking(move || folder.discard(operation))).await;
    if !matches!(discarded, Ok(Ok(Ok(())))) {
        tracing::warn!(operation_id = %operation, "the draft of an operation that is over could not be removed yet");
    }
}

impl Holdfast {
    /// Looks after orphans for as long as the service runs. What fails is tried again in another round.
    pub(super) async fn recover_always(self) {
        let mut silences = Silences::default();
        let look = async {
            loop {
                if let Err(error) = self.recover(&mut silences).await {
                    tracing::warn!(%error, "unfinished operations could not be looked after");
                }
                if let Err(error) = self.look_after_lock().await {
                    tracing::warn!(%error, "the maintenance lock could not be looked after");
                }
                if let Err(error) = self.raise_sequences().await {
                    tracing::warn!(%error, "the sequences of a restore could not be raised yet");
                }
                sleep(EVERY).await;
            }
        };
        self.0.stopping.run_until_cancelled(look).await;
    }

    /// Keeps the folder and the tables tidy for as long as the service runs. A volume that hangs keeps nobody from looking
    /// after orphans.
    pub(super) async fn tidy_always(self) {
        const MINUTE: Duration = Duration::from_secs(60);
        let tidy = async {
            for minute in 0u32.. {
                if let Err(error) = self.tidy().await {
                    tracing::warn!(%error, "the folder could not be tidied");
                }
                if minute.is_multiple_of(60)
                    && let Err(error) = self.0.parts.state.forget_operations().await
                {
                    tracing::warn!(%error, "old operations could not be forgotten");
                }
                sleep(MINUTE).await;
            }
        };
        self.0.stopping.run_until_cancelled(tidy).await;
    }

    async fn look_after_lock(&self) -> Result<()> {
        self.tell_end_of_lease().await?;
        Ok(self.0.parts.state.end_lease_of_none(&Caller::internal("recovery")).await?)
    }

    async fn recover(&self, silences: &mut Silences) -> Result<()> {
        fault::point("recovering");
        let state = &self.0.parts.state;
        // The database was away: so may everybody have been.
        let unfinished = self.0.pulse.unfinished().await.inspect_err(|_| silences.forget())?;
        for (id, heartbeat) in silences.look(&unfinished, &self.0.works.ids()) {
            // Another may have been faster.
            let Some(operation) = state.adopt(id, heartbeat).await? else { continue };
            tracing::warn!(operation_id = %id, "the owner of an operation is dead; ending the operation");
            if let Err(error) = self.end_orphan(operation).await {
                tracing::warn!(%error, operation_id = %id, "an operation without an owner could not be ended yet");
            }
        }
        Ok(())
    }

    async fn raise_sequences(&self) -> Result<()> {
        match self.0.parts.state.finish_sequences(&self.0.parts.catalog).await {
            // Not while a software update works in the database.
            Err(postgres::Error::Updating) => Ok(()),
            raised => Ok(raised?),
        }
    }

    async fn end_orphan(&self, operation: Operation) -> Result<()> {
        let outcome = self.what_became_of(&operation).await?;
        let mut ended = Operation { phase: Phase::Done, end_time: Some(now()), detail: String::new(), ..operation };
        if outcome.is_some() {
            ended.progress.percent = 100;
        }
        ended.outcome = outcome.or_else(|| Some(Outcome::Failed(Box::new(Error::Interrupted.failure()))));
        self.0.parts.state.report(&ended).await?;
        (self.0.parts.told)(&ended);
        Ok(())
    }

    /// Leaves nothing of an operation that nobody works on any more, and finds out how it ended. `None`: it never was.
    pub(super) async fn what_became_of(&self, operation: &Operation) -> Result<Option<Outcome>> {
        let state = &self.0.parts.state;
        // Before others may have the lock: should its owner live, it has nothing left that it could publish.
        discard_draft(&self.0.parts.folder, operation.id).await;
        // What a restore left to be done is best done while nobody else has the lock. It only raises sequences, so that it
        // harms nobody if it comes later.
        if let Err(error) = state.finish_sequences(&self.0.parts.catalog).await {
            tracing::warn!(%error, "the sequences of a restore could not be raised yet");
        }
        // Where the lock is hosted here, this waits for the last transaction of the dead owner. In any case none of its can begin.
        self.let_go(operation).await?;
        Ok(match operation.kind {
            Kind::Backup => self.outcome_of_backup(operation).await?,
            Kind::Preview | Kind::Verify | Kind::Rehearsal => None,
            Kind::Restore => {
                let result = match state.transaction(operation.id).await? {
                    Some(transaction) => self.outcome_of(operation.id, &transaction).await,
                    None => None,
                };
                if result.is_none() {
                    self.discard_safety_backup(operation.id).await?;
                }
                result.map(|result| Outcome::Restore(Box::new(result)))
            }
        })
    }

    async fn outcome_of_backup(&self, operation: &Operation) -> Result<Option<Outcome>> {
        let Some(Stored { backup, .. }) = self.0.parts.state.backup_of(operation.id).await? else { return Ok(None) };
        if !timeout(VOLUME, self.settle(&backup)).await.unwrap_or(Err(Error::TimedOut))? {
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
        let published = super::blocking(move || folder.confirm(&name)).await??;
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
                    self.remove(&backup.id, State::Deleting, None, ("backup.deleted", &Caller::internal("recovery"))).await
                }
                State::Creating => match backup.operation {
                    Some(operation) if !self.has_ended(operation).await? => Ok(()),
                    _ => self.settle(&backup).await.map(|_| ()),
                },
                _ => Ok(()),
            };
            if let Err(error) = done {
                tracing::warn!(%error, backup = %backup.id, "what was interrupted could not be finished yet");
            }
        }
        let folder = parts.folder.clone();
        for operation in super::blocking(move || folder.drafts::<OperationId>()).await?? {
            if self.has_ended(operation).await? {
                let folder = parts.folder.clone();
                super::blocking(move || folder.discard(operation)).await??;
            }
        }
        self.discard_uploads().await
    }

    /// Removes what was sent to a process that is gone. One that only lost its sessions has a moment to come back; what this
    /// one is sent goes with the call.
    async fn discard_uploads(&self) -> Result<()> {
        let folder = self.0.parts.folder.clone();
        let mut uploads: Vec<UploadId> = super::blocking(move || folder.drafts()).await??;
        for _ in 0..GONE {
            let processes: Vec<_> = uploads.iter().map(|upload| upload.process).collect();
            let gone = self.0.pulse.gone(&processes).await?;
            uploads.retain(|upload| gone.contains(&upload.process));
            if uploads.is_empty() {
                return Ok(());
            }
            sleep(EVERY).await;
        }
        for upload in uploads {
            tracing::info!(%upload, "the process that took an upload is gone; removing what was sent");
            let folder = self.0.parts.folder.clone();
            super::blocking(move || folder.discard(upload)).await??;
        }
        Ok(())
    }

    async fn has_ended(&self, operation: OperationId) -> Result<bool> {
        Ok(self.0.parts.state.operation(operation).await?.is_none_or(|operation| operation.done()))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const OF_OURS: OperationId = OperationId(Uuid::from_u128(1));
    const ID: OperationId = OperationId(Uuid::from_u128(2));

    fn found(beat: i64, silent_for: u64, gone: bool) -> [Unfinished; 1] {
        let heartbeat = DateTime::from_timestamp(beat, 0).unwrap();
        [Unfinished { id: ID, heartbeat, silent_for: Duration::from_secs(silent_for), waiting: false, gone }]
    }

    /// Looks until somebody is dead.
    fn looks(silences: &mut Silences, found: &[Unfinished]) -> u32 {
        (1..100).find(|_| !silences.look(found, &[OF_OURS]).is_empty()).unwrap()
    }

    #[test]
    fn p03_an_owner_is_dead_after_ten_silent_looks_or_three_without_a_session() {
        assert_eq!(looks(&mut Silences::default(), &found(1, 0, false)), SILENT);
        assert_eq!(looks(&mut Silences::default(), &found(1, 0, true)), GONE);
        let waiting = found(1, 0, true).map(|found| Unfinished { waiting: true, ..found });
        assert_eq!(looks(&mut Silences::default(), &waiting), GONE_WAITING);
        // What was silent for an hour when it was first seen need not be waited for.
        assert_eq!(looks(&mut Silences::default(), &found(1, 3600, false)), 1);
    }

    #[test]
    fn an_owner_that_reports_lives_whether_it_has_a_session_or_not() {
        let mut silences = Silences::default();
        for beat in 0..100 {
            assert!(silences.look(&found(beat, 0, beat % 2 == 0), &[]).is_empty());
        }
        let ours = found(1, 3600, true);
        assert!(silences.look(&ours, &[ID]).is_empty(), "it is ours");
    }

    #[test]
    fn p11_an_outage_of_the_database_kills_nobody() {
        let mut silences = Silences::default();
        for _ in 0..SILENT - 1 {
            assert!(silences.look(&found(1, 0, false), &[]).is_empty());
        }
        silences.forget();
        // It is back, and the owner has not reported for an hour.
        for _ in 0..GONE - 1 {
            assert!(silences.look(&found(1, 3600, true), &[]).is_empty());
        }
        assert!(silences.look(&found(2, 0, false), &[]).is_empty());
        // Nor those of which this process had not heard before.
        let mut silences = Silences::default();
        assert!(silences.look(&[], &[]).is_empty());
        silences.forget();
        assert_eq!(looks(&mut silences, &found(1, 3600, true)), GONE);
    }
}
