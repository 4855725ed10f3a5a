//! Tokens of an identity provider: signed JWTs (RFC 7519, RFC 7515), checked with its published keys (RFC 7517).
//!
//! Which algorithm checks a signature is decided by the key and only confirmed by the token: a public key can never be taken
//! for a shared secret, and `none` is no algorithm. Keys stay in use while the provider is down.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use tonic::codegen::http::{Request, Uri, header};

use super::roles::{Role, is_name};
use crate::http;

/// How far the clock of the provider may be from ours.
const LEEWAY: i64 = 30;
/// The keys are fetched again after so long, and sooner for a key that is not among them.
const FRESH: Duration = Duration::from_secs(600);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(10);
/// For the answer of the provider.
const LIMIT: Duration = Duration::from_secs(5);
const MAX_KEY_SET: usize = 256 * 1024;
/// Tokens are smaller than the headers that they come in.
const MAX_TOKEN: usize = 16 * 1024;

/// What a token says, before anybody has proven that it is true.
pub struct Claims(Value);

impl Claims {
    /// `None`: it is no JWT.
    pub fn of(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || token.len() > MAX_TOKEN {
            return None;
        }
        let claims: Value = decoded(claims)?;
        claims.is_object().then_some(Self(claims))
    }

    pub fn issuer(&self) -> &str {
        self.0["iss"].as_str().unwrap_or_default()
    }

    /// Seconds of the epoch, from which on it is not valid any more.
    pub fn expires(&self) -> Option<i64> {
        seconds(&self.0["exp"])
    }

    pub fn is_for(&self, audience: &str) -> bool {
        match &self.0["aud"] {
            Value::String(one) => one == audience,
            Value::Array(many) => many.iter().any(|one| one == audience),
            _ => false,
        }
    }

    /// The texts at a path such as `realm_access.roles`, of which each name may have dots in it.
    fn texts(&self, path: &str) -> Vec<&str> {
        fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
            value.get(path).or_else(|| path.match_indices('.').find_map(|(at, _)| find(value.get(&path[..at])?, &path[at + 1..])))
        }
        match find(&self.0, path) {
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(text)) => text.split_whitespace().collect(),
            _ => Vec::new(),
        }
    }
}

fn decoded<T: for<'a> Deserialize<'a>>(part: &str) -> Option<T> {
    serde_json::from_slice(&BASE64.decode(part).ok()?).ok()
}

/// RFC 7519, 2: a number, which need not be whole.
fn seconds(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|seconds| seconds.abs() < 1e12).map(|seconds| seconds as i64))
}

/// Seconds of the epoch.
pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Where the keys of the provider are.
#[derive(Debug, Clone)]
pub enum KeySource {
    File(PathBuf),
    /// With the certificate authority of its server, PEM, if it is not one of the system.
    Url(Uri, http::Client),
}

/// An identity provider whose tokens are accepted.
pub struct Jwt {
    issuer: String,
    audience: String,
    /// Where the token has roles in it, if it does.
    roles: Option<String>,
    source: KeySource,
    keys: Mutex<Arc<Keys>>,
    /// When the keys were last asked for. Who has it asks for them.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Keys {
    keys: Vec<Key>,
    /// `None`: never.
    since: Option<Instant>,
}

