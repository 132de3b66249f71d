//! The one table of the platform's services: what each is called, where it runs, and what of streams, repositories and
//! other services it may touch. The subcommands of `edgewright`, the lists of a hub's and a site's services, and the bus
//! permissions of central services are made from it, so whoever adds one of these adds a row here and a crate; the compiler
//! then asks for the lines in `edgewright` that start it. What a service of a site may do at its server says its
//! [`User`](crate::User), for it logs in there beside the site's nodes.

use crate::{Pattern, ServiceName, SiteVerb, Subject, streams};

/// The part of the platform in which a service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// At the hub, with the other central services.
    Hub,
    /// At a site, beside its NATS server.
    Site,
}

/// What a service writes in Git. It never writes itself: its rows go through git-writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitFolders {
    /// The service is no source of writes.
    None,
    /// The service writes these folders of `fleet.git`, and no repository of a client.
    Fleet(&'static [&'static str]),
    /// These folders of `fleet.git`, and the repositories of all clients.
    FleetAndClients(&'static [&'static str]),
}

/// How a service reads one stream: by a durable consumer that has the service's name.
#[derive(Debug)]
pub struct Reads {
    /// The name of the stream.
    pub stream: &'static str,
    /// The subjects that are read.
    pub patterns: &'static [Pattern],
    /// How many messages are asked for at once. At most twice as many are delivered before the first of them is answered.
    pub batch: usize,
    /// What becomes of the consumer's place in the stream.
    pub progress: Progress,
}

/// Where the reading of a stream goes on after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// After what was acknowledged.
    Kept,
    /// After what was acknowledged, or from the beginning when the service has lost what it made of it.
    KeptOrAnew,
    /// From the beginning of the stream, always: nothing is acknowledged, and what is done with is removed from the stream.
    Anew,
}

impl Progress {
    /// Tells whether the server keeps what was acknowledged.
    pub fn is_kept(self) -> bool {
        self != Self::Anew
    }

    /// Tells whether the service may have its consumer begin anew.
    pub fn may_begin_anew(self) -> bool {
        self != Self::Kept
    }
}

/// One row of the table of services.
#[derive(Debug)]
pub struct Service {
    /// The name of the service.
    pub name: ServiceName,
    /// The part of the platform in which it runs.
    pub tier: Tier,
    /// One line that tells people what it is for.
    pub about: &'static str,
    /// The repositories and folders that it is a source of writes for.
    pub git: GitFolders,
    /// The streams of the hub that it alone writes, and looks at. The bootstrap makes them.
    pub owns: &'static [&'static str],
    /// The streams of which it gets last values by their subjects.
    pub gets: &'static [&'static str],
    /// The streams that it removes messages from.
    pub purges: &'static [&'static str],
    /// The streams that it reads, each by a durable consumer of its name, which the bootstrap makes.
    pub reads: &'static [Reads],
    /// The requests of sites that it answers, on its front connection.
    pub answers: &'static [SiteVerb],
    /// The requests to other services that it makes, beside those that writing in Git needs.
    pub asks: &'static [(ServiceName, &'static str)],
    /// The subjects that it may publish besides those that follow from the other fields.
    pub publishes: &'static [Pattern],
    /// The subjects that it may subscribe besides those that follow from the other fields.
    pub hears: &'static [Pattern],
    /// Whether it calls nodes; the answers come on its front connection.
    pub calls: bool,
}

/// Makes the row of a service that does nothing but answer `svc.<its name>.…`; the table says what each may do
/// besides.
const fn row(name: ServiceName, tier: Tier, about: &'static str) -> Service {
    Service {
        name,
        tier,
        about,
        git: GitFolders::None,
        owns: &[],
        gets: &[],
        purges: &[],
        reads: &[],
        answers: &[],
        asks: &[],
        publishes: &[],
        hears: &[],
        calls: false,
    }
}

