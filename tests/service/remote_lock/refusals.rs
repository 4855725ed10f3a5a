//! At the start of an operation the lock service is away, refuses, or answers what it must not: nothing begins.

use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::{Backup, BackupRequest};
use holdfast::grpc::proto::lock::LockLease;
use prost::Message;
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::super::tls::Certified;
use super::super::update_service::{ADMINISTRATOR, Fault, HOLDFAST, LOCK};
use super::super::world::{eventually_async, refused};
use super::super::zoo::all_of;
use super::Site;

const UNAVAILABLE: (&str, Code) = ("LOCK_SERVICE_UNAVAILABLE", Code::Unavailable);
const UNUSABLE: (&str, Code) = ("LOCK_SERVICE_UNUSABLE", Code::FailedPrecondition);

impl Site {
    /// A backup and a restore, both at once.
    async fn refusals(&self, backup: &Backup, why: &str) -> [Status; 2] {
        let (mut one, mut other) = (self.world.backups().await, self.world.backups().await);
        let refused = tokio::join!(one.backup(BackupRequest::default()), other.restore(all_of(backup)));
        [refused.0.expect_err(why), refused.1.expect_err(why)]
    }

    /// Both are refused for this, within what a caller may be made to wait, and leave no trace.
    async fn begins_nothing(&self, backup: &Backup, (reason, code): (&str, Code), why: &str) {
        let traces = async || {
            let operations = self.world.value("select count(*) from holdfast.operation").await;
            (operations, self.world.digests(), self.world.files(), self.world.drafts())
        };
        let before = traces().await;
        let began = Instant::now();
        let (refusals, obstacle) = tokio::join!(self.refusals(backup, why), self.obstacle());
        for status in refusals {
            let retry = status.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some());
            assert_eq!(status.code(), code, "{why}: {status:?}");
            assert_eq!(retry, code == Code::Unavailable, "{why}: {status:?}");
            assert_eq!(refused(status).reason, reason, "{why}");
        }
        assert!(began.elapsed() < Duration::from_secs(12), "{why}: {:?}", began.elapsed());
        assert_eq!(obstacle.reason, reason, "{why}");
        assert_eq!(traces().await, before, "{why}");
        assert!(!self.world.log().contains("panicked"), "{why}\n{}", self.world.log());
    }
}

