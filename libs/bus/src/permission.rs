//! What each NATS user may publish and subscribe, made from [`Subject`] and [`Pattern`] alone.
//!
//! One user for each service, site and node, with an inbox prefix of its own, so that nobody reads another's answers.

use std::fmt;

use margo::{ClientName, NodeId};

use crate::{CallVerb, Pattern, ServiceName, SiteVerb, Subject, streams};

/// The account of the server's own requests, such as reloading its configuration.
pub const SYSTEM_ACCOUNT: &str = "SYS";

/// Who a NATS user is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A central service, at the hub.
    Central(ServiceName),
    /// The LO of a site, at the hub.
    Site(ClientName),
    /// The LO of a site, at its own server.
    LocalOrchestrator(ClientName),
    /// The oci-fetcher of a site, at the site's server.
    OciFetcher(ClientName),
    /// A node, at its site's server.
    Node(NodeId),
    /// Whoever writes a server's list of users, in the system account: may have the server reload it.
    Reloader,
}

impl Role {
    /// The prefix of this user's inboxes.
    pub fn inbox_prefix(&self) -> String {
        match self {
            Self::Central(service) => format!("_INBOX.{service}"),
            Self::Site(client) => format!("_INBOX.site.{client}"),
            Self::LocalOrchestrator(_) => format!("_INBOX.{}", ServiceName::LocalOrchestrator),
            Self::OciFetcher(_) => format!("_INBOX.{}", ServiceName::OciFetcher),
            Self::Node(node) => format!("_INBOX.node.{}", node.node),
            Self::Reloader => "_INBOX.reloader".to_owned(),
        }
    }

    /// Everything this user may do.
    pub fn permissions(&self) -> Permissions {
        let mut may = Permissions::default();
        match self {
            Self::Central(service) => central(*service, &mut may),
            Self::Site(client) => site(client, &mut may),
            Self::LocalOrchestrator(client) => local_orchestrator(client, &mut may),
            Self::OciFetcher(client) => {
                may.serve(ServiceName::OciFetcher);
                may.publish(Pattern::Service(ServiceName::LocalOrchestrator));
                may.subscribe(Pattern::ChangedOf(client.clone()));
            }
            Self::Node(node) => self::node(node, &mut may),
            Self::Reloader => may.publish.push("$SYS.REQ.SERVER.PING.>".to_owned()),
        }
        if *self == Self::Reloader {
            may.publish.push("$SYS.REQ.SERVER.*.RELOAD".to_owned());
        }
        may.subscribe.push(format!("{}.>", self.inbox_prefix()));
        may
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Central(service) => service.fmt(f),
            Self::Site(client) => write!(f, "site {client}"),
            Self::LocalOrchestrator(_) => ServiceName::LocalOrchestrator.fmt(f),
            Self::OciFetcher(_) => ServiceName::OciFetcher.fmt(f),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Reloader => f.write_str("reloader"),
        }
    }
}

/// Subjects by direction. What is not listed is refused by the server; answers to requests that were
/// received are always allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// May publish and request.
    pub publish: Vec<String>,
    /// May subscribe.
    pub subscribe: Vec<String>,
}

impl Permissions {
    fn publish(&mut self, pattern: impl Into<Pattern>) {
        self.publish.push(pattern.into().to_string());
    }

    fn subscribe(&mut self, pattern: impl Into<Pattern>) {
        self.subscribe.push(pattern.into().to_string());
    }

    /// Answers requests to this service, and discovery.
    fn serve(&mut self, service: ServiceName) {
        self.subscribe(Pattern::Service(service));
        self.subscribe.push("$SRV.>".to_owned());
        // A server that reloads its configuration forgets which answers it had allowed: requests in work would go
        // unanswered, among them the one that caused the reload. Who publishes here has to know an inbox's random name.
        self.publish.push("_INBOX.>".to_owned());
    }

    /// Creates and manages a stream and its consumers, reads it, acknowledges.
    fn own(&mut self, stream: &str) {
        for api in ["STREAM.*", "STREAM.MSG.*", "CONSUMER.*", "DIRECT.GET"] {
            self.publish.push(format!("$JS.API.{api}.{stream}"));
        }
        for api in ["CONSUMER.*", "CONSUMER.DURABLE.CREATE", "CONSUMER.MSG.NEXT", "DIRECT.GET"] {
            self.publish.push(format!("$JS.API.{api}.{stream}.>"));
        }
        self.publish.push(format!("$JS.ACK.{stream}.>"));
    }

    /// Creates and reads consumers of a stream that another service owns.
    fn read(&mut self, stream: &str) {
        self.publish.push(format!("$JS.API.STREAM.INFO.{stream}"));
        for api in ["CONSUMER.*", "CONSUMER.DURABLE.CREATE", "CONSUMER.MSG.NEXT", "DIRECT.GET"] {
            self.publish.push(format!("$JS.API.{api}.{stream}.>"));
        }
        self.publish.push(format!("$JS.ACK.{stream}.>"));
    }
}

