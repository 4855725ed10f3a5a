//! Recipients: OpenPGP certificates (RFC 9580, 10.1) whose secret keys, kept off-line, open files as well.
//!
//! They are looked at once, when the service starts. A key that expires later is used all the same: a date must not end the
//! backups of a night.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sequoia_openpgp::cert::CertParser;
use sequoia_openpgp::crypto::{Decryptor, Password, S2K, SessionKey};
use sequoia_openpgp::packet::key::{PublicParts, SecretKeyMaterial, SecretParts, UnspecifiedRole};
use sequoia_openpgp::packet::{Key, PKESK};
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::types::{PublicKeyAlgorithm, RevocationStatus};
use sequoia_openpgp::{Cert, KeyHandle};

use super::Error;
use super::frame::MOST_RECIPIENTS;
use super::openpgp::{CIPHER, POLICY};
use crate::model::SecretKey;
use crate::model::settings::Recipient;

/// The holders of secret keys that open new files. Cheap to clone.
#[derive(Clone, Default)]
pub struct Recipients(Arc<Vec<Certificate>>);

/// A certificate, and its keys that files are encrypted to.
struct Certificate {
    about: Recipient,
    keys: Vec<Key<PublicParts, UnspecifiedRole>>,
}

/// Why files cannot be encrypted to these certificates.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("there is no OpenPGP certificate in it; export it with gpg --export --armor")]
    Nothing,
    #[error("a part of it is no OpenPGP certificate; export it again with gpg --export --armor")]
    Malformed,
    #[error("the secret key of {0} is in it, which belongs off-line; export the certificate alone, with gpg --export --armor")]
    Secret(String),
    #[error("the certificate {0} is in it twice")]
    Twice(String),
    #[error("the certificate {0} is revoked")]
    Revoked(String),
    #[error("the certificate {0} has expired at {1}; extend it with gpg --quick-set-expire, and export it again")]
    Expired(String, DateTime<Utc>),
    #[error("the certificate {0} is not valid: {1}")]
    Invalid(String, String),
    #[error("the certificate {0} has no key that is meant for encryption and is valid now; gpg --quick-add-key adds one")]
    NoEncryptionKey(String),
    #[error("the certificate {0} has no key for signing in the first place; export it with holdfast signing export")]
    NoSigningKey(String),
    #[error("they have more than {MOST_RECIPIENTS} keys for encryption")]
    TooMany,
}

