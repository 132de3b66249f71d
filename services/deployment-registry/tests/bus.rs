//! The whole service on a real server; the test plays its neighbours app-registry, node-capabilities and git-writer.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use api::{
    Accepted, AppContent, AppRef, Assignment, AssignmentSpec, AssignmentState, ByName, CreateAssignment,
    DesiredDeployment, Handled, HandledRequest, Member, Members, NodeState, Order, Problem, RemoveRequest, Targets,
    UpdateAssignment, UpdateRequest,
};
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use bus::{
    Assembler, Bus, Call, ServiceEndpoints, ServiceName, Subject, User,
    proto::{GitCommitted, GitWrite, git_write::Change},
    streams,
};
use deployment_registry::Config;
use futures::StreamExt;
use git_state::layout::{AssignmentFile, PlacementFile};
use margo::{
    ApplicationDeployment, AssignmentName, DeploymentId, Digest, ParameterValue, RepositoryName, SiteName, TenantName,
};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use serde::{Serialize, de::DeserializeOwned};
use store::Location;
use tempfile::TempDir;
use testkit::{HELLO, NatsServer, Running, ada, on_each_database, wait_for};
use tracing::Instrument;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

const SELF: ServiceName = ServiceName::DeploymentRegistry;

/// What the neighbours know.
#[derive(Default)]
struct Known {
    description: String,
    /// The description of version 2.0.0 of the same application.
    newer: Option<String>,
    members: Members,
}

/// What git-writer has made of the writes.
#[derive(Default)]
struct Git {
    handled: BTreeMap<RepositoryName, u64>,
    commits: Vec<(RepositoryName, GitWrite)>,
}

struct World {
    server: NatsServer,
    _folder: Option<TempDir>,
    database: Location,
    /// The connection of api-gateway.
    gateway: Bus,
    known: Arc<Mutex<Known>>,
    git: Arc<Mutex<Git>>,
    /// They answer as long as they are kept.
    neighbours: Vec<ServiceEndpoints<()>>,
}

