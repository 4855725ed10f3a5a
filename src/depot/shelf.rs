//! An archive in a folder, of the same kind as the backup folder: its files get their names when they are whole, durable and
//! read back; no link is followed. Its identity file names the system that it belongs to, so neither takes the other's place.
//!
//! A folder that hangs keeps a few threads and no more.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::pieces::{Hashed, Sink, Source, blocking};
use super::{Digest, Error, bounded, of_archive};
use crate::folder::Folder;
use crate::model::{FileName, OperationId};

/// Threads that may wait for the folder at a time. A transfer takes one or two.
const THREADS: usize = 16;

/// Cheap to clone.
#[derive(Clone)]
pub struct Shelf {
    path: Arc<PathBuf>,
    threads: Arc<Semaphore>,
}

/// What is read or written, with its place among the threads: a thread that hangs in it keeps that.
pub struct Placed<T>(T, OwnedSemaphorePermit);

impl Shelf {
    pub fn new(path: PathBuf) -> Self {
        Self { path: path.into(), threads: Arc::new(Semaphore::new(THREADS)) }
    }

    pub async fn owner(&self) -> Result<Option<Uuid>, Error> {
        self.with(|folder| Ok(folder.identity()?)).await
    }

    pub async fn set_owner(&self, system: Uuid) -> Result<(), Error> {
        self.with(move |folder| Ok(folder.identify_anew(system)?)).await
    }

    pub async fn tidy(&self) -> Result<(), Error> {
        let tidy = |folder: Folder| {
            for draft in folder.drafts::<OperationId>()? {
                folder.discard(draft)?;
            }
            Ok(())
        };
        self.with(tidy).await
    }

    pub async fn files(&self) -> Result<Vec<FileName>, Error> {
        self.with(|folder| Ok(folder.contents()?.backups.into_iter().collect())).await
    }

    pub async fn read(&self, name: &FileName) -> Result<Source<Placed<impl Read + Send + use<>>>, Error> {
        let (name, place) = (name.clone(), self.place().await?);
        self.with(move |folder| Ok(Source::new(Placed(folder.read_anew(&name)?, place)))).await
    }

    /// Writes a draft, proves it from the disk, and gives it its name. What has that name already was found to be damaged: it is
    /// replaced.
    pub async fn write(
        &self,
        name: &FileName,
        digest: Digest,
        mut from: Source<impl Read + Send + 'static>,
    ) -> Result<(), Error> {
        let (name, place) = (name.clone(), self.place().await?);
        let draft = self.with(|folder| Ok(folder.draft(OperationId(Uuid::new_v4()))?)).await?;
        let mut draft = Sink::new(Placed(Hashed::new(draft), place));
        while let Some(piece) = from.next().await? {
            draft.write(piece).await.map_err(of_archive)?;
        }
        let Placed(draft, place) = draft.into_inner()?;
        if draft.digest() != digest {
            return Err(Error::Changed);
        }
        let mut draft = draft.into_inner();
        let durable = move |_| Ok((draft.read_back()?, draft));
        let (written, draft) = self.with(durable).await?;
        let (mut written, mut read) = (Source::new(Placed(written, place)), Hashed::new(io::sink()));
        while let Some(piece) = written.next().await.map_err(of_archive)? {
            read.write_all(&piece).map_err(Error::Local)?;
        }
        if read.digest() != digest {
            return Err(Error::Damaged);
        }
        self.with(move |folder| Ok(folder.replace(draft, &name)?)).await
    }

    pub async fn remove(&self, name: &FileName) -> Result<(), Error> {
        let name = name.clone();
        self.with(move |folder| Ok(folder.remove(&name)?)).await
    }

    /// Does one thing with the folder, which must be there.
    async fn with<T: Send + 'static>(&self, step: impl FnOnce(Folder) -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        let (path, place) = (self.path.clone(), self.place().await?);
        let step = move || {
            let _place = place;
            step(Folder::open(&path)?)
        };
        bounded(blocking(step)).await?
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        bounded(async { self.threads.clone().acquire_owned().await.map_err(|_| Error::Panicked) }).await
    }
}

impl<R: Read> Read for Placed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<W: Write> Write for Placed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
