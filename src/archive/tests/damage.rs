//! Files that are cut off or altered, and passphrases that are not theirs.

use super::*;

#[test]
fn c02_c03_a_file_cut_at_any_length_is_damaged() {
    for (file, passphrase) in [(encrypted(), Some(&passphrase())), (plain(), None)] {
        for length in 0..file.len() {
            let error = read(&file[..length], passphrase).unwrap_err();
            match length {
                0..4 => assert!(matches!(error, Error::NotABackup | Error::Damaged(_)), "{length}: {error:?}"),
                _ => assert!(matches!(error, Error::Damaged(_)), "{length} of {}: {error:?}", file.len()),
            }
        }
        assert!(read(&file[..], passphrase).is_ok());
    }
}

#[test]
fn c02_a_large_file_cut_at_the_end_is_damaged() {
    // Sequoia 2.4 hands out all but the last bytes of a message before it looks at its end.
    let manifest = manifest_of(&[("log", CopyFormat::Text)]);
    let mut rows = Vec::new();
    let mut state = 1u64;
    while rows.len() < 12 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        rows.extend(format!("{state:x}\n").bytes());
    }
    let file = write(&manifest, &[last(0, rows)], Some(&passphrase())).out;
    assert!(file.len() > 5 << 20);
    for cut in [1, 2, 21, 22, 23, 24, 25, 1000, 1 << 20, 3 << 20] {
        let mut pieces = 0;
        let result = super::super::read(&file[..file.len() - cut], Some(&passphrase()), &Trust::default(), |part| {
            if let Part::Piece(piece) = part {
                assert!(!piece.last, "the last piece of a file that is cut off");
                pieces += 1;
            }
            Ok::<_, Error>(())
        });
        assert!(matches!(result, Err(Error::Damaged(_))), "{cut}: {result:?}");
        assert!(pieces > 0 || cut > 1000, "{cut}");
    }
    let mut altered = file.clone();
    let place = altered.len() - 1;
    altered[place] ^= 1;
    assert!(matches!(read(&altered[..], Some(&passphrase())), Err(Error::Damaged(_))));
}

/// Bytes in front of the encrypted data proper: SKESK 48, SEIPD header 3 and version, random prefix 18.
const KEY_BYTES: usize = 70;

#[test]
fn c08_a_flipped_bit_in_an_encrypted_file_is_always_found() {
    let file = encrypted();
    for place in 0..file.len() {
        for bit in 0..8 {
            let mut altered = file.clone();
            altered[place] ^= 1 << bit;
            let error = read(&altered[..], Some(&passphrase())).unwrap_err();
            let fits = match error {
                Error::Damaged(_) => true,
                Error::PassphraseIncorrect => place < KEY_BYTES + 16,
                Error::UnsupportedEncryption(_) => place < KEY_BYTES + 16,
                Error::NotABackup => place == 0,
                _ => false,
            };
            assert!(fits, "byte {place}, bit {bit}: {error:?}");
        }
    }
}

#[test]
fn c08_a_flipped_bit_in_a_plain_file_never_gives_other_data() {
    let file = plain();
    let content = read(&file[..], None).unwrap();
    let mut harmless = 0;
    for place in 0..file.len() {
        for bit in 0..8 {
            let mut altered = file.clone();
            altered[place] ^= 1 << bit;
            match read(&altered[..], None) {
                Ok(other) => {
                    assert_eq!(other, content, "byte {place}, bit {bit}");
                    harmless += 1;
                }
                Err(Error::Damaged(_)) => {}
                Err(Error::NotABackup | Error::UnsupportedEncryption(_)) => assert!(place < 4, "byte {place}, bit {bit}"),
                Err(error) => panic!("byte {place}, bit {bit}: {error:?}"),
            }
        }
    }
    // The window size and spare bits of zstd's entropy tables can change and the content stays; the digest in the name of
    // the file covers them.
    assert!(harmless < file.len() / 10, "{harmless}");
}

#[test]
fn c08_a_wrong_passphrase_is_told_from_damage() {
    let file = encrypted();
    for number in 0..200 {
        let wrong = Opener::Passphrase(Passphrase::new(format!("{PASSPHRASE}{number}")).unwrap());
        let error = read(&file[..], Some(&wrong)).unwrap_err();
        assert!(matches!(error, Error::PassphraseIncorrect), "{error:?}");
        let error = super::super::manifest(&file[..], Some(&wrong)).unwrap_err();
        assert!(matches!(error, Error::PassphraseIncorrect), "{error:?}");
    }
    assert!(matches!(read(&file[..], None), Err(Error::PassphraseRequired)));
}

#[test]
fn c16_a_passphrase_is_its_bytes() {
    let (manifest, pieces) = small();
    let pass = |text: &str| Opener::Passphrase(Passphrase::new(text).unwrap());
    let file = write(&manifest, &pieces, Some(&pass("gr\u{fc}\u{df}e aus K\u{f6}ln"))).out;
    assert!(read(&file[..], Some(&pass("gr\u{fc}\u{df}e aus K\u{f6}ln"))).is_ok());
    for other in ["gru\u{308}\u{df}e aus Ko\u{308}ln", " gr\u{fc}\u{df}e aus K\u{f6}ln", "gr\u{fc}\u{df}e aus K\u{f6}ln\n"] {
        assert!(matches!(read(&file[..], Some(&pass(other))), Err(Error::PassphraseIncorrect)), "{other:?}");
    }
}

#[test]
fn a_plain_file_is_read_whatever_the_passphrase() {
    let file = plain();
    assert_eq!(read(&file[..], Some(&passphrase())).unwrap(), read(&file[..], None).unwrap());
}

#[test]
fn other_files_are_not_backups() {
    for file in [&b""[..], b"P", b"PK\x03\x04....", b"\x1f\x8b\x08\0", b"\xff\xd8\xff\xe0", b"hello world", &[0; 2000]] {
        assert!(matches!(read(file, Some(&passphrase())), Err(Error::NotABackup)), "{file:?}");
    }
}
