//! Who connects to which server, and what each may do there, written by hand: the permissions are not their own judge.
//!
//! Users and subjects are made from their enums, so a new one cannot be forgotten: [`expected`] does not compile without a
//! word on it.

use bus::{CallVerb, NodeVerb, ServiceName, SiteVerb, Subject, Tier, User};
use margo::{ClientName, NodeId};

/// What a user may do with a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct May {
    pub publish: bool,
    pub subscribe: bool,
}

const NOTHING: May = May { publish: false, subscribe: false };
const PUBLISH: May = May { publish: true, subscribe: false };
const SUBSCRIBE: May = May { publish: false, subscribe: true };
const BOTH: May = May { publish: true, subscribe: true };

pub fn press() -> NodeId {
    "plant/press".parse().unwrap()
}

/// A neighbour of the press at its site.
pub fn oven() -> NodeId {
    "plant/oven".parse().unwrap()
}

/// A node of another client.
pub fn other() -> NodeId {
    "other/press".parse().unwrap()
}

/// Everybody who connects to the server of this tier. Sites are represented by that of the press, and nodes by the press.
pub fn everybody(tier: Tier) -> Vec<User> {
    let NodeId { client, .. } = press();
    match tier {
        Tier::Hub => {
            let services = ServiceName::at(Tier::Hub);
            let fronts = services.filter(|service| service.has_front()).map(User::Front);
            ServiceName::at(Tier::Hub)
                .map(User::Central)
                .chain(fronts)
                .chain([User::Site(client), User::Bootstrap, User::Minter])
                .collect()
        }
        Tier::Site => vec![
            User::LocalOrchestrator(client.clone()),
            User::LocalFront(client.clone()),
            User::OciFetcher(client),
            User::Node(press()),
            User::Minter,
        ],
    }
}

/// Tells whether the user belongs to a lower tier: it joined by its own key, and may be in foreign hands.
pub fn is_member(user: &User) -> bool {
    matches!(user, User::Site(_) | User::Node(_))
}

/// Every subject of the platform, about the press, its neighbour and a node of another client.
pub fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for node in [press(), oven(), other()] {
        all.extend(Subject::one_of_each(&node));
        for source in ServiceName::ALL {
            all.extend([Subject::GitWriteFleet(*source), Subject::GitWriteClient(*source, node.client.clone())]);
        }
    }
    for service in ServiceName::ALL {
        all.extend(["get", "members", "evaluate", "handled", "remove"].map(|verb| Subject::service(*service, verb)));
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|subject| seen.insert(subject.clone()));
    all
}

/// What each user must be able to do with each subject.
pub fn expected(user: &User, subject: &Subject) -> May {
    match user {
        User::Central(service) => of_central(*service, subject),
        User::Front(service) => of_front(*service, subject),
        User::Site(client) => of_site(client, subject),
        User::LocalOrchestrator(client) => of_local_orchestrator(client, subject),
        User::LocalFront(client) => match subject {
            // It hears what the site's nodes ask.
            Subject::Node(node, NodeVerb::Register | NodeVerb::Desired | NodeVerb::Report | NodeVerb::Alive)
                if node.client == *client =>
            {
                SUBSCRIBE
            }
            Subject::NodePart(node, _) if node.client == *client => SUBSCRIBE,
            _ => NOTHING,
        },
        User::OciFetcher(client) => match subject {
            Subject::Service(ServiceName::OciFetcher, _) => SUBSCRIBE,
            Subject::Service(ServiceName::LocalOrchestrator, _) => PUBLISH,
            Subject::ChangedHead(of) if of == client => SUBSCRIBE,
            Subject::ChangedNode(node) if node.client == *client => SUBSCRIBE,
            _ => NOTHING,
        },
        User::Node(node) => of_node(node, subject),
        // It makes streams and their consumers, and puts nothing in.
        User::Bootstrap => NOTHING,
        // It is no user of the platform's account.
        User::Minter => NOTHING,
    }
}

