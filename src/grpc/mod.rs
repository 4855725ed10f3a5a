//! The wire: the generated types of the contract and, around them, what turns calls into work.
//!
//! A call passes `gate` (may it?), a method of one of the services, and `convert` on its way in and
//! out; what fails leaves through `status`. Nothing is decided here that is not about the wire.

mod access;
mod audit_service;
mod backup_service;
mod convert;
mod gate;
mod health;
mod listener;
mod lock_client;
mod lock_service;
mod operation_service;
pub mod proto;
mod status;
mod tls;
mod trace;

use std::time::Duration;

use futures_util::stream::{BoxStream, Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::server::NamedService;
use tonic::transport::Server;
use tracing::warn;

pub use access::{Authenticator, Bindings, Jwt, KeySource, Role, TokenReview};
pub use health::Probes;
pub use listener::Listener;
pub use lock_client::RemoteLock;
use proto::backup::audit_service_server::AuditServiceServer;
use proto::backup::backup_service_server::BackupServiceServer;
use proto::backup::operation_service_server::OperationServiceServer;
use proto::lock::lock_service_server::LockServiceServer;
pub use tls::{Tls, TlsFiles};
pub use trace::{Answer, Answered};

use crate::operations::Holdfast;

/// For `fuzz/`, and nobody else: where what callers send becomes values.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use super::convert::{backup, event, fields, lock, operation, settings};
}

/// What differs between installations.
#[derive(Clone)]
pub struct Settings {
    pub authenticator: Authenticator,
    /// Takes passphrases over connections without TLS: for development, or where a mesh encrypts.
    pub allow_plaintext_secrets: bool,
    /// Who learns whether the service is able to work.
    pub probes: Probes,
    /// Who counts the calls.
    pub answered: Answered,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the descriptors of the contract cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the server cannot listen")]
    Transport(#[from] tonic::transport::Error),
}

/// The stream of one that watches, which has this place for as long as it lives.
fn held<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    place: OwnedSemaphorePermit,
) -> BoxStream<'static, Result<T, Status>> {
    let keep = move |_: &Result<T, Status>| _ = &place;
    stream.inspect(keep).boxed()
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;
/// Largest message taken; uploads come in chunks of 1 MiB.
const MAX_MESSAGE: usize = 256 * 1024;
const MAX_CHUNK_MESSAGE: usize = 2 * 1024 * 1024;
/// Most connections of those who probe at a time.
const MAX_PROBES: usize = 32;
const MAX_HEADERS: u32 = 16 * KIB;
const MAX_STREAMS: u32 = 100;
/// Streams that a client has reset before they were begun with, and those that are reset for what it did: then its connection
/// ends (CVE-2023-44487, CVE-2025-8671).
const MAX_RESETS: usize = 20;
const MAX_RESETS_BY_US: usize = 100;
const STREAM_WINDOW: u32 = MIB;
const CONNECTION_WINDOW: u32 = 4 * MIB;
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Spreads new calls over replicas.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
/// As long as a transfer may take: an upload cannot be taken up again.
const MAX_CONNECTION_GRACE: Duration = Duration::from_secs(6 * 3600);
/// How long calls may take to end once the service stops. A graceful shutdown has no end of its own (hyper #4170).
const SHUTDOWN: Duration = Duration::from_secs(5);
/// The same for the calls of a server that is not ready, which are all short.
const HANDOVER: Duration = Duration::from_secs(1);

/// Serves before there is a `Holdfast`, until `started`: the process is alive and not ready, and every call is told so.
///
/// # Errors
/// When the server cannot start.
pub async fn serve_not_ready(listener: Listener, authenticator: Authenticator, started: CancellationToken) -> Result<(), Error> {
    let (reporter, health) = health::start().await;
    let router = server().layer(gate::Gate::not_ready(authenticator)).add_service(health.max_decoding_message_size(MAX_MESSAGE));
    let end = {
        let started = started.clone();
        async move {
            started.cancelled().await;
            health::let_go(reporter).await;
        }
    };
    let too_late = async {
        started.cancelled().await;
        tokio::time::sleep(HANDOVER).await;
    };
    tokio::select! {
        end = router.serve_with_incoming_shutdown(listener.connections(), end) => end?,
        () = too_late => {}
    }
    Ok(())
}

