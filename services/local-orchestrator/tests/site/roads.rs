//! Every road brings a site to the same state: the same scenarios over the bus and over a folder of commits.

use std::{collections::BTreeMap, fs};

use bus::{Subject, proto, streams};
use identity::trust::HEAD_NAMESPACE;
use local_orchestrator::Road;
use testkit::wait_for;

use crate::{
    commits::Commits,
    fleet::Fleet,
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
    /// What the scenario has noted at its steps, in which the roads must not differ.
    seen: Vec<Seen>,
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
        Self { world, by, commits, seen: Vec::new() }
    }

    /// Commits this state of the fleet under this head, and publishes it as git-observer would, when the road is the bus.
    async fn bring(&mut self, fleet: &Fleet, head: &proto::DesiredHead) {
        let trace = format!("00-{:032x}-{:016x}-01", fleet.version + 1, 1);
        let commit = self.commits.commit(fleet.files(head), &trace).to_string();
        if self.by == By::Bus {
            self.world.observer.tell(fleet, &proto::DesiredHead { commit, ..head.clone() }, &trace).await;
        }
    }

    /// One order: this node runs this document, or nothing.
    async fn order(&mut self, node: &str, document: Option<&str>) {
        self.world.fleet.order(node, document);
        let (fleet, head) = (self.world.fleet.clone(), self.world.fleet.head_parts());
        self.bring(&fleet, &head).await;
    }

    /// One order, which is in force when this returns. Scenarios give one at a time: of two commits a folder shows only
    /// the newer, and that one's trace.
    async fn carry_out(&mut self, node: &str, document: Option<&str>) {
        self.order(node, document).await;
        self.world.adopted(self.world.fleet.version).await;
    }

    /// Starts the site, and carries out these orders: each names a node and its document.
    async fn start_with(&mut self, orders: &[(&str, &str)]) {
        self.world.start().await;
        for &(node, document) in orders {
            self.carry_out(node, Some(document)).await;
        }
    }

    /// Brings what the site has to refuse with these words, and notes what is seen then.
    async fn bring_in_vain(&mut self, fleet: &Fleet, head: &proto::DesiredHead, reason: &str) {
        self.bring(fleet, head).await;
        self.refused(reason).await;
        self.note().await;
    }

    async fn refused(&self, reason: &str) {
        self.world.refused("desired.plant.head", reason).await;
    }

    async fn serves(&self, node: &str, document: Option<&str>) {
        assert_eq!(self.world.document(node).await.as_deref(), document);
    }

    async fn note(&mut self) {
        let seen = self.see().await;
        self.seen.push(seen);
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

/// Runs a scenario over both roads at once, and compares what it noted at each of its steps.
async fn over_both(scenario: impl AsyncFn(&mut Route)) {
    let fleet = Fleet::new("plant");
    let (bus, folder) = tokio::join!(over(By::Bus, &fleet, &scenario), over(By::Folder, &fleet, &scenario));
    assert!(!bus.is_empty());
    assert_eq!(bus, folder);
}

async fn over(by: By, fleet: &Fleet, scenario: &impl AsyncFn(&mut Route)) -> Vec<Seen> {
    let mut route = Route::new(by, fleet).await;
    scenario(&mut route).await;
    route.seen
}

#[tokio::test]
async fn a_fresh_site_updates_and_removals() {
    over_both(async |route: &mut Route| {
        route.order("press", Some("a: 1\n")).await;
        route.world.start().await;
        route.world.adopted(1).await;
        route.note().await;
        assert_eq!(route.seen[0].served.len(), 2);
        route.carry_out("lathe", Some("b: 1\n")).await;
        route.note().await;
        route.carry_out("press", Some("a: 2\n")).await;
        route.serves("press", Some("a: 2\n")).await;
        route.note().await;
        route.carry_out("press", None).await;
        route.serves("press", None).await;
        route.note().await;
        let whole = |seen: &Seen| seen.refused.is_empty() && seen.served.values().all(|(_, trace)| trace.is_some());
        assert!(route.seen.iter().all(whole));
    })
    .await;
}

#[tokio::test]
async fn older_conflicting_and_forged_heads_are_refused() {
    over_both(async |route: &mut Route| {
        route.start_with(&[("press", "a: 1\n")]).await;
        let first = route.world.fleet.clone();
        route.carry_out("press", Some("a: 2\n")).await;

        route.bring_in_vain(&first, &first.head_parts(), "version 1 is older than version 2").await;
        let mut other = first;
        other.order("press", Some("a: other\n"));
        route.bring_in_vain(&other, &other.head_parts(), "conflict: version 2").await;

        let mut next = route.world.fleet.clone();
        next.order("press", Some("a: 3\n"));
        let mut forged = next.head_parts();
        forged.head_signature = next.root.sign(HEAD_NAMESPACE, &forged.head).unwrap().into();
        route.bring_in_vain(&next, &forged, "head is not signed by a key in KEYS").await;
        route.serves("press", Some("a: 2\n")).await;

        route.bring(&next, &next.head_parts()).await;
        route.world.adopted(3).await;
        route.serves("press", Some("a: 3\n")).await;
        route.note().await;
    })
    .await;
}

#[tokio::test]
async fn documents_that_are_changed_or_missing_never_come_into_force() {
    over_both(async |route: &mut Route| {
        route.start_with(&[("press", "a: 1\n"), ("lathe", "b: 1\n")]).await;
        for (version, document) in [(3, Some("a: evil\n")), (4, None)] {
            route.world.fleet.order("press", Some("a: next\n"));
            let head = route.world.fleet.head_parts();
            let tampered = route.world.fleet.clone().with_document("press", document);
            route.bring_in_vain(&tampered, &head, &format!("version {version} is not whole")).await;
            route.serves("press", Some("a: 1\n")).await;
        }
        route.carry_out("press", Some("a: 5\n")).await;
        route.note().await;
    })
    .await;
}

#[tokio::test]
async fn a_restart_in_the_middle_of_an_adoption_loses_nothing() {
    over_both(async |route: &mut Route| {
        route.start_with(&[("press", "a: 1\n"), ("lathe", "b: 1\n")]).await;
        let file = route.world.data_folder().join("in-force");
        let before = fs::metadata(&file).unwrap().len();
        route.carry_out("press", Some("a: 3\n")).await;
        route.world.kill().await;

        // As if it had died while the new set was written: neither the file nor the stream has it.
        let whole = fs::metadata(&file).unwrap().len();
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len((before + whole) / 2).unwrap();
        route.world.site.operator().await.jetstream().delete_stream(streams::DESIRED).await.unwrap();
        route.world.start().await;
        route.world.adopted(3).await;
        route.note().await;

        // As if it had died between the file and the stream; and an order came meanwhile.
        route.world.kill().await;
        route.world.site.operator().await.jetstream().delete_stream(streams::DESIRED).await.unwrap();
        route.world.start().await;
        route.world.adopted(3).await;
        route.note().await;
        route.world.kill().await;
        route.order("lathe", Some("b: 4\n")).await;
        route.world.start().await;
        route.world.adopted(4).await;
        route.serves("press", Some("a: 3\n")).await;
        route.note().await;
    })
    .await;
}

#[tokio::test]
async fn a_site_that_lost_its_folder_goes_back_to_no_older_version() {
    over_both(async |route: &mut Route| {
        route.start_with(&[("press", "a: 1\n")]).await;
        let first = route.world.fleet.clone();
        route.carry_out("press", Some("a: 2\n")).await;
        route.world.kill().await;
        route.world.lose_disk();
        route.bring(&first, &first.head_parts()).await;
        route.world.start().await;
        route.refused("version 1 is older than version 2").await;
        route.serves("press", Some("a: 2\n")).await;
        route.note().await;
        route.carry_out("press", Some("a: 3\n")).await;
        route.note().await;
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
    route.start_with(&[("press", "a: 1\n")]).await;
    let first = std::mem::replace(&mut route.commits, second);
    route.carry_out("press", Some("a: 2\n")).await;
    route.commits = first;
    route.carry_out("press", Some("a: 3\n")).await;
    wait_for("the document of the newest version", async || match route.world.document("press").await {
        Some(document) if document == "a: 3\n" => Ok(()),
        other => Err(other),
    })
    .await;
}