fn of_node(own: &NodeId, subject: &Subject) -> May {
    match subject {
        // A node reports, registers, asks and beats for itself.
        Subject::Node(node, NodeVerb::Register | NodeVerb::Desired | NodeVerb::Report | NodeVerb::Alive)
            if node == own =>
        {
            PUBLISH
        }
        Subject::NodePart(node, _) if node == own => PUBLISH,
        // It hears what is for itself.
        Subject::ChangedNode(node)
        | Subject::Call(node, CallVerb::Ping | CallVerb::Logs | CallVerb::Restart | CallVerb::Retry)
            if node == own =>
        {
            SUBSCRIBE
        }
        // Nobody else's, and nothing of the centre's.
        Subject::Node(..)
        | Subject::NodePart(..)
        | Subject::SitePart(..)
        | Subject::ChangedNode(_)
        | Subject::Call(..)
        | Subject::Status(_)
        | Subject::Capabilities(_)
        | Subject::Health(_)
        | Subject::Event(_)
        | Subject::Site(..)
        | Subject::DesiredHead(_)
        | Subject::DesiredNode(_)
        | Subject::ChangedHead(_)
        | Subject::GitWriteFleet(_)
        | Subject::GitWriteClient(..)
        | Subject::GitCommittedFleet
        | Subject::GitCommittedClient(_)
        | Subject::Service(..) => NOTHING,
    }
}

/// A site speaks for all its nodes.
fn of_site(own: &ClientName, subject: &Subject) -> May {
    match subject {
        Subject::Site(client, SiteVerb::Desired | SiteVerb::Store | SiteVerb::Report | SiteVerb::Positions)
            if client == own =>
        {
            PUBLISH
        }
        Subject::SitePart(client, _) if client == own => PUBLISH,
        Subject::ChangedHead(client) if client == own => SUBSCRIBE,
        Subject::ChangedNode(node) | Subject::Call(node, CallVerb::Ping | CallVerb::Logs | CallVerb::Restart | CallVerb::Retry) if node.client == *own => SUBSCRIBE,
        Subject::Site(..)
        | Subject::SitePart(..)
        | Subject::NodePart(..)
        | Subject::ChangedHead(_)
        | Subject::ChangedNode(_)
        | Subject::Call(..)
        // What it and its nodes report it asks to have stored; it stores nothing itself.
        | Subject::Status(_)
        | Subject::Capabilities(_)
        | Subject::Health(_)
        | Subject::Event(_)
        | Subject::Node(..)
        | Subject::DesiredHead(_)
        | Subject::DesiredNode(_)
        | Subject::GitWriteFleet(_)
        | Subject::GitWriteClient(..)
        | Subject::GitCommittedFleet
        | Subject::GitCommittedClient(_)
        | Subject::Service(..) => NOTHING,
    }
}

fn of_local_orchestrator(own: &ClientName, subject: &Subject) -> May {
    match subject {
        Subject::DesiredHead(client) | Subject::Health(client) if client == own => PUBLISH,
        Subject::DesiredNode(node)
        | Subject::Status(node)
        | Subject::Capabilities(node)
        | Subject::Event(node)
        | Subject::Call(node, CallVerb::Ping | CallVerb::Logs | CallVerb::Restart | CallVerb::Retry)
            if node.client == *own =>
        {
            PUBLISH
        }
        Subject::ChangedHead(client) if client == own => BOTH,
        Subject::ChangedNode(node) if node.client == *own => BOTH,
        Subject::Service(ServiceName::LocalOrchestrator, _) => SUBSCRIBE,
        Subject::Service(ServiceName::OciFetcher, _) => PUBLISH,
        // What nodes ask is heard on its front.
        Subject::Node(..)
        | Subject::NodePart(..)
        | Subject::SitePart(..)
        | Subject::DesiredHead(_)
        | Subject::DesiredNode(_)
        | Subject::ChangedHead(_)
        | Subject::ChangedNode(_)
        | Subject::Health(_)
        | Subject::Status(_)
        | Subject::Capabilities(_)
        | Subject::Event(_)
        | Subject::Call(..)
        | Subject::Site(..)
        | Subject::GitWriteFleet(_)
        | Subject::GitWriteClient(..)
        | Subject::GitCommittedFleet
        | Subject::GitCommittedClient(_)
        | Subject::Service(..) => NOTHING,
    }
}

/// A front hears what its service answers, and publishes no subject of the platform.
fn of_front(service: ServiceName, subject: &Subject) -> May {
    match (service, subject) {
        (ServiceName::ApiGateway, Subject::SitePart(..))
        | (ServiceName::GitObserver, Subject::Site(_, SiteVerb::Desired))
        | (ServiceName::AppRegistry, Subject::Site(_, SiteVerb::Store))
        | (ServiceName::StatusCollector, Subject::Site(_, SiteVerb::Report | SiteVerb::Positions)) => SUBSCRIBE,
        _ => NOTHING,
    }
}

