//! What any LockService must do, tested over the wire: on Holdfast itself, and on the reference update-service, so that either
//! may take the other's place.
//!
//! A rule is a function of a `Subject`. It knows the contract, two callers and a way to let a lease end; nothing of what is
//! behind. Every test begins with a free lock of its own.

mod fields;
mod rules;
mod schedules;
mod waiting;
mod watching;

use std::collections::HashMap;
use std::time::Duration;

use holdfast::grpc::proto::lock::lock_service_client::LockServiceClient;
use holdfast::grpc::proto::lock::{
    AcquireLockRequest, ExpiryPolicy, ForceReleaseLockRequest, GetLockRequest, Lock, LockLease, LockPurpose, ReleaseLockRequest,
    RenewLockRequest,
};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::update_service::{self, ADMINISTRATOR, DOMAIN, Fault, Host, LOCK, UPDATE_SERVICE};
use super::world::{Bearer, Calls, TOKEN, UPDATE_TOKEN, World};

/// Makes of each rule a test for each service.
macro_rules! conforms {
    ($($module:ident: $($rule:ident)*;)*) => {
        mod the_reference {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                super::$module::$rule(&mut super::Subject::reference().await).await;
            })*)*
        }

        mod holdfast_itself {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                super::$module::$rule(&mut super::Subject::holdfast().await).await;
            })*)*
        }
    };
}

conforms! {
    rules:
        a_grant_is_shown_to_others_without_its_secret
        l05_a_lost_answer_asked_for_again_is_the_same_lease
        l06_a_late_or_repeated_release_frees_nobody_elses_lock
        l08_a_hold_whose_holder_died_stays_until_it_is_taken_again
        l08_a_hold_whose_holder_died_stays_until_an_administrator_ends_it
        a_lease_that_is_over_can_be_renewed_until_another_is_granted
        a_forced_release_with_the_token_of_another_removes_nobody
        tokens_grow_and_a_hold_stays_over_a_restart
        an_update_dies_and_goes_on_where_it_was;
    fields:
        every_field_is_checked_and_named
        who_may_not_is_refused_before_anything_is_looked_up
        l10_no_request_carries_a_time_of_day_and_a_lease_is_a_length_of_time;
    waiting:
        of_many_callers_at_once_one_at_a_time_has_the_lock
        every_caller_that_waits_gets_its_turn
        a_wait_ends_and_tells_who_is_in_the_way
        a_caller_that_waits_gets_the_lock_of_a_holder_that_died
        a_caller_whose_deadline_ended_the_wait_is_not_granted_the_lock_later;
    watching:
        who_watches_sees_every_change_in_its_order
        who_watches_never_goes_back_in_time
        who_watches_hears_something_in_fifteen_seconds;
    schedules:
        the_lock_does_what_its_model_does_whatever_is_called;
}

/// A service under test.
pub struct Subject {
    served: Served,
    administrator: Identity,
    update_service: Identity,
}

#[derive(Clone, Copy)]
struct Identity {
    principal: &'static str,
    token: &'static str,
}

enum Served {
    Host(Host),
    Holdfast(Box<World>),
}

impl Subject {
    async fn reference() -> Self {
        let identity = |caller: update_service::Caller| Identity { principal: caller.principal, token: caller.token };
        let served = Served::Host(Host::start().await);
        Self { served, administrator: identity(ADMINISTRATOR), update_service: identity(UPDATE_SERVICE) }
    }

    async fn holdfast() -> Self {
        let administrator = Identity { principal: "token:static", token: TOKEN };
        let update_service = Identity { principal: "token:update-service", token: UPDATE_TOKEN };
        Self { served: Served::Holdfast(Box::new(World::new().await)), administrator, update_service }
    }

    fn endpoint(&self) -> String {
        match &self.served {
            Served::Host(host) => host.endpoint(),
            Served::Holdfast(world) => world.address(),
        }
    }

    /// A caller with a connection of its own who may do everything.
    fn administrator(&self) -> Caller {
        Caller::at(&self.endpoint(), self.administrator)
    }

    /// One who may take and read the lock, and no more.
    fn update_service(&self) -> Caller {
        Caller::at(&self.endpoint(), self.update_service)
    }

