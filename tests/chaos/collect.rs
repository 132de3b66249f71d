//! Gathers the evidence: asks the interface, the sites and the workloads, reads the repositories, lists the processes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use end_to_end::{Platform, SiteLayout, edgectl, runners, starts};
use serde_json::Value;

use crate::{
    PORTS,
    evidence::{Evidence, Interface, LivingRunner, Node, Site, Witnessed},
    git,
    ledger::Sent,
    orders::Rest,
};

/// A workload that does not answer by then is counted as silent; the next look asks again.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Where to look. Holds no connection and no process, so the campaign may go on beside it.
pub struct Places {
    pub rest: Rest,
    context: PathBuf,
    repositories: PathBuf,
    sites: &'static [SiteLayout],
    /// The data folder and the address of each node, by `site/node`.
    nodes: BTreeMap<String, (PathBuf, String)>,
}

impl Places {
    pub fn of(platform: &Platform, sites: &'static [SiteLayout]) -> Self {
        let node = |site: &SiteLayout, node: &str| {
            let place = (platform.node(node), platform.node_address(node).to_string());
            (format!("{}/{node}", site.name), place)
        };
        Self {
            rest: Rest::new(platform.api(), platform.token()),
            context: platform.context(),
            repositories: platform.hub().join("repositories/default"),
            sites,
            nodes: sites.iter().flat_map(|site| site.nodes.iter().map(move |name| node(site, name))).collect(),
        }
    }

    /// Everything as it is now; the reason, when the interface does not answer.
    pub async fn collect(&self, ledger: &[Sent], witnessed: &Witnessed) -> Result<Evidence, String> {
        let interface = Interface {
            assignments: self.rest.list("assignments").await?,
            orders: self.rest.list("orders").await?,
            deployments: self.rest.list("deployments").await?,
        };
        // Orders of nodes and applications have no assignment, and are none of this campaign's.
        let fleet = git::read(&self.repositories.join("fleet.git"), "main", &["assignments", "placements"]);
        let site = |site: &SiteLayout| (site.name.to_owned(), self.site(site.name));
        let mut nodes = BTreeMap::new();
        for (name, (folder, address)) in &self.nodes {
            nodes.insert(name.clone(), self.node(folder, address).await);
        }
        Ok(Evidence {
            ledger: ledger.to_vec(),
            fleet,
            sites: self.sites.iter().map(site).collect(),
            interface,
            nodes,
            witnessed: witnessed.clone(),
        })
    }

    fn site(&self, name: &str) -> Site {
        let path = self.repositories.join("clients").join(format!("{name}.git"));
        let status = edgectl(&self.context, &["lo", "status", "--site", name, "-o", "json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        let mut repository = git::read(&path, "desired", &["nodes"]);
        // That a node was added has no assignment, and is none of this campaign's.
        repository.commits.retain(|commit| !commit.assignment.is_empty());
        Site { repository, in_force: status["manifestVersion"].as_u64() }
    }

    async fn node(&self, folder: &Path, address: &str) -> Node {
        let mut answers = BTreeMap::new();
        for port in PORTS {
            answers.insert(port, self.ask(&format!("http://{address}:{port}/")).await);
        }
        let runner = |runner: end_to_end::Runner| LivingRunner {
            deployment: deployment_of(&runner.folder),
            process: (runner.pid, runner.kernel_start),
        };
        Node { answers, runners: runners(folder).into_iter().map(runner).collect(), starts: starts(folder) }
    }

    async fn ask(&self, url: &str) -> Option<String> {
        let answer = self.rest.http.get(url).timeout(ANSWER_TIME).send().await.ok()?;
        answer.text().await.ok()
    }
}

/// The folder of a workload is called `<deployment>.<component>`.
fn deployment_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split_once('.').map_or(name.clone(), |(deployment, _)| deployment.to_owned())
}
