//! Power cuts, and kills at every change that a backup makes to its folder: what was acknowledged is there and can be restored,
//! nothing half is listed, no backup is given up before the next one is durable.

use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{Backup, BackupRequest, Retention, SetRetentionRequest, VerifyLevel, WaitOperationRequest};

use super::disk::{Disk, Faults};
use super::kills::Spread;
use super::world::{World, rounds};

/// Backups that are kept.
const LIMIT: usize = 3;

/// A platform whose backups are on a disk of the test's own. As many are there as are kept, so that each new one costs the
/// oldest.
struct Patient {
    // Goes first: a service that waits for its disk cannot be killed.
    disk: Disk,
    world: World,
    /// The backups of which somebody was told that they were made, oldest first.
    acknowledged: Vec<Backup>,
    /// Changes that a backup makes.
    changes: u32,
}

/// What happens besides the kill.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The disk goes on.
    Kill,
    /// All is gone that was not made durable.
    Cut,
    /// Some of it is gone.
    LuckyCut,
}

impl Patient {
    async fn new() -> Option<Self> {
        let mut world = World::without_service().await;
        let disk = Disk::mount(&world.folder())?;
        world.start().await.unwrap();
        let retention = Some(Retention { max_count: i32::try_from(LIMIT).unwrap(), ..Default::default() });
        world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
        let mut patient = Self { disk, world, acknowledged: Vec::new(), changes: 0 };
        for _ in 0..=LIMIT {
            patient.disk.is_sound();
            patient.acknowledged.push(patient.world.backup().await);
            patient.changes = patient.disk.changes();
        }
        Some(patient)
    }

    /// Kills the service just before a change of a backup, or after the last; what follows is the fault.
    async fn is_hurt(&mut self, place: u32, fault: Fault, luck: &mut Spread) {
        self.disk.fails(Faults { kills: Some((place, self.world.pid())), ..Faults::default() });
        let begun = self.world.backups().await.backup(BackupRequest::default()).await;
        let operation = begun.expect("a call is answered before anything is written").into_inner().name;
        let ended = self.ends(&operation).await;
        self.world.kill();
        match fault {
            Fault::Kill => {}
            Fault::Cut => self.disk.cut_power(None),
            Fault::LuckyCut => self.disk.cut_power(Some(luck)),
        }
        self.disk.is_sound();
        // As if it had been killed long ago, so that nobody has to wait until it is taken for dead.
        self.world.sql_as_superuser("update holdfast.lease set acquire_time = acquire_time - interval '1 hour'").await;
        self.world.start_later().await;
        self.world
            .becomes(
                "select (select count(*) from holdfast.lease) + (select count(*) from holdfast.operation where not done)",
                "0",
                Duration::from_secs(30),
            )
            .await;
        let told = match self.world.wait(&operation).await.result.unwrap() {
            Outcome::Backup(result) => Some(result.backup.unwrap()),
            Outcome::Error(error) => {
                assert_eq!(error.reason, "INTERRUPTED", "{error:?}");
                None
            }
            other => panic!("{other:?}"),
        };
        assert!(ended.is_none() || told.is_some(), "{place} {fault:?}: what was acknowledged is not true any more");
        self.acknowledged.extend(told);
        self.is_well(&format!("{fault:?} before change {place} of {}", self.changes)).await;
    }

    /// Waits until the service is dead or the operation has ended; the backup that was acknowledged.
    async fn ends(&mut self, operation: &str) -> Option<Backup> {
        let mut operations = self.world.operations().await;
        let end = Instant::now() + Duration::from_secs(60);
        while !self.world.has_ended() {
            assert!(Instant::now() < end, "{operation} does not end\n{}", self.world.log());
            let request = WaitOperationRequest { name: operation.to_owned(), ..Default::default() };
            match operations.wait_operation(request).await.map(|answer| answer.into_inner().result) {
                Ok(Some(Outcome::Backup(result))) => return result.backup,
                Ok(Some(other)) => panic!("{other:?}\n{}", self.world.log()),
                Ok(None) => {}
                // It is dead, or will be in a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        None
    }

    /// What must hold after each fault.
    async fn is_well(&mut self, after: &str) {
        let listed = self.world.tidies().await;
        for backup in &listed {
            assert_eq!(backup.state(), State::Ready, "{after}: {backup:?}");
            self.world.verifies(backup);
        }
        let is_listed =
            |wanted: &Backup| listed.iter().any(|backup| backup.name == wanted.name && backup.sha256 == wanted.sha256);
        let newest = self.acknowledged.iter().rev().take(LIMIT);
        assert!(newest.clone().all(is_listed), "{after}: an acknowledged backup is lost: {:?} of {listed:?}", self.acknowledged);
        let unknown = listed.iter().find(|backup| !self.acknowledged.iter().any(|known| known.name == backup.name));
        assert!(unknown.is_none(), "{after}: nobody was told of {unknown:?}");
        assert!(listed.len() <= LIMIT + 1, "{after}: {listed:?}");
        let last = self.acknowledged.last().unwrap();
        let found = self.world.verify(last, VerifyLevel::Contents, "").await.unwrap();
        assert!(found.valid, "{after}: {found:?}");
    }

    /// All of it is as good as it was told to be.
    async fn restores(&self, digests: &str) {
        self.world.damage();
        assert_ne!(self.world.digests(), digests);
        self.world.restores_to(self.acknowledged.last().unwrap(), digests).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_a_backup_that_was_acknowledged_outlives_a_power_cut() {
    let Some(mut patient) = Patient::new().await else { return };
    patient.world.install_adapter_types().await;
    let digests = patient.world.digests();
    for round in 0..rounds(3, 200) {
        patient.acknowledged.push(patient.world.backup().await);
        patient.world.kill();
        patient.disk.cut_power(None);
        patient.world.start().await.unwrap();
        patient.is_well(&format!("power cut {round}")).await;
    }
    patient.restores(&digests).await;
    // This test can fail: a disk that only says that it keeps what it is given loses the backup.
    patient.disk.fails(Faults { forgets: true, ..Faults::default() });
    let lost = patient.world.backup().await;
    patient.world.kill();
    patient.disk.cut_power(None);
    patient.disk.is_sound();
    patient.world.start().await.unwrap();
    patient.world.becomes("select count(*) from holdfast.backup where state = 'missing'", "1", Duration::from_secs(30)).await;
    assert_eq!(patient.world.entry(&lost).await.state(), State::Missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_s05_a_kill_or_power_cut_before_any_change_of_a_backup_costs_no_acknowledged_one_and_leaves_nothing_half() {
    let Some(mut patient) = Patient::new().await else { return };
    let digests = patient.world.digests();
    // One of them is after the last change.
    let (places, mut luck) = (patient.changes + 1, Spread(5));
    let (mut made, wanted) = (0, rounds(12, 12 * places));
    for round in 0..wanted {
        let fault = [Fault::Kill, Fault::Cut, Fault::LuckyCut][(round / places + round) as usize % 3];
        let before = patient.acknowledged.len();
        // The last ones, where names and files change, come first.
        patient.is_hurt(places - round % places, fault, &mut luck).await;
        made += patient.acknowledged.len() - before;
    }
    eprintln!("{wanted} faults in {places} places: {made} backups were made nevertheless");
    patient.restores(&digests).await;
}
