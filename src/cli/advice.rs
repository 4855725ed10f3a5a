//! What stands in the way, for a person: who, why, since when and until when, and what this program can do about it.
//!
//! Reasons are those of `backup.holdfast` and `lock.holdfast`. One that is not known here has the instructions of the service.

use std::collections::HashMap;

use super::output::{clean, id};

/// What to wait with, as the command line spells it.
pub const WAIT: &str = "wait for it: add --lock-wait 30m to backup, restore or undo";
pub const LOOK: &str = "look at it: holdfast lock";
pub const SEE_IT_END: &str = "see it end: holdfast lock watch";

/// The values of an error: those that tell of a holder first and in the words of people, the others by name.
pub fn known(metadata: &HashMap<String, String>) -> Vec<(&str, String)> {
    const WORDS: [(&str, &str); 9] = [
        ("holder", "holder"),
        ("holderId", "instance"),
        ("purpose", "purpose"),
        ("holderReason", "why"),
        ("reason", "why"),
        ("operation", "operation"),
        ("acquireTime", "since"),
        ("expireTime", "until"),
        ("stale", "stale"),
    ];
    let told = |key: &str| WORDS.iter().any(|(word, _)| *word == key);
    let mut values: Vec<(&str, String)> =
        metadata.iter().filter(|(key, _)| !told(key)).map(|(key, value)| (key.as_str(), value.clone())).collect();
    values.sort_unstable();
    let holder = WORDS.iter().filter_map(|(key, word)| Some((*word, value(key, metadata.get(*key)?, metadata))));
    holder.chain(values).filter(|(_, value)| !value.is_empty()).collect()
}

fn value(key: &str, value: &str, metadata: &HashMap<String, String>) -> String {
    match key {
        "expireTime" if stale(metadata) => format!("{value}; its holder stopped renewing"),
        "expireTime" => format!("{value}, unless it is renewed"),
        "stale" if stale(metadata) => "yes".to_owned(),
        "stale" => "no".to_owned(),
        _ => value.to_owned(),
    }
}

fn stale(metadata: &HashMap<String, String>) -> bool {
    metadata.get("stale").is_some_and(|value| value == "true")
}

/// What can be done about an error, as lines below a heading; none where there is no more to say than the service does.
pub fn what_to_do(reason: &str, metadata: &HashMap<String, String>) -> Vec<String> {
    // The operation of somebody else's work is not one of this service.
    let own = metadata.get("purpose").is_none_or(|purpose| purpose.contains("BACKUP") || purpose.contains("RESTORE"));
    let operation = metadata.get("operation").filter(|name| own && !name.is_empty()).map(|name| id(name));
    let advice: Vec<String> = match reason {
        "SOFTWARE_UPDATE_IN_PROGRESS" if stale(metadata) => abandoned(),
        "LOCK_STALE" => abandoned(),
        "SOFTWARE_UPDATE_IN_PROGRESS" => lines([LOOK, SEE_IT_END, WAIT]),
        "LOCK_HELD" if !own => lines([LOOK, SEE_IT_END, WAIT]),
        "OPERATION_IN_PROGRESS" | "LOCK_HELD" => match operation {
            Some(id) => of_operation(&id).into_iter().chain([WAIT.to_owned()]).collect(),
            None => lines(["see what runs: holdfast operations list --active", LOOK, WAIT]),
        },
        "LOCK_SERVICE_UNAVAILABLE" | "LOCK_SERVICE_UNUSABLE" | "STORE_UNAVAILABLE" => {
            lines(["nothing starts without the maintenance lock; see whether it answers: holdfast lock"])
        }
        "PREVIOUS_HOLDER_DRAINING" => {
            lines(["the transaction of the holder before is still ending: try again in a moment", LOOK])
        }
        "FENCING_TOKEN_MISMATCH" => lines(["nothing was released; see who holds it now: holdfast lock"]),
        "LEASE_LOST" => lines(["nothing of it remains; see who took the lock: holdfast lock; then start it again"]),
        "OPERATION_NOT_CANCELLABLE" => lines(["it commits, and ends in a moment: holdfast operations"]),
        // Wrong passphrases: nothing runs.
        "RATE_LIMITED" if metadata.contains_key("attemptsPerMinute") => Vec::new(),
        "RATE_LIMITED" => lines(["see what runs: holdfast operations list --active"]),
        "BACKUP_ALREADY_EXISTS" => {
            metadata.get("backup").map(|name| vec![format!("look at it: holdfast show {}", id(name))]).unwrap_or_default()
        }
        "WARNINGS_NOT_ACKNOWLEDGED" => metadata.get("warnings").map(|warnings| acknowledge(warnings)).unwrap_or_default(),
        _ => Vec::new(),
    };
    below_heading(advice)
}

