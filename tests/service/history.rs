//! Protected work of two holders never overlaps. The history that proves it is written by the database and read by a checker
//! that knows nothing of Holdfast; what happens is left to chance.
//!
//! Two services on one database and updates work at the same time. Meanwhile services are paused, killed and cut off from the
//! database, leases end or are taken away, and answers are lost. Every transaction that passes the fence is noted with its
//! token; begin and commit are PostgreSQL's own times (`track_commit_timestamp`). Updates also look after themselves: what one
//! of them wrote must be there at its next step.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use holdfast::grpc::proto::backup::backup_service_client::BackupServiceClient;
use holdfast::grpc::proto::backup::{Backup, BackupRequest, RestoreRequest};
use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::lock_service_client::LockServiceClient;
use holdfast::grpc::proto::lock::{ForceReleaseLockRequest, GetLockRequest, Lock, LockPurpose};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

use super::kills::Spread;
use super::update_service::{ADMINISTRATOR, Fault, HOLDFAST, Host, LOCK, Line, UPDATE_SERVICE, Update, Way};
use super::world::{Bearer, Calls, TOKEN, UPDATE_TOKEN, World, eventually_async, long_tests};
use super::zoo::{all_of, resource, signal};

const ITEMS: &str = "create table zoo.item (id int primary key, note text); insert into zoo.item select i, 'start' from generate_series(1, 20) i;";
/// What happens in a schedule happens within this time.
const LASTS: Duration = Duration::from_millis(1500);
/// Nobody in a schedule waits for longer.
const PATIENCE: Duration = Duration::from_millis(700);

/// The fence as it is, with a note of everybody who passes, and a moment before whatever comes next. The other triggers note
/// what must not be done by anybody else.
const WITNESS: &str = "create table outside.passed (token bigint not null, began timestamptz not null, xid xid8 not null);
     create table outside.done (what text not null, xid xid8 not null);
     create table outside.granted (token bigint not null, at timestamptz not null default clock_timestamp());
     grant usage on schema outside to holdfast_state;
     grant insert on outside.passed to holdfast_state;
     alter function holdfast.{fence} (text, bigint) rename to the_fence;
     create function holdfast.{fence} (name text, token bigint) returns boolean language plpgsql security definer as $$ begin
         if not holdfast.the_fence(name, token) then return false; end if;
         insert into outside.passed values (token, transaction_timestamp(), pg_current_xact_id());
         perform pg_sleep(random() * 0.15);
         return true;
     end $$;
     alter function holdfast.{fence} owner to holdfast_state;
     grant execute on function holdfast.{fence} to holdfast_restore;
     create function outside.note() returns trigger language plpgsql security definer as $$ begin
         insert into outside.done values (tg_argv[0], pg_current_xact_id());
         perform pg_sleep(random() * 0.15);
         return null;
     end $$;
     create trigger note after insert on holdfast.restore_log for each row execute function outside.note('restore');
     create trigger note after insert on holdfast.backup for each row execute function outside.note('backup');
     create function outside.note_grant() returns trigger language plpgsql security definer as $$ begin
         insert into outside.granted values ({token}); return null; end $$;
     create trigger note after {grant} execute function outside.note_grant();";

const PASSED: &str = "select token, began, pg_xact_commit_timestamp(xid::xid) from outside.passed order by token, began";

/// One protected transaction that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Protected {
    token: i64,
    began: DateTime<Utc>,
    committed: DateTime<Utc>,
}

/// The first two transactions, of different holders, of which the one with the greater token began before the other had ended.
fn overlap(history: &[Protected]) -> Option<[Protected; 2]> {
    let mut history = history.to_vec();
    history.sort_by_key(|work| work.token);
    let mut last: Option<Protected> = None;
    for holder in history.chunk_by(|one, other| one.token == other.token) {
        if let (Some(before), Some(first)) = (last, holder.iter().min_by_key(|work| work.began))
            && first.began <= before.committed
        {
            return Some([before, *first]);
        }
        last = last.into_iter().chain(holder.iter().copied()).max_by_key(|work| work.committed);
    }
    None
}

/// Who hosts the lock, and how it is disturbed.
enum Hosted {
    /// By the two services.
    Here,
    Elsewhere(Host),
}