/// Somebody at a port of this machine, whose connections `meet` ends as it likes.
async fn somebody<Met: Future<Output = ()> + Send>(meet: impl Fn(tokio::net::TcpStream) -> Met + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            meet(stream).await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn l03_without_a_lock_service_the_service_starts_and_serves_and_no_backup_or_restore_begins() {
    let mut site = Site::new().await;
    let backup = site.damaged().await;
    let resets = somebody(async |stream| stream.set_zero_linger().unwrap()).await;
    let acceptor = Certified::new(site.world.dir.path(), &["h2"]).acceptor;
    // Nobody this service knows vouches for the certificate, so its side ends the handshake.
    let unknown = somebody(move |stream| {
        let acceptor = acceptor.clone();
        async move { assert!(acceptor.accept(stream).await.is_err()) }
    })
    .await;
    let plain = site.host.endpoint();
    for (why, endpoint, fault) in [
        ("a port that is closed", plain.clone(), Fault::Dead),
        ("a black hole", plain.clone(), Fault::BlackHole),
        ("a reset", format!("http://127.0.0.1:{resets}"), Fault::None),
        ("no TLS there", plain.replace("http", "https"), Fault::None),
        ("an unknown authority", format!("https://localhost:{unknown}"), Fault::None),
        ("no such name", "https://lock.invalid:443".to_owned(), Fault::None),
    ] {
        site.host.set(fault).await;
        site.world.kill();
        site.world.set("HOLDFAST_LOCK__ENDPOINT", &endpoint);
        site.world.start().await.expect(why);
        site.world.becomes_ready(true).await;
        assert_eq!(site.world.listed().await.len(), 1, "{why}");
        site.begins_nothing(&backup, UNAVAILABLE, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l16_a_connection_that_has_become_a_black_hole_is_noticed_and_left() {
    let site = Site::new().await;
    let backup = site.damaged().await;
    site.host.set(Fault::BlackHole).await;
    site.begins_nothing(&backup, UNAVAILABLE, "a black hole on an established connection").await;
    site.host.set(Fault::None).await;
    eventually_async(super::A_MINUTE, async || site.world.try_backup(BackupRequest::default()).await.ok()).await;
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l17_a_lock_service_that_refuses_or_makes_no_sense_grants_nothing() {
    let mut site = Site::new().await;
    let backup = site.damaged().await;
    for fault in [Fault::NotGrpc, Fault::WrongTypes, Fault::Nonsense, Fault::Huge, Fault::PermissionDenied, Fault::Unimplemented]
    {
        site.host.set(fault).await;
        site.begins_nothing(&backup, UNUSABLE, &format!("{fault:?}")).await;
    }
    site.host.set(Fault::NotHttp2).await;
    for status in site.refusals(&backup, "NotHttp2").await {
        let reason = refused(status).reason;
        assert!([UNAVAILABLE.0, UNUSABLE.0].contains(&reason.as_str()), "{reason}");
    }
    site.host.set(Fault::None).await;
    site.world.restore(&backup, "").await.unwrap();
    site.is_tidy().await;

    std::fs::write(site.world.dir.path().join("lock-token"), "nobody-knows-this-token").unwrap();
    site.world.kill();
    site.world.start().await.unwrap();
    site.begins_nothing(&backup, UNUSABLE, "a token that nobody knows").await;
    assert!(!site.world.log().contains("nobody-knows-this-token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn l17_a_lease_that_cannot_be_is_none() {
    let site = Site::new().await;
    let backup = site.damaged().await;
    let ttl = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let lease = LockLease {
        lock: LOCK.into(),
        lease_id: "0123456789abcdef0123456789abcdef".into(),
        fencing_token: 1_000,
        ttl: ttl(30, 0),
        ..Default::default()
    };
    let odd = [
        LockLease::default(),
        LockLease { ttl: None, ..lease.clone() },
        LockLease { ttl: ttl(0, 0), ..lease.clone() },
        LockLease { ttl: ttl(-30, 0), ..lease.clone() },
        LockLease { ttl: ttl(9, 999_999_999), ..lease.clone() },
        LockLease { ttl: ttl(3 * 365 * 86_400, 0), ..lease.clone() },
        LockLease { ttl: ttl(i64::MAX, i32::MAX), ..lease.clone() },
        LockLease { fencing_token: 0, ..lease.clone() },
        LockLease { fencing_token: i64::MIN, ..lease.clone() },
        LockLease { lease_id: String::new(), ..lease.clone() },
        LockLease { lease_id: "x".repeat(32), ..lease.clone() },
        LockLease { lock: "locks/another".into(), ..lease.clone() },
        LockLease { lock: String::new(), ..lease.clone() },
    ];
    let before = site.world.value("select count(*) from holdfast.operation").await;
    for odd in odd {
        let why = format!("{odd:?}");
        site.host.set(Fault::Grants(odd.encode_to_vec().leak())).await;
        for status in site.refusals(&backup, &why).await {
            assert_eq!((status.code(), refused(status).reason.as_str()), (UNUSABLE.1, UNUSABLE.0), "{why}");
        }
    }
    assert_eq!(site.world.value("select count(*) from holdfast.operation").await, before);
    // The same lease without a fault is one: it is the fault that was refused.
    site.host.set(Fault::Grants(lease.encode_to_vec().leak())).await;
    site.world.restore(&backup, "").await.unwrap();
    site.host.set(Fault::None).await;
    site.is_tidy().await;
    for secret in [HOLDFAST.token, ADMINISTRATOR.token, &lease.lease_id] {
        assert!(!site.world.log().contains(secret));
    }
}
