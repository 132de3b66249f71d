//! Every subject of the platform. They are a public contract, which `docs/bus.md` describes for third parties.

use std::{fmt, str::FromStr};

use margo::{ClientName, NodeId, RepositoryName};

use crate::{InvalidSubject, ServiceName, call_id::CallId, words::words};

words! {
    /// The requests that an LO sends to the hub.
    SiteVerb {
        /// The site asks what its client shall run: the newest head, or parts of the commit that a head names.
        Desired = "desired",
        /// The site asks where it can read the platform's artifacts.
        Store = "store",
        /// The site asks for a window of what its nodes and itself report to be stored.
        Report = "report",
        /// The site has lost its disk, and asks where its nodes stand.
        Positions = "positions",
    }
}

words! {
    /// The requests that a node sends to its LO.
    NodeVerb {
        /// The node asks which life of it is the present one, and where it finds artifacts.
        Register = "register",
        /// The node asks what it shall run.
        Desired = "desired",
        /// The node reports: status, capabilities and transitions are to be stored.
        Report = "report",
        /// The heartbeat of the node. Nobody answers it.
        Alive = "alive",
    }
}

words! {
    /// The requests that the hub sends to a site about one of its nodes.
    CallVerb {
        /// Somebody asks whether the node can be reached.
        Ping = "ping",
        /// Somebody asks for the last lines that a workload wrote.
        Logs = "logs",
        /// Somebody has workloads of a deployment stopped and started again.
        Restart = "restart",
        /// Somebody has what failed of a deployment tried again.
        Retry = "retry",
    }
}

/// One subject, with the client or the node that it is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Carries the signed summary of a client's manifest (stream DESIRED).
    DesiredHead(ClientName),
    /// Carries the whole desired state of a node (stream DESIRED).
    DesiredNode(NodeId),
    /// Tells that the head has changed, so that hearers look again. It has no body.
    ChangedHead(ClientName),
    /// Tells that the node's desired state has changed, so that hearers look again. It has no body.
    ChangedNode(NodeId),
    /// Carries the state of all deployments of a node (stream STATE).
    Status(NodeId),
    /// Carries what a node can do (stream STATE).
    Capabilities(NodeId),
    /// Carries what the LO thinks of its nodes, and is its own sign of life (stream STATE).
    Health(ClientName),
    /// Carries the transitions of the deployments of a node (stream EVENTS).
    Event(NodeId),
    /// A request from an LO to the hub.
    Site(ClientName, SiteVerb),
    /// A request from a node to its LO.
    Node(NodeId, NodeVerb),
    /// A message from the hub to an LO about a node, or from the LO to the node.
    Call(NodeId, CallVerb),
    /// A request from an LO to the hub that carries a part of the answer to a call.
    SitePart(ClientName, CallId),
    /// A request from a node to its LO that carries a part of the answer to a call.
    NodePart(NodeId, CallId),
    /// Carries one order of this source for `fleet.git` (stream GIT_WRITES). Permissions bind the source.
    GitWriteFleet(ServiceName),
    /// Carries one order of this source for a client's repository (stream GIT_WRITES).
    GitWriteClient(ServiceName, ClientName),
    /// Tells that `fleet.git` has a new commit, so that hearers look again.
    GitCommittedFleet,
    /// Tells that a client's repository has a new commit, so that hearers look again.
    GitCommittedClient(ClientName),
    /// A request to a service. The verb is one token of 1 to 32 of `a-z` and `-`.
    Service(ServiceName, String),
}

impl Subject {
    /// Makes the subject of a request to a service.
    pub fn service(service: ServiceName, verb: &str) -> Self {
        Self::Service(service, verb.to_owned())
    }

    /// Returns the subject on which writes of this source to this repository are sent to git-writer.
    pub fn git_write(source: ServiceName, repository: &RepositoryName) -> Self {
        match repository {
            RepositoryName::Fleet => Self::GitWriteFleet(source),
            RepositoryName::Client(client) => Self::GitWriteClient(source, client.clone()),
        }
    }

    /// Returns the subject on which git-writer announces commits to this repository.
    pub fn git_committed(repository: &RepositoryName) -> Self {
        match repository {
            RepositoryName::Fleet => Self::GitCommittedFleet,
            RepositoryName::Client(client) => Self::GitCommittedClient(client.clone()),
        }
    }

