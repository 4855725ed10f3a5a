//! The program as a client against a service on loopback: exit codes, output, repetition, and what is sent.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod fake;
mod in_the_way;
mod lock;
mod platform;
mod restore;
mod terminal;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::{BACKUP, FILE, Fake};

/// A service and the program that talks to it.
struct Rig {
    fake: Fake,
    endpoint: String,
    folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        let file = (0..4500u32).map(|place| (place * place % 251) as u8).collect();
        let fake = Fake { file: Arc::new(file), ..Fake::default() };
        let endpoint = fake.clone().listen().await;
        Self { fake, endpoint, folder: tempfile::tempdir().unwrap() }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(line.split_whitespace()).current_dir(self.folder.path()).env("HOLDFAST_ENDPOINT", &self.endpoint);
        command.env("HOLDFAST_TOKEN", "t0ken").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end with this on standard input.
    async fn run(&self, line: &str, input: &str) -> Ended {
        let mut child = self.command(line).spawn().unwrap();
        let input = input.to_owned();
        let ended = tokio::task::spawn_blocking(move || {
            // Not everything reads its input.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        });
        let Output { status, stdout, stderr } = ended.await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ended = Ended { code: status.code().unwrap(), out: text(stdout), err: text(stderr) };
        assert!(!ended.out.contains("t0ken") && !ended.err.contains("t0ken"), "{ended:?}");
        ended
    }

    /// Runs it until the service was asked for this, and ends it with Ctrl-C.
    async fn interrupted(&self, line: &str, when: &str) -> Ended {
        let child = self.command(line).spawn().unwrap();
        bounded("it was asked", || !self.asked(when).is_empty()).await;
        self.interrupt(child).await
    }

    /// Runs it until it has printed so many lines, and ends it with Ctrl-C.
    async fn watched_to_the_end(&self, line: &str, lines: usize) -> Ended {
        let printed = self.folder.path().join("printed");
        let child = self.command(line).stdout(std::fs::File::create(&printed).unwrap()).spawn().unwrap();
        let text = || std::fs::read_to_string(&printed).unwrap();
        bounded("the lines are there", || text().lines().count() >= lines).await;
        Ended { out: text(), ..self.interrupt(child).await }
    }

    async fn interrupt(&self, child: std::process::Child) -> Ended {
        let process = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: ended.status.code().unwrap(), out: text(ended.stdout), err: text(ended.stderr) }
    }

    fn asked(&self, what: &str) -> Vec<String> {
        self.fake.asked.lock().unwrap().iter().filter(|line| line.starts_with(what)).cloned().collect()
    }
}

async fn bounded(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "it took too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_followed_over_a_broken_watch_and_printed_as_json() {
    let rig = Rig::new().await;
    let ended = rig.run("backup --wait --json", "").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let printed: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((printed["name"].as_str(), printed["sizeBytes"].as_str()), (Some(BACKUP), Some("4500")));
    assert_eq!(ended.out.lines().count(), 1);
    assert_eq!(rig.asked("WatchOperation").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_lost_is_sent_again_with_the_same_request_id() {
    let rig = Rig::new().await;
    assert_eq!(rig.run("backup --description flaky", "").await.code, 0);
    let asked = rig.asked("Backup flaky ");
    assert!(asked.len() == 3 && asked.iter().all(|line| *line == asked[0]), "{asked:?}");
    assert!(asked[0].len() > 36, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_fails_has_the_exit_code_of_its_error() {
    let rig = Rig::new().await;
    let ended = rig.run("backup --json --description fails", "").await;
    assert_eq!((ended.code, ended.out.as_str()), (64 + 8, ""));
    assert!(ended.err.ends_with("error: The volume is full.\nreason: STORAGE_FULL\ninstructions: Make room.\n"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_backup_is_skipped_while_the_schedule_is_disabled() {
    let rig = Rig::new().await;
    let ended = rig.run("backup --scheduled --description disabled", "").await;
    assert_eq!((ended.code, ended.err.as_str()), (0, "skipped: the schedule is disabled\n"));
    assert_eq!(rig.run("backup --description disabled", "").await.code, 64 + 9, "one that was asked for is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_not_sent_without_confirmation() {
    let rig = Rig::new().await;
    for line in ["restore latest", "restore latest --passphrase-stdin"] {
        let ended = rig.run(line, "yes\n").await;
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.err.contains("use --yes"), "{ended:?}");
    }
    assert!(rig.asked("Restore").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_sends_the_passphrase_without_its_line_end_and_prints_it_nowhere() {
    let rig = Rig::new().await;
    let ended = rig.run("restore latest --yes --passphrase-stdin --resources adapters,resources/licenses", " s3cret \n").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!ended.out.contains("s3cret") && !ended.err.contains("s3cret"), "{ended:?}");
    assert_eq!(rig.asked("Restore"), [format!(r#"Restore {BACKUP} " s3cret " ["resources/adapters", "resources/licenses"]"#)]);
    rig.run("restore latest --yes", "").await;
    let asked = rig.asked("Restore").pop().unwrap();
    assert!(asked.ends_with(r#" "" []"#), "without a terminal the service says that a passphrase is missing: {asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_passphrase_does_not_switch_encryption_off() {
    let rig = Rig::new().await;
    let ended = rig.run("encryption set --passphrase-stdin", "\n").await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("holdfast encryption off"), "{ended:?}");
    assert_eq!(rig.run("encryption off", "yes\n").await.code, 2);
    assert!(rig.asked("SetEncryption").is_empty());
    assert_eq!(rig.run("encryption set --passphrase-stdin", "correct horse\n").await.code, 0);
    assert_eq!(rig.run("encryption off --yes", "").await.code, 0);
    assert_eq!(rig.asked("SetEncryption"), [r#"SetEncryption Some("correct horse")"#, r#"SetEncryption Some("")"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_all_pages_and_the_token_goes_with_each_call() {
    let rig = Rig::new().await;
    let ended = rig.run("list --json", "").await;
    let printed: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(printed["backups"].as_array().unwrap().len(), 2);
    assert_eq!(rig.asked("ListBackups"), ["ListBackups Bearer t0ken", "ListBackups Bearer t0ken"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_error() {
    let rig = Rig::new().await;
    let mut child = rig.command("list").spawn().unwrap();
    drop(child.stdout.take());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_it_broke_off_and_replaces_nothing() {
    let rig = Rig::new().await;
    let saved = rig.folder.path().join(FILE);
    std::fs::write(rig.folder.path().join(format!("{FILE}.part")), &rig.fake.file[..1234]).unwrap();
    let ended = rig.run("download latest", "").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(std::fs::read(&saved).unwrap(), *rig.fake.file);
    assert_eq!(rig.asked("DownloadBackup"), ["DownloadBackup 1234", "DownloadBackup 3234"]);

    assert_eq!(rig.run("download latest", "").await.code, 0, "the right file is there already");
    std::fs::write(rig.folder.path().join("other"), "mine").unwrap();
    assert_eq!(rig.run("download latest -o other", "").await.code, 1);
    assert_eq!(std::fs::read(rig.folder.path().join("other")).unwrap(), b"mine");
    assert_eq!(rig.asked("DownloadBackup").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_another_file_is_given_up() {
    let rig = Rig::new().await;
    std::fs::write(rig.folder.path().join("f.part"), "something else").unwrap();
    let ended = rig.run("download latest -o f", "").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let saved = rig.folder.path().join("f");
    assert_eq!(std::fs::read(&saved).unwrap(), *rig.fake.file);
    let mode = std::fs::metadata(saved).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_is_named() {
    let mut rig = Rig::new().await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    rig.endpoint = format!("http://{unused}");
    let ended = rig.run("status", "").await;
    assert_eq!((ended.code, ended.out.as_str()), (64 + 14, ""));
    assert!(ended.err.contains(&format!("{} does not answer", rig.endpoint)), "{ended:?}");
}
