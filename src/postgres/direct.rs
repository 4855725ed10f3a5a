//! Whether a connection is a session of its own. Behind a transaction pooler the next statement may run in the session of
//! somebody else: what was set is lost, what is locked stays locked, temporary tables are another's.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor, PgConnection, Row};

use super::Error;

/// Transactions that are open at once. A pooler that gives its sessions out by turns comes back to ours with the second.
const OTHERS: usize = 2;
/// For all connections together. A pooler of sessions that has too few of them makes us wait.
const LIMIT: Duration = Duration::from_secs(15);

/// Makes sure that a connection keeps its session, whoever else begins a transaction meanwhile.
///
/// # Errors
/// `Error::Pooled` when it does not.
pub async fn check(options: &PgConnectOptions) -> Result<(), Error> {
    let checked = tokio::time::timeout(LIMIT, keeps_its_session(options)).await;
    checked.map_err(|_| Error::Unavailable(sqlx::Error::PoolTimedOut))?
}

async fn keeps_its_session(options: &PgConnectOptions) -> Result<(), Error> {
    let mut ours = connect(options).await?;
    let mut others = Vec::new();
    // All of them first: some poolers open a session for whoever comes, and give it to him who asks next.
    for _ in 0..OTHERS {
        others.push(connect(options).await?);
    }
    let first = session(&mut ours).await?;
    for other in &mut others {
        other.execute("BEGIN").await.map_err(refused)?;
        // Before ours is asked again: it would wait for the only session there is.
        if session(other).await? == first {
            return Err(Error::Pooled("two connections share one session".into()));
        }
        if session(&mut ours).await? != first {
            return Err(Error::Pooled("a connection does not keep its session".into()));
        }
    }
    for connection in others.into_iter().chain([ours]) {
        super::session::close(connection).await;
    }
    Ok(())
}

/// Connects.
///
/// # Errors
/// `Error::Pooled` when the other end does not speak as PostgreSQL does.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    let connected = tokio::time::timeout(super::session::CONNECT, options.connect()).await;
    connected.map_err(|_| Error::Unavailable(sqlx::Error::PoolTimedOut))?.map_err(refused)
}

/// PostgreSQL takes what we say when we connect. PgBouncer calls it a violation of the protocol.
fn refused(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(database) if database.code().as_deref() == Some("08P01") => {
            Error::Pooled(database.message().to_owned())
        }
        _ => Error::Unavailable(error),
    }
}

async fn session(connection: &mut PgConnection) -> Result<i32, Error> {
    Ok(connection.fetch_one(sqlx::raw_sql("SELECT pg_catalog.pg_backend_pid()")).await?.try_get(0)?)
}
