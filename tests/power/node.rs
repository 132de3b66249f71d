//! A node on a disk that forgets: the power is cut while an update fails there, and what was installed before runs again.
//!
//! With the power everything of the node ends at once: the agent, what it has started, and the engine with its containers. The data
//! of the engine lie on another disk, since what Docker keeps is Docker's to promise. Where the cut falls, the agent's own stop
//! points say.

use std::{
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use end_to_end::{Application, Platform, SiteLayout, answers, campaign, random::Random};
use testkit::{DockerEngine, kill_programs_of, wait_for};

use crate::{
    fuse::Served,
    stage::{self, FileSystem, Mounted, NotRun},
};

const PLANT: &[SiteLayout] = &[SiteLayout { name: "plant", nodes: &["press"] }];
const NODE: &str = "plant/press";
const AGENT: &str = "plant.press";

/// The size of the disk: large enough for what a node keeps, and for what has to stay free on it.
const SIZE: u64 = 1 << 30;

/// A port that somebody else has.
const TAKEN: u16 = 8089;

/// The port of the containers.
const PAGES: u16 = 8088;

/// What ends at a stop point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The agent alone, as where it is replaced by another version.
    Agent,
    /// All.
    Power,
}

/// The disk of a node, with its folder.
struct Disk {
    scratch: PathBuf,
    folder: PathBuf,
    on: Option<(Mounted, Served)>,
}

impl Disk {
    /// Puts an empty disk in the place of a node's data folder, which nobody uses.
    fn under(folder: PathBuf, scratch: &Path) -> Result<Self, NotRun> {
        disk::remove_folder_if_there(&folder).unwrap();
        symlink(scratch.join("disk"), &folder).unwrap();
        let mut disk = Self { scratch: scratch.to_owned(), folder, on: None };
        stage::format(&disk.image(), SIZE, FileSystem::Ext4)?;
        disk.power_on()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.scratch.join("image")
    }

    fn power_on(&mut self) -> Result<(), NotRun> {
        let served = Served::new(&self.image(), &self.scratch.join("served"))?;
        let mounted = Mounted::new(&served.disk(), &self.scratch.join("disk"), FileSystem::Ext4)?;
        self.on = Some((mounted, served));
        Ok(())
    }

    /// Cuts the power when everything that used the disk was killed, and puts it on again. Says what was lost.
    fn cut(&mut self, random: &mut Random) -> String {
        let (mounted, served) = self.on.take().unwrap();
        // What the kernel holds back until it unmounts comes too late.
        served.cut_after(0);
        drop(mounted);
        assert!(served.is_off(), "nothing was written at the end, so the disk was in use");
        let (lost, kept) = served.leave(random);
        self.power_on().unwrap_or_else(|NotRun(why)| panic!("the disk is gone: {why}"));
        format!("lost {lost} of {} blocks that were not synced", lost + kept)
    }
}

/// A platform with one node on such a disk.
struct World {
    // Before its disk: what runs there ends first.
    platform: Platform,
    disk: Disk,
    random: Random,
    _scratch: tempfile::TempDir,
}

impl World {
    async fn start(engine: Option<&DockerEngine>) -> Result<Self, NotRun> {
        stage::needed()?;
        let (scratch, seed) = (tempfile::TempDir::new().unwrap(), campaign::seed());
        println!("EDGEWRIGHT_CHAOS_SEED={seed}: the power of a node is to be cut");
        let mut platform = match engine {
            Some(engine) => Platform::with_docker(PLANT, engine.socket()).await,
            None => Platform::start(PLANT, Application::Nothing).await,
        };
        // A node that lost its disk begins its next life.
        platform.kill(AGENT);
        let disk = Disk::under(platform.node("press"), scratch.path())?;
        platform.run(AGENT);
        Ok(Self { platform, disk, random: Random::new(seed, 3_000), _scratch: scratch })
    }

    /// Orders an update that fails, cuts where it has come to this point, and goes on.
    async fn cut_at(&mut self, point: &str, cut: Cut, order: &[&str], engine: Option<&mut DockerEngine>) {
        self.platform.kill(AGENT);
        self.platform.run_to(AGENT, Some(point));
        self.platform.edgectl_ok(&[&["co", "update"][..], order].concat());
        self.platform.process(AGENT).stopped().await;
        self.platform.kill(AGENT);
        let lost = match cut {
            Cut::Agent => "nothing was lost".to_owned(),
            Cut::Power => {
                kill_programs_of(&self.disk.folder).await;
                let engine = match engine {
                    None => None,
                    Some(engine) => {
                        engine.cut_power().await;
                        Some(engine)
                    }
                };
                let lost = self.disk.cut(&mut self.random);
                if let Some(engine) = engine {
                    engine.restart();
                }
                lost
            }
        };
        println!("{cut:?} cut at {point}: {lost}");
        self.platform.run(AGENT);
    }

