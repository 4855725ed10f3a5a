//! Where passphrases and confirmations come from: standard input, a file or a terminal. Never arguments or environment.
//!
//! Exactly one line end (`\n` or `\r\n`) is cut off from the end of standard input and of files, so that `echo` and
//! editors can be used; every other character, blanks too, belongs to the passphrase.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::problem::Problem;
use crate::model::Passphrase;

/// How a passphrase is handed over.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
pub struct Source {
    /// Read the passphrase from standard input
    #[arg(long)]
    passphrase_stdin: bool,
    /// Read the passphrase from a file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

const NO_TERMINAL: &str = "there is no terminal to ask for the passphrase: use --passphrase-stdin or --passphrase-file";

impl Source {
    /// Whether standard input is the passphrase, so that nothing else can be asked.
    pub fn is_stdin(&self) -> bool {
        self.passphrase_stdin
    }

    /// The passphrase that was handed over, if one was.
    pub fn given(&self) -> Result<Option<Passphrase>, Problem> {
        Ok(match self.text()? {
            Some(text) => Some(Passphrase::new(text.as_str()).ok_or_else(|| Problem::usage("the passphrase is empty"))?),
            None => None,
        })
    }

    /// The passphrase for the service to try: handed over, or asked for where there is a terminal. Without one the service
    /// says what is missing, and which passphrase it was.
    pub fn for_service(&self, what: &str) -> Result<Option<Passphrase>, Problem> {
        let text = match self.text()? {
            None if io::stdin().is_terminal() => ask(&format!("Passphrase of {what}: "))?,
            None => Zeroizing::default(),
            Some(text) => text,
        };
        Ok(Passphrase::new(text.as_str()))
    }

    /// The passphrase that opens an existing file: handed over, or asked for.
    pub fn existing(&self, what: &str) -> Result<Passphrase, Problem> {
        match self.given()? {
            Some(passphrase) => Ok(passphrase),
            None => {
                let text = ask(&format!("Passphrase of {what}: "))?;
                Passphrase::new(text.as_str()).ok_or_else(|| Problem::usage("the passphrase is empty"))
            }
        }
    }

    /// A new passphrase: handed over, or asked for twice.
    pub fn new_one(&self) -> Result<Passphrase, Problem> {
        let text = match self.text()? {
            Some(text) => text,
            None => {
                let text = ask("New passphrase: ")?;
                if !text.is_empty() && *text != *ask("New passphrase again: ")? {
                    return Err(Problem::usage("the two passphrases differ; nothing was changed"));
                }
                text
            }
        };
        Passphrase::new(text.as_str()).ok_or_else(|| {
            Problem::usage("the passphrase is empty; to stop encrypting new backups use `holdfast encryption off`")
        })
    }

    fn text(&self) -> Result<Option<Zeroizing<String>>, Problem> {
        Ok(match &self.passphrase_file {
            Some(path) => Some(from_file(path)?),
            None if self.passphrase_stdin => Some(read(io::stdin().lock()).context("cannot read the passphrase")?),
            None => None,
        })
    }
}

fn from_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let file = File::open(path).with_context(|| format!("cannot open the passphrase file {}", path.display()))?;
    read(file).with_context(|| format!("cannot read the passphrase file {}", path.display()))
}

/// All of it without one line end.
fn read(source: impl Read) -> anyhow::Result<Zeroizing<String>> {
    let limit = Passphrase::MAX_BYTES + 2;
    let mut text = Zeroizing::new(String::with_capacity(limit + 1));
    source.take(limit as u64 + 1).read_to_string(&mut text)?;
    if text.len() > limit {
        return Err(anyhow!("it is longer than a passphrase can be ({} bytes)", Passphrase::MAX_BYTES));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Problem> {
    if !io::stdin().is_terminal() {
        return Err(Problem::usage(NO_TERMINAL));
    }
    Ok(Zeroizing::new(rpassword::prompt_password(prompt).context("cannot ask for the passphrase")?))
}

/// Whether there is somebody to ask.
///
/// # Errors
/// When there is no terminal, or standard input is the passphrase.
pub fn can_ask(source: Option<&Source>) -> Result<(), Problem> {
    if source.is_some_and(Source::is_stdin) || !io::stdin().is_terminal() {
        return Err(Problem::usage(
            "there is no terminal to ask for confirmation: use --yes to go ahead without; nothing was changed",
        ));
    }
    Ok(())
}

/// Asks on the terminal before something that cannot be taken back.
///
/// # Errors
/// When the answer is anything but `yes`, there is no terminal to ask, or on Ctrl-C.
pub async fn confirm(question: &str, source: Option<&Source>) -> Result<(), Problem> {
    can_ask(source)?;
    // From before the question is there, so that no Ctrl-C is lost.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot ask")?;
    write!(io::stderr(), "{question} Type yes to go ahead: ").and_then(|()| io::stderr().flush()).context("cannot ask")?;
    // Once an operation was followed, Ctrl-C no longer ends the program by itself. A thread of the runtime would keep the
    // program from ending as long as it waits for a line.
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        let read = io::stdin().read_line(&mut answer);
        // Nobody listens any more after Ctrl-C.
        let _ = tell.send(read.map(|_| answer));
    });
    let answer = tokio::select! {
        answer = told => answer.context("cannot read the answer")?.context("cannot read the answer")?,
        _ = interrupt.recv() => return Err(Problem::Interrupted("Interrupted. Nothing was changed.".to_owned())),
    };
    if answer.trim() == "yes" { Ok(()) } else { Err(anyhow!("not confirmed; nothing was changed").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_line_end_is_cut_off() {
        let text = |bytes: &[u8]| read(bytes).unwrap().to_string();
        assert_eq!(text(b"secret\n"), "secret");
        assert_eq!(text(b"secret\r\n"), "secret");
        assert_eq!(text(b"secret\n\n"), "secret\n");
        assert_eq!(text(b" secret \t"), " secret \t");
        assert_eq!(text(b"secret\r"), "secret\r");
        assert_eq!(text(b""), "");
        assert_eq!(text(b"\n"), "");
    }

    #[test]
    fn what_cannot_be_a_passphrase_is_refused() {
        assert!(read(&[b'a'; 1027][..]).is_err());
        assert!(read(&[b'a'; 1026][..]).is_ok());
        assert!(read(&b"\xff\xfe"[..]).is_err());
    }

    #[test]
    fn an_empty_new_passphrase_points_to_encryption_off() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = Source { passphrase_file: Some(file.path().to_owned()), ..Source::default() };
        assert!(source.new_one().unwrap_err().to_string().contains("encryption off"));
        assert!(matches!(source.existing("x"), Err(Problem::Usage(_))));
    }
}
