//! What a test needs, behind a few words: a platform, the service on it, calls, digests, damage.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::audit_service_client::AuditServiceClient;
use holdfast::grpc::proto::backup::backup_service_client::BackupServiceClient;
use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::operation_service_client::OperationServiceClient;
use holdfast::grpc::proto::backup::{
    Backup, BackupRequest, CancelOperationRequest, Encryption, ListBackupsRequest, Operation, OperationError, RestoreRequest,
    RestoreResult, SetEncryptionRequest, WaitOperationRequest,
};
use holdfast::grpc::proto::lock::lock_service_client::LockServiceClient;
use holdfast::grpc::proto::lock::{AcquireLockRequest, ExpiryPolicy, LockLease, LockPurpose, ReleaseLockRequest};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic_types::{ErrorDetail, StatusExt};

use super::canary::{nothing_shows, secret};
use super::zoo::all_of;

pub const TOKEN: &str = "a-token-for-tests-0123456789abcdef";
/// Of the update-service.
pub const UPDATE_TOKEN: &str = "another-token-for-tests-0123456789";
pub const PASSPHRASE: &str = "correct horse battery staple";
pub const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");
const PASSWORD: &str = "a-password-for-tests";

pub type Calls = InterceptedService<Channel, Bearer>;

/// Sends the token with every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    pub fn of(token: &str) -> Self {
        Self(format!("Bearer {token}").parse().unwrap())
    }
}

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A PostgreSQL. It ends when this process does: its script reads our pipe.
struct Cluster {
    port: u16,
    superuser_url: String,
    folder: PathBuf,
    _script: Mutex<Child>,
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The one of this test run.
fn cluster() -> Arc<Cluster> {
    static CLUSTER: OnceLock<Arc<Cluster>> = OnceLock::new();
    let run = || {
        let mut script = Command::new(repository().join("deploy/dev/postgres.sh"));
        script.arg("run").arg(cluster_folder()).args(["-c", "max_connections=500", "-c", "max_prepared_transactions=10"]);
        // When protected work was committed is told by the database.
        script.args(["-c", "track_commit_timestamp=on"]);
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("postgres.sh runs");
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let word = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).expect(&line).to_owned();
        let superuser_url = word("superuser-url=");
        let port = word("port=").parse().unwrap();
        Arc::new(Cluster { port, superuser_url, folder: cluster_folder(), _script: Mutex::new(script) }.furnished())
    };
    CLUSTER.get_or_init(run).clone()
}

