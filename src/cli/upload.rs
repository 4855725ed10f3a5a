//! Sending a backup file to the service, which takes it in when it is whole.
//!
//! What can be found out here is found out first: a file that is damaged, or no backup, is not sent. A call that broke off is
//! made again from the beginning, with the same request id, so that it never brings a second backup.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::Session;
use super::describe;
use super::download::broken;
use super::files::Local;
use super::output::{clean, id, note};
use super::problem::Problem;
use super::progress::Meter;
use crate::grpc::proto::backup::upload_backup_request::Payload;
use crate::grpc::proto::backup::{FileChunk, FileHeader, UploadBackupRequest};

const CHUNK_BYTES: u64 = 256 << 10;
/// The service gives a transfer six hours, and then reads the file.
const LIMIT: Duration = Duration::from_secs(8 * 3600);

#[derive(Debug, clap::Args)]
pub struct Upload {
    /// The backup file, under the name that it had in the backup folder
    file: PathBuf,
    /// Free text that is kept with the backup
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
}

pub async fn upload(session: Session, upload: Upload) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let found = Local::open(&upload.file)?;
    if found.name.is_none() && found.encrypted {
        note("Its name was changed. The service can tell the right one only when the passphrase in use opens the file.");
    }
    let header = FileHeader {
        file_name: found.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        size_bytes: i64::try_from(found.length).unwrap_or(i64::MAX),
        sha256: found.sha256.to_string(),
        description: upload.description,
        request_id: Uuid::new_v4().to_string(),
    };
    let send = async || {
        let file = found.file.try_clone().map_err(|error| Status::internal(format!("the file cannot be read: {error}")))?;
        client.backups().upload_backup(messages(file, header.clone(), found.length)).await.map_err(broken)
    };
    let sent = tokio::select! {
        sent = client.patiently(LIMIT, send) => sent,
        _ = tokio::signal::ctrl_c() => {
            let text = "Interrupted. Unless all of it had been sent, nothing of it is left at the service.\n  look: holdfast list";
            Err(Problem::Interrupted(text.into()))
        }
    };
    let backup = sent?;
    note(&format!("uploaded as {}", id(&backup.name)));
    output.result(&backup, describe::backup)
}

/// The header and all chunks, read by a thread as they are taken.
fn messages(file: File, header: FileHeader, length: u64) -> ReceiverStream<UploadBackupRequest> {
    let (sender, messages) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read(&file, header, length, &sender) {
            note(&format!("the file cannot be read: {}", clean(&error.to_string())));
        }
    });
    ReceiverStream::new(messages)
}

/// Reads until the end, or until nobody takes it any more.
fn read(file: &File, header: FileHeader, length: u64, sender: &mpsc::Sender<UploadBackupRequest>) -> io::Result<()> {
    let mut meter = Meter::of_bytes(length);
    let send = |payload| sender.blocking_send(UploadBackupRequest { payload: Some(payload) }).is_ok();
    if !send(Payload::Header(header)) {
        return Ok(());
    }
    let mut at = 0;
    while at < length {
        let mut data = vec![0; usize::try_from(CHUNK_BYTES.min(length - at)).unwrap_or(0)];
        file.read_exact_at(&mut data, at)?;
        let (bytes, crc32c) = (data.len() as u64, Some(crc32c::crc32c(&data)));
        let offset = i64::try_from(at).map_err(io::Error::other)?;
        if !send(Payload::Chunk(FileChunk { offset, data: data.into(), crc32c })) {
            return Ok(());
        }
        at += bytes;
        meter.bytes(at, length);
    }
    drop(meter);
    note("sent; the service reads it back and checks it");
    Ok(())
}
