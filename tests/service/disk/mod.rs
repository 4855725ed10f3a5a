//! A disk that fails as disks do, at the moment that a test chooses: a file system in memory that knows what of it was made
//! durable. Without a way to mount one (`/dev/fuse`, root) the tests that need it say so and pass.

mod fuse;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use fuse::{Answer, Attributes, Call, MAX_REQUEST, ROOT, Request};
use rustix::io::Errno;

use super::kills::Spread;
use super::zoo::signal;

/// What is told of its size unless a test says otherwise.
const SIZE: u64 = 1 << 30;

pub struct Disk {
    shared: Arc<Shared>,
    path: PathBuf,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What is wrong with the disk. Whatever is set shows at once.
#[derive(Default)]
pub struct Faults {
    /// It says that what it was given is durable, and does not make it so.
    pub forgets: bool,
    /// It keeps other bytes than it was given: one bit of every file that is made durable is turned.
    pub turns_bits: bool,
    /// Nobody is answered until this is over.
    pub hangs: bool,
    /// It can only be read from this change on, the first being 1.
    pub read_only_from: Option<u32>,
    /// Bytes that all files may have together, and whether that is what it says when it is asked for its free space.
    pub room: Option<(u64, Room)>,
    /// Reads of files fail from this one on, the first being 1.
    pub unreadable_from: Option<u32>,
    /// It knows no renaming that replaces nothing, like NFS.
    pub plain_renames: bool,
    /// The process is killed just before it makes this change, the first being 1; nothing is changed from there on.
    pub kills: Option<(u32, u32)>,
}

/// Whether the disk tells how much it can still hold: a quota is not seen in the free space of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    Told,
    Hidden,
}

#[derive(Default)]
struct State {
    faults: Faults,
    contents: BTreeMap<u64, Content>,
    /// The names that are durable, and as they were after each change since; the last are those that are seen.
    names: Vec<BTreeMap<String, u64>>,
    /// Counted since the faults were set.
    changes: u32,
    reads: u32,
    /// It was killed: the disk changes no more.
    stopped: bool,
}

#[derive(Default, Clone)]
struct Content {
    mode: u32,
    bytes: Vec<u8>,
    /// What of it a power cut leaves.
    durable: Vec<u8>,
}

