//! Tokens of Kubernetes service accounts: its API server says whose they are (`TokenReview`, authentication.k8s.io/v1).
//!
//! The audience is sent, and looked for in the answer as well: an empty list there means that the server knows no audiences but
//! its own, and the token was meant for it. What was said is remembered for a minute, so that a token that is withdrawn, with
//! its pod or its account, is refused soon.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tonic::codegen::http::{Request, Uri, header};
use zeroize::Zeroizing;

use super::jwt::{Claims, now};
use super::roles::is_name;
use crate::http;

const LIMIT: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 64 * 1024;
/// How long an answer is remembered, and one that the token is nobody's.
const REMEMBERED: Duration = Duration::from_secs(60);
const REFUSAL_REMEMBERED: Duration = Duration::from_secs(10);
const MAX_REMEMBERED: usize = 1000;
/// Most questions at a time, and most callers who wait for an answer: tokens that somebody made up must not become a flood for
/// the API server.
const MAX_ASKING: usize = 16;
const MAX_WAITING: usize = 64;

/// The API server.
pub struct TokenReview {
    address: Uri,
    client: http::Client,
    /// Our own token; it is read for each question, because Kubernetes replaces it.
    token: PathBuf,
    audience: String,
    asking: Semaphore,
    waiting: Semaphore,
    /// By the SHA-256 of the token.
    remembered: Mutex<HashMap<[u8; 32], Answer>>,
}

/// Whose a token is, if anybody's, and until when that is remembered.
struct Answer {
    subject: Option<String>,
    until: Instant,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Invalid,
    /// The API server does not say.
    Unavailable,
}

impl TokenReview {
    /// The server at `https://host:port`. `None` when that is no address.
    pub fn new(server: &str, client: http::Client, token: PathBuf, audience: String) -> Option<Self> {
        let address = format!("{}/apis/authentication.k8s.io/v1/tokenreviews", server.trim_end_matches('/'));
        let address: Uri = address.parse().ok()?;
        address.host()?;
        let (asking, waiting) = (Semaphore::new(MAX_ASKING), Semaphore::new(MAX_WAITING));
        Some(Self { address, client, token, audience, asking, waiting, remembered: Mutex::default() })
    }

    /// Whose token it is: `serviceaccount:namespace:name`.
    pub async fn check(&self, token: &str, sha256: [u8; 32], claims: &Claims) -> Result<String, Refused> {
        let left = claims.expires().map(|expires| Duration::from_secs(expires.saturating_sub(now()).max(0).unsigned_abs()));
        // The server would say the same of what was not meant for us, or is over.
        if !claims.is_for(&self.audience) || left.is_none_or(|left| left.is_zero()) {
            return Err(Refused::Invalid);
        }
        if let Some(answer) = self.remembered(&sha256) {
            return answer.ok_or(Refused::Invalid);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| Refused::Unavailable)?;
        let asked = async {
            let _place = self.asking.acquire().await.map_err(|error| error.to_string())?;
            self.ask(token).await
        };
        let answer = timeout(LIMIT, asked).await.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
        let subject = answer.map_err(|error| {
            tracing::warn!(error, "the API server of Kubernetes does not say whose a token is");
            Refused::Unavailable
        })?;
        let time = if subject.is_some() { REMEMBERED } else { REFUSAL_REMEMBERED };
        self.remember(sha256, subject.clone(), Instant::now() + left.map_or(time, |left| left.min(time)));
        subject.ok_or(Refused::Invalid)
    }

    fn remembered(&self, sha256: &[u8; 32]) -> Option<Option<String>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(sha256).filter(|answer| Instant::now() < answer.until).map(|answer| answer.subject.clone())
    }

    fn remember(&self, sha256: [u8; 32], subject: Option<String>, until: Instant) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            let now = Instant::now();
            remembered.retain(|_, answer| now < answer.until && answer.subject.is_some());
        }
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(sha256, Answer { subject, until });
        }
    }

    /// Whose token it is, or that it is nobody's.
    async fn ask(&self, token: &str) -> Result<Option<String>, String> {
        let own = tokio::fs::read_to_string(&self.token).await.map(Zeroizing::new);
        let own = own.map_err(|error| format!("our own token cannot be read: {error}"))?;
        let mut authorization =
            header::HeaderValue::from_str(&format!("Bearer {}", own.trim())).map_err(|error| error.to_string())?;
        authorization.set_sensitive(true);
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self.audience]},
        });
        let request = Request::post(self.address.clone())
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(review.to_string())));
        let request = request.map_err(|error| error.to_string())?;
        let (status, text) = self.client.ask(request, LIMIT, MAX_ANSWER).await.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("it answered with status {status}; may we create tokenreviews?"));
        }
        let answer: Value = serde_json::from_slice(&text).map_err(|_| "its answer is no JSON".to_owned())?;
        let status = answer["status"].as_object().ok_or("its answer is no TokenReview")?;
        Ok(self.subject(status))
    }

    fn subject(&self, status: &serde_json::Map<String, Value>) -> Option<String> {
        let audiences = status.get("audiences")?.as_array()?;
        let ours = status.get("authenticated")? == true && audiences.iter().any(|audience| *audience == *self.audience);
        let name = status.get("user")?["username"].as_str().filter(|_| ours)?;
        let (space, account) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        (is_name(space) && is_name(account) && !account.contains(':')).then(|| format!("serviceaccount:{space}:{account}"))
    }
}

impl fmt::Debug for TokenReview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReview").field("address", &self.address).field("audience", &self.audience).finish_non_exhaustive()
    }
}