    /// Ends all that uses the disk, and then the disk.
    async fn end(mut self) {
        self.platform.kill(AGENT);
        kill_programs_of(&self.disk.folder).await;
    }
}

/// After each of these something was written that counts.
const CUTS_OF_WASM: [&str; 5] =
    ["edge-node.adopted", "edge-node.prepared", "runtime-wasm.enforced", "runtime-wasm.gone", "edge-node.refused"];

/// An update of a WebAssembly workload whose port somebody has.
pub async fn wasm_goes_back() -> Result<(), NotRun> {
    let mut world = World::start(None).await?;
    let press = world.platform.node_address("press");
    let _taken = TcpListener::bind((press, TAKEN)).unwrap();
    world.platform.add_sample_version("1.0.0", 8080, None);
    world.platform.add_sample_version("2.0.0", TAKEN, None);
    let deploy = format!("co deploy hello@1.0.0 --name hello --set greeting=First --to {NODE} --wait");
    world.platform.edgectl_ok(&deploy.split(' ').collect::<Vec<_>>());
    let before = world.platform.deployment_on(NODE).unwrap()["digest"].clone();
    for (number, point) in CUTS_OF_WASM.into_iter().enumerate() {
        let greeting = format!("greeting=Cut {number}");
        world.cut_at(point, Cut::Power, &["hello", "--app", "hello@2.0.0", "--set", &greeting], None).await;
        world.platform.undone(NODE, &before, "address-in-use").await;
        answers(press, "First").await;
    }
    world.platform.edgectl_ok(&["co", "update", "hello", "--app", "hello@1.0.0", "--set", "greeting=Last", "--wait"]);
    answers(press, "Last").await;
    world.end().await;
    Ok(())
}

const CUTS_OF_CONTAINERS: [(&str, Cut); 7] = [
    ("edge-node.adopted", Cut::Power),
    ("edge-node.prepared", Cut::Power),
    ("runtime-docker.enforced", Cut::Power),
    ("runtime-docker.enforced", Cut::Agent),
    ("edge-node.started", Cut::Power),
    ("edge-node.started", Cut::Agent),
    ("edge-node.refused", Cut::Power),
];

/// A page of an image, by a server that runs or ends at once.
fn compose(command: &str) -> String {
    format!(
        "services: {{ web: {{ image: 'hello-compose:1.0.0', init: true, ports: ['{PAGES}:80'], command: {command} }} }}\n"
    )
}

/// An update of a container whose program ends.
pub async fn containers_go_back() -> Result<(), NotRun> {
    let mut engine = DockerEngine::start().map_err(|testkit::NotRun(reason)| NotRun(reason))?;
    let mut world = World::start(Some(&engine)).await?;
    world.platform.add_compose_version("1.0.0", &compose("[httpd, -f, -p, '80', -h, /www]"), "First");
    world.platform.add_compose_version("2.0.0", &compose("[sh, -c, 'exit 3']"), "Second");
    let page = format!("{}:{PAGES}", world.platform.node_address("press"));
    wait_for("the node to tell that it runs Compose", async || {
        let nodes = world.platform.edgectl_json(&["co", "list", "nodes"]).to_string();
        if nodes.contains("compose") { Ok(()) } else { Err(nodes) }
    })
    .await;
    let deploy = format!("co deploy hello-compose@1.0.0 --name pages --to {NODE} --wait");
    world.platform.edgectl_ok(&deploy.split(' ').collect::<Vec<_>>());
    let before = world.platform.deployment_on(NODE).unwrap()["digest"].clone();
    for (point, cut) in CUTS_OF_CONTAINERS {
        let greeting = format!("greeting={point}, {cut:?}");
        let order = ["pages", "--app", "hello-compose@2.0.0", "--set", greeting.as_str()];
        world.cut_at(point, cut, &order, Some(&mut engine)).await;
        world.platform.undone(NODE, &before, "exited").await;
        wait_for("the first page", async || match engine.get(&page) {
            Some(text) if text == "First" => Ok(()),
            other => Err(other),
        })
        .await;
        let all = ["ps", "--all", "--format", "{{.State}}"];
        wait_for("one container to be left", async || match engine.docker(&all) {
            Some(states) if states == "running" => Ok(()),
            other => Err(other),
        })
        .await;
    }
    world.platform.edgectl_ok(&["co", "remove", "pages", "--wait"]);
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]).as_deref(), Some(""));
    world.end().await;
    Ok(())
}
