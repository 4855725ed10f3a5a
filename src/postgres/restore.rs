//! A restore: one transaction on one connection. Everything is staged first; no target is locked, let alone changed,
//! before the caller says that the whole file proved whole.

mod short_way;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::short_way::Way;
use super::apply;
use super::drift::compatible;
use super::fence;
use super::rules::{self, Tables};
use super::schema::Schema;
use super::snapshot::locked_by;
use super::stage::Staged;
use super::violations::violations;
use super::{Database, Error, Role, session, watchdog};
use crate::model::manifest::{SequenceState, TableEntry};
use crate::model::notice::Severity;
use crate::model::operation::ResourceChange;
use crate::model::{Catalog, EndRecord, Event, Manifest, Notice, OperationId, Piece, ResourceName};

/// A transaction that finds a table or a row locked tries again so often.
const ATTEMPTS: u32 = 3;

/// What a file is loaded for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    Restore {
        fencing_token: i64,
    },
    /// Sees one moment of the database, and changes nothing.
    Preview,
}

/// A restore under way. Dropped, it is rolled back.
pub struct Restore {
    connection: PgConnection,
    database: Database,
    catalog: Catalog,
    operation: OperationId,
    transaction: String,
    schema: Schema,
    drift: Vec<Notice>,
    /// By the table's place in the manifest; `None` for tables that are not restored.
    staged: Vec<Option<Staged>>,
    chosen: Vec<ResourceName>,
    way: Way,
}

/// What COMMIT made true.
#[derive(Debug, Clone)]
pub struct Committed {
    pub time: DateTime<Utc>,
}