    /// Returns the repository that a write or an announcement is about. It is `None` for other subjects.
    pub fn repository(&self) -> Option<RepositoryName> {
        match self {
            Self::GitWriteFleet(_) | Self::GitCommittedFleet => Some(RepositoryName::Fleet),
            Self::GitWriteClient(_, client) | Self::GitCommittedClient(client) => {
                Some(RepositoryName::Client(client.clone()))
            }
            _ => None,
        }
    }

    /// Returns the client that the subject is about, directly or through a node. It is `None` for subjects of the
    /// whole tenant.
    pub fn client(&self) -> Option<&ClientName> {
        match self {
            Self::DesiredHead(client)
            | Self::ChangedHead(client)
            | Self::Health(client)
            | Self::Site(client, _)
            | Self::SitePart(client, _)
            | Self::GitWriteClient(_, client)
            | Self::GitCommittedClient(client) => Some(client),
            Self::DesiredNode(node)
            | Self::ChangedNode(node)
            | Self::Status(node)
            | Self::Capabilities(node)
            | Self::Event(node)
            | Self::Node(node, _)
            | Self::NodePart(node, _)
            | Self::Call(node, _) => Some(&node.client),
            Self::GitWriteFleet(_) | Self::GitCommittedFleet | Self::Service(..) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DesiredHead(client) => write!(f, "desired.{client}.head"),
            Self::DesiredNode(NodeId { client, node }) => write!(f, "desired.{client}.node.{node}"),
            Self::ChangedHead(client) => write!(f, "changed.{client}.head"),
            Self::ChangedNode(NodeId { client, node }) => write!(f, "changed.{client}.node.{node}"),
            Self::Status(NodeId { client, node }) => write!(f, "state.{client}.node.{node}.status"),
            Self::Capabilities(NodeId { client, node }) => write!(f, "state.{client}.node.{node}.capabilities"),
            Self::Health(client) => write!(f, "state.{client}.health"),
            Self::Event(NodeId { client, node }) => write!(f, "event.{client}.node.{node}"),
            Self::Site(client, verb) => write!(f, "site.{client}.{verb}"),
            Self::Node(NodeId { client, node }, verb) => write!(f, "node.{client}.{node}.{verb}"),
            Self::Call(NodeId { client, node }, verb) => write!(f, "call.{client}.{node}.{verb}"),
            Self::SitePart(client, id) => write!(f, "site.{client}.part.{id}"),
            Self::NodePart(NodeId { client, node }, id) => write!(f, "node.{client}.{node}.part.{id}"),
            Self::GitWriteFleet(source) => write!(f, "git.write.{source}.fleet"),
            Self::GitWriteClient(source, client) => write!(f, "git.write.{source}.client.{client}"),
            Self::GitCommittedFleet => f.write_str("git.committed.fleet"),
            Self::GitCommittedClient(client) => write!(f, "git.committed.client.{client}"),
            Self::Service(service, verb) => write!(f, "svc.{service}.{verb}"),
        }
    }
}

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(raw: &str) -> Result<Self, InvalidSubject> {
        let invalid = || InvalidSubject::of(raw);
        let client = |token: &str| token.parse::<ClientName>().map_err(|_| invalid());
        let service = |token: &str| token.parse::<ServiceName>().map_err(|_| invalid());
        let node = |client: &str, node: &str| {
            let client = client.parse().map_err(|_| invalid())?;
            let node = node.parse().map_err(|_| invalid())?;
            Ok(NodeId { client, node })
        };
        let tokens: Vec<&str> = raw.split('.').collect();
        Ok(match tokens[..] {
            ["desired", c, "head"] => Self::DesiredHead(client(c)?),
            ["desired", c, "node", n] => Self::DesiredNode(node(c, n)?),
            ["changed", c, "head"] => Self::ChangedHead(client(c)?),
            ["changed", c, "node", n] => Self::ChangedNode(node(c, n)?),
            ["state", c, "node", n, "status"] => Self::Status(node(c, n)?),
            ["state", c, "node", n, "capabilities"] => Self::Capabilities(node(c, n)?),
            ["state", c, "health"] => Self::Health(client(c)?),
            ["event", c, "node", n] => Self::Event(node(c, n)?),
            ["site", c, verb] => Self::Site(client(c)?, verb.parse().map_err(|_| invalid())?),
            ["node", c, n, verb] => Self::Node(node(c, n)?, verb.parse().map_err(|_| invalid())?),
            ["call", c, n, verb] => Self::Call(node(c, n)?, verb.parse().map_err(|_| invalid())?),
            ["site", c, "part", id] => Self::SitePart(client(c)?, id.parse()?),
            ["node", c, n, "part", id] => Self::NodePart(node(c, n)?, id.parse()?),
            ["git", "write", source, "fleet"] => Self::GitWriteFleet(service(source)?),
            ["git", "write", source, "client", c] => Self::GitWriteClient(service(source)?, client(c)?),
            ["git", "committed", "fleet"] => Self::GitCommittedFleet,
            ["git", "committed", "client", c] => Self::GitCommittedClient(client(c)?),
            ["svc", name, verb] if is_verb(verb) => Self::Service(service(name)?, verb.to_owned()),
            _ => return Err(invalid()),
        })
    }
}

