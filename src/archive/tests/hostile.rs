//! Files that nobody's `Writer` made.

use std::io::Write;
use std::time::{Duration, Instant};

use sequoia_openpgp::serialize::stream::{Encryptor, Message};

use super::*;
use crate::archive::tar;
use crate::model::copy::{BINARY_HEADER, BINARY_TRAILER};

pub(super) type Members = Vec<(String, Vec<u8>)>;

/// What is in a plain file, by a reader that is not ours.
pub(super) fn unpack(file: &[u8]) -> Members {
    let mut archive = ::tar::Archive::new(zstd::Decoder::new(file).unwrap());
    let member = |entry: std::io::Result<::tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (String::from_utf8(entry.path_bytes().into_owned()).unwrap(), content)
    };
    archive.entries().unwrap().map(member).collect()
}

pub(super) fn pack(members: &Members) -> Vec<u8> {
    let member = |(name, content): &(String, Vec<u8>)| {
        let header = tar::header(name, content.len() as u64, 1_772_326_800).unwrap();
        [&header[..], content, &vec![0; tar::padding(content.len() as u64)]].concat()
    };
    [members.iter().flat_map(member).collect(), tar::TRAILER.to_vec()].concat()
}

pub(super) fn compress(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

/// Reads a small file whose members were changed.
fn changed(change: impl FnOnce(&mut Members)) -> Result<Content, Error> {
    let mut members = unpack(&plain());
    change(&mut members);
    read(&compress(&pack(&members))[..], None)
}

/// Reads a small file whose archive was changed.
fn altered(change: impl FnOnce(&mut Vec<u8>)) -> Result<Content, Error> {
    let mut archive = zstd::decode_all(&plain()[..]).unwrap();
    change(&mut archive);
    read(&compress(&archive)[..], None)
}

fn damaged(result: Result<Content, Error>) -> bool {
    matches!(result, Err(Error::Damaged(_)))
}

pub(super) fn replace(members: &mut Members, name: &str, from: &str, to: &str) {
    let member = members.iter_mut().find(|member| member.0 == name).unwrap();
    let text = String::from_utf8(member.1.clone()).unwrap();
    assert!(text.contains(from), "{text}");
    member.1 = text.replacen(from, to, 1).into_bytes();
}

#[test]
fn the_helpers_make_a_file_that_reads_when_nothing_is_changed() {
    assert!(changed(|_| {}).is_ok());
    assert!(altered(|_| {}).is_ok());
    let names: Vec<String> = unpack(&plain()).into_iter().map(|member| member.0).collect();
    let data = |name: &str, number| Manifest::member_name(&format!("data/odd-things/platform.{name}"), number);
    let members = ["README.txt", "manifest.json", &data("photo", 0), &data("account", 0), &data("photo", 1), "end.json"];
    assert_eq!(names, members);
}

#[test]
fn every_member_stands_in_its_place_and_none_twice() {
    let count = unpack(&plain()).len();
    for place in 0..count {
        assert!(damaged(changed(|members| drop(members.remove(place)))), "without {place}");
        assert!(damaged(changed(|members| members.insert(place, members[place].clone()))), "{place} twice");
        assert!(damaged(changed(|members| members.truncate(place))), "only {place}");
        for other in place + 1..count {
            let result = changed(|members| members.swap(place, other));
            // Tables may alternate.
            let legal = [(2, 3), (3, 4)].contains(&(place, other));
            assert_eq!(!damaged(result), legal, "{place} and {other}");
        }
    }
}

#[test]
fn members_that_the_manifest_does_not_name_are_refused() {
    for name in [
        "data/odd-things/platform.account/../../../../etc/passwd",
        "/etc/passwd",
        "../x",
        "data/odd-things/platform.other/00000.copy",
        "data/odd-things/platform.account/00001.copy/",
        "data/odd-things/platform.account/1.copy",
        "data/odd-things/platform.account/00002.copy",
        "data/odd-things/platform.account/+0001.copy",
        "./data/odd-things/platform.account/00001.copy",
        "signature.asc",
        "",
    ] {
        for place in [0, 2, 4, 5, 6] {
            assert!(damaged(changed(|members| members.insert(place, (name.into(), b"x\n".to_vec())))), "{name} at {place}");
        }
    }
}

#[test]
fn only_headers_of_our_own_form_are_accepted() {
    let second = 512 + unpack(&plain())[0].1.len().next_multiple_of(512);
    // Name, mode, uid, gid, size, mtime, checksum, type, link name, magic, version, user, group, devices, prefix.
    for place in [0, 99, 100, 106, 108, 116, 124, 135, 136, 147, 148, 155, 156, 157, 257, 263, 265, 297, 329, 337, 345, 500, 511]
    {
        for member in 0..2 {
            let at = place + member * second;
            assert!(damaged(altered(|archive| archive[at] ^= 1)), "byte {place}");
        }
    }
    for kind in *b"1235xgLKSV\0" {
        let result = altered(|archive| {
            let old = u32::from_str_radix(std::str::from_utf8(&archive[148..154]).unwrap(), 8).unwrap();
            let new = old - u32::from(archive[156]) + u32::from(kind);
            archive[156] = kind;
            archive[148..154].copy_from_slice(format!("{new:06o}").as_bytes());
        });
        assert!(damaged(result), "type {kind}");
    }
}

#[test]
fn an_archive_ends_with_two_blocks_of_zeros_and_nothing_more() {
    assert!(damaged(altered(|archive| archive.truncate(archive.len() - 512))));
    assert!(damaged(altered(|archive| archive.truncate(archive.len() - 1024))));
    assert!(damaged(altered(|archive| archive.extend([0; 512]))));
    assert!(damaged(altered(|archive| archive.push(0))));
    assert!(damaged(altered(|archive| *archive.last_mut().unwrap() = 1)));
    // Padding of end.json.
    assert!(damaged(altered(|archive| {
        let at = archive.len() - 1025;
        archive[at] = 1;
    })));
}

#[test]
fn c12_nothing_stands_before_or_behind_the_frames() {
    let (plain, encrypted) = (plain(), encrypted());
    let marker = b"\xca\x03PGP";
    let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0....";
    let ok = |file: &[u8]| read(file, Some(&passphrase())).map(|_| ());
    for extra in [&b"\0"[..], b"x", marker, skippable, &plain, &encrypted, &compress(b""), &[0; 5000]] {
        for file in [&plain, &encrypted] {
            assert!(matches!(ok(&[file, extra].concat()), Err(Error::Damaged(_))), "behind: {extra:?}");
        }
    }
    for extra in [&b"\0"[..], b"x", marker, skippable, &encrypted, &encrypted[..48], &compress(b"")] {
        for file in [&plain, &encrypted] {
            assert!(ok(&[extra, file].concat()).is_err(), "before: {extra:?}");
        }
    }
    assert!(matches!(ok(&[marker, &encrypted[..]].concat()), Err(Error::UnsupportedEncryption(_))));
    let between = [&encrypted[..48], marker, &encrypted[48..]].concat();
    assert!(matches!(ok(&between), Err(Error::UnsupportedEncryption(_))));
    assert!(matches!(ok(b"-----BEGIN PGP MESSAGE-----\n\n"), Err(Error::UnsupportedEncryption(_))));
}

/// The same answer without a passphrase: no key can have been derived for it.
pub(super) fn refused_at_once(file: &[u8]) {
    for passphrase in [Some(&passphrase()), None] {
        let error = read(file, passphrase).unwrap_err();
        assert!(matches!(error, Error::UnsupportedEncryption(_)), "{error:?}");
    }
}

#[test]
fn c09_c10_c13_no_key_is_derived_for_packets_that_are_not_ours() {
    let start = Instant::now();
    let file = encrypted();
    let body = &file[2..48];
    let with_skesk = |body: &[u8]| [&[0xC3, body.len() as u8], body, &file[48..]].concat();
    assert!(read(&with_skesk(body)[..], Some(&passphrase())).is_ok());
    let with = |place: usize, byte: u8| {
        let mut body = body.to_vec();
        body[place] = byte;
        with_skesk(&body)
    };
    for version in [3, 5, 6] {
        refused_at_once(&with(0, version));
    }
    for cipher in [0, 1, 2, 3, 7, 8, 10, 13] {
        refused_at_once(&with(1, cipher));
    }
    for s2k in [0, 1, 2, 4, 101] {
        refused_at_once(&with(2, s2k));
    }
    for hash in [1, 2, 3, 11, 12, 110] {
        refused_at_once(&with(3, hash));
    }
    for memory in 10..=31 {
        refused_at_once(&with_skesk(&[&[4, 9, 4][..], &[7; 16], &[255, 4, memory]].concat()));
    }
    for count in [2, 100, 10_000] {
        refused_at_once(&[file[..48].repeat(count), file[48..].to_vec()].concat());
    }
    // SED, AEAD of draft 4880bis, PKESK, old format, SEIPD version 2.
    for tag in [0xC9, 0xD4, 0xC1, 0xA4, 0xCB] {
        refused_at_once(&[&file[..48], &[tag], &file[49..]].concat());
    }
    let place = 48 + if file[49] < 192 { 2 } else { 3 };
    assert_eq!(file[place], 1);
    refused_at_once(&[&file[..place], &[2], &file[place + 1..]].concat());
    refused_at_once(b"\x8c\x0d\x04\x09\x03\x08saltsalt\xff");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// An OpenPGP message with these packets inside, its integrity in order.
fn message(packets: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut message = Encryptor::with_passwords(Message::new(&mut out), [PASSPHRASE]).build().unwrap();
    message.write_all(packets).unwrap();
    message.finalize().unwrap();
    out
}

/// A packet in the new format.
fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[0xC0 | tag, 255][..], &(body.len() as u32).to_be_bytes(), body].concat()
}

