//! The documents in `docs/` and beside the code: the runbook has an entry for each reason and each alert, and links lead somewhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const RUNBOOK: &str = include_str!("../docs/runbook.md");
const ALERTS: &str = include_str!("../helm/holdfast/files/alerts.yaml");
const REASONS: [&str; 2] = [
    include_str!("../proto/holdfast/backup/v1/error_reason.proto"),
    include_str!("../proto/holdfast/lock/v1/error_reason.proto"),
];

/// The headings of the third rank below one of the second.
fn entries(section: &str) -> BTreeSet<&'static str> {
    let text = RUNBOOK.split("\n## ").find(|text| text.lines().next() == Some(section)).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("### ")).flat_map(|heading| heading.split(", ")).collect()
}

#[test]
fn the_runbook_has_an_entry_for_each_reason_and_for_no_other() {
    let values = REASONS.iter().flat_map(|text| text.lines()).filter_map(|line| line.trim().strip_prefix("ERROR_REASON_"));
    let reasons: BTreeSet<_> = values.filter_map(|value| value.split_once(" = ")).map(|(name, _)| name).collect();
    let reasons: BTreeSet<_> = reasons.into_iter().filter(|name| *name != "UNSPECIFIED").collect();
    assert!(reasons.len() > 50, "{reasons:?}");
    assert_eq!(entries("Errors"), reasons);
}

#[test]
fn the_runbook_has_an_entry_for_each_alert_and_for_no_other() {
    let alerts: BTreeSet<_> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(entries("Alerts"), alerts);
    let anchors: BTreeSet<_> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("runbook: docs/runbook.md#")).collect();
    let expected: Vec<_> = alerts.iter().map(|alert| alert.to_lowercase()).collect();
    assert_eq!(anchors, expected.iter().map(String::as_str).collect());
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for document in documents(root) {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            count += 1;
            assert!(document.parent().unwrap().join(path).exists(), "{} links to {path}, which is not there", document.display());
        }
    }
    assert!(count > 10, "only {count} links were found");
}

/// Every document but those of what was built or of others.
fn documents(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(documents(&path));
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    found
}
