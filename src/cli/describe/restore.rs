//! What a restore would do, what is new since that was asked, and what it did.

use super::notices::{blocking, new_ones, notices, refusal};
use crate::cli::output::{clean, facts, id, table, time, word};
use crate::grpc::proto::backup::{Operation, ResourceChange, RestorePreview, RestoreResult, resource_change};

pub fn preview(preview: &RestorePreview) -> String {
    let facts = facts([("Preview of", id(&preview.backup)), ("Restorable", restorable(preview))]);
    format!("{facts}\n{}\n{}", changes("IN BACKUP", &preview.changes), notices(&preview.warnings))
}

fn restorable(preview: &RestorePreview) -> String {
    let reasons: Vec<_> = blocking(&preview.warnings).into_keys().collect();
    if refusal(&preview.warnings).is_some() {
        "no".to_owned()
    } else if !reasons.is_empty() {
        format!("when acknowledged: {}", reasons.join(", "))
    } else if preview.restorable {
        "yes".to_owned()
    } else {
        "no".to_owned()
    }
}

/// What a second preview shows that the first did not.
pub fn what_is_new(earlier: &RestorePreview, present: &RestorePreview) -> String {
    let other: Vec<_> = present.changes.iter().filter(|change| !earlier.changes.contains(change)).cloned().collect();
    let new = new_ones(&earlier.warnings, &present.warnings);
    let table = if other.is_empty() { String::new() } else { changes("IN BACKUP", &other) };
    let gone = earlier.changes.iter().filter(|change| present.changes.iter().all(|other| other.resource != change.resource));
    let gone: String = gone.map(|change| format!("{} is not touched any more.\n", clean(&id(&change.resource)))).collect();
    let text = [table, gone, notices(&new)].concat();
    if text.is_empty() { "A new preview shows the same as before.".to_owned() } else { format!("New in the preview:\n{text}") }
}

pub fn restore_result(result: &RestoreResult) -> String {
    let facts = facts([
        ("Restored", id(&result.backup)),
        ("Data of", time(result.snapshot_time)),
        ("Committed", time(result.commit_time)),
        ("Safety backup", id(&result.safety_backup)),
    ]);
    format!("{facts}\n{}\n{}", changes("NOW", &result.changes), notices(&result.notices))
}

/// The result of the newest restore: that one can be undone.
pub fn restore_report(result: &RestoreResult) -> String {
    let undo = match result.safety_backup.as_str() {
        "" => "No safety backup was made: this restore cannot be undone.",
        _ => "undo it: holdfast undo",
    };
    format!("{}\n{undo}", restore_result(result))
}

/// The restore that is to be undone: when it was, by whom, and of what.
pub fn last_restore(operation: &Operation, result: &RestoreResult) -> String {
    let about = operation.metadata.clone().unwrap_or_default();
    let resources: Vec<_> = result.changes.iter().map(|change| id(&change.resource)).collect();
    facts([
        ("Last restore", time(result.commit_time.or(about.end_time))),
        ("By", about.caller),
        ("Of", id(&result.backup)),
        ("With data of", time(result.snapshot_time)),
        ("Resources", resources.join(", ")),
        ("State before", id(&result.safety_backup)),
    ])
}

fn changes(afterwards: &str, changes: &[ResourceChange]) -> String {
    let rows = changes.iter().map(|change| {
        let written = [change.rows_removed, change.rows_added, change.rows_changed].into_iter().fold(0, i64::saturating_add);
        let items = [
            change.items_before,
            change.items_in_backup,
            change.items_added,
            change.items_changed,
            change.items_removed,
            written,
        ];
        let [before, after, added, changed, removed, written] = items.map(|number| number.to_string());
        let action = word(change.action, resource_change::Action::as_str_name, "ACTION_");
        [id(&change.resource), action, before, after, added, changed, removed, written]
    });
    table(["RESOURCE", "ACTION", "BEFORE", afterwards, "ADDED", "CHANGED", "REMOVED", "ROWS WRITTEN"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::backup::{Notice, NoticeCode, notice};

    fn change(resource: &str, before: i64) -> ResourceChange {
        ResourceChange {
            resource: format!("resources/{resource}"),
            action: resource_change::Action::Replace.into(),
            items_before: before,
            items_in_backup: 7,
            items_added: 4,
            items_changed: 2,
            items_removed: 1,
            rows_removed: 10,
            rows_added: 20,
            rows_changed: 30,
        }
    }

    fn warning(severity: notice::Severity, subject: &str) -> Notice {
        Notice {
            severity: severity.into(),
            code: NoticeCode::ColumnDropped.into(),
            subject: subject.into(),
            message: format!("{subject} is lost."),
            ..Notice::default()
        }
    }

    fn sample(warnings: Vec<Notice>) -> RestorePreview {
        let restorable = warnings.is_empty();
        RestorePreview { backup: "backups/b-1".into(), restorable, changes: vec![change("a", 5)], warnings, ..Default::default() }
    }

    #[test]
    fn a_preview_counts_items_and_rows_of_each_resource() {
        let text = preview(&sample(vec![]));
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "Preview of: b-1",
            "Restorable: yes",
            "",
            "RESOURCE ACTION BEFORE IN BACKUP ADDED CHANGED REMOVED ROWS WRITTEN",
            "a replace 5 7 4 2 1 60",
            "",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_preview_says_under_which_condition_it_can_be_restored() {
        let text = preview(&sample(vec![warning(notice::Severity::Blocking, "x"), warning(notice::Severity::Blocking, "y")]));
        assert!(text.contains("Restorable:  when acknowledged: COLUMN_DROPPED\n"), "{text}");
        assert!(text.contains("blocking: COLUMN_DROPPED, 2 times"), "{text}");
        let text = preview(&sample(vec![warning(notice::Severity::Refusal, "x"), warning(notice::Severity::Blocking, "y")]));
        assert!(text.contains("Restorable:  no\n"), "{text}");
    }

    #[test]
    fn a_second_preview_shows_what_the_first_did_not() {
        let first = sample(vec![warning(notice::Severity::Blocking, "old")]);
        let mut second = first.clone();
        assert_eq!(what_is_new(&first, &second), "A new preview shows the same as before.");
        second.changes = vec![change("b", 6)];
        second.warnings.push(warning(notice::Severity::Blocking, "new"));
        let text = what_is_new(&first, &second);
        assert!(text.contains("\nb ") && text.contains("\na is not touched any more.\n"), "{text}");
        assert!(text.contains("new is lost.") && !text.contains("old is lost."), "{text}");
    }

    #[test]
    fn the_report_of_a_restore_ends_with_how_to_undo_it() {
        let mut result = RestoreResult { safety_backup: "backups/b-2".into(), ..Default::default() };
        result.changes.push(change("a", 5));
        result.notices.push(warning(notice::Severity::Warning, "x\x1b"));
        let text = restore_report(&result);
        assert!(text.contains("Safety backup:  b-2\n") && text.ends_with("\nundo it: holdfast undo"), "{text}");
        assert!(text.contains("warning: x\u{fffd} is lost. (COLUMN_DROPPED)"), "{text}");
        result.safety_backup.clear();
        let text = restore_report(&result);
        assert!(text.contains("cannot be undone") && !text.contains("holdfast undo"), "{text}");
    }
}
