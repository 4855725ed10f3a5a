//! Scheduled backups that nobody watches: what was set stays set, and a run that goes wrong is seen.

use std::time::Duration;

use holdfast::grpc::proto::backup::schedule::Recurrence;
use holdfast::grpc::proto::backup::{DailyRecurrence, GetScheduleRequest, Schedule, SetScheduleRequest};

use super::schedule::planned_in_the_past;
use super::world::{World, rounds};

async fn schedule(world: &World) -> Schedule {
    world.backups().await.get_schedule(GetScheduleRequest {}).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn s12_a_schedule_that_was_answered_outlives_every_kill() {
    let mut world = World::new().await;
    for round in 0..rounds(3, 200) {
        let daily = DailyRecurrence { hours: (round % 24).cast_signed(), minutes: (round % 60).cast_signed() };
        let wanted = Schedule { recurrence: Some(Recurrence::Daily(daily)), ..Default::default() };
        let request = SetScheduleRequest { schedule: Some(wanted), ..Default::default() };
        let set = world.backups().await.set_schedule(request).await.unwrap().into_inner();
        world.kill();
        world.start().await.unwrap();
        let found = schedule(&world).await;
        assert_eq!((found.recurrence, found.etag), (Some(Recurrence::Daily(daily)), set.etag), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_a_planned_run_that_panics_at_its_start_is_told_and_made_all_the_same() {
    let mut world = World::new().await;
    world.terminate().await;
    planned_in_the_past(&world, 600, 6 * 3600).await;
    // Once in the life of the process.
    world.set("HOLDFAST_FAULT", "accepting");
    world.start().await.unwrap();
    world.becomes("select count(*) from holdfast.slot where state = 'succeeded'", "1", Duration::from_secs(60)).await;
    assert!(world.log().contains("a tick of the schedule failed"), "{}", world.log());
    assert_eq!(world.listed().await.len(), 1);
    world.is_tidy().await;
}
