//! Who calls, and what they may do: certificates, tokens of Kubernetes and of an identity provider, roles.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use holdfast::grpc::proto::backup::backup_service_client::BackupServiceClient;
use holdfast::grpc::proto::backup::{
    AuditEvent, BackupRequest, GetBackupRequest, ListAuditEventsRequest, ListBackupsRequest, RestoreRequest, SetEncryptionRequest,
};
use holdfast::grpc::proto::lock::GetLockRequest;
use holdfast::grpc::proto::lock::lock_service_client::LockServiceClient;
use prost_reflect::DescriptorPool;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use super::tls::{Authority, Certified};
use super::world::{BINARY, Bearer, Calls, PASSPHRASE, TOKEN, UPDATE_TOKEN, World, eventually, eventually_async, refused};

impl World {
    /// The certificate of the service, of `localhost`, by this authority.
    pub fn with_tls(&mut self, authority: &Authority) -> (PathBuf, PathBuf) {
        let (certificate, key) = authority.certify("service", "DNS:localhost");
        self.set("HOLDFAST_TLS__CERTIFICATE_FILE", &certificate.display().to_string());
        self.set("HOLDFAST_TLS__KEY_FILE", &key.display().to_string());
        (certificate, key)
    }

    fn https(&self) -> String {
        format!("https://localhost:{}", self.address().rsplit_once(':').unwrap().1)
    }

    /// A connection over TLS to a service with a certificate of this authority.
    pub async fn secure(
        &self,
        authority: &Path,
        identity: Option<&(PathBuf, PathBuf)>,
    ) -> Result<Channel, tonic::transport::Error> {
        let read = |path: &Path| std::fs::read(path).unwrap();
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(authority)));
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(read(certificate), read(key)));
        }
        Endpoint::from_shared(self.https()).unwrap().tls_config(tls).unwrap().connect().await
    }

    async fn as_whoever_has(&self, token: &str) -> BackupServiceClient<Calls> {
        BackupServiceClient::new(InterceptedService::new(self.channel().await, Bearer::of(token)))
    }

    async fn newest_event(&self, kind: &str) -> AuditEvent {
        eventually_async(Duration::from_secs(30), async || {
            let request = ListAuditEventsRequest { types: vec![kind.to_owned()], ..Default::default() };
            self.events().await.list_audit_events(request).await.unwrap().into_inner().audit_events.into_iter().next()
        })
        .await
    }
}

