//! What goes on beside a restore: rows that do not differ are left alone, readers read on, writers wait and leave nothing
//! behind, and who holds a table is named, not waited for without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::world::{World, psql, rounds};
use super::zoo::{BUSY, BUSY_DAMAGE, all_of, run};

const HAMMERED: usize = 4;
/// Rows of the large table; 1 % of them is changed.
const ROWS: i64 = 100_000;
const LARGE: &str = "create table zoo.item (id int primary key, note text not null);
    insert into zoo.item select i, md5(i::text) from generate_series(1, 100000) i";

/// SQLSTATE of a refused statement.
fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).expect("an error of the database").into_owned()
}

/// Place and version of every row of the platform, for each table.
fn versions(world: &World) -> String {
    let query = "select format('select %L, count(*), md5(string_agg(concat_ws('' '', tableoid, ctid, xmin, xmax), '','' order by tableoid, ctid)) from %s', oid::regclass, oid::regclass)
        from pg_class where relkind = 'r' and relnamespace::regnamespace::text in ('platform', 'reporting')
            order by oid::regclass::text collate \"C\" \\gexec";
    let file = world.dir.path().join("versions.sql");
    std::fs::write(&file, query).unwrap();
    psql(&world.url("platform"), &["-f", file.to_str().unwrap()])
}

