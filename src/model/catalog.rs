//! The catalog: which tables belong to which resource. It is configuration; no code knows what a resource means.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::name::{ResourceName, TableName};
use super::notice::Severity;

/// The resources in the order in which they are listed. Each has at least one table, and no table stands in two.
#[derive(Debug, Clone)]
pub struct Catalog {
    resources: Vec<Resource>,
}

/// One kind of data that is backed up and restored as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    pub name: ResourceName,
    /// For people, for example `Login Accounts`.
    pub title: String,
    /// What is contained and what a restore does to it.
    #[serde(default)]
    pub description: String,
    /// Whether it holds credentials or personal data.
    #[serde(default)]
    pub sensitive: bool,
    /// The first one holds the items that are counted.
    pub tables: Vec<TableName>,
    /// Sequences that no column of these tables owns; those that one does own come along by themselves.
    #[serde(default)]
    pub sequences: Vec<TableName>,
    /// What happens to rows outside the backup that refer to rows which a restore removes.
    #[serde(default, rename = "reference")]
    pub references: Vec<Reference>,
    /// Each row that the query finds after a restore is a notice.
    #[serde(default, rename = "check")]
    pub checks: Vec<Rule>,
    /// Each row that the query finds before a restore and no longer after it is a notice.
    #[serde(default, rename = "watch")]
    pub watches: Vec<Rule>,
}

/// What a restore means for people: rows of a query that become notices, and events if so wanted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// For example `ADAPTER_TYPE_NOT_INSTALLED`.
    pub reason: String,
    #[serde(default = "warning")]
    pub severity: Severity,
    /// A SELECT with a column `subject`, which tells its rows apart. Tables are named in full.
    pub query: String,
    /// One sentence; `{column}` is replaced by the value that the query has for it.
    pub message: String,
    #[serde(default)]
    pub instructions: String,
    /// Type of the event that a restore raises for each row.
    pub event: Option<String>,
    /// Checks only: whether the list of resources shows its notices, too, for as long as it finds rows.
    #[serde(default)]
    pub live: bool,
}

fn warning() -> Severity {
    Severity::Warning
}

impl Rule {
    fn problem(&self) -> Option<&'static str> {
        let word = |text: &str, more: fn(char) -> bool| {
            (1..=63).contains(&text.len())
                && text.starts_with(|first| more(first) && first.is_ascii_alphabetic())
                && text.chars().all(|c| more(c) || c.is_ascii_digit())
        };
        if !word(&self.reason, |c| c.is_ascii_uppercase() || c == '_') {
            return Some("has a reason that is not up to 63 capital letters, digits and underscores");
        }
        if self.event.as_ref().is_some_and(|event| !word(event, |c| c.is_ascii_lowercase() || matches!(c, '_' | '.'))) {
            return Some("has an event that is not up to 63 small letters, digits, underscores and dots");
        }
        (self.severity == Severity::Refusal).then_some("has severity \"refusal\"; \"blocking\" is the strongest there is")
    }
}

/// A foreign key of a table outside the backup that refers into a resource.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The table that refers.
    pub from: TableName,
    /// Name of its foreign key.
    pub constraint: String,
    pub on_removal: OnRemoval,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRemoval {
    /// The restore is refused while such rows exist. So it is for each foreign key that the catalog does not name.
    Refuse,
    /// The foreign key's own ON DELETE action is carried out.
    Follow,
}

