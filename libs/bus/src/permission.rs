//! What each NATS user may publish and subscribe, made from [`Subject`] and [`Pattern`] alone.
//!
//! Each service, site and node is a user with an inbox prefix of its own, so that nobody reads another's answers.

use std::fmt;

use margo::{ClientName, NodeId};

use crate::{
    Asker, CallVerb, NodeVerb, Pattern, ServiceName, Subject, Tier, hub_streams, inbox,
    service::{GitFolders, Progress, Reads},
    streams,
};

/// The name of the consumer by which a site's own LO takes what goes up to the hub.
pub const RELAY: &str = "relay";

/// The users that NATS servers know. The name of a variant says who connects, and to which server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// A central service, which connects to the hub's server.
    Central(ServiceName),
    /// The second connection of a central service that answers sites: it hears them and answers them, and can do nothing
    /// else.
    Front(ServiceName),
    /// The LO of a site, when it connects to the hub's server.
    Site(ClientName),
    /// The LO of a site, when it connects to its own server.
    LocalOrchestrator(ClientName),
    /// The second connection of the LO to its own server: it hears and answers nodes, and can do nothing else.
    LocalFront(ClientName),
    /// The oci-fetcher of a site, which connects to the site's server.
    OciFetcher(ClientName),
    /// A node, which connects to its site's server.
    Node(NodeId),
    /// The bootstrap of the hub, which makes its streams and consumers. It answers nobody, and publishes nothing else.
    Bootstrap,
    /// The minter of a server, as a user of the server's system account: it pushes what is revoked, and ends surplus
    /// connections.
    Minter,
}

impl User {
    /// Returns the prefix of the inboxes in which this user receives answers.
    pub fn inbox_prefix(&self) -> String {
        match self {
            Self::Central(service) => format!("{}.{service}", inbox::SERVICES),
            // No client's name has this form, so a front's own inbox is nobody else's.
            Self::Front(service) => format!("{}._{service}", inbox::SITES),
            Self::Site(client) => Asker::Site(client.clone()).inbox_prefix(),
            Self::LocalOrchestrator(_) => format!("{}.{}", inbox::SERVICES, ServiceName::LocalOrchestrator),
            Self::LocalFront(_) => format!("{}._{}", inbox::NODES, ServiceName::LocalOrchestrator),
            Self::OciFetcher(_) => format!("{}.{}", inbox::SERVICES, ServiceName::OciFetcher),
            Self::Node(node) => Asker::Node(node.clone()).inbox_prefix(),
            Self::Bootstrap => "_INBOX.bootstrap".to_owned(),
            Self::Minter => "_INBOX.minter".to_owned(),
        }
    }

    /// Tells whether this is the second connection of a service, on which it answers the tier below.
    pub fn is_front(&self) -> bool {
        matches!(self, Self::Front(_) | Self::LocalFront(_))
    }

