//! The command line of edgectl, and the addresses and tokens that follow from it and from the context file.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use api::{AppRef, Volumes};
use clap::{Args as ClapArgs, Parser, Subcommand};
use identity::{
    plaintext::{Plaintext, speaks_tls},
    tls::{Peer, Trust},
};
use margo::{AssignmentName, ComponentName, DeploymentId, DeviceId, NodeId, SiteName};
use process::args::duration;

use crate::{
    client::Client,
    context::{ContextError, Known, SiteContext},
    failure::Failure,
    output::Format,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or failed
  2  wrong usage
  3  the platform cannot be reached
  4  timed out waiting; what was ordered goes on

Where the platform is: --api and --token-file, else the context file: --context, else .edgewright/edgectl.toml in this
folder (`edgewright up` writes it), else ~/.config/edgewright/edgectl.toml.";

/// Brings applications to edge nodes and keeps them as ordered.
#[derive(Debug, Parser)]
#[command(name = "edgectl", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How answers are shown. JSON is exactly what the interface answered.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Says where the platform is and with which token; what is absent here comes from the context file.
#[derive(Debug, ClapArgs)]
pub(crate) struct Connection {
    /// Base URL of the REST interface, such as http://127.0.0.1:8080.
    #[arg(long, env = "EDGEWRIGHT_API", global = true, value_name = "URL")]
    api: Option<String>,
    /// File that holds the token to present there.
    #[arg(long, env = "EDGEWRIGHT_TOKEN_FILE", global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of the root certificates that are believed there. Absent: those that the operating system trusts.
    #[arg(long, env = "EDGEWRIGHT_TRUST_FILE", global = true, value_name = "FILE")]
    trust_file: Option<PathBuf>,
    /// Let the token cross a network in clear.
    #[arg(long, env = "EDGEWRIGHT_ALLOW_PLAINTEXT", global = true)]
    allow_plaintext: bool,
    /// Context file that names the interface and the token file, of the platform and of its sites.
    #[arg(long, env = "EDGEWRIGHT_CONTEXT", global = true, value_name = "FILE")]
    context: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Speak to the Central Orchestrator about applications, sites, nodes and assignments.
    #[command(subcommand)]
    Co(Co),
    /// Speak to the Local Orchestrator of a site, also when the centre cannot be reached.
    #[command(subcommand)]
    Lo(Lo),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Co {
    /// Show which services answer, how many sites and nodes there are, and what was refused.
    Status,
    /// Add an application, a site or a node.
    #[command(subcommand)]
    Add(Add),
    /// Replace the key of a site or a node: the one in force is cut off at once and for ever.
    #[command(subcommand)]
    ReplaceKey(ReplaceKey),
    /// Revoke the key of a site or a node, which is cut off at once, until its key is replaced.
    #[command(subcommand)]
    RevokeKey(RevokeKey),
    /// List all things of one kind.
    #[command(subcommand)]
    List(List),
    /// Show one assignment or deployment with all its details.
    #[command(subcommand)]
    Show(Show),
    /// Show every change of state that a node reported of a deployment.
    History {
        /// Id of the deployment, as `list deployments` shows it.
        deployment: DeploymentId,
    },
    /// Show where the Git repository of a site's desired state is read, and the token that opens it.
    Repository {
        /// Name of the site.
        site: SiteName,
    },
    /// Ask a node whether it can be reached, through the hub and its site.
    Ping {
        /// The node, as site/name.
        node: NodeId,
    },
    /// Show the last lines that a workload wrote, asked of its node.
    Logs {
        /// Id of the deployment, as `list deployments` shows it.
        deployment: DeploymentId,
        /// The component. Absent: the only one that the deployment has.
        #[arg(long)]
        component: Option<ComponentName>,
        /// How many lines, at most 1,000.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        lines: u32,
    },
    /// Stop what runs of a deployment and start the same revision again.
    Restart {
        /// Id of the deployment, as `list deployments` shows it.
        deployment: DeploymentId,
        /// Only this component. Absent: all that the deployment has.
        #[arg(long)]
        component: Option<ComponentName>,
    },
    /// Try again what failed of a deployment, also a revision that its node has refused.
    Retry {
        /// Id of the deployment, as `list deployments` shows it.
        deployment: DeploymentId,
    },
    /// Have an application run on nodes, by a new assignment.
    Deploy(Deploy),
    /// Change an assignment. What is not given stays; given targets take the place of all that there were.
    Update(Update),
    /// Remove an assignment, which takes its application off every node.
    Remove(Remove),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Add {
    /// Pack a folder (margo.yaml, and <component>.wasm or the folder <component> of each component) and add it to the catalogue.
    /// Images that a Compose file names by registry and digest are pulled.
    App {
        /// The folder to pack.
        folder: PathBuf,
        /// Docker's folder, whose config.json may have logins at registries. Absent: ~/.docker.
        #[arg(long, env = "DOCKER_CONFIG", value_name = "DIR")]
        docker_config: Option<PathBuf>,
    },
    /// Add a site. Makes its key pair here and writes its credentials file; the seed is sent nowhere.
    Site {
        /// Name of the new site. A name is never used again.
        name: SiteName,
        /// The file to write. An existing one is never overwritten.
        #[arg(long, value_name = "FILE")]
        credentials: PathBuf,
    },
    /// Add a node. Makes its key pair here and writes its credentials file; the seed is sent nowhere.
    Node {
        /// Site and name of the new node. A name is never used again.
        #[arg(value_name = "SITE/NAME")]
        name: NodeId,
        /// The file to write. An existing one is never overwritten.
        #[arg(long, value_name = "FILE")]
        credentials: PathBuf,
        #[command(flatten)]
        addresses: AddressArgs,
        /// The DeviceId by which Margo documents shall name the node, such as Gateway-1/cell_7. Absent: SITE/NAME.
        #[arg(long, value_name = "ID")]
        device_id: Option<DeviceId>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReplaceKey {
    /// Replace the key of a site. Makes its new key pair here and writes its new credentials file; the seed is sent nowhere.
    Site {
        /// Name of the site.
        name: SiteName,
        /// The file to write. An existing one is never overwritten.
        #[arg(long, value_name = "FILE")]
        credentials: PathBuf,
        /// Why this is ordered, for the audit trail.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Replace the key of a node. Makes its new key pair here and writes its new credentials file; the seed is sent nowhere.
    Node {
        /// Site and name of the node.
        #[arg(value_name = "SITE/NAME")]
        name: NodeId,
        /// The file to write. An existing one is never overwritten.
        #[arg(long, value_name = "FILE")]
        credentials: PathBuf,
        #[command(flatten)]
        addresses: AddressArgs,
        /// Why this is ordered, for the audit trail.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RevokeKey {
    /// Revoke the key of a site: the hub turns it away at once. Its nodes go on with what they have.
    Site {
        /// Name of the site.
        name: SiteName,
        /// Why this is ordered, for the audit trail.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Revoke the key of a node: its site turns it away as soon as it hears of it.
    Node {
        /// Site and name of the node.
        #[arg(value_name = "SITE/NAME")]
        name: NodeId,
        /// Why this is ordered, for the audit trail.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

/// Where a node will find its site.
#[derive(Debug, ClapArgs)]
pub(crate) struct AddressArgs {
    /// Address of the site's NATS server as the node reaches it. Absent: the one in the context.
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Address at which the node gets its login: the interface of the site's LO, as the node reaches it. Absent: the one
    /// in the context, or the port that follows from --server as `edgewright init-site` gives them.
    #[arg(long, value_name = "URL")]
    pub(crate) minter: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum List {
    /// List the versions of applications in the catalogue.
    Apps,
    /// List the sites, and when each was last heard.
    Sites,
    /// List the nodes, and whether they can be reached.
    Nodes,
    /// List the assignments: which application shall run where.
    Assignments,
    /// List the deployments: what is wanted on each node, and what runs there.
    Deployments,
    /// List the orders, newest first.
    Orders,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Show {
    /// Show an assignment with its parameters, and where it is placed.
    Assignment {
        /// Name of the assignment.
        name: AssignmentName,
    },
    /// Show a deployment with its components, and why it failed if it did.
    Deployment {
        /// Id of the deployment, as `list deployments` shows it.
        id: DeploymentId,
    },
}

/// The nodes and sites on which an assignment shall run.
#[derive(Debug, ClapArgs)]
#[group(multiple = true)]
pub(crate) struct TargetArgs {
    /// Nodes on which it shall run.
    #[arg(long, value_name = "SITE/NODE", num_args = 1..)]
    pub(crate) to: Vec<NodeId>,
    /// Sites on whose every node it shall run, also on those that join later.
    #[arg(long, value_name = "SITE", num_args = 1..)]
    pub(crate) to_site: Vec<SiteName>,
}

/// How an order is given and awaited.
#[derive(Debug, ClapArgs)]
pub(crate) struct OrderArgs {
    /// Why this is ordered, for the audit trail.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Return only when the order is carried out everywhere, or has failed.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long --wait waits. The order goes on afterwards.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Deploy {
    /// Application and version from the catalogue.
    #[arg(value_name = "APP@VERSION")]
    pub(crate) app: AppAt,
    /// Name of the assignment. Absent: the application's id.
    #[arg(long)]
    pub(crate) name: Option<AssignmentName>,
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// Values of parameters, each read in the type that the application gives it. Commas part the items of a list.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    pub(crate) set: Vec<Setting>,
    /// Deployment profile to use. Needed only when several of the application's fit.
    #[arg(long)]
    pub(crate) profile: Option<String>,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Update {
    /// Name of the assignment.
    pub(crate) name: AssignmentName,
    /// Application and version to run instead.
    #[arg(long, value_name = "APP@VERSION")]
    pub(crate) app: Option<AppAt>,
    /// Values of parameters that shall change; the others stay.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    pub(crate) set: Vec<Setting>,
    // Nodes and sites together are one thing: those given take the place of all that there were.
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// What becomes of the application's volumes when it is removed from a node.
    #[arg(long, value_name = "keep|delete", value_parser = volumes)]
    pub(crate) volumes: Option<Volumes>,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

fn volumes(text: &str) -> Result<Volumes, &'static str> {
    match text {
        "keep" => Ok(Volumes::Keep),
        "delete" => Ok(Volumes::Delete),
        _ => Err("must be keep or delete"),
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Remove {
    /// Name of the assignment.
    pub(crate) name: AssignmentName,
    /// Delete the application's volumes on every node, with all data in them. Otherwise they stay there. The nodes have to be
    /// reached for it: the removal is ordered when each of them knows.
    #[arg(long)]
    pub(crate) delete_volumes: bool,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lo {
    /// Show what the site knows without the centre. Its token is named with --token-file or in the context.
    Status(LoStatus),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LoStatus {
    /// Base URL of the interface of the site's Local Orchestrator. Absent: the one in the context.
    #[arg(long)]
    url: Option<String>,
    /// A site that the context knows, or whose certificate is expected at --url. Absent: the only one in the context.
    #[arg(long)]
    site: Option<SiteName>,
}

/// One version of an application, written `APP@VERSION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppAt(pub(crate) AppRef);

impl FromStr for AppAt {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        let (id, version) = raw.split_once('@').ok_or_else(|| format!("{raw:?} must be APP@VERSION"))?;
        let id = id.parse().map_err(|error: margo::InvalidName| error.to_string())?;
        let version = version.parse().map_err(|error: margo::InvalidName| error.to_string())?;
        Ok(Self(AppRef { id, version }))
    }
}

/// One `KEY=VALUE` of `--set`; its value has no type yet (see `parameters`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        let (key, value) = raw.split_once('=').ok_or_else(|| format!("{raw:?} must be KEY=VALUE"))?;
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

impl Connection {
    /// Reads the context file that is named or found; an empty context when there is none.
    fn known(&self) -> Result<Known, Failure> {
        let home = std::env::home_dir();
        let known = match &self.context {
            Some(path) => Known::named(path),
            None => Known::found(".".as_ref(), home.as_deref()),
        };
        known.map_err(unusable)
    }

    /// A client of the Central Orchestrator. Fails when its address or the token's file is named nowhere.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let known = self.known()?;
        let api = self.api.clone().or_else(|| known.context.api.clone()).ok_or_else(|| {
            Failure::Usage(
                "no platform is known here\n  next: run this in the folder of `edgewright up`, or give --api URL \
                 and --token-file FILE"
                    .to_owned(),
            )
        })?;
        let token_file = self.token_file.clone().or_else(|| known.context.token_file.clone());
        let token_file = token_file.ok_or_else(|| no_token(&api))?;
        // Where both were given by hand, the context has no part in it.
        if self.api.is_none() || self.token_file.is_none() {
            known.check_token(&token_file).map_err(unusable)?;
        }
        // A context says whom to believe at its own address only.
        let known_trust = known.context.trust_file.filter(|_| self.api.is_none());
        let trust_file = self.trust_file.clone().or(known_trust);
        self.connect(&api, &token_file, trust_file, Some(&Peer::Hub))
    }

    /// A client of a site's Local Orchestrator. Fails when its address or the token's file is named nowhere.
    pub(crate) fn site_client(&self, LoStatus { url, site }: &LoStatus) -> Result<Client, Failure> {
        if let Some(url) = url {
            // Whose certificate to expect, the name of the site says; else the address has to stand in it.
            let peer = site.as_ref().map(|site| Peer::Site(site.client()));
            let token_file = self.token_file.as_deref().ok_or_else(|| no_token(url))?;
            return self.connect(url, token_file, self.trust_file.clone(), peer.as_ref());
        }
        let known = self.known()?;
        let sites = &known.context.sites;
        let only = || sites.keys().next().filter(|_| sites.len() == 1).cloned();
        let site = site.clone().or_else(only).ok_or_else(|| {
            Failure::Usage("which site? give --site SITE of the context, or --url URL and --token-file FILE".to_owned())
        })?;
        let at_site = sites.get(&site).cloned().unwrap_or_default();
        let url = at_site.status.ok_or_else(|| {
            let next = "give --url URL and --token-file FILE";
            Failure::Usage(format!("the context does not say where the LO of {site} answers\n  next: {next}"))
        })?;
        // The site's own token first: --token-file may come from the environment, where it is the centre's.
        let token_file = at_site.token_file.or(self.token_file.clone());
        let token_file = token_file.ok_or_else(|| no_token(&url))?;
        known.check_token(&token_file).map_err(unusable)?;
        let trust_file = at_site.trust_file.or(self.trust_file.clone());
        self.connect(&url, &token_file, trust_file, Some(&Peer::Site(site.client())))
    }

    /// A client that expects the certificate of this peer, or one for the address when no peer is known.
    fn connect(
        &self,
        url: &str,
        token_file: &Path,
        trust_file: Option<PathBuf>,
        peer: Option<&Peer>,
    ) -> Result<Client, Failure> {
        let trust = trust_file.filter(|_| speaks_tls(url)).map(|file| Trust::load(&file)).transpose();
        let trust = trust.map_err(|error| Failure::Usage(process::chain(&error)))?;
        let tls = trust.map(|trust| peer.map_or_else(|| trust.hosts(), |peer| trust.peer(peer)));
        Client::new(url, token_file, tls, Plaintext::allowed(self.allow_plaintext))
    }

    /// Where a node logs in: what is given, else what the context says of the site.
    pub(crate) fn site_addresses(
        &self,
        node: &NodeId,
        AddressArgs { server, minter }: AddressArgs,
    ) -> Result<SiteAddresses, Failure> {
        let known = if server.is_some() {
            // Addresses of two sources may be those of two networks.
            SiteContext::default()
        } else {
            let sites = self.known()?.context.sites;
            sites.into_iter().find(|(site, _)| site.client() == node.client).map(|(_, site)| site).unwrap_or_default()
        };
        let server = server.or(known.server).ok_or_else(|| {
            Failure::Usage(format!(
                "the context does not say where the NATS server of {} is\n  next: give --server tls://HOST:PORT as the \
                 node reaches it",
                node.client
            ))
        })?;
        let minter = minter.or(known.status).or_else(|| beside(&server)).ok_or_else(|| {
            Failure::Usage(format!("no login can be had at {server}\n  next: give --minter https://HOST:PORT, too"))
        })?;
        // Before the name is used up: the node would refuse its own credentials.
        let plaintext = Plaintext::allowed(self.allow_plaintext);
        for (what, url) in [("the site's NATS server", &server), ("the site's interface", &minter)] {
            plaintext.check_url(what, url).map_err(|error| Failure::Usage(error.to_string()))?;
        }
        Ok(SiteAddresses { server, minter })
    }
}

fn unusable(error: ContextError) -> Failure {
    Failure::Usage(process::chain(&error))
}

/// Where a node reaches the two parts of its site that let it in.
pub(crate) struct SiteAddresses {
    /// The URL of the site's NATS server.
    pub server: String,
    /// The base URL of the interface of the LO, which hands out logins.
    pub minter: String,
}

/// The interface of an LO whose site has its three ports in a row, as `edgewright init-site` makes it: with certificates for
/// all or for none.
fn beside(server: &str) -> Option<String> {
    let scheme = if speaks_tls(server) { "https" } else { "http" };
    let server = reqwest::Url::parse(server).ok()?;
    Some(format!("{scheme}://{}:{}", server.host_str()?, server.port()?.checked_add(2)?))
}

fn no_token(url: &str) -> Failure {
    Failure::Usage(format!("no token for {url}\n  next: name its file with --token-file or in the context"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_order_is_read_as_it_is_written() {
        let line =
            "edgectl co deploy hello@1.0.0 --to plant/press plant/oven --to-site bakery --set a=b=c n=1 --wait -o json";
        let Command::Co(Co::Deploy(deploy)) = Args::try_parse_from(line.split(' ')).unwrap().command else { panic!() };
        assert_eq!(deploy.targets.to.len(), 2);
        assert_eq!(deploy.targets.to_site.len(), 1);
        assert_eq!(deploy.set[0], Setting { key: "a".to_owned(), value: "b=c".to_owned() });
        assert_eq!((deploy.order.wait, deploy.order.timeout), (true, Duration::from_secs(120)));
    }

    #[test]
    fn a_wrong_word_is_wrong_usage() {
        for line in [
            "edgectl co deploy hello",
            "edgectl co deploy hello@1 --to press",
            "edgectl co add site Plant --credentials f",
            "edgectl co update hello --set times",
            "edgectl co history 7",
            "edgectl lo status --url x --site Y",
        ] {
            assert_eq!(Args::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
