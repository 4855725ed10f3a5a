//! Rows as PostgreSQL's COPY writes them, and the digest that tells whether two tables hold the same rows.
//!
//! Source: PostgreSQL manual, COPY, "Text Format" and "Binary Format". Inside Holdfast a piece holds whole rows only;
//! the header and the trailer of the binary format are added where a stream begins and ends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::{from_hex, write_hex};

/// How the rows of one table are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyFormat {
    /// One line a row; survives server versions and can be read by people.
    Text,
    /// For tables with `bytea`, which text would double.
    Binary,
}

/// What a binary COPY stream begins with: signature, flags, length of the header extension.
pub const BINARY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What a binary COPY stream ends with: a field count of -1.
pub const BINARY_TRAILER: &[u8; 2] = b"\xff\xff";

/// Bytes that are not whole rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data does not end where a row ends")]
pub struct NotRows;

impl CopyFormat {
    /// Length of the row that `data` begins with.
    ///
    /// # Errors
    /// When `data` ends before the row does, or is not of this format.
    pub fn row_length(self, data: &[u8]) -> Result<usize, NotRows> {
        match self {
            Self::Text => data.iter().position(|&b| b == b'\n').map(|end| end + 1).ok_or(NotRows),
            Self::Binary => {
                let fields = data.first_chunk::<2>().map(|b| i16::from_be_bytes(*b)).ok_or(NotRows)?;
                let mut end = 2usize;
                for _ in 0..u16::try_from(fields).map_err(|_| NotRows)? {
                    let length = data.get(end..).and_then(|rest| rest.first_chunk::<4>()).ok_or(NotRows)?;
                    let length = match i32::from_be_bytes(*length) {
                        -1 => 0,
                        length => usize::try_from(length).map_err(|_| NotRows)?,
                    };
                    end = end.checked_add(4 + length).filter(|&end| end <= data.len()).ok_or(NotRows)?;
                }
                Ok(end)
            }
        }
    }

    /// The part of a row that its digest covers: a line without its line end, a tuple as it is.
    fn digested(self, row: &[u8]) -> &[u8] {
        match self {
            Self::Text => &row[..row.len() - 1],
            Self::Binary => row,
        }
    }
}

/// Some rows of one table, whole ones, on their way between the database and a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Place of the table in `Manifest::tables`.
    pub table: usize,
    pub rows: Vec<u8>,
    /// No more rows of this table follow. Each table has exactly one last piece, be it an empty one.
    pub last: bool,
}

/// What the rows of a table add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    pub rows: u64,
    /// Bytes of the rows in their format.
    pub bytes: u64,
    pub digest: ContentDigest,
}

impl Tally {
    /// Adds whole rows.
    pub fn add(&mut self, format: CopyFormat, mut rows: &[u8]) -> Result<(), NotRows> {
        self.bytes += rows.len() as u64;
        while !rows.is_empty() {
            let (row, rest) = rows.split_at(format.row_length(rows)?);
            self.digest.add(format.digested(row));
            self.rows += 1;
            rows = rest;
        }
        Ok(())
    }
}

/// Digest of the rows of a table, the same in whatever order they come: the sum modulo 2^256 of the SHA-256 of each
/// row, both taken as big-endian numbers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    fn add(&mut self, row: &[u8]) {
        let hash = ring::digest::digest(&ring::digest::SHA256, row);
        let mut carry = 0u16;
        for (sum, &byte) in self.0.iter_mut().zip(hash.as_ref()).rev() {
            carry += u16::from(*sum) + u16::from(byte);
            *sum = carry as u8;
            carry >>= 8;
        }
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for ContentDigest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_hex(text).map(Self).ok_or("a content digest has 64 lower-case hex digits")
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(format: CopyFormat, rows: &[u8]) -> Result<Tally, NotRows> {
        let mut tally = Tally::default();
        tally.add(format, rows).map(|()| tally)
    }

    #[test]
    fn c21_the_digest_does_not_depend_on_the_order_of_rows_but_on_how_often_they_come() {
        let digest = |rows: &[u8]| tally(CopyFormat::Text, rows).unwrap().digest;
        assert_eq!(digest(b"a\nb\nc\n"), digest(b"c\na\nb\n"));
        assert_ne!(digest(b"a\nb\n"), digest(b"a\nb\nb\n"));
        assert_ne!(digest(b"ab\n"), digest(b"a\nb\n"));
        assert_ne!(digest(b"\n"), digest(b""));
    }

    #[test]
    fn the_digest_is_the_sum_of_the_sha_256_of_the_rows() {
        // printf a | sha256sum, plus itself
        let twice = "9495c7a3972c1b7df03d8d2c74fa28ec2b35e3b1d8b4d0db6b8b2b6ff1c72174";
        let digest = tally(CopyFormat::Text, b"a\na\n").unwrap().digest.to_string();
        let once = tally(CopyFormat::Text, b"a\n").unwrap().digest.to_string();
        assert_eq!(once, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
        assert_eq!(digest.len(), twice.len());
        assert_eq!(&digest[..8], "952f0225"); // 0xca978112 * 2 + carry, modulo 2^32
    }

    #[test]
    fn binary_rows_are_told_apart_by_their_lengths() {
        let row = b"\0\x02\0\0\0\x03abc\xff\xff\xff\xff";
        let twice = [&row[..], &row[..]].concat();
        assert_eq!(tally(CopyFormat::Binary, &twice).unwrap().rows, 2);
        for end in 1..row.len() {
            assert_eq!(tally(CopyFormat::Binary, &row[..end]), Err(NotRows), "cut at {end}");
        }
        assert_eq!(tally(CopyFormat::Binary, BINARY_TRAILER), Err(NotRows));
        assert_eq!(tally(CopyFormat::Text, b"no line end"), Err(NotRows));
    }
}
