//! The archive as a folder, and a server that never answers. A bucket is tested with a real server (`tests/service`).

use std::fs;
use std::io::Cursor;
use std::path::Path;

use super::*;
use crate::model::{BackupId, FileName};

fn depot(dir: &Path) -> Depot {
    Depot::folder(dir.join("archive")).unwrap()
}

fn digest(bytes: &[u8]) -> Digest {
    let mut hashed = Hashed::new(io::sink());
    hashed.write_all(bytes).unwrap();
    hashed.digest()
}

fn name(bytes: &[u8]) -> FileName {
    FileName::new(BackupId::new(chrono::DateTime::UNIX_EPOCH, Uuid::from_u128(1)), digest(bytes).1, true)
}

async fn put(depot: &Depot, bytes: &'static [u8]) -> Result<(), Error> {
    depot.put(&name(bytes), digest(bytes), Cursor::new(bytes)).await
}

/// What is in the archive, drafts included.
fn all_files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("archive")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_file_is_put_once_and_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("archive")).unwrap();
    let (depot, bytes) = (depot(dir.path()), b"the file".as_slice());
    put(&depot, bytes).await.unwrap();
    put(&depot, bytes).await.unwrap();
    assert_eq!(depot.files().await.unwrap(), [name(bytes)]);
    assert_eq!(all_files(dir.path()).len(), 1, "no draft is left");
    assert_eq!(depot.digest(&name(bytes)).await.unwrap(), digest(bytes));
    let mut read = 0;
    let back = depot.get(&name(bytes), digest(bytes), Vec::new(), |bytes| read += bytes).await.unwrap();
    assert_eq!((back.as_slice(), read), (bytes, bytes.len() as u64));
    depot.remove(&name(bytes)).await.unwrap();
    depot.remove(&name(bytes)).await.unwrap();
    assert!(matches!(depot.get(&name(bytes), digest(bytes), Vec::new(), |_| ()).await, Err(Error::Missing)));
}

#[tokio::test]
async fn f09_what_is_damaged_in_the_archive_is_not_given_out_and_is_replaced_by_what_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("archive")).unwrap();
    let (depot, bytes) = (depot(dir.path()), b"the file".as_slice());
    fs::write(dir.path().join("archive").join(name(bytes).to_string()), b"the fi1e").unwrap();
    assert!(matches!(depot.get(&name(bytes), digest(bytes), Vec::new(), |_| ()).await, Err(Error::Damaged)));
    put(&depot, bytes).await.unwrap();
    assert_eq!(depot.get(&name(bytes), digest(bytes), Vec::new(), |_| ()).await.unwrap(), bytes);
    // What is not the file any more does not get there.
    let other = depot.put(&name(b"another"), digest(b"another"), Cursor::new(b"anothe_")).await;
    assert!(matches!(other, Err(Error::Changed)), "{other:?}");
    assert_eq!(all_files(dir.path()), [name(bytes).to_string()]);
}

#[tokio::test]
async fn f06_f20_a_folder_that_is_not_there_is_not_made_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let depot = depot(dir.path());
    assert!(matches!(depot.owner().await, Err(Error::Folder(_))));
    assert!(matches!(put(&depot, b"x").await, Err(Error::Folder(_))));
    assert!(!dir.path().join("archive").exists());
    fs::create_dir(dir.path().join("archive")).unwrap();
    fs::write(dir.path().join("elsewhere"), b"x").unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("archive").join(name(b"x").to_string())).unwrap();
    assert!(depot.files().await.unwrap().is_empty());
    assert!(depot.digest(&name(b"x")).await.is_err());
}

#[tokio::test]
async fn an_archive_is_that_of_one_system() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("archive")).unwrap();
    let (depot, system) = (depot(dir.path()), Uuid::new_v4());
    assert_eq!(depot.owner().await.unwrap(), None);
    for owner in [system, Uuid::new_v4()] {
        depot.set_owner(owner).await.unwrap();
        assert_eq!(depot.owner().await.unwrap(), Some(owner));
    }
    fs::write(dir.path().join("archive/.holdfast-volume"), "nobody").unwrap();
    assert!(matches!(depot.owner().await, Err(Error::Foreign(_))));
}

#[tokio::test(start_paused = true)]
async fn f14_a_storage_that_never_answers_is_not_waited_for_without_end() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let access = Access {
        endpoint: Some(format!("http://{}", silent.local_addr().unwrap())),
        region: "us-east-1".into(),
        key_id: Zeroizing::new("id".into()),
        key: Zeroizing::new("key".into()),
        authority: None,
    };
    let depot = Depot::bucket("bucket", "prefix", &access).unwrap();
    let answer = depot.owner().await;
    assert!(matches!(answer, Err(Error::TimedOut | Error::Unavailable(_))), "{answer:?}");
    assert_eq!(depot.url(), "s3://bucket/prefix");
}
