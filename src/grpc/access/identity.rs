//! Who calls: by the token of a call, or by the client certificate of its connection.
//!
//! A token decides where there is one, whatever certificate came with it: a proxy in between may have its own. It is looked for
//! among the token files; another that names the issuer of our identity provider is checked with its keys, and any other with
//! Kubernetes. Each way is there only when it is configured.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;
use tonic::codegen::http::{HeaderMap, header};

use super::jwt::{self, Claims, Jwt};
use super::roles::{Bindings, Role};
use super::token_review::{self, TokenReview};
use crate::grpc::listener::Peer;
use crate::grpc::tls::Certificate;
use crate::model::{Failure, Reason};

/// Who calls, as proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Stands in operations, in the catalog and in the audit log.
    pub subject: String,
    /// How it was proven: `token`, `mtls`, `jwt`, `token-review`.
    pub authentication: &'static str,
    pub roles: Vec<Role>,
}

/// How callers prove who they are, by what each presents; it gives a `Principal`. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Authenticator {
    bindings: Bindings,
    tokens: Vec<StaticToken>,
    /// Whether clients may prove it by a certificate.
    certificates: bool,
    jwt: Option<Arc<Jwt>>,
    reviews: Option<Arc<TokenReview>>,
}

/// One secret for one caller, for a workstation and for the update-service. Only its digest is kept.
#[derive(Clone)]
struct StaticToken {
    digest: [u8; 32],
    principal: Principal,
}

impl Authenticator {
    /// Nobody, until there is a way to prove it.
    pub fn new(bindings: Bindings) -> Self {
        Self { bindings, ..Self::default() }
    }

    /// The text of a token file, whose token it is, and the roles of that unless it is bound to another; white space around the
    /// token does not count. `None` when it is blank.
    pub fn with_token(mut self, text: &str, subject: &str, roles: &[Role]) -> Option<Self> {
        let token = text.trim();
        let roles = self.bindings.of(subject).map_or_else(|| roles.to_vec(), |role| vec![role]);
        let principal = Principal { subject: subject.to_owned(), authentication: "token", roles };
        self.tokens.push(StaticToken { digest: sha256(token), principal });
        (!token.is_empty()).then_some(self)
    }

    /// Callers may have certificates.
    pub fn with_certificates(self) -> Self {
        Self { certificates: true, ..self }
    }

    /// Callers may have tokens of this identity provider.
    pub fn with_jwt(self, jwt: Jwt) -> Self {
        Self { jwt: Some(Arc::new(jwt)), ..self }
    }

    /// Callers may have tokens of Kubernetes.
    pub fn with_reviews(self, reviews: TokenReview) -> Self {
        Self { reviews: Some(Arc::new(reviews)), ..self }
    }

    /// Whether nobody can prove anything.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && !self.certificates && self.jwt.is_none() && self.reviews.is_none()
    }

    /// # Errors
    /// CREDENTIALS_MISSING, CREDENTIALS_INVALID, IDENTITY_UNAVAILABLE.
    pub async fn authenticate(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Principal, Box<Failure>> {
        let Some(token) = bearer(headers)? else { return self.certified(peer) };
        let presented = sha256(token);
        // Digests have one length, so that neither it nor the contents of a token show in the time this takes.
        if let Some(known) = self.tokens.iter().find(|token| bool::from(presented.ct_eq(&token.digest))) {
            return Ok(known.principal.clone());
        }
        match (Claims::of(token), &self.jwt, &self.reviews) {
            (Some(claims), Some(jwt), _) if claims.issuer() == jwt.issuer() => match jwt.check(token).await {
                Ok(proven) => Ok(self.principal(proven.subject, "jwt", proven.roles)),
                Err(jwt::Refused::Invalid(message)) => Err(invalid(message)),
                Err(jwt::Refused::NoKeys) => Err(unavailable("The keys of the identity provider cannot be fetched.")),
            },
            (Some(claims), _, Some(reviews)) => match reviews.check(token, presented, &claims).await {
                Ok(subject) => Ok(self.principal(subject, "token-review", Vec::new())),
                Err(token_review::Refused::Invalid) => Err(invalid("The token is not valid.")),
                Err(token_review::Refused::Unavailable) => {
                    Err(unavailable("The API server of Kubernetes does not say whose the token is."))
                }
            },
            _ => Err(invalid("The token is not valid.")),
        }
    }

    fn certified(&self, peer: Option<&Peer>) -> Result<Principal, Box<Failure>> {
        match peer.filter(|_| self.certificates).map(|peer| &peer.certificate) {
            Some(Certificate::Of(subject)) => Ok(self.principal(subject.clone(), "mtls", Vec::new())),
            Some(Certificate::Unnamed) => Err(invalid("The client certificate has not exactly one SPIFFE ID as its URI.")),
            Some(Certificate::None) | None => {
                let message = "This call needs credentials; send them as `authorization: Bearer <token>`.";
                Err(Failure::new(Reason::CredentialsMissing, message).into())
            }
        }
    }

    /// Who has proven to be `subject`, with the role that is bound to it, or else those that were proven as well.
    fn principal(&self, subject: String, authentication: &'static str, proven: Vec<Role>) -> Principal {
        let roles = self.bindings.of(&subject).map_or(proven, |role| vec![role]);
        Principal { subject, authentication, roles }
    }
}

impl fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticToken").field("subject", &self.principal.subject).finish_non_exhaustive()
    }
}

/// The token of `authorization: Bearer ...` (RFC 6750, 2.1; the scheme is case-insensitive, RFC 9110, 11.1), if there is one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Box<Failure>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && values.next().is_none() => Ok(Some(token.trim())),
        _ => Err(invalid("The credentials are not one `authorization: Bearer <token>`.")),
    }
}

fn invalid(message: &str) -> Box<Failure> {
    Failure::new(Reason::CredentialsInvalid, message).into()
}

fn unavailable(message: &str) -> Box<Failure> {
    Failure::new(Reason::IdentityUnavailable, message).retry_after(Duration::from_secs(5)).into()
}

fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}
