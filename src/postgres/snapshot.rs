//! Reading the tables of the catalog from one consistent snapshot: lock first, then look.
//!
//! A snapshot that is older than the lock sees a table that was truncated or rewritten in between as empty. So nothing
//! that fixes the snapshot (any SELECT) runs before every table is locked, and nothing the driver might send on its own
//! does either: a fresh connection, simple protocol, no statement cache.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use tokio::sync::mpsc;

use super::schema::{Schema, Table};
use super::{Database, Error, Role, fence, session};
use crate::model::copy::{BINARY_HEADER, BINARY_TRAILER};
use crate::model::manifest::SequenceState;
use crate::model::name::quoted;
use crate::model::{Catalog, CopyFormat, Piece, TableName};

/// Rows are handed on in pieces of about this size; a larger row is a piece of its own.
const PIECE_BYTES: usize = 2 << 20;
/// How long others may wait behind our locks before the backup gives way.
const PATIENCE: Duration = Duration::from_secs(5);

/// An open snapshot with all tables locked in ACCESS SHARE mode.
pub struct Snapshot {
    connection: PgConnection,
    watcher: PgConnection,
    backend: i32,
    schema: Schema,
    time: DateTime<Utc>,
    server_version: String,
    size: u64,
}

/// What was read, for comparison with what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Rows of each table, in the order of the catalog.
    pub rows: Vec<u64>,
    pub sequences: Vec<SequenceState>,
}

impl Snapshot {
    /// Locks, then looks.
    ///
    /// # Errors
    /// `Error::Locked` when another session holds a table for longer than the lock timeout: begin again later.
    pub async fn begin(database: &Database, catalog: &Catalog) -> Result<Self, Error> {
        let mut watcher = session::connect(database, Role::Backup).await?;
        let mut in_oid_order = match Schema::inspect(&mut watcher, catalog).await {
            Ok(schema) => schema.tables,
            Err(error) => return Err(locked_by(error, &mut watcher, catalog).await),
        };
        in_oid_order.sort_by_key(|table| table.oid.0);

        let mut connection = session::connect(database, Role::Backup).await?;
        let names: Vec<String> = in_oid_order.iter().map(|table| table.name.sql()).collect();
        let lock =
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE;", names.join(", "));
        if let Err(error) = connection.execute(sqlx::raw_sql(AssertSqlSafe(lock))).await {
            return Err(locked_by(error.into(), &mut watcher, catalog).await);
        }

        if !connection.fetch_one(sqlx::raw_sql(fence::NO_UPDATE)).await?.try_get::<bool, _>("no_update")? {
            return Err(Error::Updating);
        }
        let schema = Schema::inspect(&mut connection, catalog).await?;
        if let Some(table) =
            in_oid_order.iter().find(|locked| schema.table(&locked.name).is_none_or(|found| found.oid != locked.oid))
        {
            return Err(Error::Locked(vec![format!("{} was replaced while it was being locked", table.name)]));
        }
        let facts = "SELECT pg_catalog.now() AS time, pg_catalog.current_setting('server_version') AS version, pg_catalog.pg_backend_pid() AS backend";
        let facts = connection.fetch_one(sqlx::raw_sql(facts)).await?;
        let version: String = facts.try_get("version")?;
        Ok(Self {
            size: schema.size(&mut connection).await?,
            backend: facts.try_get("backend")?,
            time: facts.try_get("time")?,
            server_version: version.split(' ').next().unwrap_or_default().to_owned(),
            connection,
            watcher,
            schema,
        })
    }

    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    pub fn time(&self) -> DateTime<Utc> {
        self.time
    }

    /// A guess at the bytes to be read.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// Sends the rows of every table, in the order of the catalog. `progress` learns the table and the bytes sent.
    ///
    /// # Errors
    /// Any error is one of the whole backup: what was sent before is not a shorter backup.
    pub async fn copy(self, out: mpsc::Sender<Piece>, mut progress: impl FnMut(&Table, u64)) -> Result<Contents, Error> {
        let Self { mut connection, watcher, backend, schema, .. } = self;
        let contents = async {
            let mut rows = Vec::with_capacity(schema.tables.len());
            for (place, table) in schema.tables.iter().enumerate() {
                rows.push(copy_table(&mut connection, place, table, &out, &mut progress).await?);
            }
            // Sequences are not part of a snapshot: read last, they are at least as high as any row.
            let mut sequences = Vec::with_capacity(schema.sequences.len());
            for sequence in &schema.sequences {
                sequences.push(read_sequence(&mut connection, &sequence.name).await?);
            }
            connection.execute(sqlx::raw_sql("COMMIT")).await?;
            Ok::<_, Error>(Contents { rows, sequences })
        };
        let contents = tokio::select! {
            contents = contents => contents?,
            error = somebody_waits(watcher, backend) => return Err(error),
        };
        session::close(connection).await;
        Ok(contents)
    }
}

