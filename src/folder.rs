//! The mounted volume with the backup files. Alone names the file system.
//!
//! A file appears under its final name only when it is whole and durable: draft -> write -> fsync -> (read back by the
//! caller) -> rename without replacing, or a second name where the volume knows no such renaming -> fsync of the folder. A failed write, fsync or rename ends that draft; nothing
//! is tried twice on the same file, because a second fsync may say OK with the data gone.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustix::fs::{Advice, CWD, RenameFlags, fadvise, renameat_with, statvfs};
use rustix::io::Errno;
use uuid::Uuid;

use crate::model::{FileName, OperationId, UploadId};

/// Why the volume cannot do what was asked. `Display` names no path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the backup volume is full")]
    Full(#[source] io::Error),
    #[error("the backup volume does not work")]
    Unavailable(#[source] io::Error),
    #[error("the backup folder is not the volume that this system writes to: its identity file is missing")]
    NotMounted,
    #[error("the backup folder belongs to another system: its identity file has another id")]
    OtherVolume,
    #[error("everybody may write to the backup folder; let its owner alone (chmod o-w)")]
    WorldWritable,
    #[error("the file is not on the backup volume")]
    Missing,
    #[error("there is a file of this name already")]
    Exists,
}

impl Error {
    /// The same, where it is the folder that was not there.
    fn of_folder(self) -> Self {
        if matches!(self, Self::Missing) { Self::NotMounted } else { self }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Full(error),
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::AlreadyExists => Self::Exists,
            _ => Self::Unavailable(error),
        }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// Names the volume, so that an unmounted one is noticed before it swallows a backup.
const IDENTITY: &str = ".holdfast-volume";
/// Begins the name of a file that is being written; the rest is the id of what writes it.
const DRAFT: &str = ".draft-";

/// What writes a draft, and nobody else.
pub trait Author: Display + FromStr {}

impl Author for OperationId {}
impl Author for UploadId {}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Folder {
    path: Arc<Path>,
}

/// Free and total bytes of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub available: u64,
    pub total: u64,
}

/// What is in the folder besides drafts and the identity file.
#[derive(Debug, Default)]
pub struct Contents {
    pub backups: BTreeSet<FileName>,
    /// Name, as far as it can be printed, and what is wrong with it. Never opened.
    pub others: Vec<(String, &'static str)>,
}

impl Folder {
    /// The folder at `path`, which must exist: creating it would hide that the volume is not mounted.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let folder = Self { path: path.into() };
        folder.check_access()?;
        Ok(folder)
    }

    fn check_access(&self) -> Result<(), Error> {
        let folder = fs::metadata(&self.path).map_err(Error::Unavailable)?;
        if !folder.is_dir() {
            return Err(Error::Unavailable(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        if folder.mode() & 0o002 != 0 { Err(Error::WorldWritable) } else { Ok(()) }
    }

    /// The id in the identity file, if there is one.
    pub fn identity(&self) -> Result<Option<Uuid>, Error> {
        match fs::read_to_string(self.path.join(IDENTITY)) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| Error::OtherVolume),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the folder the volume `id`. A crash or a full volume leaves no half identity.
    pub fn identify(&self, id: Uuid) -> Result<(), Error> {
        self.write_identity(id, RenameFlags::NOREPLACE)
    }

    /// The same, whichever it was before.
    pub fn identify_anew(&self, id: Uuid) -> Result<(), Error> {
        self.write_identity(id, RenameFlags::empty())
    }

    fn write_identity(&self, id: Uuid, how: RenameFlags) -> Result<(), Error> {
        let mut draft = self.draft(OperationId(Uuid::new_v4()))?;
        writeln!(draft, "{id}")?;
        draft.file.sync_all()?;
        self.publish(draft, IDENTITY, how)
    }

    /// Whether the folder is the volume `id` and can be written to.
    pub fn check(&self, id: Uuid) -> Result<(), Error> {
        self.check_access()?;
        match self.identity()? {
            Some(found) if found == id => Ok(rustix::fs::access(&*self.path, rustix::fs::Access::WRITE_OK)?),
            Some(_) => Err(Error::OtherVolume),
            None => Err(Error::NotMounted),
        }
    }

    /// A new file that only `author` writes. Unless it is kept, it goes when the draft does.
    pub fn draft(&self, author: impl Author) -> Result<Draft, Error> {
        let name = format!("{DRAFT}{author}");
        let file = self.create(Path::new(&name)).map_err(Error::of_folder)?;
        Ok(Draft { path: self.path.join(name), file, kept: false })
    }

    /// What of a kind has left a draft behind, or is writing one.
    pub fn drafts<A: Author>(&self) -> Result<Vec<A>, Error> {
        let author = |name: &str| name.strip_prefix(DRAFT)?.parse().ok();
        Ok(self.names()?.iter().filter_map(|name| author(name)).collect())
    }

    /// Removes the draft of an operation or upload that has ended.
    pub fn discard(&self, author: impl Author) -> Result<(), Error> {
        match fs::remove_file(self.path.join(format!("{DRAFT}{author}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Gives a whole, durable and proven draft its final name. Never replaces a file.
    pub fn keep(&self, draft: Draft, name: &FileName) -> Result<(), Error> {
        self.publish(draft, &name.to_string(), RenameFlags::NOREPLACE)
    }

    /// The same, in the place of a file of this name that is damaged, if there is one: at every moment there is that or this.
    pub fn replace(&self, draft: Draft, name: &FileName) -> Result<(), Error> {
        self.publish(draft, &name.to_string(), RenameFlags::empty())
    }

    fn publish(&self, mut draft: Draft, name: &str, how: RenameFlags) -> Result<(), Error> {
        let path = self.path.join(name);
        match renameat_with(CWD, &draft.path, CWD, &path, how) {
            // NFS renames only in a way that may replace. A second name never does; the first goes with the draft.
            Err(Errno::INVAL) if how == RenameFlags::NOREPLACE => {
                fs::hard_link(&draft.path, &path).map_err(|error| Error::from(error).of_folder())?
            }
            renamed => {
                renamed.map_err(|error| Error::from(error).of_folder())?;
                draft.kept = true;
            }
        }
        drop(draft);
        self.sync().inspect_err(|_| {
            // The name may not outlive a power cut, so it must not be there now.
            if let Err(error) = fs::remove_file(&path) {
                tracing::error!(%error, "a file that is not known to be durable could not be removed");
            }
        })
    }

    /// Opens a backup file. Follows no symbolic link and opens nothing but a regular file.
    pub fn read(&self, name: &FileName) -> Result<File, Error> {
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(self.path.join(name.to_string()))?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(Error::Missing) }
    }

    /// The same, from the disk where the system allows: what is in memory may be better than what is on the disk.
    pub fn read_anew(&self, name: &FileName) -> Result<File, Error> {
        let file = self.read(name)?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(file)
    }

    /// What is there. Follows no symbolic link and opens nothing.
    pub fn contents(&self) -> Result<Contents, Error> {
        let mut contents = Contents::default();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == IDENTITY || name.starts_with(DRAFT) {
                continue;
            }
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                // Gone again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            match (kind, name.parse()) {
                (kind, Ok(file)) if kind.is_file() => {
                    contents.backups.insert(file);
                }
                (kind, _) if kind.is_file() => contents.others.push((name, "It does not have the name of a backup file.")),
                (kind, _) if kind.is_symlink() => contents.others.push((name, "It is a symbolic link.")),
                (kind, _) if kind.is_dir() => contents.others.push((name, "It is a folder.")),
                _ => contents.others.push((name, "It is no regular file.")),
            }
        }
        contents.others.sort();
        Ok(contents)
    }

    pub fn contains(&self, name: &FileName) -> Result<bool, Error> {
        match self.path.join(name.to_string()).symlink_metadata() {
            Ok(metadata) => Ok(metadata.is_file()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a file is there that was given its name by somebody who may have died before it and its name were durable. They
    /// are from here on.
    pub fn confirm(&self, name: &FileName) -> Result<bool, Error> {
        match self.read(name) {
            Ok(file) => {
                file.sync_all()?;
                self.sync().map(|()| true)
            }
            Err(Error::Missing) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a backup file for good; one that is gone already is no error.
    pub fn remove(&self, name: &FileName) -> Result<(), Error> {
        match fs::remove_file(self.path.join(name.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => self.sync(),
        }
    }

    pub fn space(&self) -> Result<Space, Error> {
        let volume = statvfs(&*self.path)?;
        Ok(Space { available: volume.f_bavail * volume.f_frsize, total: volume.f_blocks * volume.f_frsize })
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, name: &Path) -> Result<File, Error> {
        Ok(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path.join(name))?)
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(fsync(&File::open(&self.path)?)?)
    }
}

/// Makes a file or folder durable.
fn fsync(file: &File) -> io::Result<()> {
    let within = !tracing::Span::current().is_none();
    let _span = within.then(|| tracing::info_span!("backup.fsync").entered());
    file.sync_all()
}

/// A file that is being written.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Draft {
    /// Makes what was written durable and gives it back for reading, from the disk where the system allows. It is the same open
    /// file: nobody can put another in its place.
    pub fn read_back(&mut self) -> Result<impl Read + Seek + Send + Sync + use<>, Error> {
        fsync(&self.file)?;
        let mut file = self.file.try_clone()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        file.rewind()?;
        Ok(file)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
            // Whoever took the lock over may have removed it.
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a draft could not be removed; it is removed at the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::{BackupId, Sha256};

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    fn name(suffix: u128) -> FileName {
        FileName::new(BackupId::new(chrono::DateTime::UNIX_EPOCH, Uuid::from_u128(suffix)), Sha256([0; 32]), true)
    }

    fn draft(folder: &Folder, text: &str) -> Draft {
        let mut draft = folder.draft(OperationId(Uuid::new_v4())).unwrap();
        draft.write_all(text.as_bytes()).unwrap();
        draft
    }

    #[test]
    fn f03_a_draft_that_is_not_kept_leaves_nothing() {
        let (dir, folder) = folder();
        drop(draft(&folder, "half"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn f06_a_folder_that_goes_away_is_not_taken_for_a_file_that_is_gone() {
        let (dir, folder) = folder();
        let begun = draft(&folder, "x");
        drop(dir);
        assert!(matches!(folder.draft(OperationId(Uuid::new_v4())), Err(Error::NotMounted)));
        assert!(matches!(folder.keep(begun, &name(1)), Err(Error::NotMounted)));
    }

    #[test]
    fn f07_a_file_is_never_replaced() {
        let (_dir, folder) = folder();
        folder.keep(draft(&folder, "first"), &name(1)).unwrap();
        assert!(matches!(folder.keep(draft(&folder, "second"), &name(1)), Err(Error::Exists)));
        let mut text = String::new();
        folder.read(&name(1)).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        assert!(folder.drafts::<OperationId>().unwrap().is_empty());
    }

    #[test]
    fn f06_a_folder_without_its_identity_is_not_the_volume() {
        let (dir, folder) = folder();
        let id = Uuid::new_v4();
        assert!(matches!(folder.check(id), Err(Error::NotMounted)));
        folder.identify(id).unwrap();
        folder.check(id).unwrap();
        assert!(matches!(folder.check(Uuid::new_v4()), Err(Error::OtherVolume)));
        assert!(matches!(folder.identify(id), Err(Error::Exists)));
        fs::remove_file(dir.path().join(IDENTITY)).unwrap();
        assert!(matches!(folder.check(id), Err(Error::NotMounted)));
    }

    #[test]
    fn f20_links_folders_and_pipes_are_not_backup_files() {
        let (dir, folder) = folder();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(name(1).to_string())).unwrap();
        fs::create_dir(dir.path().join(name(2).to_string())).unwrap();
        rustix::fs::mknodat(CWD, dir.path().join(name(3).to_string()), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for place in 1..=3 {
            assert!(folder.read(&name(place)).is_err(), "{place}");
            assert!(!folder.contains(&name(place)).unwrap());
        }
    }

    #[test]
    fn f22_files_are_for_the_owner_alone() {
        let (dir, folder) = folder();
        folder.keep(draft(&folder, "x"), &name(1)).unwrap();
        let mode = fs::metadata(dir.path().join(name(1).to_string())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Folder::open(dir.path()), Err(Error::WorldWritable)));
    }

    #[test]
    fn f13_drafts_of_others_are_found_by_their_operation() {
        let (_dir, folder) = folder();
        let operation = OperationId(Uuid::new_v4());
        let left = folder.draft(operation).unwrap();
        let upload = UploadId { process: Uuid::new_v4(), id: Uuid::new_v4() };
        let sent = folder.draft(upload).unwrap();
        assert_eq!(folder.drafts::<OperationId>().unwrap(), [operation]);
        assert_eq!(folder.drafts::<UploadId>().unwrap(), [upload]);
        folder.discard(operation).unwrap();
        folder.discard(operation).unwrap();
        assert!(folder.drafts::<OperationId>().unwrap().is_empty());
        drop((left, sent));
        assert!(folder.drafts::<UploadId>().unwrap().is_empty());
    }
}
