//! What a restore writes: exactly the file, or nothing and the reason why.

use std::time::{Duration, Instant};

use super::world::World;
use super::zoo::{BUSY, GRANTS, all_of, resource, run};
use holdfast::grpc::proto::backup::RestoreRequest;
use holdfast::grpc::proto::backup::operation::Result as Outcome;

const AFTERWARDS: usize = 1000;
const DEEP: usize = 10_000;

const OUTSIDE: &str = "create table zoo.account (id int primary key, name text not null unique);
    insert into zoo.account select i, 'n' || i from generate_series(0, 9) i;
    create table outside.cascading (id int primary key, account_id int constraint c references zoo.account on delete cascade);
    create table outside.nulling (id int primary key, account_id int constraint c references zoo.account on delete set null);
    create table outside.defaulting (id int primary key, account_id int default 0 constraint c references zoo.account on delete set default);
    create table outside.acting_not (id int primary key, account_id int constraint c references zoo.account);
    create table outside.restricting (id int primary key, account_id int constraint c references zoo.account on delete restrict);";
const OUTSIDE_TABLES: [&str; 5] = ["cascading", "nulling", "defaulting", "acting_not", "restricting"];

async fn outside(world: &World) -> String {
    let mut all = String::new();
    for table in OUTSIDE_TABLES {
        all += &format!("{table}: {}; ", world.rows(&format!("select id, account_id, xmin from outside.{table}")).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn r04_a_removal_that_outside_rows_refer_to_is_refused_by_name_unless_the_catalog_declares_it() {
    let world = World::zoo(OUTSIDE, &["zoo.account"]).await;
    let backup = world.backup().await;
    for table in OUTSIDE_TABLES {
        world
            .sql(&format!("insert into zoo.account values (50, 'new'); insert into outside.{table} values (1, 50), (2, 5)"))
            .await;
        let before = outside(&world).await;
        let message = world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
        assert!(message.contains(&format!("1 rows of outside.{table} refer by c to rows of zoo.account")), "{message}");
        assert_eq!(outside(&world).await, before);
        // Those that refer to rows which stay are no obstacle, and are not touched.
        world.sql(&format!("delete from outside.{table} where id = 1; update zoo.account set name = 'x' where id = 5")).await;
        let before = outside(&world).await;
        world.restore(&backup, "").await.unwrap();
        assert_eq!(outside(&world).await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r04_declared_references_are_followed_and_only_for_rows_that_go() {
    let mut catalog = resource("zoo", &["zoo.account"]);
    for table in &OUTSIDE_TABLES[..3] {
        catalog += &format!("[[resource.reference]]\nfrom = 'outside.{table}'\nconstraint = 'c'\non_removal = 'follow'\n");
    }
    let world = World::zoo_with(OUTSIDE, &catalog).await;
    let backup = world.backup().await;
    world.sql("insert into zoo.account values (50, 'new'); update zoo.account set name = name || '!'").await;
    for table in &OUTSIDE_TABLES[..3] {
        world.sql(&format!("insert into outside.{table} values (1, 50), (2, 5)")).await;
    }
    let kept = world.rows("select id, account_id, xmin from outside.cascading where id = 2").await;
    world.restore(&backup, "").await.unwrap();
    assert_eq!(world.rows("select id, account_id, xmin from outside.cascading").await, kept);
    assert_eq!(world.rows("select id, account_id from outside.nulling").await, "(1,) (2,5)");
    assert_eq!(world.rows("select id, account_id from outside.defaulting").await, "(1,0) (2,5)");
}

#[tokio::test(flavor = "multi_thread")]
async fn r04_a_row_made_anew_under_the_same_name_does_not_take_outside_rows_with_it() {
    let world = World::zoo(
        "create table zoo.account (id int primary key, name text not null unique); insert into zoo.account values (1, 'bob');
         create table outside.session (id int primary key, name text constraint c references zoo.account (name) on delete cascade)",
        &["zoo.account"],
    )
    .await;
    let backup = world.backup().await;
    world
        .sql("delete from zoo.account; insert into zoo.account values (2, 'bob'); insert into outside.session values (7, 'bob')")
        .await;
    let message = world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
    assert!(message.contains("outside.session"), "{message}");
    assert_eq!(world.value("select count(*) from outside.session").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_value_that_inside_rows_refer_to_moves_to_another_key() {
    let world = World::zoo(
        "create table zoo.account (id int primary key, name text not null unique); insert into zoo.account values (1, 'bob');
         create table zoo.session (id int primary key, name text references zoo.account (name) on delete cascade);
         create table zoo.note (id int primary key, name text references zoo.account (name) on delete set null);
         insert into zoo.session values (7, 'bob'); insert into zoo.note values (7, 'bob')",
        &["zoo.account", "zoo.session", "zoo.note"],
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    world.sql("delete from zoo.account; insert into zoo.account values (2, 'bob'); insert into zoo.session values (7, 'bob'), (8, 'bob'); update zoo.note set name = 'bob'").await;
    world.restores_to(&backup, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r05_dangling_references_that_somebody_made_are_gone_after_a_restore() {
    let world = World::zoo(
        "create table zoo.parent (id int primary key); create table zoo.child (id int primary key, parent_id int references zoo.parent);
         insert into zoo.parent values (1), (2); insert into zoo.child values (1, 1), (2, 2), (3, null)",
        &["zoo.child", "zoo.parent"],
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    world.sql_as_superuser("alter table zoo.child disable trigger all; alter table zoo.parent disable trigger all; delete from zoo.parent where id = 2; update zoo.child set parent_id = 9 where id = 1; insert into zoo.child values (4, 77); alter table zoo.child enable trigger all; alter table zoo.parent enable trigger all").await;
    world.restores_to(&backup, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r05_a_file_with_dangling_references_is_not_restored_though_no_row_would_be_written() {
    let world = World::zoo(
        "create table zoo.parent (id int primary key); create table zoo.child (id int primary key, parent_id int constraint known_parent references zoo.parent);
         insert into zoo.parent values (1); insert into zoo.child values (1, 1)",
        &["zoo.child", "zoo.parent"],
    )
    .await;
    world.sql_as_superuser("alter table zoo.child disable trigger all; update zoo.child set parent_id = 9; alter table zoo.child enable trigger all").await;
    let backup = world.backup().await;
    let message = world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
    assert!(message.contains("known_parent") && message.contains("zoo.child"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r07_triggers_do_not_fire_and_are_afterwards_as_they_were() {
    let world = World::zoo(
        "create table zoo.item (id int primary key, note text);
         create table zoo.part (id int primary key, note text) partition by range (id);
         create table zoo.part_1 partition of zoo.part for values from (0) to (100);
         create table outside.log (id serial primary key, what text);
         insert into zoo.item select i, 'n' || i from generate_series(1, 20) i; insert into zoo.part select * from zoo.item;
         create function zoo.alters() returns trigger language plpgsql as $$ begin new.note := 'altered'; return new; end $$;
         create function zoo.drops() returns trigger language plpgsql as $$ begin return null; end $$;
         create function zoo.raises() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
         create function zoo.writes() returns trigger language plpgsql as $$ begin insert into outside.log (what) values (tg_op); return null; end $$;",
        &["zoo.item", "zoo.part"],
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    world.sql("delete from zoo.item where id < 5; update zoo.item set note = 'x' where id > 10; insert into zoo.item values (99, 'y'); delete from zoo.part where id < 5; update zoo.part set note = 'x'").await;
    world
        .sql(
            "create trigger a before insert or update on zoo.item for each row execute function zoo.alters();
             create trigger b before insert or delete on zoo.item for each row execute function zoo.drops();
             create trigger c before update on zoo.item for each statement execute function zoo.raises();
             create trigger d after insert or update or delete on zoo.item for each row execute function zoo.writes();
             create constraint trigger e after insert on zoo.item deferrable initially deferred for each row execute function zoo.writes();
             create trigger \"f \"\"quoted\"\"\" after update on zoo.item for each row execute function zoo.raises();
             create trigger p before insert or update on zoo.part for each row execute function zoo.alters();
             create trigger q before insert on zoo.part_1 for each row execute function zoo.raises();
             create trigger r before update on zoo.part_1 for each row execute function zoo.drops();
             alter table zoo.item enable always trigger d; alter table zoo.item disable trigger c; alter table zoo.item enable replica trigger b;
             alter table zoo.part_1 enable always trigger r; alter table zoo.part_1 disable trigger p;
             alter table zoo.item owner to platform_triggers; alter table zoo.part owner to platform_triggers; alter table zoo.part_1 owner to platform_triggers",
        )
        .await;
    let triggers = "select tgrelid::regclass, tgname, tgenabled from pg_trigger where not tgisinternal and tgrelid::regclass::text like 'zoo.%'";
    let states = world.rows(triggers).await;
    assert!(states.contains(",A)") && states.contains(",D)") && states.contains(",R)") && states.contains(",O)"), "{states}");
    world.restores_to(&backup, &before).await;
    assert_eq!(world.value("select count(*) from outside.log").await, "0");
    assert_eq!(world.rows(triggers).await, states);
}

#[tokio::test(flavor = "multi_thread")]
async fn r07_triggers_that_cannot_be_disabled_are_named_at_the_start() {
    let mut world = World::zoo(
        "create table zoo.item (id int primary key); create function zoo.drops() returns trigger language plpgsql as $$ begin return null; end $$",
        &["zoo.item"],
    )
    .await;
    world.sql("create trigger dropping before insert on zoo.item for each row execute function zoo.drops()").await;
    world.terminate().await;
    let printed = world.start().await.unwrap_err();
    assert!(printed.contains("cannot disable trigger dropping"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_a_constraint_made_since_that_the_file_violates_is_named_and_nothing_is_changed() {
    let world = World::zoo(
        "create table zoo.item (id int primary key, code text, amount int);
         insert into zoo.item values (1, 'secret-code', -5), (2, 'secret-code', null)",
        &["zoo.item"],
    )
    .await;
    let backup = world.backup().await;
    world.sql("delete from zoo.item").await;
    for (change, named) in [
        ("alter table zoo.item add constraint positive check (amount > 0)", "positive"),
        ("alter table zoo.item drop constraint positive; alter table zoo.item add constraint one_each unique (code)", "one_each"),
        (
            "alter table zoo.item drop constraint one_each; alter table zoo.item alter amount set not null",
            "NOT NULL of column amount",
        ),
        (
            "alter table zoo.item alter amount drop not null; create unique index odd on zoo.item (upper(code)) where amount is null or amount < 0",
            "odd",
        ),
    ] {
        world.sql(change).await;
        let message = world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
        assert!(message.contains(named) && message.contains("item"), "{message}");
        assert!(!message.contains("secret-code"), "{message}");
    }
    assert!(!world.log().contains("secret-code"));
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_a_backup_of_rows_that_an_unchecked_constraint_forbids_is_restored_where_they_need_not_be_written() {
    let world = World::zoo(
        "create table zoo.item (id int primary key, amount int); insert into zoo.item values (1, -5), (2, 5);
         alter table zoo.item add constraint positive check (amount > 0) not valid",
        &["zoo.item"],
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    world.sql("update zoo.item set amount = 6 where id = 2").await;
    world.restores_to(&backup, &before).await;
    world.sql("update zoo.item set amount = 6").await;
    let message = world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
    assert!(message.contains("positive") && message.contains("item"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r33_a_name_that_another_row_took_after_its_owner_was_marked_as_deleted_goes_back() {
    let world = World::zoo(
        "create table zoo.account (id int primary key, name text not null, mail text not null unique, deleted timestamptz);
         create unique index on zoo.account (lower(name)) where deleted is null;
         insert into zoo.account values (1, 'Bob', 'bob@x', null), (2, 'Eve', 'eve@x', '2025-01-01')",
        &["zoo.account"],
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    world
        .sql(
            "update zoo.account set deleted = now(), mail = 'old-bob@x' where id = 1; insert into zoo.account values (3, 'BOB', 'bob@x', null);
             update zoo.account set deleted = null, mail = 'new-eve@x' where id = 2; insert into zoo.account values (4, 'eve', 'eve@x', now())",
        )
        .await;
    world.restores_to(&backup, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r28_whoever_asks_for_a_restore_need_not_be_in_the_file_and_is_told_by_the_operation() {
    let world =
        World::zoo("create table zoo.account (name text primary key); insert into zoo.account values ('ada')", &["zoo.account"])
            .await;
    let backup = world.backup().await;
    // The account of the caller, by the name the service knows it by, was made after the backup.
    let caller = "token:static";
    world.sql(&format!("insert into zoo.account values ('{caller}')")).await;
    let name = world.begin_restore(&backup, "").await;
    world.outcome(&name).await.unwrap();
    assert_eq!(world.rows("select name from zoo.account").await, "(ada)");
    assert_eq!(world.wait(&name).await.metadata.unwrap().caller, caller);
    // Nothing that the service keeps for itself goes with an account.
    let references = "select count(*) from pg_constraint where contype = 'f' and connamespace = 'holdfast'::regnamespace
        and (select relnamespace from pg_class where oid = confrelid) <> connamespace";
    assert_eq!(world.value(references).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn r13_circles_of_foreign_keys_and_deep_trees_are_restored() {
    let world = World::zoo(
        "create table zoo.a (id int primary key, b int not null); create table zoo.b (id int primary key, a int not null references zoo.a);
         create table zoo.x (id int primary key, y int); create table zoo.y (id int primary key, z int not null);
         create table zoo.z (id int primary key, x int not null references zoo.x on delete cascade);
         create table zoo.tree (id int primary key, up int references zoo.tree on delete cascade); create index on zoo.tree (up);
         begin; alter table zoo.a add foreign key (b) references zoo.b deferrable initially deferred;
         insert into zoo.a values (1, 1), (2, 2); insert into zoo.b values (1, 1), (2, 2); commit;
         alter table zoo.y add foreign key (z) references zoo.z on delete restrict; alter table zoo.x add foreign key (y) references zoo.y on delete set null;
         insert into zoo.x values (1, null); insert into zoo.z values (1, 1); insert into zoo.y values (1, 1); update zoo.x set y = 1;
         insert into zoo.tree select i, nullif(i - 1, 0) from generate_series(1, 10000) i",
        &["zoo.a", "zoo.b", "zoo.x", "zoo.y", "zoo.z", "zoo.tree"],
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    assert!(before.contains(&format!("zoo.tree|{DEEP}|")), "{before}");
    world.sql("update zoo.tree set up = null; delete from zoo.tree where id > 5000; insert into zoo.tree select i, i - 1 from generate_series(10001, 20000) i where i > 10001 union all select 10001, null").await;
    world.sql("update zoo.x set y = null; delete from zoo.y; delete from zoo.z; delete from zoo.x; begin; delete from zoo.b where id = 2; delete from zoo.a where id = 2; insert into zoo.b values (3, 1); update zoo.a set b = 3; commit").await;
    world.restores_to(&backup, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_sequences_are_raised_never_lowered_and_stay_when_a_restore_fails() {
    let catalog = resource("zoo", &["zoo.item", "zoo.down"]) + "sequences = ['zoo.free']\n";
    let world = World::zoo_with(
        "create table zoo.item (id bigint generated always as identity primary key, note text);
         create table zoo.down (id int primary key, n bigint); create sequence zoo.backwards increment -2 owned by zoo.down.n;
         create sequence zoo.free start 5; alter table zoo.down alter n set default nextval('zoo.backwards');
         insert into zoo.item (note) select 'x' from generate_series(1, 100); insert into zoo.down select i from generate_series(1, 10) i;
         select nextval('zoo.free')",
        &catalog,
    )
    .await;
    let sequences = "select last_value, is_called from zoo.item_id_seq union all select last_value, is_called from zoo.backwards union all select last_value, is_called from zoo.free";
    let saved = world.rows(sequences).await;
    let backup = world.backup().await;
    // Lower here: raised to the file's state.
    world.sql("delete from zoo.item; delete from zoo.down; alter sequence zoo.item_id_seq restart; alter sequence zoo.backwards restart; alter sequence zoo.free restart").await;
    world.restore(&backup, "").await.unwrap();
    assert_eq!(world.rows(sequences).await, saved);
    world.sql(&format!("do $$ begin for i in 1..{AFTERWARDS} loop insert into zoo.item (note) values ('y'); insert into zoo.down values (100 + i); end loop; end $$")).await;
    assert_eq!(world.value("select count(distinct n) = count(*) from zoo.down").await, "true");
    // Higher here: left alone.
    let higher = world.rows(sequences).await;
    world.restore(&backup, "").await.unwrap();
    assert_eq!(world.rows(sequences).await, higher);
    // A restore that fails at its end.
    world.sql("alter sequence zoo.item_id_seq restart; alter table zoo.item add constraint never check (note <> 'x') not valid; delete from zoo.item").await;
    let lower = world.rows(sequences).await;
    world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
    assert_eq!(world.rows(sequences).await, lower);
}

#[tokio::test(flavor = "multi_thread")]
async fn b09_a_sequence_in_the_file_is_ahead_of_every_row_however_fast_others_write() {
    let world = World::zoo("create table zoo.item (id serial primary key, note text)", &["zoo.item"]).await;
    let mut connection = world.platform().await;
    let writer = tokio::spawn(async move {
        loop {
            run(&mut connection, "insert into zoo.item (note) select 'x' from generate_series(1, 50)").await;
        }
    });
    world.until("exists (select from zoo.item)").await;
    let backup = world.backup().await;
    writer.abort();
    let _ = writer.await;
    world.sql("delete from zoo.item; alter sequence zoo.item_id_seq restart").await;
    world.restore(&backup, "").await.unwrap();
    assert_ne!(world.value("select count(*) from zoo.item").await, "0");
    world
        .sql(&format!("do $$ begin for i in 1..{AFTERWARDS} loop insert into zoo.item (note) values ('y'); end loop; end $$"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_values_that_rows_have_swapped_go_back_and_outside_rows_stay() {
    let world = World::zoo(
        "create table zoo.item (id int primary key, name text not null unique, short varchar(2) not null unique, long varchar(20) not null unique,
             n int not null unique, a int not null, b text not null, shown text not null, live boolean not null default true, mail text not null,
             coded text not null unique check (coded ~ '^[a-z][a-z0-9]*$'), positive int not null unique check (positive > 0), maybe uuid unique, day date not null unique,
             at timestamptz not null unique, price numeric(6, 2) not null unique, ratio float8 not null unique, raw bytea not null unique, upper_name text generated always as (upper(name)) stored, unique (a, b));
         create unique index on zoo.item (lower(shown)); create unique index on zoo.item (mail) where live;
         insert into zoo.item select i, 'n' || i, 's' || i, 'l' || i, i, 1, 'b' || i, 'S' || i, true, 'm' || i, 'c' || i, i, gen_random_uuid(), '2025-01-01'::date + i,
             '2025-01-01Z'::timestamptz + i * interval '1 day', i, i, ('\\x0' || i)::bytea from generate_series(1, 6) i;
         create table outside.session (id int primary key, item_id int constraint c references zoo.item on delete cascade);
         insert into outside.session select i, i from generate_series(1, 6) i",
        &["zoo.item"],
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    let columns =
        ["name", "short", "long", "n", "b", "shown", "mail", "coded", "positive", "maybe", "day", "at", "price", "ratio", "raw"];
    // Each moves on by one: a circle of six.
    for column in columns {
        rotate(&world, column).await;
    }
    let sessions = world.rows("select id, item_id, xmin from outside.session").await;
    world.restores_to(&backup, &before).await;
    assert_eq!(world.rows("select id, item_id, xmin from outside.session").await, sessions);
}

/// Moves the values of a unique column on by one row, within a transaction without the indexes.
async fn rotate(world: &World, column: &str) {
    let indexes = "select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition,
        (select conname from pg_constraint where conindid = indexrelid and contype = 'u') as con,
        (select pg_get_constraintdef(oid) from pg_constraint where conindid = indexrelid and contype = 'u') as condef
        from pg_index where indrelid = 'zoo.item'::regclass and indisunique and not indisprimary";
    world
        .sql(&format!(
            "do $do$ declare r record; again text[] := '{{}}'; begin
                 for r in {indexes} loop
                     if r.con is null then execute 'drop index ' || r.name; again := again || r.definition;
                     else execute format('alter table zoo.item drop constraint %I', r.con); again := again || format('alter table zoo.item add constraint %I %s', r.con, r.condef); end if;
                 end loop;
                 update zoo.item i set {column} = j.{column} from zoo.item j where j.id = i.id % 6 + 1;
                 for i in 1..cardinality(again) loop execute again[i]; end loop;
             end $do$"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_without_one_to_spare_are_swapped_by_taking_rows_out() {
    let world = World::zoo_without_service("select 1", &resource("zoo", &["zoo.item", "zoo.room"])).await;
    world.sql_as_superuser("create extension btree_gist schema public").await;
    let mut world = world;
    world
        .sql(
            "create type zoo.colour as enum ('red', 'green');
             create table zoo.item (id int primary key, colour zoo.colour not null unique, flag boolean not null, other int not null, unique (flag, other));
             insert into zoo.item values (1, 'red', true, 1), (2, 'green', false, 1);
             create table zoo.room (id int primary key, number int not null, during int4range not null, exclude using gist (number with =, during with &&));
             insert into zoo.room values (1, 7, '[1,5)'), (2, 7, '[5,9)'), (3, 8, '[1,9)')",
        )
        .await;
    world.sql(GRANTS).await;
    world.start().await.unwrap();
    let before = world.digests();
    let backup = world.backup().await;
    world.sql("delete from zoo.item; insert into zoo.item values (2, 'red', true, 1), (1, 'green', false, 1)").await;
    world.sql("delete from zoo.room; insert into zoo.room values (2, 7, '[1,5)'), (1, 7, '[5,9)'), (3, 8, '[2,3)')").await;
    let result = world.restore(&backup, "").await.unwrap();
    assert_eq!(world.digests(), before);
    let change = &result.changes[0];
    assert_eq!((change.items_removed, change.items_added, change.items_changed), (0, 0, 2), "{change:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_a_key_identities_and_partitions_are_restored() {
    let world = World::zoo(
        "create table zoo.loose (a int, b text); insert into zoo.loose values (1, 'x'), (1, 'x'), (null, null), (2, 'y');
         create table zoo.late (id int, constraint late_id primary key (id) deferrable initially deferred); insert into zoo.late values (1), (2);
         create table zoo.numbered (id bigint generated always as identity primary key, note text); insert into zoo.numbered (note) values ('a'), ('b');
         create table zoo.counted (key text primary key, n bigint generated always as identity unique, note text); insert into zoo.counted (key) values ('a'), ('b');
         create table zoo.counted_child (id int primary key, key text references zoo.counted on delete cascade); insert into zoo.counted_child values (1, 'a');
         create table zoo.moving (id int, part text, note text, primary key (id, part)) partition by list (part);
         create table zoo.moving_a partition of zoo.moving for values in ('a'); create table zoo.moving_b partition of zoo.moving for values in ('b');
         insert into zoo.moving values (1, 'a', 'x'), (2, 'b', 'y');
         create table zoo.moving_loose (id int, part text) partition by list (part);
         create table zoo.moving_loose_a partition of zoo.moving_loose for values in ('a'); create table zoo.moving_loose_b partition of zoo.moving_loose for values in ('b');
         insert into zoo.moving_loose values (1, 'a'), (2, 'b');
         create table zoo.only_key (a int, b int, primary key (a, b)); insert into zoo.only_key values (1, 2);
         create table zoo.only_identity (id bigint generated always as identity primary key); insert into zoo.only_identity default values;
         create table zoo.derived (id int primary key, twice int generated always as (id * 2) stored unique); insert into zoo.derived values (1), (2)",
        &["zoo.loose", "zoo.late", "zoo.numbered", "zoo.counted", "zoo.counted_child", "zoo.moving", "zoo.moving_loose", "zoo.only_key", "zoo.only_identity", "zoo.derived"],
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    world
        .sql(
            "delete from zoo.loose where ctid = (select min(ctid) from zoo.loose); insert into zoo.loose values (7, 'z');
             update zoo.late set id = id + 1; delete from zoo.numbered where id = 1; insert into zoo.numbered (note) values ('c');
             delete from zoo.counted; insert into zoo.counted (key) values ('b'), ('a'); insert into zoo.counted_child values (1, 'a');
             update zoo.moving set part = case part when 'a' then 'b' else 'a' end; update zoo.moving_loose set part = case part when 'a' then 'b' else 'a' end;
             update zoo.only_key set b = 3; delete from zoo.only_identity; insert into zoo.only_identity default values; update zoo.derived set id = id + 5",
        )
        .await;
    world.restores_to(&backup, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_target_is_filled() {
    let world = World::zoo(BUSY, &["zoo.parent", "zoo.child"]).await;
    let before = world.digests();
    let backup = world.backup().await;
    world.sql("delete from zoo.parent").await;
    world.restores_to(&backup, &before).await;
    world.sql("drop table zoo.child, zoo.parent").await;
    world.sql(BUSY.split("insert").next().unwrap()).await;
    world.sql(GRANTS).await;
    world.restores_to(&backup, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r34_chosen_resources_are_restored_alone_and_those_they_need_are_named() {
    let catalog = resource("people", &["zoo.person"])
        + &resource("cars", &["zoo.car"])
        + &resource("trees", &["zoo.tree"])
        + &resource("trips", &["zoo.trip"]);
    let world = World::zoo_with(
        "create table zoo.person (id int primary key, name text); create table zoo.car (id int primary key, owner int not null references zoo.person on delete cascade);
         create table zoo.tree (id int primary key, name text);
         create table zoo.trip (id int primary key, car int references zoo.car, tree int references zoo.tree);
         insert into zoo.person values (1, 'a'), (2, 'b'); insert into zoo.car values (1, 1); insert into zoo.tree values (1, 'oak')",
        &catalog,
    )
    .await;
    let backup = world.backup().await;
    let choose = |names: &[&str]| RestoreRequest {
        resources: names.iter().map(|name| format!("resources/{name}")).collect(),
        ..all_of(&backup)
    };
    let message = world.restore_fails(choose(&["cars"]), "INVALID_FIELD").await;
    assert!(message.contains("resources/people"), "{message}");
    // All at once, also those that are needed by what is needed.
    let message = world.restore_fails(choose(&["trips"]), "INVALID_FIELD").await;
    assert!(message.contains("restore resources/cars, resources/trees, resources/people with it"), "{message}");
    world.sql("update zoo.person set name = 'x'; update zoo.tree set name = 'elm'; insert into zoo.car values (2, 2)").await;
    world.try_restore(choose(&["people"])).await.unwrap();
    assert_eq!(world.rows("select name from zoo.person").await, "(a) (b)");
    assert_eq!(world.rows("select id from zoo.car").await, "(1) (2)");
    assert_eq!(world.rows("select name from zoo.tree").await, "(elm)");
    // A row that another resource refers to is not removed under it.
    world.sql("insert into zoo.person values (3, 'c'); insert into zoo.car values (3, 3)").await;
    let message = world.restore_fails(choose(&["people"]), "RESTORE_CONSTRAINT_VIOLATION").await;
    assert!(message.contains("zoo.car"), "{message}");
    world.try_restore(choose(&["people", "cars"])).await.unwrap();
    assert_eq!(world.rows("select id from zoo.car").await, "(1)");
    assert_eq!(world.rows("select name from zoo.tree").await, "(elm)");
}

#[tokio::test(flavor = "multi_thread")]
async fn r29_hidden_code_runs_as_the_limited_role_only() {
    let world = World::zoo(
        "create table outside.ran (who text); grant insert on outside.ran to public; grant usage on schema outside to public;
         create function outside.spy(int) returns boolean language plpgsql as $$ begin insert into outside.ran values (current_user); return true; end $$;
         create table zoo.item (id int primary key); insert into zoo.item values (1)",
        &["zoo.item"],
    )
    .await;
    let backup = world.backup().await;
    world.sql("delete from zoo.item; alter table zoo.item add check (outside.spy(id))").await;
    world.restore(&backup, "").await.unwrap();
    assert_eq!(world.rows("select distinct who from outside.ran").await, "(holdfast_restore)");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_tables_and_one_as_wide_as_tables_can_be() {
    const TABLES: usize = 300;
    let names: Vec<String> = (1..=TABLES).map(|n| format!("zoo.t{n}")).chain(["zoo.wide".into()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::zoo(
        &format!(
            "do $$ begin for i in 1..{TABLES} loop
                 execute format('create table zoo.t%s (id int primary key, up int%s, name text unique)', i, case when i > 1 then ' references zoo.t' || i - 1 else '' end);
                 execute format('insert into zoo.t%s select j, j, ''n'' || j from generate_series(1, 3) j', i); end loop;
                 execute 'create table zoo.wide (' || (select string_agg('c' || n || ' int', ',') from generate_series(1, 1500) n) || ', primary key (c1))';
                 execute 'insert into zoo.wide select ' || (select string_agg('i', ',') from generate_series(1, 1500)) || ' from generate_series(1, 5) i'; end $$"
        ),
        &names,
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    world.sql("update zoo.wide set c1500 = 0; update zoo.t300 set name = 'x' || id; delete from zoo.t300 where id = 1; delete from zoo.t299 where id = 1").await;
    let began = Instant::now();
    world.restores_to(&backup, &before).await;
    assert!(began.elapsed() < Duration::from_secs(180), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_outside_the_search_path_are_found() {
    let mut world = World::zoo_without_service("select 1", &resource("zoo", &["zoo.item", "zoo.use"])).await;
    world.sql_as_superuser("create schema ext; create extension hstore schema ext; grant usage on schema ext to public").await;
    world
        .sql(
            "create collation zoo.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); grant usage on schema zoo to public;
             create table zoo.item (name public.citext, tags ext.hstore, primary key (name, tags), label text not null); create unique index on zoo.item (label collate zoo.ci);
             create table zoo.use (id int primary key, name public.citext, tags ext.hstore, foreign key (name, tags) references zoo.item match full on update cascade on delete cascade);
             insert into zoo.item values ('Ab', 'a=>1', 'one'), ('Cd', '', 'two'); insert into zoo.use values (1, 'ab', 'a=>1'), (2, null, null)",
        )
        .await;
    world.sql(GRANTS).await;
    world.start().await.unwrap();
    let before = world.digests();
    let backup = world.backup().await;
    world.sql("update zoo.item set name = 'AB' where name = 'ab'; update zoo.item set label = 'x' where label = 'one'; update zoo.item set label = 'ONE' where label = 'two'; update zoo.item set label = 'TWO' where label = 'x'; delete from zoo.use where id = 2").await;
    world.restores_to(&backup, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_has_the_counts_of_what_was_done() {
    let world = World::zoo("create table zoo.item (id int primary key, name text unique); insert into zoo.item select i, 'n' || i from generate_series(1, 10) i", &["zoo.item"]).await;
    let backup = world.backup().await;
    world.sql("delete from zoo.item where id <= 3; update zoo.item set name = 'x' || id where id > 8; insert into zoo.item values (50, 'new')").await;
    let operation = world.begin_restore(&backup, "").await;
    let Ok(Outcome::Restore(result)) = world.outcome(&operation).await else { panic!("{}", world.log()) };
    let change = &result.changes[0];
    assert_eq!((change.items_removed, change.items_added, change.items_changed), (1, 3, 2), "{change:?}");
}