fn reason<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    refused(answer.unwrap_err()).reason
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_served_over_tls_and_certificates_are_replaced_without_a_restart() {
    let mut world = World::without_service().await;
    let dir = world.dir.path().to_owned();
    let [first, second] = ["first", "second"].map(|name| Authority::new(&dir.join(name)));
    let (certificate, key) = world.with_tls(&first);
    world.set("HOLDFAST_ALLOW_PLAINTEXT_SECRETS", "false");
    // Beyond loopback, since others cannot read it.
    world.set("HOLDFAST_LISTEN", "0.0.0.0:0");
    world.start().await.unwrap();

    let channel = world.secure(&first.certificate, None).await.unwrap();
    let mut backups = BackupServiceClient::with_interceptor(channel, world.bearer());
    let set = SetEncryptionRequest { passphrase: Some(PASSPHRASE.into()), ..Default::default() };
    backups.set_encryption(set).await.unwrap();
    assert!(world.secure(&second.certificate, None).await.is_err(), "of another authority");
    let in_the_clear = format!("http://{}", world.https().trim_start_matches("https://"));
    if let Ok(channel) = Endpoint::from_shared(in_the_clear).unwrap().connect().await {
        let mut backups = BackupServiceClient::with_interceptor(channel, world.bearer());
        assert!(backups.list_backups(ListBackupsRequest::default()).await.is_err());
    }

    let cli = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(arguments).env_clear().env("HOLDFAST_ENDPOINT", world.https()).env("HOLDFAST_TOKEN", TOKEN);
        command.output().unwrap()
    };
    let authority = first.certificate.display().to_string();
    let listed = cli(&["list", "--ca-file", &authority]);
    assert!(listed.status.success(), "{listed:?}");
    let refused = cli(&["list", "--ca-file", &second.certificate.display().to_string()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("certificate"), "{said}");

    // Half of a new pair changes nothing.
    let (new_certificate, new_key) = second.certify("service", "DNS:localhost");
    std::fs::copy(&new_key, &key).unwrap();
    eventually(Duration::from_secs(60), || world.log().contains("new certificates cannot be used").then_some(())).await;
    world.secure(&first.certificate, None).await.unwrap();
    std::fs::copy(&new_certificate, &certificate).unwrap();
    eventually_async(Duration::from_secs(60), async || world.secure(&second.certificate, None).await.ok()).await;
    assert!(world.secure(&first.certificate, None).await.is_err());
    // Who was connected stays so.
    backups.list_backups(ListBackupsRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_certificate_is_who_it_names_and_nobody_else() {
    let mut world = World::without_service().await;
    let dir = world.dir.path().to_owned();
    let [servers, clients, strangers] = ["servers", "clients", "strangers"].map(|name| Authority::new(&dir.join(name)));
    world.with_tls(&servers);
    world.set("HOLDFAST_TLS__CLIENT_CA_FILE", &clients.certificate.display().to_string());
    let update = "spiffe://example.org/ns/platform/sa/update-service";
    let bindings = format!("{update}=update-service,spiffe://example.org/ops/alice=backup-admin");
    world.set("HOLDFAST_AUTH__ROLE_BINDINGS", &bindings);
    // The only way there is.
    world.set("HOLDFAST_TOKEN_FILE", "");
    world.set("HOLDFAST_UPDATE_TOKEN_FILE", "");
    world.start().await.unwrap();

    let secure = async |identity: Option<&(PathBuf, PathBuf)>| world.secure(&servers.certificate, identity).await;
    let list = async |channel: Channel| BackupServiceClient::new(channel).list_backups(ListBackupsRequest::default()).await;
    assert_eq!(reason(list(secure(None).await.unwrap()).await), "CREDENTIALS_MISSING");
    let alice = clients.certify("alice", "URI:spiffe://example.org/ops/alice");
    list(secure(Some(&alice)).await.unwrap()).await.unwrap();
    let nobody = clients.certify("nobody", "URI:spiffe://example.org/ops/nobody");
    assert_eq!(reason(list(secure(Some(&nobody)).await.unwrap()).await), "PERMISSION_MISSING");
    for (name, names) in [
        ("two", "URI:spiffe://example.org/ops/alice,URI:spiffe://example.org/ops/bob"),
        ("none", "DNS:alice.example.org"),
        ("subject", "URI:user:alice"),
    ] {
        let unnamed = clients.certify(name, names);
        assert_eq!(reason(list(secure(Some(&unnamed)).await.unwrap()).await), "CREDENTIALS_INVALID", "{name}");
    }
    // The same name by another authority: TLS does not come about.
    let forged = strangers.certify("alice", "URI:spiffe://example.org/ops/alice");
    if let Ok(channel) = secure(Some(&forged)).await {
        let status = list(channel).await.unwrap_err();
        assert!(status.get_details_error_info().is_none(), "it came through: {status:?}");
    }

    let service = secure(Some(&clients.certify("update", &format!("URI:{update}")))).await.unwrap();
    let request = GetLockRequest { name: "locks/platform-maintenance".into() };
    LockServiceClient::new(service.clone()).get_lock(request).await.unwrap();
    assert_eq!(reason(list(service).await), "PERMISSION_MISSING");
    // By the command line, and as the audit log tells it.
    let mut command = Command::new(BINARY);
    command.args(["backup", "--wait"]).env_clear().env("HOLDFAST_ENDPOINT", world.https());
    command.env("HOLDFAST_CA_FILE", &servers.certificate);
    let made = command.env("HOLDFAST_CERTIFICATE_FILE", &alice.0).env("HOLDFAST_KEY_FILE", &alice.1).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let actor = "(body->'actor'->>'principal') || ' ' || (body->'actor'->>'authentication')";
    let told = world.value(&format!("select {actor} from holdfast.event where type = 'backup.completed'")).await;
    assert_eq!(told, "spiffe://example.org/ops/alice mtls");
}

/// An identity provider with one key.
struct Provider {
    id: &'static str,
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

const ISSUER: &str = "https://login.example.org";

impl Provider {
    fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        Self { id, pair, random }
    }

    fn keys(&self) -> String {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.id, "x": x, "y": y}]}).to_string()
    }

    fn token(&self, name: &str, roles: &[&str]) -> String {
        let claims = json!({"iss": ISSUER, "aud": "backup.holdfast", "sub": name, "exp": soon(), "groups": roles});
        let header = json!({"alg": "ES256", "kid": self.id});
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.pair.sign(&self.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64.encode(signature))
    }
}

