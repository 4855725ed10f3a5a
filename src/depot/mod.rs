//! The archive: a second place for the backup files, another folder or a bucket of an object storage that speaks S3.
//!
//! A file is in the archive once it was read back from there, byte for byte; nothing that is half there has its name. What is
//! given out was checked against its SHA-256 too. Every step has a time limit, so that a place that hangs is an error.

mod bucket;
mod pieces;
mod shelf;
mod wire;

use std::fmt;
use std::future::Future;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::folder;
use crate::model::{FileName, Sha256};
use bucket::Bucket;
use pieces::{Hashed, Sink, Source};
use shelf::Shelf;

/// For one step: a request with its answer, or one piece of a file.
const STEP: Duration = Duration::from_secs(60);

/// Why the archive cannot do what was asked. `Display` names no address and no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the archive did not answer within {} s", STEP.as_secs())]
    TimedOut,
    #[error("the archive cannot be reached, or does not work")]
    Unavailable(#[source] object_store::Error),
    #[error("the archive refuses the credentials, or what they are to do")]
    Refused(#[source] object_store::Error),
    #[error("there is no such bucket, or it is not at this address")]
    NoBucket,
    #[error("the archive is full")]
    Full(#[source] folder::Error),
    #[error("the archive folder is not there, or does not work")]
    Folder(#[source] folder::Error),
    #[error("everybody may write to the archive folder")]
    WorldWritable,
    #[error("the archive is not the place that it was: its identity file is missing")]
    NotThere,
    #[error("the archive is the backup folder itself")]
    BackupFolder,
    #[error("the archive belongs to another system, {0}")]
    Foreign(Uuid),
    #[error("the file is not in the archive")]
    Missing,
    #[error("the archive does not give back what was written to it")]
    Damaged,
    #[error("the file cannot be read where it is, or written where it is to be")]
    Local(#[source] io::Error),
    #[error("the file is not what was written once")]
    Changed,
    #[error("a thread ended before its work")]
    Panicked,
}

impl Error {
    /// What is behind it, for the log: the beginning of what an archive may say at length. It has no secret in it.
    pub fn cause(&self) -> String {
        let behind = std::iter::successors(std::error::Error::source(self), |error| error.source());
        let texts: Vec<String> = behind.map(ToString::to_string).collect();
        texts.join(": ").chars().take(300).collect()
    }
}

impl From<folder::Error> for Error {
    fn from(error: folder::Error) -> Self {
        use folder::Error as Folder;
        match error {
            Folder::Missing => Self::Missing,
            Folder::Full(_) => Self::Full(error),
            Folder::WorldWritable => Self::WorldWritable,
            // The identity file names no system.
            Folder::OtherVolume => Self::Foreign(Uuid::nil()),
            error @ (Folder::Unavailable(_) | Folder::NotMounted | Folder::Exists) => Self::Folder(error),
        }
    }
}

/// Why there is no archive with these settings.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("{0}")]
    Address(&'static str),
    #[error("the bucket cannot be used with these settings: {0}")]
    Bucket(#[from] object_store::Error),
    #[error(transparent)]
    Wire(#[from] crate::http::Invalid),
}

/// What an object storage needs besides the name of the bucket.
pub struct Access {
    /// `None`: that of Amazon in the region.
    pub endpoint: Option<String>,
    pub region: String,
    pub key_id: Zeroizing<String>,
    pub key: Zeroizing<String>,
    /// Certificate authority of the server, PEM; without it, those of the system.
    pub authority: Option<Vec<u8>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Depot {
    url: Arc<str>,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Shelf(Shelf),
    Bucket(Bucket),
}

/// How a file is known: its size and its SHA-256.
pub type Digest = (u64, Sha256);

impl Depot {
    /// The folder at `path`. It need not be there yet.
    pub fn folder(path: PathBuf) -> Result<Self, Invalid> {
        let text = path.to_str().filter(|_| path.is_absolute());
        let text = text.ok_or(Invalid::Address("the folder of the archive has to be an absolute path"))?;
        Ok(Self { url: format!("file://{text}").into(), place: Place::Shelf(Shelf::new(path.clone())) })
    }

    /// What is below `prefix` in a bucket.
    pub fn bucket(bucket: &str, prefix: &str, access: &Access) -> Result<Self, Invalid> {
        let place = Bucket::new(bucket, prefix, access)?;
        Ok(Self { url: format!("s3://{bucket}/{}", place.prefix()).trim_end_matches('/').into(), place: Place::Bucket(place) })
    }

    /// Where it is. Has no secret in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The system that it belongs to, if it belongs to one.
    pub async fn owner(&self) -> Result<Option<Uuid>, Error> {
        match &self.place {
            Place::Shelf(shelf) => shelf.owner().await,
            Place::Bucket(bucket) => bucket.owner().await,
        }
    }

    /// Makes it the archive of a system, whosever it was.
    pub async fn set_owner(&self, system: Uuid) -> Result<(), Error> {
        match &self.place {
            Place::Shelf(shelf) => shelf.set_owner(system).await,
            Place::Bucket(bucket) => bucket.set_owner(system).await,
        }
    }

    /// Removes what interrupted copies have left. Only for who alone writes to it.
    pub async fn tidy(&self) -> Result<(), Error> {
        match &self.place {
            Place::Shelf(shelf) => shelf.tidy().await,
            // Parts of an upload that was not completed are no object; rules of the bucket remove them.
            Place::Bucket(_) => Ok(()),
        }
    }

    /// The backup files in it, by their names.
    pub async fn files(&self) -> Result<Vec<FileName>, Error> {
        match &self.place {
            Place::Shelf(shelf) => shelf.files().await,
            Place::Bucket(bucket) => bucket.files().await,
        }
    }

    /// Size and SHA-256 of a file in it: as noted when it was written, where they are noted, or as they are read now.
    pub async fn digest(&self, name: &FileName) -> Result<Digest, Error> {
        if let Place::Bucket(bucket) = &self.place
            && let Some(digest) = bucket.noted(name).await?
        {
            return Ok(digest);
        }
        self.read(name, u64::MAX, io::sink(), |_| ()).await.map(|hashed| hashed.digest())
    }

    /// Copies a file into it, and reads it back. What is there already and right is not copied again; what is there and is not
    /// right is replaced.
    ///
    /// # Errors
    /// `Error::Changed` when `file` is not `digest`, `Error::Damaged` when what is read back is not.
    pub async fn put(&self, name: &FileName, digest: Digest, file: impl Read + Send + 'static) -> Result<(), Error> {
        match self.get(name, digest, io::sink(), |_| ()).await {
            Ok(_) => return Ok(()),
            Err(Error::Missing | Error::Damaged) => {}
            Err(error) => return Err(error),
        }
        let source = Source::new(file);
        match &self.place {
            Place::Shelf(shelf) => shelf.write(name, digest, source).await?,
            Place::Bucket(bucket) => bucket.write(name, digest, source).await?,
        }
        match self.get(name, digest, io::sink(), |_| ()).await {
            Err(Error::Missing) => Err(Error::Damaged),
            read => read.map(|_| ()),
        }
    }

    /// Writes a file of it to `out` and gives that back. `read` is told of bytes as they come.
    ///
    /// # Errors
    /// `Error::Damaged` when the file is not `digest`; `out` is not to be used then.
    pub async fn get<W: Write + Send + 'static>(
        &self,
        name: &FileName,
        digest: Digest,
        out: W,
        read: impl FnMut(u64),
    ) -> Result<W, Error> {
        let hashed = self.read(name, digest.0, out, read).await?;
        if hashed.digest() == digest { Ok(hashed.into_inner()) } else { Err(Error::Damaged) }
    }

    /// Removes a file; one that is gone already is no error.
    pub async fn remove(&self, name: &FileName) -> Result<(), Error> {
        let removed = match &self.place {
            Place::Shelf(shelf) => shelf.remove(name).await,
            Place::Bucket(bucket) => bucket.remove(name).await,
        };
        if let Err(Error::Missing) = removed { Ok(()) } else { removed }
    }

    async fn read<W: Write + Send + 'static>(
        &self,
        name: &FileName,
        most: u64,
        out: W,
        mut read: impl FnMut(u64),
    ) -> Result<Hashed<W>, Error> {
        let mut left = most;
        let mut fits = |piece: &[u8]| {
            left = left.checked_sub(piece.len() as u64).ok_or(Error::Damaged)?;
            read(piece.len() as u64);
            Ok::<_, Error>(())
        };
        let mut sink = Sink::new(Hashed::new(out));
        match &self.place {
            Place::Shelf(shelf) => {
                let mut file = shelf.read(name).await?;
                while let Some(piece) = file.next().await.map_err(of_archive)? {
                    fits(&piece)?;
                    sink.write(piece).await?;
                }
            }
            Place::Bucket(bucket) => {
                let mut file = bucket.read(name).await?;
                while let Some(piece) = bucket::next(&mut file).await? {
                    fits(&piece)?;
                    sink.write(piece).await?;
                }
            }
        }
        sink.into_inner()
    }
}

impl fmt::Debug for Depot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Depot").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The same, of a file that is in the archive.
fn of_archive(error: Error) -> Error {
    match error {
        Error::Local(error) => folder::Error::from(error).into(),
        error => error,
    }
}

/// Ends in time.
async fn bounded<T, E>(step: impl Future<Output = Result<T, E>>) -> Result<T, Error>
where
    Error: From<E>,
{
    Ok(tokio::time::timeout(STEP, step).await.map_err(|_| Error::TimedOut)??)
}

#[cfg(test)]
mod tests;