impl Cluster {
    /// One that a test may crash: it can be started again. With more in its environment.
    fn of_its_own(environment: &[(&str, PathBuf)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let folder = cluster_folder().with_extension(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        let script = repository().join("deploy/dev/postgres.sh");
        let mut guard = Command::new("bash");
        guard.args(["-c", "cat; \"$1\" stop \"$2\"; rm -rf \"$2\"", "guard"]).arg(&script).arg(&folder).stdin(Stdio::piped());
        let guard = Mutex::new(guard.spawn().expect("bash runs"));
        let started = Command::new(&script).arg("start").arg(&folder).envs(environment.iter().cloned()).status();
        assert!(started.unwrap().success());
        let url = Command::new(&script).arg("url").arg(&folder).output().unwrap().stdout;
        let superuser_url = String::from_utf8(url).unwrap().trim().to_owned();
        let port = std::fs::read_to_string(folder.join("port")).unwrap().trim().parse().unwrap();
        Self { port, superuser_url, folder, _script: guard }.furnished()
    }

    /// With the roles, and the sample platform as a template.
    fn furnished(self) -> Self {
        let Self { port, superuser_url, .. } = &self;
        psql(superuser_url, &["-f", "deploy/platform/roles.sql"]);
        for role in ["platform", "holdfast_state", "holdfast_backup", "holdfast_restore"] {
            psql(superuser_url, &["-c", &format!("alter role {role} password '{PASSWORD}'")]);
        }
        psql(superuser_url, &["-c", "create database template_platform owner platform"]);
        let template = format!("postgres://platform:{PASSWORD}@127.0.0.1:{port}/template_platform");
        psql(&template, &["-f", "deploy/platform/schema.sql"]);
        psql(&template, &["-f", "deploy/platform/grants.sql"]);
        psql(&template, &["-v", "scale=1", "-v", "seed=1", "-f", "deploy/platform/generate.sql"]);
        self
    }

    fn superuser_url(&self, database: &str) -> String {
        format!("{}/{database}", self.superuser_url.rsplit_once('/').unwrap().0)
    }
}

pub fn superuser_url(database: &str) -> String {
    cluster().superuser_url(database)
}

/// Whether the long sweeps are wanted: hundreds of rounds instead of a few (README.md).
pub fn long_tests() -> bool {
    std::env::var("HOLDFAST_LONG_TESTS").is_ok_and(|value| value == "1")
}

/// Rounds of a sweep.
pub fn rounds(few: u32, many: u32) -> u32 {
    if long_tests() { many } else { few }
}

/// Log of the PostgreSQL of this test run, of all its databases.
pub fn server_log() -> PathBuf {
    cluster_folder().join("log")
}

/// Where the PostgreSQL of this test run is: `data/`, `log`.
pub fn cluster_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres-{}", std::process::id()))
}

/// Runs psql from the root of the repository and returns what it printed.
pub fn psql(url: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("psql");
    command.args(["-qXAt", "-v", "ON_ERROR_STOP=1"]).args(arguments).arg(url).current_dir(repository());
    let output = command.output().expect("psql runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A platform in a database of its own, a folder, and the service.
pub struct World {
    pub database: String,
    pub dir: Arc<tempfile::TempDir>,
    service: Option<Service>,
    settings: Vec<(String, String)>,
    /// What starts the service instead of this process itself.
    starter: Vec<String>,
    cluster: Arc<Cluster>,
    /// Name of the file that the service writes its log to.
    log: String,
}

/// URLs of a database for the platform and for a superuser.
pub struct EmptyPlatform {
    pub platform: String,
    pub superuser: String,
}

struct Service {
    process: Child,
    address: String,
}

impl World {
    /// The sample platform, about 1,000 rows, and a service that is ready.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same, with more settings of the service (`HOLDFAST_...`).
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let mut world = Self::without_service().await;
        world.settings.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        world.start().await.expect("the service starts");
        world
    }

    /// A catalog of three tables without references, so that a backup has a few KB. One has bytea: COPY binary.
    pub async fn small() -> Self {
        let mut world = Self::without_service().await;
        let catalog = world.dir.path().join("catalog.toml");
        let resource =
            |name: &str, table: &str| format!("[[resource]]\nname = '{name}'\ntitle = 'T'\ntables = ['platform.{table}']\n");
        let tables = [("texts", "notification_template"), ("permissions", "permission"), ("providers", "login_provider")];
        std::fs::write(&catalog, tables.map(|(name, table)| resource(name, table)).concat()).unwrap();
        world.set("HOLDFAST_CATALOG", &catalog.display().to_string());
        world.start().await.expect("the service starts");
        world
    }

    /// The tables of the platform without a row, in a database of their own that no service uses.
    pub async fn empty_platform(&self) -> EmptyPlatform {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("scratch_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let cluster = &self.cluster;
        psql(&cluster.superuser_url, &["-c", &format!("create database {name} owner platform")]);
        let platform = format!("postgres://platform:{PASSWORD}@127.0.0.1:{}/{name}", cluster.port);
        psql(&platform, &["-f", "deploy/platform/schema.sql", "-f", "deploy/platform/grants.sql"]);
        EmptyPlatform { platform, superuser: cluster.superuser_url(&name) }
    }

    /// The platform alone; the service starts with `start`.
    pub async fn without_service() -> Self {
        Self::on(tokio::task::spawn_blocking(cluster).await.unwrap()).await
    }

    /// The same, on a PostgreSQL that nobody else uses (`crash_database`).
    pub async fn on_its_own_database_server() -> Self {
        Self::on_a_database_server_with(&[]).await
    }

    /// The same, with more in the environment of that PostgreSQL.
    pub async fn on_a_database_server_with(environment: &[(&'static str, PathBuf)]) -> Self {
        let environment = environment.to_vec();
        Self::on(Arc::new(tokio::task::spawn_blocking(move || Cluster::of_its_own(&environment)).await.unwrap())).await
    }

    async fn on(cluster: Arc<Cluster>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let database = format!("platform_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // One copy of the template at a time: CREATE DATABASE refuses a template that is in use.
        static COPY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let copying = COPY.lock().await;
        let create = format!(
            "create database {database} template template_platform owner platform; grant create on database {database} to holdfast_state; grant temporary on database {database} to holdfast_restore"
        );
        for statement in create.split("; ") {
            let mut superuser = PgConnection::connect(&cluster.superuser_url).await.unwrap();
            superuser.execute(sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))).await.unwrap();
        }
        drop(copying);
        let (dir, settings, starter) = (new_dir(), Vec::new(), Vec::new());
        Self { database, dir, service: None, settings, starter, cluster, log: "log".into() }
    }

    /// Another service for the same database, with a folder of its own; it is not started yet.
    pub fn elsewhere(&self) -> Self {
        let mut other = self.twin();
        other.dir = new_dir();
        other
    }

    /// Another service for the same database and folder, with a log of its own; it is not started yet.
    pub fn twin(&self) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(2);
        let (database, dir, settings) = (self.database.clone(), self.dir.clone(), self.settings.clone());
        let log = format!("log-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self { database, dir, service: None, settings, starter: self.starter.clone(), cluster: self.cluster.clone(), log }
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    /// What the service wrote to its log, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(&self.log)).unwrap_or_default()
    }

    /// Starts the service. `Err` with its exit status and what it printed when it ends instead.
    pub async fn start(&mut self) -> Result<(), String> {
        self.launch("\"started\"").await?;
        // Or the backup of 01:00 would come in between when it is 01:00: it is planned for when no test runs any more.
        self.sql_as_superuser(
            "insert into holdfast.setting (name, value, update_time)
             select 'schedule', jsonb_build_object('enabled', true, 'time_zone', 'UTC', 'start_deadline', '{\"secs\": 21600, \"nanos\": 0}'::jsonb,
                 'recurrence', jsonb_build_object('daily', jsonb_build_object('minutes', 0, 'hours',
                     extract(hour from now() at time zone 'UTC' + interval '12 hours')::int))), now()
             on conflict do nothing",
        )
        .await;
        Ok(())
    }

    /// The same, and comes back as soon as it listens; it may wait for its database then.
    pub async fn start_to_listen(&mut self) -> Result<(), String> {
        self.launch("\"listening\"").await
    }

    /// Runs the service until its log has this message.
    async fn launch(&mut self, message: &str) -> Result<(), String> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join(&self.log)).unwrap();
        let seen = self.log().len();
        let program: Vec<&str> = self.starter.iter().map(String::as_str).chain([BINARY, "serve"]).collect();
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).env_clear().stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.envs(self.settings());
        let mut process = command.spawn().expect("the service can be started");
        let address = eventually(Duration::from_secs(60), || {
            let log = self.log();
            let ended = process.try_wait().unwrap();
            let line = log[seen..].lines().find(|line| line.contains(message)).map(str::to_owned);
            ended.map(Err).or(line.map(Ok))
        })
        .await;
        let line = match address {
            Ok(line) => line,
            Err(status) => return Err(format!("{status}\n{}", &self.log()[seen..])),
        };
        let address = serde_json::from_str::<serde_json::Value>(&line).unwrap()["address"].as_str().unwrap().to_owned();
        self.service = Some(Service { process, address });
        Ok(())
    }

    /// The environment of the service.
    pub fn settings(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let usual = [
            ("HOLDFAST_LISTEN", "127.0.0.1:0".to_owned()),
            ("HOLDFAST_FOLDER", path("backups")),
            ("HOLDFAST_CATALOG", repository().join("deploy/catalog.toml").display().to_string()),
            ("HOLDFAST_DATABASE__HOST", "127.0.0.1".to_owned()),
            ("HOLDFAST_DATABASE__PORT", self.port().to_string()),
            ("HOLDFAST_DATABASE__NAME", self.database.clone()),
            ("HOLDFAST_DATABASE__SSLMODE", "disable".to_owned()),
            ("HOLDFAST_DATABASE__STATE_PASSWORD_FILE", path("password")),
            ("HOLDFAST_DATABASE__BACKUP_PASSWORD_FILE", path("password")),
            ("HOLDFAST_DATABASE__RESTORE_PASSWORD_FILE", path("password")),
            ("HOLDFAST_TOKEN_FILE", path("token")),
            ("HOLDFAST_UPDATE_TOKEN_FILE", path("update-token")),
            ("HOLDFAST_SEAL_KEY_FILE", path("seal-key")),
            ("HOLDFAST_LIMITS__BACKUPS_PER_HOUR", "0".to_owned()),
            ("HOLDFAST_LOG", "trace".to_owned()),
            ("HOLDFAST_ALLOW_PLAINTEXT_SECRETS", "true".to_owned()),
        ];
        let usual = usual.map(|(name, value)| (name.to_owned(), value));
        let mut all: std::collections::BTreeMap<String, String> = usual.into_iter().collect();
        for (name, value) in &self.settings {
            all.insert(name.clone(), value.clone());
        }
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// A setting of the service; with a blank value, it is not set.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub fn unset(&mut self, name: &str) {
        self.settings.retain(|(known, _)| known != name);
    }

    /// The service is started by this program, which becomes the service: `program...  holdfast serve`.
    pub fn run_by(&mut self, program: &[&str]) {
        self.starter = program.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Where PostgreSQL listens.
    pub fn port(&self) -> u16 {
        self.cluster.port
    }

    pub fn pid(&self) -> u32 {
        self.service.as_ref().expect("the service runs").process.id()
    }

    pub fn address(&self) -> String {
        format!("http://{}", self.service.as_ref().expect("the service runs").address)
    }

    /// Whether somebody has killed it.
    pub fn has_ended(&mut self) -> bool {
        self.service.as_mut().is_none_or(|service| service.process.try_wait().unwrap().is_some())
    }

    /// Ends the service as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.process.kill().unwrap();
            service.process.wait().unwrap();
        }
    }

