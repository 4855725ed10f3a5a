//! A file as it is found in the folder: its name, a line end, then its bytes, which are read without a passphrase. So this is about
//! names, the first octets, and the packets in front of encrypted data.

#![no_main]

use std::str::FromStr;

use holdfast::archive::Error;
use holdfast::model::{BackupId, FileName, OperationId, ResourceName, Sha256, TableName, UploadId};
use holdfast_fuzz::read;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (name, file) = data.split_at(end);
    if let Ok(name) = str::from_utf8(name) {
        if let Some(name) = same::<FileName>(name) {
            assert!(!name.contains(['/', '\\', '\0']) && !name.starts_with('.'), "a file name is no path");
        }
        same::<BackupId>(name);
        same::<Sha256>(name);
        same::<ResourceName>(name);
        let _ = (name.parse::<OperationId>(), name.parse::<UploadId>(), name.parse::<TableName>());
    }
    if let Err(Error::Misuse(why)) = read(file.get(1..).unwrap_or_default(), None) {
        panic!("nobody who reads can misuse a writer: {why}");
    }
});

/// A text that is taken for a name is that name, to the last character.
fn same<T: FromStr + ToString>(text: &str) -> Option<String> {
    let name = text.parse::<T>().ok()?.to_string();
    assert_eq!(name, text);
    Some(name)
}
