//! Backup files on this machine, without service or database: checked, looked into, unpacked.
//!
//! A file is compared with the digest in its name before anything else, so that damage is told from a wrong passphrase.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use serde::Serialize;

use super::download::hash;
use super::opener::Opening;
use super::output::{Output, facts, note, size, table};
use super::problem::Problem;
use super::progress::Meter;
use super::unpack::Unpacked;
use crate::archive::{self, Contents, Trust};
use crate::model::backup::Origin;
use crate::model::{EndRecord, FileName, Manifest, Opener, Sha256};

#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// The backup file
    file: PathBuf,
    /// Decrypt, decode and check everything; asks for the passphrase of an encrypted file
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    opener: Opening,
    #[command(flatten)]
    trusted: Trusted,
}

/// Whose signatures are known.
#[derive(Debug, clap::Args)]
struct Trusted {
    /// OpenPGP certificates (holdfast signing export) of those who may have written it; says whether one of them did
    #[arg(long, value_name = "FILE")]
    certificates_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Extract {
    /// The backup file
    file: PathBuf,
    /// Folder to unpack into; it is made if it is not there, and must be empty
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    opener: Opening,
    #[command(flatten)]
    trusted: Trusted,
}

/// What is known of a file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    size_bytes: u64,
    sha256: Sha256,
    encrypted: bool,
    /// Whether the name carries the digest of the file; a renamed file proves nothing.
    matches_name: bool,
    /// `None`: it is encrypted and no passphrase was given.
    manifest: Option<Manifest>,
    /// `None`: not everything was read, so that only the name vouches for the contents.
    end: Option<EndRecord>,
    /// The same; else who wrote it.
    origin: Option<Origin>,
}

pub fn inspect(inspect: Inspect, output: Output) -> Result<(), Problem> {
    let mut found = Local::open(&inspect.file)?;
    let opener = match found.encrypted {
        true if inspect.verify => Some(inspect.opener.existing("the file", found.write_only)?),
        true => inspect.opener.given()?,
        false => None,
    };
    let (mut manifest, mut end, mut origin) = (None, None, None);
    if inspect.verify {
        let read = found.read(opener.as_ref(), &inspect.trusted.read()?, |_| Ok(()))?;
        (manifest, end, origin) = (Some(read.manifest), Some(read.end), Some(read.origin));
    } else if opener.is_some() || !found.encrypted {
        manifest = Some(found.manifest(opener.as_ref())?);
    }
    let Local { length, sha256, encrypted, name, .. } = found;
    let findings = Findings { size_bytes: length, sha256, encrypted, matches_name: name.is_some(), manifest, end, origin };
    output.local(&findings, || describe(&findings))
}

pub fn extract(extract: Extract, output: Output) -> Result<(), Problem> {
    let mut found = Local::open(&extract.file)?;
    let opener = if found.encrypted { Some(extract.opener.existing("the file", found.write_only)?) } else { None };
    let trusted = extract.trusted.read()?;
    let mut unpacked = Unpacked::new(&extract.folder)?;
    let read = found.read(opener.as_ref(), &trusted, |part| unpacked.take(part));
    let read = read.map_err(|error| unpacked.given_up(error))?;
    unpacked.finish(&read)?;
    note(&format!("Everything was checked and unpacked into {}", extract.folder.display()));
    let Local { length, sha256, encrypted, name, .. } = found;
    let (manifest, end, origin) = (Some(read.manifest), Some(read.end), Some(read.origin));
    let findings = Findings { size_bytes: length, sha256, encrypted, matches_name: name.is_some(), manifest, end, origin };
    output.local(&findings, || describe(&findings))
}

impl Trusted {
    fn read(&self) -> anyhow::Result<Trust> {
        let Some(path) = &self.certificates_file else { return Ok(Trust::default()) };
        let bytes = std::fs::read(path).with_context(|| format!("cannot read the certificates {}", path.display()))?;
        Trust::parse(&bytes).with_context(|| format!("{} cannot vouch for files", path.display()))
    }
}

/// A file whose digest is that of its name, if it has one.
pub struct Local {
    pub file: File,
    pub length: u64,
    pub sha256: Sha256,
    pub encrypted: bool,
    /// No passphrase opens it.
    pub write_only: bool,
    pub name: Option<FileName>,
}

