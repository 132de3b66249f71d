//! `site.<client>.desired`: what a client shall run, as its site asks for it. The answers are made of one commit, so a head that
//! moves on never starves a site that fetches everything.
//!
//! No site costs another one more than a moment: sites are answered in turns, a site that has spent its budget waits, and
//! what an ask has read for it is limited.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bus::{Ask, Asker, Asks, proto};
use bytes::Bytes;
use margo::{ClientName, DeploymentId, Digest, NodeFolder, NodeName};
use prost::Message as _;
use proto::{DesiredAnswer, DesiredAsk, DesiredOutcome, Piece, desired_part::Part};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use crate::{budget::Budgets, observer::Observer, places::blocking, snapshot::Snapshot, store::Files};

/// Bytes of the pieces of one answer before they are compressed; with a head of 64 KiB an answer stays below 1 MiB.
const PAGE: usize = 896 << 10;

/// The most parts of one ask. More do not fit into an answer anyway.
const MAX_PARTS: usize = 256;

/// The part at which this many bytes were read from the repository is the last one of its answer: without this, an ask for
/// the ends of many large documents would have all of them read.
const MAX_READ: usize = PAGE;

/// Asks that are answered at once. Most cost no more than a look into the memory; how many of them read is limited apart.
const CONCURRENCY: usize = 16;

/// Asks that wait until their sites' budgets allow an answer. They have 64 KiB at most. When there are more, one is told to come
/// again.
const WAITING: usize = 256;

/// A site has one ask in work, and may send the next one while its answer is under way. 64 KiB are 256 parts with the longest
/// names.
pub const RULES: bus::Rules =
    bus::Rules { longest: 64 << 10, shares: bus::Shares { each: 2, bytes: 16 << 20 }, answered: true };

/// Answers asks until they end.
pub async fn answer(observer: Arc<Observer>, mut asks: Asks) {
    let [places, waiting] = [CONCURRENCY, WAITING].map(|count| Arc::new(Semaphore::new(count)));
    let budgets: Arc<Mutex<Budgets>> = Arc::default();
    let mut answers = JoinSet::new();
    while let Some(ask) = asks.next().await {
        let Asker::Site(client) = ask.asker.clone() else { continue };
        let place = places.clone().acquire_owned().await.expect("nobody closes this semaphore");
        while answers.try_join_next().is_some() {}
        let pause = lock(&budgets).pause(&client, Instant::now());
        let (observer, places, waiting, budgets) = (observer.clone(), places.clone(), waiting.clone(), budgets.clone());
        answers.spawn(async move {
            let _place = if pause.is_zero() {
                place
            } else {
                drop(place);
                let Ok(_waiting) = waiting.try_acquire_owned() else {
                    return ask.answer(bus::encode(&outcome(DesiredOutcome::NotNow))).await;
                };
                sleep(pause).await;
                places.acquire_owned().await.expect("nobody closes this semaphore")
            };
            let spent = answer_one(&observer, &client, &ask).await;
            lock(&budgets).spend(&client, spent.worked, spent.read, Instant::now());
        });
    }
}

fn lock(budgets: &Mutex<Budgets>) -> std::sync::MutexGuard<'_, Budgets> {
    budgets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an answer has cost.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    /// How long a thread has worked.
    worked: Duration,
    /// Bytes of files that were read from the repository.
    read: usize,
}

