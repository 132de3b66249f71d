//! Whether the platform has kept what it promised. Pure: evidence in, findings out.
//!
//! Git is the measure. The commits of an assignment in `fleet.git` are its history, one for each revision; the ledger says
//! which orders must, may and must not stand in it. The last wish of that history is then looked for everywhere else: in
//! the files, in each site's repository, in the interface's answers, in the processes and in what the workloads answer.

use std::collections::{BTreeMap, BTreeSet};

use end_to_end::Start;
use margo::{DeploymentId, Digest, Head, ManifestList, NodeEntry, TenantName};
use serde::Deserialize;

use crate::{
    evidence::{Commit, Evidence, LivingRunner, Node, ProcessKey, Repository, Site},
    ledger::{Answer, Content, Sent, Wish},
    port,
};

/// A promise that was broken, or something that nobody ordered. `place` is a repository, or `interface`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Accepted, and yet there is no commit of it.
    NotCommitted { reason: String },
    /// It has more than one commit.
    CommittedTwice { place: String, reason: String },
    /// It stands in `fleet.git` and not in the repository of a site that it is about.
    NotWhole { place: String, reason: String },
    /// A site's repository has a commit of it, though `fleet.git` has none or the order is not about that site.
    Stray { place: String, reason: String },
    /// It was refused or never sent, and yet it is there.
    RefusedButPresent { place: String, reason: String },
    /// It breaks a rule, and yet it is there or was accepted.
    ForbiddenButAccepted { reason: String },
    /// No client has sent this order.
    NobodySent { place: String, reason: String },
    /// Its commit is not what was sent or answered: another id, another assignment, or another revision.
    NotAsAnswered { reason: String, found: String },
    /// It was carried out on another revision than the one that `If-Match` named, or on an assignment that was removed.
    WrongPredecessor { reason: String },
    /// What a file says of an assignment is not the last wish.
    WrongFile { path: String, found: String },
    /// A site's repository does not have the document of the last wish, or has it with other content.
    WrongDocument { site: String, path: String },
    /// A site's repository has a document that nobody wishes.
    UnwantedDocument { site: String, path: String },
    /// The head of a site's repository is not the summary of its documents.
    WrongHead { site: String },
    /// A site has not put in force what its repository holds.
    NotInForce { site: String, expected: u64, found: Option<u64> },
    /// The interface answers something else than what stands in Git.
    WrongAnswer { about: String, found: String },
    /// A deployment is not in the state that was wished.
    NotSettled { assignment: String, node: String, state: String },
    /// The interface claims that a deployment is installed, and its workload does not give its answer.
    ClaimsInstalled { assignment: String, node: String, found: Option<String> },
    /// Something answers on a port where nothing is wished.
    AnswersUnasked { node: String, port: u16, found: String },
    /// A deployment that is wished has not exactly one runner, started for the wished document.
    WrongRunners { node: String, deployment: String, found: Vec<ProcessKey> },
    /// A runner lives that nobody wishes.
    UnwantedRunner { node: String, runner: LivingRunner },
    /// A workload was started again for the same document, though the runner before it had not been killed.
    StartedAgain { node: String, digest: String, before: ProcessKey },
    /// Two runners of one workload lived at the same moment.
    TwoRunners { folder: String, runners: (ProcessKey, ProcessKey) },
    /// `git fsck --strict` complains of a repository.
    Unsound { place: String, complaint: String },
    /// A process ended without being killed.
    EndedByItself { process: String, how: String },
}

/// The place of a finding in `fleet.git`.
pub const FLEET: &str = "fleet";
/// The place of a finding in the answers of the hub's REST interface.
pub const INTERFACE: &str = "interface";

/// All that is wrong; nothing when every promise was kept.
pub fn check(evidence: &Evidence) -> Vec<Finding> {
    let (histories, mut findings) = histories(evidence);
    findings.extend(accepted_orders(evidence));
    findings.extend(refused_orders(evidence));
    findings.extend(whole(evidence, &histories));
    findings.extend(files(&evidence.fleet, &histories));
    let wished = wished(&histories);
    for (name, site) in &evidence.sites {
        findings.extend(documents(name, site, &wished));
    }
    findings.extend(interface(evidence, &histories));
    findings.extend(deployments(evidence, &wished));
    for (name, node) in &evidence.nodes {
        findings.extend(workloads(name, node, evidence, &wished));
        findings.extend(starts(name, node, &evidence.witnessed.killed_runners));
    }
    findings.extend(witnessed(evidence));
    findings
}

