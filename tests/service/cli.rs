//! The command line against the real service: every command, what it prints, how it ends.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::world::{BINARY, PASSPHRASE, TOKEN, World, eventually};

#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn json(&self) -> serde_json::Value {
        assert_eq!((self.code, self.out.lines().count()), (0, 1), "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }

    /// Refused with this code and reason, and nothing on standard output.
    fn refused(&self, code: i32, reason: &str) {
        assert_eq!((self.code, self.out.as_str()), (64 + code, ""), "{self:?}");
        assert!(self.err.contains(&format!("reason: {reason}\n")), "{self:?}");
    }

    fn says(self, text: &str) -> Self {
        assert!(self.code == 0 && self.out.contains(text), "{text:?} in {self:?}");
        self
    }
}

fn ended(output: std::process::Output) -> Ended {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ended = Ended { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) };
    for secret in [TOKEN, PASSPHRASE] {
        assert!(!ended.out.contains(secret) && !ended.err.contains(secret), "{ended:?}");
    }
    ended
}

/// Runs a line, split at spaces, with this on standard input.
fn run(world: &World, line: &str, stdin: &str) -> Ended {
    ended(world.cli(&line.split(' ').collect::<Vec<_>>(), stdin))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_on_the_command_line() {
    let world = World::with(&[("HOLDFAST_SCHEDULE__DRIVER", "external")]).await;
    let run = |line: &str, stdin: &str| run(&world, line, stdin);
    let secret = format!("{PASSPHRASE}\n");

    // Encryption.
    run("encryption show", "").says("New backups are encrypted:  no");
    assert_eq!(run("encryption set --passphrase-stdin", "\n").code, 2, "blank is not a passphrase");
    run("encryption set --passphrase-stdin", "short\n").refused(3, "PASSPHRASE_TOO_WEAK");
    run("encryption set --passphrase-stdin", &secret).says("New backups are encrypted:  yes");
    let encryption = run("encryption --json", "").json();
    assert_eq!((&encryption["enabled"], &encryption["passphraseGeneration"]), (&true.into(), &1.into()));

    // Making one: what is printed is what the catalog has.
    run("list", "").says("There are no backups.");
    let made = run("backup --wait --json --description first", "");
    let made = made.json();
    assert_eq!(made["description"], "first");
    for field in ["name", "registerTime", "retentionPosition", "etag", "sha256", "fileName", "sizeBytes"] {
        assert!(!made[field].is_null(), "{field} in {made}");
    }
    let name = made["name"].as_str().unwrap().to_owned();
    let id = name.trim_start_matches("backups/").to_owned();
    assert_eq!(run("show latest --json", "").json(), made);
    assert_eq!(run(&format!("show {id} --json"), "").json(), made);
    assert_eq!(run("list --json", "").json()["backups"][0], made);
    run("list", "").says(&id).says("passphrase 1");
    run(&format!("show {name}"), "").says("first").says("login-accounts");
    let followed = run("backup --description second", "");
    assert!(followed.code == 0 && followed.err.contains("operation ") && followed.err.contains("done"), "{followed:?}");
    assert!(!followed.err.contains("done 100 %"), "{followed:?}");
    assert_eq!(run("list --json", "").json()["totalSize"], 2);
    run("show b-20260301t010000z-abcdefgh", "").refused(5, "BACKUP_NOT_FOUND");

    // Restoring.
    let before = world.digests();
    world.damage();
    let damaged = world.digests();
    let restore = format!("restore {id} --yes");
    run(&format!("{restore} --passphrase-stdin"), "not the passphrase\n").refused(3, "PASSPHRASE_INCORRECT");
    let missing = run(&restore, "");
    missing.refused(3, "PASSPHRASE_REQUIRED");
    assert!(missing.err.contains("passphraseGeneration: 1"), "{missing:?}");
    run(&format!("{restore} --passphrase-stdin"), "").refused(3, "PASSPHRASE_REQUIRED");
    let unasked = run(&format!("restore {id} --passphrase-stdin"), &secret);
    assert!(unasked.code == 2 && unasked.err.contains("use --yes"), "{unasked:?}");
    run(&format!("{restore} --passphrase-stdin --resources nothing-such"), &secret).refused(5, "RESOURCE_UNKNOWN");
    assert_eq!(run(&format!("{restore} --passphrase-stdin --validate-only"), &secret).code, 0);
    assert_eq!(world.digests(), damaged);
    let file = world.dir.path().join("passphrase");
    std::fs::write(&file, &secret).unwrap();
    let licences = run(&format!("{restore} --resources licenses --passphrase-file {} --json", file.display()), "").json();
    assert_eq!(licences["changes"].as_array().unwrap().len(), 1);
    let partly = world.digests();
    assert!(partly != before && partly != damaged);
    run(&format!("{restore} --passphrase-stdin"), &secret).says("Restored:").says("login-accounts");
    assert_eq!(world.digests(), before);

    // Settings.
    assert_eq!(run("retention set 5 --json", "").json()["maxCount"], 5);
    run("retention", "").says("Backups kept:").says("5");
    assert_eq!(run("retention set 0", "").code, 2);
    run("schedule set --daily 03:30 --time-zone Europe/Berlin", "").says("every day at 03:30");
    let schedule = run("schedule show --json", "").json();
    assert_eq!((&schedule["daily"]["hours"], &schedule["daily"]["minutes"]), (&3.into(), &30.into()));
    assert_eq!((&schedule["timeZone"], &schedule["enabled"]), (&"Europe/Berlin".into(), &true.into()));
    let cron = ended(world.cli(&["schedule", "set", "--cron", "30 2 * * 1-5"], ""));
    cron.says("cron 30 2 * * 1-5").says("Europe/Berlin");
    ended(world.cli(&["schedule", "set", "--cron", "99 2 * * *"], "")).refused(3, "INVALID_FIELD");
    run("schedule set --time-zone Europe/Nowhere", "").refused(3, "INVALID_FIELD");
    run("schedule disable", "").says("disabled");
    let skipped = run("backup --scheduled", "");
    assert_eq!((skipped.code, skipped.out.as_str(), skipped.err.as_str()), (0, "", "skipped: the schedule is disabled\n"));
    run("schedule enable", "").says("enabled");
    assert_eq!(run("backup --scheduled --json", "").json()["trigger"], "TRIGGER_SCHEDULED");
    run("resources", "").says("login-accounts").says("Adapters");
    assert!(run("resources --json", "").json()["resources"].as_array().unwrap().len() > 5);
    run("status", "").says("Backup possible:").says("Encryption:").says("on");
    assert_eq!(run("status --json", "").json()["backupPossible"], true);

    // Operations, and what is in the way.
    run("operations", "").says("restore").says("done");
    assert!(run("operations list --json", "").json()["operations"].as_array().unwrap().len() >= 5);
    run("operations show latest", "").says("Type:").says("backup");
    run("operations watch latest", "").says("done");
    run("operations show 018e2f6a-7c00-7000-8000-000000000000", "").refused(5, "OPERATION_NOT_FOUND");
    let update = world.begin_update().await;
    let held = run("backup", "");
    held.refused(9, "SOFTWARE_UPDATE_IN_PROGRESS");
    assert!(held.err.contains("holder: token:update-service"), "{held:?}");
    run("status", "").says("SOFTWARE_UPDATE_IN_PROGRESS");
    let waiting = run("backup --no-wait --lock-wait 10m --json", "").json();
    assert_eq!(waiting["metadata"]["phase"], "OPERATION_PHASE_WAITING_FOR_LOCK");
    let operation = waiting["name"].as_str().unwrap().trim_start_matches("operations/").to_owned();
    let cancelled = run(&format!("operations cancel {operation}"), "");
    assert!(cancelled.code == 0 && cancelled.err.contains(&format!("operations watch {operation}")), "{cancelled:?}");
    let watched = run(&format!("operations watch {operation}"), "");
    assert!(watched.code == 64 + 1 && watched.out.contains("cancelled"), "{watched:?}");
    world.end_update(update).await;

    // Deleting.
    assert_eq!(run("delete latest", "").code, 2);
    assert_eq!(run(&format!("delete {id}"), "yes\n").code, 2, "there is no terminal");
    assert_eq!(run(&format!("delete {id} --yes"), "").code, 0);
    run(&format!("delete {id} --yes"), "").refused(5, "BACKUP_NOT_FOUND");
    // The second one, the scheduled one, and what undoes the two restores.
    assert_eq!(world.files().len(), 4);
    run("encryption off --yes", "").says("New backups are encrypted:  no");
    let plain = run("backup --wait", "");
    plain.says("Encrypted:").says("not encrypted");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_no_token_and_no_service_have_their_exit_codes() {
    let world = World::new().await;
    for line in [
        "",
        "nothing",
        "backup --passphrase x",
        "restore",
        "restore latest --passphrase x",
        "list --token t",
        "show ../x",
        "schedule set",
        "--json",
    ] {
        let bad = run(&world, line, "");
        assert_eq!((bad.code, bad.out.as_str()), (2, ""), "{line}: {bad:?}");
    }
    let bare = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        ended(command.args(arguments).env_clear().stdin(Stdio::null()).output().unwrap())
    };
    bare(&["list", "--endpoint", &world.address()]).refused(16, "CREDENTIALS_MISSING");
    let file = world.dir.path().join("other-token");
    std::fs::write(&file, "not the token\n").unwrap();
    bare(&["list", "--endpoint", &world.address(), "--token-file", &file.display().to_string()])
        .refused(16, "CREDENTIALS_INVALID");
    let file = world.dir.path().join("token");
    assert_eq!(bare(&["list", "--endpoint", &world.address(), "--token-file", &file.display().to_string()]).code, 0);
    assert_eq!(bare(&["list", "--endpoint", &world.address(), "--token-file", "/nowhere"]).code, 1);
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = bare(&["status", "--endpoint", &format!("http://{unused}")]);
    assert!(nobody.code == 64 + 14 && nobody.err.contains("does not answer"), "{nobody:?}");
    assert_eq!(bare(&["--version"]).code, 0);
    assert!(bare(&["--help"]).out.contains("Exit codes:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_is_no_error() {
    let world = World::small().await;
    world.backup().await;
    world.backup().await;
    for line in ["list | head -n 1", "list --json | head -c 1", "list --json | true", "status >/dev/full; test $? = 1"] {
        let line = format!("set -o pipefail; {BINARY} {line}");
        let mut bash = Command::new("bash");
        bash.args(["-c", &line]).env("HOLDFAST_ENDPOINT", world.address()).env("HOLDFAST_TOKEN", TOKEN);
        let output = bash.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("panic"), "{line}: {said}");
    }
}

/// `inspect` and `extract` of a file.
fn local(world: &World, line: &str, file: &Path, stdin: &str) -> Ended {
    run(world, &line.replace("FILE", &file.display().to_string()), stdin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_downloaded_checked_and_unpacked_without_the_service() {
    let mut world = World::new().await;
    let plain = world.backup().await;
    world.set_passphrase(PASSPHRASE).await;
    let encrypted = world.backup().await;
    let out = world.dir.path().join("downloads");
    std::fs::create_dir(&out).unwrap();

    // The first half is there already, from a transfer that broke off.
    let whole = std::fs::read(world.file(&encrypted)).unwrap();
    let target = out.join(&encrypted.file_name);
    std::fs::write(out.join(format!("{}.part", encrypted.file_name)), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(local(&world, "download latest -o FILE", &out, "").code, 0);
    assert!(std::fs::read(&target).unwrap() == whole);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    // One that is longer than it may be, and one of another file.
    let other = out.join("plain");
    std::fs::write(out.join("plain.part"), &whole[..100]).unwrap();
    let line = format!("download {} -o FILE", plain.name);
    assert_eq!(local(&world, &line, &other, "").code, 0);
    assert!(std::fs::read(&other).unwrap() == std::fs::read(world.file(&plain)).unwrap());
    std::fs::write(&other, "mine").unwrap();
    assert_eq!(local(&world, &line, &other, "").code, 1);
    assert_eq!(std::fs::read(&other).unwrap(), b"mine");

    let (plain, encrypted) = (out.join(&plain.file_name), target);
    std::fs::copy(world.folder().join(plain.file_name().unwrap()), &plain).unwrap();
    world.terminate().await;
    let local = |line: &str, file: &Path, stdin: &str| {
        let line = line.replace("FILE", &file.display().to_string());
        let mut command = Command::new(BINARY);
        command.args(line.split(' ')).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let _ = process.stdin.take().unwrap().write_all(stdin.as_bytes());
        ended(process.wait_with_output().unwrap())
    };
    let secret = format!("{PASSPHRASE}\n");
    let inspected = local("inspect FILE --json", &encrypted, "").json();
    assert_eq!(
        (&inspected["encrypted"], &inspected["matchesName"], &inspected["manifest"]),
        (&true.into(), &true.into(), &serde_json::Value::Null)
    );
    local("inspect FILE --verify --passphrase-stdin", &encrypted, &secret).says("everything was read and is right");
    local("inspect FILE --verify", &plain, "").says("everything was read and is right");
    local("inspect FILE", &plain, "").says("not checked");
    let wrong = local("inspect FILE --verify --passphrase-stdin", &encrypted, "not the passphrase");
    assert!(wrong.code == 1 && wrong.err.contains("does not open"), "{wrong:?}");
    assert_eq!(local("inspect FILE --verify", &encrypted, "").code, 2, "nobody to ask");

    let unpacked = |name: &str| -> PathBuf { world.dir.path().join(name) };
    let extract = |name: &str, rest: &str| format!("extract FILE -C {}{rest}", unpacked(name).display());
    assert_eq!(local(&extract("plain", ""), &plain, "").code, 0);
    assert_eq!(local(&extract("encrypted", " --passphrase-stdin"), &encrypted, &secret).code, 0);
    let account = |name: &str| std::fs::read(unpacked(name).join("data/login-accounts/platform.account.copy")).unwrap();
    assert!(account("plain") == account("encrypted") && !account("plain").is_empty());
    assert_eq!(local(&extract("plain", ""), &plain, "").code, 1, "the folder is not empty");
    assert_eq!(local(&extract("wrong", " --passphrase-stdin"), &encrypted, "not the passphrase").code, 1);
    assert!(!unpacked("wrong").join("data").exists());

    // Damaged, under its name and under another.
    let mut bytes = whole.clone();
    bytes[whole.len() - 9] ^= 1;
    std::fs::write(&encrypted, &bytes).unwrap();
    let renamed = out.join("renamed");
    std::fs::write(&renamed, &bytes).unwrap();
    for (file, rest) in [(&encrypted, ""), (&renamed, " --verify --passphrase-stdin")] {
        let damaged = local(&format!("inspect FILE{rest}"), file, &secret);
        assert!(damaged.code == 1 && damaged.err.contains("damaged"), "{damaged:?}");
    }
    let damaged = local(&extract("damaged", " --passphrase-stdin"), &renamed, &secret);
    assert!(damaged.code == 1 && damaged.err.contains("damaged"), "{damaged:?}");
    assert!(!unpacked("damaged").join("data").exists());
}

/// The program on a terminal of its own.
struct Terminal {
    process: std::process::Child,
    screen: Arc<Mutex<String>>,
    reader: std::thread::JoinHandle<()>,
}

impl Terminal {
    fn new(world: &World, line: &str) -> Self {
        let mut script = Command::new("script");
        script
            .args(["-qefc", &format!("{BINARY} {line}"), "/dev/null"])
            .env("HOLDFAST_ENDPOINT", world.address())
            .env("HOLDFAST_TOKEN", TOKEN);
        let mut process = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script runs");
        let (screen, mut output) = (Arc::<Mutex<String>>::default(), process.stdout.take().unwrap());
        let seen = screen.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { process, screen, reader }
    }

    fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    /// Types an answer to a prompt, when the terminal echoes or when it does not.
    async fn answer(&mut self, prompt: &str, echo: bool, text: &str) {
        eventually(Duration::from_secs(30), || self.screen().contains(prompt).then_some(())).await;
        // The prompt stands there a moment before the terminal stops to echo.
        eventually(Duration::from_secs(30), || (self.echoes() == Some(echo)).then_some(())).await;
        let stdin = self.process.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }

    /// Whether the terminal echoes what is typed; `None` before there is one.
    fn echoes(&self) -> Option<bool> {
        let script = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{script}/task/{script}/children")).ok()?;
        let terminal = std::fs::read_link(format!("/proc/{}/fd/0", children.split(' ').next()?)).ok()?;
        let output = Command::new("stty").arg("-a").arg("-F").arg(terminal).output().expect("stty runs");
        let settings = String::from_utf8(output.stdout).unwrap();
        settings.split_whitespace().find_map(|word| match word {
            "echo" => Some(true),
            "-echo" => Some(false),
            _ => None,
        })
    }

    async fn ended(mut self) -> (i32, String) {
        let status = eventually(Duration::from_secs(60), || self.process.try_wait().unwrap()).await;
        self.reader.join().unwrap();
        let screen = self.screen.lock().unwrap().clone();
        (status.code().unwrap(), screen)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_a_restore_asks_does_not_echo_and_shows_how_far_it_is() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let before = world.digests();
    world.backup().await;
    world.damage();
    let damaged = world.digests();

    let mut terminal = Terminal::new(&world, "restore latest");
    terminal.answer("Passphrase of b-", false, &format!("{PASSPHRASE}\n")).await;
    terminal.answer("Type yes to go ahead:", true, "no\n").await;
    let (code, screen) = terminal.ended().await;
    assert!(code == 1 && screen.contains("nothing was changed"), "{code} {screen}");
    assert_eq!(world.digests(), damaged);

    let session = world.lock_table("row exclusive").await;
    let mut terminal = Terminal::new(&world, "restore latest");
    terminal.answer("Passphrase of b-", false, &format!("{PASSPHRASE}\n")).await;
    terminal.answer("Type yes to go ahead:", true, "yes\n").await;
    eventually(Duration::from_secs(30), || terminal.screen().contains('░').then_some(())).await;
    sqlx::Connection::close(session).await.unwrap();
    let (code, screen) = terminal.ended().await;
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains(PASSPHRASE) && !screen.contains(TOKEN), "{screen}");
    assert!(screen.contains("Restored:") && screen.contains(" % "), "a bar: {screen}");
    assert_eq!(world.digests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_is_shown_and_taken_from_a_holder_that_is_gone_when_it_is_named() {
    let world = World::new().await;
    let run = |line: &str| run(&world, line, "");
    run("lock").says("free");
    let update = world.begin_update().await;
    let token = update.fencing_token;
    run("lock").says("token:update-service").says("software update").says("Update to 8.4.1").says("unless it is renewed");
    let lock = run("lock show --json").json();
    assert_eq!((&lock["state"], &lock["holder"]["fencingToken"]), (&"STATE_HELD".into(), &token.to_string().into()));
    let refused = run("backup");
    refused.refused(9, "SOFTWARE_UPDATE_IN_PROGRESS");
    for part in ["why: Update to 8.4.1\n", "since: 2", "unless it is renewed\n", "holdfast lock watch\n", "--lock-wait 30m"] {
        assert!(refused.err.contains(part), "{part:?} in {refused:?}");
    }

    // Nothing needs to last: the lease is made to have ended.
    world.sql_as_superuser("update holdfast.lease set expire_time = clock_timestamp() - interval '1 second'").await;
    run("lock").says("stale").says(&format!("holdfast lock release --token {token} --reason TEXT"));
    let status = run("status").says("Backup possible:   no").says("its holder stopped renewing").says("holdfast lock");
    assert!(!status.out.contains("lock release") && !status.out.contains("--lock-wait"), "{status:?}");
    let unnamed = run("lock release --yes");
    assert!(unnamed.code == 2 && unnamed.err.contains(&format!("--token {token} --reason TEXT")), "{unnamed:?}");
    run(&format!("lock release --token {} --reason gone --yes", token + 1)).refused(10, "FENCING_TOKEN_MISMATCH");
    run("lock").says("stale");
    run(&format!("lock release --token {token} --reason gone --yes")).says("free");
    run("backup --no-wait").says("follow it: holdfast operations watch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_nobody_looks_at_is_refused_with_the_preview_as_a_document() {
    let world =
        World::zoo("create table zoo.item (id int primary key, note text); insert into zoo.item values (1, 'a')", &["zoo.item"])
            .await;
    let backup = world.backup().await;
    world.sql("alter table zoo.item drop column note; update zoo.item set id = 2").await;
    let line = format!("restore {} --yes --json", backup.name);
    let refused = run(&world, &line, "");
    assert!(refused.code == 64 + 9 && refused.err.contains("add --acknowledge COLUMN_DROPPED."), "{refused:?}");
    let preview: serde_json::Value = serde_json::from_str(&refused.out).unwrap();
    let warnings = preview["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning["reason"] == "COLUMN_DROPPED"), "{preview}");
    assert_eq!(preview["backup"], backup.name);
    assert_eq!(world.rows("select * from zoo.item").await, "(2)");
    let restored = run(&world, &format!("{line} --acknowledge COLUMN_DROPPED"), "").json();
    assert!(restored["commitTime"].is_string(), "{restored}");
    assert_eq!(world.rows("select * from zoo.item").await, "(1)");
}
