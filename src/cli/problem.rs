//! Why a command did not do what it was asked to, in words for a person and as an exit code for a script.
//!
//! What the service says is shown whole (message, reason, values, instructions), never as a Rust value.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::advice::{known, what_to_do};
use super::output::clean;
use crate::grpc::proto::backup::OperationError;

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The service refused, or could not be reached.
    #[error("{}", .0.message())]
    Call(#[from] Status),
    /// The operation was started and failed.
    #[error("{}", .0.message)]
    Operation(Box<OperationError>),
    /// The service would refuse it, so it was not sent.
    #[error("{}", .0.message)]
    Refused(Box<OperationError>),
    /// Ctrl-C. The text says what goes on all the same.
    #[error("{0}")]
    Interrupted(String),
    #[error("{0:#}")]
    Local(#[from] anyhow::Error),
}

impl Problem {
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// Something that a restore would be refused for: FAILED_PRECONDITION, as the service says it.
    pub fn refused(reason: &str, message: String, instructions: String) -> Self {
        Self::refused_with(Code::FailedPrecondition, reason, message, instructions)
    }

    /// Something that the service would refuse with this code.
    pub fn refused_with(code: Code, reason: &str, message: String, instructions: String) -> Self {
        let (code, reason) = (code as i32, reason.to_owned());
        Self::Refused(Box::new(OperationError { code, message, reason, instructions, ..Default::default() }))
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Call(status) => of_code(status.code() as i32),
            Self::Operation(error) | Self::Refused(error) => of_code(error.code),
            Self::Interrupted(_) => 130,
            Self::Local(_) => 1,
        }
    }

    /// `ErrorInfo.reason`, where there is one.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Call(status) => status.get_error_details().error_info().map(|info| info.reason.clone()),
            Self::Operation(error) | Self::Refused(error) => Some(error.reason.clone()),
            Self::Usage(_) | Self::Interrupted(_) | Self::Local(_) => None,
        }
    }

    /// After which time the service takes the call, when it only had too much to do.
    pub fn busy_for(&self) -> Option<Duration> {
        let Self::Call(status) = self else { return None };
        let details = status.get_error_details();
        let busy = details.error_info().is_some_and(|info| info.reason == "RATE_LIMITED");
        details.retry_info().and_then(|retry| retry.retry_delay).filter(|_| busy)
    }

    /// One line `error: ...`, then a line for each thing that is known besides, then what can be done about it here.
    pub fn report(&self) -> String {
        let mut lines = match self {
            Self::Interrupted(text) => vec![text.clone()],
            problem => vec![format!("error: {}", clean(&problem.to_string()))],
        };
        match self {
            Self::Call(status) => lines.extend(details(status)),
            Self::Operation(error) => {
                lines.extend(operation_details(error));
                lines.extend(what_to_do(&error.reason, &error.metadata));
            }
            Self::Refused(error) => lines.extend(operation_details(error)),
            Self::Usage(_) | Self::Interrupted(_) | Self::Local(_) => {}
        }
        lines.join("\n")
    }
}

/// 64 + gRPC code; a code that does not exist, or OK where something failed, counts as UNKNOWN.
fn of_code(code: i32) -> u8 {
    let code = if (1..=16).contains(&code) { code } else { Code::Unknown as i32 };
    u8::try_from(64 + code).unwrap_or(66)
}

fn details(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let mut lines = Vec::new();
    match details.error_info() {
        Some(info) => {
            lines.push(line("reason", &info.reason));
            lines.extend(values(&info.metadata));
        }
        None => lines.push(line("code", status.code().description())),
    }
    // The service says most of it in its message already.
    let new = |text: &str| !status.message().contains(text);
    for violation in details.bad_request().iter().flat_map(|request| &request.field_violations) {
        let description = if new(&violation.description) { format!(": {}", violation.description) } else { String::new() };
        lines.push(line("field", &format!("{}{description}", violation.field)));
    }
    let conditions = details.precondition_failure().into_iter().flat_map(|failure| &failure.violations);
    for violation in conditions.filter(|violation| new(&violation.description)) {
        lines.push(line("condition", &format!("{}: {}", violation.subject, violation.description)));
    }
    let quotas = details.quota_failure().into_iter().flat_map(|failure| &failure.violations);
    for violation in quotas.filter(|violation| new(&violation.description)) {
        lines.push(line("quota", &format!("{}: {}", violation.subject, violation.description)));
    }
    lines.extend(details.resource_info().map(|resource| line("resource", &resource.resource_name)));
    lines.extend(details.help().iter().flat_map(|help| &help.links).map(|link| line("help", &link.description)));
    lines.extend(details.localized_message().map(|text| line("instructions", &text.message)));
    lines.extend(details.request_info().map(|request| line("request", &request.request_id)));
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    lines.extend(delay.map(|delay| format!("retry: may succeed after {}", humantime::format_duration(delay))));
    lines.extend(details.error_info().iter().flat_map(|info| what_to_do(&info.reason, &info.metadata)));
    lines
}

fn operation_details(error: &OperationError) -> Vec<String> {
    let mut lines = vec![line("reason", &error.reason)];
    lines.extend(values(&error.metadata));
    if !error.instructions.is_empty() {
        lines.push(line("instructions", &error.instructions));
    }
    lines.extend(error.retry_delay.map(|delay| format!("retry: may succeed after {} s", delay.seconds)));
    lines
}

fn values(metadata: &std::collections::HashMap<String, String>) -> impl Iterator<Item = String> {
    known(metadata).into_iter().map(|(key, value)| line(key, &value))
}

fn line(key: &str, value: &str) -> String {
    format!("{}: {}", clean(key), clean(value))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_is_reported_with_all_that_helps() {
        let metadata = HashMap::from([("holder".to_owned(), "update-service".to_owned()), ("a".into(), "b\x1b[2J".into())]);
        let mut details = ErrorDetails::with_error_info("SOFTWARE_UPDATE_IN_PROGRESS", "backup.holdfast", metadata);
        details.add_bad_request_violation("passphrase", "missing").set_retry_info(Some(Duration::from_secs(5)));
        details.add_precondition_failure_violation("LOCK", "locks/platform-maintenance", "taken");
        let status = Status::with_error_details(Code::FailedPrecondition, "A software update runs.", details);
        let problem = Problem::from(status);
        assert_eq!(problem.exit_code(), 73);
        assert_eq!(problem.reason().unwrap(), "SOFTWARE_UPDATE_IN_PROGRESS");
        assert_eq!(
            problem.report(),
            "error: A software update runs.\nreason: SOFTWARE_UPDATE_IN_PROGRESS\nholder: update-service\na: b\u{fffd}[2J\n\
             field: passphrase: missing\ncondition: locks/platform-maintenance: taken\nretry: may succeed after 5s\n\
             what to do:\n  look at it: holdfast lock\n  see it end: holdfast lock watch\n  \
             wait for it: add --lock-wait 30m to backup, restore or undo"
        );
    }

    #[test]
    fn each_kind_has_its_exit_code() {
        let failed = |code| Problem::Operation(Box::new(OperationError { code, ..OperationError::default() })).exit_code();
        assert_eq!((failed(1), failed(9), failed(16)), (65, 73, 80));
        assert_eq!((failed(0), failed(99), failed(-1)), (66, 66, 66));
        assert_eq!(Problem::usage("x").exit_code(), 2);
        assert_eq!(Problem::from(anyhow::anyhow!("x")).exit_code(), 1);
        assert_eq!(Problem::Interrupted(String::new()).exit_code(), 130);
    }
}
