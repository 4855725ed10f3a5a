//! The maintenance lock as rows: one for each grant, a counter that only grows, times by the database's clock. Every change
//! of the lock is one event, in the transaction that makes it.
//!
//! A lease is taken from its holder by deleting its row, and the fence of a protected transaction locks that row: nobody is
//! granted the lock before the last transaction of the holder before has ended, and no other can begin.
//!
//! Whoever has the row of the lock never waits for that of the lease; it is the other way round where both are changed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::operations::is_gone;
use super::{State, events};
use crate::model::Event;
use crate::model::event::Caller;
use crate::model::lock::{
    self, ExpiryPolicy, HOLDFAST, Holder, Lease, LeaseId, Lock, PLATFORM_MAINTENANCE as LOCK, Purpose, Terms,
};
use crate::postgres::Error;

/// A software update that waits says so again before this is over.
const WAITING: Duration = Duration::from_secs(3);

/// What `Present::read` reads.
macro_rules! columns {
    () => {
        "principal, holder_id, purpose, reason, operation, fencing_token, acquire_time, renew_time, expire_time, expiry_policy, \
         request_id, sealed_id, revoked, told_end, expire_time < clock_timestamp() AS over"
    };
}

const PRESENT: &str = concat!("SELECT ", columns!(), " FROM lease WHERE lock_name = $1");

/// What became of a request for the lock.
pub enum Asked<'a> {
    Free(Grant<'a>),
    /// An earlier request with the same `request_id` got this lease, and has it still. Extended; the id is sealed.
    Known {
        fencing_token: i64,
        sealed_id: Vec<u8>,
        expire_time: DateTime<Utc>,
    },
    /// The same, with other terms.
    Reused,
    Taken(Holder),
    /// Free, and a software update that waits for it comes first.
    Awaited(Holder),
    /// Another service hosts the lock now.
    Elsewhere,
    /// The lease of the holder before is over; its last transaction is not.
    Draining,
}

/// The lock, free for the one who asked. Dropped, nothing has happened.
pub struct Grant<'a> {
    transaction: Transaction<'a, Postgres>,
    /// Operation of this service that the lock was taken from, if it was: `operations/...`.
    pub evicted: Option<String>,
}

struct Present {
    holder: Holder,
    request_id: String,
    sealed_id: Vec<u8>,
    revoked: bool,
    /// Whether its end without a release was told.
    told_end: bool,
    over: bool,
}

impl Present {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let over: bool = row.try_get("over")?;
        let hold = row.try_get::<&str, _>("expiry_policy")? == ExpiryPolicy::Hold.word();
        let holder = Holder {
            principal: row.try_get("principal")?,
            holder_id: row.try_get("holder_id")?,
            purpose: Purpose::parse(row.try_get("purpose")?).unwrap_or(Purpose::Maintenance),
            reason: row.try_get("reason")?,
            operation: row.try_get("operation")?,
            fencing_token: row.try_get("fencing_token")?,
            acquire_time: row.try_get("acquire_time")?,
            renew_time: row.try_get("renew_time")?,
            expire_time: row.try_get("expire_time")?,
            expiry_policy: if hold { ExpiryPolicy::Hold } else { ExpiryPolicy::Release },
            stale: over && hold,
        };
        let (request_id, sealed_id) = (row.try_get("request_id")?, row.try_get("sealed_id")?);
        let (revoked, told_end) = (row.try_get("revoked")?, row.try_get("told_end")?);
        Ok(Self { holder, request_id, sealed_id, revoked, told_end, over })
    }

    /// Whether others than the holder itself may have the lock.
    fn ended(&self) -> bool {
        self.revoked || (self.over && self.holder.expiry_policy == ExpiryPolicy::Release)
    }

    /// Whether these terms are those of the holder, come back to its own stale hold.
    fn resumed_by(&self, terms: &Terms) -> bool {
        self.holder.stale && self.holder.principal == terms.principal && self.holder.holder_id == terms.holder_id
    }

    fn granted_to(&self, terms: &Terms) -> bool {
        let same = self.holder.principal == terms.principal && self.request_id == terms.request_id;
        same && !terms.request_id.is_empty() && !self.over && !self.revoked
    }

    /// What a repeated request has in common with the first; how long, and why, may have changed.
    fn same_terms(&self, terms: &Terms) -> bool {
        let Holder { holder_id, purpose, expiry_policy, .. } = &self.holder;
        (holder_id, *purpose, *expiry_policy) == (&terms.holder_id, terms.purpose, terms.expiry_policy)
    }

    /// Its end without a release, if that was not told yet.
    fn untold_end(&self) -> Option<Event> {
        let kind = if self.holder.expiry_policy == ExpiryPolicy::Hold { "lock.stale" } else { "lock.expired" };
        let untold = self.over && !self.revoked && !self.told_end;
        untold.then(|| event(kind, &Caller::internal("lock"), &self.holder))
    }
}

