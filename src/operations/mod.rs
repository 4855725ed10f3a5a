//! What happens, in which order. Every way in - calls, timer, recovery - ends here.
//!
//! Only this module joins `postgres`, `archive`, `folder`, `lock` and `webhook`, which do not know each other. The life of an
//! operation is in [`work`]; what a backup and a restore do is in [`backup`] and [`restore`], from top to bottom.

mod backup;
mod backups;
pub mod call;
mod download;
mod error;
mod events;
mod in_use;
mod outbox;
mod preview;
mod proof;
mod recovery;
mod resources;
mod restore;
mod retention;
mod safety;
mod schedule;
mod seal;
mod settings;
mod source;
mod work;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::folder::Folder;
use crate::model::{Catalog, OperationId};
use crate::postgres::Database;
use crate::postgres::state::{State, System};
use crate::webhook::Webhook;

pub use error::Error;
pub use seal::SealKey;

type Result<T> = std::result::Result<T, Error>;

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
    /// Longest time an operation may take, waiting for the lock left out.
    pub operation_timeout: Duration,
    /// Who is told of events.
    pub webhook: Option<Webhook>,
}

/// The parts, and what runs on them.
struct Running {
    parts: Parts,
    system: System,
    volume: Uuid,
    /// This process, as the owner of operations.
    instance: Uuid,
    works: work::Works,
    in_use: in_use::InUse,
    refusals: events::Refusals,
    transfers: Arc<Semaphore>,
    previews: Arc<Semaphore>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// Most downloads at a time.
const MAX_TRANSFERS: usize = 4;
/// Most previews at a time: each holds a copy of what it looks at in the database.
const MAX_PREVIEWS: usize = 2;

impl Holdfast {
    /// Makes sure that the catalog fits the database and that the folder is the volume of this system, ends what a process
    /// before this one left unfinished, and is ready for work.
    ///
    /// # Errors
    /// `Error::Database` when the catalog does not fit, `Error::Folder` when the folder is not the volume: nothing was changed.
    pub async fn start(parts: Parts) -> Result<Self> {
        parts.state.inspect(&parts.catalog).await?;
        parts.state.check_rules(&parts.catalog).await?;
        let system = parts.state.system().await?;
        let volume = Self::volume(&parts, system).await?;
        let (refusals, waiting) = events::Refusals::new();
        let running = Running {
            parts,
            system,
            volume,
            instance: Uuid::new_v4(),
            works: work::Works::default(),
            in_use: in_use::InUse::default(),
            refusals,
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
            previews: Arc::new(Semaphore::new(MAX_PREVIEWS)),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        let holdfast = Self(Arc::new(running));
        holdfast.0.tasks.spawn(holdfast.clone().recover_always());
        holdfast.0.tasks.spawn(holdfast.clone().write_refusals(waiting));
        if let Some(webhook) = holdfast.0.parts.webhook.clone() {
            holdfast.0.tasks.spawn(holdfast.clone().deliver_always(webhook));
        }
        Ok(holdfast)
    }

    /// The id of the volume: that of its identity file, which must be the one that this system knows. The first start
    /// gives both the same.
    async fn volume(parts: &Parts, system: System) -> Result<Uuid> {
        let id = match (system.volume, parts.folder.identity()?) {
            (Some(known), _) => known,
            (None, Some(found)) => found,
            (None, None) => {
                let id = Uuid::new_v4();
                parts.folder.identify(id)?;
                id
            }
        };
        parts.folder.check(id)?;
        if system.volume.is_none() {
            parts.state.set_volume(id).await?;
        }
        Ok(id)
    }

    /// Ready to work: database and volume answer.
    pub async fn ready(&self) -> Result<()> {
        let (folder, volume) = (self.0.parts.folder.clone(), self.0.volume);
        self.0.parts.state.ping().await?;
        blocking(move || folder.check(volume)).await??;
        Ok(())
    }

    /// Ends when the service is asked to stop; streams end with it.
    pub fn stopping(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    /// Stops: what can still be rolled back is, what is being committed is finished. Returns when nothing runs any more,
    /// or after `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(limit, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("operations were still running when the time to stop was over");
        }
    }

    fn accepting(&self) -> Result<()> {
        if self.0.stopping.is_cancelled() { Err(Error::Draining) } else { Ok(()) }
    }
}

/// Runs what blocks - files, compression, encryption - where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Bug("a blocking task panicked"))
}

/// The clock. Everything below is told the time.
fn now() -> DateTime<Utc> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    Utc::now()
}

fn new_operation_id() -> OperationId {
    OperationId(Uuid::now_v7())
}
