//! The webhook: every event at least once, in order, signed; and nobody else feels how the receiver is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast::grpc::proto::backup::{Backup, RestoreRequest, Retention, SetRetentionRequest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::tls::Certified;
use super::world::{PASSPHRASE, World, eventually_async};

const SECRET: &str = "whsec_aG9sZGZhc3Qgd2ViaG9vayB0ZXN0IGtleSAwMTIz";
const PATIENCE: Duration = Duration::from_secs(90);

/// What the receiver does with a request that it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    Refuses,
    Redirects,
    Garbles,
    HangsUp,
    /// Answers nothing until its mood is another.
    Stalls,
}

/// One request, as it came.
#[derive(Debug, Clone)]
struct Delivery {
    headers: BTreeMap<String, String>,
    body: String,
    taken: bool,
}

impl Delivery {
    fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    fn event(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A receiver on this machine.
#[derive(Clone)]
struct Receiver {
    port: u16,
    mood: Arc<Mutex<Mood>>,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
}

impl Receiver {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = Self { port, mood: Arc::new(Mutex::new(Mood::Takes)), deliveries: Arc::default() };
        let answering = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (receiver, tls) = (answering.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => receiver.answer(stream).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => receiver.answer(stream).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        receiver
    }

    /// `None`: the sender went away.
    async fn answer(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let mut read = Vec::new();
        let head = loop {
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).await.ok().filter(|length| *length > 0)?;
            read.extend(&piece[..length]);
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
        };
        let text = String::from_utf8(read[..head].to_vec()).unwrap();
        let mut lines = text.split("\r\n");
        assert_eq!(lines.next(), Some("POST /hook?tenant=7 HTTP/1.1"));
        let headers: BTreeMap<String, String> =
            lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let mut body = read.split_off(head + 4);
        let length: usize = headers["content-length"].parse().unwrap();
        while body.len() < length {
            let mut piece = [0; 4096];
            let got = stream.read(&mut piece).await.ok().filter(|got| *got > 0)?;
            body.extend(&piece[..got]);
        }
        let mood = *self.mood.lock().unwrap();
        let delivery = Delivery { headers, body: String::from_utf8(body).unwrap(), taken: mood == Mood::Takes };
        self.deliveries.lock().unwrap().push(delivery);
        let answer: &[u8] = match mood {
            Mood::Takes => b"HTTP/1.1 204 No Content\r\n\r\n",
            Mood::Refuses => b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
            Mood::Redirects => b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
            Mood::Garbles => b"\x16\x03\x01 no HTTP at all \r\n\r\n\r\n",
            Mood::HangsUp => return None,
            Mood::Stalls => {
                while *self.mood.lock().unwrap() == Mood::Stalls {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                return None;
            }
        };
        stream.write_all(answer).await.ok()?;
        stream.shutdown().await.ok()
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn all(&self) -> Vec<Delivery> {
        self.deliveries.lock().unwrap().clone()
    }

    /// Types of the events that it has taken, each once, in the order in which they first came.
    fn taken(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let first = self.all().into_iter().filter(|delivery| delivery.taken && seen.insert(delivery.id().to_owned()));
        first.map(|delivery| delivery.event()["type"].as_str().unwrap().to_owned()).collect()
    }

    /// A world whose service tells this receiver; it is not started yet.
    async fn world(&self, scheme: &str) -> World {
        let mut world = World::without_service().await;
        std::fs::write(world.dir.path().join("webhook-secret"), SECRET).unwrap();
        let secret = world.dir.path().join("webhook-secret").display().to_string();
        world.set("HOLDFAST_WEBHOOK_URL", &format!("{scheme}://localhost:{}/hook?tenant=7", self.port));
        world.set("HOLDFAST_WEBHOOK_SECRET_FILE", &secret);
        world
    }

    /// Waits until it has taken all events that there are, and checks them against the database: none is missing, none is
    /// new, and they came in their order.
    async fn is_up_to_date(&self, world: &World) {
        // Those of the lock come with every operation, and not every receiver here asks for them.
        let written =
            "select coalesce(string_agg(id::text, ' ' order by number), '') from holdfast.event where type not like 'lock.%'";
        let of_lock =
            |delivery: &Delivery| delivery.event()["type"].as_str().is_some_and(|kind| kind.starts_with("holdfast.lock."));
        let unnumbered = "select count(*) from holdfast.event where number is null";
        eventually_async(PATIENCE, async || {
            let expected = world.value(written).await;
            let mut seen = BTreeSet::new();
            let ids: Vec<String> = self
                .all()
                .iter()
                .filter(|delivery| delivery.taken && !of_lock(delivery))
                .map(|delivery| delivery.id().to_owned())
                .collect();
            let once: Vec<String> = ids.into_iter().filter(|id| seen.insert(id.clone())).collect();
            (once.join(" ") == expected && world.value(unnumbered).await == "0").then_some(())
        })
        .await;
    }
}

/// Waits until this process is the one that delivers.
async fn delivers(world: &World) {
    world.becomes("select count(*) from holdfast.delivery", "1", PATIENCE).await;
}

async fn keep(world: &World, max_count: i32) {
    let retention = Retention { max_count, ..Default::default() };
    world.backups().await.set_retention(SetRetentionRequest { retention: Some(retention) }).await.unwrap();
}

async fn restore(world: &World, backup: &Backup, passphrase: &str) {
    let passphrase = passphrase.to_owned();
    let request = RestoreRequest { name: backup.name.clone(), passphrase, skip_safety_backup: true, ..Default::default() };
    world.try_restore(request).await.unwrap();
}

/// What Python makes of a delivery: the signature, with the secret as it stands in the file.
fn python_signature(delivery: &Delivery) -> String {
    let script = "import base64, hashlib, hmac, sys
secret, id, time = sys.argv[1:]
body = sys.stdin.buffer.read()
key = base64.b64decode(secret.removeprefix('whsec_'))
print('v1,' + base64.b64encode(hmac.new(key, f'{id}.{time}.'.encode() + body, hashlib.sha256).digest()).decode())";
    let mut command = Command::new("python3");
    command.args(["-c", script, SECRET, delivery.id(), &delivery.headers["webhook-timestamp"]]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(delivery.body.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_a_signed_cloud_event_and_has_no_secret_in_it() {
    let receiver = Receiver::start(None).await;
    let mut world = receiver.world("http").await;
    world.set("HOLDFAST_WEBHOOK_TYPES", "encryption.*,backup.*,restore.*");
    world.start().await.unwrap();
    world.install_adapter_types().await;
    delivers(&world).await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    world.sql("update platform.license set issued_to = 'nobody'").await;
    restore(&world, &backup, PASSPHRASE).await;
    receiver.is_up_to_date(&world).await;

    let kinds = ["encryption.changed", "backup.started", "backup.completed", "restore.started", "restore.completed"];
    assert_eq!(receiver.taken(), kinds.map(|kind| format!("holdfast.{kind}")));
    let system = world.value("select system_id from holdfast.system").await;
    for delivery in receiver.all() {
        assert_eq!(delivery.headers["webhook-signature"], python_signature(&delivery));
        assert_eq!(delivery.headers["content-type"], "application/cloudevents+json");
        let event = delivery.event();
        assert_eq!((event["specversion"].as_str(), event["id"].as_str()), (Some("1.0"), Some(delivery.id())));
        assert_eq!(event["source"], format!("urn:uuid:{system}"));
        assert!(event["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(event["data"]["actor"]["principal"], "token:static");
        assert_eq!(event["type"].as_str().unwrap(), format!("holdfast.{}", event["data"]["type"].as_str().unwrap()));
        assert!(!delivery.body.contains(PASSPHRASE));
    }
    assert_eq!(receiver.all()[4].event()["subject"], backup.name);
    let key = SECRET.trim_start_matches("whsec_");
    assert!(!world.log().contains(key) && !world.log().contains("tenant=7"), "the log has the secret or the address");
}

#[tokio::test(flavor = "multi_thread")]
async fn r21_a_receiver_that_is_down_slow_or_wrong_fails_no_backup_and_no_restore_and_gets_all_when_it_is_back() {
    let receiver = Receiver::start(None).await;
    let mut world = receiver.world("http").await;
    world.set("HOLDFAST_WEBHOOK_TYPES", "backup.*,restore.*");
    world.start().await.unwrap();
    world.install_adapter_types().await;
    delivers(&world).await;
    for mood in [Mood::Stalls, Mood::Refuses, Mood::Redirects, Mood::Garbles, Mood::HangsUp] {
        receiver.is(mood);
        let (told, before) = (receiver.taken().len(), receiver.all().len());
        let backup = world.backup().await;
        let expected = world.digests();
        world.sql("update platform.license set issued_to = 'nobody'").await;
        restore(&world, &backup, "").await;
        assert_eq!(world.digests(), expected);
        // It was asked, it took nothing, and everything else is done.
        eventually_async(PATIENCE, async || (receiver.all().len() > before).then_some(())).await;
        assert_eq!(receiver.taken().len(), told, "{mood:?}");
        receiver.is(Mood::Takes);
        receiver.is_up_to_date(&world).await;
        assert_eq!(receiver.taken().len(), told + 4, "{mood:?}");
    }
    // Nobody listens, from the start.
    world.terminate().await;
    world.set("HOLDFAST_WEBHOOK_URL", "http://127.0.0.1:1/hook?tenant=7");
    world.start().await.unwrap();
    world.backup().await;
    world.terminate().await;
    world.set("HOLDFAST_WEBHOOK_URL", &format!("http://127.0.0.1:{}/hook?tenant=7", receiver.port));
    world.start().await.unwrap();
    receiver.is_up_to_date(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r21_a_restore_that_is_rolled_back_is_told_as_failed_and_nothing_else() {
    let receiver = Receiver::start(None).await;
    let mut world = receiver.world("http").await;
    world.set("HOLDFAST_WEBHOOK_TYPES", "restore.*");
    world.start().await.unwrap();
    delivers(&world).await;
    let backup = world.backup().await;
    world.sql("alter table platform.license add constraint later check (issued_to is null) not valid; update platform.license set issued_to = null").await;
    let request = RestoreRequest { name: backup.name.clone(), skip_safety_backup: true, ..Default::default() };
    assert_eq!(world.try_restore(request).await.unwrap_err().reason, "RESTORE_CONSTRAINT_VIOLATION");
    world.sql("alter table platform.license drop constraint later").await;
    restore(&world, &backup, "").await;
    eventually_async(PATIENCE, async || (receiver.taken().len() >= 4).then_some(())).await;
    let kinds = ["restore.started", "restore.failed", "restore.started", "restore.completed"];
    assert_eq!(receiver.taken(), kinds.map(|kind| format!("holdfast.{kind}")));
    let failed = receiver.all()[1].event();
    assert_eq!(failed["data"]["errorReason"], "RESTORE_CONSTRAINT_VIOLATION");
    let last = world.value("select max(number) from holdfast.event").await;
    world.becomes("select position from holdfast.delivery", &last, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r21_a_service_that_is_killed_between_commit_and_delivery_loses_no_event_and_gives_none_a_second_id() {
    let receiver = Receiver::start(None).await;
    let mut world = receiver.world("http").await;
    world.start().await.unwrap();
    delivers(&world).await;
    for round in 0..25 {
        // Killed before the receiver was asked, while it thinks, after it refused, and after it took what nobody noted.
        let mood = [Mood::Stalls, Mood::Refuses, Mood::Takes, Mood::HangsUp][round % 4];
        receiver.is(mood);
        let before = receiver.all().len();
        for count in 0..3 {
            keep(&world, 10 + i32::try_from(round * 3 + count).unwrap()).await;
        }
        if round % 2 == 0 {
            eventually_async(PATIENCE, async || (receiver.all().len() > before).then_some(())).await;
        }
        world.kill();
        receiver.is(Mood::Takes);
        world.start().await.unwrap();
    }
    receiver.is_up_to_date(&world).await;
    let mut bodies: BTreeMap<String, String> = BTreeMap::new();
    for delivery in receiver.all() {
        let same = bodies.entry(delivery.id().to_owned()).or_insert_with(|| delivery.body.clone());
        assert_eq!(*same, delivery.body, "one id, two events");
    }
    assert_eq!(bodies.len(), 75);
    assert!(receiver.all().len() > bodies.len(), "no kill hit between commit and delivery");
}

#[tokio::test(flavor = "multi_thread")]
async fn r21_a_restore_that_was_killed_is_told_as_completed_or_as_failed_whichever_is_true() {
    let receiver = Receiver::start(None).await;
    let mut world = receiver.world("http").await;
    world.start().await.unwrap();
    delivers(&world).await;
    let backup = world.backup().await;
    for round in 0..6u64 {
        world.sql(&format!("update platform.license set issued_to = 'round {round}'")).await;
        let operation = world.begin_restore(&backup, "").await;
        let id = operation.trim_start_matches("operations/").to_owned();
        if round == 5 {
            let committed = format!("select exists (select from holdfast.restore_log where operation = '{id}')");
            world.becomes(&committed, "true", PATIENCE).await;
        } else {
            tokio::time::sleep(Duration::from_millis(round * 120)).await;
        }
        world.kill();
        world.start().await.unwrap();
        let happened = world.wait(&operation).await;
        let kind = match happened.result.unwrap() {
            holdfast::grpc::proto::backup::operation::Result::Restore(_) => "restore.completed",
            _ => "restore.failed",
        };
        let told = format!(
            "select string_agg(type, ' ' order by number) from holdfast.event where type like 'restore.%' and body ->> 'operation' = '{id}'"
        );
        receiver.is_up_to_date(&world).await;
        assert_eq!(world.value(&told).await, format!("restore.started {kind}"), "round {round}");
        world.is_tidy().await;
    }
    assert!(receiver.taken().contains(&"holdfast.restore.completed".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_services_one_delivers_and_the_other_takes_over() {
    let receiver = Receiver::start(None).await;
    let mut world = receiver.world("http").await;
    world.start().await.unwrap();
    delivers(&world).await;
    let mut twin = world.twin();
    twin.start().await.unwrap();
    for count in 1..=10 {
        keep(&world, count).await;
        keep(&twin, 100 + count).await;
    }
    receiver.is_up_to_date(&twin).await;
    assert_eq!(receiver.all().len(), 20, "events were delivered twice");
    world.kill();
    keep(&twin, 7).await;
    receiver.is_up_to_date(&twin).await;
    assert_eq!(receiver.all().len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_a_certificate_is_told_only_if_its_authority_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let Certified { acceptor, certificate } = Certified::new(dir.path(), &[]);
    let receiver = Receiver::start(Some(acceptor)).await;

    let mut world = receiver.world("https").await;
    world.start().await.unwrap();
    delivers(&world).await;
    keep(&world, 3).await;
    eventually_async(PATIENCE, async || world.log().contains("the webhook did not take an event").then_some(())).await;
    assert!(receiver.all().is_empty());
    world.terminate().await;
    world.set("SSL_CERT_FILE", certificate.to_str().unwrap());
    world.start().await.unwrap();
    receiver.is_up_to_date(&world).await;
    assert_eq!(receiver.taken(), ["holdfast.retention.changed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_cannot_be_safe_is_refused_at_the_start() {
    let receiver = Receiver::start(None).await;
    let mut world = receiver.world("http").await;
    world.set("HOLDFAST_WEBHOOK_URL", "http://192.0.2.1/hook");
    assert!(world.start().await.unwrap_err().contains("without TLS"));
    world.set("HOLDFAST_WEBHOOK_URL", "https://user:word@192.0.2.1/hook");
    let said = world.start().await.unwrap_err();
    assert!(said.contains("no such webhook can be") && !said.contains("word"), "{said}");
    world.unset("HOLDFAST_WEBHOOK_SECRET_FILE");
    world.start().await.unwrap_err();
}
