//! When automatic backups are made. Only what is named on the command line is changed.

use std::str::FromStr;
use std::time::Duration;

use prost_types::FieldMask;

use super::Session;
use super::backups::duration;
use super::connect::unary;
use super::output::{facts, id, time, word};
use super::problem::Problem;
use crate::grpc::proto::backup::{DailyRecurrence, GetScheduleRequest, Schedule, SetScheduleRequest, schedule};

#[derive(Debug, Default, clap::Subcommand)]
pub enum What {
    /// Show when automatic backups are made
    #[default]
    Show,
    /// Change when automatic backups are made; what is not given stays as it is
    Set(Set),
    /// Make automatic backups
    Enable,
    /// Make no automatic backups; their time is kept
    Disable,
}

#[derive(Debug, Default, clap::Args)]
#[group(id = "change", required = true, multiple = true)]
pub struct Set {
    /// Every day at this time
    #[arg(long, value_name = "HH:MM", conflicts_with = "cron")]
    daily: Option<TimeOfDay>,
    /// By a five-field cron expression, for example '30 2 * * 1-5'
    #[arg(long, value_name = "EXPRESSION")]
    cron: Option<String>,
    /// IANA time zone of the time, for example Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// How late a backup may begin when the service was down or something was in the way, for example 6h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    start_deadline: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TimeOfDay {
    hours: i32,
    minutes: i32,
}

impl FromStr for TimeOfDay {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str, end: i32| {
            let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten().filter(|number| *number < end)
        };
        let time = text.split_once(':').filter(|(_, minutes)| minutes.len() == 2);
        time.and_then(|(hours, minutes)| Some(Self { hours: number(hours, 24)?, minutes: number(minutes, 60)? }))
            .ok_or("a time of day is HH:MM, from 00:00 to 23:59")
    }
}

pub async fn run(session: Session, what: What) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let request = match what {
        What::Show => {
            let schedule = client.repeat(async || client.backups().get_schedule(unary(GetScheduleRequest {})).await).await?;
            return output.result(&schedule, describe);
        }
        What::Set(set) => set.request()?,
        What::Enable => switched(true),
        What::Disable => switched(false),
    };
    let schedule = client.once(async || client.backups().set_schedule(unary(request.clone())).await).await?;
    output.result(&schedule, describe)
}

fn switched(enabled: bool) -> SetScheduleRequest {
    change(Schedule { enabled: Some(enabled), ..Schedule::default() }, vec!["enabled"])
}

fn change(schedule: Schedule, paths: Vec<&str>) -> SetScheduleRequest {
    let paths = paths.into_iter().map(str::to_owned).collect();
    SetScheduleRequest { schedule: Some(schedule), update_mask: Some(FieldMask { paths }), validate_only: false }
}

impl Set {
    fn request(self) -> Result<SetScheduleRequest, Problem> {
        let (mut schedule, mut paths) = (Schedule::default(), Vec::new());
        if let Some(TimeOfDay { hours, minutes }) = self.daily {
            schedule.recurrence = Some(schedule::Recurrence::Daily(DailyRecurrence { hours, minutes }));
            paths.push("daily");
        }
        if let Some(cron) = self.cron {
            schedule.recurrence = Some(schedule::Recurrence::Cron(cron));
            paths.push("cron");
        }
        if let Some(time_zone) = self.time_zone {
            schedule.time_zone = time_zone;
            paths.push("time_zone");
        }
        if let Some(deadline) = self.start_deadline {
            schedule.start_deadline = Some(duration(deadline)?);
            paths.push("start_deadline");
        }
        Ok(change(schedule, paths))
    }
}

fn describe(schedule: &Schedule) -> String {
    let rule = match &schedule.recurrence {
        Some(schedule::Recurrence::Daily(at)) => format!("every day at {:02}:{:02}", at.hours, at.minutes),
        Some(schedule::Recurrence::Cron(cron)) => format!("cron {cron}"),
        None => "none".to_owned(),
    };
    let next = match (schedule.enabled(), schedule.driver()) {
        (false, _) => "none, the schedule is disabled".to_owned(),
        (true, schedule::Driver::External) => "when it is started from outside".to_owned(),
        (true, _) => time(schedule.next_run_time),
    };
    let deadline = schedule.start_deadline.and_then(|deadline| Duration::try_from(deadline).ok());
    let last = match schedule.last_run_state() {
        schedule::RunState::Unspecified => "none yet".to_owned(),
        state => {
            format!("{} {}", time(schedule.last_run_time), word(state.into(), schedule::RunState::as_str_name, "RUN_STATE_"))
        }
    };
    facts([
        ("Automatic backups", if schedule.enabled() { "enabled" } else { "disabled" }.to_owned()),
        ("Rule", rule),
        ("Time zone", schedule.time_zone.clone()),
        ("May start late by", deadline.map_or_else(String::new, |time| humantime::format_duration(time).to_string())),
        ("Started by", word(schedule.driver, schedule::Driver::as_str_name, "DRIVER_")),
        ("Next run", next),
        ("Last run", last),
        ("Its operation", id(&schedule.last_run_operation)),
        ("Last success", time(schedule.last_success_time)),
        ("Changed", format!("{} {}", time(schedule.update_time), schedule.updater).trim().to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_is_changed() {
        let paths = |set: Set| set.request().unwrap().update_mask.unwrap().paths;
        let zone = Set { time_zone: Some("Europe/Berlin".into()), ..Set::default() };
        assert_eq!(paths(zone), ["time_zone"]);
        let daily = Set { daily: Some(TimeOfDay { hours: 0, minutes: 0 }), ..Set::default() };
        let request = daily.request().unwrap();
        assert_eq!(request.schedule.unwrap().recurrence, Some(schedule::Recurrence::Daily(DailyRecurrence::default())));
        let late = Set { start_deadline: Some(Duration::from_secs(21_600)), cron: Some("x".into()), ..Set::default() };
        assert_eq!(paths(late), ["cron", "start_deadline"]);
        let off = switched(false);
        assert_eq!((off.schedule.unwrap().enabled, off.update_mask.unwrap().paths), (Some(false), vec!["enabled".to_owned()]));
    }

    #[test]
    fn times_of_day() {
        let time = |text: &str| text.parse::<TimeOfDay>().ok().map(|time| (time.hours, time.minutes));
        assert_eq!((time("03:30"), time("3:30"), time("23:59")), (Some((3, 30)), Some((3, 30)), Some((23, 59))));
        for text in ["24:00", "3:60", "3", "3:3", "+3:30", "03:30:00", "", ":", "003:30"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
