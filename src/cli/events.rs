//! The audit log: the newest events, or events as they happen.

use std::collections::BTreeMap;

use tonic::{Status, Streaming};

use super::Session;
use super::connect::unary;
use super::follow::Outage;
use super::output::{clean, note, time};
use super::problem::Problem;
use crate::grpc::proto::backup::{AuditEvent, ListAuditEventsRequest, WatchAuditEventsRequest};

#[derive(Debug, clap::Args)]
pub struct Events {
    /// Go on with events as they happen, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Only events of these types; a `*` at the end stands for a family, as in `restore.*`
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Begin after this event, `auditEvents/17`; with --follow only
    #[arg(long, value_name = "EVENT", requires = "follow")]
    after: Option<String>,
    /// Show so many of the newest
    #[arg(long, value_name = "COUNT", default_value_t = 100, conflicts_with = "follow", value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,
}

/// Prints events, oldest first, one on each line.
pub async fn run(session: Session, events: Events) -> Result<(), Problem> {
    if events.follow {
        return tokio::select! {
            ended = follow(&session, events) => ended,
            _ = tokio::signal::ctrl_c() => Err(Problem::Interrupted("Interrupted.".into())),
        };
    }
    let request = ListAuditEventsRequest { page_size: events.limit, page_token: String::new(), types: events.types };
    let list = session.client.repeat(async || session.client.events().list_audit_events(unary(request.clone())).await).await?;
    list.audit_events.iter().rev().try_for_each(|event| session.output.result(event, line))
}

/// Whatever happens to the connection, each event is printed once: the watch goes on after the last that was.
async fn follow(session: &Session, events: Events) -> Result<(), Problem> {
    let mut request = WatchAuditEventsRequest { start_after: events.after.unwrap_or_default(), types: events.types };
    if request.start_after.is_empty() {
        // From now on: what comes while a connection is lost must not be passed over, so now has a name.
        let newest = ListAuditEventsRequest { page_size: 1, ..Default::default() };
        let newest =
            session.client.repeat(async || session.client.events().list_audit_events(unary(newest.clone())).await).await?;
        let newest = newest.audit_events.into_iter().next();
        request.start_after = newest.map_or_else(|| "auditEvents/0".to_owned(), |event| event.name);
    }
    let mut outage = Outage::default();
    loop {
        let status = match session.client.events().watch_audit_events(request.clone()).await {
            Ok(stream) => {
                outage = Outage::default();
                watch(session, stream.into_inner(), &mut request.start_after).await?
            }
            Err(status) => status,
        };
        let waited = outage.wait(status, || note("The connection was lost; trying again.")).await;
        waited.map_err(|status| session.client.explained(status))?;
    }
}

/// Prints what comes, and remembers the last. Returns why the stream ended.
async fn watch(session: &Session, mut stream: Streaming<AuditEvent>, seen: &mut String) -> Result<Status, Problem> {
    loop {
        match stream.message().await {
            Ok(Some(event)) => {
                session.output.result(&event, line)?;
                *seen = event.name;
            }
            Ok(None) => return Ok(Status::unavailable("the service ended the watch")),
            Err(status) => return Ok(status),
        }
    }
}

fn line(event: &AuditEvent) -> String {
    let actor = event.actor.clone().unwrap_or_default();
    let attributes: BTreeMap<_, _> = event.attributes.iter().collect();
    let attributes: Vec<String> = attributes.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let outcome = if event.code == 0 { String::new() } else { format!("failed: {}", event.error_reason) };
    let parts = [
        time(event.event_time),
        event.r#type.clone(),
        actor.principal,
        event.target.clone(),
        event.operation.clone(),
        outcome,
        event.reason.clone(),
        attributes.join(" "),
    ];
    clean(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::backup::audit_event::Actor;

    #[test]
    fn an_event_is_one_line_that_cannot_steer_the_terminal() {
        let event = AuditEvent {
            r#type: "restore.failed".into(),
            actor: Some(Actor { principal: "user:eve".into(), ..Default::default() }),
            target: "backups/b-1".into(),
            code: 10,
            error_reason: "INTERRUPTED".into(),
            reason: "why\n\u{1b}[2J".into(),
            attributes: [("b".into(), "2".into()), ("a".into(), "1".into())].into(),
            ..Default::default()
        };
        assert_eq!(line(&event), "restore.failed  user:eve  backups/b-1  failed: INTERRUPTED  why\u{fffd}\u{fffd}[2J  a=1 b=2");
    }
}