impl Local {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let sha256 = hash(&file)?;
        let length = file.stream_position()?;
        file.rewind()?;
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<FileName>().ok());
        if let Some(name) = name.as_ref().filter(|name| !name.proves(sha256)) {
            return Err(anyhow!("the file is damaged: its SHA-256 is {sha256}, which is not that of {name}"));
        }
        if name.is_none() {
            note("The file does not have the name of a backup file, so that no digest in its name proves it.");
        }
        let (encrypted, write_only) = match archive::manifest(&file, None) {
            Ok(_) => (false, false),
            Err(archive::Error::PassphraseRequired) => (true, false),
            Err(archive::Error::SecretKeyRequired(_)) => (true, true),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { file, length, sha256, encrypted, write_only, name })
    }

    pub fn manifest(&mut self, opener: Option<&Opener>) -> anyhow::Result<Manifest> {
        self.file.rewind()?;
        let manifest = archive::manifest(&self.file, opener)?;
        self.named_after(&manifest)?;
        Ok(manifest)
    }

    /// Reads and checks everything; what `visit` gets is proven only when this is `Ok`.
    fn read(
        &mut self,
        opener: Option<&Opener>,
        trusted: &Trust,
        visit: impl FnMut(archive::Part<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Contents> {
        self.file.rewind()?;
        let source = Metered { file: &self.file, done: 0, total: self.length, meter: Meter::of_bytes(self.length) };
        let contents = archive::read(source, opener, trusted, visit)?;
        self.named_after(&contents.manifest)?;
        Ok(contents)
    }

    fn named_after(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let same = self.name.as_ref().is_none_or(|name| *name.id() == manifest.backup);
        ensure!(same, "the file has the name of another backup: it is {}", manifest.backup);
        Ok(())
    }
}

/// A file that shows how far it has been read.
struct Metered<'a> {
    file: &'a File,
    done: u64,
    total: u64,
    meter: Meter,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.done += length as u64;
        self.meter.bytes(self.done, self.total);
        Ok(length)
    }
}

fn describe(found: &Findings) -> String {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let bytes = |bytes: u64| size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let known = |text: fn(&Manifest) -> String| found.manifest.as_ref().map(text).unwrap_or_default();
    let contents = match (&found.end, &found.manifest) {
        (Some(_), _) => "everything was read and is right",
        (None, Some(_)) => "not checked; use --verify",
        (None, None) => "not readable without what opens it; use --passphrase-stdin, --passphrase-file or --secret-key-file",
    };
    let signed = match &found.origin {
        None => String::new(),
        Some(Origin::Native(key)) => format!("by {key}, which is trusted: nobody altered it since"),
        Some(Origin::Foreign(None)) => "no: it is not known who wrote it".to_owned(),
        Some(Origin::Foreign(Some(key))) => format!("it says by {key}; that is not proven, use --certificates-file"),
    };
    let facts = facts([
        ("Size", bytes(found.size_bytes)),
        ("SHA-256", found.sha256.to_string()),
        ("Proven by its name", yes(found.matches_name)),
        ("Encrypted", yes(found.encrypted)),
        ("Contents", contents.to_owned()),
        ("Signed", signed),
        ("Backup", known(|manifest| manifest.backup.to_string())),
        ("Data of", known(|manifest| manifest.snapshot_time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))),
        ("Description", known(|manifest| manifest.description.clone())),
        ("System", known(|manifest| manifest.system_id.to_string())),
        ("Written by", known(|manifest| format!("{}, format {}", manifest.writer, manifest.format_version))),
        ("Audit log then", known(|manifest| manifest.audit.map(|head| head.to_string()).unwrap_or_default())),
        ("PostgreSQL", known(|manifest| manifest.server_version.clone())),
        ("Recipients", known(|manifest| manifest.recipients.join(", "))),
        (
            "Passphrase",
            known(|manifest| manifest.passphrase.map_or_else(String::new, |note| format!("number {}", note.generation))),
        ),
    ]);
    let tables = match (&found.manifest, &found.end) {
        (Some(_), Some(end)) => {
            let rows = end.tables.iter();
            table(["TABLE", "ROWS", "SIZE"], rows.map(|t| [t.name.to_string(), t.tally.rows.to_string(), bytes(t.tally.bytes)]))
        }
        (Some(manifest), None) => {
            let count = |tables: usize| tables.to_string();
            let rows = manifest.resources.iter();
            table(["RESOURCE", "TITLE", "TABLES"], rows.map(|r| [r.name.to_string(), r.title.clone(), count(r.tables.len())]))
        }
        (None, _) => return facts,
    };
    format!("{facts}\n{tables}")
}