    /// Lets the time of the present lease be over.
    async fn expire(&self) {
        match &self.served {
            Served::Host(host) => host.expire(),
            Served::Holdfast(world) => {
                world.sql_as_superuser("update holdfast.lease set expire_time = clock_timestamp() - interval '1 s'").await;
            }
        }
    }

    /// Ends the service as a power cut would, and starts it again.
    async fn restart(&mut self) {
        match &mut self.served {
            Served::Host(host) => {
                host.set(Fault::Dead).await;
                host.set(Fault::None).await;
            }
            Served::Holdfast(world) => {
                world.kill();
                world.start().await.unwrap();
            }
        }
    }

    /// All that the service wrote down, as far as a test can read it.
    async fn written(&self) -> String {
        match &self.served {
            Served::Host(_) => String::new(),
            Served::Holdfast(world) => {
                let url = super::world::superuser_url(&world.database);
                let dump =
                    std::process::Command::new("pg_dump").args(["--data-only", "--schema=holdfast", &url]).output().unwrap();
                assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
                String::from_utf8(dump.stdout).unwrap() + &world.log()
            }
        }
    }
}

/// Somebody who calls.
#[derive(Clone)]
pub struct Caller {
    calls: LockServiceClient<Calls>,
    principal: &'static str,
}

impl Caller {
    fn at(endpoint: &str, Identity { principal, token }: Identity) -> Self {
        let channel = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect_lazy();
        Self { calls: LockServiceClient::new(InterceptedService::new(channel, Bearer::of(token))), principal }
    }

    async fn acquire(&self, request: AcquireLockRequest) -> Result<LockLease, Refused> {
        Ok(self.calls.clone().acquire_lock(request).await.map_err(refused)?.into_inner())
    }

    async fn renew(&self, lease: &LockLease) -> Result<LockLease, Refused> {
        self.renew_as(RenewLockRequest { name: LOCK.into(), lease_id: lease.lease_id.clone(), ..Default::default() }).await
    }

    async fn renew_as(&self, request: RenewLockRequest) -> Result<LockLease, Refused> {
        Ok(self.calls.clone().renew_lock(request).await.map_err(refused)?.into_inner())
    }

    async fn release(&self, lease: &LockLease) -> Lock {
        let request = ReleaseLockRequest { name: LOCK.into(), lease_id: lease.lease_id.clone() };
        self.calls.clone().release_lock(request).await.expect("a release succeeds").into_inner()
    }

    async fn look(&self) -> Lock {
        self.calls.clone().get_lock(GetLockRequest { name: LOCK.into() }).await.expect("the lock can be read").into_inner()
    }

    async fn force_release(&self, fencing_token: i64) -> Result<Lock, Refused> {
        let request = ForceReleaseLockRequest { name: LOCK.into(), fencing_token, reason: "Its machine is gone".into() };
        Ok(self.calls.clone().force_release_lock(request).await.map_err(refused)?.into_inner())
    }
}

/// A refusal of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    code: Code,
    reason: String,
    metadata: HashMap<String, String>,
    /// The fields that are wrong.
    fields: Vec<String>,
    bytes: Vec<u8>,
}

fn refused(status: Status) -> Refused {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
    let denied = matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied);
    assert!(info.domain == DOMAIN || denied, "{status:?}: {info:?}");
    let wrong = status.get_details_bad_request().map_or_else(Vec::new, |wrong| wrong.field_violations);
    let fields = wrong.into_iter().map(|violation| violation.field).collect();
    let bytes = [status.message().as_bytes(), status.details()].concat();
    Refused { code: status.code(), reason: info.reason, metadata: info.metadata, fields, bytes }
}

/// The least that can be asked for.
fn wanted(holder_id: &str) -> AcquireLockRequest {
    AcquireLockRequest {
        name: LOCK.into(),
        holder_id: holder_id.into(),
        purpose: LockPurpose::SoftwareUpdate.into(),
        reason: format!("Update {holder_id}"),
        ..Default::default()
    }
}

/// The same, as an update wants it.
fn held(holder_id: &str) -> AcquireLockRequest {
    AcquireLockRequest { expiry_policy: ExpiryPolicy::Hold.into(), ..wanted(holder_id) }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// For what comes at once or never, on a machine however slow.
const LONG: Duration = Duration::from_secs(60);
