//! Making the tables those of the file: lock, compare, write what differs, prove it.
//!
//! All tables are changed in one statement. Foreign keys are checked at the end of a statement, so rows that refer to
//! each other in a circle, a parent that goes together with its children and a child that moves to a new parent need no
//! order among tables; and a CASCADE finds only rows outside the backup, because inside every row already has a parent
//! of the file. (The exception: a key that refers to a unique value which moves to a row of another primary key. Then the
//! referring rows are gone or changed afterwards, and a second round brings them back.) Within a table rows are deleted,
//! then updated, then inserted, so that unique values are free before they are taken. Rows that are equal are not written.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use super::Error;
use super::park::park_unique_values;
use super::schema::{ForeignKey, Schema, Table};
use super::stage::Staged;

use crate::model::catalog::OnRemoval;
use crate::model::copy::Tally;
use crate::model::name::quoted;
use crate::model::operation::ResourceChange;
use crate::model::{Catalog, EndRecord, TableName};

/// `pg_constraint.confdeltype` of a foreign key without an action.
const NO_ACTION: char = 'a';

/// The three parts of the statement that bring one table to the state of the file.
fn change_of(staged: &Staged, replace: bool) -> String {
    let (n, target, stage) = (staged.place, staged.table.name.sql(), staged.stage());
    if staged.direct {
        return ["d", "u", "i"].map(|part| format!("{part}{n} AS (SELECT 1 WHERE false)")).join(", ");
    }
    let (columns, values) = (staged.all_columns(""), staged.all_columns("s."));
    let insert = format!("INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {stage} s");
    match &staged.table.key {
        Some(key) => {
            let (same, differs) = (staged.same_row(key), staged.differs());
            let settable = staged.table.columns.iter().filter(|column| !column.identity_always);
            let set = list(settable.map(|column| format!("{0} = s.{0}", quoted(&column.name))));
            let update = match set.is_empty() {
                true => format!("SELECT 1 WHERE (SELECT pg_catalog.count(*) FROM d{n}) < 0"),
                false => format!(
                    "UPDATE {target} t SET {set} FROM {stage} s WHERE {same} AND {differs} \
                     AND (SELECT pg_catalog.count(*) FROM d{n}) >= 0 RETURNING 1"
                ),
            };
            format!(
                "d{n} AS (DELETE FROM {target} t WHERE NOT EXISTS (SELECT FROM {stage} s WHERE {same}) RETURNING 1),\n\
                 u{n} AS ({update}),\n\
                 i{n} AS ({insert} WHERE NOT EXISTS (SELECT FROM {target} t WHERE {same}) \
                          AND (SELECT pg_catalog.count(*) FROM u{n}) >= 0 RETURNING 1)"
            )
        }
        // Rows that nothing tells apart can only be replaced together.
        None => format!(
            "d{n} AS (DELETE FROM {target} WHERE {replace} RETURNING 1),\n\
             u{n} AS (SELECT 1 WHERE false),\n\
             i{n} AS ({insert} WHERE {replace} AND (SELECT pg_catalog.count(*) FROM d{n}) >= 0 RETURNING 1)"
        ),
    }
}

/// Locks the targets against writers; readers go on.
pub async fn lock(connection: &mut PgConnection, staged: &[&Staged]) -> Result<(), Error> {
    let mut targets: Vec<&Table> = staged.iter().map(|staged| &staged.table).collect();
    targets.sort_by_key(|table| table.oid.0);
    if targets.is_empty() {
        return Ok(());
    }
    let names = list(targets.iter().map(|table| table.name.sql()));
    execute(connection, format!("LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")).await
}