/// Seconds of the epoch, in ten minutes.
fn soon() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    now.as_secs() + 600
}

/// Every method, by what it needs. The table of the contract, written once more.
const NEEDS: &[(&str, &[&str])] = &[
    ("backups.read", &["ListBackups", "GetBackup", "ListResources", "GetSystemStatus"]),
    ("backups.create", &["Backup"]),
    ("backups.update", &["UpdateBackup"]),
    ("backups.verify", &["VerifyBackup", "CheckPassphrase"]),
    ("backups.download", &["DownloadBackup"]),
    ("backups.upload", &["UploadBackup", "SyncBackups"]),
    ("backups.restore", &["Restore", "PreviewRestore"]),
    ("backups.delete", &["DeleteBackup"]),
    ("operations.read", &["GetOperation", "ListOperations", "WaitOperation", "WatchOperation"]),
    ("operations.cancel", &["CancelOperation"]),
    ("settings.read", &["GetSchedule", "GetRetention", "GetEncryption", "GetSigning"]),
    ("settings.update", &["SetSchedule", "SetRetention"]),
    ("settings.encrypt", &["SetEncryption", "RotateSigningKey"]),
    ("audit.read", &["ListAuditEvents", "ListAuditRecords", "WatchAuditEvents"]),
    ("locks.read", &["GetLock", "WatchLock"]),
    ("locks.acquire", &["AcquireLock", "RenewLock", "ReleaseLock"]),
    ("locks.break", &["ForceReleaseLock"]),
];

