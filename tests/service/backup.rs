//! What a backup reads: one consistent state, all of it, or nothing and the reason why.

use std::time::{Duration, Instant};

use super::world::{PASSPHRASE, World, eventually};
use super::zoo::{GRANTS, resource, run, signal};
use holdfast::grpc::proto::backup::BackupRequest;

const TRUNCATIONS: usize = 4;
const SNAPSHOTS: usize = 4;
const TERMINATIONS: usize = 4;

/// A table of about 24 MB, so that a backup can be met in the middle of it.
const BIG: &str = "create table zoo.big (id int primary key, text text not null);
    insert into zoo.big select i, md5(i::text) || repeat(md5((i * 7)::text), 5) from generate_series(1, 120000) i;";

/// Whether the session that is to take the snapshot waits in its LOCK TABLE. The tables of these tests have no index:
/// to look at one waits for the table already.
const WAITS_FOR_LOCK_TABLE: &str = "exists (select from pg_stat_activity where datname = current_database()
    and usename = 'holdfast_backup' and wait_event_type = 'Lock' and query like '%LOCK TABLE%')";

/// What a backup is refused or fails with.
async fn failure(world: &World) -> (String, String) {
    let error = world.try_backup(BackupRequest::default()).await.expect_err("it fails");
    assert!(world.files().is_empty() && world.drafts().is_empty(), "{:?} {:?}", world.files(), world.drafts());
    (error.reason, error.message)
}

/// What the service prints when it does not start.
async fn startup(mut world: World) -> String {
    world.start().await.expect_err("it does not start")
}

