//! Files that the secret keys of recipients open, with a passphrase besides or without.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use chrono::Utc;
use sequoia_openpgp::Cert;
use sequoia_openpgp::cert::CertBuilder;
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::{KeyFlags, ReasonForRevocation};

use super::hostile::refused_at_once;
use super::*;
use crate::archive::{Recipients, Unusable};
use crate::model::{SecretKey, SessionKey};

const KEY_PASSPHRASE: &str = "of the key alone";

fn created() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_326_800)
}

fn now() -> DateTime<Utc> {
    DateTime::from(created() + Duration::from_secs(3600))
}

fn builder(user: &str) -> CertBuilder<'static> {
    CertBuilder::general_purpose(Some(user)).set_creation_time(created()).set_validity_period(None)
}

fn cert(user: &str) -> Cert {
    builder(user).generate().unwrap().0
}

fn armored(cert: &Cert) -> Vec<u8> {
    cert.armored().to_vec().unwrap()
}

fn recipients(certs: &[&Cert]) -> Recipients {
    Recipients::parse(&certs.iter().flat_map(|cert| armored(cert)).collect::<Vec<_>>(), now()).unwrap()
}

fn secret(cert: &Cert, passphrase: Option<&str>) -> Opener {
    let passphrase = passphrase.and_then(Passphrase::new);
    Opener::SecretKey(SecretKey::new(cert.as_tsk().armored().to_vec().unwrap(), passphrase).unwrap())
}

/// A small file, for the secret key of this, and with or without a passphrase.
fn file_for(certs: &[&Cert], passphrase: Option<&Opener>) -> Written<Vec<u8>> {
    let (mut manifest, pieces) = small();
    let protection = Protection { recipients: recipients(certs), ..protection(passphrase) };
    manifest.recipients = protection.recipients.fingerprints();
    write_to(&manifest, &pieces, &protection)
}

#[test]
fn each_recipient_and_the_passphrase_open_a_file_and_nobody_else() {
    let (alice, bob, eve) =
        (cert("alice"), builder("bob").set_password(Some(KEY_PASSPHRASE.into())).generate().unwrap().0, cert("eve"));
    let written = file_for(&[&alice, &bob], Some(&passphrase()));
    assert!(written.session_key.is_none());
    let file = written.out;
    let open = |opener: Option<&Opener>| read(&file[..], opener);
    let content = open(Some(&passphrase())).unwrap();
    assert_eq!(content.manifest.recipients, [alice.fingerprint().to_hex(), bob.fingerprint().to_hex()]);
    assert_eq!(open(Some(&secret(&alice, None))).unwrap(), content);
    assert_eq!(open(Some(&secret(&alice, Some("of no use")))).unwrap(), content);
    assert_eq!(open(Some(&secret(&bob, Some(KEY_PASSPHRASE)))).unwrap(), content);
    let binary = Opener::SecretKey(SecretKey::new(alice.as_tsk().to_vec().unwrap(), None).unwrap());
    assert_eq!(open(Some(&binary)).unwrap(), content);

    assert!(matches!(open(None), Err(Error::PassphraseRequired)));
    assert!(matches!(open(Some(&secret(&bob, None))), Err(Error::SecretKeyLocked)));
    assert!(matches!(open(Some(&secret(&bob, Some(PASSPHRASE)))), Err(Error::SecretKeyPassphraseIncorrect)));
    let Err(Error::SecretKeyIncorrect(names)) = open(Some(&secret(&eve, None))) else { panic!("eve reads it") };
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.len() == 16), "{names:?}");
    for bytes in [&b"no key"[..], &armored(&alice), &file, b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n"] {
        let opener = Opener::SecretKey(SecretKey::new(bytes, None).unwrap());
        assert!(matches!(open(Some(&opener)), Err(Error::SecretKeyUnusable(_))));
    }
    // A file that no recipient opens.
    assert!(
        matches!(read(&encrypted()[..], Some(&secret(&alice, None))), Err(Error::SecretKeyIncorrect(names)) if names.is_empty())
    );
}

