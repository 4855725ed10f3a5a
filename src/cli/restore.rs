//! Restoring: what will happen is previewed, shown and confirmed, and exactly that is restored.
//!
//! With `--yes` nobody looks, so nothing is previewed: the service restores what it finds, and refuses what was not accepted. A
//! preview would only go stale on a platform that is never quiet. It is made after a refusal, to show what stood in the way.

use anyhow::anyhow;

use super::Session;
use super::backups::{Start, finish, get};
use super::connect::unary;
use super::consent::{Consent, acknowledge};
use super::describe::restore::{preview as described, restore_report, what_is_new};
use super::follow::{follow, succeeded};
use super::names::{BackupChoice, Reason, Resource};
use super::opener::{Opening, Sent};
use super::output::{clean, id, note, time};
use super::passphrase::{can_ask, confirm};
use super::problem::Problem;
use super::verify::bring_back;
use crate::grpc::proto::backup::{Backup, PreviewRestoreRequest, RestorePreview, RestoreRequest, operation};

const CANNOT_BE_UNDONE: &str = "No safety backup is made: this restore cannot be undone.";

#[derive(Debug, clap::Args)]
pub struct Restore {
    /// Name of the backup, or `latest`, which is never a safety backup
    #[arg(value_name = "NAME")]
    backup: BackupChoice,
    #[command(flatten)]
    how: How,
}

/// How a backup is restored, whichever it is.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Restore these only, for example adapters,licenses [default: all that the backup has]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    resources: Vec<Resource>,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Only show what would happen; the exit code says whether it could
    #[arg(long, conflicts_with_all = ["validate_only", "no_wait", "skip_safety_backup"])]
    preview: bool,
    /// Do not ask. Blocking warnings are not accepted by it
    #[arg(long)]
    yes: bool,
    /// Accept blocking warnings of this reason, for example LICENSES_CLEARED; can be given more than once
    #[arg(long, value_name = "REASON")]
    acknowledge: Vec<Reason>,
    /// Do not back up the present data first: this restore cannot be undone
    #[arg(long)]
    skip_safety_backup: bool,
    #[command(flatten)]
    opener: Opening,
    #[command(flatten)]
    start: Start,
}

impl How {
    /// # Errors
    /// When something would have to be asked and nobody is there.
    pub fn without_surprise(&self) -> Result<(), Problem> {
        if self.asks() { can_ask(Some(&self.opener.passphrase)) } else { Ok(()) }
    }

    /// The resources that were named.
    pub fn resources(&self) -> Vec<String> {
        self.resources.iter().map(ToString::to_string).collect()
    }

    fn asks(&self) -> bool {
        !self.yes && !self.preview && !self.start.validate_only
    }
}

pub async fn restore(session: Session, restore: Restore) -> Result<(), Problem> {
    restore.how.without_surprise()?;
    let backup = get(&session, &restore.backup).await?;
    let resources = restore.how.resources();
    carry_out(&session, backup, resources, &restore.how).await
}

