//! Every road brings a site to the same state: the same scenarios over the bus and over a folder of commits.

use std::{collections::BTreeMap, fs};

use bus::{Outgoing, Subject, proto, streams};
use futures::future::LocalBoxFuture;
use identity::trust::HEAD_NAMESPACE;
use local_orchestrator::Road;
use margo::NodeName;
use testkit::wait_for;

use crate::{
    commits::Commits,
    fleet::{Fleet, head_message},
    folder_road::FolderRoad,
    world::{World, last, node, plant},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Bus,
    Folder,
}

/// A site, the repository of its client, and the road between them.
struct Route {
    world: World,
    by: By,
    commits: Commits,
    /// What was published on the bus last.
    published: BTreeMap<NodeName, proto::DesiredNode>,
}

/// What can be told of a site from outside: what is in force, what its nodes are served in which trace, what was refused.
#[derive(Debug, PartialEq)]
struct Seen {
    version: Option<u64>,
    commit: Option<String>,
    desired: Vec<(String, u64)>,
    served: BTreeMap<String, (Vec<u8>, Option<String>)>,
    refused: Vec<(String, String)>,
}

impl Route {
    async fn new(by: By, fleet: &Fleet) -> Self {
        let mut world = World::new().await;
        world.fleet = fleet.clone();
        let commits = Commits::new(&plant(), &fleet.writer);
        if by == By::Folder {
            let folder = commits.folder().to_owned();
            let road = move || Box::new(FolderRoad::new(folder.clone(), plant())) as Box<dyn Road>;
            world.roads = Some(Box::new(move || vec![road()]));
        }
        Self { world, by, commits, published: BTreeMap::new() }
    }

    /// Commits this state of the fleet under this head, and publishes it as git-observer would, when the road is the bus.
    async fn bring(&mut self, fleet: &Fleet, head: &proto::DesiredHead) {
        let trace = format!("00-{:032x}-{:016x}-01", fleet.version + 1, 1);
        let commit = self.commits.commit(fleet.files(head), &trace).to_string();
        if self.by == By::Folder {
            return;
        }
        let changed = fleet.nodes.iter().filter(|(node, message)| self.published.get(*node) != Some(message));
        let mut messages: Vec<Outgoing> = changed.map(|(node, _)| fleet.node(node.as_str())).collect();
        messages.push(head_message(&plant(), &proto::DesiredHead { commit, ..head.clone() }));
        for message in &mut messages {
            message.headers.insert("traceparent", trace.as_str());
        }
        self.published = fleet.nodes.clone();
        self.world.publish(messages).await;
    }

    /// One order: this node runs this document, or nothing.
    async fn order(&mut self, node: &str, document: Option<&str>) {
        self.world.fleet.order(node, document);
        let (fleet, head) = (self.world.fleet.clone(), self.world.fleet.head_parts());
        self.bring(&fleet, &head).await;
    }

    async fn adopted(&self, version: u64) {
        self.world.adopted(version).await;
    }

    async fn see(&self) -> Seen {
        let status = self.world.status().await;
        let mut served = BTreeMap::new();
        let nodes = ["press", "lathe"].map(|name| Subject::DesiredNode(node(name)));
        for subject in nodes.into_iter().chain([Subject::DesiredHead(plant())]) {
            if let Some(message) = last(&self.world.at_site, streams::DESIRED, &subject).await {
                // The trace is the order's; the span in it is the site's own.
                let trace = message.headers.get("traceparent").map(|value| value.as_str()[..35].to_owned());
                served.insert(subject.to_string(), (message.payload.to_vec(), trace));
            }
        }
        Seen {
            version: status.manifest_version,
            commit: status.commit,
            desired: status.nodes.into_iter().map(|node| (node.name, node.desired)).collect(),
            served,
            refused: status.refusals.into_iter().map(|refusal| (refusal.subject, refusal.reason)).collect(),
        }
    }
}

