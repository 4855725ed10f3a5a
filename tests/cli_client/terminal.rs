//! The program on a terminal: what is asked, in which order, and what each answer leads to.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::NoticeCode;
use holdfast::grpc::proto::backup::notice::Severity::Blocking;

use crate::Rig;
use crate::platform::{notice, preview};

/// The program on a terminal of its own.
pub struct Terminal {
    process: Child,
    screen: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    /// What was shown before the last answer.
    seen: usize,
}

impl Terminal {
    fn new(rig: &Rig, line: &str) -> Self {
        std::fs::write(rig.folder.path().join("passphrase"), "s3cret\n").unwrap();
        Self::plain(rig, &format!("{line} --passphrase-file passphrase"))
    }

    /// Without a passphrase at hand.
    pub fn plain(rig: &Rig, line: &str) -> Self {
        let program = format!("{} {line}", env!("CARGO_BIN_EXE_holdfast"));
        let mut script = Command::new("script");
        script.args(["-qefc", &program, "/dev/null"]).current_dir(rig.folder.path()).env("HOLDFAST_ENDPOINT", &rig.endpoint);
        let mut process = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (screen, mut output) = (Arc::<Mutex<String>>::default(), process.stdout.take().unwrap());
        let shown = screen.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { process, screen, reader, seen: 0 }
    }

    /// Waits for a question that has this, and answers it.
    pub async fn answer(&mut self, question: &str, text: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let screen = self.screen.lock().unwrap().clone();
            let asked = screen[self.seen..].find(question).map(|place| self.seen + place);
            if let Some(place) = asked.filter(|place| screen[*place..].contains("Type yes to go ahead:")) {
                self.seen = place + question.len();
                break;
            }
            assert!(Instant::now() < until, "{question:?} in {screen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let stdin = self.process.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }

    pub async fn ended(mut self) -> (i32, String) {
        let until = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "{}", self.screen.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.reader.join().unwrap();
        let screen = self.screen.lock().unwrap().clone();
        (status.code().unwrap(), screen)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_blocking_warning_is_asked_for_before_the_restore_is() {
    let rig = Rig::new().await;
    let warnings = vec![
        notice(Blocking, NoticeCode::LicensesCleared, "", "licenses"),
        notice(Blocking, NoticeCode::ColumnDropped, "", "a.b"),
        notice(Blocking, NoticeCode::ColumnDropped, "", "a.c"),
    ];
    rig.fake.platform.lock().unwrap().previews = [preview("e1", warnings)].into();
    let restores = || rig.fake.platform.lock().unwrap().restores.len();

    let mut terminal = Terminal::new(&rig, "restore latest");
    terminal.answer("COLUMN_DROPPED: a.b is concerned. (and 1 more) Is that accepted?", "yes\n").await;
    terminal.answer("LICENSES_CLEARED: licenses is concerned. Is that accepted?", "y\n").await;
    let (code, screen) = terminal.ended().await;
    assert!(code == 1 && screen.contains("nothing was changed") && restores() == 0, "{code} {screen}");

    let mut terminal = Terminal::new(&rig, "restore latest --acknowledge COLUMN_DROPPED");
    terminal.answer("LICENSES_CLEARED: licenses is concerned. Is that accepted?", "yes\n").await;
    terminal.answer("The present data of adapters is replaced", "no\n").await;
    let (code, screen) = terminal.ended().await;
    assert!(code == 1 && !screen.contains("COLUMN_DROPPED: a.b is concerned. (and") && restores() == 0, "{code} {screen}");

    let mut terminal = Terminal::new(&rig, "restore latest");
    terminal.answer("COLUMN_DROPPED", "yes\n").await;
    terminal.answer("LICENSES_CLEARED: ", "yes\n").await;
    terminal.answer("The present data of adapters is replaced", "yes\n").await;
    let (code, screen) = terminal.ended().await;
    assert!(code == 0 && screen.contains("undo it: holdfast undo") && !screen.contains("s3cret"), "{code} {screen}");
    assert_eq!(restores(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_safety_backup_there_is_one_more_question() {
    let rig = Rig::new().await;
    let mut terminal = Terminal::new(&rig, "restore latest --skip-safety-backup");
    terminal.answer("this restore cannot be undone.", "no\n").await;
    assert_eq!(terminal.ended().await.0, 1);
    assert!(rig.fake.platform.lock().unwrap().restores.is_empty());
    let mut terminal = Terminal::new(&rig, "restore latest --skip-safety-backup");
    terminal.answer("this restore cannot be undone.", "yes\n").await;
    terminal.answer("The present data of adapters is replaced", "yes\n").await;
    assert_eq!(terminal.ended().await.0, 0);
    assert!(rig.fake.platform.lock().unwrap().restores[0].skip_safety_backup);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_stale_preview_what_is_new_is_shown_and_all_is_asked_again() {
    let rig = Rig::new().await;
    let old = notice(Blocking, NoticeCode::ColumnDropped, "", "old");
    let new = notice(Blocking, NoticeCode::ColumnDropped, "", "new");
    let quiet = notice(Blocking, NoticeCode::OtherSystem, "", "file");
    let previews = [preview("1", vec![old.clone(), quiet.clone()]), preview("2", vec![old, quiet, new])];
    rig.fake.platform.lock().unwrap().previews = previews.into();
    let mut terminal = Terminal::new(&rig, "restore latest");
    terminal.answer("COLUMN_DROPPED: old", "yes\n").await;
    terminal.answer("OTHER_SYSTEM: ", "yes\n").await;
    terminal.answer("The present data of adapters is replaced", "yes\n").await;
    terminal.answer("COLUMN_DROPPED: old is concerned. (and 1 more)", "yes\n").await;
    terminal.answer("The present data of adapters is replaced", "yes\n").await;
    let (code, screen) = terminal.ended().await;
    assert_eq!(code, 0, "{screen}");
    let again = screen.split("New in the preview:").nth(1).unwrap();
    assert!(again.contains("blocking: new is concerned. (COLUMN_DROPPED)"), "{again}");
    assert!(!again.contains("OTHER_SYSTEM: "), "what was accepted and is as before is not asked for again: {again}");
    assert_eq!(rig.fake.platform.lock().unwrap().restores.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_a_question_ends_the_program_and_changes_nothing() {
    let rig = Rig::new().await;
    let mut terminal = Terminal::new(&rig, "restore latest");
    terminal.answer("The present data of adapters is replaced", "\x03").await;
    let (code, screen) = terminal.ended().await;
    assert!(code == 130 && screen.contains("Nothing was changed"), "{code} {screen}");
    assert!(rig.fake.platform.lock().unwrap().restores.is_empty());
}
