//! The keys that files are signed with.

use super::{State, events};
use crate::model::Event;
use crate::model::settings::SigningKeyNote;
use crate::postgres::Error;

/// A key as it rests.
#[derive(Debug, Clone)]
pub struct StoredKey {
    pub note: SigningKeyNote,
    /// Sealed. Only the one in use has it.
    pub secret: Option<Vec<u8>>,
}

impl State {
    /// All there have been, newest first.
    pub async fn signing_keys(&self) -> Result<Vec<StoredKey>, Error> {
        let query = "SELECT fingerprint, create_time, creator, certificate, secret FROM signing_key ORDER BY sequence DESC";
        let rows = sqlx::query_as(query).fetch_all(&self.pool).await?;
        let stored = |(fingerprint, create_time, creator, certificate, secret): (_, _, _, _, Option<Vec<u8>>)| StoredKey {
            note: SigningKeyNote { fingerprint, create_time, creator, certificate, in_use: secret.is_some() },
            secret,
        };
        Ok(rows.into_iter().map(stored).collect())
    }

    /// Makes a key the one in use, in the place of the one with this fingerprint, whose secret part is forgotten, or of none. False:
    /// that is not the one in use any more.
    pub async fn set_signing_key(&self, key: &StoredKey, before: Option<&str>, event: Option<&Event>) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        if let Some(before) = before {
            let retire = sqlx::query("UPDATE signing_key SET secret = NULL WHERE fingerprint = $1 AND secret IS NOT NULL");
            if retire.bind(before).execute(&mut *transaction).await?.rows_affected() == 0 {
                return Ok(false);
            }
        }
        let insert =
            "INSERT INTO signing_key (fingerprint, create_time, creator, certificate, secret) VALUES ($1, $2, $3, $4, $5)
                      ON CONFLICT DO NOTHING";
        let StoredKey { note, secret } = key;
        let insert = sqlx::query(insert).bind(&note.fingerprint).bind(note.create_time).bind(&note.creator);
        if insert.bind(&note.certificate).bind(secret).execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(false);
        }
        events::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(true)
    }
}