/// What the commits of an assignment add up to.
#[derive(Debug, Default)]
struct History<'a> {
    /// The order of each revision, with the sites that it is about.
    revisions: Vec<(&'a Commit, BTreeSet<String>)>,
    /// What is meant; `None` before the first commit and after the removal.
    content: Option<&'a Content>,
    /// Every node that was ever a target.
    nodes: BTreeSet<String>,
}

impl History<'_> {
    fn revision(&self) -> u64 {
        self.revisions.len() as u64
    }
}

type Histories<'a> = BTreeMap<&'a str, History<'a>>;

/// Follows the commits of `fleet.git`, and compares each with the order that was sent and with its answer.
fn histories(evidence: &Evidence) -> (Histories<'_>, Vec<Finding>) {
    let sent: BTreeMap<_, _> = evidence.ledger.iter().map(|sent| (sent.reason.as_str(), sent)).collect();
    let mut histories = Histories::new();
    let mut findings = Vec::new();
    for commit in &evidence.fleet.commits {
        let reason = commit.reason.clone();
        let Some(sent) = sent.get(commit.reason.as_str()) else {
            findings.push(Finding::NobodySent { place: FLEET.to_owned(), reason });
            continue;
        };
        let history = histories.entry(&sent.assignment).or_default();
        findings.extend(follows(history, sent).err());
        history.take(commit, sent);
        if let Some(found) = differs(history, commit, sent) {
            findings.push(Finding::NotAsAnswered { reason, found });
        }
    }
    (histories, findings)
}

impl<'a> History<'a> {
    fn take(&mut self, commit: &'a Commit, sent: &'a Sent) {
        let content = match &sent.wish {
            Wish::Create(content) | Wish::Update { to: content, .. } => Some(content),
            Wish::Remove { .. } => None,
        };
        self.nodes.extend(content.into_iter().flat_map(|content| content.nodes.iter().cloned()));
        self.content = content;
        self.revisions.push((commit, self.nodes.iter().map(|node| site_of(node).to_owned()).collect()));
    }
}

/// Whether an order may be the next one of an assignment.
fn follows(history: &History<'_>, sent: &Sent) -> Result<(), Finding> {
    let follows = match &sent.wish {
        Wish::Create(_) => history.revision() == 0,
        Wish::Update { from: None, .. } => false,
        Wish::Update { from: Some(from), .. } | Wish::Remove { from } => {
            history.content.is_some() && history.revision() == *from
        }
    };
    if follows { Ok(()) } else { Err(Finding::WrongPredecessor { reason: sent.reason.clone() }) }
}

/// What of a commit is not as it was sent and answered; `history` ends with it.
fn differs(history: &History<'_>, commit: &Commit, sent: &Sent) -> Option<String> {
    if commit.assignment != sent.assignment {
        return Some(format!("assignment {}", commit.assignment));
    }
    match &sent.answer {
        Answer::Accepted { order, .. } if *order != commit.order => Some(format!("order {}", commit.order)),
        Answer::Accepted { revision, .. } if *revision != history.revision() => {
            Some(format!("revision {}", history.revision()))
        }
        Answer::Accepted { .. } | Answer::Refused(_) | Answer::NotSent | Answer::Unknown(_) => None,
    }
}

/// How often each reason stands in a repository.
fn counts(repository: &Repository) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for commit in &repository.commits {
        *counts.entry(commit.reason.as_str()).or_default() += 1;
    }
    counts
}

/// All repositories with the names of their places.
fn repositories(evidence: &Evidence) -> impl Iterator<Item = (String, &Repository)> {
    let sites = evidence.sites.iter().map(|(name, site)| (name.clone(), &site.repository));
    std::iter::once((FLEET.to_owned(), &evidence.fleet)).chain(sites)
}

