//! A restore that can be looked at before: what a preview tells is what the restore does, and a preview changes nothing.

use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{Backup, NoticeCode, OperationError, PreviewRestoreRequest, RestorePreview, RestoreRequest};

use super::world::{PASSPHRASE, World};
use super::zoo::{all_of, resource};

/// Numbers of rows that were ever written to the tables of the platform, rolled back or not, and the state of all sequences.
const WRITTEN: &str = "
    select jsonb_object_agg(name, written) from (
        select relid::regclass::text as name, jsonb_build_array(n_tup_ins, n_tup_upd, n_tup_del) as written
        from pg_stat_user_tables where schemaname in ('platform', 'reporting', 'zoo')
        union all select schemaname || '.' || sequencename, to_jsonb(last_value) from pg_sequences) as all_of_them";

impl World {
    pub async fn preview(&self, backup: &Backup, passphrase: &str) -> RestorePreview {
        let request = PreviewRestoreRequest {
            name: backup.name.clone(),
            passphrase: passphrase.into(),
            resources: Vec::new(),
            ..Default::default()
        };
        self.try_preview(request).await.unwrap()
    }

    pub async fn try_preview(&self, request: PreviewRestoreRequest) -> Result<RestorePreview, OperationError> {
        let operation = self.backups().await.preview_restore(request).await.map_err(super::world::refused)?.into_inner();
        match self.outcome(&operation.name).await? {
            Outcome::Preview(preview) => Ok(preview),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_tells_what_the_restore_then_does_and_touches_nothing() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let after = world.digests();
    let backup = world.backup().await;
    world.damage();
    let (before, written) = (world.digests(), world.value(WRITTEN).await);

    let preview = world.preview(&backup, PASSPHRASE).await;
    assert_eq!((preview.backup.as_str(), preview.restorable), (backup.name.as_str(), true), "{:?}", preview.warnings);
    assert!(
        preview.changes.iter().filter(|change| change.rows_changed + change.rows_added + change.rows_removed > 0).count() > 5
    );
    assert_eq!(world.digests(), before);
    assert_eq!(world.value(WRITTEN).await, written);
    assert_eq!(world.value("select count(*) from holdfast.lease").await, "0");

    let request = RestoreRequest { passphrase: PASSPHRASE.into(), preview_etag: preview.etag, ..all_of(&backup) };
    let result = world.try_restore(request).await.unwrap();
    assert_eq!(world.digests(), after);
    assert_eq!(result.changes, preview.changes);
    assert_eq!(result.notices, preview.warnings);
    let again = world.preview(&backup, PASSPHRASE).await;
    assert!(again.changes.iter().all(|change| change.rows_changed + change.rows_added + change.rows_removed == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_a_preview_is_refused_when_anything_changed_since() {
    let world = World::new().await;
    let backup = world.backup().await;
    world.damage();
    let changes = [
        "update platform.role set description = description || '.' where id = 1",
        "delete from platform.account_note where ctid = (select min(ctid) from platform.account_note)",
        "alter table platform.role add column colour text",
        // Not in the backup; but what a restore means depends on it.
        "delete from platform.adapter_type where name = (select type_name from platform.adapter limit 1)",
    ];
    for change in changes {
        let preview = world.preview(&backup, "").await;
        world.sql(change).await;
        let request = RestoreRequest { preview_etag: preview.etag, ..all_of(&backup) };
        world.restore_fails(request, "PREVIEW_STALE").await;
    }
    let preview = world.preview(&backup, "").await;
    let (_, digest) = preview.etag.split_once('-').unwrap();
    for forged in [format!("1-{digest}"), format!("9999999999-{digest}"), "9999999999-00".into(), "x".into()] {
        world.restore_fails(RestoreRequest { preview_etag: forged, ..all_of(&backup) }, "PREVIEW_STALE").await;
    }
    let chosen = vec![
        "resources/system-settings".into(),
        "resources/login-accounts".into(),
        "resources/login-providers".into(),
        "resources/roles".into(),
    ];
    world
        .restore_fails(
            RestoreRequest { preview_etag: preview.etag.clone(), resources: chosen, ..all_of(&backup) },
            "PREVIEW_STALE",
        )
        .await;
    world.try_restore(RestoreRequest { preview_etag: preview.etag, ..all_of(&backup) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_finds_what_the_restore_would_be_refused_for() {
    let world = World::zoo_with(
        "create table zoo.item (id int primary key, name text unique); insert into zoo.item values (1, 'a');
         create table outside.use (item int constraint use_item_fkey references zoo.item on delete cascade)",
        &resource("zoo", &["zoo.item"]),
    )
    .await;
    let backup = world.backup().await;
    world.sql("insert into zoo.item values (2, 'b'); insert into outside.use values (2)").await;
    let preview = world.preview(&backup, "").await;
    assert!(!preview.restorable);
    let refusal = preview.warnings.iter().find(|notice| notice.code() == NoticeCode::RowsReferredTo).unwrap();
    assert_eq!((refusal.severity, refusal.metadata["constraint"].as_str()), (4, "use_item_fkey"));
    let anyway = RestoreRequest { acknowledged_reasons: vec!["ROWS_REFERRED_TO".into()], ..all_of(&backup) };
    let message = world.restore_fails(anyway, "RESTORE_CONSTRAINT_VIOLATION").await;
    assert!(message.contains("use_item_fkey"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_sees_one_moment_while_others_write() {
    let world = World::zoo_with(
        "create table zoo.a (id int primary key); create table zoo.b (id int primary key);",
        &resource("zoo", &["zoo.a", "zoo.b"]),
    )
    .await;
    let backup = world.backup().await;
    let writer = async {
        let mut connection = world.platform().await;
        for n in 0..2000 {
            super::zoo::run(
                &mut connection,
                &format!("begin; insert into zoo.a values ({n}); insert into zoo.b values ({n}); commit"),
            )
            .await;
        }
    };
    let looker = async {
        for _ in 0..10 {
            let preview = world.preview(&backup, "").await;
            let change = &preview.changes[0];
            assert_eq!(change.rows_removed, change.items_removed * 2, "{change:?}");
        }
    };
    tokio::join!(writer, looker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_is_refused_for_what_a_restore_is_refused_for() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    let request = |passphrase: &str| PreviewRestoreRequest {
        name: backup.name.clone(),
        passphrase: passphrase.into(),
        ..Default::default()
    };
    let mut reasons = Vec::new();
    for request in [
        request(""),
        request("wrong wrong wrong"),
        PreviewRestoreRequest { name: "backups/b-20260301t010000z-abcdefgh".into(), ..request("") },
    ] {
        reasons.push(world.try_preview(request).await.unwrap_err().reason);
    }
    assert_eq!(reasons, ["PASSPHRASE_REQUIRED", "PASSPHRASE_INCORRECT", "BACKUP_NOT_FOUND"]);
}
