//! Every subject of the platform. A public contract: `docs/bus.md` describes it for third parties.

use std::{fmt, str::FromStr};

use margo::{ClientName, NodeId};

/// A text that is no subject of the platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no subject of the platform")]
pub struct InvalidSubject(String);

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$variant_doc])* $variant,)* }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The subject token.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = InvalidSubject;

            fn from_str(raw: &str) -> Result<Self, InvalidSubject> {
                Self::ALL.iter().copied().find(|it| it.as_str() == raw).ok_or_else(|| InvalidSubject(raw.to_owned()))
            }
        }
    };
}

words! {
    /// A service of the platform, as it is called on the bus, in Git (`Handled`) and on the command line.
    ServiceName {
        /// REST for people.
        ApiGateway = "api-gateway",
        /// The catalogue.
        AppRegistry = "app-registry",
        /// Orders.
        DeploymentRegistry = "deployment-registry",
        /// Commits.
        GitWriter = "git-writer",
        /// Commits to the bus.
        GitObserver = "git-observer",
        /// Reports.
        StatusCollector = "status-collector",
        /// Sites and nodes.
        NodeCapabilities = "node-capabilities",
        /// A site's head.
        LocalOrchestrator = "local-orchestrator",
        /// A site's artifacts.
        OciFetcher = "oci-fetcher",
    }
}

words! {
    /// What an LO asks the hub.
    SiteVerb {
        /// Recreate my consumer: I have lost my copy.
        Resync = "resync",
        /// Which nodes may connect here?
        Nodes = "nodes",
        /// Where are the platform's artifacts?
        Store = "store",
    }
}

words! {
    /// What the hub asks of a site about a node.
    CallVerb {
        /// The list of nodes that may connect has changed: ask for it.
        Admit = "admit",
    }
}

/// One subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The signed summary of a client's manifest (stream DESIRED).
    DesiredHead(ClientName),
    /// A node's whole desired state (stream DESIRED).
    DesiredNode(NodeId),
    /// The head has changed: look again. From the server, without body.
    ChangedHead(ClientName),
    /// The node's desired state has changed: look again. From the server, without body.
    ChangedNode(NodeId),
    /// All deployments of a node (stream STATE).
    Status(NodeId),
    /// What a node can do (stream STATE).
    Capabilities(NodeId),
    /// The LO's judgement (stream STATE).
    Health(ClientName),
    /// Transitions of a node (stream EVENTS).
    Event(NodeId),
    /// Node → LO, request: status and transitions.
    Report(NodeId),
    /// Node → LO, request: an incarnation.
    Register(NodeId),
    /// Heartbeat.
    Alive(NodeId),
    /// LO → hub, request.
    Site(ClientName, SiteVerb),
    /// Hub → LO → node, request.
    Call(NodeId, CallVerb),
    /// One change of `fleet.git` (stream GIT_WRITES).
    GitWriteFleet,
    /// One change of a client's repository (stream GIT_WRITES).
    GitWriteClient(ClientName),
    /// `fleet.git` has a new commit: look again.
    GitCommittedFleet,
    /// A client's repository has a new commit: look again.
    GitCommittedClient(ClientName),
    /// A request between services. The verb is one token of `a-z` and `-`.
    Service(ServiceName, String),
}

impl Subject {
    /// A request to a service.
    pub fn service(service: ServiceName, verb: &str) -> Self {
        Self::Service(service, verb.to_owned())
    }

