//! What the targets share: a backup file around the bytes of a fuzzer, for the layers that compression and digests would keep it from.

use holdfast::archive::{self, Contents, Part, Trust};
use holdfast::model::copy::Tally;
use holdfast::model::manifest::{EndRecord, TableEnd};
use holdfast::model::{CopyFormat, Manifest, Opener, Sha256};
use ring::digest::{SHA256, digest};

/// Reads a file to its end, and holds the reader to what it promises of that.
pub fn read(file: &[u8], opener: Option<&Opener>) -> Result<Contents, archive::Error> {
    let mut tallies = Vec::new();
    let mut formats: Vec<CopyFormat> = Vec::new();
    let mut ended = 0;
    let contents = archive::read(file, opener, &Trust::default(), |part| {
        match part {
            Part::Manifest(manifest) => {
                formats = manifest.tables.iter().map(|table| table.format).collect();
                tallies = vec![Tally::default(); formats.len()];
            }
            Part::Piece(piece) => {
                tallies[piece.table].add(formats[piece.table], &piece.rows).expect("pieces hold whole rows");
                ended += usize::from(piece.last);
            }
        }
        Ok::<_, archive::Error>(())
    })?;
    assert_eq!(ended, formats.len(), "each table has one last piece");
    assert!(contents.end.tables.iter().map(|table| table.tally).eq(tallies), "the rows are those that were counted");
    assert_eq!(archive::manifest(file, opener).expect("what was read whole has a manifest"), contents.manifest);
    Ok(contents)
}

pub fn compressed(archive: &[u8]) -> Vec<u8> {
    zstd::encode_all(archive, 1).expect("memory takes everything")
}

/// A tar archive of these members, in the form that is accepted.
pub fn pack<'a>(members: impl IntoIterator<Item = (&'a str, &'a [u8])>, mtime: u64) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        let ustar = header.as_ustar_mut().expect("it is one");
        let name = &name.as_bytes()[..name.len().min(100)];
        ustar.name[..name.len()].copy_from_slice(name);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_mtime(mtime);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let sum = header.cksum().expect("it was set");
        header.as_old_mut().cksum.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// The `end.json` that these members should have. `None` where the manifest is none, or the members hold no rows.
pub fn end_of(members: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let (_, text) = members.iter().find(|(name, _)| *name == "manifest.json")?;
    let manifest: Manifest = serde_json::from_slice(text).ok()?;
    let table = |entry: &holdfast::model::manifest::TableEntry| {
        let of_table = |name: &str| name.rsplit_once('/').is_some_and(|(folder, _)| folder == entry.path);
        let bytes = members.iter().filter(|(name, _)| of_table(name)).flat_map(|(_, bytes)| bytes.iter().copied());
        let bytes: Vec<u8> = bytes.collect();
        let rows = match entry.format {
            CopyFormat::Text => &bytes[..],
            CopyFormat::Binary => bytes.get(19..bytes.len().checked_sub(2)?)?,
        };
        let mut tally = Tally::default();
        tally.add(entry.format, rows).ok()?;
        let sha256 = (manifest.format_version >= holdfast::model::manifest::FormatVersion::SIGNED).then(|| sha256(&bytes));
        Some(TableEnd { name: entry.name.clone(), tally, sha256 })
    };
    let tables = manifest.tables.iter().map(table).collect::<Option<_>>()?;
    serde_json::to_vec(&EndRecord { manifest_sha256: sha256(text), tables, sequences: Vec::new() }).ok()
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(digest(&SHA256, bytes).as_ref().try_into().expect("32 bytes"))
}