/// Two services and whatever stands between them and their callers.
struct Site {
    services: [World; 2],
    /// The way of updates to each host of the lock.
    lines: Vec<Line>,
    hosted: Hosted,
    /// What an update and a caller may address: they stay the same when a service is started again.
    addresses: [String; 2],
    /// A number for each update, so that all are different.
    updates: AtomicU32,
    witness: PgConnection,
}

/// Below those that the kernel gives to clients, so that it is still free when the service is started again.
fn free_ports() -> [u16; 2] {
    let first = 14_000 + uuid::Uuid::new_v4().as_fields().1 % 4_000;
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = (first..20_000).filter(free);
    [(); 2].map(|()| ports.next().unwrap())
}

impl Site {
    async fn new(elsewhere: bool) -> Self {
        let mut world = World::zoo_without_service(ITEMS, &resource("zoo", &["zoo.item"])).await;
        world.set("HOLDFAST_LOCK__TTL", "10s");
        let hosted = match elsewhere {
            false => Hosted::Here,
            true => {
                let host = Host::start().await;
                let token = world.dir.path().join("lock-token");
                std::fs::write(&token, HOLDFAST.token).unwrap();
                for (name, value) in
                    [("MODE", "remote"), ("ENDPOINT", &host.endpoint()), ("TOKEN_FILE", &token.display().to_string())]
                {
                    world.set(&format!("HOLDFAST_LOCK__{name}"), value);
                }
                Hosted::Elsewhere(host)
            }
        };
        let ports = free_ports();
        let mut services = [world.twin(), world];
        for (service, port) in services.iter_mut().zip(ports) {
            service.set("HOLDFAST_LISTEN", &format!("127.0.0.1:{port}"));
            service.start().await.unwrap();
        }
        let witness = match elsewhere {
            false => ["fence", "new.fencing_token", "insert on holdfast.lease for each row"],
            true => {
                let newer = "update on holdfast.fence for each row when (new.max_token <> old.max_token)";
                ["foreign_fence", "new.max_token", newer]
            }
        };
        let blanks = ["{fence}", "{token}", "{grant}"];
        let statements = blanks.iter().zip(witness).fold(WITNESS.to_owned(), |text, (blank, words)| text.replace(blank, words));
        services[0].sql_as_superuser(&statements).await;
        let mut lines = Vec::new();
        for port in ports.iter().filter(|_| !elsewhere) {
            lines.push(Line::to(*port).await);
        }
        let (addresses, witness) = (ports.map(|port| format!("http://127.0.0.1:{port}")), services[0].superuser().await);
        Self { services, lines, hosted, addresses, updates: AtomicU32::new(0), witness }
    }

    /// Where an update asks for the lock.
    fn host_of_lock(&self, dice: &mut Spread) -> (String, &'static str) {
        match &self.hosted {
            Hosted::Here => (self.lines[usize::from(dice.next(2) == 0)].endpoint(), UPDATE_TOKEN),
            Hosted::Elsewhere(host) => (host.endpoint(), UPDATE_SERVICE.token),
        }
    }

    fn administrator(&self, service: usize) -> LockServiceClient<Calls> {
        let (endpoint, token) = match &self.hosted {
            Hosted::Here => (self.addresses[service].clone(), TOKEN),
            Hosted::Elsewhere(host) => (host.endpoint(), ADMINISTRATOR.token),
        };
        LockServiceClient::with_interceptor(Endpoint::from_shared(endpoint).unwrap().connect_lazy(), Bearer::of(token))
    }

    async fn look(&self, service: usize) -> Option<Lock> {
        let request = GetLockRequest { name: LOCK.into() };
        let answer = timeout(PATIENCE, self.administrator(service).get_lock(request)).await.ok()?;
        answer.ok().map(tonic::Response::into_inner)
    }

    /// Takes the lock away from whoever was seen to have it.
    async fn force_release(&self, service: usize) {
        let Some(fencing_token) = self.look(service).await.and_then(|lock| lock.holder).map(|holder| holder.fencing_token) else {
            return;
        };
        let request = ForceReleaseLockRequest { name: LOCK.into(), fencing_token, reason: "By chance".into() };
        let _ = timeout(PATIENCE, self.administrator(service).force_release_lock(request)).await;
    }

