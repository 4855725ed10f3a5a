//! What may be sent, and by whom: every field has its bounds, every method its permission.

use holdfast::grpc::proto::DESCRIPTORS;
use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::{AcquireLockRequest, ExpiryPolicy, ForceReleaseLockRequest, GetLockRequest, LockPurpose};
use holdfast::grpc::proto::lock::{ReleaseLockRequest, RenewLockRequest, WatchLockRequest};
use prost_reflect::DescriptorPool;
use tonic::{Code, Status};

use super::{Caller, Identity, Subject, held, refused, seconds, wanted};
use crate::update_service::LOCK;

pub async fn every_field_is_checked_and_named(subject: &mut Subject) {
    let caller = subject.administrator();
    let nanos = |seconds: i64, nanos: i32| Some(prost_types::Duration { seconds, nanos });
    let fits = || wanted("update-1");
    let wrong = |field: &'static str, change: fn(&mut AcquireLockRequest)| {
        let mut request = fits();
        change(&mut request);
        (field, request)
    };
    let of_ttl = |ttl| ("ttl", AcquireLockRequest { ttl, ..fits() });
    let of_wait = |wait_timeout| ("wait_timeout", AcquireLockRequest { wait_timeout, ..fits() });
    for (field, request) in [
        wrong("name", |r| r.name.clear()),
        wrong("holder_id", |r| r.holder_id.clear()),
        wrong("holder_id", |r| r.holder_id = "ü".repeat(129)),
        wrong("holder_id", |r| r.holder_id = "pod\0".into()),
        wrong("reason", |r| r.reason.clear()),
        wrong("reason", |r| r.reason = "ü".repeat(257)),
        wrong("reason", |r| r.reason = "Update\0".into()),
        wrong("purpose", |r| r.purpose = 0),
        wrong("purpose", |r| r.purpose = 99),
        wrong("expiry_policy", |r| r.expiry_policy = 99),
        wrong("request_id", |r| r.request_id = "x".repeat(37)),
        of_ttl(seconds(0)),
        of_ttl(seconds(-60)),
        of_ttl(nanos(9, 999_999_999)),
        of_ttl(nanos(3600, 1)),
        of_ttl(seconds(i64::MAX)),
        of_wait(seconds(-1)),
        of_wait(nanos(60, 1)),
        of_wait(seconds(i64::MAX)),
    ] {
        let refusal = caller.acquire(request.clone()).await.expect_err(&format!("{request:?}"));
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{request:?}");
        assert_eq!(refusal.fields, [field], "{request:?}");
    }
    assert_eq!(caller.look().await.state(), State::Free);
    for request in [
        AcquireLockRequest { holder_id: "ü".repeat(128), reason: "ü".repeat(256), request_id: "x".repeat(36), ..fits() },
        AcquireLockRequest { ttl: seconds(10), ..fits() },
        AcquireLockRequest { ttl: seconds(3600), wait_timeout: seconds(60), ..fits() },
        AcquireLockRequest { expiry_policy: ExpiryPolicy::Release.into(), purpose: LockPurpose::Maintenance.into(), ..fits() },
    ] {
        let lease = caller.acquire(request.clone()).await.unwrap();
        assert_eq!(lease.ttl, request.ttl.or(seconds(60)));
        let shown = caller.look().await.holder.unwrap();
        assert_eq!(shown.expiry_policy(), ExpiryPolicy::Release);
        assert_eq!((shown.holder_id, shown.reason), (request.holder_id, request.reason));
        caller.release(&lease).await;
    }

    let lease = caller.acquire(fits()).await.unwrap();
    let good = RenewLockRequest { name: LOCK.into(), lease_id: lease.lease_id.clone(), ..Default::default() };
    for (field, request) in [
        ("name", RenewLockRequest { name: String::new(), ..good.clone() }),
        ("lease_id", RenewLockRequest { lease_id: String::new(), ..good.clone() }),
        ("ttl", RenewLockRequest { ttl: seconds(9), ..good.clone() }),
        ("ttl", RenewLockRequest { ttl: seconds(3601), ..good.clone() }),
        ("reason", RenewLockRequest { reason: "x".repeat(257), ..good.clone() }),
    ] {
        let refusal = caller.renew_as(request).await.unwrap_err();
        assert_eq!((refusal.reason.as_str(), refusal.fields), ("INVALID_FIELD", vec![field.to_owned()]));
    }
    let mut calls = caller.calls.clone();
    let release = ReleaseLockRequest { name: LOCK.into(), lease_id: String::new() };
    assert_eq!(refused(calls.release_lock(release).await.unwrap_err()).fields, ["lease_id"]);
    for reason in [String::new(), "x".repeat(257)] {
        let request = ForceReleaseLockRequest { name: LOCK.into(), fencing_token: lease.fencing_token, reason };
        assert_eq!(refused(calls.force_release_lock(request).await.unwrap_err()).fields, ["reason"]);
    }
    for fencing_token in [0, -1] {
        let request = ForceReleaseLockRequest { name: LOCK.into(), fencing_token, reason: "Its machine is gone".into() };
        assert_eq!(refused(calls.force_release_lock(request).await.unwrap_err()).fields, ["fencing_token"]);
    }
    caller.renew(&lease).await.unwrap();

    let name = || "locks/another".to_owned();
    let fencing_token = lease.fencing_token;
    let unknown = [
        caller.acquire(AcquireLockRequest { name: name(), ..fits() }).await.unwrap_err(),
        caller.renew_as(RenewLockRequest { name: name(), ..good }).await.unwrap_err(),
        refused(calls.release_lock(ReleaseLockRequest { name: name(), lease_id: lease.lease_id }).await.unwrap_err()),
        refused(calls.get_lock(GetLockRequest { name: name() }).await.unwrap_err()),
        refused(calls.watch_lock(WatchLockRequest { name: name() }).await.err().unwrap()),
        refused(
            calls
                .force_release_lock(ForceReleaseLockRequest { name: name(), fencing_token, reason: "x".into() })
                .await
                .unwrap_err(),
        ),
    ];
    for refusal in unknown {
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "LOCK_UNKNOWN"));
    }
}

