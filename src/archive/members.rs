//! The members of the archive, decompressed, one after the other: read by who knows what has to come next.

use std::io::{self, BufRead, BufReader, Read};

use super::frame::{Kind, read_some};
use super::{Error, tar};

/// Bytes read at a time, and by which memory grows as data arrives.
pub(super) const CHUNK: usize = 256 << 10;
/// Largest zstd window accepted, as a power of two: 8 MiB, which RFC 8878, 3.1.1.1.2 asks of every decoder. Ours is 512 KiB.
const MAX_WINDOW_LOG: u32 = 23;

pub(super) const ORDER: Error = Error::Damaged("a member is not the one that has its place here");

/// A file whose errors are told from those of the layers above it.
pub(super) struct Source<R>(pub(super) R);

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_some(&mut self.0, into).map_err(|error| Error::Io(error).into())
    }
}

/// The decompressed archive, one member after the other.
pub(super) struct Members<'a> {
    content: zstd::Decoder<'static, BufReader<Box<dyn Read + 'a>>>,
    /// All members have the same, in seconds since 1970.
    pub(super) mtime: i64,
}

impl<'a> Members<'a> {
    pub(super) fn new(content: Box<dyn Read + 'a>) -> Result<Self, Error> {
        let mut content = BufReader::with_capacity(CHUNK, content);
        match Kind::of(content.fill_buf().map_err(Error::of_read)?.get(..4).unwrap_or_default()) {
            Ok(Kind::Plain) => {}
            _ => return Err(Error::Damaged("it has no zstd frame inside")),
        }
        let mut content = zstd::Decoder::with_buffer(content).map_err(Error::Io)?.single_frame();
        content.window_log_max(MAX_WINDOW_LOG).map_err(Error::Io)?;
        Ok(Self { content, mtime: 0 })
    }

    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<(), Error> {
        self.content.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Damaged("it ends before end.json"),
            _ => Error::of_read(error),
        })
    }

    pub(super) fn header(&mut self) -> Result<tar::Header, Error> {
        let mut header = [0; tar::BLOCK];
        self.fill(&mut header)?;
        Ok(header)
    }

    /// The size of a member that has to have this name.
    pub(super) fn expect(&self, header: &tar::Header, name: &str, most: u64) -> Result<u64, Error> {
        let size = tar::size(header).ok_or(ORDER)?;
        if tar::header(name, size, self.mtime).as_ref() != Some(header) {
            return Err(ORDER);
        }
        if size > most { Err(Error::TooLarge("a member of the archive")) } else { Ok(size) }
    }

    /// The content of a member of bounded size.
    pub(super) fn small(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        self.content.by_ref().take(size).read_to_end(&mut text).map_err(Error::of_read)?;
        if text.len() as u64 != size {
            return Err(Error::Damaged("it ends before end.json"));
        }
        self.padding(size)?;
        Ok(text)
    }

    pub(super) fn padding(&mut self, size: u64) -> Result<(), Error> {
        let mut padding = [0; tar::BLOCK];
        let padding = &mut padding[..tar::padding(size)];
        self.fill(padding)?;
        zeros(padding)
    }

    /// Holds the file to an end here, in every layer. `first` is the block that stands where another member could.
    pub(super) fn end(&mut self, first: &tar::Header) -> Result<(), Error> {
        let second = self.header()?;
        zeros(first).and_then(|()| zeros(&second))?;
        let behind = read_some(&mut self.content, &mut [0]).map_err(Error::of_read)?;
        if behind > 0 || !self.content.get_mut().fill_buf().map_err(Error::of_read)?.is_empty() {
            return Err(Error::Damaged("it has bytes behind its end"));
        }
        Ok(())
    }
}

fn zeros(bytes: &[u8]) -> Result<(), Error> {
    if bytes.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(Error::Damaged("there is something between its members")) }
}