    async fn expire(&self) {
        match &self.hosted {
            Hosted::Here => {
                // Whoever sleeps may have the row.
                let over =
                    "set lock_timeout = '200ms'; update holdfast.lease set expire_time = clock_timestamp() - interval '1 s'";
                let _ = self.services[0].superuser().await.execute(sqlx::raw_sql(over)).await;
            }
            Hosted::Elsewhere(host) => host.expire(),
        }
    }

    /// Asks for backups and restores. Returns those that were accepted.
    async fn operate(&self, backup: &Backup, mut dice: Spread) -> Vec<String> {
        let (end, mut begun) = (Instant::now() + LASTS, Vec::new());
        while Instant::now() < end {
            sleep(Duration::from_millis(dice.next(200))).await;
            let calls = self.services[usize::from(dice.next(2) == 0)].backups_if_there().await;
            let Some(mut calls) = calls else { continue };
            let lock_wait = Some(prost_types::Duration { seconds: 0, nanos: dice.next(700) as i32 * 1_000_000 });
            let answer = match dice.next(3) {
                0 => timeout(PATIENCE, calls.backup(BackupRequest { lock_wait, ..Default::default() })).await,
                _ => {
                    let request = RestoreRequest { lock_wait, ..all_of(backup) };
                    timeout(PATIENCE, calls.restore(request)).await
                }
            };
            begun.extend(answer.ok().and_then(Result::ok).map(|operation| operation.into_inner().name));
        }
        begun
    }

    /// Updates the platform, one update after the other. Returns how many steps were made.
    async fn update(&self, mut dice: Spread) -> u32 {
        let (end, mut steps) = (Instant::now() + LASTS, 0);
        let mut id = self.next_update();
        while Instant::now() < end {
            sleep(Duration::from_millis(dice.next(150))).await;
            let (endpoint, token) = self.host_of_lock(&mut dice);
            let Ok(Ok(update)) = timeout(PATIENCE, Update::try_begin(&endpoint, token, &id)).await else { continue };
            steps += self.make_steps(&update, &mut dice).await;
            // Some die, and go on later under their own name.
            match dice.next(3) {
                0 => update.vanish(),
                _ => {
                    let _ = timeout(PATIENCE, update.end()).await;
                    id = self.next_update();
                }
            }
        }
        steps
    }

    fn next_update(&self) -> String {
        format!("update-{}", self.updates.fetch_add(1, Ordering::Relaxed))
    }

    /// As many as it is let.
    async fn make_steps(&self, update: &Update, dice: &mut Spread) -> u32 {
        let token = update.fencing_token;
        let mut database = self.services[0].superuser().await;
        database.execute("set lock_timeout = '2s'").await.unwrap();
        if matches!(self.hosted, Hosted::Elsewhere(_)) {
            let raised = sqlx::query_scalar("select holdfast.advance_fence($1)").bind(token).fetch_one(&mut database).await;
            if !raised.unwrap_or(false) {
                return 0;
            }
        }
        let fence = match self.hosted {
            Hosted::Here => "select holdfast.fence($1, $2)",
            Hosted::Elsewhere(_) => "select holdfast.foreign_fence($1, $2)",
        };
        let mut made = 0;
        for step in 1..=1 + dice.next(4) {
            // Without an answer it goes on: its lease lasts, and the fence holds.
            if let Ok(Err(_)) = timeout(PATIENCE, update.step(&format!("step {step}"))).await {
                break;
            }
            let mut transaction = database.begin().await.unwrap();
            let passed = sqlx::query_scalar::<_, bool>(fence).bind("platform-maintenance").bind(token);
            if !passed.fetch_one(&mut *transaction).await.unwrap_or(false) {
                break;
            }
            let marks = "select array_agg(distinct note) from zoo.item";
            let marks: Vec<String> = sqlx::query_scalar(marks).fetch_one(&mut *transaction).await.unwrap();
            if step > 1 {
                assert_eq!(marks, [format!("{token}, step {}", step - 1)], "somebody else worked during an update");
            }
            let mark = format!("update zoo.item set note = '{token}, step {step}'");
            transaction.execute(sqlx::raw_sql(AssertSqlSafe(mark))).await.unwrap();
            transaction.commit().await.unwrap();
            made += 1;
            sleep(Duration::from_millis(dice.next(80))).await;
        }
        database.close().await.unwrap();
        made
    }

