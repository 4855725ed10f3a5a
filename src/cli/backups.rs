//! Making, listing, showing and deleting backups.

use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use prost_types::FieldMask;
use uuid::Uuid;

use super::Session;
use super::connect::unary;
use super::describe;
use super::follow::{follow, succeeded};
use super::names::{BackupChoice, BackupName};
use super::output::{id, note};
use super::passphrase::confirm;
use super::problem::Problem;
use crate::grpc::proto::backup::{
    Backup, BackupRequest, DeleteBackupRequest, GetBackupRequest, ListBackupsRequest, ListBackupsResponse, Operation,
    SyncBackupsRequest, Trigger, UpdateBackupRequest, backup, operation,
};

/// How a command that starts an operation does so.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// Follow the operation to its end; this is the default
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Only start the operation and show it
    #[arg(long)]
    pub no_wait: bool,
    /// Wait this long for a backup, restore or software update that is in the way, for example 10m; at most 6h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    lock_wait: Option<Duration>,
    /// Text that makes a repeated call harmless: the same id never starts a second operation [default: a new UUID]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Only check whether it could be done
    #[arg(long)]
    pub validate_only: bool,
}

impl Start {
    /// With an id of its own, a call that was lost can be sent again by itself.
    pub fn request_id(&self) -> String {
        self.request_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string())
    }

    pub fn has_request_id(&self) -> bool {
        self.request_id.is_some()
    }

    /// Whether what is started is followed to its end.
    pub fn follows(&self) -> bool {
        !self.no_wait && !self.validate_only
    }

    pub fn lock_wait(&self) -> Result<Option<prost_types::Duration>, Problem> {
        self.lock_wait.map(duration).transpose()
    }
}

pub fn duration(time: Duration) -> Result<prost_types::Duration, Problem> {
    time.try_into().map_err(|_| Problem::usage("the time is too long"))
}

#[derive(Debug, clap::Args)]
pub struct Make {
    /// Free text that is kept with the backup
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// Make the backup as one of the schedule; while the schedule is disabled nothing is done
    #[arg(long)]
    scheduled: bool,
    /// The time for which it was planned, for example 2026-03-01T01:00:00Z; without it, the present minute. Each such time
    /// makes one backup
    #[arg(long, value_name = "TIME", requires = "scheduled", value_parser = rfc3339)]
    scheduled_time: Option<SystemTime>,
    #[command(flatten)]
    start: Start,
}

fn rfc3339(text: &str) -> Result<SystemTime, &'static str> {
    let time = text.parse::<DateTime<Utc>>().map(Into::into);
    time.map_err(|_| "a time is such as 2026-03-01T01:00:00Z or 2026-03-01T02:00:00+01:00 (RFC 3339)")
}

#[derive(Debug, clap::Args)]
pub struct Which {
    /// Name of the backup, or `latest`
    #[arg(value_name = "NAME")]
    backup: BackupChoice,
}

#[derive(Debug, clap::Args)]
pub struct Update {
    /// Name of the backup, or `latest`
    #[arg(value_name = "NAME")]
    backup: BackupChoice,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Retention neither counts nor deletes it
    #[arg(long, conflicts_with = "unpin")]
    pin: bool,
    /// Retention counts it again, in its old place
    #[arg(long)]
    unpin: bool,
    /// Free text that is kept with the backup; empty: none
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Name of the backup
    #[arg(value_name = "NAME")]
    backup: BackupName,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub async fn make(session: Session, make: Make) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let trigger = if make.scheduled { Trigger::Scheduled } else { Trigger::OnDemand };
    let request = BackupRequest {
        description: make.description,
        trigger: trigger.into(),
        scheduled_time: make.scheduled_time.map(Into::into),
        lock_wait: make.start.lock_wait()?,
        request_id: make.start.request_id(),
        validate_only: make.start.validate_only,
    };
    let started = match client.begin(async || client.backups().backup(unary(request.clone())).await).await {
        Err(problem) if make.scheduled && problem.reason().as_deref() == Some("SCHEDULE_DISABLED") => {
            note("skipped: the schedule is disabled");
            return Ok(());
        }
        started => started?,
    };
    let Some(ended) = finish(&session, &make.start, started).await? else { return Ok(()) };
    match ended.result {
        Some(operation::Result::Backup(mut result)) => {
            let made = result.backup.take().ok_or_else(|| anyhow!("the service did not say which backup it made"))?;
            let made = in_catalog(&session, made).await;
            output.result(&made, |made| describe::backup_result(made, &result))
        }
        _ => Err(anyhow!("the service answered a backup with something else").into()),
    }
}

/// A backup that was made, with what only the catalog knows: its place in the retention queue, its etag. The backup is good
/// even when the catalog does not answer any more.
async fn in_catalog(session: &Session, made: Backup) -> Backup {
    let request = GetBackupRequest { name: made.name.clone() };
    let found = session.client.repeat(async || session.client.backups().get_backup(unary(request.clone())).await).await;
    found.unwrap_or(made)
}

