//! A world with tables of the test's own: those of the schema `zoo` may be in the catalog, those of `outside` refer to them.

use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{Backup, NoticeCode, OperationError, RestoreRequest};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::world::{World, refused};

/// The text of a catalog with one resource.
pub fn resource(name: &str, tables: &[&str]) -> String {
    let tables: Vec<String> = tables.iter().map(|table| format!("'''{table}'''")).collect();
    format!("[[resource]]\nname = '{name}'\ntitle = 'T'\ntables = [{}]\n", tables.join(", "))
}

/// What the roles need for the tables of `zoo` and `outside`. To be run again after a table was made.
pub const GRANTS: &str = "
    grant usage on schema zoo to holdfast_backup, holdfast_restore;
    grant select on all tables in schema zoo to holdfast_backup, holdfast_restore;
    grant insert, update, delete on all tables in schema zoo to holdfast_restore;
    grant select on all sequences in schema zoo to holdfast_backup, holdfast_restore;
    grant update on all sequences in schema zoo to holdfast_restore;
    grant usage on schema outside to holdfast_restore;
    grant select on all tables in schema outside to holdfast_restore;";

/// Some tables that take a moment to restore.
pub const BUSY: &str = "create table zoo.parent (id int primary key, name text not null unique);
    create table zoo.child (id serial primary key, parent_id int not null references zoo.parent on delete cascade, note text);
    create index on zoo.child (parent_id);
    insert into zoo.parent select i, 'name ' || i from generate_series(1, 20000) i;
    insert into zoo.child (parent_id, note) select i, md5(i::text) from generate_series(1, 20000) i;";
pub const BUSY_DAMAGE: &str = "delete from zoo.parent where id % 3 = 0; update zoo.child set note = 'other';
    insert into zoo.parent select i, 'new ' || i from generate_series(30000, 40000) i;";

impl World {
    /// Runs `statements` as the platform, then starts the service with a catalog of one resource `zoo` with `tables`.
    pub async fn zoo(statements: &str, tables: &[&str]) -> Self {
        Self::zoo_with(statements, &resource("zoo", tables)).await
    }

    pub async fn zoo_with(statements: &str, catalog: &str) -> Self {
        let mut world = Self::zoo_without_service(statements, catalog).await;
        world.start().await.expect("the service starts");
        world
    }

    pub async fn zoo_without_service(statements: &str, catalog: &str) -> Self {
        Self::without_service().await.with_zoo(statements, catalog).await
    }

    /// The schemas `zoo` and `outside` in a world whose service is not started yet.
    pub async fn with_zoo(self, statements: &str, catalog: &str) -> Self {
        let mut world = self;
        // Only what a test makes itself is looked at by `digests`.
        world.sql("revoke all on all tables in schema platform from holdfast_backup, holdfast_restore").await;
        world.sql("create schema zoo; create schema outside; grant usage, create on schema zoo to platform_triggers").await;
        world.sql(statements).await;
        world.sql(GRANTS).await;
        let path = world.dir.path().join("catalog.toml");
        std::fs::write(&path, catalog).unwrap();
        world.set("HOLDFAST_CATALOG", path.to_str().unwrap());
        world
    }

    /// The rows of a query, in any order, as one text.
    pub async fn rows(&self, query: &str) -> String {
        self.value(&format!("select string_agg(r::text, ' ' order by r::text collate \"C\") from ({query}) as r")).await
    }

    /// A platform connection in which `statements` were run and are not committed.
    pub async fn open_transaction(&self, statements: &str) -> PgConnection {
        let mut connection = self.platform().await;
        run(&mut connection, &format!("begin; {statements}")).await;
        connection
    }

    /// Polls until the query, which must be one of a boolean, is true.
    pub async fn until(&self, query: &str) {
        let mut connection = self.superuser().await;
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let query = format!("select {query}");
        while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(query.clone())).fetch_one(&mut connection).await.unwrap() {
            assert!(std::time::Instant::now() < end, "never: {query}\n{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        connection.close().await.unwrap();
    }

    /// The value of a query as soon as it is not NULL. The server asks itself without a pause between, so that what lasts
    /// some milliseconds is met.
    pub async fn catch(&self, query: &str) -> String {
        let mut connection = self.superuser().await;
        let function = format!(
            "create function pg_temp.catch() returns text language plpgsql as $catch$
             declare found text; final timestamptz := clock_timestamp() + interval '60 s'; begin
                 loop
                     perform pg_stat_clear_snapshot();
                     found := ({query});
                     exit when found is not null or clock_timestamp() > final;
                     perform pg_sleep(0.0005);
                 end loop;
                 return found;
             end $catch$"
        );
        run(&mut connection, &function).await;
        let found = sqlx::query_scalar::<_, Option<String>>("select pg_temp.catch()").fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        found.unwrap_or_else(|| panic!("never: {query}\n{}", self.log()))
    }

    /// Until a session of the role waits for a lock, in a statement like this.
    pub async fn until_waiting(&self, role: &str, statement: &str) {
        self.until(&format!(
            "exists (select from pg_stat_activity where datname = current_database() and usename = '{role}'
                 and wait_event_type = 'Lock' and query like '{statement}')"
        ))
        .await;
    }

