//! The wire, seen by clients: who may call, what every refusal carries, pages, downloads; and a client nobody here wrote.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use holdfast::grpc::proto::backup::download_backup_response::Payload;
use holdfast::grpc::proto::backup::*;
use prost_reflect::DescriptorPool;
use ring::digest::{SHA256, digest};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

use super::world::{PASSPHRASE, TOKEN, World, refused};

const NO_BACKUP: &str = "backups/b-20260301t010000z-abcdefgh";
const NO_OPERATION: &str = "operations/018e2f6a-7c00-7000-8000-000000000000";

/// Path of every method of the three services.
fn methods() -> Vec<String> {
    let pool = DescriptorPool::decode(holdfast::grpc::proto::DESCRIPTORS).unwrap();
    let served = ["backup.v1.BackupService", "backup.v1.OperationService", "backup.v1.AuditService", "lock.v1.LockService"];
    let services = served.map(|name| format!("holdfast.{name}")).map(|name| pool.get_service_by_name(&name).unwrap());
    services
        .iter()
        .flat_map(|service| {
            service.methods().map(|method| format!("/{}/{}", service.full_name(), method.name())).collect::<Vec<_>>()
        })
        .collect()
}

/// Calls a method with an empty message.
async fn call(channel: Channel, path: &str, token: Option<&str>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = Request::new(());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token.parse().unwrap());
    }
    let mut answer = client.server_streaming(request, path.parse().unwrap(), ProstCodec::<(), ()>::default()).await?.into_inner();
    while answer.message().await?.is_some() {}
    Ok(())
}

/// Code and reason of a refusal; `refused` holds it to one `ErrorInfo` of our domain.
fn why<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let error = refused(answer.unwrap_err());
    (Code::from(error.code), error.reason)
}

