//! The outermost layer of an encrypted file: OpenPGP packets, measured by hand in bounded memory before anything is
//! derived from a passphrase, because a 228-byte message can ask for gigabytes and seconds.
//!
//! A PKESK packet for each recipient, one SKESK packet where a passphrase opens it, and one SEIPD packet; no byte before, between
//! or behind them. Source: RFC 9580, 4.2 (lengths), 5.1.1 (PKESK version 3), 5.3.1 (SKESK version 4), 3.7.1.3 (iterated and
//! salted S2K), 5.13.1 (SEIPD version 1).

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;

/// Packet tags in the new format, as the first octet.
const PKESK: u8 = 0xC1;
const SKESK: u8 = 0xC3;
const SEIPD: u8 = 0xD2;

/// Bytes of encrypted data that must be there: Sequoia 2.4 panics on messages that end within the 22 bytes behind the 18 of
/// the random prefix (parse.rs, `decrypt_`). None of ours is so short, and no first part of a body (RFC 9580, 4.2.1.4).
const BEGINNING: usize = 64;

/// Most recipients of a file: keys, of which a certificate may have several.
pub(super) const MOST_RECIPIENTS: usize = 16;
/// Most bytes of the packet of a recipient; RSA with 16,384 bits takes 2,060.
const MAX_PKESK: u64 = 4096;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const ARMOR: [u8; 4] = *b"----";

/// The first four bytes of a file, and what they say it is.
pub(super) enum Kind {
    Plain,
    OpenPgp,
}

impl Kind {
    pub(super) fn of(head: &[u8]) -> Result<Self, Error> {
        match head {
            [] => Err(Error::NotABackup),
            head if head == ZSTD_MAGIC => Ok(Self::Plain),
            head if head == ARMOR => Err(Error::UnsupportedEncryption("it has ASCII armor")),
            [PKESK | SKESK, ..] => Ok(Self::OpenPgp),
            // In the old format PKESK and SKESK; compressed, SED, marker, literal, SEIPD, in the new format and in the old one.
            [0xC8 | 0xC9 | 0xCA | 0xCB | 0xD2 | 0x84..=0x87 | 0x8C..=0x8F | 0xA0..=0xAF, ..] => {
                Err(Error::UnsupportedEncryption("it does not begin with a packet that opens it"))
            }
            _ => Err(Error::NotABackup),
        }
    }
}

/// What opens a message, as its first packets say.
#[derive(Clone, Default)]
pub(super) struct Locks {
    pub(super) passphrase: bool,
    /// Key ids of the recipients, in hexadecimal digits.
    pub(super) recipients: Vec<String>,
}

/// What became of the layers below OpenPGP, told past it: it wraps, delays or swallows the errors of what it reads from.
#[derive(Clone, Default)]
pub(super) struct Outcome(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    error: Option<Error>,
    complete: bool,
}

impl Outcome {
    /// Keeps the first cause.
    pub(super) fn fail(&self, error: Error) -> io::Error {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).error.get_or_insert(error);
        io::Error::other("see Outcome")
    }

    pub(super) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).error.take()
    }

    /// Whether the last packet was read to its end, and it was the end of the file.
    pub(super) fn complete(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).complete
    }
}

/// Passes on the bytes of a message as they are, and fails where they leave the frame.
pub(super) struct Frame<R> {
    /// Bytes that were looked at and are still to be passed on.
    head: io::Cursor<Vec<u8>>,
    source: R,
    /// Bytes left in this part of the SEIPD packet's body.
    left: u64,
    last: bool,
    locks: Locks,
    outcome: Outcome,
}

impl<R: Read> Frame<R> {
    /// Looks at the first packets of a file.
    pub(super) fn scan(source: R) -> Result<Self, Error> {
        let head = io::Cursor::new(Vec::with_capacity(128));
        let mut frame = Self { head, source, left: 0, last: false, locks: Locks::default(), outcome: Outcome::default() };
        frame.packets()?;
        Ok(frame)
    }

    pub(super) fn locks(&self) -> &Locks {
        &self.locks
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.outcome.clone()
    }

    fn packets(&mut self) -> Result<(), Error> {
        let [mut tag] = self.octets()?;
        while tag == PKESK {
            self.recipient()?;
            [tag] = self.octets()?;
        }
        if tag == SKESK {
            self.passphrase()?;
            [tag] = self.octets()?;
        }
        match tag {
            SEIPD => {}
            SKESK => return unsupported("it can be opened by more than one passphrase"),
            _ => return unsupported("its data is not in an integrity-protected packet"),
        }
        self.length()?;
        if self.left <= BEGINNING as u64 {
            return Err(Error::Damaged("it has no content"));
        }
        let [version] = self.octets()?;
        if version != 1 {
            return unsupported("its data is not in a packet of version 1");
        }
        self.octets::<BEGINNING>()?;
        self.left -= 1 + BEGINNING as u64;
        Ok(())
    }

