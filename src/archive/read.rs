//! Reading a file: every member held against the manifest, every row against the end record.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use ring::digest;

use super::frame::{Frame, Kind};
use super::members::{CHUNK, Members, ORDER, Source};
use super::signature::Trust;
use super::{END, Error, MANIFEST, MAX_DATA, MAX_JSON, MAX_README, MAX_SIGNATURE, README, SIGNATURE, openpgp, tar};
use crate::model::backup::Origin;
use crate::model::copy::{BINARY_HEADER, BINARY_TRAILER, Tally};
use crate::model::manifest::{EndRecord, FormatVersion, TableEnd};
use crate::model::{CopyFormat, Manifest, Opener, Piece, Sha256};

/// Pieces are cut at the first row end behind this many bytes, or where a member ends.
const PIECE: usize = 4 << 20;

/// What a reader comes upon, in this order: the manifest, pieces of rows, then the last piece of each table, an empty one.
#[derive(Debug)]
pub enum Part<'a> {
    Manifest(&'a Manifest),
    /// Whole rows, without header and trailer of the binary format; about 4 MiB, or a single larger row.
    Piece(Piece),
}

/// What a file says of itself that was read to its end, and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub manifest: Manifest,
    pub end: EndRecord,
    pub origin: Origin,
    /// `end.json` and `signature.asc`, byte for byte; the second is empty where there is none.
    pub signed: (Vec<u8>, Vec<u8>),
}

/// Reads a file to its end. `visit` may stop it with an error of its own.
///
/// What `visit` gets is not proven before this returns `Ok`, except that last pieces come only when everything held: the
/// integrity of the encryption to the last byte, exact members in exact order, and the rows, bytes and digest of every table.
///
/// Memory: about 20 MiB, or four times the longest row; a small file cannot have a long one. Without what opens it an encrypted file is not touched; one that
/// is not encrypted is read whatever was given.
///
/// # Errors
/// Those of `visit`, as they are; `Error`, but for `Misuse`. A signature of somebody in `trust` that does not fit is damage. A panic of the OpenPGP library is `Damaged`; the panic
/// hook sees it nevertheless.
pub fn read<E: From<Error>>(
    source: impl Read + Send + Sync,
    opener: Option<&Opener>,
    trust: &Trust,
    mut visit: impl FnMut(Part<'_>) -> Result<(), E>,
) -> Result<Contents, E> {
    let (mut members, manifest, manifest_sha256) = open(source, opener)?;
    visit(Part::Manifest(&manifest))?;
    let mut tables: Vec<Table> = manifest.tables.iter().map(|entry| Table::new(entry.format)).collect();
    let places: HashMap<&str, usize> = manifest.tables.iter().enumerate().map(|(i, entry)| (entry.path.as_str(), i)).collect();
    let end_text = loop {
        let header = members.header()?;
        let name = tar::name(&header).ok_or(ORDER)?;
        if name == END {
            let size = members.expect(&header, END, MAX_JSON)?;
            break members.small(size)?;
        }
        let place = name.rsplit_once('/').and_then(|(folder, _)| places.get(folder)).ok_or(ORDER)?;
        let table = &mut tables[*place];
        let expected = Manifest::member_name(&manifest.tables[*place].path, table.members);
        let size = members.expect(&header, &expected, MAX_DATA)?;
        table.read(&mut members, size, |rows| visit(Part::Piece(Piece { table: *place, rows, last: false })))?;
    };
    let end: EndRecord = serde_json::from_slice(&end_text).map_err(|_| Error::Damaged("end.json cannot be read"))?;
    if end.manifest_sha256 != manifest_sha256 {
        return Err(Error::Damaged("manifest.json is not the one of end.json").into());
    }
    let complete = |table: &Table| table.members > 0 && (table.ended || table.format == CopyFormat::Text);
    if !tables.iter().all(complete) {
        return Err(Error::Damaged("a table is missing or cut off").into());
    }
    let signed = manifest.format_version >= FormatVersion::SIGNED;
    let counted = manifest.tables.iter().zip(tables);
    let counted = counted.map(|(entry, table)| TableEnd {
        name: entry.name.clone(),
        tally: table.tally,
        sha256: signed.then(|| super::hashed(table.hash.finish())),
    });
    if !counted.eq(end.tables.iter().cloned()) {
        return Err(Error::Damaged("the rows are not those of end.json").into());
    }
    let (mut header, mut signature) = (members.header()?, Vec::new());
    if signed && header != tar::TRAILER[..tar::BLOCK] {
        let size = members.expect(&header, SIGNATURE, MAX_SIGNATURE)?;
        signature = members.small(size)?;
        if signature.is_empty() {
            return Err(ORDER.into());
        }
        header = members.header()?;
    }
    members.end(&header)?;
    let origin = trust.origin(&end_text, &signature)?;
    for place in 0..manifest.tables.len() {
        visit(Part::Piece(Piece { table: place, rows: Vec::new(), last: true }))?;
    }
    Ok(Contents { manifest, end, origin, signed: (end_text, signature) })
}

/// Reads no more of a file than its manifest, some MiB at most. Nothing of it is proven: `read` does that.
///
/// # Errors
/// As `read`.
pub fn manifest(source: impl Read + Send + Sync, opener: Option<&Opener>) -> Result<Manifest, Error> {
    open(source, opener).map(|(_, manifest, _)| manifest)
}

/// Reads up to the end of the manifest.
fn open<'a, R: Read + Send + Sync + 'a>(
    mut source: R,
    opener: Option<&Opener>,
) -> Result<(Members<'a>, Manifest, Sha256), Error> {
    let mut head = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut head).map_err(Error::Io)?;
    let content: Box<dyn Read + 'a> = match Kind::of(&head)? {
        Kind::Plain => Box::new(Cursor::new(head).chain(Source(source))),
        Kind::OpenPgp => {
            let frame = Frame::scan(Cursor::new(head).chain(source))?;
            Box::new(openpgp::Content::open(frame, opener)?)
        }
    };
    let mut members = Members::new(content)?;
    let header = members.header()?;
    members.mtime = tar::mtime(&header).ok_or(ORDER)?;
    let size = members.expect(&header, README, MAX_README)?;
    members.small(size)?;
    let header = members.header()?;
    let size = members.expect(&header, MANIFEST, MAX_JSON)?;
    let text = members.small(size)?;
    let manifest = parse(&text)?;
    if manifest.snapshot_time.timestamp() != members.mtime {
        return Err(Error::Damaged("its members are not of the time of the snapshot"));
    }
    Ok((members, manifest, super::sha256(&text)))
}

