//! Whether the audit log is the one that was written. The service hands out what was hashed, and the hashes are computed here.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::anyhow;
use serde::Serialize;
use tonic::Code;

use super::Session;
use super::connect::unary;
use super::files::Local;
use super::opener::Opening;
use super::output::facts;
use super::problem::Problem;
use crate::grpc::proto::backup::{AuditHead, AuditRecord, GetSystemStatusRequest, ListAuditRecordsRequest};
use crate::model::chain::{Broken, Head, Link};
use crate::model::{Opener, Sha256};

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Check that no event was altered, removed or put in
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The log has to have this: a head as this command and `inspect` print it, or the hash of an event
    #[arg(long, value_name = "NUMBER:HASH")]
    head: Vec<Witness>,
    /// The log has to have what stands in this backup file of the same system
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    opener: Opening,
}

/// What somebody else knows of the log.
#[derive(Debug, Clone)]
struct Witness {
    /// `None`: it is the hash of some event.
    number: Option<i64>,
    hash: Sha256,
    /// Who says so.
    source: String,
}

impl FromStr for Witness {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let source = || "--head".to_owned();
        let head = text.parse().map(|Head { number, hash }| Self { number: Some(number), hash, source: source() });
        let hash = || text.parse().map(|hash| Self { number: None, hash, source: source() });
        head.or_else(|_| hash()).map_err(|_| "it has the form 17:HASH, or HASH: 64 lower-case hex digits")
    }
}

impl Witness {
    fn confirmed(&self, head: Head) -> bool {
        self.hash == head.hash && self.number.is_none_or(|number| number == head.number)
    }

    /// Why a log that ends with `end` is not the one that it knows.
    fn contradicts(&self, end: Head) -> Problem {
        let Self { number, hash, source } = self;
        let message = match number {
            Some(number) if *number > end.number => {
                format!("the log ends with event {}, and {source} tells of event {number}: it was put back or cut", end.number)
            }
            Some(number) => format!("event {number} has another hash than {source} tells: the log up to it is another one"),
            None => format!("no event has the hash {hash}"),
        };
        altered(message)
    }
}

#[derive(Serialize)]
struct Found {
    number: i64,
    hash: Sha256,
    /// Files and heads that the log agrees with.
    confirmed: usize,
}

pub async fn run(session: Session, what: What) -> Result<(), Problem> {
    let What::Verify(verify) = what;
    let mut witnesses = verify.head;
    let mut opener = None;
    if !verify.file.is_empty() {
        let status = async || session.client.backups().get_system_status(unary(GetSystemStatusRequest {})).await;
        let system = session.client.repeat(status).await?.system_id;
        for path in &verify.file {
            witnesses.push(of_file(path, &system, &verify.opener, &mut opener)?);
        }
    }
    let confirmed = witnesses.len();
    // A system without events was known before the first.
    witnesses.retain(|witness| !witness.confirmed(Head::START));
    let mut head = Head::START;
    loop {
        let request = ListAuditRecordsRequest { start_after: head.number, ..Default::default() };
        let page = session.client.repeat(async || session.client.events().list_audit_records(unary(request)).await).await?;
        let end = page.head.as_ref().and_then(end).ok_or_else(|| anyhow!("the service does not say where the log ends"))?;
        let more = !page.records.is_empty();
        for record in page.records {
            head = head.proven(&link(record)).map_err(broken)?;
            witnesses.retain(|witness| !witness.confirmed(head));
        }
        if head.number >= end.number || !more {
            head.ends(end).map_err(broken)?;
            break;
        }
    }
    if let Some(witness) = witnesses.first() {
        return Err(witness.contradicts(head));
    }
    let found = Found { number: head.number, hash: head.hash, confirmed };
    session.output.local(&found, || {
        let others = if confirmed == 0 { String::new() } else { format!("{confirmed} of {confirmed} are in it") };
        facts([
            ("Audit log", format!("whole: nothing was altered, removed or put in, in {} events", head.number)),
            ("Heads from elsewhere", others),
            ("Head", head.to_string()),
        ])
    })
}

/// What a backup file tells of the log. What opens one is asked for once.
fn of_file(path: &Path, system: &str, opening: &Opening, opener: &mut Option<Opener>) -> Result<Witness, Problem> {
    let mut file = Local::open(path)?;
    if file.encrypted && opener.is_none() {
        *opener = Some(opening.existing("the file", file.write_only)?);
    }
    let manifest = file.manifest(opener.as_ref().filter(|_| file.encrypted))?;
    if manifest.system_id.to_string() != system {
        let (path, other) = (path.display(), manifest.system_id);
        return Err(
            anyhow!("{path} is of another system, {other}: it tells nothing of the audit log of this one, {system}").into()
        );
    }
    let Some(Head { number, hash }) = manifest.audit else {
        return Err(anyhow!("{} tells nothing of the audit log: an older version wrote it", path.display()).into());
    };
    let source = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Witness { number: Some(number), hash, source })
}

fn link(AuditRecord { number, record, hash }: AuditRecord) -> Link {
    Link { number, record, hash: hash.parse().ok() }
}

fn end(head: &AuditHead) -> Option<Head> {
    Some(Head { number: head.number, hash: head.hash.parse().ok()? })
}

fn broken(broken: Broken) -> Problem {
    altered(broken.to_string())
}

fn altered(message: String) -> Problem {
    let instructions = "Somebody changed the table holdfast.event beside the service, or put the database back. Find out who may write \
        there, and look for the last backup file whose head the log still has (`--file`): up to it the log is the one of then.";
    Problem::refused_with(Code::DataLoss, "AUDIT_LOG_ALTERED", message, instructions.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_with_its_number_or_alone_and_is_told_when_the_log_has_it_not() {
        let head = Head::START.then(3, "[3, 1]");
        let (whole, alone): (Witness, Witness) = (head.to_string().parse().unwrap(), head.hash.to_string().parse().unwrap());
        assert!(whole.confirmed(head) && alone.confirmed(head));
        let moved = Head { number: 4, ..head };
        assert!(!whole.confirmed(moved) && alone.confirmed(moved));
        let other = Head::START.then(3, "[3, 2]");
        assert!(!whole.confirmed(other) && !alone.confirmed(other));
        let why = |witness: &Witness, end| witness.contradicts(end).to_string();
        assert!(why(&whole, other).contains("event 3 has another hash"));
        assert!(why(&whole, Head::START).contains("put back or cut"));
        assert!(why(&alone, other).contains("no event has the hash"));
        assert_eq!(whole.contradicts(other).exit_code(), 79);
        assert!("3".parse::<Witness>().is_err());
    }
}
