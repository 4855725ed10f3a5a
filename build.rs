//! Compiles the contract in `proto/` without `protoc`, and keeps its descriptors for reflection.

use std::error::Error;
use std::path::PathBuf;

/// Messages with `debug_redact` fields: prost would derive a `Debug` that prints them.
const SECRET_MESSAGES: [&str; 8] = [
    ".holdfast.backup.v1.RestoreRequest",
    ".holdfast.backup.v1.VerifyBackupRequest",
    ".holdfast.backup.v1.PreviewRestoreRequest",
    ".holdfast.backup.v1.SetEncryptionRequest",
    ".holdfast.backup.v1.CheckPassphraseRequest",
    ".holdfast.lock.v1.LockLease",
    ".holdfast.lock.v1.RenewLockRequest",
    ".holdfast.lock.v1.ReleaseLockRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files =
        ["audit_service", "backup", "backup_service", "error_reason", "operation", "operation_service", "restore", "settings"]
            .map(|name| format!("holdfast/backup/v1/{name}.proto"));
    let lock = ["error_reason", "lock", "lock_service"].map(|name| format!("holdfast/lock/v1/{name}.proto"));
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(files.iter().chain(&lock))?;
    let mut config = tonic_prost_build::configure().bytes(".holdfast.backup.v1.FileChunk.data").skip_debug(SECRET_MESSAGES);
    config = config.build_transport(true);
    config.compile_fds(compiler.file_descriptor_set())?;
    // Reflection needs the descriptors, not the comments in them. Encoded by the compiler, for `prost_types` has no field
    // for options such as `debug_redact`.
    let descriptors = compiler.include_source_info(false).encode_file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("holdfast.descriptors"), descriptors)?;
    Ok(())
}
