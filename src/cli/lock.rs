//! The maintenance lock: who has it, how that changes, and, as the last resort, taking it away from a holder that is gone.
//!
//! A holder is named by its token, which is never guessed: between looking and releasing another one may have come.

use tokio::time::timeout;
use tonic::{Code, Status};

use super::Session;
use super::connect::unary;
use super::describe::lock as describe;
use super::follow::{Outage, SILENCE};
use super::output::{clean, note};
use super::passphrase::{can_ask, confirm};
use super::problem::Problem;
use crate::grpc::proto::lock::{ForceReleaseLockRequest, GetLockRequest, Lock, LockHolder, WatchLockRequest};

/// The lock that backup, restore and software update share.
const LOCK: &str = "locks/platform-maintenance";

#[derive(Debug, Default, clap::Subcommand)]
pub enum What {
    /// Show who has it, why, since and until when, and what can be done about it
    #[default]
    Show,
    /// Show each change until Ctrl-C
    Watch,
    /// Take it away from a holder that is gone; a backup or restore is better cancelled
    Release(Release),
}

#[derive(Debug, clap::Args)]
pub struct Release {
    /// Token of the holder that is meant, as `holdfast lock` shows it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    token: Option<i64>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub async fn run(session: Session, what: What) -> Result<(), Problem> {
    match what {
        What::Show => session.output.result(&get(&session).await?, describe::lock),
        What::Watch => tokio::select! {
            ended = watch(&session) => ended,
            _ = tokio::signal::ctrl_c() => Err(Problem::Interrupted("Interrupted.".into())),
        },
        What::Release(what) => release(&session, what).await,
    }
}

async fn get(session: &Session) -> Result<Lock, Problem> {
    let request = || unary(GetLockRequest { name: LOCK.into() });
    session.client.repeat(async || session.client.locks().get_lock(request()).await).await.map_err(hosted)
}

async fn watch(session: &Session) -> Result<(), Problem> {
    let (mut shown, mut outage) = (None, Outage::default());
    loop {
        let status = changes(session, &mut shown, &mut outage).await?;
        let waited = outage.wait(status, || note("The connection was lost; trying again.")).await;
        waited.map_err(|status| hosted(session.client.explained(status).into()))?;
    }
}

/// Prints what differs from what was `shown`. Returns why the stream ended.
async fn changes(session: &Session, shown: &mut Option<Lock>, outage: &mut Outage) -> Result<Status, Problem> {
    let silent = || Status::unavailable("the service fell silent");
    let request = WatchLockRequest { name: LOCK.into() };
    let mut stream = match timeout(SILENCE, session.client.locks().watch_lock(request)).await {
        Ok(Ok(stream)) => stream.into_inner(),
        Ok(Err(status)) => return Ok(status),
        Err(_) => return Ok(silent()),
    };
    loop {
        let lock = match timeout(SILENCE, stream.message()).await {
            Ok(Ok(Some(lock))) => lock,
            Ok(Ok(None)) => return Ok(Status::unavailable("the service ended the watch")),
            Ok(Err(status)) => return Ok(status),
            Err(_) => return Ok(silent()),
        };
        *outage = Outage::default();
        let seen = without_renewals(&lock);
        if shown.as_ref() != Some(&seen) {
            session.output.result(&lock, describe::line)?;
            *shown = Some(seen);
        }
    }
}

/// What a renewal does not change. Messages are repeated so that the stream stays alive.
fn without_renewals(lock: &Lock) -> Lock {
    let holder = lock.holder.clone().map(|holder| LockHolder { renew_time: None, expire_time: None, ..holder });
    Lock { holder, update_time: None, ..lock.clone() }
}

async fn release(session: &Session, release: Release) -> Result<(), Problem> {
    let reason = release.reason.filter(|reason| !reason.trim().is_empty());
    let (Some(token), Some(reason)) = (release.token, reason) else {
        return Err(unnamed(&get(session).await?));
    };
    if !release.yes {
        can_ask(None)?;
        let lock = get(session).await?;
        let holder = lock.holder.as_ref().filter(|holder| holder.fencing_token == token);
        let holder = holder.ok_or_else(|| other_holder(&lock, token))?;
        show(&lock, holder);
        let question = format!("The lock is taken away from {}, token {token}.", clean(&describe::who(holder)));
        confirm(&question, None).await?;
    }
    let request = ForceReleaseLockRequest { name: LOCK.into(), fencing_token: token, reason };
    let call = async || session.client.locks().force_release_lock(unary(request.clone())).await;
    let lock = session.client.once(call).await.map_err(hosted)?;
    note(&format!(
        "The lock was taken away. Token {token} is refused from now on: what its holder still changes is rolled back."
    ));
    session.output.result(&lock, describe::lock)
}

/// What is known before somebody decides.
fn show(lock: &Lock, holder: &LockHolder) {
    note(&format!("{}\n\n{}", describe::lock(lock), describe::warning(lock, holder)));
}

/// Why nothing is released without a token and a reason.
fn unnamed(lock: &Lock) -> Problem {
    let Some(holder) = &lock.holder else { return Problem::usage("nobody has the lock: there is nothing to release") };
    show(lock, holder);
    let (who, token) = (describe::who(holder), holder.fencing_token);
    Problem::usage(format!(
        "nothing was released; if {who} is the one you mean, name it and say why: --token {token} --reason TEXT"
    ))
}

fn other_holder(lock: &Lock, token: i64) -> Problem {
    let message = format!("Token {token} is not that of the present holder. Nothing was released.");
    let instructions = match &lock.holder {
        None => "Nobody has the lock now.".to_owned(),
        Some(holder) => {
            format!("{} has it, with token {}. Look first: holdfast lock", describe::who(holder), holder.fencing_token)
        }
    };
    Problem::refused_with(Code::Aborted, "FENCING_TOKEN_MISMATCH", message, instructions)
}

/// A service that is itself a client of the lock cannot take it from anybody.
fn hosted(problem: Problem) -> Problem {
    match problem {
        Problem::Call(status) if status.code() == Code::Unimplemented => {
            let message = "This service does not host the maintenance lock.".to_owned();
            let instructions = "Ask the one that does: --endpoint URL --token-file FILE".to_owned();
            Problem::refused_with(Code::Unimplemented, "NOT_SERVED", message, instructions)
        }
        problem => problem,
    }
}
