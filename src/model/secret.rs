//! Secrets. They have no `Display` and no `Serialize`, their `Debug` shows nothing, and memory is wiped on drop.

use std::fmt;

use zeroize::Zeroizing;

/// The passphrase of a backup file, never blank. RFC 9580, 3.7 derives the key from its bytes as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

/// Why a new passphrase is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    #[error("a passphrase has at least {} characters", Passphrase::MIN_CHARS)]
    TooShort,
    #[error("a passphrase has at most {} bytes", Passphrase::MAX_BYTES)]
    TooLong,
    #[error("a passphrase has no control characters such as line ends or NUL")]
    ControlCharacter,
    #[error("a passphrase has at least five different characters")]
    Monotonous,
    #[error(
        "this passphrase is too easy to guess: well-known words, rows of keys, repeats and years add little; take four words by chance"
    )]
    Guessable,
}

impl Passphrase {
    pub const MIN_CHARS: usize = 12;
    pub const MAX_BYTES: usize = 1024;
    /// A guess takes tens of milliseconds of one core, so 2^40 of them take two thousand years of it.
    pub const MIN_BITS: u32 = 40;

    /// `None` for a blank one: blank means 'not encrypted' and is not a passphrase.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = Zeroizing::new(text.into());
        (!text.is_empty()).then_some(Self(text))
    }

    /// Whether it may protect new files. Old files may have been made under other rules.
    pub fn strength(&self) -> Result<(), Weak> {
        let mut different: Vec<char> = self.0.chars().collect();
        let chars = different.len();
        different.sort_unstable();
        different.dedup();
        match () {
            () if self.0.len() > Self::MAX_BYTES => Err(Weak::TooLong),
            () if self.0.chars().any(char::is_control) => Err(Weak::ControlCharacter),
            () if chars < Self::MIN_CHARS => Err(Weak::TooShort),
            () if different.len() < 5 => Err(Weak::Monotonous),
            () if super::strength::bits(&self.0) < Self::MIN_BITS => Err(Weak::Guessable),
            () => Ok(()),
        }
    }

    /// The secret itself, for the cipher alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// An OpenPGP secret key (RFC 9580, 10.2) as `gpg --export-secret-keys` gives it, and the passphrase that protects it, if one
/// does. Whether it is one is found out when it opens a file.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey {
    bytes: Zeroizing<Vec<u8>>,
    passphrase: Option<Passphrase>,
}

impl SecretKey {
    pub const MAX_BYTES: usize = 64 << 10;

    /// `None` where there are no bytes.
    pub fn new(bytes: impl Into<Vec<u8>>, passphrase: Option<Passphrase>) -> Option<Self> {
        let bytes = Zeroizing::new(bytes.into());
        (!bytes.is_empty()).then_some(Self { bytes, passphrase })
    }

    /// The secret itself, for the cipher alone.
    pub fn reveal(&self) -> (&[u8], Option<&Passphrase>) {
        (&self.bytes, self.passphrase.as_ref())
    }
}

/// The key of the data of one file. It is in no other, and is forgotten when the file is proven.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey(Zeroizing<Vec<u8>>);

impl SessionKey {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The secret itself, for the cipher alone.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

/// What opens a file.
#[derive(Clone, PartialEq, Eq)]
pub enum Opener {
    Passphrase(Passphrase),
    /// Of a recipient.
    SecretKey(SecretKey),
    SessionKey(SessionKey),
}

impl Opener {
    /// What a caller sent: the secret key, which the passphrase belongs to then, or the passphrase.
    pub fn new(passphrase: Option<Passphrase>, secret_key: impl Into<Vec<u8>>) -> Option<Self> {
        match SecretKey::new(secret_key, passphrase.clone()) {
            Some(key) => Some(Self::SecretKey(key)),
            None => passphrase.map(Self::Passphrase),
        }
    }

    pub fn passphrase(&self) -> Option<&Passphrase> {
        if let Self::Passphrase(passphrase) = self { Some(passphrase) } else { None }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase",
            Self::SecretKey(_) => "SecretKey",
            Self::SessionKey(_) => "SessionKey",
        })
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c05_blank_is_not_a_passphrase() {
        assert!(Passphrase::new("").is_none());
        assert!(Passphrase::new(" ").is_some());
    }

    #[test]
    fn debug_shows_nothing() {
        let passphrase = Passphrase::new("correct horse");
        assert_eq!(format!("{passphrase:?}"), "Some(Passphrase)");
        assert_eq!(format!("{:?}", Opener::new(passphrase.clone(), [])), "Some(Passphrase)");
        assert_eq!(format!("{:?}", Opener::new(passphrase, *b"-----BEGIN")), "Some(SecretKey)");
        assert_eq!(format!("{:?}", Opener::SessionKey(SessionKey::new([7; 32]))), "SessionKey");
        assert_eq!(Opener::new(None, []), None);
    }

    #[test]
    fn c17_weak_passphrases_are_refused() {
        let strength = |text: &str| Passphrase::new(text).unwrap().strength();
        assert_eq!(strength("correct horse battery"), Ok(()));
        assert_eq!(strength("grüße aus köln"), Ok(()));
        assert_eq!(strength("short"), Err(Weak::TooShort));
        assert_eq!(strength("aaaaaaaaaaaaaaaa"), Err(Weak::Monotonous));
        assert_eq!(strength("password1234"), Err(Weak::Guessable));
        assert_eq!(strength("correct horse battery\n"), Err(Weak::ControlCharacter));
        assert_eq!(strength(&"correct horse".repeat(100)), Err(Weak::TooLong));
    }
}
