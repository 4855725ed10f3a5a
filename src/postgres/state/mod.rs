//! The service's own state, in the schema `holdfast`: what survives this process and is in no backup.

mod archive;
mod backups;
mod chain;
pub(super) mod events;
mod leases;
mod operations;
mod settings;
mod signing;
mod slots;
mod uploads;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool};
use uuid::Uuid;

use super::{Database, Error, Role, Schema, direct, restore, rules};
use crate::model::manifest::SequenceState;
use crate::model::name::quoted;
use crate::model::operation::RestoreResult;
use crate::model::{Catalog, Notice, OperationId};

pub use archive::Archivist;
pub use backups::{Publication, Stored};
pub use events::Outbox;
pub use leases::{Asked, Grant};
pub use operations::{Accepted, Alive, Commit, Request, Unfinished};
pub use signing::StoredKey;
pub use slots::{Slot, Watch};
pub use uploads::Uploaded;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) pool: PgPool,
    pub(super) database: Database,
    /// This process, as the owner of what it works on. Its sessions carry it in their name, so that others see whether it lives.
    instance: Uuid,
}

/// Ids that tell this installation from others.
#[derive(Debug, Clone, Copy)]
pub struct System {
    pub id: Uuid,
    /// Of the backup folder; `None` before the first start.
    pub volume: Option<Uuid>,
    pub install_time: DateTime<Utc>,
}

const MIGRATIONS: [(i64, &str, &str); 9] = [
    (1, "state", include_str!("../migrations/0001_state.sql")),
    (2, "events", include_str!("../migrations/0002_events.sql")),
    (3, "lock", include_str!("../migrations/0003_lock.sql")),
    (4, "found", include_str!("../migrations/0004_found.sql")),
    (5, "upload", include_str!("../migrations/0005_upload.sql")),
    (6, "archive", include_str!("../migrations/0006_archive.sql")),
    (8, "schedule", include_str!("../migrations/0008_schedule.sql")),
    (9, "signing", include_str!("../migrations/0009_signing.sql")),
    (10, "chain", include_str!("../migrations/0010_chain.sql")),
];

/// Where the state is.
const SCHEMA: &str = "holdfast";

fn options(database: &Database, instance: Uuid) -> PgConnectOptions {
    let options = database.options(Role::State).application_name(&format!("holdfast {instance}"));
    options.disable_statement_logging().options([
        ("search_path", SCHEMA),
        ("statement_timeout", "20s"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "12s"),
        ("timezone", "UTC"),
        ("client_min_messages", "error"),
        ("synchronous_commit", "on"),
        ("default_transaction_read_only", "off"),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_deferrable", "off"),
        ("standard_conforming_strings", "on"),
        ("transform_null_equals", "off"),
        // A session that holds a right must not hold it long after its process is gone.
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "3"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "10s"),
    ])
}

/// A connection to the state that is nobody else's.
async fn connect(database: &Database, instance: Uuid) -> Result<PgConnection, Error> {
    direct::connect(&options(database, instance)).await
}

fn pool(database: &Database, instance: Uuid, connections: u32) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(5));
    // Whoever goes away while BEGIN is on its way has begun a transaction that sqlx 0.9.0 does not know of, and what the
    // connection is given next would be lost in it. Such a one is closed: now() stands still in a transaction.
    let pool = pool.after_release(|connection, _| {
        Box::pin(async move {
            let idle = "SELECT pg_catalog.now() = pg_catalog.statement_timestamp()";
            sqlx::Row::try_get(&connection.fetch_one(sqlx::raw_sql(idle)).await?, 0)
        })
    });
    pool.connect_lazy_with(options(database, instance))
}

