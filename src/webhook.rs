//! A receiver of events over HTTP.
//!
//! An event is a CloudEvent 1.0 in structured mode, signed as Standard Webhooks 1.0 say. One request is one connection; its
//! whole exchange has a time limit, no redirect is followed, and of the answer only the status is read. Neither the address,
//! which may have a token in it, nor the secret is ever shown.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use http_body_util::Full;
use hyper::{Method, Request, StatusCode, Uri, header};
use ring::hmac;
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::http;
use crate::model::event::{Filter, Recorded};

/// For a request with its answer, connection included.
const LIMIT: Duration = Duration::from_secs(10);

/// Where events are sent, which, and the key that signs them.
#[derive(Clone)]
pub struct Webhook {
    address: Uri,
    client: http::Client,
    key: hmac::Key,
    types: Filter,
}

/// Why there is no webhook with these settings. Says nothing of the address or the secret.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("the address is not one such as https://example.com/holdfast, without a user name in it")]
    Address,
    #[error("the secret is not `whsec_` followed by 24 to 64 bytes in base64")]
    Secret,
    #[error(transparent)]
    Http(#[from] http::Invalid),
}

/// Why an event was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the receiver did not answer within {} s", LIMIT.as_secs())]
    TimedOut,
    #[error("the receiver was not told: {0}")]
    Http(#[from] http::Error),
    #[error("the receiver answered with status {0}")]
    Refused(StatusCode),
    #[error("the request cannot be written")]
    Request(#[from] hyper::http::Error),
}

impl Webhook {
    /// Under which its position is kept.
    pub const NAME: &str = "webhook";

    /// `address` is an http or https URL; `secret` is as Standard Webhooks write it.
    pub fn new(address: &str, secret: &str, types: Filter) -> Result<Self, Invalid> {
        let address: Uri = address.parse().map_err(|_| Invalid::Address)?;
        let with_user = address.authority().is_none_or(|authority| authority.as_str().contains('@'));
        if with_user || !matches!(address.scheme_str(), Some("http" | "https")) {
            return Err(Invalid::Address);
        }
        let key = secret.strip_prefix("whsec_").and_then(|text| BASE64.decode(text).ok()).map(zeroize::Zeroizing::new);
        let key = key.filter(|key| (24..=64).contains(&key.len())).ok_or(Invalid::Secret)?;
        Ok(Self {
            client: if address.scheme_str() == Some("https") { http::Client::new(None)? } else { http::Client::plain() },
            address,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            types,
        })
    }

    /// Whether others could read what is sent: no TLS, and not to this machine.
    pub fn exposed(&self) -> bool {
        let host = self.address.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let here = host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        self.address.scheme_str() == Some("http") && !here
    }

    /// Which events it is told of.
    pub fn types(&self) -> &Filter {
        &self.types
    }

    /// Sends an event of this system, once.
    ///
    /// # Errors
    /// When the receiver did not say that it has it. It may have it all the same.
    pub async fn send(&self, system: Uuid, event: &Recorded, now: DateTime<Utc>) -> Result<(), Error> {
        let body = cloud_event(system, event).to_string();
        let (id, timestamp) = (event.id.to_string(), now.timestamp().to_string());
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.address.clone())
            .header(header::USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/cloudevents+json")
            .header("webhook-signature", self.signature(&id, &timestamp, &body))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .body(Full::new(Bytes::from(body)))?;
        let answer = timeout(LIMIT, self.client.send(request)).await.map_err(|_| Error::TimedOut)??;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(Error::Refused(status)) }
    }

    fn signature(&self, id: &str, timestamp: &str, body: &str) -> String {
        let tag = hmac::sign(&self.key, format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", BASE64.encode(tag))
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("types", &self.types).finish_non_exhaustive()
    }
}

/// CloudEvents 1.0, JSON format. `data` has the fields of `AuditEvent` under their JSON names; those that are empty are left
/// out.
fn cloud_event(system: Uuid, recorded: &Recorded) -> Value {
    let event = &recorded.event;
    let mut data = Map::new();
    let mut put = |name: &str, value: Value| {
        if !matches!(&value, Value::Null) && value != json!("") && value != json!({}) {
            data.insert(name.to_owned(), value);
        }
    };
    let time = recorded.time.to_rfc3339_opts(SecondsFormat::Micros, true);
    put("name", json!(format!("auditEvents/{}", recorded.number)));
    put("eventTime", json!(time));
    put("type", json!(event.kind));
    put(
        "actor",
        json!({
            "principal": event.actor.principal,
            "authentication": event.actor.authentication,
            "peerAddress": event.actor.peer_address,
            "userAgent": event.actor.user_agent,
        }),
    );
    put("method", json!(event.method));
    put("target", json!(event.target));
    put("operation", event.operation.map_or(Value::Null, |id| json!(format!("operations/{id}"))));
    put("errorReason", json!(event.failure));
    put("reason", json!(event.reason));
    put("requestId", json!(event.request_id));
    put("traceId", json!(event.trace_id));
    put("attributes", json!(event.attributes));
    let mut cloud = json!({
        "specversion": "1.0",
        "id": recorded.id,
        "source": format!("urn:uuid:{system}"),
        "type": format!("holdfast.{}", event.kind),
        "time": time,
        "datacontenttype": "application/json",
        // Extension `sequence`: compares as text in the order of the events.
        "sequence": format!("{:020}", recorded.number),
        "data": data,
    });
    if !event.target.is_empty() {
        cloud["subject"] = json!(event.target);
    }
    cloud
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn only_an_address_and_a_secret_that_can_work_are_taken() {
        let new = |address: &str, secret: &str| Webhook::new(address, secret, Filter::default());
        assert!(!new("http://127.0.0.1:8080/x?y=z", SECRET).unwrap().exposed());
        assert!(!new("http://[::1]/", SECRET).unwrap().exposed());
        assert!(new("http://example.com", SECRET).unwrap().exposed());
        for address in ["", "example.com", "ftp://example.com", "/x", "http://user:word@example.com/"] {
            assert!(matches!(new(address, SECRET), Err(Invalid::Address)), "{address}");
        }
        for secret in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_!"] {
            assert!(matches!(new("http://localhost", secret), Err(Invalid::Secret)), "{secret}");
        }
        let text = format!("{:?}", new("http://localhost/t0ken", SECRET).unwrap());
        assert!(!text.contains("t0ken") && !text.contains("MfKQ"), "{text}");
    }

    /// The example of the specification (Standard Webhooks, "Signature scheme").
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let webhook = Webhook::new("http://localhost", SECRET, Filter::default()).unwrap();
        let signature = webhook.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
