//! The maintenance lock hosted by the update-service, Holdfast its client: the whole service, with the reference as the host.

mod everyday;
mod fence;
mod lost;
mod modes;
mod outages;
mod refusals;

use std::time::Duration;

use holdfast::grpc::proto::backup::{Backup, GetSystemStatusRequest, OperationError, SystemStatus};
use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::lock_service_client::LockServiceClient;
use holdfast::grpc::proto::lock::{GetLockRequest, Lock};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;

use super::update_service::{HOLDFAST, Host, LOCK, UPDATE_SERVICE};
use super::world::{Bearer, World, eventually_async};
use super::zoo::resource;

const A_MINUTE: Duration = Duration::from_secs(60);
/// The shortest lease that can be configured.
const SHORT: (&str, &str) = ("HOLDFAST_LOCK__TTL", "10s");

/// One small table, and what holds a restore of it up, without a lock and so for as long as it takes.
const ITEMS: &str =
    "create table zoo.item (id int primary key, note text); insert into zoo.item select i, md5(i::text) from generate_series(1, 50) i;
     create table outside.held (at text);
     create function outside.waits(place text) returns boolean language plpgsql security definer as $$ begin
         while exists (select from outside.held where at = place) and not exists (select from zoo.item where note = 'other') loop
             perform pg_sleep(0.02);
         end loop;
         return false; end $$";
/// Asked of every restore after it has changed the table.
const CHECK: &str =
    "[[resource.check]]\nreason = 'HELD'\nquery = \"select 'x' as subject where outside.waits('work')\"\nmessage = 'm'\n";
const DAMAGE: &str = "update zoo.item set note = 'other'; delete from zoo.item where id % 3 = 0";

/// That a session of a restore is held so; its watchdog sleeps too.
const HELD: &str = "wait_event = 'PgSleep' and query not like 'DO $watchdog$%'";

/// Where a restore that has changed the table is held.
#[derive(Debug, Clone, Copy)]
enum At {
    /// It can still be stopped.
    Work,
    /// It only goes forward.
    Commit,
}

/// A platform, Holdfast on it, and an update-service that hosts the lock of both.
struct Site {
    world: World,
    host: Host,
}

impl Site {
    /// With a platform of one small table.
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&str, &str)]) -> Self {
        let mut site = Self::on(World::zoo_without_service(ITEMS, &(resource("zoo", &["zoo.item"]) + CHECK)).await).await;
        for (name, value) in settings {
            site.world.set(name, value);
        }
        site.start().await;
        site
    }

    /// Holdfast is not started yet.
    async fn on(world: World) -> Self {
        let host = Host::with_database(&world.url("platform")).await;
        let mut site = Self { world, host };
        std::fs::write(site.world.dir.path().join("lock-token"), HOLDFAST.token).unwrap();
        let token = site.world.dir.path().join("lock-token").display().to_string();
        let endpoint = site.host.endpoint();
        for (name, value) in [("MODE", "remote"), ("ENDPOINT", &endpoint), ("TOKEN_FILE", &token)] {
            site.world.set(&format!("HOLDFAST_LOCK__{name}"), value);
        }
        site
    }

    async fn start(&mut self) {
        self.world.start().await.expect("the service starts");
        // What deploy/update-service.md asks of the operator.
        let grant = "grant usage on schema holdfast to platform; grant execute on function holdfast.advance_fence to platform";
        self.world.sql_as_superuser(grant).await;
    }

    /// The lock as its host shows it. The host must behave.
    async fn lock(&self) -> Lock {
        let channel = Endpoint::from_shared(self.host.endpoint()).unwrap().connect_lazy();
        let bearer = Bearer::of(UPDATE_SERVICE.token);
        let mut calls = LockServiceClient::new(InterceptedService::new(channel, bearer));
        calls.get_lock(GetLockRequest { name: LOCK.into() }).await.unwrap().into_inner()
    }

    /// The lock gets free: what nobody needs any more is given back, not left to run out.
    async fn lock_gets_free(&self, limit: Duration) {
        eventually_async(limit, async || (self.lock().await.state() == State::Free).then_some(())).await;
    }

    /// Until the present holder has renewed so often.
    async fn until_renewed(&self, times: usize) {
        for _ in 0..times {
            let renewed = async || self.lock().await.holder.expect("somebody has the lock").renew_time;
            let before = renewed().await;
            eventually_async(A_MINUTE, async || (renewed().await != before).then_some(())).await;
        }
    }

    async fn until_logged(&self, words: &str) {
        eventually_async(A_MINUTE, async || self.world.log().contains(words).then_some(())).await;
    }

    async fn status(&self) -> SystemStatus {
        self.world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner()
    }

    /// What stands in the way of backup and restore, as `GetSystemStatus` says beforehand.
    async fn obstacle(&self) -> OperationError {
        let status = self.status().await;
        assert!(!status.backup_possible && !status.restore_possible);
        let [obstacle] = <[_; 1]>::try_from(status.obstacles).unwrap();
        obstacle
    }

    async fn is_tidy(&self) {
        self.world.is_tidy().await;
        self.lock_gets_free(Duration::from_secs(5)).await;
        assert!(!self.world.log().contains("panicked"), "{}", self.world.log());
    }

    /// A backup, and a platform that is another since.
    async fn damaged(&self) -> Backup {
        let backup = self.world.backup().await;
        self.world.sql(DAMAGE).await;
        backup
    }

    /// From here restores are held there, until `go_on`.
    async fn hold_restores(&self, at: At) {
        let place = match at {
            At::Work => "work",
            At::Commit => {
                let trigger = "create or replace function holdfast.hold() returns trigger language plpgsql security definer as $$ begin
                         perform outside.waits('commit'); return new; end $$;
                     create or replace trigger hold before insert on holdfast.restore_log for each row execute function holdfast.hold()";
                self.world.sql_as_superuser(trigger).await;
                "commit"
            }
        };
        self.world.sql(&format!("insert into outside.held values ('{place}')")).await;
    }

    async fn go_on(&self) {
        self.world.sql("delete from outside.held").await;
    }

    /// Begins a restore and returns its name when it is held.
    async fn begin_held_restore(&self, backup: &Backup, at: At) -> String {
        self.hold_restores(at).await;
        let operation = self.world.begin_restore(backup, "").await;
        self.until_held().await;
        operation
    }

    async fn until_held(&self) {
        self.world
            .until(
                &format!("exists (select from pg_stat_activity where datname = current_database() and usename = 'holdfast_restore' and {HELD})"),
            )
            .await;
    }
}
