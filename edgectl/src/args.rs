//! The command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use api::AppRef;
use clap::{Args as ClapArgs, Parser, Subcommand};
use margo::{AssignmentName, DeploymentId, NodeId, SiteName};
use service::args::duration;

use crate::{client::Client, context::Context, failure::Failure, output::Format};

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
    /// How answers are shown; json is exactly what the interface answered.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the platform is.
#[derive(Debug, ClapArgs)]
pub(crate) struct Connection {
    /// Base URL of the REST interface, such as http://127.0.0.1:8080.
    #[arg(long, env = "EDGEWRIGHT_API", global = true, value_name = "URL")]
    api: Option<String>,
    /// File that holds the token.
    #[arg(long, env = "EDGEWRIGHT_TOKEN_FILE", global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Context file that says both.
    #[arg(long, env = "EDGEWRIGHT_CONTEXT", global = true, value_name = "FILE")]
    context: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The Central Orchestrator: applications, sites, nodes, assignments.
    #[command(subcommand)]
    Co(Co),
    /// The Local Orchestrator of a site, also when the centre cannot be reached.
    #[command(subcommand)]
    Lo(Lo),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Co {
    /// The platform as a whole.
    Status,
    /// Add an application, a site or a node.
    #[command(subcommand)]
    Add(Add),
    /// List what there is.
    #[command(subcommand)]
    List(List),
    /// Show one thing.
    #[command(subcommand)]
    Show(Show),
    /// What a node said of a deployment.
    History {
        /// Id of the deployment.
        deployment: DeploymentId,
    },
    /// Have an application run on nodes.
    Deploy(Deploy),
    /// Change an assignment: what is not given stays.
    Update(Update),
    /// Take an application off its nodes.
    Remove(Remove),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Add {
    /// Pack a folder (margo.yaml, and <component>.wasm of each component) and add it to the catalogue.
    App {
        /// The folder.
        folder: PathBuf,
    },
    /// Add a site. Makes its key pair here and writes its credentials file; the seed is sent nowhere.
    Site {
        /// Its name.
        name: SiteName,
        /// The file to write. An existing one is never overwritten.
        #[arg(long, value_name = "FILE")]
        credentials: PathBuf,
    },
    /// Add a node. Makes its key pair here and writes its credentials file; the seed is sent nowhere.
    Node {
        /// Its name.
        #[arg(value_name = "SITE/NAME")]
        name: NodeId,
        /// The file to write. An existing one is never overwritten.
        #[arg(long, value_name = "FILE")]
        credentials: PathBuf,
        /// The site's NATS server as the node reaches it; else from the context.
        #[arg(long, value_name = "URL")]
        server: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum List {
    /// The catalogue.
    Apps,
    /// Sites.
    Sites,
    /// Nodes.
    Nodes,
    /// Assignments.
    Assignments,
    /// Deployments: what is wanted and what is.
    Deployments,
    /// Orders, newest first.
    Orders,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Show {
    /// One assignment.
    Assignment {
        /// Its name.
        name: AssignmentName,
    },
    /// One deployment.
    Deployment {
        /// Its id.
        id: DeploymentId,
    },
}

/// Where an assignment shall run.
#[derive(Debug, ClapArgs)]
#[group(multiple = true)]
pub(crate) struct TargetArgs {
    /// These nodes.
    #[arg(long, value_name = "SITE/NODE", num_args = 1..)]
    pub(crate) to: Vec<NodeId>,
    /// Every node of these sites, also those that join later.
    #[arg(long, value_name = "SITE", num_args = 1..)]
    pub(crate) to_site: Vec<SiteName>,
}

/// How an order is given and awaited.
#[derive(Debug, ClapArgs)]
pub(crate) struct OrderArgs {
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Return only when it is carried out everywhere, or failed.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Deploy {
    /// Which application.
    #[arg(value_name = "APP@VERSION")]
    pub(crate) app: AppAt,
    /// Name of the assignment; else the application's id.
    #[arg(long)]
    pub(crate) name: Option<AssignmentName>,
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    /// A parameter. The value is read as the type that the application gives it; lists with commas.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    pub(crate) set: Vec<Setting>,
    /// The way to deploy it, when the application has several.
    #[arg(long)]
    pub(crate) profile: Option<String>,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Update {
    /// Name of the assignment.
    pub(crate) name: AssignmentName,
    /// Another application or version.
    #[arg(long, value_name = "APP@VERSION")]
    pub(crate) app: Option<AppAt>,
    /// A parameter; the others stay.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    pub(crate) set: Vec<Setting>,
    /// Other targets: those given, nodes and sites, take the place of all that there were.
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Remove {
    /// Name of the assignment.
    pub(crate) name: AssignmentName,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lo {
    /// What the site knows without the centre. Its token is named with --token-file or in the context.
    Status(LoStatus),
}

#[derive(Debug, ClapArgs)]
#[group(multiple = false)]
pub(crate) struct LoStatus {
    /// Base URL of the LO's own interface.
    #[arg(long)]
    url: Option<String>,
    /// A site of the context. Absent: the only one there.
    #[arg(long)]
    site: Option<SiteName>,
}

/// `APP@VERSION`
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

/// `KEY=VALUE`
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
    /// The context, and where it stands.
    fn context(&self) -> Result<Context, Failure> {
        let home = std::env::home_dir();
        let path = self.context.clone().or_else(|| Context::find(".".as_ref(), home.as_deref()));
        let Some(path) = path else { return Ok(Context::default()) };
        Context::load(&path).map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Failure::Usage(format!("{error}{source}"))
        })
    }

    /// The centre.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let context = self.context()?;
        let api = self.api.clone().or(context.api).ok_or_else(|| {
            Failure::Usage(
                "no platform is known here\n  next: run this in the folder of `edgewright up`, or give --api URL \
                 and --token-file FILE"
                    .to_owned(),
            )
        })?;
        let token_file = self.token_file.clone().or(context.token_file);
        Client::new(&api, &token_file.ok_or_else(|| no_token(&api))?)
    }

    /// A site's LO.
    pub(crate) fn site_client(&self, LoStatus { url, site }: &LoStatus) -> Result<Client, Failure> {
        if let Some(url) = url {
            return Client::new(url, self.token_file.as_deref().ok_or_else(|| no_token(url))?);
        }
        let mut sites = self.context()?.sites;
        let only = || sites.keys().next().filter(|_| sites.len() == 1).cloned();
        let site = site.clone().or_else(only).ok_or_else(|| {
            Failure::Usage("which site? give --site SITE of the context, or --url URL and --token-file FILE".to_owned())
        })?;
        let known = sites.remove(&site).unwrap_or_default();
        let url = known.status.ok_or_else(|| {
            let next = "give --url URL and --token-file FILE";
            Failure::Usage(format!("the context does not say where the LO of {site} answers\n  next: {next}"))
        })?;
        // That of the site first: the other one may come from the environment, for the centre.
        let token_file = known.token_file.or(self.token_file.clone());
        Client::new(&url, &token_file.ok_or_else(|| no_token(&url))?)
    }

    /// The NATS server that a node of this site connects to.
    pub(crate) fn site_server(&self, node: &NodeId, given: Option<String>) -> Result<String, Failure> {
        if let Some(server) = given {
            return Ok(server);
        }
        let context = self.context()?;
        let known = context.sites.iter().find(|(site, _)| site.client() == node.client);
        known.and_then(|(_, site)| site.server.clone()).ok_or_else(|| {
            Failure::Usage(format!(
                "the context does not say where the NATS server of {} is\n  next: give --server nats://HOST:PORT as the \
                 node reaches it",
                node.client
            ))
        })
    }
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
            "edgectl lo status --url x --site y",
        ] {
            assert_eq!(Args::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
