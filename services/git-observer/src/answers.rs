//! `site.<client>.desired`: what a client shall run, as its site asks for it. The answers are made of one commit, so a head that
//! moves on never starves a site that fetches everything.

use std::{error::Error, sync::Arc};

use bus::{Ask, Asker, Asks, proto};
use bytes::Bytes;
use git_state::layout;
use margo::{ClientName, DeploymentId, Digest, NodeFolder, NodeName};
use prost::Message as _;
use proto::{DesiredAnswer, DesiredAsk, DesiredOutcome, Piece, desired_part::Part};
use tokio::{sync::Semaphore, task::JoinSet, task::spawn_blocking};
use tracing::{debug, warn};

use crate::{look::Observer, snapshot::Snapshot, store::At};

/// Bytes of the pieces of one answer before they are compressed; with a head of 64 KiB an answer stays below 1 MiB.
const PAGE: usize = 896 << 10;

/// The most parts of one ask. More do not fit into an answer anyway.
const MAX_PARTS: usize = 256;

/// Asks that are answered at once. They read from the disk, and must leave it to those who commit.
const CONCURRENCY: usize = 4;

/// A site has one ask in work, and may send the next one while its answer is under way. 64 KiB are 256 parts with the longest
/// names.
pub const RULES: bus::Rules =
    bus::Rules { longest: 64 << 10, shares: bus::Shares { each: 2, bytes: 16 << 20 }, answered: true };

/// Answers asks until they end.
pub async fn answer(observer: Arc<Observer>, mut asks: Asks) {
    let places = Arc::new(Semaphore::new(CONCURRENCY));
    let mut answers = JoinSet::new();
    while let Some(ask) = asks.next().await {
        let place = places.clone().acquire_owned().await.expect("nobody closes this semaphore");
        while answers.try_join_next().is_some() {}
        let observer = observer.clone();
        answers.spawn(async move {
            answer_one(&observer, &ask).await;
            drop(place);
        });
    }
}

async fn answer_one(observer: &Arc<Observer>, ask: &Ask) {
    let Asker::Site(client) = &ask.asker else { return };
    let answer = match DesiredAsk::decode(ask.payload.clone()) {
        Ok(asked) if asked.parts.len() > MAX_PARTS => outcome(DesiredOutcome::Gone),
        Ok(asked) if asked.commit.is_empty() => newest(observer, client, asked.held).await,
        Ok(asked) => parts(observer, client, asked).await,
        Err(error) => {
            debug!(%client, %error, "an ask that does not decode");
            outcome(DesiredOutcome::Gone)
        }
    };
    // Compressing takes a millisecond for a full page.
    let body = spawn_blocking(move || bus::encode(&answer)).await;
    match body {
        Ok(body) => ask.answer(body).await,
        Err(error) => warn!(%client, error = &error as &dyn Error, "answer not encoded"),
    }
}

fn outcome(outcome: DesiredOutcome) -> DesiredAnswer {
    DesiredAnswer { outcome: outcome.into(), ..DesiredAnswer::default() }
}

/// The newest head that was believed, and what changed since the version that the site has, as far as it is at hand and fits.
async fn newest(observer: &Arc<Observer>, client: &ClientName, held: u64) -> DesiredAnswer {
    let Some(commit) = observer.newest(client) else {
        observer.want(client);
        return outcome(DesiredOutcome::NotNow);
    };
    let Some(snapshot) = snapshot(observer, client, &commit).await else { return outcome(DesiredOutcome::NotNow) };
    let traces = snapshot.traces.iter().map(|(node, trace)| (node.to_string(), trace.clone()));
    DesiredAnswer {
        outcome: DesiredOutcome::Found.into(),
        head: Some(snapshot.head.clone()),
        pieces: brought_along(&snapshot, held),
        traceparent: snapshot.traceparent.clone().unwrap_or_default(),
        node_traces: if held == snapshot.version { Default::default() } else { traces.collect() },
    }
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
    if held == 0 && snapshot.list.len() > MAX_PARTS {
        return pieces;
    }
    let mut folder = None;
    for (name, entry) in snapshot.changed_since(held) {
        let own = NodeFolder::of(name);
        if folder.replace(own) != Some(own)
            && !snapshot.list.folder_text(own).is_none_or(|text| add(text.into_bytes().into()))
        {
            break;
        }
        if !add(entry.to_text().into_bytes().into()) {
            break;
        }
        for digest in entry.identity.iter().chain(entry.deployments.values()) {
            if let Some(content) = snapshot.recent.get(digest) {
                add(content.clone());
            }
        }
    }
    pieces
}

