//! The program: arguments in, exit code out. `holdfast serve` is the service, everything else its client.

use std::alloc::System;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches};
use holdfast::cli::{self, Arguments, Command};
use holdfast::config::{self, Serve};
use holdfast::folder::Folder;
use holdfast::grpc::{self, Answer, Answered, Authenticator, Listener, Probes, RemoteLock, Tls};
use holdfast::lock::Keeper;
use holdfast::metrics::{self, Metrics};
use holdfast::model::Catalog;
use holdfast::operations::{self, Archive, Holdfast, Hosted, Parts, Recipients, SealKey, Told, Trust};
use holdfast::postgres::{Database, State};
use holdfast::webhook::Webhook;
use holdfast::{telemetry, timer};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use zeroizing_alloc::ZeroAlloc;

/// Memory is overwritten when it is freed: passphrases and rows pass through buffers that are not ours, of HTTP/2 and gRPC.
#[global_allocator]
static MEMORY: ZeroAlloc<System> = ZeroAlloc(System);

/// How long a restore that is committing may take to end, once the service is asked to stop.
const COMMIT: Duration = Duration::from_secs(60);
/// Longest pause between two looks for a database that is not there yet.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

fn main() -> ExitCode {
    keep_memory_private();
    let matches = Arguments::command().get_matches();
    let Arguments { connection, json, command } = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return cli::could_not(error.into()),
    };
    let code = match command {
        Command::Serve(arguments) => {
            // The lock is kept from a thread that does nothing else.
            let apart = match Builder::new_multi_thread().worker_threads(1).thread_name("lock").enable_all().build() {
                Ok(apart) => apart,
                Err(error) => return cli::could_not(error.into()),
            };
            let served = runtime.block_on(serve(*arguments, apart.handle()));
            apart.shutdown_background();
            match served {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => cli::could_not(error),
            }
        }
        Command::CheckConfig(arguments) => {
            let settings = matches.subcommand().map(|(_, matches)| config::in_force(matches)).unwrap_or_default();
            cli::print_settings(&settings, runtime.block_on(check(*arguments)), json)
        }
        Command::Client(command) => runtime.block_on(cli::run(command, &connection, json)),
    };
    // A thread that still waits for the terminal must not keep the program alive.
    runtime.shutdown_background();
    code
}

/// Passphrases are in the memory of this process: it leaves no core behind, and nobody but root looks into it.
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let private = set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .and_then(|()| setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }));
    // A kernel that does not know this keeps nobody from a restore.
    debug_assert!(private.is_ok(), "{private:?}");
}

/// The maintenance lock, called from the runtime `apart`; and the same for others, when it is hosted here.
fn lock(
    remote: Option<RemoteLock>,
    ttl: Duration,
    state: &State,
    folder: &Folder,
    seal_key: &SealKey,
    apart: &Handle,
) -> (Keeper, Option<Hosted>) {
    if let Some(remote) = remote {
        return (Keeper::new(Arc::new(remote), apart.clone(), ttl), None);
    }
    let _apart = apart.enter();
    let own = Hosted::new(state.apart(4), folder.clone(), seal_key.clone());
    let hosted = Hosted::new(state.clone(), folder.clone(), seal_key.clone());
    (Keeper::new(Arc::new(own), apart.clone(), ttl), Some(hosted))
}

/// The service, from its first log line to its last.
async fn serve(arguments: Serve, apart: &Handle) -> Result<()> {
    arguments.check()?;
    let export = arguments.export()?;
    let telemetry = telemetry::start(&arguments.telemetry.log, arguments.telemetry.log_format, export.as_ref())?;
    let metrics = match (&export, arguments.telemetry.metrics_listen) {
        (None, None) => None,
        _ => Some(Arc::new(Metrics::new(export.as_ref())?)),
    };
    let served = live(arguments, apart, metrics.clone()).await;
    let end = async {
        if let Some(metrics) = metrics {
            metrics.end().await;
        }
    };
    tokio::join!(telemetry.end(), end);
    served
}

/// Whether `serve` could start with this, as far as that can be known without a connection.
async fn check(arguments: Serve) -> Result<()> {
    arguments.check()?;
    telemetry::filter(&arguments.telemetry.log)?;
    arguments.export()?;
    Configured::read(&arguments, &Handle::current()).await.map(|_| ())
}

/// What the configuration stands for. Nothing is connected yet.
#[derive(Clone)]
struct Configured {
    catalog: Catalog,
    database: Database,
    seal_key: SealKey,
    recipients: Recipients,
    trusted: Trust,
    authenticator: Authenticator,
    folder: Folder,
    webhook: Option<Webhook>,
    archive: Option<Archive>,
    lock_ttl: Duration,
    remote: Option<RemoteLock>,
    tls: Option<Arc<Tls>>,
}

