//! What the database would not take of a file, told by constraint before anything is written, or already at the backup.

use holdfast::grpc::proto::backup::notice::Severity;
use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{Backup, Notice};

use super::world::World;
use super::zoo::{GRANTS, all_of};

/// What a preview says of constraints.
async fn violations(world: &World, backup: &Backup) -> Vec<Notice> {
    let notices = world.preview(backup, "").await.warnings.into_iter();
    notices.filter(|notice| notice.reason == "CONSTRAINT_VIOLATED").collect()
}

fn told(notices: &[Notice]) -> Vec<String> {
    assert!(notices.iter().all(|notice| notice.severity() == Severity::Refusal));
    let text = |notice: &Notice| {
        assert_eq!(notice.metadata["constraint"], notice.subject);
        let rows = notice.message.split(' ').rev().nth(4).unwrap();
        format!("{} {} {rows}", notice.metadata["table"], notice.subject)
    };
    notices.iter().map(text).collect()
}

const ITEMS: &str = "create table zoo.item (id int primary key, code text, amount int, mail text, deleted boolean not null default false, during int4range, number int);
    create table zoo.child (id int primary key, item_id int, thing_id int); create table zoo.loose (n int);
    create table outside.thing (id int primary key);
    insert into zoo.item values (1, 'secret-code', -5, 'a@b', false, '[1,3)', 1), (2, 'secret-code', -6, 'A@b', false, '[2,5)', 1),
        (3, null, 7, 'a@b', true, '[5,9)', 2), (4, null, 8, null, false, null, null);
    insert into zoo.child values (1, 1, null), (2, 99, 5), (3, 98, null); insert into zoo.loose values (1), (-1)";

