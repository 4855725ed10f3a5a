//! Tests of `fields`.

use tonic_types::StatusExt;
use uuid::Uuid;

use super::*;

/// Reason and field of a refusal.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> (String, String) {
    let status = result.unwrap_err();
    let field = status.get_details_bad_request().unwrap().field_violations[0].field.clone();
    assert!(status.message().contains(field.split('[').next().unwrap()), "{status:?}");
    (status.get_details_error_info().unwrap().reason, field)
}

fn invalid_field(field: &str) -> (String, String) {
    ("INVALID_FIELD".into(), field.into())
}

#[test]
fn names_read_back() {
    let backup: BackupId = "b-20260301t010000z-7f3k2qab".parse().unwrap();
    assert_eq!(backup_id("name", &backup_name(&backup)).unwrap(), backup);
    let operation = OperationId(Uuid::from_u128(7));
    assert_eq!(operation_id("name", &operation_name(operation)).unwrap(), operation);
    let texts = ["resources/adapters", "resources/licenses", "resources/adapters"].map(str::to_owned);
    let names = resources("resources", &texts).unwrap();
    assert_eq!(names.iter().map(resource_name).collect::<Vec<_>>(), texts[..2]);
}

#[test]
fn what_is_not_a_name_is_refused_and_says_which_field() {
    for text in ["", "b-20260301t010000z-7f3k2qab", "backups/", "backups/../x", "backupsb-20260301t010000z-7f3k2qab", "Backups/x"]
    {
        assert_eq!(refused(backup_id("name", text)), invalid_field("name"), "{text}");
        assert_eq!(refused(operation_id("name", text)), invalid_field("name"), "{text}");
    }
    let texts = ["resources/adapters", "adapters"].map(str::to_owned);
    assert_eq!(refused(resources("resources", &texts)), invalid_field("resources[1]"));
}

#[test]
fn texts_are_bounded_in_characters() {
    assert!(text("description", "ß".repeat(256), MAX_TEXT).is_ok());
    assert_eq!(refused(text("description", "x".repeat(257), MAX_TEXT)), invalid_field("description"));
    assert_eq!(refused(text("request_id", "x".repeat(37), MAX_REQUEST_ID)), invalid_field("request_id"));
    assert!(text("description", "two\nlines".into(), MAX_TEXT).is_ok());
    for bad in ["\0", "\u{1b}[31m", "\r"] {
        assert_eq!(refused(text("description", bad.into(), MAX_TEXT)), invalid_field("description"));
    }
}

#[test]
fn page_sizes_have_a_default_and_a_limit() {
    assert_eq!(page_size(0, 50, 1000).unwrap(), 50);
    assert_eq!(page_size(1, 50, 1000).unwrap(), 1);
    assert_eq!(page_size(i32::MAX, 50, 1000).unwrap(), 1000);
    assert_eq!(refused(page_size(-1, 50, 1000)), invalid_field("page_size"));
}

#[test]
fn a_page_token_reads_back_and_belongs_to_its_list() {
    for place in [0, 1, 77, i64::MAX] {
        assert_eq!(page_place("backups", &page_token("backups", place)).unwrap(), Some(place));
    }
    let id = OperationId(Uuid::from_u128(7));
    assert_eq!(page_place("operations", &page_token("operations", id)).unwrap(), Some(id));
    assert_eq!(page_place::<i64>("backups", "").unwrap(), None);
    let (of_operations, of_active) = (page_token("operations", id), page_token("operations-active", id));
    let padded = page_token("backups", "07");
    let upper = page_token("backups", 7).to_uppercase();
    for token in [&of_operations, &padded, &upper, "7", "zz", "ß", "ffff", "+a", &page_token("backups", "")] {
        let expected = ("INVALID_PAGE_TOKEN".into(), "page_token".into());
        assert_eq!(refused(page_place::<i64>("backups", token)), expected, "{token}");
    }
    assert!(page_place::<OperationId>("operations", &of_active).is_err());
    assert!(page_place::<OperationId>("operations-active", &of_operations).is_err());
}

#[test]
fn an_etag_is_a_quoted_revision() {
    for number in [0, 1, -1, i64::MAX] {
        assert_eq!(revision("etag", &etag(number)).unwrap(), Some(number));
    }
    assert_eq!(revision("etag", "").unwrap(), None);
    for text in ["1", "\"", "\"\"", "\"1", "\"+1\"", "\"01\"", "W/\"1\"", "*"] {
        assert_eq!(refused(revision("etag", text)), invalid_field("etag"), "{text}");
    }
}

#[test]
fn times_and_lengths_of_time_read_back() {
    for (seconds, nanos) in [(0, 0), (1_772_326_800, 1), (-1, 999_999_999), (253_402_300_799, 0)] {
        let sent = prost_types::Timestamp { seconds, nanos };
        assert_eq!(timestamp(time("scheduled_time", sent).unwrap()), sent);
    }
    for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, 0), (253_402_300_800, 0), (0, -1), (0, 1_000_000_000)] {
        let sent = prost_types::Timestamp { seconds, nanos };
        assert_eq!(refused(time("scheduled_time", sent)), invalid_field("scheduled_time"));
    }
    for (seconds, nanos) in [(0, 0), (1, 1), (21_600, 999_999_999)] {
        let sent = prost_types::Duration { seconds, nanos };
        assert_eq!(duration(span("timeout", sent).unwrap()), sent);
    }
    for (seconds, nanos) in [(-1, 0), (0, -1), (1, -1), (0, 1_000_000_000), (i64::MIN, i32::MIN)] {
        assert_eq!(refused(span("timeout", prost_types::Duration { seconds, nanos })), invalid_field("timeout"));
    }
}

#[test]
fn the_lock_is_waited_for_at_most_six_hours() {
    let wait = |seconds| lock_wait(Some(prost_types::Duration { seconds, nanos: 0 }));
    assert_eq!(lock_wait(None).unwrap(), Duration::ZERO);
    assert_eq!(wait(21_600).unwrap(), Duration::from_secs(21_600));
    assert_eq!(refused(wait(21_601)), invalid_field("lock_wait"));
    assert_eq!(refused(wait(-1)), invalid_field("lock_wait"));
}

#[test]
fn numbers_that_are_too_large_become_the_largest() {
    assert_eq!((int32(u64::MAX), int64(u64::MAX), int32(5u32)), (i32::MAX, i64::MAX, 5));
}