/// Runs a scenario over both roads at once, and compares what it saw at each of its steps.
async fn over_both(scenario: impl Fn(Route) -> LocalBoxFuture<'static, Vec<Seen>>) {
    let fleet = Fleet::new("plant");
    let (bus, folder) = tokio::join!(Route::new(By::Bus, &fleet), Route::new(By::Folder, &fleet));
    let (bus, folder) = tokio::join!(scenario(bus), scenario(folder));
    assert!(!bus.is_empty());
    assert_eq!(bus, folder);
}

#[tokio::test]
async fn a_fresh_site_updates_and_removals() {
    over_both(|mut route| {
        Box::pin(async move {
            route.order("press", Some("a: 1\n")).await;
            route.world.start().await;
            route.adopted(1).await;
            let mut seen = vec![route.see().await];
            assert_eq!(seen[0].served.len(), 2);
            route.order("lathe", Some("b: 1\n")).await;
            route.adopted(2).await;
            seen.push(route.see().await);
            route.order("press", Some("a: 2\n")).await;
            route.adopted(3).await;
            assert_eq!(route.world.document("press").await.unwrap(), "a: 2\n");
            seen.push(route.see().await);
            route.order("press", None).await;
            route.adopted(4).await;
            assert_eq!(route.world.document("press").await, None);
            seen.push(route.see().await);
            assert!(seen.iter().all(|seen| seen.refused.is_empty() && seen.served.values().all(|(_, t)| t.is_some())));
            seen
        })
    })
    .await;
}

#[tokio::test]
async fn older_conflicting_and_forged_heads_are_refused() {
    over_both(|mut route| {
        Box::pin(async move {
            route.world.start().await;
            route.order("press", Some("a: 1\n")).await;
            route.adopted(1).await;
            let first = route.world.fleet.clone();
            route.order("press", Some("a: 2\n")).await;
            route.adopted(2).await;

            route.bring(&first, &first.head_parts()).await;
            route.world.refused("desired.plant.head", "version 1 is older than version 2").await;
            let mut seen = vec![route.see().await];
            let mut other = first;
            other.order("press", Some("a: other\n"));
            route.bring(&other, &other.head_parts()).await;
            route.world.refused("desired.plant.head", "conflict: version 2").await;
            seen.push(route.see().await);

            let mut next = route.world.fleet.clone();
            next.order("press", Some("a: 3\n"));
            let mut forged = next.head_parts();
            forged.head_signature = next.root.sign(HEAD_NAMESPACE, &forged.head).unwrap().into();
            route.bring(&next, &forged).await;
            route.world.refused("desired.plant.head", "head is not signed by a key in KEYS").await;
            seen.push(route.see().await);
            assert_eq!(route.world.document("press").await.unwrap(), "a: 2\n");

            route.bring(&next, &next.head_parts()).await;
            route.adopted(3).await;
            assert_eq!(route.world.document("press").await.unwrap(), "a: 3\n");
            seen.push(route.see().await);
            seen
        })
    })
    .await;
}

#[tokio::test]
async fn documents_that_are_changed_or_missing_never_come_into_force() {
    over_both(|mut route| {
        Box::pin(async move {
            route.world.start().await;
            route.order("press", Some("a: 1\n")).await;
            // One at a time: of two commits a folder shows only the newer, and that one's trace.
            route.adopted(1).await;
            route.order("lathe", Some("b: 1\n")).await;
            route.adopted(2).await;
            let mut seen = Vec::new();
            for (version, document) in [(3, Some("a: evil\n")), (4, None)] {
                route.world.fleet.order("press", Some("a: next\n"));
                let head = route.world.fleet.head_parts();
                let tampered = route.world.fleet.clone().with_document("press", document);
                route.bring(&tampered, &head).await;
                route.world.refused("desired.plant.head", &format!("version {version} is not whole")).await;
                assert_eq!(route.world.document("press").await.unwrap(), "a: 1\n");
                seen.push(route.see().await);
            }
            route.order("press", Some("a: 5\n")).await;
            route.adopted(5).await;
            seen.push(route.see().await);
            seen
        })
    })
    .await;
}