#[tokio::test(flavor = "multi_thread")]
async fn r33_every_constraint_that_the_file_would_violate_is_told_and_nothing_is_written() {
    let world = World::zoo(ITEMS, &["zoo.item", "zoo.child", "zoo.loose"]).await;
    let backup = world.backup().await;
    assert_eq!(told(&violations(&world, &backup).await), [""; 0]);
    world
        .sql(
            "delete from zoo.item where id <> 1; delete from zoo.child;
             alter table zoo.item add constraint positive check (amount > 0) not valid, add constraint one_each unique (code),
                 add constraint no_overlap exclude using gist (during with &&), add constraint numbered unique (number) deferrable initially deferred;
             create unique index live_mail on zoo.item (lower(mail)) where not deleted;
             alter table zoo.loose add constraint not_negative check (n >= 0) not valid;
             alter table zoo.child add constraint of_item foreign key (item_id) references zoo.item,
                 add constraint of_thing foreign key (thing_id) references outside.thing",
        )
        .await;
    world.sql(GRANTS).await;
    let before = world.digests();
    let notices = violations(&world, &backup).await;
    assert_eq!(world.digests(), before);
    let expected = [
        // Row 1 is there already and would not be written; so is all of `loose`.
        "zoo.item positive 1",
        "zoo.item one_each 2",
        "zoo.item no_overlap 2",
        "zoo.item live_mail 2",
        "zoo.item numbered 2",
        "zoo.child of_item 2",
        "zoo.child of_thing 1",
    ];
    assert_eq!(told(&notices), expected);
    assert!(!format!("{notices:?}{}", world.log()).contains("secret-"));
    // The restore itself says the same of the first it meets.
    let message = world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
    assert!(notices.iter().any(|notice| message.contains(&notice.subject)), "{message}");
    world.sql("delete from zoo.loose where n = 1").await;
    assert!(told(&violations(&world, &backup).await).contains(&"zoo.loose not_negative 1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_a_backup_tells_of_constraints_that_its_rows_may_violate() {
    let world = World::zoo(
        "create domain zoo.code as text;
         create table zoo.item (id int primary key, code zoo.code, amount int, up int); insert into zoo.item values (1, 'x', -1, 99);
         create table zoo.part (id int, primary key (id)) partition by range (id); create table zoo.part_1 partition of zoo.part for values from (0) to (9)",
        &["zoo.item", "zoo.part"],
    )
    .await;
    let notices = async || {
        let operation = world.begin_backup().await;
        let Ok(Outcome::Backup(result)) = world.outcome(&operation).await else { panic!("{}", world.log()) };
        let told = |notice: &holdfast::grpc::proto::backup::Notice| {
            assert_eq!(notice.subject, format!("{}.{}", notice.metadata["table"], notice.metadata["constraint"]));
            notice.subject.clone()
        };
        result.notices.iter().filter(|notice| notice.reason == "CONSTRAINT_NOT_VALID").map(told).collect::<Vec<_>>()
    };
    assert_eq!(notices().await, [""; 0]);
    world
        .sql(
            "alter table zoo.item add constraint positive check (amount > 0) not valid, add constraint above foreign key (up) references zoo.item not valid;
             alter domain zoo.code add constraint long check (length(value) > 3) not valid;
             alter table zoo.part_1 add constraint small check (id < 5) not valid; create table zoo.other (n int); alter table zoo.other add check (n > 0) not valid",
        )
        .await;
    assert_eq!(notices().await, ["zoo.item.above", "zoo.item.long", "zoo.item.positive", "zoo.part.small"]);
    world.sql("update zoo.item set amount = 1, up = 1, code = 'long'; alter table zoo.item validate constraint positive; alter table zoo.item validate constraint above; alter domain zoo.code validate constraint long; alter table zoo.part_1 validate constraint small").await;
    assert_eq!(notices().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r17_a_published_table_whose_rows_cannot_be_changed_is_refused_before_the_restore() {
    const TABLES: [&str; 8] = ["keyed", "bare", "whole", "indexed", "nothing", "late", "part", "part_keyed"];
    let tables = TABLES.map(|table| format!("zoo.{table}"));
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    let world = World::zoo(
        "create table zoo.keyed (n int primary key); create table zoo.bare (n int); create table zoo.whole (n int); alter table zoo.whole replica identity full;
         create table zoo.indexed (n int not null); create unique index by_n on zoo.indexed (n); alter table zoo.indexed replica identity using index by_n;
         create table zoo.nothing (n int primary key); alter table zoo.nothing replica identity nothing;
         create table zoo.late (n int primary key deferrable);
         create table zoo.part (n int) partition by range (n); create table zoo.part_1 partition of zoo.part for values from (0) to (9);
         create table zoo.part_keyed (n int primary key) partition by range (n); create table zoo.part_keyed_1 partition of zoo.part_keyed for values from (0) to (9)",
        &names,
    )
    .await;
    let backup = world.backup().await;
    let all = names.join(", ");
    for (publication, forbids) in [
        (format!("for table {all} with (publish = 'insert, truncate')"), false),
        (format!("for table {all}"), true),
        (format!("for table {all} with (publish = 'update', publish_via_partition_root)"), true),
        ("for table zoo.part_1, zoo.bare, zoo.nothing, zoo.late with (publish = 'delete')".to_owned(), true),
        ("for all tables".to_owned(), true),
        ("for tables in schema zoo".to_owned(), true),
    ] {
        world.sql_as_superuser(&format!("create publication p {publication}")).await;
        if forbids {
            let message = world.restore_fails(all_of(&backup), "CATALOG_MISMATCH").await;
            for table in TABLES {
                let named = message.contains(&format!("zoo.{table} is in publication p"));
                assert_eq!(named, ["bare", "nothing", "late", "part"].contains(&table), "{publication}: {table}: {message}");
            }
            // What is named is what PostgreSQL refuses.
            let mut platform = world.platform().await;
            let statement = if publication.contains("'delete'") { "delete from zoo.late" } else { "update zoo.late set n = n" };
            assert!(sqlx::Executor::execute(&mut platform, sqlx::raw_sql(statement)).await.is_err(), "{publication}");
        } else {
            world.restore(&backup, "").await.unwrap();
        }
        world.sql_as_superuser("drop publication p").await;
    }
}
