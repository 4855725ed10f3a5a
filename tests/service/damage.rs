//! A damaged file is refused, whatever is wrong with it, and nothing changes; the service goes on.
//!
//! At the level of the archive every length and every byte is swept; here the whole way through the service is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{Backup, ListOperationsRequest, OperationError, RestoreRequest};
use holdfast::model::{FileName, Sha256};
use ring::digest::{SHA256, digest};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tonic::Code;

use super::world::{PASSPHRASE, World, psql};
use super::zoo::all_of;

/// How long one sweep may take; what does not fit into it is left out evenly.
const BUDGET: Duration = Duration::from_secs(15);

/// One way to hurt a file.
#[derive(Debug, Clone, Copy)]
enum Hurt {
    Cut(usize),
    Flip(usize),
}

impl Hurt {
    fn of(self, good: &[u8]) -> Vec<u8> {
        match self {
            Self::Cut(length) => good[..length].to_vec(),
            Self::Flip(place) => {
                let mut bytes = good.to_vec();
                bytes[place] ^= 1 << (place % 8);
                bytes
            }
        }
    }
}

/// Every length and every byte, in an order in which any beginning is spread over the whole file.
fn everything(length: usize) -> Vec<Hurt> {
    let stride = (length / 2..).find(|stride| gcd(*stride, length) == 1).unwrap() * 3 % length;
    let stride = (stride.max(1)..).find(|stride| gcd(*stride, length) == 1).unwrap();
    (0..length).map(|place| place * stride % length).flat_map(|place| [Hurt::Cut(place), Hurt::Flip(place)]).collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(digest(&SHA256, bytes).as_ref().try_into().unwrap())
}

/// A backup whose file is hurt again and again.
struct Patient {
    world: World,
    backup: Backup,
    good: Vec<u8>,
    path: PathBuf,
    before: String,
    catalog: PgConnection,
}

impl Patient {
    async fn new(world: World, passphrase: &str) -> Self {
        if !passphrase.is_empty() {
            world.set_passphrase(passphrase).await;
        }
        let backup = world.backup().await;
        let path = world.file(&backup);
        let (good, before) = (std::fs::read(&path).unwrap(), world.digests() + &untouched(&world));
        let catalog = world.superuser().await;
        Self { world, backup, good, path, before, catalog }
    }

    async fn restore(&self, passphrase: &str) -> Result<(), OperationError> {
        // Damage to what it says of its origin is no question either.
        let acknowledged_reasons = ["OTHER_SYSTEM", "FOREIGN_BACKUP"].map(str::to_owned).to_vec();
        let request = RestoreRequest { passphrase: passphrase.to_owned(), acknowledged_reasons, ..all_of(&self.backup) };
        self.world.try_restore(request).await.map(|_| ())
    }

    /// Puts other bytes in the place of the file. Resealed, the name and the catalog agree with them.
    async fn put(&mut self, bytes: &[u8], resealed: bool) {
        if resealed {
            let (sha256, name) = (sha256(bytes), self.backup.file_name.parse::<FileName>().unwrap());
            let name = FileName::new(name.id().clone(), sha256, name.encrypted());
            let id = self.backup.name.trim_start_matches("backups/");
            let size = bytes.len();
            let change = format!(
                "update holdfast.backup set body = body || jsonb_build_object('sha256', '{sha256}', 'file_name', '{name}', 'size_bytes', {size}) where id = '{id}'"
            );
            self.catalog.execute(sqlx::raw_sql(AssertSqlSafe(change))).await.unwrap();
            std::fs::remove_file(&self.path).unwrap();
            self.path = self.world.folder().join(name.to_string());
        }
        std::fs::write(&self.path, bytes).unwrap();
        self.world.forget_damage(&mut self.catalog).await;
    }

    /// Nothing has changed, the service has not complained about itself, and the good file restores.
    async fn ends_well(mut self, passphrase: &str, resealed: bool) {
        assert!(self.world.digests() + &untouched(&self.world) == self.before, "something has changed");
        assert_eq!(self.world.drafts(), Vec::<String>::new());
        let log = self.world.log();
        let bad = log.lines().filter(|line| line.contains("\"ERROR\"") || line.contains("panic"));
        let bad = bad.filter(|line| !line.contains("a backup was found to be damaged or gone"));
        assert_eq!(bad.collect::<Vec<_>>(), Vec::<&str>::new());
        let good = self.good.clone();
        self.put(&good, resealed).await;
        self.restore(passphrase).await.unwrap();
    }
}

/// Version and place of every row, which also tell of changes that were rolled back.
fn untouched(world: &World) -> String {
    let tables = ["notification_template", "permission", "login_provider", "account", "license", "\"Audit Trail\""];
    let rows = tables.map(|table| {
        format!("select md5(string_agg(ctid || ' ' || xmin || ' ' || xmax, ',' order by ctid)) from platform.{table}")
    });
    psql(&world.url("platform"), &["-c", &rows.join(" union all ")])
}