impl World {
    /// Two nodes at `plant`, one at `port`, and the app `hello`; git-writer is not there yet.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Location::File(folder.path().join("database/deployment-registry.sqlite"));
        Self { _folder: Some(folder), ..Self::on(database).await }
    }

    async fn on(database: Location) -> Self {
        let services = [SELF, ServiceName::ApiGateway, ServiceName::AppRegistry, ServiceName::NodeCapabilities];
        let server = NatsServer::start_bare(&services.map(User::Central)).await;
        let gateway = server.connect_central(ServiceName::ApiGateway).await;
        let known = Known { description: HELLO.to_owned(), ..Known::default() };
        let mut world = Self {
            server,
            _folder: None,
            database,
            gateway,
            known: Arc::new(Mutex::new(known)),
            git: Arc::default(),
            neighbours: Vec::new(),
        };
        for node in ["plant/press", "plant/saw", "port/crane"] {
            world.join(node);
        }
        world.start_app_registry().await;
        world.start_node_capabilities().await;
        world
    }

    /// A new node, and its site when that is new, too.
    fn join(&self, name: &str) {
        let mut known = self.known.lock().unwrap();
        let name: margo::NodeId = name.parse().unwrap();
        let site: SiteName = name.client.to_string().parse().unwrap();
        if !known.members.sites.contains(&site) {
            known.members.sites.push(site);
        }
        known.members.nodes.push(Member { device_id: (&name).into(), name, state: NodeState::Active });
    }

    async fn start_app_registry(&mut self) {
        let bus = self.server.connect_central(ServiceName::AppRegistry).await;
        let mut service = bus.register(ServiceName::AppRegistry, std::sync::Arc::new(())).await.unwrap();
        let known = self.known.clone();
        let get = move |_, call: Call<AppRef>| {
            let known = known.lock().unwrap();
            let newer = known.newer.as_ref().filter(|_| call.body.version.to_string() == "2.0.0");
            let description = newer.unwrap_or(&known.description);
            let app = (call.body.id.as_str() == "hello").then(|| content(&call.body, description));
            std::future::ready(app.ok_or_else(|| Problem::not_found("there is no such application")))
        };
        service.verb("get", get).await.unwrap();
        service.reachable().await;
        self.neighbours.push(service);
    }

    async fn start_node_capabilities(&mut self) {
        let bus = self.server.connect_central(ServiceName::NodeCapabilities).await;
        let mut service = bus.register(ServiceName::NodeCapabilities, std::sync::Arc::new(())).await.unwrap();
        let known = self.known.clone();
        let members = move |_, call: Call<Targets>| {
            let Targets { nodes, sites } = call.body;
            let Members { sites: known_sites, nodes: known_nodes } = known.lock().unwrap().members.clone();
            let clients: Vec<_> = sites.iter().map(SiteName::client).collect();
            let meant = |member: &Member| nodes.contains(&member.name) || clients.contains(&member.name.client);
            let sites = known_sites.into_iter().filter(|site| sites.contains(site)).collect();
            std::future::ready(Ok(Members { sites, nodes: known_nodes.into_iter().filter(meant).collect() }))
        };
        service.verb("members", members).await.unwrap();
        service.reachable().await;
        self.neighbours.push(service);
    }

    async fn start_git_writer(&mut self) {
        let bus = self.server.operator().await;
        bus.jetstream().create_stream(streams::git_writes()).await.unwrap();
        let mut service = bus.register(ServiceName::GitWriter, std::sync::Arc::new(())).await.unwrap();
        let git = self.git.clone();
        let handled = move |_, call: Call<HandledRequest>| {
            let number = git.lock().unwrap().handled.get(&call.body.repository.parse().unwrap()).copied();
            let handled = number.map(|number| (SELF.to_string(), number)).into_iter().collect();
            std::future::ready(Ok(Handled { commit: None, handled }))
        };
        service.verb("handled", handled).await.unwrap();
        service.reachable().await;
        self.neighbours.push(service);
        tokio::spawn(write_git(bus, self.git.clone()));
    }

    async fn start(&self) -> Running {
        let running = Running::start(SELF, self.server.login(&User::Central(SELF)), |base, shutdown| {
            deployment_registry::run(Config { base, database: self.database.clone() }, shutdown)
        });
        running.ready().await;
        running
    }

    async fn ask<T: Serialize, R: DeserializeOwned>(&self, verb: &str, body: &T) -> Result<R, Problem> {
        self.gateway.call(&Subject::service(SELF, verb), body, Some(&ada())).await
    }

    async fn create(&self, name: &str, spec: AssignmentSpec) -> Result<Accepted, Problem> {
        let create = CreateAssignment { name: name.parse().unwrap(), spec, reason: Some("the night shift".into()) };
        self.ask("create", &create).await
    }

    async fn update(&self, name: &str, revision: u64, spec: AssignmentSpec) -> Result<Accepted, Problem> {
        let update = UpdateAssignment { spec, reason: None };
        self.ask("update", &UpdateRequest { name: name.parse().unwrap(), revision, update }).await
    }

    async fn remove(&self, name: &str, revision: u64) -> Result<Accepted, Problem> {
        self.ask("remove", &RemoveRequest { name: name.parse().unwrap(), revision, reason: None }).await
    }

    async fn orders(&self) -> Vec<Order> {
        self.ask("orders", &()).await.unwrap()
    }

    async fn wait_until_committed(&self, orders: usize) -> Vec<Order> {
        wait_for(&format!("{orders} committed orders"), async || {
            let all = self.orders().await;
            if all.len() == orders && all.iter().all(|order| order.committed) { Ok(all) } else { Err(all) }
        })
        .await
    }

    fn commits(&self) -> Vec<(RepositoryName, GitWrite)> {
        self.git.lock().unwrap().commits.clone()
    }
}

/// Handles what is the next number of its repository; any other number is a failure of the outbox here.
async fn write_git(bus: Bus, git: Arc<Mutex<Git>>) {
    let stream = bus.jetstream().get_stream(streams::GIT_WRITES).await.unwrap();
    let config = OrderedConfig { deliver_policy: DeliverPolicy::All, ..OrderedConfig::default() };
    let mut messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let mut assembler = Assembler::default();
    while let Some(message) = messages.next().await {
        let message = message.unwrap().message;
        let Some(payload) = assembler.take(message.headers.as_ref(), message.payload).unwrap() else { continue };
        let write: GitWrite = bus::decode(&payload).unwrap();
        let repository = message.subject.parse::<Subject>().unwrap().repository().unwrap();
        let number = write.number;
        {
            let mut git = git.lock().unwrap();
            let handled = git.handled.entry(repository.clone()).or_default();
            assert_eq!(number, *handled + 1, "{repository}");
            *handled = number;
            git.commits.push((repository.clone(), write));
        }
        let handled = BTreeMap::from([(SELF.to_string(), number)]);
        let committed = GitCommitted { handled, ..GitCommitted::default() };
        bus.signal(&Subject::git_committed(&repository), bus::encode(&committed)).await.unwrap();
    }
}

