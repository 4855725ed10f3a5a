//! What goes in comes out. Keys are derived cheaply (1 KiB hashed instead of 62 MiB) but where it says otherwise.

mod damage;
mod hostile;
mod interop;
mod recipients;
mod signed;

use std::io::Read;
use std::sync::{Arc, Mutex};

use chrono::DateTime;
use uuid::Uuid;

use super::{Error, Part, Protection, Trust, Writer, Written};
use crate::model::backup::Trigger;
use crate::model::manifest::{ColumnEntry, EndRecord, FormatVersion, PassphraseNote, ResourceEntry, SequenceState, TableEntry};
use crate::model::{BackupId, CopyFormat, Manifest, Opener, Passphrase, Piece, TableName};

const PASSPHRASE: &str = "correct horse battery";
const CHEAP: u32 = 1024;

fn passphrase() -> Opener {
    Opener::Passphrase(Passphrase::new(PASSPHRASE).unwrap())
}

/// That lets this open a file.
fn protection(opener: Option<&Opener>) -> Protection {
    Protection { passphrase: opener.and_then(Opener::passphrase).cloned(), ..Protection::default() }
}

fn manifest_of(tables: &[(&str, CopyFormat)]) -> Manifest {
    let time = DateTime::from_timestamp(1_772_326_800, 123_000_000).unwrap();
    let name = |table: &str| TableName::new("platform", table);
    let resource = "odd-things".parse().unwrap();
    let entry = |(place, (table, format)): (usize, &(&str, CopyFormat))| TableEntry {
        name: name(table),
        path: Manifest::member_folder(&resource, &name(table), place),
        format: *format,
        columns: vec![ColumnEntry { name: "id".into(), type_name: "bigint".into() }],
        key: vec!["id".into()],
    };
    Manifest {
        format_version: FormatVersion::PRESENT,
        backup: BackupId::new(time, Uuid::from_u128(7)),
        uid: Uuid::from_u128(8),
        trigger: Trigger::OnDemand,
        description: "before the update".into(),
        create_time: time,
        snapshot_time: time,
        system_id: Uuid::from_u128(9),
        writer: "holdfast 0.1.0".into(),
        server_version: "15.18".into(),
        passphrase: Some(PassphraseNote { generation: 1, set_time: time }),
        recipients: Vec::new(),
        audit: None,
        trace_id: None,
        tables: tables.iter().enumerate().map(entry).collect(),
        resources: vec![ResourceEntry {
            name: resource.clone(),
            title: "Odd Things".into(),
            tables: tables.iter().map(|(table, _)| name(table)).collect(),
            sequences: Vec::new(),
        }],
    }
}

fn piece(table: usize, rows: impl Into<Vec<u8>>) -> Piece {
    Piece { table, rows: rows.into(), last: false }
}

fn last(table: usize, rows: impl Into<Vec<u8>>) -> Piece {
    Piece { table, rows: rows.into(), last: true }
}

/// A binary row of one field.
fn binary(field: &[u8]) -> Vec<u8> {
    [&[0, 1][..], &(field.len() as u32).to_be_bytes(), field].concat()
}

/// Two small tables, one of each format.
fn small() -> (Manifest, Vec<Piece>) {
    let manifest = manifest_of(&[("account", CopyFormat::Text), ("photo", CopyFormat::Binary)]);
    (manifest, vec![piece(1, binary(b"\x89PNG")), last(0, *b"1\tada\n2\tgrace\n"), last(1, binary(b"\xff\xff"))])
}

fn sequence() -> SequenceState {
    SequenceState { name: TableName::new("platform", "account_id_seq"), last_value: 2, is_called: true }
}

fn write(manifest: &Manifest, pieces: &[Piece], opener: Option<&Opener>) -> Written<Vec<u8>> {
    write_to(manifest, pieces, &protection(opener))
}

fn write_to(manifest: &Manifest, pieces: &[Piece], protection: &Protection) -> Written<Vec<u8>> {
    let mut writer = Writer::with_cost(Vec::new(), protection, manifest, CHEAP).unwrap();
    pieces.iter().for_each(|piece| writer.piece(piece).unwrap());
    writer.finish(vec![sequence()]).unwrap()
}

/// A small file, encrypted.
fn encrypted() -> Vec<u8> {
    let (manifest, pieces) = small();
    write(&manifest, &pieces, Some(&passphrase())).out
}

/// A small file, not encrypted.
fn plain() -> Vec<u8> {
    let (manifest, pieces) = small();
    write(&manifest, &pieces, None).out
}

#[derive(Debug, PartialEq)]
struct Content {
    manifest: Manifest,
    end: EndRecord,
    /// Of each table.
    rows: Vec<Vec<u8>>,
    ends: Vec<bool>,
}

