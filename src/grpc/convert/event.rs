//! Events of the audit log.

use tonic::Status;

use super::fields::{invalid, operation_name, page_place, page_size, page_token, timestamp};
use crate::grpc::proto::backup as wire;
use crate::grpc::status::{published, published_name};
use crate::model::chain::{Head, Link};
use crate::model::event::{Filter, Recorded};

pub fn audit_event(recorded: Recorded) -> wire::AuditEvent {
    let event = recorded.event;
    let failure = event.failure.map(published);
    wire::AuditEvent {
        name: format!("auditEvents/{}", recorded.number),
        event_time: Some(timestamp(recorded.time)),
        r#type: event.kind,
        actor: Some(wire::audit_event::Actor {
            principal: event.actor.principal,
            authentication: event.actor.authentication,
            peer_address: event.actor.peer_address,
            user_agent: event.actor.user_agent,
        }),
        method: event.method,
        target: event.target,
        operation: event.operation.map(operation_name).unwrap_or_default(),
        code: failure.map_or(0, |(code, _)| code as i32),
        error_reason: failure.map(|(_, reason)| published_name(reason).to_owned()).unwrap_or_default(),
        reason: event.reason,
        request_id: event.request_id,
        trace_id: event.trace_id.map(|id| id.to_string()).unwrap_or_default(),
        attributes: event.attributes.into_iter().collect(),
        hash: recorded.hash.to_string(),
    }
}

/// Page size, the event before which the page begins, and which events are meant.
pub fn list_request(request: &wire::ListAuditEventsRequest) -> Result<(u32, Option<i64>, Filter), Status> {
    let before = page_place(&list(&request.types), &request.page_token)?;
    Ok((page_size(request.page_size, 100, 1000)?, before, filter(&request.types)?))
}

pub fn list_response(events: Vec<Recorded>, next: Option<i64>, types: &[String]) -> wire::ListAuditEventsResponse {
    wire::ListAuditEventsResponse {
        audit_events: events.into_iter().map(audit_event).collect(),
        next_page_token: next.map(|next| page_token(&list(types), next)).unwrap_or_default(),
    }
}

/// Number of the event seen last, and which events are meant.
pub fn watch_request(request: &wire::WatchAuditEventsRequest) -> Result<(Option<i64>, Filter), Status> {
    let number = |text: &str| {
        let number = text.strip_prefix("auditEvents/").and_then(|number| number.parse().ok()).filter(|&number: &i64| number >= 0);
        number.ok_or_else(|| invalid("start_after", "`start_after` has the form `auditEvents/17`; leave it out for what comes."))
    };
    let seen = Some(request.start_after.as_str()).filter(|text| !text.is_empty()).map(number).transpose()?;
    Ok((seen, filter(&request.types)?))
}

/// Number of the event after which to begin, and page size.
pub fn records_request(request: &wire::ListAuditRecordsRequest) -> Result<(i64, u32), Status> {
    if request.start_after < 0 {
        return Err(invalid("start_after", "`start_after` is the number of an event; leave it out to begin with the first."));
    }
    Ok((request.start_after, page_size(request.page_size, 500, 1000)?))
}

pub fn records_response(links: Vec<Link>, head: Head) -> wire::ListAuditRecordsResponse {
    let record = |Link { number, record, hash }| {
        let hash = hash.map(|hash| hash.to_string()).unwrap_or_default();
        wire::AuditRecord { number, record, hash }
    };
    let head = wire::AuditHead { number: head.number, hash: head.hash.to_string() };
    wire::ListAuditRecordsResponse { records: links.into_iter().map(record).collect(), head: Some(head) }
}

fn filter(types: &[String]) -> Result<Filter, Status> {
    if types.len() > Filter::MAX_TYPES {
        return Err(invalid("types", format!("`types` has at most {} entries.", Filter::MAX_TYPES)));
    }
    Filter::parse(types).map_err(|error| invalid("types", format!("{error}.")))
}

/// A token belongs to the list of these types.
fn list(types: &[String]) -> String {
    format!("events {}", types.join(" "))
}