fn central(service: ServiceName, may: &mut Permissions) {
    may.serve(service);
    match service {
        ServiceName::ApiGateway => {
            may.publish(Pattern::Services);
            may.publish.push("$SRV.>".to_owned());
            may.publish.push(format!("$JS.API.STREAM.INFO.{}", streams::DEAD_LETTERS));
        }
        ServiceName::AppRegistry => {
            may.publish(Subject::GitWriteFleet);
            may.publish(Subject::service(ServiceName::GitWriter, "handled"));
            may.subscribe(Subject::GitCommittedFleet);
            may.subscribe(Pattern::Sites(SiteVerb::Store));
        }
        ServiceName::DeploymentRegistry => {
            may.publish(Pattern::GitWrites);
            may.publish(Subject::service(ServiceName::GitWriter, "handled"));
            may.publish(Subject::service(ServiceName::AppRegistry, "get"));
            may.publish(Subject::service(ServiceName::NodeCapabilities, "nodes"));
            may.publish(Subject::service(ServiceName::NodeCapabilities, "sites"));
            may.subscribe(Pattern::GitCommitted);
        }
        ServiceName::GitWriter => {
            may.own(streams::GIT_WRITES);
            may.publish(Pattern::GitCommitted);
        }
        ServiceName::GitObserver => {
            may.own(streams::DESIRED);
            may.publish(Pattern::Desired);
            may.subscribe(Pattern::GitCommitted);
            may.subscribe(Pattern::Sites(SiteVerb::Resync));
        }
        ServiceName::StatusCollector => {
            for stream in [streams::STATE, streams::EVENTS, streams::DEAD_LETTERS] {
                may.own(stream);
            }
        }
        ServiceName::NodeCapabilities => {
            may.read(streams::STATE);
            may.publish(Subject::GitWriteFleet);
            may.publish(Subject::service(ServiceName::GitWriter, "handled"));
            may.publish(Subject::service(ServiceName::DeploymentRegistry, "evaluate"));
            may.publish(Pattern::Calls(CallVerb::Admit));
            may.subscribe(Subject::GitCommittedFleet);
            may.subscribe(Pattern::Sites(SiteVerb::Nodes));
        }
        // They live at a site; see `Role::LocalOrchestrator` and `Role::OciFetcher`.
        ServiceName::LocalOrchestrator | ServiceName::OciFetcher => *may = Permissions::default(),
    }
}

/// At the hub a site may pull and acknowledge on its own consumer, read its own last values by subject, publish its
/// own state and events, be called, and ask. No stream or consumer API, and no `multi_last`: its subjects are in the
/// payload, where no permission limits them.
fn site(client: &ClientName, may: &mut Permissions) {
    may.publish.push(format!("$JS.API.CONSUMER.MSG.NEXT.{}.{client}", streams::DESIRED));
    may.publish.push(format!("$JS.ACK.{}.{client}.>", streams::DESIRED));
    may.publish.push(format!("$JS.API.DIRECT.GET.{}.{}", streams::DESIRED, Pattern::DesiredOf(client.clone())));
    may.publish.push(format!("$JS.API.DIRECT.GET.{}.{}", streams::STATE, Pattern::StateOf(client.clone())));
    may.publish(Pattern::StateOf(client.clone()));
    may.publish(Pattern::EventsOf(client.clone()));
    may.publish(Pattern::SiteOf(client.clone()));
    may.subscribe(Pattern::CallsOf(client.clone()));
}

fn local_orchestrator(client: &ClientName, may: &mut Permissions) {
    for stream in [streams::DESIRED, streams::STATE, streams::EVENTS] {
        may.own(stream);
    }
    may.serve(ServiceName::LocalOrchestrator);
    may.publish(Pattern::DesiredOf(client.clone()));
    may.publish(Pattern::StateOf(client.clone()));
    may.publish(Pattern::EventsOf(client.clone()));
    may.publish(Pattern::CallsOf(client.clone()));
    may.publish(Pattern::Service(ServiceName::OciFetcher));
    may.subscribe(Pattern::Reports(client.clone()));
    may.subscribe(Pattern::Registrations(client.clone()));
    may.subscribe(Pattern::Heartbeats(client.clone()));
    may.subscribe(Pattern::ChangedOf(client.clone()));
}

fn node(node: &NodeId, may: &mut Permissions) {
    let desired = Subject::DesiredNode(node.clone());
    may.publish.push(format!("$JS.API.DIRECT.GET.{}.{desired}", streams::DESIRED));
    may.publish(Subject::Report(node.clone()));
    may.publish(Subject::Register(node.clone()));
    may.publish(Subject::Alive(node.clone()));
    may.subscribe(Subject::ChangedNode(node.clone()));
    may.subscribe(Pattern::CallsTo(node.clone()));
}