fn because(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_anything_without_the_token_but_health() {
    let world = World::new().await;
    let channel = world.channel().await;
    let reflection = ["v1", "v1alpha"].map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
    let all: Vec<String> = methods().into_iter().chain(reflection).collect();
    assert_eq!(all.len(), 38);
    for path in &all {
        assert_eq!(why(call(channel.clone(), path, None).await), because(Code::Unauthenticated, "CREDENTIALS_MISSING"), "{path}");
        for wrong in ["Bearer not-the-token", &format!("Basic {TOKEN}"), TOKEN, ""] {
            let answer = why(call(channel.clone(), path, Some(wrong)).await);
            assert_eq!(answer, because(Code::Unauthenticated, "CREDENTIALS_INVALID"), "{path} {wrong}");
        }
    }
    let token = format!("Bearer {TOKEN}");
    for path in ["/holdfast.lock.v1.LockService/TakeLock", "/holdfast.backup.v1.BackupService/backup", "/x"] {
        assert_eq!(
            why(call(channel.clone(), path, Some(&token)).await),
            because(Code::PermissionDenied, "PERMISSION_MISSING"),
            "{path}"
        );
    }
    let mut health = HealthClient::new(channel);
    for service in ["", "holdfast.backup.v1.BackupService", "liveness"] {
        super::world::eventually_async(std::time::Duration::from_secs(20), async || {
            let answer = health.clone().check(HealthCheckRequest { service: service.into() }).await.unwrap();
            (answer.into_inner().status() == tonic_health::pb::health_check_response::ServingStatus::Serving).then_some(())
        })
        .await;
    }
    assert!(health.check(HealthCheckRequest { service: "other".into() }).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_the_callers_mistake() {
    let world = World::new().await;
    let mut client = tonic::client::Grpc::new(world.channel().await);
    client.ready().await.unwrap();
    // A string that is a number, and a message that is larger than any may be.
    let malformed = prost_types::Timestamp { seconds: 7, nanos: 7 };
    let mut request = Request::new(malformed);
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let path = "/holdfast.backup.v1.BackupService/GetBackup".parse().unwrap();
    let answer = client.unary::<_, (), _>(request, path, ProstCodec::default()).await;
    assert_eq!(why(answer), because(Code::InvalidArgument, "INVALID_FIELD"));
    let large = GetOperationRequest { name: "x".repeat(300 << 10) };
    assert_eq!(why(world.operations().await.get_operation(large).await), because(Code::InvalidArgument, "INVALID_FIELD"));
    assert!(!world.log().contains("\"ERROR\""), "{}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_and_what_makes_no_sense_is_refused_by_name() {
    let world = World::new().await;
    let (mut backups, mut operations) = (world.backups().await, world.operations().await);
    let not_found = because(Code::NotFound, "BACKUP_NOT_FOUND");
    assert_eq!(why(backups.get_backup(GetBackupRequest { name: NO_BACKUP.into() }).await), not_found);
    assert_eq!(why(backups.delete_backup(DeleteBackupRequest { name: NO_BACKUP.into(), ..Default::default() }).await), not_found);
    assert_eq!(why(backups.restore(RestoreRequest { name: NO_BACKUP.into(), ..Default::default() }).await), not_found);
    assert_eq!(
        why(backups.download_backup(DownloadBackupRequest { name: NO_BACKUP.into(), ..Default::default() }).await),
        not_found
    );
    let not_found = because(Code::NotFound, "OPERATION_NOT_FOUND");
    let name = || NO_OPERATION.to_owned();
    assert_eq!(why(operations.get_operation(GetOperationRequest { name: name() }).await), not_found);
    assert_eq!(why(operations.cancel_operation(CancelOperationRequest { name: name() }).await), not_found);
    assert_eq!(why(operations.wait_operation(WaitOperationRequest { name: name(), ..Default::default() }).await), not_found);
    assert_eq!(why(operations.watch_operation(WatchOperationRequest { name: name(), ..Default::default() }).await), not_found);

    let invalid = because(Code::InvalidArgument, "INVALID_FIELD");
    for name in ["", "backups/", "backups/../x", "b-20260301t010000z-abcdefgh", "backups/b-20260301t010000z-abcdefgh/x"] {
        assert_eq!(why(backups.get_backup(GetBackupRequest { name: name.into() }).await), invalid, "{name}");
    }
    assert_eq!(why(backups.set_encryption(SetEncryptionRequest::default()).await), invalid, "absent is not blank");
    assert_eq!(why(backups.set_schedule(SetScheduleRequest::default()).await), invalid);
    assert_eq!(why(backups.set_retention(SetRetentionRequest::default()).await), invalid);
    assert_eq!(why(backups.backup(BackupRequest { description: "x".repeat(257), ..Default::default() }).await), invalid);
    let weak = SetEncryptionRequest { passphrase: Some("short".into()), ..Default::default() };
    assert_eq!(why(backups.set_encryption(weak).await), because(Code::InvalidArgument, "PASSPHRASE_TOO_WEAK"));
    let stale = SetEncryptionRequest { passphrase: Some(PASSPHRASE.into()), etag: "\"99\"".into() };
    assert_eq!(why(backups.set_encryption(stale).await), because(Code::Aborted, "ETAG_MISMATCH"));
    let bad_token = because(Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    for token in ["x", "626163", "7265736f75726365733a61"] {
        assert_eq!(
            why(backups.list_backups(ListBackupsRequest { page_token: token.into(), ..Default::default() }).await),
            bad_token
        );
        let request = ListOperationsRequest { page_token: token.into(), ..Default::default() };
        assert_eq!(why(operations.list_operations(request).await), bad_token);
    }
    let negative = ListBackupsRequest { page_size: -1, ..Default::default() };
    assert_eq!(why(backups.list_backups(negative).await), invalid);

    let backup = world.backup().await;
    let unknown = RestoreRequest { name: backup.name.clone(), resources: vec!["resources/nothing".into()], ..Default::default() };
    assert_eq!(why(backups.restore(unknown).await), because(Code::NotFound, "RESOURCE_UNKNOWN"));
    let done = backup.operation.clone();
    let late = operations.cancel_operation(CancelOperationRequest { name: done }).await;
    assert!(late.is_ok() || why(late) == because(Code::FailedPrecondition, "OPERATION_NOT_CANCELLABLE"));
    let reused = || BackupRequest { request_id: "once".into(), ..Default::default() };
    let first = backups.backup(reused()).await.unwrap().into_inner();
    assert_eq!(backups.backup(reused()).await.unwrap().into_inner().name, first.name);
    let other = BackupRequest { description: "another".into(), ..reused() };
    assert_eq!(why(backups.backup(other).await), because(Code::InvalidArgument, "REQUEST_ID_REUSED"));
    world.wait(&first.name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_backups_come_in_pages_of_two_each_once_and_newest_first() {
    let world = World::small().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(world.backup().await.name);
    }
    made.reverse();
    let (mut listed, mut pages, mut page_token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = ListBackupsRequest { page_size: 2, page_token };
        let page = world.backups().await.list_backups(request).await.unwrap().into_inner();
        assert_eq!(page.total_size, 7);
        pages.push(page.backups.len());
        for backup in page.backups {
            let got =
                world.backups().await.get_backup(GetBackupRequest { name: backup.name.clone() }).await.unwrap().into_inner();
            assert_eq!(got, backup, "one backup, one answer");
            let place = backup.retention_position.unwrap();
            listed.push(backup.name);
            assert_eq!(place.position as usize, listed.len());
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((listed, pages), (made, vec![2, 2, 2, 1]));
}

/// The bytes of a download; each piece checked where it stands.
async fn download(world: &World, request: DownloadBackupRequest) -> Result<Vec<u8>, Status> {
    let start = request.read_offset;
    let mut messages = world.backups().await.download_backup(request).await?.into_inner();
    let Some(Payload::Header(header)) = messages.message().await?.unwrap().payload else { panic!("no header") };
    let mut bytes = Vec::new();
    while let Some(message) = messages.message().await? {
        let Some(Payload::Chunk(chunk)) = message.payload else { panic!("a second header") };
        assert_eq!(chunk.offset, start + bytes.len() as i64);
        assert_eq!(chunk.crc32c, Some(crc32c::crc32c(&chunk.data)));
        assert!((1..=1 << 20).contains(&chunk.data.len()));
        bytes.extend(chunk.data);
    }
    assert!(start as usize + bytes.len() <= header.size_bytes as usize);
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_the_file_from_any_byte_to_any_byte_and_no_other_file() {
    let world = World::new().await;
    let backup = world.backup().await;
    let file = std::fs::read(world.file(&backup)).unwrap();
    let size = file.len() as i64;
    let request = |read_offset, read_limit| DownloadBackupRequest {
        name: backup.name.clone(),
        read_offset,
        read_limit,
        expected_sha256: backup.sha256.clone(),
    };
    let whole = download(&world, request(0, 0)).await.unwrap();
    assert!(whole == file);
    let sha256: String = digest(&SHA256, &whole).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sha256, backup.sha256);
    for (offset, limit) in [(0, 1), (1, 1), (size - 1, 0), (size - 1, 100), (size, 0), (1000, 5000), (7, i64::MAX)] {
        let end = if limit == 0 { size } else { size.min(offset.saturating_add(limit)) };
        let got = download(&world, request(offset, limit)).await.unwrap();
        assert!(got == file[offset as usize..end as usize], "{offset} {limit}");
    }
    for offset in [size + 1, i64::MAX] {
        assert_eq!(why(download(&world, request(offset, 0)).await), because(Code::OutOfRange, "OFFSET_OUT_OF_RANGE"));
    }
    for (offset, limit) in [(-1, 0), (0, -1)] {
        assert_eq!(why(download(&world, request(offset, limit)).await), because(Code::InvalidArgument, "INVALID_FIELD"));
    }
    let other = DownloadBackupRequest { expected_sha256: "0".repeat(64), ..request(0, 0) };
    assert_eq!(why(download(&world, other).await), because(Code::Aborted, "ETAG_MISMATCH"));
    let other = DownloadBackupRequest { expected_sha256: "no digest".into(), ..request(0, 0) };
    assert_eq!(why(download(&world, other).await), because(Code::InvalidArgument, "INVALID_FIELD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn four_downloads_at_a_time_and_their_places_are_given_back() {
    let mut world = World::without_service().await;
    // More than the windows of a stream and the channel hold, so that nothing ends before somebody reads.
    world.sql("insert into platform.notification_template (event, language, subject, body) select 'load.test', 'x' || i, '', (select string_agg(md5(i || '/' || j), '') from generate_series(1, 4000) as j) from generate_series(1, 60) as i").await;
    world.start().await.unwrap();
    let backup = world.backup().await;
    assert!(backup.size_bytes > 3 << 20, "{}", backup.size_bytes);
    let request = || DownloadBackupRequest { name: backup.name.clone(), ..Default::default() };
    let mut under_way = Vec::new();
    for _ in 0..4 {
        let mut messages = world.backups().await.download_backup(request()).await.unwrap().into_inner();
        messages.message().await.unwrap();
        under_way.push(messages);
    }
    assert_eq!(why(download(&world, request()).await), because(Code::ResourceExhausted, "RATE_LIMITED"));
    let delete = DeleteBackupRequest { name: backup.name.clone(), ..Default::default() };
    assert_eq!(
        why(world.backups().await.delete_backup(delete.clone()).await),
        because(Code::FailedPrecondition, "BACKUP_IN_USE")
    );
    drop(under_way);
    super::world::eventually_async(std::time::Duration::from_secs(20), async || download(&world, request()).await.ok()).await;
    world.backups().await.delete_backup(delete.clone()).await.unwrap();
    assert_eq!(world.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_taken_over_a_connection_that_others_can_read() {
    let mut world = World::without_service().await;
    world.set("HOLDFAST_ALLOW_PLAINTEXT_SECRETS", "false");
    world.start().await.unwrap();
    let backup = world.backup().await;
    let set = SetEncryptionRequest { passphrase: Some(PASSPHRASE.into()), ..Default::default() };
    let not_secure = because(Code::FailedPrecondition, "TRANSPORT_NOT_SECURE");
    assert_eq!(why(world.backups().await.set_encryption(set).await), not_secure);
    let with_secret = RestoreRequest { name: backup.name.clone(), passphrase: PASSPHRASE.into(), ..Default::default() };
    assert_eq!(why(world.backups().await.restore(with_secret).await), not_secure);
    world.restore(&backup, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services_that_are_served_and_no_other() {
    let world = World::new().await;
    let mut client = ServerReflectionClient::with_interceptor(world.channel().await, world.bearer());
    let request =
        ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response else {
        panic!("no list")
    };
    let names: BTreeSet<String> = list.service.into_iter().map(|ServiceResponse { name }| name).collect();
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "holdfast.backup.v1.AuditService",
        "holdfast.backup.v1.BackupService",
        "holdfast.backup.v1.OperationService",
        "holdfast.lock.v1.LockService",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

/// grpcurl, from the PATH or from target/tools, where it is installed when there is a Go tool.
fn grpcurl() -> Option<PathBuf> {
    let runs = |path: &PathBuf| Command::new(path).arg("--version").output().is_ok_and(|output| output.status.success());
    let tools = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools");
    let candidates = [PathBuf::from("grpcurl"), tools.join("grpcurl")];
    if let Some(found) = candidates.iter().find(|path| runs(path)) {
        return Some(found.clone());
    }
    let install = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";
    let mut go = Command::new("go");
    let installed = go.args(["install", install]).env("GOBIN", &tools).output().is_ok_and(|output| output.status.success());
    candidates.into_iter().find(|path| installed && runs(path))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_nobody_here_wrote_finds_its_way_by_reflection() {
    let Some(grpcurl) = tokio::task::spawn_blocking(grpcurl).await.unwrap() else {
        eprintln!("SKIPPED: there is no grpcurl, and no Go tool to install it with");
        return;
    };
    let world = World::new().await;
    let address = world.address().trim_start_matches("http://").to_owned();
    let run = |arguments: &[&str]| -> Output {
        let mut command = Command::new(&grpcurl);
        command.args(["-plaintext", "-H", &format!("authorization: Bearer {TOKEN}")]).args(arguments).stdin(Stdio::null());
        command.output().unwrap()
    };
    let good = |arguments: &[&str]| -> String {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?} {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |arguments: &[&str]| -> serde_json::Value { serde_json::from_str(&good(arguments)).unwrap() };
    const BACKUPS: &str = "holdfast.backup.v1.BackupService";
    const OPERATIONS: &str = "holdfast.backup.v1.OperationService";

    assert!(good(&[&address, "list"]).lines().any(|line| line == BACKUPS));
    let described = good(&[&address, "describe", BACKUPS]);
    assert!(described.contains("rpc Restore ( .holdfast.backup.v1.RestoreRequest )"), "{described}");
    assert!(good(&[&address, "describe", ".holdfast.backup.v1.RestoreRequest"]).contains("string passphrase = 2"));
    let started = json(&["-d", r#"{"description":"by grpcurl"}"#, &address, &format!("{BACKUPS}/Backup")]);
    let name = started["name"].as_str().unwrap();
    let watched = good(&["-d", &format!(r#"{{"name":"{name}"}}"#), &address, &format!("{OPERATIONS}/WatchOperation")]);
    let states: Vec<_> =
        serde_json::Deserializer::from_str(&watched).into_iter::<serde_json::Value>().map(Result::unwrap).collect();
    let last = states.last().unwrap();
    assert_eq!((&last["done"], &last["metadata"]["phase"]), (&true.into(), &"OPERATION_PHASE_DONE".into()));
    let backup = last["backup"]["backup"]["name"].as_str().unwrap();
    assert_eq!(json(&[&address, &format!("{BACKUPS}/ListBackups")])["backups"][0]["description"], "by grpcurl");

    // A failed call: exit code 64 + code, and details that are shown in words.
    let bad = run(&["-d", &format!(r#"{{"name":"{NO_BACKUP}"}}"#), &address, &format!("{BACKUPS}/GetBackup")]);
    let said = String::from_utf8_lossy(&bad.stderr);
    assert_eq!(bad.status.code(), Some(64 + 5), "{said}");
    assert!(said.contains("google.rpc.ErrorInfo") && said.contains("BACKUP_NOT_FOUND") && said.contains(NO_BACKUP), "{said}");

    // A failed operation, as the status of the call that waits for it.
    world.begin_update().await;
    let waits = format!(r#"{{"name":"{backup}","lockWait":"60s"}}"#);
    let restore = json(&["-d", &waits, &address, &format!("{BACKUPS}/Restore")]);
    let name = restore["name"].as_str().unwrap();
    good(&["-d", &format!(r#"{{"name":"{name}"}}"#), &address, &format!("{OPERATIONS}/CancelOperation")]);
    for method in ["WaitOperation", "WatchOperation"] {
        let failed =
            run(&["-d", &format!(r#"{{"name":"{name}","error_as_status":true}}"#), &address, &format!("{OPERATIONS}/{method}")]);
        let said = String::from_utf8_lossy(&failed.stderr);
        assert_eq!(failed.status.code(), Some(64 + 1), "{method}: {said}");
        assert!(said.contains("CANCELLED_BY_CALLER"), "{said}");
    }
    let anonymous = Command::new(&grpcurl).args(["-plaintext", &address, "list"]).output().unwrap();
    assert!(!anonymous.status.success());
}
