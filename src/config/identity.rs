//! Who may call: the ways in which callers prove who they are, and their roles.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::{exposed, secret};
use crate::grpc::{Authenticator, Bindings, Jwt, KeySource, Role, TokenReview};
use crate::http::Client;

/// Where Kubernetes mounts what a pod needs to speak with its API server.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Ways to prove who one is. At least one is needed.
#[derive(Debug, Args)]
pub struct IdentityArguments {
    /// File with a bearer token that callers send, for a workstation; whoever has it may do everything
    #[arg(long, env = "HOLDFAST_TOKEN_FILE", hide_env_values = true)]
    server_token_file: Option<PathBuf>,
    /// Whose token it is, as operations and the audit log name the caller; `user:NAME` for a login account
    #[arg(long, env = "HOLDFAST_TOKEN_SUBJECT", default_value = "token:static", hide_env_values = true)]
    server_token_subject: String,
    /// File with the bearer token of the update-service, which may take and read the maintenance lock and read operations
    #[arg(long, env = "HOLDFAST_UPDATE_TOKEN_FILE", hide_env_values = true)]
    update_token_file: Option<PathBuf>,
    /// Who has which role: SUBJECT=ROLE, for example user:alice=backup-admin; others may do nothing
    #[arg(
        long,
        env = "HOLDFAST_AUTH__ROLE_BINDINGS",
        value_name = "SUBJECT=ROLE",
        value_delimiter = ',',
        hide_env_values = true
    )]
    role_bindings: Vec<String>,
    /// Identity provider whose signed tokens are accepted, as their claim `iss` names it
    #[arg(long, env = "HOLDFAST_AUTH__JWT__ISSUER", requires = "jwt_audience", hide_env_values = true)]
    jwt_issuer: Option<String>,
    /// What the claim `aud` of its tokens has to name
    #[arg(long, env = "HOLDFAST_AUTH__JWT__AUDIENCE", requires = "jwt_issuer", hide_env_values = true)]
    jwt_audience: Option<String>,
    /// Address of its public keys: https, or http on this machine
    #[arg(long, env = "HOLDFAST_AUTH__JWT__JWKS_URL", requires = "jwt_issuer", hide_env_values = true)]
    jwt_jwks_url: Option<String>,
    /// File with its public keys, a JSON Web Key Set, instead
    #[arg(
        long,
        env = "HOLDFAST_AUTH__JWT__JWKS_FILE",
        requires = "jwt_issuer",
        conflicts_with = "jwt_jwks_url",
        hide_env_values = true
    )]
    jwt_jwks_file: Option<PathBuf>,
    /// Claim with names of roles, for example `realm_access.roles`; without it, roles are bound by configuration only
    #[arg(long, env = "HOLDFAST_AUTH__JWT__ROLES_CLAIM", requires = "jwt_issuer", hide_env_values = true)]
    jwt_roles_claim: Option<String>,
    /// Certificate authority of the address of the keys, PEM; without it, those of the system
    #[arg(long, env = "HOLDFAST_AUTH__JWT__CA_FILE", requires = "jwt_jwks_url", hide_env_values = true)]
    jwt_ca_file: Option<PathBuf>,
    /// Audience of the Kubernetes service-account tokens that are accepted, for example backup.holdfast
    #[arg(long, env = "HOLDFAST_AUTH__TOKEN_REVIEW__AUDIENCE", hide_env_values = true)]
    token_review_audience: Option<String>,
    /// API server that is asked whose they are; without it, that of the cluster this runs in
    #[arg(long, env = "HOLDFAST_AUTH__TOKEN_REVIEW__URL", requires = "token_review_audience", hide_env_values = true)]
    token_review_url: Option<String>,
    /// Its certificate authority, PEM; without it, that of the cluster
    #[arg(long, env = "HOLDFAST_AUTH__TOKEN_REVIEW__CA_FILE", requires = "token_review_audience", hide_env_values = true)]
    token_review_ca_file: Option<PathBuf>,
    /// File with the token by which we ask it; without it, that of the pod
    #[arg(long, env = "HOLDFAST_AUTH__TOKEN_REVIEW__TOKEN_FILE", requires = "token_review_audience", hide_env_values = true)]
    token_review_token_file: Option<PathBuf>,
}

