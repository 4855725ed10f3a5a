//! An archive in a bucket. An object appears whole or not at all: small files are one request, large ones an upload in parts
//! that is completed at its end. The SHA-256 of a file is noted with its object.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, RetryConfig,
};
use uuid::Uuid;

use super::pieces::{Hashed, PIECE, Source};
use super::wire::Wire;
use super::{Access, Digest, Error, Invalid, bounded};
use crate::model::{FileName, Sha256};

/// The object that has the id of the system.
const IDENTITY: &str = ".holdfast-archive";
/// Longest text that can be an id.
const MAX_IDENTITY: u64 = 100;
const NOTE: &str = "sha256";
/// An upload has at most 10,000 parts (S3, "Multipart upload limits").
const PARTS: u64 = 9_000;
/// Times that a request is made again within its limit.
const AGAIN: usize = 2;

/// Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<AmazonS3>,
    prefix: Path,
}

/// A file on its way from the bucket.
pub type Stream = BoxStream<'static, object_store::Result<Bytes>>;

impl Bucket {
    pub fn new(bucket: &str, prefix: &str, access: &Access) -> Result<Self, Invalid> {
        let prefix = Path::parse(prefix.trim_matches('/'));
        let prefix =
            prefix.map_err(|_| Invalid::Address("what follows the name of the bucket cannot be the name of an object"))?;
        let retry = RetryConfig { max_retries: AGAIN, retry_timeout: Duration::from_secs(20), ..Default::default() };
        let builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&access.region)
            .with_access_key_id(access.key_id.as_str())
            .with_secret_access_key(access.key.as_str())
            .with_http_connector(Wire::new(access.authority.as_deref())?)
            // Whether that is allowed was decided by who has read the configuration.
            .with_allow_http(true)
            .with_retry(retry);
        let builder = match &access.endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint.trim_end_matches('/')),
            None => builder,
        };
        Ok(Self { store: Arc::new(builder.build()?), prefix })
    }

    pub fn prefix(&self) -> &str {
        self.prefix.as_ref()
    }

    pub async fn owner(&self) -> Result<Option<Uuid>, Error> {
        let range = GetOptions { range: Some((0..MAX_IDENTITY).into()), ..Default::default() };
        let get = async {
            match self.store.get_opts(&self.path(IDENTITY), range).await {
                Ok(found) => Ok(Some(found.bytes().await?)),
                // S3, "List of error codes".
                Err(error @ object_store::Error::NotFound { .. }) => match error.to_string().contains("NoSuchBucket") {
                    true => Err(Error::NoBucket),
                    false => Ok(None),
                },
                Err(error) => Err(error.into()),
            }
        };
        let Some(text) = bounded(get).await? else { return Ok(None) };
        // What is no id is nobody's.
        let id = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        Ok(Some(id.unwrap_or(Uuid::nil())))
    }

    pub async fn set_owner(&self, system: Uuid) -> Result<(), Error> {
        bounded(self.store.put(&self.path(IDENTITY), format!("{system}\n").into_bytes().into())).await.map(|_| ())
    }

    pub async fn files(&self) -> Result<Vec<FileName>, Error> {
        let prefix = Some(&self.prefix).filter(|prefix| !prefix.as_ref().is_empty());
        let listed = bounded(self.store.list_with_delimiter(prefix)).await?;
        let mut names: Vec<FileName> =
            listed.objects.iter().filter_map(|object| object.location.filename()?.parse().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// What was noted of a file when it was written.
    pub async fn noted(&self, name: &FileName) -> Result<Option<Digest>, Error> {
        let head = GetOptions { head: true, ..Default::default() };
        let found = bounded(self.store.get_opts(&self.path(&name.to_string()), head)).await?;
        let sha256: Option<Sha256> = found.attributes.get(&note()).and_then(|text| text.parse().ok());
        Ok(sha256.filter(|sha256| name.proves(*sha256)).map(|sha256| (found.meta.size, sha256)))
    }

    pub async fn read(&self, name: &FileName) -> Result<Stream, Error> {
        let path = self.path(&name.to_string());
        Ok(bounded(self.store.get(&path)).await?.into_stream())
    }

    pub async fn write(
        &self,
        name: &FileName,
        (size, sha256): Digest,
        mut from: Source<impl Read + Send + 'static>,
    ) -> Result<(), Error> {
        let path = self.path(&name.to_string());
        let attributes = Attributes::from_iter([(note(), sha256.to_string())]);
        if size <= PIECE as u64 {
            let file = from.next_of(PIECE + 1).await?.unwrap_or_default();
            let mut hashed = Hashed::new(std::io::sink());
            std::io::Write::write_all(&mut hashed, &file).map_err(Error::Local)?;
            if hashed.digest() != (size, sha256) {
                return Err(Error::Changed);
            }
            let options = PutOptions { attributes, ..Default::default() };
            return bounded(self.store.put_opts(&path, file.into(), options)).await.map(|_| ()).map_err(not_there);
        }
        let options = PutMultipartOptions { attributes, ..Default::default() };
        let mut upload = bounded(self.store.put_multipart_opts(&path, options)).await.map_err(not_there)?;
        let sent = send(&mut *upload, (size, sha256), from).await;
        if sent.is_err()
            && let Err(error) = bounded(upload.abort()).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "parts of an upload that failed are left in the archive");
        }
        sent
    }

    pub async fn remove(&self, name: &FileName) -> Result<(), Error> {
        bounded(self.store.delete(&self.path(&name.to_string()))).await
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }
}

/// Sends the parts, and completes the upload only when they are the file.
async fn send(
    upload: &mut dyn MultipartUpload,
    (size, sha256): Digest,
    mut from: Source<impl Read + Send + 'static>,
) -> Result<(), Error> {
    let part = PIECE.max(usize::try_from(size / PARTS).unwrap_or(usize::MAX));
    let mut hashed = Hashed::new(std::io::sink());
    while let Some(piece) = from.next_of(part).await? {
        std::io::Write::write_all(&mut hashed, &piece).map_err(Error::Local)?;
        bounded(upload.put_part(piece.into())).await?;
    }
    if hashed.digest() != (size, sha256) {
        return Err(Error::Changed);
    }
    bounded(upload.complete()).await.map(|_| ())
}

/// The next piece of a file.
pub async fn next(file: &mut Stream) -> Result<Option<Bytes>, Error> {
    bounded(async { file.next().await.transpose() }).await
}

fn note() -> Attribute {
    Attribute::Metadata(NOTE.into())
}

/// Where no object was asked for, it is the bucket that is not there.
fn not_there(error: Error) -> Error {
    match error {
        Error::Missing => Error::NoBucket,
        error => error,
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as Store;
        match error {
            Store::NotFound { .. } => Self::Missing,
            Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => Self::Refused(error),
            error => Self::Unavailable(error),
        }
    }
}