/// Every service of the platform, in the order in which their logs read best.
pub static SERVICES: [Service; 10] = [
    Service {
        owns: &[streams::GIT_WRITES],
        purges: &[streams::GIT_WRITES],
        reads: &[Reads {
            stream: streams::GIT_WRITES,
            patterns: &[Pattern::GitWrites],
            batch: 500,
            progress: Progress::Anew,
        }],
        publishes: &[Pattern::GitCommitted],
        asks: &[(ServiceName::Identity, "key"), (ServiceName::ApiGateway, "token")],
        ..row(ServiceName::GitWriter, Tier::Hub, "Orders become signed commits")
    },
    Service {
        owns: &[streams::DESIRED],
        gets: &[streams::DESIRED],
        publishes: &[Pattern::Desired, Pattern::ChangedHeads],
        answers: &[SiteVerb::Desired],
        hears: &[Pattern::GitCommitted],
        ..row(ServiceName::GitObserver, Tier::Hub, "Commits become desired state on the bus")
    },
    Service {
        owns: &[streams::STATE, streams::EVENTS, streams::DEAD_LETTERS],
        gets: &[streams::STATE],
        // Enough reports of one transaction to share a sync of the disk among many, few enough to be stored in milliseconds.
        reads: &[
            Reads {
                stream: streams::STATE,
                patterns: &[Pattern::Statuses],
                batch: 500,
                progress: Progress::KeptOrAnew,
            },
            Reads { stream: streams::EVENTS, patterns: &[Pattern::Events], batch: 500, progress: Progress::KeptOrAnew },
        ],
        asks: &[(ServiceName::NodeCapabilities, "members"), (ServiceName::Identity, streams::RENEW)],
        publishes: &[Pattern::State, Pattern::Events],
        answers: &[SiteVerb::Report, SiteVerb::Positions],
        ..row(ServiceName::StatusCollector, Tier::Hub, "Reports become status and history")
    },
    Service {
        git: GitFolders::FleetAndClients(&["sites", "clients", "nodes"]),
        // Each message takes a few milliseconds, so none of them waits for so long that the server sends it again.
        reads: &[Reads {
            stream: streams::STATE,
            patterns: &[Pattern::AllCapabilities, Pattern::AllHealth],
            batch: 100,
            progress: Progress::Kept,
        }],
        asks: &[(ServiceName::DeploymentRegistry, "evaluate")],
        ..row(ServiceName::NodeCapabilities, Tier::Hub, "Sites and nodes, and what they can do")
    },
    Service {
        git: GitFolders::Fleet(&["apps"]),
        answers: &[SiteVerb::Store],
        asks: &[(ServiceName::Identity, "key")],
        ..row(ServiceName::AppRegistry, Tier::Hub, "The catalogue, and the platform's OCI store")
    },
    Service {
        git: GitFolders::FleetAndClients(&["assignments", "placements"]),
        asks: &[(ServiceName::AppRegistry, "get"), (ServiceName::NodeCapabilities, "members")],
        ..row(ServiceName::DeploymentRegistry, Tier::Hub, "Orders: what is meant becomes what each node shall run")
    },
    Service {
        // On behalf of people.
        asks: &[
            (ServiceName::AppRegistry, "get"),
            (ServiceName::AppRegistry, "list"),
            (ServiceName::AppRegistry, "upload"),
            (ServiceName::DeploymentRegistry, "create"),
            (ServiceName::DeploymentRegistry, "deployment"),
            (ServiceName::DeploymentRegistry, "deployments"),
            (ServiceName::DeploymentRegistry, "get"),
            (ServiceName::DeploymentRegistry, "list"),
            (ServiceName::DeploymentRegistry, "orders"),
            (ServiceName::DeploymentRegistry, "remove"),
            (ServiceName::DeploymentRegistry, "update"),
            (ServiceName::GitObserver, "refusals"),
            (ServiceName::GitWriter, "access"),
            (ServiceName::GitWriter, "refusals"),
            (ServiceName::Identity, "logins"),
            (ServiceName::NodeCapabilities, "create-node"),
            (ServiceName::NodeCapabilities, "create-site"),
            (ServiceName::NodeCapabilities, "members"),
            (ServiceName::NodeCapabilities, "node"),
            (ServiceName::NodeCapabilities, "nodes"),
            (ServiceName::NodeCapabilities, "replace-node-key"),
            (ServiceName::NodeCapabilities, "replace-site-key"),
            (ServiceName::NodeCapabilities, "revoke-node-key"),
            (ServiceName::NodeCapabilities, "revoke-site-key"),
            (ServiceName::NodeCapabilities, "sites"),
            (ServiceName::StatusCollector, "dead-letters"),
            (ServiceName::StatusCollector, "history"),
            (ServiceName::StatusCollector, "list"),
            (ServiceName::StatusCollector, "refusals"),
            (ServiceName::StatusCollector, "status"),
        ],
        // It finds out which services answer.
        publishes: &[Pattern::ServiceStats],
        calls: true,
        ..row(ServiceName::ApiGateway, Tier::Hub, "REST for people and programs")
    },
    Service {
        hears: &[Pattern::One(Subject::GitCommittedFleet)],
        ..row(ServiceName::Identity, Tier::Hub, "Logins of sites, and the hub's streams: made, renewed and revoked")
    },
    row(ServiceName::LocalOrchestrator, Tier::Site, "Head of a site"),
    row(ServiceName::OciFetcher, Tier::Site, "Artifacts of a site"),
];

impl ServiceName {
    /// Returns the row of this service.
    pub fn service(self) -> &'static Service {
        SERVICES.iter().find(|service| service.name == self).expect("a test finds every name in the table")
    }

    /// Tells whether this central service hears sites, and so has a front connection.
    pub fn has_front(self) -> bool {
        !self.service().answers.is_empty() || self.service().calls
    }

    /// Returns the services of one tier, in the order of the table.
    pub fn at(tier: Tier) -> impl Iterator<Item = Self> {
        SERVICES.iter().filter(move |service| service.tier == tier).map(|service| service.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_one_row_and_every_stream_of_the_hub_one_writer() {
        for name in ServiceName::ALL {
            assert_eq!(SERVICES.iter().filter(|service| service.name == *name).count(), 1, "{name}");
        }
        let mut owned: Vec<_> = SERVICES.iter().flat_map(|service| service.owns).collect();
        let count = owned.len();
        owned.sort();
        owned.dedup();
        assert_eq!(owned.len(), count, "{owned:?}");
    }

    #[test]
    fn every_request_of_a_site_is_answered_by_one_service_of_the_hub() {
        for verb in SiteVerb::ALL {
            let answer = |service: &&Service| service.answers.contains(verb);
            assert_eq!(SERVICES.iter().filter(answer).map(|service| service.tier).collect::<Vec<_>>(), [Tier::Hub]);
        }
    }

    #[test]
    fn every_folder_of_the_fleet_has_one_writer() {
        let folders = SERVICES.iter().flat_map(|service| match service.git {
            GitFolders::None => &[][..],
            GitFolders::Fleet(folders) | GitFolders::FleetAndClients(folders) => folders,
        });
        let mut folders: Vec<_> = folders.collect();
        folders.sort();
        assert_eq!(folders, [&"apps", &"assignments", &"clients", &"nodes", &"placements", &"sites"]);
    }
}
