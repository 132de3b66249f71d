//! Two processes at one store, one of which is killed. This program is both.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

use margo::Digest;
use oci::ContentStore;

const FIRST: &[u8] = b"what the first process brings, ";
const SECOND: &[u8] = b"what may have come by its end, ";
const REST: &[u8] = b"what the second process brings";

/// The argument that makes this program the process that is killed.
const CHILD: &str = "be-killed";

fn whole() -> Vec<u8> {
    [FIRST, SECOND, REST].concat()
}

#[tokio::main]
async fn main() {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some(CHILD) {
        return be_killed(Path::new(&arguments.next().unwrap())).await;
    }
    a_killed_process_leaves_its_part_of_a_download_and_nothing_else().await;
    println!("test result: ok. 1 passed");
}

/// Writes a part of a download and an upload, says so, and waits for the end.
async fn be_killed(folder: &Path) {
    let store = ContentStore::open(folder).await.unwrap();
    let mut upload = store.writer(100).await.unwrap();
    upload.write(b"an upload").await.unwrap();
    let mut download = store.download(&Digest::of(&whole()), 1_000).await.unwrap().unwrap();
    download.make_room(whole().len() as u64, 0).await.unwrap();
    download.write(FIRST).await.unwrap();
    // Only when the first write has reached the file does the second begin.
    download.write(SECOND).await.unwrap();
    println!("written");
    // Ends with the process that started this one, should that die first.
    let _ended = std::io::stdin().read(&mut [0]);
}

async fn a_killed_process_leaves_its_part_of_a_download_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env::current_exe().unwrap());
    child.arg(CHILD).arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "written\n");

    // While it lives, what it writes is its own.
    let store = ContentStore::open(folder.path()).await.unwrap();
    let staging = || fs::read_dir(folder.path().join("staging")).unwrap().count();
    assert_eq!(staging(), 2);
    let digest = Digest::of(&whole());
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.download(&digest, 1_000).await.unwrap().unwrap() }
    });
    child.kill().unwrap();
    child.wait().unwrap();

    let mut download = waiting.await.unwrap();
    let held = usize::try_from(download.held()).unwrap();
    assert!(held >= FIRST.len(), "{held}");
    download.write(&whole()[held..]).await.unwrap();
    download.finish().await.unwrap();
    drop(download);
    assert_eq!(fs::read(store.verified_path(&digest).await.unwrap()).unwrap(), whole());
    assert_eq!(fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
    drop(store);
    let _again = ContentStore::open(folder.path()).await.unwrap();
    assert_eq!(staging(), 1);
}
