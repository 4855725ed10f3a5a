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

impl State {
    /// Claims a slot for an operation, and tells of it. False: somebody has it already.
    pub async fn claim_slot(
        &self,
        planned_time: DateTime<Utc>,
        state: RunState,
        operation: Option<OperationId>,
        event: Option<&Event>,
    ) -> Result<bool, Error> {
        let insert = "INSERT INTO slot (planned_time, state, operation) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let insert = sqlx::query(insert).bind(planned_time).bind(word(state)).bind(operation.map(|id| id.0));
        let mut transaction = self.pool.begin().await?;
        let claimed = insert.execute(&mut *transaction).await?.rows_affected() == 1;
        if claimed {
            events::write(&mut transaction, event).await?;
        }
        transaction.commit().await?;
        Ok(claimed)
    }

    /// Gives back a slot that was claimed for an operation that never began.
    pub async fn unclaim_slot(&self, planned_time: DateTime<Utc>, operation: Option<OperationId>) -> Result<(), Error> {
        let delete = "DELETE FROM slot WHERE planned_time = $1 AND state = 'running' AND operation IS NOT DISTINCT FROM $2";
        sqlx::query(delete).bind(planned_time).bind(operation.map(|id| id.0)).execute(&self.pool).await?;
        Ok(())
    }

    /// Records what became of a slot, and tells of it.
    pub async fn settle_slot(&self, planned_time: DateTime<Utc>, state: RunState, event: Option<&Event>) -> Result<(), Error> {
        let update = "UPDATE slot SET state = $2, end_time = clock_timestamp() WHERE planned_time = $1 AND state = 'running'";
        let mut transaction = self.pool.begin().await?;
        let settled = sqlx::query(update).bind(planned_time).bind(word(state)).execute(&mut *transaction).await?;
        if settled.rows_affected() == 1 {
            events::write(&mut transaction, event).await?;
        }
        Ok(transaction.commit().await?)
    }

    pub async fn last_slot(&self) -> Result<Option<Slot>, Error> {
        let query = "SELECT planned_time, state, operation FROM slot ORDER BY planned_time DESC LIMIT 1";
        let row = sqlx::query_as::<_, (DateTime<Utc>, String, Option<Uuid>)>(query).fetch_optional(&self.pool).await?;
        Ok(row.map(|(planned_time, state, operation)| Slot {
            planned_time,
            state: read(&state),
            operation: operation.map(OperationId),
        }))
    }

    /// End of the newest run that succeeded.
    pub async fn last_slot_success(&self) -> Result<Option<DateTime<Utc>>, Error> {
        Ok(sqlx::query_scalar("SELECT max(end_time) FROM slot WHERE state = 'succeeded'").fetch_one(&self.pool).await?)
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