/// Who a token is of.
#[derive(Debug, PartialEq, Eq)]
pub struct Proven {
    pub subject: String,
    pub roles: Vec<Role>,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Invalid(&'static str),
    /// The keys of the provider are not known, and it does not answer.
    NoKeys,
}

impl Jwt {
    pub fn new(issuer: String, audience: String, roles: Option<String>, source: KeySource) -> Self {
        Self { issuer, audience, roles, source, keys: Mutex::default(), asked: tokio::sync::Mutex::default() }
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub async fn check(&self, token: &str) -> Result<Proven, Refused> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Invalid("The token is not valid."))?;
        let header = signed.split_once('.').and_then(|(header, _)| decoded::<Header>(header));
        let (Some(header), Some(claims), Ok(signature)) = (header, Claims::of(token), BASE64.decode(signature)) else {
            return Err(Refused::Invalid("The token is not valid."));
        };
        // Extensions that must be understood, and none is (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(Refused::Invalid("The token is not valid."));
        }
        let mut keys = self.keys();
        let old = keys.since.is_none_or(|since| since.elapsed() >= FRESH);
        let known = keys.keys.iter().any(|key| key.is_meant(&header));
        if old || !known {
            keys = self.fetch(known).await;
        }
        if keys.since.is_none() {
            return Err(Refused::NoKeys);
        }
        let mut meant = keys.keys.iter().filter(|key| key.is_meant(&header));
        if !meant.any(|key| key.has_signed(&header.alg, signed.as_bytes(), &signature)) {
            return Err(Refused::Invalid("The token is not signed by a key of its issuer."));
        }
        self.believed(&claims)
    }

    /// Whose a token is that the provider has signed.
    fn believed(&self, claims: &Claims) -> Result<Proven, Refused> {
        let now = now();
        if claims.issuer() != self.issuer {
            return Err(Refused::Invalid("The token is of another issuer."));
        }
        if !claims.is_for(&self.audience) {
            return Err(Refused::Invalid("The token is for another audience."));
        }
        if claims.expires().is_none_or(|expires| now >= expires.saturating_add(LEEWAY)) {
            return Err(Refused::Invalid("The token has expired."));
        }
        let from = &claims.0["nbf"];
        if !from.is_null() && seconds(from).is_none_or(|from| now < from.saturating_sub(LEEWAY)) {
            return Err(Refused::Invalid("The token is not valid yet."));
        }
        let name = claims.0["sub"].as_str().filter(|name| is_name(name));
        let name = name.ok_or(Refused::Invalid("The token names nobody."))?;
        let roles = self.roles.iter().flat_map(|path| claims.texts(path)).filter_map(Role::named).collect();
        Ok(Proven { subject: format!("user:{name}"), roles })
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys as they are now, or as they were if nobody tells, or was asked a moment ago.
    async fn fetch(&self, known: bool) -> Arc<Keys> {
        let before = self.keys();
        let mut asked = match self.asked.try_lock() {
            Ok(asked) => asked,
            // One asks; the others can do with what is known.
            Err(_) if known => return before,
            Err(_) => self.asked.lock().await,
        };
        if asked.is_none_or(|asked| asked.elapsed() >= PAUSE) {
            match self.ask().await {
                Ok(keys) => {
                    let keys = Keys { keys, since: Some(Instant::now()) };
                    *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                }
                Err(error) => tracing::warn!(
                    error,
                    known = before.keys.len(),
                    "the keys of the identity provider cannot be fetched; those that are known stay in use"
                ),
            }
            *asked = Some(Instant::now());
        }
        self.keys()
    }

    async fn ask(&self) -> Result<Vec<Key>, String> {
        let text = match &self.source {
            KeySource::File(path) => tokio::fs::read(path).await.map_err(|error| error.to_string())?.into(),
            KeySource::Url(address, client) => {
                let request = Request::get(address.clone()).header(header::ACCEPT, "application/json").body(Default::default());
                let request = request.map_err(|error| error.to_string())?;
                match client.ask(request, LIMIT, MAX_KEY_SET).await.map_err(|error| error.to_string())? {
                    (status, text) if status.is_success() => text,
                    (status, _) => return Err(format!("it answered with status {status}")),
                }
            }
        };
        key_set(&text).ok_or_else(|| "it is no set of keys with one that can be used".to_owned())
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// A public key.
struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, if it says so.
    algorithm: Option<String>,
    material: Material,
}

enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// Whether it may be this key that the token means.
    fn is_meant(&self, header: &Header) -> bool {
        header.kid.is_none() || header.kid == self.id
    }

    fn has_signed(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        if self.algorithm.as_deref().is_some_and(|only| only != algorithm) {
            return false;
        }
        let checked = match (&self.material, algorithm) {
            (Material::Rsa { n, e }, _) => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Material::P256(point), "ES256") => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Material::P384(point), "ES384") => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Material::Ed25519(point), "EdDSA" | "Ed25519") => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature)
            }
            _ => return false,
        };
        checked.is_ok()
    }
}

/// The keys of a set that can be used. `None`: there are none, or it is no set.
fn key_set(text: &Bytes) -> Option<Vec<Key>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).ok()?;
    let keys: Vec<Key> = set.keys.iter().filter_map(key).collect();
    (!keys.is_empty()).then_some(keys)
}

/// RFC 7518, 6; RFC 8037, 2. `None`: it is of another kind, or for something else.
fn key(jwk: &Value) -> Option<Key> {
    let text = |name: &str| jwk[name].as_str();
    let bytes = |name: &str| BASE64.decode(text(name)?).ok();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let point =
        |size: usize| Some([vec![4], bytes("x").filter(|x| x.len() == size)?, bytes("y").filter(|y| y.len() == size)?].concat());
    let material = match (text("kty")?, text("crv")) {
        ("RSA", _) => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
        _ => return None,
    };
    Some(Key { id: text("kid").map(str::to_owned), algorithm: text("alg").map(str::to_owned), material })
}

#[cfg(test)]
mod tests;