impl Restore {
    /// Begins the transaction: the fence first, then the staging tables for the chosen resources of the file. `caller` is
    /// told to the catalog's checks.
    ///
    /// # Errors
    /// `Error::FenceLost`; `Error::Incompatible` when the tables do not take what the file has.
    pub async fn begin(
        database: &Database,
        catalog: &Catalog,
        purpose: Purpose,
        operation: OperationId,
        caller: &str,
        manifest: &Manifest,
        chosen: &[ResourceName],
    ) -> Result<Self, Error> {
        let mut connection = session::connect(database, Role::Restore).await?;
        watchdog::watch(database, &mut connection, operation).await?;
        match purpose {
            Purpose::Restore { fencing_token } => {
                connection.execute(sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")).await?;
                fence::pass(&mut connection, database.fencing, fencing_token).await?;
            }
            // Temporary tables are all that it writes.
            Purpose::Preview => {
                connection.execute(sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE")).await?;
                // Before the first SELECT, which fixes what it sees: a TRUNCATE that commits later would look like no rows.
                let targets = catalog.tables().filter(|(resource, _)| chosen.contains(&resource.name));
                let names: Vec<String> = targets.map(|(_, table)| table.sql()).collect();
                if !names.is_empty() {
                    let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
                    if let Err(error) = apply::execute(&mut connection, lock).await {
                        let mut watcher = session::connect(database, Role::Restore).await?;
                        return Err(locked_by(error, &mut watcher, catalog).await);
                    }
                }
            }
        }
        if !sqlx::query_scalar(fence::NO_UPDATE).fetch_one(&mut connection).await? {
            return Err(Error::Updating);
        }
        rules::name_caller(&mut connection, caller).await?;
        let transaction = sqlx::query_scalar("SELECT pg_catalog.pg_current_xact_id()::text").fetch_one(&mut connection).await?;
        let schema = match Schema::inspect(&mut connection, catalog).await {
            Ok(schema) => schema,
            Err(error) => {
                let mut watcher = session::connect(database, Role::Restore).await?;
                return Err(locked_by(error, &mut watcher, catalog).await);
            }
        };
        let drift = compatible(&schema, manifest, chosen)?;
        let mut staged = Vec::with_capacity(manifest.tables.len());
        for (place, entry) in manifest.tables.iter().enumerate() {
            let chosen = schema.table(&entry.name).filter(|table| chosen.contains(&table.resource));
            staged.push(match chosen {
                Some(table) => match Staged::create(&mut connection, place, entry, table).await {
                    Ok(staged) => Some(staged),
                    Err(error) => {
                        let mut watcher = session::connect(database, Role::Restore).await?;
                        return Err(locked_by(error, &mut watcher, catalog).await);
                    }
                },
                None => None,
            });
        }
        let (database, catalog, chosen) = (database.clone(), catalog.clone(), chosen.to_vec());
        let way = Way::Ordinary;
        Ok(Self { connection, database, catalog, operation, transaction, schema, drift, staged, chosen, way })
    }

    /// How the tables differ from those of the file, as they are in this transaction.
    pub fn drift(&self) -> &[Notice] {
        &self.drift
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
        let mut next = session::awake_during(&mut self.connection, pieces.recv()).await?;
        while let Some(first) = next.take() {
            let passed_over = first.rows.is_empty() || self.way == Way::Proving;
            let Some(staged) = self.staged.get(first.table).and_then(Option::as_ref).filter(|_| !passed_over) else {
                // Passing over pieces takes its time, too.
                if awake.elapsed() > session::AWAKE {
                    self.connection.execute(sqlx::raw_sql("SELECT")).await?;
                    awake = Instant::now();
                }
                next = session::awake_during(&mut self.connection, pieces.recv()).await?;
                continue;
            };
            // One COPY takes the pieces of a table that follow each other: the end of each costs a round trip.
            next = staged.copy_in(&mut self.connection, first, pieces, &mut progress).await?;
            awake = Instant::now();
        }
        for staged in self.staged.iter().flatten().filter(|staged| !staged.direct) {
            apply::execute(&mut self.connection, format!("ANALYZE {}", staged.stage())).await?;
        }
        Ok(())
    }

    /// What somebody must know beforehand: what the catalog's rules find in the stages, and what is in the way. Only for a
    /// file that proved whole. Changes nothing.
    pub async fn foresee(&mut self, end: &EndRecord) -> Result<Vec<Notice>, Error> {
        let staged: Vec<&Staged> = self.staged.iter().flatten().collect();
        let rules = rules::chosen(&self.catalog, &self.chosen);
        rules::remember(&mut self.connection, &rules).await?;
        let mut notices = rules::notices(&mut self.connection, &rules, Tables::Staged(&staged)).await?;
        let expected = apply::expected(&mut self.connection, &staged, end).await?;
        let replace = apply::without_key_and_different(&mut self.connection, &staged, &expected).await?;
        let referenced = apply::referenced(&mut self.connection, &self.catalog, &self.schema, &staged, &replace).await?;
        notices.extend(referenced.iter().map(|error| {
            let notice = Notice::new(Severity::Refusal, "ROWS_REFERRED_TO", format!("{error}."));
            let notice = Notice { metadata: error.names(), ..notice };
            notice.instructions("Remove those rows, or say in the catalog that this reference is to be followed.")
        }));
        Ok(notices)
    }

    /// Constraints that the rows of the file would violate. A restore finds the first of them when it writes.
    pub async fn violations(&mut self) -> Result<Vec<Notice>, Error> {
        let staged: Vec<&Staged> = self.staged.iter().flatten().collect();
        violations(&mut self.connection, &self.schema, &staged).await
    }

    /// What a restore would do to the rows. Changes nothing.
    pub async fn compare(&mut self, end: &EndRecord) -> Result<Vec<ResourceChange>, Error> {
        let staged: Vec<&Staged> = self.staged.iter().flatten().collect();
        apply::compare(&mut self.connection, &self.catalog, &staged, end).await
    }

    /// Everything in the database that a restore of this file depends on, as text to be digested.
    pub async fn present(&mut self) -> Result<String, Error> {
        let staged: Vec<&Staged> = self.staged.iter().flatten().collect();
        let tallies = apply::present(&mut self.connection, &staged).await?;
        Ok(format!("{tallies:?} {:?}", self.schema))
    }

    /// Locks the targets against writers; readers go on.
    ///
    /// # Errors
    /// `Error::Locked` with the sessions in the way, after some attempts.
    pub async fn lock(&mut self) -> Result<(), Error> {
        let staged: Vec<&Staged> = self.staged.iter().flatten().collect();
        let mut attempt = 1;
        self.connection.execute(sqlx::raw_sql("SAVEPOINT unlocked")).await?;
        while let Err(error) = apply::lock(&mut self.connection, &staged).await {
            attempt = again(&mut self.connection, "unlocked", attempt, error, &self.database, &self.catalog).await?;
        }
        if Schema::inspect(&mut self.connection, &self.catalog).await? != self.schema {
            return Err(Error::Incompatible("the tables were altered while the file was being read".into()));
        }
        Ok(())
    }

    /// Keeps the transaction from being ended as an idle one while `work` goes on elsewhere.
    pub async fn awake_during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        session::awake_during(&mut self.connection, work).await
    }

    /// Makes the locked tables those of the file, and proves it. Tells what it did, and what somebody must know now.
    ///
    /// # Errors
    /// Any error leaves the transaction to be rolled back.
    pub async fn apply(&mut self, end: &EndRecord) -> Result<(Vec<ResourceChange>, Vec<Notice>), Error> {
        let staged: Vec<&Staged> = self.staged.iter().flatten().collect();
        let rules = rules::chosen(&self.catalog, &self.chosen);
        rules::remember(&mut self.connection, &rules).await?;
        let mut attempt = 1;
        self.connection.execute(sqlx::raw_sql("SAVEPOINT locked")).await?;
        let changes = loop {
            match apply::apply(&mut self.connection, &self.catalog, &self.schema, &staged, end).await {
                Ok(changes) => break changes,
                Err(error) => {
                    attempt = again(&mut self.connection, "locked", attempt, error, &self.database, &self.catalog).await?;
                }
            }
        };
        let notices = rules::notices(&mut self.connection, &rules, Tables::Present).await?;
        Ok((changes, notices))
    }

    /// Writes the events that the catalog's rules raise, like `base`, to be committed with the rest.
    pub async fn record(&mut self, base: &Event) -> Result<(), Error> {
        rules::record(&mut self.connection, &rules::chosen(&self.catalog, &self.chosen), base).await
    }

    /// Ends it without a trace.
    pub async fn roll_back(self) {
        session::close(self.connection).await;
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

/// Goes back to the savepoint after a lock that was not granted, and says which attempt comes next.
///
/// # Errors
/// The error itself when it is another one, or the last; with the sessions in the way.
async fn again(
    connection: &mut PgConnection,
    savepoint: &str,
    attempt: u32,
    error: Error,
    database: &Database,
    catalog: &Catalog,
) -> Result<u32, Error> {
    if !matches!(error, Error::Locked(_)) {
        return Err(error);
    }
    let mut watcher = session::connect(database, Role::Restore).await?;
    let error = locked_by(error, &mut watcher, catalog).await;
    session::close(watcher).await;
    if attempt >= ATTEMPTS {
        return Err(error);
    }
    tracing::warn!(%error, attempt, "a restore tries again");
    apply::execute(connection, format!("ROLLBACK TO SAVEPOINT {savepoint}")).await?;
    tokio::time::sleep(std::time::Duration::from_millis(500) * attempt).await;
    Ok(attempt + 1)
}

/// Raises sequences to the state of a file; none is ever lowered. To be called after the commit, and again after a crash.
///
/// The tables that draw from them are locked against writers meanwhile, so that no number is given out in between.
///
/// # Errors
/// `Error::Updating`: a software update works in the database; to be tried again.
pub async fn raise_sequences(database: &Database, schema: &Schema, states: &[SequenceState]) -> Result<(), Error> {
    let mut connection = session::connect(database, Role::Restore).await?;
    connection.execute(sqlx::raw_sql("BEGIN")).await?;
    if !sqlx::query_scalar(fence::NO_UPDATE).fetch_one(&mut connection).await? {
        return Err(Error::Updating);
    }
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