    /// Does harm.
    async fn disturb(&self, mut dice: Spread) -> Vec<String> {
        let (end, mut log) = (Instant::now() + LASTS, Vec::new());
        let began = Instant::now();
        while Instant::now() < end {
            sleep(Duration::from_millis(dice.next(350))).await;
            let at = usize::from(dice.next(2) == 0);
            let pid = self.services[at].pid().to_string();
            let done = match dice.next(12) {
                0..4 => {
                    let pause = Duration::from_millis(50 + dice.next(500));
                    signal("-STOP", &pid);
                    // What takes its lock away while it sleeps is what matters.
                    match dice.next(3) {
                        0 => self.expire().await,
                        1 => self.force_release(1 - at).await,
                        _ => {}
                    }
                    sleep(pause).await;
                    signal("-CONT", &pid);
                    format!("service {at} slept for {pause:?}")
                }
                4 => {
                    signal("-KILL", &pid);
                    format!("service {at} was killed")
                }
                5 | 6 => {
                    self.expire().await;
                    "the lease ended".into()
                }
                7 => {
                    self.force_release(at).await;
                    "the lock was taken away".into()
                }
                8 | 9 => {
                    let role = ["holdfast_state", "holdfast_restore", "holdfast_backup"][dice.next(3) as usize];
                    let ended = self.services[at].terminate_sessions(role, "random() < 0.5").await;
                    format!("{ended} sessions of {role} were ended")
                }
                _ => {
                    match &self.hosted {
                        Hosted::Here => {
                            self.lines[at].set(Way::Mute).await;
                            sleep(Duration::from_millis(dice.next(300))).await;
                            self.lines[at].set(Way::Open).await;
                            self.lines[at].reset();
                        }
                        Hosted::Elsewhere(host) => {
                            host.set([Fault::LosesAnswer, Fault::Flaky(dice.next(1000))][dice.next(2) as usize]).await;
                            sleep(Duration::from_millis(dice.next(400))).await;
                            host.set(Fault::None).await;
                        }
                    }
                    "answers were lost".into()
                }
            };
            log.push(format!("{:>5} ms: {done}", began.elapsed().as_millis()));
        }
        log
    }

