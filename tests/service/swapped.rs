//! A file that somebody swaps or overwrites between the check and the use of it: what is restored is what was checked, or
//! nothing.

use std::os::unix::fs::FileExt;

use holdfast::grpc::proto::backup::{RestoreRequest, VerifyLevel};

use super::proxy::Proxy;
use super::world::World;
use super::zoo::{all_of, resource};

/// Rows that do not compress, more than what sockets and buffers hold.
const LARGE: &str = "create table zoo.item (id int primary key, note bytea not null) with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
    insert into zoo.item select i, (select decode(string_agg(md5(i::text || j || random()), ''), 'hex') from generate_series(1, 130000) j)
    from generate_series(1, 12) i";

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_file_that_is_swapped_while_a_restore_waits_is_not_used() {
    let world = World::zoo(
        "create table zoo.item (id int primary key, note text); insert into zoo.item values (1, 'good')",
        &["zoo.item"],
    )
    .await;
    let good = world.backup().await;
    let restored = world.digests();
    world.sql("update zoo.item set note = 'evil'").await;
    let evil = std::fs::read(world.file(&world.backup().await)).unwrap();
    world.sql("update zoo.item set note = 'now'").await;
    let now = world.digests();
    let path = world.file(&good);
    let bytes = std::fs::read(&path).unwrap();
    let wait = RestoreRequest { lock_wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }), ..all_of(&good) };
    // The call has checked the file; the work waits for the lock.
    for moved in [true, false] {
        let update = world.begin_update().await;
        let operation = world.backups().await.restore(wait.clone()).await.unwrap().into_inner().name;
        if moved {
            let other = world.dir.path().join("evil");
            std::fs::write(&other, &evil).unwrap();
            std::fs::rename(other, &path).unwrap();
        } else {
            // Byte by byte into the same file.
            std::fs::write(&path, &evil).unwrap();
        }
        world.end_update(update).await;
        match world.outcome(&operation).await {
            // It has the file that it checked.
            Ok(_) => assert!(moved && world.digests() == restored),
            Err(error) => {
                assert_eq!(error.reason, "BACKUP_CORRUPTED", "{error:?}");
                assert_eq!(world.digests(), now);
            }
        }
        world.sql("update zoo.item set note = 'now'").await;
        world.forget_damage(&mut world.superuser().await).await;
        world.restore_fails(all_of(&good), "BACKUP_CORRUPTED").await;
        // Not by another name, so that the next one finds it whole.
        std::fs::write(&path, &bytes).unwrap();
        assert!(world.verify(&good, VerifyLevel::Checksum, "").await.unwrap().valid);
    }
    world.restores_to(&good, &restored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_file_that_is_overwritten_in_the_middle_of_a_restore_changes_nothing() {
    let mut world = World::without_service().await;
    let proxy = Proxy::new(world.port()).await;
    world.set("HOLDFAST_DATABASE__PORT", &proxy.port.to_string());
    let mut world = world.with_zoo(LARGE, &resource("zoo", &["zoo.item"])).await;
    world.start().await.unwrap();
    let good = world.backup().await;
    let restored = world.digests();
    let bytes = std::fs::read(world.file(&good)).unwrap();
    world.sql("update zoo.item set note = note || note where id > 5").await;
    let evil = std::fs::read(world.file(&world.backup().await)).unwrap();
    // By way of staging tables; then into empty tables, which it fills directly.
    for (statements, copy) in
        [("delete from zoo.item where id > 9", "COPY pg_temp.stage_"), ("delete from zoo.item", "COPY \"zoo\".\"item\"")]
    {
        world.sql(statements).await;
        let before = world.digests();
        proxy.hold(copy, false);
        let operation = world.begin_restore(&good, "").await;
        proxy.until_held(1).await;
        // Most of it is not read yet.
        let file = std::fs::OpenOptions::new().write(true).open(world.file(&good)).unwrap();
        file.write_all_at(&evil[bytes.len() / 2..bytes.len()], (bytes.len() / 2) as u64).unwrap();
        proxy.open();
        let error = world.outcome(&operation).await.unwrap_err();
        assert_eq!(error.reason, "BACKUP_CORRUPTED", "{copy}: {error:?}\n{}", world.log());
        assert_eq!(world.digests(), before, "{copy}");
        world.is_tidy().await;
        std::fs::write(world.file(&good), &bytes).unwrap();
        assert!(world.verify(&good, VerifyLevel::Checksum, "").await.unwrap().valid);
    }
    world.restores_to(&good, &restored).await;
}
