//! What the tables of the catalog look like in the database, and whether they can be backed up and restored at all.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::types::Oid;
use sqlx::{PgConnection, Row};

use super::queries::{
    COLUMNS, FOREIGN_KEYS, HAS_PRIVILEGE, MAY_MAKE_TEMPORARY, NOT_VALID, OWNED_SEQUENCES, OWNS, PARTITION_KEYS, SIZE, TABLES,
    TRIGGERS, UNIQUES, UNREPLICATED,
};
use super::{Error, Role};
use crate::model::manifest::{ColumnEntry, ResourceEntry, TableEntry};
use crate::model::name::quoted;
use crate::model::notice::Severity;
use crate::model::{Catalog, CopyFormat, Manifest, Notice, ResourceName, TableName};

/// The tables of the catalog, in its order, with all that a restore needs to know of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    pub tables: Vec<Table>,
    /// Every foreign key from or to a table of the catalog.
    pub foreign_keys: Vec<ForeignKey>,
    /// Sequences that belong to a table of the catalog or are named in it.
    pub sequences: Vec<Sequence>,
    /// Constraints that present rows may violate, and the table they concern.
    pub not_valid: Vec<(TableName, String)>,
    /// Tables whose rows cannot be updated or deleted, and the publication that forbids it.
    pub unreplicated: Vec<(TableName, String)>,
    resources: Vec<ResourceEntry>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub oid: Oid,
    pub name: TableName,
    pub resource: ResourceName,
    /// Without generated ones.
    pub columns: Vec<Column>,
    /// What tells its rows apart: the primary key, else a unique index over columns that are never null.
    pub key: Option<UniqueIndex>,
    /// Its other unique indexes.
    pub uniques: Vec<UniqueIndex>,
    /// Those that are checked at the end of a statement or a transaction.
    pub deferrable_uniques: Vec<UniqueIndex>,
    /// Triggers of users that would fire, also those of its partitions.
    pub triggers: Vec<Trigger>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub type_name: String,
    pub nullable: bool,
    pub identity: bool,
    pub identity_always: bool,
    /// Whether it gets a value where none is given; that of an identity or of a domain counts.
    pub has_default: bool,
    /// `pg_type.typcategory` and name of the type below any domain.
    pub category: char,
    pub base_type: String,
    /// Length of a `varchar(n)` or `char(n)`.
    pub max_length: Option<i32>,
    /// Whether a CHECK of the table or a domain looks at it.
    pub checked: bool,
    /// Whether its binary form means the same in every database.
    pub binary_travels: bool,
}

