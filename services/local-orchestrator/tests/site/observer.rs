//! The hub's answers to a site that asks what it shall run, in the place of git-observer: whatever a test wants them to be.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bus::{Bus, Front, Pattern, Rules, ServiceName, SiteVerb, Subject, User, proto};
use bytes::Bytes;
use margo::NodeName;
use prost::Message as _;
use proto::{DesiredAnswer, DesiredAsk, DesiredHead, DesiredOutcome, Piece, desired_part::Part};
use testkit::NatsServer;
use tokio_util::task::AbortOnDropHandle;

use crate::{fleet::Fleet, world::plant};

/// What is answered, and what was asked.
pub struct Told {
    newest: Option<(DesiredHead, String)>,
    commits: BTreeMap<String, Fleet>,
    /// Every ask so far.
    pub asks: Vec<DesiredAsk>,
    /// The most bytes of pieces in one answer.
    pub page: usize,
    /// How many of the next asks get no answer.
    pub silent: usize,
}

/// git-observer, as a site knows it.
pub struct Observer {
    told: Arc<Mutex<Told>>,
    back: Bus,
    _answers: AbortOnDropHandle<()>,
}

impl Observer {
    pub async fn start(hub: &NatsServer) -> Self {
        let told = Told { newest: None, commits: BTreeMap::new(), asks: Vec::new(), page: 896 << 10, silent: 0 };
        let told = Arc::new(Mutex::new(told));
        let back = hub.connect_central(ServiceName::GitObserver).await;
        let front = Front::connect(&hub.login(&User::Front(ServiceName::GitObserver)), |_| {}).await.unwrap();
        let rules = Rules { longest: 64 << 10, ..Rules::SMALL };
        let mut asks = front.asks(Pattern::Sites(SiteVerb::Desired), rules).await.unwrap();
        front.reachable().await;
        let state = told.clone();
        let answers = tokio::spawn(async move {
            while let Some(ask) = asks.next().await {
                let answer = state.lock().unwrap().answer(DesiredAsk::decode(ask.payload.clone()).unwrap());
                if let Some(answer) = answer {
                    ask.answer(bus::encode(&answer)).await;
                }
            }
        });
        Self { told, back, _answers: AbortOnDropHandle::new(answers) }
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// From now on this is the newest head, and its commit has the files of this fleet.
    pub async fn tell(&self, fleet: &Fleet, head: &DesiredHead, trace: &str) {
        {
            let mut told = self.told();
            told.commits.insert(head.commit.clone(), fleet.clone());
            told.newest = Some((head.clone(), trace.to_owned()));
        }
        self.signal().await;
    }

    /// Tells the site to look again.
    pub async fn signal(&self) {
        // A test that cuts the hub off gives orders all the same.
        if self.back.is_connected() {
            self.back.signal(&Subject::ChangedHead(plant()), Bytes::new()).await.unwrap();
        }
    }
}

impl Told {
    fn answer(&mut self, ask: DesiredAsk) -> Option<DesiredAnswer> {
        let answer = if ask.commit.is_empty() { self.head() } else { self.parts(&ask) };
        self.asks.push(ask);
        if self.silent > 0 {
            self.silent -= 1;
            return None;
        }
        Some(answer)
    }

    fn head(&self) -> DesiredAnswer {
        let Some((head, trace)) = self.newest.clone() else { return outcome(DesiredOutcome::NotNow) };
        DesiredAnswer { head: Some(head), traceparent: trace, ..outcome(DesiredOutcome::Found) }
    }

    fn parts(&self, ask: &DesiredAsk) -> DesiredAnswer {
        let Some(fleet) = self.commits.get(&ask.commit) else { return outcome(DesiredOutcome::Gone) };
        let (mut pieces, mut left) = (Vec::new(), self.page);
        for part in &ask.parts {
            let Some(content) = content(fleet, part.part.clone().unwrap()) else {
                return outcome(DesiredOutcome::Gone);
            };
            let from = part.offset as usize;
            let to = content.len().min(from + left);
            left -= to - from;
            pieces.push(Piece { size: content.len() as u64, content: content.slice(from..to) });
            if left == 0 {
                break;
            }
        }
        DesiredAnswer { pieces, ..outcome(DesiredOutcome::Found) }
    }
}

fn outcome(outcome: DesiredOutcome) -> DesiredAnswer {
    DesiredAnswer { outcome: outcome.into(), ..DesiredAnswer::default() }
}

fn content(fleet: &Fleet, part: Part) -> Option<Bytes> {
    let node = |name: &str| fleet.nodes.get(&name.parse::<NodeName>().unwrap());
    match part {
        Part::Folder(folder) => Some(fleet.list().folder_text(folder.parse().unwrap())?.into()),
        Part::Node(name) => Some(fleet.list().get(&name.parse().unwrap())?.to_text().into()),
        Part::Identity(name) => Some(node(&name)?.identity.clone()),
        Part::Document(document) => {
            let deployments = &node(&document.node)?.deployments;
            let found = deployments.iter().find(|deployment| deployment.id == document.deployment)?;
            Some(found.document.clone())
        }
    }
}
