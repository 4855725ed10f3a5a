//! A restore, from top to bottom. The call checks all it can: the file's digest, the passphrase, whether the file fits the
//! database. The work then stages the whole file, and only when it proved whole applies it; all in one transaction.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, info_span};

use super::backup::digest;
use super::call::{Caller, RestoreRequest};
use super::preview::{check_etag, foreseen};
use super::source::Source;
use super::works::Work;
use super::{Error, Holdfast, Result, new_operation_id, now};
use crate::fault;
use crate::model::OperationId;
use crate::model::backup::Origin;
use crate::model::event::{Event, backup_name};
use crate::model::notice::{Notice, in_the_way};
use crate::model::operation::{Kind, Operation, Outcome, Phase, RestoreResult};
use crate::postgres::state::Request;
use crate::postgres::{self, Purpose, Restore};

impl Holdfast {
    /// Starts a restore. `None` when the request was only to be validated.
    pub async fn restore(&self, caller: &Caller, request: RestoreRequest) -> Result<Option<Operation>> {
        self.accepting()?;
        let RestoreRequest { backup, resources, acknowledged, safety_backup, reason, .. } = &request;
        // Not the etag: whoever repeats a call whose answer was lost may have previewed again.
        let about = format!("restore {backup} {resources:?} {acknowledged:?} {safety_backup} {reason:?}");
        let key =
            Request { request_id: (!request.request_id.is_empty()).then(|| request.request_id.clone()), digest: digest(&about) };
        if let Some(operation) = self.known(caller.principal(), &key).await? {
            return Ok(Some(operation));
        }
        let source = self.open(caller.principal(), backup, request.opener.as_ref(), resources).await?;
        if let Err(error) = check(&source.notices(source.origin.as_ref()), acknowledged) {
            self.tell_foreign(caller, &request, &source, &error).await?;
            return Err(error);
        }
        if request.safety_backup {
            // Not only when everybody waits for it.
            self.check_space().await.map_err(|error| Error::NoSafetyBackup(Box::new(error)))?;
        }
        if request.validate_only {
            self.lock_is_free().await?;
            return Ok(None);
        }
        let accepted = Operation::accepted(new_operation_id(), Kind::Restore, caller, &request.request_id, now());
        let operation = Operation { target: Some(request.backup.clone()), reason: request.reason.clone(), ..accepted };
        let (holdfast, lock_wait) = (self.clone(), request.lock_wait);
        let run = move |work: Arc<Work>| async move { holdfast.run_restore(&work, &work.operation(), &request, &source).await };
        self.begin(operation, key, lock_wait, run).await.map(Some)
    }