fn parse(text: &[u8]) -> Result<Manifest, Error> {
    const UNREADABLE: Error = Error::Damaged("manifest.json cannot be read");
    #[derive(serde::Deserialize)]
    struct Version {
        format_version: FormatVersion,
    }
    let Version { format_version: found } = serde_json::from_slice(text).map_err(|_| UNREADABLE)?;
    if found > FormatVersion::PRESENT {
        return Err(Error::NewerFormat { found });
    }
    let manifest: Manifest = serde_json::from_slice(text).map_err(|_| UNREADABLE)?;
    if !found.readable() {
        return Err(UNREADABLE);
    }
    manifest.check().map_err(Error::Damaged)?;
    Ok(manifest)
}

/// What was read of a table so far.
struct Table {
    format: CopyFormat,
    tally: Tally,
    /// Of the bytes of its members.
    hash: digest::Context,
    members: usize,
    /// The trailer of the binary format was read.
    ended: bool,
}

impl Table {
    fn new(format: CopyFormat) -> Self {
        let hash = digest::Context::new(&digest::SHA256);
        Self { format, tally: Tally::default(), hash, members: 0, ended: false }
    }

    /// Cuts a member of `left` bytes into pieces.
    fn read<E: From<Error>>(
        &mut self,
        members: &mut Members<'_>,
        size: u64,
        mut emit: impl FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        const NOT_ROWS: Error = Error::Damaged("a member does not hold whole rows");
        let mut left = size;
        if self.ended {
            return Err(ORDER.into());
        }
        if self.format == CopyFormat::Binary && self.members == 0 {
            let mut header = *BINARY_HEADER;
            left = left.checked_sub(header.len() as u64).ok_or(NOT_ROWS)?;
            members.fill(&mut header)?;
            self.hash.update(&header);
            if header != *BINARY_HEADER {
                return Err(NOT_ROWS.into());
            }
        }
        self.members += 1;
        let mut rows = Vec::new();
        let mut whole = 0;
        while left > 0 {
            let count = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            let old = rows.len();
            members.bounded_row(old + count)?;
            rows.resize(old + count, 0);
            members.fill(&mut rows[old..])?;
            self.hash.update(&rows[old..]);
            left -= count as u64;
            whole = self.whole(&rows, whole, old);
            if whole >= PIECE && left > 0 {
                let rest = rows.split_off(whole);
                self.count(&rows)?;
                emit(std::mem::replace(&mut rows, rest))?;
                whole = 0;
            }
        }
        if self.format == CopyFormat::Binary && &rows[whole..] == BINARY_TRAILER {
            self.ended = true;
            rows.truncate(whole);
        }
        if whole != rows.len() {
            return Err(NOT_ROWS.into());
        }
        members.padding(size)?;
        if rows.is_empty() {
            return Ok(());
        }
        self.count(&rows)?;
        emit(rows)
    }

    /// How many of the bytes are whole rows, when `whole` bytes are, and those from `new` have not been looked at.
    fn whole(&self, rows: &[u8], mut whole: usize, new: usize) -> usize {
        match self.format {
            CopyFormat::Text => rows[new..].iter().rposition(|&byte| byte == b'\n').map_or(whole, |end| new + end + 1),
            CopyFormat::Binary => {
                while let Ok(length) = self.format.row_length(&rows[whole..]) {
                    whole += length;
                }
                whole
            }
        }
    }

    fn count(&mut self, rows: &[u8]) -> Result<(), Error> {
        self.tally.add(self.format, rows).map_err(|_| Error::Damaged("a member does not hold whole rows"))
    }
}
