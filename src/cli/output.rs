//! The one place that writes to the terminal: results to standard output, notes to standard error.
//!
//! A reader that goes away (`holdfast list | head`) is not an error. Text from elsewhere cannot steer the terminal.

use std::io::{self, Write};

use anyhow::Context;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::Timestamp;

use super::problem::Problem;
use crate::grpc::proto::{self, backup, lock};

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints a message of the contract, as JSON or in the words that `human` finds for it.
    pub fn result<M: Printed>(self, message: &M, human: impl FnOnce(&M) -> String) -> Result<(), Problem> {
        if self.json { print(&json(message)?) } else { print(&human(message)) }
    }

    /// Prints a result that is no message of the contract.
    pub fn local(self, value: &impl serde::Serialize, human: impl FnOnce() -> String) -> Result<(), Problem> {
        if self.json { print(&serde_json::to_string(value).context("cannot write JSON")?) } else { print(&human()) }
    }
}

fn print(text: &str) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to standard output").into())
        }
        _ => Ok(()),
    }
}

/// Says something that is not the result. Whether anybody reads it does not matter.
pub fn note(text: &str) {
    let lines: Vec<_> = text.trim_end().split('\n').map(clean).collect();
    let _ = writeln!(io::stderr().lock(), "{}", lines.join("\n"));
}

/// A message that commands print. Requests, and messages with secrets, are not among them.
pub trait Printed: Message {
    const NAME: &'static str;
}

macro_rules! printed {
    ($package:literal $module:ident: $($name:ident),*) => {
        $(impl Printed for $module::$name {
            const NAME: &'static str = concat!($package, ".", stringify!($name));
        })*
    };
}

printed!(
    "holdfast.backup.v1" backup:
    AuditEvent,
    Backup,
    CheckPassphraseResponse,
    Encryption,
    ListBackupsResponse,
    ListOperationsResponse,
    ListResourcesResponse,
    Operation,
    RestorePreview,
    RestoreResult,
    Retention,
    Schedule,
    Signing,
    SyncBackupsResponse,
    SystemStatus,
    VerifyResult
);
printed!("holdfast.lock.v1" lock: Lock);

/// The proto3 JSON mapping of a message, on one line.
fn json<M: Printed>(message: &M) -> anyhow::Result<String> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).context("the contract cannot be read")?;
    let descriptor = pool.get_message_by_name(M::NAME).with_context(|| format!("{} is not in the contract", M::NAME))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).with_context(|| format!("{} differs from the contract", M::NAME))?;
    let mut out = serde_json::Serializer::new(Vec::new());
    dynamic.serialize_with_options(&mut out, &SerializeOptions::new())?;
    Ok(String::from_utf8(out.into_inner())?)
}

/// Text without characters that a terminal would obey: controls, and those that turn the direction of what follows, so that
/// a name could look like another one.
pub fn clean(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

/// Rows under their headings, in columns.
pub fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![headings.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| row.map(|cell| if cell.is_empty() { "-".to_owned() } else { clean(&cell) })));
    aligned(&lines)
}

/// One line `key  value` for each that has a value.
pub fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let known = facts.into_iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<_> = known.map(|(key, value)| [format!("{key}:"), clean(&value)]).collect();
    aligned(&lines)
}

fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// RFC 3339 in UTC, to the second; empty when there is none.
pub fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(String::new, |time| Timestamp { nanos: 0, ..time }.to_string())
}

/// A size in MiB (IEC 80000-13).
#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
pub fn size(bytes: i64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The value of an enum in words: `STATE_READY` is `ready`. A value that this program does not know is a number.
pub fn word<E: TryFrom<i32>>(value: i32, name: fn(&E) -> &'static str, prefix: &str) -> String {
    match E::try_from(value) {
        Ok(known) => name(&known).trim_start_matches(prefix).to_ascii_lowercase().replace('_', " "),
        Err(_) => format!("unknown ({value})"),
    }
}

/// The last part of `backups/b-...` and the like.
pub fn id(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_proto3_mapping() {
        let backup = backup::Backup {
            name: "backups/b-1".into(),
            state: backup::backup::State::Ready as i32,
            size_bytes: 9_007_199_254_740_993,
            create_time: Some(Timestamp { seconds: 1_772_326_800, nanos: 500_000_000 }),
            pinned: Some(false),
            ..Default::default()
        };
        assert_eq!(
            json(&backup).unwrap(),
            r#"{"name":"backups/b-1","state":"STATE_READY","createTime":"2026-03-01T01:00:00.500Z","sizeBytes":"9007199254740993","pinned":false}"#
        );
    }

    #[test]
    fn every_printed_message_is_in_the_contract_and_has_no_secret() {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        fn check<M: Printed>(pool: &DescriptorPool) {
            let message = pool.get_message_by_name(M::NAME).unwrap();
            assert!(message.fields().all(|field| !["passphrase", "lease_id"].contains(&field.name())), "{}", M::NAME);
        }
        check::<backup::Encryption>(&pool);
        check::<backup::Operation>(&pool);
        check::<backup::SystemStatus>(&pool);
        check::<backup::RestorePreview>(&pool);
        check::<backup::RestoreResult>(&pool);
        check::<lock::Lock>(&pool);
    }

    #[test]
    fn columns_are_aligned_and_cannot_steer_the_terminal() {
        let rows = [["b-1".to_owned(), String::new()], ["grüße\x1b[0m".to_owned(), "x\ny\u{202e}z".to_owned()]];
        let shown = "NAME       STATE\nb-1        -\ngrüße\u{fffd}[0m  x\u{fffd}y\u{fffd}z\n";
        assert_eq!(table(["NAME", "STATE"], rows), shown);
    }

    #[test]
    fn sizes_times_and_words() {
        assert_eq!(size(1 << 20), "1.00 MiB");
        assert_eq!(size(0), "0.00 MiB");
        assert_eq!(time(Some(Timestamp { seconds: 0, nanos: 5 })), "1970-01-01T00:00:00Z");
        assert_eq!(time(None), "");
        assert_eq!(word(1, backup::Trigger::as_str_name, "TRIGGER_"), "on demand");
        assert_eq!(word(99, backup::Trigger::as_str_name, "TRIGGER_"), "unknown (99)");
    }
}
