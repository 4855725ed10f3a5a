//! An OpenPGP message, read with the key of its data, so that no time goes into passphrases. The first byte tells what the others
//! are: the whole message; the packets inside the encryption; or the literal data.

#![no_main]

use std::io::Write;
use std::sync::{Arc, Mutex};

use holdfast::model::{Opener, SessionKey};
use holdfast_fuzz::{compressed, read};
use libfuzzer_sys::fuzz_target;
use sequoia_openpgp::serialize::stream::{Encryptor, LiteralWriter, Message};
use sequoia_openpgp::types::{DataFormat, SymmetricAlgorithm};

const KEY: [u8; 32] = [7; 32];

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let message = match kind % 4 {
        0 => data.to_vec(),
        1 => encrypted(data, false),
        2 => encrypted(data, true),
        _ => encrypted(&compressed(data), true),
    };
    let _ = read(&message, Some(&Opener::SessionKey(SessionKey::new(KEY))));
});

fn encrypted(content: &[u8], literal: bool) -> Vec<u8> {
    let out = Out::default();
    let write = || {
        let key = KEY.as_slice().into();
        let message = Encryptor::with_session_key(Message::new(out.clone()), SymmetricAlgorithm::AES256, key)?.build()?;
        let mut message = match literal {
            true => LiteralWriter::new(message).format(DataFormat::Binary).build()?,
            false => message,
        };
        message.write_all(content)?;
        message.finalize()
    };
    write().expect("memory takes everything");
    std::mem::take(&mut out.0.lock().expect("nobody panics with it"))
}

#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics with it").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
