//! What the messages of the contract look like to a person. Pure functions from a message to text.

pub mod lock;
pub mod notices;
pub mod restore;

use prost_types::Timestamp;

use super::advice::{below_heading, known, of_operation, what_to_do};
use super::output::{clean, facts, id, size, table, time, word};
use crate::grpc::proto::backup::{
    ArchiveStatus, Backup, BackupResult, CheckPassphraseResponse, EncryptionInfo, ListBackupsResponse, ListOperationsResponse,
    ListResourcesResponse, Operation, OperationError, OperationMetadata, OperationPhase, OperationType, Origin, Progress,
    SyncBackupsResponse, SystemStatus, Trigger, VerifyResult, backup, encryption_info, operation,
};
use notices::notices;

pub fn backups(list: &ListBackupsResponse) -> String {
    if list.backups.is_empty() {
        return "There are no backups.".to_owned();
    }
    let rows = list.backups.iter().map(|backup| {
        let pinned = if backup.pinned() { "pinned" } else { "" };
        let archived = if backup.archive_time.is_some() { "archived" } else { "" };
        let foreign = if backup.origin() == Origin::Foreign { "foreign" } else { "" };
        [
            id(&backup.name),
            state(backup),
            time(backup.snapshot_time),
            size(backup.size_bytes),
            encrypted(backup.encryption_info.as_ref()),
            trigger(backup),
            [pinned, archived, foreign, &backup.description]
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
        ]
    });
    table(["NAME", "STATE", "DATA OF", "SIZE", "ENCRYPTED", "TRIGGER", "DESCRIPTION"], rows)
}

pub fn backup(backup: &Backup) -> String {
    let place = backup.retention_position.filter(|place| place.position > 0);
    let safety = is_safety(backup);
    let resources = table(
        ["RESOURCE", "TITLE", "ITEMS", "SIZE"],
        backup
            .resources
            .iter()
            .map(|part| [id(&part.resource), part.display_name.clone(), part.item_count.to_string(), size(part.size_bytes)]),
    );
    let facts = facts([
        ("Backup", id(&backup.name)),
        ("State", state(backup)),
        ("State detail", backup.state_detail.clone()),
        ("Data of", time(backup.snapshot_time)),
        ("Completed", time(backup.complete_time)),
        ("File", backup.file_name.clone()),
        ("Size", size(backup.size_bytes)),
        ("SHA-256", backup.sha256.clone()),
        ("Encrypted", encrypted(backup.encryption_info.as_ref())),
        ("Recipients", backup.encryption_info.as_ref().map(|info| info.recipients.join(", ")).unwrap_or_default()),
        ("Written by", origin(backup)),
        ("Trigger", if safety { "safety: the state before a restore".to_owned() } else { trigger(backup) }),
        ("Description", backup.description.clone()),
        ("Archived", time(backup.archive_time)),
        ("Made by", backup.creator.clone()),
        ("Operation", id(&backup.operation)),
        ("Format", backup.format_version.clone()),
        ("Pinned", if backup.pinned() { "yes".to_owned() } else { String::new() }),
        (
            "Retention",
            match place {
                Some(place) => {
                    let next = if place.next_to_expire { "; the next successful backup deletes it" } else { "" };
                    format!("{} of {}{next}", place.position, place.max_count)
                }
                None if safety => "not counted; the newest three safety backups are kept".to_owned(),
                None => String::new(),
            },
        ),
    ]);
    if backup.resources.is_empty() { facts } else { format!("{facts}\n{resources}") }
}

/// What a look at the folder found.
pub fn synced(found: &SyncBackupsResponse) -> String {
    let imported = found.imported.iter().map(|backup| (id(&backup.name), "taken in".to_owned(), backup.file_name.clone()));
    let missing = found.missing.iter().map(|name| (id(name), "missing".to_owned(), "Its file is gone.".to_owned()));
    let back = "Its file is there again, and is what was written.";
    let recovered = found.recovered.iter().map(|name| (id(name), "back".to_owned(), back.to_owned()));
    let rejected = found.rejected.iter().map(|file| (file.file_name.clone(), "left alone".to_owned(), file.detail.clone()));
    let rows = imported.chain(missing).chain(recovered).chain(rejected);
    let rows: Vec<_> = rows.map(|(name, what, detail)| [name, what, detail]).collect();
    let untold = usize::try_from(found.rejected_count).unwrap_or_default().saturating_sub(found.rejected.len());
    match (rows.is_empty(), untold) {
        (true, _) => "Nothing is new in the folder. What is missing or damaged is in the list.".to_owned(),
        (false, 0) => table(["NAME", "WHAT", "DETAIL"], rows),
        (false, _) => format!("{}\nand {untold} more files that were left alone", table(["NAME", "WHAT", "DETAIL"], rows)),
    }
}

