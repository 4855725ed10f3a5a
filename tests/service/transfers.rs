//! Downloads that are slow, stall, break off and are taken up again: the bytes are those of the file, and nobody else waits.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use holdfast::grpc::proto::backup::download_backup_response::Payload;
use holdfast::grpc::proto::backup::{Backup, DownloadBackupRequest, DownloadBackupResponse, Retention, SetRetentionRequest};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::world::{BINARY, TOKEN, World, eventually_async, refused, rounds, sha256};

/// Numbers that are different and the same in each run (Knuth, MMIX).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

impl World {
    async fn download(
        &self,
        backup: &Backup,
        read_offset: u64,
        read_limit: u64,
    ) -> Result<Streaming<DownloadBackupResponse>, Status> {
        let (read_offset, read_limit) = (read_offset.try_into().unwrap(), read_limit.try_into().unwrap());
        let request =
            DownloadBackupRequest { name: backup.name.clone(), read_offset, read_limit, expected_sha256: backup.sha256.clone() };
        Ok(self.backups().await.download_backup(request).await?.into_inner())
    }
}

/// The rest of a download, and where it began.
async fn rest(messages: &mut Streaming<DownloadBackupResponse>) -> Result<(Option<i64>, Vec<u8>), Status> {
    let (mut at, mut bytes) = (None, Vec::new());
    while let Some(message) = messages.message().await? {
        if let Some(Payload::Chunk(chunk)) = message.payload {
            at = at.or(Some(chunk.offset));
            bytes.extend_from_slice(&chunk.data);
        }
    }
    Ok((at, bytes))
}

/// A way to the service on which each connection is cut after so many bytes of requests, or of answers; so many were.
pub async fn cutting(address: String, mut limits: impl FnMut() -> (u64, u64) + Send + 'static) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, cuts) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let counted = cuts.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let ((asked, told), address, cuts) = (limits(), address.clone(), counted.clone());
            tokio::spawn(async move {
                let server = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let cut = tokio::select! {
                    cut = pass(from_client, to_server, asked) => cut,
                    cut = pass(from_server, to_client, told) => cut,
                };
                cuts.fetch_add(u32::from(cut), Ordering::Relaxed);
            });
        }
    });
    (format!("http://127.0.0.1:{port}"), cuts)
}

/// Whether there was more than `limit`.
async fn pass(from: OwnedReadHalf, mut to: OwnedWriteHalf, limit: u64) -> bool {
    matches!(tokio::io::copy(&mut from.take(limit), &mut to).await, Ok(passed) if passed == limit)
}

/// A backup of more than 3 MiB: it does not compress.
pub async fn world_of_many_pieces() -> (World, Backup) {
    let mut world = World::without_service().await;
    world.sql("insert into platform.notification_template (event, language, subject, body) select 'load.test', 'x' || i, '', (select string_agg(md5(i || '/' || j), '') from generate_series(1, 4000) as j) from generate_series(1, 60) as i").await;
    world.start().await.unwrap();
    let backup = world.backup().await;
    assert!(backup.size_bytes > 3 << 20, "{}", backup.size_bytes);
    (world, backup)
}

