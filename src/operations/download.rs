//! Sending a file as it is on the volume. A slow reader holds a place, no lock, no transaction and two pieces of memory; one
//! that stalls does not even keep the place.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::call::{Caller, Chunk, Download, DownloadRequest};
use super::{Error, Holdfast, Result, blocking};
use crate::folder;
use crate::model::backup::State;
use crate::model::event::{Event, backup_name};

const CHUNK_BYTES: u64 = 256 << 10;

impl Holdfast {
    /// Opens a backup file for sending. A damaged one can be downloaded too.
    pub async fn download(&self, caller: &Caller, request: DownloadRequest) -> Result<Download> {
        let id = request.backup;
        let guard = self.0.in_use.read(&id).ok_or_else(|| Error::BackupInUse(id.clone()))?;
        let stored = self.0.parts.state.backup(&id).await?.ok_or_else(|| Error::BackupNotFound(id.clone()))?;
        let mut backup = match stored.backup.state {
            State::Invalid if !self.comes_back(&stored) => stored.backup,
            _ => self.ready_backup(&id).await?,
        };
        if request.expected.is_some_and(|expected| expected != backup.sha256) {
            return Err(Error::EtagMismatch("the file"));
        }
        if request.offset > backup.size_bytes {
            return Err(Error::OffsetOutOfRange { offset: request.offset, size: backup.size_bytes });
        }
        let transfer = self.clone();
        let name = backup.file_name.clone();
        let again = name.clone();
        let file = match self.ask_volume(move |folder| folder.read(&name)).await {
            Err(error @ Error::Folder(folder::Error::Missing)) => {
                backup = self.brought_back_instead(&backup, error).await?;
                self.ask_volume(move |folder| folder.read(&again)).await?
            }
            file => file?,
        };
        let file = Arc::new(file);
        let mut offset = request.offset;
        let end = request.limit.map_or(backup.size_bytes, |limit| offset.saturating_add(limit).min(backup.size_bytes));
        // One place for a piece, and one for why there are no more: whoever stalled finds it there.
        let (sender, chunks) = mpsc::channel(2);
        let last_word = sender.clone().try_reserve_owned().map_err(|_| Error::Bug("a new channel is full"))?;
        let permit = self.0.transfers.clone().try_acquire_owned().map_err(|_| Error::TooManyTransfers)?;
        // Before the first byte: what cannot be told is not handed out.
        let event = Event::new("backup.downloaded", caller, backup_name(&id)).with("fileName", &backup.file_name);
        self.0.parts.state.record(&event.with("offset", offset)).await?;
        tracing::info!(backup = %id, caller = caller.principal(), offset, "download begins");
        self.0.tasks.spawn(async move {
            let (_guard, _permit) = (guard, permit);
            let mut pace = transfer.pace();
            while offset < end {
                let length = CHUNK_BYTES.min(end - offset);
                let from = file.clone();
                let read = blocking(move || {
                    let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
                    from.read_exact_at(&mut data, offset).map(|()| data)
                });
                let read = read.await.and_then(|read| read.map_err(|error| folder::Error::from(error).into()));
                let chunk = read.map(|data| Chunk { offset, crc32c: Some(crc32c::crc32c(&data)), data: Bytes::from(data) });
                let sent = match chunk {
                    Ok(chunk) => tokio::select! {
                        sent = pace.keep(sender.send(Ok(chunk))) => sent,
                        () = transfer.0.stopping.cancelled() => Err(Error::Draining),
                    },
                    Err(error) => Err(error),
                };
                match sent {
                    Ok(Ok(())) => {}
                    Ok(Err(_gone)) => return,
                    Err(error) => {
                        last_word.send(Err(error.failure()));
                        return;
                    }
                }
                offset += length;
                pace.moved(length);
            }
        });
        Ok(Download { file_name: backup.file_name, size_bytes: backup.size_bytes, sha256: backup.sha256, chunks })
    }
}
