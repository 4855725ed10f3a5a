//! Unique values that move between rows. An UPDATE checks unique indexes row by row, and two rows that swap would meet; so
//! rows that keep their place but give up a unique value are given another one first, which nobody has.
//!
//! Where no column of the index has a value to spare, or a CHECK might not take it, the row is taken out for the moment.
//! That needs a table that no foreign key refers to: else the key's action would follow it.

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::Error;
use super::apply::and;
use super::schema::{Column, ForeignKey, Schema, UniqueIndex};
use super::stage::Staged;
use crate::model::name::quoted;

/// Parks what is in the way. Returns how many rows were taken out.
pub async fn park_unique_values(connection: &mut PgConnection, schema: &Schema, staged: &Staged) -> Result<i64, Error> {
    let Some(key) = &staged.table.key else { return Ok(0) };
    let (target, stage, same) = (staged.table.name.sql(), staged.stage(), staged.same_row(key));
    let referred = schema.foreign_keys.iter().any(|key| key.to == staged.table.name);
    let mut taken_out = 0;
    for index in &staged.table.uniques {
        let mut columns: Vec<(&Column, String)> = (staged.table.columns.iter())
            .filter(|column| index.columns.contains(&column.name) && !key.columns.contains(&column.name))
            .filter(|column| !column.identity_always && !in_foreign_key(schema, staged, &column.name))
            .filter_map(|column| Some((column, spare_value(column, index, &target, &stage)?)))
            .collect();
        columns.sort_by_key(|(column, _)| column.checked);
        let in_the_way = format!(
            "EXISTS (SELECT FROM {stage} s WHERE {same}) AND EXISTS (SELECT FROM {stage} s WHERE {} AND NOT ({same}))",
            taken(index)
        );
        let statement = match columns.first() {
            Some((column, value)) if !column.checked || referred => {
                format!("UPDATE {target} t SET {} = {value} WHERE {in_the_way}", quoted(&column.name))
            }
            _ if !referred => format!("DELETE FROM {target} t WHERE {in_the_way}"),
            _ => continue,
        };
        let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(statement.clone()))).await?;
        if statement.starts_with("DELETE") {
            taken_out += i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
        }
    }
    Ok(taken_out)
}

/// SQL that is true when row `s` of the stage takes what row `t` of the target has in the index.
fn taken(index: &UniqueIndex) -> String {
    // Parts and predicate are expressions over bare column names.
    let of = |sql: &str, row: &str| format!("(SELECT {sql} FROM (SELECT {row}.*) AS one)");
    let parts = index.parts.iter().map(|(sql, operator)| format!("{} {operator} {}", of(sql, "s"), of(sql, "t")));
    let predicate = ["s", "t"].into_iter().filter(|_| index.predicate != "true").map(|row| of(&index.predicate, row));
    and(parts.chain(predicate))
}

fn in_foreign_key(schema: &Schema, staged: &Staged, column: &str) -> bool {
    let part = |key: &ForeignKey| {
        (key.from == staged.table.name && key.columns.iter().any(|(from, ..)| from == column))
            || (key.to == staged.table.name && key.columns.iter().any(|(_, to, _)| to == column))
    };
    schema.foreign_keys.iter().any(part)
}

/// A value for a column that no other row has, as SQL; `None` for types that have none to spare.
fn spare_value(column: &Column, index: &UniqueIndex, target: &str, stage: &str) -> Option<String> {
    let next = "pg_catalog.nextval('pg_temp.park')";
    let name = quoted(&column.name);
    // Above all that there is, so that most CHECKs take it; from `else` on where that has no room.
    let above = |step: &str, room: &str, otherwise: &str| {
        let greatest = format!(
            "(SELECT pg_catalog.max({name}) FROM (SELECT {name} FROM {target} UNION ALL SELECT {name} FROM {stage}) AS every)"
        );
        format!("(CASE WHEN {greatest} < {room} THEN {greatest} ELSE {otherwise} END + {step})")
    };
    let text = format!("('x' || pg_catalog.md5({next}::text || pg_catalog.random()::text))");
    let value = match column.base_type.as_str() {
        _ if column.nullable && !column.checked && !index.nulls_equal => "NULL".to_owned(),
        "int2" => above(&format!("{next}::smallint"), "16000", "'-32768'::smallint"),
        "int4" => above(&format!("{next}::integer"), "1000000000", "'-2147483648'::integer"),
        "int8" => above(next, "1000000000000000000", "'-9000000000000000000'::bigint"),
        "numeric" | "float4" | "float8" => above(next, "1000000", "'-9000000'"),
        "date" => above(&format!("{next}::integer"), "'3000-01-01'", "'4000-01-01'::date"),
        "timestamp" | "timestamptz" => above(&format!("{next} * interval '1 second'"), "'3000-01-01'", "'4000-01-01'"),
        "uuid" => "pg_catalog.gen_random_uuid()".to_owned(),
        "bytea" => format!("pg_catalog.decode(pg_catalog.md5({next}::text || pg_catalog.random()::text), 'hex')"),
        _ if column.category == 'S' => match column.max_length {
            // A few thousand characters that Unicode gives no meaning.
            Some(length) if length < 12 => format!("pg_catalog.chr(57344 + ({next} % 6400)::integer)"),
            Some(length) => format!("pg_catalog.left({text}, {length})"),
            None => text,
        },
        _ => return None,
    };
    Some(format!("({value})::{}", column.type_name))
}