/// Brings the locked targets to the state of the stages and proves it.
pub async fn apply(
    connection: &mut PgConnection,
    catalog: &Catalog,
    schema: &Schema,
    staged: &[&Staged],
    end: &EndRecord,
) -> Result<Vec<ResourceChange>, Error> {
    let expected = expected(connection, staged, end).await?;
    let replace = without_key_and_different(connection, staged, &expected).await?;
    hold_rows_that_go(connection, catalog, schema, staged).await?;
    if let Some(referenced) = referenced(connection, catalog, schema, staged, &replace).await?.into_iter().next() {
        return Err(referenced);
    }
    if staged.iter().all(|staged| !staged.direct) {
        disable_triggers(connection, staged).await?;
    }
    execute(connection, "CREATE TEMPORARY SEQUENCE park".into()).await?;
    let mut taken_out = Vec::with_capacity(staged.len());
    for staged in staged {
        taken_out.push(if staged.direct { 0 } else { park_unique_values(connection, schema, staged).await? });
    }
    let mut counts = change(connection, staged, &replace).await?;
    // Rows that were taken out for the moment were not removed and added, but changed.
    for ([_, changed, added], taken_out) in counts.iter_mut().zip(taken_out) {
        *changed += taken_out;
        *added -= taken_out;
    }
    for ((staged, expected), [.., added]) in staged.iter().zip(&expected).zip(&mut counts) {
        if staged.direct {
            *added = expected.rows.cast_signed();
        }
    }
    execute(connection, "SET CONSTRAINTS ALL IMMEDIATE".into()).await?;
    if first_difference(connection, staged, &expected).await?.is_some() {
        let replace = without_key_and_different(connection, staged, &expected).await?;
        change(connection, staged, &replace).await?;
    }
    execute(connection, "DROP SEQUENCE pg_temp.park".into()).await?;
    switch_triggers(connection, staged, |trigger| format!("ENABLE TRIGGER {trigger}"), |always| !always).await?;
    switch_triggers(connection, staged, |trigger| format!("ENABLE ALWAYS TRIGGER {trigger}"), |always| always).await?;
    for key in &schema.foreign_keys {
        if staged.iter().any(|staged| staged.table.name == key.from || staged.table.name == key.to) {
            check_foreign_key(connection, key).await?;
        }
    }
    match first_difference(connection, staged, &expected).await? {
        None => Ok(changes(catalog, staged, end, &counts)),
        Some(table) => Err(Error::NotExact { table: table.to_string() }),
    }
}

/// What `apply` would do, found out without doing it.
pub async fn compare(
    connection: &mut PgConnection,
    catalog: &Catalog,
    staged: &[&Staged],
    end: &EndRecord,
) -> Result<Vec<ResourceChange>, Error> {
    let expected = expected(connection, staged, end).await?;
    let replace = without_key_and_different(connection, staged, &expected).await?;
    let mut counts = Vec::with_capacity(staged.len());
    for (staged, replace) in staged.iter().zip(replace) {
        let query = format!("SELECT {}", differences(staged, replace));
        let row = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(query))).await?;
        counts.push([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?]);
    }
    Ok(changes(catalog, staged, end, &counts))
}

/// SQL that counts the rows which `change_of` would remove, change and add.
fn differences(staged: &Staged, replace: bool) -> String {
    let (target, stage) = (staged.table.name.sql(), staged.stage());
    let rows = match &staged.table.key {
        Some(key) => {
            let (same, differs) = (staged.same_row(key), staged.differs());
            [
                format!("{target} t WHERE NOT EXISTS (SELECT FROM {stage} s WHERE {same})"),
                format!("{target} t JOIN {stage} s ON {same} WHERE {differs}"),
                format!("{stage} s WHERE NOT EXISTS (SELECT FROM {target} t WHERE {same})"),
            ]
        }
        None => [format!("{target} WHERE {replace}"), "(SELECT) AS none WHERE false".into(), format!("{stage} WHERE {replace}")],
    };
    list(rows.into_iter().map(|rows| format!("(SELECT pg_catalog.count(*) FROM {rows})")))
}

/// What each target adds up to at present.
pub async fn present(connection: &mut PgConnection, staged: &[&Staged]) -> Result<Vec<Tally>, Error> {
    let mut tallies = Vec::with_capacity(staged.len());
    for staged in staged {
        tallies.push(staged.tally(connection).await?);
    }
    Ok(tallies)
}

/// What each target must add up to.
pub async fn expected(connection: &mut PgConnection, staged: &[&Staged], end: &EndRecord) -> Result<Vec<Tally>, Error> {
    let mut tallies = Vec::with_capacity(staged.len());
    for staged in staged {
        tallies.push(staged.expected(connection, end).await?);
    }
    Ok(tallies)
}