/// Previews, asks, restores and reports.
pub async fn carry_out(session: &Session, backup: Backup, resources: Vec<String>, how: &How) -> Result<(), Problem> {
    bring_back(session, &backup).await?;
    let Sent { passphrase, secret_key } = how.opener.for_service(&backup)?;
    let mut request = RestoreRequest {
        name: backup.name,
        passphrase,
        secret_key,
        resources,
        skip_safety_backup: how.skip_safety_backup,
        lock_wait: how.start.lock_wait()?,
        reason: how.reason.clone(),
        validate_only: how.start.validate_only,
        ..RestoreRequest::default()
    };
    let mut consent = Consent::new(&how.acknowledge);
    if how.preview {
        let preview = rehearse(session, &request).await?;
        session.output.result(&preview, described)?;
        return consent.complete(&preview);
    }
    if backup.snapshot_time.is_some() && !how.start.validate_only {
        note(&format!("{} has the data of {}.", id(&request.name), time(backup.snapshot_time)));
    }
    if !how.asks() {
        if how.skip_safety_backup && !how.start.validate_only {
            note(CANNOT_BE_UNDONE);
        }
        request.acknowledged_reasons = how.acknowledge.iter().map(ToString::to_string).collect();
        return match send(session, how, request.clone()).await {
            Err(problem) if how.start.follows() && is_about_warnings(&problem) => {
                Err(explained(session, &request, &consent, problem).await)
            }
            ended => ended,
        };
    }
    let mut earlier: Option<RestorePreview> = None;
    loop {
        let preview = rehearse(session, &request).await?;
        note(&earlier.as_ref().map_or_else(|| described(&preview), |earlier| what_is_new(earlier, &preview)));
        consent.ask(earlier.as_ref(), &preview, &how.opener.passphrase).await?;
        last_question(&preview, how).await?;
        request.preview_etag.clone_from(&preview.etag);
        acknowledge(&preview, &mut request);
        match send(session, how, request.clone()).await {
            // The same request id would be answered with the same refusal.
            Err(problem) if problem.reason().as_deref() == Some("PREVIEW_STALE") && !how.start.has_request_id() => {
                note("The system or the file changed since the preview; nothing was restored. It is previewed again.");
                if earlier.is_some() {
                    note("Where it never stops changing, --yes restores without a preview.");
                }
                earlier = Some(preview);
            }
            ended => return ended,
        }
    }
}

fn is_about_warnings(problem: &Problem) -> bool {
    matches!(problem.reason().as_deref(), Some("WARNINGS_NOT_ACKNOWLEDGED" | "RESTORE_CONSTRAINT_VIOLATION"))
}

/// Shows what a restore was refused for, all of it, and says what would have to be accepted. What the service said stands
/// when a preview does not bear it out, or cannot be made.
async fn explained(session: &Session, request: &RestoreRequest, consent: &Consent, problem: Problem) -> Problem {
    note("It was refused, and nothing was restored. A preview shows all that stands in the way.");
    let Ok(preview) = rehearse(session, request).await else { return problem };
    if session.output.json {
        if let Err(problem) = session.output.result(&preview, described) {
            return problem;
        }
    } else {
        note(&described(&preview));
    }
    consent.complete(&preview).err().unwrap_or(problem)
}

async fn last_question(preview: &RestorePreview, how: &How) -> Result<(), Problem> {
    if how.skip_safety_backup {
        confirm(CANNOT_BE_UNDONE, Some(&how.opener.passphrase)).await?;
    }
    let what: Vec<_> = preview.changes.iter().map(|change| clean(&id(&change.resource))).collect();
    let what = if what.is_empty() { "no resource".to_owned() } else { what.join(", ") };
    let question = format!("The present data of {what} is replaced with that of {}.", clean(&id(&preview.backup)));
    confirm(&question, Some(&how.opener.passphrase)).await
}

/// What the restore would do.
async fn rehearse(session: &Session, request: &RestoreRequest) -> Result<RestorePreview, Problem> {
    let Session { client, .. } = session;
    let request = PreviewRestoreRequest {
        name: request.name.clone(),
        passphrase: request.passphrase.clone(),
        secret_key: request.secret_key.clone(),
        resources: request.resources.clone(),
    };
    let started = client.begin(async || client.backups().preview_restore(unary(request.clone())).await).await?;
    match succeeded(follow(client, started).await?)?.result {
        Some(operation::Result::Preview(preview)) => Ok(preview),
        _ => Err(anyhow!("the service answered a preview with something else").into()),
    }
}

/// Restores. A call that was lost is sent again with its request id; a new preview makes a new request.
async fn send(session: &Session, how: &How, mut request: RestoreRequest) -> Result<(), Problem> {
    let Session { client, output } = session;
    request.request_id = how.start.request_id();
    let started = client.begin(async || client.backups().restore(unary(request.clone())).await).await?;
    let Some(ended) = finish(session, &how.start, started).await? else { return Ok(()) };
    match ended.result {
        Some(operation::Result::Restore(result)) => output.result(&result, restore_report),
        _ => Err(anyhow!("the service answered a restore with something else").into()),
    }
}
