//! The main job: a backup, damage, a restore; and every table is what it was.

use super::world::{PASSPHRASE, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_brings_every_table_back_to_what_it_was() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let before = world.digests();
    let backup = world.backup().await;
    world.damage();
    assert_ne!(world.digests(), before);
    world.restore(&backup, PASSPHRASE).await.unwrap();
    assert_eq!(world.digests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_passphrase_the_file_is_plain_and_restores_as_well() {
    let world = World::new().await;
    let before = world.digests();
    let backup = world.backup().await;
    assert!(backup.file_name.ends_with(".tar.zst"), "{}", backup.file_name);
    world.damage();
    world.restore(&backup, "").await.unwrap();
    assert_eq!(world.digests(), before);
}
