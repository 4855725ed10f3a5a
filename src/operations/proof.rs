//! Reading a file and its SHA-256 in one pass.

use std::io::{self, Read};

use ring::digest::{Context, SHA256};

use crate::model::Sha256;

/// Hashes what is read through it.
pub struct Hashing<R> {
    from: R,
    hash: Context,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub fn new(from: R) -> Self {
        Self { from, hash: Context::new(&SHA256), bytes: 0 }
    }

    /// Reads what is left, and tells size and digest of everything.
    pub fn finish(mut self) -> io::Result<(u64, Sha256)> {
        let mut rest = vec![0; 256 << 10];
        while self.read(&mut rest)? > 0 {}
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.hash.finish().as_ref());
        Ok((self.bytes, Sha256(sha256)))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}
