//! A service with the contract's own types on loopback, which answers as a test wants and remembers what it was asked.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use crate::platform::{PREVIEW, Platform};
use holdfast::grpc::proto::backup::backup_service_server::{BackupService, BackupServiceServer};
use holdfast::grpc::proto::backup::download_backup_response::Payload;
use holdfast::grpc::proto::backup::operation_service_server::{OperationService, OperationServiceServer};
use holdfast::grpc::proto::backup::*;
use holdfast::grpc::proto::lock::lock_service_server::{LockService, LockServiceServer};
use holdfast::grpc::proto::lock::{
    AcquireLockRequest, ForceReleaseLockRequest, GetLockRequest, Lock, LockLease, ReleaseLockRequest, RenewLockRequest,
    WatchLockRequest, lock,
};
use tokio_stream::{Stream, StreamExt, iter, pending};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub const BACKUP: &str = "backups/b-20260301t010000z-abcdefgh";
pub const OPERATION: &str = "operations/019c0000-0000-7000-8000-000000000000";
pub const FILE: &str = "20260301T010000Z-abcdefgh-00112233445566778899aabbccddeeff.tar.zst";

#[derive(Clone, Default)]
pub struct Fake {
    /// What the service was asked, as one line each.
    pub asked: Arc<Mutex<Vec<String>>>,
    pub file: Arc<Vec<u8>>,
    pub platform: Arc<Mutex<Platform>>,
}

type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Fake {
    fn note(&self, line: String) -> usize {
        let mut asked = self.asked.lock().unwrap();
        asked.push(line.clone());
        asked.iter().filter(|earlier| **earlier == line).count()
    }

    pub async fn listen(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let router = tonic::transport::Server::builder()
            .add_service(BackupServiceServer::new(self.clone()))
            .add_service(OperationServiceServer::new(self.clone()))
            .add_service(LockServiceServer::new(self));
        tokio::spawn(router.serve_with_incoming(incoming));
        format!("http://{address}")
    }

    fn catalog(&self) -> Backup {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.file);
        Backup {
            name: BACKUP.into(),
            state: backup::State::Ready.into(),
            size_bytes: self.file.len() as i64,
            file_name: FILE.into(),
            sha256: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            encryption_info: Some(EncryptionInfo {
                r#type: encryption_info::Type::Passphrase.into(),
                ..EncryptionInfo::default()
            }),
            ..Backup::default()
        }
    }
}

pub fn refusal(code: Code, reason: &str) -> Status {
    refusal_with(code, reason, &[("holder", "somebody")])
}

pub fn refusal_with(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    Status::with_error_details(code, "Refused.", ErrorDetails::with_error_info(reason, "backup.holdfast", pairs(metadata)))
}

pub fn pairs(metadata: &[(&str, &str)]) -> HashMap<String, String> {
    metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn state(revision: i64, result: Option<operation::Result>) -> Operation {
    let metadata = OperationMetadata { revision, phase: OperationPhase::Transferring.into(), ..Default::default() };
    Operation { name: OPERATION.into(), metadata: Some(metadata), done: result.is_some(), result }
}

/// Methods that no test calls answer UNIMPLEMENTED.
macro_rules! services {
    ($($name:ident($request:ty) -> $answer:ty;)* { $($backup:tt)* } $($other:ident($other_request:ty) -> $other_answer:ty;)* { $($op:tt)* }) => {
        #[tonic::async_trait]
        impl BackupService for Fake {
            type DownloadBackupStream = Sent<DownloadBackupResponse>;
            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$answer>, Status> {
                Err(Status::unimplemented(""))
            })*
            $($backup)*
        }
        #[tonic::async_trait]
        impl OperationService for Fake {
            type WatchOperationStream = Sent<Operation>;
            $(async fn $other(&self, _: Request<$other_request>) -> Result<Response<$other_answer>, Status> {
                Err(Status::unimplemented(""))
            })*
            $($op)*
        }
    };
}

