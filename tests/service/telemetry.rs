//! Traces and metrics as a collector gets them, and that nobody waits for one that does not take them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{
    BackupRequest, GetBackupRequest, ListAuditEventsRequest, ListBackupsRequest, Operation, RestoreRequest,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::Value;
use tokio::net::TcpListener;
use tonic::Request;

use super::collector::{Collector, attributes, hex};
use super::metrics::{figure, has_figure};
use super::world::{PASSPHRASE, World, refused};
use super::zoo::all_of;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A call that belongs to a trace of its caller.
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{PARENT}-01").parse().unwrap());
    request
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {names:?}"))
}

fn attribute(span: &Span, name: &str) -> String {
    attributes(&span.attributes).get(name).cloned().unwrap_or_default()
}

fn trace_id(operation: &Operation) -> &str {
    &operation.metadata.as_ref().unwrap().trace_id
}

/// Lines of the log with this in them, as JSON.
fn lines(world: &World, words: &str) -> Vec<Value> {
    world.log().lines().filter(|line| line.contains(words)).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_call_over_phases_and_resources_to_the_last_deletion() {
    let collector = Collector::start().await;
    let mut world = collector.world().await;
    world.set("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=testing");
    world.set("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a-key-of-the-collector-0123");
    super::canary::secret("a-key-of-the-collector-0123");
    world.start().await.unwrap();
    let operation = world.backups().await.backup(traced(BackupRequest::default())).await.unwrap().into_inner();
    assert_eq!(trace_id(&operation), TRACE);
    let operation = world.wait(&operation.name).await;
    assert_eq!(trace_id(&operation), TRACE);
    let Some(Outcome::Backup(result)) = &operation.result else { panic!("{operation:?}") };
    let backup = result.backup.clone().unwrap();

    let spans = collector.trace(TRACE, "backup").await;
    let call = named(&spans, "holdfast.backup.v1.BackupService/Backup");
    assert_eq!((call.kind(), hex(&call.parent_span_id).as_str()), (SpanKind::Server, PARENT));
    let is = |span: &Span, name: &str, value: &str| assert_eq!(attribute(span, name), value, "{name} of {span:?}");
    is(call, "rpc.system.name", "grpc");
    is(call, "rpc.method", "holdfast.backup.v1.BackupService/Backup");
    is(call, "rpc.status_code", "OK");
    is(call, "network.peer.address", "127.0.0.1");
    let root = named(&spans, "backup");
    assert_eq!((root.kind(), &root.parent_span_id), (SpanKind::Internal, &call.span_id));
    is(root, "backup.operation.id", operation.name.strip_prefix("operations/").unwrap());
    is(root, "backup.operation.type", "backup");
    is(root, "backup.trigger", "on_demand");
    is(root, "backup.id", backup.name.strip_prefix("backups/").unwrap());
    is(root, "backup.encrypted", "false");
    is(root, "backup.size", &backup.size_bytes.to_string());
    is(root, "backup.lock.fencing_token", &operation.metadata.as_ref().unwrap().fencing_token.to_string());
    let mut times = Vec::new();
    for phase in ["waiting_for_lock", "preparing", "transferring", "checking", "committing", "finishing"] {
        let span = named(&spans, &format!("backup.phase {phase}"));
        assert_eq!(span.parent_span_id, root.span_id, "{phase}");
        is(span, "backup.phase", phase);
        times.extend([span.start_time_unix_nano, span.end_time_unix_nano]);
    }
    assert!(times.is_sorted(), "{times:?}");
    let transfer = named(&spans, "backup.phase transferring");
    for resource in &backup.resources {
        let name = resource.resource.strip_prefix("resources/").unwrap();
        let span = named(&spans, &format!("backup.resource {name}"));
        assert_eq!(span.parent_span_id, transfer.span_id);
        is(span, "backup.resource", name);
    }
    let within = |name: &str, parent: &str| {
        let span = named(&spans, name);
        assert_eq!(span.parent_span_id, named(&spans, parent).span_id, "{name} in {parent}");
    };
    within("backup.encode", "backup.phase transferring");
    within("backup.verify", "backup.phase checking");
    within("backup.publish", "backup.phase committing");
    within("backup.retention", "backup");
    let synced: BTreeSet<_> = spans.iter().filter(|span| span.name == "backup.fsync").map(|span| &span.parent_span_id).collect();
    for part in ["backup.verify", "backup.publish"] {
        assert!(synced.contains(&named(&spans, part).span_id), "{part} makes nothing durable");
    }
    // All of it is one tree.
    let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
    for span in &spans {
        assert!(ids.contains(&span.parent_span_id) || hex(&span.parent_span_id) == PARENT, "{span:?}");
    }

    // The same trace is in the audit log, in the file, and in the log.
    let request = ListAuditEventsRequest { types: vec!["backup.*".into()], ..Default::default() };
    let events = world.events().await.list_audit_events(request).await.unwrap().into_inner().audit_events;
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events.iter().all(|event| event.trace_id == TRACE), "{events:?}");
    let file = std::fs::File::open(world.file(&backup)).unwrap();
    assert_eq!(holdfast::archive::manifest(&file, None).unwrap().trace_id.unwrap().to_string(), TRACE);
    let id = operation.name.strip_prefix("operations/").unwrap();
    let ended = &lines(&world, "operation ended")[0];
    assert_eq!((ended["trace_id"].as_str(), ended["operation_id"].as_str()), (Some(TRACE), Some(id)), "{ended}");
    assert_eq!(ended["span_id"].as_str(), Some(hex(&root.span_id).as_str()), "{ended}");
    let accepted = &lines(&world, "operation accepted")[0];
    assert_eq!(accepted["rpc.method"].as_str(), Some("holdfast.backup.v1.BackupService/Backup"), "{accepted}");

    // Who it is that exports, and with which key.
    let resource = collector.resource();
    for (name, value) in [("service.name", "holdfast"), ("service.version", env!("CARGO_PKG_VERSION"))] {
        assert_eq!(resource[name], value);
    }
    assert!(resource.contains_key("service.instance.id") && resource["deployment.environment.name"] == "testing", "{resource:?}");
    assert!(collector.headers().contains("api-key: a-key-of-the-collector-0123"), "{:?}", collector.headers());
    // Metrics too.
    for name in
        ["backup.operations", "backup.operation.duration", "rpc.server.call.duration", "backup.files", "backup.build_info"]
    {
        super::world::eventually(Duration::from_secs(30), || collector.metrics().contains(name).then_some(())).await;
    }
    // What probes ask is not told of.
    assert!(world.ready().await);
    world.terminate().await;
    assert!(!collector.has("grpc.health"), "a probe was traced");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_what_failed_says_so_and_a_caller_that_knows_no_trace_begins_one() {
    let collector = Collector::start().await;
    let mut world = collector.world().await;
    world.start().await.unwrap();
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    // Refused: it is the caller's fault, and no error of the service.
    let wrong = RestoreRequest { passphrase: "not the passphrase of it".into(), ..all_of(&backup) };
    super::canary::secret("not the passphrase of it");
    world.backups().await.restore(traced(wrong)).await.unwrap_err();
    let name = "holdfast.backup.v1.BackupService/Restore";
    let spans = collector.trace(TRACE, name).await;
    let call = named(&spans, name);
    assert_eq!(attribute(call, "rpc.status_code"), "INVALID_ARGUMENT");
    assert_eq!(
        (call.status.clone().unwrap_or_default().code(), attribute(call, "error.type")),
        (StatusCode::Unset, String::new())
    );
    // An unknown method has no name of the caller's choice.
    let mut client = tonic::client::Grpc::new(world.channel().await);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<ListBackupsRequest, ListBackupsRequest>::default();
    let path = "/holdfast.backup.v1.BackupService/ANameOfTheCallers".parse().unwrap();
    client.unary(Request::new(ListBackupsRequest::default()), path, codec).await.unwrap_err();

    // Cancelled: the operation failed.
    let table = world.lock_table("access exclusive").await;
    let operation = world.begin_backup().await;
    world.cancel(&operation).await;
    let operation = world.wait(&operation).await;
    drop(table);
    let own = trace_id(&operation).to_owned();
    assert!(own.len() == 32 && own != TRACE, "{own}");
    let spans = collector.trace(&own, "backup").await;
    let root = named(&spans, "backup");
    assert_eq!(
        (root.status.clone().unwrap().code(), attribute(root, "error.type").as_str()),
        (StatusCode::Error, "CANCELLED_BY_CALLER")
    );
    assert!(named(&spans, "holdfast.backup.v1.BackupService/Backup").parent_span_id.is_empty());

    // One that is refused by the lock.
    let update = world.begin_update().await;
    let error = refused(world.backups().await.backup(BackupRequest::default()).await.unwrap_err());
    assert_eq!(error.reason, "SOFTWARE_UPDATE_IN_PROGRESS");
    world.end_update(update).await;
    super::world::eventually(Duration::from_secs(30), || {
        let spans = collector.spans();
        spans.iter().any(|span| attribute(span, "error.type") == "SOFTWARE_UPDATE_IN_PROGRESS").then_some(())
    })
    .await;
    // What is no trace is none.
    let mut request = Request::new(BackupRequest::default());
    request.metadata_mut().insert("traceparent", "00-00000000000000000000000000000000-0000000000000000-01".parse().unwrap());
    let operation = world.backups().await.backup(request).await.unwrap().into_inner();
    assert!(trace_id(&operation).len() == 32 && !trace_id(&operation).trim_matches('0').is_empty(), "{operation:?}");
    world.wait(&operation.name).await;
    // A restore has its resources as well.
    world.install_adapter_types().await;
    let request = RestoreRequest { passphrase: PASSPHRASE.into(), skip_safety_backup: false, ..all_of(&backup) };
    let restore = world.backups().await.restore(traced(request)).await.unwrap().into_inner();
    world.wait(&restore.name).await;
    let spans = collector.trace(TRACE, "restore").await;
    for name in
        ["backup.decode", "backup.phase safety_backup", "backup.phase applying", "backup.encode", "backup.phase finishing"]
    {
        named(&spans, name);
    }
    let read = spans.iter().filter(|span| span.name.starts_with("backup.resource ")).count();
    assert_eq!(read, backup.resources.len());
    world.terminate().await;
    assert!(!collector.has("ANameOfTheCallers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_have_a_trace_where_nothing_is_exported_and_so_have_those_of_the_schedule() {
    let mut world = World::new().await;
    world.kill();
    super::schedule::planned_in_the_past(&world, 60, 3600).await;
    world.start().await.unwrap();
    let trace = "select coalesce(max(body->>'trace_id'), '') from holdfast.operation where body->>'trigger' = 'scheduled'";
    super::world::eventually_async(Duration::from_secs(30), async || (world.value(trace).await.len() == 32).then_some(())).await;
    world.becomes("select count(*) from holdfast.operation where not done", "0", Duration::from_secs(60)).await;
    let operation = world.backups().await.backup(traced(BackupRequest::default())).await.unwrap().into_inner();
    assert_eq!(trace_id(&operation), TRACE);
    world.wait(&operation.name).await;
    assert_eq!(lines(&world, "operation ended").last().unwrap()["trace_id"].as_str(), Some(TRACE));
    // Events of before had none, and prove as before.
    world.sql_as_superuser("insert into holdfast.event (type, body) values ('test.of_old', '{\"target\": \"t\"}')").await;
    let output = world.cli(&["audit", "verify"], "");
    assert!(output.status.success(), "{output:?}");
}

/// How long a backup, many calls and the end of a service take that exports to this address.
async fn takes(address: Option<&str>) -> (World, [Duration; 3]) {
    let mut world = World::without_service().await;
    if let Some(address) = address {
        world.set("OTEL_EXPORTER_OTLP_ENDPOINT", address);
        world.set("OTEL_BSP_SCHEDULE_DELAY", "50");
        world.set("OTEL_BSP_MAX_QUEUE_SIZE", "600");
        world.set("OTEL_METRIC_EXPORT_INTERVAL", "100");
    }
    world.start().await.unwrap();
    let begun = Instant::now();
    let backup = world.backup().await;
    let backed_up = begun.elapsed();
    let (begun, mut client) = (Instant::now(), world.backups().await);
    // More than wait for the collector.
    for _ in 0..1000 {
        client.get_backup(GetBackupRequest { name: backup.name.clone() }).await.unwrap();
    }
    let asked = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(world.terminate().await, Some(0), "{}", world.log());
    let ended = begun.elapsed();
    eprintln!("exporting to {address:?}: backup {backed_up:?}, 1000 calls {asked:?}, end {ended:?}");
    (world, [backed_up, asked, ended])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_or_is_not_there_costs_nothing() {
    let (_, usual) = takes(None).await;
    // It takes connections, and answers nothing.
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", hangs.local_addr().unwrap());
    let held = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = hangs.accept().await {
            connections.push(connection);
        }
    });
    // Nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [address, format!("http://{closed}")] {
        let (world, took) = takes(Some(&address)).await;
        for (took, usual) in took.iter().zip(usual) {
            // The collector has 10 s for an export; what is sent at the end has 2 s.
            assert!(*took < 3 * usual + Duration::from_secs(6), "{took:?}, and {usual:?} without a collector\n{}", world.log());
        }
    }
    held.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_operations_are_counted_and_counters_are_there_from_the_start() {
    let world = World::with(&[("HOLDFAST_METRICS_LISTEN", "127.0.0.1:0")]).await;
    let operations = |kind: &str, trigger: &str, outcome: &str| {
        format!("backup_operations_total{{outcome=\"{outcome}\",trigger=\"{trigger}\",type=\"{kind}\"}}")
    };
    for outcome in ["success", "failure", "cancelled", "refused"] {
        for (kind, trigger) in
            [("backup", "on_demand"), ("backup", "scheduled"), ("restore", "on_demand"), ("verify", "on_demand")]
        {
            assert!(figure(&world, &operations(kind, trigger, outcome)).abs() < 0.5);
        }
    }
    let backup = world.backup().await;
    let update = world.begin_update().await;
    world.backups().await.backup(BackupRequest::default()).await.unwrap_err();
    world.end_update(update).await;
    let table = world.lock_table("access exclusive").await;
    let operation = world.begin_backup().await;
    world.cancel(&operation).await;
    world.wait(&operation).await;
    drop(table);
    let one = |series: &str| assert!((figure(&world, series) - 1.0).abs() < 0.5, "{series} is {}", figure(&world, series));
    for outcome in ["success", "refused", "cancelled"] {
        one(&operations("backup", "on_demand", outcome));
    }
    one("backup_operation_duration_seconds_count{outcome=\"success\",type=\"backup\"}");
    world.backups().await.get_backup(GetBackupRequest { name: backup.name.clone() }).await.unwrap();
    let missing = GetBackupRequest { name: "backups/b-20200101t000000z-aaaaaaaa".into() };
    world.backups().await.get_backup(missing).await.unwrap_err();
    for (status, rest) in [("OK", ""), ("NOT_FOUND", "")] {
        let labels = format!(
            "rpc_method=\"holdfast.backup.v1.BackupService/GetBackup\",rpc_status_code=\"{status}\",rpc_system_name=\"grpc\""
        );
        one(&format!("rpc_server_call_duration_seconds_count{{{rest}{labels}}}"));
        one(&format!("rpc_server_call_duration_seconds_bucket{{{rest}{labels},le=\"10\"}}"));
    }
    // Probes are not counted, and nobody's names are labels.
    world.ready().await;
    assert!(!has_figure(&world, "grpc.health") && !has_figure(&world, "b-2020"));
}