async fn answer_one(observer: &Arc<Observer>, client: &ClientName, ask: &Ask) -> Spent {
    let mut spent = Spent::default();
    let answer = match DesiredAsk::decode(ask.payload.clone()) {
        Ok(asked) if asked.parts.len() > MAX_PARTS => Ok(outcome(DesiredOutcome::Gone)),
        Ok(asked) if asked.commit.is_empty() => newest(observer, client, asked.held, &mut spent).await,
        Ok(asked) => parts(observer, client, asked, &mut spent).await,
        Err(error) => {
            debug!(%client, %error, "an ask that does not decode");
            Ok(outcome(DesiredOutcome::Gone))
        }
    };
    let answer = answer.unwrap_or_else(|error| {
        warn!(%client, error = format!("{error:#}"), "a commit cannot be read for a site");
        outcome(DesiredOutcome::NotNow)
    });
    // Compressing takes a millisecond for a full page.
    match blocking(&observer.places.asks, move || bus::encode(&answer)).await {
        Ok((body, took)) => {
            spent.worked += took;
            ask.answer(body).await;
        }
        Err(error) => warn!(%client, error = format!("{error:#}"), "answer not encoded"),
    }
    spent
}

fn outcome(outcome: DesiredOutcome) -> DesiredAnswer {
    DesiredAnswer { outcome: outcome.into(), ..DesiredAnswer::default() }
}

/// The newest head that was believed, and what changed since the version that the site has, as far as it is at hand and fits.
async fn newest(
    observer: &Arc<Observer>,
    client: &ClientName,
    held: u64,
    spent: &mut Spent,
) -> anyhow::Result<DesiredAnswer> {
    let Some(commit) = observer.newest(client) else {
        observer.want(client);
        return Ok(outcome(DesiredOutcome::NotNow));
    };
    let Some(snapshot) = snapshot(observer, client, &commit, spent).await? else {
        return Ok(outcome(DesiredOutcome::NotNow));
    };
    let traces = snapshot.traces.iter().map(|(node, trace)| (node.to_string(), trace.clone()));
    Ok(DesiredAnswer {
        outcome: DesiredOutcome::Found.into(),
        head: Some(snapshot.tip.head.message.clone()),
        pieces: brought_along(&snapshot, held),
        traceparent: snapshot.traceparent.clone().unwrap_or_default(),
        node_traces: if held == snapshot.version() { Default::default() } else { traces.collect() },
    })
}

/// The texts, NODE files and documents of nodes that changed after this version. Whoever asked finds out what is missing.
fn brought_along(snapshot: &Snapshot, held: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut left = PAGE;
    let mut add = |content: Bytes| {
        let fits = content.len() <= left;
        if fits {
            left -= content.len();
            pieces.push(Piece { size: content.len() as u64, content });
        }
        fits
    };
    // A site that has nothing yet fetches folder by folder.
    if held == 0 && snapshot.tip.list.len() > MAX_PARTS {
        return pieces;
    }
    let mut folder = None;
    for (name, entry) in snapshot.changed_since(held) {
        let own = NodeFolder::of(name);
        if folder.replace(own) != Some(own)
            && !snapshot.tip.list.folder_text(own).is_none_or(|text| add(text.into_bytes().into()))
        {
            break;
        }
        if !add(entry.to_text().into_bytes().into()) {
            break;
        }
        for digest in entry.identity.iter().chain(entry.deployments.digests()) {
            if let Some(content) = snapshot.recent.get(digest) {
                add(content.clone());
            }
        }
    }
    pieces
}

/// The parts that were asked for of one commit, in their order, until the page is full.
async fn parts(
    observer: &Arc<Observer>,
    client: &ClientName,
    asked: DesiredAsk,
    spent: &mut Spent,
) -> anyhow::Result<DesiredAnswer> {
    let Some(snapshot) = snapshot(observer, client, &asked.commit, spent).await? else {
        return Ok(outcome(DesiredOutcome::Gone));
    };
    let (source, client) = (observer.clone(), client.clone());
    let read = move || {
        let mut files = Files::of(&source.store, &client, &asked.commit);
        let answer = pieces(&source, &snapshot, &client, &mut files, &asked.parts);
        (answer, files.bytes)
    };
    let ((answer, bytes), took) = blocking(&observer.places.asks, read).await?;
    spent.worked += took;
    spent.read += bytes;
    answer
}