fn of_central(service: ServiceName, subject: &Subject) -> May {
    use ServiceName::*;
    match (service, subject) {
        // It asks in the name of people, and whether there is a node that is called.
        (ApiGateway, Subject::Service(AppRegistry | DeploymentRegistry, verb)) if verb == "get" => PUBLISH,
        (ApiGateway, Subject::Service(DeploymentRegistry, verb)) if verb == "remove" => PUBLISH,
        (ApiGateway, Subject::Service(AppRegistry | DeploymentRegistry | StatusCollector, verb)) if verb == "list" => {
            PUBLISH
        }
        (ApiGateway, Subject::Service(NodeCapabilities, verb)) if verb == "members" => PUBLISH,
        // It calls nodes, and hears their answers on its front.
        (ApiGateway, Subject::Call(..)) => PUBLISH,
        (_, Subject::Service(asked, _)) if *asked == service => SUBSCRIBE,
        (NodeCapabilities | AppRegistry | DeploymentRegistry, Subject::Service(GitWriter, verb))
            if verb == "handled" =>
        {
            PUBLISH
        }
        (StatusCollector | DeploymentRegistry, Subject::Service(NodeCapabilities, verb)) if verb == "members" => {
            PUBLISH
        }
        (NodeCapabilities, Subject::Service(DeploymentRegistry, verb)) if verb == "evaluate" => PUBLISH,
        (DeploymentRegistry, Subject::Service(AppRegistry, verb)) if verb == "get" => PUBLISH,
        (GitWriter, Subject::GitCommittedFleet | Subject::GitCommittedClient(_)) => PUBLISH,
        (
            GitObserver | NodeCapabilities | DeploymentRegistry,
            Subject::GitCommittedFleet | Subject::GitCommittedClient(_),
        )
        | (AppRegistry | Identity, Subject::GitCommittedFleet) => SUBSCRIBE,
        // The source of a write stands in its subject, and nobody writes as another.
        (
            NodeCapabilities | DeploymentRegistry,
            Subject::GitWriteFleet(source) | Subject::GitWriteClient(source, _),
        ) if *source == service => PUBLISH,
        (AppRegistry, Subject::GitWriteFleet(AppRegistry)) => PUBLISH,
        (GitObserver, Subject::DesiredHead(_) | Subject::DesiredNode(_) | Subject::ChangedHead(_)) => PUBLISH,
        (StatusCollector, Subject::Status(_) | Subject::Capabilities(_) | Subject::Health(_) | Subject::Event(_)) => {
            PUBLISH
        }
        // Nobody at the hub speaks as a site or as a node, and what sites ask is heard on fronts.
        (
            _,
            Subject::Site(..)
            | Subject::Node(..)
            | Subject::SitePart(..)
            | Subject::NodePart(..)
            | Subject::Call(..)
            | Subject::DesiredHead(_)
            | Subject::DesiredNode(_)
            | Subject::ChangedHead(_)
            | Subject::ChangedNode(_)
            | Subject::Status(_)
            | Subject::Capabilities(_)
            | Subject::Health(_)
            | Subject::Event(_)
            | Subject::GitWriteFleet(_)
            | Subject::GitWriteClient(..)
            | Subject::GitCommittedFleet
            | Subject::GitCommittedClient(_)
            | Subject::Service(..),
        ) => NOTHING,
    }
}

/// What each user must be able to do with the inboxes of others, and with discovery of services.
pub fn expected_elsewhere(user: &User, text: &str) -> May {
    let below = |prefix: &str| text.starts_with(prefix);
    let publish = match user {
        User::Front(_) => below("_INBOX_site."),
        User::LocalFront(_) => below("_INBOX_node."),
        // The services of one server answer each other.
        User::Central(service) => below("_INBOX_svc.") || (*service == ServiceName::ApiGateway && text == "$SRV.STATS"),
        User::LocalOrchestrator(_) | User::OciFetcher(_) => below("_INBOX_svc."),
        User::Site(_) | User::Node(_) | User::Bootstrap | User::Minter => false,
    };
    let discovered = matches!(user, User::Central(_) | User::LocalOrchestrator(_) | User::OciFetcher(_));
    let subscribe = is_own_inbox(user, text) || (discovered && below("$SRV."));
    May { publish, subscribe }
}

/// Tells whether the subject is an inbox of the user.
pub fn is_own_inbox(user: &User, text: &str) -> bool {
    text.strip_prefix(&user.inbox_prefix()).is_some_and(|rest| rest.starts_with('.'))
}