fn content(app: &AppRef, description: &str) -> AppContent {
    AppContent {
        app: api::App {
            id: app.id.clone(),
            version: app.version.clone(),
            name: "Hello".into(),
            profiles: vec![],
            digest: Digest::of(b"package"),
            added_by: "ada".into(),
            added_at: "2026-01-01T00:00:00Z".into(),
        },
        description: description.to_owned(),
        lock: BTreeMap::from([("hello".parse().unwrap(), Digest::of(b"component"))]),
        images: BTreeMap::new(),
    }
}

fn spec(nodes: &[&str], sites: &[&str]) -> AssignmentSpec {
    AssignmentSpec {
        app: AppRef { id: "hello".parse().unwrap(), version: "1.0.0".parse().unwrap() },
        profile: None,
        parameters: BTreeMap::new(),
        targets: Targets {
            nodes: nodes.iter().map(|node| node.parse().unwrap()).collect(),
            sites: sites.iter().map(|site| site.parse().unwrap()).collect(),
        },
        volumes: None,
    }
}

fn greeting(spec: AssignmentSpec, value: ParameterValue) -> AssignmentSpec {
    AssignmentSpec { parameters: BTreeMap::from([("greeting".into(), value)]), ..spec }
}

fn text(value: &str) -> ParameterValue {
    ParameterValue::Text(value.into())
}

fn nodes(assignment: &Assignment) -> Vec<String> {
    assignment.placement.iter().map(|placed| placed.node.to_string()).collect()
}

fn trailers(write: &GitWrite) -> BTreeMap<&str, &str> {
    write.trailers.iter().map(|it| (it.key.as_str(), it.value.as_str())).collect()
}

fn file<T: DeserializeOwned>(write: &GitWrite, path: &str) -> Option<T> {
    let Some(Change::Fleet(change)) = &write.change else { panic!("a write of fleet.git: {write:?}") };
    let content = change.files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} in {write:?}"));
    let content = content.content.as_ref()?;
    Some(serde_saphyr::from_str(std::str::from_utf8(content).unwrap()).unwrap())
}

fn client(name: &str) -> RepositoryName {
    RepositoryName::Client(name.parse().unwrap())
}

