//! Operations: one row each. A row that is not done has an owner with a heartbeat, or it is ended by the next who looks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::{State, events};
use crate::model::backup::Trigger;
use crate::model::{BackupId, Event, Operation, OperationId};
use crate::postgres::Error;

/// How an operation is asked for. The same caller with the same `request_id` means the same operation.
#[derive(Debug, Clone)]
pub struct Request {
    pub request_id: Option<String>,
    /// Digest of all fields of the request but the secret ones.
    pub digest: Vec<u8>,
}

/// The answer to a request with a `request_id`.
#[derive(Debug)]
pub enum Accepted {
    New,
    /// The operation of the first call.
    Known(Box<Operation>),
    /// The id belongs to another request.
    Reused(OperationId),
}

/// What the owner of an operation learns when it reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive {
    Yes {
        revision: i64,
        cancel_requested: bool,
    },
    /// Somebody ended the operation, taking its owner for dead.
    No,
}

/// Whether an operation may commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    Go,
    Cancelled,
    /// Somebody ended it, taking its owner for dead.
    Ended,
}

/// How long a `request_id` is remembered.
pub(super) const REMEMBERED: &str = "24 hours";

/// An operation that is not done, and what is known of its owner.
#[derive(Debug, Clone, Copy)]
pub struct Unfinished {
    pub id: OperationId,
    pub heartbeat: DateTime<Utc>,
    /// Time since the heartbeat, as far as the server was there.
    pub silent_for: Duration,
    /// Whether it has yet to get the maintenance lock.
    pub waiting: bool,
    /// Whether its owner has no session any more, or is this process.
    pub gone: bool,
}

/// That a process has no session.
macro_rules! is_gone {
    ($instance:literal) => {
        concat!("NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE application_name = 'holdfast ' || ", $instance, ")")
    };
}
pub(super) use is_gone;

type Row = (Json<Operation>, i64, bool);

fn operation((Json(body), revision, cancel_requested): Row) -> Operation {
    Operation { revision, cancel_requested, ..body }
}

impl State {
    /// The operation that an earlier call with the same `request_id` started.
    pub async fn known_request(&self, caller: &str, request: &Request) -> Result<Accepted, Error> {
        let Some(id) = &request.request_id else { return Ok(Accepted::New) };
        let query = "SELECT body, revision, cancel_requested, request_digest FROM operation WHERE caller = $1 AND request_id = $2
                     AND create_time > clock_timestamp() - $3::interval";
        let known = sqlx::query_as::<_, (Json<Operation>, i64, bool, Vec<u8>)>(query).bind(caller).bind(id).bind(REMEMBERED);
        Ok(match known.fetch_optional(&self.pool).await? {
            None => Accepted::New,
            Some((body, revision, cancel_requested, digest)) => {
                let operation = operation((body, revision, cancel_requested));
                if digest == request.digest { Accepted::Known(Box::new(operation)) } else { Accepted::Reused(operation.id) }
            }
        })
    }

    /// Writes the row of a new operation. At most one of two calls with the same `request_id` gets `Accepted::New`.
    pub async fn accept(&self, operation: &Operation, request: &Request) -> Result<Accepted, Error> {
        let mut transaction = self.pool.begin().await?;
        let forget = "UPDATE operation SET request_id = NULL WHERE caller = $1 AND request_id = $2 AND create_time <= clock_timestamp() - $3::interval";
        sqlx::query(forget).bind(&operation.caller).bind(&request.request_id).bind(REMEMBERED).execute(&mut *transaction).await?;
        let insert = "INSERT INTO operation (id, caller, request_id, request_digest, owner, body) VALUES ($1, $2, $3, $4, $5, $6)
                      ON CONFLICT (caller, request_id) DO NOTHING";
        let insert = sqlx::query(insert).bind(operation.id.0).bind(&operation.caller).bind(&request.request_id);
        let inserted = insert.bind(&request.digest).bind(self.instance).bind(Json(operation)).execute(&mut *transaction).await?;
        if inserted.rows_affected() == 1 {
            events::write(&mut transaction, &Event::started(operation)).await?;
        }
        transaction.commit().await?;
        if inserted.rows_affected() == 1 { Ok(Accepted::New) } else { self.known_request(&operation.caller, request).await }
    }