#[test]
fn c11_inside_is_one_literal_packet_and_nothing_else() {
    let open = |packets: &[u8]| read(&message(packets)[..], Some(&passphrase())).map(|_| ());
    let literal = packet(11, &[b"b\0\0\0\0\0", &plain()[..]].concat());
    open(&literal).unwrap();
    let compressed = |inner: &[u8]| packet(8, &[&[0], inner].concat());
    assert!(matches!(open(&compressed(&literal)), Err(Error::UnsupportedEncryption(_))));
    let nested = (0..64).fold(literal.clone(), |inner, _| compressed(&inner));
    assert!(matches!(open(&nested), Err(Error::UnsupportedEncryption(_))));
    let marker = packet(10, b"PGP");
    for packets in [
        [&marker[..], &literal].concat(),
        [&literal[..], &marker].concat(),
        [&literal[..], &literal].concat(),
        [&literal[..], &packet(21, b"padding")].concat(),
        [&literal[..], &packet(60, b"private")].concat(),
        packet(11, b"b\0\0\0\0\0"),
        packet(11, b"b\0\0\0\0\0\x28\xb5\x2f\xfd"),
        Vec::new(),
    ] {
        assert!(open(&packets).is_err(), "{:?}", &packets[..packets.len().min(8)]);
    }
}

