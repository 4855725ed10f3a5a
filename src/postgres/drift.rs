//! Files of other times: whether the tables of today take what a file has, column by column.
//!
//! Columns are told by name. What is accepted loses nothing, or says so in a notice that must be acknowledged; anything
//! else is refused before a row is read. Names and types of a file are compared and shown, and never become SQL.

use std::collections::BTreeSet;

use super::Error;
use super::schema::{Column, Schema, Table};
use crate::model::manifest::{ColumnEntry, TableEntry};
use crate::model::name::quoted;
use crate::model::notice::Severity;
use crate::model::{CopyFormat, Manifest, Notice, ResourceName, TableName};

/// Columns that a table can have in PostgreSQL.
const MAX_COLUMNS: usize = 1600;

/// How the columns of a file differ from those of the table, where that can be bridged.
#[derive(Debug, Default)]
pub struct Drift<'a> {
    /// Columns of the table that the file does not have: they get their default.
    pub filled: Vec<&'a Column>,
    /// Columns of the file that the table does not have, or computes itself: their values are read and thrown away.
    pub gone: Vec<&'a ColumnEntry>,
    /// Columns whose type takes all that the type in the file took, and writes it the same way.
    pub widened: Vec<(&'a ColumnEntry, &'a Column)>,
}

/// A difference that cannot be bridged.
#[derive(Debug)]
pub enum Unfit<'a> {
    /// It must have a value, the file has none, and there is no default.
    Unfilled(&'a Column),
    Retyped(&'a ColumnEntry, &'a Column),
    Twice(&'a ColumnEntry),
    TooMany,
}

impl Unfit<'_> {
    pub fn of(&self, table: &TableName) -> Error {
        Error::Incompatible(match self {
            Self::Unfilled(column) => {
                let name = quoted(&column.name);
                format!("it has no column {name} of {table}, which must have a value and has no default")
            }
            Self::Retyped(there, here) => {
                let (name, there, here) = (quoted(&here.name), &there.type_name, &here.type_name);
                format!("column {name} of {table} is {there} there and {here} here")
            }
            Self::Twice(column) => format!("it has column {} of {table} twice", quoted(&column.name)),
            Self::TooMany => format!("it has more columns of {table} than PostgreSQL can read"),
        })
    }
}

impl Drift<'_> {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.filled.is_empty() && self.gone.is_empty() && self.widened.is_empty()
    }
}

/// Compares the columns of a file with those of the table, generated ones left out on both sides.
///
/// # Errors
/// The first difference that cannot be bridged.
pub fn columns<'a>(file: &'a [ColumnEntry], format: CopyFormat, present: &'a [Column]) -> Result<Drift<'a>, Unfit<'a>> {
    let mut drift = Drift::default();
    let mut names = BTreeSet::new();
    for entry in file {
        if !names.insert(&entry.name) {
            return Err(Unfit::Twice(entry));
        }
        match present.iter().find(|column| column.name == entry.name) {
            None => drift.gone.push(entry),
            Some(column) if column.type_name == entry.type_name => {}
            Some(column) if widens(&entry.type_name, &column.type_name, format) => drift.widened.push((entry, column)),
            Some(column) => return Err(Unfit::Retyped(entry, column)),
        }
    }
    drift.filled = present.iter().filter(|column| !names.contains(&column.name)).collect();
    if let Some(column) = drift.filled.iter().find(|column| !column.nullable && !column.has_default) {
        return Err(Unfit::Unfilled(column));
    }
    if present.len() + drift.gone.len() > MAX_COLUMNS { Err(Unfit::TooMany) } else { Ok(drift) }
}

/// Whether every value of the type `from` is one of `to` and COPY writes it the same. Types as `format_type` names them.
fn widens(from: &str, to: &str, format: CopyFormat) -> bool {
    if let (Some(from), Some(to)) = (from.strip_suffix("[]"), to.strip_suffix("[]")) {
        // A binary array holds the oid of its elements' type.
        return format == CopyFormat::Text && widens(from, to, format);
    }
    let (from, to) = (Named::parse(from), Named::parse(to));
    // Without a modifier there is no limit.
    let longer = || match (from.modifiers.as_slice(), to.modifiers.as_slice()) {
        (_, []) => true,
        ([from], [to]) => from <= to,
        _ => false,
    };
    match (from.base.as_str(), to.base.as_str()) {
        ("smallint", "integer" | "bigint") | ("integer", "bigint") | ("smallint" | "integer" | "bigint", "numeric") => {
            format == CopyFormat::Text && to.modifiers.is_empty()
        }
        ("numeric", "numeric") => match (from.modifiers.as_slice(), to.modifiers.as_slice()) {
            (_, []) => true,
            ([from, scale], [to, same]) => from <= to && scale == same,
            _ => false,
        },
        ("character varying", "text") => to.modifiers.is_empty(),
        ("text", "character varying") => to.modifiers.is_empty(),
        (
            "character varying"
            | "bit varying"
            | "timestamp without time zone"
            | "timestamp with time zone"
            | "time without time zone"
            | "time with time zone",
            same,
        ) => from.base == same && longer(),
        _ => false,
    }
}