    /// The client that this subject belongs to, when it belongs to one.
    pub fn client(&self) -> Option<&ClientName> {
        match self {
            Self::DesiredHead(client)
            | Self::ChangedHead(client)
            | Self::Health(client)
            | Self::Site(client, _)
            | Self::GitWriteClient(client)
            | Self::GitCommittedClient(client) => Some(client),
            Self::DesiredNode(node)
            | Self::ChangedNode(node)
            | Self::Status(node)
            | Self::Capabilities(node)
            | Self::Event(node)
            | Self::Report(node)
            | Self::Register(node)
            | Self::Alive(node)
            | Self::Call(node, _) => Some(&node.client),
            Self::GitWriteFleet | Self::GitCommittedFleet | Self::Service(..) => None,
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
            Self::Report(NodeId { client, node }) => write!(f, "report.{client}.{node}"),
            Self::Register(NodeId { client, node }) => write!(f, "register.{client}.{node}"),
            Self::Alive(NodeId { client, node }) => write!(f, "alive.{client}.{node}"),
            Self::Site(client, verb) => write!(f, "site.{client}.{verb}"),
            Self::Call(NodeId { client, node }, verb) => write!(f, "call.{client}.{node}.{verb}"),
            Self::GitWriteFleet => f.write_str("git.write.fleet"),
            Self::GitWriteClient(client) => write!(f, "git.write.client.{client}"),
            Self::GitCommittedFleet => f.write_str("git.committed.fleet"),
            Self::GitCommittedClient(client) => write!(f, "git.committed.client.{client}"),
            Self::Service(service, verb) => write!(f, "svc.{service}.{verb}"),
        }
    }
}

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(raw: &str) -> Result<Self, InvalidSubject> {
        let invalid = || InvalidSubject(raw.chars().take(300).collect());
        let client = |token: &str| token.parse::<ClientName>().map_err(|_| invalid());
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
            ["report", c, n] => Self::Report(node(c, n)?),
            ["register", c, n] => Self::Register(node(c, n)?),
            ["alive", c, n] => Self::Alive(node(c, n)?),
            ["site", c, verb] => Self::Site(client(c)?, verb.parse().map_err(|_| invalid())?),
            ["call", c, n, verb] => Self::Call(node(c, n)?, verb.parse().map_err(|_| invalid())?),
            ["git", "write", "fleet"] => Self::GitWriteFleet,
            ["git", "write", "client", c] => Self::GitWriteClient(client(c)?),
            ["git", "committed", "fleet"] => Self::GitCommittedFleet,
            ["git", "committed", "client", c] => Self::GitCommittedClient(client(c)?),
            ["svc", service, verb] if is_verb(verb) => {
                Self::Service(service.parse().map_err(|_| invalid())?, verb.to_owned())
            }
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

/// One repository of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Repository {
    /// What people meant, and what the system decided.
    Fleet,
    /// What follows from it for one client.
    Client(ClientName),
}

impl Repository {
    /// Where changes of it are written.
    pub fn write_subject(&self) -> Subject {
        match self {
            Self::Fleet => Subject::GitWriteFleet,
            Self::Client(client) => Subject::GitWriteClient(client.clone()),
        }
    }

    /// Where its commits are announced.
    pub fn committed_subject(&self) -> Subject {
        match self {
            Self::Fleet => Subject::GitCommittedFleet,
            Self::Client(client) => Subject::GitCommittedClient(client.clone()),
        }
    }

    /// The repository that a write or an announcement is about.
    pub fn of(subject: &Subject) -> Option<Self> {
        match subject {
            Subject::GitWriteFleet | Subject::GitCommittedFleet => Some(Self::Fleet),
            Subject::GitWriteClient(client) | Subject::GitCommittedClient(client) => Some(Self::Client(client.clone())),
            _ => None,
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Client(client) => write!(f, "clients/{client}"),
        }
    }
}

impl FromStr for Repository {
    type Err = InvalidSubject;

    fn from_str(raw: &str) -> Result<Self, InvalidSubject> {
        let client = |raw: &str| raw.strip_prefix("clients/")?.parse().ok().map(Self::Client);
        if raw == "fleet" { Ok(Self::Fleet) } else { client(raw).ok_or_else(|| InvalidSubject(raw.to_owned())) }
    }
}