#[test]
fn a_file_without_a_passphrase_is_opened_by_a_secret_key_and_proven_by_its_session_key() {
    let alice = cert("alice");
    let written = file_for(&[&alice], None);
    let file = written.out;
    let session_key = Opener::SessionKey(written.session_key.unwrap());
    let content = read(&file[..], Some(&session_key)).unwrap();
    assert_eq!(content.end, written.end);
    assert_eq!(read(&file[..], Some(&secret(&alice, None))).unwrap(), content);
    for opener in [None, Some(&passphrase())] {
        for error in [read(&file[..], opener).unwrap_err(), super::super::manifest(&file[..], opener).unwrap_err()] {
            assert!(matches!(&error, Error::SecretKeyRequired(names) if names.len() == 1), "{error:?}");
        }
    }
    let other = Opener::SessionKey(SessionKey::new([7; 32]));
    assert!(matches!(read(&file[..], Some(&other)), Err(Error::Damaged(_))));
    assert!(matches!(read(&file_for(&[&alice], None).out[..], Some(&session_key)), Err(Error::Damaged(_))));
}

#[test]
fn c02_c03_c08_a_file_for_recipients_that_is_cut_or_altered_never_reads() {
    let alice = cert("alice");
    let key = secret(&alice, None);
    for passphrase in [None, Some(&passphrase())] {
        let written = file_for(&[&alice], passphrase);
        let file = written.out;
        let content = read(&file[..], Some(&key)).unwrap();
        for length in 0..file.len() {
            let error = read(&file[..length], Some(&key)).unwrap_err();
            assert!(matches!(error, Error::Damaged(_) | Error::NotABackup), "{length} of {}: {error:?}", file.len());
            assert!(length < 4 || !matches!(error, Error::NotABackup), "{length}");
        }
        // PKESK, SKESK where there is one, head of the SEIPD and its random prefix.
        let packets = 2 + usize::from(file[1]) + if passphrase.is_some() { 48 } else { 0 };
        let head = packets + 22 + 16;
        for place in 0..file.len() {
            for bit in 0..8 {
                let mut altered = file.clone();
                altered[place] ^= 1 << bit;
                let error = match read(&altered[..], Some(&key)) {
                    Err(error) => error,
                    // How a number is written down has spare bits, and what the passphrase opens it with says nothing to who
                    // opens it with a key; the digest in the name of the file covers both.
                    Ok(other) => {
                        assert!((12..packets).contains(&place) && other == content, "byte {place}, bit {bit}");
                        continue;
                    }
                };
                let fits = match error {
                    Error::Damaged(_) => true,
                    Error::SecretKeyIncorrect(_) | Error::UnsupportedEncryption(_) => place < head,
                    Error::NotABackup => place == 0,
                    _ => false,
                };
                assert!(fits, "byte {place}, bit {bit}: {error:?}");
            }
        }
    }
}

