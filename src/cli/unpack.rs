//! Unpacking into a folder: `manifest.json`, `end.json`, and one COPY file for each table under `data/`.
//!
//! Until everything has been proven, what is written stands in a folder of its own whose name says that it is not.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use crate::archive::{Contents, Part};
use crate::model::copy::{BINARY_HEADER, BINARY_TRAILER};
use crate::model::{CopyFormat, Manifest, Piece};

const UNPROVEN: &str = "UNPROVEN.partial";

pub struct Unpacked {
    folder: PathBuf,
    partial: PathBuf,
    /// File and format of each table, from the moment the manifest is known.
    tables: Vec<(PathBuf, CopyFormat)>,
}

impl Unpacked {
    /// # Errors
    /// When there is something in the folder already.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let entries = fs::read_dir(folder);
        if entries.is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} is not empty; nothing was unpacked", folder.display());
        }
        Ok(Self { folder: folder.to_owned(), partial: folder.join(UNPROVEN), tables: Vec::new() })
    }

    /// Writes one part. Nothing is there before the manifest could be read.
    pub fn take(&mut self, part: Part<'_>) -> anyhow::Result<()> {
        match part {
            Part::Manifest(manifest) => self.begin(manifest),
            Part::Piece(piece) => self.piece(&piece),
        }
    }

    fn begin(&mut self, manifest: &Manifest) -> anyhow::Result<()> {
        make_folder(&self.partial)?;
        for table in &manifest.tables {
            // The reader has checked that this is the path which the name of the table gives it: plain characters, no `..`.
            let path = self.partial.join(format!("{}.copy", table.path));
            make_folder(path.parent().unwrap_or(&self.partial))?;
            let mut file = create(&path)?;
            if table.format == CopyFormat::Binary {
                file.write_all(BINARY_HEADER).with_context(|| cannot_write(&path))?;
            }
            self.tables.push((path, table.format));
        }
        Ok(())
    }

    fn piece(&mut self, piece: &Piece) -> anyhow::Result<()> {
        let (path, format) = self.tables.get(piece.table).context("a piece belongs to no table")?;
        let mut file = OpenOptions::new().append(true).open(path).with_context(|| cannot_write(path))?;
        file.write_all(&piece.rows).with_context(|| cannot_write(path))?;
        if piece.last {
            if *format == CopyFormat::Binary {
                file.write_all(BINARY_TRAILER).with_context(|| cannot_write(path))?;
            }
            file.sync_all().with_context(|| cannot_write(path))?;
        }
        Ok(())
    }

    /// Everything was proven: what was written gets its place.
    pub fn finish(self, contents: &Contents) -> anyhow::Result<()> {
        let (end, signature) = &contents.signed;
        let members = [("manifest.json", &contents.manifest.to_json()?), ("end.json", end), ("signature.asc", signature)];
        for (name, text) in members.into_iter().filter(|(_, text)| !text.is_empty()) {
            let path = self.partial.join(name);
            let mut file = create(&path)?;
            file.write_all(text).and_then(|()| file.sync_all()).with_context(|| cannot_write(&path))?;
        }
        for entry in fs::read_dir(&self.partial).with_context(|| cannot_write(&self.partial))? {
            let entry = entry?;
            fs::rename(entry.path(), self.folder.join(entry.file_name())).with_context(|| cannot_write(&self.folder))?;
        }
        fs::remove_dir(&self.partial).with_context(|| cannot_write(&self.partial))
    }

    /// Says what is left behind.
    pub fn given_up(&self, error: anyhow::Error) -> anyhow::Error {
        if self.partial.exists() {
            return anyhow!("{error:#}; what was unpacked is not proven and stands in {}", self.partial.display());
        }
        error
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// The data has credentials in it: nobody else may read it.
fn make_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| cannot_write(path))
}

fn create(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(|| cannot_write(path))
}
