//! `manifest.json`. A manifest that is accepted can be written, and what is read then is the same.

#![no_main]

use holdfast::archive::{self, Error, Protection, Writer};
use holdfast::model::{Manifest, Piece};
use holdfast_fuzz::{compressed, pack, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(data) else {
        let file = compressed(&pack([("README.txt", &b""[..]), ("manifest.json", data)], 0));
        assert!(archive::manifest(&file[..], None).is_err(), "what is no manifest is refused");
        return;
    };
    let json = manifest.to_json().expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<Manifest>(&json).expect("what was written can be read"), manifest);

    let mut writer = match Writer::new(Vec::new(), &Protection::default(), &manifest) {
        Ok(writer) => writer,
        // Parts that do not agree; a time before 1970.
        Err(Error::Misuse(_) | Error::TooLarge(_)) => return,
        Err(error) => panic!("{error}"),
    };
    let last = |table| Piece { table, rows: Vec::new(), last: true };
    if !(0..manifest.tables.len()).all(|table| writer.piece(&last(table)).is_ok()) {
        return;
    }
    let Ok(written) = writer.finish(Vec::new()) else { return };
    match read(&written.out, None) {
        Ok(contents) => assert_eq!(contents.manifest, manifest),
        Err(Error::NewerFormat { .. }) => {}
        // Format 1.0 has no digest for each table, which this writer always writes.
        Err(Error::Damaged(_)) if !manifest.format_version.readable() || manifest.format_version < holdfast::model::manifest::FormatVersion::SIGNED => {}
        Err(error) => panic!("{error}"),
    }
});