fn read(source: impl Read + Send + Sync, opener: Option<&Opener>) -> Result<Content, Error> {
    let mut rows = Vec::<Vec<u8>>::new();
    let mut ends = Vec::new();
    let super::Contents { manifest, end, .. } = super::read(source, opener, &Trust::default(), |part| {
        match part {
            Part::Manifest(manifest) => {
                rows.resize(manifest.tables.len(), Vec::new());
                ends.resize(manifest.tables.len(), false);
            }
            Part::Piece(piece) => {
                assert!(!ends[piece.table], "a piece behind the last one");
                ends[piece.table] = piece.last;
                rows[piece.table].extend(piece.rows);
            }
        }
        Ok::<_, Error>(())
    })?;
    Ok(Content { manifest, end, rows, ends })
}

/// What a table's rows are once they went through a file.
fn expected(pieces: &[Piece], tables: usize) -> Vec<Vec<u8>> {
    let rows = |table| pieces.iter().filter(|piece| piece.table == table).flat_map(|piece| piece.rows.clone()).collect();
    (0..tables).map(rows).collect()
}

#[test]
fn what_is_written_is_what_is_read() {
    use CopyFormat::{Binary, Text};
    let long = "x".repeat(63);
    let tables = [
        ("account", Text),
        ("photo", Binary),
        ("empty", Text),
        ("empty_photo", Binary),
        ("Ünï \"çødé\" / ..", Text),
        (&long, Text),
    ];
    let manifest = manifest_of(&tables);
    let pieces = [
        piece(0, "1\tgrüße\n2\t\\N\n"),
        piece(1, binary(b"")),
        piece(5, "\n"),
        last(2, ""),
        piece(0, ""),
        piece(1, [binary(&[0xff; 3000]), binary(b"\xff\xff")].concat()),
        last(3, ""),
        piece(0, "3\t\\n\\\\\n"),
        last(4, "a\n"),
        last(1, ""),
        last(5, "b\n"),
        last(0, ""),
    ];
    for passphrase in [None, Some(&passphrase())] {
        let file = write(&manifest, &pieces, passphrase);
        assert_eq!(file.bytes, file.out.len() as u64);
        assert_eq!(file.sha256, super::sha256(&file.out));
        let content = read(&file.out[..], passphrase).unwrap();
        assert_eq!(content.manifest, manifest);
        assert_eq!(content.rows, expected(&pieces, tables.len()));
        assert!(content.ends.iter().all(|&end| end));
        assert_eq!(content.end, file.end);
        assert_eq!(content.end.sequences, [sequence()]);
        assert_eq!(content.end.tables[0].tally.rows, 3);
        assert_eq!(super::manifest(&file.out[..], passphrase).unwrap(), manifest);
    }
}

#[test]
fn a_row_of_20_mib_is_a_piece_of_its_own_and_others_are_cut_at_row_ends() {
    for format in [CopyFormat::Text, CopyFormat::Binary] {
        let manifest = manifest_of(&[("blob", format)]);
        let row = |byte: u8, length: usize| match format {
            CopyFormat::Text => [vec![byte; length], b"\n".to_vec()].concat(),
            CopyFormat::Binary => binary(&vec![byte; length]),
        };
        let many: Vec<u8> = (0..1000).flat_map(|i| row(b'a' + (i % 26) as u8, 9_999)).collect();
        let pieces = [piece(0, row(b'x', 20 << 20)), piece(0, many), last(0, row(b'y', 6 << 20))];
        let file = write(&manifest, &pieces, Some(&passphrase()));
        let mut rows = Vec::new();
        let mut sizes = Vec::new();
        super::read(&file.out[..], Some(&passphrase()), &Trust::default(), |part| {
            if let Part::Piece(piece) = part {
                assert_eq!(format.row_length(&piece.rows).is_ok(), !piece.last);
                sizes.push(piece.rows.len());
                rows.extend(piece.rows);
            }
            Ok::<_, Error>(())
        })
        .unwrap();
        assert_eq!(rows, expected(&pieces, 1)[0]);
        assert!(sizes[0] > 20 << 20, "{sizes:?}");
        assert!(sizes[1..].iter().all(|&size| size < 7 << 20), "{sizes:?}");
        assert_eq!(sizes.len(), 1 + 3 + 1 + 1, "{sizes:?}");
    }
}