    /// Everybody works again and nobody has the lock.
    async fn comes_to_rest(&mut self) {
        let began = Instant::now();
        loop {
            for service in &mut self.services {
                if service.has_ended() {
                    service.kill();
                    service.start_later().await;
                }
            }
            let lock = self.look(0).await;
            if lock.as_ref().is_some_and(|lock| lock.state() == State::Free) {
                break;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the lock does not get free: {lock:?}\n{}",
                self.services[0].log()
            );
            let update = |lock: Lock| lock.holder.is_some_and(|holder| holder.purpose() == LockPurpose::SoftwareUpdate);
            if lock.is_some_and(update) {
                self.force_release(0).await;
            } else if began.elapsed() > Duration::from_secs(5) {
                // Of an operation that was killed before it had begun.
                self.expire().await;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let running = "select count(*) from holdfast.operation where not done";
        self.services[0].becomes(running, "0", Duration::from_secs(60)).await;
    }

    /// What the witnesses say since the last time.
    async fn check(&mut self) -> Result<usize, String> {
        let rows: Vec<(i64, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(PASSED).fetch_all(&mut self.witness).await.unwrap();
        let history: Vec<Protected> =
            rows.into_iter().map(|(token, began, committed)| Protected { token, began, committed }).collect();
        if let Some(overlap) = overlap(&history) {
            return Err(format!("protected work of two holders overlaps: {overlap:#?}"));
        }
        for (what, query) in [
            (
                "was done outside of the fence",
                "select string_agg(what, ', ') from outside.done where not exists (select from outside.passed where passed.xid = done.xid)",
            ),
            (
                "tokens do not grow",
                "select string_agg(token::text, ', ') from (select token, lag(token) over (order by at) as before from outside.granted) as g
                 where token <= before",
            ),
            (
                "restores are told as what they were not",
                "select string_agg(id::text, ', ') from holdfast.operation where body->>'kind' = 'restore' and done
                    and (body->'outcome' ? 'restore') <> exists (select from holdfast.restore_log where operation = id)",
            ),
        ] {
            let found: Option<String> = sqlx::query_scalar(query).fetch_one(&mut self.witness).await.unwrap();
            if let Some(found) = found {
                return Err(format!("{what}: {found}"));
            }
        }
        Ok(history.len())
    }
}

impl World {
    /// `None`: the service does not answer now.
    async fn backups_if_there(&self) -> Option<BackupServiceClient<Calls>> {
        let channel = timeout(PATIENCE, Endpoint::from_shared(self.address()).unwrap().connect()).await.ok()?.ok()?;
        Some(BackupServiceClient::with_interceptor(channel, self.bearer()))
    }
}

/// Plays schedules `numbers`, and tells what came of them.
async fn play(elsewhere: bool, numbers: std::ops::Range<u64>) {
    let mut site = Site::new(elsewhere).await;
    let mut backup = site.services[0].backup().await;
    let (mut accepted, mut steps, mut protected) = (0, 0, 0);
    let schedules = numbers.end - numbers.start;
    for number in numbers {
        let dice = |who: u64| Spread(number * 31 + who);
        let (begun, made, log) = tokio::join!(site.operate(&backup, dice(1)), site.update(dice(2)), site.disturb(dice(3)));
        accepted += begun.len();
        steps += made;
        site.comes_to_rest().await;
        protected = site.check().await.unwrap_or_else(|wrong| {
            let [first, second] = &site.services;
            panic!("schedule {number}: {wrong}\n{}\n{}\n{}", log.join("\n"), first.log(), second.log())
        });
        // Retention gives up the oldest.
        backup = site.services[0].listed().await.swap_remove(0);
    }
    eprintln!(
        "{schedules} schedules, lock elsewhere: {elsewhere}: {accepted} operations, {steps} steps of updates, {protected} protected transactions"
    );
    assert!(accepted > 0 && steps > 0 && protected > 0);
    eventually_async(Duration::from_secs(30), async || site.look(0).await.filter(|lock| lock.state() == State::Free)).await;
    // What is over is gone with the next grant.
    site.services[0].sql_as_superuser("delete from holdfast.lease where revoked or expire_time < clock_timestamp()").await;
    site.services[0].is_tidy().await;
}

/// Several at a time, each on a site of its own: mostly they sleep.
async fn schedules(elsewhere: bool, few: u64, many: u64) {
    let (lanes, all) = if long_tests() { (4, many) } else { (1, few) };
    let each = all / lanes;
    futures_util::future::join_all((0..lanes).map(|lane| play(elsewhere, lane * each..(lane + 1) * each))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l01_l02_l05_protected_work_of_two_holders_never_overlaps_in_schedules_by_chance() {
    schedules(false, 8, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l01_l02_l05_nor_where_the_update_service_hosts_the_lock() {
    schedules(true, 6, 400).await;
}

#[test]
fn the_checker_finds_an_overlap_and_nothing_else() {
    let at = |second| DateTime::from_timestamp(second, 0).unwrap();
    let work = |token, began, committed| Protected { token, began: at(began), committed: at(committed) };
    assert_eq!(overlap(&[]), None);
    // Of one holder they may.
    assert_eq!(overlap(&[work(1, 1, 5), work(1, 2, 3), work(2, 6, 7), work(4, 8, 9)]), None);
    assert_eq!(overlap(&[work(2, 4, 7), work(1, 1, 5)]), Some([work(1, 1, 5), work(2, 4, 7)]));
    // One that began after the next holder had the lock.
    assert_eq!(overlap(&[work(1, 1, 2), work(2, 3, 4), work(1, 5, 6)]), Some([work(1, 5, 6), work(2, 3, 4)]));
    // Not only of neighbours.
    assert_eq!(overlap(&[work(1, 1, 9), work(2, 10, 11), work(3, 8, 12)]), Some([work(2, 10, 11), work(3, 8, 12)]));
}
