//! Holdfast backs up and restores the application data of a platform that keeps it in PostgreSQL.
//!
//! This page is the architecture: what is where, who may use whom, and what happens in a backup and a restore.
//!
//! # Priorities
//!
//! They settle arguments. 1. A backup that says it succeeded can be restored. 2. A restore does all of it or changes
//! nothing. 3. Secrets are nowhere but in the file and the database. 4. The next person finds the place to change in a
//! minute. 5. Speed.
//!
//! # The map
//!
//! | module | what it is for | it alone knows |
//! | --- | --- | --- |
//! | [`model`] | the words and the rules: names, catalog, manifest, digests, schedule, failures. Values only | |
//! | [`archive`] | the bytes of one backup file, blocking | OpenPGP, zstd, tar |
//! | [`folder`] | the mounted volume: draft, keep, read, remove | the file system |
//! | [`postgres`] | the platform's database: a snapshot out, a staged restore in, the service's own state | SQL |
//! | [`lock`] | the maintenance lock as its holder sees it, whoever hosts it | |
//! | [`webhook`] | a receiver of events: CloudEvents, signed | |
//! | [`http`] | a request to somebody else, over TLS | HTTP |
//! | [`depot`] | the archive, a second place for the files: another `folder`, or a bucket | S3 |
//! | [`operations`] | what happens, in which order. Every way in ends here, and only here the six above are joined | |
//! | [`timer`] | the clock as a caller | tokio-cron-scheduler |
//! | [`metrics`] | the figures of `operations`, for Prometheus and a collector | OpenTelemetry |
//! | [`grpc`] | the wire: services of short methods, conversions, access, one failure -> status | tonic |
//! | [`cli`] | the same program as a client | the terminal |
//! | [`config`], [`telemetry`] | arguments and environment; log lines and spans | |
//! | [`fault`] | panics on demand, for tests; not in release builds | |
//!
//! Use goes one way: `main` -> `grpc`, `timer`, `metrics`, `cli` -> `operations` -> `postgres`, `archive`, `folder`, `depot`, `lock`, `webhook` -> `model`.
//! `tests/architecture.rs` holds it. `cli` is a client: it speaks gRPC, and reads files with `archive`. The lock of another
//! service is called from `grpc` too, behind the trait of `lock`.
//!
//! What is backed up is configuration (`deploy/catalog.toml`): a resource is a title, some tables, and queries that tell what a
//! restore of them means for people (`postgres::rules`). No code knows one.
//!
//! # A call
//!
//! `grpc::listener` takes a connection, over TLS where there is a certificate, once it speaks HTTP/2. `grpc::gate` asks
//! `grpc::access` who calls (`identity`: token files, client certificates, Kubernetes, an identity provider), which roles that is
//! bound to, and whether one of them may call the method; only then a handler sees the call. Every refusal is counted and told.
//!
//! # A backup
//!
//! 1. `grpc::backup_service` turns the call into an [`operations::call::BackupRequest`]; `gate` has seen to it that the caller may.
//! 2. `operations::work` takes the maintenance lock (or refuses), writes the operation's row and answers. The work is a task of its
//!    own from here; the row is kept fresh, the lease renewed, and whoever wants it to stop is listened to.
//! 3. `operations::backup` opens a [`postgres::Snapshot`]: every table is locked in ACCESS SHARE mode *before* anything is looked at.
//! 4. The snapshot sends pieces - whole rows as COPY writes them - over a short channel to an [`archive::Writer`] in a blocking
//!    thread, which makes tar in zstd in OpenPGP of them, into a draft in the [`folder`]. Each end takes a transfer that
//!    ends before its end for an error.
//! 5. The draft is made durable, read back from the disk, decrypted, decoded, and compared with what was sent.
//!    A file that only the secret keys of recipients open is read back with the key of its data, which is then forgotten.
//! 6. Under the fence the catalog gets a row (CREATING); then, in one more transaction under it, the draft gets its name and the
//!    row its READY. A crash in between is finished or undone by `operations::recovery`: a file that has its name was proven.
//! 7. Only then retention deletes what is beyond the limit.
//!
//! # A restore
//!
//! 1. The call itself checks the file's SHA-256, the passphrase or secret key (different errors for damaged, wrong and missing; wrong
//!    ones are counted in `operations::check`), and whether the file fits the database.
//!    A file of another time is taken column by column (`postgres::drift`): what fits is taken, what is lost must be acknowledged.
//! 2. The work begins one transaction ([`postgres::Restore`]), the fence first, and loads the file into temporary tables. No target is
//!    locked, let alone changed, before the file proved whole to its last byte. (Where all targets are empty, the file is first read
//!    without the database, and then straight into them.)
//! 3. What somebody must know is found out in the staging tables: a preview (`operations::preview`) ends here, and a restore
//!    that the caller would have to accept, or that cannot succeed, is refused here.
//! 4. Then the targets are locked against writers (readers go on), and a safety backup is made of what they hold
//!    (`operations::safety`); so nothing can come between it and the restore.
//! 5. Triggers of users are switched off, and one statement deletes, updates and inserts what differs (`postgres::apply` says why
//!    one). Equal rows are not written.
//! 6. Foreign keys are checked by anti-join, every table is read back and its digest compared with the file's, and the catalog's
//!    rules are asked again: their notices are the report, their events go into the outbox.
//! 7. A row in `restore_log` goes into the same transaction, which makes the outcome the database's own truth, and it commits. If the
//!    connection is lost then, the truth is asked for, not guessed.
//! 8. Sequences are raised, never lowered, after the commit; again at the next start if need be.
//!
//! # The maintenance lock
//!
//! Backup, restore and software update exclude each other. [`lock::Locks`] is the lock, with two implementations:
//! `operations::locks` hosts it on the database, for this service and, by `grpc::lock_service`, for others;
//! `grpc::lock_client` is the client of another service that hosts it. `operations::hold` asks for it and gives it back,
//! [`lock::Keeper`] renews it from a runtime of its own, and a lease that cannot be renewed ends the work before it is over.
//!
//! That alone does not stop a process that was paused. So each protected transaction begins with the fence
//! (`postgres::fence`): whoever takes the lock over waits for those that passed it, and no other passes. The draft of a holder
//! that was evicted is removed as soon as somebody can; the fence holds also when nobody could.
//!
//! What an operation of a dead process left is ended by the next who looks (`operations::recovery`): dead is whose sessions are
//! gone from the database, or who was silent for ten looks. The outcome is what the database and the folder say. A defect that
//! panics is treated the same, by the process itself.
//!
//! # Events
//!
//! What happens is told in the transaction that makes it so (`postgres::state::events`): a row for each event, which is the audit
//! log and the outbox in one. Events get their numbers once they are committed, in one order for all who read them:
//! `grpc::audit_service`, and `operations::outbox`, which delivers to the [`webhook`]. With its number each gets a hash over the one before
//! ([`model::chain`]); the newest stands in each file, so that one elsewhere proves what the log was, and `cli::audit` checks it.
//!
//! # Traces
//!
//! `grpc::trace` has a span for each call, within the trace of its caller, and tells how long it took. `operations::trail` has those of the
//! operation that a call began, of its phases and of its resources; blocking threads and the runtime of the lock go on in the span they
//! were sent from. Everybody else writes spans and lines of `tracing` and no more; [`telemetry`] makes log lines of them that say which
//! trace they belong to, and exports them when there is a collector. The trace id stands in the operation, its events and its file.
//!
//! # The file
//!
//! `<time>-<id>-<SHA-256, first 32 hex digits>.tar.zst.pgp`: `README.txt`, `manifest.json`, `data/<resource>/<table>/<nnnnn>.copy`,
//! `end.json`, `signature.asc`. [`model::manifest`] has the fields, [`archive`] the layers and [`model::copy`] the digest.
//! The passphrase opens it, the secret keys of [`archive::Recipients`], or either. `operations::signing` keeps the key that signs
//! it; whose files count as this system's own is an [`archive::Trust`], and those of others are restored only when that is meant.
//!
//! The folder is the truth and the catalog an index of it: at the start, and when somebody asks, what is in the folder is compared
//! with the catalog (`operations::sync`). What a file that was found there says of itself enters the catalog once it is opened.
//! A file that a caller sends (`operations::upload`) is a draft until it is proven in the same way; then it gets its name and its entry
//! in one transaction, as a backup does, but needs no lock. `operations::transfer` says how slow a download or upload may be.
//! Each file is copied to the archive as well, if there is one, and read back from there (`operations::archiving`); a backup whose
//! file is gone or damaged is brought back when it is used (`operations::bring_back`), and what only the archive has is listed.
//! Each file is read again within a day (`operations::scrub`), in the way in which `operations::verify` does it when somebody asks.

pub mod archive;
pub mod cli;
pub mod config;
pub mod depot;
pub mod fault;
pub mod folder;
pub mod grpc;
pub mod http;
pub mod lock;
pub mod metrics;
pub mod model;
pub mod operations;
pub mod postgres;
pub mod telemetry;
pub mod timer;
pub mod webhook;
