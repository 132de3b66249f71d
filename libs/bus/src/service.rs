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
    /// The streams of its server that it makes, manages and reads.
    pub owns: &'static [&'static str],
    /// The streams of other services that it reads through consumers of its own.
    pub reads: &'static [&'static str],
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
        publishes: &[Pattern::GitCommitted],
        ..row(ServiceName::GitWriter, Tier::Hub, "Orders become signed commits")
    },
    Service {
        owns: &[streams::DESIRED],
        publishes: &[Pattern::Desired, Pattern::Changed],
        answers: &[SiteVerb::Desired],
        hears: &[Pattern::GitCommitted],
        ..row(ServiceName::GitObserver, Tier::Hub, "Commits become desired state on the bus")
    },
    Service {
        owns: &[streams::STATE, streams::EVENTS, streams::DEAD_LETTERS],
        asks: &[(ServiceName::NodeCapabilities, "members")],
        publishes: &[Pattern::State, Pattern::Events],
        answers: &[SiteVerb::Report, SiteVerb::Positions],
        ..row(ServiceName::StatusCollector, Tier::Hub, "Reports become status and history")
    },
    Service {
        git: GitFolders::FleetAndClients(&["sites", "clients", "nodes"]),
        reads: &[streams::STATE],
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
        // The gateway asks every service on behalf of people, and finds out which of them answer.
        publishes: &[Pattern::Services, Pattern::Discovery],
        calls: true,
        ..row(ServiceName::ApiGateway, Tier::Hub, "REST for people and programs")
    },
    Service {
        hears: &[Pattern::One(Subject::GitCommittedFleet)],
        ..row(ServiceName::Identity, Tier::Hub, "Logins of sites: minted, renewed and revoked")
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
    fn every_service_has_one_row_and_every_stream_of_the_hub_one_owner() {
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
