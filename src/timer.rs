//! The clock as a caller: it ticks, and `operations` decides from the database what is due. Alone names
//! tokio-cron-scheduler, which is not trusted with more: it overlaps runs, fires twice or falls silent when the clock
//! steps, and forgets what it missed.

use std::time::Duration;

use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::operations::Holdfast;

const TICK: Duration = Duration::from_secs(5);

/// Ticks until the scheduler is shut down.
///
/// # Errors
/// When it cannot be started.
pub async fn start(holdfast: Holdfast) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    let tick = Job::new_repeated_async(TICK, move |_, _| {
        let holdfast = holdfast.clone();
        Box::pin(async move {
            if let Err(error) = holdfast.tick().await {
                let failure = error.failure();
                tracing::warn!(reason = failure.reason.word(), message = failure.message, "a tick of the schedule failed");
            }
        })
    })?;
    scheduler.add(tick).await?;
    scheduler.start().await?;
    Ok(scheduler)
}
