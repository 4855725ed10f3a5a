//! Uploads: a file of elsewhere is taken in whole and once, and whatever is wrong with it, or with who sends it, leaves nothing.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::upload_backup_request::Payload;
use holdfast::grpc::proto::backup::{
    Backup, BackupRequest, DeleteBackupRequest, FileChunk, FileHeader, GetSystemStatusRequest, OperationError, Retention,
    SetRetentionRequest, SyncBackupsRequest, Trigger, UploadBackupRequest,
};
use holdfast::model::{BackupId, FileName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::files::Volume;
use super::transfers::{cutting, world_of_many_pieces};
use super::world::{BINARY, PASSPHRASE, TOKEN, World, eventually, eventually_async, refused, rounds, sha256};

const EARLIER: &str = "the passphrase of another year";
const PIECE: usize = 64 << 10;
const EVENTS: &str = "select coalesce(string_agg(type, ' ' order by event_time), '') from holdfast.event
                      where type in ('backup.uploaded', 'backup.recovered', 'backup.missing')";

fn header(file_name: &str, bytes: &[u8]) -> FileHeader {
    let size_bytes = bytes.len().try_into().unwrap();
    FileHeader { file_name: file_name.into(), size_bytes, sha256: sha256(bytes), ..Default::default() }
}

fn first(header: FileHeader) -> UploadBackupRequest {
    UploadBackupRequest { payload: Some(Payload::Header(header)) }
}

fn chunk(offset: usize, data: &[u8]) -> UploadBackupRequest {
    let (offset, crc32c) = (offset.try_into().unwrap(), Some(crc32c::crc32c(data)));
    UploadBackupRequest { payload: Some(Payload::Chunk(FileChunk { offset, data: data.to_vec().into(), crc32c })) }
}

/// What a good client sends.
fn messages(header: FileHeader, bytes: &[u8]) -> Vec<UploadBackupRequest> {
    let chunks = bytes.chunks(PIECE).enumerate().map(|(place, data)| chunk(place * PIECE, data));
    std::iter::once(first(header)).chain(chunks).collect()
}

/// The name of a file with these contents, as that of another backup.
pub fn named(like: &str, bytes: &[u8], encrypted: bool) -> String {
    let like: FileName = like.parse().unwrap();
    FileName::new(like.id().clone(), sha256(bytes).parse().unwrap(), encrypted).to_string()
}

impl World {
    async fn send(&self, messages: Vec<UploadBackupRequest>) -> Result<Backup, OperationError> {
        let answer = self.backups().await.upload_backup(tokio_stream::iter(messages)).await;
        answer.map(tonic::Response::into_inner).map_err(refused)
    }

    pub async fn upload(&self, file_name: &str, bytes: &[u8]) -> Result<Backup, OperationError> {
        self.send(messages(header(file_name, bytes), bytes)).await
    }

    async fn upload_as(&self, request_id: &str, file_name: &str, bytes: &[u8]) -> Result<Backup, OperationError> {
        let request_id = request_id.to_owned();
        self.send(messages(FileHeader { request_id, ..header(file_name, bytes) }, bytes)).await
    }

    async fn delete(&self, backup: &Backup) {
        let request = DeleteBackupRequest { name: backup.name.clone(), ..Default::default() };
        self.backups().await.delete_backup(request).await.unwrap();
    }

    /// A backup that is gone from here: what it was, and the bytes of its file.
    pub async fn elsewhere_made(&self) -> (Backup, Vec<u8>) {
        let made = self.backup().await;
        let bytes = std::fs::read(self.file(&made)).unwrap();
        self.delete(&made).await;
        (made, bytes)
    }

    /// An upload that has sent its beginning: the draft is there.
    async fn begin_upload(&self, file_name: &str, bytes: &[u8]) -> Sending {
        let before = self.drafts().len();
        let (sender, messages) = mpsc::channel(100);
        sender.send(first(header(file_name, bytes))).await.unwrap();
        sender.send(chunk(0, &bytes[..1000])).await.unwrap();
        let mut calls = self.backups().await;
        let answer = tokio::spawn(async move {
            let answer = calls.upload_backup(ReceiverStream::new(messages)).await;
            answer.map(tonic::Response::into_inner).map_err(refused)
        });
        eventually(Duration::from_secs(30), || (self.drafts().len() > before).then_some(())).await;
        Sending { sender, answer }
    }

    async fn drafts_go(&self) {
        eventually(Duration::from_secs(60), || self.drafts().is_empty().then_some(())).await;
    }
}

struct Sending {
    sender: mpsc::Sender<UploadBackupRequest>,
    answer: JoinHandle<Result<Backup, OperationError>>,
}

impl Sending {
    async fn finish(self, bytes: &[u8]) -> Result<Backup, OperationError> {
        self.sender.send(chunk(1000, &bytes[1000..])).await.unwrap();
        drop(self.sender);
        self.answer.await.unwrap()
    }
}

fn why<T: std::fmt::Debug>(answer: Result<T, OperationError>) -> (String, Code) {
    let error = answer.unwrap_err();
    (error.reason, error.code.into())
}

fn because(reason: &str, code: Code) -> (String, Code) {
    (reason.to_owned(), code)
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_a_file_of_elsewhere_is_taken_in_restored_and_deletes_nothing() {
    let world = World::new().await;
    let made = world.try_backup(BackupRequest { description: "before the move".into(), ..Default::default() }).await.unwrap();
    let made = world.entry(&made).await;
    let (bytes, digests) = (std::fs::read(world.file(&made)).unwrap(), world.digests());
    world.delete(&made).await;
    let [second, third] = [world.backup().await, world.backup().await];
    let retention = Some(Retention { max_count: 2, ..Default::default() });
    world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();

    let sent = world.upload(&made.file_name, &bytes).await.unwrap();
    assert_eq!((sent.state(), sent.trigger(), sent.creator.as_str()), (State::Ready, Trigger::Uploaded, "token:static"));
    let facts = |backup: &Backup| {
        let about = (backup.uid.clone(), backup.description.clone(), backup.snapshot_time, backup.resources.clone());
        (backup.name.clone(), backup.file_name.clone(), backup.sha256.clone(), backup.size_bytes, about)
    };
    assert_eq!(facts(&sent), facts(&made));
    assert!(sent.complete_time.is_none() && sent.register_time != made.register_time);
    assert_eq!(sent, world.entry(&sent).await);
    let mode = std::fs::metadata(world.file(&sent)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(std::fs::read(world.file(&sent)).unwrap() == bytes);
    assert_eq!(world.value(EVENTS).await, "backup.uploaded");
    assert_eq!(
        world.value("select body->'actor'->>'principal' || ' ' || (body->>'target') from holdfast.event where type = 'backup.uploaded'").await,
        format!("token:static {}", sent.name)
    );

    // The oldest data, and the newest in the list: nothing goes, and it is not the next to go.
    let names = async || world.listed().await.into_iter().map(|backup| backup.name).collect::<Vec<_>>();
    assert_eq!(names().await, [sent.name.clone(), third.name.clone(), second.name.clone()]);
    assert!(sent.retention_position.is_some_and(|place| place.position == 1 && !place.next_to_expire));
    // Whoever wants the latest wants what was made here.
    let output = world.cli(&["show", "latest", "--json"], "");
    assert!(String::from_utf8_lossy(&output.stdout).contains(&third.name), "{output:?}");
    let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.latest_backup, third.name);
    let newest = world.backup().await;
    assert_eq!(names().await, [newest.name, sent.name.clone()]);

    world.damage();
    world.restores_to(&sent, &digests).await;
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_what_does_not_fit_its_header_is_refused_by_field_and_leaves_nothing() {
    let mut world = World::without_service().await;
    world.set("HOLDFAST_LIMITS__MAX_UPLOAD_BYTES", "4000000");
    world.start().await.unwrap();
    let (made, bytes) = world.elsewhere_made().await;
    let name = made.file_name.as_str();
    let good = || header(name, &bytes);
    let with = |change: &dyn Fn(&mut FileHeader)| {
        let mut header = good();
        change(&mut header);
        messages(header, &bytes)
    };
    let after = |rest: &[UploadBackupRequest]| [&[first(good())], rest].concat();
    let raw = |offset: i64, data: &[u8], crc32c| UploadBackupRequest {
        payload: Some(Payload::Chunk(FileChunk { offset, data: data.to_vec().into(), crc32c })),
    };
    let (head, tail) = bytes.split_at(1000);
    let long = header("", &vec![0; 3 << 20]);
    let hostile: Vec<(&str, Vec<UploadBackupRequest>)> = vec![
        ("nothing", vec![]),
        ("no header", vec![chunk(0, &bytes)]),
        ("an empty message", vec![UploadBackupRequest::default()]),
        ("a header alone", vec![first(good())]),
        ("a header twice", after(&[first(good())])),
        ("a header in the middle", after(&[chunk(0, head), first(good()), chunk(1000, tail)])),
        ("an empty message behind it", after(&[UploadBackupRequest::default()])),
        ("the wrong order", after(&[chunk(1000, tail), chunk(0, head)])),
        ("a gap", after(&[chunk(0, head), chunk(1001, &tail[1..])])),
        ("a piece twice", after(&[chunk(0, head), chunk(0, head)])),
        ("a negative offset", after(&[raw(-1, head, None)])),
        ("the largest offset", after(&[raw(i64::MAX, head, None)])),
        ("an empty piece", after(&[chunk(0, head), raw(1000, &[], None)])),
        ("a piece over 1 MiB", vec![first(long.clone()), chunk(0, &vec![0; (1 << 20) + 1])]),
        ("a piece over 2 MiB", vec![first(long), chunk(0, &vec![0; 3 << 20])]),
        ("too short", after(&[chunk(0, head)])),
        ("too long", after(&[chunk(0, &bytes), chunk(bytes.len(), b"x")])),
        ("too long at once", after(&[chunk(0, &[&bytes[..], b"x"].concat())])),
        ("another CRC32C", after(&[raw(0, head, Some(7)), chunk(1000, tail)])),
        ("no size", with(&|header| header.size_bytes = 0)),
        ("a negative size", with(&|header| header.size_bytes = -1)),
        ("the largest size", with(&|header| header.size_bytes = i64::MAX)),
        ("a size over the limit", with(&|header| header.size_bytes = 4_000_001)),
        ("no digest", with(&|header| header.sha256.clear())),
        ("a digest in capitals", with(&|header| header.sha256.make_ascii_uppercase())),
        ("half a digest", with(&|header| header.sha256.truncate(32))),
        ("the digest of something else", with(&|header| header.sha256 = sha256(b"something else"))),
        ("a name with a way up", with(&|header| header.file_name.insert_str(0, "../"))),
        ("a name with a folder", with(&|header| header.file_name.insert_str(0, "backups/"))),
        ("a name from the root", with(&|header| header.file_name.insert(0, '/'))),
        ("a name with NUL", with(&|header| header.file_name.push('\0'))),
        ("a name of a draft", with(&|header| header.file_name = ".draft-x".into())),
        ("dots", with(&|header| header.file_name = "..".into())),
        ("the name of the volume", with(&|header| header.file_name = ".holdfast-volume".into())),
        ("a long description", with(&|header| header.description = "x".repeat(257))),
        ("a description with controls", with(&|header| header.description = "\x1b[2J".into())),
        ("a long request id", with(&|header| header.request_id = "x".repeat(37))),
    ];
    for (what, messages) in hostile {
        let error = world.send(messages).await.unwrap_err();
        assert_eq!((error.reason.as_str(), error.code), ("INVALID_FIELD", Code::InvalidArgument.into()), "{what}: {error:?}");
        assert!(world.drafts().is_empty() && world.files().is_empty(), "{what}");
    }
    let other = FileHeader { sha256: sha256(b"something else"), file_name: String::new(), ..good() };
    assert_eq!(why(world.send(messages(other, &bytes)).await), because("BACKUP_CORRUPTED", Code::DataLoss));
    assert!(world.listed().await.is_empty());
    assert!(!world.log().contains("\"ERROR\""), "{}", world.log());
    // No place was lost.
    world.upload(name, &bytes).await.unwrap();
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s17_only_backup_files_are_taken_in_and_each_is_what_its_name_says() {
    let world = World::small().await;
    let (made, bytes) = world.elsewhere_made().await;
    let (other, _) = world.elsewhere_made().await;
    let archive = zstd::decode_all(&bytes[..]).unwrap();
    // So many bytes behind the beginning of what is there.
    let altered = |present: &[u8], behind: usize, new: &[u8]| {
        let mut archive = archive.clone();
        let at = archive.windows(present.len()).position(|part| part == present).expect("it is in there") + behind;
        archive[at..at + new.len()].copy_from_slice(new);
        zstd::encode_all(&archive[..], 1).unwrap()
    };
    let no_backup = ("NOT_A_BACKUP_FILE", Code::InvalidArgument);
    let damaged = ("BACKUP_CORRUPTED", Code::DataLoss);
    let newer = ("BACKUP_INCOMPATIBLE", Code::FailedPrecondition);
    let cases = [
        ("text", b"no backup at all".to_vec(), false, no_backup),
        ("text that says it is encrypted", b"no backup at all".to_vec(), true, no_backup),
        ("armor", b"-----BEGIN PGP MESSAGE-----\n".to_vec(), true, no_backup),
        ("another archive", zstd::encode_all(&vec![b'x'; 5000][..], 1).unwrap(), false, no_backup),
        ("half a file", bytes[..bytes.len() / 2].to_vec(), false, damaged),
        ("a plain file that says it is encrypted", bytes.clone(), true, damaged),
        ("an altered row", altered(b"data/permissions/platform.permission/00000.copy", 512, b"~"), false, damaged),
        ("a newer format", altered(br#""format_version": "1.1""#, 19, b"9"), false, newer),
    ];
    for (what, bytes, encrypted, (reason, code)) in cases {
        let error = world.upload(&named(&made.file_name, &bytes, encrypted), &bytes).await.unwrap_err();
        // How much of half a file can be read depends on how it was cut.
        let half = what == "half a file" && error.reason == "NOT_A_BACKUP_FILE";
        assert!(half || (error.reason.as_str(), Code::from(error.code)) == (reason, code), "{what}: {error:?}");
        assert!(world.drafts().is_empty() && world.files().is_empty(), "{what}");
    }
    assert_eq!(why(world.upload("", b"no backup at all").await), because("NOT_A_BACKUP_FILE", Code::InvalidArgument));
    // Another backup than its name says.
    let error = world.upload(&named(&other.file_name, &bytes, false), &bytes).await.unwrap_err();
    assert!(error.reason == "BACKUP_CORRUPTED" && error.message.contains("renamed"), "{error:?}");
    assert!(world.listed().await.is_empty() && world.files().is_empty());
    // Who has lost the name is told it.
    assert_eq!(world.upload("", &bytes).await.unwrap().file_name, made.file_name);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c06_a_file_of_another_passphrase_is_taken_in_unopened_under_its_name() {
    let world = World::new().await;
    world.set_passphrase(EARLIER).await;
    let digests = world.digests();
    let (made, bytes) = world.elsewhere_made().await;
    world.set_passphrase(PASSPHRASE).await;
    let (current, of_current) = world.elsewhere_made().await;
    let error = world.upload("", &bytes).await.unwrap_err();
    assert!(error.reason == "INVALID_FIELD" && error.message.contains("name is needed"), "{error:?}");
    let error = world.upload(&named(&made.file_name, &bytes, false), &bytes).await.unwrap_err();
    assert_eq!(error.reason, "BACKUP_CORRUPTED", "it says that it is not encrypted: {error:?}");
    let sent = world.upload(&made.file_name, &bytes).await.unwrap();
    assert_eq!((sent.name.as_str(), sent.uid.as_str(), sent.resources.len()), (made.name.as_str(), "", 0));
    world.damage();
    assert_eq!(world.restore(&sent, PASSPHRASE).await.unwrap_err().reason, "PASSPHRASE_INCORRECT");
    world.restore(&sent, EARLIER).await.unwrap();
    assert_eq!(world.digests(), digests);
    // That of the passphrase in use is opened, and tells its name.
    let sent = world.upload("", &of_current).await.unwrap();
    assert_eq!((sent.file_name, sent.uid), (current.file_name, world.listed().await[0].uid.clone()));
    assert!(!sent.resources.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_p14_a_file_is_taken_in_once_whoever_sends_it_how_often() {
    let world = World::new().await;
    let (made, bytes) = world.elsewhere_made().await;
    let (other, others) = world.elsewhere_made().await;
    let mut twin = world.twin();
    twin.start().await.unwrap();

    // At once, through two services.
    let name = made.file_name.as_str();
    let (a, b, c, d) =
        tokio::join!(world.upload(name, &bytes), twin.upload(name, &bytes), world.upload("", &bytes), twin.upload(name, &bytes));
    let (taken, told): (Vec<_>, Vec<_>) = [a, b, c, d].into_iter().partition(Result::is_ok);
    assert_eq!(taken.len(), 1, "{told:?}");
    for error in told {
        let error = error.unwrap_err();
        assert_eq!((error.reason.as_str(), error.code), ("BACKUP_ALREADY_EXISTS", Code::AlreadyExists.into()), "{error:?}");
        assert_eq!(error.metadata["backup"], made.name);
    }
    assert_eq!(why(world.upload(name, &bytes).await), because("BACKUP_ALREADY_EXISTS", Code::AlreadyExists));
    world.delete(&made).await;

    // The same request is one request.
    let (a, b, c) = tokio::join!(
        world.upload_as("once", name, &bytes),
        twin.upload_as("once", name, &bytes),
        world.upload_as("once", name, &bytes)
    );
    let again = twin.upload_as("once", name, &bytes).await;
    for sent in [a, b, c, again] {
        assert_eq!(sent.unwrap().name, made.name);
    }
    assert_eq!(
        why(world.upload_as("once", &other.file_name, &others).await),
        because("REQUEST_ID_REUSED", Code::InvalidArgument)
    );
    let (a, b) = tokio::join!(world.upload_as("twice", &other.file_name, &others), twin.upload_as("twice", name, &bytes));
    assert_eq!(a.unwrap().name, other.name);
    assert!(["BACKUP_ALREADY_EXISTS", "REQUEST_ID_REUSED"].contains(&b.unwrap_err().reason.as_str()));
    assert_eq!(world.value(EVENTS).await, ["backup.uploaded"; 3].join(" "));
    // Once the backup is gone, so is the request; and after a day it is another one.
    world.delete(&made).await;
    world.upload_as("once", name, &bytes).await.unwrap();
    world.sql_as_superuser("update holdfast.upload set create_time = create_time - interval '25 h'").await;
    world.delete(&other).await;
    assert_eq!(world.upload_as("once", &other.file_name, &others).await.unwrap().name, other.name);
    // Another file of the same backup is not it.
    let id: BackupId = made.name.trim_start_matches("backups/").parse().unwrap();
    let forged = FileName::new(id, sha256(b"forged").parse().unwrap(), true).to_string();
    let error = world.upload(&forged, b"forged").await.unwrap_err();
    assert!(error.reason == "BACKUP_ALREADY_EXISTS" && error.message.contains("another file"), "{error:?}");
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_file_is_gone_is_ready_again_when_it_is_sent() {
    let world = World::new().await;
    let backup = world.try_backup(BackupRequest { description: "mine".into(), ..Default::default() }).await.unwrap();
    let bytes = std::fs::read(world.file(&backup)).unwrap();
    let sync = async || world.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap();
    std::fs::remove_file(world.file(&backup)).unwrap();
    sync().await;
    assert_eq!(world.entry(&backup).await.state(), State::Missing);
    // A copy that is not complete is in its place: it is neither replaced nor taken for the file.
    std::fs::write(world.file(&backup), &bytes[..1000]).unwrap();
    let error = world.upload(&backup.file_name, &bytes).await.unwrap_err();
    assert!(error.reason == "BACKUP_ALREADY_EXISTS" && error.message.contains("remove that one"), "{error:?}");
    assert_eq!(std::fs::read(world.file(&backup)).unwrap().len(), 1000);
    std::fs::remove_file(world.file(&backup)).unwrap();
    let back = world.upload(&backup.file_name, &bytes).await.unwrap();
    assert_eq!((back.state(), back.trigger(), back.description.as_str()), (State::Ready, Trigger::OnDemand, "mine"));
    assert!(world.value(EVENTS).await.contains("backup.missing") && world.value(EVENTS).await.contains("backup.recovered"));
    world.restore(&back, "").await.unwrap();

    // One that is damaged says what to do.
    std::fs::write(world.file(&backup), [&bytes[..1000], b"damage"].concat()).unwrap();
    world.verify(&backup, holdfast::grpc::proto::backup::VerifyLevel::Checksum, "").await.unwrap();
    assert_eq!(world.entry(&backup).await.state(), State::Invalid);
    let error = world.upload(&backup.file_name, &bytes).await.unwrap_err();
    assert!(error.reason == "BACKUP_ALREADY_EXISTS" && error.message.contains("delete it"), "{error:?}");
    world.delete(&backup).await;
    world.upload(&backup.file_name, &bytes).await.unwrap();
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_f13_a_draft_goes_with_whoever_sends_it_and_with_the_process_that_takes_it() {
    let mut world = World::new().await;
    let (made, bytes) = world.elsewhere_made().await;
    let name = made.file_name.as_str();
    // Whoever hangs up.
    let sending = world.begin_upload(name, &bytes).await;
    assert!(world.listed().await.is_empty() && world.files().is_empty());
    sending.answer.abort();
    world.drafts_go().await;

    // One that lives is left alone by others, while those of the dead go.
    let sending = world.begin_upload(name, &bytes).await;
    let dead = world.folder().join(format!(".draft-{}.{}", uuid::Uuid::new_v4(), uuid::Uuid::new_v4()));
    std::fs::write(&dead, "half").unwrap();
    let mut twin = world.twin();
    twin.start().await.unwrap();
    eventually(Duration::from_secs(60), || (!dead.exists()).then_some(())).await;
    assert_eq!(world.drafts().len(), 1);
    assert_eq!(sending.finish(&bytes).await.unwrap().name, made.name);
    world.delete(&made).await;

    // The service is stopped, and killed.
    let sending = world.begin_upload(name, &bytes).await;
    assert_eq!(world.terminate().await, Some(0));
    assert!(world.drafts().is_empty(), "{:?}", world.drafts());
    sending.answer.abort();
    world.start().await.unwrap();
    let sending = world.begin_upload(name, &bytes).await;
    world.kill();
    assert_eq!(world.drafts().len(), 1);
    sending.answer.abort();
    world.start().await.unwrap();
    world.drafts_go().await;
    assert!(world.listed().await.is_empty() && world.files().is_empty());
    world.upload(name, &bytes).await.unwrap();
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p06_whoever_sends_nothing_is_given_up_and_holds_up_nobody() {
    let world = World::with(&[("HOLDFAST_LIMITS__TRANSFER_PATIENCE", "3s")]).await;
    let (made, bytes) = world.elsewhere_made().await;
    let name = made.file_name.as_str();
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(world.begin_upload(name, &bytes).await);
    }
    // Without a header nobody has a place.
    let (_silent, messages) = mpsc::channel(1);
    let silent = world.backups().await.upload_backup(ReceiverStream::new(messages)).await;
    assert_eq!(why(silent.map_err(refused)), because("TRANSFER_TIMED_OUT", Code::DeadlineExceeded));
    world.backup().await;
    for sending in stalled {
        assert_eq!(why(sending.answer.await.unwrap()), because("TRANSFER_TIMED_OUT", Code::DeadlineExceeded));
    }
    assert!(world.drafts().is_empty());
    world.upload(name, &bytes).await.unwrap();
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_file_that_does_not_fit_is_refused_first_and_a_volume_that_fills_up_costs_nothing_else() {
    let mut world = World::without_service().await;
    let folder = world.folder();
    let Some(_volume) = Volume::mount(&folder, "size=1m") else { return };
    world.start().await.unwrap();
    let kept = world.backup().await;
    let (made, bytes) = world.elsewhere_made().await;
    let name = made.file_name.as_str();
    let fill = |left: u64| {
        let _ = std::fs::remove_file(folder.join("ballast"));
        let space = rustix::fs::statvfs(&folder).unwrap();
        let ballast = space.f_bavail * space.f_frsize - left;
        std::fs::write(folder.join("ballast"), vec![1; usize::try_from(ballast).unwrap()]).unwrap();
    };
    fill(4096);
    let error = world.send(vec![first(header(name, &bytes))]).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("STORAGE_FULL", Code::ResourceExhausted.into()), "{error:?}");
    assert_eq!((error.metadata["needed"].as_str(), error.metadata["available"].as_str()), (&*bytes.len().to_string(), "4096"));
    std::fs::remove_file(folder.join("ballast")).unwrap();
    let sending = world.begin_upload(name, &bytes).await;
    fill(0);
    assert_eq!(why(sending.finish(&bytes).await), because("STORAGE_FULL", Code::ResourceExhausted));
    assert!(world.drafts().is_empty());
    std::fs::remove_file(folder.join("ballast")).unwrap();
    world.upload(name, &bytes).await.unwrap();
    world.restore(&kept, "").await.unwrap();
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_a_panic_before_or_behind_the_name_leaves_a_file_that_is_entered_when_it_is_sent_again() {
    let mut world = World::new().await;
    let (made, bytes) = world.elsewhere_made().await;
    for (point, files) in [("entering", 0), ("entered", 1)] {
        world.terminate().await;
        world.set("HOLDFAST_FAULT", point);
        world.start().await.unwrap();
        assert_eq!(why(world.upload(&made.file_name, &bytes).await), because("INTERNAL", Code::Internal), "{point}");
        assert_eq!((world.files().len(), world.listed().await.len(), world.drafts().len()), (files, 0, 0), "{point}");
        let sent = world.upload(&made.file_name, &bytes).await.unwrap();
        assert_eq!(sent.trigger(), Trigger::Uploaded, "{point}");
        world.is_tidy().await;
        world.delete(&made).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_command_line_a_file_is_checked_here_first_and_named_by_the_service() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let (made, bytes) = world.elsewhere_made().await;
    let away = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        std::fs::write(away.path().join(name), bytes).unwrap();
        away.path().join(name).display().to_string()
    };
    let run = |arguments: &[&str]| {
        let output = world.cli(arguments, "");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let name = made.file_name.as_str();
    let (code, _, said) = run(&["upload", &put(name, &bytes[..bytes.len() - 1])]);
    assert!(code == 1 && said.contains("damaged"), "{said}");
    let (code, _, said) = run(&["upload", &put("notes.txt", b"no backup")]);
    assert!(code == 1 && said.contains("not a backup file"), "{said}");
    let (code, _, said) = run(&["upload", "/nonexistent"]);
    assert!(code == 1 && said.contains("cannot open"), "{said}");
    assert_eq!(run(&["upload", &away.path().display().to_string()]).0, 1, "a folder");

    let file = put(name, &bytes);
    let (code, out, said) = run(&["upload", &file, "--description", "from the old system", "--json"]);
    assert!(code == 0 && said.contains("100 %") && said.contains("uploaded as"), "{said}");
    let sent: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&sent["name"], &sent["trigger"]), (&made.name.as_str().into(), &"TRIGGER_UPLOADED".into()));
    assert_eq!(sent["description"], "from the old system");
    let (code, _, said) = run(&["upload", &file]);
    assert!(code == 64 + 6 && said.contains("BACKUP_ALREADY_EXISTS") && said.contains("holdfast show b-"), "{said}");
    world.delete(&made).await;
    // Renamed, the passphrase in use tells what it is; without that, nobody can.
    let renamed = put("backup.bin", &bytes);
    let (code, out, said) = run(&["upload", &renamed]);
    assert!(code == 0 && said.contains("name was changed") && out.contains(name), "{out}{said}");
    world.delete(&made).await;
    world.set_passphrase(EARLIER).await;
    let (code, _, said) = run(&["upload", &renamed]);
    assert!(code == 64 + 3 && said.contains("its name is needed"), "{said}");
    assert!(world.drafts().is_empty() && world.files().is_empty());
    assert_eq!(run(&["upload", &file]).0, 0);
    eventually_async(Duration::from_secs(5), async || (world.listed().await.len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_an_upload_that_is_cut_off_is_sent_again_by_itself_and_taken_in_once() {
    let (world, made) = world_of_many_pieces().await;
    let away = tempfile::tempdir().unwrap();
    let file = away.path().join(&made.file_name);
    std::fs::copy(world.file(&made), &file).unwrap();
    let run = async |endpoint: String| {
        let mut command = Command::new(BINARY);
        command.arg("upload").arg(&file).env_clear().env("HOLDFAST_ENDPOINT", endpoint).env("HOLDFAST_TOKEN", TOKEN);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    // More is on its way than the windows hold when the service refuses it.
    let output = run(world.address()).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(64 + 6) && said.contains("it is this file"), "{said}");
    world.delete(&made).await;
    // The first two connections break.
    let mut connections = 0;
    let limits = move || {
        connections += 1;
        (if connections < 3 { connections << 20 } else { u64::MAX }, u64::MAX)
    };
    let (endpoint, cuts) = cutting(world.address(), limits).await;
    let output = run(endpoint).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(cuts.load(Ordering::Relaxed), 2);
    assert_eq!(world.value(EVENTS).await, "backup.uploaded");
    world.drafts_go().await;
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_p03_a_kill_at_any_moment_of_an_upload_leaves_the_whole_file_or_nothing() {
    let (mut world, made) = world_of_many_pieces().await;
    let bytes = std::fs::read(world.file(&made)).unwrap();
    world.delete(&made).await;
    let began = Instant::now();
    world.upload(&made.file_name, &bytes).await.unwrap();
    let lasts = began.elapsed();
    world.delete(&made).await;
    let all = rounds(4, 100);
    for round in 0..all {
        let (mut calls, sent) = (world.backups().await, messages(header(&made.file_name, &bytes), &bytes));
        let sending = tokio::spawn(async move { calls.upload_backup(tokio_stream::iter(sent)).await });
        tokio::time::sleep(lasts * 11 * round / (10 * all)).await;
        world.kill();
        let told = sending.await.unwrap().is_ok();
        world.start().await.unwrap();
        world.drafts_go().await;
        let there = world.files().len();
        assert!(there == 1 || (there == 0 && !told), "round {round}: {told} {:?}", world.files());
        // It is in the list by the upload, or because it was found.
        eventually_async(Duration::from_secs(30), async || (world.listed().await.len() == there).then_some(())).await;
        if there == 0 {
            world.upload(&made.file_name, &bytes).await.unwrap();
        }
        assert!(std::fs::read(world.file(&made)).unwrap() == bytes, "round {round}");
        world.is_tidy().await;
        world.delete(&made).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_files_that_nobody_could_open_push_out_nothing() {
    let (elsewhere, world) = (World::small().await, World::small().await);
    elsewhere.set_passphrase("another passphrase, of elsewhere").await;
    let retention = Some(Retention { max_count: 2, ..Default::default() });
    world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
    let good = world.backup().await;
    for _ in 0..3 {
        let made = elsewhere.backup().await;
        let sent = world.upload(&made.file_name, &std::fs::read(elsewhere.file(&made)).unwrap()).await.unwrap();
        assert_eq!((sent.state(), sent.retention_position.is_some()), (State::Ready, false), "{sent:?}");
    }
    let newer = world.backup().await;
    let listed: Vec<String> = world.listed().await.into_iter().map(|backup| backup.name).collect();
    assert!(listed.len() == 5 && listed.contains(&good.name) && listed.contains(&newer.name), "{listed:?}");
    // A time that is none on the wire is that of no backup.
    let name = format!("00000101T000000Z-{}", newer.file_name.split_once('-').unwrap().1);
    let error = world.upload(&name, &std::fs::read(world.file(&newer)).unwrap()).await.unwrap_err();
    assert_eq!(error.reason, "INVALID_FIELD", "{error:?}");
}
