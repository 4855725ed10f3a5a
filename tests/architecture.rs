//! Who may know what: each word stands in the named places of `src/` only. This is the direction of use that `lib.rs` draws.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::path::{Path, PathBuf};

/// A word, and the only paths below `src/` that may have it.
const TABLE: &[(&str, &[&str])] = &[
    ("sequoia_openpgp", &["archive/"]),
    ("zstd::", &["archive/"]),
    ("sqlx::", &["postgres/", "config"]),
    ("tokio_cron_scheduler", &["timer.rs"]),
    ("tonic::", &["grpc/", "cli/"]),
    ("prost", &["grpc/", "cli/"]),
    ("std::fs", &["folder.rs", "config", "cli/", "operations/source.rs"]),
    ("hyper::", &["http.rs", "webhook.rs", "metrics.rs", "depot/wire.rs"]),
    // Others have spans of `tracing`.
    ("opentelemetry", &["metrics", "telemetry", "grpc/trace.rs"]),
    ("prometheus::", &["metrics.rs"]),
    ("rustls::", &["http.rs", "grpc/tls.rs"]),
    ("object_store", &["depot/"]),
    ("clap::", &["cli/", "config", "main.rs"]),
    ("indicatif", &["cli/"]),
    ("tracing_subscriber", &["telemetry"]),
    ("anyhow", &["main.rs", "cli/", "config", "telemetry", "archive/openpgp.rs"]),
    // Direction: who uses whom.
    ("crate::grpc", &["grpc/", "cli/", "config", "main.rs"]),
    ("crate::cli", &["cli/", "config", "main.rs"]),
    ("crate::config", &["config", "telemetry.rs", "cli/mod.rs", "main.rs"]),
    ("crate::telemetry", &["config", "grpc/", "metrics.rs", "operations/", "telemetry"]),
    ("crate::timer", &["main.rs"]),
    ("crate::metrics", &["main.rs"]),
    ("crate::operations", &["operations/", "grpc/", "timer.rs", "metrics", "config", "main.rs"]),
    ("crate::postgres", &["operations/", "postgres/", "config", "main.rs"]),
    ("crate::archive", &["operations/", "archive/", "cli/"]),
    // An archive may be a folder too.
    ("crate::folder", &["operations/", "folder.rs", "depot/", "main.rs"]),
    ("crate::depot", &["operations/", "depot/", "config"]),
    ("crate::lock", &["operations/", "lock.rs", "grpc/lock_client.rs", "grpc/convert/lock"]),
    // A panic on demand is for what happens, not for rules.
    ("crate::fault", &["operations/", "config"]),
    ("crate::http", &["depot/", "grpc/access/", "http.rs", "webhook.rs", "config"]),
    ("crate::webhook", &["operations/", "webhook.rs", "config", "main.rs"]),
    // Rules have no clock and no runtime.
    ("Utc::now", &["operations/mod.rs"]),
    (
        "tokio::",
        &[
            "archive/tests",
            "cli/",
            "depot/",
            "grpc/",
            "http.rs",
            "lock.rs",
            "main.rs",
            "metrics.rs",
            "operations/",
            "postgres/",
            "telemetry.rs",
            "timer.rs",
            "webhook.rs",
        ],
    ),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// Lines of code: comments and what follows `#[cfg(test)]` left out.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn every_word_stands_only_where_it_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30);
    let mut wrong = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap().display().to_string();
        if path.ends_with("tests.rs") || path.contains("/tests/") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (word, places) in TABLE {
            if !places.iter().any(|place| path.starts_with(place)) && code(&text).any(|line| line.contains(word)) {
                wrong.push(format!("{path} has `{word}`, which belongs to {places:?}"));
            }
        }
        assert!(text.starts_with("//!"), "{path} does not begin with what it is for");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