/// Each accepted order stands in Git, and every order at most once.
fn accepted_orders(evidence: &Evidence) -> Vec<Finding> {
    let in_fleet = counts(&evidence.fleet);
    let accepted = evidence.ledger.iter().filter(|sent| matches!(sent.answer, Answer::Accepted { .. }));
    let missing = accepted.filter(|sent| !in_fleet.contains_key(sent.reason.as_str()));
    let missing = missing.map(|sent| Finding::NotCommitted { reason: sent.reason.clone() });
    let twice = repositories(evidence).flat_map(|(place, repository)| {
        let twice = counts(repository).into_iter().filter(|(_, times)| *times > 1);
        let finding = |reason: &str| Finding::CommittedTwice { place: place.clone(), reason: reason.to_owned() };
        twice.map(|(reason, _)| finding(reason)).collect::<Vec<_>>()
    });
    missing.chain(twice).collect()
}

/// Nothing is left of what was refused, was never sent or is forbidden.
fn refused_orders(evidence: &Evidence) -> Vec<Finding> {
    let mut places: Vec<(String, BTreeSet<&str>)> =
        repositories(evidence).map(|(place, repository)| (place, counts(repository).into_keys().collect())).collect();
    let orders = evidence.interface.orders.iter().map(|order| order.reason.as_str());
    places.push((INTERFACE.to_owned(), orders.collect()));
    let mut findings = Vec::new();
    for sent in &evidence.ledger {
        let reason = &sent.reason;
        let present = places.iter().filter(|(_, reasons)| reasons.contains(reason.as_str()));
        if matches!(sent.answer, Answer::Refused(_) | Answer::NotSent) {
            let finding = |place: &String| Finding::RefusedButPresent { place: place.clone(), reason: reason.clone() };
            findings.extend(present.clone().map(|(place, _)| finding(place)));
        }
        let accepted = matches!(sent.answer, Answer::Accepted { .. }) || present.clone().next().is_some();
        if sent.forbidden && accepted {
            findings.push(Finding::ForbiddenButAccepted { reason: reason.clone() });
        }
    }
    findings
}

/// Each order of `fleet.git` stands in the repository of every site that it is about, and in no other.
fn whole(evidence: &Evidence, histories: &Histories<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let revisions: Vec<_> = histories.values().flat_map(|history| &history.revisions).collect();
    for (place, site) in &evidence.sites {
        let found: BTreeSet<_> = site.repository.commits.iter().map(|commit| commit.order.as_str()).collect();
        let wanted = revisions.iter().filter(|(_, sites)| sites.contains(place));
        let wanted: BTreeMap<_, _> =
            wanted.map(|(commit, _)| (commit.order.as_str(), commit.reason.as_str())).collect();
        let missing = wanted.iter().filter(|(order, _)| !found.contains(*order));
        findings.extend(
            missing.map(|(_, reason)| Finding::NotWhole { place: place.clone(), reason: (*reason).to_owned() }),
        );
        let strays = site.repository.commits.iter().filter(|commit| !wanted.contains_key(commit.order.as_str()));
        findings.extend(strays.map(|commit| Finding::Stray { place: place.clone(), reason: commit.reason.clone() }));
    }
    findings
}

/// What `assignments/<name>.yaml` has to say.
#[derive(Debug, Deserialize)]
struct AssignmentFile {
    name: String,
    revision: u64,
    state: String,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

/// The path of the file of an assignment in `fleet.git`: `printf %s NAME | sha256sum` tells its folders.
pub fn fanned_out(folder: &str, name: &str) -> String {
    let digest = Digest::of(name.as_bytes()).hex();
    format!("{folder}/{}/{}/{name}.yaml", &digest[..2], &digest[2..3])
}

/// The files of `fleet.git` hold the last wish of every assignment, and no other assignment.
fn files(fleet: &Repository, histories: &Histories<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, history) in histories {
        let path = fanned_out("assignments", name);
        let bytes = fleet.files.get(&path).map_or(b"".as_slice(), Vec::as_slice);
        let right = serde_saphyr::from_slice(bytes).is_ok_and(|file: AssignmentFile| {
            let state = if history.content.is_some() { "active" } else { "removed" };
            let right_greeting =
                history.content.is_none_or(|content| file.parameters.get("greeting") == Some(&content.greeting));
            file.name == *name && file.revision == history.revision() && file.state == state && right_greeting
        });
        if !right {
            findings.push(Finding::WrongFile { path, found: String::from_utf8_lossy(bytes).into_owned() });
        }
        let path = fanned_out("placements", name);
        if history.content.is_some() != fleet.files.contains_key(&path) {
            let found = if history.content.is_some() { "nothing" } else { "a placement of what was removed" };
            findings.push(Finding::WrongFile { path, found: found.to_owned() });
        }
    }
    let names = fleet
        .files
        .keys()
        .filter_map(|path| path.strip_prefix("assignments/")?.strip_suffix(".yaml")?.rsplit('/').next());
    let unknown = names.filter(|name| !histories.contains_key(name));
    findings.extend(unknown.map(|name| Finding::WrongFile {
        path: fanned_out("assignments", name),
        found: "an assignment without an order".to_owned(),
    }));
    findings
}

