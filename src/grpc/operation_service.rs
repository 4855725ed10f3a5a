//! OperationService: looks at operations, waits for them, and asks them to stop.

use std::time::{Duration, Instant};

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use super::access::accept;
use super::convert::fields::operation_id;
use super::convert::operation as convert;
use super::gate::draining;
use super::proto::backup as wire;
use super::proto::backup::operation_service_server::OperationService;
use super::{held, status};
use crate::model::{Operation, OperationId};
use crate::operations::Holdfast;

/// At most four messages a second, and one in 15 s: idle proxies close streams.
const PACE: Duration = Duration::from_millis(250);
const HEARTBEAT: Duration = Duration::from_secs(14);

pub struct Service {
    pub holdfast: Holdfast,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl OperationService for Service {
    async fn get_operation(&self, request: Request<wire::GetOperationRequest>) -> Answer<wire::Operation> {
        let id = operation_id("name", &request.get_ref().name)?;
        Ok(Response::new(convert::operation(self.holdfast.get_operation(id).await?)))
    }

    async fn list_operations(&self, request: Request<wire::ListOperationsRequest>) -> Answer<wire::ListOperationsResponse> {
        let (page_size, before, active_only) = convert::list_request(request.get_ref())?;
        let (operations, next) = self.holdfast.list_operations(page_size, before, active_only).await?;
        Ok(Response::new(convert::list_response(operations, next, active_only)))
    }

    async fn wait_operation(&self, request: Request<wire::WaitOperationRequest>) -> Answer<wire::Operation> {
        let (id, limit) = convert::wait_request(request.get_ref(), request.metadata())?;
        let operation = self.wait(id, limit).await?;
        match convert::failure(&operation).filter(|_| request.get_ref().error_as_status) {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(Response::new(convert::operation(operation))),
        }
    }

    type WatchOperationStream = BoxStream<'static, Result<wire::Operation, Status>>;

    async fn watch_operation(&self, request: Request<wire::WatchOperationRequest>) -> Answer<Self::WatchOperationStream> {
        let request = request.into_inner();
        let now = self.holdfast.get_operation(operation_id("name", &request.name)?).await?;
        let place = self.holdfast.watcher()?;
        let watch = Watch { holdfast: self.holdfast.clone(), error_as_status: request.error_as_status };
        Ok(Response::new(held(watch.messages(now), place)))
    }

    async fn cancel_operation(&self, request: Request<wire::CancelOperationRequest>) -> Answer<()> {
        let (caller, request) = accept(request)?;
        let id = operation_id("name", &request.name)?;
        Ok(Response::new(self.holdfast.cancel_operation(&caller, id).await?))
    }
}

impl Service {
    /// The operation when it is done, or as it is when `limit` is over.
    async fn wait(&self, id: OperationId, limit: Duration) -> Result<Operation, Status> {
        let start = Instant::now();
        let mut operation = self.holdfast.get_operation(id).await?;
        while !operation.done() {
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            operation = changed(&self.holdfast, id, operation.revision, Duration::ZERO, left).await?;
        }
        Ok(operation)
    }
}

/// The next state of an operation, no sooner than after `pause`, unless the service stops.
async fn changed(holdfast: &Holdfast, id: OperationId, seen: i64, pause: Duration, limit: Duration) -> Result<Operation, Status> {
    let stopping = holdfast.stopping();
    let change = async {
        tokio::time::sleep(pause).await;
        holdfast.wait_for_change(id, seen, limit).await
    };
    tokio::select! {
        operation = change => Ok(operation?),
        () = stopping.cancelled() => Err(draining()),
    }
}

/// One watcher's stream.
struct Watch {
    holdfast: Holdfast,
    error_as_status: bool,
}

/// What a watcher gets next.
enum Next {
    State(Box<Operation>),
    Change(OperationId, i64),
    Error(Status),
    End,
}

impl Watch {
    fn messages(self, now: Operation) -> BoxStream<'static, Result<wire::Operation, Status>> {
        let start = (self, Next::State(Box::new(now)));
        stream::unfold(start, |(watch, next)| async move {
            let (message, next) = watch.step(next).await?;
            Some((message, (watch, next)))
        })
        .boxed()
    }

    async fn step(&self, next: Next) -> Option<(Result<wire::Operation, Status>, Next)> {
        let state = match next {
            Next::End => return None,
            Next::Error(status) => Err(status),
            Next::State(operation) => Ok(*operation),
            Next::Change(id, seen) => changed(&self.holdfast, id, seen, PACE, HEARTBEAT).await,
        };
        match state {
            Ok(operation) => {
                let next = self.after(&operation);
                Some((Ok(convert::operation(operation)), next))
            }
            Err(status) => {
                status::log("/holdfast.backup.v1.OperationService/WatchOperation", &status);
                Some((Err(status), Next::End))
            }
        }
    }

    fn after(&self, operation: &Operation) -> Next {
        match convert::failure(operation).filter(|_| self.error_as_status) {
            Some(failure) => Next::Error(failure.clone().into()),
            None if operation.done() => Next::End,
            None => Next::Change(operation.id, operation.revision),
        }
    }
}
