//! The maintenance lock for a person: who has it, why, since and until when, and what can be done about it.
//!
//! To take it away is named only where its holder is gone; whoever is at work is better followed, waited for or cancelled.

use crate::cli::advice::{SEE_IT_END, WAIT, below_heading, of_operation};
use crate::cli::output::{clean, facts, id, time, word};
use crate::grpc::proto::lock::lock::State;
use crate::grpc::proto::lock::{ExpiryPolicy, Lock, LockHolder, LockPurpose};

pub fn lock(lock: &Lock) -> String {
    let about = [("Lock", id(&lock.name)), ("State", state(lock))];
    let Some(holder) = &lock.holder else {
        let free = [("Newest token", lock.fencing_token.to_string()), ("Changed", time(lock.update_time))];
        return facts(about.into_iter().chain(free));
    };
    let held = [
        ("Holder", holder.principal.clone()),
        ("Instance", holder.holder_id.clone()),
        ("Purpose", purpose(holder)),
        ("Reason", holder.reason.clone()),
        ("Since", time(holder.acquire_time)),
        ("Renewed", time(holder.renew_time)),
        ("Until", until(lock, holder)),
        ("Policy", policy(holder)),
        ("Token", holder.fencing_token.to_string()),
        ("Operation", if own(holder) { id(&holder.operation) } else { holder.operation.clone() }),
    ];
    let facts = facts(about.into_iter().chain(held));
    format!("{facts}\n{}", below_heading(what_to_do(lock, holder)).join("\n"))
}

