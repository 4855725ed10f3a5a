//! What is configured in the chart and in the compose file is what the program knows, without helm: `make chart-test` has the rest.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use holdfast::cli::Arguments;

/// All files below a folder of the repository, or the one that is named.
fn texts(path: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(path)];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// The variables that a text names.
fn variables(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("HOLDFAST_") && word.len() > "HOLDFAST_".len()).collect()
}

fn known(command: &clap::Command, names: &mut BTreeSet<String>) {
    names.extend(command.get_arguments().filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned)));
    command.get_subcommands().for_each(|command| known(command, names));
}

#[test]
fn every_variable_that_is_set_for_the_program_is_one_of_it() {
    let mut names = BTreeSet::from(["HOLDFAST_TOKEN".to_owned()]);
    known(&Arguments::command(), &mut names);
    let mut count = 0;
    for (path, text) in ["helm/holdfast/templates", "deploy/kubernetes", "deploy/compose.yaml"].into_iter().flat_map(texts) {
        for name in variables(&text) {
            count += 1;
            // The chart explains what Kubernetes would make of a Service.
            assert!(
                names.contains(name) || name == "HOLDFAST_PORT",
                "{} sets {name}, which Holdfast does not know",
                path.display()
            );
        }
    }
    assert!(count > 50, "only {count} variables were found; the chart is elsewhere");
}

/// What `serve` can be told and the chart does not say, since it has no use for it there.
const NOT_IN_A_POD: [&str; 3] =
    ["HOLDFAST_AUTH__TOKEN_REVIEW__URL", "HOLDFAST_AUTH__TOKEN_REVIEW__CA_FILE", "HOLDFAST_AUTH__TOKEN_REVIEW__TOKEN_FILE"];

#[test]
fn everything_that_the_service_can_be_told_can_be_told_by_the_chart() {
    let arguments = Arguments::command();
    let serve = arguments.find_subcommand("serve").unwrap();
    let chart: String = texts("helm/holdfast/templates").into_iter().map(|(_, text)| text).collect();
    let said = variables(&chart);
    for argument in serve.get_arguments() {
        let Some(name) = argument.get_env().and_then(|name| name.to_str()) else { continue };
        // Those of the client stand at every command.
        let global = arguments.get_arguments().any(|other| other.get_id() == argument.get_id());
        let missing = !global && !NOT_IN_A_POD.contains(&name) && !said.contains(name);
        assert!(!missing, "{name} cannot be set by the chart; add a value to helm/holdfast, or name it here");
    }
}
