//! What Prometheus is told: of good files, damaged ones, runs of the schedule, and space.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast::grpc::proto::backup::DeleteBackupRequest;

use super::world::World;

/// The value of each series, and the whole text.
fn scrape(address: &str) -> (BTreeMap<String, f64>, String) {
    let answer = ask(address, "GET /metrics HTTP/1.1");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"), "{head}");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let values = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    (values.collect(), text.to_owned())
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "{request}\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of one series.
pub fn figure(world: &World, series: &str) -> f64 {
    let (values, text) = scrape(&address(world));
    *values.get(series).unwrap_or_else(|| panic!("no {series} in {text}"))
}

/// Whether this is anywhere in what Prometheus is told.
pub fn has_figure(world: &World, words: &str) -> bool {
    scrape(&address(world)).1.contains(words)
}

fn address(world: &World) -> String {
    let log = world.log();
    let line = log.lines().rfind(|line| line.contains("\"metrics\"")).unwrap();
    serde_json::from_str::<serde_json::Value>(line).unwrap()["address"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_s15_metrics_tell_of_good_files_damaged_ones_runs_and_space() {
    let mut world = World::with(&[("HOLDFAST_METRICS_LISTEN", "127.0.0.1:0"), ("HOLDFAST_SCRUB_PERIOD", "10s")]).await;
    let (none, text) = scrape(&address(&world));
    // Counters are there from the start, so that an increase can be seen; there is no time of what never was.
    for state in ["succeeded", "failed", "skipped", "missed"] {
        assert!(none[&format!("backup_schedule_runs_total{{state=\"{state}\"}}")].abs() < 0.5, "{text}");
    }
    assert!(!text.contains("backup_last_success_timestamp_seconds{"), "{text}");
    assert!(text.contains("# TYPE backup_schedule_runs_total counter\n"), "{text}");

    let good = world.backup().await;
    let bad = world.backup().await;
    let mut bytes = std::fs::read(world.file(&bad)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(world.file(&bad), &bytes).unwrap();
    world.kill();
    super::schedule::planned_in_the_past(&world, 3 * 3600, 3600).await;
    world.start().await.unwrap();
    world.becomes("select string_agg(state, ' ') from holdfast.slot", "missed", Duration::from_secs(30)).await;
    let damaged = "select count(*) from holdfast.backup where state = 'invalid'";
    world.becomes(damaged, "1", Duration::from_secs(60)).await;
    let (values, text) = scrape(&address(&world));
    let is = |name: &str, value: f64| assert!((values[name] - value).abs() < 0.5, "{name} is not {value} in\n{text}");
    is("backup_files{state=\"ready\"}", 1.0);
    is("backup_files{state=\"invalid\"}", 1.0);
    is("backup_files{state=\"missing\"}", 0.0);
    is("backup_unencrypted_files", 1.0);
    is("backup_schedule_runs_total{state=\"missed\"}", 1.0);
    is("backup_schedule_enabled", 1.0);
    is("backup_retention_limit", 30.0);
    is("backup_encryption_enabled", 0.0);
    is("backup_storage_used_bytes", (good.size_bytes + bad.size_bytes) as f64);
    // The newest file that verified, and not the newest that was made.
    is("backup_last_success_timestamp_seconds{trigger=\"on_demand\"}", good.complete_time.unwrap().seconds as f64);
    assert!(values["backup_storage_available_bytes"] > 0.0 && values["backup_storage_size_bytes"] > 0.0);
    assert!(values["backup_schedule_next_run_timestamp_seconds"] > good.complete_time.unwrap().seconds as f64);
    for secret in [good.name.as_str(), good.file_name.as_str(), "token"] {
        assert!(!text.contains(secret), "{text}");
    }
    for other in ["GET / HTTP/1.1", "POST /metrics HTTP/1.1", "GET /metrics/../x HTTP/1.1"] {
        assert!(ask(&address(&world), other).starts_with("HTTP/1.1 404 "), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_the_archive_and_what_it_has_is_not_lost() {
    let mut world = World::without_service().await;
    let archive = world.dir.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    world.set("HOLDFAST_ARCHIVE__URL", &format!("file://{}", archive.display()));
    world.set("HOLDFAST_METRICS_LISTEN", "127.0.0.1:0");
    world.start().await.unwrap();
    let backup = world.backup().await;
    world.archived(&backup).await;
    let request = DeleteBackupRequest { name: backup.name.clone(), ..Default::default() };
    world.backups().await.delete_backup(request).await.unwrap();
    let (values, text) = scrape(&address(&world));
    let is = |name: &str, value: f64| assert!((values[name] - value).abs() < 0.5, "{name} is not {value} in\n{text}");
    is("backup_files{state=\"archived\"}", 1.0);
    is("backup_files{state=\"missing\"}", 0.0);
    is("backup_archive_files", 1.0);
    is("backup_archive_backlog", 0.0);
    is("backup_archive_failing", 0.0);
    is("backup_archive_snapshot_timestamp_seconds", backup.snapshot_time.unwrap().seconds as f64);

    std::fs::remove_dir_all(&archive).unwrap();
    world.backup().await;
    world.archive_fails().await;
    let (values, text) = scrape(&address(&world));
    assert!((values["backup_archive_failing"] - 1.0).abs() < 0.5 && values["backup_archive_backlog"] > 0.5, "{text}");
    assert!(values["backup_archive_oldest_waiting_timestamp_seconds"] > 0.0, "{text}");

    // Here is every figure that there can be: alerts and dashboard ask for no other.
    let known: BTreeSet<_> = values.keys().filter_map(|series| series.split('{').next()).collect();
    for asked in [include_str!("../../helm/holdfast/files/alerts.yaml"), include_str!("../../deploy/grafana/holdfast.json")] {
        let words = asked.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let names: BTreeSet<_> = words.filter(|word| word.starts_with("backup_") || word.starts_with("rpc_server_")).collect();
        assert!(names.len() > 10 && names.is_subset(&known), "nobody exports {:?}", names.difference(&known));
    }
}

/// The checker of Prometheus, where one is installed or was built (`~/.cache/holdfast`).
fn promtool() -> Option<PathBuf> {
    let built = std::fs::read_dir(PathBuf::from(std::env::var_os("HOME")?).join(".cache/holdfast"));
    let built = built.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path().join("promtool")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("promtool")).chain(built).find(|program| program.is_file())
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_nothing_wrong_with_the_metrics() {
    let Some(promtool) = promtool() else {
        eprintln!("SKIPPED: there is no promtool, which checks metrics");
        return;
    };
    let world = World::with(&[("HOLDFAST_METRICS_LISTEN", "127.0.0.1:0")]).await;
    world.backup().await;
    let text = scrape(&address(&world)).1;
    let mut check = Command::new(promtool);
    let check = check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let found = check.wait_with_output().unwrap();
    let found = [found.stdout, found.stderr].concat();
    assert!(found.is_empty(), "{}", String::from_utf8_lossy(&found));
}
