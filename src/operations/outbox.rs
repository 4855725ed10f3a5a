//! Delivery to the webhook: every event, in its order, at least once. It has a task, a connection and a position of its own, so
//! that a receiver that is slow, down or wrong delays nobody else.

use std::time::Duration;

use tokio::time::sleep;
use uuid::Uuid;

use super::events::POLL;
use super::{Holdfast, Result, now};
use crate::webhook::Webhook;

/// Events read from the database at once.
const BATCH: u32 = 50;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// How often a process that does not deliver asks whether it is to.
const TAKE_OVER: Duration = Duration::from_secs(2);

impl Holdfast {
    /// Delivers for as long as the service runs. Of several processes one does.
    pub(super) async fn deliver_always(self, webhook: Webhook) {
        tokio::select! {
            () = self.stopped() => {}
            () = async {
                loop {
                    if let Err(error) = self.deliver(&webhook).await {
                        tracing::warn!(%error, "events cannot be read for the webhook; it is tried again");
                    }
                    sleep(TAKE_OVER).await;
                }
            } => {}
        }
    }

    async fn stopped(&self) {
        self.0.stopping.cancelled().await;
    }

    /// Ends when another process delivers, or with the connection to the database.
    async fn deliver(&self, webhook: &Webhook) -> Result<()> {
        let state = &self.0.parts.state;
        let Some(mut outbox) = state.outbox(Webhook::NAME).await? else { return Ok(()) };
        loop {
            let (events, place) = state.events_after(outbox.position(), webhook.types(), BATCH).await?;
            for event in &events {
                let mut attempt = 0;
                while let Err(error) = webhook.send(self.0.system.id, event, now()).await {
                    let pause = pause(attempt, Uuid::new_v4().as_fields().0);
                    tracing::warn!(%error, event = %event.id, attempt, ?pause, "the webhook did not take an event; it is sent again");
                    sleep(pause).await;
                    outbox.check().await?;
                    attempt = attempt.saturating_add(1);
                }
                outbox.delivered(event.number).await?;
            }
            if place > outbox.position() {
                outbox.delivered(place).await?;
            }
            if events.is_empty() {
                sleep(POLL).await;
                outbox.check().await?;
            }
        }
    }
}

/// Doubles from 1 s to 5 min; up to a half of it more by chance, so that receivers that come back are not met by all at once.
pub(super) fn pause(attempt: u32, chance: u32) -> Duration {
    let base = SHORTEST.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(LONGEST);
    (base + base.mul_f64(f64::from(chance) / f64::from(u32::MAX) / 2.0)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_double_from_a_second_to_five_minutes() {
        let seconds = |attempt, chance| pause(attempt, chance).as_secs_f64();
        assert_eq!([0, 1, 2, 8, 9, 31, 32, 1000].map(|attempt| seconds(attempt, 0)), [1., 2., 4., 256., 300., 300., 300., 300.]);
        assert_eq!([0, 1, 9].map(|attempt| seconds(attempt, u32::MAX)), [1.5, 3., 300.]);
    }
}
