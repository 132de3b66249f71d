//! Documents for the tests of this crate.

use std::collections::BTreeMap;

use bus::proto;
use margo::{
    ApplicationDeployment, ApplicationDescription, AssignmentName, Digest, Lock, NodeId, ParameterValue, TenantName,
};

const HELLO: &str = "\
apiVersion: v1
id: hello
metadata:
  name: Hello
  version: 1.0.0
  catalog:
    organization: [{ name: ACME }]
deploymentProfiles:
  - id: only
    type: custom
    x-edgewright-extensions: { runtime: 'null' }
    components:
      - name: hello
        properties: { repository: oci://edgewright.local/hello, revision: 1.0.0 }
        x-edgewright-extensions: { http: { port: 8080 } }
parameters:
  greeting:
    targets: [{ pointer: GREETING, components: [hello] }]
configuration:
  sections:
    - name: General
      settings: [{ parameter: greeting, name: Greeting, schema: count }]
  schema:
    - { name: count, dataType: integer }
";

pub fn node() -> NodeId {
    "plant/press".parse().unwrap()
}

/// Runs the component `hello` in the runtime `null` with `GREETING=120`.
pub fn deployment(assignment: &str, manifest: Digest) -> ApplicationDeployment {
    let description = ApplicationDescription::parse(HELLO.as_bytes(), "margo.yaml").unwrap();
    let assignment: AssignmentName = assignment.parse().unwrap();
    let parameters = BTreeMap::from([("greeting".to_owned(), ParameterValue::Integer(120))]);
    let components = BTreeMap::from([("hello".parse().unwrap(), manifest)]);
    let lock = Lock { components, ..Lock::default() };
    let tenant = TenantName::default();
    ApplicationDeployment::new(
        &tenant,
        &assignment,
        &node(),
        (&node()).into(),
        &description,
        "only",
        &parameters,
        &lock,
    )
    .unwrap()
}

pub fn entry(deployment: &ApplicationDeployment) -> proto::DesiredDeployment {
    let document = deployment.to_yaml();
    proto::DesiredDeployment {
        id: deployment.id.to_string(),
        digest: Digest::of(&document).to_string(),
        document: document.into(),
    }
}

pub fn message(version: u64, deployments: Vec<proto::DesiredDeployment>) -> proto::DesiredNode {
    let node = node();
    proto::DesiredNode {
        version,
        deployments,
        client: node.client.to_string(),
        node: node.node.to_string(),
        identity: Default::default(),
    }
}
