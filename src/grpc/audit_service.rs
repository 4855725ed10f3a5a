//! AuditService: lists events, sends them as they happen, and shows what proves them.

use std::collections::VecDeque;

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use super::convert::event as convert;
use super::gate::draining;
use super::proto::backup as wire;
use super::proto::backup::audit_service_server::AuditService;
use super::{held, status};
use crate::model::event::{Filter, Recorded};
use crate::operations::Holdfast;

pub struct Service {
    pub holdfast: Holdfast,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AuditService for Service {
    async fn list_audit_events(&self, request: Request<wire::ListAuditEventsRequest>) -> Answer<wire::ListAuditEventsResponse> {
        let (page_size, before, filter) = convert::list_request(request.get_ref())?;
        let (events, next) = self.holdfast.list_events(page_size, before, &filter).await?;
        Ok(Response::new(convert::list_response(events, next, &request.get_ref().types)))
    }

    async fn list_audit_records(
        &self,
        request: Request<wire::ListAuditRecordsRequest>,
    ) -> Answer<wire::ListAuditRecordsResponse> {
        let (after, page_size) = convert::records_request(request.get_ref())?;
        let (links, head) = self.holdfast.chain(after, page_size).await?;
        Ok(Response::new(convert::records_response(links, head)))
    }

    type WatchAuditEventsStream = BoxStream<'static, Result<wire::AuditEvent, Status>>;

    async fn watch_audit_events(&self, request: Request<wire::WatchAuditEventsRequest>) -> Answer<Self::WatchAuditEventsStream> {
        let (seen, filter) = convert::watch_request(request.get_ref())?;
        let place = self.holdfast.event_place(seen).await?;
        let watching = self.holdfast.watcher()?;
        let watch = Watch { holdfast: self.holdfast.clone(), filter, place, ready: VecDeque::new() };
        Ok(Response::new(held(watch.messages(), watching)))
    }
}

/// One watcher's stream.
struct Watch {
    holdfast: Holdfast,
    filter: Filter,
    place: i64,
    /// Read and not sent yet.
    ready: VecDeque<Recorded>,
}

impl Watch {
    fn messages(self) -> BoxStream<'static, Result<wire::AuditEvent, Status>> {
        stream::unfold(Some(self), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(convert::audit_event(event)), Some(watch))),
                Err(status) => {
                    status::log("/holdfast.backup.v1.AuditService/WatchAuditEvents", &status);
                    Some((Err(status), None))
                }
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Recorded, Status> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let stopping = self.holdfast.stopping();
            let (events, place) = tokio::select! {
                events = self.holdfast.next_events(self.place, &self.filter) => events?,
                () = stopping.cancelled() => return Err(draining()),
            };
            (self.ready, self.place) = (events.into(), place);
        }
    }
}