/// A catalog that cannot be used, for a reason within itself.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("it is not the TOML of a catalog")]
    Syntax(#[source] Box<toml::de::Error>),
    #[error("it has no [[resource]]")]
    Empty,
    #[error("resource {0} stands in it twice")]
    DuplicateResource(ResourceName),
    #[error("resource {0} has no tables")]
    NoTables(ResourceName),
    #[error("table {table} stands in it twice, in {first} and {second}")]
    DuplicateTable { table: TableName, first: ResourceName, second: ResourceName },
    #[error("{0} belongs to Holdfast or to PostgreSQL and is never part of a backup")]
    Forbidden(TableName),
    #[error("the check or watch {reason} of resource {resource} {problem}")]
    Rule { resource: ResourceName, reason: String, problem: &'static str },
}

/// Schemas that no resource may name: a restore would roll back its own operation, its lock and its settings.
const FORBIDDEN_SCHEMAS: [&str; 3] = ["holdfast", "pg_catalog", "information_schema"];

impl Catalog {
    /// The catalog of the sample platform.
    pub const SAMPLE: &str = include_str!("../../deploy/catalog.toml");

    /// # Errors
    /// When the text is not a catalog or contradicts itself. Whether it fits a database is another question.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            resource: Vec<Resource>,
        }
        let resources = toml::from_str::<File>(text).map_err(|error| Invalid::Syntax(Box::new(error)))?.resource;
        if resources.is_empty() {
            return Err(Invalid::Empty);
        }
        let mut owners = BTreeMap::<&TableName, &ResourceName>::new();
        let mut names = std::collections::BTreeSet::new();
        for resource in &resources {
            if !names.insert(&resource.name) {
                return Err(Invalid::DuplicateResource(resource.name.clone()));
            }
            if resource.tables.is_empty() {
                return Err(Invalid::NoTables(resource.name.clone()));
            }
            for rule in resource.checks.iter().chain(&resource.watches) {
                if let Some(problem) = rule.problem() {
                    return Err(Invalid::Rule { resource: resource.name.clone(), reason: rule.reason.clone(), problem });
                }
            }
            for table in resource.tables.iter().chain(&resource.sequences) {
                if FORBIDDEN_SCHEMAS.contains(&table.schema.as_str()) || table.schema.starts_with("pg_") {
                    return Err(Invalid::Forbidden(table.clone()));
                }
                if let Some(first) = owners.insert(table, &resource.name) {
                    let (first, second) = (first.clone(), resource.name.clone());
                    return Err(Invalid::DuplicateTable { table: table.clone(), first, second });
                }
            }
        }
        Ok(Self { resources })
    }

    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    pub fn resource(&self, name: &ResourceName) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.name == *name)
    }

    /// All tables with their resource, in the order of the catalog.
    pub fn tables(&self) -> impl Iterator<Item = (&Resource, &TableName)> {
        self.resources.iter().flat_map(|resource| resource.tables.iter().map(move |table| (resource, table)))
    }

    /// What is to happen to rows of `from` that refer by `constraint` to rows which a restore removes.
    pub fn on_removal(&self, from: &TableName, constraint: &str) -> OnRemoval {
        let declared = self.resources.iter().flat_map(|resource| &resource.references);
        let found = declared.into_iter().find(|reference| reference.from == *from && reference.constraint == constraint);
        found.map_or(OnRemoval::Refuse, |reference| reference.on_removal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_catalog_is_valid() {
        assert!(Catalog::parse(Catalog::SAMPLE).unwrap().tables().count() > 10);
    }

    #[test]
    fn a_catalog_that_contradicts_itself_says_where() {
        let message = |text: &str| Catalog::parse(text).unwrap_err().to_string();
        let resource = |name: &str, tables: &str| format!("[[resource]]\nname = {name:?}\ntitle = 'T'\ntables = {tables}\n");
        assert_eq!(message(""), "it has no [[resource]]");
        assert_eq!(message(&resource("a", "[]")), "resource a has no tables");
        assert_eq!(message(&(resource("a", "['s.t']") + &resource("a", "['s.u']"))), "resource a stands in it twice");
        assert_eq!(message(&(resource("a", "['s.t']") + &resource("b", "['s.t']"))), "table s.t stands in it twice, in a and b");
        let syntax = |text: &str| matches!(Catalog::parse(text), Err(Invalid::Syntax(_)));
        assert!(syntax(&resource("A B", "['s.t']")));
        assert!(syntax(&resource("a", "['t']")));
        assert!(syntax(&(resource("a", "['s.t']") + "colour = 'red'")));
    }

    #[test]
    fn f16_the_state_of_the_service_is_never_in_a_backup() {
        for table in ["holdfast.operation", "pg_catalog.pg_class", "pg_toast.x"] {
            let text = format!("[[resource]]\nname = 'a'\ntitle = 'T'\ntables = ['{table}']");
            assert!(matches!(Catalog::parse(&text), Err(Invalid::Forbidden(_))), "{table}");
        }
    }
}