#[test]
fn c09_c10_c13_packets_of_recipients_that_are_not_ours_are_refused_before_any_key_is_used() {
    let (alice, bob) = (cert("alice"), cert("bob"));
    let file = file_for(&[&alice, &bob], Some(&passphrase())).out;
    let one = 2 + usize::from(file[1]);
    let (pkesk, rest) = file.split_at(one);
    assert_eq!((pkesk[0], rest[0]), (0xC1, 0xC1));
    let with = |first: &[u8]| [first, rest].concat();
    let changed = |place: usize, byte: u8| {
        let mut packet = pkesk.to_vec();
        packet[place] = byte;
        with(&packet)
    };
    assert!(read(&with(pkesk)[..], Some(&passphrase())).is_ok());
    for version in [0, 2, 4, 6] {
        refused_at_once(&changed(2, version));
    }
    for algorithm in [0, 2, 3, 16, 17, 20, 22, 27, 35, 100] {
        refused_at_once(&changed(11, algorithm));
    }
    let hidden = [&pkesk[..3], &[0; 8], &pkesk[11..]].concat();
    refused_at_once(&with(&hidden));
    // Lengths: none, too short for what must stand there, of a part only, more than any key needs, 4 GiB.
    for length in [&[0][..], &[10], &[0xE4], &[0xFF, 0, 0, 0x10, 1], &[0xFF; 5]] {
        refused_at_once(&[&[0xC1], length, &pkesk[2..], rest].concat());
    }
    refused_at_once(&[pkesk.repeat(16), rest.to_vec()].concat());
    assert!(read(&[pkesk.repeat(15), rest.to_vec()].concat()[..], Some(&passphrase())).is_ok());
    // Behind the passphrase, and in its place; and old packet headers.
    let skesk = &rest[one..one + 48];
    assert_eq!(skesk[0], 0xC3);
    let seipd = &rest[one + 48..];
    refused_at_once(&[skesk, pkesk, seipd].concat());
    refused_at_once(&[pkesk, skesk, skesk, seipd].concat());
    refused_at_once(&[pkesk, &[0xC9], &seipd[1..]].concat());
    refused_at_once(&[&[0x84], &pkesk[1..], rest].concat());
    refused_at_once(&[pkesk, b"\xca\x03PGP", rest].concat());
    // The bytes of the key itself are nobody's business before it is used: whoever has the passphrase reads on.
    let mut garbled = pkesk.to_vec();
    garbled[20] ^= 0xFF;
    assert!(read(&with(&garbled)[..], Some(&passphrase())).is_ok());
    let mut short = pkesk.to_vec();
    (short[12], short[13]) = (0xFF, 0xFF);
    for opener in [passphrase(), secret(&alice, None)] {
        let error = read(&with(&short)[..], Some(&opener)).unwrap_err();
        assert!(matches!(error, Error::UnsupportedEncryption(_)), "{error:?}");
    }
}

#[test]
fn certificates_that_cannot_or_should_not_be_used_are_refused_with_the_reason() {
    let parse = |bytes: &[u8]| Recipients::parse(bytes, now()).map(|all| all.fingerprints());
    let (alice, bob) = (cert("alice"), cert("bob"));
    let (one, two) = (alice.fingerprint().to_hex(), bob.fingerprint().to_hex());
    assert_eq!(parse(&[armored(&alice), armored(&bob)].concat()).unwrap(), [one.clone(), two.clone()]);
    assert_eq!(parse(&[alice.to_vec().unwrap(), bob.to_vec().unwrap()].concat()).unwrap(), [one.clone(), two]);
    let shown = recipients(&[&alice]);
    let shown = shown.iter().next().unwrap();
    assert_eq!((shown.user_id.as_str(), shown.fingerprint.as_str()), ("alice", one.as_str()));
    assert_eq!(shown.expire_time, None);

    for nothing in [&b""[..], b"hello", b"\n", &encrypted(), &[0; 100]] {
        assert!(matches!(parse(nothing), Err(Unusable::Nothing)), "{:?}", parse(nothing));
    }
    assert!(matches!(parse(&[armored(&alice), armored(&alice)].concat()), Err(Unusable::Twice(_))));
    assert!(matches!(parse(&alice.as_tsk().armored().to_vec().unwrap()), Err(Unusable::Secret(name)) if name == one));
    let day = Duration::from_secs(86_400);
    let (short, _) = builder("short").set_validity_period(day).generate().unwrap();
    assert_eq!(recipients(&[&short]).iter().next().unwrap().expire_time.unwrap(), DateTime::<Utc>::from(created() + day));
    let later = Recipients::parse(&armored(&short), now() + day);
    assert!(matches!(later, Err(Unusable::Expired(..))), "{:?}", later.map(|all| all.fingerprints()));
    assert!(matches!(Recipients::parse(&armored(&alice), now() - 2 * day), Err(Unusable::Invalid(..) | Unusable::Expired(..))));
    let (signing, _) = CertBuilder::new().add_userid("s").add_signing_subkey().set_creation_time(created()).generate().unwrap();
    assert!(matches!(parse(&armored(&signing)), Err(Unusable::NoEncryptionKey(_))));
    let flags = KeyFlags::empty().set_transport_encryption();
    let (transport, _) =
        CertBuilder::new().add_userid("t").add_subkey(flags, Some(day), None).set_creation_time(created()).generate().unwrap();
    assert_eq!(recipients(&[&transport]).iter().next().unwrap().expire_time.unwrap(), DateTime::<Utc>::from(created() + day));
    let mut signer = alice.primary_key().key().clone().parts_into_secret().unwrap().into_keypair().unwrap();
    let revocation = alice.revoke(&mut signer, ReasonForRevocation::KeyCompromised, b"lost").unwrap();
    let (revoked, _) = alice.clone().insert_packets(vec![revocation]).unwrap();
    let long_after = Recipients::parse(&armored(&revoked), DateTime::from(SystemTime::now()) + day);
    assert!(matches!(long_after, Err(Unusable::Revoked(_))), "{:?}", long_after.map(|all| all.fingerprints()));
    let many: Vec<u8> = (0..17).flat_map(|number| armored(&cert(&number.to_string()))).collect();
    assert!(matches!(parse(&many), Err(Unusable::TooMany)));
}