fn corrupted(error: &OperationError) -> bool {
    (error.code, error.reason.as_str()) == (Code::DataLoss as i32, "BACKUP_CORRUPTED")
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_c03_c08_a_file_that_is_cut_off_or_altered_anywhere_is_refused_as_damaged() {
    let mut patient = Patient::new(World::small().await, PASSPHRASE).await;
    let (end, mut tried) = (Instant::now() + 2 * BUDGET, 0);
    let good = patient.good.clone();
    for hurt in everything(good.len()) {
        patient.put(&hurt.of(&good), false).await;
        // Whatever the passphrase: damage is told from a wrong one.
        let passphrase = [PASSPHRASE, "not the passphrase", ""][tried % 3];
        let refused = patient.restore(passphrase).await.expect_err("a damaged file was restored");
        assert!(corrupted(&refused), "{hurt:?}: {refused:?}");
        tried += 1;
        if Instant::now() > end && tried > 100 {
            break;
        }
    }
    eprintln!("{tried} of {} damaged files", good.len() * 2);
    patient.ends_well(PASSPHRASE, false).await;
}

/// Damage behind a digest that was made to agree: the layers below have to find it.
async fn resealed(world: World, passphrase: &str, hurts: impl Fn(usize) -> Vec<Hurt>) {
    let mut patient = Patient::new(world, passphrase).await;
    let (end, mut tried) = (Instant::now() + BUDGET, 0);
    let good = patient.good.clone();
    let hurts = hurts(good.len());
    let of = hurts.len();
    let contents = zstd::decode_all(good.as_slice()).ok();
    for hurt in hurts {
        // A bit that zstd does not use (RFC 8878, 3.1.1.1.1.3) hurts nothing.
        if contents.is_some() && zstd::decode_all(hurt.of(&good).as_slice()).ok() == contents {
            continue;
        }
        patient.put(&hurt.of(&good), true).await;
        let mut refused = patient.restore(passphrase).await.expect_err("a damaged file was restored");
        if refused.reason == "RATE_LIMITED" {
            // By each process: too much damage looked like a wrong passphrase.
            patient.world.terminate().await;
            patient.world.start().await.unwrap();
            refused = patient.restore(passphrase).await.expect_err("a damaged file was restored");
        }
        // In the first 100 bytes the passphrase packet lies: there, damage looks like a wrong passphrase.
        let unopened = matches!(hurt, Hurt::Flip(0..100)) && refused.reason == "PASSPHRASE_INCORRECT";
        assert!(corrupted(&refused) || unopened, "{hurt:?}: {refused:?}");
        tried += 1;
        if Instant::now() > end && tried > 20 {
            break;
        }
    }
    eprintln!("{tried} of {of} damaged files that were sealed again");
    patient.ends_well(passphrase, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c01_c03_damage_to_an_encrypted_file_behind_a_right_digest_is_found_before_anything_changes() {
    let world = World::small().await;
    resealed(world, PASSPHRASE, |length| {
        // Within the first 120 bytes lie all packet headers, and the lengths at which the library is known to panic.
        let head = (0..120).step_by(7).flat_map(|place| [Hurt::Cut(place), Hurt::Flip(place)]);
        let window = (60..110).map(Hurt::Cut);
        let tail = (length - 30..length).map(Hurt::Flip).chain([Hurt::Cut(length - 1), Hurt::Cut(length - 22)]);
        let spread = everything(length);
        head.chain(window).chain(tail).chain(spread).collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_a_plain_file_behind_a_right_digest_is_found_before_anything_changes() {
    resealed(World::small().await, "", everything).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_c01_rows_that_are_not_proven_change_nothing_however_late_the_damage_shows() {
    let world = World::new().await;
    // More than the OpenPGP library holds back until it has seen the end: a backup of some MiB is staged while it is read.
    let rows = "insert into platform.notification_template (event, language, subject, body)
        select 'much.text', 'x' || i, '', (select string_agg(md5(i || '/' || j), '') from generate_series(1, 4000) as j) from generate_series(1, 80) as i";
    world.sql(rows).await;
    let mut patient = Patient::new(world, PASSPHRASE).await;
    let good = patient.good.clone();
    assert!(good.len() > 4 << 20, "{}", good.len());
    let counted =
        "select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_user_tables where schemaname in ('platform', 'reporting')";
    // A session has counted what it wrote when it is gone.
    patient
        .world
        .until("not exists (select from pg_stat_activity where datname = current_database() and usename = 'platform')")
        .await;
    let written = patient.world.value(counted).await;
    for place in [good.len() - 1, good.len() - 20, good.len() - 100, good.len() - 1000, good.len() / 2] {
        patient.put(&Hurt::Flip(place).of(&good), true).await;
        let refused = patient.restore(PASSPHRASE).await.unwrap_err();
        assert!(corrupted(&refused), "{place}: {refused:?}");
    }
    assert_eq!(patient.world.entry(&patient.backup).await.state(), State::Invalid);
    // Found by the work, not by the call: it could have changed something.
    let list = patient.world.operations().await.list_operations(ListOperationsRequest::default()).await.unwrap().into_inner();
    let failed =
        list.operations.iter().filter(|operation| matches!(&operation.result, Some(Outcome::Error(error)) if corrupted(error)));
    assert_eq!(failed.count(), 5, "{:?}", list.operations);
    // The statistics of a session are counted when it ends, at the latest.
    patient.world.terminate().await;
    assert_eq!(patient.world.value(counted).await, written);
    patient.world.start().await.unwrap();
    patient.ends_well(PASSPHRASE, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_database_does_not_take_are_damage_when_the_file_is() {
    let mut patient = Patient::new(World::new().await, "").await;
    let mut archive = zstd::decode_all(patient.good.as_slice()).unwrap();
    // The first account's number becomes a letter: COPY refuses it, long before the end record would tell.
    let member = b"data/login-accounts/platform.account/00000.copy";
    let at = archive.windows(member.len()).position(|part| part == member).unwrap() + 512;
    assert!(archive[at].is_ascii_digit());
    archive[at] = b'x';
    let forged = zstd::encode_all(archive.as_slice(), 1).unwrap();
    patient.put(&forged, true).await;
    let refused = patient.restore("").await.unwrap_err();
    assert!(corrupted(&refused), "{refused:?}");
    patient.ends_well("", true).await;
}
