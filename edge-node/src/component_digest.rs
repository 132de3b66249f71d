//! Which components an update changes: each has a digest over all that it is made of, and nothing else. Pure.

use margo::{ApplicationDeployment, DeployedComponent, Digest};
use runtime::WorkloadId;
use serde_json::{Map, Value, json};

use crate::desired::Deployment;

/// Returns the digest of what a component is made of: its artifact and everything else that the lock says of it, its values and
/// settings, and the runtime. How long it may take to start, and who waits for it, is not in it: neither changes what runs.
pub fn of(document: &ApplicationDeployment, component: &DeployedComponent) -> Digest {
    let profile = &document.spec.profile;
    let mut runtime = profile.edgewright().cloned().unwrap_or_default();
    if let Some(ours) = runtime.as_object_mut() {
        ours.remove(margo::FAILED_UPDATE);
    }
    let mut lock = document.spec.extensions.get("x-edgewright-extensions").and_then(|ours| ours.get("lock")).cloned();
    let parts = lock.as_mut().and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut);
    for part in parts.filter_map(Value::as_object_mut) {
        part.retain(|name, _| name == component.name.as_str());
    }
    if let Some(lock) = lock.as_mut().and_then(Value::as_object_mut) {
        lock.retain(|_, part| part.as_object().is_none_or(|part| !part.is_empty()));
    }
    let made_of = json!({
        "type": profile.kind,
        "runtime": runtime,
        "repository": component.properties.repository,
        "lock": lock,
        "settings": component.edgewright(),
        "values": document.values(&component.name),
    });
    Digest::of(sorted(made_of).to_string().as_bytes())
}

/// Returns the digest by which agents know a workload now. One that an older agent started carries the digest of the whole
/// document: if that is a revision which is still at hand, the workload need not be started anew.
pub fn known_as(deployment: Option<&Deployment>, id: &WorkloadId, digest: Digest) -> Digest {
    let Some(deployment) = deployment else { return digest };
    let before = deployment.way_back.as_ref().map(|way_back| &way_back.installed);
    let revision = [Some(&deployment.wanted), before].into_iter().flatten().find(|revision| revision.digest == digest);
    let Some(content) = revision.and_then(|revision| revision.read()) else { return digest };
    let component = content.spec.profile.components.iter().find(|component| component.name == id.component);
    component.map_or(digest, |component| of(&content, component))
}

/// Returns the value with all names in order, whatever order maps of JSON keep in this build.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.into_iter().collect();
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Object(entries.into_iter().map(|(name, value)| (name, sorted(value))).collect::<Map<_, _>>())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use margo::ParameterValue;

    use super::*;
    use crate::testing::deployment;

    fn digest(document: &ApplicationDeployment) -> Digest {
        of(document, &document.spec.profile.components[0])
    }

    /// The same with a lock that names an image of a component.
    fn with_image(document: &ApplicationDeployment, component: &str) -> ApplicationDeployment {
        let mut document = document.clone();
        let lock = &mut document.spec.extensions.get_mut("x-edgewright-extensions").unwrap()["lock"];
        lock["images"] = json!({ component: { "web": { "linux/amd64": { "manifest": Digest::of(b"m"), "id": Digest::of(b"i") } } } });
        document
    }

    #[test]
    fn what_a_component_is_made_of_changes_its_digest() {
        let manifest = Digest::of(b"manifest");
        let before = deployment("hello", manifest);
        let mut value = before.clone();
        value.spec.parameters.get_mut("greeting").unwrap().value = ParameterValue::Integer(7);
        let mut settings = before.clone();
        settings.spec.profile.components[0]
            .extensions
            .insert("x-edgewright-extensions".to_owned(), json!({ "http": { "port": 8081 } }));
        let mut runtime = before.clone();
        runtime.spec.profile.extensions.insert("x-edgewright-extensions".to_owned(), json!({ "runtime": "other" }));
        let artifact = deployment("hello", Digest::of(b"another"));
        let images = with_image(&before, "hello");
        for changed in [value, settings, runtime, artifact, images] {
            assert_ne!(digest(&changed), digest(&before), "{changed:?}");
        }
    }

    #[test]
    fn what_a_component_is_not_made_of_leaves_its_digest() {
        let manifest = Digest::of(b"manifest");
        let before = deployment("hello", manifest);
        let mut patient = before.clone();
        patient.spec.profile.components[0].properties.timeout = Some("5m0s".to_owned());
        patient.spec.profile.components[0].properties.wait = Some(false);
        patient.metadata.labels.insert("line".to_owned(), "7".to_owned());
        let mut joined = before.clone();
        let mut second = before.spec.profile.components[0].clone();
        second.name = "also".parse().unwrap();
        joined.spec.profile.components.push(second);
        let lock = json!({ "lock": { "components": { "also": Digest::of(b"other"), "hello": manifest } } });
        joined.spec.extensions.insert("x-edgewright-extensions".to_owned(), lock);
        let others_image = with_image(&before, "also");
        for changed in [patient, joined, others_image] {
            assert_eq!(digest(&changed), digest(&before), "{changed:?}");
        }
    }

    #[test]
    fn the_digest_of_a_component_never_changes_by_itself() {
        // Golden: with another one, an upgrade of the agent would start every workload in the field anew.
        let digest = digest(&deployment("hello", Digest::of(b"manifest")));
        assert_eq!(digest.to_string(), "sha256:6bdbd1b511b14e876c8a51db7be583e862b2ad6841a435829352ec0f71ddb9db");
    }
}