/// gpg with a home of its own; what it prints, and whether it succeeded.
fn gpg(home: &Path, arguments: &[&str]) -> (bool, Vec<u8>, String) {
    let mut command = Command::new("gpg");
    command.env("GNUPGHOME", home).args(["--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""]).args(arguments);
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.success(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn c14_gpg_makes_the_key_and_opens_the_file_with_it() {
    // A short path: the agent has a socket in it.
    let home = tempfile::Builder::new().prefix("hf-gpg-").tempdir_in("/tmp").unwrap();
    let home = home.path();
    for (user, algorithm) in [("curve", "future-default"), ("rsa", "rsa3072")] {
        let (made, _, told) = match algorithm {
            "rsa3072" => gpg(home, &["--quick-generate-key", user, algorithm, "encr", "1y"]),
            _ => gpg(home, &["--quick-generate-key", user, algorithm, "default", "1y"]),
        };
        assert!(made, "{told}");
        let (exported, certificate, told) = gpg(home, &["--armor", "--export", user]);
        assert!(exported, "{told}");
        let (exported, key, told) = gpg(home, &["--armor", "--export-secret-keys", user]);
        assert!(exported, "{told}");
        let recipients = Recipients::parse(&certificate, DateTime::from(SystemTime::now())).unwrap();
        assert!(recipients.iter().all(|recipient| recipient.user_id == user && recipient.expire_time.is_some()));
        for passphrase in [None, Some(&passphrase())] {
            let (mut manifest, pieces) = small();
            let protection = Protection { recipients: recipients.clone(), ..protection(passphrase) };
            manifest.recipients = recipients.fingerprints();
            let written = write_to(&manifest, &pieces, &protection);
            let opener = Opener::SecretKey(SecretKey::new(key.clone(), None).unwrap());
            assert_eq!(read(&written.out[..], Some(&opener)).unwrap().end, written.end);
            let file = home.join("backup.tar.zst.pgp");
            std::fs::write(&file, &written.out).unwrap();
            let (decrypted, content, told) = gpg(home, &["--decrypt", file.to_str().unwrap()]);
            assert!(decrypted, "{told}");
            assert_eq!(read(&content[..], None).unwrap().end, written.end);
        }
    }
    let _ = Command::new("gpgconf").arg("--homedir").arg(home).args(["--kill", "gpg-agent"]).status();
}
