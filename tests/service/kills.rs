//! A service that is killed while it backs up, again and again: what it said it has is there and whole, nothing else is left.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, Instant};

use holdfast::archive;
use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{Backup, BackupRequest, DeleteBackupRequest, Retention, SetRetentionRequest};

use super::world::{World, rounds, sha256};

/// Numbers that are spread evenly and the same in every run.
pub struct Spread(pub u64);

impl Spread {
    /// Below `limit`.
    pub fn next(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

impl World {
    /// Asserts that a listed backup has its file, with its digest, and that the file is whole and holds what it should.
    pub fn verifies(&self, backup: &Backup) {
        let bytes = std::fs::read(self.file(backup)).unwrap();
        assert_eq!((bytes.len() as i64, sha256(&bytes)), (backup.size_bytes, backup.sha256.clone()), "{}", backup.name);
        let opened =
            archive::read::<archive::Error>(File::open(self.file(backup)).unwrap(), None, &archive::Trust::default(), |_| Ok(()));
        let archive::Contents { manifest, .. } = opened.unwrap_or_else(|error| panic!("{}: {error}", backup.name));
        assert_eq!(format!("backups/{}", manifest.backup), backup.name);
    }

    /// No backup is given up for another.
    pub async fn keep_all(&self) {
        let retention = Some(Retention { max_count: 1000, ..Default::default() });
        self.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
    }

    /// Bytes of everything in the folder, hidden files included.
    pub fn occupied(&self) -> u64 {
        let sizes = std::fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        sizes.sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_f13_kills_at_any_moment_of_backups_cost_no_backup_and_leave_nothing() {
    let mut world = World::new().await;
    world.keep_all().await;
    // 4 MB that do not compress, so that some of the time goes into the file.
    world
        .sql(
            "insert into platform.license (id, number, product, valid_from, file)
             select gen_random_uuid(), 'bulk', 'bulk', now(), decode(string_agg(md5(random()::text), ''), 'hex') from generate_series(1, 250000)",
        )
        .await;
    let empty = world.occupied();
    let began = Instant::now();
    let mut acknowledged = BTreeSet::from([world.backup().await.name]);
    let lasts = began.elapsed();
    let (mut verified, mut spread) = (BTreeSet::new(), Spread(3));
    let (mut made, mut drafts, mut unborn, mut longest, wanted) = (0, 0, 0, Duration::ZERO, rounds(10, 500));
    for round in 0..wanted {
        let mut backups = world.backups().await;
        let request = BackupRequest { request_id: format!("round {round}"), ..Default::default() };
        let call = tokio::spawn(async move { backups.backup(request).await.map(|answer| answer.into_inner().name) });
        tokio::time::sleep(lasts * u32::try_from(spread.next(120)).unwrap() / 100).await;
        world.kill();
        drafts += world.drafts().len();
        let called = call.await.unwrap();
        // Killed between the lock and the row of its operation, it leaves a lease that nobody knows of.
        let of_none = "not exists (select from holdfast.operation where 'operations/' || id = lease.operation)";
        unborn += world.value(&format!("select count(*) from holdfast.lease where {of_none}")).await.parse::<u32>().unwrap();
        let began = Instant::now();
        // Mostly as if it had been killed long ago, so that nobody has to wait until it is taken for dead.
        match round % 5 {
            0 => world.start().await.unwrap(),
            _ => {
                world.sql_as_superuser("update holdfast.lease set acquire_time = acquire_time - interval '1 hour'").await;
                world.start_later().await;
            }
        }
        let left = "(select count(*) from holdfast.lease) + (select count(*) from holdfast.operation where not done)";
        world.becomes(left, "0", Duration::from_secs(20)).await;
        longest = longest.max(began.elapsed());
        if let Ok(operation) = called {
            match world.wait(&operation).await.result.unwrap() {
                Outcome::Error(error) => assert_eq!(error.reason, "INTERRUPTED", "{error:?}"),
                Outcome::Backup(result) => {
                    made += 1;
                    acknowledged.insert(result.backup.unwrap().name);
                }
                other => panic!("{other:?}"),
            }
        }
        let listed = world.listed().await;
        let names: BTreeSet<String> = listed.iter().map(|backup| backup.name.clone()).collect();
        assert!(acknowledged.is_subset(&names), "round {round}: a backup is lost\n{}", world.log());
        for backup in listed.iter().filter(|backup| verified.insert(backup.name.clone())) {
            world.verifies(backup);
        }
        // The sweep of the start may have been before the operation was ended, which removes its draft.
        let folder: u64 = listed.iter().map(|backup| backup.size_bytes.unsigned_abs()).sum();
        let tidied = Instant::now() + Duration::from_secs(70);
        while world.occupied() != empty + folder {
            assert!(Instant::now() < tidied, "round {round}: {:?}\n{}", world.drafts(), world.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The others fit on one page of the list.
        if let Some(oldest) = listed.get(30) {
            let request = DeleteBackupRequest { name: oldest.name.clone(), ..Default::default() };
            world.backups().await.delete_backup(request).await.unwrap();
            acknowledged.remove(&oldest.name);
        }
    }
    eprintln!(
        "{wanted} kills: {made} backups were made nevertheless, {drafts} drafts and {unborn} leases without an operation were left; nothing was left {longest:?} after the next start"
    );
    // 10 s is what is required; the rest is for processors that others use as well.
    assert!(longest < Duration::from_secs(20), "{longest:?}");
    world.sql("delete from platform.license").await;
    world.backup().await;
    world.is_tidy().await;
    for backup in world.listed().await {
        world.verifies(&backup);
    }
    let oldest = world.listed().await.pop().unwrap();
    world.restore(&oldest, "").await.unwrap();
    assert_ne!(world.value("select count(*) from platform.license").await, "0");
}
