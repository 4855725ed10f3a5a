//! What happens, in which order. Every way in - calls, timer, recovery - ends here.
//!
//! Only this module joins `postgres`, `archive`, `folder`, `depot`, `lock` and `webhook`, of which only `depot` knows another, `folder`. The life of an
//! operation is in [`work`]; what a backup and a restore do is in [`backup`] and [`restore`], from top to bottom.

mod admission;
mod archiving;
mod backup;
mod backups;
mod bring_back;
pub mod call;
mod check;
mod download;
mod error;
mod events;
mod figures;
mod hold;
mod in_use;
mod locks;
mod outbox;
mod preview;
mod proof;
mod recovery;
mod resources;
mod restore;
mod retention;
mod safety;
mod schedule;
mod scrub;
mod seal;
mod settings;
mod signing;
mod source;
mod sync;
mod trail;
mod transfer;
mod upload;
mod verify;
mod work;
mod works;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Span;
use uuid::Uuid;

use crate::archive::Unusable;
use crate::folder::{self, Folder};
use crate::lock::Keeper;
use crate::model::event::Caller;
use crate::model::schedule::Driver;
use crate::model::{Catalog, Operation, OperationId};
use crate::postgres::Database;
use crate::postgres::state::{State, System};
use crate::telemetry;
use crate::webhook::Webhook;

pub use admission::Limits;
pub use archiving::Archive;
pub use check::Opened;
pub use error::Error;
pub use locks::Hosted;
pub use seal::SealKey;

pub use crate::archive::{Recipients, Trust};

type Result<T, E = Error> = std::result::Result<T, E>;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Holdfast(Arc<Running>);

/// What it is made of. Each is open and checked.
pub struct Parts {
    pub database: Database,
    pub state: State,
    pub folder: Folder,
    pub catalog: Catalog,
    pub seal_key: SealKey,
    /// Who opens new files with a secret key of their own.
    pub recipients: Recipients,
    /// Others whose files count as this system's own.
    pub trusted: Trust,
    /// The maintenance lock, wherever it is hosted.
    pub locks: Keeper,
    /// The same, when this service hosts it for others.
    pub hosted: Option<Hosted>,
    /// Longest time an operation may take, waiting for the lock left out.
    pub operation_timeout: Duration,
    /// Each file is read again within this time.
    pub scrub_period: Duration,
    /// Who starts scheduled backups.
    pub driver: Driver,
    /// What callers may take.
    pub limits: Limits,
    /// A volume that is lost, and whose place the folder takes.
    pub lost_volume: Option<Uuid>,
    /// Who is told of events.
    pub webhook: Option<Webhook>,
    /// A second place for the files.
    pub archive: Option<Archive>,
    /// Is told of each operation that ended here, and of each that was asked for and did not begin: it has no outcome.
    pub told: Told,
}

pub type Told = Arc<dyn Fn(&Operation) + Send + Sync>;

/// The parts, and what runs on them.
struct Running {
    parts: Parts,
    /// The state over connections that no call can take: operations whose owner is not heard of are taken for dead.
    pulse: State,
    system: System,
    volume: Uuid,
    /// This process, as others are told of it who ask who holds the lock.
    holder_id: String,
    works: works::Works,
    in_use: in_use::InUse,
    attempts: check::Attempts,
    refusals: events::Refusals,
    transfers: Arc<Semaphore>,
    previews: Arc<Semaphore>,
    waiters: Semaphore,
    /// Taken by whoever compares the folder with the catalog.
    syncing: Mutex<()>,
    /// Taken by whoever looks whether the volume answers.
    looking: Arc<Mutex<()>>,
    watchers: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Restores that are committing.
    commits: TaskTracker,
    stopping: CancellationToken,
}

/// How long the end of the service waits for what rolls back; a database that does not answer must not delay it for longer.
const ROLL_BACK: Duration = Duration::from_secs(7);
/// Longest time in which a volume answers; one that does not is taken for broken.
const VOLUME_ANSWERS: Duration = Duration::from_secs(10);
/// Most downloads, uploads and verifications at a time.
const MAX_TRANSFERS: usize = 4;
/// Most previews at a time: each holds a copy of what it looks at in the database.
const MAX_PREVIEWS: usize = 2;
/// Most callers that wait for the maintenance lock at a time.
const MAX_WAITERS: usize = 50;
/// Most streams that watch an operation, the lock or the events at a time: each looks four times a second.
const MAX_WATCHERS: usize = 300;

