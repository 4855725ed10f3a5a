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
    /// `Error::FenceLost`: the database knows of this token, or a newer one. `Error::Locked`: such a transaction does not end.
    pub async fn advance_fence(&self, token: i64) -> Result<(), Error> {
        // Not the function for updates, which may announce themselves again: a token of ours that is known was another's.
        let advance = "UPDATE fence SET max_token = $1 WHERE lock_name = 'platform-maintenance' AND max_token < $1";
        let advanced = sqlx::query(advance).bind(token).execute(&self.pool).await?;
        if advanced.rows_affected() == 1 { Ok(()) } else { Err(Error::FenceLost) }
    }
}
