//! Ends a session whose process has fallen silent.
//!
//! PostgreSQL bounds what its sessions wait for, with one exception: in COPY FROM STDIN no timeout takes effect before the
//! client sends something (tried on 15). A process that is paused there sends nothing, while its kernel goes on to answer
//! keepalives; and the locks stay. So another session looks after it. It runs in the server, and goes on when we do not.

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::{Database, Error, Role, session};
use crate::model::OperationId;

/// Seconds without a heartbeat of the operation. Counted as looks, so that a server which stands still itself ends nobody.
const SILENCE: u32 = 12;

/// Looks after the session of `watched`, of the restore role, until it has ended: it is ended when the operation has no
/// heartbeat any more, has another owner or is done.
pub async fn watch(database: &Database, watched: &mut PgConnection, operation: OperationId) -> Result<(), Error> {
    let pid: i32 = sqlx::query_scalar("SELECT pg_catalog.pg_backend_pid()").fetch_one(watched).await?;
    let mut connection = session::connect(database, Role::Restore).await?;
    // By itself: together with another statement, DO could not commit.
    connection.execute(sqlx::raw_sql("SET statement_timeout = 0")).await?;
    let look = statement(pid, operation);
    // It ends within a second after the session that it looks after.
    tokio::spawn(async move {
        match connection.execute(sqlx::raw_sql(AssertSqlSafe(look))).await {
            Ok(_) => session::close(connection).await,
            Err(error) => tracing::warn!(%error, "the watchdog of a session has ended before it"),
        }
    });
    Ok(())
}

/// COMMIT, so that every look sees what is so then, and no snapshot is held for long.
fn statement(pid: i32, OperationId(operation): OperationId) -> String {
    format!(
        "DO $watchdog$
         DECLARE
             born timestamptz := (SELECT backend_start FROM pg_catalog.pg_stat_activity WHERE pid = {pid});
             first_owner uuid; last_beat timestamptz;
             present_owner uuid; beat timestamptz;
             silent integer := 0;
         BEGIN
             LOOP
                 EXIT WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = {pid} AND backend_start = born);
                 SELECT owner, heartbeat_time INTO present_owner, beat FROM holdfast.operation
                 WHERE id = '{operation}' AND NOT done;
                 first_owner := coalesce(first_owner, present_owner);
                 silent := CASE WHEN beat = last_beat THEN silent + 1 ELSE 0 END;
                 last_beat := beat;
                 IF silent >= {SILENCE} OR present_owner IS DISTINCT FROM first_owner OR present_owner IS NULL THEN
                     PERFORM pg_catalog.pg_terminate_backend({pid});
                     EXIT;
                 END IF;
                 COMMIT;
                 PERFORM pg_catalog.pg_sleep(1);
             END LOOP;
         END $watchdog$"
    )
}
