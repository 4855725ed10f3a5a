//! Empty tables are filled straight from the file, once it proved whole; what comes out is the same as on the ordinary way.

use std::time::{Duration, Instant};

use super::world::{World, psql};
use super::zoo::{all_of, run};

/// Tables in every relation to each other that decides whether rows can go straight in. `ran` learns how they went.
const ZOO: &str = "create table outside.ran (target text, way text); grant insert on outside.ran to public; grant usage on schema outside to public;
    create function outside.spy(target text) returns boolean language plpgsql as $$ begin
        insert into outside.ran values (target, split_part(current_query(), ' ', 1)); return true; end $$;
    create table zoo.parent (id int primary key, check (outside.spy('parent')));
    create table zoo.child (id bigint generated always as identity primary key, parent_id int not null references zoo.parent on delete cascade, twice bigint generated always as (parent_id * 2) stored, check (outside.spy('child')));
    create table zoo.early (id int primary key, late_id int, check (outside.spy('early')));
    create table zoo.late (id int primary key, early_id int references zoo.early, check (outside.spy('late')));
    alter table zoo.early add foreign key (late_id) references zoo.late;
    create table zoo.tree (id int primary key, up int references zoo.tree, check (outside.spy('tree')));
    create table zoo.patient (id int primary key, later_id int, check (outside.spy('patient')));
    create table zoo.later (id int primary key, check (outside.spy('later')));
    alter table zoo.patient add foreign key (later_id) references zoo.later deferrable;
    create table zoo.loose (a int, raw bytea, check (outside.spy('loose')));
    create table zoo.part (id int primary key, check (outside.spy('part'))) partition by range (id);
    create table zoo.part_1 partition of zoo.part for values from (0) to (100);
    create function zoo.raises() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
    insert into zoo.parent values (1), (2); insert into zoo.child (parent_id) values (1), (2), (2);
    insert into zoo.early values (1, null); insert into zoo.late values (5, 1); update zoo.early set late_id = 5;
    insert into zoo.tree select i, nullif(i % 7, i) from generate_series(0, 50) i;
    insert into zoo.later values (1); insert into zoo.patient values (1, 1);
    insert into zoo.loose values (1, 'x'), (1, 'x'), (null, null); insert into zoo.part values (1), (2)";
const TABLES: [&str; 9] =
    ["zoo.parent", "zoo.child", "zoo.early", "zoo.late", "zoo.tree", "zoo.patient", "zoo.later", "zoo.loose", "zoo.part"];
const EMPTY: &str = "truncate zoo.parent, zoo.child, zoo.early, zoo.late, zoo.tree, zoo.patient, zoo.later, zoo.loose, zoo.part; truncate outside.ran";

#[tokio::test(flavor = "multi_thread")]
async fn empty_tables_are_filled_straight_from_the_file_where_foreign_keys_allow_it() {
    let world = World::zoo(ZOO, &TABLES).await;
    let before = world.digests();
    let backup = world.backup().await;
    world.sql(&format!("{EMPTY}; create trigger no before insert on zoo.parent for each row execute function zoo.raises(); alter table zoo.parent owner to platform_triggers")).await;
    let result = world.restore(&backup, "").await.unwrap();
    assert_eq!(world.digests(), before);
    // Of a circle one has to wait; so has what refers to it, or to itself.
    let ways =
        "(child,COPY) (early,WITH) (late,WITH) (later,COPY) (loose,COPY) (parent,COPY) (part,COPY) (patient,COPY) (tree,WITH)";
    assert_eq!(world.rows("select distinct target, way from outside.ran").await, ways);
    assert_eq!(world.value("select tgenabled from pg_trigger where tgname = 'no'").await, "O");
    let change = &result.changes[0];
    assert_eq!((change.items_before, change.items_in_backup, change.items_added), (0, 2, 2), "{change:?}");
    assert_eq!((change.rows_removed, change.rows_changed, change.rows_added), (0, 0, 65), "{change:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_before_the_lock_sends_the_file_the_ordinary_way() {
    let world = World::zoo(ZOO, &TABLES).await;
    let before = world.digests();
    let backup = world.backup().await;
    world.sql(EMPTY).await;
    let mut other = world.open_transaction("insert into zoo.parent values (77)").await;
    let operation = world.begin_restore(&backup, "").await;
    world.until("exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like 'LOCK TABLE%')").await;
    run(&mut other, "commit").await;
    world.outcome(&operation).await.unwrap();
    assert_eq!(world.digests(), before);
    assert_eq!(world.rows("select distinct way from outside.ran where target <> 'parent' and way <> 'SELECT'").await, "(WITH)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_fit_leaves_empty_tables_empty() {
    let world = World::zoo(ZOO, &TABLES).await;
    let backup = world.backup().await;
    world.sql(EMPTY).await;
    world.sql("alter table zoo.tree add constraint small check (id < 50)").await;
    let message = world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
    assert!(message.contains("small") && message.contains("zoo.tree"), "{message}");
    world.sql("alter table zoo.tree drop constraint small; alter table zoo.parent add constraint small check (id < 2)").await;
    world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
    for table in TABLES {
        assert_eq!(world.value(&format!("select count(*) from {table}")).await, "0", "{table}");
    }
}

/// The sample platform, with circles and references to itself. `HOLDFAST_TEST_SCALE` makes it larger.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_platform_is_filled_to_what_it_was_on_either_way() {
    let mut world = World::without_service().await;
    let all = "select 'truncate ' || string_agg(oid::regclass::text, ', ') || ' restart identity' from pg_class where relkind in ('r', 'p') and relnamespace::regnamespace::text in ('platform', 'reporting')";
    let truncate = psql(&world.url("platform"), &["-c", all]);
    if let Ok(scale) = std::env::var("HOLDFAST_TEST_SCALE") {
        world.sql(&truncate).await;
        psql(&world.url("platform"), &["-v", &format!("scale={scale}"), "-v", "seed=1", "-f", "deploy/platform/generate.sql"]);
    }
    world.start().await.unwrap();
    let before = world.digests();
    let backup = world.backup().await;
    let mut took = [Duration::ZERO; 2];
    for (way, one_row) in ["select 1", "insert into platform.permission (key) values ('in.the.way')"].iter().enumerate() {
        world.sql(&truncate).await;
        world.sql(one_row).await;
        let began = Instant::now();
        world.restores_to(&backup, &before).await;
        took[way] = began.elapsed();
    }
    let [short, ordinary] = took;
    eprintln!(
        "{} bytes: short way {short:?}, ordinary way {ordinary:?}, {:.2} of it",
        backup.size_bytes,
        short.as_secs_f64() / ordinary.as_secs_f64()
    );
}