fn may(role: &str, permission: &str) -> bool {
    match role {
        // Of the workstation.
        "everything" => true,
        "backup-admin" => permission != "locks.acquire",
        "backup-operator" => {
            ["backups.read", "operations.read", "settings.read", "backups.create", "operations.cancel", "locks.read"]
                .contains(&permission)
        }
        "scheduler" => ["backups.create", "operations.read"].contains(&permission),
        "update-service" => ["operations.read", "locks.read", "locks.acquire"].contains(&permission),
        "monitoring" => ["backups.read", "operations.read", "settings.read", "locks.read"].contains(&permission),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_call_what_the_table_says_and_learns_of_nothing_else_whether_it_exists() {
    let mut world = World::without_service().await;
    let provider = Provider::new("only");
    let keys = world.dir.path().join("keys.json");
    std::fs::write(&keys, provider.keys()).unwrap();
    for (name, value) in [("ISSUER", ISSUER), ("AUDIENCE", "backup.holdfast"), ("ROLES_CLAIM", "groups")] {
        world.set(&format!("HOLDFAST_AUTH__JWT__{name}"), value);
    }
    world.set("HOLDFAST_AUTH__JWT__JWKS_FILE", &keys.display().to_string());
    world.set("HOLDFAST_AUTH__ROLE_BINDINGS", "user:bound-scheduler=scheduler,token:update-service=monitoring");
    world.set("HOLDFAST_METRICS_LISTEN", "127.0.0.1:0");
    world.start().await.unwrap();
    let pool = DescriptorPool::decode(holdfast::grpc::proto::DESCRIPTORS).unwrap();
    let ours = pool.services().filter(|service| service.full_name().starts_with("holdfast."));
    let methods: Vec<(String, String)> = ours
        .flat_map(|service| {
            let of = service.full_name().to_owned();
            service.methods().map(|method| (format!("/{of}/{}", method.name()), method.name().to_owned())).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(methods.len(), NEEDS.iter().map(|(_, methods)| methods.len()).sum::<usize>(), "a method is not in the table");

    let channel = world.channel().await;
    // An empty message names nothing that exists: whoever may call is told so, and nobody else.
    let call = async |path: &str, token: &str| {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let mut request = Request::new(());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        client.server_streaming(request, path.parse().unwrap(), ProstCodec::<(), ()>::default()).await.map(|_| ())
    };
    let callers = [
        ("backup-admin", provider.token("root", &["offline_access", "backup-admin"])),
        ("backup-operator", provider.token("olga", &["backup-operator"])),
        // A binding goes before what a token says.
        ("scheduler", provider.token("bound-scheduler", &["backup-admin"])),
        ("update-service", provider.token("updater", &["update-service"])),
        ("monitoring", UPDATE_TOKEN.to_owned()),
        ("nobody", provider.token("alice", &["Backup-Admin", "admin"])),
        ("everything", TOKEN.to_owned()),
    ];
    let mut denied = 0;
    for (role, token) in &callers {
        for (path, name) in &methods {
            let (permission, _) = NEEDS.iter().find(|(_, methods)| methods.contains(&name.as_str())).unwrap();
            let answer = call(path, token).await;
            let refusal = answer.err().filter(|status| status.code() == Code::PermissionDenied);
            match (may(role, permission), refusal) {
                (true, None) => {}
                (false, Some(status)) => {
                    denied += 1;
                    let error = refused(status);
                    assert_eq!((error.reason.as_str(), &error.metadata["permission"][..]), ("PERMISSION_MISSING", *permission));
                }
                (allowed, refusal) => panic!("{role} {path}: {allowed} {refusal:?}"),
            }
        }
    }
    // The same refusal for what exists, and what does not.
    let backup = world.backup().await.name;
    let messages: Vec<String> = {
        let mut nobody = world.as_whoever_has(&callers[5].1).await;
        let mut messages = Vec::new();
        for name in [backup.as_str(), "backups/b-20260301t010000z-abcdefgh", "nonsense"] {
            let restore = RestoreRequest { name: name.into(), ..Default::default() };
            messages.push(format!("{:?}", refused(nobody.restore(restore).await.unwrap_err())));
            let get = GetBackupRequest { name: name.into() };
            assert_eq!(nobody.get_backup(get).await.unwrap_err().code(), Code::PermissionDenied);
            denied += 2;
        }
        messages
    };
    assert!(messages.iter().all(|message| *message == messages[0]), "{messages:?}");
    // Each is counted, and told of.
    let series = "backup_auth_failures_total{reason=\"PERMISSION_MISSING\"}";
    assert_eq!(super::metrics::figure(&world, series), f64::from(denied));
    let event = world.newest_event("access.denied").await;
    assert_eq!(event.error_reason, "PERMISSION_MISSING");
    let made = world.newest_event("backup.completed").await.actor.unwrap();
    assert!(
        ["user:root jwt", "user:olga jwt", "user:bound-scheduler jwt", "token:static token"]
            .contains(&format!("{} {}", made.principal, made.authentication).as_str())
    );
}

/// A server of HTTP on this machine: what it was asked, and what it answers.
struct Fake {
    address: String,
    authority: PathBuf,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    /// Status and body; `None`: it hangs up.
    answer: Arc<Mutex<Option<(u16, String)>>>,
}

impl Fake {
    async fn start(dir: &Path) -> Self {
        let Certified { acceptor, certificate } = Certified::new(dir, &[]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let fake = Self { address, authority: certificate, asked: Arc::default(), answer: Arc::default() };
        let (asked, answer) = (fake.asked.clone(), fake.answer.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, asked, answer) = (acceptor.clone(), asked.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await.ok()?;
                    let mut text = String::new();
                    let (head, body) = loop {
                        let mut piece = [0; 4096];
                        let length = stream.read(&mut piece).await.ok().filter(|length| *length > 0)?;
                        text += std::str::from_utf8(&piece[..length]).ok()?;
                        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                        let length =
                            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                        if body.len() >= length.unwrap_or(0) {
                            break (head.to_owned(), body.to_owned());
                        }
                    };
                    asked.lock().unwrap().push((head, body));
                    let (status, body) = answer.lock().unwrap().clone()?;
                    let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(text.as_bytes()).await.ok()?;
                    stream.shutdown().await.ok()
                });
            }
        });
        fake
    }

    fn answers(&self, status: u16, body: impl ToString) {
        *self.answer.lock().unwrap() = Some((status, body.to_string()));
    }

    fn is_gone(&self) {
        *self.answer.lock().unwrap() = None;
    }

    fn asked(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

const AUDIENCE: &str = "backup.holdfast";

/// A token such as the kubelet mounts; nobody here checks its signature.
fn account_token(name: &str, audience: &str, expires: u64) -> String {
    let claims = json!({"iss": "https://kubernetes.default.svc", "aud": [audience], "exp": expires, "sub": name});
    format!("{}.{}.c2lnbmF0dXJl", BASE64.encode(r#"{"alg":"RS256"}"#), BASE64.encode(claims.to_string()))
}

fn review(authenticated: bool, username: &str, audiences: &[&str]) -> Value {
    json!({"kind": "TokenReview", "status": {"authenticated": authenticated, "user": {"username": username}, "audiences": audiences}})
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_kubernetes_are_whose_its_api_server_says_for_our_audience_only() {
    let mut world = World::without_service().await;
    let fake = Fake::start(world.dir.path()).await;
    let own = world.dir.path().join("own-token");
    std::fs::write(&own, "our-first-token\n").unwrap();
    for (name, value) in [
        ("AUDIENCE", AUDIENCE),
        ("URL", &fake.address),
        ("CA_FILE", fake.authority.to_str().unwrap()),
        ("TOKEN_FILE", own.to_str().unwrap()),
    ] {
        world.set(&format!("HOLDFAST_AUTH__TOKEN_REVIEW__{name}"), value);
    }
    world.set("HOLDFAST_AUTH__ROLE_BINDINGS", "serviceaccount:platform:cron=scheduler");
    world.start().await.unwrap();
    let cron = "system:serviceaccount:platform:cron";

    // What is sent, and what it proves.
    fake.answers(201, review(true, cron, &[AUDIENCE]));
    let token = account_token("cron", AUDIENCE, soon());
    let mut backups = world.as_whoever_has(&token).await;
    let operation = backups.backup(BackupRequest::default()).await.unwrap().into_inner();
    assert_eq!(reason(backups.list_backups(ListBackupsRequest::default()).await), "PERMISSION_MISSING");
    world.wait(&operation.name).await;
    let actor = world.newest_event("backup.completed").await.actor.unwrap();
    assert_eq!((actor.principal.as_str(), actor.authentication.as_str()), ("serviceaccount:platform:cron", "token-review"));
    let [(head, body)] = <[_; 1]>::try_from(fake.asked()).expect("it is asked once, and remembered");
    assert!(head.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("authorization: bearer our-first-token"), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["kind"], &body["apiVersion"]), (&json!("TokenReview"), &json!("authentication.k8s.io/v1")));
    assert_eq!(body["spec"], json!({"token": token, "audiences": [AUDIENCE]}));

    // Our own token is replaced while we run. No answer but one that is clear is believed.
    std::fs::write(&own, "our-second-token\n").unwrap();
    for (number, (answer, expected)) in [
        (review(true, cron, &[]), "CREDENTIALS_INVALID"),
        (review(true, cron, &["https://kubernetes.default.svc"]), "CREDENTIALS_INVALID"),
        (review(false, cron, &[AUDIENCE]), "CREDENTIALS_INVALID"),
        (review(true, "alice", &[AUDIENCE]), "CREDENTIALS_INVALID"),
        (review(true, "system:serviceaccount:platform:", &[AUDIENCE]), "CREDENTIALS_INVALID"),
        (json!({"status": {"authenticated": true, "user": {"username": cron}}}), "CREDENTIALS_INVALID"),
        (json!({"kind": "Status", "status": "Failure"}), "IDENTITY_UNAVAILABLE"),
        (json!("authenticated"), "IDENTITY_UNAVAILABLE"),
    ]
    .into_iter()
    .enumerate()
    {
        fake.answers(201, &answer);
        let token = account_token(&format!("cron-{number}"), AUDIENCE, soon());
        let mut backups = world.as_whoever_has(&token).await;
        assert_eq!(reason(backups.backup(BackupRequest::default()).await), expected, "{answer}");
    }
    let asked = fake.asked();
    assert!(asked.len() == 8 && asked.iter().all(|(head, _)| head.contains("our-second-token")), "{asked:?}");

    // A server that does not say is no proof of anything, whatever it answers.
    let mut others = world.as_whoever_has(&account_token("other", AUDIENCE, soon())).await;
    let good = review(true, cron, &[AUDIENCE]);
    let failures: [&dyn Fn(); 4] =
        [&|| fake.is_gone(), &|| fake.answers(500, &good), &|| fake.answers(403, &good), &|| fake.answers(201, "no JSON")];
    for fails in failures {
        fails();
        let status = others.backup(BackupRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
        assert_eq!(refused(status).reason, "IDENTITY_UNAVAILABLE");
    }
    // Whose token was remembered goes on meanwhile.
    backups
        .backup(BackupRequest::default())
        .await
        .map(|_| ())
        .or_else(|status| if refused(status).reason == "OPERATION_IN_PROGRESS" { Ok(()) } else { Err(()) })
        .unwrap();
    fake.answers(201, &good);
    fake.asked();
    // What was not meant for us, has expired, or is no such token, is nothing to ask about.
    for token in
        [account_token("cron", "other", soon()), account_token("cron", AUDIENCE, soon() - 601), "nonsense".into(), "a.b.c".into()]
    {
        let mut backups = world.as_whoever_has(&token).await;
        assert_eq!(reason(backups.backup(BackupRequest::default()).await), "CREDENTIALS_INVALID", "{token}");
    }
    assert_eq!(fake.asked(), []);
    for secret in ["our-first-token", "our-second-token", token.as_str()] {
        assert!(!world.log().contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_identity_provider_are_fetched_and_change_without_a_restart() {
    let mut world = World::without_service().await;
    let fake = Fake::start(world.dir.path()).await;
    for (name, value) in [
        ("ISSUER", ISSUER),
        ("AUDIENCE", "backup.holdfast"),
        ("JWKS_URL", &format!("{}/keys?tenant=7", fake.address)),
        ("CA_FILE", fake.authority.to_str().unwrap()),
    ] {
        world.set(&format!("HOLDFAST_AUTH__JWT__{name}"), value);
    }
    world.set("HOLDFAST_AUTH__ROLE_BINDINGS", "user:alice=monitoring");
    world.start().await.unwrap();
    let (first, second) = (Provider::new("first"), Provider::new("second"));
    let list = async |provider: &Provider| {
        let mut backups = world.as_whoever_has(&provider.token("alice", &["backup-admin"])).await;
        backups.list_backups(ListBackupsRequest::default()).await
    };
    // It is not there yet.
    assert_eq!(reason(list(&first).await), "IDENTITY_UNAVAILABLE");
    fake.answers(200, first.keys());
    eventually_async(Duration::from_secs(60), async || list(&first).await.ok()).await;
    assert!(fake.asked()[0].0.starts_with("GET /keys?tenant=7 HTTP/1.1\r\n"));
    assert_eq!(reason(list(&second).await), "CREDENTIALS_INVALID");
    fake.answers(200, second.keys());
    eventually_async(Duration::from_secs(60), async || list(&second).await.ok()).await;
    // With the provider gone, its keys stay; a claim of roles that is not configured gives none.
    fake.is_gone();
    list(&second).await.unwrap();
    assert_eq!(reason(list(&first).await), "CREDENTIALS_INVALID");
    let mut alice = world.as_whoever_has(&second.token("alice", &["backup-admin"])).await;
    assert_eq!(reason(alice.backup(BackupRequest::default()).await), "PERMISSION_MISSING");
}
