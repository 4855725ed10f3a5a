//! Scheduled backups. A tick says only that time has passed; whether a run is due follows from the settings, the slots in
//! the database and the database's clock.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, SubsecRound, Timelike, Utc};

use super::backup::digest;
use super::call::{BackupRequest, Caller};
use super::{Error, Holdfast, Result, new_operation_id, now};
use crate::model::backup::Trigger;
use crate::model::operation::{Operation, Outcome};
use crate::model::schedule::{Driver, Look, RunState};
use crate::model::settings::Setting;
use crate::model::{Event, OperationId, Reason, Schedule};
use crate::postgres::state::{Request, Slot};

/// Longest time between the claim of a slot and the row of its operation.
const STARTING: chrono::Duration = chrono::Duration::minutes(1);
/// How far the clock of a caller may be ahead.
const AHEAD: chrono::Duration = chrono::Duration::minutes(1);

impl Holdfast {
    /// Starts the run that is due, if any, and records what became of the last one. Replicas may tick at the same time:
    /// whoever claims the slot runs it.
    pub async fn tick(&self) -> Result<()> {
        if self.0.stopping.is_cancelled() || self.settle_runs().await? {
            return Ok(());
        }
        let state = &self.0.parts.state;
        let (Setting { value: schedule, .. }, _): (Setting<Schedule>, _) = state.setting("schedule").await?;
        if !schedule.enabled {
            return Ok(());
        }
        loop {
            let watch = state.schedule_watch().await?;
            if self.0.parts.driver == Driver::External {
                // Whoever drives it knows what is due; nothing is to be made up for when the timer takes over.
                return Ok(state.schedule_seen(watch.time.trunc_subsecs(0).with_second(0).unwrap_or(watch.time)).await?);
            }
            let Look { skipped, missed, start } = schedule.look(watch.since, watch.busy_until, watch.time);
            self.pass(&skipped, RunState::Skipped, "schedule.run_skipped").await?;
            self.pass(&missed, RunState::Missed, "schedule.run_missed").await?;
            match start {
                Some(due) => {
                    let left = schedule.left(due, watch.time);
                    return self.run_slot(due, left).await;
                }
                None if skipped.is_empty() && missed.is_empty() => return Ok(()),
                None => {}
            }
        }
    }

    /// Tells of runs that nobody can start any more.
    async fn pass(&self, planned: &[DateTime<Utc>], state: RunState, kind: &str) -> Result<()> {
        let (Some(&first), Some(&last)) = (planned.first(), planned.last()) else { return Ok(()) };
        let event = |count| run_event(kind, last).with("firstPlannedTime", seconds(first)).with("count", count);
        let count = self.0.parts.state.pass_slots(planned, state, event).await?;
        if count > 0 {
            tracing::error!(%first, %last, count, ?state, "scheduled backups were not made");
        }
        Ok(())
    }

    async fn run_slot(&self, due: DateTime<Utc>, left: Duration) -> Result<()> {
        let state = &self.0.parts.state;
        let id = new_operation_id();
        if !state.claim_slot(due, id).await? {
            // It has its result, or somebody is at it.
            return Ok(state.schedule_seen(due).await?);
        }
        let request = BackupRequest {
            description: String::new(),
            trigger: Trigger::Scheduled,
            scheduled_time: Some(due),
            lock_wait: left,
            request_id: String::new(),
            validate_only: false,
        };
        let key = Request { request_id: None, digest: digest(&due.to_rfc3339()) };
        self.begin_slot(id, &Caller::internal("scheduler"), due, request, key).await.map(|_| ())
    }

    /// The run of a caller that drives the schedule: the same slot again is the same operation.
    pub(super) async fn drive(&self, caller: &Caller, request: BackupRequest, key: Request) -> Result<Operation> {
        let state = &self.0.parts.state;
        let time = state.now().await?;
        let schedule = self.schedule().await?.setting.value;
        // A CronJob that does not say for which minute it was started was started for this one.
        let planned = request.scheduled_time.or_else(|| time.trunc_subsecs(0).with_second(0)).unwrap_or(time);
        let wrong = |problem: String| Err(Error::InvalidField { field: "scheduled_time", problem });
        if planned > time + AHEAD {
            return wrong("the run is planned for a time that has not come; send the time for which it was started".into());
        }
        let left = schedule.left(planned, time);
        if left.is_zero() {
            self.pass(&[planned], RunState::Missed, "schedule.run_missed").await?;
            let deadline = humantime::format_duration(schedule.start_deadline);
            return wrong(format!("the run is later than the start deadline of the schedule allows ({deadline}); it was missed"));
        }
        let id = new_operation_id();
        if !state.claim_slot(planned, id).await? {
            let claimed = state.slot(planned).await?.and_then(|slot| slot.operation);
            let known = match claimed {
                Some(id) => state.operation(id).await?,
                None => None,
            };
            return known.ok_or(Error::SlotClaimed(planned));
        }
        let request = BackupRequest { lock_wait: if request.lock_wait.is_zero() { left } else { request.lock_wait }, ..request };
        self.begin_slot(id, caller, planned, request, key).await
    }

    async fn begin_slot(
        &self,
        id: OperationId,
        caller: &Caller,
        planned: DateTime<Utc>,
        request: BackupRequest,
        key: Request,
    ) -> Result<Operation> {
        let begun = self.begin_backup(id, caller, request, key).await;
        if begun.as_ref().map_or(true, |operation| operation.id != id) {
            // It never began; until the deadline, another may try again.
            self.0.parts.state.unclaim_slot(planned, Some(id)).await?;
        }
        begun
    }

    /// Writes down how runs ended, also when the process that started them is gone. True: one is under way.
    async fn settle_runs(&self) -> Result<bool> {
        let mut under_way = false;
        for slot in self.0.parts.state.running_slots().await? {
            under_way |= !self.settle_run(slot).await?;
        }
        Ok(under_way)
    }

    async fn settle_run(&self, slot: Slot) -> Result<bool> {
        let state = &self.0.parts.state;
        let operation = match slot.operation {
            Some(id) => state.operation(id).await?,
            None => None,
        };
        let mut skipped = None;
        let became = match operation {
            Some(Operation { outcome: None, .. }) => return Ok(false),
            Some(Operation { outcome: Some(Outcome::Failed(failure)), .. }) => match failure.reason {
                Reason::OperationInProgress | Reason::SoftwareUpdateInProgress => {
                    let event = run_event("schedule.run_skipped", slot.planned_time);
                    skipped = Some(Event { operation: slot.operation, failure: Some(failure.reason), ..event });
                    RunState::Skipped
                }
                _ => RunState::Failed,
            },
            Some(_) => RunState::Succeeded,
            None if slot.operation.and_then(began).is_some_and(|began| (now() - began).abs() < STARTING) => return Ok(false),
            // Claimed by a process that died before it began.
            None => {
                state.unclaim_slot(slot.planned_time, slot.operation).await?;
                return Ok(true);
            }
        };
        state.settle_slot(slot.planned_time, became, skipped.as_ref()).await?;
        Ok(true)
    }
}

fn run_event(kind: &str, planned: DateTime<Utc>) -> Event {
    Event::new(kind, &Caller::internal("scheduler"), "settings/schedule").with("plannedTime", seconds(planned))
}

fn seconds(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// When an id was made: it carries the time.
fn began(id: OperationId) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = id.0.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}
