//! Whether a backup is good: its file, what is in it, and whether it can be restored.

use anyhow::anyhow;
use tonic::Code;
use uuid::Uuid;

use super::Session;
use super::backups::get;
use super::connect::unary;
use super::describe;
use super::follow::{follow, succeeded};
use super::names::BackupChoice;
use super::opener::{Opening, Sent};
use super::output::{id, note};
use super::problem::Problem;
use crate::grpc::proto::backup::{Backup, VerifyBackupRequest, VerifyLevel, VerifyResult, backup, operation};

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Name of the backup, or `latest`
    #[arg(value_name = "NAME")]
    backup: BackupChoice,
    /// How deep
    #[arg(long, value_enum, default_value = "checksum")]
    level: Level,
    #[command(flatten)]
    opener: Opening,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// The file is there and is what was written; needs no passphrase
    Checksum,
    /// It opens, and everything in it holds
    Contents,
    /// It is restored in a transaction that is rolled back; writers of its tables wait meanwhile
    Rehearsal,
}

/// Exits with 64 + DATA_LOSS when the file is damaged, and with 64 + FAILED_PRECONDITION when only the database of today
/// does not take it.
pub async fn verify(session: Session, verify: Verify) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let backup = get(&session, &verify.backup).await?;
    let Sent { passphrase, secret_key } = match verify.level {
        Level::Contents | Level::Rehearsal if describe::is_encrypted(&backup) => verify.opener.for_service(&backup)?,
        _ => Sent::default(),
    };
    let level = match verify.level {
        Level::Checksum => VerifyLevel::Checksum,
        Level::Contents => VerifyLevel::Contents,
        Level::Rehearsal => VerifyLevel::Rehearsal,
    };
    let request = VerifyBackupRequest {
        name: backup.name,
        level: level.into(),
        passphrase,
        secret_key,
        request_id: Uuid::new_v4().to_string(),
    };
    let started = client.begin(async || client.backups().verify_backup(unary(request.clone())).await).await?;
    note(&format!("operation {}", id(&started.name)));
    let ended = succeeded(follow(client, started).await?)?;
    let Some(operation::Result::Verify(found)) = ended.result else {
        return Err(anyhow!("the service answered a verification with something else").into());
    };
    output.result(&found, describe::verification)?;
    not_valid(&found).map_or(Ok(()), Err)
}

/// Has the file of a backup brought back from the archive, where it is there and not in the folder as it should be.
pub async fn bring_back(session: &Session, backup: &Backup) -> Result<(), Problem> {
    if backup.archive_time.is_none() || !matches!(backup.state(), backup::State::Missing | backup::State::Invalid) {
        return Ok(());
    }
    let client = &session.client;
    note(&format!("{} is brought back from the archive", backup.file_name));
    let request = VerifyBackupRequest { name: backup.name.clone(), request_id: Uuid::new_v4().to_string(), ..Default::default() };
    let started = client.begin(async || client.backups().verify_backup(unary(request.clone())).await).await?;
    succeeded(follow(client, started).await?).map(|_| ())
}

/// Why a backup that was verified cannot be relied on, if it cannot.
fn not_valid(found: &VerifyResult) -> Option<Problem> {
    let bad = found.checks.iter().find(|check| !check.passed)?;
    let (code, reason, instructions) = match bad.name.as_str() {
        "schema" | "rehearsal" => (
            Code::FailedPrecondition,
            "BACKUP_INCOMPATIBLE",
            "The file is whole. Make the database take it, or restore it with the version of the platform that it is of.",
        ),
        "file" => (Code::DataLoss, "BACKUP_FILE_MISSING", "Copy the file back into the folder, and verify again."),
        _ => (Code::DataLoss, "BACKUP_CORRUPTED", "Use another backup, or put a copy of this file from elsewhere in its place."),
    };
    let message = format!("{} is not good: {}", id(&found.backup), bad.detail);
    Some(Problem::refused_with(code, reason, message, instructions.to_owned()))
}
