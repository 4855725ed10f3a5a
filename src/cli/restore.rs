//! Restoring: what will happen is shown and confirmed before anything is sent.

use super::Session;
use super::backups::{Start, finish, get};
use super::connect::unary;
use super::describe;
use super::names::{BackupChoice, Resource};
use super::output::{id, note};
use super::passphrase::{Source, confirm};
use super::problem::Problem;
use crate::grpc::proto::backup::{RestoreRequest, operation};

#[derive(Debug, clap::Args)]
pub struct Restore {
    /// Name of the backup, or `latest`
    #[arg(value_name = "NAME")]
    backup: BackupChoice,
    /// Restore these only, for example adapters,licenses [default: all that the backup has]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    resources: Vec<Resource>,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    passphrase: Source,
    #[command(flatten)]
    start: Start,
}

pub async fn restore(session: Session, restore: Restore) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let backup = get(&session, &restore.backup).await?;
    let resources: Vec<String> = restore.resources.iter().map(ToString::to_string).collect();
    if !restore.yes && !restore.start.validate_only {
        note(&describe::backup(&backup));
        let what = if resources.is_empty() {
            "all resources of this backup".to_owned()
        } else {
            resources.iter().map(|name| id(name)).collect::<Vec<_>>().join(", ")
        };
        confirm(&format!("The present data of {what} is replaced with that of the backup."), Some(&restore.passphrase))?;
    }
    let passphrase = if describe::is_encrypted(&backup) {
        restore.passphrase.for_service(&id(&backup.name))?
    } else {
        restore.passphrase.given()?
    };
    let request = RestoreRequest {
        name: backup.name,
        passphrase: passphrase.map(|passphrase| passphrase.reveal().to_owned()).unwrap_or_default(),
        resources,
        lock_wait: restore.start.lock_wait()?,
        reason: restore.reason,
        request_id: restore.start.request_id(),
        validate_only: restore.start.validate_only,
        ..RestoreRequest::default()
    };
    let started = client.repeat(async || client.backups().restore(unary(request.clone())).await).await?;
    let Some(ended) = finish(&session, &restore.start, started).await? else { return Ok(()) };
    match ended.result {
        Some(operation::Result::Restore(result)) => output.result(&result, describe::restore_result),
        _ => Err(anyhow::anyhow!("the service answered a restore with something else").into()),
    }
}
