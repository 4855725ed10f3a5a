//! A connection for one piece of work: of its own, with pinned settings, closed afterwards.
//!
//! Settings of a role or a database change what COPY writes (day and month of a date, the sign of an interval, the digits
//! of a float), hide rows, or end a session; so each that matters is set here, on every such connection.

use std::fmt::Write;
use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};

use super::{Database, Error, Role};

/// How long a statement waits for a lock on a table.
pub const LOCK_TIMEOUT_SECONDS: u32 = 5;
/// How long the server may take to let us in.
pub const CONNECT: Duration = Duration::from_secs(10);

/// Values of the settings. `SET` alone: the first SELECT of a transaction would fix its snapshot.
const SETTINGS: &[(&str, &str)] = &[
    ("search_path", "''"),
    ("datestyle", "'ISO, YMD'"),
    ("intervalstyle", "'postgres'"),
    ("extra_float_digits", "3"),
    ("bytea_output", "'hex'"),
    ("timezone", "'UTC'"),
    ("client_encoding", "'UTF8'"),
    ("lc_monetary", "'C'"),
    ("xmloption", "'content'"),
    ("standard_conforming_strings", "on"),
    // 'NULL' in an array would be read as text.
    ("array_nulls", "on"),
    ("quote_all_identifiers", "off"),
    ("transform_null_equals", "off"),
    // A policy raises an error then; it does not filter.
    ("row_security", "off"),
    ("synchronize_seqscans", "off"),
    // Compiling a statement that runs once takes longer than running it.
    ("jit", "off"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "'read committed'"),
    ("default_transaction_deferrable", "off"),
    ("synchronous_commit", "on"),
    // COPY IN through the driver does not survive a flood of notices.
    ("client_min_messages", "error"),
    ("statement_timeout", "'2h'"),
    // A vanished or paused client loses its locks within 15 s: between statements by the first, when its machine is gone by
    // the keepalives, when it does not take what it asked for by the last. Not in COPY FROM STDIN (`watchdog`); and what the
    // server is busy with ends at its own pace.
    ("idle_in_transaction_session_timeout", "'12s'"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "3"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "'10s'"),
];
/// A third of the server's patience with a session that idles in a transaction.
pub const AWAKE: Duration = Duration::from_secs(4);

/// Connects as `role` for one piece of work. Refuses a server that is a standby, and a superuser.
pub async fn connect(database: &Database, role: Role) -> Result<PgConnection, Error> {
    let options = database.options(role).disable_statement_logging().statement_cache_capacity(0);
    let connect = tokio::time::timeout(CONNECT, options.connect());
    let mut connection = connect.await.map_err(|_| Error::Unavailable(sqlx::Error::PoolTimedOut))?.map_err(Error::Unavailable)?;
    let server = connection.server_version_num().unwrap_or(0);
    let mut settings = String::new();
    let mut set = |name: &str, value: &str| write!(settings, "SET {name} = {value};").map_err(|_| Error::BrokenOff);
    for (name, value) in SETTINGS {
        set(name, value)?;
    }
    set("lock_timeout", &format!("'{LOCK_TIMEOUT_SECONDS}s'"))?;
    if server >= 140_000 {
        set("client_connection_check_interval", "'1s'")?;
        set("idle_session_timeout", "0")?;
    }
    if server >= 170_000 {
        set("transaction_timeout", "'3h'")?;
    }
    // Closes CVE-2024-7348 where the server knows how.
    let minors = [(160_000, 160_004), (150_000, 150_008), (140_000, 140_013), (130_000, 130_016), (120_000, 120_020)];
    if server >= 170_000 || minors.iter().any(|&(major, fixed)| server >= fixed && server / 10_000 == major / 10_000) {
        set("restrict_nonsystem_relation_kind", "'view,foreign-table'")?;
    }
    connection.execute(sqlx::raw_sql(AssertSqlSafe(settings))).await?;
    let facts =
        "SELECT pg_catalog.pg_is_in_recovery() AS standby, pg_catalog.current_setting('is_superuser') = 'on' AS superuser,
                        pg_catalog.current_setting('session_replication_role') <> 'origin' AS unchecked";
    let facts = connection.fetch_one(sqlx::raw_sql(facts)).await?;
    if facts.try_get("standby")? {
        return Err(Error::Standby);
    }
    if facts.try_get("superuser")? {
        return Err(superuser(database, role));
    }
    check_powers(&mut connection, database, role).await?;
    if facts.try_get("unchecked")? {
        let problem = "session_replication_role is set for role {}: foreign keys would not be checked; set it to origin";
        return Err(Error::Mismatch(vec![problem.replace("{}", database.user(role))]));
    }
    Ok(connection)
}

/// What no role of Holdfast needs, and whoever learns its password would have.
const POWERS: &str = "
    SELECT pg_catalog.array_to_string(ARRAY(
        SELECT power FROM pg_catalog.pg_roles r,
            LATERAL (VALUES ('CREATEROLE', r.rolcreaterole), ('BYPASSRLS', r.rolbypassrls), ('REPLICATION', r.rolreplication)) AS has (power, does)
        WHERE r.rolname = current_user AND does
        UNION ALL
        SELECT 'membership in ' || r.rolname FROM pg_catalog.pg_roles r
        WHERE r.rolname <> current_user AND pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER')
          AND (r.rolsuper OR r.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'))), ', ')";

/// Refuses a role that could do more than it needs.
pub(super) async fn check_powers(connection: &mut PgConnection, database: &Database, role: Role) -> Result<(), Error> {
    let powers: String = connection.fetch_one(sqlx::raw_sql(POWERS)).await?.try_get(0)?;
    if powers.is_empty() {
        return Ok(());
    }
    let user = database.user(role);
    let mend = "take it away with ALTER ROLE or REVOKE, or use one of the roles of deploy/platform/roles.sql";
    Err(Error::Mismatch(vec![format!("role {user} has {powers}, which Holdfast does not need; {mend}")]))
}

pub(super) fn superuser(database: &Database, role: Role) -> Error {
    let user = database.user(role);
    Error::Mismatch(vec![format!("role {user} is a superuser; use one of the roles of deploy/postgres/roles.sql")])
}

/// Keeps the session from being ended as an idle one in its transaction while `work` goes on elsewhere.
pub async fn awake_during<T>(connection: &mut PgConnection, work: impl Future<Output = T>) -> Result<T, Error> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(AWAKE) => {
                connection.execute(sqlx::raw_sql("SELECT")).await?;
            }
        }
    }
}

/// Closes a connection in good order; whatever it still had open is rolled back by the server.
pub async fn close(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "a connection did not close in good order");
    }
}