impl Configured {
    async fn read(arguments: &Serve, apart: &Handle) -> Result<Self> {
        let (catalog, database, seal_key) = (arguments.catalog()?, arguments.database()?, arguments.seal_key()?);
        let (recipients, trusted) = (arguments.recipients()?, arguments.trusted()?);
        let authenticator = arguments.authenticator()?;
        let folder = Folder::open(&arguments.folder)
            .with_context(|| format!("the backup folder {} cannot be used", arguments.folder.display()))?;
        let (webhook, archive) = (arguments.webhook()?, arguments.archive()?);
        let (lock_ttl, remote) = (arguments.lock_ttl()?, {
            let _apart = apart.enter();
            arguments.remote_lock()?
        });
        let tls = match arguments.tls() {
            Some(files) => Some(Tls::open(files).await.context("TLS cannot be served")?),
            None => None,
        };
        Ok(Self {
            catalog,
            database,
            seal_key,
            recipients,
            trusted,
            authenticator,
            folder,
            webhook,
            archive,
            lock_ttl,
            remote,
            tls,
        })
    }
}

/// The whole life of the service.
async fn live(arguments: Serve, apart: &Handle, metrics: Option<Arc<Metrics>>) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let probes = Probes::new(*arguments.telemetry.backup_objective);
    if let Some(at) = arguments.telemetry.health_listen {
        let listener = Listener::bind(at, None).await.with_context(|| format!("cannot listen on {at} for health"))?;
        tracing::info!(address = %listener.address()?, "health");
        tokio::spawn(grpc::serve_health(listener, probes.clone()));
    }

    let configured = Configured::read(&arguments, apart).await?;
    let (driver, lost_volume, limits) = (arguments.driver(), arguments.lost_volume, arguments.limits());
    let (operation_timeout, scrub_period) = (*arguments.operation_timeout, arguments.scrub_period());
    let (told, answered): (Told, Answered) = match metrics.clone() {
        None => (Arc::new(|_| {}), Arc::new(|_| {})),
        Some(metrics) => {
            let calls = metrics.clone();
            let answered = move |answer: Answer| calls.call(answer.method, answer.status, answer.at_fault, answer.took);
            (Arc::new(move |operation| metrics.operation(operation)), Arc::new(answered))
        }
    };
    let start = async || {
        let Configured { catalog, database, seal_key, recipients, trusted, folder, .. } = configured.clone();
        let Configured { webhook, archive, lock_ttl, remote, .. } = configured.clone();
        let state = State::open(&database).await?;
        let (locks, hosted) = lock(remote, lock_ttl, &state, &folder, &seal_key, apart);
        let parts = Parts {
            database,
            state,
            folder,
            catalog,
            seal_key,
            recipients,
            trusted,
            locks,
            hosted,
            operation_timeout,
            scrub_period,
            driver,
            limits,
            lost_volume,
            webhook,
            archive,
            told: told.clone(),
        };
        Holdfast::start(parts).await
    };

    let Configured { tls, authenticator, database, .. } = configured.clone();
    let listener = Listener::bind(arguments.listen, tls.clone()).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = listener.address()?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    let scrapes = match arguments.telemetry.metrics_listen {
        None => None,
        Some(at) => {
            let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at} for metrics"))?;
            tracing::info!(address = %listener.local_addr()?, "metrics");
            Some(listener)
        }
    };
    let started = CancellationToken::new();
    let waiting = tokio::spawn(grpc::serve_not_ready(listener.again()?, authenticator.clone(), started.clone()));
    let holdfast = tokio::select! {
        holdfast = when_there(start) => holdfast.with_context(|| format!("Holdfast cannot start on the database {database:?}"))?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    started.cancel();
    waiting.await??;
    tracing::info!(%address, "started");

    if let Some(tls) = tls {
        tokio::spawn(tls.follow());
    }
    if let Some(metrics) = metrics {
        tokio::spawn(metrics.clone().push(holdfast.clone()));
        if let Some(listener) = scrapes {
            tokio::spawn(metrics::serve(listener, holdfast.clone(), metrics));
        }
    }
    let mut timer = timer::start(holdfast.clone()).await.context("the timer cannot start")?;
    let allow_plaintext_secrets = arguments.allow_plaintext_secrets;
    let settings = grpc::Settings { authenticator, allow_plaintext_secrets, probes, answered };
    let stopping = holdfast.stopping();
    let serve = async {
        let served = grpc::serve(listener, holdfast.clone(), settings).await;
        stopping.cancel();
        served
    };
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stopping.cancelled() => {}
        }
        tracing::info!("stopping");
        holdfast.stop(COMMIT).await;
    };
    let (served, ()) = tokio::join!(serve, stop);
    timer.shutdown().await?;
    tracing::info!("stopped");
    Ok(served?)
}

/// Starts as soon as the database is there. What does not pass by itself is an error.
async fn when_there(start: impl AsyncFn() -> Result<Holdfast, operations::Error>) -> Result<Holdfast, operations::Error> {
    let mut pause = Duration::from_millis(250);
    loop {
        match start().await {
            Err(operations::Error::Database(error)) if error.passes() => {
                tracing::warn!(error = &error as &dyn std::error::Error, "not started yet; waiting for the database");
            }
            started => return started,
        }
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}