#[test]
fn the_visitor_stops_a_read_with_an_error_of_its_own() {
    #[derive(Debug)]
    enum Stop {
        Archive(Error),
        Closed(&'static str),
    }
    impl From<Error> for Stop {
        fn from(error: Error) -> Self {
            Self::Archive(error)
        }
    }
    let file = encrypted();
    let at = |stop: fn(&Part<'_>) -> bool| {
        super::read(&file[..], Some(&passphrase()), &Trust::default(), |part| {
            if stop(&part) { Err(Stop::Closed("closed")) } else { Ok(()) }
        })
    };
    assert!(matches!(at(|part| matches!(part, Part::Manifest(_))), Err(Stop::Closed("closed"))));
    assert!(matches!(at(|part| matches!(part, Part::Piece(_))), Err(Stop::Closed("closed"))));
    assert!(matches!(at(|part| matches!(part, Part::Piece(piece) if piece.last)), Err(Stop::Closed("closed"))));
    let wrong = super::read(&file[..], None, &Trust::default(), |_| Ok::<_, Stop>(()));
    assert!(matches!(wrong, Err(Stop::Archive(Error::PassphraseRequired))));
}

#[test]
fn a_writer_refuses_what_could_not_be_read_back() {
    let (manifest, pieces) = small();
    let begin = |manifest: &Manifest| Writer::new(Vec::new(), &Protection::default(), manifest);
    let refused = |piece: Piece| matches!(begin(&manifest).unwrap().piece(&piece), Err(Error::Misuse(_)));
    assert!(refused(piece(2, "a\n")));
    assert!(refused(piece(0, "no line end")));
    assert!(refused(piece(1, crate::model::copy::BINARY_TRAILER.to_vec())));

    let mut writer = begin(&manifest).unwrap();
    writer.piece(&last(0, "a\n")).unwrap();
    assert!(matches!(writer.piece(&piece(0, "b\n")), Err(Error::Misuse(_))));
    assert!(matches!(writer.finish(Vec::new()), Err(Error::Misuse(_))), "a table has no last piece");

    let mut writer = begin(&manifest).unwrap();
    pieces.iter().for_each(|piece| writer.piece(piece).unwrap());
    assert!(writer.finish(Vec::new()).is_ok());

    let mut writer = begin(&manifest).unwrap();
    assert!(writer.piece(&piece(0, "no line end")).is_err());
    assert!(matches!(writer.finish(Vec::new()), Err(Error::Misuse("an error came before"))));

    let mut wrong = manifest.clone();
    wrong.tables[0].path = "data/../../etc".into();
    assert!(matches!(begin(&wrong), Err(Error::Misuse(_))));
    let mut wrong = manifest.clone();
    wrong.description = "x".repeat(17 << 20);
    assert!(matches!(begin(&wrong), Err(Error::TooLarge(_))));
}

/// Gives at most `step` bytes a time, fails at `fail`, counts what was taken.
struct Slow<'a> {
    bytes: &'a [u8],
    step: usize,
    fail: usize,
    taken: Arc<Mutex<usize>>,
}

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let mut taken = self.taken.lock().unwrap();
        if *taken == self.fail {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        let most = self.step.min(into.len()).min(self.fail - *taken);
        let count = (&self.bytes[*taken..]).read(&mut into[..most])?;
        *taken += count;
        Ok(count)
    }
}

#[test]
fn a_source_that_trickles_reads_the_same_and_one_that_fails_is_no_damage() {
    for (file, passphrase) in [(plain(), None), (encrypted(), Some(&passphrase()))] {
        let slow = |fail| Slow { bytes: &file, step: 1, fail, taken: Arc::default() };
        assert_eq!(read(slow(usize::MAX), passphrase).unwrap(), read(&file[..], passphrase).unwrap());
        for fail in 0..=file.len() {
            let error = read(slow(fail), passphrase).unwrap_err();
            assert!(matches!(&error, Error::Io(error) if error.raw_os_error() == Some(5)), "at {fail}: {error:?}");
        }
    }
}

#[test]
fn a_destination_that_fails_is_an_error_wherever_it_does() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (manifest, pieces) = small();
    for passphrase in [None, Some(&passphrase())] {
        let size = write(&manifest, &pieces, passphrase).out.len();
        let attempt = |room| {
            let mut writer = Writer::with_cost(Full(room), &protection(passphrase), &manifest, CHEAP)?;
            pieces.iter().try_for_each(|piece| writer.piece(piece))?;
            writer.finish(vec![sequence()])
        };
        for room in 0..size {
            let error = attempt(room).map(|_| ()).unwrap_err();
            let full = matches!(&error, Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull);
            assert!(full, "room for {room} of {size}: {error:?}");
        }
        assert!(attempt(size + 8).is_ok());
    }
}

#[test]
fn the_manifest_is_read_without_the_data() {
    let manifest = manifest_of(&[("noise", CopyFormat::Binary)]);
    let mut noise = vec![0; 4 << 20];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut noise).unwrap();
    let pieces: Vec<Piece> = (0..5).map(|i| Piece { table: 0, rows: binary(&noise), last: i == 4 }).collect();
    for passphrase in [None, Some(&passphrase())] {
        let file = write(&manifest, &pieces, passphrase).out;
        let taken = Arc::<Mutex<usize>>::default();
        let source = Slow { bytes: &file, step: usize::MAX, fail: usize::MAX, taken: taken.clone() };
        assert_eq!(super::manifest(source, passphrase).unwrap(), manifest);
        let taken = *taken.lock().unwrap();
        assert!(taken < 6 << 20, "{taken} bytes of {}", file.len());
    }
}

#[test]
fn a_writer_that_is_dropped_leaves_a_file_that_no_reader_accepts() {
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (manifest, pieces) = small();
    for passphrase in [None, Some(&passphrase())] {
        let kept = Kept::default();
        let mut writer = Writer::with_cost(kept.clone(), &protection(passphrase), &manifest, CHEAP).unwrap();
        pieces.iter().for_each(|piece| writer.piece(piece).unwrap());
        drop(writer);
        let file = kept.0.lock().unwrap().clone();
        assert!(matches!(read(&file[..], passphrase), Err(Error::Damaged(_) | Error::NotABackup)), "{} bytes", file.len());
    }
}
