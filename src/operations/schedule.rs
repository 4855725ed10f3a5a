//! Scheduled backups. A tick says only that time has passed; whether a run is due follows from the settings, the slots in
//! the database and the database's clock.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::backup::digest;
use super::call::{BackupRequest, Caller};
use super::{Holdfast, Result, new_operation_id, now};
use crate::model::backup::Trigger;
use crate::model::operation::{Operation, Outcome};
use crate::model::schedule::RunState;
use crate::model::settings::Setting;
use crate::model::{Event, OperationId, Reason, Schedule};
use crate::postgres::state::Request;

/// Longest time between the claim of a slot and the row of its operation.
const STARTING: chrono::Duration = chrono::Duration::minutes(1);

impl Holdfast {
    /// Starts the run that is due, if any, and records what became of the last one. Replicas may tick at the same time:
    /// whoever claims the slot runs it.
    pub async fn tick(&self) -> Result<()> {
        if self.0.stopping.is_cancelled() {
            return Ok(());
        }
        let state = &self.0.parts.state;
        self.settle_last_slot().await?;
        let (setting, _): (Setting<Schedule>, _) = state.setting("schedule").await?;
        if !setting.value.enabled {
            return Ok(());
        }
        // Nothing is made up for that was planned before the service was installed or the rule was changed.
        let last = state.last_slot().await?.map(|slot| slot.planned_time);
        let since = [Some(self.0.system.install_time), setting.update_time, last].into_iter().flatten().max();
        let time = state.now().await?;
        let Some(due) = since.and_then(|since| setting.value.last_before(since, time)) else { return Ok(()) };
        let late = (time - due).to_std().unwrap_or_default();
        match setting.value.start_deadline.checked_sub(late) {
            None => {
                let missed = run_event("schedule.run_missed", due);
                if state.claim_slot(due, RunState::Missed, None, Some(&missed)).await? {
                    tracing::error!(planned = %due, "a scheduled backup was missed: the service was down until its start deadline");
                }
                Ok(())
            }
            Some(left) => self.run_slot(due, left).await,
        }
    }

    async fn run_slot(&self, due: DateTime<Utc>, left: Duration) -> Result<()> {
        let state = &self.0.parts.state;
        let id = new_operation_id();
        if !state.claim_slot(due, RunState::Running, Some(id), None).await? {
            return Ok(());
        }
        let request = BackupRequest {
            description: String::new(),
            trigger: Trigger::Scheduled,
            scheduled_time: Some(due),
            // Retries until the deadline; a wait of nothing would not wait at all.
            lock_wait: left.max(Duration::from_secs(1)),
            request_id: String::new(),
            validate_only: false,
        };
        let key = Request { request_id: None, digest: digest(&due.to_rfc3339()) };
        if let Err(error) = self.begin_backup(id, &Caller::internal("scheduler"), request, key).await {
            // It never began; until the deadline, another tick tries again.
            state.unclaim_slot(due, Some(id)).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Writes down how the last run ended, also when the process that started it is gone.
    async fn settle_last_slot(&self) -> Result<()> {
        let state = &self.0.parts.state;
        let Some(slot) = state.last_slot().await?.filter(|slot| slot.state == RunState::Running) else { return Ok(()) };
        let operation = match slot.operation {
            Some(id) => state.operation(id).await?,
            None => None,
        };
        let mut skipped = None;
        let became = match operation {
            Some(Operation { outcome: None, .. }) => return Ok(()),
            Some(Operation { outcome: Some(Outcome::Failed(failure)), .. }) => match failure.reason {
                Reason::OperationInProgress | Reason::SoftwareUpdateInProgress => {
                    let event = run_event("schedule.run_skipped", slot.planned_time);
                    skipped = Some(Event { operation: slot.operation, failure: Some(failure.reason), ..event });
                    RunState::Skipped
                }
                _ => RunState::Failed,
            },
            Some(_) => RunState::Succeeded,
            None if slot.operation.and_then(began).is_some_and(|began| now() - began < STARTING) => return Ok(()),
            // Claimed by a process that died before it began.
            None => return Ok(state.unclaim_slot(slot.planned_time, slot.operation).await?),
        };
        Ok(state.settle_slot(slot.planned_time, became, skipped.as_ref()).await?)
    }
}

fn run_event(kind: &str, planned: DateTime<Utc>) -> Event {
    let event = Event::new(kind, &Caller::internal("scheduler"), "settings/schedule");
    event.with("plannedTime", planned.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// When an id was made: it carries the time.
fn began(id: OperationId) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = id.0.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}
