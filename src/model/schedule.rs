//! When automatic backups run. All times of a schedule follow from its rule alone; nothing is remembered here.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDateTime, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};
use serde::{Deserialize, Serialize};

/// The rule and whether it is in force. A value of this type has a next run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub enabled: bool,
    pub recurrence: Recurrence,
    /// IANA name, for example `Europe/Berlin`.
    pub time_zone: Tz,
    /// How late a run may start.
    pub start_deadline: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recurrence {
    Daily {
        hours: u8,
        minutes: u8,
    },
    /// Five fields, minute first.
    Cron(String),
}

/// What became of one planned run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Claimed, its backup is under way.
    Running,
    Succeeded,
    Failed,
    /// The lock was taken until the start deadline, or the run before took until a later one was due.
    Skipped,
    /// The service was down until the start deadline, or until a later run was due.
    Missed,
}

/// What a look at the clock calls for. Every run that was planned has one result: at most one is made up for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The run before was under way when they were planned. Oldest first, like `missed`.
    pub skipped: Vec<DateTime<Utc>>,
    /// Nobody was there.
    pub missed: Vec<DateTime<Utc>>,
    /// It is to start, now.
    pub start: Option<DateTime<Utc>>,
}

impl Look {
    /// Most runs that one look tells of; the next one, from the last of them on, tells of the rest.
    pub const MOST: usize = 1000;
}

/// Who starts the runs; set at the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The timer of this service.
    Internal,
    /// A caller, for example a Kubernetes CronJob: the times are its own.
    External,
}

/// A rule that cannot be a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("a time of day has hours from 0 to 23 and minutes from 0 to 59")]
    Time,
    #[error("a cron expression has five fields, minute first, for example `30 2 * * 1-5`")]
    Cron,
    #[error("this rule never runs")]
    Never,
    #[error("runs are at least {} minutes apart", Schedule::MIN_PERIOD.as_secs() / 60)]
    TooOften,
    #[error("there is no time zone of this name in the IANA database")]
    TimeZone,
    #[error("a start deadline is between 1 minute and 24 hours")]
    StartDeadline,
}

impl Schedule {
    pub const MIN_PERIOD: Duration = Duration::from_secs(15 * 60);

    /// Checks a rule, for a caller at `now`.
    pub fn new(
        enabled: bool,
        recurrence: Recurrence,
        time_zone: Tz,
        start_deadline: Duration,
        now: DateTime<Utc>,
    ) -> Result<Self, Invalid> {
        if !(Duration::from_secs(60)..=Duration::from_secs(24 * 3600)).contains(&start_deadline) {
            return Err(Invalid::StartDeadline);
        }
        let schedule = Self { enabled, recurrence, time_zone, start_deadline };
        let cron = schedule.cron(now)?;
        let mut last = schedule.after(&cron, now).ok_or(Invalid::Never)?;
        for _ in 0..24 {
            let Some(next) = schedule.after(&cron, last) else { break };
            if (next - last).to_std().is_ok_and(|period| period < Self::MIN_PERIOD) {
                return Err(Invalid::TooOften);
            }
            last = next;
        }
        Ok(schedule)
    }

    /// The first run after `time`. A local time that does not exist on a day with a clock change runs at the next one
    /// that does; one that exists twice runs once.
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.after(&self.cron(time).ok()?, time)
    }

    /// What is to be done at `time`, when every run planned up to `since` has its result. `busy_until`: the end of the run
    /// before.
    pub fn look(&self, since: DateTime<Utc>, busy_until: Option<DateTime<Utc>>, time: DateTime<Utc>) -> Look {
        let mut planned = self.planned(since).take_while(|planned| *planned <= time);
        let mut runs: Vec<_> = planned.by_ref().take(Look::MOST).collect();
        let start = match (planned.next(), runs.last()) {
            // Where there are more, the newest of these is not the newest.
            (None, Some(&newest)) if !self.left(newest, time).is_zero() => runs.pop(),
            _ => None,
        };
        let by_then = |planned: &DateTime<Utc>| busy_until.is_some_and(|end| *planned <= end);
        let (skipped, missed) = runs.into_iter().partition(by_then);
        Look { skipped, missed, start }
    }

    /// For how long a run may still start at `time`; nothing: no longer.
    pub fn left(&self, planned: DateTime<Utc>, time: DateTime<Utc>) -> Duration {
        self.start_deadline.saturating_sub((time - planned).to_std().unwrap_or_default())
    }

    /// All runs after `time`.
    fn planned(&self, time: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        let cron = self.cron(time).ok();
        std::iter::successors(Some(time), move |time| self.after(cron.as_ref()?, *time)).skip(1)
    }

    /// The pattern is matched on the wall clock alone (croner 3 runs a rule twice on some days with a clock change when it
    /// knows the zone); `instant` then finds the moment. Both only ever go forwards, so the first match after `time` is
    /// the first run.
    fn after(&self, cron: &croner::Cron, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Whole seconds, or the fraction would be handed on to every run.
        let mut wall = time.with_timezone(&self.time_zone).naive_local().with_nanosecond(0)?.and_utc();
        loop {
            wall = cron.find_next_occurrence(&wall, false).ok()?;
            let run = self.instant(wall.naive_utc())?;
            if run > time {
                return Some(run);
            }
        }
    }

    /// The first moment at or after which the clocks of the zone show `wall`.
    fn instant(&self, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
        const LONGEST_GAP_MINUTES: i64 = 25 * 60;
        (0..=LONGEST_GAP_MINUTES)
            .find_map(|gap| self.time_zone.from_local_datetime(&(wall + chrono::Duration::minutes(gap))).earliest())
            .map(|moment| moment.with_timezone(&Utc))
    }

    /// The pattern, in the years from `time` on in which it runs at least once, if it ever does: whoever looks for a run looks no
    /// further. (29 February is on the same day of the week again after 40 years at most.)
    fn cron(&self, time: DateTime<Utc>) -> Result<croner::Cron, Invalid> {
        match &self.recurrence {
            Recurrence::Daily { hours: 0..=23, minutes: 0..=59 } => {}
            Recurrence::Daily { .. } => return Err(Invalid::Time),
            Recurrence::Cron(text) if text.split_whitespace().count() == 5 => {}
            Recurrence::Cron(_) => return Err(Invalid::Cron),
        }
        let parser = CronParser::builder().seconds(Seconds::Required).year(Year::Required).build();
        let years = time.year() - 1..=time.year() + 41;
        let pattern = format!("0 {} {}-{}", self.recurrence.expression(), years.start(), years.end());
        parser.parse(&pattern).map_err(|_| Invalid::Cron)
    }
}

impl Recurrence {
    fn expression(&self) -> String {
        match self {
            Self::Daily { hours, minutes } => format!("{minutes} {hours} * * *"),
            Self::Cron(text) => text.clone(),
        }
    }
}

impl Default for Schedule {
    /// Every day at 01:00 UTC; a run may start up to six hours late.
    fn default() -> Self {
        let recurrence = Recurrence::Daily { hours: 1, minutes: 0 };
        Self { enabled: true, recurrence, time_zone: Tz::UTC, start_deadline: Duration::from_secs(6 * 3600) }
    }
}

/// An IANA time zone.
///
/// # Errors
/// When there is none of this name.
pub fn time_zone(name: &str) -> Result<Tz, Invalid> {
    Tz::from_str(name).map_err(|_| Invalid::TimeZone)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