services! {
    set_schedule(SetScheduleRequest) -> Schedule;
    delete_backup(DeleteBackupRequest) -> ();
    verify_backup(VerifyBackupRequest) -> Operation;
    check_passphrase(CheckPassphraseRequest) -> CheckPassphraseResponse;
    update_backup(UpdateBackupRequest) -> Backup;
    upload_backup(tonic::Streaming<UploadBackupRequest>) -> Backup;
    sync_backups(SyncBackupsRequest) -> SyncBackupsResponse;
    get_schedule(GetScheduleRequest) -> Schedule;
    get_retention(GetRetentionRequest) -> Retention;
    set_retention(SetRetentionRequest) -> Retention;
    get_encryption(GetEncryptionRequest) -> Encryption;
    get_signing(GetSigningRequest) -> Signing;
    rotate_signing_key(RotateSigningKeyRequest) -> Signing;
    {
        async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Operation>, Status> {
            let request = request.into_inner();
            let times = self.note(format!("Backup {} {}", request.description, request.request_id));
            match request.description.as_str() {
                "flaky" if times < 3 => Err(Status::unavailable("starting")),
                "update" => Err(refusal_with(
                    Code::FailedPrecondition,
                    "SOFTWARE_UPDATE_IN_PROGRESS",
                    &[
                        ("holder", "update-service"),
                        ("holderReason", "Update to 8.4.1"),
                        ("acquireTime", "2026-03-01T01:00:00Z"),
                        ("expireTime", "2026-03-01T01:15:00Z"),
                    ],
                )),
                "busy" => Err(refusal_with(Code::Aborted, "OPERATION_IN_PROGRESS", &[("operation", OPERATION)])),
                "silent" => std::future::pending().await,
                "disabled" => Err(refusal(Code::FailedPrecondition, "SCHEDULE_DISABLED")),
                "fails" | "endless" => {
                    self.note(request.description);
                    Ok(Response::new(state(1, None)))
                }
                _ => Ok(Response::new(state(1, None))),
            }
        }

        async fn restore(&self, request: Request<RestoreRequest>) -> Result<Response<Operation>, Status> {
            let request = request.into_inner();
            self.note(format!("Restore {} {:?} {:?}", request.name, request.passphrase, request.resources));
            self.platform.lock().unwrap().restore(request).map(Response::new)
        }

        async fn preview_restore(&self, request: Request<PreviewRestoreRequest>) -> Result<Response<Operation>, Status> {
            let request = request.into_inner();
            self.note(format!("Preview {} {:?} {:?}", request.name, request.passphrase, request.resources));
            self.platform.lock().unwrap().rehearse().map(Response::new)
        }

        async fn get_system_status(
            &self,
            _: Request<GetSystemStatusRequest>,
        ) -> Result<Response<SystemStatus>, Status> {
            Ok(Response::new(self.platform.lock().unwrap().status.clone()))
        }

        async fn list_resources(
            &self,
            _: Request<ListResourcesRequest>,
        ) -> Result<Response<ListResourcesResponse>, Status> {
            let resources = self.platform.lock().unwrap().resources.clone();
            Ok(Response::new(ListResourcesResponse { resources, ..Default::default() }))
        }

        async fn list_backups(&self, request: Request<ListBackupsRequest>) -> Result<Response<ListBackupsResponse>, Status> {
            let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            self.note(format!("ListBackups {}", token.unwrap_or_default()));
            let first = request.into_inner().page_token.is_empty();
            let backups = vec![Backup { name: "backups/b-x".into(), ..Backup::default() }];
            let next_page_token = if first { "2" } else { "" }.to_owned();
            let backups = if first { backups } else { vec![self.catalog()] };
            let safety = self.platform.lock().unwrap().safety.clone().filter(|_| first);
            let backups = safety.into_iter().chain(backups).collect();
            Ok(Response::new(ListBackupsResponse { backups, next_page_token, total_size: 2 }))
        }

        async fn get_backup(&self, request: Request<GetBackupRequest>) -> Result<Response<Backup>, Status> {
            let name = request.into_inner().name;
            let safety = self.platform.lock().unwrap().safety.clone().filter(|safety| safety.name == name);
            match safety {
                Some(safety) => Ok(Response::new(safety)),
                None if name == BACKUP => Ok(Response::new(self.catalog())),
                None => Err(refusal(Code::NotFound, "BACKUP_NOT_FOUND")),
            }
        }

        async fn set_encryption(&self, request: Request<SetEncryptionRequest>) -> Result<Response<Encryption>, Status> {
            self.note(format!("SetEncryption {:?}", request.into_inner().passphrase));
            Ok(Response::new(Encryption { enabled: true, passphrase_generation: 1, ..Encryption::default() }))
        }

        async fn download_backup(
            &self,
            request: Request<DownloadBackupRequest>,
        ) -> Result<Response<Self::DownloadBackupStream>, Status> {
            let request = request.into_inner();
            let start = request.read_offset as usize;
            self.note(format!("DownloadBackup {start}"));
            let catalog = self.catalog();
            let header = FileHeader { sha256: catalog.sha256, size_bytes: catalog.size_bytes, ..FileHeader::default() };
            let mut messages = vec![Ok(DownloadBackupResponse { payload: Some(Payload::Header(header)) })];
            // Each transfer breaks off after two pieces.
            for (place, piece) in self.file[start..].chunks(1000).take(2).enumerate() {
                let chunk = FileChunk {
                    offset: (start + 1000 * place) as i64,
                    data: piece.to_vec().into(),
                    crc32c: Some(crc32c::crc32c(piece)),
                };
                messages.push(Ok(DownloadBackupResponse { payload: Some(Payload::Chunk(chunk)) }));
            }
            messages.push(Err(Status::unavailable("gone")));
            Ok(Response::new(Box::pin(iter(messages))))
        }
    }
    wait_operation(WaitOperationRequest) -> Operation;
    {
        async fn list_operations(
            &self,
            request: Request<ListOperationsRequest>,
        ) -> Result<Response<ListOperationsResponse>, Status> {
            // One on each page.
            let request = request.into_inner();
            let page: usize = request.page_token.parse().unwrap_or(0);
            let mut all = self.platform.lock().unwrap().operations.clone();
            all.retain(|operation| !request.active_only || !operation.done);
            let next_page_token = if page + 1 < all.len() { (page + 1).to_string() } else { String::new() };
            Ok(Response::new(ListOperationsResponse { operations: all.into_iter().skip(page).take(1).collect(), next_page_token }))
        }

        async fn get_operation(&self, request: Request<GetOperationRequest>) -> Result<Response<Operation>, Status> {
            let name = request.into_inner().name;
            let known = self.platform.lock().unwrap().operations.iter().find(|operation| operation.name == name).cloned();
            Ok(Response::new(known.unwrap_or_else(|| state(1, None))))
        }

        async fn cancel_operation(&self, request: Request<CancelOperationRequest>) -> Result<Response<()>, Status> {
            self.note(format!("Cancel {}", request.into_inner().name));
            Ok(Response::new(()))
        }

        async fn watch_operation(
            &self,
            request: Request<WatchOperationRequest>,
        ) -> Result<Response<Self::WatchOperationStream>, Status> {
            if request.into_inner().name == PREVIEW {
                let ended = self.platform.lock().unwrap().rehearsed();
                return Ok(Response::new(Box::pin(iter([Ok(state(3, None)), Ok(ended)]))));
            }
            let times = self.note("WatchOperation".into());
            let described = |text: &str| self.asked.lock().unwrap().iter().any(|line| line == text);
            if described("endless") {
                return Ok(Response::new(Box::pin(iter([Ok(state(2, None))]).chain(pending()))));
            }
            if times == 1 {
                return Ok(Response::new(Box::pin(iter([Ok(state(2, None)), Err(Status::unavailable("gone"))]))));
            }
            let result = if described("fails") {
                operation::Result::Error(OperationError {
                    code: Code::ResourceExhausted as i32,
                    message: "The volume is full.".into(),
                    reason: "STORAGE_FULL".into(),
                    instructions: "Make room.".into(),
                    ..OperationError::default()
                })
            } else {
                operation::Result::Backup(BackupResult { backup: Some(self.catalog()), ..BackupResult::default() })
            };
            Ok(Response::new(Box::pin(iter([Ok(state(3, None)), Ok(state(4, Some(result)))]))))
        }
    }
}

