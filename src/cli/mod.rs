//! The same program as a client: the command line, what each command takes, and where it is carried out.
//!
//! Results go to standard output, all else to standard error; with `--json` a result is one JSON object in the proto3
//! mapping. The exit code is 0 for done, 64 + gRPC code for what the service refused or an operation failed with
//! (as grpcurl does), 2 for wrong usage, 1 for other local errors and 130 after Ctrl-C. No secret is ever an argument.

mod advice;
mod audit;
mod backups;
mod connect;
mod consent;
mod describe;
mod download;
mod events;
mod files;
mod follow;
mod lock;
mod names;
mod opener;
mod operations;
mod output;
mod passphrase;
mod problem;
mod progress;
mod restore;
mod schedule;
mod settings;
mod signing;
mod undo;
mod unpack;
mod upload;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use connect::{Client, Connection};
use output::Output;
use problem::Problem;

/// Backs up and restores the application data of a platform that keeps it in PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, propagate_version = true, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    /// Print the result as one JSON object (proto3 JSON)
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, or skipped because the schedule is disabled; 64 + gRPC code when the service \
    refused or the operation failed; 2 wrong usage; 1 other local errors; 130 after Ctrl-C.\n\
    The token is taken from HOLDFAST_TOKEN or --token-file.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service
    Serve(Box<crate::config::Serve>),
    /// Print the settings that `serve` would have, and say what is wrong with them; secrets are not shown
    CheckConfig(Box<crate::config::Serve>),
    #[command(flatten)]
    Client(ClientCommand),
}

/// What the program does as a client.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Make a backup and follow it to its end
    Backup(backups::Make),
    /// List the backups, newest first
    List,
    /// Show one backup
    Show(backups::Which),
    /// Show what restoring a backup would do, ask, and replace the present data with that of the backup
    Restore(restore::Restore),
    /// Bring the state before the last restore back; done twice, that restore is there again
    Undo(undo::Undo),
    /// Pin a backup, so that retention keeps it, or change its description
    Update(backups::Update),
    /// Delete a backup and its file for good
    Delete(backups::Delete),
    /// Compare the list with the backup folder: take files in that were copied there, mark those that are gone
    Sync,
    /// Check whether a backup is whole and can be restored
    Verify(verify::Verify),
    /// Save the file of a backup; a transfer that broke off is continued
    Download(download::Download),
    /// Send a backup file to the service, for example one of another system
    Upload(upload::Upload),
    /// When automatic backups are made
    Schedule {
        #[command(subcommand)]
        what: Option<schedule::What>,
    },
    /// How many backups are kept
    Retention {
        #[command(subcommand)]
        what: Option<settings::Retention>,
    },
    /// How new backups are encrypted
    Encryption {
        #[command(subcommand)]
        what: Option<settings::Encryption>,
    },
    /// Who signs new backups, and the certificates to verify them with
    Signing {
        #[command(subcommand)]
        what: Option<signing::What>,
    },
    /// List what backups contain
    Resources,
    /// Show whether a backup or restore could start now, and if not, why
    Status,
    /// Look at, follow and cancel operations
    Operations {
        #[command(subcommand)]
        what: Option<operations::What>,
    },
    /// Look at the maintenance lock, follow it, and take it away from a holder that is gone
    Lock {
        #[command(subcommand)]
        what: Option<lock::What>,
    },
    /// Show who did what, and follow what happens
    Events(events::Events),
    /// Prove the audit log
    Audit {
        #[command(subcommand)]
        what: audit::What,
    },
    /// Check a backup file on this machine; needs neither service nor database
    Inspect(files::Inspect),
    /// Unpack a backup file on this machine; needs neither service nor database
    Extract(files::Extract),
}

/// What a command that talks to the service has at hand.
struct Session {
    client: Client,
    output: Output,
}

/// Carries a client command out and says how it ended.
pub async fn run(command: ClientCommand, connection: &Connection, json: bool) -> ExitCode {
    match carry_out(command, connection, Output { json }).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => failed(&problem),
    }
}