impl Recipients {
    /// Reads certificates, with armor or without, one after the other.
    ///
    /// # Errors
    /// When a file could not, or should not, be encrypted to one of them.
    pub fn parse(bytes: &[u8], now: DateTime<Utc>) -> Result<Self, Unusable> {
        let certs = CertParser::from_bytes(bytes).map_err(|_| Unusable::Nothing)?;
        let mut all = Vec::<Certificate>::new();
        for cert in certs {
            let cert = cert.map_err(|_| if all.is_empty() { Unusable::Nothing } else { Unusable::Malformed })?;
            let certificate = Certificate::new(&cert, now)?;
            if all.iter().any(|known| known.about.fingerprint == certificate.about.fingerprint) {
                return Err(Unusable::Twice(certificate.about.fingerprint));
            }
            all.push(certificate);
        }
        if all.is_empty() {
            return Err(Unusable::Nothing);
        }
        let all = Self(Arc::new(all));
        if all.keys().count() > MOST_RECIPIENTS { Err(Unusable::TooMany) } else { Ok(all) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Recipient> {
        self.0.iter().map(|certificate| &certificate.about)
    }

    pub fn fingerprints(&self) -> Vec<String> {
        self.iter().map(|recipient| recipient.fingerprint.clone()).collect()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key<PublicParts, UnspecifiedRole>> {
        self.0.iter().flat_map(|certificate| &certificate.keys)
    }
}

impl Certificate {
    fn new(cert: &Cert, now: DateTime<Utc>) -> Result<Self, Unusable> {
        let fingerprint = cert.fingerprint().to_hex();
        if cert.is_tsk() {
            return Err(Unusable::Secret(fingerprint));
        }
        let valid = cert.with_policy(&POLICY, Some(now.into()));
        let valid = valid.map_err(|error| Unusable::Invalid(fingerprint.clone(), error.root_cause().to_string()))?;
        if matches!(valid.revocation_status(), RevocationStatus::Revoked(_)) {
            return Err(Unusable::Revoked(fingerprint));
        }
        let end = valid.primary_key().key_expiration_time().map(DateTime::<Utc>::from);
        if let Some(end) = end.filter(|end| *end <= now) {
            return Err(Unusable::Expired(fingerprint, end));
        }
        valid.alive().map_err(|error| Unusable::Invalid(fingerprint.clone(), error.root_cause().to_string()))?;
        let keys = valid.keys().supported().alive().revoked(false).for_storage_encryption().for_transport_encryption();
        let keys: Vec<_> = keys.filter(|key| key.key().version() == 4 && accepted(key.key().pk_algo())).collect();
        if keys.is_empty() {
            return Err(Unusable::NoEncryptionKey(fingerprint));
        }
        // The last of them to expire; `None`, which is never, comes before every time.
        let ends = keys.iter().map(|key| key.key_expiration_time().map(DateTime::<Utc>::from));
        let last = ends.min_by_key(|end| std::cmp::Reverse(end.unwrap_or(DateTime::<Utc>::MAX_UTC))).flatten();
        let user_id = valid.primary_userid().map(|user| String::from_utf8_lossy(user.userid().value()).into_owned());
        let expire_time = end.into_iter().chain(last).min();
        Ok(Self {
            about: Recipient { fingerprint, user_id: user_id.unwrap_or_default(), expire_time },
            keys: keys.into_iter().map(|key| key.key().clone().role_into_unspecified()).collect(),
        })
    }
}

/// What `frame` lets pass.
fn accepted(algorithm: PublicKeyAlgorithm) -> bool {
    use PublicKeyAlgorithm::{ECDH, RSAEncryptSign, X448, X25519};
    matches!(algorithm, RSAEncryptSign | ECDH | X25519 | X448)
}

/// The key of a message, when this secret key is that of one of its recipients. Validity is not asked for: old files are opened with
/// old keys.
pub(super) fn session_key(key: &SecretKey, pkesks: &[PKESK]) -> Result<Option<SessionKey>, Error> {
    const MALFORMED: Error =
        Error::SecretKeyUnusable("it is no OpenPGP secret key; export it with gpg --export-secret-keys --armor");
    let (bytes, passphrase) = key.reveal();
    let (mut seen, mut tried) = (false, BTreeSet::new());
    for cert in CertParser::from_bytes(bytes).map_err(|_| MALFORMED)? {
        let cert = cert.map_err(|_| MALFORMED)?;
        for secret in cert.keys().secret() {
            seen = true;
            let handle = KeyHandle::from(secret.key().keyid());
            let addressed = |pkesk: &&PKESK| pkesk.recipient().is_some_and(|recipient| recipient.aliases(&handle));
            let mut addressed = pkesks.iter().filter(addressed).peekable();
            // To unlock a key costs time: each is unlocked once, however often it is in there.
            if addressed.peek().is_none() || !tried.insert(secret.key().fingerprint()) {
                continue;
            }
            let key = secret.key().clone().role_into_unspecified();
            let mut pair = unlocked(key, passphrase.map(|passphrase| passphrase.reveal().into()).as_ref())?
                .into_keypair()
                .map_err(|_| MALFORMED)?;
            for pkesk in addressed {
                if let Some((cipher, key)) = pkesk.decrypt(&mut pair as &mut dyn Decryptor, Some(CIPHER))
                    && cipher == Some(CIPHER)
                {
                    return Ok(Some(key));
                }
            }
        }
    }
    if seen { Ok(None) } else { Err(MALFORMED) }
}

/// Takes the protection off. What it costs is bounded: an Argon2 of a caller could ask for gigabytes.
fn unlocked(
    key: Key<SecretParts, UnspecifiedRole>,
    password: Option<&Password>,
) -> Result<Key<SecretParts, UnspecifiedRole>, Error> {
    match key.secret() {
        SecretKeyMaterial::Unencrypted(_) => return Ok(key),
        SecretKeyMaterial::Encrypted(locked) if matches!(locked.s2k(), S2K::Iterated { .. }) => {}
        SecretKeyMaterial::Encrypted(_) => {
            return Err(Error::SecretKeyUnusable("it is not protected by an iterated S2K, as that of gpg is"));
        }
    }
    let password = password.ok_or(Error::SecretKeyLocked)?;
    key.decrypt_secret(password).map_err(|_| Error::SecretKeyPassphraseIncorrect)
}