impl Disk {
    /// A disk at `path`; it goes with this value. `None`, and a line that says so, where this process may not mount one.
    pub fn mount(path: &Path) -> Option<Self> {
        let device = match fuse::mount(path) {
            Ok(device) => device,
            Err(error) => {
                eprintln!("SKIPPED: no disk of the tests' own can be mounted: {error}");
                return None;
            }
        };
        let state = Mutex::new(State { names: vec![BTreeMap::new()], ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let disk = Self { shared: shared.clone(), path: path.to_owned() };
        std::thread::Builder::new().name("disk".into()).spawn(move || serve(device, &shared)).unwrap();
        Some(disk)
    }

    /// From now on this is what is wrong with it; changes and reads are counted anew.
    pub fn fails(&self, faults: Faults) {
        let mut state = self.shared.state();
        (state.faults, state.changes, state.reads, state.stopped) = (faults, 0, 0, false);
        self.shared.changed.notify_all();
    }

    pub fn is_sound(&self) {
        self.fails(Faults::default());
    }

    /// Changes since the faults were set.
    pub fn changes(&self) -> u32 {
        self.shared.state().changes
    }

    /// Reads of files since the faults were set.
    pub fn reads(&self) -> u32 {
        self.shared.state().reads
    }

    /// Bytes of all files.
    pub fn occupied(&self) -> u64 {
        self.shared.state().occupied()
    }

    /// The power is off and on again. What was not made durable is gone; with luck some of it is there: names as they were
    /// at some moment, and the beginning of what was written. Whoever wrote to it must have been killed before.
    pub fn cut_power(&self, luck: Option<&mut Spread>) {
        let mut state = self.shared.state();
        let mut chance = luck.map(|spread| move |of: usize| usize::try_from(spread.next(of as u64)).unwrap());
        let survive = chance.as_mut().map_or(0, |chance| chance(state.names.len()));
        let names = state.names.swap_remove(survive);
        state.contents.retain(|node, _| names.values().any(|named| named == node));
        for content in state.contents.values_mut().filter(|content| content.bytes != content.durable) {
            let Content { bytes, durable, .. } = content;
            match chance.as_mut().map(|chance| (chance(3), chance(bytes.len() + 1))) {
                None | Some((0, _)) => {}
                Some((1, _)) => durable.clone_from(bytes),
                // As long as it was, with nothing in its end.
                Some((_, written)) => *durable = [&bytes[..written], &vec![0; bytes.len() - written]].concat(),
            }
            bytes.clone_from(durable);
        }
        state.names = vec![names];
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.is_sound();
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// Answers until the disk is unmounted.
fn serve(mut device: File, shared: &Shared) {
    let mut buffer = vec![0; MAX_REQUEST];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            // Interrupted before it was read.
            Err(error)
                if [Errno::NOENT, Errno::INTR, Errno::AGAIN]
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
            {
                continue;
            }
            Err(_) => return,
        };
        let request = Request::parse(&buffer[..length]);
        if matches!(request.call, Call::Told) {
            continue;
        }
        let mut state = shared.changed.wait_while(shared.state(), |state| state.faults.hangs).unwrap();
        let answer = state.answer(request.node, &request.call);
        drop(state);
        // Nobody may wait for it any more.
        let _ = device.write(&request.answer(answer));
    }
}

impl State {
    fn answer(&mut self, node: u64, call: &Call) -> Result<Answer, Errno> {
        self.may(call)?;
        match call {
            Call::Init => Ok(Answer::init()),
            Call::Lookup(name) => self.entry(self.node(name)?),
            Call::Attributes => Ok(Answer::attributes_of(&self.attributes(node)?)),
            Call::Change { size, mode } => {
                let content = self.content(node)?;
                if let Some(size) = size {
                    content.bytes.resize(usize::try_from(*size).unwrap(), 0);
                }
                if let Some(mode) = mode {
                    content.mode = mode & 0o7777;
                }
                Ok(Answer::attributes_of(&self.attributes(node)?))
            }
            Call::Create { name, mode } => {
                let node = self.contents.last_key_value().map_or(ROOT, |(node, _)| *node) + 1;
                self.contents.insert(node, Content { mode: mode & 0o7777, ..Content::default() });
                self.rename(|names| _ = names.insert((*name).to_owned(), node));
                Ok(self.entry(node)?.and_opened())
            }
            Call::Open | Call::OpenFolder => Ok(Answer::default().and_opened()),
            Call::Read { offset, size } => {
                let bytes = &self.content(node)?.bytes;
                let from = usize::try_from(*offset).unwrap().min(bytes.len());
                Ok(Answer::bytes(&bytes[from..bytes.len().min(from + *size as usize)]))
            }
            Call::Write { offset, bytes } => {
                let content = self.content(node)?;
                let (from, to) = (usize::try_from(*offset).unwrap(), usize::try_from(*offset).unwrap() + bytes.len());
                content.bytes.resize(content.bytes.len().max(to), 0);
                content.bytes[from..to].copy_from_slice(bytes);
                Ok(Answer::written(bytes))
            }
            Call::Sync => {
                let (forgets, turns_bits) = (self.faults.forgets, self.faults.turns_bits);
                let content = self.content(node)?;
                if turns_bits && !content.bytes.is_empty() {
                    let middle = content.bytes.len() / 2;
                    content.bytes[middle] ^= 1;
                }
                if !forgets {
                    content.durable.clone_from(&content.bytes);
                }
                Ok(Answer::default())
            }
            Call::SyncFolder => {
                if !self.faults.forgets {
                    self.names.drain(..self.names.len() - 1);
                }
                Ok(Answer::default())
            }
            Call::ReadFolder { from, size } => {
                let dots = [(".", ROOT, 0o40000), ("..", ROOT, 0o40000)];
                let files = self.seen().iter().map(|(name, node)| (name.as_str(), *node, 0o100_000));
                Ok(Answer::entries(dots.into_iter().chain(files), *from, *size))
            }
            Call::Rename { from, to, replace } => {
                let node = self.node(from)?;
                match self.node(to) {
                    _ if !replace && self.faults.plain_renames => return Err(Errno::INVAL),
                    Ok(_) if !replace => return Err(Errno::EXIST),
                    _ => {}
                }
                self.rename(|names| {
                    names.remove(*from);
                    names.insert((*to).to_owned(), node);
                });
                Ok(Answer::default())
            }
            Call::Link { node, to } => {
                if self.node(to).is_ok() {
                    return Err(Errno::EXIST);
                }
                self.rename(|names| _ = names.insert((*to).to_owned(), *node));
                self.entry(*node)
            }
            Call::Unlink(name) => {
                self.node(name)?;
                self.rename(|names| _ = names.remove(*name));
                Ok(Answer::default())
            }
            Call::Space => Ok(match self.faults.room {
                Some((room, Room::Told)) => Answer::space(room, room.saturating_sub(self.occupied())),
                _ => Answer::space(SIZE, SIZE - self.occupied()),
            }),
            Call::Release | Call::Told => Ok(Answer::default()),
            Call::Unknown => Err(Errno::NOSYS),
        }
    }

    /// Whether the faults let this happen.
    fn may(&mut self, call: &Call) -> Result<(), Errno> {
        match call {
            Call::Read { .. } => {
                self.reads += 1;
                match self.faults.unreadable_from {
                    Some(from) if self.reads >= from => Err(Errno::IO),
                    _ => Ok(()),
                }
            }
            Call::Change { .. }
            | Call::Create { .. }
            | Call::Write { .. }
            | Call::Sync
            | Call::SyncFolder
            | Call::Rename { .. }
            | Call::Link { .. }
            | Call::Unlink(_) => {
                self.changes += 1;
                if let Some((place, pid)) = self.faults.kills
                    && self.changes == place
                {
                    signal("-KILL", &pid.to_string());
                    self.stopped = true;
                }
                let read_only = self.faults.read_only_from.is_some_and(|from| self.changes >= from);
                match (call, self.faults.room) {
                    _ if self.stopped => Err(Errno::IO),
                    (Call::Sync | Call::SyncFolder, _) => Ok(()),
                    _ if read_only => Err(Errno::ROFS),
                    (Call::Write { bytes, .. }, Some((room, _))) if self.occupied() + bytes.len() as u64 > room => {
                        Err(Errno::NOSPC)
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn seen(&self) -> &BTreeMap<String, u64> {
        self.names.last().unwrap()
    }

    fn rename(&mut self, change: impl FnOnce(&mut BTreeMap<String, u64>)) {
        let mut names = self.seen().clone();
        change(&mut names);
        self.names.push(names);
    }

    fn node(&self, name: &str) -> Result<u64, Errno> {
        self.seen().get(name).copied().ok_or(Errno::NOENT)
    }

    fn content(&mut self, node: u64) -> Result<&mut Content, Errno> {
        self.contents.get_mut(&node).ok_or(Errno::STALE)
    }

    fn occupied(&self) -> u64 {
        self.seen().values().map(|node| self.contents[node].bytes.len() as u64).sum()
    }

    fn entry(&self, node: u64) -> Result<Answer, Errno> {
        Ok(Answer::entry(&self.attributes(node)?))
    }

    fn attributes(&self, node: u64) -> Result<Attributes, Errno> {
        if node == ROOT {
            return Ok(Attributes { node, mode: 0o40700, size: 0 });
        }
        let content = self.contents.get(&node).ok_or(Errno::STALE)?;
        Ok(Attributes { node, mode: 0o100_000 | content.mode, size: content.bytes.len() as u64 })
    }
}
