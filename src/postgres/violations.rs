//! What the database would not take of the staged rows, told without writing one: CHECKs, unique indexes, foreign keys.
//!
//! A restore finds the first of these when it writes, and is rolled back. A preview wants all of them, by name.

use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use super::apply::{and, equal_to, refers};
use super::queries::CHECKS;
use super::schema::{ForeignKey, Schema, UniqueIndex};
use super::stage::Staged;
use super::{Error, schema::Table};
use crate::model::Notice;
use crate::model::notice::Severity;

/// Beyond so many rows pairs are not compared: a restore itself finds such rows by the index.
const MOST_PAIRED_ROWS: i64 = 10_000;

/// The constraints that would not hold after a restore of the staged tables, each with the number of rows of the file that
/// violate it. What a stage itself refuses (types, NOT NULL) was told when it was loaded.
pub async fn violations(connection: &mut PgConnection, schema: &Schema, staged: &[&Staged]) -> Result<Vec<Notice>, Error> {
    let mut notices = Vec::new();
    let oids: Vec<Oid> = staged.iter().map(|staged| staged.table.oid).collect();
    for check in sqlx::query(CHECKS).bind(&oids).fetch_all(&mut *connection).await? {
        let oid: Oid = check.try_get("table")?;
        let (name, expression): (String, String) = (check.try_get("name")?, check.try_get("expression")?);
        for one in staged.iter().filter(|staged| staged.table.oid == oid) {
            if one.table.key.is_none() && one.is_in_target(connection).await? {
                continue;
            }
            let rows = count(connection, violating_rows(one, &expression)).await?;
            notices.extend(notice(&one.table, &name, rows));
        }
    }
    for one in staged {
        let indexes = one.table.key.iter().chain(&one.table.uniques).chain(&one.table.deferrable_uniques);
        for index in indexes {
            if compares_all_pairs(index) && count(connection, one.stage()).await? > MOST_PAIRED_ROWS {
                continue;
            }
            let rows = count(connection, meeting_rows(one, index)).await?;
            notices.extend(notice(&one.table, &index.name, rows));
        }
    }
    for key in &schema.foreign_keys {
        if let Some(from) = staged.iter().find(|staged| staged.table.name == key.from) {
            let rows = count(connection, dangling_rows(from, key, staged)).await?;
            notices.extend(notice(&from.table, &key.name, rows));
        }
    }
    Ok(notices)
}

/// Whether finding rows that meet is work for each pair of them, for want of an equality that can be hashed.
fn compares_all_pairs(index: &UniqueIndex) -> bool {
    index.nulls_equal || !index.parts.iter().any(|(_, operator)| operator.ends_with(".=)"))
}

async fn count(connection: &mut PgConnection, rows: String) -> Result<i64, Error> {
    let query = format!("SELECT pg_catalog.count(*) FROM {rows}");
    Ok(connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(query))).await?.try_get(0)?)
}

fn notice(table: &Table, constraint: &str, rows: i64) -> Option<Notice> {
    let table_name = table.name.to_string();
    let message = format!("Constraint {constraint} of {table_name} does not hold for {rows} rows of the file.");
    let mut notice = Notice::new(Severity::Refusal, "CONSTRAINT_VIOLATED", message).of(&table.resource).about(constraint);
    notice.metadata.insert("table".into(), table_name);
    notice.metadata.insert("constraint".into(), constraint.to_owned());
    (rows > 0).then_some(notice)
}

/// Rows that would be written and do not satisfy the expression. A CHECK is asked of a row when it is written only: rows
/// that are there already, to the last byte, stay what they are. A table without a key is written as a whole.
fn violating_rows(staged: &Staged, expression: &str) -> String {
    let (target, stage) = (staged.table.name.sql(), staged.stage());
    let written = match &staged.table.key {
        Some(key) => {
            let (same, differs) = (staged.same_row(key), staged.differs());
            format!("SELECT s.* FROM {stage} s WHERE NOT EXISTS (SELECT FROM {target} t WHERE {same} AND NOT {differs})")
        }
        None => format!("SELECT s.* FROM {stage} s"),
    };
    // The expression has bare column names.
    format!("({written}) AS written WHERE NOT ({expression})")
}

/// Rows that meet another one in the index. Afterwards the table has the staged rows and no others.
fn meeting_rows(staged: &Staged, index: &UniqueIndex) -> String {
    let parts = index.parts.iter().enumerate();
    let named = parts.clone().map(|(n, (sql, _))| format!("{sql} AS p{n}")).collect::<Vec<_>>().join(", ");
    let side = format!("(SELECT ctid AS place, {named} FROM {} WHERE {})", staged.stage(), index.predicate);
    let meet = and(parts.map(|(n, (_, operator))| match index.nulls_equal {
        true => format!("(a.p{n} {operator} b.p{n} OR (a.p{n} IS NULL AND b.p{n} IS NULL))"),
        false => format!("a.p{n} {operator} b.p{n}"),
    }));
    format!("{side} AS a WHERE EXISTS (SELECT FROM {side} AS b WHERE {meet} AND a.place <> b.place)")
}

/// Rows that refer to one that would not be there.
fn dangling_rows(from: &Staged, key: &ForeignKey, staged: &[&Staged]) -> String {
    let target = staged.iter().find(|staged| staged.table.name == key.to);
    let to = target.map_or_else(|| key.to.sql(), |staged| staged.stage());
    format!("{} f WHERE {} AND NOT EXISTS (SELECT FROM {to} t WHERE {})", from.stage(), refers(key), equal_to(key, "t"))
}