#[tokio::test]
async fn an_order_becomes_writes_of_fleet_and_of_each_client_it_touches() {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let tracer = SdkTracerProvider::builder().build().tracer("test");
    tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer)).init();
    let mut world = World::new().await;
    world.start_git_writer().await;
    let running = world.start().await;

    let span = tracing::info_span!("post");
    let trace = span.in_scope(|| bus::trace::current_id().unwrap());
    let spec = greeting(spec(&["port/crane"], &["plant"]), text("Hi"));
    let accepted = world.create("greeter", spec).instrument(span).await.unwrap();
    assert_eq!(accepted.assignment.revision, 1);
    assert_eq!(accepted.assignment.spec.profile.as_deref(), Some("wasm"));
    assert_eq!(nodes(&accepted.assignment), ["plant/press", "plant/saw", "port/crane"]);
    let orders = world.wait_until_committed(1).await;
    assert_eq!(orders[0].id, accepted.order);
    assert_eq!((orders[0].kind.as_str(), orders[0].requested_by.as_str()), ("create", "ada"));
    assert_eq!(orders[0].trace.as_ref(), Some(&trace));

    let commits = world.commits();
    let [(fleet, order), (plant, at_plant), (port, at_port)] = &commits[..] else { panic!("{commits:#?}") };
    assert_eq!((fleet, plant, port), (&RepositoryName::Fleet, &client("plant"), &client("port")));
    assert_eq!(
        (order.author.as_str(), order.subject.as_str()),
        ("ada", "create assignment greeter: hello 1.0.0 on 3 nodes")
    );
    for write in [order, at_plant, at_port] {
        let trailers = trailers(write);
        assert_eq!((trailers["Order"], trailers["Trace-Id"]), (accepted.order.as_str(), trace.as_str()));
        assert_eq!((trailers["Assignment"], trailers["Reason"]), ("greeter", "the night shift"));
    }
    let assignment: AssignmentFile = file(order, &git_state::layout::assignment(&"greeter".parse().unwrap())).unwrap();
    assert_eq!((assignment.revision, assignment.state), (1, AssignmentState::Active));
    assert_eq!(assignment.parameters["greeting"], text("Hi"));
    let placement: PlacementFile = file(order, &git_state::layout::placement(&"greeter".parse().unwrap())).unwrap();
    assert_eq!(placement.nodes.len(), 3);
    assert!(placement.nodes.values().all(|it| it.order == accepted.order && it.profile == "wasm" && it.revision == 1));

    let Some(Change::Client(change)) = &at_plant.change else { panic!("{at_plant:?}") };
    let press = &change.puts[0];
    let placed = &accepted.assignment.placement[0];
    assert_eq!((press.node.as_str(), press.deployment.parse()), ("press", Ok(placed.deployment)));
    assert_eq!(Some(Digest::of(&press.document).to_string()), placed.digest);
    let document = ApplicationDeployment::parse(&press.document, "document").unwrap();
    let name: AssignmentName = "greeter".parse().unwrap();
    assert_eq!(document.id, DeploymentId::new(&TenantName::default(), &name, &placed.node));
    assert_eq!(document.environment(&"hello".parse().unwrap())["GREETING"], "Hi");
    assert_eq!(document.lock().unwrap().components[&"hello".parse().unwrap()], Digest::of(b"component"));
    let summary: serde_json::Value = serde_json::from_slice(&press.summary).unwrap();
    assert_eq!(summary["order"], accepted.order.as_str());
    assert_eq!(summary["packageDigest"], Digest::of(b"package").to_string());

    let desired: Vec<DesiredDeployment> = world.ask("deployments", &()).await.unwrap();
    assert_eq!(desired.len(), 3);
    assert_eq!((desired[0].id, &desired[0].digest), (placed.deployment, &placed.digest));
    let one = async |id: DeploymentId| -> Option<DesiredDeployment> {
        world.ask("deployment", &ByName { name: id }).await.unwrap()
    };
    assert_eq!(one(placed.deployment).await.as_ref(), Some(&desired[0]));
    assert_eq!(one("00000000-0000-0000-0000-000000000000".parse().unwrap()).await, None);
    let listed: Vec<Assignment> = world.ask("list", &()).await.unwrap();
    assert_eq!(listed, [accepted.assignment]);
    running.stop().await;
}

