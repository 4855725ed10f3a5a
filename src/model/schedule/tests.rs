//! The rules of a schedule, each by itself.

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
    assert_eq!(cron("0 0 27 2 +"), Err(Invalid::Never));
    assert_eq!(cron("* * * * *"), Err(Invalid::TooOften));
    for text in ["", "0 30 2 * * 1-5", "61 2 * * *", "a b c d e", "@daily", "0 2 * *"] {
        assert_eq!(cron(text), Err(Invalid::Cron), "{text}");
    }
    assert_eq!(schedule(Recurrence::Daily { hours: 24, minutes: 0 }, "UTC"), Err(Invalid::Time));
    assert_eq!(schedule(Recurrence::Daily { hours: 1, minutes: 0 }, "Mars/Olympus"), Err(Invalid::TimeZone));
}

#[test]
fn a_rule_that_runs_once_in_forty_years_runs() {
    let rare = schedule(Recurrence::Cron("0 0 29 2 +TUE".into()), "UTC").unwrap();
    let mut time = at("2026-01-01T00:00:00Z");
    for year in [2028, 2056, 2084, 2124, 2152] {
        time = rare.next_after(time).unwrap();
        assert_eq!(time, at(&format!("{year}-02-29T00:00:00Z")));
    }
}

#[test]
fn s11_a_day_with_a_clock_change_has_exactly_one_run() {
    for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu", "Pacific/Apia"] {
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
fn one_run_is_made_up_for_and_those_before_it_are_told_of() {
    let daily = Schedule { start_deadline: Duration::from_secs(6 * 3600), ..Schedule::default() };
    let since = at("2026-03-01T01:00:00Z");
    let [second, third, fourth] = ["2026-03-02T01:00:00Z", "2026-03-03T01:00:00Z", "2026-03-04T01:00:00Z"].map(at);
    let look = |time: &str| daily.look(since, None, at(time));
    assert_eq!(look("2026-03-02T00:59:59Z"), Look::default());
    assert_eq!(look("2026-03-02T01:00:00Z"), Look { start: Some(second), ..Look::default() });
    assert_eq!(look("2026-03-04T06:59:59Z"), Look { missed: vec![second, third], start: Some(fourth), ..Look::default() });
    assert_eq!(look("2026-03-04T07:00:00Z"), Look { missed: vec![second, third, fourth], ..Look::default() });
    // The clock went back.
    assert_eq!(look("2026-02-01T07:00:00Z"), Look::default());
}

#[test]
fn s07_what_was_planned_while_the_run_before_took_is_skipped_and_the_newest_is_run() {
    let rule = Recurrence::Cron("*/15 * * * *".into());
    let schedule = schedule(rule, "UTC").unwrap();
    let [first, second, third, fourth] = [15, 30, 45, 50].map(|minute| at(&format!("2026-03-01T00:{minute}:00Z")));
    let look = schedule.look(at("2026-03-01T00:00:00Z"), Some(second), fourth);
    assert_eq!(look, Look { skipped: vec![first, second], missed: Vec::new(), start: Some(third) });
    assert_eq!(schedule.look(at("2026-03-01T00:00:00Z"), Some(fourth), fourth).skipped, [first, second]);
}

#[test]
fn s09_runs_of_years_are_told_of_bit_by_bit() {
    let schedule = schedule(Recurrence::Cron("*/15 * * * *".into()), "UTC").unwrap();
    let (mut since, time, mut told) = (at("2026-01-01T00:00:00Z"), at("2027-01-01T00:07:00Z"), 0);
    loop {
        let look = schedule.look(since, None, time);
        told += look.missed.len();
        if let Some(start) = look.start {
            assert_eq!(start, at("2027-01-01T00:00:00Z"));
            break;
        }
        since = *look.missed.last().unwrap();
    }
    assert_eq!(told, 365 * 96 - 1);
}
