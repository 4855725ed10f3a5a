//! Planned runs of the schedule. A slot is claimed by inserting its row: whoever inserts it runs it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{State, events};
use crate::model::schedule::RunState;
use crate::model::{Event, OperationId};
use crate::postgres::Error;

/// One planned run.
#[derive(Debug, Clone)]
pub struct Slot {
    pub planned_time: DateTime<Utc>,
    pub state: RunState,
    pub operation: Option<OperationId>,
}

/// How far the schedule was looked after.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// Every run that was planned up to this time has its result.
    pub since: DateTime<Utc>,
    /// When the last of them ended.
    pub busy_until: Option<DateTime<Utc>>,
    /// Now.
    pub time: DateTime<Utc>,
}

type Row = (DateTime<Utc>, String, Option<Uuid>);

fn slot((planned_time, state, operation): Row) -> Slot {
    Slot { planned_time, state: read(&state), operation: operation.map(OperationId) }
}

impl State {
    /// How far the schedule was looked after. A clock that went back takes this with it, or nothing would run until it is
    /// there again.
    pub async fn schedule_watch(&self) -> Result<Watch, Error> {
        let query = "WITH present AS (SELECT clock_timestamp() AS now),
                          seen AS (UPDATE system SET schedule_time = now FROM present WHERE schedule_time > now),
                          changed AS (UPDATE setting SET update_time = now FROM present WHERE name = 'schedule' AND update_time > now)
                     SELECT since, (SELECT end_time FROM slot WHERE planned_time <= since ORDER BY planned_time DESC LIMIT 1), now
                     FROM present, system LEFT JOIN setting ON name = 'schedule',
                          LATERAL (SELECT least(now, greatest(schedule_time, update_time)) AS since) AS looked";
        let (since, busy_until, time) = sqlx::query_as(query).fetch_one(&self.pool).await?;
        Ok(Watch { since, busy_until, time })
    }

    /// Notes that every run that was planned up to `time`, and is not under way, has its result.
    pub async fn schedule_seen(&self, time: DateTime<Utc>) -> Result<(), Error> {
        let update = "UPDATE system SET schedule_time = $1
                      WHERE schedule_time < $1 AND NOT EXISTS (SELECT FROM slot WHERE planned_time <= $1 AND state = 'running')";
        sqlx::query(update).bind(time).execute(&self.pool).await?;
        Ok(())
    }

    /// Claims a slot for an operation. False: somebody has it already. One that was missed can be had: the clock had run ahead.
    pub async fn claim_slot(&self, planned_time: DateTime<Utc>, operation: OperationId) -> Result<bool, Error> {
        let insert = "INSERT INTO slot (planned_time, state, operation) VALUES ($1, 'running', $2)
                      ON CONFLICT (planned_time) DO UPDATE SET state = 'running', operation = $2, end_time = NULL
                      WHERE slot.operation IS NULL AND slot.state IN ('missed', 'skipped')";
        let claimed = sqlx::query(insert).bind(planned_time).bind(operation.0).execute(&self.pool).await?;
        Ok(claimed.rows_affected() == 1)
    }

    /// Gives back a slot that was claimed for an operation that never began.
    pub async fn unclaim_slot(&self, planned_time: DateTime<Utc>, operation: Option<OperationId>) -> Result<(), Error> {
        let delete = "DELETE FROM slot WHERE planned_time = $1 AND state = 'running' AND operation IS NOT DISTINCT FROM $2";
        sqlx::query(delete).bind(planned_time).bind(operation.map(|id| id.0)).execute(&self.pool).await?;
        Ok(())
    }

    /// Records runs that can no longer start, all up to the last of them; tells of those that had no result yet, by `event`.
    /// Returns their number.
    pub async fn pass_slots(
        &self,
        planned: &[DateTime<Utc>],
        state: RunState,
        event: impl Fn(u64) -> Event,
    ) -> Result<u64, Error> {
        let insert =
            "INSERT INTO slot (planned_time, state) SELECT planned, $2 FROM unnest($1) AS planned ON CONFLICT DO NOTHING";
        let seen = "UPDATE system SET schedule_time = greatest(schedule_time, $1)";
        let mut transaction = self.pool.begin().await?;
        let passed = sqlx::query(insert).bind(planned).bind(word(state)).execute(&mut *transaction).await?.rows_affected();
        if passed > 0 {
            events::write(&mut transaction, [&event(passed)]).await?;
        }
        sqlx::query(seen).bind(planned.last()).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(passed)
    }

    /// Records what became of a slot, and tells of it.
    pub async fn settle_slot(&self, planned_time: DateTime<Utc>, state: RunState, event: Option<&Event>) -> Result<(), Error> {
        let update = "UPDATE slot SET state = $2, end_time = clock_timestamp() WHERE planned_time = $1 AND state = 'running'";
        let seen = "UPDATE system SET schedule_time = greatest(schedule_time, $1)";
        let mut transaction = self.pool.begin().await?;
        let settled = sqlx::query(update).bind(planned_time).bind(word(state)).execute(&mut *transaction).await?;
        if settled.rows_affected() == 1 {
            events::write(&mut transaction, event).await?;
            sqlx::query(seen).bind(planned_time).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    pub async fn slot(&self, planned_time: DateTime<Utc>) -> Result<Option<Slot>, Error> {
        let query = sqlx::query_as("SELECT planned_time, state, operation FROM slot WHERE planned_time = $1");
        Ok(query.bind(planned_time).fetch_optional(&self.pool).await?.map(slot))
    }

    /// The newest that is not planned for the future, as the clock was ahead once.
    pub async fn last_slot(&self) -> Result<Option<Slot>, Error> {
        let query = "SELECT planned_time, state, operation FROM slot WHERE planned_time <= clock_timestamp()
                     ORDER BY planned_time DESC LIMIT 1";
        Ok(sqlx::query_as(query).fetch_optional(&self.pool).await?.map(slot))
    }

    /// Those that are under way.
    pub async fn running_slots(&self) -> Result<Vec<Slot>, Error> {
        let query = "SELECT planned_time, state, operation FROM slot WHERE state = 'running' ORDER BY planned_time";
        Ok(sqlx::query_as(query).fetch_all(&self.pool).await?.into_iter().map(slot).collect())
    }

    /// End of the newest run that succeeded.
    pub async fn last_slot_success(&self) -> Result<Option<DateTime<Utc>>, Error> {
        Ok(sqlx::query_scalar("SELECT max(end_time) FROM slot WHERE state = 'succeeded'").fetch_one(&self.pool).await?)
    }

    /// How many runs ended how, ever.
    pub async fn slot_counts(&self) -> Result<Vec<(RunState, i64)>, Error> {
        let query = "SELECT state, count(*) FROM slot WHERE state <> 'running' GROUP BY state";
        let rows: Vec<(String, i64)> = sqlx::query_as(query).fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|(state, count)| (read(&state), count)).collect())
    }
}

fn word(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Skipped => "skipped",
        RunState::Missed => "missed",
    }
}

fn read(text: &str) -> RunState {
    use RunState::{Failed, Missed, Running, Skipped, Succeeded};
    [Running, Succeeded, Skipped, Missed].into_iter().find(|state| word(*state) == text).unwrap_or(Failed)
}