#[tokio::test]
async fn an_update_and_a_removal_follow_the_revision_that_a_person_has_seen() {
    on_each_database(async |location| {
        let mut world = World::on(location).await;
        world.start_git_writer().await;
        let running = world.start().await;
        let created = world.create("greeter", spec(&[], &["plant"])).await.unwrap();

        let updated = world.update("greeter", 1, greeting(spec(&["port/crane"], &[]), text("Hi"))).await.unwrap();
        assert_eq!(updated.assignment.revision, 2);
        assert_eq!(nodes(&updated.assignment), ["plant/press", "plant/saw", "port/crane"], "targets only add");
        for (before, after) in created.assignment.placement.iter().zip(&updated.assignment.placement) {
            assert_eq!(before.deployment, after.deployment);
            assert_ne!(before.digest, after.digest);
        }
        for refused in [world.update("greeter", 1, spec(&[], &["plant"])).await, world.remove("greeter", 3).await] {
            let problem = refused.unwrap_err();
            assert_eq!(problem.status, 412);
            assert!(problem.detail.as_ref().unwrap().contains("is at revision 2"), "{problem}");
        }

        let removed = world.remove("greeter", 2).await.unwrap();
        assert_eq!((removed.assignment.state, removed.assignment.revision), (AssignmentState::Removed, 3));
        assert!(removed.assignment.placement.iter().all(|placed| placed.digest.is_none()));
        assert_eq!(world.wait_until_committed(3).await[0].kind, "remove");
        let commits = world.commits();
        let (_, fleet) = commits.iter().rfind(|(repository, _)| *repository == RepositoryName::Fleet).unwrap();
        assert_eq!(
            file::<AssignmentFile>(fleet, &git_state::layout::assignment(&"greeter".parse().unwrap())).unwrap().state,
            AssignmentState::Removed
        );
        assert_eq!(
            file::<PlacementFile>(fleet, &git_state::layout::placement(&"greeter".parse().unwrap())),
            None,
            "deleted"
        );
        let (_, plant) = commits.iter().rfind(|(repository, _)| *repository == client("plant")).unwrap();
        let Some(Change::Client(change)) = &plant.change else { panic!("{plant:?}") };
        assert_eq!((change.puts.len(), change.removes.len()), (0, 2));

        let got: Assignment = world.ask("get", &ByName { name: removed.assignment.name.clone() }).await.unwrap();
        assert_eq!(got, removed.assignment);
        for refused in [
            world.update("greeter", 3, spec(&[], &["plant"])).await,
            world.remove("greeter", 3).await,
            world.create("greeter", spec(&[], &["plant"])).await,
        ] {
            assert_eq!(refused.unwrap_err().status, 409, "a name is never reused");
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_field_and_nothing_of_it_stays() {
    let mut world = World::new().await;
    let running = world.start().await;
    let fields = |refused: Result<Accepted, Problem>| {
        let problem = refused.unwrap_err();
        assert_eq!(problem.status, 422, "{problem}");
        problem.errors.into_iter().map(|error| error.field).collect::<Vec<_>>()
    };
    let mut unknown = spec(&[], &["plant"]);
    unknown.app.id = "other".parse().unwrap();
    assert_eq!(fields(world.create("a", unknown).await), ["app"]);
    assert_eq!(fields(world.create("a", spec(&[], &[])).await), ["targets"]);
    let mut wrong = greeting(spec(&["plant/none"], &["nowhere"]), ParameterValue::Integer(1));
    wrong.profile = Some("helm".into());
    wrong.parameters.insert("colour".into(), text("red"));
    assert_eq!(
        fields(world.create("a", wrong).await),
        ["targets.nodes", "targets.sites", "profile", "parameters.colour", "parameters.greeting"]
    );
    let reason = Some("two\nlines".to_owned());
    let two_lines = CreateAssignment { name: "a".parse().unwrap(), spec: spec(&[], &["plant"]), reason };
    assert_eq!(fields(world.ask("create", &two_lines).await), ["reason"]);

    assert_eq!(world.update("a", 1, spec(&[], &["plant"])).await.unwrap_err().status, 404);
    assert_eq!(world.remove("a", 1).await.unwrap_err().status, 404);
    let unknown = ByName { name: "a".parse::<AssignmentName>().unwrap() };
    assert_eq!(world.ask::<_, Assignment>("get", &unknown).await.unwrap_err().status, 404);
    assert_eq!(world.orders().await, []);

    for neighbour in world.neighbours.drain(..) {
        neighbour.stop().await.unwrap();
    }
    let problem = world.create("a", spec(&[], &["plant"])).await.unwrap_err();
    assert_eq!((problem.status, problem.retryable), (503, true), "{problem}");
    running.stop().await;
}

#[tokio::test]
async fn wfm_30_an_update_leaves_alone_what_is_immutable_also_between_versions() {
    let world = World::new().await;
    let running = world.start().await;
    let immutable = |text: &str| {
        let setting = "{ parameter: greeting, name: Greeting, schema: text, immutable: true }";
        let sections = format!("configuration:\n  sections: [{{ name: All, settings: [{setting}] }}]\n");
        format!("{text}{sections}  schema: [{{ name: text, dataType: string }}]\n")
    };
    world.known.lock().unwrap().description = immutable(HELLO);
    let good = |name: &str| greeting(spec(&[], &["plant"]), text(name));
    world.create("greeter", good("Hi")).await.unwrap();
    let refused = |answer: Result<Accepted, Problem>| {
        let problem = answer.unwrap_err();
        assert_eq!(problem.status, 422, "{problem}");
        problem.errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect::<Vec<_>>()
    };
    let rule = "parameters.greeting: cannot be changed after the application was installed: it is";
    assert_eq!(refused(world.update("greeter", 1, good("Ho")).await), [format!("{rule} \"Hi\"")]);
    // What the package sets is another value, too.
    assert_eq!(refused(world.update("greeter", 1, spec(&[], &["plant"])).await), [format!("{rule} \"Hi\"")]);
    world.update("greeter", 1, good("Hi")).await.unwrap();
    assert_eq!(world.orders().await.len(), 2, "nothing of the refused ones is left");

    // Nobody gives a value, and another version of the package has another default.
    world.create("second", spec(&[], &["plant"])).await.unwrap();
    let mut newer = spec(&[], &["plant"]);
    newer.app.version = "2.0.0".parse().unwrap();
    world.known.lock().unwrap().newer = Some(immutable(&HELLO.replace("value: Hello", "value: Moin")));
    assert_eq!(refused(world.update("second", 1, newer.clone()).await), [format!("{rule} \"Hello\"")]);
    world.update("second", 1, greeting(newer, text("Hello"))).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_node_whose_message_is_full_is_refused_to_a_person_and_passed_over_by_the_system() {
    let world = World::new().await;
    // Hashes do not compress: 900 kB of them stay 450 kB.
    let defaults = |seed: u8| -> String {
        let value = |name: u8| -> String {
            (0..470u16).map(|at| Digest::of(&[seed, name, at as u8, (at >> 8) as u8]).hex()).collect()
        };
        let parameter = |name| {
            format!(
                "  p{name}:\n    value: {}\n    targets: [{{ pointer: P{name}, components: [hello] }}]\n",
                value(name)
            )
        };
        (0..30).map(parameter).collect()
    };
    let running = world.start().await;
    world.join("quarry/first");
    world.create("everywhere", spec(&[], &["quarry"])).await.unwrap();
    world.join("quarry/full");
    let mut accepted = 0;
    let problem = loop {
        world.known.lock().unwrap().description = HELLO.to_owned() + &defaults(accepted as u8);
        match world.create(&format!("a{accepted}"), spec(&["quarry/full"], &[])).await {
            Ok(_) => accepted += 1,
            Err(problem) => break problem,
        }
        assert!(accepted < 12, "4 MiB hold no twelve times 450 kB");
    };
    assert_eq!(problem.status, 422, "{problem}");
    assert!(problem.errors[0].message.contains("node quarry/full"), "{problem}");
    assert!(accepted > 6, "what fits is accepted: {accepted}");
    assert_eq!(world.orders().await.len(), accepted + 1, "nothing of the refused one is left");

    world.join("quarry/free");
    let capabilities = world.server.connect_central(ServiceName::NodeCapabilities).await;
    capabilities.call::<_, ()>(&Subject::service(SELF, "evaluate"), &(), None).await.unwrap();
    wait_for("the free node to be placed", async || {
        let got: Assignment = world.ask("get", &ByName { name: "everywhere".to_owned() }).await.unwrap();
        if nodes(&got) == ["quarry/first", "quarry/free"] { Ok(()) } else { Err(nodes(&got)) }
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_joins_a_site_gets_what_stands_for_the_site() {
    let mut world = World::new().await;
    world.start_git_writer().await;
    let running = world.start().await;
    world.create("everywhere", spec(&[], &["plant"])).await.unwrap();
    world.create("one", spec(&["plant/press"], &[])).await.unwrap();
    world.wait_until_committed(2).await;

    world.join("plant/oven");
    let evaluate = Subject::service(SELF, "evaluate");
    let signaller = world.server.connect_central(ServiceName::NodeCapabilities).await;
    signaller.call::<_, ()>(&evaluate, &(), None).await.unwrap();
    let orders = world.wait_until_committed(3).await;
    assert_eq!((orders[0].kind.as_str(), orders[0].requested_by.as_str()), ("place", "deployment-registry"));
    assert_eq!((orders[0].assignment.as_str(), orders[0].revision), ("everywhere", 1));

    let commits = world.commits();
    let [.., (RepositoryName::Fleet, fleet), (_, plant)] = &commits[..] else { panic!("{commits:#?}") };
    assert_eq!(fleet.author, "deployment-registry");
    assert_eq!(trailers(fleet)["Caused-By"], "evaluate, plant/oven matches");
    assert_eq!(
        file::<PlacementFile>(fleet, &git_state::layout::placement(&"everywhere".parse().unwrap()))
            .unwrap()
            .nodes
            .len(),
        3
    );
    let Some(Change::Client(change)) = &plant.change else { panic!("{plant:?}") };
    assert_eq!(change.puts.iter().map(|put| put.node.as_str()).collect::<Vec<_>>(), ["oven"]);

    // Nobody's update has become stale by that; and a node that has it does not get it twice.
    world.update("everywhere", 1, greeting(spec(&[], &["plant"]), text("Hi"))).await.unwrap();
    signaller.call::<_, ()>(&evaluate, &(), None).await.unwrap();
    world.join("port/gate");
    world.create("port", spec(&[], &["port"])).await.unwrap();
    world.join("port/lock");
    signaller.call::<_, ()>(&evaluate, &(), None).await.unwrap();
    let kinds: Vec<_> =
        world.wait_until_committed(6).await.into_iter().map(|it| (it.kind, it.assignment.to_string())).collect();
    assert_eq!(kinds[0], ("place".into(), "port".into()), "{kinds:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_joined_while_the_service_was_down_is_placed_without_a_signal() {
    let mut world = World::new().await;
    world.start_git_writer().await;
    let running = world.start().await;
    world.create("everywhere", spec(&[], &["plant"])).await.unwrap();
    world.wait_until_committed(1).await;
    running.stop().await;
    world.join("plant/oven");
    let running = world.start().await;
    assert_eq!(world.wait_until_committed(2).await[0].kind, "place");
    running.stop().await;
}

#[tokio::test]
async fn what_was_accepted_survives_a_crash_before_it_was_published() {
    let mut world = World::new().await;
    let running = world.start().await;
    // Without git-writer there is no stream: the rows can go nowhere.
    let accepted = world.create("greeter", spec(&[], &["plant"])).await.unwrap();
    assert!(!world.orders().await[0].committed);
    running.kill().await;

    let running = world.start().await;
    let got: Assignment = world.ask("get", &ByName { name: accepted.assignment.name.clone() }).await.unwrap();
    assert_eq!(got, accepted.assignment);
    world.start_git_writer().await;
    assert_eq!(world.wait_until_committed(1).await[0].id, accepted.order);
    assert_eq!(world.commits().len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn orders_given_at_once_are_numbered_without_gaps_and_one_of_each_name_and_revision_wins() {
    let mut world = World::new().await;
    world.start_git_writer().await;
    let running = world.start().await;
    let created = (0..12).map(|at| {
        let name = format!("a{at}");
        let world = &world;
        async move { world.create(&name, spec(&["port/crane"], &["plant"])).await }
    });
    assert!(futures::future::join_all(created).await.iter().all(Result::is_ok));
    let same_name = (0..6).map(|_| world.create("one", spec(&["port/crane"], &["plant"])));
    let same_name = futures::future::join_all(same_name).await;
    assert_eq!(same_name.iter().filter(|it| it.is_ok()).count(), 1);
    assert!(same_name.iter().filter_map(|it| it.as_ref().err()).all(|problem| problem.status == 409));
    let updates = (0..6).map(|at| world.update("a0", 1, greeting(spec(&[], &["plant"]), text(&at.to_string()))));
    let updates = futures::future::join_all(updates).await;
    assert_eq!(updates.iter().filter(|it| it.is_ok()).count(), 1);
    assert!(updates.iter().filter_map(|it| it.as_ref().err()).all(|problem| problem.status == 412));
    world.wait_until_committed(14).await;
    // The test's git-writer has asserted that no number was left out or doubled.
    let handled = world.git.lock().unwrap().handled.clone();
    assert_eq!(handled, BTreeMap::from([(RepositoryName::Fleet, 14), (client("plant"), 14), (client("port"), 14)]));
    running.stop().await;
}

#[tokio::test]
async fn thousands_of_targets_are_one_order() {
    let mut world = World::new().await;
    world.start_git_writer().await;
    for at in 0..2_500 {
        world.join(&format!("quarry/node{at}"));
    }
    let running = world.start().await;
    let accepted = world.create("everywhere", spec(&[], &["quarry"])).await.unwrap();
    assert_eq!(accepted.assignment.placement.len(), 2_500);
    world.wait_until_committed(1).await;
    assert_eq!(world.commits().len(), 2, "one of fleet.git, one of the client");
    running.stop().await;
}
