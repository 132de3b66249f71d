//! What the gateway decides by itself: how a deployment stands, and what an ETag means.

use std::collections::HashMap;

use api::{ActualDeployment, Deployment, DesiredDeployment};
use margo::{DeploymentId, NodeId, State};

/// Joins what deployment-registry wants with what nodes have said. Only what is wanted, or to be removed, is listed; a
/// report about any other deployment is left out, and so is what a node says of a deployment that is another node's: ids can be
/// computed by everybody.
pub(crate) fn merge(desired: Vec<DesiredDeployment>, actual: Vec<ActualDeployment>) -> Vec<Deployment> {
    let mut actual: HashMap<(NodeId, DeploymentId), ActualDeployment> =
        actual.into_iter().map(|actual| ((actual.node.clone(), actual.id), actual)).collect();
    let merged = desired.into_iter().map(|desired| {
        let actual = actual.remove(&(desired.node.clone(), desired.id));
        let state = state(&desired, actual.as_ref());
        Deployment { desired, state, actual }
    });
    merged.collect()
}

/// The state that people see. What a node said counts only when it spoke of the digest that is wanted now; otherwise it
/// is about an earlier content.
fn state(desired: &DesiredDeployment, actual: Option<&ActualDeployment>) -> State {
    match (&desired.digest, actual) {
        (Some(wanted), Some(actual)) if actual.digest == *wanted => match actual.state {
            // The node speaks of an earlier removal of the same content, and has not heard that it is wanted again.
            State::Removing | State::Removed => State::Pending,
            state @ (State::Pending | State::Installing | State::Installed | State::Failed) => state,
        },
        // The node has said nothing of what is wanted now.
        (Some(_), _) => State::Pending,
        // Nothing is known of it: the node never had it, and so never speaks of it.
        (None, None) => State::Removed,
        (None, Some(actual)) if actual.state == State::Removed => State::Removed,
        (None, Some(_)) => State::Removing,
    }
}

/// The ETag under which an assignment is answered: its revision in quotation marks.
pub(crate) fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// Reads the revision from an ETag in exactly the form that [`etag`] writes. Returns `None` for a list, for `*` and for
/// a weak ETag: an order has to name the one revision that its author has seen.
pub(crate) fn revision(etag: &str) -> Option<u64> {
    let revision = etag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
    (self::etag(revision) == etag.trim()).then_some(revision)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn desired(digest: Option<&str>) -> DesiredDeployment {
        DesiredDeployment {
            id: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
            assignment: "hello".parse().unwrap(),
            node: "plant/press".parse().unwrap(),
            app: "hello".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            profile: "wasm".to_owned(),
            digest: digest.map(str::to_owned),
            revision: 1,
        }
    }

    fn actual(digest: &str, state: State) -> ActualDeployment {
        ActualDeployment {
            id: desired(None).id,
            node: desired(None).node,
            digest: digest.to_owned(),
            state,
            failure: None,
            components: Vec::new(),
            adopted_manifest_version: 1,
            reported_at: "2026-11-21T10:00:00Z".to_owned(),
        }
    }

    /// A deployment of which its node says that it is installed.
    pub(crate) fn deployment() -> Deployment {
        merge(vec![desired(Some("new"))], vec![actual("new", State::Installed)]).remove(0)
    }

    fn seen(wanted: Option<&str>, said: Option<(&str, State)>) -> State {
        let actual = said.map(|(digest, state)| actual(digest, state));
        let [deployment] = merge(vec![desired(wanted)], actual.clone().into_iter().collect()).try_into().unwrap();
        // Whatever it means, what the node said is shown.
        assert_eq!(deployment.actual, actual);
        deployment.state
    }

    #[test]
    fn a_deployment_is_pending_until_its_node_speaks_of_the_wanted_digest() {
        use State::*;
        assert_eq!(seen(Some("new"), None), Pending);
        for said in [Pending, Installing, Installed, Failed, Removing, Removed] {
            assert_eq!(seen(Some("new"), Some(("old", said))), Pending, "{said}");
        }
        for said in [Pending, Installing, Installed, Failed] {
            assert_eq!(seen(Some("new"), Some(("new", said))), said);
        }
    }

    #[test]
    fn nobody_speaks_of_a_deployment_of_another_node() {
        let own = actual("new", State::Installed);
        let forged = |node: &str| ActualDeployment { node: node.parse().unwrap(), ..actual("new", State::Failed) };
        for said in [vec![own.clone(), forged("zoo/press")], vec![forged("alm/press"), own.clone()]] {
            let [deployment] = merge(vec![desired(Some("new"))], said).try_into().unwrap();
            assert_eq!((deployment.state, deployment.actual), (State::Installed, Some(own.clone())));
        }
        let [deployment] = merge(vec![desired(Some("new"))], vec![forged("zoo/press")]).try_into().unwrap();
        assert_eq!((deployment.state, deployment.actual), (State::Pending, None));
    }

    #[test]
    fn what_was_removed_before_and_is_wanted_again_is_pending() {
        for said in [State::Removing, State::Removed] {
            assert_eq!(seen(Some("new"), Some(("new", said))), State::Pending);
        }
    }

    #[test]
    fn what_is_to_be_removed_is_removing_until_it_is_gone() {
        use State::*;
        for said in [Pending, Installing, Installed, Failed, Removing] {
            assert_eq!(seen(None, Some(("old", said))), Removing, "{said}");
        }
        assert_eq!(seen(None, Some(("old", Removed))), Removed);
        assert_eq!(seen(None, None), Removed);
    }

    #[test]
    fn what_nobody_wants_is_not_listed() {
        assert_eq!(merge(Vec::new(), vec![actual("old", State::Installed)]), []);
    }

    #[test]
    fn only_an_etag_as_it_was_given_is_a_revision() {
        assert_eq!(revision(&etag(7)), Some(7));
        for bad in ["", "7", "\"\"", "\"7", "\"07\"", "\"+7\"", "W/\"7\"", "*", "\"7\", \"8\"", "\"-1\""] {
            assert_eq!(revision(bad), None, "{bad}");
        }
    }
}
