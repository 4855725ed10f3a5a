//! Rows as COPY writes them: the first byte tells the format and where they are cut. Rows that are whole can be written, and what is
//! read then is the same.

#![no_main]

use std::sync::LazyLock;

use holdfast::archive::{Protection, Writer};
use holdfast::model::copy::{NotRows, Tally};
use holdfast::model::{CopyFormat, Manifest, Piece};
use holdfast_fuzz::read;
use libfuzzer_sys::fuzz_target;

static MANIFEST: LazyLock<Manifest> =
    LazyLock::new(|| serde_json::from_str(include_str!("manifest.json")).expect("it is one"));

fuzz_target!(|data: &[u8]| {
    let Some((kind, rows)) = data.split_first() else { return };
    let (table, format) = if kind & 1 == 0 { (0, CopyFormat::Text) } else { (1, CopyFormat::Binary) };
    let tally = |rows| {
        let mut tally = Tally::default();
        tally.add(format, rows).map(|()| tally)
    };

    let mut whole = 0;
    while let Ok(length) = format.row_length(&rows[whole..]) {
        assert!(length > 0 && whole + length <= rows.len());
        whole += length;
    }
    assert_eq!(tally(rows).is_ok(), whole == rows.len());
    let rows = &rows[..whole];
    let sum = tally(rows).expect("whole rows are rows");

    let mut cut = 0;
    for _ in 0..kind >> 1 {
        cut += format.row_length(&rows[cut..]).unwrap_or(0);
    }
    let mut parts = Tally::default();
    let added: Result<(), NotRows> = [&rows[cut..], &rows[..cut]].into_iter().try_for_each(|part| parts.add(format, part));
    assert_eq!((added, parts), (Ok(()), sum), "the order of rows is no matter");

    let mut writer = Writer::new(Vec::new(), &Protection::default(), &MANIFEST).expect("the manifest is good");
    for (place, rows) in [(table, &rows[..cut]), (table, &rows[cut..])] {
        writer.piece(&Piece { table: place, rows: rows.to_vec(), last: false }).expect("these are whole rows");
    }
    for place in 0..2 {
        writer.piece(&Piece { table: place, rows: Vec::new(), last: true }).expect("each table has an end");
    }
    let written = writer.finish(Vec::new()).expect("memory takes everything");
    let contents = read(&written.out, None).expect("what was written can be read");
    assert_eq!(contents.end.tables[table].tally, sum);
});
