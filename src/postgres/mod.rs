//! The platform's database. Alone names sqlx and speaks SQL.
//!
//! Nothing in PostgreSQL fails loudly by default, so every connection that moves data is one of its own with pinned
//! settings ([`session`]), looks only after it has locked ([`snapshot`]), and changes a table only after everything was
//! staged ([`restore`]); and none may come from a pooler ([`direct`]). The service's own state ([`state`]) lives in the schema `holdfast`.

mod apply;
mod direct;
mod drift;
mod fence;
mod park;
mod queries;
mod restore;
mod rules;
mod schema;
mod session;
mod snapshot;
mod stage;
pub mod state;
mod violations;
mod watchdog;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgSslMode};
use zeroize::Zeroizing;

use crate::model::TableName;

pub use drift::compatible;
pub use fence::{Advance, Fencing};
pub use restore::{Committed, Purpose, Restore};
pub use schema::{Schema, Table};
pub use snapshot::{Contents, Snapshot};
pub use state::State;

/// Why the database did not do what was asked. `Display` names tables and constraints, never rows or SQL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("PostgreSQL does not answer")]
    Unavailable(#[source] sqlx::Error),
    #[error("the server is a standby; Holdfast works with the primary only")]
    Standby,
    #[error("there is a pooler before PostgreSQL, and Holdfast needs sessions of its own ({0}); connect to PostgreSQL directly")]
    Pooled(String),
    #[error("the database does not fit the catalog: {}", .0.join("; "))]
    Mismatch(Vec<String>),
    #[error("a table is locked by another session for too long{}", blocked_by(.0))]
    Locked(Vec<String>),
    #[error("constraint {constraint} of table {table} does not hold for the restored rows")]
    Constraint { table: String, constraint: String },
    #[error("{rows} rows of {from} refer by {constraint} to rows of {to} that the restore would remove")]
    Referenced { from: String, constraint: String, to: String, rows: i64 },
    #[error("table {table} does not hold the rows of the file after the restore")]
    NotExact { table: String },
    #[error("the file does not fit the database: {0}")]
    Incompatible(String),
    #[error("the database did not keep a secret as it was written")]
    NotKept,
    #[error("the maintenance lock was lost")]
    FenceLost,
    #[error("a software update works in the database")]
    Updating,
    #[error("the database took longer than it may")]
    TimedOut(#[source] sqlx::Error),
    /// The other end of a transfer is gone; it knows why.
    #[error("the transfer was broken off")]
    BrokenOff,
    #[error("the connection was lost during COMMIT")]
    CommitUnknown(#[source] sqlx::Error),
    #[error("PostgreSQL refused a statement")]
    Query(#[source] sqlx::Error),
}

fn blocked_by(sessions: &[String]) -> String {
    if sessions.is_empty() { String::new() } else { format!(": {}", sessions.join(", ")) }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let sqlx::Error::Database(database) = &error else {
            return match error {
                sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                    Self::Unavailable(error)
                }
                sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
                _ => Self::Query(error),
            };
        };
        let code = database.code().unwrap_or_default();
        let named = |name: Option<&str>| name.unwrap_or("?").to_owned();
        // SQLSTATE classes: PostgreSQL manual, appendix A.
        match &*code {
            "57014" => Self::TimedOut(error),
            // The server ended a session that idled in its transaction: this process was paused.
            "25P03" => Self::Unavailable(error),
            "55P03" | "40P01" => Self::Locked(Vec::new()),
            "42501" | "42P01" | "42703" | "3F000" => Self::Mismatch(vec![database.message().to_owned()]),
            code if code.starts_with("23") => Self::Constraint {
                table: database.try_downcast_ref::<PgDatabaseError>().map_or_else(|| "?".to_owned(), table_of),
                constraint: match (
                    database.constraint(),
                    database.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::column),
                ) {
                    (None, Some(column)) => format!("NOT NULL of column {column}"),
                    (constraint, _) => named(constraint),
                },
            },
            code if code.starts_with("08")
                || code.starts_with("57P")
                // A standby, after a failover.
                || code == "25006"
                || code == "55000"
                || code.starts_with("53")
                || code.starts_with("28") =>
            {
                Self::Unavailable(error)
            }
            _ => Self::Query(error),
        }
    }
}

fn table_of(error: &PgDatabaseError) -> String {
    match (error.schema(), error.table()) {
        (Some(schema), Some(table)) => TableName::new(schema, table).to_string(),
        _ => "?".to_owned(),
    }
}

impl Error {
    /// Whether the same may work later although nobody changes anything: the server is not there, or too busy. Not when it
    /// does not let us in.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unavailable(cause) | Self::CommitUnknown(cause) => match cause {
                sqlx::Error::Database(database) => {
                    let code = database.code().unwrap_or_default();
                    !(code.starts_with("28") || code.starts_with("3D"))
                }
                sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => false,
                _ => true,
            },
            Self::Standby | Self::Locked(_) | Self::TimedOut(_) | Self::BrokenOff | Self::Updating => true,
            Self::Mismatch(_)
            | Self::Pooled(_)
            | Self::Constraint { .. }
            | Self::Referenced { .. }
            | Self::NotExact { .. }
            | Self::NotKept
            | Self::Incompatible(_)
            | Self::FenceLost
            | Self::Query(_) => false,
        }
    }

    /// Table and constraint that it is about, for programs.
    pub fn names(&self) -> BTreeMap<String, String> {
        let names = match self {
            Self::Constraint { table, constraint } => vec![("table", table), ("constraint", constraint)],
            Self::Referenced { from, constraint, .. } => vec![("table", from), ("constraint", constraint)],
            Self::NotExact { table } => vec![("table", table)],
            _ => Vec::new(),
        };
        names.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }
}

/// One of the three roles, none of them a superuser: see `deploy/postgres/roles.sql`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Owns the schema `holdfast`.
    State,
    /// Reads the tables of the catalog.
    Backup,
    /// Changes the tables of the catalog.
    Restore,
}

/// Where the database is and who we are there.
#[derive(Clone)]
pub struct Database {
    host: String,
    port: u16,
    name: String,
    ssl_mode: PgSslMode,
    root_certificate: Option<std::path::PathBuf>,
    logins: [Login; 3],
    fencing: Fencing,
}

/// Name and password of a role.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: Option<Zeroizing<String>>,
}

impl Database {
    pub fn new(
        host: String,
        port: u16,
        name: String,
        ssl_mode: PgSslMode,
        root_certificate: Option<&Path>,
        logins: [Login; 3],
    ) -> Self {
        Self {
            host,
            port,
            name,
            ssl_mode,
            root_certificate: root_certificate.map(Path::to_owned),
            logins,
            fencing: Fencing::Hosted,
        }
    }

    /// The same, for a lock that another service may host.
    pub fn fenced(self, fencing: Fencing) -> Self {
        Self { fencing, ..self }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn user(&self, role: Role) -> &str {
        &self.login(role).user
    }

    fn login(&self, role: Role) -> &Login {
        let [state, backup, restore] = &self.logins;
        match role {
            Role::State => state,
            Role::Backup => backup,
            Role::Restore => restore,
        }
    }

    fn options(&self, role: Role) -> PgConnectOptions {
        let login = self.login(role);
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .database(&self.name)
            .username(&login.user)
            .ssl_mode(self.ssl_mode)
            .application_name("holdfast");
        if let Some(password) = &login.password {
            options = options.password(password);
        }
        if let Some(certificate) = &self.root_certificate {
            options = options.ssl_root_cert(certificate);
        }
        options
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.name)
    }
}