    async fn run_restore(
        &self,
        work: &Arc<Work>,
        about: &Operation,
        request: &RestoreRequest,
        source: &Source,
    ) -> Result<Outcome> {
        let parts = &self.0.parts;
        let (manifest, chosen) = (&source.manifest, &source.chosen);
        let purpose = Purpose::Restore { fencing_token: work.fencing_token() };
        let begin = Restore::begin(&parts.database, &parts.catalog, purpose, work.id(), &about.caller, manifest, chosen);
        let mut restore = begin.await?;
        parts.state.set_transaction(work.id(), restore.transaction()).await?;
        if request.preview_etag.is_none() {
            restore.look_for_short_way().await?;
        }
        let mut contents = self.load(work, source, &mut restore).await?;
        // Only its end tells who wrote it: nothing was changed before.
        check(&source.notices(Some(&contents.origin)), &request.acknowledged)?;
        if restore.take_short_way().await? {
            contents = self.load(work, source, &mut restore).await?;
        }
        let end = &contents.end;
        if !restore.is_locked() {
            // What is refused is better refused before anybody has to wait.
            check(&restore.foresee(end).await?, &request.acknowledged)?;
            work.phase(Phase::Transferring, "Locks the tables.");
            restore.lock().await?;
        }
        if let Some(previewed) = &request.preview_etag {
            let notices = foreseen(&mut restore, source, &contents).await?;
            check_etag(&mut restore, source, &notices, previewed).await?;
        }
        let safety_backup = match request.safety_backup {
            true => Some(restore.awake_during(self.make_safety_backup(work, about, &request.backup)).await??),
            false => None,
        };
        fault::point("applying");
        work.phase(Phase::Applying, "Replaces what differs.");
        let (changes, found) = restore.apply(end).await?;
        let notices: Vec<Notice> = source.notices(Some(&contents.origin)).into_iter().chain(found).collect();
        check(&notices, &request.acknowledged)?;
        let result = RestoreResult {
            backup: request.backup.clone(),
            snapshot_time: manifest.snapshot_time,
            commit_time: now(),
            changes,
            notices,
            safety_backup,
        };
        restore.record(&Event::of("", about).with("backup", backup_name(&request.backup))).await?;
        let committing = self.0.commits.token();
        self.commit(work, "Commits.").await?;
        fault::point("committing");
        let transaction = restore.transaction().to_owned();
        let event = Event::restored(about, &result).with("acknowledged", request.acknowledged.join(","));
        let result = match restore.commit(&result, end, &[event.written_by(&contents.origin)]).await {
            Ok(committed) => RestoreResult { commit_time: committed.time, ..result },
            Err(postgres::Error::CommitUnknown(cause)) => {
                tracing::warn!(error = %cause, operation_id = %work.id(), "the connection was lost during COMMIT; asking for the outcome");
                self.outcome_of(work.id(), &transaction).await.ok_or(postgres::Error::Unavailable(cause))?
            }
            Err(error) => return Err(error.into()),
        };

        fault::point("committed");
        drop(committing);
        work.phase(Phase::Finishing, "Raises the sequences, gives up old safety backups.");
        if let Err(error) = parts.state.finish_sequences(&parts.catalog).await {
            tracing::warn!(%error, "sequences could not be raised yet; it is tried again until they are");
        }
        if let Err(error) = self.note_contents(&source.backup, &contents, source.opener.as_ref()).await {
            tracing::warn!(%error, "what is in the file could not be noted");
        }
        if let Err(error) = self.expire_safety().instrument(info_span!("backup.retention")).await {
            tracing::warn!(%error, "superfluous safety backups could not be deleted yet");
        }
        Ok(Outcome::Restore(Box::new(result)))
    }

    /// Notes that somebody wanted to restore a file of others, and did not say that this is meant.
    async fn tell_foreign(&self, caller: &Caller, request: &RestoreRequest, source: &Source, error: &Error) -> Result<()> {
        let Some(origin @ Origin::Foreign(_)) = &source.origin else { return Ok(()) };
        let failure = error.failure();
        let event = Event::new("restore.failed", caller, backup_name(&request.backup)).of_failure(&failure).written_by(origin);
        let (reason, request_id) = (request.reason.clone(), request.request_id.clone());
        Ok(self.0.parts.state.record(&Event { reason, request_id, ..event }).await?)
    }

    /// The truth about a restore, as the database has it: its result when it was committed. Asks until it is answered.
    pub(super) async fn outcome_of(&self, operation: OperationId, transaction: &str) -> Option<RestoreResult> {
        loop {
            let state = &self.0.parts.state;
            match state.committed(transaction).await {
                Ok(Some(true)) => match state.restored(operation).await {
                    Ok(result) => return result,
                    Err(error) => tracing::warn!(%error, "the outcome of a restore is not known yet"),
                },
                Ok(Some(false)) => return None,
                Ok(None) => {}
                // A transaction that this server never had, after a failover for example: only the row can say more.
                Err(postgres::Error::Query(_)) => match state.restored(operation).await {
                    Ok(result) => return result,
                    Err(error) => tracing::warn!(%error, "the outcome of a restore is not known yet"),
                },
                Err(error) => tracing::warn!(%error, "the outcome of a restore is not known yet"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Refuses what the caller has not accepted.
fn check(notices: &[Notice], acknowledged: &[String]) -> Result<()> {
    let open = in_the_way(notices, acknowledged);
    if open.is_empty() { Ok(()) } else { Err(Error::NotAcknowledged(open.into_iter().cloned().collect())) }
}