/// A unique index, or an exclusion constraint. Its parts are columns or expressions over them.
#[derive(Debug, Clone, PartialEq)]
pub struct UniqueIndex {
    pub name: String,
    /// SQL of each part, and the operator that must not hold for all parts of two rows.
    pub parts: Vec<(String, String)>,
    /// SQL that is true for the rows in it.
    pub predicate: String,
    /// Whether NULL is equal to NULL in it.
    pub nulls_equal: bool,
    /// Names of the columns it depends on.
    pub columns: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    pub relation: TableName,
    pub name: String,
    /// Fires in every replication role (`ENABLE ALWAYS`).
    pub always: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ForeignKey {
    pub name: String,
    pub from: TableName,
    pub to: TableName,
    /// Referring column, referred column, equality operator.
    pub columns: Vec<(String, String, String)>,
    /// What happens to referring rows when the row goes: `pg_constraint.confdeltype`.
    pub on_delete: char,
    pub deferrable: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    pub name: TableName,
    pub resource: ResourceName,
    /// The table whose column owns it.
    pub owner: Option<TableName>,
}

impl Schema {
    /// Looks the tables of the catalog up.
    ///
    /// # Errors
    /// `Error::Mismatch` with everything that does not fit, not just the first.
    pub async fn inspect(connection: &mut PgConnection, catalog: &Catalog) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let mut tables = Self::tables(connection, catalog, &mut problems).await?;
        let oids: Vec<Oid> = tables.iter().map(|table| table.oid).collect();
        let place: BTreeMap<u32, usize> = oids.iter().enumerate().map(|(place, oid)| (oid.0, place)).collect();
        for row in sqlx::query(COLUMNS).bind(&oids).fetch_all(&mut *connection).await? {
            let table = &mut tables[place[&row.try_get::<Oid, _>("table")?.0]];
            let category: i8 = row.try_get("category")?;
            table.columns.push(Column {
                name: row.try_get("name")?,
                type_name: row.try_get("type_name")?,
                nullable: row.try_get("nullable")?,
                identity: row.try_get("identity")?,
                identity_always: row.try_get("identity_always")?,
                has_default: row.try_get("has_default")?,
                category: char::from(category.cast_unsigned()),
                base_type: row.try_get("base_type")?,
                max_length: row.try_get("max_length")?,
                checked: row.try_get("checked")?,
                binary_travels: row.try_get("binary_travels")?,
            });
            if row.try_get("large_object")? {
                let column: String = row.try_get("name")?;
                problems.push(format!("column {column} of {} is a large object, which COPY does not contain", table.name));
            }
        }
        problems
            .extend(tables.iter().filter(|table| table.columns.is_empty()).map(|table| format!("{} has no columns", table.name)));
        for row in sqlx::query(UNIQUES).bind(&oids).fetch_all(&mut *connection).await? {
            let table = &mut tables[place[&row.try_get::<Oid, _>("table")?.0]];
            let parts: Vec<String> = row.try_get("parts")?;
            let operators: Vec<String> = row.try_get("operators")?;
            let index = UniqueIndex {
                name: row.try_get("name")?,
                parts: parts.into_iter().zip(operators).collect(),
                predicate: row.try_get("predicate")?,
                nulls_equal: row.try_get("nulls_equal")?,
                columns: row.try_get("columns")?,
            };
            // Primary keys come first, then indexes that can serve as one.
            match table.key {
                None if row.try_get("is_key")? => table.key = Some(index),
                _ if row.try_get("immediate")? => table.uniques.push(index),
                _ => table.deferrable_uniques.push(index),
            }
        }
        for row in sqlx::query(TRIGGERS).bind(&oids).fetch_all(&mut *connection).await? {
            let table = &mut tables[place[&row.try_get::<Oid, _>("table")?.0]];
            let relation = TableName::new(row.try_get::<String, _>("schema")?, row.try_get::<String, _>("relation")?);
            table.triggers.push(Trigger { relation, name: row.try_get("name")?, always: row.try_get("always")? });
        }
        let foreign_keys = Self::foreign_keys(connection, &oids).await?;
        let of_partitions: Vec<String> = sqlx::query_scalar(PARTITION_KEYS).bind(&oids).fetch_all(&mut *connection).await?;
        problems.extend(
            of_partitions
                .iter()
                .map(|key| format!("foreign key {key} is one of a single partition; make it one of the whole table")),
        );
        let sequences = Self::sequences(connection, catalog, &tables, &oids, &mut problems).await?;
        if !problems.is_empty() {
            return Err(Error::Mismatch(problems));
        }
        let mut of_tables = async |query: &'static str, name: &str| {
            let named = |row: sqlx::postgres::PgRow| {
                let table = place[&row.try_get::<Oid, _>("table")?.0];
                Ok((tables[table].name.clone(), row.try_get(name)?))
            };
            let rows = sqlx::query(query).bind(&oids).fetch_all(&mut *connection).await?;
            rows.into_iter().map(named).collect::<Result<Vec<_>, Error>>()
        };
        let not_valid = of_tables(NOT_VALID, "name").await?;
        let unreplicated = of_tables(UNREPLICATED, "publication").await?;
        let entry = |resource: &crate::model::catalog::Resource| ResourceEntry {
            name: resource.name.clone(),
            title: resource.title.clone(),
            tables: resource.tables.clone(),
            sequences: sequences
                .iter()
                .filter(|sequence| sequence.resource == resource.name)
                .map(|sequence| sequence.name.clone())
                .collect(),
        };
        let resources = catalog.resources().iter().map(entry).collect();
        Ok(Self { tables, foreign_keys, sequences, not_valid, unreplicated, resources })
    }

    async fn tables(connection: &mut PgConnection, catalog: &Catalog, problems: &mut Vec<String>) -> Result<Vec<Table>, Error> {
        let (schemas, names): (Vec<_>, Vec<_>) =
            catalog.tables().map(|(_, table)| (table.schema.clone(), table.name.clone())).unzip();
        let rows = sqlx::query(TABLES).bind(&schemas).bind(&names).fetch_all(connection).await?;
        let mut tables = Vec::new();
        for ((resource, name), row) in catalog.tables().zip(rows) {
            let Some(oid) = row.try_get::<Option<Oid>, _>("oid")? else {
                problems.push(format!("table {name} of resource {} does not exist", resource.name));
                continue;
            };
            let unfit = |condition: bool, what: &str| condition.then(|| format!("{name} {what}"));
            let kind: i8 = row.try_get("kind")?;
            problems.extend(unfit(!matches!(kind.cast_unsigned(), b'r' | b'p'), "is not an ordinary or partitioned table"));
            problems.extend(unfit(!row.try_get::<bool, _>("permanent")?, "is unlogged or temporary"));
            problems.extend(unfit(
                row.try_get("inherits")?,
                "has inheritance parents or children; name partitioned tables by their root",
            ));
            problems.extend(unfit(row.try_get("has_rules")?, "has rules, which change what is written"));
            problems.extend(unfit(row.try_get("row_security")?, "has row security, which hides rows from a backup"));
            tables.push(Table {
                oid,
                name: name.clone(),
                resource: resource.name.clone(),
                columns: Vec::new(),
                key: None,
                uniques: Vec::new(),
                deferrable_uniques: Vec::new(),
                triggers: Vec::new(),
            });
        }
        Ok(tables)
    }

    async fn foreign_keys(connection: &mut PgConnection, oids: &[Oid]) -> Result<Vec<ForeignKey>, Error> {
        let mut keys = Vec::new();
        for row in sqlx::query(FOREIGN_KEYS).bind(oids).fetch_all(connection).await? {
            let from: Vec<String> = row.try_get("from_columns")?;
            let to: Vec<String> = row.try_get("to_columns")?;
            let operators: Vec<String> = row.try_get("operators")?;
            let on_delete: i8 = row.try_get("on_delete")?;
            keys.push(ForeignKey {
                on_delete: char::from(on_delete.cast_unsigned()),
                deferrable: row.try_get("deferrable")?,
                name: row.try_get("name")?,
                from: TableName::new(row.try_get::<String, _>("from_schema")?, row.try_get::<String, _>("from_table")?),
                to: TableName::new(row.try_get::<String, _>("to_schema")?, row.try_get::<String, _>("to_table")?),
                columns: from.into_iter().zip(to).zip(operators).map(|((from, to), operator)| (from, to, operator)).collect(),
            });
        }
        Ok(keys)
    }

    async fn sequences(
        connection: &mut PgConnection,
        catalog: &Catalog,
        tables: &[Table],
        oids: &[Oid],
        problems: &mut Vec<String>,
    ) -> Result<Vec<Sequence>, Error> {
        let mut sequences = Vec::new();
        for row in sqlx::query(OWNED_SEQUENCES).bind(oids).fetch_all(&mut *connection).await? {
            let owner: Oid = row.try_get("table")?;
            let name = TableName::new(row.try_get::<String, _>("schema")?, row.try_get::<String, _>("name")?);
            if let Some(table) = tables.iter().find(|table| table.oid == owner) {
                sequences.push(Sequence { name, resource: table.resource.clone(), owner: Some(table.name.clone()) });
            }
        }
        let owned: BTreeSet<_> = sequences.iter().map(|sequence| sequence.name.clone()).collect();
        for resource in catalog.resources() {
            for name in resource.sequences.iter().filter(|name| !owned.contains(name)) {
                let found = sqlx::query(
                    "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND n.nspname = $1 AND c.relname = $2",
                );
                if found.bind(&name.schema).bind(&name.name).fetch_optional(&mut *connection).await?.is_none() {
                    problems.push(format!("sequence {name} of resource {} does not exist", resource.name));
                }
                sequences.push(Sequence { name: name.clone(), resource: resource.name.clone(), owner: None });
            }
        }
        sequences.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(sequences)
    }

    /// Whether the roles may do what backup and restore need.
    ///
    /// # Errors
    /// `Error::Mismatch` with the GRANT that is missing, for each.
    pub async fn check_privileges(&self, connection: &mut PgConnection, database: &super::Database) -> Result<(), Error> {
        let mut problems = Vec::new();
        let (backup, restore) = (database.user(Role::Backup), database.user(Role::Restore));
        let outside = self.foreign_keys.iter().flat_map(|key| [&key.from, &key.to]).filter(|name| self.table(name).is_none());
        let reads = self.tables.iter().map(|table| (backup, &table.name, "SELECT"));
        let looks = outside.collect::<BTreeSet<_>>().into_iter().map(|name| (restore, name, "SELECT"));
        let writes = self
            .tables
            .iter()
            .flat_map(|table| ["SELECT", "INSERT", "UPDATE", "DELETE"].map(|right| (restore, &table.name, right)));
        for (role, table, right) in reads.chain(looks).chain(writes) {
            let has = sqlx::query_scalar(HAS_PRIVILEGE).bind(role).bind(&table.schema).bind(&table.name).bind(right);
            if !has.fetch_one(&mut *connection).await? {
                let (schema, name) = (quoted(&table.schema), table.sql());
                problems.push(format!(
                    "role {role} may not {right} {table}: GRANT USAGE ON SCHEMA {schema} and GRANT {right} ON {name}"
                ));
            }
        }
        for role in [database.user(Role::State), backup] {
            for table in self.tables.iter().map(|table| &table.name) {
                let owns = sqlx::query_scalar(OWNS).bind(role).bind(&table.schema).bind(&table.name);
                if owns.fetch_one(&mut *connection).await? {
                    problems.push(format!(
                        "role {role} has what the owner of {table} has, and could change or drop it: use one that is no member of \
                         its owner"
                    ));
                }
            }
        }
        for sequence in &self.sequences {
            for (role, right) in [(backup, "SELECT"), (restore, "SELECT"), (restore, "UPDATE")] {
                let name = &sequence.name;
                let has = sqlx::query_scalar(HAS_PRIVILEGE).bind(role).bind(&name.schema).bind(&name.name).bind(right);
                if !has.fetch_one(&mut *connection).await? {
                    problems.push(format!("role {role} may not {right} {name}: GRANT {right} ON SEQUENCE {}", name.sql()));
                }
            }
        }
        for trigger in self.tables.iter().flat_map(|table| &table.triggers) {
            let (name, relation) = (&trigger.name, &trigger.relation);
            let owns = sqlx::query_scalar(OWNS).bind(restore).bind(&relation.schema).bind(&relation.name);
            if !owns.fetch_one(&mut *connection).await? {
                problems.push(format!(
                    "role {restore} cannot disable trigger {name}: it must be a member of the role that owns {relation}"
                ));
            }
        }
        let may: bool = sqlx::query_scalar(MAY_MAKE_TEMPORARY).bind(restore).fetch_one(&mut *connection).await?;
        if !may {
            let name = quoted(database.name());
            problems
                .push(format!("role {restore} may not make temporary tables: GRANT TEMPORARY ON DATABASE {name} TO {restore}"));
        }
        problems.dedup();
        if problems.is_empty() { Ok(()) } else { Err(Error::Mismatch(problems)) }
    }

    pub fn table(&self, name: &TableName) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == *name)
    }

    /// The part of a manifest that tells of tables.
    pub fn entries(&self) -> (Vec<ResourceEntry>, Vec<TableEntry>) {
        let entry = |(place, table): (usize, &Table)| TableEntry {
            name: table.name.clone(),
            path: Manifest::member_folder(&table.resource, &table.name, place),
            format: table.format(),
            columns: table
                .columns
                .iter()
                .map(|column| ColumnEntry { name: column.name.clone(), type_name: column.type_name.clone() })
                .collect(),
            key: table.key.iter().flat_map(|key| key.columns.clone()).collect(),
        };
        (self.resources.clone(), self.tables.iter().enumerate().map(entry).collect())
    }

    /// What may keep a backup of these tables from being restored as it is.
    pub fn notices(&self) -> Vec<Notice> {
        let notice = |(table, constraint): &(TableName, String)| {
            let message = format!(
                "Constraint {constraint} of {table} is not validated: rows that violate it are in the backup, and a restore would be refused."
            );
            let notice = Notice::new(Severity::Warning, "CONSTRAINT_NOT_VALID", message).about(format!("{table}.{constraint}"));
            let mut notice = notice.instructions("Correct the rows, and validate the constraint.");
            notice.resource = self.table(table).map(|table| table.resource.clone());
            notice.metadata = [("table", table.to_string()), ("constraint", constraint.clone())]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
            notice
        };
        self.not_valid.iter().map(notice).collect()
    }

    /// Resources that the rows of `resource` refer to, itself left out.
    pub fn depends_on(&self, resource: &ResourceName) -> BTreeSet<ResourceName> {
        let owner = |name: &TableName| self.table(name).map(|table| table.resource.clone());
        let refers = |key: &&ForeignKey| owner(&key.from).as_ref() == Some(resource);
        let targets = self.foreign_keys.iter().filter(refers).filter_map(|key| owner(&key.to));
        targets.filter(|target| target != resource).collect()
    }

    /// Bytes on disk, as a guess at what is to be read.
    pub async fn size(&self, connection: &mut PgConnection) -> Result<u64, Error> {
        let oids: Vec<Oid> = self.tables.iter().map(|table| table.oid).collect();
        let size: i64 = sqlx::query_scalar(SIZE).bind(&oids).fetch_one(connection).await?;
        Ok(size.unsigned_abs())
    }
}

impl Table {
    /// Text, but binary where text would double the bytes and every column allows it.
    pub fn format(&self) -> CopyFormat {
        let bytes = self.columns.iter().any(|column| column.base_type == "bytea");
        if bytes && self.columns.iter().all(|column| column.binary_travels) { CopyFormat::Binary } else { CopyFormat::Text }
    }
}
