//! A restore can be undone: a safety backup is made just before it, kept apart from the others, and never in their way.

use std::time::Duration;

use holdfast::grpc::proto::backup::{Backup, RestoreRequest, Retention, SetRetentionRequest, Trigger};

use super::world::{PASSPHRASE, World, eventually};
use super::zoo::all_of;

fn with_safety(backup: &Backup) -> RestoreRequest {
    RestoreRequest { passphrase: PASSPHRASE.into(), skip_safety_backup: false, ..all_of(backup) }
}

impl World {
    async fn safety_backups(&self) -> Vec<Backup> {
        self.listed().await.into_iter().filter(|backup| backup.trigger() == Trigger::Safety).collect()
    }

    async fn named(&self, name: &str) -> Backup {
        self.listed().await.into_iter().find(|backup| backup.name == name).unwrap()
    }

    async fn keep(&self, max_count: i32) {
        let retention = Some(Retention { max_count, ..Default::default() });
        self.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_undone_by_restoring_its_safety_backup() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    let good = world.digests();
    world.damage();
    let damaged = world.digests();
    let result = world.try_restore(with_safety(&backup)).await.unwrap();
    assert_eq!(world.digests(), good);
    let safety = world.named(&result.safety_backup).await;
    assert_eq!((safety.trigger(), safety.retention_position), (Trigger::Safety, None));
    let undone = world.try_restore(with_safety(&safety)).await.unwrap();
    assert_eq!(world.digests(), damaged);
    let redone = world.named(&undone.safety_backup).await;
    world.try_restore(with_safety(&redone)).await.unwrap();
    assert_eq!(world.digests(), good);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_between_the_safety_backup_and_the_restore() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = async {
        let mut connection = world.platform().await;
        let mut written = 0;
        while !*stopped.borrow() {
            written += 1;
            super::zoo::run(
                &mut connection,
                &format!("insert into platform.system_setting (key, value) values ('written {written}', '1')"),
            )
            .await;
        }
    };
    let restore = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let result = world.try_restore(with_safety(&backup)).await.unwrap();
        stop.send(true).unwrap();
        result
    };
    let ((), result) = tokio::join!(writer, restore);
    let removed = result.changes.iter().find(|change| change.resource == "resources/system-settings").unwrap().items_removed;
    let safety = world.named(&result.safety_backup).await;
    let settings =
        |backup: &Backup| backup.resources.iter().find(|part| part.resource == "resources/system-settings").unwrap().item_count;
    assert_eq!(settings(&safety), settings(&backup) + removed);
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_safety_backups_delete_no_other_and_the_file_being_restored_stays() {
    let world = World::new().await;
    world.keep(2).await;
    let oldest = world.backup().await;
    world.sql("update platform.system_setting set value = '2'").await;
    let newer = world.backup().await;
    let mut safety = Vec::new();
    for backup in [&oldest, &newer, &oldest] {
        safety.push(world.named(&world.try_restore(with_safety(backup)).await.unwrap().safety_backup).await);
    }
    assert_eq!(world.safety_backups().await.len(), 3);
    // The oldest of three is restored, and a fourth is made: it was in use and goes the next time.
    world.try_restore(with_safety(&safety[0])).await.unwrap();
    let names = |backups: Vec<Backup>| backups.into_iter().map(|backup| backup.name).collect::<Vec<_>>();
    assert!(names(world.safety_backups().await).contains(&safety[0].name));
    world.try_restore(with_safety(&newer)).await.unwrap();
    let left = names(world.safety_backups().await);
    assert!(left.len() == 3 && !left.contains(&safety[0].name) && !left.contains(&safety[1].name), "{left:?}");
    let listed = names(world.listed().await);
    assert!(listed.contains(&oldest.name) && listed.contains(&newer.name));
    // And other backups count without them.
    world.backup().await;
    let listed = names(world.listed().await);
    assert!(!listed.contains(&oldest.name) && listed.contains(&newer.name) && listed.len() == 5, "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_safety_backup_nothing_is_restored_unless_the_caller_says_so() {
    let mut world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    let good = world.digests();
    world.damage();
    world.terminate().await;
    std::fs::write(world.dir.path().join("seal-key"), "another key, 32 bytes and not one").unwrap();
    world.start().await.unwrap();
    let message = world.restore_fails(with_safety(&backup), "SEAL_KEY_MISMATCH").await;
    assert!(message.contains("safety backup"), "{message}");
    assert_eq!(world.files().len(), 1);
    world.try_restore(RestoreRequest { skip_safety_backup: true, ..with_safety(&backup) }).await.unwrap();
    assert_eq!(world.digests(), good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_or_dies_after_its_safety_backup_leaves_none() {
    let mut world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    world.damage();
    let before = world.digests();
    // Everything is done, and then does not take place.
    world.sql_as_superuser("create function public.no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
        create constraint trigger no after insert on holdfast.restore_log deferrable initially deferred for each row execute function public.no()").await;
    world.try_restore(with_safety(&backup)).await.unwrap_err();
    assert!(world.safety_backups().await.is_empty() && world.files().len() == 1);

    // It is made, and the service dies before the restore goes on: a session outside holds a row that is to go.
    world.sql_as_superuser("drop trigger no on holdfast.restore_log").await;
    let _holds = world.open_transaction("select from platform.session for update").await;
    let name = world.backups().await.restore(with_safety(&backup)).await.unwrap().into_inner().name;
    eventually(Duration::from_secs(60), || (world.files().len() == 2).then_some(())).await;
    world.kill();
    world.start().await.unwrap();
    world.outcome(&name).await.unwrap_err();
    eventually(Duration::from_secs(60), || (world.files().len() == 1).then_some(())).await;
    assert!(world.safety_backups().await.is_empty());
    assert_eq!(world.digests(), before);
    world.is_tidy().await;
}
