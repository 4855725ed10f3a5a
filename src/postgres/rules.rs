//! The catalog's checks and watches: queries whose rows become notices and events.
//!
//! A query is asked about the tables as they are, or as a restore will leave them: then the names of tables that are
//! restored are replaced by those of their stages, which hold the same rows. So a preview tells what a restore tells.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde_json::Value;
use sqlparser::ast::{Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor, VisitMut, VisitorMut};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Executor, PgConnection, SqlSafeStr};

use super::Error;
use super::apply::execute;
use super::stage::Staged;
use crate::model::catalog::{Resource, Rule};
use crate::model::{Catalog, Event, Notice, ResourceName};

/// Notices of one rule in a list; the rest are counted.
const MOST: usize = 100;

/// Which rows a query sees in the tables of the catalog.
#[derive(Clone, Copy)]
pub enum Tables<'a> {
    Present,
    /// Those of the stages, for tables that have one.
    Staged(&'a [&'a Staged]),
}

/// A rule of a resource that is restored.
#[derive(Clone, Copy)]
pub struct Chosen<'a> {
    resource: &'a Resource,
    rule: &'a Rule,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its rows are notices.
    Check,
    /// Rows that it no longer has are.
    Watch,
}

/// The rules of the chosen resources.
pub fn chosen<'a>(catalog: &'a Catalog, chosen: &[ResourceName]) -> Vec<Chosen<'a>> {
    let of = |resource: &'a Resource| {
        let checks = resource.checks.iter().map(|rule| (rule, Kind::Check));
        let watches = resource.watches.iter().map(|rule| (rule, Kind::Watch));
        checks.chain(watches).map(move |(rule, kind)| Chosen { resource, rule, kind })
    };
    catalog.resources().iter().filter(|resource| chosen.contains(&resource.name)).flat_map(of).collect()
}

/// Finds out whether the queries of all rules work.
///
/// # Errors
/// `Error::Mismatch` with everything that does not.
pub async fn check(connection: &mut PgConnection, catalog: &Catalog) -> Result<(), Error> {
    let mut problems = Vec::new();
    for resource in catalog.resources() {
        for rule in resource.checks.iter().chain(&resource.watches) {
            let problem = match over(&rule.query, Tables::Staged(&[])) {
                Err(Error::Mismatch(problems)) => problems.join("; "),
                Err(error) => return Err(error),
                Ok(_) => match connection.prepare(AssertSqlSafe(rows(&rule.query)).into_sql_str()).await {
                    Ok(_) => continue,
                    Err(error) => {
                        let said = error.as_database_error().map(|error| error.message().to_owned());
                        match (Error::from(error), said) {
                            // Of a table that somebody has locked nothing can be said yet.
                            (error, _) if error.passes() => return Err(error),
                            (_, Some(said)) => said,
                            (error, None) => return Err(error),
                        }
                    }
                },
            };
            problems.push(format!("the query of {} of resource {} does not work: {problem}", rule.reason, resource.name));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Mismatch(problems)) }
}

/// Tells the queries who asks: `current_setting('holdfast.caller')`.
pub async fn name_caller(connection: &mut PgConnection, caller: &str) -> Result<(), Error> {
    let set = sqlx::query("SELECT pg_catalog.set_config('holdfast.caller', $1, true)").bind(caller);
    set.execute(connection).await?;
    Ok(())
}

