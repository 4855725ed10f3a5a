//! The generated types of the contract in `proto/`, and its descriptors.
//!
//! No type here prints a secret: a message with a `debug_redact` field stands in the list below and in `build.rs`.

use std::fmt;

/// `holdfast.backup.v1`.
#[expect(clippy::allow_attributes, clippy::large_enum_variant, clippy::module_inception, reason = "generated code")]
pub mod backup {
    tonic::include_proto!("holdfast.backup.v1");
}

/// `holdfast.lock.v1`.
#[expect(clippy::allow_attributes, clippy::module_inception, reason = "generated code")]
pub mod lock {
    tonic::include_proto!("holdfast.lock.v1");
}

/// The contract as an encoded `FileDescriptorSet` with all its imports, for reflection and for JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/holdfast.descriptors"));

/// Gives each message a `Debug` that names its secret fields and hides their values. A field that the contract gains later
/// does not compile until somebody has said here on which side it belongs.
macro_rules! redacted {
    ($($name:literal: $message:ty { $($shown:ident),* } hides $($secret:ident),+;)*) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $($shown,)* $($secret: _),+ } = self;
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($shown), $shown))*
                    $(.field(stringify!($secret), &format_args!("[redacted]")))+
                    .finish()
            }
        })*

        /// Full name of each message with a secret, and what its `Debug` makes of an encoded one.
        #[cfg(test)]
        type Printed = fn(&[u8]) -> Result<String, prost::DecodeError>;
        #[cfg(test)]
        const REDACTED: &[(&str, Printed)] =
            &[$(($name, |bytes| Ok(format!("{:?}", <$message as prost::Message>::decode(bytes)?)))),*];
    };
}

redacted! {
    "holdfast.backup.v1.RestoreRequest": backup::RestoreRequest {
        name, resources, preview_etag, acknowledged_warnings, acknowledged_reasons, skip_safety_backup, lock_wait, reason, request_id,
        validate_only
    } hides passphrase, secret_key;
    "holdfast.backup.v1.VerifyBackupRequest": backup::VerifyBackupRequest { name, level, request_id } hides passphrase, secret_key;
    "holdfast.backup.v1.CheckPassphraseRequest": backup::CheckPassphraseRequest { name } hides passphrase;
    "holdfast.backup.v1.PreviewRestoreRequest": backup::PreviewRestoreRequest { name, resources } hides passphrase, secret_key;
    "holdfast.backup.v1.SetEncryptionRequest": backup::SetEncryptionRequest { etag } hides passphrase;
    "holdfast.lock.v1.LockLease": lock::LockLease { lock, fencing_token, ttl, expire_time, renew_interval } hides lease_id;
    "holdfast.lock.v1.RenewLockRequest": lock::RenewLockRequest { name, ttl, reason } hides lease_id;
    "holdfast.lock.v1.ReleaseLockRequest": lock::ReleaseLockRequest { name } hides lease_id;
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, Value};

    use super::*;

    #[test]
    fn no_message_prints_a_secret() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let fields = pool.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
        let is_secret = |options: prost_reflect::DynamicMessage| {
            options.get_field_by_name("debug_redact").is_some_and(|value| *value == Value::Bool(true))
        };
        let secrets: Vec<_> = fields.filter(|field| is_secret(field.options())).collect();
        let messages: std::collections::BTreeSet<_> =
            secrets.iter().map(|secret| secret.parent_message().full_name().to_owned()).collect();
        assert_eq!(messages.len(), REDACTED.len(), "{secrets:?}");
        for secret in secrets {
            let listed = REDACTED.iter().find(|(name, _)| *name == secret.parent_message().full_name());
            let (_, printed) = listed.unwrap_or_else(|| panic!("{} is a secret: add it to `redacted!`", secret.full_name()));
            let mut bytes = Vec::new();
            // Bytes are encoded as text is.
            prost::encoding::string::encode(secret.number(), &"c4n4ry".to_owned(), &mut bytes);
            let text = printed(&bytes).unwrap();
            assert!(!text.contains("c4n4ry") && text.contains("[redacted]"), "{text}");
        }
    }
}
