//! Writing a file: members in, bytes out, hashed on the way.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use ring::digest;

use super::{END, Error, MANIFEST, MAX_DATA, MAX_JSON, Protection, README, SIGNATURE, SigningKey, openpgp, tar};
use crate::model::copy::{BINARY_HEADER, BINARY_TRAILER, Tally};
use crate::model::manifest::{EndRecord, SequenceState, TableEnd, TableEntry};
use crate::model::{CopyFormat, Manifest, Piece, SessionKey, Sha256};

/// Level 1 costs a third of level 3 and gives nearly its size.
const COMPRESSION_LEVEL: i32 = 1;

const README_TEXT: &str = include_str!("README.txt");

/// A backup file on its way to `W`. Dropped before `finish`, or after an error, it leaves a file that no reader accepts.
pub struct Writer<W: Write + Send + 'static> {
    out: zstd::Encoder<'static, Sink<W>>,
    hashed: Shared<W>,
    mtime: i64,
    manifest_sha256: Sha256,
    tables: Vec<Table>,
    session_key: Option<SessionKey>,
    signer: Option<SigningKey>,
    /// When the backup was asked for.
    create_time: DateTime<Utc>,
    /// An error left part of a member behind.
    failed: bool,
}

struct Table {
    entry: TableEntry,
    tally: Tally,
    /// Of the bytes of its members.
    hash: digest::Context,
    members: usize,
    ended: bool,
}

/// A file that is complete.
pub struct Written<W> {
    pub out: W,
    pub end: EndRecord,
    /// Of all bytes of the file.
    pub sha256: Sha256,
    /// Size of the file.
    pub bytes: u64,
    /// Opens this file, where no passphrase does: to prove it, as long as somebody has this.
    pub session_key: Option<SessionKey>,
}