/// For each stage: whether its target is to be replaced as a whole, because nothing tells its rows apart.
pub async fn without_key_and_different(
    connection: &mut PgConnection,
    staged: &[&Staged],
    expected: &[Tally],
) -> Result<Vec<bool>, Error> {
    let mut replace = Vec::with_capacity(staged.len());
    for (staged, expected) in staged.iter().zip(expected) {
        replace.push(!staged.direct && staged.table.key.is_none() && staged.tally(connection).await? != *expected);
    }
    Ok(replace)
}

async fn first_difference<'a>(
    connection: &mut PgConnection,
    staged: &[&'a Staged],
    expected: &[Tally],
) -> Result<Option<&'a TableName>, Error> {
    for (staged, expected) in staged.iter().zip(expected) {
        if staged.tally(connection).await? != *expected {
            return Ok(Some(&staged.table.name));
        }
    }
    Ok(None)
}

/// Rows of the targets that were removed, changed and added, for each stage.
async fn change(connection: &mut PgConnection, staged: &[&Staged], replace: &[bool]) -> Result<Vec<[i64; 3]>, Error> {
    let parts: Vec<String> = staged.iter().zip(replace).map(|(staged, replace)| change_of(staged, *replace)).collect();
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let count = |part| move |staged: &&Staged| format!("(SELECT pg_catalog.count(*) FROM {part}{})", staged.place);
    let counts = list(staged.iter().flat_map(|staged| ["d", "u", "i"].map(|part| count(part)(staged))));
    let statement = format!("WITH {}\nSELECT ARRAY[{counts}]", parts.join(",\n"));
    let row = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(statement))).await?;
    let counts: Vec<i64> = row.try_get(0)?;
    Ok(counts.as_chunks().0.to_vec())
}

/// Foreign keys of tables that are not restored, into stages, with the stage's place: those that the catalog does not
/// say are to be followed, so that no row they refer to may go.
fn from_outside<'a>(
    catalog: &'a Catalog,
    schema: &'a Schema,
    staged: &'a [&'a Staged],
) -> impl Iterator<Item = (&'a ForeignKey, usize)> {
    let outside = schema.foreign_keys.iter().filter(|key| staged.iter().all(|staged| staged.table.name != key.from));
    let refused = outside.filter(|key| catalog.on_removal(&key.from, &key.name) == OnRemoval::Refuse);
    refused.filter_map(|key| Some((key, staged.iter().position(|staged| staged.table.name == key.to)?)))
}

/// Locks the rows that go and that others must not refer to: nobody can begin to refer to them any more.
async fn hold_rows_that_go(
    connection: &mut PgConnection,
    catalog: &Catalog,
    schema: &Schema,
    staged: &[&Staged],
) -> Result<(), Error> {
    let places: BTreeSet<usize> = from_outside(catalog, schema, staged).map(|(_, place)| place).collect();
    for staged in places.into_iter().map(|place| staged[place]).filter(|staged| !staged.direct) {
        let Some(key) = &staged.table.key else { continue };
        let (target, stage, same) = (staged.table.name.sql(), staged.stage(), staged.same_row(key));
        let go = format!("SELECT 1 FROM {target} t WHERE NOT EXISTS (SELECT FROM {stage} s WHERE {same}) FOR UPDATE");
        execute(connection, format!("SELECT pg_catalog.count(*) FROM ({go}) AS held")).await?;
    }
    Ok(())
}

/// Rows outside that would lose what they refer to, one `Error::Referenced` for each foreign key.
pub async fn referenced(
    connection: &mut PgConnection,
    catalog: &Catalog,
    schema: &Schema,
    staged: &[&Staged],
    replace: &[bool],
) -> Result<Vec<Error>, Error> {
    let mut found = Vec::new();
    for (key, place) in from_outside(catalog, schema, staged).filter(|(_, place)| !staged[*place].direct) {
        let (target, replace) = (staged[place], replace[place]);
        let equal = |row: &str| equal_to(key, row);
        let stays = match (&target.table.key, replace) {
            // NO ACTION asks at the end whether there is such a row.
            _ if key.on_delete == NO_ACTION => format!("EXISTS (SELECT FROM {} s WHERE {})", target.stage(), equal("s")),
            // The others act as soon as the row goes, though another one may come with the same value.
            (Some(same), _) => format!(
                "EXISTS (SELECT FROM {} t JOIN {} s ON {} WHERE {} AND {})",
                key.to.sql(),
                target.stage(),
                target.same_row(same),
                equal("t"),
                equal("s")
            ),
            (None, replace) => (!replace).to_string(),
        };
        let query = format!("SELECT pg_catalog.count(*) FROM {} f WHERE {} AND NOT {stays}", key.from.sql(), refers(key));
        let rows: i64 = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(query))).await?.try_get(0)?;
        if rows > 0 {
            let (from, to, constraint) = (key.from.to_string(), key.to.to_string(), key.name.clone());
            found.push(Error::Referenced { from, constraint, to, rows });
        }
    }
    Ok(found)
}

