//! What the catalog knows of the archive: which files were proven in it, which wait, and since when it fails.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{Connection, PgConnection};

use super::{State, Stored, backups, events};
use crate::model::archive::ArchiveFacts;
use crate::model::backup::Backup;
use crate::model::{BackupId, Event, Failure};
use crate::postgres::Error;

/// Backups that belong into the archive, the newest first, with their place among those that count: not pinned, and
/// opened once.
const WANTED: &str = "SELECT *, sum(CASE WHEN body->'pinned' = 'true' OR body->'uid' = 'null' THEN 0 ELSE 1 END) OVER (ORDER BY sequence DESC) AS place
                      FROM backup WHERE archive_time IS NOT NULL OR (state = 'ready' AND body->>'trigger' <> 'safety')";
/// Those of them that wait, where so many are kept: 0 for all.
const WAITING: &str = "state = 'ready' AND archive_time IS NULL AND ($1 = 0 OR place <= $1 OR body->'pinned' = 'true')";

/// The right to write to the archive. It is a session: it ends with its process, or with its connection.
pub struct Archivist {
    connection: PgConnection,
}

impl Archivist {
    /// Whether the right still holds.
    pub async fn check(&mut self) -> Result<(), Error> {
        Ok(self.connection.ping().await?)
    }
}

impl State {
    /// Becomes the one who writes to the archive. `None`: another process does.
    pub async fn archivist(&self) -> Result<Option<Archivist>, Error> {
        let mut connection = super::connect(&self.database, self.instance).await?;
        let lock = "SELECT pg_try_advisory_lock(hashtext('holdfast.archive'))";
        if sqlx::query_scalar::<_, bool>(lock).fetch_one(&mut connection).await? {
            return Ok(Some(Archivist { connection }));
        }
        crate::postgres::session::close(connection).await;
        Ok(None)
    }