impl State {
    /// Connects, and brings the schema `holdfast` up to date; one process at a time.
    ///
    /// # Errors
    /// `Error::Pooled` when a role does not reach PostgreSQL directly: nothing was changed.
    pub async fn open(database: &Database) -> Result<Self, Error> {
        let instance = Uuid::new_v4();
        let work = |role| database.options(role).disable_statement_logging();
        for options in [options(database, instance), work(Role::Backup), work(Role::Restore)] {
            direct::check(&options).await?;
        }
        let mut connection = connect(database, instance).await?;
        let superuser = "SELECT pg_catalog.current_setting('is_superuser') = 'on'";
        if sqlx::query_scalar(superuser).fetch_one(&mut connection).await? {
            return Err(super::session::superuser(database, Role::State));
        }
        super::session::check_powers(&mut connection, database, Role::State).await?;
        // A pooler of sessions may keep to itself what is said to it when we connect.
        let search_path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&mut connection).await?;
        if search_path != SCHEMA {
            return Err(Error::Pooled("it drops the settings of a connection".into()));
        }
        if sqlx::query_scalar("SELECT pg_catalog.pg_is_in_recovery()").fetch_one(&mut connection).await? {
            return Err(Error::Standby);
        }
        // Replicas that start at once would trip over each other. Released when the connection is closed.
        sqlx::query("SELECT pg_advisory_lock(hashtext('holdfast.open'))").execute(&mut connection).await?;
        let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'holdfast')";
        if !sqlx::query_scalar::<_, bool>(exists).fetch_one(&mut connection).await? {
            connection.execute(sqlx::raw_sql("CREATE SCHEMA IF NOT EXISTS holdfast")).await?;
        }
        let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
            Migration::new(version, name.into(), MigrationType::Simple, sqlx::SqlSafeStr::into_sql_str(sql), false)
        };
        let migrator = Migrator { migrations: MIGRATIONS.into_iter().map(migration).collect(), ..Migrator::DEFAULT };
        migrator.run_direct(None, &mut connection, false).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => {
                Error::from(error)
            }
            error => Error::Query(sqlx::Error::Migrate(Box::new(error))),
        })?;
        let restore = quoted(database.user(Role::Restore));
        let grants = format!(
            "GRANT USAGE ON SCHEMA holdfast TO {restore};
             GRANT EXECUTE ON FUNCTION holdfast.fence, holdfast.foreign_fence TO {restore};
             GRANT SELECT (id, owner, done, heartbeat_time) ON holdfast.operation TO {restore};
             GRANT SELECT, INSERT ON holdfast.restore_log TO {restore};
             REVOKE INSERT ON holdfast.event FROM {restore};
             GRANT INSERT (type, body) ON holdfast.event TO {restore};"
        );
        connection.execute(sqlx::raw_sql(AssertSqlSafe(grants))).await?;
        connection.close().await?;
        Ok(Self { pool: pool(database, instance, 10), database: database.clone(), instance })
    }

    /// The same state over at most so many connections of its own, which live in the runtime that this is called in.
    pub fn apart(&self, connections: u32) -> Self {
        Self { pool: pool(&self.database, self.instance, connections), ..self.clone() }
    }

    /// This process.
    pub fn instance(&self) -> Uuid {
        self.instance
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Whether no migration keeps Holdfast out that knows only SQL.
    pub async fn no_update(&self) -> Result<bool, Error> {
        Ok(sqlx::query_scalar(super::fence::NO_UPDATE).fetch_one(&self.pool).await?)
    }

    /// Time of the database. It orders what several replicas do.
    pub async fn now(&self) -> Result<DateTime<Utc>, Error> {
        Ok(sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&self.pool).await?)
    }

    pub async fn system(&self) -> Result<System, Error> {
        let query = "SELECT system_id, volume_id, install_time FROM system";
        let (id, volume, install_time) = sqlx::query_as(query).fetch_one(&self.pool).await?;
        Ok(System { id, volume, install_time })
    }

    /// Makes this the volume of the system, unless it has one. Returns the one that it has.
    pub async fn set_volume(&self, id: Uuid) -> Result<Uuid, Error> {
        sqlx::query("UPDATE system SET volume_id = $1 WHERE volume_id IS NULL").bind(id).execute(&self.pool).await?;
        Ok(sqlx::query_scalar("SELECT volume_id FROM system").fetch_one(&self.pool).await?)
    }

    /// Gives the system another volume in the place of one that is lost.
    pub async fn replace_volume(&self, lost: Uuid, new: Uuid) -> Result<(), Error> {
        sqlx::query("UPDATE system SET volume_id = $2 WHERE volume_id = $1").bind(lost).bind(new).execute(&self.pool).await?;
        Ok(())
    }

    /// The tables of the catalog as they are now.
    ///
    /// # Errors
    /// `Error::Mismatch` when they, or the rights of the roles, do not fit.
    pub async fn inspect(&self, catalog: &Catalog) -> Result<Schema, Error> {
        // A restore must not be the first to find out that its role cannot log in.
        super::session::close(super::session::connect(&self.database, Role::Restore).await?).await;
        let mut connection = super::session::connect(&self.database, Role::Backup).await?;
        let schema = match Schema::inspect(&mut connection, catalog).await {
            Ok(schema) => schema,
            Err(error) => return Err(super::snapshot::locked_by(error, &mut connection, catalog).await),
        };
        schema.check_privileges(&mut connection, &self.database).await?;
        super::session::close(connection).await;
        Ok(schema)
    }

    /// Number of rows of each resource's first table, in the order of the catalog.
    pub async fn count_items(&self, catalog: &Catalog) -> Result<Vec<u64>, Error> {
        let mut connection = super::session::connect(&self.database, Role::Backup).await?;
        let count = |table: &crate::model::TableName| format!("(SELECT count(*) FROM {})", table.sql());
        let counts: Vec<String> = catalog.resources().iter().filter_map(|resource| resource.tables.first()).map(count).collect();
        let query = format!("SELECT ARRAY[{}]", counts.join(", "));
        let counts: Vec<i64> = sqlx::Row::try_get(&connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(query))).await?, 0)?;
        super::session::close(connection).await;
        Ok(counts.into_iter().map(i64::unsigned_abs).collect())
    }

    /// Whether the checks and watches of the catalog work.
    ///
    /// # Errors
    /// `Error::Mismatch` with each that does not.
    pub async fn check_rules(&self, catalog: &Catalog) -> Result<(), Error> {
        let mut connection = super::session::connect(&self.database, Role::Restore).await?;
        rules::check(&mut connection, catalog).await?;
        super::session::close(connection).await;
        Ok(())
    }

    /// What the live checks of each resource find, in the order of the catalog.
    pub async fn live_notices(&self, catalog: &Catalog) -> Result<Vec<Vec<Notice>>, Error> {
        let mut connection = super::session::connect(&self.database, Role::Restore).await?;
        let notices = rules::live(&mut connection, catalog).await?;
        super::session::close(connection).await;
        Ok(notices)
    }

    /// What a restore did, when it was committed.
    pub async fn restored(&self, operation: OperationId) -> Result<Option<RestoreResult>, Error> {
        let row = sqlx::query_as::<_, (sqlx::types::Json<RestoreResult>, DateTime<Utc>)>(
            "SELECT result, commit_time FROM restore_log WHERE operation = $1",
        );
        let row = row.bind(operation.0).fetch_optional(&self.pool).await?;
        Ok(row.map(|(result, commit_time)| RestoreResult { commit_time, ..result.0 }))
    }

    /// Whether a transaction was committed; `None` while it still runs.
    pub async fn committed(&self, transaction: &str) -> Result<Option<bool>, Error> {
        restore::outcome(&mut *self.pool.acquire().await?, transaction).await
    }

    /// Raises the sequences of restores that were committed and did not get to it.
    pub async fn finish_sequences(&self, catalog: &Catalog) -> Result<(), Error> {
        let pending = "SELECT operation, sequences FROM restore_log WHERE NOT sequences_raised ORDER BY commit_time";
        let pending: Vec<(Uuid, sqlx::types::Json<Vec<SequenceState>>)> = sqlx::query_as(pending).fetch_all(&self.pool).await?;
        if pending.is_empty() {
            return Ok(());
        }
        let mut connection = super::session::connect(&self.database, Role::Backup).await?;
        let schema = Schema::inspect(&mut connection, catalog).await?;
        super::session::close(connection).await;
        for (operation, sequences) in pending {
            restore::raise_sequences(&self.database, &schema, &sequences.0).await?;
            let done = sqlx::query("UPDATE restore_log SET sequences_raised = true WHERE operation = $1");
            done.bind(operation).execute(&self.pool).await?;
        }
        Ok(())
    }
}
