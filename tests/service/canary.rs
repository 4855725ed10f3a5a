//! A canary for every secret of the tests: services log all they can, and whatever they and the command line write is searched for
//! every secret that was used so far, in any form in which it may show.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Shorter texts may show by chance.
const SHORTEST: usize = 12;

static SECRETS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// From here on it may not show.
pub fn secret(text: &str) {
    if text.len() >= SHORTEST {
        SECRETS.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned());
    }
}

/// # Panics
/// When one of the secrets that were used so far is in it.
pub fn nothing_shows(bytes: &[u8], place: &str) {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let forms: Vec<_> = secrets.iter().flat_map(|secret| forms(secret)).collect();
    search(&forms, bytes, place);
}

/// # Panics
/// When it is in it.
pub fn absent(secret: &str, bytes: &[u8], place: &str) {
    search(&forms(secret), bytes, place);
}

/// Whether it is in it, in any form.
pub fn shows(secret: &str, bytes: &[u8]) -> bool {
    AhoCorasick::new(forms(secret)).unwrap().is_match(bytes)
}

fn search(forms: &[Vec<u8>], bytes: &[u8], place: &str) {
    if let Some(found) = AhoCorasick::new(forms).unwrap().find(bytes) {
        let around = &bytes[found.start().saturating_sub(200)..bytes.len().min(found.end() + 50)];
        panic!("{:?} is in {place}: {}", String::from_utf8_lossy(&bytes[found.range()]), String::from_utf8_lossy(around));
    }
}

/// A secret as it may show: as it is, in hex, as the bytes that `{:?}` prints, and in base64 wherever it begins.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<_> = bytes.iter().map(u8::to_string).collect();
    // Whole groups only: what follows changes the last ones.
    let in_base64 = (0..3).map(|from| STANDARD.encode(&bytes[from..from + (bytes.len() - from) / 3 * 3]).into_bytes());
    let plain = [bytes.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes(), list.join(", ").into_bytes()];
    plain.into_iter().chain(in_base64).collect()
}

#[test]
fn the_search_finds_what_it_is_to_find() {
    const SECRET: &str = "canary-test saffron ladle orbit";
    let forms = forms(SECRET);
    for form in &forms {
        let text = [b"xx", form.as_slice(), b"yy"].concat();
        assert!(std::panic::catch_unwind(|| absent(SECRET, &text, "a text")).is_err());
    }
    secret(SECRET);
    assert!(std::panic::catch_unwind(|| nothing_shows(&forms[5], "a text")).is_err());
    nothing_shows(b"canary-test saffron", "a part of it");
    assert_eq!(forms[4], b"Y2FuYXJ5LXRlc3Qgc2FmZnJvbiBsYWRsZSBvcmJp");
}
