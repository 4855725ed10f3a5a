//! Callers who take all they can get: others are served all the same.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::backup_service_client::BackupServiceClient;
use holdfast::grpc::proto::backup::operation_service_client::OperationServiceClient;
use holdfast::grpc::proto::backup::{ListBackupsRequest, WaitOperationRequest, WatchOperationRequest};
use tonic::Code;
use tonic::service::interceptor::InterceptedService;

use super::tls::Authority;
use super::world::{Bearer, TOKEN, UPDATE_TOKEN, World, eventually_async, refused};

/// What a client of HTTP/2 sends before anything else, and settings that are those of the protocol.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call with a token, as literals without an index (RFC 7541, 6.2.2).
fn headers(path: &str, token: &str) -> Vec<u8> {
    let authorization = format!("Bearer {token}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &authorization),
    ];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// How long somebody who is nobody's enemy waits for his calls. Other tests are at work too, so the best of three counts.
async fn p99_of_another(world: &World, calls: u32) -> Duration {
    let mut other = BackupServiceClient::new(InterceptedService::new(world.channel().await, Bearer::of(UPDATE_TOKEN)));
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let mut times = Vec::new();
        for _ in 0..calls {
            let start = Instant::now();
            other.list_backups(ListBackupsRequest::default()).await.unwrap();
            times.push(start.elapsed());
        }
        times.sort_unstable();
        best = best.min(times[(times.len() - 1) * 99 / 100]);
    }
    best
}

/// The update-service may list, so that it is another caller.
async fn world() -> World {
    World::with(&[("HOLDFAST_AUTH__ROLE_BINDINGS", "token:update-service=monitoring")]).await
}

fn socket(world: &World) -> SocketAddr {
    world.address().trim_start_matches("http://").parse().unwrap()
}

