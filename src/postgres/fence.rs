//! The fence: the first statement of every protected transaction. A lease alone cannot stop a holder that was paused past its
//! end; a transaction that does not pass the fence does nothing, and whoever takes the lock over waits for one that did.

use sqlx::PgConnection;

use super::{Error, State};

/// Whose tokens are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// Those of the leases in this database.
    Hosted,
    /// Those of another lock service; this database keeps the newest that it was told.
    Foreign,
}

/// Whether the holder of a foreign token is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    Done,
    /// The database knows of this token, but for another operation, or of a newer one.
    Outdated,
    /// The lock is hosted here now.
    NotInForce,
}

/// Passes the fence with this token.
///
/// # Errors
/// `Error::FenceLost`: there is a newer holder, or none.
pub async fn pass(connection: &mut PgConnection, fencing: Fencing, token: i64) -> Result<(), Error> {
    let fence = match fencing {
        Fencing::Hosted => "SELECT holdfast.fence('platform-maintenance', $1)",
        Fencing::Foreign => "SELECT holdfast.foreign_fence('platform-maintenance', $1)",
    };
    if sqlx::query_scalar(fence).bind(token).fetch_one(connection).await? { Ok(()) } else { Err(Error::FenceLost) }
}

/// For updates that know nothing of leases: a transaction of theirs that has `pg_advisory_xact_lock` of this key keeps ours
/// out, and waits for them.
pub const NO_UPDATE: &str =
    "SELECT pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtext('holdfast.platform-maintenance')) AS no_update";

impl State {
    /// Announces this service as the newest holder of a lock that another service hosts. Waits for the protected transactions
    /// of holders before it, which cannot begin another.
    ///
    /// # Errors
    /// `Error::Locked`: such a transaction does not end.
    pub async fn advance_fence(&self, token: i64, operation: &str) -> Result<Advance, Error> {
        // Not the function for updates, which may all announce themselves again: of ours, only one whose answer was lost.
        let advance = "UPDATE fence SET max_token = $1, operation = $2
                       WHERE lock_name = 'platform-maintenance' AND in_force AND (max_token < $1 OR (max_token = $1 AND operation = $2))";
        let advanced = sqlx::query(advance).bind(token).bind(operation).execute(&self.pool).await?;
        if advanced.rows_affected() == 1 {
            return Ok(Advance::Done);
        }
        let in_force = sqlx::query_scalar("SELECT in_force FROM fence WHERE lock_name = 'platform-maintenance'");
        Ok(if in_force.fetch_one(&self.pool).await? { Advance::Outdated } else { Advance::NotInForce })
    }

    /// Makes the leases of the host that is configured the only ones that count, for every process on this database. Protected
    /// transactions under those of the other have ended then, and none can begin. Whether somebody holds a lock that the other
    /// service hosts cannot be known here.
    ///
    /// # Errors
    /// `Error::Locked`: somebody holds the lock that is hosted here, or such a transaction has not ended.
    pub async fn set_fencing(&self) -> Result<(), Error> {
        let fencing = self.database.fencing;
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT FROM lock WHERE lock_name = 'platform-maintenance' FOR UPDATE").execute(&mut *transaction).await?;
        let change = "UPDATE fence SET in_force = $1, operation = '' WHERE lock_name = 'platform-maintenance' AND in_force <> $1";
        let changed =
            sqlx::query(change).bind(fencing == Fencing::Foreign).execute(&mut *transaction).await?.rows_affected() == 1;
        let holder = "SELECT principal || ': ' || reason FROM lease WHERE NOT revoked AND (expiry_policy = 'HOLD' OR expire_time > clock_timestamp())";
        if changed && let Some(holder) = sqlx::query_scalar::<_, String>(holder).fetch_optional(&mut *transaction).await? {
            return Err(Error::Locked(vec![format!(
                "the maintenance lock, to be hosted by another service from now on, is held by {holder}"
            )]));
        }
        if changed {
            // Those that are over still let a transaction pass that was begun under them.
            sqlx::query("SELECT FROM lease FOR UPDATE NOWAIT").execute(&mut *transaction).await?;
            sqlx::query("DELETE FROM lease").execute(&mut *transaction).await?;
            tracing::warn!(?fencing, "the maintenance lock is hosted by another service than before");
        }
        Ok(transaction.commit().await?)
    }
}
