//! The maintenance lock in words: one holder at a time, a lease that ends, a token that only grows.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ring::rand::SecureRandom;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The lock that backup, restore and software update share. There is no other.
pub const PLATFORM_MAINTENANCE: &str = "platform-maintenance";
/// Its name in calls.
pub const NAME: &str = "locks/platform-maintenance";

/// This service as a holder.
pub const HOLDFAST: &str = "system:holdfast";

/// What a lock is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Purpose {
    Backup,
    /// A restore, or a rehearsal of one.
    Restore,
    SoftwareUpdate,
    /// Work of an administrator.
    Maintenance,
}

impl Purpose {
    const ALL: [Self; 4] = [Self::Backup, Self::Restore, Self::SoftwareUpdate, Self::Maintenance];

    pub fn word(self) -> &'static str {
        match self {
            Self::Backup => "BACKUP",
            Self::Restore => "RESTORE",
            Self::SoftwareUpdate => "SOFTWARE_UPDATE",
            Self::Maintenance => "MAINTENANCE",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.word() == word)
    }

    /// Whether it is work of Holdfast, which ends by itself.
    pub fn own(self) -> bool {
        matches!(self, Self::Backup | Self::Restore)
    }
}

/// What happens when a lease ends without renewal or release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ExpiryPolicy {
    /// The lock becomes free: the work is rolled back when its holder dies.
    Release,
    /// The lock stays taken: the work leaves something half done.
    Hold,
}

impl ExpiryPolicy {
    pub fn word(self) -> &'static str {
        match self {
            Self::Release => "RELEASE",
            Self::Hold => "HOLD",
        }
    }
}

/// The secret that renews and releases a lease: 128 random bits. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct LeaseId(Zeroizing<[u8; 16]>);

impl LeaseId {
    /// `None` when the system has no random numbers.
    pub fn random() -> Option<Self> {
        let mut bits = Zeroizing::new([0; 16]);
        ring::rand::SystemRandom::new().fill(&mut *bits).ok()?;
        Some(Self(bits))
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// Of 32 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |at: usize| {
            let pair = text.get(at..at + 2).filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes: Option<Vec<u8>> = (0..32).step_by(2).map(digit).collect();
        Self::from_bytes(&Zeroizing::new(bytes.filter(|_| text.len() == 32)?))
    }

    pub fn bytes(&self) -> &[u8] {
        &*self.0
    }

    /// For the holder, and nobody else.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As it is kept: what is kept renews nothing.
    pub fn hash(&self) -> Vec<u8> {
        ring::digest::digest(&ring::digest::SHA256, &*self.0).as_ref().to_vec()
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId")
    }
}

/// Who wants the lock, what for, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// As proven; not as the caller says.
    pub principal: String,
    /// Instance of the caller.
    pub holder_id: String,
    pub purpose: Purpose,
    /// One sentence for the people who are told `taken by`.
    pub reason: String,
    /// Where to follow the work; may be empty.
    pub operation: String,
    pub ttl: Duration,
    pub expiry_policy: ExpiryPolicy,
    /// Empty: none. The same caller with the same id means the same lease, while it is held.
    pub request_id: String,
}

impl Terms {
    /// Who the holder under these terms is.
    pub fn holder(&self, fencing_token: i64, acquire_time: DateTime<Utc>, expire_time: DateTime<Utc>) -> Holder {
        Holder {
            principal: self.principal.clone(),
            holder_id: self.holder_id.clone(),
            purpose: self.purpose,
            reason: self.reason.clone(),
            operation: self.operation.clone(),
            fencing_token,
            acquire_time,
            renew_time: acquire_time,
            expire_time,
            expiry_policy: self.expiry_policy,
            stale: false,
        }
    }
}

/// The right to hold the lock for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    /// Greater than every token granted before.
    pub fencing_token: i64,
    pub ttl: Duration,
    /// By the clock of the lock service, for display.
    pub expire_time: DateTime<Utc>,
}

/// Who has the lock, as others may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub principal: String,
    pub holder_id: String,
    pub purpose: Purpose,
    pub reason: String,
    pub operation: String,
    pub fencing_token: i64,
    pub acquire_time: DateTime<Utc>,
    pub renew_time: DateTime<Utc>,
    pub expire_time: DateTime<Utc>,
    pub expiry_policy: ExpiryPolicy,
    /// Its lease is over, and it is held all the same.
    pub stale: bool,
}

/// The lock as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// `None`: it is free.
    pub holder: Option<Holder>,
    /// The newest that was granted.
    pub fencing_token: i64,
    pub update_time: DateTime<Utc>,
}

impl Lock {
    /// Whether more has changed than that the lease was renewed.
    pub fn differs(&self, other: &Self) -> bool {
        let but_renewals = |lock: &Self| {
            let holder = lock.holder.as_ref().map(|holder| (holder.fencing_token, holder.stale, holder.reason.clone()));
            (holder, lock.fencing_token, lock.update_time)
        };
        but_renewals(self) != but_renewals(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_id_reads_as_it_was_written_and_prints_nothing() {
        let id = LeaseId::random().unwrap();
        assert_eq!(LeaseId::parse(&id.reveal()), Some(id.clone()));
        assert_eq!(id.reveal().len(), 32);
        assert_ne!(LeaseId::random().unwrap(), id);
        assert!(!format!("{id:?}").contains(&**id.reveal()));
        for wrong in ["", "0", &"0".repeat(31), &"0".repeat(33), &"g".repeat(32), &"é".repeat(16), &"+1".repeat(16)] {
            assert_eq!(LeaseId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_purpose_reads_as_it_is_written() {
        assert!(Purpose::ALL.into_iter().all(|purpose| Purpose::parse(purpose.word()) == Some(purpose)));
        assert_eq!(Purpose::parse("backup"), None);
    }
}