/// Whether the other end closes a connection within this time.
fn is_closed(stream: &mut TcpStream, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let mut bytes = [0; 4096];
    loop {
        stream.set_read_timeout(Some(end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))).unwrap();
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => return false,
            Err(_) => return true,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p07_hundreds_of_watches_and_waits_of_one_caller_keep_no_other_from_listing() {
    let world = world().await;
    let session = world.lock_table("access exclusive").await;
    let operation = world.begin_backup().await;
    let mut open = Vec::new();
    let mut refusals = 0;
    // 100 a connection.
    let mut abusers = Vec::new();
    for _ in 0..6 {
        abusers.push(OperationServiceClient::new(InterceptedService::new(world.channel().await, Bearer::of(TOKEN))));
    }
    for number in 0..400 {
        let mut abuser = abusers[number / 70].clone();
        if number % 2 == 0 {
            match abuser.watch_operation(WatchOperationRequest { name: operation.clone(), ..Default::default() }).await {
                Ok(stream) => open.push(stream.into_inner()),
                Err(status) => {
                    assert_eq!(refused(status).reason, "RATE_LIMITED");
                    refusals += 1;
                }
            }
        } else {
            let timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
            let request = WaitOperationRequest { name: operation.clone(), timeout, ..Default::default() };
            tokio::spawn(async move { abuser.wait_operation(request).await.map(|_| ()) });
        }
    }
    assert!(refusals > 0, "one caller got everything");
    let p99 = p99_of_another(&world, 200).await;
    eprintln!("{} watches, {refusals} refused; p99 of another: {p99:?}", open.len());
    assert!(p99 < Duration::from_secs(1), "{p99:?}");
    // Another may watch as well.
    let mut other = OperationServiceClient::new(InterceptedService::new(world.channel().await, Bearer::of(UPDATE_TOKEN)));
    other.watch_operation(WatchOperationRequest { name: operation.clone(), ..Default::default() }).await.unwrap();
    drop((open, abusers, session));
    eventually_async(Duration::from_secs(30), async || {
        world.backups().await.list_backups(ListBackupsRequest::default()).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p07_calls_whose_message_never_comes_keep_no_other_from_listing() {
    let world = world().await;
    let block = headers("/holdfast.backup.v1.BackupService/ListBackups", TOKEN);
    // END_HEADERS, and no end of the stream.
    let begin = |stream: &mut TcpStream, number: u32| stream.write_all(&frame(1, 4, 2 * number + 1, &block)).unwrap();
    let mut stalled = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(socket(&world)).unwrap();
        stream.write_all(GREETING).unwrap();
        (0..80).for_each(|number| begin(&mut stream, number));
        stalled.push(stream);
    }
    // Until they have arrived. Whoever asks may have had the last place itself then: one more takes it.
    let mut next = 80;
    eventually_async(Duration::from_secs(30), async || {
        match world.backups().await.list_backups(ListBackupsRequest::default()).await {
            Err(status) => (status.code() == Code::ResourceExhausted).then_some(()),
            Ok(_) => {
                begin(&mut stalled[4], next);
                next += 1;
                None
            }
        }
    })
    .await;
    let p99 = p99_of_another(&world, 100).await;
    eprintln!("400 calls without a message; p99 of another: {p99:?}");
    assert!(p99 < Duration::from_secs(1), "{p99:?}");
    drop(stalled);
    eventually_async(Duration::from_secs(30), async || {
        world.backups().await.list_backups(ListBackupsRequest::default()).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_those_who_connect_and_say_nothing_or_nonsense_hold_nobody_up() {
    for tls in [false, true] {
        let mut world = World::without_service().await;
        let authority = Authority::new(&world.dir.path().join("authority"));
        if tls {
            world.with_tls(&authority);
        }
        world.set("HOLDFAST_AUTH__ROLE_BINDINGS", "token:update-service=monitoring");
        // More come than it may have open.
        world.run_by(&["prlimit", "--nofile=256:256"]);
        world.start().await.unwrap();
        let junk: [&[u8]; 5] =
            [b"", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HT", b"\0\0\0\0"];
        let mut open = Vec::new();
        for number in 0..500 {
            let mut stream = TcpStream::connect_timeout(&socket(&world), Duration::from_secs(10)).unwrap();
            let _ = stream.write_all(junk[number % junk.len()]);
            open.push(stream);
        }
        let connect = async || {
            if tls { world.secure(&authority.certificate, None).await.ok() } else { Some(world.channel().await) }
        };
        let start = Instant::now();
        let channel = eventually_async(Duration::from_secs(20), connect).await;
        let mut other = BackupServiceClient::new(InterceptedService::new(channel, Bearer::of(UPDATE_TOKEN)));
        eventually_async(Duration::from_secs(20), async || other.list_backups(ListBackupsRequest::default()).await.ok()).await;
        eprintln!("500 connections of nonsense, TLS {tls}: another was served after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        // They are let go, and nobody else is.
        let silent = tokio::task::spawn_blocking(move || is_closed(&mut open.swap_remove(495), Duration::from_secs(60)));
        assert!(silent.await.unwrap());
        other.list_backups(ListBackupsRequest::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_connections_that_nobody_is_known_by_give_way_to_others() {
    let mut world = World::without_service().await;
    world.set("HOLDFAST_AUTH__ROLE_BINDINGS", "token:update-service=monitoring");
    // 64 connections.
    world.run_by(&["prlimit", "--nofile=256:256"]);
    world.start().await.unwrap();
    let known = world.channel().await;
    let mut known = BackupServiceClient::new(InterceptedService::new(known, Bearer::of(UPDATE_TOKEN)));
    known.list_backups(ListBackupsRequest::default()).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(socket(&world)).unwrap();
        stream.write_all(GREETING).unwrap();
        open.push(stream);
    }
    let mut oldest = open.swap_remove(0);
    assert!(tokio::task::spawn_blocking(move || is_closed(&mut oldest, Duration::from_secs(10))).await.unwrap());
    let mut other = BackupServiceClient::new(InterceptedService::new(world.channel().await, Bearer::of(TOKEN)));
    other.list_backups(ListBackupsRequest::default()).await.unwrap();
    known.list_backups(ListBackupsRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p08_whoever_resets_streams_all_the_time_loses_the_connection_and_nobody_else_waits() {
    let world = world().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (at, stopped) = (socket(&world), stop.clone());
    let abuser = tokio::task::spawn_blocking(move || {
        let (mut ended, block) = (0, headers("/holdfast.backup.v1.BackupService/ListBackups", TOKEN));
        while !stopped.load(Ordering::Relaxed) {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(GREETING).unwrap();
            let burst: Vec<u8> = (0..100)
                .flat_map(|number| [frame(1, 4, 2 * number + 1, &block), frame(3, 0, 2 * number + 1, &[0, 0, 0, 8])].concat())
                .collect();
            // It is cut off in the middle, or soon after.
            let _ = stream.write_all(&burst);
            ended += u32::from(is_closed(&mut stream, Duration::from_secs(2)));
        }
        ended
    });
    let p99 = p99_of_another(&world, 200).await;
    stop.store(true, Ordering::Relaxed);
    let ended = abuser.await.unwrap();
    eprintln!("rapid resets: {ended} connections ended; p99 of another: {p99:?}");
    assert!(ended > 0 && p99 < Duration::from_secs(1), "{p99:?}");
}