    /// Makes this the archive. In another one than before nothing is known to be. Tells whether its identity was seen.
    pub async fn use_archive(&self, url: &str) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM archive WHERE url <> $1").bind(url).execute(&mut *transaction).await?;
        let insert = sqlx::query("INSERT INTO archive (url) VALUES ($1) ON CONFLICT DO NOTHING").bind(url);
        if insert.execute(&mut *transaction).await?.rows_affected() == 1 {
            let forget = "UPDATE backup SET revision = revision + 1, archive_time = NULL WHERE archive_time IS NOT NULL";
            sqlx::query(forget).execute(&mut *transaction).await?;
        }
        let identified = sqlx::query_scalar("SELECT identified FROM archive").fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(identified)
    }

    /// Remembers that the archive has its identity.
    pub async fn note_identity(&self) -> Result<(), Error> {
        sqlx::query("UPDATE archive SET identified = true WHERE NOT identified").execute(&self.pool).await?;
        Ok(())
    }

    /// The backup whose file is to be copied next, of which `keep` are kept (0: all): the newest of those that were not tried yet,
    /// then the one whose try was longest ago, so that none keeps the others waiting.
    pub async fn next_for_archive(&self, keep: u32) -> Result<Option<Backup>, Error> {
        let next = format!(
            "UPDATE backup SET archive_try_time = clock_timestamp() WHERE id =
                 (SELECT id FROM ({WANTED}) AS wanted WHERE {WAITING} ORDER BY archive_try_time NULLS FIRST, sequence DESC LIMIT 1)
             RETURNING body"
        );
        let next = sqlx::query_scalar::<_, Json<Backup>>(sqlx::AssertSqlSafe(next)).bind(i64::from(keep));
        Ok(next.fetch_optional(&self.pool).await?.map(|Json(backup)| backup))
    }

    /// Notes that a file was proven in the archive, and tells of it. False: it is no longer in the catalog.
    pub async fn note_archived(&self, id: &BackupId, event: &Event) -> Result<bool, Error> {
        let note = "UPDATE backup SET revision = revision + 1, archive_time = clock_timestamp() WHERE id = $1";
        self.change(sqlx::query(note).bind(id.as_str()), event).await
    }

    /// Notes that a file is not in the archive, and tells of it. An entry that has no file then goes, where it `may_go`.
    pub async fn note_not_archived(&self, id: &BackupId, may_go: bool, event: &Event) -> Result<(), Error> {
        let gone = "DELETE FROM backup WHERE id = $1 AND archive_time IS NOT NULL AND state = 'missing' AND $2";
        let note = "UPDATE backup SET revision = revision + 1, archive_time = NULL WHERE id = $1 AND archive_time IS NOT NULL";
        let mut transaction = self.pool.begin().await?;
        let mut changed = sqlx::query(gone).bind(id.as_str()).bind(may_go).execute(&mut *transaction).await?.rows_affected();
        changed += sqlx::query(note).bind(id.as_str()).execute(&mut *transaction).await?.rows_affected();
        if changed == 1 {
            events::write(&mut transaction, [event]).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Enters a file that is in the archive and nowhere else. False: it was entered before.
    pub async fn enter_archived(&self, backup: &Backup, event: &Event) -> Result<bool, Error> {
        let insert = "INSERT INTO backup (id, state, body, archive_time) VALUES ($1, $2, $3, clock_timestamp()) ON CONFLICT (id) DO NOTHING";
        let insert = sqlx::query(insert).bind(backup.id.as_str()).bind(backups::word(backup.state)).bind(Json(backup));
        self.change(insert, event).await
    }

    async fn change(
        &self,
        change: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        let changed = change.execute(&mut *transaction).await?.rows_affected() == 1;
        if changed {
            events::write(&mut transaction, [event]).await?;
            transaction.commit().await?;
        }
        Ok(changed)
    }

    /// Notes that the archive fails, and why; tells of it where it did not before.
    pub async fn note_archive_failure(&self, failure: &Failure, event: &Event) -> Result<(), Error> {
        let begin = "UPDATE archive SET failing_since = clock_timestamp() WHERE failing_since IS NULL";
        let mut transaction = self.pool.begin().await?;
        if sqlx::query(begin).execute(&mut *transaction).await?.rows_affected() == 1 {
            events::write(&mut transaction, [event]).await?;
        }
        sqlx::query("UPDATE archive SET failure = $1").bind(Json(failure)).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes that the archive works; tells of it, and since when it had failed, where it did.
    pub async fn note_archive_works(&self, event: impl FnOnce(DateTime<Utc>) -> Event) -> Result<(), Error> {
        let since = "SELECT failing_since FROM archive WHERE failing_since IS NOT NULL FOR UPDATE";
        let mut transaction = self.pool.begin().await?;
        if let Some(since) = sqlx::query_scalar(since).fetch_optional(&mut *transaction).await? {
            let end = "UPDATE archive SET failing_since = NULL, failure = NULL";
            sqlx::query(end).execute(&mut *transaction).await?;
            events::write(&mut transaction, [&event(since)]).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// How the archive at `url` is doing, of which `keep` are kept (0: all).
    pub async fn archive_facts(&self, url: &str, keep: u32) -> Result<ArchiveFacts, Error> {
        let query = format!(
            "WITH wanted AS ({WANTED}), waiting AS (SELECT register_time FROM wanted WHERE {WAITING})
             SELECT (SELECT count(*) FROM backup WHERE archive_time IS NOT NULL),
                    (SELECT max((body->>'snapshot_time')::timestamptz) FROM backup WHERE archive_time IS NOT NULL),
                    (SELECT count(*) FROM waiting), (SELECT min(register_time) FROM waiting),
                    (SELECT failing_since FROM archive), (SELECT failure FROM archive)"
        );
        type Row = (i64, Option<DateTime<Utc>>, i64, Option<DateTime<Utc>>, Option<DateTime<Utc>>, Option<Json<Failure>>);
        let facts = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(query)).bind(i64::from(keep));
        let (count, newest_snapshot_time, backlog, oldest_waiting_time, since, failure) = facts.fetch_one(&self.pool).await?;
        Ok(ArchiveFacts {
            url: url.to_owned(),
            count: count.unsigned_abs(),
            newest_snapshot_time,
            backlog: backlog.unsigned_abs(),
            oldest_waiting_time,
            failure: failure.map(|Json(failure)| failure).zip(since),
        })
    }

    /// Backups whose file is in the archive and that count there, newest first.
    pub async fn archived(&self) -> Result<Vec<Stored>, Error> {
        let all = self.backups().await?;
        Ok(all
            .into_iter()
            .filter(|stored| stored.archive_time.is_some() && stored.backup.known() && !stored.backup.pinned)
            .collect())
    }
}