#[tokio::test(flavor = "multi_thread")]
async fn b01_every_backup_is_one_moment_of_a_platform_that_is_written_to() {
    let world = World::zoo(
        "create table zoo.purse (id int primary key, amount bigint not null);
         create table zoo.payment (id bigserial primary key, payer int not null references zoo.purse, payee int not null references zoo.purse, amount int not null);
         insert into zoo.purse select i, 1000 from generate_series(1, 20) i",
        &["zoo.payment", "zoo.purse"],
    )
    .await;
    let mut writers = Vec::new();
    for writer in 0..4_i32 {
        let mut connection = world.platform().await;
        writers.push(tokio::spawn(async move {
            for step in 0.. {
                let (payer, payee) = ((writer * 5 + step) % 20 + 1, (writer * 3 + step * 7 + 1) % 20 + 1);
                let (low, high) = (payer.min(payee), payer.max(payee));
                run(
                    &mut connection,
                    &format!(
                        "begin; select from zoo.purse where id in ({low}, {high}) order by id for update;
                         insert into zoo.payment (payer, payee, amount) values ({payer}, {payee}, 3);
                         update zoo.purse set amount = amount - 3 where id = {payer};
                         update zoo.purse set amount = amount + 3 where id = {payee}; commit"
                    ),
                )
                .await;
            }
        }));
    }
    let mut backups = Vec::new();
    for _ in 0..SNAPSHOTS {
        let payments = world.value("select count(*) from zoo.payment").await;
        world.until(&format!("count(*) > {payments} from zoo.payment")).await;
        backups.push(world.backup().await);
    }
    writers.iter().for_each(tokio::task::JoinHandle::abort);
    for writer in writers {
        let _ = writer.await;
    }
    let mut payments = Vec::new();
    for backup in &backups {
        world.restore(backup, "").await.unwrap();
        let wrong = "select count(*) from zoo.purse p where amount <> 1000
             - coalesce((select sum(amount) from zoo.payment where payer = p.id), 0)
             + coalesce((select sum(amount) from zoo.payment where payee = p.id), 0)";
        assert_eq!(world.value(wrong).await, "0");
        payments.push(world.value("select count(*) from zoo.payment").await.parse::<u64>().unwrap());
    }
    assert!(payments.is_sorted_by(|one, next| one < next), "nobody wrote: {payments:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn b02_a_table_truncated_while_we_wait_for_its_lock_is_not_backed_up_empty() {
    let world = World::zoo("create table zoo.item (id int); insert into zoo.item values (0)", &["zoo.item"]).await;
    for id in 1..=TRUNCATIONS {
        let mut other = world.open_transaction(&format!("truncate zoo.item; insert into zoo.item values ({id})")).await;
        let operation = world.begin_backup().await;
        world.until(WAITS_FOR_LOCK_TABLE).await;
        run(&mut other, "commit").await;
        let backup = world.backup_outcome(&operation).await.unwrap();
        assert_eq!(backup.resources[0].item_count, 1);
        world.sql("update zoo.item set id = -1").await;
        world.restore(&backup, "").await.unwrap();
        assert_eq!(world.value("select id from zoo.item").await, id.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b02_a_table_rewritten_while_we_wait_for_its_lock_is_backed_up_as_it_is_then() {
    let world = World::zoo("create table zoo.item (id int); insert into zoo.item values (7)", &["zoo.item"]).await;
    let mut other = world.open_transaction("alter table zoo.item alter id type bigint, add note text default 'new'").await;
    let operation = world.begin_backup().await;
    world.until(WAITS_FOR_LOCK_TABLE).await;
    run(&mut other, "commit").await;
    let backup = world.backup_outcome(&operation).await.unwrap();
    world.sql("update zoo.item set id = 5000000000, note = 'old'").await;
    world.restore(&backup, "").await.unwrap();
    assert_eq!(world.rows("select * from zoo.item").await, "(7,new)");
}

#[tokio::test(flavor = "multi_thread")]
async fn b03_row_security_is_refused_and_never_shrinks_a_backup() {
    let world =
        World::zoo("create table zoo.item (id int primary key); insert into zoo.item values (1), (2)", &["zoo.item"]).await;
    world.sql("alter table zoo.item enable row level security; create policy half on zoo.item using (id = 1)").await;
    let (reason, message) = failure(&world).await;
    assert_eq!(reason, "CATALOG_MISMATCH");
    assert!(message.contains("zoo.item has row security"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn b04_a_partitioned_table_is_in_the_backup_with_all_partitions_of_partitions() {
    let world = World::zoo(
        "create table zoo.event (day date, kind text, note text, primary key (day, kind)) partition by range (day);
         create table zoo.event_2025 partition of zoo.event for values from ('2025-01-01') to ('2026-01-01') partition by list (kind);
         create table zoo.event_2025_a partition of zoo.event_2025 for values in ('a');
         create table zoo.event_2025_b partition of zoo.event_2025 default;
         create table zoo.event_rest partition of zoo.event default;
         insert into zoo.event select '2024-12-01'::date + i, k from generate_series(0, 500) i, unnest('{a,b,c}'::text[]) k",
        &["zoo.event"],
    )
    .await;
    let before = world.digests();
    let backup = world.backup().await;
    assert_eq!(backup.resources[0].item_count, 1503);
    world.sql("delete from zoo.event where kind = 'a'; update zoo.event set kind = 'z' where kind = 'b'; drop table zoo.event_2025_b").await;
    world.sql("create table zoo.event_2025_b partition of zoo.event_2025 default").await;
    world.restores_to(&backup, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b05_settings_of_roles_and_of_the_database_change_no_byte() {
    let mut world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let before = world.digests();
    let plain = world.backup().await;
    let hostile = [
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
        "timezone = 'Asia/Kathmandu'",
        "search_path = platform, public",
        "default_transaction_read_only = on",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "statement_timeout = '300ms'",
        "lock_timeout = '1ms'",
        "idle_in_transaction_session_timeout = '50ms'",
        "xmloption = document",
        "client_encoding = 'LATIN1'",
        "standard_conforming_strings = off",
        "synchronous_commit = off",
        "client_min_messages = debug1",
        "array_nulls = off",
        "quote_all_identifiers = on",
        "lc_monetary = 'C'",
        "row_security = on",
        "transform_null_equals = on",
        "idle_session_timeout = '1500ms'",
        "backslash_quote = on",
    ];
    for role in ["holdfast_state", "holdfast_backup", "holdfast_restore"] {
        for setting in hostile {
            world.sql_as_superuser(&format!("alter role {role} in database {} set {setting}", world.database)).await;
        }
    }
    world.sql_as_superuser(&format!("alter database {} set datestyle = 'German'", world.database)).await;
    world.terminate().await;
    world.start().await.unwrap();
    world.damage();
    world.restore(&plain, PASSPHRASE).await.unwrap();
    assert_eq!(world.digests(), before, "a file from before, read under hostile settings");
    let hostile = world.backup().await;
    world.damage();
    world.restore(&hostile, PASSPHRASE).await.unwrap();
    assert_eq!(world.digests(), before, "a file written and read under hostile settings");
}

#[tokio::test(flavor = "multi_thread")]
async fn b05_foreign_keys_switched_off_for_a_role_are_refused() {
    let world = World::zoo_without_service("create table zoo.item (id int primary key)", &resource("zoo", &["zoo.item"])).await;
    world
        .sql_as_superuser(&format!(
            "alter role holdfast_restore in database {} set session_replication_role = replica",
            world.database
        ))
        .await;
    let printed = startup(world).await;
    assert!(printed.contains("session_replication_role"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn b06_b07_a_backup_whose_session_is_ended_is_not_resumed_and_leaves_no_file() {
    let world = World::zoo(BIG, &["zoo.big"]).await;
    for _ in 0..TERMINATIONS {
        let operation = world.begin_backup().await;
        world.catch(&copying("pg_terminate_backend(pid)")).await;
        let error = world.backup_outcome(&operation).await.unwrap_err();
        assert_eq!(error.reason, "DATABASE_UNAVAILABLE", "{error:?}");
        assert!(world.files().is_empty() && world.drafts().is_empty());
    }
    assert_eq!(world.backup().await.resources[0].item_count, 120_000);
}

/// Something of the session that copies, while it does.
fn copying(what: &str) -> String {
    format!(
        "select {what} from pg_stat_activity where datname = current_database() and usename = 'holdfast_backup'
             and state = 'active' and query like 'COPY%'"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn b08_a_table_that_is_gone_or_renamed_is_named_and_nothing_is_backed_up() {
    let tables = "create table zoo.one (id int primary key); create table zoo.two (id int primary key)";
    let world = World::zoo(tables, &["zoo.one", "zoo.two"]).await;
    for (change, undo) in [
        ("alter table zoo.two rename to three", "alter table zoo.three rename to two"),
        ("alter table zoo.two set schema outside", "alter table outside.two set schema zoo"),
        ("drop table zoo.two", "create table zoo.two (id int primary key)"),
    ] {
        world.sql(change).await;
        let (reason, message) = failure(&world).await;
        assert_eq!(reason, "CATALOG_MISMATCH", "{change}: {message}");
        assert!(message.contains("zoo.two"), "{change}: {message}");
        world.sql(undo).await;
        world.sql(GRANTS).await;
    }
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b12_a_backup_that_others_queue_behind_gives_way() {
    let world = World::zoo(BIG, &["zoo.big"]).await;
    let operation = world.begin_backup().await;
    // The session that copies is paused, as a slow volume would pause it.
    let pid = world.catch(&copying("pid")).await;
    signal("-STOP", &pid);
    let mut other = world.platform().await;
    let began = Instant::now();
    let alter = tokio::spawn(async move { run(&mut other, "alter table zoo.big add note text").await });
    eventually(Duration::from_secs(30), || world.log().contains("the backup begins again").then_some(())).await;
    signal("-CONT", &pid);
    alter.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(30), "the ALTER waited {:?}", began.elapsed());
    assert_eq!(world.backup_outcome(&operation).await.unwrap().resources[0].item_count, 120_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn b13_a_table_locked_for_long_is_given_up_after_a_few_tries_and_its_holder_is_named() {
    let world = World::zoo("create table zoo.item (id int primary key)", &["zoo.item"]).await;
    let mut other = world.open_transaction("lock table zoo.item in access exclusive mode").await;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut other).await.unwrap();
    let began = Instant::now();
    let (reason, message) = failure(&world).await;
    assert_eq!(reason, "TABLES_LOCKED");
    assert!(message.contains("zoo.item") && message.contains(&format!("session {pid} of platform")), "{message}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    run(&mut other, "commit").await;
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b21_a_table_replaced_by_a_view_is_not_read() {
    let world = World::zoo(
        "create table zoo.item (id int primary key);
         create table outside.called (who text);
         create function outside.trap() returns int language plpgsql security definer as $$ begin
             insert into outside.called values (session_user); return 1; end $$;",
        &["zoo.item"],
    )
    .await;
    world.sql("drop table zoo.item; create view zoo.item as select outside.trap() as id").await;
    world.sql(GRANTS).await;
    let (reason, message) = failure(&world).await;
    assert_eq!(reason, "CATALOG_MISMATCH");
    assert!(message.contains("zoo.item is not an ordinary or partitioned table"), "{message}");
    assert_eq!(world.value("select count(*) from outside.called").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn b29_what_cannot_be_backed_up_is_refused_at_the_start_and_all_of_it_is_said() {
    let tables = [
        "absent",
        "unlogged",
        "parent",
        "child",
        "views",
        "materialized",
        "remote",
        "ruled",
        "guarded",
        "letters",
        "empty",
        "part",
    ];
    let names: Vec<String> = tables.iter().map(|table| format!("zoo.{table}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::zoo_without_service("select 1", &resource("zoo", &names)).await;
    world.sql_as_superuser("create extension lo schema public; create foreign data wrapper none; create server nowhere foreign data wrapper none; create foreign table zoo.remote (id int) server nowhere").await;
    world
        .sql(
            "create unlogged table zoo.unlogged (id int);
             create table zoo.parent (id int); create table zoo.child () inherits (zoo.parent);
             create view zoo.views as select 1 as id; create materialized view zoo.materialized as select 1 as id;
             create table zoo.ruled (id int); create rule nothing as on delete to zoo.ruled do instead nothing;
             create table zoo.guarded (id int); alter table zoo.guarded enable row level security;
             create table zoo.letters (id int, picture public.lo);
             create table zoo.empty ();
             create table zoo.whole (id int) partition by list (id); create table zoo.part partition of zoo.whole default",
        )
        .await;
    world.sql_as_superuser(GRANTS).await;
    let printed = startup(world).await;
    assert!(printed.starts_with("exit status: "), "{printed}");
    for sentence in [
        "table zoo.absent of resource zoo does not exist",
        "zoo.unlogged is unlogged or temporary",
        "zoo.parent has inheritance parents or children",
        "zoo.child has inheritance parents or children",
        "zoo.views is not an ordinary or partitioned table",
        "zoo.materialized is not an ordinary or partitioned table",
        "zoo.remote is not an ordinary or partitioned table",
        "zoo.ruled has rules",
        "zoo.guarded has row security",
        "column picture of zoo.letters is a large object",
        "zoo.empty has no columns",
        "zoo.part has inheritance parents or children",
    ] {
        assert!(printed.contains(sentence), "{sentence}\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b30_a_right_that_is_missing_is_said_as_the_grant_that_gives_it() {
    let world = World::zoo_without_service(
        "create table zoo.item (id serial primary key); create table outside.ref (id int references zoo.item)",
        &resource("zoo", &["zoo.item"]),
    )
    .await;
    world.sql("revoke select on zoo.item from holdfast_backup; grant select (id) on zoo.item to holdfast_backup").await;
    world
        .sql("revoke delete on zoo.item from holdfast_restore; revoke update on sequence zoo.item_id_seq from holdfast_restore")
        .await;
    world.sql("revoke select on outside.ref from holdfast_restore").await;
    world.sql_as_superuser(&format!("revoke temporary on database {} from holdfast_restore, public", world.database)).await;
    let database = world.database.clone();
    let printed = startup(world).await;
    for grant in [
        "role holdfast_backup may not SELECT zoo.item: ".to_owned(),
        "role holdfast_restore may not DELETE zoo.item: ".to_owned(),
        "role holdfast_restore may not SELECT outside.ref: ".to_owned(),
        "role holdfast_restore may not UPDATE zoo.item_id_seq: ".to_owned(),
        format!("GRANT TEMPORARY ON DATABASE \\\"{database}\\\" TO holdfast_restore"),
    ] {
        assert!(
            printed.replace("\\\\", "\\").contains(&grant) || printed.contains(&grant.replace("\\\"", "\"")),
            "{grant}\n{printed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_may_be_a_superuser() {
    let mut world =
        World::zoo_without_service("create table zoo.item (id int primary key)", &resource("zoo", &["zoo.item"])).await;
    let role = format!("super_{}", world.database);
    world.sql_as_superuser(&format!("create role {role} superuser login password 'a-password-for-tests'")).await;
    for setting in ["BACKUP", "RESTORE", "STATE"] {
        let name = format!("HOLDFAST_DATABASE__{setting}_USER");
        world.set(&name, &role);
        let printed = world.start().await.expect_err("it does not start");
        assert!(printed.contains(&format!("{role} is a superuser")), "{setting}: {printed}");
        world.set(&name, &format!("holdfast_{}", setting.to_lowercase()));
    }
    world.start().await.unwrap();
}

/// Types and values that a careless copy changes, and names that a careless statement breaks.
const TYPES: &str = r#"
    create type zoo.mood as enum ('sad', 'it''s ok', 'NULL', '');
    create type zoo.pair as (a int, "b ""c""" text);
    create domain zoo.percent as numeric check (value is null or value between 0 and 100);
    create domain zoo.deep as zoo.percent not null default 1;
    create type zoo.floats as range (subtype = float8, subtype_diff = float8mi);
    create table zoo.values (
        id int primary key, f4 float4, f8 float8, n numeric, n2 numeric(10, 3), d date, ts timestamp, tz timestamptz, t time,
        ttz timetz, i interval, arr int[], texts text[], pair zoo.pair, pairs zoo.pair[], percent zoo.percent, deep zoo.deep, mood zoo.mood,
        moods zoo.mood[], r int4range, mr int4multirange, fr zoo.floats, tr tstzrange, ci public.citext, h public.hstore, tv tsvector, tq tsquery,
        b bit(5), vb varbit, addr inet, net cidr, mac macaddr, mac8 macaddr8, x xml, c char(7), vc varchar(9), j json, jb jsonb, m money,
        p point, poly polygon, u uuid, o oid, rc regclass, "char" "char", nm name, txt text, empty text, lsn pg_lsn, jp jsonpath);
    insert into zoo.values values
    (1, 'NaN', '-Infinity', 'NaN', -0.100, 'infinity', '-infinity', '0044-03-15 12:00:00.000001 BC', '24:00', '23:59:59.999999+15:59',
     '-178000000 years -1 day +00:00:00.000001', '[-2:0]={1,NULL,3}', '{"NULL",NULL,"","a\"b","{}"}', '(1,"x,""y""")', '{"(1,)","(,\"\")",NULL}', 99.90, 0.00, '',
     '{"NULL",NULL,""}', 'empty', '{[1,2),[5,)}', '(NaN,)', '[-infinity,infinity]', 'MiXeD', '"a"=>NULL, "b=>"=>"\"x\""', '''it''''s'':1A,2B', '''a'' & !''b''',
     B'10101', B'', '::ffff:1.2.3.4/96', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '<a>é<!-- x --></a>text', 'a  ', 'b ', '{"a": "\u0000" ,"a":1}',
     '{"n": 1.10, "u": "\u2028"}', '-1234.50', '(-0,1e-320)', '((0,0),(1,1))', '00000000-0000-0000-0000-000000000000', 4294967295, 'pg_catalog.pg_class', '\001', 'a name', E'\\.\n\t\r\b\f\v\\N', '', '16/B374D848', '$."a"[*] ? (@ > 1)'),
    (2, '-0', '-0', '1e-16383', 123.456, '-infinity', '4714-11-24 BC', '294276-12-31 23:59:59.999999', '00:00', '00:00-15:59', '1 mon -30 days', '{}', '{}',
     '(,)', '{}', null, 100, 'NULL', '{}', '[1,1]', '{}', '[1.1,2.2)', 'empty', '', '', '', '', B'00000', B'1', '0.0.0.0/0', '::/0', null, null, '', '', '', 'null', 'null', '0', null, null,
     null, 0, null, '', '', null, null, null, null),
    (3, 1.17549435e-38, 5e-324, repeat('9', 131072)::numeric, null, '5874897-12-31', null, null, null, null, '0', '[1:2][0:1]={{1,2},{3,NULL}}', array[repeat('é', 3000)],
     null, null, 1e1, 1.000, 'it''s ok', null, null, null, null, null, 'straße', '"k"=>"v"', null, null, null, null, null, null, null, null, null, '😀', 'ä', '[]', '[]', null, null, null, null, null, null, null, null,
     E'\u0001\u007f\u0085\u2028', ' ', null, null);
    create table zoo."Täble ""quoted"" name with 63 bytes xxxxxxxxxxxxxxxxxxxxxxxxxxxx" ("a.b" int, "c""d" text, "select" bytea, "%I $1 'x'" text[], " " public.citext, primary key ("c""d", " "));
    insert into zoo."Täble ""quoted"" name with 63 bytes xxxxxxxxxxxxxxxxxxxxxxxxxxxx" values (1, E'\n', '\x00ff0a5c', '{NULL}', 'A'), (null, '', '', null, ''), (2, E'\r', null, '{"NULL"}', '''; drop table zoo.values;--');
    create table zoo.binary (id uuid primary key, raw bytea, moods zoo.mood[], pair zoo.pair, deep zoo.deep, f8 float8, cls regclass);
    insert into zoo.binary values ('00000000-0000-0000-0000-000000000001', '\x', '{"NULL",NULL}', '(7,x)', 5.50, '-0', 'zoo.values'), ('00000000-0000-0000-0000-000000000002', null, '{}', null, 6, 'NaN', null);
"#;
const NAMES: [&str; 3] =
    ["zoo.values", "zoo.\"Täble \"\"quoted\"\" name with 63 bytes xxxxxxxxxxxxxxxxxxxxxxxxxxxx\"", "zoo.binary"];

async fn type_zoo() -> World {
    let mut world = World::zoo_without_service("select 1", &resource("zoo", &NAMES)).await;
    world.sql_as_superuser("create extension hstore schema public").await;
    world.sql(TYPES).await;
    world.sql(GRANTS).await;
    world.start().await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn b27_every_type_and_every_odd_value_comes_back_as_it_was() {
    let world = type_zoo().await;
    let before = world.digests();
    assert_eq!(before.lines().count(), 3, "{before}");
    let backup = world.backup().await;
    // Values that are equal to their own comparison, and values that differ.
    world.sql("update zoo.values set f4 = 0, f8 = 0, n = n * 1.0, deep = 1.0, ci = upper(ci::text), empty = null, txt = '', c = 'x' where id <> 1").await;
    world.sql("update zoo.binary set deep = 6.0, f8 = 0; delete from zoo.values where id = 1").await;
    world.sql("update zoo.\"Täble \"\"quoted\"\" name with 63 bytes xxxxxxxxxxxxxxxxxxxxxxxxxxxx\" set \"a.b\" = 9, \" \" = lower(\" \"::text)").await;
    world.restores_to(&backup, &before).await;
    world.sql("delete from zoo.values; delete from zoo.binary").await;
    world.restores_to(&backup, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b28_a_backup_can_be_restored_where_types_have_other_oids() {
    let world = type_zoo().await;
    let before = world.digests();
    let backup = world.backup().await;
    world.sql("drop table zoo.values, zoo.binary, zoo.\"Täble \"\"quoted\"\" name with 63 bytes xxxxxxxxxxxxxxxxxxxxxxxxxxxx\"; drop type zoo.mood, zoo.pair, zoo.floats; drop domain zoo.deep, zoo.percent").await;
    world.sql(TYPES).await;
    world.sql("delete from zoo.values; delete from zoo.binary").await;
    world.sql(GRANTS).await;
    // regclass is stored as an oid that PostgreSQL prints as a name.
    world.restores_to(&backup, &before).await;
}
