//! Settings that callers change. A setting that nobody changed has no row and its default value.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::types::Json;

use super::{State, events};
use crate::model::Event;
use crate::model::settings::Setting;
use crate::postgres::Error;

impl State {
    /// A setting with its sealed secret, read together.
    pub async fn setting<T: DeserializeOwned + Default + Unpin + Send + 'static>(
        &self,
        name: &str,
    ) -> Result<(Setting<T>, Option<Vec<u8>>), Error> {
        let query = "SELECT value, secret, revision, update_time, updater FROM setting WHERE name = $1";
        let row = sqlx::query_as::<_, (Json<T>, Option<Vec<u8>>, i64, Option<DateTime<Utc>>, String)>(query);
        Ok(match row.bind(name).fetch_optional(&self.pool).await? {
            None => (Setting { value: T::default(), revision: 0, update_time: None, updater: String::new() }, None),
            Some((Json(value), secret, revision, update_time, updater)) => {
                (Setting { value, revision, update_time, updater }, secret)
            }
        })
    }

    /// Writes a setting that is still at `revision`, and tells of it; false when somebody else changed it since.
    ///
    /// # Errors
    /// `Error::NotKept` when the secret does not read back as it was written: nothing was changed.
    pub async fn set_setting<T: Serialize + Sync>(
        &self,
        name: &str,
        value: &T,
        secret: Option<&[u8]>,
        updater: &str,
        revision: i64,
        event: &Event,
    ) -> Result<bool, Error> {
        let statement = match revision {
            0 => "INSERT INTO setting (name, value, secret, update_time, updater) VALUES ($1, $2, $3, clock_timestamp(), $4)
                  ON CONFLICT (name) DO NOTHING RETURNING secret",
            _ => "UPDATE setting SET value = $2, secret = $3, update_time = clock_timestamp(), updater = $4, revision = revision + 1
                  WHERE name = $1 AND revision = $5 RETURNING secret",
        };
        let mut statement =
            sqlx::query_scalar::<_, Option<Vec<u8>>>(statement).bind(name).bind(Json(value)).bind(secret).bind(updater);
        if revision != 0 {
            statement = statement.bind(revision);
        }
        let mut transaction = self.pool.begin().await?;
        let kept = statement.fetch_optional(&mut *transaction).await?;
        let Some(kept) = kept else { return Ok(false) };
        if kept.as_deref() != secret {
            return Err(Error::NotKept);
        }
        events::write(&mut transaction, [event]).await?;
        transaction.commit().await?;
        Ok(true)
    }
}