/// A deployment that is wished.
#[derive(Debug)]
struct Wished<'a> {
    assignment: &'a str,
    node: &'a str,
    content: &'a Content,
}

/// Everything that is wished, by the id of the deployment.
fn wished<'a>(histories: &'a Histories<'_>) -> BTreeMap<String, Wished<'a>> {
    let mut wished = BTreeMap::new();
    for (assignment, history) in histories {
        for (node, content) in history.nodes.iter().zip(std::iter::repeat(history.content)) {
            let Some(content) = content else { continue };
            wished.insert(deployment_id(assignment, node), Wished { assignment, node, content });
        }
    }
    wished
}

/// The id that the deployment of an assignment on a node has for ever.
pub fn deployment_id(assignment: &str, node: &str) -> String {
    let name = "a name that a client chose is valid";
    DeploymentId::new(&TenantName::default(), &assignment.parse().expect(name), &node.parse().expect(name)).to_string()
}

/// Returns the site of a name like `site/node`.
fn site_of(node: &str) -> &str {
    node.split_once('/').map_or(node, |(site, _)| site)
}

/// What a document has to say.
#[derive(Debug, Deserialize)]
struct Document {
    spec: DocumentSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentSpec {
    application_id: String,
    parameters: BTreeMap<String, DocumentParameter>,
}

#[derive(Debug, Deserialize)]
struct DocumentParameter {
    value: String,
}

/// The path of a document in its site's repository.
pub fn document_path(node: &str, deployment: &str) -> String {
    let node = node.split_once('/').map_or(node, |(_, node)| node);
    format!("{}/{deployment}.yaml", node_folder(node))
}

/// The folder of a node in its site's repository: `printf %s NAME | sha256sum` tells the one above.
pub fn node_folder(node: &str) -> String {
    format!("nodes/{}/{node}", &Digest::of(node.as_bytes()).hex()[..2])
}

/// A site's repository has exactly the documents that are wished, its head is their summary, and it is in force.
fn documents(name: &str, site: &Site, wished: &BTreeMap<String, Wished<'_>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let files = &site.repository.files;
    let mut expected = BTreeSet::new();
    for (deployment, Wished { node, content, .. }) in wished.iter().filter(|(_, wished)| site_of(wished.node) == name) {
        let path = document_path(node, deployment);
        let document = files.get(&path).and_then(|bytes| serde_saphyr::from_slice::<Document>(bytes).ok());
        let right = document.is_some_and(|Document { spec }| {
            let greeting = spec.parameters.get("greeting").map(|parameter| &parameter.value);
            spec.application_id == content.app && greeting == Some(&content.greeting)
        });
        if !right {
            findings.push(Finding::WrongDocument { site: name.to_owned(), path: path.clone() });
        }
        expected.insert(path);
    }
    let documents: Vec<_> = files.iter().filter_map(|(path, bytes)| Some((path, entry(path)?, bytes))).collect();
    let unwanted = documents.iter().filter(|(path, ..)| !expected.contains(*path));
    let unwanted = unwanted.map(|(path, ..)| (*path).clone());
    findings.extend(unwanted.map(|path| Finding::UnwantedDocument { site: name.to_owned(), path }));

    let list = list(files);
    let head = files.get("head").and_then(|bytes| Head::parse(bytes).ok());
    match head {
        Some(head) if Some(head.list) == list.map(|list| list.digest()) && head.client.as_str() == name => {
            let expected = head.version.get();
            if site.in_force != Some(expected) {
                findings.push(Finding::NotInForce { site: name.to_owned(), expected, found: site.in_force });
            }
        }
        Some(_) => findings.push(Finding::WrongHead { site: name.to_owned() }),
        // A site that was never ordered anything has none.
        None if files.is_empty() => {}
        None => findings.push(Finding::WrongHead { site: name.to_owned() }),
    }
    findings
}

/// The node and the deployment of a document's path; `None` for other files.
fn entry(path: &str) -> Option<(margo::NodeName, DeploymentId)> {
    let [_, node, file] = path.strip_prefix("nodes/")?.splitn(3, '/').collect::<Vec<_>>()[..] else { return None };
    Some((node.parse().ok()?, file.strip_suffix(".yaml")?.parse().ok()?))
}

/// The list that these files make; `None` when a version is missing.
pub fn list(files: &BTreeMap<String, Vec<u8>>) -> Option<ManifestList> {
    let mut nodes: BTreeMap<margo::NodeName, NodeEntry> = BTreeMap::new();
    let versions = files.iter().filter(|(path, _)| path.starts_with("nodes/") && path.ends_with("/VERSION"));
    for (path, version) in versions {
        let folder = path.strip_suffix("/VERSION")?;
        let version: u64 = std::str::from_utf8(version).ok()?.trim_end().parse().ok()?;
        let identity = files.get(&format!("{folder}/NODE")).map(|bytes| Digest::of(bytes));
        let entry = NodeEntry { identity, version: version.try_into().ok()?, deployments: [].into() };
        nodes.insert(folder.rsplit('/').next()?.parse().ok()?, entry);
    }
    for (path, bytes) in files {
        if let Some((node, deployment)) = entry(path) {
            nodes.get_mut(&node)?.deployments.insert(deployment, Digest::of(bytes));
        }
    }
    Some(nodes.into_iter().collect())
}

/// The interface lists every assignment as it stands in Git, and each order as one that does.
fn interface(evidence: &Evidence, histories: &Histories<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wrong = |about: &str, found: String| Finding::WrongAnswer { about: about.to_owned(), found };
    let assignments = &evidence.interface.assignments;
    for (name, history) in histories {
        let state = if history.content.is_some() { "active" } else { "removed" };
        let mut found = assignments.iter().filter(|assignment| assignment.name == *name);
        let right = found.next().is_some_and(|assignment| {
            let greeting = assignment.parameters.get("greeting");
            let right_greeting = history.content.is_none_or(|content| greeting == Some(&content.greeting));
            assignment.revision == history.revision() && assignment.state == state && right_greeting
        });
        if !right || found.next().is_some() {
            let found: Vec<_> = assignments.iter().filter(|assignment| assignment.name == *name).collect();
            findings.push(wrong(name, format!("{found:?}")));
        }
    }
    let unknown = assignments.iter().filter(|assignment| !histories.contains_key(assignment.name.as_str()));
    findings.extend(unknown.map(|assignment| wrong(&assignment.name, "an assignment without an order".to_owned())));

    let mut ids = BTreeSet::new();
    let revisions = histories.iter().flat_map(|(name, history)| {
        (1..).zip(&history.revisions).map(move |(revision, (commit, _))| (commit.order.as_str(), (*name, revision)))
    });
    let revisions: BTreeMap<_, (_, u64)> = revisions.collect();
    for order in &evidence.interface.orders {
        let right = revisions.get(order.id.as_str()) == Some(&(order.assignment.as_str(), order.revision));
        if !right || !order.committed || !ids.insert(&order.id) {
            findings.push(wrong(&order.reason, format!("{order:?}")));
        }
    }
    findings
}

/// The interface tells of every deployment what is wished, and that it is so.
fn deployments(evidence: &Evidence, wished: &BTreeMap<String, Wished<'_>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (id, Wished { assignment, node, .. }) in wished {
        let site = evidence.sites.get(site_of(node));
        let document = site.and_then(|site| site.repository.files.get(&document_path(node, id)));
        let digest = document.map(|bytes| Digest::of(bytes).to_string());
        let found = evidence.interface.deployments.iter().find(|deployment| deployment.id == *id);
        if found.is_none_or(|found| found.digest.is_none() || found.digest != digest) {
            let about = format!("deployment of {assignment} on {node}");
            findings.push(Finding::WrongAnswer { about, found: format!("{found:?}") });
        }
    }
    for deployment in &evidence.interface.deployments {
        let state = if wished.contains_key(&deployment.id) { "installed" } else { "removed" };
        if deployment.state != state || deployment.digest.is_some() != wished.contains_key(&deployment.id) {
            findings.push(Finding::NotSettled {
                assignment: deployment.assignment.clone(),
                node: deployment.node.clone(),
                state: deployment.state.clone(),
            });
        }
    }
    findings
}