impl Holdfast {
    /// Makes sure that the catalog fits the database and that the folder is the volume of this system, ends what a process
    /// before this one left unfinished, and is ready for work.
    ///
    /// # Errors
    /// `Error::Database` when the catalog does not fit, `Error::Folder` when the folder is not the volume: nothing was changed.
    pub async fn start(parts: Parts) -> Result<Self> {
        parts.state.inspect(&parts.catalog).await?;
        parts.state.check_rules(&parts.catalog).await?;
        parts.state.set_fencing().await?;
        let system = parts.state.system().await?;
        let volume = Self::volume(&parts, system).await?;
        let (refusals, waiting) = events::Refusals::new();
        let holder_id = format!("{}/{}", rustix::system::uname().nodename().to_string_lossy(), parts.state.instance());
        let running = Running {
            pulse: parts.state.apart(2),
            parts,
            system,
            volume,
            holder_id,
            works: works::Works::default(),
            in_use: in_use::InUse::default(),
            attempts: check::Attempts::default(),
            refusals,
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
            previews: Arc::new(Semaphore::new(MAX_PREVIEWS)),
            waiters: Semaphore::new(MAX_WAITERS),
            syncing: Mutex::new(()),
            looking: Arc::default(),
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            tasks: TaskTracker::new(),
            commits: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        let holdfast = Self(Arc::new(running));
        holdfast.note_recipients().await?;
        holdfast.have_signing_key().await?;
        for fingerprint in holdfast.0.parts.trusted.fingerprints() {
            tracing::info!(fingerprint, "files signed with this key count as this system's own");
        }
        holdfast.always("recovery", Self::recover_always);
        holdfast.always("folder", Self::sync_at_start);
        holdfast.always("scrub", Self::scrub_always);
        holdfast.always("tidying", Self::tidy_always);
        holdfast.0.tasks.spawn(holdfast.clone().write_refusals(waiting));
        if let Some(webhook) = holdfast.0.parts.webhook.clone() {
            holdfast.always("delivery", move |holdfast| holdfast.deliver_always(webhook.clone()));
        }
        if let Some(archive) = holdfast.0.parts.archive.clone() {
            holdfast.always("archive", move |holdfast| holdfast.archive_always(archive.clone()));
        }
        Ok(holdfast)
    }

    /// Runs a task that ends only with the service. One that panics, which is a defect, begins again.
    fn always<F: Future<Output = ()> + Send>(&self, name: &'static str, task: impl Fn(Self) -> F + Send + Sync + 'static) {
        const PAUSE: Duration = Duration::from_secs(1);
        let holdfast = self.clone();
        self.0.tasks.spawn(async move {
            while AssertUnwindSafe(task(holdfast.clone())).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task panicked; it begins again");
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// The id of the volume: that of its identity file, which must be the one that this system knows. The first start
    /// gives both the same; of several first starts at once one decides, and those with another folder learn it here.
    async fn volume(parts: &Parts, system: System) -> Result<Uuid> {
        let id = match system.volume {
            Some(lost) if parts.lost_volume == Some(lost) && parts.folder.identity()?.is_none() => {
                // A new id, so that this is said once: another folder without identity is one that is not mounted.
                let new = Uuid::new_v4();
                parts.state.replace_volume(lost, new).await?;
                parts.folder.identify(new)?;
                tracing::warn!(%lost, %new, "the backup volume was lost, and another has its place");
                new
            }
            Some(known) => known,
            None => {
                if parts.folder.identity()?.is_none() {
                    match parts.folder.identify(Uuid::new_v4()) {
                        Ok(()) | Err(folder::Error::Exists) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                let found = parts.folder.identity()?.ok_or(folder::Error::NotMounted)?;
                parts.state.set_volume(found).await?
            }
        };
        parts.folder.check(id).inspect_err(|error| {
            if matches!(error, folder::Error::NotMounted) {
                tracing::error!(volume = %id, "mount the backup volume; only when it is lost, and this folder is to have its place, set HOLDFAST_LOST_VOLUME to this id");
            }
        })?;
        Ok(id)
    }

    pub async fn database_answers(&self) -> Result<()> {
        Ok(self.0.parts.state.ping().await?)
    }

    pub async fn volume_works(&self) -> Result<()> {
        self.check_volume().await
    }

    async fn check_volume(&self) -> Result<()> {
        let volume = self.0.volume;
        self.ask_volume(move |folder| folder.check(volume)).await
    }

    /// Looks at the volume. One look at a time: a volume that hangs holds one thread, not one for each who asks.
    async fn ask_volume<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Folder) -> std::result::Result<T, folder::Error> + Send + 'static,
    ) -> Result<T> {
        let (folder, looking) = (self.0.parts.folder.clone(), self.0.looking.clone());
        let looked = async move {
            let alone = looking.lock_owned().await;
            blocking(move || {
                let _alone = alone;
                look(&folder)
            })
            .await
        };
        let hangs = |_| folder::Error::Unavailable(std::io::ErrorKind::TimedOut.into());
        Ok(timeout(VOLUME_ANSWERS, looked).await.map_err(hangs)???)
    }

    /// Ends when the service is asked to stop; streams end with it.
    pub fn stopping(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    /// Stops: what can still be rolled back is, what is being committed is finished within `limit`. Returns when nothing runs
    /// any more, or soon after: what then still runs, the next start ends.
    pub async fn stop(&self, limit: Duration) {
        self.0.stopping.cancel();
        self.0.commits.close();
        self.0.tasks.close();
        if timeout(limit, self.0.commits.wait()).await.is_err() {
            tracing::warn!("a restore was still committing when the time to stop was over");
        } else if timeout(ROLL_BACK, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("operations were still running when the time to stop was over");
        }
    }

    /// A place for one that watches, for as long as it does.
    pub fn watcher(&self) -> Result<OwnedSemaphorePermit> {
        self.0.watchers.clone().try_acquire_owned().map_err(|_| Error::TooManyWatchers)
    }

    fn accepting(&self) -> Result<()> {
        if self.0.stopping.is_cancelled() { Err(Error::Draining) } else { Ok(()) }
    }
}

/// Runs what blocks - files, compression, encryption - where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.map_err(|_| Error::Bug("a blocking task panicked"))
}

/// The clock. Everything below is told the time.
fn now() -> DateTime<Utc> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    Utc::now()
}

/// Reads the certificates of recipients, which must be valid now.
///
/// # Errors
/// Which of them is not, and why.
pub fn recipients(certificates: &[u8]) -> std::result::Result<Recipients, Unusable> {
    Recipients::parse(certificates, now())
}

/// The service itself, in one of its roles, within what it does just now.
fn internal(role: &str) -> Caller {
    Caller { trace_id: telemetry::trace_id(&Span::current()), ..Caller::internal(role) }
}

fn new_operation_id() -> OperationId {
    OperationId(Uuid::now_v7())
}
