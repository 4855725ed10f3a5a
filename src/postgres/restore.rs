//! A restore: one transaction on one connection. Everything is staged first; no target is locked, let alone changed,
//! before the caller says that the whole file proved whole.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::apply::{self, Staged};
use super::schema::Schema;
use super::snapshot::locked_by;
use super::{Database, Error, Role, session};
use crate::model::copy::{BINARY_HEADER, BINARY_TRAILER};
use crate::model::manifest::{SequenceState, TableEntry};
use crate::model::name::quoted;
use crate::model::operation::ResourceChange;
use crate::model::{Catalog, CopyFormat, EndRecord, Event, Manifest, OperationId, Piece, ResourceName};

/// A third of the server's patience with a session that idles in a transaction (`session`).
const AWAKE: std::time::Duration = std::time::Duration::from_secs(20);

/// A restore under way. Dropped, it is rolled back.
pub struct Restore {
    connection: PgConnection,
    database: Database,
    operation: OperationId,
    transaction: String,
    schema: Schema,
    /// By the table's place in the manifest; `None` for tables that are not restored.
    staged: Vec<Option<Staged>>,
    chosen: Vec<ResourceName>,
}

/// What COMMIT made true.
#[derive(Debug, Clone)]
pub struct Committed {
    pub time: DateTime<Utc>,
}

