//! The members of the archive. One after the other: length of the name (1 byte), name, length of the content (2 bytes, the higher one first),
//! content. Headers are written as they should be, and an empty `end.json` is filled in. Where the first byte is 255, the others are the
//! archive as it is.

#![no_main]

use holdfast_fuzz::{compressed, end_of, pack, read};
use libfuzzer_sys::fuzz_target;

/// 2026-03-01 01:00 UTC, of the seeds.
const MTIME: u64 = 1_772_326_800;

fuzz_target!(|data: &[u8]| {
    let archive = match data.split_first() {
        Some((255, archive)) => archive.to_vec(),
        _ => {
            let mut members = Vec::new();
            let mut rest = data;
            while let Some((member, behind)) = member(rest) {
                members.push(member);
                rest = behind;
            }
            let end = end_of(&members).unwrap_or_default();
            let filled = members.iter().map(|&(name, content)| match (name, content) {
                ("end.json", []) => (name, &end[..]),
                member => member,
            });
            pack(filled, MTIME)
        }
    };
    let _ = read(&compressed(&archive), None);
});

fn member(data: &[u8]) -> Option<((&str, &[u8]), &[u8])> {
    let (length, data) = data.split_first()?;
    let (name, data) = data.split_at_checked(usize::from(*length))?;
    let (length, data) = data.split_first_chunk::<2>()?;
    let (content, data) = data.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some(((str::from_utf8(name).ok()?, content), data))
}
