//! Who wrote a file: those that are signed, and those that somebody made or altered.

use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::{HashAlgorithm, SignatureType};
use sequoia_openpgp::{Cert, Packet};

use super::hostile::{Members, compress, pack, replace, unpack};
use super::*;
use crate::archive::{Contents, SigningKey, Unusable};
use crate::model::backup::Origin;

fn key() -> SigningKey {
    SigningKey::generate("Holdfast of a test", DateTime::from_timestamp(1_772_000_000, 0).unwrap()).unwrap()
}

fn trust(keys: &[&SigningKey]) -> Trust {
    let certificates: Vec<u8> = keys.iter().flat_map(|key| key.certificate().unwrap()).collect();
    Trust::parse(&certificates).unwrap()
}

/// A small file, signed.
fn signed(key: &SigningKey, opener: Option<&Opener>) -> Vec<u8> {
    let (manifest, pieces) = small();
    write_to(&manifest, &pieces, &Protection { signer: Some(key.clone()), ..protection(opener) }).out
}

fn contents(file: &[u8], opener: Option<&Opener>, trust: &Trust) -> Result<Contents, Error> {
    crate::archive::read(file, opener, trust, |_| Ok(()))
}

fn native(key: &SigningKey) -> Origin {
    Origin::Native(key.fingerprint())
}

/// A small signed file whose members were changed, to those who trust its key, and to others.
fn changed(key: &SigningKey, change: impl FnOnce(&mut Members)) -> [Result<Origin, Error>; 2] {
    let mut members = unpack(&signed(key, None));
    change(&mut members);
    let file = compress(&pack(&members));
    [trust(&[key]), Trust::default()].map(|trust| contents(&file, None, &trust).map(|contents| contents.origin))
}

#[test]
fn c04_a_signed_file_is_native_to_those_who_trust_its_key_and_foreign_to_all_others() {
    let (ours, theirs) = (key(), key());
    for opener in [None, Some(&passphrase())] {
        let file = signed(&ours, opener);
        for (trusted, origin) in [
            (trust(&[&ours]), native(&ours)),
            (trust(&[&theirs, &ours]), native(&ours)),
            (trust(&[&theirs]).and(&trust(&[&ours])), native(&ours)),
            (trust(&[&theirs]), Origin::Foreign(Some(ours.fingerprint()))),
            (Trust::default(), Origin::Foreign(Some(ours.fingerprint()))),
        ] {
            let read = contents(&file, opener, &trusted).unwrap();
            assert_eq!(read.origin, origin);
            assert!(read.signed.0.starts_with(b"{") && read.signed.1.starts_with(b"-----BEGIN PGP SIGNATURE-----"));
        }
    }
    for (file, opener) in [(plain(), None), (encrypted(), Some(&passphrase()))] {
        assert_eq!(contents(&file, opener, &trust(&[&ours])).unwrap().origin, Origin::Foreign(None));
    }
}

#[test]
fn c04_a_file_made_by_somebody_else_does_not_become_native_with_the_signature_of_another() {
    let ours = key();
    let signature = unpack(&signed(&ours, None)).pop().unwrap();
    assert_eq!(signature.0, "signature.asc");
    // One more administrator, and everything else in order.
    let (manifest, mut pieces) = small();
    pieces.insert(0, piece(0, *b"3\tmallory\n"));
    let theirs = write(&manifest, &pieces, None).out;
    let mut members = unpack(&theirs);
    members.push(signature);
    let file = compress(&pack(&members));
    assert!(matches!(contents(&file, None, &trust(&[&ours])), Err(Error::Damaged(_))));
    // Without it the file says of nobody that it is theirs.
    assert_eq!(contents(&theirs, None, &trust(&[&ours])).unwrap().origin, Origin::Foreign(None));
}

#[test]
fn c04_the_signature_holds_to_every_byte_of_the_data_and_not_only_to_sums() {
    let ours = key();
    // Two rows that change places leave rows, bytes and the sum of their digests as they were.
    let swapped = |members: &mut Members| members[3].1 = b"2\tgrace\n1\tada\n".to_vec();
    for result in changed(&ours, swapped) {
        assert!(matches!(result, Err(Error::Damaged(_))), "{result:?}");
    }
    let sum = |members: &mut Members| replace(members, "end.json", "\"sha256\": \"", "\"sha256\": \"0");
    assert!(changed(&ours, sum).iter().all(|result| matches!(result, Err(Error::Damaged(_)))));
    // A space in end.json changes nothing that is said there, but the text that was signed.
    let [trusting, other] = changed(&ours, |members| replace(members, "end.json", "{", "{ "));
    assert!(matches!(trusting, Err(Error::Damaged(why)) if why.contains("signature")));
    assert!(matches!(other, Ok(Origin::Foreign(Some(_)))));
    let [trusting, other] = changed(&ours, |members| drop(members.pop()));
    assert!(matches!((trusting, other), (Ok(Origin::Foreign(None)), Ok(Origin::Foreign(None)))));
}