async fn copy_table(
    connection: &mut PgConnection,
    place: usize,
    table: &Table,
    out: &mpsc::Sender<Piece>,
    progress: &mut impl FnMut(&Table, u64),
) -> Result<u64, Error> {
    let format = table.format();
    let mut stream = connection
        .copy_out_raw(&copy_out(&table.name.sql(), table.columns.iter().map(|column| column.name.as_str()), format))
        .await?;
    let mut piece = Vec::new();
    let mut rows = Rows::new(format);
    while let Some(message) = stream.try_next().await? {
        let Some(row) = rows.row(&message)? else { continue };
        // While the volume is slow the server waits in its COPY, for as long as `tcp_user_timeout` lets it.
        if !piece.is_empty() && piece.len() + row.len() > PIECE_BYTES {
            let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES));
            progress(table, full.len() as u64);
            out.send(Piece { table: place, rows: full, last: false }).await.map_err(|_| Error::BrokenOff)?;
        }
        piece.extend_from_slice(row);
    }
    // The stream ends without an error only after CommandComplete.
    progress(table, piece.len() as u64);
    drop(stream);
    let last = out.send(Piece { table: place, rows: piece, last: true });
    session::awake_during(connection, last).await?.map_err(|_| Error::BrokenOff)?;
    rows.finish()
}

/// The statement that reads a table, given as SQL. Partitioned tables are read through their root; columns are always named.
pub(super) fn copy_out<'a>(from: &str, columns: impl Iterator<Item = &'a str>, format: CopyFormat) -> String {
    let columns: Vec<String> = columns.map(quoted).collect();
    let format = match format {
        CopyFormat::Text => "text",
        CopyFormat::Binary => "binary",
    };
    format!("COPY (SELECT {} FROM {from}) TO STDOUT (FORMAT {format})", columns.join(", "))
}

/// Finds the rows in the messages of a COPY: the server sends one message a row (manual, 55.2.6), and the binary format
/// has a header before the first and a trailer behind the last.
pub(super) struct Rows {
    format: CopyFormat,
    seen: u64,
    begun: bool,
    ended: bool,
}

impl Rows {
    pub(super) fn new(format: CopyFormat) -> Self {
        Self { format, seen: 0, begun: false, ended: false }
    }

    /// The row in a message, if it has one.
    pub(super) fn row<'a>(&mut self, mut message: &'a [u8]) -> Result<Option<&'a [u8]>, Error> {
        if self.format == CopyFormat::Binary {
            if !self.begun {
                message = message.strip_prefix(BINARY_HEADER).ok_or(Error::BrokenOff)?;
                self.begun = true;
            }
            if message == BINARY_TRAILER {
                self.ended = true;
                message = &[];
            }
        }
        if message.is_empty() {
            return Ok(None);
        }
        if self.ended || self.format.row_length(message) != Ok(message.len()) {
            return Err(Error::BrokenOff);
        }
        self.seen += 1;
        Ok(Some(message))
    }

    /// Number of rows, when the stream ended as it must.
    pub(super) fn finish(self) -> Result<u64, Error> {
        if self.format == CopyFormat::Binary && !self.ended { Err(Error::BrokenOff) } else { Ok(self.seen) }
    }
}

/// The present state of a sequence.
pub(super) async fn read_sequence(connection: &mut PgConnection, name: &TableName) -> Result<SequenceState, Error> {
    let query = format!("SELECT last_value, is_called FROM {}", name.sql());
    let row = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(query))).await?;
    Ok(SequenceState { name: name.clone(), last_value: row.try_get("last_value")?, is_called: row.try_get("is_called")? })
}

/// Adds to `Error::Locked` who holds tables of the catalog.
pub(super) async fn locked_by(error: Error, watcher: &mut PgConnection, catalog: &Catalog) -> Error {
    if !matches!(error, Error::Locked(_)) {
        return error;
    }
    let (schemas, names): (Vec<_>, Vec<_>) =
        catalog.tables().map(|(_, table)| (table.schema.clone(), table.name.clone())).unzip();
    let holders = sqlx::query_scalar(super::queries::LOCK_HOLDERS).bind(schemas).bind(names).fetch_all(watcher).await;
    Error::Locked(holders.unwrap_or_else(|error| {
        tracing::warn!(%error, "who holds the lock could not be found out");
        Vec::new()
    }))
}

/// Ends when some session has waited behind `backend` for too long: an ALTER that queues behind our lock stops every
/// reader of the table behind itself.
async fn somebody_waits(mut watcher: PgConnection, backend: i32) -> Error {
    let mut since = None;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let waiting = sqlx::query_scalar::<_, bool>(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE NOT l.granted AND $1 = ANY (pg_catalog.pg_blocking_pids(l.pid)))",
        );
        match waiting.bind(backend).fetch_one(&mut watcher).await {
            Ok(false) => since = None,
            Ok(true) => {
                let since = since.get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() >= PATIENCE {
                    return Error::Locked(vec!["another session has been waiting behind the backup".into()]);
                }
            }
            Err(error) => return error.into(),
        }
    }
}
