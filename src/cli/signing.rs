//! Who signs and signed the files of the service, and the certificates to verify them with.

use super::Session;
use super::connect::unary;
use super::output::{facts, note, table, time};
use super::passphrase::confirm;
use super::problem::Problem;
use crate::grpc::proto::backup::{GetSigningRequest, RotateSigningKeyRequest, Signing, SigningKey};

#[derive(Debug, Default, clap::Subcommand)]
pub enum What {
    /// Show the key that new backups are signed with, those before it, and who else is trusted
    #[default]
    Show,
    /// Print the certificates, armored: for gpg --import, and for HOLDFAST_TRUSTED_CERTIFICATES_FILE of another installation
    Export,
    /// Sign new backups with a new key; those signed with the old one stay this system's own
    Rotate {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub async fn run(session: Session, what: What) -> Result<(), Problem> {
    let Session { client, output } = &session;
    let show = async || client.repeat(async || client.backups().get_signing(unary(GetSigningRequest {})).await).await;
    match what {
        What::Show => output.result(&show().await?, describe),
        What::Export => {
            output.result(&show().await?, |signing| signing.keys.iter().map(|key| key.certificate.as_str()).collect())
        }
        What::Rotate { yes } => {
            if !yes {
                confirm("The present key is destroyed. Backups made from now on are signed with a new one.", None).await?;
            }
            let request = || unary(RotateSigningKeyRequest {});
            let signing = client.once(async || client.backups().rotate_signing_key(request()).await).await?;
            note("Export the certificates again (holdfast signing export), and keep them where backups are restored.");
            output.result(&signing, describe)
        }
    }
}

fn describe(signing: &Signing) -> String {
    let in_use = signing.keys.iter().find(|key| key.in_use).map(|key| key.fingerprint.clone()).unwrap_or_default();
    let facts = facts([("New backups are signed with", in_use), ("Also trusted", signing.trusted.join(", "))]);
    let row = |key: &SigningKey| {
        let state = if key.in_use { "in use" } else { "trusted" };
        [key.fingerprint.clone(), state.to_owned(), time(key.create_time), key.creator.clone()]
    };
    format!("{facts}\n{}", table(["KEY", "STATE", "MADE", "BY"], signing.keys.iter().map(row)))
}