impl IdentityArguments {
    /// `certificates`: clients may have some, by TLS.
    pub fn authenticator(&self, certificates: bool) -> Result<Authenticator> {
        let bindings = Bindings::parse(self.role_bindings.iter().map(String::as_str));
        let mut authenticator = Authenticator::new(bindings.context("HOLDFAST_AUTH__ROLE_BINDINGS is wrong")?);
        ensure!(
            !self.server_token_subject.starts_with("system:"),
            "HOLDFAST_TOKEN_SUBJECT is the name of a caller, for example user:alice; those that begin with system: are Holdfast's own"
        );
        let tokens: [(&Option<PathBuf>, &str, &[Role]); 2] = [
            (&self.server_token_file, self.server_token_subject.as_str(), &[Role::BackupAdmin, Role::UpdateService]),
            (&self.update_token_file, "token:update-service", &[Role::UpdateService]),
        ];
        let mut seen: Vec<zeroize::Zeroizing<String>> = Vec::new();
        for (path, subject, roles) in tokens {
            let Some(path) = path else { continue };
            let token = secret(path)?;
            ensure!(
                !seen.iter().any(|other| other.as_str() == token.trim()),
                "{} has the token of another caller in it",
                path.display()
            );
            let with = authenticator.with_token(&token, subject, roles);
            authenticator = with.with_context(|| format!("{} has no token in it", path.display()))?;
            seen.push(zeroize::Zeroizing::new(token.trim().to_owned()));
        }
        if certificates {
            authenticator = authenticator.with_certificates();
        }
        if let Some(jwt) = self.jwt()? {
            authenticator = authenticator.with_jwt(jwt);
        }
        if let Some(reviews) = self.reviews()? {
            authenticator = authenticator.with_reviews(reviews);
        }
        ensure!(
            !authenticator.is_empty(),
            "nobody could prove who they are, so that nobody could call: set HOLDFAST_TOKEN_FILE (a workstation), \
             HOLDFAST_TLS__CLIENT_CA_FILE (certificates), HOLDFAST_AUTH__TOKEN_REVIEW__AUDIENCE (Kubernetes) or \
             HOLDFAST_AUTH__JWT__ISSUER (an identity provider)"
        );
        Ok(authenticator)
    }

    fn jwt(&self) -> Result<Option<Jwt>> {
        let (Some(issuer), Some(audience)) = (&self.jwt_issuer, &self.jwt_audience) else { return Ok(None) };
        let source = match (&self.jwt_jwks_url, &self.jwt_jwks_file) {
            (Some(url), None) => {
                let address = url.parse().ok().filter(|_| reachable(url));
                let address = address.context("HOLDFAST_AUTH__JWT__JWKS_URL is not https, or http on this machine")?;
                KeySource::Url(address, client(url, self.jwt_ca_file.as_ref())?)
            }
            (None, Some(path)) => {
                fs::metadata(path).with_context(|| format!("the keys {} cannot be read", path.display()))?;
                KeySource::File(path.clone())
            }
            _ => bail!(
                "HOLDFAST_AUTH__JWT__ISSUER needs its keys: set HOLDFAST_AUTH__JWT__JWKS_URL or HOLDFAST_AUTH__JWT__JWKS_FILE"
            ),
        };
        Ok(Some(Jwt::new(issuer.clone(), audience.clone(), self.jwt_roles_claim.clone(), source)))
    }

    fn reviews(&self) -> Result<Option<TokenReview>> {
        let Some(audience) = &self.token_review_audience else { return Ok(None) };
        let of_cluster = |name: &str| Some(PathBuf::from(SERVICE_ACCOUNT).join(name)).filter(|path| path.exists());
        let server = self.token_review_url.clone().or_else(|| {
            let [host, port] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"].map(|name| std::env::var(name).ok());
            let (host, port) = host.zip(port)?;
            // IPv6.
            Some(if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") })
        });
        let server = server.context("this is no pod of Kubernetes: set HOLDFAST_AUTH__TOKEN_REVIEW__URL")?;
        ensure!(reachable(&server), "HOLDFAST_AUTH__TOKEN_REVIEW__URL is not such as https://kubernetes.default.svc");
        let authority = self.token_review_ca_file.clone().or_else(|| of_cluster("ca.crt"));
        let token = self.token_review_token_file.clone().or_else(|| of_cluster("token"));
        let token = token.context("this pod has no token of a service account: set HOLDFAST_AUTH__TOKEN_REVIEW__TOKEN_FILE")?;
        secret(&token)?;
        let client = client(&server, authority.as_ref())?;
        let reviews = TokenReview::new(&server, client, token, audience.clone());
        Ok(Some(reviews.context("HOLDFAST_AUTH__TOKEN_REVIEW__URL is no address")?))
    }
}

/// Whether an address can be asked without others reading it.
fn reachable(address: &str) -> bool {
    let place =
        address.split_once("://").map(|(scheme, rest)| format!("{scheme}://{}", rest.split('/').next().unwrap_or_default()));
    place.is_some_and(|place| exposed(&place) == Some(false))
}

fn client(address: &str, authority: Option<&PathBuf>) -> Result<Client> {
    if !address.starts_with("https://") {
        return Ok(Client::plain());
    }
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("the certificate {} cannot be read", path.display()));
    let authority = authority.map(read).transpose()?;
    Client::new(authority.as_deref()).with_context(|| format!("{address} cannot be asked"))
}
