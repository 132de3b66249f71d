//! The names of the services. What else there is to say of each stands in the table ([`crate::service`]).

use crate::words::words;

words! {
    /// A service of the platform, as it is called on the bus, in Git (`Handled`) and on the command line.
    ServiceName {
        /// Serves REST to people and programs.
        ApiGateway = "api-gateway",
        /// Keeps the catalogue and the platform's artifacts.
        AppRegistry = "app-registry",
        /// Keeps assignments and orders, and makes deployments from them.
        DeploymentRegistry = "deployment-registry",
        /// Writes the Git repositories; no other service does.
        GitWriter = "git-writer",
        /// Makes the desired state on the bus from commits.
        GitObserver = "git-observer",
        /// Makes current status and history from reports.
        StatusCollector = "status-collector",
        /// Keeps sites, clients and nodes.
        NodeCapabilities = "node-capabilities",
        /// Mints the logins of sites, and revokes them.
        Identity = "identity",
        /// Heads a site: it adopts manifests, and speaks with the nodes.
        LocalOrchestrator = "local-orchestrator",
        /// Keeps the artifacts that a site's nodes need.
        OciFetcher = "oci-fetcher",
    }
}
