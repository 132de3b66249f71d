//! Orders as deployment-registry writes them, in size and form.

use bus::ServiceName;
use git_state::{FileChange, Message, layout};
use git_writer::{ClientEdits, DeploymentEdit, Edits, Queued, Row};
use margo::{AssignmentName, DeploymentId, Digest, NodeName, RepositoryName};

const WORDS: [&str; 16] = [
    "press", "paint", "weld", "robot", "vision", "pack", "oven", "mixer", "dryer", "lathe", "mill", "crane", "pump",
    "valve", "label", "scale",
];

/// The nodes of all clients together, and the fewest that a client has.
const NODES: usize = 10_000;
const FEWEST_NODES: usize = 10;

/// The name of a client.
pub fn client(number: usize) -> String {
    format!("client-{number:04}")
}

/// The name of the assignment of an order.
pub fn name(number: usize) -> AssignmentName {
    let seed = Digest::of(&(number as u64).to_le_bytes());
    let word = |at: usize| WORDS[usize::from(u16::from_le_bytes([seed.as_bytes()[at], seed.as_bytes()[at + 1]])) % 16];
    format!("{}-{}-{number:06}", word(4), word(6)).parse().expect("a valid name")
}

/// The first row of a repository: it changes nothing.
pub fn first(repository: RepositoryName) -> Queued {
    let edits = match &repository {
        RepositoryName::Fleet => Edits::Files(Vec::new()),
        RepositoryName::Client(_) => Edits::Client(ClientEdits::default()),
    };
    queued(repository, 1, 0, Message::new("begin"), edits)
}

/// The two rows of an order, all with names of their own: first that of `fleet.git`. `rows_of` counts the rows of each client.
pub fn rows(number: usize, clients: usize, rows_of: &mut [u64]) -> [Queued; 2] {
    let seed = Digest::of(&(number as u64).to_le_bytes());
    let seed = seed.as_bytes();
    let part = |at: usize| usize::from(u16::from_le_bytes([seed[at], seed[at + 1]]));
    let owner = part(0) % clients;
    let node = format!("node-{:05}", part(2) % (NODES / clients).max(FEWEST_NODES));
    let node: NodeName = node.parse().expect("a valid name");
    let assignment = name(number);
    let name = assignment.to_string();
    let (order, deployment) = (uuid("order", number), uuid("deployment", number));
    let message = || {
        Message::new(&format!("create assignment {name}: com-acme-hello 1.2.{} on 1 node", number % 7))
            .with("Order", &order)
            .with("Assignment", &name)
            .with("Requested-By", "ada")
            .with("Reason", &format!("rollout of line {}", number % 40))
            .with("Trace-Id", &hex(&order)[..32])
    };
    let put = |path: String, content: String| FileChange {
        path: path.try_into().expect("a valid path"),
        content: Some(content.into_bytes()),
    };
    let wish = format!(
        "name: {name}\nrevision: 1\nstate: active\napp: com-acme-hello\nversion: 1.2.{}\nprofile: compose-small\nparameters:\n  \
         greeting: Hello from {name}\n  interval: {}\n  endpoint: https://telemetry.example.com/v1/ingest\nnodes:\n- {}/{node}\n",
        number % 7,
        10 + number % 50,
        client(owner)
    );
    let place = format!(
        "assignment: {name}\nnodes:\n  {}/{node}:\n    profile: compose-small\n    revision: 1\n    order: {order}\n",
        client(owner)
    );
    let files = vec![put(layout::assignment(&assignment), wish), put(layout::placement(&assignment), place)];
    let summary = format!(
        "{{\"order\":\"{order}\",\"assignment\":\"{name}\",\"revision\":1,\"app\":\"com-acme-hello\",\"version\":\"1.2.{}\",\
         \"package\":\"{}\",\"profile\":\"compose-small\"}}\n",
        number % 7,
        Digest::of(&[(number % 7) as u8])
    );
    let content = Some((document(number, &name, &deployment).into_bytes(), summary.into_bytes()));
    let deployment: DeploymentId = deployment.parse().expect("a valid id");
    let deployments = vec![DeploymentEdit { node, deployment, content }];
    rows_of[owner] += 1;
    let owned = RepositoryName::Client(client(owner).parse().expect("a valid name"));
    let edits = Edits::Client(ClientEdits { nodes: Vec::new(), deployments });
    [
        queued(RepositoryName::Fleet, number as u64 + 2, 0, message(), Edits::Files(files)),
        queued(owned, rows_of[owner], number as u64 + 2, message(), edits),
    ]
}

fn queued(repository: RepositoryName, number: u64, follows_fleet: u64, message: Message, edits: Edits) -> Queued {
    let (source, author) = (ServiceName::DeploymentRegistry, "ada".to_owned());
    let row = Row { source, number, follows_fleet, author, message, edits: Ok(edits) };
    Queued { bytes: row.size(), row, repository, headers: None }
}

/// The bytes of an ApplicationDeployment.
fn document(number: usize, name: &str, deployment: &str) -> String {
    let lock = |what: &str| Digest::of(format!("{what} 1.2.{}", number % 7).as_bytes());
    format!(
        "apiVersion: application.margo.org/v1alpha1\nkind: ApplicationDeployment\nmetadata:\n  annotations:\n    id: {deployment}\n    \
         applicationId: com-acme-hello\n  name: {name}\n  namespace: default\nspec:\n  deploymentProfile:\n    type: compose\n    components:\n    \
         - name: hello\n      properties:\n        packageLocation: oci://edgewright.local/com-acme-hello\n        keyLocation: \
         https://keys.example.com/acme.pub\n        wait: true\n        timeout: 5m\n    - name: sidecar\n      properties:\n        \
         packageLocation: oci://edgewright.local/com-acme-sidecar\n        wait: false\n        timeout: 2m\n  parameters:\n    greeting:\n      \
         value: Hello from {name}\n      targets:\n      - pointer: ENV.GREETING\n        components:\n        - hello\n    interval:\n      value: \
         {}\n      targets:\n      - pointer: ENV.INTERVAL\n        components:\n        - hello\n        - sidecar\n    endpoint:\n      value: \
         https://telemetry.example.com/v1/ingest\n      targets:\n      - pointer: ENV.ENDPOINT\n        components:\n        - sidecar\n  \
         x-edgewright-extensions:\n    lock:\n      hello: {}\n      sidecar: {}\n      images:\n        docker.io/acme/hello:1.2: {}\n        \
         docker.io/acme/sidecar:1.2: {}\n",
        10 + number % 50,
        lock("a"),
        lock("b"),
        lock("c"),
        lock("d"),
    )
}

/// 64 hex digits that follow from a text.
fn hex(text: &str) -> String {
    Digest::of(text.as_bytes()).hex()
}

fn uuid(what: &str, number: usize) -> String {
    let hex = hex(&format!("{what} {number}"));
    format!("{}-{}-5{}-9{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}
