//! Files that callers sent: each enters the catalog in the transaction in which it gets its name, and each request brings one.

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::backups::{Publication, set_state, word};
use super::operations::{REMEMBERED, Request, is_gone};
use super::{State, events};
use crate::model::backup::{Backup, State as BackupState};
use crate::model::{BackupId, Event};
use crate::postgres::Error;

/// The answer to a request with a `request_id`.
#[derive(Debug)]
pub enum Uploaded {
    New,
    /// What the first one brought.
    Known(BackupId),
    /// The id belongs to another request, which brought this.
    Reused(BackupId),
}

impl State {
    /// What an earlier upload with the same `request_id` brought.
    pub async fn known_upload(&self, caller: &str, request: &Request) -> Result<Uploaded, Error> {
        let Some(id) = &request.request_id else { return Ok(Uploaded::New) };
        let query = "SELECT backup, request_digest = $3 FROM upload
                     WHERE caller = $1 AND request_id = $2 AND create_time > clock_timestamp() - $4::interval";
        let query = sqlx::query_as::<_, (String, bool)>(query).bind(caller).bind(id).bind(&request.digest).bind(REMEMBERED);
        let Some((backup, same)) = query.fetch_optional(&self.pool).await? else { return Ok(Uploaded::New) };
        let backup = backup.parse().map_err(|error| Error::Query(sqlx::Error::Decode(Box::new(error))))?;
        Ok(if same { Uploaded::Known(backup) } else { Uploaded::Reused(backup) })
    }

    /// Begins to enter a whole file that is about to get its name, or that is back after it was missing. Nobody enters another
    /// one under this id, or by the same request, before this has ended. `None`: it is in the catalog, or was brought before.
    pub async fn begin_upload(
        &self,
        backup: &Backup,
        request: &Request,
        uploaded: &Event,
        recovered: &Event,
    ) -> Result<Option<Publication>, Error> {
        let mut transaction = self.pool.begin().await?;
        let insert = sqlx::query("INSERT INTO backup (id, state, body) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING");
        let insert = insert.bind(backup.id.as_str()).bind(word(backup.state)).bind(Json(backup));
        let new = insert.execute(&mut *transaction).await?.rows_affected() == 1;
        if !new && !is_back(&mut transaction, backup).await? {
            return Ok(None);
        }
        if let Some(id) = &request.request_id {
            let insert = "INSERT INTO upload (caller, request_id, request_digest, backup) VALUES ($1, $2, $3, $4)
                          ON CONFLICT (caller, request_id) DO UPDATE
                          SET request_digest = $3, backup = $4, create_time = clock_timestamp()
                          WHERE upload.create_time <= clock_timestamp() - $5::interval";
            let insert = sqlx::query(insert).bind(&uploaded.actor.principal).bind(id).bind(&request.digest);
            let insert = insert.bind(backup.id.as_str()).bind(REMEMBERED);
            if insert.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Ok(None);
            }
        }
        events::write(&mut transaction, [uploaded]).await?;
        if !new {
            events::write(&mut transaction, [recovered]).await?;
        }
        Ok(Some(Publication::of(transaction)))
    }

    /// Those of the processes that have no session any more.
    pub async fn gone(&self, processes: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let query = concat!("SELECT process FROM unnest($1::uuid[]) AS process WHERE ", is_gone!("process"));
        Ok(sqlx::query_scalar(query).bind(processes).fetch_all(&self.pool).await?)
    }
}

/// Makes a missing file READY, if this is the one that is missed.
async fn is_back(connection: &mut PgConnection, backup: &Backup) -> Result<bool, Error> {
    let missed = "SELECT FROM backup WHERE id = $1 AND body->>'sha256' = $2 AND body->>'file_name' = $3 FOR UPDATE";
    let missed = sqlx::query(missed).bind(backup.id.as_str()).bind(backup.sha256.to_string()).bind(backup.file_name.to_string());
    Ok(missed.fetch_optional(&mut *connection).await?.is_some()
        && set_state(connection, &backup.id, BackupState::Missing, BackupState::Ready, "").await?)
}
