//! What the service refuses to start with, and says why.

use std::time::{Duration, Instant};

use super::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_start_with_is_named() {
    let mut world = World::without_service().await;
    world.set("HOLDFAST_FOLDR", "/backups");
    let message = world.start().await.unwrap_err();
    assert!(message.contains("HOLDFAST_FOLDR"), "{message}");
    world.unset("HOLDFAST_FOLDR");

    world.set("HOLDFAST_LISTEN", "0.0.0.0:0");
    let message = world.start().await.unwrap_err();
    assert!(message.contains("no TLS") && message.contains("HOLDFAST_ALLOW_PLAINTEXT"), "{message}");
    world.set("HOLDFAST_ALLOW_PLAINTEXT", "true");
    world.start().await.unwrap();
    assert_eq!(world.terminate().await, Some(0));
    world.unset("HOLDFAST_LISTEN");

    for (name, value, words) in [
        ("HOLDFAST_DATABASE__PORT", "1", "PostgreSQL does not answer"),
        ("HOLDFAST_DATABASE__STATE_PASSWORD_FILE", "/nonexistent", "/nonexistent"),
        ("HOLDFAST_TOKEN_FILE", "/dev/null", "token"),
        ("HOLDFAST_SEAL_KEY_FILE", "/dev/null", "fewer than 32 bytes"),
        ("HOLDFAST_FOLDER", "/nonexistent", "/nonexistent"),
        ("HOLDFAST_CATALOG", "/dev/null", "catalog"),
        ("HOLDFAST_LOG", "not=a=filter", "filter"),
    ] {
        world.set(name, value);
        let start = Instant::now();
        let message = world.start().await.unwrap_err();
        assert!(message.contains(words), "{name}={value}: {message}");
        assert!(start.elapsed() < Duration::from_secs(30), "{name}={value}: {:?}", start.elapsed());
        world.unset(name);
    }
    assert!(world.files().is_empty());
    world.start().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_does_not_fit_the_database_stops_the_start() {
    let mut world = World::without_service().await;
    world.sql_as_superuser("drop table platform.license cascade").await;
    let message = world.start().await.unwrap_err();
    assert!(message.contains("platform.license"), "{message}");
}