fn trigger(backup: &Backup) -> String {
    word(backup.trigger, Trigger::as_str_name, "TRIGGER_")
}

/// Whether it was made only so that a restore can be undone.
pub fn is_safety(backup: &Backup) -> bool {
    backup.trigger() == Trigger::Safety
}

fn state(backup: &Backup) -> String {
    word(backup.state, backup::State::as_str_name, "STATE_")
}

/// Who wrote the file, as far as that is proven.
fn origin(backup: &Backup) -> String {
    match (backup.origin(), backup.signing_key.as_str()) {
        (Origin::Unspecified, _) => "not known before it is opened".to_owned(),
        (Origin::Native, "") => "this system".to_owned(),
        (Origin::Native, key) => format!("this system, or one that it trusts, with key {key}"),
        (Origin::Foreign, "") => "unknown: it is not signed".to_owned(),
        (Origin::Foreign, key) => format!("foreign: it says it was signed with key {key}"),
    }
}

/// Whether it is encrypted, and with which passphrase: its number and since when it was in use.
fn encrypted(info: Option<&EncryptionInfo>) -> String {
    let Some(info) = info else { return String::new() };
    match info.r#type() {
        encryption_info::Type::None => "no".to_owned(),
        encryption_info::Type::Unspecified => "unknown".to_owned(),
        encryption_info::Type::Recipients => "only a secret key opens it".to_owned(),
        encryption_info::Type::Passphrase => {
            if info.passphrase_generation == 0 {
                return "passphrase not known".to_owned();
            }
            let present = if info.current_passphrase { ", in use now" } else { "" };
            let since = info.passphrase_set_time.map_or_else(String::new, |set| format!(" of {}", time(Some(set))));
            format!("passphrase {}{since}{present}", info.passphrase_generation)
        }
    }
}

/// That a backup opens, and with which passphrase.
pub fn checked(found: &CheckPassphraseResponse) -> String {
    let info = found.encryption_info.as_ref();
    let opens = match info.map(EncryptionInfo::r#type) {
        Some(encryption_info::Type::None) => "yes, it is not encrypted",
        _ => "yes",
    };
    facts([("Backup", id(&found.name)), ("Opens", opens.to_owned()), ("Encrypted", encrypted(info))])
}