/// The name of a type without what stands in brackets: `timestamp(3) with time zone`.
struct Named {
    base: String,
    modifiers: Vec<i32>,
}

impl Named {
    fn parse(name: &str) -> Self {
        let parts = name.split_once('(').and_then(|(before, rest)| Some((before, rest.split_once(')')?)));
        let numbers = |text: &str| text.split(',').map(|part| part.trim().parse().ok()).collect::<Option<Vec<i32>>>();
        match parts.and_then(|(before, (inside, after))| Some((before, numbers(inside)?, after))) {
            Some((before, modifiers, after)) => Self { base: format!("{before}{after}"), modifiers },
            None => Self { base: name.to_owned(), modifiers: Vec::new() },
        }
    }
}

/// Whether the tables of the chosen resources take the file, and what somebody must know about it.
///
/// A table that the file does not have keeps its rows: to empty it would lose them without a word, to refuse would make
/// every older file worthless. It is treated as any table outside the restore, and the notice must be acknowledged.
///
/// # Errors
/// `Error::Incompatible`, naming table and column; `Error::Mismatch` when PostgreSQL would not let a table be restored.
pub fn compatible(schema: &Schema, manifest: &Manifest, chosen: &[ResourceName]) -> Result<Vec<Notice>, Error> {
    let incompatible = |text: String| Err(Error::Incompatible(text));
    for resource in manifest.resources.iter().filter(|resource| chosen.contains(&resource.name)) {
        for name in &resource.tables {
            match schema.table(name) {
                Some(table) if table.resource == resource.name => {}
                Some(table) => return incompatible(moved(name, &resource.name, &table.resource)),
                None => {
                    let resource = &resource.name;
                    return incompatible(format!(
                        "it has a table {name} of resource {resource}, which the catalog does not have"
                    ));
                }
            }
        }
    }
    let mut notices = Vec::new();
    for table in schema.tables.iter().filter(|table| chosen.contains(&table.resource)) {
        let owner = manifest.resources.iter().find(|resource| resource.tables.contains(&table.name));
        match (owner, manifest.tables.iter().find(|entry| entry.name == table.name)) {
            (Some(owner), Some(entry)) if owner.name == table.resource => notices.extend(of_table(entry, table)?),
            (Some(owner), _) => return incompatible(moved(&table.name, &owner.name, &table.resource)),
            (None, _) => notices.push(kept(table)),
        }
    }
    let unreplicated: Vec<String> = (schema.unreplicated.iter())
        .filter(|(table, _)| schema.table(table).is_some_and(|table| chosen.contains(&table.resource)))
        .map(|(table, publication)| {
            format!("{table} is in publication {publication} without a replica identity, so its rows cannot be changed: give it a primary key or set REPLICA IDENTITY")
        })
        .collect();
    if unreplicated.is_empty() { Ok(notices) } else { Err(Error::Mismatch(unreplicated)) }
}

fn moved(table: &TableName, there: &ResourceName, here: &ResourceName) -> String {
    format!("its table {table} belongs to resource {there} there and to {here} here")
}

fn kept(table: &Table) -> Notice {
    let message = format!("The file has no table {}; its present rows are kept.", table.name);
    Notice::new(Severity::Blocking, "TABLE_NOT_IN_BACKUP", message)
        .of(&table.resource)
        .about(table.name.to_string())
        .instructions("Check that the rows that are kept go with the restored ones, and acknowledge it.")
}

fn of_table(entry: &TableEntry, table: &Table) -> Result<Vec<Notice>, Error> {
    let name = table.name.to_string();
    let drift = columns(&entry.columns, entry.format, &table.columns).map_err(|unfit| unfit.of(&table.name))?;
    let about = |severity, reason, column: &str, message: String| {
        Notice::new(severity, reason, message).of(&table.resource).about(format!("{name}.{column}"))
    };
    let filled = drift.filled.iter().map(|column| {
        let message = format!("The file has no column {} of {name}; it gets its default.", quoted(&column.name));
        about(Severity::Info, "COLUMN_FILLED", &column.name, message)
    });
    let widened = drift.widened.iter().map(|(there, here)| {
        let (column, there, to) = (quoted(&here.name), &there.type_name, &here.type_name);
        let message = format!("Column {column} of {name} is {there} in the file and {to} here, which takes all of it.");
        about(Severity::Info, "SCHEMA_MIGRATED", &here.name, message)
    });
    let gone = drift.gone.iter().map(|column| {
        let message = format!("The database does not take column {} of {name}; its values are lost.", quoted(&column.name));
        about(Severity::Blocking, "COLUMN_DROPPED", &column.name, message)
            .instructions("Acknowledge it to restore the other columns.")
    });
    Ok(filled.chain(widened).chain(gone).collect())
}

#[cfg(test)]
mod tests;
