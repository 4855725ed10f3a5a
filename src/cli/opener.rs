//! What opens an encrypted backup: its passphrase, or the secret key of a recipient with the passphrase of that key.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use zeroize::Zeroizing;

use super::describe;
use super::output::id;
use super::passphrase::Source;
use super::problem::Problem;
use crate::grpc::proto::backup::Backup;
use crate::model::{Opener, SecretKey};

/// How it is handed over.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Opening {
    #[command(flatten)]
    pub passphrase: Source,
    /// Open it with the OpenPGP secret key of a recipient, from a file; a passphrase is that of the key then
    #[arg(long, value_name = "FILE")]
    secret_key_file: Option<PathBuf>,
}

/// The fields of a request.
#[derive(Default)]
pub struct Sent {
    pub passphrase: String,
    pub secret_key: Vec<u8>,
}

impl Opening {
    /// What the service is to try: handed over, or asked for where there is a terminal. Without it the service says what is
    /// missing.
    pub fn for_service(&self, backup: &Backup) -> Result<Sent, Problem> {
        let key = self.secret_key_file.as_deref().map(read).transpose()?;
        let passphrase = match &key {
            Some(_) => self.passphrase.for_service("the secret key, empty if it has none")?,
            None if describe::has_passphrase(backup) => self.passphrase.for_service(&id(&backup.name))?,
            None => self.passphrase.given()?,
        };
        Ok(Sent {
            passphrase: passphrase.map(|passphrase| passphrase.reveal().to_owned()).unwrap_or_default(),
            secret_key: key.map(|key| key.to_vec()).unwrap_or_default(),
        })
    }

    /// What opens a file on this machine: handed over, or asked for. `write_only`: no passphrase does.
    pub fn existing(&self, what: &str, write_only: bool) -> Result<Opener, Problem> {
        match self.key()? {
            Some(opener) => Ok(opener),
            None if write_only => {
                Err(Problem::usage(format!("only the secret key of a recipient opens {what}: use --secret-key-file")))
            }
            None => Ok(Opener::Passphrase(self.passphrase.existing(what)?)),
        }
    }

    /// The same, if it was handed over.
    pub fn given(&self) -> Result<Option<Opener>, Problem> {
        match self.key()? {
            Some(opener) => Ok(Some(opener)),
            None => Ok(self.passphrase.given()?.map(Opener::Passphrase)),
        }
    }

    fn key(&self) -> Result<Option<Opener>, Problem> {
        let Some(path) = &self.secret_key_file else { return Ok(None) };
        let key = read(path)?;
        let passphrase = self.passphrase.for_service("the secret key, empty if it has none")?;
        let opener = Opener::new(passphrase, key.as_slice());
        Ok(Some(opener.ok_or_else(|| Problem::usage(format!("{} is empty", path.display())))?))
    }
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path).with_context(|| format!("cannot open the secret key {}", path.display()))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(SecretKey::MAX_BYTES + 1));
    file.take(SecretKey::MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read the secret key {}", path.display()))?;
    match bytes.len() {
        0 => Err(anyhow!("{} is empty", path.display())),
        length if length > SecretKey::MAX_BYTES => Err(anyhow!("{} is larger than a secret key can be", path.display())),
        _ => Ok(bytes),
    }
}
