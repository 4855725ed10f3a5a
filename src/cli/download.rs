//! Saving the file of a backup. A transfer that broke off is continued; what is under the final name is whole and right.
//!
//! Bytes go to `NAME.part`, readable by the caller only, and get their name when their SHA-256 is that of the backup. A
//! file that is there already is never replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ring::digest;
use rustix::fs::{FlockOperation, OFlags, RenameFlags};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::Session;
use super::backups::get;
use super::connect::{Client, broke_off, pause};
use super::describe;
use super::names::BackupChoice;
use super::output::{clean, note};
use super::problem::Problem;
use super::progress::Meter;
use super::verify::bring_back;
use crate::grpc::proto::backup::download_backup_response::Payload;
use crate::grpc::proto::backup::{Backup, DownloadBackupRequest, FileChunk};
use crate::model::{FileName, Sha256};

/// How often a broken transfer is taken up again without a single byte having arrived.
const ATTEMPTS: u32 = 5;
/// The same of one that the service has no place for.
const BUSY_ATTEMPTS: u32 = 12;
const SILENCE: Duration = Duration::from_secs(60);
/// A link that somebody left under the name of the part is not written through.
const NO_LINK: i32 = OFlags::NOFOLLOW.bits() as i32;

#[derive(Debug, clap::Args)]
pub struct Download {
    /// Name of the backup, or `latest`
    #[arg(value_name = "NAME")]
    backup: BackupChoice,
    /// File or folder to save to [default: the present folder, under the name that the file has on the volume]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
}

pub async fn download(session: Session, download: Download) -> Result<(), Problem> {
    let backup = get(&session, &download.backup).await?;
    let sha256: Sha256 = backup.sha256.parse().context("the backup has no file that could be downloaded")?;
    let size = u64::try_from(backup.size_bytes).context("the size of the backup is negative")?;
    let target = target(download.output, &backup)?;
    if target.exists() {
        if hash(File::open(&target).with_context(|| format!("cannot open {}", target.display()))?)? != sha256 {
            return Err(anyhow!("{} exists and is another file; it was left as it is", target.display()).into());
        }
        note(&format!("{} is there already and is right", target.display()));
    } else {
        bring_back(&session, &backup).await?;
        let mut part = Part::open(&target)?;
        part.fill(&session.client, &backup, size).await?;
        if part.hash()? != sha256 && part.resumed {
            note("The part that was there belongs to another file; starting again.");
            part.restart()?;
            part.fill(&session.client, &backup, size).await?;
        }
        part.keep(&target, sha256)?;
        note(&format!("saved as {}", target.display()));
    }
    if session.output.json { session.output.result(&backup, describe::backup) } else { Ok(()) }
}

/// Where the file goes. The name that the service gives is used only when it is the name of a backup file.
fn target(output: Option<PathBuf>, backup: &Backup) -> anyhow::Result<PathBuf> {
    let folder = match output {
        Some(path) if !path.is_dir() => return Ok(path),
        folder => folder.unwrap_or_default(),
    };
    let name: FileName =
        backup.file_name.parse().context("the service gave the file a name that cannot be used; use --output FILE")?;
    Ok(folder.join(name.to_string()))
}

/// The file while it is not whole. Only one download at a time can have it.
struct Part {
    path: PathBuf,
    file: File,
    /// How many bytes are there.
    length: u64,
    /// Whether some of them are from an earlier transfer.
    resumed: bool,
}