/// Keeps what the watches see now, to be compared later in the same transaction.
pub async fn remember(connection: &mut PgConnection, rules: &[Chosen<'_>]) -> Result<(), Error> {
    for (place, Chosen { rule, .. }) in rules.iter().enumerate().filter(|(_, chosen)| chosen.kind == Kind::Watch) {
        let query = rows(&rule.query);
        let keep = format!("CREATE TEMPORARY TABLE watch_{place} ON COMMIT DROP AS {query}");
        execute(connection, format!("DROP TABLE IF EXISTS pg_temp.watch_{place}; {keep}")).await?;
    }
    Ok(())
}

/// What the rules find. Watches compare with what was remembered.
pub async fn notices(connection: &mut PgConnection, rules: &[Chosen<'_>], tables: Tables<'_>) -> Result<Vec<Notice>, Error> {
    let mut notices = Vec::new();
    for (place, Chosen { resource, rule, kind }) in rules.iter().enumerate() {
        let found = found(&over(&rule.query, tables)?, *kind, place);
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT pg_catalog.count(*) FROM ({found}) AS found")))
            .fetch_one(&mut *connection)
            .await?;
        let first = format!("SELECT subject, row FROM ({found}) AS found ORDER BY subject COLLATE \"C\" LIMIT {MOST}");
        let first: Vec<Found> = sqlx::query_as(AssertSqlSafe(first)).fetch_all(&mut *connection).await?;
        let more = usize::try_from(count).unwrap_or(0).saturating_sub(first.len());
        notices.extend(first.into_iter().map(|found| notice(resource, rule, found)));
        if more > 0 {
            let rest =
                Notice::new(rule.severity, &rule.reason, format!("There are {more} more of this kind.")).of(&resource.name);
            notices.push(Notice { metadata: [("more".to_owned(), more.to_string())].into(), ..rest });
        }
    }
    Ok(notices)
}

/// Writes an event like `base` for every row of the rules that raise one.
pub async fn record(connection: &mut PgConnection, rules: &[Chosen<'_>], base: &Event) -> Result<(), Error> {
    for (place, Chosen { resource, rule, kind }) in rules.iter().enumerate() {
        let Some(event) = &rule.event else { continue };
        let found = found(&rule.query, *kind, place);
        let texts =
            "SELECT pg_catalog.jsonb_object_agg(key, value) FROM pg_catalog.jsonb_each_text(found.row) WHERE value IS NOT NULL";
        let insert = format!(
            "INSERT INTO holdfast.event (type, body) \
             SELECT $1, $2 || pg_catalog.jsonb_build_object('attributes', COALESCE($2 -> 'attributes', '{{}}') || COALESCE(({texts}), '{{}}') || $3) FROM ({found}) AS found"
        );
        let base = Event { target: format!("resources/{}", resource.name), ..base.clone() };
        let reason = serde_json::json!({ "notice": rule.reason });
        sqlx::query(AssertSqlSafe(insert)).bind(event).bind(Json(&base)).bind(Json(&reason)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// What the live checks find now, for each of the catalog's resources. A check that does not work says so.
pub async fn live(connection: &mut PgConnection, catalog: &Catalog) -> Result<Vec<Vec<Notice>>, Error> {
    execute(connection, "BEGIN READ ONLY; SET LOCAL statement_timeout = '5s'".into()).await?;
    name_caller(connection, "").await?;
    let mut of_resources = Vec::new();
    for resource in catalog.resources() {
        let mut of_resource = Vec::new();
        for rule in resource.checks.iter().filter(|rule| rule.live) {
            execute(connection, "SAVEPOINT one".into()).await?;
            match notices(connection, &[Chosen { resource, rule, kind: Kind::Check }], Tables::Present).await {
                Ok(notices) => of_resource.extend(notices),
                Err(error @ Error::Unavailable(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        check = rule.reason,
                        "a check of the catalog does not work"
                    );
                    execute(connection, "ROLLBACK TO SAVEPOINT one".into()).await?;
                    of_resource.push(failed(resource, rule));
                }
            }
        }
        of_resources.push(of_resource);
    }
    execute(connection, "ROLLBACK".into()).await?;
    Ok(of_resources)
}

/// A row of a query: what tells it apart, and all its values.
type Found = (Option<String>, Json<BTreeMap<String, Value>>);

/// The rows of a query as `subject` and `row`. As a subquery it cannot change anything by itself.
fn rows(query: &str) -> String {
    let query = query.trim().trim_end_matches(';');
    format!("SELECT one.subject::text AS subject, pg_catalog.to_jsonb(one) AS row FROM ({query}\n) AS one")
}

/// The rows that a rule is about; each subject once.
fn found(query: &str, kind: Kind, place: usize) -> String {
    let rows = rows(query);
    match kind {
        Kind::Check => format!("SELECT DISTINCT ON (subject) subject, row FROM ({rows}) AS now ORDER BY subject"),
        // As IS NOT DISTINCT FROM, which PostgreSQL cannot hash: every row would be compared with every other.
        Kind::Watch => format!(
            "SELECT DISTINCT ON (subject) subject, row FROM pg_temp.watch_{place} AS before \
             WHERE NOT EXISTS (SELECT FROM ({rows}) AS now WHERE coalesce('=' || now.subject, '') = coalesce('=' || before.subject, '')) \
             ORDER BY subject"
        ),
    }
}

fn notice(resource: &Resource, rule: &Rule, (subject, Json(row)): Found) -> Notice {
    let text = |value: Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    let metadata: BTreeMap<String, String> = row.into_iter().map(|(name, value)| (name, text(value))).collect();
    let filled = |template: &str| {
        metadata.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    };
    Notice {
        severity: rule.severity,
        reason: rule.reason.clone(),
        resource: Some(resource.name.clone()),
        subject: subject.unwrap_or_default(),
        message: filled(&rule.message),
        instructions: filled(&rule.instructions),
        metadata,
    }
}

fn failed(resource: &Resource, rule: &Rule) -> Notice {
    let message = format!("The check {} could not be carried out; the log has the details.", rule.reason);
    let notice = Notice::new(crate::model::notice::Severity::Warning, "CHECK_FAILED", message).of(&resource.name);
    notice.about(&rule.reason).instructions("Mend its query in the catalog, or the tables it looks at.")
}

/// The query over these tables.
fn over(query: &str, tables: Tables<'_>) -> Result<String, Error> {
    let Tables::Staged(stages) = tables else { return Ok(query.to_owned()) };
    let unreadable = |error: &dyn std::fmt::Display| Error::Mismatch(vec![format!("it cannot be read: {error}")]);
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, query).map_err(|error| unreadable(&error))?;
    let [statement] = &mut statements[..] else { return Err(unreadable(&"it is not one statement")) };
    let _ = statement.visit(&mut Restaged(stages));
    Ok(statement.to_string())
}

/// Puts stages in the place of the tables they are for, under the same name.
struct Restaged<'a>(&'a [&'a Staged]);

impl VisitorMut for Restaged<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, alias, .. } = factor else { return ControlFlow::Continue(()) };
        let idents: Vec<&Ident> = name.0.iter().filter_map(ObjectNamePart::as_ident).collect();
        if let [schema, table] = idents[..]
            && let Some(stage) =
                self.0.iter().find(|stage| folded(schema) == stage.table.name.schema && folded(table) == stage.table.name.name)
        {
            if alias.is_none() {
                *alias = Some(TableAlias { explicit: true, name: table.clone(), columns: Vec::new(), at: None });
            }
            *name = ObjectName::from(stage.stage().split('.').map(Ident::new).collect::<Vec<_>>());
        }
        ControlFlow::Continue(())
    }
}

/// An identifier as PostgreSQL reads it: without quotes in lower case (manual, 4.1.1).
fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}
