//! Events: the audit log and the outbox in one table. Each is written in the transaction of what it tells, and gets its
//! place in their order afterwards (`chain`).

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::State;
use super::chain::number;
use crate::model::event::{Filter, Recorded};
use crate::model::{Event, Sha256};
use crate::postgres::Error;

type Row = (Uuid, i64, DateTime<Utc>, [u8; 32], String, Json<Event>);

fn recorded((id, number, time, hash, kind, Json(event)): Row) -> Recorded {
    Recorded { id, number, time, hash: Sha256(hash), event: Event { kind, ..event } }
}

/// Writes events with what is under way on this connection.
pub(in crate::postgres) async fn write(
    connection: &mut PgConnection,
    events: impl IntoIterator<Item = &Event>,
) -> Result<(), Error> {
    for event in events {
        let insert = sqlx::query("INSERT INTO holdfast.event (type, body) VALUES ($1, $2)");
        insert.bind(&event.kind).bind(Json(event)).execute(&mut *connection).await?;
    }
    Ok(())
}

impl State {
    /// Writes an event that tells of nothing else in the database.
    pub async fn record(&self, event: &Event) -> Result<(), Error> {
        write(&mut *self.pool.acquire().await?, [event]).await
    }

    /// Number of the newest event that is committed now.
    pub async fn last_event(&self) -> Result<i64, Error> {
        Ok(number(&self.pool).await?.number)
    }

    /// Newest first, those below `before`.
    pub async fn events_before(&self, before: Option<i64>, filter: &Filter, limit: u32) -> Result<Vec<Recorded>, Error> {
        let query = "SELECT id, number, event_time, hash, type, body FROM event
                     WHERE number < coalesce($1, (SELECT last + 1 FROM event_counter))
                       AND ($2 OR type = ANY ($3) OR EXISTS (SELECT FROM unnest($4) AS family WHERE starts_with(type, family)))
                     ORDER BY number DESC LIMIT $5";
        let query = sqlx::query_as::<_, Row>(query).bind(before).bind(filter.all()).bind(&filter.types).bind(&filter.families);
        Ok(query.bind(i64::from(limit)).fetch_all(&self.pool).await?.into_iter().map(recorded).collect())
    }

    /// In their order, those above `after`; and the place up to which there are no others.
    pub async fn events_after(&self, after: i64, filter: &Filter, limit: u32) -> Result<(Vec<Recorded>, i64), Error> {
        let last = number(&self.pool).await?.number;
        if last <= after {
            return Ok((Vec::new(), after));
        }
        let query = "SELECT id, number, event_time, hash, type, body FROM event
                     WHERE number > $1 AND number <= $2
                       AND ($3 OR type = ANY ($4) OR EXISTS (SELECT FROM unnest($5) AS family WHERE starts_with(type, family)))
                     ORDER BY number LIMIT $6";
        let query = sqlx::query_as::<_, Row>(query).bind(after).bind(last).bind(filter.all());
        let query = query.bind(&filter.types).bind(&filter.families).bind(i64::from(limit));
        let events: Vec<Recorded> = query.fetch_all(&self.pool).await?.into_iter().map(recorded).collect();
        let place = events.last().filter(|_| events.len() >= limit as usize).map_or(last, |event| event.number);
        Ok((events, place))
    }

    /// Becomes the one who delivers to a receiver. `None`: another process does.
    pub async fn outbox(&self, receiver: &str) -> Result<Option<Outbox>, Error> {
        let mut connection = super::connect(&self.database, self.instance).await?;
        let lock = "SELECT pg_try_advisory_lock(hashtext('holdfast.outbox'), hashtext($1))";
        if !sqlx::query_scalar::<_, bool>(lock).bind(receiver).fetch_one(&mut connection).await? {
            crate::postgres::session::close(connection).await;
            return Ok(None);
        }
        // A receiver that is new here is told of what comes from now on.
        let last = number(&self.pool).await?.number;
        let begin = "INSERT INTO delivery (receiver, position) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(begin).bind(receiver).bind(last).execute(&mut connection).await?;
        let position = sqlx::query_scalar("SELECT position FROM delivery WHERE receiver = $1").bind(receiver);
        let position = position.fetch_one(&mut connection).await?;
        Ok(Some(Outbox { connection, receiver: receiver.to_owned(), position }))
    }
}

/// The right to deliver to one receiver. It is a session: it ends with its process, or with its connection.
pub struct Outbox {
    connection: PgConnection,
    receiver: String,
    position: i64,
}

impl Outbox {
    /// Number of the last event that was delivered, or passed over.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Remembers that everything up to `number` was delivered.
    ///
    /// # Errors
    /// The right is lost with the connection; another process may deliver already.
    pub async fn delivered(&mut self, number: i64) -> Result<(), Error> {
        let update = "UPDATE delivery SET position = $2, update_time = clock_timestamp() WHERE receiver = $1";
        sqlx::query(update).bind(&self.receiver).bind(number).execute(&mut self.connection).await?;
        self.position = number;
        Ok(())
    }

    /// Whether the right still holds.
    pub async fn check(&mut self) -> Result<(), Error> {
        Ok(self.connection.ping().await?)
    }
}