/// What is told of a change of the lock.
fn event(kind: &str, caller: &Caller, holder: &Holder) -> Event {
    let event = Event::new(kind, caller, lock::NAME)
        .with("holder", &holder.principal)
        .with("holderId", &holder.holder_id)
        .with("purpose", holder.purpose.word())
        .with("holderReason", &holder.reason)
        .with("fencingToken", holder.fencing_token);
    let operation = holder.operation.strip_prefix("operations/").and_then(|id| id.parse().ok());
    Event { operation, ..event }
}

async fn changed(connection: &mut PgConnection, event: &Event) -> Result<(), Error> {
    events::write(connection, [event]).await?;
    let update = "UPDATE lock SET update_time = clock_timestamp() WHERE lock_name = $1";
    sqlx::query(update).bind(LOCK).execute(connection).await?;
    Ok(())
}

/// Whether a row was locked by another transaction (55P03) when nobody wanted to wait for it.
fn locked(error: &Error) -> bool {
    matches!(error, Error::Locked(_))
}

impl State {
    /// Asks for the lock. Whoever is answered `Free` has yet to take it.
    pub async fn ask_for_lock(&self, terms: &Terms) -> Result<Asked<'static>, Error> {
        let mut transaction = self.pool.begin().await?;
        let of_lock =
            "SELECT waiting, coalesce(waiting_until > clock_timestamp(), false) FROM lock WHERE lock_name = $1 FOR UPDATE";
        let of_lock = sqlx::query_as::<_, (Option<Json<Holder>>, bool)>(of_lock).bind(LOCK);
        let (waiting, waits) = of_lock.fetch_one(&mut *transaction).await?;
        if sqlx::query_scalar("SELECT in_force FROM fence WHERE lock_name = $1").bind(LOCK).fetch_one(&mut *transaction).await? {
            return Ok(Asked::Elsewhere);
        }
        let present = sqlx::query(PRESENT).bind(LOCK).fetch_optional(&mut *transaction).await?;
        let mut evicted = None;
        match present.as_ref().map(Present::read).transpose()? {
            None => {}
            Some(present) if present.granted_to(terms) && !present.same_terms(terms) => return Ok(Asked::Reused),
            Some(present) if present.granted_to(terms) => {
                let token = present.holder.fencing_token;
                // Others who have the row wait for the lock, which is ours.
                let row = "SELECT FROM lease WHERE lock_name = $1 AND fencing_token = $2 FOR NO KEY UPDATE NOWAIT";
                match sqlx::query(row).bind(LOCK).bind(token).execute(&mut *transaction).await.map_err(Error::from) {
                    Err(error) if locked(&error) => return Ok(Asked::Draining),
                    found => found?,
                };
                let extend = "UPDATE lease SET renew_time = clock_timestamp(), expire_time = clock_timestamp() + make_interval(secs => $3),
                                     ttl = make_interval(secs => $3), reason = $4
                              WHERE lock_name = $1 AND fencing_token = $2 RETURNING expire_time";
                let extend = sqlx::query_scalar(extend).bind(LOCK).bind(token).bind(terms.ttl.as_secs_f64()).bind(&terms.reason);
                let expire_time = extend.fetch_one(&mut *transaction).await?;
                transaction.commit().await?;
                return Ok(Asked::Known { fencing_token: token, sealed_id: present.sealed_id, expire_time });
            }
            Some(present) if !present.ended() && !present.resumed_by(terms) => return Ok(Asked::Taken(present.holder)),
            Some(present) => {
                let seize = concat!("SELECT ", columns!(), " FROM lease WHERE lock_name = $1 FOR UPDATE NOWAIT");
                let seized = match sqlx::query(seize).bind(LOCK).fetch_optional(&mut *transaction).await.map_err(Error::from) {
                    Err(error) if locked(&error) => return Ok(Asked::Draining),
                    seized => seized?,
                };
                // It may have been renewed, or given back, since it was looked at.
                let present = seized.as_ref().map(Present::read).transpose()?.unwrap_or(present);
                if !present.ended() && !present.resumed_by(terms) {
                    return Ok(Asked::Taken(present.holder));
                }
                sqlx::query("DELETE FROM lease WHERE lock_name = $1").bind(LOCK).execute(&mut *transaction).await?;
                if let Some(end) = present.untold_end() {
                    changed(&mut transaction, &end).await?;
                }
                evicted = (present.holder.principal == HOLDFAST).then_some(present.holder.operation);
            }
        }
        match waiting {
            Some(Json(update)) if waits && terms.purpose.own() => Ok(Asked::Awaited(update)),
            _ => Ok(Asked::Free(Grant { transaction, evicted })),
        }
    }

    /// Notes that a software update waits for the lock: until it has it, or stops to say so, no backup or restore begins.
    pub async fn note_waiting(&self, terms: &Terms) -> Result<(), Error> {
        let update = "UPDATE lock SET waiting_until = clock_timestamp() + make_interval(secs => $2),
                             waiting = CASE WHEN waiting_until > clock_timestamp() AND waiting->>'holder_id' = $4 THEN waiting
                                            ELSE $3 || jsonb_build_object('acquire_time', clock_timestamp(), 'renew_time', clock_timestamp(),
                                                                          'expire_time', clock_timestamp()) END
                      WHERE lock_name = $1";
        let holder = terms.holder(0, DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH);
        let update = sqlx::query(update).bind(LOCK).bind(WAITING.as_secs_f64()).bind(Json(holder)).bind(&terms.holder_id);
        update.execute(&self.pool).await?;
        Ok(())
    }

    /// Extends a lease, by the time it was granted for unless another is named. `None`: it is over and somebody else was
    /// granted the lock, or it was taken away.
    pub async fn renew_lease(
        &self,
        id: &LeaseId,
        ttl: Option<Duration>,
        reason: Option<&str>,
        caller: &Caller,
    ) -> Result<Option<Lease>, Error> {
        let mut transaction = self.pool.begin().await?;
        let before = concat!(
            "SELECT ",
            columns!(),
            " FROM lease WHERE lock_name = $1 AND lease_id_hash = $2 AND NOT revoked FOR NO KEY UPDATE"
        );
        let Some(before) = sqlx::query(before).bind(LOCK).bind(id.hash()).fetch_optional(&mut *transaction).await? else {
            return Ok(None);
        };
        let before = Present::read(&before)?;
        let update = "UPDATE lease SET renew_time = clock_timestamp(), ttl = coalesce(make_interval(secs => $3), ttl),
                             expire_time = clock_timestamp() + coalesce(make_interval(secs => $3), ttl),
                             reason = coalesce($4, reason), told_end = false
                      WHERE lock_name = $1 AND lease_id_hash = $2
                      RETURNING fencing_token, extract(epoch FROM ttl)::float8 AS ttl, expire_time";
        let update = sqlx::query(update).bind(LOCK).bind(id.hash()).bind(ttl.map(|ttl| ttl.as_secs_f64())).bind(reason);
        let row = update.fetch_one(&mut *transaction).await?;
        if before.told_end {
            changed(&mut transaction, &event("lock.resumed", caller, &before.holder)).await?;
        }
        transaction.commit().await?;
        let lease = Lease {
            id: id.clone(),
            fencing_token: row.try_get("fencing_token")?,
            ttl: Duration::try_from_secs_f64(row.try_get("ttl")?).unwrap_or_default(),
            expire_time: row.try_get("expire_time")?,
        };
        Ok(Some(lease))
    }

    /// Gives the lock back. Waits for the transactions of its holder. A lease that is over already is no error.
    pub async fn release_lease(&self, id: &LeaseId, caller: &Caller) -> Result<(), Error> {
        self.end_lease(Some(id.hash()), None, caller).await
    }

    /// Gives back the lock that was granted for an operation of this service, if it was.
    pub async fn end_lease_of(&self, operation: &str, caller: &Caller) -> Result<(), Error> {
        // Waits for a request for the lock that is under way.
        sqlx::query("SELECT 1 FROM lock WHERE lock_name = $1 FOR UPDATE").bind(LOCK).execute(&self.pool).await?;
        self.end_lease(None, Some(operation.to_owned()), caller).await
    }

    /// Ends the lease of a process that died between the grant and the row of its operation: nobody else knows of it.
    pub async fn end_lease_of_none(&self, caller: &Caller) -> Result<(), Error> {
        let orphan = concat!(
            "SELECT operation FROM lease
             WHERE lock_name = $1 AND principal = $2 AND acquire_time < clock_timestamp() - interval '3 s'
               AND pg_catalog.pg_postmaster_start_time() < clock_timestamp() - interval '10 s'
               AND NOT EXISTS (SELECT FROM operation WHERE 'operations/' || id = lease.operation) AND ",
            is_gone!("split_part(lease.holder_id, '/', 2)")
        );
        let orphan = sqlx::query_scalar::<_, String>(orphan).bind(LOCK).bind(HOLDFAST);
        match orphan.fetch_optional(&self.pool).await? {
            Some(operation) => self.end_lease_of(&operation, caller).await,
            None => Ok(()),
        }
    }

    async fn end_lease(&self, hash: Option<Vec<u8>>, operation: Option<String>, caller: &Caller) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        let delete = concat!(
            "DELETE FROM lease
             WHERE lock_name = $1 AND (lease_id_hash = $2 OR (operation = $3 AND principal = $4)) RETURNING ",
            columns!()
        );
        let delete = sqlx::query(delete).bind(LOCK).bind(hash).bind(operation).bind(HOLDFAST);
        if let Some(row) = delete.fetch_optional(&mut *transaction).await? {
            let present = Present::read(&row)?;
            if let Some(end) = present.untold_end() {
                changed(&mut transaction, &end).await?;
            }
            if !present.ended() {
                changed(&mut transaction, &event("lock.released", caller, &present.holder)).await?;
            }
        }
        Ok(transaction.commit().await?)
    }

    /// Takes the lock away from the holder of this token. False: no present holder has it. Its last transaction may still
    /// have to end before anybody else is granted the lock.
    pub async fn revoke_lease(&self, fencing_token: i64, caller: &Caller, reason: &str) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        let present = concat!(
            "SELECT ",
            columns!(),
            " FROM lease WHERE lock_name = $1 AND fencing_token = $2 AND NOT revoked FOR NO KEY UPDATE"
        );
        let present = sqlx::query(present).bind(LOCK).bind(fencing_token);
        let Some(row) = present.fetch_optional(&mut *transaction).await? else { return Ok(false) };
        let present = Present::read(&row)?;
        if present.ended() {
            return Ok(false);
        }
        let revoke = "UPDATE lease SET revoked = true WHERE lock_name = $1 AND fencing_token = $2";
        sqlx::query(revoke).bind(LOCK).bind(fencing_token).execute(&mut *transaction).await?;
        let told = event("lock.broken", caller, &present.holder).with("stale", present.holder.stale);
        changed(&mut transaction, &Event { reason: reason.to_owned(), ..told }).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Tells, once, of a lease that is over without a release. Returns its holder when that keeps the lock all the same.
    pub async fn tell_end(&self) -> Result<Option<Holder>, Error> {
        let mut transaction = self.pool.begin().await?;
        // With the row of the lock, so that who asks for it meanwhile waits a moment, and is not told that a lease is in use.
        let of_lock = "SELECT FROM lock WHERE lock_name = $1 AND EXISTS
                       (SELECT FROM lease WHERE lock_name = $1 AND expire_time < clock_timestamp() AND NOT told_end AND NOT revoked)
                       FOR UPDATE SKIP LOCKED";
        if sqlx::query(of_lock).bind(LOCK).fetch_optional(&mut *transaction).await?.is_none() {
            return Ok(None);
        }
        let present = concat!(
            "SELECT ",
            columns!(),
            " FROM lease WHERE lock_name = $1 AND expire_time < clock_timestamp() AND NOT told_end AND NOT revoked
             FOR NO KEY UPDATE SKIP LOCKED"
        );
        let Some(row) = sqlx::query(present).bind(LOCK).fetch_optional(&mut *transaction).await? else { return Ok(None) };
        let present = Present::read(&row)?;
        if let Some(end) = present.untold_end() {
            changed(&mut transaction, &end).await?;
        }
        sqlx::query("UPDATE lease SET told_end = true WHERE lock_name = $1").bind(LOCK).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Some(present.holder).filter(|holder| holder.stale))
    }

    /// Replaces the id of a lease by another, for its holder, where the one that it has cannot be told any more.
    pub async fn replace_lease_id(&self, fencing_token: i64, id: &LeaseId, sealed_id: &[u8]) -> Result<(), Error> {
        let update = "UPDATE lease SET lease_id_hash = $3, sealed_id = $4 WHERE lock_name = $1 AND fencing_token = $2";
        let update = sqlx::query(update).bind(LOCK).bind(fencing_token).bind(id.hash()).bind(sealed_id);
        update.execute(&self.pool).await?;
        Ok(())
    }

    /// The lock as it is now. `None`: another service hosts it.
    pub async fn look_at_lock(&self) -> Result<Option<Lock>, Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *transaction).await?;
        let of_lock = "SELECT fencing_counter, update_time, in_force FROM lock JOIN fence USING (lock_name) WHERE lock_name = $1";
        let of_lock = sqlx::query_as(of_lock).bind(LOCK);
        let (fencing_token, update_time, elsewhere) = of_lock.fetch_one(&mut *transaction).await?;
        if elsewhere {
            return Ok(None);
        }
        let present = sqlx::query(PRESENT).bind(LOCK).fetch_optional(&mut *transaction).await?;
        transaction.commit().await?;
        let present = present.as_ref().map(Present::read).transpose()?;
        let holder = present.filter(|present| !present.ended()).map(|present| present.holder);
        Ok(Some(Lock { holder, fencing_token, update_time }))
    }
}