    /// Ends the sessions of `role` that match `condition`, and returns how many there were.
    pub async fn terminate_sessions(&self, role: &str, condition: &str) -> usize {
        let query = format!(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and usename = '{role}' and {condition}"
        );
        self.value(&query).await.parse().unwrap()
    }

    /// Waits for an operation; `Err` when it failed.
    pub async fn outcome(&self, operation: &str) -> Result<Outcome, OperationError> {
        match self.wait(operation).await.result.expect("it has ended") {
            Outcome::Error(error) => Err(error),
            outcome => Ok(outcome),
        }
    }

    /// From here a restore that commits waits in its COMMIT for whoever holds the gate (`close_gate`), for 5 s at most.
    pub async fn build_gate(&self) {
        self.sql_as_superuser(
            "create table holdfast.gate (id int);
             create function holdfast.wait() returns trigger language plpgsql security definer as $$ begin
                 perform pg_advisory_xact_lock(1); return null; end $$;
             create constraint trigger wait after insert on holdfast.gate deferrable initially deferred
                 for each row execute function holdfast.wait();
             create function holdfast.approach() returns trigger language plpgsql security definer as $$ begin
                 set constraints holdfast.wait deferred; insert into holdfast.gate values (1); return null; end $$;
             create trigger approach after insert on holdfast.restore_log for each row execute function holdfast.approach()",
        )
        .await;
    }

    /// Closes the gate, for as long as the session lives.
    pub async fn close_gate(&self) -> PgConnection {
        let mut gate = self.superuser().await;
        run(&mut gate, "select pg_advisory_lock(1)").await;
        gate
    }

    /// Until a restore waits in its COMMIT.
    pub async fn until_commit(&self) {
        self.until(
            "exists (select from pg_stat_activity where datname = current_database()
                 and usename = 'holdfast_restore' and wait_event = 'advisory' and query = 'COMMIT')",
        )
        .await;
    }

    pub async fn backup_outcome(&self, operation: &str) -> Result<Backup, OperationError> {
        match self.outcome(operation).await? {
            Outcome::Backup(result) => Ok(result.backup.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// Asserts that a restore without passphrase brings the tables of the backup to `digests`.
    pub async fn restores_to(&self, backup: &Backup, digests: &str) {
        if let Err(error) = self.restore(backup, "").await {
            panic!("{error:?}\n{}", self.log());
        }
        assert_eq!(self.digests(), digests);
    }

    /// Asserts that a restore is refused or fails for `reason` and changes nothing; returns message and metadata as text.
    pub async fn restore_fails(&self, request: RestoreRequest, reason: &str) -> String {
        let before = self.digests();
        let error = match self.backups().await.restore(request).await {
            Err(status) => refused(status),
            Ok(operation) => match self.outcome(&operation.into_inner().name).await {
                Err(error) => error,
                Ok(outcome) => panic!("it succeeded: {outcome:?}"),
            },
        };
        assert_eq!(error.reason, reason, "{error:?}\n{}", self.log());
        assert_eq!(self.digests(), before);
        format!("{} {:?}", error.message, error.metadata)
    }
}

pub fn all_of(backup: &Backup) -> RestoreRequest {
    RestoreRequest { name: backup.name.clone(), skip_safety_backup: true, ..Default::default() }
}

/// What a caller accepts who restores the file of another installation.
pub fn of_others() -> Vec<i32> {
    vec![NoticeCode::OtherSystem.into(), NoticeCode::ForeignBackup.into()]
}

/// Sends a signal, by its name, to a process.
pub fn signal(signal: &str, pid: &str) {
    assert!(std::process::Command::new("kill").args([signal, pid]).status().unwrap().success());
}

pub async fn run(connection: &mut PgConnection, statements: &str) {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))).await.unwrap();
}
