//! The members of the archive, decompressed, one after the other: read by who knows what has to come next.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use super::frame::{Kind, read_some};
use super::{Error, tar};

/// Bytes read at a time, and by which memory grows as data arrives.
pub(super) const CHUNK: usize = 256 << 10;
/// Largest zstd window accepted, as a power of two: 8 MiB, which RFC 8878, 3.1.1.1.2 asks of every decoder. Ours is 512 KiB.
const MAX_WINDOW_LOG: u32 = 23;

/// What a row may take that is not there to its end yet: as much without more ado, and so many times what was read of the file. A
/// file of some KB must not take a GiB of memory.
const ROW: (u64, u64) = (128 << 20, 32);
/// The same of everything in a file, which takes time.
const ALL: (u64, u64) = (1 << 30, 1000);

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
    content: zstd::Decoder<'static, BufReader<Counted<'a>>>,
    /// Bytes of the file, compressed.
    taken: Rc<Cell<u64>>,
    /// Bytes of the archive.
    given: u64,
    /// All members have the same, in seconds since 1970.
    pub(super) mtime: i64,
}

impl<'a> Members<'a> {
    pub(super) fn new(content: Box<dyn Read + 'a>) -> Result<Self, Error> {
        let taken = Rc::new(Cell::new(0));
        let mut content = BufReader::with_capacity(CHUNK, Counted { content, taken: taken.clone() });
        match Kind::of(content.fill_buf().map_err(Error::of_read)?.get(..4).unwrap_or_default()) {
            Ok(Kind::Plain) => {}
            _ => return Err(Error::Damaged("it has no zstd frame inside")),
        }
        let mut content = zstd::Decoder::with_buffer(content).map_err(Error::Io)?.single_frame();
        content.window_log_max(MAX_WINDOW_LOG).map_err(Error::Io)?;
        Ok(Self { content, taken, given: 0, mtime: 0 })
    }

    fn bounded(&self, bytes: u64, (most, times): (u64, u64)) -> Result<(), Error> {
        let most = most.max(self.taken.get().saturating_mul(times));
        if bytes > most { Err(Error::TooLarge("it is compressed more than a backup can be")) } else { Ok(()) }
    }

    /// Whether a row may take so much memory.
    pub(super) fn bounded_row(&self, bytes: usize) -> Result<(), Error> {
        self.bounded(bytes as u64, ROW)
    }

    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<(), Error> {
        self.given = self.given.saturating_add(into.len() as u64);
        self.bounded(self.given, ALL)?;
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

/// Counts what is read.
struct Counted<'a> {
    content: Box<dyn Read + 'a>,
    taken: Rc<Cell<u64>>,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(into)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}

fn zeros(bytes: &[u8]) -> Result<(), Error> {
    if bytes.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(Error::Damaged("there is something between its members")) }
}
