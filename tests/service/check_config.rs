//! `holdfast check-config`: what is in force, and what is wrong with it, before anything is started; and standard names of
//! OpenTelemetry that are not understood.

use std::process::{Command, Output};

use super::canary::nothing_shows;
use super::world::{BINARY, World};

/// Runs it with the settings that a service of this world would have, and these.
fn check(world: &World, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("check-config").args(arguments).env_clear();
    command.envs(world.settings()).envs(settings.iter().copied());
    let output = command.output().unwrap();
    nothing_shows(&[output.stdout.as_slice(), &output.stderr].concat(), "what check-config wrote");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_prints_what_is_in_force_and_no_secret_and_says_what_is_wrong() {
    let world = World::without_service().await;
    let secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
    let key = world.dir.path().join("webhook").display().to_string();
    std::fs::write(&key, secret).unwrap();
    for text in [secret, "a-token-in-an-address", "a-key-of-the-collector"] {
        super::canary::secret(text);
    }
    let settings = [
        ("HOLDFAST_WEBHOOK_URL", "http://127.0.0.1:1/a-token-in-an-address"),
        ("HOLDFAST_WEBHOOK_SECRET_FILE", &key),
        ("HOLDFAST_SCRUB_PERIOD", "6h"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a-key-of-the-collector"),
    ];
    let output = check(&world, &["--lock-ttl", "20s"], &settings);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let row = |name: &str| {
        let line = shown.lines().find(|line| line.split_whitespace().next() == Some(name));
        let words: Vec<_> = line.unwrap_or_else(|| panic!("no {name} in {shown}")).split_whitespace().skip(1).collect();
        words.join(" ")
    };
    assert_eq!(row("HOLDFAST_SCRUB_PERIOD"), "6h environment");
    assert_eq!(row("HOLDFAST_LOCK__TTL"), "20s argument");
    assert_eq!(row("HOLDFAST_OPERATION_TIMEOUT"), "2h default");
    assert_eq!(
        row("HOLDFAST_CATALOG"),
        format!("{} environment", super::world::repository().join("deploy/catalog.toml").display())
    );
    assert_eq!(row("HOLDFAST_HEALTH_LISTEN"), "- -");
    assert!(row("HOLDFAST_TOKEN_FILE").ends_with("/token environment"));
    assert_eq!(row("HOLDFAST_WEBHOOK_URL"), "(not shown) environment");
    assert_eq!(row("OTEL_EXPORTER_OTLP_HEADERS"), "(not shown) environment");
    assert_eq!(row("OTEL_EXPORTER_OTLP_ENDPOINT"), "http://127.0.0.1:4317 environment");
    let json = check(&world, &["--json"], &settings);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let listen = json.as_array().unwrap().iter().find(|setting| setting["name"] == "HOLDFAST_LISTEN").unwrap();
    assert_eq!((listen["value"].as_str(), listen["source"].as_str()), (Some("127.0.0.1:0"), Some("environment")));

    // It says what `serve` would say, and nothing is started or written.
    for (name, value, words) in [
        ("HOLDFAST_FOLDR", "/backups", "HOLDFAST_FOLDR"),
        ("HOLDFAST_LISTEN", "0.0.0.0:0", "no TLS"),
        ("HOLDFAST_CATALOG", "/dev/null", "catalog"),
        ("HOLDFAST_SEAL_KEY_FILE", "/dev/null", "fewer than 32 bytes"),
        ("HOLDFAST_FOLDER", "/nonexistent", "/nonexistent"),
        ("HOLDFAST_LOG", "not=a=filter", "filter"),
        ("HOLDFAST_TLS__CERTIFICATE_FILE", "/nonexistent", "--tls-key-file"),
        ("HOLDFAST_ARCHIVE__URL", "ftp://x", "HOLDFAST_ARCHIVE__URL"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "parentbased_traceidratio"),
    ] {
        let output = check(&world, &[], &[(name, value)]);
        let problem = text(&output.stderr);
        assert!(!output.status.success() && problem.contains(words), "{name}={value}: {output:?}");
    }
    let output = check(&world, &[], &[("HOLDFAST_ARCHIVE__URL", "s3://key:a-password-in-an-address@bucket/prefix")]);
    assert!(!text(&output.stdout).contains("a-password-in-an-address") && text(&output.stdout).contains("(not shown)"));
    assert!(world.files().is_empty() && !world.folder().join(".holdfast-volume").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_names_of_telemetry_that_are_not_understood_are_named_at_the_start() {
    let mut world = World::without_service().await;
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    super::canary::secret("a-key-without-its-name");
    for (name, value, words) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "not such as http://collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "here it can be grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "here it can be none"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a-key-without-its-name", "not a list such as api-key="),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent", "/nonexistent"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=x", "set OTEL_EXPORTER_OTLP_HEADERS"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4000000000", "at most 100000"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "OTEL_EXPORTER_OTLP_TIMEOUT"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp, none"),
        ("OTEL_METRICS_EXPORTER", "prometheus", "otlp, none"),
        ("OTEL_SDK_DISABLED", "perhaps", "true or false"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "always_on, always_off"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", "from 0 to 1"),
        ("OTEL_RESOURCE_ATTRIBUTES", "production", "deployment.environment.name=production"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1", "at least 100"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "above 0"),
    ] {
        let before = if name.ends_with("OTLP_ENDPOINT") { "http://127.0.0.1:1" } else { "" };
        world.set(name, value);
        let message = world.start().await.unwrap_err();
        assert!(message.contains(name) && message.contains(words), "{name}={value}: {message}");
        world.set(name, before);
    }
    // A key is not sent to where others can read it.
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example.org:4317");
    world.set("OTEL_EXPORTER_OTLP_HEADERS", "api-key=x");
    let message = world.start().await.unwrap_err();
    assert!(message.contains("without TLS") && message.contains("HOLDFAST_ALLOW_PLAINTEXT"), "{message}");
    // Blank ones are none.
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER"] {
        world.set(name, " ");
    }
    world.start().await.unwrap();
}