/// Answers probes and nothing else, for as long as somebody waits for its end.
///
/// # Errors
/// When the server cannot start.
pub async fn serve_health(listener: Listener, probes: Probes) -> Result<(), Error> {
    let (reporter, health) = health::start().await;
    let router = server().add_service(health.max_decoding_message_size(MAX_MESSAGE));
    tokio::select! {
        end = router.serve_with_incoming(listener.at_most(MAX_PROBES).connections()) => end?,
        () = probes.tell(reporter, CancellationToken::new()) => {}
    }
    Ok(())
}

/// Serves until `holdfast` stops, and a little longer for the calls that are under way.
///
/// # Errors
/// When the server cannot start. That calls did not end in time is not an error.
pub async fn serve(listener: Listener, holdfast: Holdfast, settings: Settings) -> Result<(), Error> {
    let stopping = holdfast.stopping();
    let (reporter, health) = health::start().await;
    let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    let allow_plaintext_secrets = settings.allow_plaintext_secrets;
    let backups = backup_service::Service { holdfast: holdfast.clone(), allow_plaintext_secrets };
    let operations = operation_service::Service { holdfast: holdfast.clone() };
    let events = audit_service::Service { holdfast: holdfast.clone() };
    let locks = lock_service::Service { holdfast: holdfast.clone(), allow_plaintext_secrets };
    let witness = holdfast.clone();
    let gate = gate::Gate::new(settings.authenticator, stopping.clone(), move |caller, reason| witness.refused(caller, reason));
    let router = server()
        .layer(gate.telling(settings.answered))
        .add_service(BackupServiceServer::new(backups).max_decoding_message_size(MAX_CHUNK_MESSAGE))
        .add_service(OperationServiceServer::new(operations).max_decoding_message_size(MAX_MESSAGE))
        .add_service(AuditServiceServer::new(events).max_decoding_message_size(MAX_MESSAGE))
        .add_service(LockServiceServer::new(locks).max_decoding_message_size(MAX_MESSAGE))
        .add_service(health.max_decoding_message_size(MAX_MESSAGE))
        .add_service(v1.max_decoding_message_size(MAX_MESSAGE))
        .add_service(v1alpha.max_decoding_message_size(MAX_MESSAGE));
    let told = settings.probes.tell(reporter, stopping.clone());
    let server = router.serve_with_incoming_shutdown(listener.connections(), told);
    let look = async {
        settings.probes.look(&holdfast).await;
        std::future::pending().await
    };
    let too_late = async {
        stopping.cancelled().await;
        tokio::time::sleep(SHUTDOWN).await;
    };
    tokio::select! {
        end = server => end?,
        () = look => {}
        () = too_late => warn!("calls that did not end in time are cut off"),
    }
    Ok(())
}

/// A server with the limits of all connections.
fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_RESETS_BY_US))
        .max_connection_age(MAX_CONNECTION_AGE)
        .max_connection_age_grace(MAX_CONNECTION_GRACE)
}

/// Names of the services that are served and described: those that are in the table of `access`.
fn served() -> [&'static str; 7] {
    [
        BackupServiceServer::<backup_service::Service>::NAME,
        OperationServiceServer::<operation_service::Service>::NAME,
        AuditServiceServer::<audit_service::Service>::NAME,
        LockServiceServer::<lock_service::Service>::NAME,
        tonic_health::pb::health_server::SERVICE_NAME,
        tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME,
        tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME,
    ]
}

/// All descriptor sets: with the details of errors, or clients could not show them.
const DESCRIPTORS: [&[u8]; 5] = [
    proto::DESCRIPTORS,
    tonic_types::pb::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

fn reflection() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure().include_reflection_service(false);
    let builder = DESCRIPTORS.into_iter().fold(builder, |builder, set| builder.register_encoded_file_descriptor_set(set));
    served().into_iter().fold(builder, |builder, name| builder.with_service_name(name))
}