/// Lines as they stand in a report, under one heading.
pub fn below_heading(advice: Vec<String>) -> Vec<String> {
    if advice.is_empty() {
        return advice;
    }
    let heading = "what to do:".to_owned();
    std::iter::once(heading).chain(advice.iter().map(|line| format!("  {}", clean(line)))).collect()
}

/// How to look after an operation that runs.
pub fn of_operation(id: &str) -> [String; 2] {
    [format!("follow it: holdfast operations watch {id}"), format!("cancel it: holdfast operations cancel {id}")]
}

fn abandoned() -> Vec<String> {
    lines([
        "its holder stopped renewing, and the platform may be half updated: let the update go on, or have it undone",
        "see how far it came, and how to free the lock: holdfast lock",
    ])
}

fn acknowledge(warnings: &str) -> Vec<String> {
    let options: Vec<_> = warnings.split(", ").map(|reason| format!("--acknowledge {reason}")).collect();
    vec!["read them: holdfast restore NAME --preview".to_owned(), format!("accept what they say: add {}", options.join(" "))]
}

fn lines<const N: usize>(lines: [&str; N]) -> Vec<String> {
    lines.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn who_why_since_and_until_stand_first_in_the_words_of_people() {
        let update = [
            ("lock", "locks/platform-maintenance"),
            ("expireTime", "2026-03-01T01:15:00Z"),
            ("acquireTime", "2026-03-01T01:00:00Z"),
            ("holderReason", "Update to 8.4.1"),
            ("holder", "update-service"),
        ];
        let shown: Vec<String> = known(&of(&update)).into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
        let expected = [
            "holder: update-service",
            "why: Update to 8.4.1",
            "since: 2026-03-01T01:00:00Z",
            "until: 2026-03-01T01:15:00Z, unless it is renewed",
            "lock: locks/platform-maintenance",
        ];
        assert_eq!(shown, expected);
        let stale = of(&[("expireTime", "T"), ("stale", "true")]);
        assert_eq!(known(&stale), [("until", "T; its holder stopped renewing".to_owned()), ("stale", "yes".to_owned())]);
    }

    #[test]
    fn every_obstacle_says_what_to_do_with_this_program() {
        let running = of(&[("operation", "operations/019c\x1b")]);
        let text = what_to_do("OPERATION_IN_PROGRESS", &running).join("\n");
        assert!(text.starts_with("what to do:\n  follow it: holdfast operations watch 019c\u{fffd}\n  cancel it: "), "{text}");
        assert!(text.contains("--lock-wait"), "{text}");
        let update = of(&[("purpose", "SOFTWARE_UPDATE"), ("operation", "operations/of-the-update")]);
        let text = what_to_do("LOCK_HELD", &update).join("\n");
        assert!(text.contains("holdfast lock watch") && !text.contains("of-the-update"), "{text}");
        for reason in ["OPERATION_IN_PROGRESS", "LOCK_HELD", "LOCK_STALE", "LOCK_SERVICE_UNAVAILABLE", "STORE_UNAVAILABLE"] {
            assert!(what_to_do(reason, &HashMap::new()).join("\n").contains("holdfast lock"), "{reason}");
        }
        assert!(what_to_do("STORAGE_FULL", &running).is_empty());
    }

    #[test]
    fn an_update_whose_holder_is_gone_is_not_waited_for() {
        let waits = |metadata: &HashMap<String, String>| {
            what_to_do("SOFTWARE_UPDATE_IN_PROGRESS", metadata).join("\n").contains("--lock-wait")
        };
        assert!(waits(&HashMap::new()) && waits(&of(&[("stale", "false")])));
        assert!(!waits(&of(&[("stale", "true")])));
    }

    #[test]
    fn warnings_are_accepted_by_options_of_this_program() {
        let text = what_to_do("WARNINGS_NOT_ACKNOWLEDGED", &of(&[("warnings", "COLUMN_DROPPED, OTHER_SYSTEM")])).join("\n");
        assert!(text.ends_with("add --acknowledge COLUMN_DROPPED --acknowledge OTHER_SYSTEM"), "{text}");
    }
}