#[test]
fn c04_a_signature_that_is_not_one_of_ours_in_every_respect_is_damage() {
    let ours = key();
    let with = |signature: Vec<u8>| changed(&ours, |members| members.last_mut().unwrap().1 = signature);
    let secret = Cert::from_bytes(&ours.secret().unwrap()[..]).unwrap();
    let end = unpack(&signed(&ours, None)).remove(5);
    assert_eq!(end.0, "end.json");
    let sign = |typ, hash| {
        let mut pair = secret.primary_key().key().clone().parts_into_secret().unwrap().into_keypair().unwrap();
        Packet::from(SignatureBuilder::new(typ).set_hash_algo(hash).sign_message(&mut pair, &end.1).unwrap())
    };
    let armored = |packets: &[Packet]| {
        let mut out = sequoia_openpgp::armor::Writer::new(Vec::new(), sequoia_openpgp::armor::Kind::Signature).unwrap();
        packets.iter().for_each(|packet| std::io::Write::write_all(&mut out, &packet.to_vec().unwrap()).unwrap());
        out.finalize().unwrap()
    };
    let good = sign(SignatureType::Binary, HashAlgorithm::SHA512);
    assert!(matches!(&with(armored(std::slice::from_ref(&good)))[0], Ok(origin) if *origin == native(&ours)));
    let bad = [
        armored(&[]),
        armored(&[good.clone(), good.clone()]),
        armored(&[sign(SignatureType::Text, HashAlgorithm::SHA512)]),
        armored(&[sign(SignatureType::Binary, HashAlgorithm::SHA1)]),
        good.to_vec().unwrap(),
        b"-----BEGIN PGP SIGNATURE-----\n".to_vec(),
        b"\n".to_vec(),
        vec![0xC2; 4096],
        ours.certificate().unwrap(),
    ];
    for (number, signature) in bad.into_iter().enumerate() {
        for result in with(signature) {
            assert!(matches!(result, Err(Error::Damaged(_))), "{number}: {result:?}");
        }
    }
    assert!(matches!(with(vec![b'x'; 9 << 10]), [Err(Error::TooLarge(_)), Err(Error::TooLarge(_))]));
}

#[test]
fn c02_a_signed_file_that_is_cut_anywhere_never_reads() {
    let ours = key();
    for opener in [None, Some(&passphrase())] {
        let file = signed(&ours, opener);
        for length in 0..file.len() {
            assert!(contents(&file[..length], opener, &trust(&[&ours])).is_err(), "{length} of {}", file.len());
        }
    }
}

#[test]
fn c12_nothing_can_be_put_in_between_anywhere() {
    let ours = key();
    for opener in [None, Some(&passphrase())] {
        let file = signed(&ours, opener);
        let whole = contents(&file, opener, &trust(&[&ours])).unwrap();
        let mut same = 0;
        for place in 0..=file.len() {
            for extra in [&b"\0"[..], b"\xff", b"\xca\x03PGP", b"\x50\x2a\x4d\x18\0\0\0\0", &[0; 3]] {
                let other = [&file[..place], extra, &file[place..]].concat();
                match contents(&other, opener, &trust(&[&ours])) {
                    Err(_) => {}
                    // An empty block of zstd: the same file to every reader, with another SHA-256 than its name has.
                    Ok(contents) => {
                        assert!(opener.is_none() && extra == [0; 3] && contents == whole, "{extra:?} at {place}");
                        same += 1;
                    }
                }
            }
        }
        assert!(same <= 2, "{same}");
    }
}

#[test]
fn a_key_comes_back_from_its_secret_and_shows_it_to_nobody() {
    let ours = key();
    let back = SigningKey::parse(&ours.secret().unwrap()).unwrap();
    assert_eq!(back.fingerprint(), ours.fingerprint());
    assert_eq!(contents(&signed(&back, None), None, &trust(&[&ours])).unwrap().origin, native(&ours));
    assert!(SigningKey::parse(&ours.certificate().unwrap()).is_none());
    assert!(!Cert::from_bytes(&ours.certificate().unwrap()[..]).unwrap().is_tsk());
    for (bytes, wrong) in [(&ours.secret().unwrap()[..], "secret key"), (b"", "no OpenPGP"), (b"hello", "no OpenPGP")] {
        let error = Trust::parse(bytes).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
        assert!(matches!(error, Unusable::Secret(_) | Unusable::Nothing));
    }
}

#[test]
fn what_was_found_of_a_file_is_what_it_is_worth_today() {
    let (ours, theirs) = (key(), key());
    let today = trust(&[&ours]);
    let foreign = |key: &SigningKey| Origin::Foreign(Some(key.fingerprint()));
    assert_eq!(today.recall(None), None);
    assert_eq!(today.recall(Some(native(&ours))), Some(native(&ours)));
    assert_eq!(today.recall(Some(native(&theirs))), Some(foreign(&theirs)));
    assert_eq!(today.recall(Some(foreign(&theirs))), Some(foreign(&theirs)));
    assert_eq!(today.recall(Some(foreign(&ours))), None, "nobody has verified it yet");
    assert_eq!(today.recall(Some(Origin::Foreign(None))), Some(Origin::Foreign(None)));
}