/// On a node, each wished workload answers from the one runner that it has, and nothing else runs or answers.
fn workloads(name: &str, node: &Node, evidence: &Evidence, wished: &BTreeMap<String, Wished<'_>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let here: BTreeMap<_, _> = wished.iter().filter(|(_, wished)| wished.node == name).collect();
    for (id, Wished { assignment, content, .. }) in &here {
        let listed = evidence.interface.deployments.iter().find(|deployment| deployment.id == **id);
        let answer = node.answers.get(&port(content.app)).cloned().flatten();
        let wanted = format!("{} from Edgewright", content.greeting);
        let answers = answer.as_ref().is_some_and(|answer| answer.trim_end() == wanted);
        if listed.is_some_and(|listed| listed.state == "installed") && !answers {
            let (assignment, node) = ((*assignment).to_owned(), name.to_owned());
            findings.push(Finding::ClaimsInstalled { assignment, node, found: answer });
        }
        let runners: Vec<_> = node.runners.iter().filter(|runner| runner.deployment == **id).collect();
        let digest = listed.and_then(|listed| listed.digest.as_ref());
        // The answer says whether it is the wanted document; a runner of an older one was not started last.
        let of_this = |start: &&Start| start.workload.split('.').next() == Some(id.as_str());
        let last = node.starts.iter().rfind(of_this).map(|start| (start.pid, start.kernel_start));
        let right = matches!(runners.as_slice(), [only] if digest.is_some() && last == Some(only.process));
        if !right {
            let found = runners.iter().map(|runner| runner.process).collect();
            findings.push(Finding::WrongRunners { node: name.to_owned(), deployment: (*id).clone(), found });
        }
    }
    let unwanted = node.runners.iter().filter(|runner| !here.contains_key(&runner.deployment));
    let unwanted = unwanted.map(|runner| Finding::UnwantedRunner { node: name.to_owned(), runner: runner.clone() });
    findings.extend(unwanted);
    let ports: BTreeSet<_> = here.values().map(|wished| port(wished.content.app)).collect();
    for (port, found) in &node.answers {
        if let Some(found) = found.clone().filter(|_| !ports.contains(port)) {
            findings.push(Finding::AnswersUnasked { node: name.to_owned(), port: *port, found });
        }
    }
    findings
}