async fn save(endpoint: String, backup: &Backup, to: &Path) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["download", &backup.name, "--output"]).arg(to).env_clear();
    command.env("HOLDFAST_ENDPOINT", endpoint).env("HOLDFAST_TOKEN", TOKEN);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_a_download_that_is_cut_anywhere_is_continued_and_never_mixed_up() {
    let (world, backup) = world_of_many_pieces().await;
    let file = std::fs::read(world.file(&backup)).unwrap();
    let size = file.len() as u64;
    let mut chance = Chance(16);
    for _ in 0..rounds(50, 1000) {
        let (offset, limit) = (chance.below(size), chance.below(size / 4) + 1);
        let end = usize::try_from((offset + limit).min(size)).unwrap();
        let mut messages = world.download(&backup, offset, limit).await.unwrap();
        let (at, bytes) = rest(&mut messages).await.unwrap();
        assert!(at == Some(offset as i64) && bytes == file[usize::try_from(offset).unwrap()..end], "{offset} {limit}");
    }
    let away = tempfile::tempdir().unwrap();
    for round in 0..rounds(4, 100) {
        let length = usize::try_from(chance.below(size)).unwrap();
        let to = away.path().join(round.to_string());
        std::fs::write(to.with_extension("part"), &file[..length]).unwrap();
        let output = save(world.address(), &backup, &to).await;
        assert!(output.status.success() && std::fs::read(&to).unwrap() == file, "from {length}: {output:?}");
    }
    for round in 0..rounds(1, 20) {
        // A piece, the first answers, and a part of another piece.
        let mut chance = Chance(round.into());
        let limits = move || (u64::MAX, (300 << 10) + chance.below(600 << 10));
        let (endpoint, cuts) = cutting(world.address(), limits).await;
        let to = away.path().join(format!("cut-{round}"));
        let output = save(endpoint, &backup, &to).await;
        assert!(output.status.success() && std::fs::read(&to).unwrap() == file, "{output:?}");
        assert!(cuts.load(Ordering::Relaxed) >= 3, "{cuts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f24_offsets_beyond_4_gib_are_those_of_the_file() {
    const SIZE: u64 = (5 << 30) + 12_345;
    const PLACE: u64 = (4 << 30) - 7;
    let world = World::small().await;
    world.backup().await;
    // A file with holes; nobody waits for the SHA-256 of 5 GiB.
    let name = format!("20260301T010000Z-abcdefgh-{}.tar.zst", "0".repeat(32));
    let file = File::create(world.folder().join(&name)).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(b"across the line", PLACE).unwrap();
    file.write_all_at(b"the end", SIZE - 7).unwrap();
    let insert = format!(
        "insert into holdfast.backup (id, state, body) select 'b-20260301t010000z-abcdefgh', 'ready', body || jsonb_build_object(
             'id', 'b-20260301t010000z-abcdefgh', 'operation', null, 'file_name', '{name}', 'size_bytes', {SIZE}, 'sha256', '{}')
         from holdfast.backup",
        "0".repeat(64)
    );
    world.sql_as_superuser(&insert).await;
    let large = world.listed().await.into_iter().find(|backup| backup.file_name == name).unwrap();
    assert_eq!(large.size_bytes as u64, SIZE);
    for (offset, limit, wanted) in [
        (PLACE, 15, &b"across the line"[..]),
        (PLACE + 7, 8, b"the line"),
        (SIZE - 7, 0, b"the end"),
        (SIZE - 3, 1 << 40, b"end"),
        (SIZE, 0, b""),
    ] {
        let mut messages = world.download(&large, offset, limit).await.unwrap();
        let Some(Payload::Header(header)) = messages.message().await.unwrap().unwrap().payload else { panic!("no header") };
        assert_eq!(header.size_bytes as u64, SIZE);
        let (at, bytes) = rest(&mut messages).await.unwrap();
        assert_eq!((at.map_or(offset, |at| at as u64), bytes.as_slice()), (offset, wanted));
    }
    let error = refused(world.download(&large, SIZE + 1, 0).await.unwrap_err());
    assert_eq!((error.reason.as_str(), error.metadata["sizeBytes"].clone()), ("OFFSET_OUT_OF_RANGE", SIZE.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_a_slow_reader_gets_its_file_while_others_are_made_and_given_up() {
    let world = World::new().await;
    world.grow().await;
    let retention = Some(Retention { max_count: 1, ..Default::default() });
    world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
    let read = world.backup().await;
    world.sql("delete from platform.license where product = 'bulk'").await;
    let mut messages = world.download(&read, 0, 0).await.unwrap();
    let mut bytes = Vec::new();
    for _ in 0..rounds(8, 40) {
        let newest = world.backup().await;
        // A piece in the time of a backup.
        if let Some(Payload::Chunk(chunk)) = messages.message().await.unwrap().unwrap().payload {
            bytes.extend_from_slice(&chunk.data);
        }
        let listed: Vec<String> = world.listed().await.into_iter().map(|backup| backup.name).collect();
        assert_eq!(listed, [newest.name, read.name.clone()]);
    }
    // No transaction is open meanwhile, and no lock.
    let open = "select count(*) from pg_stat_activity where datname = current_database() and usename like 'holdfast%' and state like 'idle in%'";
    world.becomes(open, "0", Duration::from_secs(10)).await;
    bytes.extend(rest(&mut messages).await.unwrap().1);
    assert_eq!(sha256(&bytes), read.sha256);
    drop(messages);
    // The next one takes it.
    let newest = world.backup().await;
    assert_eq!(world.listed().await.into_iter().map(|backup| backup.name).collect::<Vec<_>>(), [newest.name]);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p06_readers_that_stall_lose_their_places_and_others_are_refused_at_once_meanwhile() {
    let mut world = World::with(&[("HOLDFAST_LIMITS__TRANSFER_PATIENCE", "10m")]).await;
    world.grow().await;
    let backup = world.backup().await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(world.download(&backup, 0, 0).await.unwrap());
    }
    for _ in 0..rounds(40, 200) {
        let status = world.download(&backup, 0, 0).await.unwrap_err();
        assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
        let error = refused(status);
        assert_eq!((error.reason.as_str(), error.code), ("RATE_LIMITED", Code::ResourceExhausted.into()));
    }
    world.backup().await;
    assert!(world.ready().await);
    drop(stalled);

    world.terminate().await;
    world.set("HOLDFAST_LIMITS__TRANSFER_PATIENCE", "2s");
    world.start().await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(world.download(&backup, 0, 0).await.unwrap());
    }
    // They are still there, and read nothing.
    eventually_async(Duration::from_secs(60), async || world.download(&backup, 0, 1000).await.ok()).await;
    let request = holdfast::grpc::proto::backup::DeleteBackupRequest { name: backup.name.clone(), ..Default::default() };
    eventually_async(Duration::from_secs(60), async || world.backups().await.delete_backup(request.clone()).await.ok()).await;
    for mut messages in stalled {
        let error = refused(rest(&mut messages).await.unwrap_err());
        assert_eq!((error.reason.as_str(), error.code), ("TRANSFER_TIMED_OUT", Code::DeadlineExceeded.into()), "{error:?}");
    }
}