/// Follows what was started, unless that was not asked for: then it is shown as it is.
pub async fn finish(session: &Session, start: &Start, started: Operation) -> Result<Option<Operation>, Problem> {
    if start.validate_only {
        let checked = succeeded(started)?;
        note("It could be done. Nothing was started.");
        if session.output.json {
            session.output.result(&checked, describe::operation)?;
        }
        return Ok(None);
    }
    if start.no_wait {
        session.output.result(&started, describe::operation)?;
        return Ok(None);
    }
    note(&format!("operation {}", id(&started.name)));
    succeeded(follow(&session.client, started).await?).map(Some)
}

pub async fn list(session: Session) -> Result<(), Problem> {
    let mut all = ListBackupsResponse::default();
    loop {
        let page = page(&session, &all.next_page_token).await?;
        all.backups.extend(page.backups);
        (all.next_page_token, all.total_size) = (page.next_page_token, page.total_size);
        if all.next_page_token.is_empty() {
            return session.output.result(&all, describe::backups);
        }
    }
}

pub async fn show(session: Session, which: Which) -> Result<(), Problem> {
    session.output.result(&get(&session, &which.backup).await?, describe::backup)
}

pub async fn update(session: Session, update: Update) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let name = get(&session, &update.backup).await?.name;
    let Change { pin, unpin, description } = update.change;
    let mut paths = Vec::new();
    paths.extend((pin || unpin).then(|| "pinned".to_owned()));
    paths.extend(description.is_some().then(|| "description".to_owned()));
    let description = description.unwrap_or_default();
    let request = UpdateBackupRequest {
        backup: Some(Backup { name, description, pinned: Some(pin), ..Default::default() }),
        update_mask: Some(FieldMask { paths }),
    };
    let updated = client.repeat(async || client.backups().update_backup(unary(request.clone())).await).await?;
    output.result(&updated, describe::backup)
}

/// Every new file is read to its end.
pub async fn sync(session: Session) -> Result<(), Problem> {
    const LIMIT: Duration = Duration::from_secs(3600);
    let Session { client, output } = &session;
    let found = client.within(LIMIT, async || client.backups().sync_backups(SyncBackupsRequest {}).await).await?;
    output.result(&found, describe::synced)
}

pub async fn delete(session: Session, delete: Delete) -> Result<(), Problem> {
    let Session { client, .. } = &session;
    if !delete.yes {
        let found = get(&session, &BackupChoice::Named(delete.backup.clone())).await?;
        note(&describe::backup(&found));
        confirm("This backup and its file are deleted for good.", None).await?;
    }
    let request = DeleteBackupRequest { name: delete.backup.to_string(), etag: String::new() };
    client.once(async || client.backups().delete_backup(unary(request.clone())).await).await?;
    note(&format!("{} was deleted", id(&request.name)));
    Ok(())
}

/// The backup that was chosen, as the catalog has it now.
///
/// A safety backup is never the latest: else a second `restore latest` would undo the first. One that came from
/// elsewhere is it only where there is no other: it may be of any age.
pub async fn get(session: &Session, choice: &BackupChoice) -> Result<Backup, Problem> {
    match choice {
        BackupChoice::Named(name) => {
            let request = GetBackupRequest { name: name.to_string() };
            session.client.repeat(async || session.client.backups().get_backup(unary(request.clone())).await).await
        }
        BackupChoice::Latest => {
            let from_elsewhere = [Trigger::Imported, Trigger::Uploaded];
            let made_here = |backup: &Backup| !from_elsewhere.contains(&backup.trigger()) && !describe::is_safety(backup);
            let latest = match newest(session, made_here).await? {
                None => newest_data(session).await?,
                latest => latest,
            };
            let none = "there is no backup that is ready and whose contents are known; choose one of `holdfast list` by its name";
            latest.ok_or_else(|| anyhow!(none).into())
        }
    }
}

/// The newest backup of a kind that can be restored.
pub async fn newest(session: &Session, kind: impl Fn(&Backup) -> bool) -> Result<Option<Backup>, Problem> {
    let mut token = String::new();
    loop {
        let page = page(session, &token).await?;
        let ready = |backup: &Backup| backup.state() == backup::State::Ready && kind(backup);
        let found = page.backups.into_iter().find(ready);
        if found.is_some() || page.next_page_token.is_empty() {
            return Ok(found);
        }
        token = page.next_page_token;
    }
}

/// Of those that came from elsewhere, the one with the newest data. What nobody has opened yet may be a safety backup.
async fn newest_data(session: &Session) -> Result<Option<Backup>, Problem> {
    let (mut token, mut found) = (String::new(), Vec::new());
    loop {
        let page = page(session, &token).await?;
        let known = |backup: &Backup| backup.state() == backup::State::Ready && backup.snapshot_time.is_some();
        found.extend(page.backups.into_iter().filter(|backup| known(backup) && !describe::is_safety(backup)));
        if page.next_page_token.is_empty() {
            return Ok(found.into_iter().max_by_key(|backup| backup.snapshot_time.map(|time| (time.seconds, time.nanos))));
        }
        token = page.next_page_token;
    }
}

async fn page(session: &Session, token: &str) -> Result<ListBackupsResponse, Problem> {
    let request = ListBackupsRequest { page_token: token.to_owned(), ..Default::default() };
    session.client.repeat(async || session.client.backups().list_backups(unary(request.clone())).await).await
}