impl Restore {
    /// Begins the transaction: the fence first, then the staging tables for the chosen resources of the file.
    ///
    /// # Errors
    /// `Error::FenceLost`; `Error::Incompatible` when the columns of a table are not those of the file.
    pub async fn begin(
        database: &Database,
        catalog: &Catalog,
        fencing_token: i64,
        operation: OperationId,
        manifest: &Manifest,
        chosen: &[ResourceName],
    ) -> Result<Self, Error> {
        let mut connection = session::connect(database, Role::Restore).await?;
        connection.execute(sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")).await?;
        let fence = sqlx::query_scalar("SELECT holdfast.fence('platform-maintenance', $1)").bind(fencing_token);
        if !fence.fetch_one(&mut connection).await? {
            return Err(Error::FenceLost);
        }
        let transaction = sqlx::query_scalar("SELECT pg_catalog.pg_current_xact_id()::text").fetch_one(&mut connection).await?;
        let schema = match Schema::inspect(&mut connection, catalog).await {
            Ok(schema) => schema,
            Err(error) => {
                let mut watcher = session::connect(database, Role::Restore).await?;
                return Err(locked_by(error, &mut watcher, catalog).await);
            }
        };
        compatible(&schema, manifest, chosen)?;
        let mut staged = Vec::with_capacity(manifest.tables.len());
        for (place, entry) in manifest.tables.iter().enumerate() {
            let chosen = schema.table(&entry.name).filter(|table| chosen.contains(&table.resource));
            staged.push(match chosen {
                Some(table) => Some(Staged::create(&mut connection, place, entry, table).await?),
                None => None,
            });
        }
        Ok(Self { connection, database: database.clone(), operation, transaction, schema, staged, chosen: chosen.to_vec() })
    }

    /// Id of the transaction, so that its outcome can be asked for if this process does not live to see it.
    pub fn transaction(&self) -> &str {
        &self.transaction
    }

    /// Loads rows into the staging table. Pieces of tables that are not restored are passed over, and so are empty
    /// ones.
    pub async fn load(
        &mut self,
        pieces: &mut mpsc::Receiver<Piece>,
        mut progress: impl FnMut(&TableEntry, u64),
    ) -> Result<(), Error> {
        let mut awake = Instant::now();
        let mut next = pieces.recv().await;
        while let Some(first) = next.take() {
            let Some(staged) = self.staged.get(first.table).and_then(Option::as_ref).filter(|_| !first.rows.is_empty()) else {
                // A session that idles in its transaction is ended by the server, and passing over tables takes its time.
                if awake.elapsed() > AWAKE {
                    self.connection.execute(sqlx::raw_sql("SELECT")).await?;
                    awake = Instant::now();
                }
                next = pieces.recv().await;
                continue;
            };
            // One COPY takes all pieces of a table that follow each other.
            let table = first.table;
            let copied = copy_in(&mut self.connection, staged, first, pieces, |piece| piece.table == table, &mut progress).await;
            next = copied.map_err(|error| error.while_loading(&staged.entry.name))?;
            awake = Instant::now();
        }
        Ok(())
    }

    /// Makes the tables those of the file, and proves it. Only for a file that proved whole.
    ///
    /// # Errors
    /// Any error leaves the transaction to be rolled back.
    pub async fn apply(&mut self, catalog: &Catalog, end: &EndRecord) -> Result<Vec<ResourceChange>, Error> {
        let staged: Vec<&Staged> = self.staged.iter().flatten().collect();
        apply::lock(&mut self.connection, &self.database, catalog, &staged).await?;
        if Schema::inspect(&mut self.connection, catalog).await? != self.schema {
            return Err(Error::Incompatible("the tables were altered while the file was being read".into()));
        }
        apply::apply(&mut self.connection, catalog, &self.schema, &staged, end).await
    }

    /// Commits, together with the row that says so and the events that tell of it.
    ///
    /// # Errors
    /// `Error::CommitUnknown` when the connection was lost before the answer came: ask [`super::State`] for the truth.
    pub async fn commit(mut self, result: &impl Serialize, end: &EndRecord, events: &[Event]) -> Result<Committed, Error> {
        let sequences = self.sequences(end);
        let log = "INSERT INTO holdfast.restore_log (operation, result, sequences) VALUES ($1, $2, $3) RETURNING commit_time";
        let log =
            sqlx::query_scalar(log).bind(self.operation.0).bind(sqlx::types::Json(result)).bind(sqlx::types::Json(&sequences));
        let time = log.fetch_one(&mut self.connection).await?;
        super::state::events::write(&mut self.connection, events).await?;
        match self.connection.execute(sqlx::raw_sql("COMMIT")).await {
            Ok(_) => {}
            Err(error) => {
                return Err(match Error::from(error) {
                    Error::Unavailable(cause) | Error::TimedOut(cause) => Error::CommitUnknown(cause),
                    refused => refused,
                });
            }
        }
        session::close(self.connection).await;
        Ok(Committed { time })
    }

    /// Sequences of the chosen resources, as the file has them.
    fn sequences(&self, end: &EndRecord) -> Vec<SequenceState> {
        let chosen = self.schema.sequences.iter().filter(|sequence| self.chosen.contains(&sequence.resource));
        let names: Vec<_> = chosen.map(|sequence| &sequence.name).collect();
        end.sequences.iter().filter(|state| names.contains(&&state.name)).cloned().collect()
    }
}

/// Copies a piece and those that follow it and belong to it. Returns the first that does not.
async fn copy_in(
    connection: &mut PgConnection,
    staged: &Staged,
    first: Piece,
    pieces: &mut mpsc::Receiver<Piece>,
    belongs: impl Fn(&mut Piece) -> bool,
    progress: &mut impl FnMut(&TableEntry, u64),
) -> Result<Option<Piece>, Error> {
    let binary = staged.entry.format == CopyFormat::Binary;
    let mut copy = connection.copy_in_raw(&staged.copy_in()).await?;
    if binary {
        copy.send(BINARY_HEADER.as_slice()).await?;
    }
    let mut piece = Some(first);
    while let Some(Piece { rows, .. }) = piece.take_if(&belongs) {
        progress(&staged.entry, rows.len() as u64);
        copy.send(rows).await?;
        piece = pieces.recv().await;
    }
    if binary {
        copy.send(BINARY_TRAILER.as_slice()).await?;
    }
    copy.finish().await?;
    Ok(piece)
}

/// Whether the tables of the chosen resources have the columns of the file: the same names with the same types.
pub fn compatible(schema: &Schema, manifest: &Manifest, chosen: &[ResourceName]) -> Result<(), Error> {
    let incompatible = |text: String| Err(Error::Incompatible(text));
    for resource in manifest.resources.iter().filter(|resource| chosen.contains(&resource.name)) {
        let here = |name| schema.table(name).is_some_and(|table| table.resource == resource.name);
        if let Some(extra) = resource.tables.iter().find(|name| !here(name)) {
            return incompatible(format!(
                "it has a table {extra} of resource {}, which the catalog does not have",
                resource.name
            ));
        }
    }
    for table in schema.tables.iter().filter(|table| chosen.contains(&table.resource)) {
        let Some(entry) = manifest.tables.iter().find(|entry| entry.name == table.name) else {
            return incompatible(format!("it has no table {}", table.name));
        };
        for column in &table.columns {
            match entry.columns.iter().find(|found| found.name == column.name) {
                None => return incompatible(format!("it has no column {} of {}", quoted(&column.name), table.name)),
                Some(found) if found.type_name != column.type_name => {
                    let (name, table) = (quoted(&column.name), &table.name);
                    return incompatible(format!(
                        "column {name} of {table} is {} there and {} here",
                        found.type_name, column.type_name
                    ));
                }
                Some(_) => {}
            }
        }
        if let Some(extra) = entry.columns.iter().find(|entry| table.columns.iter().all(|column| column.name != entry.name)) {
            return incompatible(format!(
                "it has a column {} of {} that the database does not have",
                quoted(&extra.name),
                table.name
            ));
        }
    }
    Ok(())
}

/// Raises sequences to the state of a file; none is ever lowered. To be called after the commit, and again after a crash.
///
/// The tables that draw from them are locked against writers meanwhile, so that no number is given out in between.
pub async fn raise_sequences(database: &Database, schema: &Schema, states: &[SequenceState]) -> Result<(), Error> {
    let mut connection = session::connect(database, Role::Restore).await?;
    connection.execute(sqlx::raw_sql("BEGIN")).await?;
    let owners = schema.sequences.iter().filter(|sequence| states.iter().any(|state| state.name == sequence.name));
    let mut owners: Vec<String> = owners.filter_map(|sequence| Some(sequence.owner.as_ref()?.sql())).collect();
    owners.sort();
    owners.dedup();
    if !owners.is_empty() {
        let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", owners.join(", "));
        connection.execute(sqlx::raw_sql(AssertSqlSafe(lock))).await?;
    }
    for state in states {
        let present = super::snapshot::read_sequence(&mut connection, &state.name).await?;
        let increment = sqlx::query_scalar("SELECT seqincrement FROM pg_catalog.pg_sequence WHERE seqrelid = $1::regclass");
        let increment: i64 = increment.bind(state.name.sql()).fetch_one(&mut connection).await?;
        // Where it stands, counted in its own direction.
        let place = |state: &SequenceState| (i128::from(state.last_value) * i128::from(increment.signum()), state.is_called);
        if place(&present) < place(state) {
            let raise = sqlx::query("SELECT pg_catalog.setval($1::regclass, $2, $3)");
            raise.bind(state.name.sql()).bind(state.last_value).bind(state.is_called).execute(&mut connection).await?;
        }
    }
    connection.execute(sqlx::raw_sql("COMMIT")).await?;
    session::close(connection).await;
    Ok(())
}

/// The outcome of a transaction, by its id: `Some(true)` committed, `Some(false)` not, `None` still running.
pub(super) async fn outcome(connection: &mut PgConnection, transaction: &str) -> Result<Option<bool>, Error> {
    let row = sqlx::query("SELECT pg_catalog.pg_xact_status($1::xid8)").bind(transaction).fetch_one(connection).await?;
    Ok(match row.try_get::<Option<String>, _>(0)?.as_deref() {
        Some("committed") => Some(true),
        Some("in progress") => None,
        _ => Some(false),
    })
}