/// The parts that were asked for of one commit, in their order, until the page is full.
async fn parts(observer: &Arc<Observer>, client: &ClientName, asked: DesiredAsk) -> DesiredAnswer {
    let Some(snapshot) = snapshot(observer, client, &asked.commit).await else { return outcome(DesiredOutcome::Gone) };
    let (observer, client) = (observer.clone(), client.clone());
    let read = spawn_blocking(move || {
        let at = observer.store.at(&client, &asked.commit)?;
        let mut pieces = Vec::new();
        let mut left = PAGE;
        for part in asked.parts {
            let offset = usize::try_from(part.offset).unwrap_or(usize::MAX);
            let Some(content) = part.part.map(|part| content(&snapshot, at.as_ref(), part)).transpose()?.flatten()
            else {
                return Ok(outcome(DesiredOutcome::Gone));
            };
            if offset > content.len() {
                return Ok(outcome(DesiredOutcome::Gone));
            }
            let end = content.len().min(offset.saturating_add(left));
            pieces.push(Piece { size: content.len() as u64, content: content.slice(offset..end) });
            left -= end - offset;
            if left == 0 {
                break;
            }
        }
        anyhow::Ok(DesiredAnswer { pieces, ..outcome(DesiredOutcome::Found) })
    });
    match read.await.map_err(anyhow::Error::from).flatten() {
        Ok(answer) => answer,
        Err(error) => {
            warn!(error = format!("{error:#}"), "a commit cannot be read for a site");
            outcome(DesiredOutcome::NotNow)
        }
    }
}

/// The bytes of one part; `None` when the commit does not have it. Blocks.
fn content(snapshot: &Snapshot, at: Option<&At>, part: Part) -> anyhow::Result<Option<Bytes>> {
    let text = |text: Option<String>| Ok(text.map(|text| text.into_bytes().into()));
    let file = |digest: Option<Digest>, path: String| {
        let Some(digest) = digest else { return Ok(None) };
        match (snapshot.recent.get(&digest), at) {
            (Some(content), _) => Ok(Some(content.clone())),
            (None, Some(at)) => Ok(at.file(&path)?.map(Bytes::from)),
            (None, None) => Ok(None),
        }
    };
    let node = |name: &str| name.parse::<NodeName>().ok();
    match part {
        Part::Folder(folder) => text(folder.parse().ok().and_then(|folder| snapshot.list.folder_text(folder))),
        Part::Node(name) => text(node(&name).and_then(|node| Some(snapshot.list.get(&node)?.to_text()))),
        Part::Identity(name) => match node(&name) {
            Some(node) => {
                let digest = snapshot.list.get(&node).and_then(|entry| entry.identity);
                file(digest, layout::node_identity(&node))
            }
            None => Ok(None),
        },
        Part::Document(proto::DocumentName { node: name, deployment }) => {
            match (node(&name), deployment.parse::<DeploymentId>()) {
                (Some(node), Ok(deployment)) => {
                    file(snapshot.document(&node, deployment), layout::document(&node, &deployment))
                }
                _ => Ok(None),
            }
        }
    }
}

/// The snapshot of a commit, made anew when it is not at hand; `None` when there is no such commit or it says nothing.
async fn snapshot(observer: &Arc<Observer>, client: &ClientName, commit: &str) -> Option<Arc<Snapshot>> {
    if let Some(snapshot) = observer.snapshots().get(client, commit) {
        return Some(snapshot);
    }
    let (observer, client, commit) = (observer.clone(), client.clone(), commit.to_owned());
    let read = spawn_blocking(move || observer.read_snapshot(&client, &commit)).await;
    match read.map_err(anyhow::Error::from).flatten() {
        Ok(snapshot) => snapshot,
        Err(error) => {
            debug!(error = format!("{error:#}"), "a commit that a site names");
            None
        }
    }
}
