//! Who wrote a file: `signature.asc`, a detached OpenPGP signature (RFC 9580, 10.4) over `end.json`, and so over all of the file:
//! that has the digests of `manifest.json` and of every table in it.
//!
//! A file without a passphrase could be made by anyone who can write the folder, and one with it by anyone who knows it. The key
//! is Ed25519 in a certificate of version 4, so that gpg 2.2 verifies it as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use sequoia_openpgp::cert::{CertBuilder, CertParser, CipherSuite};
use sequoia_openpgp::packet::key::{PrimaryRole, PublicParts};
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::packet::{Key, Signature};
use sequoia_openpgp::parse::{PacketParser, PacketParserResult, Parse};
use sequoia_openpgp::serialize::{MarshalInto, SerializeInto};
use sequoia_openpgp::types::{HashAlgorithm, KeyFlags, RevocationStatus, SignatureType};
use sequoia_openpgp::{Cert, Packet, armor};
use zeroize::Zeroizing;

use super::openpgp::{POLICY, of_sequoia};
use super::{Error, Unusable};
use crate::model::backup::Origin;

/// The key that an installation signs its files with. Cheap to clone.
#[derive(Clone)]
pub struct SigningKey(Arc<Cert>);

impl SigningKey {
    /// Makes a new one, which does not expire: files outlive it.
    ///
    /// # Errors
    /// `Io`: the system has no random numbers.
    pub fn generate(owner: &str, now: DateTime<Utc>) -> Result<Self, Error> {
        let flags = KeyFlags::empty().set_certification().set_signing();
        let builder = CertBuilder::new().add_userid(owner).set_cipher_suite(CipherSuite::Cv25519);
        let made = builder.set_primary_key_flags(flags).set_creation_time(SystemTime::from(now)).generate();
        made.map(|(cert, _)| Self(Arc::new(cert))).map_err(of_sequoia)
    }

    /// One that `secret` gave.
    pub fn parse(secret: &[u8]) -> Option<Self> {
        let cert = Cert::from_bytes(secret).ok()?;
        cert.primary_key().key().has_unencrypted_secret().then(|| Self(Arc::new(cert)))
    }

    /// The secret itself, to be sealed.
    ///
    /// # Errors
    /// None that is known.
    pub fn secret(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        MarshalInto::to_vec(&self.0.as_tsk()).map(Zeroizing::new).map_err(of_sequoia)
    }

    /// What others verify its signatures with, armored.
    ///
    /// # Errors
    /// None that is known.
    pub fn certificate(&self) -> Result<Vec<u8>, Error> {
        SerializeInto::to_vec(&self.0.armored()).map_err(of_sequoia)
    }

    /// In hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint().to_hex()
    }

    /// A detached signature, armored, of this time; or that of the key where a clock went back.
    pub(super) fn sign(&self, text: &[u8], time: DateTime<Utc>) -> Result<Vec<u8>, Error> {
        let sign = || {
            let key = self.0.primary_key().key().clone().parts_into_secret()?;
            let time = SystemTime::from(time).max(key.creation_time());
            let builder = SignatureBuilder::new(SignatureType::Binary).set_hash_algo(HashAlgorithm::SHA512);
            let builder = builder.set_signature_creation_time(time)?;
            let signature = builder.sign_message(&mut key.into_keypair()?, text)?;
            let mut armored = armor::Writer::new(Vec::new(), armor::Kind::Signature)?;
            std::io::Write::write_all(&mut armored, &MarshalInto::to_vec(&Packet::from(signature))?)?;
            Ok(armored.finalize()?)
        };
        sign().map_err(of_sequoia)
    }
}

/// Those whose files are taken for this system's own. Cheap to clone.
#[derive(Clone, Default)]
pub struct Trust(Arc<Vec<Key<PublicParts, PrimaryRole>>>);

