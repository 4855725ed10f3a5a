//! A table of the file on its way into its target: a temporary table that is the target's like, so that columns which the
//! file does not have get their default there, and values which a column does not take are refused before anything is
//! changed.
//!
//! Values of columns that the target no longer has are kept in columns of ours, so that the stage can be compared with the
//! file to the last byte. No name and no type of a file becomes SQL.

use futures_util::TryStreamExt;
use sqlx::PgConnection;
use sqlx::postgres::PgDatabaseError;
use tokio::sync::mpsc;

use super::Error;
use super::apply::{execute, list};
use super::drift;
use super::schema::{Column, Table, UniqueIndex};
use super::snapshot::{self, Rows};
use crate::model::copy::{BINARY_HEADER, BINARY_TRAILER, Tally};
use crate::model::manifest::TableEntry;
use crate::model::name::quoted;
use crate::model::{CopyFormat, EndRecord, Piece};

/// Bytes of one COPY.
const COPY_BYTES: usize = 32 << 20;

/// A table of the file in a temporary table: not logged, seen by nobody else, gone with the transaction.
pub struct Staged {
    /// Place in the manifest.
    pub(super) place: usize,
    pub entry: TableEntry,
    pub(super) table: Table,
    /// The columns of the file as the stage names them.
    columns: Vec<String>,
    /// The file has the target's columns, all of them and of the same types.
    pub(super) same_columns: bool,
    /// Its rows are already in the target, which was empty.
    pub(super) direct: bool,
}

impl Staged {
    pub async fn create(connection: &mut PgConnection, place: usize, entry: &TableEntry, table: &Table) -> Result<Self, Error> {
        let drift = drift::columns(&entry.columns, entry.format, &table.columns).map_err(|unfit| unfit.of(&table.name))?;
        let mut names = Vec::with_capacity(entry.columns.len());
        let mut more = Vec::new();
        for column in &entry.columns {
            let present = table.columns.iter().find(|present| present.name == column.name);
            names.push(present.map_or_else(|| format!("{}{}", unused_prefix(table), more.len()), |present| present.name.clone()));
            if present.is_none() {
                // Each takes whatever COPY has for a column, and gives it back the same.
                let type_name = match entry.format {
                    CopyFormat::Text => "text",
                    CopyFormat::Binary => "bytea",
                };
                more.push(format!(", {} {type_name}", quoted(&names[names.len() - 1])));
            }
        }
        let staged = Self {
            place,
            entry: entry.clone(),
            table: table.clone(),
            columns: names,
            same_columns: drift.is_none(),
            direct: false,
        };
        let (target, more) = (table.name.sql(), more.concat());
        let like = format!("LIKE {target} INCLUDING DEFAULTS INCLUDING GENERATED{more}");
        execute(connection, format!("CREATE TEMPORARY TABLE stage_{place} ({like}) ON COMMIT DROP")).await?;
        for column in drift.filled.iter().filter(|column| column.identity) {
            staged.draw_from_sequence(connection, column).await?;
        }
        Ok(staged)
    }

    /// Gives an identity column of the stage the numbers of the target's own sequence.
    async fn draw_from_sequence(&self, connection: &mut PgConnection, column: &Column) -> Result<(), Error> {
        let name = sqlx::query_scalar("SELECT pg_catalog.quote_literal(pg_catalog.pg_get_serial_sequence($1, $2))");
        let name: Option<String> = name.bind(self.table.name.sql()).bind(&column.name).fetch_one(&mut *connection).await?;
        let name =
            name.ok_or_else(|| Error::Incompatible(format!("an identity column of {} has no sequence", self.table.name)))?;
        let default = format!("pg_catalog.nextval({name}::pg_catalog.regclass)");
        let column = quoted(&column.name);
        execute(connection, format!("ALTER TABLE {} ALTER COLUMN {column} SET DEFAULT {default}", self.stage())).await
    }

    pub(super) fn stage(&self) -> String {
        format!("pg_temp.stage_{}", self.place)
    }

    /// The columns of the target.
    pub(super) fn all_columns(&self, alias: &str) -> String {
        list(self.table.columns.iter().map(|column| format!("{alias}{}", quoted(&column.name))))
    }

    /// SQL that is true when row `s` of the stage is row `t` of the target: equal keys, by the key's own operators.
    /// Identity columns that PostgreSQL lets nobody update count as part of the key.
    pub(super) fn same_row(&self, key: &UniqueIndex) -> String {
        let equal = key.parts.iter().map(|(part, operator)| format!("t.{part} {operator} s.{part}"));
        let fixed = self.table.columns.iter().filter(|column| column.identity_always && !key.columns.contains(&column.name));
        let fixed = fixed.map(|column| format!("t.{0} OPERATOR(pg_catalog.=) s.{0}", quoted(&column.name)));
        equal.chain(fixed).collect::<Vec<_>>().join(" AND ")
    }

    /// SQL that is true when two such rows are not the same to the last byte: 1.0 and 1.00, or 'a' and 'A' in citext, are
    /// equal but not the same.
    pub(super) fn differs(&self) -> String {
        format!("pg_catalog.record_image_ne(ROW({}), ROW({}))", self.all_columns("t."), self.all_columns("s."))
    }

    /// Copies a piece and those that follow it and belong to the same table, up to a limit. Returns the first that was not
    /// copied.
    ///
    /// # Errors
    /// Names table and column, and never a value.
    pub(super) async fn copy_in(
        &self,
        connection: &mut PgConnection,
        first: Piece,
        pieces: &mut mpsc::Receiver<Piece>,
        progress: &mut impl FnMut(&TableEntry, u64),
    ) -> Result<Option<Piece>, Error> {
        self.copy(connection, first, pieces, progress).await.map_err(|error| self.refused(error))
    }

