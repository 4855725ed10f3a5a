//! The maintenance lock as rows: one for each grant, a counter that only grows, times by the database's clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::State;
use crate::model::OperationId;
use crate::postgres::Error;

const LOCK: &str = "platform-maintenance";

/// Who wants the lock, and for what.
#[derive(Debug, Clone)]
pub struct Terms {
    pub holder_id: String,
    pub purpose: &'static str,
    pub reason: String,
    pub operation: OperationId,
    pub ttl: Duration,
}

/// A lease. `lease_id` is the secret that renews and releases it.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    pub fencing_token: i64,
    pub lease_id: Uuid,
}

/// Who has the lock.
#[derive(Debug, Clone)]
pub struct Holder {
    pub holder_id: String,
    pub purpose: String,
    pub reason: String,
    pub operation: Option<OperationId>,
    pub acquire_time: DateTime<Utc>,
    pub expire_time: DateTime<Utc>,
}

/// The answer to a holder who asks for what another has.
pub type Taken = Holder;

type Row = (String, String, String, Option<Uuid>, DateTime<Utc>, DateTime<Utc>);

fn holder((holder_id, purpose, reason, operation, acquire_time, expire_time): Row) -> Holder {
    Holder { holder_id, purpose, reason, operation: operation.map(OperationId), acquire_time, expire_time }
}

fn hash(lease_id: Uuid) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, lease_id.as_bytes()).as_ref().to_vec()
}

impl State {
    /// Takes the lock, unless somebody has it.
    pub async fn acquire_lease(&self, terms: &Terms) -> Result<Result<Grant, Taken>, Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT 1 FROM lock WHERE lock_name = $1 FOR UPDATE").bind(LOCK).execute(&mut *transaction).await?;
        // Waits for the last transaction of a holder whose time is over: the fence of that transaction locks the row.
        let expire = "DELETE FROM lease WHERE lock_name = $1 AND expiry_policy = 'RELEASE' AND expire_time < clock_timestamp()";
        sqlx::query(expire).bind(LOCK).execute(&mut *transaction).await?;
        let query = "SELECT holder_id, purpose, reason, operation, acquire_time, expire_time FROM lease WHERE lock_name = $1";
        if let Some(row) = sqlx::query_as::<_, Row>(query).bind(LOCK).fetch_optional(&mut *transaction).await? {
            transaction.commit().await?;
            return Ok(Err(holder(row)));
        }
        let count = "UPDATE lock SET fencing_counter = fencing_counter + 1 WHERE lock_name = $1 RETURNING fencing_counter";
        let fencing_token: i64 = sqlx::query_scalar(count).bind(LOCK).fetch_one(&mut *transaction).await?;
        let lease_id = Uuid::new_v4();
        let insert = "INSERT INTO lease (lock_name, fencing_token, lease_id_hash, holder_id, purpose, reason, operation, expiry_policy, expire_time)
                      VALUES ($1, $2, $3, $4, $5, $6, $7, 'RELEASE', clock_timestamp() + make_interval(secs => $8))";
        let insert =
            sqlx::query(insert).bind(LOCK).bind(fencing_token).bind(hash(lease_id)).bind(&terms.holder_id).bind(terms.purpose);
        let insert = insert.bind(&terms.reason).bind(terms.operation.0).bind(terms.ttl.as_secs_f64());
        insert.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Ok(Grant { fencing_token, lease_id }))
    }

    /// Extends a lease by `ttl` from now. False: it is over and somebody else may hold the lock.
    pub async fn renew_lease(&self, grant: Grant, ttl: Duration) -> Result<bool, Error> {
        let update =
            "UPDATE lease SET renew_time = clock_timestamp(), expire_time = clock_timestamp() + make_interval(secs => $4)
                      WHERE lock_name = $1 AND fencing_token = $2 AND lease_id_hash = $3";
        let update = sqlx::query(update).bind(LOCK).bind(grant.fencing_token).bind(hash(grant.lease_id)).bind(ttl.as_secs_f64());
        Ok(update.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Gives the lock back. A lease that is over already is no error.
    pub async fn release_lease(&self, grant: Grant) -> Result<(), Error> {
        let delete = "DELETE FROM lease WHERE lock_name = $1 AND fencing_token = $2 AND lease_id_hash = $3";
        sqlx::query(delete).bind(LOCK).bind(grant.fencing_token).bind(hash(grant.lease_id)).execute(&self.pool).await?;
        Ok(())
    }

    /// Ends the lease of an operation. Waits for its last transaction, and for a request for the lock that is under way.
    pub async fn end_lease_of(&self, operation: OperationId) -> Result<(), Error> {
        sqlx::query("SELECT 1 FROM lock WHERE lock_name = $1 FOR UPDATE").bind(LOCK).execute(&self.pool).await?;
        let delete = "DELETE FROM lease WHERE lock_name = $1 AND operation = $2 AND expiry_policy = 'RELEASE'";
        sqlx::query(delete).bind(LOCK).bind(operation.0).execute(&self.pool).await?;
        Ok(())
    }

    /// Who has the lock at present.
    pub async fn lease_holder(&self) -> Result<Option<Holder>, Error> {
        let query = "SELECT holder_id, purpose, reason, operation, acquire_time, expire_time FROM lease
                     WHERE lock_name = $1 AND NOT (expiry_policy = 'RELEASE' AND expire_time < clock_timestamp())";
        Ok(sqlx::query_as::<_, Row>(query).bind(LOCK).fetch_optional(&self.pool).await?.map(holder))
    }
}