#[tokio::test]
async fn a_restart_in_the_middle_of_an_adoption_loses_nothing() {
    over_both(|mut route| {
        Box::pin(async move {
            route.world.start().await;
            route.order("press", Some("a: 1\n")).await;
            // One at a time: of two commits a folder shows only the newer, and that one's trace.
            route.adopted(1).await;
            route.order("lathe", Some("b: 1\n")).await;
            route.adopted(2).await;
            let file = route.world.data_folder().join("in-force");
            let before = fs::metadata(&file).unwrap().len();
            route.order("press", Some("a: 3\n")).await;
            route.adopted(3).await;
            route.world.kill().await;

            // As if it had died while the new set was written: neither the file nor the stream has it.
            let whole = fs::metadata(&file).unwrap().len();
            fs::OpenOptions::new().write(true).open(&file).unwrap().set_len((before + whole) / 2).unwrap();
            route.world.at_site.jetstream().delete_stream(streams::DESIRED).await.unwrap();
            route.world.start().await;
            route.adopted(3).await;
            let mut seen = vec![route.see().await];

            // As if it had died between the file and the stream; and an order came meanwhile.
            route.world.kill().await;
            route.world.at_site.jetstream().delete_stream(streams::DESIRED).await.unwrap();
            route.world.start().await;
            route.adopted(3).await;
            seen.push(route.see().await);
            route.world.kill().await;
            route.order("lathe", Some("b: 4\n")).await;
            route.world.start().await;
            route.adopted(4).await;
            assert_eq!(route.world.document("press").await.unwrap(), "a: 3\n");
            seen.push(route.see().await);
            seen
        })
    })
    .await;
}

#[tokio::test]
async fn a_site_that_lost_its_folder_goes_back_to_no_older_version() {
    over_both(|mut route| {
        Box::pin(async move {
            route.world.start().await;
            route.order("press", Some("a: 1\n")).await;
            route.adopted(1).await;
            let first = route.world.fleet.clone();
            route.order("press", Some("a: 2\n")).await;
            route.adopted(2).await;
            route.world.kill().await;
            route.world.lose_disk();
            route.bring(&first, &first.head_parts()).await;
            route.world.start().await;
            route.world.refused("desired.plant.head", "version 1 is older than version 2").await;
            assert_eq!(route.world.document("press").await.unwrap(), "a: 2\n");
            let mut seen = vec![route.see().await];
            route.order("press", Some("a: 3\n")).await;
            route.adopted(3).await;
            seen.push(route.see().await);
            seen
        })
    })
    .await;
}

#[tokio::test]
async fn with_two_roads_the_newest_version_comes_by_whichever_works() {
    let fleet = Fleet::new("plant");
    let mut route = Route::new(By::Folder, &fleet).await;
    let second = Commits::new(&plant(), &fleet.writer);
    let folders = [route.commits.folder().to_owned(), second.folder().to_owned()];
    route.world.roads = Some(Box::new(move || {
        folders.iter().map(|folder| Box::new(FolderRoad::new(folder.clone(), plant())) as Box<dyn Road>).collect()
    }));
    route.world.start().await;
    route.order("press", Some("a: 1\n")).await;
    route.adopted(1).await;
    let first = std::mem::replace(&mut route.commits, second);
    route.order("press", Some("a: 2\n")).await;
    route.adopted(2).await;
    route.commits = first;
    route.order("press", Some("a: 3\n")).await;
    route.adopted(3).await;
    wait_for("the document of the newest version", async || match route.world.document("press").await {
        Some(document) if document == "a: 3\n" => Ok(()),
        other => Err(other),
    })
    .await;
}
