//! The one order of events, and the chain of their hashes (`model::chain`).
//!
//! An event gets its number and its hash only after it was seen committed, from one transaction at a time. So numbers become
//! visible in their order, and whoever has seen one has seen all below it - although transactions commit in any order.
//! Whoever writes an event never waits for the numbers.

use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::State;
use crate::model::Sha256;
use crate::model::chain::{Head, Link};
use crate::postgres::Error;

/// Events that get their numbers in one transaction.
const BATCH: i64 = 1000;

/// What is hashed of a row. It is the same for ever: `jsonb` is written with its keys in one order and without choice of form.
const RECORD: &str =
    r#"jsonb_build_array(number, id, to_char(event_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), type, body)::text"#;

/// Gives every committed event its number and its hash. Returns the last.
pub(super) async fn number(pool: &PgPool) -> Result<Head, Error> {
    let look = "SELECT last, head, EXISTS (SELECT FROM event WHERE hash IS NULL) FROM event_counter";
    loop {
        let (number, hash, more): (i64, [u8; 32], bool) = sqlx::query_as(look).fetch_one(pool).await?;
        if !more {
            return Ok(Head { number, hash: Sha256(hash) });
        }
        let mut transaction = pool.begin().await?;
        // The next statement begins after this one has the row, so it sees what the numberer before it committed.
        let counter = "SELECT last, head FROM event_counter FOR UPDATE";
        let (last, hash): (i64, [u8; 32]) = sqlx::query_as(counter).fetch_one(&mut *transaction).await?;
        // Those of a version without a chain have their number, and come first.
        let waiting = format!(
            "SELECT id, number, {RECORD}
             FROM (SELECT id, event_time, type, body,
                       coalesce(number, $1 + row_number() OVER (PARTITION BY number IS NULL ORDER BY event_time, id)) AS number
                   FROM (SELECT * FROM event WHERE hash IS NULL ORDER BY number IS NULL, number, event_time, id LIMIT $2) AS waiting) AS event
             ORDER BY number"
        );
        let waiting = sqlx::query_as::<_, (Uuid, i64, String)>(sqlx::AssertSqlSafe(waiting)).bind(last).bind(BATCH);
        let waiting = waiting.fetch_all(&mut *transaction).await?;
        let (mut ids, mut numbers, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
        let mut head = Head { number: last, hash: Sha256(hash) };
        for (id, number, record) in waiting {
            head = head.then(number, &record);
            ids.push(id);
            numbers.push(number);
            hashes.push(head.hash.0);
        }
        let chain = "UPDATE event SET number = place.number, hash = place.hash
                     FROM unnest($1, $2, $3) AS place (id, number, hash) WHERE event.id = place.id";
        sqlx::query(chain).bind(ids).bind(numbers).bind(hashes).execute(&mut *transaction).await?;
        let count = "UPDATE event_counter SET last = greatest(last, $1), head = $2";
        sqlx::query(count).bind(head.number).bind(head.hash.0).execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
}

impl State {
    /// The end of the audit log now.
    pub async fn audit_head(&self) -> Result<Head, Error> {
        number(&self.pool).await
    }

    /// The events above `after` as they were chained, in their order, and the end of the log at the same moment.
    pub async fn chain_after(&self, after: i64, limit: u32) -> Result<(Vec<Link>, Head), Error> {
        number(&self.pool).await?;
        let query = format!(
            "SELECT last, head, number, record, hash
             FROM event_counter LEFT JOIN LATERAL (
                 SELECT number, {RECORD} AS record, coalesce(hash, '') AS hash FROM event WHERE number > $1 ORDER BY number LIMIT $2
             ) AS event ON true
             ORDER BY number"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).bind(after).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        let (mut links, mut head) = (Vec::new(), Head::START);
        for row in rows {
            head = Head { number: row.try_get("last")?, hash: Sha256(row.try_get("head")?) };
            if let Some(number) = row.try_get::<Option<i64>, _>("number")? {
                let hash = row.try_get::<Vec<u8>, _>("hash")?;
                links.push(Link { number, record: row.try_get("record")?, hash: hash.try_into().ok().map(Sha256) });
            }
        }
        Ok((links, head))
    }
}
