//! Secrets at rest: sealed with AES-256-GCM (NIST SP 800-38D) under a key from a mounted secret.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::model::Passphrase;
use crate::model::lock::LeaseId;

use super::{Error, Result};

/// What the id of a lease is sealed for; a passphrase is sealed for a system and a generation.
const LEASE: &[u8] = b"lease";
/// What a signing key is sealed for, with its system.
const SIGNING: &[u8] = b"signing key";

/// The key under which secrets rest. Shows nothing of itself.
#[derive(Clone)]
pub struct SealKey(LessSafeKey);

impl SealKey {
    pub const MIN_BYTES: usize = 32;

    /// Makes a key of the content of a secret, which must be random and have at least 32 bytes; line ends around it do
    /// not count. `None` when it is too short.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let secret = secret.trim_ascii();
        let key = digest(&SHA256, &[b"holdfast seal key\0", secret].concat());
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).ok()?;
        (secret.len() >= Self::MIN_BYTES).then(|| Self(LessSafeKey::new(key)))
    }

    /// Seals the id of a lease, for the answer that is asked for again.
    pub(super) fn seal_lease_id(&self, id: &LeaseId) -> Result<Vec<u8>> {
        self.seal_bytes(id.bytes(), LEASE)
    }

    pub(super) fn open_lease_id(&self, sealed: &[u8]) -> Result<LeaseId> {
        self.open_bytes(sealed, LEASE).and_then(|bytes| LeaseId::from_bytes(&bytes)).ok_or(Error::SealBroken)
    }

    /// Seals the key that the files of a system are signed with.
    pub(super) fn seal_signing_key(&self, secret: &[u8], system: Uuid) -> Result<Vec<u8>> {
        self.seal_bytes(secret, &[SIGNING, system.as_bytes()].concat())
    }

    /// `None`: another seal key, or not what was sealed.
    pub(super) fn open_signing_key(&self, sealed: &[u8], system: Uuid) -> Option<Zeroizing<Vec<u8>>> {
        self.open_bytes(sealed, &[SIGNING, system.as_bytes()].concat())
    }

    /// Seals a passphrase for one system and one generation; under others it does not open.
    pub(super) fn seal(&self, passphrase: &Passphrase, system: Uuid, generation: u32) -> Result<Vec<u8>> {
        self.seal_bytes(passphrase.reveal().as_bytes(), &bound_to(system, generation))
    }

    /// # Errors
    /// `Error::SealBroken`: another key, or not what was sealed.
    pub(super) fn open(&self, sealed: &[u8], system: Uuid, generation: u32) -> Result<Passphrase> {
        let opened = self.open_bytes(sealed, &bound_to(system, generation));
        opened.and_then(|bytes| Passphrase::new(std::str::from_utf8(&bytes).ok()?)).ok_or(Error::SealBroken)
    }

    fn seal_bytes(&self, secret: &[u8], bound_to: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Bug("the system has no random numbers"))?;
        let mut sealed = secret.to_vec();
        let sealing = self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to), &mut sealed);
        sealing.map_err(|_| Error::Bug("a secret could not be sealed"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn open_bytes(&self, sealed: &[u8], bound_to: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let opened = self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(bound_to), &mut sealed).ok()?;
        Some(Zeroizing::new(opened.to_vec()))
    }
}

fn bound_to(system: Uuid, generation: u32) -> [u8; 20] {
    let mut bound = [0; 20];
    bound[..16].copy_from_slice(system.as_bytes());
    bound[16..].copy_from_slice(&generation.to_be_bytes());
    bound
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_passphrase_opens_only_under_its_key_system_and_generation() {
        let key = SealKey::new(&[7; 32]).unwrap();
        let passphrase = Passphrase::new("correct horse battery").unwrap();
        let sealed = key.seal(&passphrase, Uuid::nil(), 1).unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"correct"));
        assert_eq!(key.open(&sealed, Uuid::nil(), 1).unwrap(), passphrase);
        assert!(key.open(&sealed, Uuid::nil(), 2).is_err());
        assert!(key.open(&sealed, Uuid::max(), 1).is_err());
        assert!(SealKey::new(&[8; 32]).unwrap().open(&sealed, Uuid::nil(), 1).is_err());
        assert!(key.open(&sealed[..20], Uuid::nil(), 1).is_err());
        assert!(SealKey::new(b"short\n").is_none());
    }
}