    async fn copy(
        &self,
        connection: &mut PgConnection,
        first: Piece,
        pieces: &mut mpsc::Receiver<Piece>,
        progress: &mut impl FnMut(&TableEntry, u64),
    ) -> Result<Option<Piece>, sqlx::Error> {
        let format = match self.entry.format {
            CopyFormat::Text => "text",
            CopyFormat::Binary => "binary",
        };
        let into = if self.direct { self.table.name.sql() } else { self.stage() };
        let columns = list(self.columns.iter().map(|name| quoted(name)));
        let mut copy = connection.copy_in_raw(&format!("COPY {into} ({columns}) FROM STDIN (FORMAT {format})")).await?;
        let binary = self.entry.format == CopyFormat::Binary;
        if binary {
            copy.send(BINARY_HEADER.as_slice()).await?;
        }
        let table = first.table;
        let (mut piece, mut copied) = (Some(first), 0);
        while let Some(Piece { rows, .. }) = piece.take_if(|piece| piece.table == table && copied < COPY_BYTES) {
            copied += rows.len();
            progress(&self.entry, rows.len() as u64);
            copy.send(rows).await?;
            piece = pieces.recv().await;
        }
        if binary {
            copy.send(BINARY_TRAILER.as_slice()).await?;
        }
        copy.finish().await?;
        Ok(piece)
    }

    fn refused(&self, error: sqlx::Error) -> Error {
        let Some(database) = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) else {
            return error.into();
        };
        let (code, table) = (database.code().to_owned(), &self.table.name);
        let column = database.column().or_else(|| self.column_in(database.r#where()?)).and_then(|name| self.present(name));
        let told = column.map(|column| format!("column {} of type {}", quoted(&column.name), column.type_name));
        let constraint = database.constraint().map(str::to_owned);
        match code.as_bytes() {
            // The text of such an error has the value in it.
            [b'2', b'2', ..] => Error::Incompatible(match told {
                Some(told) => format!("it has a value that {told} of {table} does not take"),
                None => format!("it has a value that a column of {table} does not take"),
            }),
            [b'2', b'3', ..] => Error::Constraint {
                table: table.to_string(),
                constraint: match (constraint, told, column) {
                    // Of the type of the column.
                    (Some(constraint), Some(told), _) => format!("{constraint} of {told}"),
                    (Some(constraint), ..) => constraint,
                    (None, _, Some(column)) => format!("NOT NULL of column {}", column.name),
                    (None, ..) => "?".to_owned(),
                },
            },
            _ => error.into(),
        }
    }

    fn present(&self, name: &str) -> Option<&Column> {
        self.table.columns.iter().find(|column| column.name == name)
    }

    /// The column in the context of an error in COPY: `COPY stage_3, line 2, column state: "..."`, in the server's language.
    fn column_in(&self, context: &str) -> Option<&str> {
        let head = context.lines().find(|line| line.starts_with("COPY "))?.split(": ").next()?;
        let names = self.columns.iter().filter(|name| head.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with(' ')));
        names.max_by_key(|name| name.len()).map(String::as_str)
    }

    /// What the target must add up to: the file's own rows, or, where the columns are others, those of a stage that holds
    /// the file's rows to the last byte.
    pub(super) async fn expected(&self, connection: &mut PgConnection, end: &EndRecord) -> Result<Tally, Error> {
        let in_file = end.tables[self.place].tally;
        if self.same_columns {
            return Ok(in_file);
        }
        let names = self.columns.iter().map(String::as_str);
        if tally(connection, &self.stage(), names, self.entry.format).await? != in_file {
            return Err(Error::NotExact { table: self.table.name.to_string() });
        }
        self.tally_of(connection, &self.stage()).await
    }

    /// What the rows of the target add up to, read as a backup reads them.
    pub(super) async fn tally(&self, connection: &mut PgConnection) -> Result<Tally, Error> {
        if !self.same_columns {
            return self.tally_of(connection, &self.table.name.sql()).await;
        }
        // In the file's order, so that the digest is the file's.
        tally(connection, &self.table.name.sql(), self.columns.iter().map(String::as_str), self.entry.format).await
    }

    /// Whether the target has just the rows of the stage.
    pub(super) async fn is_in_target(&self, connection: &mut PgConnection) -> Result<bool, Error> {
        let staged = self.tally_of(connection, &self.stage()).await?;
        Ok(self.tally_of(connection, &self.table.name.sql()).await? == staged)
    }

    async fn tally_of(&self, connection: &mut PgConnection, from: &str) -> Result<Tally, Error> {
        tally(connection, from, self.table.columns.iter().map(|column| column.name.as_str()), self.table.format()).await
    }
}

/// The beginning of names that no column of the table has.
fn unused_prefix(table: &Table) -> String {
    let mut prefix = "gone_".to_owned();
    while table.columns.iter().any(|column| column.name.starts_with(&prefix)) {
        prefix.push('_');
    }
    prefix
}

async fn tally<'a>(
    connection: &mut PgConnection,
    from: &str,
    columns: impl Iterator<Item = &'a str>,
    format: CopyFormat,
) -> Result<Tally, Error> {
    let mut stream = connection.copy_out_raw(&snapshot::copy_out(from, columns, format)).await?;
    let (mut rows, mut tally) = (Rows::new(format), Tally::default());
    while let Some(message) = stream.try_next().await? {
        if let Some(row) = rows.row(&message)? {
            tally.add(format, row).map_err(|_| Error::BrokenOff)?;
        }
    }
    rows.finish()?;
    Ok(tally)
}
