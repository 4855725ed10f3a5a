//! The program: arguments in, exit code out. `holdfast serve` is the service, everything else its client.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use holdfast::cli::{self, Arguments, Command};
use holdfast::config::Serve;
use holdfast::folder::Folder;
use holdfast::operations::{Holdfast, Parts};
use holdfast::postgres::State;
use holdfast::{grpc, telemetry, timer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// How long operations may take to roll back, or to commit, once the service is asked to stop.
const STOP: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    let Arguments { connection, json, command } = Arguments::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return cli::could_not(error.into()),
    };
    let code = match command {
        Command::Serve(arguments) => match runtime.block_on(serve(*arguments)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => cli::could_not(error),
        },
        Command::Client(command) => runtime.block_on(cli::run(command, &connection, json)),
    };
    // A thread that still waits for the terminal must not keep the program alive.
    runtime.shutdown_background();
    code
}

/// The whole life of the service.
async fn serve(arguments: Serve) -> Result<()> {
    arguments.check()?;
    telemetry::start(&arguments.log, arguments.log_format)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);

    let catalog = arguments.catalog()?;
    let database = arguments.database()?;
    let seal_key = arguments.seal_key()?;
    let authenticator = arguments.authenticator()?;
    let folder = Folder::open(&arguments.folder)
        .with_context(|| format!("the backup folder {} cannot be used", arguments.folder.display()))?;
    let state =
        State::open(&database).await.with_context(|| format!("the state in the database {database:?} cannot be opened"))?;
    let operation_timeout = *arguments.operation_timeout;
    let parts = Parts { database, state, folder, catalog, seal_key, operation_timeout, webhook: arguments.webhook()? };
    let holdfast = Holdfast::start(parts).await.context("Holdfast cannot start")?;

    let listener = TcpListener::bind(arguments.listen).await.with_context(|| format!("cannot listen on {}", arguments.listen))?;
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "listening");
    let mut timer = timer::start(holdfast.clone()).await.context("the timer cannot start")?;
    let settings = grpc::Settings { authenticator, allow_plaintext_secrets: arguments.allow_plaintext_secrets };
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
        holdfast.stop(STOP).await;
    };
    let (served, ()) = tokio::join!(serve, stop);
    timer.shutdown().await?;
    tracing::info!("stopped");
    Ok(served?)
}
