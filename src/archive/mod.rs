//! The bytes of one backup file: blocking `std::io`, no path, no database. Alone names OpenPGP, zstd and tar.
//!
//! A file is a tar archive (POSIX.1-2017, pax, "ustar Interchange Format") in one zstd frame (RFC 8878), with a passphrase or
//! recipients in one OpenPGP message (RFC 9580, 10.3): a PKESK version 3 for each recipient, one SKESK version 4 where there is a
//! passphrase, one SEIPD version 1, in it one literal packet. Members:
//! `README.txt`, `manifest.json`, `data/<resource>/<table>/<nnnnn>.copy` with whole rows each, `end.json`, `signature.asc`.
//!
//! The rule: there is one way to write a file, and a reader accepts that one only. It says `Ok` when everything held, to
//! the last byte; what it hands out before that is not proven. Memory does not depend on the size of a file, only on
//! its longest row. Whether the file is the one that was written is the business of its name, which carries the SHA-256 of
//! all its bytes: compare that first, and every error from here is about the passphrase or about who made the file.
//!
//! Layers, outside in: `frame` (packets counted and measured before anything is derived from a passphrase), `openpgp`,
//! `members` (zstd and `tar`), and `write` and `read`, which know what stands in the members. `signature` says who wrote it.

mod frame;
mod members;
mod openpgp;
mod read;
mod recipients;
mod signature;
mod tar;
#[cfg(test)]
mod tests;
mod write;

use std::io;

use ring::digest;

pub use read::{Contents, Part, manifest, read};
pub use recipients::{Recipients, Unusable};
pub use signature::{SigningKey, Trust};
pub use write::{Writer, Written};

use crate::model::manifest::FormatVersion;
use crate::model::{Passphrase, Sha256};

/// Largest `README.txt`, bytes.
const MAX_README: u64 = 64 << 10;
/// Largest `manifest.json` and largest `end.json`, bytes: some 30,000 columns. Read, a hostile one takes ten times as much, or more.
const MAX_JSON: u64 = 4 << 20;
/// Largest `signature.asc`, bytes.
const MAX_SIGNATURE: u64 = 8 << 10;
/// Largest data member, bytes: a row (PostgreSQL builds none over 1 GiB) and the rows that share its piece.
const MAX_DATA: u64 = (1 << 30) + (16 << 20);

const README: &str = "README.txt";
const MANIFEST: &str = "manifest.json";
const END: &str = "end.json";
const SIGNATURE: &str = "signature.asc";

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this is not a backup file")]
    NotABackup,
    #[error("the file is encrypted and no passphrase was given")]
    PassphraseRequired,
    /// Key ids of those that open it, in hexadecimal digits.
    #[error("only the secret key of a recipient opens this file, and none was given")]
    SecretKeyRequired(Vec<String>),
    #[error("the secret key is none of those that open this file")]
    SecretKeyIncorrect(Vec<String>),
    #[error("the secret key cannot be used: {0}")]
    SecretKeyUnusable(&'static str),
    #[error("the secret key is protected by a passphrase, and none was given")]
    SecretKeyLocked,
    #[error("the passphrase does not open the secret key")]
    SecretKeyPassphraseIncorrect,
    /// Also what damage to the first 100 bytes looks like: compare the file's SHA-256 first.
    #[error("the passphrase does not open this file")]
    PassphraseIncorrect,
    /// An OpenPGP message, but not one of the kind that `Writer` makes.
    #[error("the file is encrypted in a way that is not accepted: {0}")]
    UnsupportedEncryption(&'static str),
    #[error("the file has format version {found}, this program reads up to {}", FormatVersion::PRESENT)]
    NewerFormat { found: FormatVersion },
    /// Cut off, altered, or not made by a `Writer`.
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    #[error("a part of the file is larger than accepted: {0}")]
    TooLarge(&'static str),
    /// A mistake of the caller of `Writer`.
    #[error("a backup file cannot be written like this: {0}")]
    Misuse(&'static str),
    #[error("the file cannot be read or written")]
    Io(#[source] io::Error),
}

/// How a file is encrypted - with neither passphrase nor recipients, it is not - and who signs it.
#[derive(Clone, Default)]
pub struct Protection {
    pub passphrase: Option<Passphrase>,
    pub recipients: Recipients,
    /// `None`: it proves nothing of who wrote it.
    pub signer: Option<SigningKey>,
}

impl Protection {
    pub fn encrypts(&self) -> bool {
        self.passphrase.is_some() || !self.recipients.is_empty()
    }
}

impl Error {
    /// What a `read` that went through the layers has failed for: a layer that knows packs its `Error` into the `io::Error`.
    fn of_read(error: io::Error) -> Self {
        error.downcast().unwrap_or(Self::Damaged("its content cannot be decompressed"))
    }
}

fn sha256(bytes: &[u8]) -> Sha256 {
    hashed(digest::digest(&digest::SHA256, bytes))
}

fn hashed(digest: digest::Digest) -> Sha256 {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Sha256(bytes)
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}
