//! The short way into empty targets: the file is read to its end first, and then straight into them. Nothing has to be
//! staged and compared, as far as foreign keys allow.

use sqlx::{AssertSqlSafe, Executor, Row};

use super::Restore;
use crate::model::TableName;
use crate::postgres::stage::Staged;
use crate::postgres::{Error, apply};

/// How the rows get into the targets.
#[derive(PartialEq)]
pub enum Way {
    /// Through stages.
    Ordinary,
    /// The targets are empty; the file is read to its end before anything is locked or written.
    Proving,
    /// The targets were empty when they were locked: straight into them, as far as foreign keys allow.
    Short,
}

impl Restore {
    /// Looks for the short way before the first `load`: when every target is empty, that load only passes over the file, to
    /// prove it. Then [`Self::take_short_way`] says whether to load it again.
    pub async fn look_for_short_way(&mut self) -> Result<(), Error> {
        if self.targets_are_empty().await? {
            self.way = Way::Proving;
        }
        Ok(())
    }

    /// After a load of a file that proved whole: whether it is to be loaded once more, because it was only passed over. The
    /// targets are locked then and looked at again; rows that came meanwhile send the file the ordinary way.
    pub async fn take_short_way(&mut self) -> Result<bool, Error> {
        if self.way != Way::Proving {
            return Ok(false);
        }
        self.lock().await?;
        if !self.targets_are_empty().await? {
            self.connection.execute(sqlx::raw_sql("ROLLBACK TO SAVEPOINT unlocked")).await?;
            self.way = Way::Ordinary;
            return Ok(true);
        }
        let all: Vec<&Staged> = self.staged.iter().flatten().collect();
        apply::disable_triggers(&mut self.connection, &all).await?;
        self.connection.execute(sqlx::raw_sql("SET CONSTRAINTS ALL DEFERRED")).await?;
        self.go_directly();
        self.way = Way::Short;
        Ok(true)
    }

    /// Whether the targets are locked already, by the short way.
    pub fn is_locked(&self) -> bool {
        self.way == Way::Short
    }

    async fn targets_are_empty(&mut self) -> Result<bool, Error> {
        for staged in self.staged.iter().flatten() {
            let query = format!("SELECT EXISTS (SELECT FROM {})", staged.table.name.sql());
            if self.connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(query))).await?.try_get(0)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tables whose rows can go straight into the target, as the file has them one after the other: those of the file's
    /// columns whose rows refer only to rows of tables that are there already, or by a key that can wait.
    fn go_directly(&mut self) {
        let names: Vec<TableName> = self.staged.iter().flatten().map(|staged| staged.table.name.clone()).collect();
        let mut there: Vec<TableName> = Vec::new();
        for staged in self.staged.iter_mut().flatten() {
            let name = &staged.table.name;
            let waits_for = |to: &TableName| names.contains(to) && !there.contains(to);
            let mut keys = self.schema.foreign_keys.iter().filter(|key| key.from == *name && !key.deferrable);
            staged.direct = staged.same_columns && keys.all(|key| !waits_for(&key.to));
            if staged.direct {
                there.push(name.clone());
            }
        }
    }
}
