//! A schedule: a cron expression, a time zone, and a time in seconds since 1970, a line each. Runs lie ahead, one after the other, and
//! looking for them ends.

#![no_main]

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast::model::Schedule;
use holdfast::model::schedule::{Look, Recurrence, time_zone};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let (Some(cron), Some(zone), Some(now)) = (lines.next(), lines.next(), lines.next()) else { return };
    let Ok(zone) = time_zone(zone) else { return };
    // 1970 to 2200.
    let Some(now) = now.parse().ok().and_then(|seconds: u32| DateTime::<Utc>::from_timestamp(i64::from(seconds) * 3 / 2, 0)) else { return };
    let hour = Duration::from_secs(3600);
    let Ok(schedule) = Schedule::new(true, Recurrence::Cron(cron.into()), zone, hour, now) else { return };
    let mut last = now;
    for _ in 0..10 {
        let next = schedule.next_after(last).expect("a schedule has a next run");
        assert!(next > last, "{next} comes after {last}");
        last = next;
    }
    let look = schedule.look(now, None, last);
    assert!(look.skipped.is_empty());
    assert_eq!((look.missed.len(), look.start), (9, Some(last)), "each run has one result");
    assert!(schedule.look(now, Some(last), last + chrono::TimeDelta::days(3650)).missed.len() <= Look::MOST);
});