    /// Returns everything that this user may publish and subscribe.
    pub fn permissions(&self) -> Permissions {
        let mut may = Permissions::default();
        match self {
            Self::Central(service) => central(*service, &mut may),
            Self::Front(service) => {
                service.service().answers.iter().for_each(|verb| may.subscribe(Pattern::Sites(*verb)));
                if service.service().calls {
                    may.subscribe(Pattern::SiteParts);
                }
                may.publish.push(format!("{}.>", inbox::SITES));
            }
            Self::Site(client) => site(client, &mut may),
            Self::LocalFront(client) => {
                NodeVerb::ALL.iter().for_each(|verb| may.subscribe(Pattern::Nodes(client.clone(), *verb)));
                may.subscribe(Pattern::NodeParts(client.clone()));
                may.publish.push(format!("{}.>", inbox::NODES));
            }
            Self::LocalOrchestrator(client) => local_orchestrator(client, &mut may),
            Self::OciFetcher(client) => {
                may.serve(ServiceName::OciFetcher);
                may.publish(Pattern::Service(ServiceName::LocalOrchestrator));
                may.subscribe(Pattern::ChangedOf(client.clone()));
            }
            Self::Node(node) => self::node(node, &mut may),
            Self::Bootstrap => bootstrap_of_the_hub(&mut may),
            Self::Minter => {
                let may_ask =
                    ["CLAIMS.UPDATE", "ACCOUNT.*.CLAIMS.LOOKUP", "ACCOUNT.*.STATZ", "SERVER.*.CONNZ", "SERVER.*.KICK"];
                may.publish.extend(may_ask.map(|request| format!("$SYS.REQ.{request}")));
                may.subscribe.extend(["CONNECT", "DISCONNECT"].map(|event| format!("$SYS.ACCOUNT.*.{event}")));
            }
        }
        may.subscribe.push(format!("{}.>", self.inbox_prefix()));
        may
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Central(service) => service.fmt(f),
            Self::Front(service) => write!(f, "{service}-front"),
            Self::Site(client) => write!(f, "site {client}"),
            Self::LocalOrchestrator(_) => ServiceName::LocalOrchestrator.fmt(f),
            Self::LocalFront(_) => write!(f, "{}-front", ServiceName::LocalOrchestrator),
            Self::OciFetcher(_) => ServiceName::OciFetcher.fmt(f),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Bootstrap => f.write_str("bootstrap"),
            Self::Minter => f.write_str("minter"),
        }
    }
}

/// The subjects that a user may use, by direction. The server refuses what is not listed, also as an answer to a request:
/// whoever answers needs the right to publish into the inboxes of those who ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// The subjects that the user may publish, which includes sending requests.
    pub publish: Vec<String>,
    /// The subjects that the user may subscribe.
    pub subscribe: Vec<String>,
}

impl Permissions {
    fn publish(&mut self, pattern: impl Into<Pattern>) {
        self.publish.push(pattern.into().to_string());
    }

    fn subscribe(&mut self, pattern: impl Into<Pattern>) {
        self.subscribe.push(pattern.into().to_string());
    }

    /// Allows answering requests to this service, and being found by discovery.
    fn serve(&mut self, service: ServiceName) {
        self.subscribe(Pattern::Service(service));
        self.subscribe(Pattern::Discovery);
        // The services of one server trust each other; nobody else may ask them.
        self.publish.push(format!("{}.>", inbox::SERVICES));
    }

    /// Allows looking at a stream, which also lists its subjects.
    fn look_at(&mut self, stream: &str) {
        self.publish.push(format!("$JS.API.STREAM.INFO.{stream}"));
    }

    /// Allows getting the last message of each subject.
    fn get(&mut self, stream: &str) {
        self.publish.push(format!("$JS.API.DIRECT.GET.{stream}.>"));
    }

    /// Allows asking a consumer for messages, and looking at it. Acknowledging is no part of it.
    fn pull(&mut self, stream: &str, consumer: &str) {
        for api in ["INFO", "MSG.NEXT"] {
            self.publish.push(format!("$JS.API.CONSUMER.{api}.{stream}.{consumer}"));
        }
    }

    fn acknowledge(&mut self, stream: &str, consumer: &str) {
        self.publish.push(format!("$JS.ACK.{stream}.{consumer}.>"));
    }

    /// Allows making a stream and changing it.
    fn make(&mut self, stream: &str) {
        for api in ["CREATE", "UPDATE"] {
            self.publish.push(format!("$JS.API.STREAM.{api}.{stream}"));
        }
        self.look_at(stream);
    }
}