/// An error of the lock service.
fn lock_refusal(code: Code, reason: &str) -> Status {
    Status::with_error_details(code, "Refused.", ErrorDetails::with_error_info(reason, "lock.holdfast", HashMap::new()))
}

#[tonic::async_trait]
impl LockService for Fake {
    type WatchLockStream = Sent<Lock>;

    async fn get_lock(&self, _: Request<GetLockRequest>) -> Result<Response<Lock>, Status> {
        let platform = self.platform.lock().unwrap();
        match platform.lock_refused {
            Some((code, reason)) => Err(lock_refusal(code, reason)),
            None => Ok(Response::new(platform.lock.clone())),
        }
    }

    /// Each watch but the last breaks off.
    async fn watch_lock(&self, _: Request<WatchLockRequest>) -> Result<Response<Self::WatchLockStream>, Status> {
        self.note("WatchLock".into());
        let mut platform = self.platform.lock().unwrap();
        let sent = platform.watched.pop_front().unwrap_or_default().into_iter().map(Ok);
        Ok(Response::new(match platform.watched.is_empty() {
            true => Box::pin(iter(sent).chain(pending())),
            false => Box::pin(iter(sent).chain(iter([Err(Status::unavailable("gone"))]))),
        }))
    }

    async fn force_release_lock(&self, request: Request<ForceReleaseLockRequest>) -> Result<Response<Lock>, Status> {
        let request = request.into_inner();
        self.note(format!("ForceReleaseLock {} {} {}", request.name, request.fencing_token, request.reason));
        let lock = &mut self.platform.lock().unwrap().lock;
        if lock.holder.as_ref().is_none_or(|holder| holder.fencing_token != request.fencing_token) {
            return Err(lock_refusal(Code::Aborted, "FENCING_TOKEN_MISMATCH"));
        }
        *lock = Lock { state: lock::State::Free.into(), holder: None, ..lock.clone() };
        Ok(Response::new(lock.clone()))
    }

    async fn acquire_lock(&self, _: Request<AcquireLockRequest>) -> Result<Response<LockLease>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew_lock(&self, _: Request<RenewLockRequest>) -> Result<Response<LockLease>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn release_lock(&self, _: Request<ReleaseLockRequest>) -> Result<Response<Lock>, Status> {
        Err(Status::unimplemented(""))
    }
}