    /// Starts the service after a `kill`, as if that had been a while ago: nothing waits until the dead one counts as dead.
    pub async fn start_later(&mut self) {
        self.sql_as_superuser("update holdfast.operation set heartbeat_time = heartbeat_time - interval '20 s' where not done")
            .await;
        self.start().await.unwrap();
    }

    /// Ends PostgreSQL as a power cut would, and starts it again.
    pub async fn crash_database(&self) {
        self.stop_database().await;
        self.start_database();
    }

    pub fn start_database(&self) {
        let script = repository().join("deploy/dev/postgres.sh");
        assert!(Command::new(script).arg("start").arg(&self.cluster.folder).status().unwrap().success());
    }

    /// Ends PostgreSQL as a power cut would.
    pub async fn stop_database(&self) {
        let pid = self.cluster.folder.join("data/postmaster.pid");
        let postmaster = std::fs::read_to_string(&pid).unwrap().lines().next().unwrap().to_owned();
        // What `pg_ctl stop -m immediate` sends.
        super::zoo::signal("-QUIT", &postmaster);
        eventually(Duration::from_secs(60), || (!pid.exists()).then_some(())).await;
    }

    /// Asks the service to end, and waits until it has. Returns its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        let mut service = self.service.take()?;
        Command::new("kill").args(["-TERM", &service.process.id().to_string()]).status().unwrap();
        eventually(Duration::from_secs(100), || service.process.try_wait().unwrap()).await.code()
    }

    pub async fn backups(&self) -> BackupServiceClient<Calls> {
        BackupServiceClient::new(self.calls().await)
    }

    pub async fn operations(&self) -> OperationServiceClient<Calls> {
        OperationServiceClient::new(self.calls().await)
    }

    pub async fn events(&self) -> AuditServiceClient<Calls> {
        AuditServiceClient::new(self.calls().await)
    }

    async fn calls(&self) -> Calls {
        InterceptedService::new(self.channel().await, self.bearer())
    }

    /// A connection of its own, without the token.
    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.address()).unwrap().connect().await.expect("the service answers")
    }

    pub fn bearer(&self) -> Bearer {
        Bearer::of(TOKEN)
    }

    /// Takes the maintenance lock as a software update does, until `end_update`.
    pub async fn begin_update(&self) -> LockLease {
        let request = AcquireLockRequest {
            name: "locks/platform-maintenance".into(),
            holder_id: "update-8.4.1".into(),
            purpose: LockPurpose::SoftwareUpdate.into(),
            reason: "Update to 8.4.1".into(),
            ttl: Some(prost_types::Duration { seconds: 900, nanos: 0 }),
            expiry_policy: ExpiryPolicy::Hold.into(),
            ..Default::default()
        };
        let lease = self.locks(UPDATE_TOKEN).await.acquire_lock(request).await.unwrap().into_inner();
        secret(&lease.lease_id);
        lease
    }

    pub async fn end_update(&self, lease: LockLease) {
        let request = ReleaseLockRequest { name: lease.lock, lease_id: lease.lease_id };
        self.locks(UPDATE_TOKEN).await.release_lock(request).await.unwrap();
    }

    /// The lock service, as whoever has this token.
    pub async fn locks(&self, token: &str) -> LockServiceClient<Calls> {
        LockServiceClient::with_interceptor(self.channel().await, Bearer::of(token))
    }

    /// A database connection of the platform itself.
    pub async fn platform(&self) -> PgConnection {
        PgConnection::connect(&self.url("platform")).await.unwrap()
    }

    /// A database connection that may do everything.
    pub async fn superuser(&self) -> PgConnection {
        PgConnection::connect(&self.cluster.superuser_url(&self.database)).await.unwrap()
    }

    /// Of the PostgreSQL of this world.
    pub fn superuser_url(&self) -> String {
        self.cluster.superuser_url("postgres")
    }

    pub fn url(&self, role: &str) -> String {
        format!("postgres://{role}:{PASSWORD}@127.0.0.1:{}/{}", self.port(), self.database)
    }

    /// Runs statements as the platform.
    pub async fn sql(&self, statements: &str) {
        let mut connection = self.platform().await;
        connection.execute(sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Runs statements as a superuser.
    pub async fn sql_as_superuser(&self, statements: &str) {
        let mut connection = self.superuser().await;
        connection.execute(sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Forgets what happened, past the guard of the audit log.
    pub async fn forget_events(&self) {
        self.sql_as_superuser("set session_replication_role = replica; delete from holdfast.event").await;
    }

    /// The first column of the first row, as text; empty for NULL.
    pub async fn value(&self, query: &str) -> String {
        let mut connection = self.superuser().await;
        let query = format!("select ({query})::text");
        let row = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(query))).await.unwrap();
        row.try_get::<Option<String>, _>(0).unwrap().unwrap_or_default()
    }

    /// One line for each table of the backup: name, rows, digest, computed by PostgreSQL alone.
    pub fn digests(&self) -> String {
        psql(&self.url("platform"), &["-f", "deploy/platform/digest.sql"])
    }

    /// Installs the types of all adapters, so that a restore has nothing to say of them.
    pub async fn install_adapter_types(&self) {
        self.sql("insert into platform.adapter_type (name, version) select distinct type_name, '1' from platform.adapter on conflict do nothing").await;
    }

    /// Hurts 23 tables.
    pub fn damage(&self) {
        psql(&self.url("platform"), &["-f", "deploy/platform/damage.sql"]);
    }

    /// Adds some 40 MB that do not compress, so that an operation takes a second or more.
    pub async fn grow(&self) {
        self.sql(
            "with blob as (select decode(string_agg(md5(random()::text), ''), 'hex') as bytes from generate_series(1, 250000))
             insert into platform.license (id, number, product, valid_from, file)
             select gen_random_uuid(), 'bulk-' || i, 'bulk', now(), bytes from blob, generate_series(1, 10) as i",
        )
        .await;
    }

    /// A session that holds a table: as long as it lives, backups wait for `access exclusive` and restores for `row
    /// exclusive`.
    pub async fn lock_table(&self, mode: &str) -> PgConnection {
        let mut connection = self.platform().await;
        let lock = format!("begin; lock table platform.license in {mode} mode");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(lock))).await.unwrap();
        connection
    }

    /// Starts a backup and returns its name.
    pub async fn begin_backup(&self) -> String {
        self.backups().await.backup(BackupRequest::default()).await.unwrap().into_inner().name
    }

    pub async fn begin_restore(&self, backup: &Backup, passphrase: &str) -> String {
        let request = RestoreRequest { passphrase: passphrase.to_owned(), ..all_of(backup) };
        self.backups().await.restore(request).await.unwrap().into_inner().name
    }

    pub async fn cancel(&self, name: &str) {
        self.try_cancel(name).await.unwrap();
    }

    pub async fn try_cancel(&self, name: &str) -> Result<(), tonic::Status> {
        let request = CancelOperationRequest { name: name.to_owned() };
        self.operations().await.cancel_operation(request).await.map(|_| ())
    }

    /// Cuts every session of the service off and lets it have no new one; or lets it again.
    pub async fn database_away(&self, away: bool) {
        let mut superuser = PgConnection::connect(&self.cluster.superuser_url).await.unwrap();
        let allow = format!("alter database {} allow_connections {}", self.database, !away);
        superuser.execute(sqlx::raw_sql(AssertSqlSafe(allow))).await.unwrap();
        if away {
            let cut = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'", self.database);
            superuser.execute(sqlx::raw_sql(AssertSqlSafe(cut))).await.unwrap();
        }
    }

    pub async fn listed(&self) -> Vec<Backup> {
        self.backups().await.list_backups(ListBackupsRequest::default()).await.unwrap().into_inner().backups
    }

    /// Whether the service says that it is ready.
    pub async fn ready(&self) -> bool {
        self.serves("").await
    }

    /// What health says of a service.
    pub async fn serves(&self, service: &str) -> bool {
        let channel = Endpoint::from_shared(self.address()).unwrap().connect().await.unwrap();
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let answer = tonic_health::pb::health_client::HealthClient::new(channel).check(request).await.unwrap();
        answer.into_inner().status() == tonic_health::pb::health_check_response::ServingStatus::Serving
    }

    /// Waits until the service says that it is ready, or not.
    pub async fn becomes_ready(&self, ready: bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.ready().await != ready {
            assert!(Instant::now() < end, "ready: {}", !ready);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The statement, as a query, becomes this within `limit`.
    pub async fn becomes(&self, query: &str, wanted: &str, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let value = self.value(query).await;
            if value == wanted {
                return;
            }
            assert!(Instant::now() < end, "{query}: still {value}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Nothing is left of operations but what they made: no draft, no lease, none that runs.
    pub async fn is_tidy(&self) {
        self.becomes("select count(*) from holdfast.operation where not done", "0", Duration::from_secs(25)).await;
        self.becomes("select count(*) from holdfast.lease", "0", Duration::from_secs(5)).await;
        assert!(self.drafts().is_empty(), "{:?}\n{}", self.drafts(), self.log());
        let mut listed: Vec<String> = self.listed().await.into_iter().map(|backup| backup.file_name).collect();
        listed.sort();
        assert_eq!(listed, self.files(), "the list and the folder differ\n{}", self.log());
    }

    /// Waits until nothing is left of what was interrupted: the service looks at its start and once a minute. Returns the list.
    pub async fn tidies(&self) -> Vec<Backup> {
        let end = Instant::now() + Duration::from_secs(75);
        loop {
            let listed = self.listed().await;
            let mut names: Vec<&str> = listed.iter().map(|backup| backup.file_name.as_str()).collect();
            names.sort_unstable();
            if names == self.files() && self.drafts().is_empty() {
                return listed;
            }
            assert!(Instant::now() < end, "{names:?} {:?} {:?}\n{}", self.files(), self.drafts(), self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn set_passphrase(&self, passphrase: &str) {
        secret(passphrase);
        let request = SetEncryptionRequest { passphrase: Some(passphrase.to_owned()), ..Default::default() };
        self.backups().await.set_encryption(request).await.unwrap();
    }

    /// Three backups: not encrypted, with PASSPHRASE, and with another that is in use then.
    pub async fn of_three_times(&self, another: &str) -> [Backup; 3] {
        let plain = self.backup().await;
        self.set_passphrase(PASSPHRASE).await;
        let first = self.backup().await;
        self.set_passphrase(another).await;
        [plain, first, self.backup().await]
    }

    pub async fn try_set_passphrase(&self, passphrase: Option<&str>) -> Result<Encryption, tonic::Status> {
        passphrase.iter().for_each(|passphrase| secret(passphrase));
        let request = SetEncryptionRequest { passphrase: passphrase.map(str::to_owned), ..Default::default() };
        Ok(self.backups().await.set_encryption(request).await?.into_inner())
    }

    /// Makes a backup and waits for it.
    pub async fn backup(&self) -> Backup {
        match self.try_backup(BackupRequest::default()).await {
            Ok(backup) => backup,
            Err(error) => panic!("{error:?}\n{}", self.log()),
        }
    }

    pub async fn try_backup(&self, request: BackupRequest) -> Result<Backup, OperationError> {
        let operation = self.backups().await.backup(request).await.map_err(refused)?.into_inner();
        match self.wait(&operation.name).await.result.expect("it has ended") {
            Outcome::Backup(result) => Ok(result.backup.unwrap()),
            Outcome::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// Restores all of a backup and waits for it. `Err` when the call is refused or the operation fails.
    pub async fn restore(&self, backup: &Backup, passphrase: &str) -> Result<RestoreResult, OperationError> {
        let request = RestoreRequest { passphrase: passphrase.to_owned(), ..all_of(backup) };
        self.try_restore(request).await
    }

    pub async fn try_restore(&self, request: RestoreRequest) -> Result<RestoreResult, OperationError> {
        secret(&request.passphrase);
        let operation = self.backups().await.restore(request).await.map_err(refused)?.into_inner();
        match self.wait(&operation.name).await.result.expect("it has ended") {
            Outcome::Restore(result) => Ok(result),
            Outcome::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until an operation has ended.
    pub async fn wait(&self, name: &str) -> Operation {
        let mut operations = self.operations().await;
        let end = Instant::now() + Duration::from_secs(120);
        while Instant::now() < end {
            let request = WaitOperationRequest { name: name.to_owned(), ..Default::default() };
            let operation = operations.wait_operation(request).await.unwrap().into_inner();
            if operation.done {
                return operation;
            }
        }
        panic!("{name} does not end\n{}", self.log());
    }

    /// Runs the command line against the service.
    pub fn cli(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments).env_clear().env("HOLDFAST_ENDPOINT", self.address()).env("HOLDFAST_TOKEN", TOKEN);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if arguments.iter().any(|argument| argument.ends_with("-stdin")) {
            secret(stdin.trim_end());
        }
        // It may end without reading.
        let _ = process.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = process.wait_with_output().unwrap();
        nothing_shows(&[output.stdout.as_slice(), &output.stderr].concat(), "what the command line wrote");
        output
    }

    /// Every backup is READY again, as if nobody had looked at its file.
    pub async fn forget_damage(&self, superuser: &mut PgConnection) {
        let forget = "update holdfast.backup set state = 'ready', body = (body - 'last_verification')
                      || jsonb_build_object('state', 'ready', 'state_detail', '')";
        superuser.execute(sqlx::raw_sql(forget)).await.unwrap();
    }

    /// Path of the file of a backup.
    pub fn file(&self, backup: &Backup) -> PathBuf {
        self.folder().join(&backup.file_name)
    }

    /// Names in the folder, those with a leading dot left out.
    pub fn files(&self) -> Vec<String> {
        let names =
            std::fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// Drafts in the folder: files that are being written, or were left behind.
    pub fn drafts(&self) -> Vec<String> {
        let names =
            std::fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(".draft-")).collect()
    }
}

/// What a service has of its own: the folder, and the files of its secrets.
fn new_dir() -> Arc<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("backups")).unwrap();
    let secrets = [
        ("token", TOKEN),
        ("update-token", UPDATE_TOKEN),
        ("password", PASSWORD),
        ("seal-key", "0123456789abcdef0123456789abcdef"),
    ];
    for (name, text) in secrets {
        secret(text);
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    Arc::new(dir)
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            nothing_shows(self.log().as_bytes(), "the log of the service");
        }
    }
}

/// In hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A refused call in the shape of a failed operation.
pub fn refused(status: tonic::Status) -> OperationError {
    let details = status.get_error_details_vec();
    let infos =
        details.into_iter().filter_map(|detail| if let ErrorDetail::ErrorInfo(info) = detail { Some(info) } else { None });
    let [info] = <[_; 1]>::try_from(infos.collect::<Vec<_>>()).unwrap_or_else(|infos| panic!("{infos:?} in {status:?}"));
    assert!(["backup.holdfast", "lock.holdfast"].contains(&info.domain.as_str()), "{status:?}");
    OperationError {
        code: status.code().into(),
        message: status.message().to_owned(),
        reason: info.reason,
        domain: info.domain,
        metadata: info.metadata,
        ..Default::default()
    }
}

/// Polls until `check` has an answer.
///
/// # Panics
/// When it has none within `limit`.
pub async fn eventually<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = check() {
            return answer;
        }
        assert!(Instant::now() < end, "still not so after {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same, for a check that asks the service.
pub async fn eventually_async<T>(limit: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = check().await {
            return answer;
        }
        assert!(Instant::now() < end, "still not so after {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
