//! A wall clock that is wrong, and jumps while the service runs: what is newest stays so, an operation goes on, and a planned run
//! runs once. `libfaketime` makes it jump; the clock that only goes forward is the true one.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast::grpc::proto::backup::{Backup, Retention, SetRetentionRequest};

use super::schedule::planned_in_the_past;
use super::world::{World, rounds};

const YEAR: i64 = 365 * 86_400;

/// The wall clock of a program that is not started yet.
struct Clock {
    dir: tempfile::TempDir,
    library: PathBuf,
}

impl Clock {
    /// `None`, and a line that says so, where there is no libfaketime.
    fn new() -> Option<Self> {
        let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
        let Some(library) = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|library| library.exists())
        else {
            eprintln!("SKIPPED: there is no libfaketime");
            return None;
        };
        // PostgreSQL is another user.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let clock = Self { dir, library };
        clock.says("+0");
        Some(clock)
    }

    /// A world whose service has this clock, and is not started yet.
    async fn of_a_service(&self) -> World {
        let mut world = World::without_service().await;
        for (name, value) in self.environment() {
            world.set(name, value.to_str().unwrap());
        }
        world
    }

    /// What a program needs to have this clock.
    fn environment(&self) -> [(&'static str, PathBuf); 4] {
        [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.dir.path().join("time")),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    /// As far from the truth (`+50y`, `-1y`), or a time at which it stands still (`2030-01-01 00:00:00`).
    fn says(&self, time: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, time).unwrap();
        std::fs::rename(new, self.dir.path().join("time")).unwrap();
    }
}

fn seconds_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

async fn keep(world: &World, max_count: i32) {
    let retention = Some(Retention { max_count, ..Default::default() });
    world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
}

fn names<'a>(backups: impl IntoIterator<Item = &'a Backup>) -> Vec<&'a str> {
    backups.into_iter().map(|backup| backup.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn s02_f07_when_the_clock_jumps_back_and_forth_or_stands_still_the_newest_backups_stay() {
    let Some(clock) = Clock::new() else { return };
    let mut world = clock.of_a_service().await;
    world.start().await.unwrap();
    keep(&world, 3).await;
    let mut made = Vec::new();
    // The last two are of the same second.
    let times = [("+0", 0), ("+50y", 50), ("-1y", -1), ("2030-01-01 00:00:00", 0), ("2030-01-01 00:00:00", 0)];
    for (time, years) in times.into_iter().cycle().take(rounds(5, 40) as usize) {
        clock.says(time);
        let backup = world.backup().await;
        if time.ends_with('y') {
            let ahead = backup.create_time.unwrap().seconds - seconds_now();
            assert!((ahead - years * YEAR).abs() < YEAR / 2, "the clock was not {time}: {ahead}");
        }
        made.push(backup);
        assert_eq!(names(&world.listed().await), names(made.iter().rev().take(3)), "{time}");
    }
    world.is_tidy().await;
    for backup in world.listed().await {
        world.verifies(&backup);
    }
    world.install_adapter_types().await;
    world.damage();
    world.restore(made.last().unwrap(), "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s02_when_the_clock_of_the_database_jumps_back_and_forth_the_newest_backups_stay() {
    let Some(clock) = Clock::new() else { return };
    let mut world = World::on_a_database_server_with(&clock.environment()).await;
    world.start().await.unwrap();
    keep(&world, 3).await;
    let mut made = Vec::new();
    for (time, years) in [("+0", 0), ("+50y", 50), ("-1y", -1), ("+0", 0)] {
        clock.says(time);
        let ahead = world.value("extract(epoch from clock_timestamp())::bigint").await.parse::<i64>().unwrap() - seconds_now();
        assert!((ahead - years * YEAR).abs() < YEAR / 2, "the clock was not {time}: {ahead}");
        made.push(world.backup().await);
        assert_eq!(names(&world.listed().await), names(made.iter().rev().take(3)), "{time}");
    }
    world.is_tidy().await;
    for backup in world.listed().await {
        world.verifies(&backup);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l10_an_operation_goes_on_and_keeps_its_lock_when_the_clock_jumps() {
    let Some(clock) = Clock::new() else { return };
    let mut world = clock.of_a_service().await;
    world.start().await.unwrap();
    for (begins, jumps) in [("+0", "+50y"), ("+0", "-1y"), ("+50y", "+0")] {
        clock.says(begins);
        let session = world.lock_table("access exclusive").await;
        let begun = world.begin_backup().await;
        clock.says(jumps);
        // It is heard of, and the lease renewed, for some seconds after.
        let now = world.value("now()").await;
        let alive = format!(
            "exists (select from holdfast.operation where not done and heartbeat_time > '{now}'::timestamptz + interval '3 s')"
        );
        world.until(&alive).await;
        let kept = "exists (select from holdfast.lease where expire_time between now() and now() + interval '1 hour')";
        world.until(kept).await;
        drop(session);
        let backup = world.backup_outcome(&begun).await.unwrap_or_else(|error| panic!("{begins} {jumps}: {error:?}"));
        world.verifies(&backup);
        world.is_tidy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s08_a_planned_run_runs_once_whatever_the_clock_of_the_service_says() {
    let Some(clock) = Clock::new() else { return };
    let mut world = clock.of_a_service().await;
    world.start().await.unwrap();
    world.terminate().await;
    planned_in_the_past(&world, 600, 6 * 3600).await;
    // A year ahead and back.
    clock.says("+1y");
    world.start().await.unwrap();
    // By the clock of the database.
    let made = "select count(*) from holdfast.slot where state = 'succeeded' and planned_time between now() - interval '1 hour' and now()";
    world.becomes(made, "1", Duration::from_secs(30)).await;
    for time in ["+0", "-1y", "+1y", "+0"] {
        clock.says(time);
        // A tick of the schedule and more.
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(world.value("select count(*) from holdfast.slot where state <> 'missed'").await, "1", "{time}");
        assert_eq!(world.value(made).await, "1", "{time}");
    }
    assert_eq!(world.listed().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn s08_runs_that_a_clock_missed_while_it_was_a_year_ahead_are_run_when_their_time_comes() {
    let Some(clock) = Clock::new() else { return };
    let mut world = World::on_a_database_server_with(&clock.environment()).await;
    // Daily, the next time half a day ahead.
    world.start().await.unwrap();
    clock.says("+365d");
    let slots = |state: &str| format!("select count(*) from holdfast.slot where state = '{state}'");
    world.becomes(&format!("select ({}) > 300", slots("missed")), "true", Duration::from_secs(60)).await;
    let told = "select count(*) || ' ' || sum((body #>> '{attributes,count}')::int) from holdfast.event where type = 'schedule.run_missed'";
    let missed = world.value(&slots("missed")).await;
    assert_eq!(world.value(told).await, format!("1 {missed}"));
    clock.says("+0");
    world.becomes("select schedule_time <= clock_timestamp() from holdfast.system", "true", Duration::from_secs(30)).await;
    assert!(world.listed().await.is_empty());
    clock.says("+13h");
    world.becomes(&slots("succeeded"), "1", Duration::from_secs(60)).await;
    assert_eq!(world.listed().await.len(), 1);
    assert_eq!(world.value("select count(*) from holdfast.slot").await, missed);
}
