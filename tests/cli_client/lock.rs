//! The maintenance lock on the command line: shown, followed, and taken away only from whom it is named for.

use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::{ExpiryPolicy, Lock, LockHolder, LockPurpose};
use prost_types::Timestamp;
use tonic::Code;

use crate::Rig;
use crate::fake::OPERATION;
use crate::terminal::Terminal;

fn held(state: State, purpose: LockPurpose, token: i64) -> Lock {
    let at = |seconds: i64| Some(Timestamp { seconds: 1_772_326_800 + seconds, nanos: 0 });
    let holder = LockHolder {
        principal: "service:update".into(),
        holder_id: "update-8.4.1".into(),
        purpose: purpose.into(),
        reason: "Update to 8.4.1".into(),
        operation: if purpose == LockPurpose::SoftwareUpdate { String::new() } else { OPERATION.into() },
        fencing_token: token,
        acquire_time: at(0),
        renew_time: at(60),
        expire_time: at(900),
        expiry_policy: ExpiryPolicy::Hold.into(),
    };
    let name = "locks/platform-maintenance".into();
    Lock { name, state: state.into(), holder: Some(holder), fencing_token: token, update_time: at(60), ..Lock::default() }
}

fn free(token: i64) -> Lock {
    Lock { state: State::Free.into(), holder: None, ..held(State::Free, LockPurpose::Backup, token) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_is_shown_for_people_and_for_programs() {
    let rig = Rig::new().await;
    rig.platform().lock = held(State::Held, LockPurpose::SoftwareUpdate, 17);
    let shown = rig.run("lock", "").await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let words = shown.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "State: held ",
        "Holder: service:update ",
        "Reason: Update to 8.4.1 ",
        "Until: 2026-03-01T01:15:00Z, unless",
        "Token: 17 ",
    ] {
        assert!(words.contains(part), "{part:?} in {}", shown.out);
    }
    let printed: serde_json::Value = serde_json::from_str(&rig.run("lock show --json", "").await.out).unwrap();
    assert_eq!((&printed["state"], &printed["holder"]["fencingToken"]), (&"STATE_HELD".into(), &"17".into()));
    assert_eq!(printed["holder"]["purpose"], "LOCK_PURPOSE_SOFTWARE_UPDATE");
    rig.platform().lock = free(17);
    let shown = rig.run("lock", "").await.out;
    assert!(shown.contains("free\n") && !shown.contains("what to do"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_lock_service_refuses_is_reported_with_what_to_do() {
    let rig = Rig::new().await;
    rig.platform().lock_refused = Some((Code::NotFound, "LOCK_UNKNOWN"));
    let ended = rig.run("lock", "").await;
    assert_eq!((ended.code, ended.err.as_str()), (64 + 5, "error: Refused.\nreason: LOCK_UNKNOWN\n"));
    rig.platform().lock_refused = Some((Code::Unimplemented, "NOT_SERVED"));
    let ended = rig.run("lock", "").await;
    assert!(ended.code == 64 + 12 && ended.err.contains("does not host the maintenance lock"), "{ended:?}");
    assert!(ended.err.contains("--endpoint URL"), "{ended:?}");
    rig.platform().lock = free(18);
    let ended = rig.run("lock release --token 17 --reason gone --yes", "").await;
    assert!(ended.code == 64 + 10 && ended.err.contains("reason: FENCING_TOKEN_MISMATCH\n"), "{ended:?}");
    assert!(ended.err.contains("see who holds it now: holdfast lock\n"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_each_change_once_over_broken_connections_and_without_renewals() {
    let rig = Rig::new().await;
    let update = held(State::Held, LockPurpose::SoftwareUpdate, 17);
    let mut renewed = update.clone();
    renewed.update_time = Some(Timestamp { seconds: 1_772_327_000, nanos: 0 });
    renewed.holder.as_mut().unwrap().renew_time = renewed.update_time;
    let mut next_step = renewed.clone();
    next_step.holder.as_mut().unwrap().reason = "Update to 8.4.1: step 2 of 7".into();
    let watches = [vec![free(16), update.clone(), update], vec![renewed.clone(), renewed], vec![next_step, free(17)]];
    rig.platform().watched = watches.clone().into();
    let ended = rig.watched_to_the_end("lock watch", 4).await;
    assert_eq!(ended.code, 130, "{ended:?}");
    let states: Vec<&str> = ended.out.lines().map(|line| line.split("  ").nth(1).unwrap()).collect();
    assert_eq!(states, ["free", "held", "held", "free"], "{ended:?}");
    assert!(ended.out.contains("step 2 of 7") && ended.err.contains("The connection was lost; trying again."), "{ended:?}");
    rig.platform().watched = watches.into();
    let printed = rig.watched_to_the_end("lock watch --json", 4).await.out;
    let states: Vec<serde_json::Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(states[3]["state"], "STATE_FREE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_does_not_guess_whom_it_is_meant_for() {
    let rig = Rig::new().await;
    rig.platform().lock = held(State::Stale, LockPurpose::SoftwareUpdate, 17);
    for line in ["lock release", "lock release --yes --reason gone", "lock release --yes --token 17", "lock release --token 17"] {
        let ended = rig.run(line, "").await;
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
        assert!(ended.err.contains("--token 17 --reason TEXT\n") && ended.err.contains("nothing was released"), "{ended:?}");
    }
    let unasked = rig.run("lock release --token 17 --reason gone", "yes\n").await;
    assert!(unasked.code == 2 && unasked.err.contains("use --yes"), "{unasked:?}");
    rig.platform().lock = free(17);
    let ended = rig.run("lock release", "").await;
    assert!(ended.code == 2 && ended.err.contains("nobody has the lock"), "{ended:?}");
    assert!(rig.asked("ForceReleaseLock").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_says_what_it_did() {
    let rig = Rig::new().await;
    rig.platform().lock = held(State::Stale, LockPurpose::SoftwareUpdate, 17);
    let mut line = rig.command("lock release --token 17 --yes --json");
    line.args(["--reason", "pod is gone"]);
    let ended = tokio::task::spawn_blocking(move || line.output().unwrap()).await.unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((ended.status.code(), &printed["state"]), (Some(0), &"STATE_FREE".into()));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("Token 17 is refused from now on"), "{ended:?}");
    assert_eq!(rig.asked("ForceReleaseLock"), ["ForceReleaseLock locks/platform-maintenance 17 pod is gone"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_holder_is_shown_before_it_is_asked_for() {
    let rig = Rig::new().await;
    rig.platform().lock = held(State::Held, LockPurpose::Backup, 17);
    let mut terminal = Terminal::plain(&rig, "lock release --token 17 --reason stuck");
    terminal.answer("The lock is taken away from service:update (update-8.4.1), token 17.", "no\n").await;
    let (code, screen) = terminal.ended().await;
    assert!(code == 1 && screen.contains("holdfast operations cancel 019c0000"), "{code} {screen}");
    assert!(rig.asked("ForceReleaseLock").is_empty());

    let terminal = Terminal::plain(&rig, "lock release --token 16 --reason stuck");
    let (code, screen) = terminal.ended().await;
    assert!(code == 64 + 10 && screen.contains("FENCING_TOKEN_MISMATCH") && screen.contains("with token 17"), "{code} {screen}");

    rig.platform().lock = held(State::Stale, LockPurpose::SoftwareUpdate, 17);
    let mut terminal = Terminal::plain(&rig, "lock release --token 17 --reason stuck");
    terminal.answer("The lock is taken away from", "yes\n").await;
    let (code, screen) = terminal.ended().await;
    assert!(code == 0 && screen.contains("may be half done") && screen.contains("The lock was taken away."), "{code} {screen}");
    assert_eq!(rig.asked("ForceReleaseLock").len(), 1);
}