pub fn is_encrypted(backup: &Backup) -> bool {
    backup.encryption_info.as_ref().is_some_and(|info| info.r#type() != encryption_info::Type::None)
}

/// Whether a passphrase opens it.
pub fn has_passphrase(backup: &Backup) -> bool {
    backup.encryption_info.as_ref().is_some_and(|info| info.r#type() == encryption_info::Type::Passphrase)
}

/// What a backup did besides making the file.
pub fn backup_result(made: &Backup, result: &BackupResult) -> String {
    let expired = result.expired_backups.iter().map(|name| format!("Deleted by retention: {}\n", clean(&id(name))));
    [backup(made), "\n".to_owned(), expired.collect(), notices(&result.notices)].concat()
}

pub fn operations(list: &ListOperationsResponse) -> String {
    if list.operations.is_empty() {
        return "There are no operations.".to_owned();
    }
    let (active, ended): (Vec<_>, Vec<_>) = list.operations.iter().partition(|operation| !operation.done);
    operation_table(active.into_iter().chain(ended))
}

fn operation_table<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> String {
    let rows = operations.into_iter().map(|operation| {
        let about = operation.metadata.clone().unwrap_or_default();
        let (asked, ended) = (time(about.create_time), time(about.end_time));
        [id(&operation.name), kind(&about), outcome(operation), asked, ended, id(&about.target), about.caller]
    });
    table(["OPERATION", "TYPE", "STATE", "ASKED FOR", "ENDED", "BACKUP", "BY"], rows)
}

pub fn operation(operation: &Operation) -> String {
    let about = operation.metadata.clone().unwrap_or_default();
    let facts = facts([
        ("Operation", id(&operation.name)),
        ("Type", kind(&about)),
        ("State", outcome(operation)),
        ("Detail", about.status_detail.clone()),
        ("Backup", id(&about.target)),
        ("Trigger", if about.trigger == 0 { String::new() } else { word(about.trigger, Trigger::as_str_name, "TRIGGER_") }),
        ("Asked for", time(about.create_time)),
        ("Started", time(about.start_time)),
        ("Ended", time(about.end_time)),
        ("Caller", about.caller.clone()),
        ("Cancelling", if about.cancel_requested { "yes".to_owned() } else { String::new() }),
    ]);
    let result = match &operation.result {
        Some(operation::Result::Error(error)) => failure(error),
        Some(operation::Result::Backup(result)) => backup_result(&result.backup.clone().unwrap_or_default(), result),
        Some(operation::Result::Restore(result)) => restore::restore_result(result),
        Some(operation::Result::Preview(preview)) => restore::preview(preview),
        None if !operation.done && !operation.name.is_empty() => {
            below_heading(of_operation(&id(&operation.name)).into()).join("\n")
        }
        Some(operation::Result::Verify(found)) => verification(found),
        None => return facts,
    };
    format!("{facts}\n{result}")
}

/// One line for each check, then what somebody should know.
pub fn verification(found: &VerifyResult) -> String {
    let rows = found
        .checks
        .iter()
        .map(|check| [check.name.clone(), if check.passed { "good" } else { "BAD" }.to_owned(), check.detail.clone()]);
    let checks = table(["CHECK", "RESULT", "DETAIL"], rows);
    match notices(&found.notices) {
        notices if notices.is_empty() => checks,
        notices => format!("{checks}\n{notices}"),
    }
}

/// What failed or stands in the way, who does, and what can be done about it.
fn failure(error: &OperationError) -> String {
    let about = [("Error", error.message.clone()), ("Reason", error.reason.clone())];
    let known: Vec<_> = known(&error.metadata).into_iter().map(|(key, value)| (capital(key), value)).collect();
    let known = known.iter().map(|(key, value)| (key.as_str(), value.clone()));
    let facts = facts(about.into_iter().chain(known).chain([("Instructions", error.instructions.clone())]));
    let advice = what_to_do(&error.reason, &error.metadata);
    if advice.is_empty() { facts } else { format!("{facts}{}\n", advice.join("\n")) }
}

fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

fn kind(about: &OperationMetadata) -> String {
    word(about.r#type, OperationType::as_str_name, "OPERATION_TYPE_")
}

/// How an operation ended, or where it is.
pub fn outcome(operation: &Operation) -> String {
    match (&operation.result, operation.done) {
        (Some(operation::Result::Error(error)), _) if error.code == 1 => "cancelled".to_owned(),
        (Some(operation::Result::Error(error)), _) => format!("failed ({})", error.reason),
        (_, true) => "done".to_owned(),
        (_, false) => step(operation),
    }
}

/// What an operation is doing now, in a few words.
pub fn step(operation: &Operation) -> String {
    let about = operation.metadata.clone().unwrap_or_default();
    let phase = word(about.phase, OperationPhase::as_str_name, "OPERATION_PHASE_");
    if about.phase() == OperationPhase::WaitingForLock && !about.status_detail.is_empty() {
        return format!("{phase}: {}", clean(&about.status_detail));
    }
    // At its end an operation is at no resource any more.
    match about.progress.filter(|progress| progress.percent > 0 && !operation.done) {
        Some(Progress { percent, current_resource, .. }) => {
            format!("{phase} {percent} % {}", clean(&id(&current_resource))).trim_end().to_owned()
        }
        None => phase,
    }
}

pub fn resources(list: &ListResourcesResponse) -> String {
    let rows = list.resources.iter().map(|resource| {
        let sensitive = if resource.sensitive { "yes" } else { "no" };
        let items = resource.item_count.to_string();
        [id(&resource.name), resource.display_name.clone(), items, sensitive.to_owned(), resource.description.clone()]
    });
    let table = table(["RESOURCE", "TITLE", "ITEMS", "SENSITIVE", "DESCRIPTION"], rows);
    let noticed = list.resources.iter().filter(|resource| !resource.notices.is_empty());
    let noticed = noticed.map(|resource| format!("\n{}:\n{}", clean(&id(&resource.name)), notices(&resource.notices)));
    [table, noticed.collect()].concat()
}

pub fn status(status: &SystemStatus) -> String {
    let yes = |possible: bool| if possible { "yes" } else { "no" }.to_owned();
    let latest = if status.latest_backup.is_empty() {
        "none".to_owned()
    } else {
        format!("{} with data of {}", id(&status.latest_backup), time(status.latest_snapshot_time))
    };
    let next = |time_: Option<Timestamp>| time_.map_or_else(|| "none planned".to_owned(), |next| time(Some(next)));
    let space = format!("{} used by backups, {} free", size(status.storage_used_bytes), size(status.storage_available_bytes));
    let mut text = facts([
        ("Backup possible", yes(status.backup_possible)),
        ("Restore possible", yes(status.restore_possible)),
        ("Backups", status.backup_count.to_string()),
        ("Latest good", latest),
        ("Next automatic", next(status.next_run_time)),
        ("Encryption", if status.encryption_enabled { "on" } else { "off" }.to_owned()),
        ("Volume", space),
        ("Archive", status.archive.as_ref().map(archive).unwrap_or_default()),
        ("Server", status.server_version.clone()),
        ("System", status.system_id.clone()),
    ]);
    if let Some(ArchiveStatus { error: Some(error), failing_since_time, .. }) = &status.archive {
        text.push_str(&format!("\nThe archive fails since {}:\n{}", time(*failing_since_time), failure(error)));
    }
    for obstacle in &status.obstacles {
        text.push_str(&format!("\nObstacle:\n{}", failure(obstacle)));
    }
    if !status.active_operations.is_empty() {
        text.push_str(&format!("\n{}", operation_table(&status.active_operations)));
    }
    text
}

/// Where the archive is, what is in it, and what is not yet.
fn archive(archive: &ArchiveStatus) -> String {
    let newest =
        archive.newest_snapshot_time.map_or_else(String::new, |newest| format!(", the newest data of {}", time(Some(newest))));
    let waiting = match archive.backlog_count {
        0 => "none waits".to_owned(),
        count => format!("{count} wait, since {}", time(archive.oldest_waiting_time)),
    };
    format!("{} with {} backups{newest}; {waiting}", archive.url, archive.backup_count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::backup::{Notice, Resource};

    fn sample() -> Backup {
        Backup {
            name: "backups/b-20260301t010000z-abcdefgh".into(),
            state: backup::State::Ready as i32,
            snapshot_time: Some(Timestamp { seconds: 1_772_326_800, nanos: 0 }),
            size_bytes: 3 << 20,
            trigger: Trigger::Scheduled as i32,
            encryption_info: Some(EncryptionInfo {
                r#type: encryption_info::Type::Passphrase as i32,
                passphrase_generation: 2,
                current_passphrase: true,
                ..Default::default()
            }),
            ..Backup::default()
        }
    }

    #[test]
    fn a_list_shows_what_is_needed_to_choose() {
        let list = ListBackupsResponse { backups: vec![sample()], ..Default::default() };
        let text = backups(&list);
        let rows: Vec<_> = text.lines().collect();
        assert!(rows[0].starts_with("NAME "), "{text}");
        for part in
            ["b-20260301t010000z-abcdefgh  ready", "2026-03-01T01:00:00Z  3.00 MiB", "passphrase 2, in use now  scheduled"]
        {
            assert!(rows[1].contains(part), "{text}");
        }
        assert_eq!(backups(&ListBackupsResponse::default()), "There are no backups.");
    }

    #[test]
    fn a_safety_backup_is_told_from_others() {
        let safety = Backup { trigger: Trigger::Safety as i32, ..sample() };
        let text = backup(&safety);
        assert!(text.contains("safety: the state before a restore") && text.contains("not counted"), "{text}");
        assert!(backups(&ListBackupsResponse { backups: vec![safety], ..Default::default() }).contains("  safety   -"));
        assert!(!backup(&sample()).contains("not counted"));
    }

    #[test]
    fn resources_are_followed_by_their_notices() {
        let missing = Notice { message: "It has no type.".into(), instructions: "Install it.".into(), ..Default::default() };
        let quiet = Resource { name: "resources/licenses".into(), ..Default::default() };
        let loud = Resource { name: "resources/adapters".into(), notices: vec![missing], ..Default::default() };
        let text = resources(&ListResourcesResponse { resources: vec![quiet, loud], ..Default::default() });
        assert!(text.contains("\n\nadapters:\n") && text.ends_with("  what to do: Install it.\n"), "{text}");
        assert!(!text.contains("licenses:"), "{text}");
    }

    #[test]
    fn an_operation_says_how_it_ended() {
        let error = OperationError { code: 9, reason: "SOFTWARE_UPDATE_IN_PROGRESS".into(), ..Default::default() };
        let failed = Operation { done: true, result: Some(operation::Result::Error(error)), ..Default::default() };
        assert!(operation(&failed).contains("failed (SOFTWARE_UPDATE_IN_PROGRESS)"), "{}", operation(&failed));
        let metadata = OperationMetadata {
            phase: OperationPhase::Transferring as i32,
            progress: Some(Progress { percent: 40, current_resource: "resources/adapters".into(), ..Default::default() }),
            ..Default::default()
        };
        let running = Operation { name: "operations/019c".into(), metadata: Some(metadata), ..Default::default() };
        assert_eq!(step(&running), "transferring 40 % adapters");
        assert!(operation(&running).ends_with("  cancel it: holdfast operations cancel 019c"), "{}", operation(&running));
    }
}
