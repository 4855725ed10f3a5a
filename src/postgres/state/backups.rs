//! The catalog of backups: an index of the folder. Its order is the sequence in which files entered it, not a clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, Transaction};

use super::{State, events};
use crate::model::backup::{Backup, Origin, State as BackupState};
use crate::model::manifest::PassphraseNote;
use crate::model::verification::LastVerification;
use crate::model::{BackupId, Event, OperationId};
use crate::postgres::{Error, fence};

/// A backup with what the catalog adds.
#[derive(Debug, Clone)]
pub struct Stored {
    pub backup: Backup,
    pub sequence: i64,
    pub register_time: DateTime<Utc>,
    pub revision: i64,
    /// When its file was proven in the archive, if it is there.
    pub archive_time: Option<DateTime<Utc>>,
}

type Row = (Json<Backup>, i64, DateTime<Utc>, i64, Option<DateTime<Utc>>);

fn stored((Json(backup), sequence, register_time, revision, archive_time): Row) -> Stored {
    Stored { backup, sequence, register_time, revision, archive_time }
}

impl State {
    /// Enters a backup whose file is proven but does not have its name yet, under the fence.
    ///
    /// # Errors
    /// `Error::FenceLost`: another holder may be at work, the file must not be published.
    pub async fn register(&self, backup: &Backup, fencing_token: i64) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        fence::pass(&mut transaction, self.database.fencing, fencing_token).await?;
        let insert = sqlx::query("INSERT INTO backup (id, operation, state, body) VALUES ($1, $2, $3, $4)");
        let insert =
            insert.bind(backup.id.as_str()).bind(backup.operation.map(|id| id.0)).bind(word(backup.state)).bind(Json(backup));
        insert.execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Enters a whole file that was found in the folder. False: it was entered before.
    pub async fn import(&self, backup: &Backup, event: &Event) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        let insert = sqlx::query("INSERT INTO backup (id, state, body) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING");
        let insert = insert.bind(backup.id.as_str()).bind(word(backup.state)).bind(Json(backup));
        if insert.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(false);
        }
        events::write(&mut transaction, [event]).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Changes what callers say of a backup, and tells of it. False: it is not this revision any more.
    pub async fn describe_backup(&self, seen: &Stored, description: &str, pinned: bool, event: &Event) -> Result<bool, Error> {
        let update = "UPDATE backup SET revision = revision + 1,
                             body = body || jsonb_build_object('description', $3::text, 'pinned', $4::boolean)
                      WHERE id = $1 AND revision = $2";
        let mut transaction = self.pool.begin().await?;
        let update = sqlx::query(update).bind(seen.backup.id.as_str()).bind(seen.revision).bind(description).bind(pinned);
        let changed = update.execute(&mut *transaction).await?.rows_affected() == 1;
        if changed {
            events::write(&mut transaction, [event]).await?;
            transaction.commit().await?;
        }
        Ok(changed)
    }

    /// Notes what is known of a file now that it was opened. Does nothing where another was faster.
    pub async fn note_contents(&self, backup: &Backup) -> Result<(), Error> {
        let update = "UPDATE backup SET revision = revision + 1,
                             body = body || ($2::jsonb - '{state,state_detail,pinned,last_verification}'::text[])
                                         || CASE body->>'description' WHEN '' THEN '{}' ELSE jsonb_build_object('description', body->'description') END
                      WHERE id = $1 AND body->'uid' = 'null'";
        sqlx::query(update).bind(backup.id.as_str()).bind(Json(backup)).execute(&self.pool).await?;
        Ok(())
    }

    /// Notes who wrote a file, as was found when it was read again.
    pub async fn note_origin(&self, id: &BackupId, origin: &Origin) -> Result<(), Error> {
        let update = "UPDATE backup SET revision = revision + 1, body = body || jsonb_build_object('origin', $2::jsonb)
                      WHERE id = $1";
        sqlx::query(update).bind(id.as_str()).bind(Json(origin)).execute(&self.pool).await?;
        Ok(())
    }

    /// Notes which passphrase of this system was seen to open a file.
    pub async fn note_opened(&self, id: &BackupId, note: PassphraseNote) -> Result<(), Error> {
        let update = "UPDATE backup SET revision = revision + 1, body = body || jsonb_build_object('opened_by', $2::jsonb)
                      WHERE id = $1";
        sqlx::query(update).bind(id.as_str()).bind(Json(note)).execute(&self.pool).await?;
        Ok(())
    }

    /// How old the data in the newest READY backup is, of those that were asked for or planned, by the clock of the database.
    pub async fn newest_backup_age(&self) -> Result<Option<Duration>, Error> {
        let query =
            "SELECT extract(epoch FROM clock_timestamp() - max((body->>'snapshot_time')::timestamptz))::float8 FROM backup
                     WHERE state = 'ready' AND body->>'trigger' IN ('on_demand', 'scheduled')";
        let age: Option<f64> = sqlx::query_scalar(query).fetch_one(&self.pool).await?;
        Ok(age.map(|age| Duration::try_from_secs_f64(age).unwrap_or_default()))
    }

    /// Begins to make an entered backup READY, under the fence. Nobody is granted the lock before this has ended.
    ///
    /// # Errors
    /// `Error::FenceLost`: another holder may be at work, or the entry is gone; the file must not be published.
    pub async fn begin_publication(&self, id: &BackupId, fencing_token: i64) -> Result<Publication, Error> {
        let mut transaction = self.pool.begin().await?;
        fence::pass(&mut transaction, self.database.fencing, fencing_token).await?;
        if !set_state(&mut transaction, id, BackupState::Creating, BackupState::Ready, "").await? {
            return Err(Error::FenceLost);
        }
        Ok(Publication(transaction))
    }

    /// Moves a backup from one state to another. False: it was not in that state.
    pub async fn set_backup_state(&self, id: &BackupId, from: BackupState, to: BackupState, detail: &str) -> Result<bool, Error> {
        set_state(&mut *self.pool.acquire().await?, id, from, to, detail).await
    }

    /// Writes down what a verification found, and the state that follows from it; tells of it where that is another one.
    /// False: it was not in the state any more that it was in when it was looked at.
    pub async fn note_verification(
        &self,
        id: &BackupId,
        from: BackupState,
        to: BackupState,
        detail: &str,
        last: &LastVerification,
        event: Option<&Event>,
    ) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        if !set_state(&mut transaction, id, from, to, detail).await? {
            return Ok(false);
        }
        let update = "UPDATE backup SET body = body || jsonb_build_object('last_verification', $2::jsonb) WHERE id = $1";
        sqlx::query(update).bind(id.as_str()).bind(Json(last)).execute(&mut *transaction).await?;
        events::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The backup that was not read for the longest time, if that is longer than `due`. Whoever gets it reads it.
    pub async fn claim_scrub(&self, due: Duration) -> Result<Option<Backup>, Error> {
        let claim = "UPDATE backup SET scrub_time = clock_timestamp() WHERE id =
                         (SELECT id FROM backup WHERE (state IN ('ready', 'invalid') OR (state = 'missing' AND archive_time IS NULL))
                                AND coalesce(scrub_time, register_time) < clock_timestamp() - make_interval(secs => $1)
                          ORDER BY coalesce(scrub_time, register_time) LIMIT 1 FOR UPDATE SKIP LOCKED)
                     RETURNING body";
        let claimed = sqlx::query_scalar::<_, Json<Backup>>(claim).bind(due.as_secs_f64()).fetch_optional(&self.pool).await?;
        Ok(claimed.map(|Json(backup)| backup))
    }

    /// Moves a backup from one state to another, and tells of it. False: it was not in that state, or not this `revision`.
    /// Once it is DELETING, its deletion is finished whatever happens.
    pub async fn move_backup(
        &self,
        id: &BackupId,
        (from, to): (BackupState, BackupState),
        revision: Option<i64>,
        detail: &str,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        let seen = "SELECT FROM backup WHERE id = $1 AND revision = coalesce($2, revision) FOR UPDATE";
        let seen = sqlx::query(seen).bind(id.as_str()).bind(revision).fetch_optional(&mut *transaction).await?;
        let moved = seen.is_some() && set_state(&mut transaction, id, from, to, detail).await?;
        if moved {
            events::write(&mut transaction, [event]).await?;
            transaction.commit().await?;
        }
        Ok(moved)
    }

    /// Takes a backup whose file is gone out of the catalog, unless the archive has it: then it is MISSING.
    pub async fn give_up_backup(&self, id: &BackupId, from: BackupState, detail: &str) -> Result<(), Error> {
        let keep = "UPDATE backup SET state = 'missing', revision = revision + 1,
                           body = body || jsonb_build_object('state', 'missing', 'state_detail', $3::text)
                    WHERE id = $1 AND state = $2 AND archive_time IS NOT NULL";
        let keep = sqlx::query(keep).bind(id.as_str()).bind(word(from)).bind(detail);
        if keep.execute(&self.pool).await?.rows_affected() == 0 {
            self.forget_backup(id, from).await?;
        }
        Ok(())
    }

    /// Takes a backup out of the catalog. False: it was not in that state.
    pub async fn forget_backup(&self, id: &BackupId, from: BackupState) -> Result<bool, Error> {
        let delete = sqlx::query("DELETE FROM backup WHERE id = $1 AND state = $2").bind(id.as_str()).bind(word(from));
        Ok(delete.execute(&self.pool).await?.rows_affected() == 1)
    }

    pub async fn backup(&self, id: &BackupId) -> Result<Option<Stored>, Error> {
        let query = "SELECT body, sequence, register_time, revision, archive_time FROM backup WHERE id = $1";
        Ok(sqlx::query_as::<_, Row>(query).bind(id.as_str()).fetch_optional(&self.pool).await?.map(stored))
    }

    /// All backups, newest first.
    pub async fn backups(&self) -> Result<Vec<Stored>, Error> {
        let query = "SELECT body, sequence, register_time, revision, archive_time FROM backup ORDER BY sequence DESC";
        Ok(sqlx::query_as::<_, Row>(query).fetch_all(&self.pool).await?.into_iter().map(stored).collect())
    }

    /// The backup that an operation entered.
    pub async fn backup_of(&self, operation: OperationId) -> Result<Option<Stored>, Error> {
        let query = "SELECT body, sequence, register_time, revision, archive_time FROM backup WHERE operation = $1";
        Ok(sqlx::query_as::<_, Row>(query).bind(operation.0).fetch_optional(&self.pool).await?.map(stored))
    }
}

/// A backup that is about to be READY. Dropped, it is not.
pub struct Publication(Transaction<'static, Postgres>);

impl Publication {
    pub(super) fn of(transaction: Transaction<'static, Postgres>) -> Self {
        Self(transaction)
    }

    pub async fn commit(self) -> Result<(), Error> {
        Ok(self.0.commit().await?)
    }
}

pub(super) async fn set_state(
    connection: &mut PgConnection,
    id: &BackupId,
    from: BackupState,
    to: BackupState,
    detail: &str,
) -> Result<bool, Error> {
    let update = "UPDATE backup SET state = $3, revision = revision + 1,
                         body = body || jsonb_build_object('state', $3::text, 'state_detail', $4::text)
                  WHERE id = $1 AND state = $2";
    let update = sqlx::query(update).bind(id.as_str()).bind(word(from)).bind(word(to)).bind(detail);
    Ok(update.execute(connection).await?.rows_affected() == 1)
}

pub(super) fn word(state: BackupState) -> &'static str {
    match state {
        BackupState::Creating => "creating",
        BackupState::Ready => "ready",
        BackupState::Invalid => "invalid",
        BackupState::Missing => "missing",
        BackupState::Deleting => "deleting",
    }
}
