//! Files on their way, piece by piece: what blocks is done where it may, and each piece has its time limit. A reader or writer
//! that hangs keeps its thread; whoever waited for it has gone on.

use std::io::{self, Read, Write};

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use tokio::task::spawn_blocking;

use super::{Digest, Error, bounded};
use crate::model::Sha256;

/// The smallest part of an upload but the last is 5 MiB (S3, "Multipart upload limits").
pub const PIECE: usize = 8 << 20;

/// Reads a file.
pub struct Source<R>(Option<R>);

impl<R: Read + Send + 'static> Source<R> {
    pub fn new(from: R) -> Self {
        Self(Some(from))
    }

    /// The next piece; `None` at the end of the file. Each but the last has `PIECE` bytes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.next_of(PIECE).await
    }

    /// The same, of another size.
    pub async fn next_of(&mut self, size: usize) -> Result<Option<Bytes>, Error> {
        // Gone with the thread that hangs in it.
        let mut from = self.0.take().ok_or(Error::TimedOut)?;
        let read = move || {
            let mut piece = Vec::new();
            from.by_ref().take(size as u64).read_to_end(&mut piece).map(|_| (from, Bytes::from(piece)))
        };
        let (from, piece) = bounded(blocking(read)).await?.map_err(Error::Local)?;
        self.0 = Some(from);
        Ok((!piece.is_empty()).then_some(piece))
    }
}

/// Writes a file.
pub struct Sink<W>(Option<W>);

impl<W: Write + Send + 'static> Sink<W> {
    pub fn new(to: W) -> Self {
        Self(Some(to))
    }

    pub async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        let mut to = self.0.take().ok_or(Error::TimedOut)?;
        let written = bounded(blocking(move || to.write_all(&piece).map(|()| to))).await?;
        self.0 = Some(written.map_err(Error::Local)?);
        Ok(())
    }
}

impl<W> Sink<W> {
    /// What it wrote to. There unless a write has failed.
    pub fn into_inner(self) -> Result<W, Error> {
        self.0.ok_or(Error::TimedOut)
    }
}

/// Counts and hashes what is written through it.
pub struct Hashed<W> {
    to: W,
    bytes: u64,
    hash: Context,
}

impl<W> Hashed<W> {
    pub fn new(to: W) -> Self {
        Self { to, bytes: 0, hash: Context::new(&SHA256) }
    }

    pub fn digest(&self) -> Digest {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.hash.clone().finish().as_ref());
        (self.bytes, Sha256(sha256))
    }

    pub fn into_inner(self) -> W {
        self.to
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Runs what blocks where it may.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(|_| Error::Panicked)
}
