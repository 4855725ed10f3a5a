//! Retention, encryption, resources and the state of the service.

use std::time::Duration;

use super::Session;
use super::backups::get;
use super::connect::unary;
use super::describe;
use super::names::BackupChoice;
use super::output::{facts, id, note, time};
use super::passphrase::{Source, can_ask, confirm};
use super::problem::Problem;
use crate::grpc::proto::backup;
use crate::grpc::proto::backup::{
    CheckPassphraseRequest, GetEncryptionRequest, GetRetentionRequest, GetSystemStatusRequest, ListResourcesRequest,
    ListResourcesResponse, SetEncryptionRequest, SetRetentionRequest,
};

/// A file that does not open is read to its end, to tell a wrong passphrase from damage.
const CHECK: Duration = Duration::from_secs(600);

#[derive(Debug, Default, clap::Subcommand)]
pub enum Retention {
    /// Show how many backups are kept
    #[default]
    Show,
    /// Change how many backups are kept; nothing is deleted before the next backup succeeds
    Set {
        /// Number of backups, 1 to 1000
        #[arg(value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1000))]
        keep: i32,
    },
}

#[derive(Debug, Default, clap::Subcommand)]
pub enum Encryption {
    /// Show whether new backups are encrypted
    #[default]
    Show,
    /// Encrypt new backups with a passphrase; it is asked for unless it is handed over
    Set(Source),
    /// Tell whether a passphrase opens a backup; only the beginning of its file is read
    Check {
        /// Name of the backup, or `latest`
        #[arg(value_name = "NAME")]
        backup: BackupChoice,
        /// Try the passphrase that new backups use now
        #[arg(long, conflicts_with_all = ["passphrase_stdin", "passphrase_file"])]
        current: bool,
        #[command(flatten)]
        passphrase: Source,
    },
    /// Do not encrypt new backups; where recipients are configured: to their secret keys only
    Off {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub async fn retention(session: Session, what: Retention) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let retention = match what {
        Retention::Show => client.repeat(async || client.backups().get_retention(unary(GetRetentionRequest {})).await).await?,
        Retention::Set { keep } => {
            let new = || backup::Retention { max_count: keep, ..Default::default() };
            let request = || unary(SetRetentionRequest { retention: Some(new()) });
            client.once(async || client.backups().set_retention(request()).await).await?
        }
    };
    output.result(&retention, describe_retention)
}

fn describe_retention(retention: &backup::Retention) -> String {
    let excess = match retention.excess_count {
        0 => "none".to_owned(),
        1 => "1 backup, the oldest".to_owned(),
        count => format!("{count} backups, the oldest"),
    };
    facts([
        ("Backups kept", retention.max_count.to_string()),
        ("Present", retention.current_count.to_string()),
        ("The next successful backup deletes", excess),
        ("Changed", format!("{} {}", time(retention.update_time), retention.updater).trim().to_owned()),
    ])
}

pub async fn encryption(session: Session, what: Encryption) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let passphrase = match what {
        Encryption::Show => {
            let state = client.repeat(async || client.backups().get_encryption(unary(GetEncryptionRequest {})).await).await?;
            return output.result(&state, describe_encryption);
        }
        Encryption::Check { backup, current, passphrase } => return check(&session, &backup, current, &passphrase).await,
        Encryption::Set(source) => source.new_one()?.reveal().to_owned(),
        Encryption::Off { yes } => {
            if !yes {
                can_ask(None)?;
                let request = || unary(GetEncryptionRequest {});
                let state = client.repeat(async || client.backups().get_encryption(request()).await).await?;
                let question = match state.recipients.is_empty() {
                    true => "New backups can then be read by anybody who has the file.",
                    false => {
                        "Without their secret keys, which are off-line, neither you nor this service can then read new backups."
                    }
                };
                confirm(question, None).await?;
            }
            String::new()
        }
    };
    let request = SetEncryptionRequest { passphrase: Some(passphrase), etag: String::new() };
    let state = client.once(async || client.backups().set_encryption(unary(request.clone())).await).await?;
    if state.write_only {
        note("Backups made from now on open with the secret keys of the recipients only; restoring one needs --secret-key-file.");
    } else if state.enabled {
        note("Backups made from now on need this passphrase. Keep it: the service never shows it. Older backups keep theirs.");
    }
    output.result(&state, describe_encryption)
}

/// Exits with 64 + INVALID_ARGUMENT when it does not, and with 64 + DATA_LOSS when the file is damaged.
async fn check(session: &Session, backup: &BackupChoice, current: bool, source: &Source) -> Result<(), Problem> {
    let Session { client, output } = session;
    let backup = get(session, backup).await?;
    let given = match current || !describe::has_passphrase(&backup) {
        true => None,
        false => Some(source.existing(&id(&backup.name))?),
    };
    let passphrase = given.map(|passphrase| passphrase.reveal().to_owned()).unwrap_or_default();
    let request = CheckPassphraseRequest { name: backup.name, passphrase };
    let found = client.within(CHECK, async || client.backups().check_passphrase(request.clone()).await).await?;
    output.result(&found, describe::checked)
}

fn describe_encryption(state: &backup::Encryption) -> String {
    let in_use = state.passphrase_set_time.is_some();
    let encrypted = match (state.enabled, state.write_only) {
        (false, _) => "no",
        (true, false) => "yes",
        (true, true) if state.recipients.is_empty() => "refused: the recipients that were configured are gone",
        (true, true) => "yes, to the recipients only: the service cannot read them again",
    };
    let recipient = |recipient: &backup::Recipient| {
        let until = recipient.expire_time.map(|end| format!(", until {}", time(Some(end)))).unwrap_or_default();
        format!("{} {}{until}", recipient.fingerprint, recipient.user_id)
    };
    let recipients: Vec<_> = state.recipients.iter().map(recipient).collect();
    facts([
        ("New backups are encrypted", encrypted.to_owned()),
        ("Recipients", recipients.join("; ")),
        ("Passphrase number", if in_use { state.passphrase_generation.to_string() } else { String::new() }),
        ("In use since", if in_use { time(state.passphrase_set_time) } else { String::new() }),
        ("Algorithm", state.algorithm.clone()),
        ("Changed", format!("{} {}", time(state.update_time), state.updater).trim().to_owned()),
    ])
}

pub async fn resources(session: Session) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let mut all = ListResourcesResponse::default();
    loop {
        let request = ListResourcesRequest { page_token: all.next_page_token.clone(), ..Default::default() };
        let page = client.repeat(async || client.backups().list_resources(unary(request.clone())).await).await?;
        all.resources.extend(page.resources);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return output.result(&all, describe::resources);
        }
    }
}

pub async fn status(session: Session) -> Result<(), Problem> {
    let Session { client, output } = &session;
    // Asked once: that it is not available is an answer.
    let status = client.once(async || client.backups().get_system_status(unary(GetSystemStatusRequest {})).await).await?;
    output.result(&status, describe::status)
}
