//! A preview: everything a restore does up to the point where it would write. What it finds is what the restore will do,
//! as long as its etag holds.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::call::{Caller, PreviewRequest};
use super::source::Source;
use super::works::Work;
use super::{Error, Holdfast, Result, new_operation_id, now};
use crate::archive::Contents;
use crate::model::notice::Notice;
use crate::model::operation::{Kind, Operation, Outcome, Phase, RestorePreview};
use crate::postgres::state::Request;
use crate::postgres::{Purpose, Restore};

/// How long a restore may refer to a preview.
const VALID: Duration = Duration::from_secs(3600);

impl Holdfast {
    /// Starts a preview. It takes no lock: others may work meanwhile. It gives way to a software update.
    pub async fn preview_restore(&self, caller: &Caller, request: PreviewRequest) -> Result<Operation> {
        self.accepting()?;
        self.not_taken_by_others().await?;
        let place = self.0.previews.clone().try_acquire_owned().map_err(|_| Error::TooManyTransfers)?;
        let source = self.open(caller.principal(), &request.backup, request.opener.as_ref(), &request.resources).await?;
        let accepted = Operation::accepted(new_operation_id(), Kind::Preview, caller, "", now());
        let operation = Operation { target: Some(request.backup), ..accepted };
        let key = Request { request_id: None, digest: Vec::new() };
        let (holdfast, caller) = (self.clone(), caller.principal().to_owned());
        let run = move |work| async move {
            let _place = place;
            holdfast.run_preview(&work, &caller, &source).await
        };
        self.begin(operation, key, Duration::ZERO, run).await
    }

    async fn run_preview(&self, work: &Arc<Work>, caller: &str, source: &Source) -> Result<Outcome> {
        let parts = &self.0.parts;
        let (manifest, chosen) = (&source.manifest, &source.chosen);
        let begin = Restore::begin(&parts.database, &parts.catalog, Purpose::Preview, work.id(), caller, manifest, chosen);
        let mut restore = begin.await?;
        let contents = self.load(work, source, &mut restore).await?;
        self.note_contents(&source.backup, &contents, source.opener.as_ref()).await?;
        let end = &contents.end;
        work.phase(Phase::Checking, "Compares the file with the database.");
        let notices = foreseen(&mut restore, source, &contents).await?;
        let changes = restore.compare(end).await?;
        let expire_time = now() + VALID;
        let etag = etag(&mut restore, source, &notices, expire_time).await?;
        restore.roll_back().await;
        Ok(Outcome::Preview(Box::new(RestorePreview { backup: source.backup.id.clone(), changes, notices, etag, expire_time })))
    }
}

/// All that can be known of a restore before it writes.
pub async fn foreseen(restore: &mut Restore, source: &Source, contents: &Contents) -> Result<Vec<Notice>> {
    let (found, violated) = (restore.foresee(&contents.end).await?, restore.violations().await?);
    Ok(source.notices(Some(&contents.origin)).into_iter().chain(found).chain(violated).collect())
}

/// A digest of the file, of what is chosen, and of everything in the database that the restore depends on, behind the
/// time until which it is accepted.
async fn etag(restore: &mut Restore, source: &Source, notices: &[Notice], expire_time: DateTime<Utc>) -> Result<String> {
    let present = restore.present().await?;
    let all = format!("{} {} {:?} {notices:?} {present}", expire_time.timestamp(), source.backup.sha256, source.chosen);
    let digest = ring::digest::digest(&ring::digest::SHA256, all.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{hex}", expire_time.timestamp()))
}

/// Whether nothing has changed since the preview that gave this etag. The tables are locked.
///
/// # Errors
/// `Error::PreviewStale`.
pub async fn check_etag(restore: &mut Restore, source: &Source, notices: &[Notice], previewed: &str) -> Result<()> {
    let time = previewed.split_once('-').and_then(|(time, _)| DateTime::from_timestamp(time.parse().ok()?, 0));
    let expire_time = time.filter(|time| *time >= now()).ok_or(Error::PreviewStale)?;
    if etag(restore, source, notices, expire_time).await? == previewed { Ok(()) } else { Err(Error::PreviewStale) }
}
