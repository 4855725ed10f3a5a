//! The protocol between Linux and a file system that is a program (linux/fuse.h, version 7.31), as far as one folder of files
//! needs it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;

/// The node of the folder itself.
pub const ROOT: u64 = 1;
/// Most bytes in one read or write.
const MAX_BYTES: u32 = 128 << 10;
/// Of a request, with the data of a write.
pub const MAX_REQUEST: usize = MAX_BYTES as usize + 4096;

/// Mounts a file system at `path`; its requests are read from what is returned, and answered there. With the last copy of it
/// the file system ends.
pub fn mount(path: &Path) -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let mut mount = Command::new("mount");
    // The device is the standard input of `mount`.
    mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40700,user_id=0,group_id=0,allow_other", "disk"]).arg(path);
    let mounted = mount.stdin(Stdio::from(device.try_clone()?)).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if mounted.success() { Ok(device) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

pub struct Request<'a> {
    id: u64,
    /// Of the file, or of the folder.
    pub node: u64,
    pub call: Call<'a>,
}

#[derive(Debug)]
pub enum Call<'a> {
    Init,
    Lookup(&'a str),
    Attributes,
    Change {
        size: Option<u64>,
        mode: Option<u32>,
    },
    Create {
        name: &'a str,
        mode: u32,
    },
    Open,
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        bytes: &'a [u8],
    },
    Sync,
    SyncFolder,
    OpenFolder,
    /// From this entry on.
    ReadFolder {
        from: u64,
        size: u32,
    },
    Rename {
        from: &'a str,
        to: &'a str,
        replace: bool,
    },
    Link {
        node: u64,
        to: &'a str,
    },
    Unlink(&'a str),
    Space,
    /// Answered by nothing but that it is well.
    Release,
    /// Not answered.
    Told,
    Unknown,
}

impl<'a> Request<'a> {
    pub fn parse(bytes: &'a [u8]) -> Self {
        let (header, body) = bytes.split_at(40);
        let call = match u32_at(header, 4) {
            1 => Call::Lookup(name(body)),
            2 | 36 | 42 => Call::Told,
            3 => Call::Attributes,
            4 => {
                let valid = u32_at(body, 0);
                let mode = (valid & 1 != 0).then(|| u32_at(body, 68));
                Call::Change { size: (valid & 8 != 0).then(|| u64_at(body, 16)), mode }
            }
            10 => Call::Unlink(name(body)),
            12 => Call::Rename { from: name(&body[8..]), to: second_name(&body[8..]), replace: true },
            13 => Call::Link { node: u64_at(body, 0), to: name(&body[8..]) },
            14 => Call::Open,
            15 => Call::Read { offset: u64_at(body, 8), size: u32_at(body, 16) },
            16 => Call::Write { offset: u64_at(body, 8), bytes: &body[40..40 + u32_at(body, 16) as usize] },
            17 => Call::Space,
            18 | 25 | 29 => Call::Release,
            20 => Call::Sync,
            26 => Call::Init,
            27 => Call::OpenFolder,
            28 => Call::ReadFolder { from: u64_at(body, 8), size: u32_at(body, 16) },
            30 => Call::SyncFolder,
            35 => Call::Create { name: name(&body[16..]), mode: u32_at(body, 4) },
            45 => Call::Rename { from: name(&body[16..]), to: second_name(&body[16..]), replace: u32_at(body, 8) & 1 == 0 },
            _ => Call::Unknown,
        };
        Self { id: u64_at(header, 8), node: u64_at(header, 16), call }
    }

    /// The bytes that answer it.
    pub fn answer(&self, result: Result<Answer, Errno>) -> Vec<u8> {
        let (error, Answer(body)) = match result {
            Ok(answer) => (0, answer),
            Err(error) => (-error.raw_os_error(), Answer::default()),
        };
        let length = u32::try_from(16 + body.len()).unwrap();
        let head = Answer::default().u32(length).u32(error.cast_unsigned()).u64(self.id);
        [head.0, body].concat()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn name(bytes: &[u8]) -> &str {
    str::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap()).expect("a name in UTF-8")
}

fn second_name(bytes: &[u8]) -> &str {
    name(&bytes[name(bytes).len() + 1..])
}

/// The body of an answer.
#[derive(Default)]
pub struct Answer(Vec<u8>);

/// What is told of a file, or of the folder.
pub struct Attributes {
    pub node: u64,
    pub mode: u32,
    pub size: u64,
}

impl Answer {
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub fn init() -> Self {
        const BIG_WRITES: u32 = 1 << 5;
        let answer = Self::default().u32(7).u32(31).u32(0).u32(BIG_WRITES);
        // 12 requests in the background, congested at 9; times in whole seconds.
        let answer = answer.u32(12 | 9 << 16).u32(MAX_BYTES).u32(1_000_000_000).u32(MAX_BYTES / 4096);
        (0..8).fold(answer, |answer, _| answer.u32(0))
    }

    /// Nothing that was told is remembered by the kernel.
    fn valid_for_now(self) -> Self {
        self.u64(0)
    }

    fn attributes(self, of: &Attributes) -> Self {
        let answer = self.u64(of.node).u64(of.size).u64(of.size.div_ceil(512));
        // Times, owner and device are 0.
        let answer = (0..3).fold(answer, |answer, _| answer.u64(0));
        let answer = answer.u32(0).u32(0).u32(0).u32(of.mode).u32(1);
        answer.u32(0).u32(0).u32(0).u32(4096).u32(0)
    }

    pub fn attributes_of(of: &Attributes) -> Self {
        Self::default().valid_for_now().u64(0).attributes(of)
    }

    pub fn entry(of: &Attributes) -> Self {
        Self::default().u64(of.node).u64(0).valid_for_now().valid_for_now().u64(0).attributes(of)
    }

    pub fn and_opened(self) -> Self {
        // Reads and writes pass the memory of the kernel by.
        const DIRECT: u32 = 1;
        self.u64(0).u32(DIRECT).u32(0)
    }

    pub fn bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub fn written(bytes: &[u8]) -> Self {
        Self::default().u32(u32::try_from(bytes.len()).unwrap()).u32(0)
    }

    /// As many entries, beginning with the `from`-th, as there is room for.
    pub fn entries<'a>(names: impl Iterator<Item = (&'a str, u64, u32)>, from: u64, size: u32) -> Self {
        let mut answer = Self::default();
        for (place, (name, node, mode)) in (1u64..).zip(names).skip(usize::try_from(from).unwrap()) {
            let padded = name.len().next_multiple_of(8);
            if answer.0.len() + 24 + padded > size as usize {
                break;
            }
            answer = answer.u64(node).u64(place).u32(u32::try_from(name.len()).unwrap()).u32(mode >> 12);
            answer.0.extend(name.bytes().chain(std::iter::repeat(0)).take(padded));
        }
        answer
    }

    /// In blocks of 4096 bytes.
    pub fn space(total: u64, available: u64) -> Self {
        let answer = Self::default().u64(total / 4096).u64(available / 4096).u64(available / 4096).u64(1 << 20).u64(1 << 20);
        let answer = answer.u32(4096).u32(255).u32(4096);
        (0..7).fold(answer, |answer, _| answer.u32(0))
    }
}