pub async fn who_may_not_is_refused_before_anything_is_looked_up(subject: &mut Subject) {
    let lease = subject.update_service().acquire(held("update-1")).await.unwrap();
    let force = |name: &str| ForceReleaseLockRequest {
        name: name.into(),
        fencing_token: lease.fencing_token,
        reason: "Its machine is gone".into(),
    };
    let mut update_service = subject.update_service().calls;
    for name in [LOCK, "locks/another", ""] {
        let code = |status: Option<Status>| status.map(|status| status.code());
        assert_eq!(code(update_service.force_release_lock(force(name)).await.err()), Some(Code::PermissionDenied));
        let mut nobody =
            Caller::at(&subject.endpoint(), Identity { principal: "nobody", token: "a-token-that-nobody-has" }).calls;
        let none = Some(Code::Unauthenticated);
        let lease_id = || lease.lease_id.clone();
        let name = || name.to_owned();
        assert_eq!(code(nobody.acquire_lock(AcquireLockRequest { name: name(), ..wanted("x") }).await.err()), none);
        let renewal = RenewLockRequest { name: name(), lease_id: lease_id(), ..Default::default() };
        assert_eq!(code(nobody.renew_lock(renewal).await.err()), none);
        assert_eq!(code(nobody.release_lock(ReleaseLockRequest { name: name(), lease_id: lease_id() }).await.err()), none);
        assert_eq!(code(nobody.get_lock(GetLockRequest { name: name() }).await.err()), none);
        assert_eq!(code(nobody.watch_lock(WatchLockRequest { name: name() }).await.err()), none);
        assert_eq!(code(nobody.force_release_lock(force(&name())).await.err()), none);
    }
    let lock = subject.administrator().look().await;
    assert_eq!((lock.state(), lock.fencing_token), (State::Held, lease.fencing_token));
}

pub async fn l10_no_request_carries_a_time_of_day_and_a_lease_is_a_length_of_time(subject: &mut Subject) {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let service = pool.get_service_by_name("holdfast.lock.v1.LockService").unwrap();
    for method in service.methods() {
        for field in method.input().fields() {
            let of_time = field.kind().as_message().is_some_and(|kind| kind.full_name() == "google.protobuf.Timestamp");
            assert!(!of_time, "{}", field.full_name());
        }
    }
    let caller = subject.administrator();
    let lease = caller.acquire(AcquireLockRequest { ttl: seconds(30), ..wanted("update-1") }).await.unwrap();
    assert_eq!((lease.ttl, lease.renew_interval), (seconds(30), seconds(10)));
    // Neither a renewal nor a repeated request counts from the first grant.
    assert_eq!(caller.renew(&lease).await.unwrap().ttl, seconds(30));
}