impl<W: Write + Send + 'static> Writer<W> {
    /// Begins a file, encrypted as `protection` says. With a passphrase that takes about 50 ms, to derive a key.
    ///
    /// # Errors
    /// `Misuse` when the manifest does not name its tables and their folders as `Manifest::member_folder` does;
    /// `TooLarge` when it has more than 4 MiB; `Io`.
    pub fn new(out: W, protection: &Protection, manifest: &Manifest) -> Result<Self, Error> {
        Self::with_cost(out, protection, manifest, openpgp::FULL_COST)
    }

    /// The same, with fewer bytes hashed to derive the key.
    pub(super) fn with_cost(out: W, protection: &Protection, manifest: &Manifest, cost: u32) -> Result<Self, Error> {
        manifest.check().map_err(Error::Misuse)?;
        let json = manifest.to_json().map_err(|error| Error::Io(error.into()))?;
        let hashed = Shared::new(out);
        let (sink, session_key) = match protection.encrypts() {
            true => {
                let (message, session_key) = openpgp::encrypt(hashed.clone(), protection, cost)?;
                (Sink::Encrypted(message), protection.passphrase.is_none().then_some(session_key))
            }
            false => (Sink::Plain(hashed.clone()), None),
        };
        let mut compressed = zstd::Encoder::new(sink, COMPRESSION_LEVEL).map_err(Error::Io)?;
        compressed.include_checksum(true).map_err(Error::Io)?;
        let hash = digest::Context::new(&digest::SHA256);
        let table = |entry: &TableEntry| Table {
            entry: entry.clone(),
            tally: Tally::default(),
            hash: hash.clone(),
            members: 0,
            ended: false,
        };
        let mut writer = Self {
            out: compressed,
            hashed,
            mtime: manifest.snapshot_time.timestamp(),
            manifest_sha256: super::sha256(&json),
            tables: manifest.tables.iter().map(table).collect(),
            session_key,
            signer: protection.signer.clone(),
            create_time: manifest.create_time,
            failed: false,
        };
        writer.member(README, &[README_TEXT.as_bytes()])?;
        writer.json(MANIFEST, &json)?;
        Ok(writer)
    }

    /// Adds rows of a table as one member, so a piece should have some MiB. Pieces of different tables may alternate.
    ///
    /// # Errors
    /// `Misuse` when the piece has no whole rows, or comes after the last one of its table; `TooLarge` when it has more
    /// than 1 GiB + 15 MiB; `Io`. The writer is of no use after an error.
    pub fn piece(&mut self, piece: &Piece) -> Result<(), Error> {
        if piece.rows.len() as u64 > MAX_DATA - (1 << 20) {
            return Err(Error::TooLarge("rows of a table"));
        }
        let table = self.tables.get_mut(piece.table).ok_or(Error::Misuse("a piece belongs to no table of the manifest"))?;
        if table.ended {
            return Err(Error::Misuse("a piece came after the last one of its table"));
        }
        self.failed = true;
        let format = table.entry.format;
        table.tally.add(format, &piece.rows).map_err(|_| Error::Misuse("a piece does not hold whole rows"))?;
        table.ended = piece.last;
        let binary = format == CopyFormat::Binary;
        let header: &[u8] = if binary && table.members == 0 { BINARY_HEADER } else { &[] };
        let trailer: &[u8] = if binary && piece.last { BINARY_TRAILER } else { &[] };
        let needed = piece.last && (binary || table.members == 0);
        if needed || !piece.rows.is_empty() {
            let name = Manifest::member_name(&table.entry.path, table.members);
            table.members += 1;
            let parts = [header, &piece.rows, trailer];
            parts.iter().for_each(|part| table.hash.update(part));
            self.member(&name, &parts)?;
        }
        self.failed = false;
        Ok(())
    }

    /// Completes the file. It is flushed, but whether it is durable is the business of `W`.
    ///
    /// # Errors
    /// `Misuse` when a table had no last piece, or after an error of `piece`; `TooLarge`; `Io`.
    pub fn finish(mut self, sequences: Vec<SequenceState>) -> Result<Written<W>, Error> {
        if self.failed {
            return Err(Error::Misuse("an error came before"));
        }
        if self.tables.iter().any(|table| !table.ended) {
            return Err(Error::Misuse("a table has no last piece"));
        }
        let tables = self.tables.drain(..).map(|table| TableEnd {
            name: table.entry.name,
            tally: table.tally,
            sha256: Some(super::hashed(table.hash.finish())),
        });
        let end = EndRecord { manifest_sha256: self.manifest_sha256, tables: tables.collect(), sequences };
        let json = serde_json::to_vec_pretty(&end).map_err(|error| Error::Io(error.into()))?;
        self.json(END, &json)?;
        if let Some(signer) = self.signer.take() {
            self.member(SIGNATURE, &[&signer.sign(&json, self.create_time)?])?;
        }
        self.out.write_all(&tar::TRAILER).map_err(Error::Io)?;
        match self.out.finish().map_err(Error::Io)? {
            Sink::Plain(_) => {}
            Sink::Encrypted(message) => openpgp::finalize(message)?,
        }
        let Hashed { mut out, digest, bytes } = self.hashed.into_inner()?;
        out.flush().map_err(Error::Io)?;
        Ok(Written { out, end, sha256: super::hashed(digest.finish()), bytes, session_key: self.session_key })
    }

    fn json(&mut self, name: &str, text: &[u8]) -> Result<(), Error> {
        if text.len() as u64 > MAX_JSON {
            return Err(Error::TooLarge("manifest.json or end.json"));
        }
        self.member(name, &[text])
    }

    fn member(&mut self, name: &str, parts: &[&[u8]]) -> Result<(), Error> {
        let size = parts.iter().map(|part| part.len() as u64).sum();
        let header = tar::header(name, size, self.mtime).ok_or(Error::Misuse("a name or a time does not fit in a tar header"))?;
        let padding = &tar::TRAILER[..tar::padding(size)];
        [&header[..]].iter().chain(parts).chain([&padding]).try_for_each(|part| self.out.write_all(part)).map_err(Error::Io)
    }
}

/// Where the compressed bytes go.
enum Sink<W> {
    Plain(Shared<W>),
    Encrypted(openpgp::Message),
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Encrypted(message) => message.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // once, at the end
    }
}

/// The destination, with two owners: the OpenPGP message that writes to it does not give it back.
struct Shared<W>(Arc<Mutex<Hashed<W>>>);

struct Hashed<W> {
    out: W,
    digest: ring::digest::Context,
    bytes: u64,
}

impl<W> Shared<W> {
    fn new(out: W) -> Self {
        let digest = ring::digest::Context::new(&ring::digest::SHA256);
        Self(Arc::new(Mutex::new(Hashed { out, digest, bytes: 0 })))
    }

    fn into_inner(self) -> Result<Hashed<W>, Error> {
        let inner = Arc::into_inner(self.0).ok_or(Error::Misuse("the destination is still in use"))?;
        Ok(inner.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<W> Clone for Shared<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Write> Write for Shared<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut hashed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = hashed.out.write(bytes)?;
        hashed.digest.update(&bytes[..count]);
        hashed.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // once, at the end
    }
}
