//! All settings of the service: as a page for people (`docs/settings.md`), and as they are in force (`holdfast check-config`).
//! Both are made of the definitions of the arguments, so that they cannot differ from what the service takes.

use std::fmt::Write;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory};
use serde::Serialize;

use super::telemetry::{HEADERS, STANDARD, standard};
use crate::cli::Arguments;

/// May have secrets in them, and are not shown.
const MASKED: [&str; 2] = ["HOLDFAST_WEBHOOK_URL", HEADERS];
const SERVE: &str = "serve";

const INTRODUCTION: &str = "\
# Settings

Every setting of `holdfast serve` is an environment variable or an argument; arguments win. A name that begins with `HOLDFAST_` and is
not in this list is an error, so that none is misspelt. Secrets come as files. `holdfast check-config` takes what `holdfast serve` takes,
prints what is in force, and says what is wrong with it, as far as that can be known without a connection.

This page is made of the program: `UPDATE=1 cargo test --test settings` writes it anew.
";

const TELEMETRY: &str = "
## Traces and metrics for a collector

Standard names of OpenTelemetry; they are no arguments. A value that is not understood is an error. Names that are not in this list are
passed over, but for those with which the library fills in limits (`OTEL_BSP_...`, `OTEL_SPAN_...`).

| Environment | Meaning |
| --- | --- |
";

const CLIENT: &str = "
## The command line

What the commands but `serve` take. The token is never an argument: it comes from `HOLDFAST_TOKEN` or a file.

| Environment | Argument | Default | Meaning |
| --- | --- | --- | --- |
";

/// A setting as it is in force.
#[derive(Debug, Serialize)]
pub struct Setting {
    pub name: String,
    /// `None`: it is not set.
    pub value: Option<String>,
    /// `environment`, `argument` or `default`; empty where it is not set.
    pub source: &'static str,
}

/// The page.
pub fn reference() -> String {
    let root = Arguments::command();
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## The service\n\n| Environment | Argument | Default | Meaning |\n| --- | --- | --- | --- |\n");
    let serve = root.find_subcommand(SERVE).map(Command::get_arguments);
    serve.into_iter().flatten().filter_map(row).for_each(|row| page.push_str(&row));
    page.push_str(TELEMETRY);
    for (name, meaning) in STANDARD {
        let _ = writeln!(page, "| `{name}` | {} |", cell(meaning));
    }
    page.push_str(CLIENT);
    root.get_arguments().filter_map(row).for_each(|row| page.push_str(&row));
    page
}

/// A row for a setting that is in the environment.
fn row(argument: &Arg) -> Option<String> {
    let (name, long) = (name(argument)?, argument.get_long()?);
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let switch = !argument.get_action().takes_values();
    let default = match defaults.join(", ") {
        // A switch is off.
        default if default.is_empty() || switch => {
            if argument.is_required_set() {
                "required".to_owned()
            } else {
                String::new()
            }
        }
        default => format!("`{default}`"),
    };
    let meaning = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let choices = argument.get_possible_values();
    let choices = choices.iter().filter(|_| !switch).map(|choice| match choice.get_help() {
        Some(help) => format!("`{}`: {help}", choice.get_name()),
        None => format!("`{}`", choice.get_name()),
    });
    let meaning: Vec<_> = Some(meaning).into_iter().filter(|text| !text.is_empty()).chain(choices).collect();
    Some(format!("| `{name}` | `--{long}` | {default} | {} |\n", cell(&meaning.join("; "))))
}

fn name(argument: &Arg) -> Option<String> {
    Some(argument.get_env()?.to_string_lossy().into_owned())
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// What is in force of a command that takes what `serve` takes.
pub fn in_force(matches: &ArgMatches) -> Vec<Setting> {
    let root = Arguments::command();
    let serve = root.find_subcommand(SERVE).map(Command::get_arguments);
    let settings = serve.into_iter().flatten().filter_map(|argument| {
        let name = name(argument)?;
        let id = argument.get_id().as_str();
        let value = matches.try_get_raw(id).ok().flatten();
        let value = value.map(|values| values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(","));
        let source = match matches.value_source(id) {
            Some(ValueSource::EnvVariable) => "environment",
            Some(ValueSource::CommandLine) => "argument",
            Some(_) => "default",
            None => "",
        };
        Some(shown(name, value, source))
    });
    let standard = STANDARD.into_iter().map(|(name, _)| {
        let value = standard(name);
        let source = if value.is_some() { "environment" } else { "" };
        shown(name.to_owned(), value, source)
    });
    settings.chain(standard).collect()
}

fn shown(name: String, value: Option<String>, source: &'static str) -> Setting {
    let secret = |value: &str| {
        // An address with a password or a token in it.
        let address = value.split_once("://").is_some_and(|(_, rest)| rest.contains(['@', '?']));
        address || MASKED.contains(&name.as_str())
    };
    Setting { value: value.map(|value| if secret(&value) { "(not shown)".to_owned() } else { value }), name, source }
}