fn is_verb(raw: &str) -> bool {
    (1..=32).contains(&raw.len()) && raw.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
}

impl async_nats::subject::ToSubject for &Subject {
    fn to_subject(&self) -> async_nats::Subject {
        self.to_string().into()
    }
}

/// A set of subjects that belong together, with the wildcards of NATS. Streams hold, subscriptions hear and
/// permissions allow such sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// The set of this one subject.
    One(Subject),
    /// `desired.>`: heads and desired states of all clients.
    Desired,
    /// `desired.<client>.>`: head and desired states of one client.
    DesiredOf(ClientName),
    /// `changed.*.head`: all signals that a head has changed.
    ChangedHeads,
    /// `changed.<client>.>`: all signals about one client.
    ChangedOf(ClientName),
    /// `state.>`: the last states of all clients and nodes.
    State,
    /// `state.<client>.>`: the last states of one client and its nodes.
    StateOf(ClientName),
    /// `state.*.node.*.status`: the status of every node.
    Statuses,
    /// `state.*.node.*.capabilities`: what every node can do.
    AllCapabilities,
    /// `state.*.health`: what every LO thinks of its nodes.
    AllHealth,
    /// `event.>`: the transitions of all nodes.
    Events,
    /// `event.<client>.>`: the transitions of one client's nodes.
    EventsOf(ClientName),
    /// `site.<client>.>`: all requests of one LO to the hub.
    SiteOf(ClientName),
    /// `site.*.<verb>`: one kind of request, of all LOs to the hub.
    Sites(SiteVerb),
    /// `node.<client>.<node>.>`: all requests of one node to its LO.
    NodeOf(NodeId),
    /// `node.<client>.*.<verb>`: one kind of request, of all nodes of a client to its LO.
    Nodes(ClientName, NodeVerb),
    /// `site.*.part.*`: parts of the answers to calls, of all LOs to the hub.
    SiteParts,
    /// `node.<client>.*.part.*`: parts of the answers to calls, of all nodes of a client to its LO.
    NodeParts(ClientName),
    /// `call.*.*.<verb>`: one kind of request to all sites.
    Calls(CallVerb),
    /// `call.<client>.>`: all requests of the hub to one site.
    CallsOf(ClientName),
    /// `call.<client>.<node>.>`: all requests about one node.
    CallsTo(NodeId),
    /// `git.write.>`: writes to all repositories.
    GitWrites,
    /// `git.write.<source>.>`: writes of one source to all repositories.
    GitWritesOf(ServiceName),
    /// `git.committed.>`: announcements of commits to all repositories.
    GitCommitted,
    /// `svc.<service>.>`: all requests to one service.
    Service(ServiceName),
    /// `$SRV.>`: discovery through the NATS service API.
    Discovery,
    /// `$SRV.STATS`: the question that all services answer with who they are and what they did.
    ServiceStats,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(subject) => subject.fmt(f),
            Self::Desired => f.write_str("desired.>"),
            Self::DesiredOf(client) => write!(f, "desired.{client}.>"),
            Self::ChangedHeads => f.write_str("changed.*.head"),
            Self::ChangedOf(client) => write!(f, "changed.{client}.>"),
            Self::State => f.write_str("state.>"),
            Self::StateOf(client) => write!(f, "state.{client}.>"),
            Self::Statuses => f.write_str("state.*.node.*.status"),
            Self::AllCapabilities => f.write_str("state.*.node.*.capabilities"),
            Self::AllHealth => f.write_str("state.*.health"),
            Self::Events => f.write_str("event.>"),
            Self::EventsOf(client) => write!(f, "event.{client}.>"),
            Self::SiteOf(client) => write!(f, "site.{client}.>"),
            Self::Sites(verb) => write!(f, "site.*.{verb}"),
            Self::NodeOf(NodeId { client, node }) => write!(f, "node.{client}.{node}.>"),
            Self::Nodes(client, verb) => write!(f, "node.{client}.*.{verb}"),
            Self::SiteParts => f.write_str("site.*.part.*"),
            Self::NodeParts(client) => write!(f, "node.{client}.*.part.*"),
            Self::Calls(verb) => write!(f, "call.*.*.{verb}"),
            Self::CallsOf(client) => write!(f, "call.{client}.>"),
            Self::CallsTo(NodeId { client, node }) => write!(f, "call.{client}.{node}.>"),
            Self::GitWrites => f.write_str("git.write.>"),
            Self::GitWritesOf(source) => write!(f, "git.write.{source}.>"),
            Self::GitCommitted => f.write_str("git.committed.>"),
            Self::Service(service) => write!(f, "svc.{service}.>"),
            Self::Discovery => f.write_str("$SRV.>"),
            Self::ServiceStats => f.write_str("$SRV.STATS"),
        }
    }
}

