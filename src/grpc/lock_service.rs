//! LockService: the maintenance lock for those whose work must not overlap with a backup or a restore.

use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use super::access::{accept, check_transport};
use super::convert::lock as convert;
use super::gate::draining;
use super::proto::lock as wire;
use super::proto::lock::lock_service_server::LockService;
use super::{held, status};
use crate::model::lock::Lock;
use crate::operations::Holdfast;

/// A watcher hears something at least this often, or proxies take the stream for dead.
const HEARTBEAT: Duration = Duration::from_secs(10);

pub struct Service {
    pub holdfast: Holdfast,
    pub allow_plaintext_secrets: bool,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl LockService for Service {
    async fn acquire_lock(&self, request: Request<wire::AcquireLockRequest>) -> Answer<wire::LockLease> {
        // The answer has a secret.
        check_transport(request.extensions(), self.allow_plaintext_secrets)?;
        let (caller, request) = accept(request)?;
        let (terms, wait) = convert::acquire_request(request, caller.principal())?;
        let lease = self.holdfast.acquire_lock(&caller, terms, wait).await?;
        Ok(Response::new(convert::lease(&lease)))
    }

    async fn renew_lock(&self, request: Request<wire::RenewLockRequest>) -> Answer<wire::LockLease> {
        check_transport(request.extensions(), self.allow_plaintext_secrets)?;
        let (caller, request) = accept(request)?;
        let (id, ttl, reason) = convert::renew_request(request)?;
        let lease = self.holdfast.renew_lock(&caller, &id, ttl, reason.as_deref()).await?;
        Ok(Response::new(convert::lease(&lease)))
    }

    async fn release_lock(&self, request: Request<wire::ReleaseLockRequest>) -> Answer<wire::Lock> {
        check_transport(request.extensions(), self.allow_plaintext_secrets)?;
        let (caller, request) = accept(request)?;
        let lock = self.holdfast.release_lock(&caller, &convert::release_request(request)?).await?;
        Ok(Response::new(convert::lock(&lock)))
    }

    async fn get_lock(&self, request: Request<wire::GetLockRequest>) -> Answer<wire::Lock> {
        convert::name(&request.get_ref().name)?;
        Ok(Response::new(convert::lock(&self.holdfast.get_lock().await?)))
    }

    type WatchLockStream = BoxStream<'static, Result<wire::Lock, Status>>;

    async fn watch_lock(&self, request: Request<wire::WatchLockRequest>) -> Answer<Self::WatchLockStream> {
        convert::name(&request.get_ref().name)?;
        let place = self.holdfast.watcher()?;
        let first = self.holdfast.get_lock().await?;
        let now = stream::iter([Ok(convert::lock(&first))]);
        let later = stream::unfold(Some((self.holdfast.clone(), first)), |watch| async move {
            let (holdfast, seen) = watch?;
            match next(&holdfast, &seen).await {
                Ok(lock) => Some((Ok(convert::lock(&lock)), Some((holdfast, lock)))),
                Err(status) => {
                    status::log("/holdfast.lock.v1.LockService/WatchLock", &status);
                    Some((Err(status), None))
                }
            }
        });
        Ok(Response::new(held(now.chain(later), place)))
    }

    async fn force_release_lock(&self, request: Request<wire::ForceReleaseLockRequest>) -> Answer<wire::Lock> {
        let (caller, request) = accept(request)?;
        let (fencing_token, reason) = convert::force_request(request)?;
        let lock = self.holdfast.force_release_lock(&caller, fencing_token, &reason).await?;
        Ok(Response::new(convert::lock(&lock)))
    }
}

async fn next(holdfast: &Holdfast, seen: &Lock) -> Result<Lock, Status> {
    let stopping = holdfast.stopping();
    tokio::select! {
        lock = holdfast.wait_for_lock_change(seen, HEARTBEAT) => Ok(lock?),
        () = stopping.cancelled() => Err(draining()),
    }
}