/// A workload is started once for each revision, and again only when its runner was killed.
///
/// The death of its agent is no excuse: the runner outlives it and is taken up. Nor is a newer revision: its runner begins
/// when the one before it has ended, and no older revision comes back.
fn starts(node_name: &str, node: &Node, killed: &BTreeSet<ProcessKey>) -> Vec<Finding> {
    let mut last = BTreeMap::<(&str, &str), ProcessKey>::new();
    let mut findings = Vec::new();
    for start in &node.starts {
        let before = last.insert((&start.workload, &start.digest), (start.pid, start.kernel_start));
        if let Some(before) = before.filter(|before| !killed.contains(before)) {
            let (node, digest) = (node_name.to_owned(), start.digest.clone());
            findings.push(Finding::StartedAgain { node, digest, before });
        }
    }
    findings
}

/// What was seen on the way, and the state of the repositories.
fn witnessed(evidence: &Evidence) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (folder, runners) in &evidence.witnessed.doubles {
        findings.push(Finding::TwoRunners { folder: folder.clone(), runners: *runners });
    }
    for (process, how) in &evidence.witnessed.ended {
        findings.push(Finding::EndedByItself { process: process.clone(), how: how.clone() });
    }
    for (place, repository) in repositories(evidence) {
        if let Some(complaint) = repository.unsound.clone() {
            findings.push(Finding::Unsound { place, complaint });
        }
    }
    findings
}

#[cfg(test)]
mod tests;