/// Subjects that belong together: what streams hold, subscriptions hear and permissions allow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// Exactly one.
    One(Subject),
    /// `desired.>`
    Desired,
    /// `desired.<client>.>`
    DesiredOf(ClientName),
    /// `changed.>`
    Changed,
    /// `changed.<client>.>`
    ChangedOf(ClientName),
    /// `state.>`
    State,
    /// `state.<client>.>`
    StateOf(ClientName),
    /// `state.*.node.*.status`
    Statuses,
    /// `state.*.node.*.capabilities`
    AllCapabilities,
    /// `state.*.health`
    AllHealth,
    /// `event.>`
    Events,
    /// `event.<client>.>`
    EventsOf(ClientName),
    /// `report.<client>.*`
    Reports(ClientName),
    /// `register.<client>.*`
    Registrations(ClientName),
    /// `alive.<client>.*`
    Heartbeats(ClientName),
    /// `site.<client>.>`
    SiteOf(ClientName),
    /// `site.*.<verb>`
    Sites(SiteVerb),
    /// `call.*.*.<verb>`
    Calls(CallVerb),
    /// `call.<client>.>`
    CallsOf(ClientName),
    /// `call.<client>.<node>.>`
    CallsTo(NodeId),
    /// `git.write.>`
    GitWrites,
    /// `git.committed.>`
    GitCommitted,
    /// `svc.<service>.>`
    Service(ServiceName),
    /// `svc.>`
    Services,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(subject) => subject.fmt(f),
            Self::Desired => f.write_str("desired.>"),
            Self::DesiredOf(client) => write!(f, "desired.{client}.>"),
            Self::Changed => f.write_str("changed.>"),
            Self::ChangedOf(client) => write!(f, "changed.{client}.>"),
            Self::State => f.write_str("state.>"),
            Self::StateOf(client) => write!(f, "state.{client}.>"),
            Self::Statuses => f.write_str("state.*.node.*.status"),
            Self::AllCapabilities => f.write_str("state.*.node.*.capabilities"),
            Self::AllHealth => f.write_str("state.*.health"),
            Self::Events => f.write_str("event.>"),
            Self::EventsOf(client) => write!(f, "event.{client}.>"),
            Self::Reports(client) => write!(f, "report.{client}.*"),
            Self::Registrations(client) => write!(f, "register.{client}.*"),
            Self::Heartbeats(client) => write!(f, "alive.{client}.*"),
            Self::SiteOf(client) => write!(f, "site.{client}.>"),
            Self::Sites(verb) => write!(f, "site.*.{verb}"),
            Self::Calls(verb) => write!(f, "call.*.*.{verb}"),
            Self::CallsOf(client) => write!(f, "call.{client}.>"),
            Self::CallsTo(NodeId { client, node }) => write!(f, "call.{client}.{node}.>"),
            Self::GitWrites => f.write_str("git.write.>"),
            Self::GitCommitted => f.write_str("git.committed.>"),
            Self::Service(service) => write!(f, "svc.{service}.>"),
            Self::Services => f.write_str("svc.>"),
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
    /// One subject of every kind, all about the same node. For tests of permissions, which must miss none:
    /// the match below does not compile when a kind is added and not listed.
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
            Self::Report(node.clone()),
            Self::Register(node.clone()),
            Self::Alive(node.clone()),
            Self::GitWriteFleet,
            Self::GitWriteClient(client.clone()),
            Self::GitCommittedFleet,
            Self::GitCommittedClient(client.clone()),
        ];
        all.extend(SiteVerb::ALL.iter().map(|verb| Self::Site(client.clone(), *verb)));
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
                | Self::Report(_)
                | Self::Register(_)
                | Self::Alive(_)
                | Self::Site(..)
                | Self::Call(..)
                | Self::GitWriteFleet
                | Self::GitWriteClient(_)
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
            "git.write.client.>",
            "state.plant.node.press",
        ] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }
}
