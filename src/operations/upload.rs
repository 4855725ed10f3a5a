//! Taking a file in that a caller sends, from top to bottom: its bytes go into a draft as they come, are read back from the disk
//! and examined as those of a file that was found in the folder; then it gets its name and its entry, at once.
//!
//! Whoever sends slowly holds a place, no lock, no transaction, and memory for a few pieces. Whoever hangs up before the last
//! byte leaves nothing; after it, the file is taken in all the same.

use std::io::Write;
use std::pin::pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ring::digest::{Context, SHA256};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backup::digest;
use super::call::{Caller, Chunk, Listed, UploadRequest};
use super::sync::{examine, named_by_itself, opened_by};
use super::verify::hash;
use super::{Error, Holdfast, Result, blocking};
use crate::archive::Trust;
use crate::fault;
use crate::folder::{self, Draft};
use crate::model::backup::{Backup, State, Trigger};
use crate::model::event::{Event, backup_name};
use crate::model::verification::VerifyLevel;
use crate::model::{BackupId, Opener, Sha256, UploadId};
use crate::postgres::state::{Request, Uploaded};

/// Pieces on their way from the caller to the draft.
const PIECES_IN_FLIGHT: usize = 2;
const MAX_CHUNK: usize = 1 << 20;

impl Holdfast {
    /// Takes a file in, and tells what it is. What `chunks` fails with is what this fails with.
    pub async fn upload<E: From<Error> + Send>(
        &self,
        caller: &Caller,
        request: UploadRequest,
        chunks: impl Stream<Item = Result<Chunk, E>> + Send,
    ) -> Result<Listed, E> {
        self.accepting()?;
        let about = format!("upload {:?} {} {} {:?}", request.file_name, request.size_bytes, request.sha256, request.description);
        let request_id = (!request.request_id.is_empty()).then(|| request.request_id.clone());
        let key = Request { request_id, digest: digest(&about) };
        if let Some(id) = self.known_upload(caller, &key).await? {
            return Ok(self.get_backup(&id).await?);
        }
        let place = self.admit(&request).await?;
        tracing::info!(caller = caller.principal(), size = request.size_bytes, "upload begins");
        let (sender, pieces) = mpsc::channel(PIECES_IN_FLIGHT);
        let (holdfast, size, caller) = (self.clone(), request.size_bytes, caller.clone());
        // Its end belongs to no call: the caller may hang up once everything was sent.
        let taking = self.0.tasks.spawn(async move {
            let _place = place;
            holdfast.take_in(&caller, request, &key, pieces).await
        });
        let sent = self.pass_on(size, chunks, sender).await;
        let taken = taking.await.map_err(|_| Error::Bug("taking a file in panicked"))?;
        sent?;
        Ok(self.get_backup(&taken?).await?)
    }

    async fn known_upload(&self, caller: &Caller, key: &Request) -> Result<Option<BackupId>> {
        match self.0.parts.state.known_upload(caller.principal(), key).await? {
            Uploaded::New => Ok(None),
            Uploaded::Known(id) => Ok(Some(id)),
            Uploaded::Reused(id) => Err(Error::UploadIdReused(id)),
        }
    }

    /// Refuses what can be refused before a byte was sent.
    async fn admit(&self, request: &UploadRequest) -> Result<OwnedSemaphorePermit> {
        let (size, most) = (request.size_bytes, self.0.parts.limits.upload_bytes);
        let invalid = |field, problem| Err(Error::InvalidField { field, problem });
        if size == 0 {
            return invalid("header.size_bytes", "an empty file is no backup".into());
        }
        if size > most {
            let problem =
                format!("the file has {size} bytes, and at most {most} are accepted (HOLDFAST_LIMITS__MAX_UPLOAD_BYTES)");
            return invalid("header.size_bytes", problem);
        }
        if request.file_name.as_ref().is_some_and(|name| !name.proves(request.sha256)) {
            let problem = "the SHA-256 is not that of the name: the file was renamed, or is damaged".into();
            return invalid("header.file_name", problem);
        }
        let place = self.0.transfers.clone().try_acquire_owned().map_err(|_| Error::TooManyTransfers)?;
        for stored in self.0.parts.state.backups().await? {
            let same_id = request.file_name.as_ref().is_some_and(|name| *name.id() == stored.backup.id);
            if same_id || stored.backup.sha256 == request.sha256 {
                missed(&stored.backup, request.sha256)?;
            }
        }
        self.check_volume().await?;
        self.check_space_for(size).await?;
        Ok(place)
    }

