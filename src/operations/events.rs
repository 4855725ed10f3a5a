//! The audit log as it is read, and refusals of access, which are all counted but not all written: a flood of them must not
//! fill the database.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::call::Caller;
use super::{Error, Holdfast, Result};
use crate::model::Reason;
use crate::model::chain::{Head, Link};
use crate::model::event::{Event, Filter, Recorded};

/// How often those who wait for events look for them.
pub(super) const POLL: Duration = Duration::from_millis(250);
/// Events that a watcher is sent at once.
const BATCH: u32 = 200;

/// Refusals that wait to be written; those beyond are counted only.
const REFUSALS_WAITING: usize = 20;
/// Between two refusals that are written: at most 30 a minute, and those that wait.
const REFUSALS_EVERY: Duration = Duration::from_secs(2);

/// Takes refusals from calls, which never wait for it.
pub struct Refusals {
    sender: mpsc::Sender<Event>,
    /// Refusals that no event was written for.
    unwritten: AtomicU64,
    /// All of them, by their reason, since this process began.
    counts: [(Reason, AtomicU64); 4],
}

impl Refusals {
    pub fn new() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(REFUSALS_WAITING);
        let reasons =
            [Reason::CredentialsMissing, Reason::CredentialsInvalid, Reason::PermissionMissing, Reason::IdentityUnavailable];
        let counts = reasons.map(|reason| (reason, AtomicU64::new(0)));
        (Self { sender, unwritten: AtomicU64::new(0), counts }, receiver)
    }

    /// How many there were for each reason.
    pub fn counts(&self) -> Vec<(Reason, u64)> {
        self.counts.iter().map(|(reason, count)| (*reason, count.load(Ordering::Relaxed))).collect()
    }
}

impl Holdfast {
    /// One page of events, newest first, and the place where the next begins.
    pub async fn list_events(&self, limit: u32, before: Option<i64>, filter: &Filter) -> Result<(Vec<Recorded>, Option<i64>)> {
        let state = &self.0.parts.state;
        state.last_event().await?;
        let mut events = state.events_before(before, filter, limit.saturating_add(1)).await?;
        let more = events.len() > limit as usize;
        events.truncate(limit as usize);
        let next = events.last().filter(|_| more).map(|event| event.number);
        Ok((events, next))
    }

    /// One page of events as they were chained, oldest first, and the end of the log at the same moment.
    pub async fn chain(&self, after: i64, limit: u32) -> Result<(Vec<Link>, Head)> {
        Ok(self.0.parts.state.chain_after(after, limit).await?)
    }

    /// Where to watch from: after the event that was seen last, or after all that are there now.
    pub async fn event_place(&self, seen: Option<i64>) -> Result<i64> {
        let last = self.0.parts.state.last_event().await?;
        match seen {
            None => Ok(last),
            Some(seen) if (0..=last).contains(&seen) => Ok(seen),
            // After a database was put back: to wait for its numbers to catch up would pass over what happens meanwhile.
            Some(_) => {
                let problem = "there is no such event; list the events and begin at one of them".to_owned();
                Err(Error::InvalidField { field: "start_after", problem })
            }
        }
    }

    /// Waits for events after `place`. Returns them, and the place up to which there are no others.
    pub async fn next_events(&self, mut place: i64, filter: &Filter) -> Result<(Vec<Recorded>, i64)> {
        loop {
            let (events, seen) = self.0.parts.state.events_after(place, filter, BATCH).await?;
            if !events.is_empty() {
                return Ok((events, seen));
            }
            place = seen;
            sleep(POLL).await;
        }
    }

    /// Notes that a call was refused for who made it.
    pub fn refused(&self, caller: &Caller, reason: Reason) {
        if let Some((_, count)) = self.0.refusals.counts.iter().find(|(known, _)| *known == reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let event = Event { failure: Some(reason), ..Event::new("access.denied", caller, "") };
        if self.0.refusals.sender.try_send(event).is_err() {
            self.0.refusals.unwritten.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes refusals at a bounded pace for as long as the service runs, and tells of the others by their number.
    pub(super) async fn write_refusals(self, mut waiting: mpsc::Receiver<Event>) {
        let unwritten = &self.0.refusals.unwritten;
        loop {
            let event = tokio::select! {
                event = timeout(REFUSALS_EVERY, waiting.recv()) => event.ok().flatten(),
                () = self.0.stopping.cancelled() => return,
            };
            let (event, stands_for) = match event {
                Some(event) => (event, 1),
                None => match unwritten.swap(0, Ordering::Relaxed) {
                    0 => continue,
                    count => {
                        let many = Event::new("access.denied", &Caller::default(), "").with("count", count);
                        let reason = "Refusals that came too fast to be written one by one.".to_owned();
                        (Event { failure: Some(Reason::RateLimited), reason, ..many }, count)
                    }
                },
            };
            tracing::warn!(
                principal = event.actor.principal,
                peer = event.actor.peer_address,
                method = event.method,
                reason = event.failure.map(Reason::word),
                count = stands_for,
                "access denied"
            );
            if let Err(error) = self.0.parts.state.record(&event).await {
                unwritten.fetch_add(stands_for, Ordering::Relaxed);
                tracing::warn!(%error, "a refusal could not be written yet");
            }
            tokio::select! {
                () = sleep(REFUSALS_EVERY) => {}
                () = self.0.stopping.cancelled() => return,
            }
        }
    }
}