/// Every row of the referring side has the row that it refers to. Not taken from the constraint: `VALIDATE CONSTRAINT`
/// calls a foreign key valid that was loaded with its triggers off.
async fn check_foreign_key(connection: &mut PgConnection, key: &ForeignKey) -> Result<(), Error> {
    let dangling = format!(
        "SELECT EXISTS (SELECT FROM {} f WHERE {} AND NOT EXISTS (SELECT FROM {} t WHERE {}))",
        key.from.sql(),
        refers(key),
        key.to.sql(),
        equal_to(key, "t")
    );
    if connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(dangling))).await?.try_get(0)? {
        return Err(Error::Constraint { table: key.from.to_string(), constraint: key.name.clone() });
    }
    Ok(())
}

/// A row refers when none of its columns is null (MATCH SIMPLE).
pub(super) fn refers(key: &ForeignKey) -> String {
    and(key.columns.iter().map(|(from, ..)| format!("f.{} IS NOT NULL", quoted(from))))
}

/// `row` is the one that row `f` refers to.
pub(super) fn equal_to(key: &ForeignKey, row: &str) -> String {
    and(key.columns.iter().map(|(from, to, operator)| format!("{row}.{} {operator} f.{}", quoted(to), quoted(from))))
}

/// They would change what is written, or write elsewhere on behalf of it.
pub(super) async fn disable_triggers(connection: &mut PgConnection, staged: &[&Staged]) -> Result<(), Error> {
    switch_triggers(connection, staged, |trigger| format!("DISABLE TRIGGER {trigger}"), |_| true).await
}

async fn switch_triggers(
    connection: &mut PgConnection,
    staged: &[&Staged],
    action: impl Fn(&str) -> String,
    concerns: impl Fn(bool) -> bool,
) -> Result<(), Error> {
    for trigger in staged.iter().flat_map(|staged| &staged.table.triggers).filter(|trigger| concerns(trigger.always)) {
        let action = action(&quoted(&trigger.name));
        execute(connection, format!("ALTER TABLE ONLY {} {action}", trigger.relation.sql())).await?;
    }
    Ok(())
}

fn changes(catalog: &Catalog, staged: &[&Staged], end: &EndRecord, counts: &[[i64; 3]]) -> Vec<ResourceChange> {
    let of_resource = |resource: &crate::model::catalog::Resource| {
        let items = resource.tables.first()?;
        // A file of another time may not have the table of the items.
        let first = staged.iter().zip(counts).find(|(staged, _)| staged.table.name == *items);
        let [removed, changed, added] = first.map_or([0; 3], |(_, counted)| counted.map(i64::unsigned_abs));
        let in_backup = first.map_or(0, |(first, _)| end.tables[first.place].tally.rows);
        staged.iter().find(|staged| staged.table.resource == resource.name)?;
        let own = || staged.iter().zip(counts).filter(|(staged, _)| staged.table.resource == resource.name);
        let sum = |kind: usize| own().map(|(_, counts)| counts[kind].unsigned_abs()).sum();
        Some(ResourceChange {
            resource: resource.name.clone(),
            items_before: (in_backup + removed).saturating_sub(added),
            items_in_backup: in_backup,
            items_removed: removed,
            items_added: added,
            items_changed: changed,
            rows_removed: sum(0),
            rows_added: sum(2),
            rows_changed: sum(1),
        })
    };
    catalog.resources().iter().filter_map(of_resource).collect()
}

pub(super) async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), Error> {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

pub(super) fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

pub(super) fn and(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" AND ")
}
