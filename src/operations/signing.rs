//! Who wrote a file: the key of this installation, which signs each one, and those whose files count as its own.
//!
//! The first start makes the key. Its secret part rests in the database, sealed as the passphrase is; it never leaves it. A new one
//! takes its place when somebody asks, or when the seal key is another and it does not open any more; files of the old one stay
//! native. With the database the key is lost: a new installation does not know the files of the old one, unless it is given their
//! certificate (`Parts::trusted`), or a caller accepts them.

use super::call::{Caller, SigningState};
use super::{Error, Holdfast, Result, blocking, now};
use crate::archive::{SigningKey, Trust};
use crate::model::Notice;
use crate::model::backup::{Backup, Origin};
use crate::model::event::Event;
use crate::model::notice::Severity;
use crate::model::settings::SigningKeyNote;
use crate::postgres::state::StoredKey;

/// How often it is tried to be the one who makes a key.
const ATTEMPTS: u32 = 5;

impl Holdfast {
    pub async fn signing(&self) -> Result<SigningState> {
        let keys = self.0.parts.state.signing_keys().await?.into_iter().map(|key| key.note).collect();
        Ok(SigningState { keys, trusted: self.0.parts.trusted.fingerprints() })
    }

    /// Signs new files with a new key from now on. The secret part of the old one is forgotten, and its files stay native.
    pub async fn rotate_signing_key(&self, caller: &Caller) -> Result<SigningState> {
        for _ in 0..ATTEMPTS {
            let present = self.0.parts.state.signing_keys().await?.into_iter().find(|key| key.note.in_use);
            if self.make_signing_key(caller, present.as_ref(), true).await?.is_some() {
                return self.signing().await;
            }
        }
        Err(Error::EtagMismatch("the signing key"))
    }

    /// Makes sure that there is a key, so that its certificate can be kept somewhere else before it is needed.
    pub(super) async fn have_signing_key(&self) -> Result<()> {
        if self.0.parts.state.signing_keys().await?.iter().all(|key| !key.note.in_use) {
            self.signing_key().await?;
        }
        Ok(())
    }

    /// The key that new files are signed with.
    pub(super) async fn signing_key(&self) -> Result<SigningKey> {
        let caller = Caller::internal("signing");
        for _ in 0..ATTEMPTS {
            let present = self.0.parts.state.signing_keys().await?.into_iter().find(|key| key.note.in_use);
            let secret = present.as_ref().and_then(|key| key.secret.as_deref());
            let opened = secret.and_then(|secret| self.0.parts.seal_key.open_signing_key(secret, self.0.system.id));
            if let Some(key) = opened.and_then(|secret| SigningKey::parse(&secret)) {
                return Ok(key);
            }
            if present.is_some() {
                tracing::warn!("the signing key does not open under the seal key: a new one takes its place");
            }
            // Another replica may be faster.
            if let Some(key) = self.make_signing_key(&caller, present.as_ref(), present.is_some()).await? {
                return Ok(key);
            }
        }
        Err(Error::SealBroken)
    }

    async fn make_signing_key(&self, caller: &Caller, before: Option<&StoredKey>, tell: bool) -> Result<Option<SigningKey>> {
        let (owner, time) = (format!("Holdfast {}", self.0.system.id), now());
        let key = blocking(move || SigningKey::generate(&owner, time)).await??;
        let secret = self.0.parts.seal_key.seal_signing_key(&key.secret()?, self.0.system.id)?;
        let note = SigningKeyNote {
            fingerprint: key.fingerprint(),
            create_time: time,
            creator: caller.principal().to_owned(),
            certificate: key.certificate()?,
            in_use: true,
        };
        let before = before.map(|key| key.note.fingerprint.as_str());
        let event = Event::new("signing.key_changed", caller, "settings/signing").with("key", &note.fingerprint);
        let event = event.with("keyBefore", before.unwrap_or_default());
        tracing::info!(fingerprint = note.fingerprint, "new backups are signed with a new key");
        let stored = StoredKey { note, secret: Some(secret) };
        let kept = self.0.parts.state.set_signing_key(&stored, before, tell.then_some(&event)).await?;
        Ok(kept.then_some(key))
    }

    /// Those whose files count as this system's own.
    pub(super) async fn trust(&self) -> Result<Trust> {
        let keys = self.0.parts.state.signing_keys().await?;
        let certificates: Vec<u8> = keys.into_iter().flat_map(|key| key.note.certificate).collect();
        let own = match certificates.is_empty() {
            true => Trust::default(),
            false => Trust::parse(&certificates).map_err(|_| Error::Bug("a certificate of a signing key cannot be read"))?,
        };
        Ok(own.and(&self.0.parts.trusted))
    }
}

/// Who wrote a file, as far as that is known without opening it.
pub(super) fn origin(backup: &Backup, trust: &Trust) -> Option<Origin> {
    match (&backup.origin, backup.written_here()) {
        (Some(Origin::Native(key)), true) => Some(Origin::Native(key.clone())),
        (_, true) => Some(Origin::Native(String::new())),
        (found, false) => trust.recall(found.clone()),
    }
}

/// What somebody must accept who restores a file of others.
pub(super) fn foreign(origin: Option<&Origin>) -> Option<Notice> {
    let Some(Origin::Foreign(key)) = origin else { return None };
    let message = match key.as_deref() {
        None => "Nobody has signed the file: it is not known who wrote it.".to_owned(),
        Some("") => "The file was signed with a key that is not trusted here, and that it does not name.".to_owned(),
        Some(key) => format!("The file was signed with a key that is not trusted here: {key}."),
    };
    let notice = Notice::new(Severity::Blocking, "FOREIGN_BACKUP", message).instructions(
        "Make sure where it comes from: its accounts and secrets replace those of this system. Files of a system whose certificate \
         (holdfast signing export) is in HOLDFAST_TRUSTED_CERTIFICATES_FILE need no such consent.",
    );
    Some(key.iter().fold(notice, |notice, key| notice.about(key)))
}