/// Says that the program could not do what it was started for, without the insides of the error.
pub fn could_not(error: anyhow::Error) -> ExitCode {
    failed(&Problem::Local(error))
}

/// Prints the settings of the service, and says what is wrong with them, if anything is.
pub fn print_settings(settings: &[crate::config::Setting], checked: anyhow::Result<()>, json: bool) -> ExitCode {
    let rows = || {
        let row = |setting: &crate::config::Setting| {
            [setting.name.clone(), setting.value.clone().unwrap_or_default(), setting.source.to_owned()]
        };
        output::table(["SETTING", "VALUE", "FROM"], settings.iter().map(row))
    };
    match (Output { json }).local(&settings, rows).and_then(|()| checked.map_err(Problem::Local)) {
        Ok(()) => {
            output::note("Nothing is wrong with it, as far as that can be known without a connection.");
            ExitCode::SUCCESS
        }
        Err(problem) => failed(&problem),
    }
}

fn failed(problem: &Problem) -> ExitCode {
    output::note(&problem.report());
    ExitCode::from(problem.exit_code())
}

async fn carry_out(command: ClientCommand, connection: &Connection, output: Output) -> Result<(), Problem> {
    let session = || Ok::<_, Problem>(Session { client: Client::new(connection)?, output });
    match command {
        ClientCommand::Backup(make) => backups::make(session()?, make).await,
        ClientCommand::List => backups::list(session()?).await,
        ClientCommand::Show(which) => backups::show(session()?, which).await,
        ClientCommand::Restore(restore) => restore::restore(session()?, restore).await,
        ClientCommand::Undo(undo) => undo::undo(session()?, undo).await,
        ClientCommand::Update(update) => backups::update(session()?, update).await,
        ClientCommand::Delete(delete) => backups::delete(session()?, delete).await,
        ClientCommand::Sync => backups::sync(session()?).await,
        ClientCommand::Verify(verify) => verify::verify(session()?, verify).await,
        ClientCommand::Download(download) => download::download(session()?, download).await,
        ClientCommand::Upload(upload) => upload::upload(session()?, upload).await,
        ClientCommand::Schedule { what } => schedule::run(session()?, what.unwrap_or_default()).await,
        ClientCommand::Retention { what } => settings::retention(session()?, what.unwrap_or_default()).await,
        ClientCommand::Encryption { what } => settings::encryption(session()?, what.unwrap_or_default()).await,
        ClientCommand::Signing { what } => signing::run(session()?, what.unwrap_or_default()).await,
        ClientCommand::Resources => settings::resources(session()?).await,
        ClientCommand::Status => settings::status(session()?).await,
        ClientCommand::Operations { what } => operations::run(session()?, what.unwrap_or_default()).await,
        ClientCommand::Lock { what } => lock::run(session()?, what.unwrap_or_default()).await,
        ClientCommand::Events(events) => events::run(session()?, events).await,
        ClientCommand::Audit { what } => audit::run(session()?, what).await,
        ClientCommand::Inspect(inspect) => files::inspect(inspect, output),
        ClientCommand::Extract(extract) => files::extract(extract, output),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn scripts_can_rely_on_these_spellings() {
        for line in [
            "holdfast serve --folder d --database-name n --server-token-file t --seal-key-file k",
            "holdfast check-config --json --folder d --database-name n --server-token-file t --seal-key-file k",
            "holdfast backup --wait --json",
            "holdfast backup --scheduled --scheduled-time 2026-03-01T01:00:00Z",
            "holdfast backup --scheduled --scheduled-time 2026-03-01T02:00:00+01:00",
            "holdfast backup --no-wait --scheduled --lock-wait 10m --description daily --request-id r --validate-only",
            "holdfast list --json",
            "holdfast --json list",
            "holdfast show latest",
            "holdfast restore latest --yes --passphrase-stdin",
            "holdfast restore backups/b-20260301t010000z-abcdefgh --resources adapters,licenses --passphrase-file f",
            "holdfast restore latest --preview --json",
            "holdfast restore latest --yes --acknowledge LICENSES_CLEARED --acknowledge COLUMN_DROPPED",
            "holdfast restore latest --skip-safety-backup --lock-wait 10m --reason x",
            "holdfast undo",
            "holdfast undo --preview",
            "holdfast undo --yes --json --resources adapters --acknowledge COLUMN_DROPPED --passphrase-stdin --request-id r",
            "holdfast delete b-20260301t010000z-abcdefgh --yes",
            "holdfast update latest --pin",
            "holdfast update b-20260301t010000z-abcdefgh --unpin --description x",
            "holdfast sync --json",
            "holdfast verify latest",
            "holdfast verify b-20260301t010000z-abcdefgh --level rehearsal --passphrase-file f --json",
            "holdfast download latest -o x --endpoint http://h:1 --token-file t",
            "holdfast upload f --description x --json",
            "holdfast schedule",
            "holdfast schedule set --daily 03:30 --time-zone Europe/Berlin",
            "holdfast schedule set --start-deadline 6h",
            "holdfast schedule disable",
            "holdfast retention set 30",
            "holdfast encryption set --passphrase-stdin",
            "holdfast encryption off --yes",
            "holdfast encryption check latest --passphrase-stdin --json",
            "holdfast encryption check b-20260301t010000z-abcdefgh --current",
            "holdfast signing",
            "holdfast signing show --json",
            "holdfast signing export",
            "holdfast signing rotate --yes",
            "holdfast inspect f --verify --certificates-file c",
            "holdfast operations watch 019c0000-0000-7000-8000-000000000000",
            "holdfast operations cancel operations/019c0000-0000-7000-8000-000000000000",
            "holdfast operations list --active --json",
            "holdfast lock",
            "holdfast lock show --json",
            "holdfast lock watch --json",
            "holdfast lock release --token 17 --reason gone --yes",
            "holdfast events --type restore.*,backup.failed --json",
            "holdfast events --follow --after auditEvents/17",
            "holdfast audit verify --json",
            "holdfast audit verify --head 17:0000000000000000000000000000000000000000000000000000000000000000 --file f --passphrase-file p",
            "holdfast inspect f --verify",
            "holdfast extract f -C d --passphrase-file p",
            "holdfast extract f -C d --secret-key-file k",
            "holdfast restore latest --yes --secret-key-file k --passphrase-stdin",
            "holdfast verify latest --level contents --secret-key-file k",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        assert!(Arguments::try_parse_from(["holdfast", "schedule", "set", "--cron", "30 2 * * 1-5"]).is_ok());
    }

    #[test]
    fn what_could_do_harm_by_a_slip_is_not_accepted() {
        for line in [
            "holdfast delete latest",
            "holdfast update latest",
            "holdfast update latest --pin --unpin",
            "holdfast retention set 0",
            "holdfast retention set 1001",
            "holdfast schedule set",
            "holdfast schedule set --daily 24:00",
            "holdfast schedule set --daily 3:30 --cron x",
            "holdfast show ../x",
            "holdfast backup --wait --no-wait",
            "holdfast restore latest --passphrase secret",
            "holdfast verify latest --level all",
            "holdfast restore latest --passphrase-stdin --passphrase-file f",
            "holdfast list --token t",
            "holdfast restore latest --yes --acknowledge",
            "holdfast restore latest --yes --acknowledge *",
            "holdfast restore latest --yes --acknowledge all",
            "holdfast restore latest --preview --validate-only",
            "holdfast restore latest --preview --no-wait",
            "holdfast restore latest --preview --skip-safety-backup",
            "holdfast restore",
            "holdfast undo b-20260301t010000z-abcdefgh",
            "holdfast undo --passphrase secret",
            "holdfast lock release --token latest --reason x",
            "holdfast lock release --token 0 --reason x",
            "holdfast lock release 17",
            "holdfast upload",
            "holdfast upload latest f",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