impl From<Subject> for Pattern {
    fn from(subject: Subject) -> Self {
        Self::One(subject)
    }
}

impl async_nats::subject::ToSubject for &Pattern {
    fn to_subject(&self) -> async_nats::Subject {
        self.to_string().into()
    }
}

impl Subject {
    /// Returns one subject of every kind, all about the same node. It is for tests of permissions, which must miss
    /// none: the match below does not compile when a kind is added and not listed.
    #[doc(hidden)]
    pub fn one_of_each(node: &NodeId) -> Vec<Self> {
        let client = &node.client;
        let mut all = vec![
            Self::DesiredHead(client.clone()),
            Self::DesiredNode(node.clone()),
            Self::ChangedHead(client.clone()),
            Self::ChangedNode(node.clone()),
            Self::Status(node.clone()),
            Self::Capabilities(node.clone()),
            Self::Health(client.clone()),
            Self::Event(node.clone()),
            Self::SitePart(client.clone(), CallId::random()),
            Self::NodePart(node.clone(), CallId::random()),
            Self::GitWriteFleet(ServiceName::DeploymentRegistry),
            Self::GitWriteClient(ServiceName::DeploymentRegistry, client.clone()),
            Self::GitCommittedFleet,
            Self::GitCommittedClient(client.clone()),
        ];
        all.extend(SiteVerb::ALL.iter().map(|verb| Self::Site(client.clone(), *verb)));
        all.extend(NodeVerb::ALL.iter().map(|verb| Self::Node(node.clone(), *verb)));
        all.extend(CallVerb::ALL.iter().map(|verb| Self::Call(node.clone(), *verb)));
        all.extend(ServiceName::ALL.iter().map(|service| Self::service(*service, "list")));
        for subject in &all {
            match subject {
                Self::DesiredHead(_)
                | Self::DesiredNode(_)
                | Self::ChangedHead(_)
                | Self::ChangedNode(_)
                | Self::Status(_)
                | Self::Capabilities(_)
                | Self::Health(_)
                | Self::Event(_)
                | Self::Site(..)
                | Self::Node(..)
                | Self::Call(..)
                | Self::SitePart(..)
                | Self::NodePart(..)
                | Self::GitWriteFleet(_)
                | Self::GitWriteClient(..)
                | Self::GitCommittedFleet
                | Self::GitCommittedClient(_)
                | Self::Service(..) => {}
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_what_is_parsed() {
        for subject in Subject::one_of_each(&"plant/press".parse().unwrap()) {
            assert_eq!(subject.to_string().parse::<Subject>().unwrap(), subject);
        }
    }

    #[test]
    fn nothing_else_is_a_subject() {
        for bad in [
            "",
            ">",
            "desired",
            "desired.*.head",
            "desired.Plant.head",
            "desired.plant.node.a.b",
            "svc.git-writer.>",
            "svc.nobody.get",
            "site.plant.delete",
            "node.plant.press.delete",
            "node.plant.press.part.1",
            "site.plant.part.*",
            "node.plant.report",
            "git.write.client.>",
            "git.write.fleet",
            "git.write.nobody.fleet",
            "state.plant.node.press",
        ] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }
}