impl Part {
    fn open(target: &Path) -> anyhow::Result<Self> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(NO_LINK).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("another download is writing {}", path.display()))?;
        file.set_permissions(fs::Permissions::from_mode(0o600)).context("cannot keep others from reading the file")?;
        let length = file.metadata()?.len();
        Ok(Self { path, file, length, resumed: length > 0 })
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        self.file.set_len(0).context("cannot empty the partial file")?;
        (self.length, self.resumed) = (0, false);
        Ok(())
    }

    /// Brings it to its full length, through as many transfers as that takes.
    async fn fill(&mut self, client: &Client, backup: &Backup, size: u64) -> Result<(), Problem> {
        if self.length > size {
            self.restart()?;
        }
        let mut meter = Meter::of_bytes(size);
        let (mut attempt, mut busy) = (0, 0);
        while self.length < size {
            let before = self.length;
            let Err(problem) = self.transfer(client, backup, size, &mut meter).await else { continue };
            if self.length > before {
                (attempt, busy) = (0, 0);
            }
            match problem.busy_for() {
                Some(delay) if busy < BUSY_ATTEMPTS => {
                    if busy == 0 {
                        meter.remark(&format!("waiting: {}", clean(&problem.to_string())));
                    }
                    busy += 1;
                    sleep(delay.max(pause(0))).await;
                }
                None if resumable(&problem) && attempt + 1 < ATTEMPTS => {
                    sleep(pause(attempt)).await;
                    attempt += 1;
                }
                _ => {
                    return Err(match problem {
                        Problem::Call(status) => client.explained(status).into(),
                        problem => problem,
                    });
                }
            }
        }
        Ok(())
    }

    /// One call, from where the part ends. A transfer that ends early is UNAVAILABLE.
    async fn transfer(&mut self, client: &Client, backup: &Backup, size: u64, meter: &mut Meter) -> Result<(), Problem> {
        let request = DownloadBackupRequest {
            name: backup.name.clone(),
            read_offset: i64::try_from(self.length).context("the partial file is too long")?,
            read_limit: 0,
            expected_sha256: backup.sha256.clone(),
        };
        let silent = |_| Status::unavailable("the transfer stalled");
        let mut messages = timeout(SILENCE, client.backups().download_backup(request)).await.map_err(silent)??.into_inner();
        while let Some(message) = timeout(SILENCE, messages.message()).await.map_err(silent)?.map_err(broken)? {
            match message.payload {
                Some(Payload::Header(header)) if header.sha256 != backup.sha256 => {
                    return Err(anyhow!("the service sends another file than the catalog has").into());
                }
                Some(Payload::Chunk(chunk)) => {
                    self.append(&chunk, size)?;
                    meter.bytes(self.length, size);
                }
                Some(Payload::Header(_)) | None => {}
            }
        }
        if self.length < size { Err(Status::unavailable("the transfer ended early").into()) } else { Ok(()) }
    }

    fn append(&mut self, chunk: &FileChunk, size: u64) -> Result<(), Problem> {
        let length = chunk.data.len() as u64;
        if u64::try_from(chunk.offset) != Ok(self.length) || length > size - self.length {
            return Err(anyhow!("the service sent a piece that does not belong at {}", self.length).into());
        }
        if chunk.crc32c.is_some_and(|sum| sum != crc32c::crc32c(&chunk.data)) {
            return Err(Status::unavailable("a piece was damaged on its way").into());
        }
        self.file.write_all(&chunk.data).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.length += length;
        Ok(())
    }

    fn hash(&mut self) -> anyhow::Result<Sha256> {
        self.file.rewind().context("cannot read the partial file")?;
        hash(&self.file)
    }

    /// Gives the file its name, unless it is not what it should be or another file has that name by now.
    fn keep(mut self, target: &Path, sha256: Sha256) -> anyhow::Result<()> {
        if self.hash()? != sha256 {
            bail!(
                "{} does not have the SHA-256 of the backup. `holdfast verify` tells whether the file is damaged where it is; if it is not, \
                 remove this one and try again",
                self.path.display()
            );
        }
        self.file.sync_all().with_context(|| format!("cannot write {}", self.path.display()))?;
        let rename = rustix::fs::renameat_with(rustix::fs::CWD, &self.path, rustix::fs::CWD, target, RenameFlags::NOREPLACE);
        let renamed = match rename {
            // Some network file systems cannot rename without replacing; a link does not replace either.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::hard_link(&self.path, target).and_then(|()| fs::remove_file(&self.path))
            }
            renamed => renamed.map_err(io::Error::from),
        };
        renamed.with_context(|| format!("cannot name the file {}; it is whole, as {}", target.display(), self.path.display()))?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("cannot sync {}", folder.display()))
    }
}

/// A transfer that only broke off, or was too slow for the service: what has arrived stays.
fn resumable(problem: &Problem) -> bool {
    let unavailable = matches!(problem, Problem::Call(status) if status.code() == Code::Unavailable);
    unavailable || problem.reason().is_some_and(|reason| reason == "TRANSFER_TIMED_OUT")
}

/// A stream that a proxy or the network cut off is taken up again like one that the service ended.
pub fn broken(status: Status) -> Status {
    if broke_off(&status) { Status::unavailable(status.message()) } else { status }
}

/// SHA-256 of all that can be read.
pub fn hash(mut source: impl Read) -> anyhow::Result<Sha256> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match source.read(&mut buffer).context("cannot read the file")? {
            0 => break,
            length => context.update(&buffer[..length]),
        }
    }
    let mut sha256 = Sha256([0; 32]);
    sha256.0.copy_from_slice(context.finish().as_ref());
    Ok(sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_the_service_gives_is_never_a_path() {
        let backup = |file_name: &str| Backup { file_name: file_name.into(), ..Backup::default() };
        let good = "20260301T010000Z-abcdefgh-00112233445566778899aabbccddeeff.tar.zst";
        assert_eq!(target(None, &backup(good)).unwrap(), Path::new(good));
        assert_eq!(target(Some("/tmp".into()), &backup(good)).unwrap(), Path::new("/tmp").join(good));
        assert!(target(None, &backup("../../etc/passwd")).is_err());
        assert_eq!(target(Some("x.bin".into()), &backup("../x")).unwrap(), Path::new("x.bin"));
    }

    #[test]
    fn a_piece_that_is_damaged_or_misplaced_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = Part::open(&folder.path().join("f")).unwrap();
        let chunk = |offset, data: &'static [u8], crc32c| FileChunk { offset, data: data.into(), crc32c: Some(crc32c) };
        assert!(part.append(&chunk(1, b"ab", crc32c::crc32c(b"ab")), 4).is_err());
        assert!(part.append(&chunk(0, b"ab", 7), 4).is_err());
        assert!(part.append(&chunk(0, b"abcde", crc32c::crc32c(b"abcde")), 4).is_err());
        assert_eq!(part.length, 0);
        part.append(&chunk(0, b"ab", crc32c::crc32c(b"ab")), 4).unwrap();
        assert_eq!(part.hash().unwrap(), hash(&b"ab"[..]).unwrap());
        assert!(Part::open(&folder.path().join("f")).is_err(), "only one download at a time");
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("f");
        let mut part = Part::open(&target).unwrap();
        part.file.write_all(b"new").unwrap();
        fs::write(&target, "old").unwrap();
        assert!(part.keep(&target, hash(&b"new"[..]).unwrap()).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"old");
    }
}
