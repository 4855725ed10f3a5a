//! The OpenPGP layer, between the packets that `frame` has measured and the compressed archive.
//!
//! The session key is encrypted to each recipient and into the SKESK, so that a wrong passphrase shows at once: the cipher octet in front of the
//! key (1 in 256 passes), the two repeated octets of SEIPD (1 in 65,536), then the tag of the literal packet. Data of a SEIPD
//! packet is proven by its last 22 bytes only (RFC 9580, 5.13.1); until then it is whatever someone made of it.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sequoia_openpgp::crypto::{Password, S2K, SessionKey};
use sequoia_openpgp::packet::pkesk::PKESK3;
use sequoia_openpgp::packet::skesk::SKESK4;
use sequoia_openpgp::packet::{PKESK, SKESK};
use sequoia_openpgp::parse::stream::{DecryptionHelper, Decryptor, DecryptorBuilder, MessageStructure, VerificationHelper};
use sequoia_openpgp::parse::{PacketParser, Parse};
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::serialize::Marshal;
use sequoia_openpgp::serialize::stream::{self, Encryptor, LiteralWriter};
use sequoia_openpgp::types::{DataFormat, HashAlgorithm, SymmetricAlgorithm};
use sequoia_openpgp::{Cert, KeyHandle, Packet};

use super::frame::{Frame, Locks, Outcome};
use super::{Error, Protection, recipients};
use crate::model::{self, Opener};

pub(super) const CIPHER: SymmetricAlgorithm = SymmetricAlgorithm::AES256;

/// Bytes hashed to derive a key: the most that RFC 9580, 3.7.1.3 can express. About 50 ms.
pub(super) const FULL_COST: u32 = 0x3e0_0000;

/// Bytes of plaintext that the decryptor holds back. It uses about three times as much; its default costs 171 MB.
const HELD_BACK: usize = 1 << 20;

pub(super) static POLICY: StandardPolicy = StandardPolicy::new();

/// An OpenPGP message in the making; what is written to it is encrypted.
pub(super) type Message = stream::Message<'static>;

/// A message into `out` that the passphrase and the recipients open, and its key; write the content, then `finalize` it.
pub(super) fn encrypt(
    out: impl Write + Send + Sync + 'static,
    protection: &Protection,
    cost: u32,
) -> Result<(Message, model::SessionKey), Error> {
    let build = || {
        let key = SessionKey::new(CIPHER.key_size()?)?;
        let mut message = stream::Message::new(out);
        for recipient in protection.recipients.keys() {
            let pkesk = PKESK3::for_recipient(CIPHER, &key, recipient)?;
            Packet::from(PKESK::from(pkesk)).serialize(&mut message)?;
        }
        if let Some(passphrase) = &protection.passphrase {
            let s2k = S2K::new_iterated(HashAlgorithm::SHA256, cost)?;
            let skesk = SKESK4::with_password(CIPHER, CIPHER, s2k, &key, &Password::from(passphrase.reveal()))?;
            Packet::from(SKESK::from(skesk)).serialize(&mut message)?;
        }
        let kept = model::SessionKey::new(&key[..]);
        let message = Encryptor::with_session_key(message, CIPHER, key)?.build()?;
        Ok((LiteralWriter::new(message).format(DataFormat::Binary).build()?, kept))
    };
    build().map_err(of_sequoia)
}

/// Writes what belongs at the end of a message.
pub(super) fn finalize(message: Message) -> Result<(), Error> {
    message.finalize().map_err(of_sequoia)
}

/// What stops Sequoia; nobody reads the text.
fn refused<T>(why: &str) -> sequoia_openpgp::Result<T> {
    Err(sequoia_openpgp::Error::MalformedMessage(why.into()).into())
}

/// While writing only the destination fails, or the system's source of random numbers. Sequoia's errors are those of
/// `anyhow`: here they end.
pub(super) fn of_sequoia(error: anyhow::Error) -> Error {
    Error::Io(error.downcast().unwrap_or_else(io::Error::other))
}

/// The content of a message. End of file comes only after its integrity was checked and nothing followed it.
pub(super) struct Content<'a> {
    decryptor: Option<Box<Decryptor<'a, Key>>>,
    outcome: Outcome,
}

