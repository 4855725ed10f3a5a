//! What must be accepted before a restore: each reason of a blocking warning by itself. `--yes` accepts none of them.

use std::collections::BTreeSet;

use super::describe::notices::{blocking, new_ones, reason, refusal, sentence};
use super::names::Reason;
use super::output::clean;
use super::passphrase::{Source, confirm};
use super::problem::Problem;
use crate::grpc::proto::backup::{NoticeCode, RestorePreview, RestoreRequest};

/// The reasons that were accepted.
pub struct Consent(BTreeSet<String>);

impl Consent {
    /// With those that were named on the command line.
    pub fn new(acknowledged: &[Reason]) -> Self {
        Self(acknowledged.iter().map(ToString::to_string).collect())
    }

    /// # Errors
    /// When the restore would be refused: whatever is acknowledged, or for reasons that are not. All of them are named.
    pub fn complete(&self, preview: &RestorePreview) -> Result<(), Problem> {
        possible(preview)?;
        let missing: Vec<_> = blocking(&preview.warnings).into_keys().filter(|reason| !self.0.contains(reason)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let options: Vec<_> = missing.iter().map(|reason| format!("--acknowledge {reason}")).collect();
        Err(Problem::refused(
            "WARNINGS_NOT_ACKNOWLEDGED",
            format!("Blocking warnings were not acknowledged: {}. Nothing was changed.", missing.join(", ")),
            format!("Read them; to accept what they say, add {}.", options.join(" ")),
        ))
    }

    /// Asks for each reason that was not accepted, and again for one that has grown since the `earlier` preview.
    pub async fn ask(
        &mut self,
        earlier: Option<&RestorePreview>,
        preview: &RestorePreview,
        source: &Source,
    ) -> Result<(), Problem> {
        possible(preview)?;
        let known = earlier.map_or(&preview.warnings, |earlier| &earlier.warnings);
        let grown = new_ones(known, &preview.warnings);
        let grown: BTreeSet<_> = blocking(&grown).into_keys().collect();
        for (reason, notices) in blocking(&preview.warnings) {
            if self.0.contains(&reason) && !grown.contains(&reason) {
                continue;
            }
            let sentence = notices.first().map(|notice| sentence(notice)).unwrap_or_default();
            let more = if notices.len() > 1 { format!(" (and {} more)", notices.len() - 1) } else { String::new() };
            confirm(&clean(&format!("{reason}: {sentence}{more} Is that accepted?")), Some(source)).await?;
            self.0.insert(reason);
        }
        Ok(())
    }
}

/// Whether the backup can be restored at all.
fn possible(preview: &RestorePreview) -> Result<(), Problem> {
    if let Some(notice) = refusal(&preview.warnings) {
        let message = format!("This backup cannot be restored: {}", sentence(notice));
        return Err(Problem::refused(&reason(notice), message, notice.instructions.clone()));
    }
    if !preview.restorable && blocking(&preview.warnings).is_empty() {
        let message = "The service says that this backup cannot be restored, and not why.".to_owned();
        return Err(Problem::refused("NOT_RESTORABLE", message, "Look at the log of the service.".to_owned()));
    }
    Ok(())
}

/// Puts the blocking reasons of this very preview into the request: by code, or by name where they have none.
pub fn acknowledge(preview: &RestorePreview, request: &mut RestoreRequest) {
    request.acknowledged_warnings.clear();
    request.acknowledged_reasons.clear();
    for (reason, notices) in blocking(&preview.warnings) {
        let without = |code| code == NoticeCode::Unspecified as i32 || code == NoticeCode::Other as i32;
        match notices.iter().map(|notice| notice.code).find(|code| !without(*code)) {
            Some(code) => request.acknowledged_warnings.push(code),
            None => request.acknowledged_reasons.push(reason),
        }
    }
}
