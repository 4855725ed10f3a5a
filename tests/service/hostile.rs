//! Hostile files: whatever somebody sends is refused before it costs time or memory, and the service goes on.

use std::io::Write;
use std::time::{Duration, Instant};

use sequoia_openpgp::serialize::stream::{Encryptor, Message};

use super::upload::named;
use super::world::{PASSPHRASE, World};

/// What one of them may take on a slow machine, at eight times as much as on a quick one.
const TIME: Duration = Duration::from_secs(16);
const MEMORY_KIB: u64 = 256 << 10;

/// A file, what is wrong with it, and whether it has the name of an encrypted one.
type Hostile = (String, bool, Vec<u8>);

/// An OpenPGP message of the passphrase in use, with these packets inside.
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

fn compress(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    out.window_log(19).unwrap();
    write(&mut out).unwrap();
    out.finish().unwrap()
}

/// A plain file whose archive was changed.
fn altered(plain: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut archive = zstd::decode_all(plain).unwrap();
    change(&mut archive);
    zstd::encode_all(&archive[..], 1).unwrap()
}

/// Puts a tar header like the one at `at` there, with another size.
fn resize(archive: &mut [u8], at: usize, size: u64) {
    archive[at + 124..at + 135].copy_from_slice(format!("{size:011o}").as_bytes());
    archive[at + 148..at + 156].copy_from_slice(b"        ");
    let sum: u32 = archive[at..at + 512].iter().map(|&byte| u32::from(byte)).sum();
    archive[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Where the header of the member with this beginning of a name stands.
fn member(archive: &[u8], name: &str) -> usize {
    (0..archive.len()).step_by(512).find(|&at| archive[at..].starts_with(name.as_bytes())).expect("such a member")
}

/// Another manifest of `size` bytes, made of a head and of as many parts as fit.
fn with_manifest(plain: &[u8], size: usize, head: &[u8], part: &[u8]) -> Vec<u8> {
    let archive = zstd::decode_all(plain).unwrap();
    let at = member(&archive, "manifest.json");
    let mut begin = archive[..at + 512].to_vec();
    resize(&mut begin, at, size as u64);
    let text: Vec<u8> = head.iter().chain(part.iter().cycle()).copied().take(size).collect();
    compress(|out| out.write_all(&begin).and_then(|()| out.write_all(&text)).and_then(|()| out.write_all(&[0; 4096])))
}

fn openpgp(encrypted: &[u8], plain: &[u8]) -> Vec<Hostile> {
    let (skesk, data) = encrypted.split_at(48);
    assert_eq!((skesk[0], data[0]), (0xC3, 0xD2));
    let argon2 = |memory: u8| [&[0xC3, 22, 4, 9, 4][..], &[7; 16], &[255, 4, memory], data].concat();
    let mut all: Vec<Hostile> = (10..=31).step_by(3).map(|m| (format!("Argon2 of 2^{m} KiB"), true, argon2(m))).collect();
    let pkesk = [&[0xC1, 192, 201, 3][..], &[7; 8], &[18], &[9; 383]].concat();
    let body = &data[if (192..224).contains(&data[1]) { 3 } else { 2 }..];
    assert_eq!(body[0], 1, "the version of the packet");
    let literal = packet(11, &[b"b\0\0\0\0\0", plain].concat());
    let compressed = |inner: &[u8]| packet(8, &[&[0], inner].concat());
    let nested = (0..64).fold(literal.clone(), |inner, _| compressed(&inner));
    let changed = |place: usize, byte: u8| {
        let mut file = encrypted.to_vec();
        file[place] = byte;
        file
    };
    let plain_named = |what: &str, file: Vec<u8>| (what.to_owned(), true, file);
    all.extend([
        plain_named("10,000 passphrases", [skesk.repeat(10_000), data.to_vec()].concat()),
        plain_named("10,000 recipients", [pkesk.repeat(10_000), data.to_vec()].concat()),
        plain_named("no integrity: tag 9", [skesk, &[0xC9], &data[1..]].concat()),
        plain_named("no integrity: old tag 9", [skesk, &[0xA4], &data[1..]].concat()),
        plain_named("3DES", changed(3, 2)),
        plain_named("MD5", changed(5, 1)),
        plain_named("a simple S2K", changed(4, 0)),
        plain_named("compressed: tag 8", compressed(&literal)),
        plain_named("compressed inside", message(&compressed(&literal))),
        plain_named("compressed inside, 64 times", message(&nested)),
        plain_named("two literals", message(&[&literal[..], &literal].concat())),
        plain_named("a marker in front", [b"\xca\x03PGP", encrypted].concat()),
        plain_named("a marker between", [skesk, b"\xca\x03PGP", data].concat()),
        plain_named("another message behind", [encrypted, encrypted].concat()),
        plain_named("armor", b"-----BEGIN PGP MESSAGE-----\n\n".to_vec()),
        plain_named("a body of 4 GiB", [skesk, &[0xD2, 255, 255, 255, 255, 255], body].concat()),
        plain_named("a file that is not encrypted", plain.to_vec()),
    ]);
    // Sequoia panics on some of these.
    all.extend((48..120).step_by(4).map(|length| (format!("cut at {length}"), true, encrypted[..length].to_vec())));
    all.push(plain_named("cut in the middle", encrypted[..encrypted.len() / 2].to_vec()));
    all.push(plain_named("cut before its last byte", encrypted[..encrypted.len() - 1].to_vec()));
    all
}

fn archives(plain: &[u8]) -> Vec<Hostile> {
    let zeros = vec![0; 1 << 20];
    let resized = |name: &str| {
        altered(plain, |archive| {
            let at = member(archive, name);
            resize(archive, at, (1 << 33) - 1);
        })
    };
    let window = |descriptor: u8| [&[0x28, 0xB5, 0x2F, 0xFD, 0, descriptor][..], &[1, 0, 0], &[0; 64]].concat();
    let row = altered(plain, |archive| {
        let at = member(archive, "data/permissions/");
        resize(archive, at, 1 << 30);
        archive.truncate(at + 512);
    });
    let row = zstd::decode_all(&row[..]).unwrap();
    let all: [(&str, Vec<u8>); 21] = [
        ("a window of 128 MiB", window(0x88)),
        ("a window of terabytes", window(0xFF)),
        ("4 GiB of zeros", compress(|out| (0..4096).try_for_each(|_| out.write_all(&zeros)))),
        (
            "a row of 1 GiB",
            compress(|out| out.write_all(&row).and_then(|()| (0..1024).try_for_each(|_| out.write_all(&[b'x'; 1 << 20])))),
        ),
        ("a README of 8 GiB", resized("README.txt")),
        ("a manifest of 8 GiB", resized("manifest.json")),
        ("data of 8 GiB", resized("data/")),
        ("a manifest of 5 MiB", with_manifest(plain, 5 << 20, b"{\"format_version\": \"1.1\", \"x\": \"", b"x")),
        ("deep JSON", with_manifest(plain, 4 << 20, b"{\"format_version\": \"1.1\", \"x\": ", b"[")),
        (
            "many tables",
            with_manifest(
                plain,
                4 << 20,
                b"{\"format_version\": \"1.1\", \"resources\": [{\"name\": \"a\", \"title\": \"\", \"tables\": [\"a.a\"",
                b",\"a.a\"",
            ),
        ),
        (
            "many resources",
            with_manifest(
                plain,
                4 << 20,
                b"{\"format_version\": \"1.1\", \"resources\": [{\"name\": \"a\", \"title\": \"\", \"tables\": []}",
                b",{\"name\":\"a\",\"title\":\"\",\"tables\":[]}",
            ),
        ),
        ("many recipients", with_manifest(plain, 4 << 20, b"{\"format_version\": \"1.1\", \"recipients\": [\"\"", b",\"\"")),
        ("a format without end", with_manifest(plain, 4 << 20, b"{\"format_version\": \"1.", b"1")),
        ("../ in a name", altered(plain, |archive| archive[..10].copy_from_slice(b"../../../x"))),
        ("NUL in a name", altered(plain, |archive| archive[6] = 0)),
        (
            "an absolute name",
            altered(plain, |archive| {
                let at = member(archive, "data/");
                archive[at] = b'/';
            }),
        ),
        ("a link", altered(plain, |archive| archive[156] = b'2')),
        ("no end", altered(plain, |archive| archive.truncate(archive.len() - 1024))),
        (
            "a member too many",
            altered(plain, |archive| {
                let head = archive[..512].to_vec();
                let at = archive.len() - 1024;
                drop(archive.splice(at..at, head));
            }),
        ),
        ("no archive", zstd::encode_all(&b"hello"[..], 1).unwrap()),
        ("nothing that is known", vec![b'?'; 4096]),
    ];
    let mut all: Vec<Hostile> = all.into_iter().map(|(what, file)| (what.to_owned(), false, file)).collect();
    let lengths = (1..plain.len()).step_by(plain.len() / 16);
    all.extend(lengths.map(|length| (format!("cut at {length}"), false, plain[..length].to_vec())));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn c03_c08_c09_c10_c11_c12_c13_whatever_is_sent_is_refused_in_time_and_memory() {
    let world = World::small().await;
    let (made, plain) = world.elsewhere_made().await;
    world.set_passphrase(PASSPHRASE).await;
    let (_, encrypted) = world.elsewhere_made().await;
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = peak();
    let mut slowest = (Duration::ZERO, String::new());
    for (what, encrypted, file) in openpgp(&encrypted, &plain).into_iter().chain(archives(&plain)) {
        let (name, begin) = (named(&made.file_name, &file, encrypted), Instant::now());
        let error = match world.upload(&name, &file).await {
            Err(error) => error,
            Ok(taken) => panic!("{what} was taken in: {taken:?}"),
        };
        let took = begin.elapsed();
        assert!(
            ["NOT_A_BACKUP_FILE", "BACKUP_CORRUPTED", "BACKUP_INCOMPATIBLE"].contains(&error.reason.as_str()),
            "{what}: {error:?}"
        );
        assert!(took < TIME, "{what} took {took:?}");
        let told = peak();
        assert!(told < MEMORY_KIB, "{what}: {told} KiB");
        eprintln!("{what}: {} KiB sent, {took:?}, peak {} MiB, {}", file.len() >> 10, told >> 10, error.reason);
        slowest = slowest.max((took, what));
    }
    eprintln!("slowest: {slowest:?}; memory: from {} to {} MiB", before >> 10, peak() >> 10);
    assert!(world.drafts().is_empty() && world.files().is_empty() && world.ready().await);
    // It is none of these that was wrong.
    world.upload(&named(&made.file_name, &plain, false), &plain).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn c20_the_process_leaves_no_core_and_shows_its_memory_to_nobody() {
    let mut world = World::without_service().await;
    world.start().await.unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", world.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // What is not dumpable belongs to root, whoever runs it; as root, nothing shows it but that it cannot be dumped.
    let status = std::fs::metadata(format!("/proc/{}/mem", world.pid())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&status), 0);
}