    /// The packet of a recipient, behind its tag.
    fn recipient(&mut self) -> Result<(), Error> {
        self.length()?;
        if self.locks.recipients.len() == MOST_RECIPIENTS {
            return unsupported("it has too many recipients");
        }
        if !self.last || !(11..=MAX_PKESK).contains(&self.left) {
            return unsupported("the packet of a recipient has a length that is not accepted");
        }
        let [version] = self.octets()?;
        if version != 3 {
            return unsupported("the packet of a recipient is not of version 3");
        }
        let key_id: [u8; 8] = self.octets()?;
        if key_id == [0; 8] {
            return unsupported("a recipient is hidden");
        }
        // RSA, ECDH, X25519, X448.
        let [1 | 18 | 25 | 26] = self.octets()? else {
            return unsupported("the key of a recipient is not of a kind that is accepted");
        };
        self.skip(self.left - 10)?;
        self.locks.recipients.push(key_id.iter().map(|byte| format!("{byte:02X}")).collect());
        Ok(())
    }

    /// The packet of the passphrase, behind its tag.
    fn passphrase(&mut self) -> Result<(), Error> {
        let [length] = self.octets()?;
        let session_key = match length {
            13 => 0,
            46 => 33,
            _ => return unsupported("its passphrase packet is not of version 4 with an iterated S2K"),
        };
        let [version, cipher, s2k, hash] = self.octets()?;
        match (version, cipher, s2k, hash) {
            (4, 9, 3, 8..=10) => {}
            (4, 9, 3, _) => return unsupported("its key is not derived with SHA-2"),
            (4, 9, _, _) => return unsupported("its key is not derived by an iterated S2K"),
            (4, _, _, _) => return unsupported("its cipher is not AES-256"),
            _ => return unsupported("its passphrase packet is not of version 4"),
        }
        self.octets::<9>()?; // salt and count
        self.skip(session_key)?;
        self.locks.passphrase = true;
        Ok(())
    }

    /// Takes the length of the next part of a packet's body.
    fn length(&mut self) -> Result<(), Error> {
        let [first] = self.octets()?;
        (self.left, self.last) = match first {
            0..192 => (u64::from(first), true),
            192..224 => (((u64::from(first) - 192) << 8) + u64::from(self.octets::<1>()?[0]) + 192, true),
            224..255 => (1 << (first & 31), false),
            255 => (u64::from(u32::from_be_bytes(self.octets()?)), true),
        };
        Ok(())
    }

    fn octets<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut octets = [0; N];
        self.source.read_exact(&mut octets).map_err(of_read)?;
        self.head.get_mut().extend_from_slice(&octets);
        Ok(octets)
    }

    /// Takes octets, at most some thousand, that say nothing here.
    fn skip(&mut self, count: u64) -> Result<(), Error> {
        let head = self.head.get_mut();
        let old = head.len();
        head.resize(old + usize::try_from(count).unwrap_or(0), 0);
        self.source.read_exact(&mut head[old..]).map_err(of_read)
    }

    fn body(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match read_some(&mut self.source, &mut into[..most]).map_err(Error::Io)? {
            0 => Err(Error::Damaged("it is cut off")),
            count => {
                self.left -= count as u64;
                Ok(count)
            }
        }
    }
}

fn of_read(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Damaged("it is cut off"),
        _ => Error::Io(error),
    }
}

fn unsupported<T>(why: &'static str) -> Result<T, Error> {
    Err(Error::UnsupportedEncryption(why))
}

impl<R: Read> Read for Frame<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let count = self.head.read(into)?;
            if count > 0 {
                return Ok(count);
            }
            self.head.get_mut().clear();
            self.head.set_position(0);
            let result = match (self.left, self.last) {
                (1.., _) => return self.body(into).map_err(|error| self.outcome.fail(error)),
                (0, false) => self.length(),
                (0, true) => match read_some(&mut self.source, &mut [0]) {
                    Ok(0) => {
                        self.outcome.0.lock().unwrap_or_else(PoisonError::into_inner).complete = true;
                        return Ok(0);
                    }
                    Ok(_) => Err(Error::Damaged("it has bytes behind its end")),
                    Err(error) => Err(Error::Io(error)),
                },
            };
            result.map_err(|error| self.outcome.fail(error))?;
        }
    }
}

/// `read`, again when it was only interrupted.
pub(super) fn read_some(source: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