impl<'a> Content<'a> {
    pub(super) fn open<R: Read + Send + Sync + 'a>(frame: Frame<R>, opener: Option<&Opener>) -> Result<Self, Error> {
        let Locks { passphrase, recipients } = frame.locks().clone();
        let incorrect = match opener {
            Some(Opener::Passphrase(_)) if passphrase => Error::PassphraseIncorrect,
            None if passphrase => return Err(Error::PassphraseRequired),
            Some(Opener::Passphrase(_)) | None => return Err(Error::SecretKeyRequired(recipients)),
            Some(Opener::SecretKey(_)) => Error::SecretKeyIncorrect(recipients),
            Some(Opener::SessionKey(_)) => Error::Damaged("its key is another one"),
        };
        let outcome = frame.outcome();
        let opened = Arc::new(AtomicBool::new(false));
        let tried = Arc::new(AtomicBool::new(false));
        let key = Key { opener: opener.cloned(), tried: tried.clone(), opened: opened.clone(), outcome: outcome.clone() };
        let build = || DecryptorBuilder::from_reader(frame)?.buffer_size(HELD_BACK).with_policy(&POLICY, None, key);
        // `Frame` keeps the messages away on which Sequoia is known to panic. What is not known is damage, too.
        match catch_unwind(AssertUnwindSafe(build)) {
            Ok(Ok(decryptor)) => Ok(Self { decryptor: Some(Box::new(decryptor)), outcome }),
            Ok(Err(_)) | Err(_) => Err(match outcome.take() {
                Some(error) => error,
                None if opened.load(Ordering::Relaxed) => ALTERED,
                // `Frame` has seen what packets there are; Sequoia did not get to the last of them.
                None if !tried.load(Ordering::Relaxed) => {
                    Error::UnsupportedEncryption("a packet in front of its data cannot be read")
                }
                None => incorrect,
            }),
        }
    }

    fn next(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let decryptor = self.decryptor.as_mut().ok_or(ALTERED)?;
        match catch_unwind(AssertUnwindSafe(|| decryptor.read(into))) {
            // `Frame` found the end already when all is well; this holds Sequoia to reading up to it.
            Ok(Ok(0)) if !into.is_empty() && !self.outcome.complete() => {
                Err(self.outcome.take().unwrap_or(Error::Damaged("it has bytes behind its end")))
            }
            Ok(Ok(count)) => Ok(count),
            Ok(Err(_)) | Err(_) => {
                let _ = catch_unwind(AssertUnwindSafe(|| self.decryptor = None));
                Err(self.outcome.take().unwrap_or(ALTERED))
            }
        }
    }
}

const ALTERED: Error = Error::Damaged("its encrypted content was altered");

impl Read for Content<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.next(into)?)
    }
}

/// Finds the session key, and holds the packets to the grammar.
struct Key {
    opener: Option<Opener>,
    /// Whether all packets in front of the data were read, so that it was tried to open them.
    tried: Arc<AtomicBool>,
    /// Whether the literal packet was seen: the passphrase is the right one, and what fails from here on is damage.
    opened: Arc<AtomicBool>,
    outcome: Outcome,
}

impl DecryptionHelper for Key {
    fn decrypt(
        &mut self,
        pkesks: &[PKESK],
        skesks: &[SKESK],
        _: Option<SymmetricAlgorithm>,
        decrypt: &mut dyn FnMut(Option<SymmetricAlgorithm>, &SessionKey) -> bool,
    ) -> sequoia_openpgp::Result<Option<Cert>> {
        self.tried.store(true, Ordering::Relaxed);
        let (cipher, key) = match (&self.opener, skesks) {
            (Some(Opener::Passphrase(passphrase)), [skesk]) => skesk.decrypt(&passphrase.reveal().into())?,
            (Some(Opener::SecretKey(key)), _) => match recipients::session_key(key, pkesks) {
                Ok(Some(key)) => (Some(CIPHER), key),
                Ok(None) => return refused("another recipient"),
                Err(error) => return Err(self.outcome.fail(error).into()),
            },
            (Some(Opener::SessionKey(key)), _) => (Some(CIPHER), key.reveal().into()),
            _ => return refused("not one SKESK"),
        };
        if cipher == Some(CIPHER) && key.len() == CIPHER.key_size()? {
            decrypt(cipher, &key);
        }
        Ok(None)
    }
}

impl VerificationHelper for Key {
    fn inspect(&mut self, parser: &PacketParser<'_>) -> sequoia_openpgp::Result<()> {
        match (parser.recursion_depth(), &parser.packet) {
            (0, Packet::PKESK(_) | Packet::SKESK(_) | Packet::SEIP(_)) => Ok(()),
            (1, Packet::Literal(_)) if !self.opened.swap(true, Ordering::Relaxed) => Ok(()),
            (1, packet) if packet.tag() == sequoia_openpgp::packet::Tag::MDC => Ok(()),
            (1, Packet::CompressedData(_)) if !self.opened.load(Ordering::Relaxed) => {
                let error = Error::UnsupportedEncryption("OpenPGP compression is inside");
                Err(self.outcome.fail(error).into())
            }
            _ => refused("a packet that has no place here"),
        }
    }

    fn get_certs(&mut self, _: &[KeyHandle]) -> sequoia_openpgp::Result<Vec<Cert>> {
        Ok(Vec::new())
    }

    fn check(&mut self, _: MessageStructure<'_>) -> sequoia_openpgp::Result<()> {
        Ok(())
    }
}