/// Rows inserted, updated and deleted in all tables since the statistics began, when every session has told its share.
async fn written(world: &World) -> [i64; 3] {
    world.until("not exists (select from pg_stat_activity where datname = current_database() and usename in ('platform', 'holdfast_restore'))").await;
    let counts = "select concat_ws(' ', sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del)) from pg_stat_user_tables where schemaname <> 'holdfast' and schemaname !~ '^pg_'";
    let counts = world.value(counts).await;
    let counts: Vec<i64> = counts.split(' ').map(|count| count.parse().unwrap()).collect();
    counts.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_what_is_there_writes_no_row_and_fires_no_trigger() {
    let world = World::new().await;
    let backup = world.backup().await;
    // Triggers are allowed where the role that restores can switch them off.
    let tables = "select string_agg(oid::regclass::text, ' ') from pg_class where relkind in ('r', 'p') and not relispartition
        and relowner::regrole::text = 'platform_triggers'";
    let mut triggers = "create schema outside; create table outside.fired (name text); grant usage on schema outside to public; grant insert on outside.fired to public;
        create function outside.fires() returns trigger language plpgsql as $$ begin insert into outside.fired values (tg_relid::regclass); return null; end $$;"
        .to_owned();
    for table in world.value(tables).await.split(' ') {
        triggers += &format!(
            "create trigger fires after insert or update or delete on {table} for each row execute function outside.fires();"
        );
    }
    world.sql_as_superuser(&triggers).await;
    let (before, counted) = (versions(&world), written(&world).await);
    assert!(before.lines().count() > 20, "{before}");
    let result = world.restore(&backup, "").await.unwrap();
    for change in &result.changes {
        assert_eq!((change.rows_added, change.rows_changed, change.rows_removed), (0, 0, 0), "{change:?}");
    }
    assert_eq!(versions(&world), before);
    assert_eq!(written(&world).await, counted);
    assert_eq!(world.value("select count(*) from outside.fired").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundredth_that_differs_is_all_that_is_written() {
    let world = World::zoo(LARGE, &["zoo.item"]).await;
    let digests = world.digests();
    let backup = world.backup().await;
    world
        .sql(
            "update zoo.item set note = 'x' where id % 200 = 0; delete from zoo.item where id % 400 = 1;
             insert into zoo.item select i, 'new' from generate_series(200001, 200250) i",
        )
        .await;
    let untouched = format!(
        "select md5(string_agg(id || ' ' || xmin || ' ' || ctid, ',' order by id)) from zoo.item where id <= {ROWS} and id % 200 <> 0 and id % 400 <> 1"
    );
    let (versions, before) = (world.value(&untouched).await, written(&world).await);
    let result = world.restore(&backup, "").await.unwrap();
    let after = written(&world).await;
    let change = &result.changes[0];
    assert_eq!([change.rows_added, change.rows_changed, change.rows_removed], [250, 500, 250]);
    assert_eq!([0, 1, 2].map(|kind| after[kind] - before[kind]), [250, 500, 250]);
    assert_eq!(world.value(&untouched).await, versions);
    assert_eq!(world.digests(), digests);
}

#[tokio::test(flavor = "multi_thread")]
async fn r03_writers_at_full_speed_leave_no_row_of_theirs_in_a_restore() {
    let world = World::zoo(BUSY, &["zoo.parent", "zoo.child"]).await;
    world.build_gate().await;
    let restored = world.digests();
    let backup = world.backup().await;
    for _ in 0..HAMMERED {
        let gate = world.close_gate().await;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut writers = Vec::new();
        for writer in 0..6_i32 {
            let (mut connection, stop, done) = (world.platform().await, stop.clone(), done.clone());
            writers.push(tokio::spawn(async move {
                for step in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = 100_000 + writer * 100_000 + step;
                    let statement = match step % 3 {
                        0 => format!("insert into zoo.parent values ({id}, 'w{id}')"),
                        1 => format!("update zoo.child set note = 'w{id}' where id = {}", id % 20_000),
                        _ => format!("delete from zoo.child where id = {}", id % 20_000),
                    };
                    let sql = format!("set lock_timeout = '20ms'; {statement}");
                    match connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await {
                        Ok(_) => _ = done.fetch_add(1, Ordering::Relaxed),
                        Err(error) => assert_eq!(code(&error), "55P03", "{error}"),
                    }
                }
            }));
        }
        let operation = world.begin_restore(&backup, "").await;
        // The restore has the tables and waits in its COMMIT; nobody can write any more.
        world.until_commit().await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        sqlx::Connection::close(gate).await.unwrap();
        world.outcome(&operation).await.unwrap();
        assert_eq!(world.digests(), restored);
        assert!(done.load(Ordering::Relaxed) > 0, "nobody wrote");
    }
}

/// Reads at full speed until told to stop, and never waits for a lock: how long each read took, and what was seen.
async fn read(mut connection: PgConnection, stop: Arc<AtomicBool>) -> (Vec<Duration>, std::collections::BTreeSet<i64>) {
    run(&mut connection, "set lock_timeout = '1ms'").await;
    let (mut times, mut counts) = (Vec::new(), std::collections::BTreeSet::new());
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let id = times.len() as i64 * 7919 % ROWS + 1;
        let note: Option<String> = sqlx::query_scalar("select note from zoo.item where id = $1")
            .bind(id as i32)
            .fetch_optional(&mut connection)
            .await
            .expect("it does not wait");
        times.push(began.elapsed());
        assert!(note.is_some_and(|note| note == "x" || note.len() == 32));
        if times.len() % 500 == 0 {
            let count = sqlx::query_scalar("select count(*) from zoo.item where note = 'x'");
            counts.insert(count.fetch_one(&mut connection).await.expect("it does not wait"));
        }
    }
    (times, counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn r15_readers_do_not_wait_for_a_restore_of_a_hundred_thousand_changed_rows() {
    let world = World::zoo(LARGE, &["zoo.item"]).await;
    let digests = world.digests();
    let backup = world.backup().await;
    world.sql("update zoo.item set note = 'x'").await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers = [world.platform().await, world.platform().await].map(|connection| tokio::spawn(read(connection, stop.clone())));
    let (mut watcher, watched) = (world.superuser().await, stop.clone());
    let sampler = tokio::spawn(async move {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and usename = 'platform' and wait_event_type = 'Lock'";
        let (mut samples, mut waits) = (0, 0);
        while samples == 0 || !watched.load(Ordering::Relaxed) {
            waits += sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watcher).await.unwrap();
            samples += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (samples, waits)
    });
    let result = world.restore(&backup, "").await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let (mut times, mut counts) = (Vec::new(), std::collections::BTreeSet::new());
    for reader in readers {
        let (took, saw) = reader.await.unwrap();
        times.extend(took);
        counts.extend(saw);
    }
    let (samples, waits) = sampler.await.unwrap();
    times.sort_unstable();
    let part = |thousandth: usize| times[(times.len() - 1) * thousandth / 1000];
    eprintln!(
        "{} reads during a restore: median {:?}, p99 {:?}, longest {:?}; {samples} samples",
        times.len(),
        part(500),
        part(990),
        part(1000)
    );
    assert_eq!(result.changes[0].rows_changed, ROWS);
    assert_eq!(waits, 0, "a reader waited for a lock");
    assert!(counts.iter().all(|count| [0, ROWS].contains(count)), "something between before and after was seen: {counts:?}");
    // 50 ms is what is required; the rest is for processors that others use as well.
    assert!(part(990) < Duration::from_millis(250), "{:?}", part(990));
    assert_eq!(world.digests(), digests);
}

#[tokio::test(flavor = "multi_thread")]
async fn r16_a_table_that_another_session_holds_is_given_up_in_time_and_the_holder_is_named() {
    let world = World::zoo("create table zoo.item (id int primary key); insert into zoo.item values (1)", &["zoo.item"]).await;
    let backup = world.backup().await;
    world.sql("update zoo.item set id = 2").await;
    let mut other = world.open_transaction("insert into zoo.item values (3)").await;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut other).await.unwrap();
    let began = Instant::now();
    let message = world.restore_fails(all_of(&backup), "TABLES_LOCKED").await;
    assert!(message.contains("zoo.item") && message.contains(&format!("session {pid} of platform")), "{message}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    run(&mut other, &format!("prepare transaction '{}'", world.database)).await;
    let message = world.restore_fails(all_of(&backup), "TABLES_LOCKED").await;
    assert!(message.contains("a prepared transaction"), "{message}");
    world.sql(&format!("rollback prepared '{}'", world.database)).await;
    world.restore(&backup, "").await.unwrap();
    assert_eq!(world.rows("select id from zoo.item").await, "(1)");
}

/// An application that locks rows and tables in the other order, holds them for a while, and changes nothing.
async fn adversary(mut connection: PgConnection, number: usize, stop: Arc<AtomicBool>) -> [usize; 2] {
    run(&mut connection, "set deadlock_timeout = '200ms'").await;
    let mut ended = [0; 2];
    for step in number.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let hold = (step * 37 % 11) * 15;
        let second = match step % 3 {
            0 => "update zoo.parent set name = name where id % 500 = 1",
            1 => "lock table zoo.parent in share row exclusive mode",
            _ => "select from zoo.parent where id % 500 = 2 for update",
        };
        let first = if step % 2 == 0 {
            "lock table zoo.child in row exclusive mode"
        } else {
            "update zoo.child set note = note where id % 500 = 1"
        };
        let statements = format!("begin; {first}; select pg_sleep({hold} / 1000.0); {second}; commit");
        match connection.execute(sqlx::raw_sql(AssertSqlSafe(statements))).await {
            Ok(_) => ended[0] += 1,
            Err(error) => {
                assert_eq!(code(&error), "40P01", "{error}");
                run(&mut connection, "rollback").await;
                ended[1] += 1;
            }
        }
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn r16_beside_an_application_that_locks_in_the_other_order_a_restore_succeeds_or_names_who_is_in_the_way() {
    let world = World::zoo(BUSY, &["zoo.parent", "zoo.child"]).await;
    let restored = world.digests();
    let backup = world.backup().await;
    world.sql(BUSY_DAMAGE).await;
    let damaged = world.digests();
    let (mut succeeded, mut refused, mut ended) = (0, 0, [0; 2]);
    for round in 0..rounds(3, 200) {
        let stop = Arc::new(AtomicBool::new(false));
        let mut adversaries = Vec::new();
        for number in 0..3 {
            let seed = number * 5 + round as usize;
            adversaries.push(tokio::spawn(adversary(world.superuser().await, seed, stop.clone())));
        }
        let outcome = world.restore(&backup, "").await;
        stop.store(true, Ordering::Relaxed);
        for adversary in adversaries {
            let [committed, deadlocks] = adversary.await.unwrap();
            ended = [ended[0] + committed, ended[1] + deadlocks];
        }
        match outcome {
            Ok(_) => {
                assert_eq!(world.digests(), restored);
                world.sql(BUSY_DAMAGE).await;
                succeeded += 1;
            }
            Err(error) => {
                assert_eq!(error.reason, "TABLES_LOCKED", "{error:?}\n{}", world.log());
                assert!(error.message.contains("zoo."), "{error:?}");
                refused += 1;
            }
        }
        assert_eq!(world.digests(), damaged);
    }
    eprintln!("beside {} transactions and {} deadlocks of others: {succeeded} succeeded, {refused} refused", ended[0], ended[1]);
    assert!(ended[0] > 0);
    world.restores_to(&backup, &restored).await;
}