/// The requests about streams and consumers that a user may send to the server, among those that are tried.
pub fn requests(user: &User) -> Vec<String> {
    use ServiceName::*;
    let mut all = Vec::new();
    let stream = |apis: &[&str], stream: &str| {
        apis.iter().map(|api| format!("$JS.API.STREAM.{api}.{stream}")).collect::<Vec<_>>()
    };
    let consumer = |apis: &[&str], stream: &str, name: &str| {
        apis.iter().map(|api| format!("$JS.API.CONSUMER.{api}.{stream}.{name}")).collect::<Vec<_>>()
    };
    let get = |stream: &str| {
        let nodes = [press(), oven(), other()];
        nodes.map(|node| format!("$JS.API.DIRECT.GET.{stream}.{}", kept_there(stream, node))).to_vec()
    };
    match user {
        User::Central(GitWriter) => {
            all.extend(stream(&["INFO", "PURGE"], "GIT_WRITES"));
            all.extend(consumer(&["INFO", "MSG.NEXT", "RESET"], "GIT_WRITES", "git-writer"));
        }
        User::Central(GitObserver) => {
            all.extend(stream(&["INFO"], "DESIRED"));
            all.extend(get("DESIRED"));
        }
        User::Central(StatusCollector) => {
            all.extend(stream(&["INFO"], "DEAD_LETTERS"));
            all.extend(get("STATE"));
            for name in ["STATE", "EVENTS"] {
                all.extend(stream(&["INFO", "MSG.GET"], name));
                all.extend(consumer(&["INFO", "MSG.NEXT", "RESET"], name, "status-collector"));
                all.push(format!("$JS.ACK.{name}.status-collector.1.1.1.1.0"));
            }
        }
        User::Central(NodeCapabilities) => {
            all.extend(consumer(&["INFO", "MSG.NEXT"], "STATE", "node-capabilities"));
            all.push("$JS.ACK.STATE.node-capabilities.1.1.1.1.0".to_owned());
        }
        User::Bootstrap => {
            for name in ["DESIRED", "STATE", "EVENTS", "GIT_WRITES", "DEAD_LETTERS"] {
                all.extend(stream(&["CREATE", "UPDATE", "INFO", "DELETE"], name));
                for consumer_name in CONSUMERS {
                    all.extend(consumer(&["CREATE", "INFO", "DELETE"], name, consumer_name));
                    all.extend(consumer(&["CREATE", "INFO", "DELETE"], name, &format!("{consumer_name}.>")));
                }
            }
        }
        User::LocalOrchestrator(_) => {
            for name in ["DESIRED", "STATE", "EVENTS"] {
                all.extend(stream(&["CREATE", "UPDATE", "INFO"], name));
                all.extend(get(name));
            }
            for name in ["STATE", "EVENTS"] {
                all.extend(consumer(&["INFO", "MSG.NEXT", "DELETE"], name, "relay"));
                all.extend(consumer(&["CREATE"], name, "relay.>"));
                all.push(format!("$JS.ACK.{name}.relay.1.1.1.1.0"));
            }
        }
        User::Central(AppRegistry | DeploymentRegistry | ApiGateway | Identity | LocalOrchestrator | OciFetcher)
        | User::Front(_)
        | User::Site(_)
        | User::LocalFront(_)
        | User::OciFetcher(_)
        | User::Node(_)
        | User::Minter => {}
    }
    all
}

/// Names of consumers. Nobody has one that is called reader.
pub const CONSUMERS: [&str; 5] = ["reader", "git-writer", "status-collector", "node-capabilities", "relay"];

/// A subject of a stream, about this node.
pub fn kept_there(stream: &str, node: NodeId) -> Subject {
    match stream {
        "DESIRED" => Subject::DesiredNode(node),
        "STATE" => Subject::Status(node),
        "EVENTS" => Subject::Event(node),
        _ => Subject::GitWriteClient(ServiceName::NodeCapabilities, node.client),
    }
}

/// Tells whether the user may put messages into this stream, or looks after it.
pub fn may_write(user: &User, stream: &str) -> bool {
    use ServiceName::*;
    match user {
        User::LocalOrchestrator(_) => matches!(stream, "DESIRED" | "STATE" | "EVENTS"),
        User::Bootstrap => true,
        User::Central(GitObserver) => stream == "DESIRED",
        User::Central(StatusCollector) => matches!(stream, "STATE" | "EVENTS" | "DEAD_LETTERS"),
        User::Central(GitWriter | NodeCapabilities | AppRegistry | DeploymentRegistry) => stream == "GIT_WRITES",
        User::Central(ApiGateway | Identity | LocalOrchestrator | OciFetcher)
        | User::Front(_)
        | User::Site(_)
        | User::LocalFront(_)
        | User::OciFetcher(_)
        | User::Node(_)
        | User::Minter => false,
    }
}