/// Compresses what a writer gives, without any of it in memory.
fn bomb(window_log: u32, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    out.window_log(window_log).unwrap();
    write(&mut out).unwrap();
    out.finish().unwrap()
}

#[test]
fn c11_a_bomb_is_refused_before_it_goes_off() {
    let start = Instant::now();
    let zeros = vec![b' '; 1 << 20];
    let header = |name: &str, size: u64| tar::header(name, size, 1_772_326_800).unwrap();
    for (claim, name) in
        [(4 << 30, "README.txt"), (65 << 10, "README.txt"), (4 << 30, "manifest.json"), (5 << 20, "manifest.json")]
    {
        let file = bomb(19, |out| {
            if name == "manifest.json" {
                out.write_all(&header("README.txt", 0))?;
            }
            out.write_all(&header(name, claim))?;
            (0..64).try_for_each(|_| out.write_all(&zeros))
        });
        assert!(file.len() < 20_000);
        assert!(matches!(read(&file[..], None), Err(Error::TooLarge(_))), "{name} of {claim}");
        assert!(matches!(crate::archive::manifest(&file[..], None), Err(Error::TooLarge(_))));
    }
    // Deep JSON of a size that is accepted.
    let file = bomb(19, |out| {
        out.write_all(&header("README.txt", 0))?;
        out.write_all(&header("manifest.json", 4 << 20))?;
        (0..4).try_for_each(|_| out.write_all(&vec![b'['; 1 << 20]))
    });
    assert!(damaged(read(&file[..], None)));
    // A window that would need 128 MiB, though all else is well.
    let archive = zstd::decode_all(&plain()[..]).unwrap();
    let with_window = |log| read(&bomb(log, |out| out.write_all(&archive))[..], None);
    assert!(with_window(19).is_ok() && damaged(with_window(27)));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn c11_a_row_of_a_small_file_takes_no_memory_that_is_not_there() {
    let manifest = manifest_of(&[("account", CopyFormat::Text)]);
    let head = zstd::decode_all(&write(&manifest, &[last(0, "")], None).out[..]).unwrap();
    let name = Manifest::member_name(&manifest.tables[0].path, 0);
    let at = head.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    let file = bomb(19, |out| {
        out.write_all(&head[..at])?;
        out.write_all(&tar::header(&name, 1 << 30, 1_772_326_800).unwrap())?;
        (0..1024).try_for_each(|_| out.write_all(&vec![b'x'; 1 << 20]))
    });
    assert!(file.len() < 200_000, "{}", file.len());
    assert!(matches!(read(&file[..], None), Err(Error::TooLarge(why)) if why.contains("compressed")));
}

#[test]
fn c11_a_small_file_unpacks_to_no_more_than_a_gib() {
    let manifest = manifest_of(&[("account", CopyFormat::Text)]);
    let head = zstd::decode_all(&write(&manifest, &[last(0, "")], None).out[..]).unwrap();
    let name = |number| Manifest::member_name(&manifest.tables[0].path, number);
    let at = head.windows(name(0).len()).position(|window| window == name(0).as_bytes()).unwrap();
    let row = [&vec![b'x'; (1 << 20) - 1][..], b"\n"].concat();
    let file = bomb(19, |out| {
        out.write_all(&head[..at])?;
        for (number, rows) in [(0, 1024), (1, 8)] {
            out.write_all(&tar::header(&name(number), rows << 20, 1_772_326_800).unwrap())?;
            (0..rows).try_for_each(|_| out.write_all(&row))?;
        }
        Ok(())
    });
    assert!(file.len() < 200_000, "{}", file.len());
    let mut bytes = 0;
    let result = crate::archive::read(&file[..], None, &Trust::default(), |part| {
        if let Part::Piece(piece) = part {
            bytes += piece.rows.len();
        }
        Ok::<_, Error>(())
    });
    assert!(matches!(result, Err(Error::TooLarge(why)) if why.contains("compressed")));
    assert!(((1 << 30) - (8 << 20)..=1 << 30).contains(&bytes), "{bytes}");
}

#[test]
fn a_member_that_claims_more_than_it_has_costs_no_memory() {
    let name = unpack(&plain())[3].0.clone();
    let claim = |size: u64| {
        altered(|archive| {
            let at = archive.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
            archive[at..at + 512].copy_from_slice(&tar::header(&name, size, 1_772_326_800).unwrap());
        })
    };
    assert!(damaged(claim(1 << 30)));
    assert!(matches!(claim(2 << 30), Err(Error::TooLarge(_))));
}

#[test]
fn the_end_record_is_held_against_the_rows() {
    assert!(damaged(changed(|members| replace(members, "end.json", "\"rows\": 2", "\"rows\": 3"))));
    assert!(damaged(changed(|members| replace(members, "end.json", "\"bytes\": 14", "\"bytes\": 15"))));
    assert!(damaged(changed(|members| replace(members, "end.json", "\"digest\": \"", "\"digest\": \"0"))));
    assert!(damaged(changed(|members| replace(members, "end.json", "platform.account", "platform.photo"))));
    assert!(damaged(changed(|members| replace(members, "end.json", "\"manifest_sha256\": \"", "\"manifest_sha256\": \"0"))));
    assert!(damaged(changed(|members| replace(members, "manifest.json", "before the update", "before the Update"))));
    assert!(damaged(changed(|members| members[3].1 = b"1\tada\n3\tgrace\n".to_vec())));
    assert!(damaged(changed(|members| members[3].1 = b"1\tada\n".to_vec())));
    assert!(damaged(changed(|members| members[3].1.clear())));
    assert!(damaged(changed(|members| members[5].1 = b"{}".to_vec())));
    assert!(damaged(changed(|members| members[5].1.push(b'x'))));
}

#[test]
fn members_hold_whole_rows_of_their_format() {
    assert!(damaged(changed(|members| members[3].1 = b"1\tada\n2\tgrace".to_vec())));
    let photo = |first: &[u8], second: &[u8]| {
        changed(|members| {
            members[2].1 = first.to_vec();
            members[4].1 = second.to_vec();
        })
    };
    let (one, two) = (binary(b"\x89PNG"), binary(b"\xff\xff"));
    let (header, trailer) = (&BINARY_HEADER[..], &BINARY_TRAILER[..]);
    let concat = |parts: &[&[u8]]| parts.concat();
    assert!(photo(&concat(&[header, &one]), &concat(&[&two, trailer])).is_ok());
    assert!(photo(&concat(&[header, &one, &two]), trailer).is_ok());
    assert!(damaged(photo(&concat(&[header, &one]), &two)), "no trailer");
    assert!(damaged(photo(&one, &concat(&[&two, trailer]))), "no header");
    assert!(damaged(photo(&concat(&[header, &one, &two, trailer]), &concat(&[&two, trailer]))), "goes on behind its end");
    assert!(damaged(photo(&concat(&[header, &one, &two, trailer]), b"")), "goes on behind its end, with nothing");
    assert!(damaged(photo(&concat(&[header, &one]), &concat(&[header, &two, trailer]))), "two headers");
    assert!(damaged(photo(&concat(&[header, &one, &two[..3]]), &concat(&[&two[3..], trailer]))), "a row over two members");
    assert!(damaged(photo(&header[..18], b"")), "part of a header");
}

#[test]
fn c15_a_newer_format_is_named_and_one_without_sense_is_not() {
    let version = |text: &str| changed(|members| replace(members, "manifest.json", "\"1.1\"", text));
    for (text, major, minor) in [("\"1.2\"", 1, 2), ("\"2.0\"", 2, 0)] {
        let found = FormatVersion { major, minor };
        assert!(matches!(version(text), Err(Error::NewerFormat { found: other }) if other == found), "{text}");
    }
    for text in ["\"0.9\"", "\"1.0\"", "\"one\"", "1", "null"] {
        assert!(damaged(version(text)), "{text}");
    }
    // A newer manifest may have any other content.
    let newer = changed(|members| members[1].1 = b"{\"format_version\": \"7.3\"}".to_vec());
    assert!(matches!(newer, Err(Error::NewerFormat { .. })));
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let with = |from: &str, to: &str| changed(|members| replace(members, "manifest.json", from, to));
    assert!(damaged(with("data/odd-things/platform.photo", "data/odd-things/platform.account")));
    assert!(damaged(with("data/odd-things/platform.photo", "data/odd-things/../../x")));
    assert!(damaged(with("\"platform.photo\"", "\"platform.account\"")));
    assert!(damaged(with("\"snapshot_time\": \"2026", "\"snapshot_time\": \"2025")));
}