impl Trust {
    /// Reads certificates as `SigningKey::certificate` gives them, one after the other. Their primary keys count, for ever: a
    /// file does not become another's when a key expires.
    ///
    /// # Errors
    /// When one of them cannot vouch for a file, or should not.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unusable> {
        let mut all = Vec::new();
        for cert in CertParser::from_bytes(bytes).map_err(|_| Unusable::Nothing)? {
            let cert = cert.map_err(|_| if all.is_empty() { Unusable::Nothing } else { Unusable::Malformed })?;
            let fingerprint = cert.fingerprint().to_hex();
            if cert.is_tsk() {
                return Err(Unusable::Secret(fingerprint));
            }
            if matches!(cert.revocation_status(&POLICY, None), RevocationStatus::Revoked(_)) {
                return Err(Unusable::Revoked(fingerprint));
            }
            let key = cert.primary_key().key();
            if key.version() != 4 || !key.pk_algo().for_signing() {
                return Err(Unusable::NoSigningKey(fingerprint));
            }
            all.push(key.clone());
        }
        if all.is_empty() { Err(Unusable::Nothing) } else { Ok(Self(Arc::new(all))) }
    }

    /// Those of both.
    pub fn and(&self, other: &Self) -> Self {
        Self(Arc::new(self.0.iter().chain(other.0.iter()).cloned().collect()))
    }

    pub fn fingerprints(&self) -> Vec<String> {
        self.0.iter().map(|key| key.fingerprint().to_hex()).collect()
    }

    /// What was found of a file once, as it is today. `None`: the file has to be read again.
    pub fn recall(&self, found: Option<Origin>) -> Option<Origin> {
        let trusted = |fingerprint: &String| self.0.iter().any(|key| key.fingerprint().to_hex() == *fingerprint);
        match found {
            Some(Origin::Native(key)) if !trusted(&key) => Some(Origin::Foreign(Some(key))),
            Some(Origin::Foreign(Some(key))) if trusted(&key) => None,
            found => found,
        }
    }

    /// Who signed this text. Without a signature, nobody did.
    ///
    /// # Errors
    /// `Damaged`, when a signature cannot be read, or does not fit though it says it is of somebody who is trusted.
    pub(super) fn origin(&self, text: &[u8], signature: &[u8]) -> Result<Origin, Error> {
        const WRONG: Error = Error::Damaged("its signature does not fit: it was altered since it was signed");
        if signature.is_empty() {
            return Ok(Origin::Foreign(None));
        }
        // What a hostile file makes a parser do is damage.
        let parsed = catch_unwind(AssertUnwindSafe(|| parse(signature))).ok().flatten();
        let signature = parsed.ok_or(Error::Damaged("its signature cannot be read"))?;
        let issuers = signature.get_issuers();
        match self.0.iter().find(|key| issuers.iter().any(|issuer| issuer.aliases(key.key_handle()))) {
            Some(key) => match catch_unwind(AssertUnwindSafe(|| signature.verify_message(key, text))) {
                Ok(Ok(())) => Ok(Origin::Native(key.fingerprint().to_hex())),
                Ok(Err(_)) | Err(_) => Err(WRONG),
            },
            None => Ok(Origin::Foreign(issuers.first().map(|issuer| issuer.to_hex()).or(Some(String::new())))),
        }
    }
}

/// One signature of the kind that `SigningKey` makes, in armor, and nothing else.
fn parse(armored: &[u8]) -> Option<Signature> {
    if !armored.starts_with(b"-----BEGIN PGP SIGNATURE-----") {
        return None;
    }
    let PacketParserResult::Some(parser) = PacketParser::from_bytes(armored).ok()? else { return None };
    let (packet, PacketParserResult::EOF(_)) = parser.next().ok()? else { return None };
    let Packet::Signature(signature) = packet else { return None };
    let strong = matches!(signature.hash_algo(), HashAlgorithm::SHA256 | HashAlgorithm::SHA384 | HashAlgorithm::SHA512);
    (signature.version() == 4 && signature.typ() == SignatureType::Binary && strong).then_some(signature)
}