    /// Writes the present state of an operation, which is the heartbeat of its owner as well. Its end is told once: the row
    /// is not changed again.
    pub async fn report(&self, operation: &Operation) -> Result<Alive, Error> {
        let update =
            "UPDATE operation SET body = $3, cancellable = cancellable AND $4, done = $5, heartbeat_time = clock_timestamp(),
                             revision = revision + CASE WHEN body = $3 THEN 0 ELSE 1 END
                      WHERE id = $1 AND owner = $2 AND NOT done RETURNING revision, cancel_requested";
        let update = sqlx::query_as(update).bind(operation.id.0).bind(self.instance).bind(Json(operation));
        let update = update.bind(operation.cancellable()).bind(operation.done());
        let mut transaction = self.pool.begin().await?;
        let row: Option<(i64, bool)> = update.fetch_optional(&mut *transaction).await?;
        if row.is_some() {
            events::write(&mut transaction, &Event::ended(operation)).await?;
        }
        transaction.commit().await?;
        Ok(row.map_or(Alive::No, |(revision, cancel_requested)| Alive::Yes { revision, cancel_requested }))
    }

    /// Closes an operation to cancellation, before it commits: a cancellation that was accepted is never followed by a commit.
    pub async fn begin_commit(&self, id: OperationId) -> Result<Commit, Error> {
        let update =
            "UPDATE operation SET cancellable = false WHERE id = $1 AND owner = $2 AND NOT done RETURNING cancel_requested";
        let cancelled: Option<bool> =
            sqlx::query_scalar(update).bind(id.0).bind(self.instance).fetch_optional(&self.pool).await?;
        Ok(match cancelled {
            Some(false) => Commit::Go,
            Some(true) => Commit::Cancelled,
            None => Commit::Ended,
        })
    }

    /// Remembers the transaction of a restore, before it changes anything.
    pub async fn set_transaction(&self, id: OperationId, transaction: &str) -> Result<(), Error> {
        sqlx::query("UPDATE operation SET restore_xid = $2 WHERE id = $1")
            .bind(id.0)
            .bind(transaction)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The transaction of a restore, if it had begun one.
    pub async fn transaction(&self, id: OperationId) -> Result<Option<String>, Error> {
        let query = sqlx::query_scalar("SELECT restore_xid FROM operation WHERE id = $1").bind(id.0);
        Ok(query.fetch_optional(&self.pool).await?.flatten())
    }

    pub async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error> {
        let query = "SELECT body, revision, cancel_requested FROM operation WHERE id = $1";
        Ok(sqlx::query_as::<_, Row>(query).bind(id.0).fetch_optional(&self.pool).await?.map(operation))
    }

    /// Newest first, after `before`; one more than `limit` when there are more.
    pub async fn operations(&self, limit: u32, before: Option<OperationId>, active_only: bool) -> Result<Vec<Operation>, Error> {
        let query = "SELECT body, revision, cancel_requested FROM operation
                     WHERE ($1::uuid IS NULL OR id < $1) AND (NOT $2 OR NOT done) ORDER BY id DESC LIMIT $3";
        let rows = sqlx::query_as::<_, Row>(query).bind(before.map(|id| id.0)).bind(active_only).bind(i64::from(limit) + 1);
        Ok(rows.fetch_all(&self.pool).await?.into_iter().map(operation).collect())
    }

    /// Whether a restore, preview or verification of a backup is under way.
    pub async fn is_read(&self, backup: &BackupId) -> Result<bool, Error> {
        let query = "SELECT EXISTS (SELECT FROM operation
                                    WHERE NOT done AND body->>'target' = $1 AND body->>'kind' IN ('restore', 'preview', 'verify', 'rehearsal'))";
        Ok(sqlx::query_scalar(query).bind(backup.as_str()).fetch_one(&self.pool).await?)
    }