/// One line for each change.
pub fn line(lock: &Lock) -> String {
    let mut parts = vec![time(lock.update_time), word(lock.state, State::as_str_name, "STATE_")];
    match &lock.holder {
        None => parts.push(format!("newest token {}", lock.fencing_token)),
        Some(holder) => parts.extend([
            format!("{} by {}", purpose(holder), who(holder)),
            holder.reason.clone(),
            format!("since {}", time(holder.acquire_time)),
            format!("until {}", until(lock, holder)),
            format!("token {}", holder.fencing_token),
        ]),
    }
    clean(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  "))
}

/// Who it is, as the service knows it and as it calls itself.
pub fn who(holder: &LockHolder) -> String {
    match holder.holder_id.as_str() {
        "" => holder.principal.clone(),
        _ if holder.holder_id == holder.principal => holder.principal.clone(),
        instance => format!("{} ({instance})", holder.principal).trim_start().to_owned(),
    }
}

/// Why it is not lightly taken away from its holder.
pub fn warning(lock: &Lock, holder: &LockHolder) -> String {
    let consequence = match (lock.state(), own(holder)) {
        (State::Stale, _) => {
            "Its holder stopped renewing, but may still be at work: make sure that nothing of it runs any more. What it began \
             may be half done, and the next backup has it as it is."
                .to_owned()
        }
        (_, true) => format!(
            "It is at work. Cancelled, it is rolled back and gives the lock back by itself: holdfast operations cancel {}",
            id(&holder.operation)
        ),
        (_, false) => {
            "It is at work, and was not told to stop: a backup or restore could then run in the middle of it. Wait for it, or stop \
             it where it runs."
                .to_owned()
        }
    };
    clean(&consequence)
}

/// Whether it is a backup or restore of a service such as this one.
fn own(holder: &LockHolder) -> bool {
    let purpose = matches!(holder.purpose(), LockPurpose::Backup | LockPurpose::Restore);
    purpose && holder.operation.starts_with("operations/")
}

fn what_to_do(lock: &Lock, holder: &LockHolder) -> Vec<String> {
    match (lock.state(), own(holder)) {
        (State::Stale, _) => vec![
            "let it go on or have it undone where it runs: the same holder takes the lock again by itself".to_owned(),
            format!(
                "only when nothing of it runs any more: holdfast lock release --token {} --reason TEXT",
                holder.fencing_token
            ),
        ],
        (_, true) => of_operation(&id(&holder.operation)).into_iter().chain([WAIT.to_owned()]).collect(),
        (_, false) => vec![SEE_IT_END.to_owned(), WAIT.to_owned()],
    }
}

/// A state that is not known is that of a lock that is taken.
fn state(lock: &Lock) -> String {
    let known = word(lock.state, State::as_str_name, "STATE_");
    match State::try_from(lock.state) {
        Ok(State::Free | State::Held) => known,
        Ok(State::Stale) => format!("{known}: its holder stopped renewing; the lock stays taken"),
        Ok(State::Unspecified) | Err(_) => format!("{known}: taken"),
    }
}

fn purpose(holder: &LockHolder) -> String {
    word(holder.purpose, LockPurpose::as_str_name, "LOCK_PURPOSE_")
}

fn until(lock: &Lock, holder: &LockHolder) -> String {
    match (time(holder.expire_time), lock.state()) {
        (end, _) if end.is_empty() => end,
        (end, State::Stale) => format!("{end}, which is over"),
        (end, _) => format!("{end}, unless it is renewed"),
    }
}

fn policy(holder: &LockHolder) -> String {
    match holder.expiry_policy() {
        ExpiryPolicy::Hold => "hold: stays taken when it is not renewed".to_owned(),
        ExpiryPolicy::Release | ExpiryPolicy::Unspecified => "release: becomes free when it is not renewed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds: 1_772_326_800 + seconds, nanos: 5 })
    }

    fn held(state: State, purpose: LockPurpose) -> Lock {
        let holder = LockHolder {
            principal: "service:update".into(),
            holder_id: "update-8.4.1".into(),
            purpose: purpose.into(),
            reason: "Update to 8.4.1\x1b[2J".into(),
            operation: "operations/019c".into(),
            fencing_token: 17,
            acquire_time: at(0),
            renew_time: at(300),
            expire_time: at(900),
            expiry_policy: ExpiryPolicy::Hold.into(),
        };
        let name = "locks/platform-maintenance".into();
        Lock { name, state: state.into(), holder: Some(holder), fencing_token: 17, update_time: at(300), ..Lock::default() }
    }

    #[test]
    fn a_lock_tells_who_why_since_and_until_when() {
        let text = lock(&held(State::Held, LockPurpose::SoftwareUpdate));
        for part in [
            "Lock:       platform-maintenance\n",
            "State:      held\n",
            "Holder:     service:update\n",
            "Instance:   update-8.4.1\n",
            "Purpose:    software update\n",
            "Reason:     Update to 8.4.1\u{fffd}[2J\n",
            "Since:      2026-03-01T01:00:00Z\n",
            "Until:      2026-03-01T01:15:00Z, unless it is renewed\n",
            "Policy:     hold: ",
            "Token:      17\n",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        let free = Lock { name: "locks/x".into(), state: State::Free.into(), fencing_token: 17, ..Lock::default() };
        assert_eq!(lock(&free), "Lock:          x\nState:         free\nNewest token:  17\n");
    }

    #[test]
    fn only_a_lock_whose_holder_is_gone_is_offered_for_release() {
        let offers = |lock_: &Lock| lock(lock_).contains("lock release");
        assert!(!offers(&held(State::Held, LockPurpose::SoftwareUpdate)));
        assert!(!offers(&held(State::Held, LockPurpose::Backup)));
        assert!(!offers(&Lock { state: 99, ..held(State::Held, LockPurpose::Maintenance) }));
        let stale = held(State::Stale, LockPurpose::SoftwareUpdate);
        assert!(lock(&stale).contains("holdfast lock release --token 17 --reason TEXT") && !lock(&stale).contains(WAIT));
    }

    #[test]
    fn a_backup_or_restore_at_work_is_followed_or_cancelled() {
        let restore = held(State::Held, LockPurpose::Restore);
        assert!(lock(&restore).contains("  cancel it: holdfast operations cancel 019c\n"), "{}", lock(&restore));
        assert!(warning(&restore, restore.holder.as_ref().unwrap()).ends_with("holdfast operations cancel 019c"));
        let update = held(State::Held, LockPurpose::SoftwareUpdate);
        assert!(!lock(&update).contains("operations cancel") && lock(&update).contains("--lock-wait"), "{}", lock(&update));
    }

    #[test]
    fn a_state_that_is_not_known_is_taken() {
        let text = lock(&Lock { state: 99, ..held(State::Held, LockPurpose::Backup) });
        assert!(text.contains("State:      unknown (99): taken\n"), "{text}");
    }

    #[test]
    fn a_change_is_one_line_that_cannot_steer_the_terminal() {
        let expected = "2026-03-01T01:05:00Z  stale  software update by service:update (update-8.4.1)  Update to 8.4.1\u{fffd}[2J  \
             since 2026-03-01T01:00:00Z  until 2026-03-01T01:15:00Z, which is over  token 17";
        assert_eq!(line(&held(State::Stale, LockPurpose::SoftwareUpdate)), expected);
    }
}