/// Blocks.
fn pieces(
    observer: &Observer,
    snapshot: &Snapshot,
    client: &ClientName,
    files: &mut Files<'_>,
    parts: &[proto::DesiredPart],
) -> anyhow::Result<DesiredAnswer> {
    let mut pieces = Vec::new();
    let mut left = PAGE;
    for proto::DesiredPart { part, offset } in parts {
        let offset = usize::try_from(*offset).unwrap_or(usize::MAX);
        let content = match part {
            Some(part) => content(observer, snapshot, client, files, part)?,
            None => None,
        };
        let Some(content) = content.filter(|content| offset <= content.bytes.len()) else {
            return Ok(outcome(DesiredOutcome::Gone));
        };
        let Content { bytes, file } = content;
        let end = bytes.len().min(offset.saturating_add(left));
        pieces.push(Piece { size: bytes.len() as u64, content: bytes.slice(offset..end) });
        left -= end - offset;
        match file {
            // The site comes for the rest of it.
            Some(digest) if end < bytes.len() => observer.hand().put(client, digest, bytes),
            Some(_) if offset > 0 => observer.hand().let_go(client),
            Some(_) | None => {}
        }
        if left == 0 || files.bytes >= MAX_READ {
            break;
        }
    }
    Ok(DesiredAnswer { pieces, ..outcome(DesiredOutcome::Found) })
}

/// The bytes of one part.
struct Content {
    bytes: Bytes,
    /// The digest of a part that is a file.
    file: Option<Digest>,
}

/// The bytes of one part; `None` when the commit does not have it. Blocks.
fn content(
    observer: &Observer,
    snapshot: &Snapshot,
    client: &ClientName,
    files: &mut Files<'_>,
    part: &Part,
) -> anyhow::Result<Option<Content>> {
    let list = &snapshot.tip.list;
    let text = |text: Option<String>| Ok(text.map(|text| Content { bytes: text.into_bytes().into(), file: None }));
    let node = |name: &str| name.parse::<NodeName>().ok();
    let (node, deployment, digest) = match part {
        Part::Folder(folder) => return text(folder.parse().ok().and_then(|folder| list.folder_text(folder))),
        Part::Node(name) => return text(node(name).and_then(|node| Some(list.get(&node)?.to_text()))),
        Part::Identity(name) => {
            let Some(node) = node(name) else { return Ok(None) };
            let digest = list.get(&node).and_then(|entry| entry.identity);
            (node, None, digest)
        }
        Part::Document(proto::DocumentName { node: name, deployment }) => {
            let (Some(node), Ok(deployment)) = (node(name), deployment.parse::<DeploymentId>()) else {
                return Ok(None);
            };
            let digest = snapshot.document(&node, deployment);
            (node, Some(deployment), digest)
        }
    };
    let Some(digest) = digest else { return Ok(None) };
    let in_hand = observer.hand().get(client, digest);
    let bytes = match in_hand {
        Some(bytes) => Some(bytes),
        None => files.content(snapshot, &node, deployment, digest)?,
    };
    Ok(bytes.map(|bytes| Content { bytes, file: Some(digest) }))
}

/// The snapshot of a commit, made anew when it is not at hand; `None` when there is no such commit or it says nothing.
async fn snapshot(
    observer: &Arc<Observer>,
    client: &ClientName,
    commit: &str,
    spent: &mut Spent,
) -> anyhow::Result<Option<Arc<Snapshot>>> {
    if let Some(snapshot) = observer.snapshots().get(client, commit) {
        return Ok(Some(snapshot));
    }
    let (source, client, commit) = (observer.clone(), client.clone(), commit.to_owned());
    let (read, took) = blocking(&observer.places.asks, move || source.read_snapshot(&client, &commit)).await?;
    spent.worked += took;
    Ok(read.unwrap_or_else(|error| {
        debug!(error = process::chain(&error), "a commit that a site names");
        None
    }))
}