    /// Asks for cancellation, and tells who did, once. False: too late, or ended.
    pub async fn request_cancel(&self, id: OperationId, event: &Event) -> Result<bool, Error> {
        let update = "WITH asked AS (
                          UPDATE operation SET cancel_requested = true, revision = revision + 1
                          WHERE id = $1 AND cancellable AND NOT done AND NOT cancel_requested RETURNING id
                      ), told AS (INSERT INTO event (type, body) SELECT $2, $3 FROM asked)
                      SELECT EXISTS (SELECT FROM asked)
                          OR EXISTS (SELECT FROM operation WHERE id = $1 AND cancellable AND NOT done AND cancel_requested)";
        Ok(sqlx::query_scalar(update).bind(id.0).bind(&event.kind).bind(Json(event)).fetch_one(&self.pool).await?)
    }

    /// Operations that are not done, with what is known of their owners.
    pub async fn unfinished(&self) -> Result<Vec<Unfinished>, Error> {
        let query = concat!(
            "SELECT id, heartbeat_time,
                    CASE WHEN pg_catalog.pg_postmaster_start_time() < heartbeat_time
                         THEN extract(epoch FROM clock_timestamp() - heartbeat_time)::float8 ELSE 0 END,
                    body->>'phase' = 'waiting_for_lock', owner = $1 OR ",
            is_gone!("owner"),
            " FROM operation WHERE NOT done"
        );
        let query = sqlx::query_as::<_, (Uuid, DateTime<Utc>, f64, bool, bool)>(query).bind(self.instance);
        let rows = query.fetch_all(&self.pool).await?;
        let unfinished = |(id, heartbeat, silent_for, waiting, gone)| {
            let silent_for = Duration::try_from_secs_f64(silent_for).unwrap_or_default();
            Unfinished { id: OperationId(id), heartbeat, silent_for, waiting, gone }
        };
        Ok(rows.into_iter().map(unfinished).collect())
    }

    /// Makes this process the owner of an operation that has had no heartbeat since this one. `None`: it had, or it has ended.
    pub async fn adopt(&self, id: OperationId, heartbeat: DateTime<Utc>) -> Result<Option<Operation>, Error> {
        let update = "UPDATE operation SET owner = $1, heartbeat_time = clock_timestamp()
                      WHERE id = $2 AND NOT done AND heartbeat_time = $3 RETURNING body, revision, cancel_requested";
        let adopted = sqlx::query_as::<_, Row>(update).bind(self.instance).bind(id.0).bind(heartbeat);
        Ok(adopted.fetch_optional(&self.pool).await?.map(operation))
    }

    /// How long it is until fewer than `limit` backups of this kind were made within an hour; `None`: they have not made more.
    pub async fn until_fewer_than(&self, trigger: Trigger, limit: u32) -> Result<Option<Duration>, Error> {
        let query = "SELECT extract(epoch FROM heartbeat_time + interval '1 hour' - clock_timestamp())::float8 FROM operation
                     WHERE done AND body->>'kind' = 'backup' AND body->'trigger' = $2 AND body->'outcome' ? 'backup'
                       AND heartbeat_time > clock_timestamp() - interval '1 hour'
                     ORDER BY heartbeat_time DESC OFFSET $1 LIMIT 1";
        let oldest: Option<f64> =
            sqlx::query_scalar(query).bind(i64::from(limit) - 1).bind(Json(trigger)).fetch_optional(&self.pool).await?;
        Ok(oldest.map(|left| Duration::try_from_secs_f64(left.ceil()).unwrap_or_default()))
    }

    /// Forgets operations that ended long ago, and requests that are not remembered any more.
    pub async fn forget_operations(&self) -> Result<(), Error> {
        let delete = "DELETE FROM operation WHERE done AND create_time < clock_timestamp() - interval '30 days'";
        sqlx::query(delete).execute(&self.pool).await?;
        let delete = "DELETE FROM upload WHERE create_time <= clock_timestamp() - $1::interval";
        sqlx::query(delete).bind(REMEMBERED).execute(&self.pool).await?;
        Ok(())
    }
}