/// Allows what the table of services says about a central service.
fn central(name: ServiceName, may: &mut Permissions) {
    let service = name.service();
    if service.tier != Tier::Hub {
        // The services of a site are the users [`User::LocalOrchestrator`] and [`User::OciFetcher`]; the hub does not
        // know them.
        return;
    }
    may.serve(name);
    match service.git {
        GitFolders::None => {}
        GitFolders::Fleet(_) => {
            may.publish(Subject::GitWriteFleet(name));
            may.subscribe(Subject::GitCommittedFleet);
        }
        GitFolders::FleetAndClients(_) => {
            may.publish(Pattern::GitWritesOf(name));
            may.subscribe(Pattern::GitCommitted);
        }
    }
    if service.git != GitFolders::None {
        may.publish(Subject::service(ServiceName::GitWriter, "handled"));
    }
    service.owns.iter().for_each(|stream| may.look_at(stream));
    service.gets.iter().for_each(|stream| may.get(stream));
    for stream in service.purges {
        may.publish.push(format!("$JS.API.STREAM.PURGE.{stream}"));
    }
    for Reads { stream, progress, .. } in service.reads {
        may.pull(stream, name.as_str());
        if progress.is_kept() {
            may.acknowledge(stream, name.as_str());
        }
        if progress.may_begin_anew() {
            may.publish.push(format!("$JS.API.CONSUMER.RESET.{stream}.{name}"));
        }
        if *progress == Progress::KeptOrAnew {
            // It looks whether its copy lacks a message that it has acknowledged.
            may.publish.push(format!("$JS.API.STREAM.MSG.GET.{stream}"));
        }
    }
    if !service.owns.is_empty() || !service.reads.is_empty() {
        // What it lacks of streams and consumers it asks for.
        may.publish(Subject::service(ServiceName::Identity, streams::KEEP));
    }
    for (asked, verb) in service.asks {
        may.publish(Subject::service(*asked, verb));
    }
    service.publishes.iter().for_each(|pattern| may.publish(pattern.clone()));
    if service.calls {
        CallVerb::ALL.iter().for_each(|verb| may.publish(Pattern::Calls(*verb)));
    }
    service.hears.iter().for_each(|pattern| may.subscribe(pattern.clone()));
}

/// Allows making the hub's streams and their consumers, and nothing else.
fn bootstrap_of_the_hub(may: &mut Permissions) {
    for wanted in hub_streams::of_the_hub() {
        let stream = wanted.stream.name;
        may.make(&stream);
        may.publish.push(format!("$JS.API.STREAM.DELETE.{stream}"));
        for api in ["CREATE", "INFO", "DELETE"] {
            may.publish.push(format!("$JS.API.CONSUMER.{api}.{stream}.>"));
        }
    }
}

/// Allows the LO what a site needs at the hub: to ask below its own prefix, and to hear its own signals and calls. A site has no
/// JetStream: whoever may use one of its subjects could have the server publish anywhere, in the place of an answer.
fn site(client: &ClientName, may: &mut Permissions) {
    may.publish(Pattern::SiteOf(client.clone()));
    may.subscribe(Pattern::ChangedOf(client.clone()));
    may.subscribe(Pattern::CallsOf(client.clone()));
}

fn local_orchestrator(client: &ClientName, may: &mut Permissions) {
    for stream in [streams::DESIRED, streams::STATE, streams::EVENTS] {
        may.make(stream);
        may.get(stream);
    }
    for stream in [streams::STATE, streams::EVENTS] {
        may.pull(stream, RELAY);
        may.acknowledge(stream, RELAY);
        may.publish.push(format!("$JS.API.CONSUMER.CREATE.{stream}.{RELAY}.>"));
        may.publish.push(format!("$JS.API.CONSUMER.DELETE.{stream}.{RELAY}"));
    }
    may.serve(ServiceName::LocalOrchestrator);
    may.publish(Pattern::DesiredOf(client.clone()));
    may.publish(Pattern::StateOf(client.clone()));
    may.publish(Pattern::EventsOf(client.clone()));
    may.publish(Pattern::CallsOf(client.clone()));
    may.publish(Pattern::ChangedOf(client.clone()));
    may.publish(Pattern::Service(ServiceName::OciFetcher));
    may.subscribe(Pattern::ChangedOf(client.clone()));
}

/// The same for a node at its site.
fn node(node: &NodeId, may: &mut Permissions) {
    may.publish(Pattern::NodeOf(node.clone()));
    may.subscribe(Subject::ChangedNode(node.clone()));
    may.subscribe(Pattern::CallsTo(node.clone()));
}
