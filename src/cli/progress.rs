//! How far something is: a bar on a terminal, a line now and then elsewhere. Always on standard error.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::describe;
use super::output::{clean, note, size};
use crate::grpc::proto::backup::Operation;

/// Shows progress until it is dropped.
pub enum Meter {
    Bar(ProgressBar),
    Lines { last: Option<String> },
}

impl Meter {
    /// For an operation of the service, in per cent.
    pub fn of_operation() -> Self {
        Self::new(100, "{spinner} [{elapsed}] {bar:30} {percent:>3} % {msg}")
    }

    /// For a transfer of so many bytes.
    pub fn of_bytes(total: u64) -> Self {
        Self::new(total, "{spinner} [{elapsed}] {bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}")
    }

    fn new(length: u64, template: &str) -> Self {
        if !stderr().is_terminal() {
            return Self::Lines { last: None };
        }
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(length).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self::Bar(bar)
    }

    pub fn operation(&mut self, operation: &Operation) {
        let progress = operation.metadata.as_ref().and_then(|about| about.progress.as_ref());
        let percent = progress.map_or(0, |progress| u64::try_from(progress.percent).unwrap_or(0).min(100));
        match self {
            Self::Bar(bar) => {
                let detail = operation.metadata.as_ref().map_or("", |about| about.status_detail.as_str());
                let message = if detail.is_empty() { describe::step(operation) } else { clean(detail) };
                bar.set_position(percent);
                bar.set_message(message);
            }
            Self::Lines { .. } => self.line(&describe::step(operation), percent),
        }
    }

    pub fn bytes(&mut self, done: u64, total: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(done),
            Self::Lines { .. } => {
                let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
                let of = |bytes: u64| size(i64::try_from(bytes).unwrap_or(i64::MAX));
                self.line(&format!("{percent} %, {} of {}", of(done), of(total)), percent);
            }
        }
    }

    /// Says something without disturbing the bar.
    pub fn remark(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| note(text)),
            Self::Lines { .. } => note(text),
        }
    }

    /// A line when the phase changes and at every tenth of the way.
    fn line(&mut self, text: &str, percent: u64) {
        let Self::Lines { last } = self else { return };
        let phase = text.trim_start_matches(|c: char| c.is_ascii_digit()).split(char::is_numeric).next().unwrap_or_default();
        let place = format!("{phase}{}", percent / 10);
        if last.as_ref() != Some(&place) {
            note(text);
            *last = Some(place);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