impl Grant<'_> {
    /// Takes the lock under these terms. `sealed_id` is the id of the lease, for when the answer is lost.
    pub async fn take(mut self, terms: &Terms, id: LeaseId, sealed_id: &[u8], caller: &Caller) -> Result<Lease, Error> {
        let transaction = &mut *self.transaction;
        let count = "UPDATE lock SET fencing_counter = fencing_counter + 1, waiting = NULL, waiting_until = NULL
                     WHERE lock_name = $1 RETURNING fencing_counter";
        let fencing_token: i64 = sqlx::query_scalar(count).bind(LOCK).fetch_one(&mut *transaction).await?;
        let insert = "INSERT INTO lease (lock_name, fencing_token, lease_id_hash, sealed_id, principal, holder_id, purpose, reason, operation,
                                         expiry_policy, request_id, ttl, expire_time)
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, make_interval(secs => $12),
                              clock_timestamp() + make_interval(secs => $12))
                      RETURNING acquire_time, expire_time";
        let insert = sqlx::query_as(insert).bind(LOCK).bind(fencing_token).bind(id.hash()).bind(sealed_id).bind(&terms.principal);
        let insert = insert.bind(&terms.holder_id).bind(terms.purpose.word()).bind(&terms.reason).bind(&terms.operation);
        let insert = insert.bind(terms.expiry_policy.word()).bind(&terms.request_id).bind(terms.ttl.as_secs_f64());
        let (acquire_time, expire_time) = insert.fetch_one(&mut *transaction).await?;
        let holder = terms.holder(fencing_token, acquire_time, expire_time);
        changed(transaction, &event("lock.acquired", caller, &holder)).await?;
        self.transaction.commit().await?;
        Ok(Lease { id, fencing_token, ttl: terms.ttl, expire_time })
    }
}
