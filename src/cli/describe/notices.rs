//! Notices for a person: the gravest first, many of one kind as one, each with what to do.

use std::collections::BTreeMap;

use crate::cli::output::{clean, word};
use crate::grpc::proto::backup::{Notice, NoticeCode, notice};

/// So many of one kind are shown; `--json` has all.
const SHOWN: usize = 5;

pub fn notices(notices: &[Notice]) -> String {
    let mut kinds: Vec<(i32, String, Vec<&Notice>)> = Vec::new();
    for notice in notices {
        let reason = reason(notice);
        match kinds.iter_mut().find(|(severity, known, _)| (*severity, known) == (notice.severity, &reason)) {
            Some((_, _, same)) => same.push(notice),
            None => kinds.push((notice.severity, reason, vec![notice])),
        }
    }
    // The order within a severity is that of the service.
    kinds.sort_by_key(|(severity, ..)| std::cmp::Reverse(*severity));
    kinds.iter().map(|(severity, reason, same)| kind(*severity, reason, same)).collect()
}

fn kind(severity: i32, reason: &str, same: &[&Notice]) -> String {
    let severity = word(severity, notice::Severity::as_str_name, "SEVERITY_");
    let reason = clean(reason);
    if let [notice] = same {
        return format!("{severity}: {} ({reason})\n{}", sentence(notice), instructions("  ", &notice.instructions));
    }
    let mut text = format!("{severity}: {reason}, {} times\n", same.len());
    let alike = same.iter().all(|notice| notice.instructions == same[0].instructions);
    for notice in same.iter().take(SHOWN) {
        text.push_str(&format!("  - {}\n", sentence(notice)));
        if !alike {
            text.push_str(&instructions("    ", &notice.instructions));
        }
    }
    if let Some(more @ 1..) = same.len().checked_sub(SHOWN) {
        text.push_str(&format!("  ... and {more} more; --json has all\n"));
    }
    if alike {
        text.push_str(&instructions("  ", &same[0].instructions));
    }
    text
}

/// The message, and the subject before it where the message does not name it.
pub fn sentence(notice: &Notice) -> String {
    let subject = if notice.message.contains(&notice.subject) { String::new() } else { format!("{}: ", notice.subject) };
    clean(&format!("{subject}{}", notice.message))
}

fn instructions(indent: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{indent}what to do: {}\n", clean(text)) }
}

/// The name of its kind, from its code where it does not say it.
pub fn reason(notice: &Notice) -> String {
    match NoticeCode::try_from(notice.code) {
        Ok(code) if notice.reason.is_empty() => code.as_str_name().trim_start_matches("NOTICE_CODE_").to_owned(),
        _ => notice.reason.clone(),
    }
}

/// The notices of `present` that `earlier` did not have.
pub fn new_ones(earlier: &[Notice], present: &[Notice]) -> Vec<Notice> {
    let about = |notice: &Notice| (reason(notice), notice.severity, notice.subject.clone(), notice.message.clone());
    let known: std::collections::BTreeSet<_> = earlier.iter().map(about).collect();
    present.iter().filter(|notice| !known.contains(&about(notice))).cloned().collect()
}

/// The blocking ones, by reason.
pub fn blocking(notices: &[Notice]) -> BTreeMap<String, Vec<&Notice>> {
    let mut reasons = BTreeMap::<_, Vec<_>>::new();
    for notice in notices.iter().filter(|notice| notice.severity() == notice::Severity::Blocking) {
        reasons.entry(reason(notice)).or_default().push(notice);
    }
    reasons
}

/// The first that no acknowledgement helps against. A severity that this program does not know is above those it knows.
pub fn refusal(notices: &[Notice]) -> Option<&Notice> {
    notices.iter().find(|notice| notice.severity > notice::Severity::Blocking as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(severity: notice::Severity, reason: &str, subject: &str) -> Notice {
        Notice {
            severity: severity.into(),
            code: NoticeCode::Other.into(),
            reason: reason.into(),
            subject: subject.into(),
            message: format!("{subject} matters."),
            instructions: "Act.".into(),
            ..Notice::default()
        }
    }

    #[test]
    fn the_gravest_stand_first_and_each_says_what_to_do() {
        use notice::Severity::{Blocking, Info, Refusal, Warning};
        let list = [notice(Info, "I", "i"), notice(Blocking, "B", "b"), notice(Warning, "W", "w"), notice(Refusal, "R", "r")];
        let text = notices(&list);
        let expected = ["refusal: r matters. (R)", "blocking: b matters. (B)", "warning: w matters. (W)", "info: i matters. (I)"];
        assert_eq!(text.lines().step_by(2).collect::<Vec<_>>(), expected);
        assert!(text.lines().skip(1).step_by(2).all(|line| line == "  what to do: Act."), "{text}");
    }

    #[test]
    fn many_of_one_kind_are_five_and_a_number() {
        let mut many: Vec<_> = (1..=12).map(|n| notice(notice::Severity::Warning, "TYPE", &format!("s{n}"))).collect();
        let text = notices(&many);
        assert!(text.starts_with("warning: TYPE, 12 times\n  - s1 matters.\n"), "{text}");
        assert!(text.ends_with("  - s5 matters.\n  ... and 7 more; --json has all\n  what to do: Act.\n"), "{text}");
        many.truncate(5);
        many[1].instructions = "Act otherwise.".into();
        let text = notices(&many);
        assert!(!text.contains("more;") && text.contains("  - s2 matters.\n    what to do: Act otherwise.\n"), "{text}");
    }

    #[test]
    fn a_notice_cannot_steer_the_terminal_and_names_its_subject_once() {
        let mut odd = notice(notice::Severity::Info, "X\x1b", "a\x1b[2J\nb");
        assert_eq!(notices(&[odd.clone()]).lines().next().unwrap(), "info: a\u{fffd}[2J\u{fffd}b matters. (X\u{fffd})");
        odd.message = "It matters.".into();
        assert_eq!(sentence(&odd), "a\u{fffd}[2J\u{fffd}b: It matters.");
        let coded = Notice { code: NoticeCode::ColumnDropped.into(), ..Notice::default() };
        assert_eq!(reason(&coded), "COLUMN_DROPPED");
    }

    #[test]
    fn what_is_unknown_is_not_taken_for_harmless() {
        let unknown = Notice { severity: 99, ..Notice::default() };
        assert!(refusal(&[notice(notice::Severity::Blocking, "B", "")]).is_none());
        assert!(refusal(&[unknown]).is_some());
    }

    #[test]
    fn only_what_was_not_there_before_is_new() {
        let before = [notice(notice::Severity::Warning, "A", "1")];
        let after =
            [before[0].clone(), notice(notice::Severity::Warning, "A", "2"), notice(notice::Severity::Blocking, "A", "1")];
        let subjects: Vec<_> = new_ones(&before, &after).into_iter().map(|notice| (notice.subject, notice.severity)).collect();
        assert_eq!(subjects, [("2".into(), 2), ("1".into(), 3)]);
    }
}
