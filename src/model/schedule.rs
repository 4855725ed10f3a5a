//! When automatic backups run. All times of a schedule follow from its rule alone; nothing is remembered here.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, TimeZone, Timelike, Utc};
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
    /// The lock was taken until the start deadline.
    Skipped,
    /// The service was down until the start deadline.
    Missed,
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
        let cron = schedule.cron()?;
        let mut last = schedule.after(&cron, now).ok_or(Invalid::Never)?;
        for _ in 0..24 {
            let next = schedule.after(&cron, last).ok_or(Invalid::Never)?;
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
        self.after(&self.cron().ok()?, time)
    }

    /// The last run at or before `time` that may still start then, or, when none may, the last one missed since `since`.
    pub fn last_before(&self, since: DateTime<Utc>, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let cron = self.cron().ok()?;
        // A daily rule has few runs in any span that matters; a rule with many is stepped through from close by.
        let from = since.max(time - chrono::Duration::days(400));
        let mut last = None;
        let mut next = self.after(&cron, from)?;
        while next <= time {
            last = Some(next);
            next = self.after(&cron, next)?;
        }
        last
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

    fn cron(&self) -> Result<croner::Cron, Invalid> {
        match &self.recurrence {
            Recurrence::Daily { hours: 0..=23, minutes: 0..=59 } => {}
            Recurrence::Daily { .. } => return Err(Invalid::Time),
            Recurrence::Cron(text) if text.split_whitespace().count() == 5 => {}
            Recurrence::Cron(_) => return Err(Invalid::Cron),
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        parser.parse(&self.recurrence.expression()).map_err(|_| Invalid::Cron)
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
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn schedule(recurrence: Recurrence, zone: &str) -> Result<Schedule, Invalid> {
        Schedule::new(true, recurrence, time_zone(zone)?, Duration::from_secs(3600), at("2026-01-01T00:00:00Z"))
    }

    #[test]
    fn by_default_it_runs_every_day_at_one_utc() {
        let schedule = Schedule::default();
        assert_eq!(schedule.next_after(at("2026-03-01T00:59:59Z")), Some(at("2026-03-01T01:00:00Z")));
        assert_eq!(schedule.next_after(at("2026-03-01T01:00:00Z")), Some(at("2026-03-02T01:00:00Z")));
        assert_eq!(schedule.next_after(at("2026-03-01T00:59:59.7Z")), Some(at("2026-03-01T01:00:00Z")));
        assert_eq!(schedule.next_after(at("2026-03-01T01:00:00.3Z")), Some(at("2026-03-02T01:00:00Z")));
    }

    #[test]
    fn s10_cron_has_five_fields_and_a_next_run() {
        let cron = |text: &str| schedule(Recurrence::Cron(text.into()), "UTC").map(|_| ());
        assert_eq!(cron("30 2 * * 1-5"), Ok(()));
        assert_eq!(cron("0 0 29 2 *"), Ok(()));
        assert_eq!(cron("0 0 31 2 *"), Err(Invalid::Never));
        assert_eq!(cron("* * * * *"), Err(Invalid::TooOften));
        for text in ["", "0 30 2 * * 1-5", "61 2 * * *", "a b c d e", "@daily", "0 2 * *"] {
            assert_eq!(cron(text), Err(Invalid::Cron), "{text}");
        }
        assert_eq!(schedule(Recurrence::Daily { hours: 24, minutes: 0 }, "UTC"), Err(Invalid::Time));
        assert_eq!(schedule(Recurrence::Daily { hours: 1, minutes: 0 }, "Mars/Olympus"), Err(Invalid::TimeZone));
    }

    #[test]
    fn s11_a_day_with_a_clock_change_has_exactly_one_run() {
        for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu", "Pacific/Apia"]
        {
            for (hours, minutes) in [(0, 30), (1, 30), (2, 15), (2, 30), (3, 0)] {
                let schedule = schedule(Recurrence::Daily { hours, minutes }, zone).unwrap();
                let (mut time, mut days) = (at("2026-01-01T00:00:00Z"), 0);
                while time < at("2036-01-01T00:00:00Z") {
                    let next = schedule.next_after(time).unwrap();
                    let apart = next - time;
                    assert!(days == 0 || (22..=26).contains(&apart.num_hours()), "{zone} {hours}:{minutes} at {time}: {apart}");
                    (time, days) = (next, days + 1);
                }
                assert!((3651..=3653).contains(&days), "{zone} {hours}:{minutes}: {days} runs in ten years");
            }
        }
    }

    #[test]
    fn the_last_run_before_a_time_is_the_one_to_catch_up() {
        let schedule = Schedule::default();
        let since = at("2026-03-01T00:00:00Z");
        assert_eq!(schedule.last_before(since, at("2026-03-04T09:00:00Z")), Some(at("2026-03-04T01:00:00Z")));
        assert_eq!(schedule.last_before(since, at("2026-03-01T00:30:00Z")), None);
    }
}