    /// Passes pieces on in their order, an empty one last. A draft that cannot be written has its own error to tell.
    async fn pass_on<E: From<Error> + Send>(
        &self,
        size: u64,
        chunks: impl Stream<Item = Result<Chunk, E>> + Send,
        pieces: mpsc::Sender<Bytes>,
    ) -> Result<(), E> {
        let (mut chunks, mut pace, mut at) = (pin!(chunks), self.pace(), 0);
        loop {
            let next = tokio::select! {
                next = pace.keep(chunks.next()) => next?,
                () = pieces.closed() => return Ok(()),
                () = self.0.stopping.cancelled() => return Err(Error::Draining.into()),
            };
            let piece = match next {
                Some(chunk) => fitting(chunk?, at, size)?,
                None if at == size => Bytes::new(),
                None => {
                    let problem = format!("the file ended after {at} of {size} bytes");
                    return Err(Error::InvalidField { field: "chunk", problem }.into());
                }
            };
            let length = piece.len() as u64;
            at += length;
            if pieces.send(piece).await.is_err() || length == 0 {
                return Ok(());
            }
            pace.moved(length);
        }
    }

    /// Makes a backup of what comes through `pieces`.
    async fn take_in(
        &self,
        caller: &Caller,
        request: UploadRequest,
        key: &Request,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Result<BackupId> {
        let parts = &self.0.parts;
        let (folder, upload) = (parts.folder.clone(), UploadId { process: parts.state.instance(), id: Uuid::new_v4() });
        let sha256 = request.sha256;
        let draft = blocking(move || receive(folder.draft(upload)?, pieces, sha256)).await??;
        // Without it no more is known of an encrypted file than its name; a wrong one is nobody's fault.
        let (encryption, passphrase) = self.passphrase().await.unwrap_or_default();
        let (opener, trust) = (passphrase.map(Opener::Passphrase), self.trust().await?);
        let (creator, stopped) = (caller.principal().to_owned(), self.stopping());
        let proven = blocking(move || prove(draft, request, opener.as_ref(), &trust, &creator, &stopped)).await;
        // A hostile file may make a parser panic.
        let (backup, draft) = proven.unwrap_or_else(|_| Err(Error::Damaged("it cannot be read".into())))?;
        self.enter_upload(caller, key, opened_by(backup, encryption.passphrase), draft).await
    }

    /// Name and entry at once. A file that has its name and no entry was proven: it is entered when it is sent again, or found.
    async fn enter_upload(&self, caller: &Caller, key: &Request, backup: Backup, draft: Draft) -> Result<BackupId> {
        let (parts, id) = (&self.0.parts, backup.id.clone());
        let (folder, of, stopped) = (parts.folder.clone(), backup.clone(), self.stopping());
        let named = blocking(move || is_named(&folder, &of, &stopped)).await??;
        let event = |kind| Event::new(kind, caller, backup_name(&id)).with("fileName", &backup.file_name);
        let mut uploaded = event("backup.uploaded").with("sha256", backup.sha256).with("sizeBytes", backup.size_bytes);
        uploaded.request_id = key.request_id.clone().unwrap_or_default();
        let Some(entry) = parts.state.begin_upload(&backup, key, &uploaded, &event("backup.recovered")).await? else {
            if let Some(known) = self.known_upload(caller, key).await? {
                return Ok(known);
            }
            let stored = parts.state.backup(&id).await?.ok_or_else(|| Error::BackupInUse(id.clone()))?;
            return Err(missed(&stored.backup, backup.sha256).err().unwrap_or(Error::BackupInUse(id)));
        };
        fault::point("entering");
        let (folder, name) = (parts.folder.clone(), backup.file_name.clone());
        // What is there already may not be durable; the draft is.
        let keep = move || if named { folder.replace(draft, &name) } else { folder.keep(draft, &name) };
        blocking(keep).await?.map_err(|error| match error {
            folder::Error::Exists => taken(&id),
            error => error.into(),
        })?;
        fault::point("entered");
        if let Err(error) = entry.commit().await {
            tracing::warn!(%error, backup = %id, "whether an uploaded file was entered is asked for");
            let stored = parts.state.backup(&id).await?;
            stored.filter(|stored| stored.backup.state == State::Ready).ok_or(error)?;
        }
        tracing::info!(backup = %id, caller = caller.principal(), "a file was uploaded");
        Ok(id)
    }
}

/// Whether a backup of the catalog is the file that is sent, and missed.
///
/// # Errors
/// What is said to whoever sends it else.
fn missed(stored: &Backup, sha256: Sha256) -> Result<()> {
    let exists = |why| Err(Error::BackupExists(stored.id.clone(), why));
    match stored.state {
        _ if stored.sha256 != sha256 => exists("it is another file, with another SHA-256"),
        State::Creating | State::Ready => exists("it is this file"),
        State::Deleting => Err(Error::BackupNotReady(stored.id.clone(), "it is being deleted".into())),
        State::Invalid => exists("its file was found to be damaged; delete it, then send the file again"),
        State::Missing => {
            // The same bytes are damaged in the same way.
            let known = stored.last_verification.as_ref().and_then(|last| last.damage.as_ref());
            match known.filter(|check| check.aspect.level() > VerifyLevel::Checksum) {
                Some(check) => Err(Error::Damaged(check.detail.trim_end_matches('.').to_owned())),
                None => Ok(()),
            }
        }
    }
}

fn taken(id: &BackupId) -> Error {
    Error::BackupExists(
        id.clone(),
        "another file has its name in the folder, perhaps a copy that is not complete; remove that one",
    )
}

/// A piece that belongs where it is sent.
fn fitting(Chunk { offset, data, crc32c }: Chunk, at: u64, size: u64) -> Result<Bytes> {
    let invalid = |field, problem| Err(Error::InvalidField { field, problem });
    let length = data.len() as u64;
    if offset != at {
        return invalid(
            "chunk.offset",
            format!("the next piece begins at {at}, not at {offset}; send them in order, without gaps"),
        );
    }
    if !(1..=MAX_CHUNK).contains(&data.len()) {
        return invalid("chunk.data", "a piece has 1 byte to 1 MiB".into());
    }
    if length > size - at {
        return invalid("chunk.data", format!("the file is longer than the {size} bytes of its header"));
    }
    if crc32c.is_some_and(|sum| sum != crc32c::crc32c(&data)) {
        return invalid(
            "chunk.crc32c",
            "the piece does not have this CRC32C; it was damaged on its way, send the file again".into(),
        );
    }
    Ok(data)
}

/// Writes what comes, to its end.
fn receive(mut draft: Draft, mut pieces: mpsc::Receiver<Bytes>, sha256: Sha256) -> Result<Draft> {
    let mut received = Context::new(&SHA256);
    loop {
        let piece = pieces.blocking_recv().ok_or(Error::Cancelled)?;
        if piece.is_empty() {
            break;
        }
        draft.write_all(&piece).map_err(folder::Error::from)?;
        received.update(&piece);
    }
    if received.finish().as_ref() != sha256.0 {
        return Err(Error::Damaged("its SHA-256 is not that of its header".into()));
    }
    Ok(draft)
}

/// Makes the file durable and finds out from the disk what it is.
fn prove(
    mut draft: Draft,
    request: UploadRequest,
    opener: Option<&Opener>,
    trust: &Trust,
    creator: &str,
    stopped: &CancellationToken,
) -> Result<(Backup, Draft)> {
    let UploadRequest { file_name, size_bytes, sha256, description, .. } = request;
    let mut file = draft.read_back()?;
    if hash(&mut file, stopped)? != (size_bytes, sha256) {
        return Err(Error::ReadBack);
    }
    let name = match file_name {
        Some(name) => name,
        None => named_by_itself(&mut file, sha256, opener)?,
    };
    let found = Backup::found(name, size_bytes, sha256, creator);
    let sent = Backup { trigger: Trigger::Uploaded, description, ..found };
    Ok((examine(&mut file, sent, opener, trust, stopped)?, draft))
}

/// Whether the file has its name already, from an upload that came no further or because somebody copied it there.
fn is_named(folder: &folder::Folder, backup: &Backup, stopped: &CancellationToken) -> Result<bool> {
    let mut file = match folder.read(&backup.file_name) {
        Err(folder::Error::Missing) => return Ok(false),
        file => file?,
    };
    if hash(&mut file, stopped)? == (backup.size_bytes, backup.sha256) { Ok(true) } else { Err(taken(&backup.id)) }
}
