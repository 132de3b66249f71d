//! The three orders about assignments: deploy, update and remove.

use std::collections::BTreeMap;

use api::{
    Accepted, AppContent, AppRef, Assignment, AssignmentSpec, CreateAssignment, Targets, UpdateAssignment, Volumes,
};
use margo::{ApplicationDescription, AssignmentName, ParameterValue};
use reqwest::{Method, header};

use crate::{
    args::{Deploy, OrderArgs, Remove, Setting, TargetArgs, Update},
    client::{Answer, Client},
    failure::Failure,
    output::{Format, print},
    parameters, tables, wait,
};

/// Orders a new assignment. Fails with wrong usage when no target is given.
pub(crate) async fn deploy(client: &Client, deploy: Deploy, format: Format) -> Result<(), Failure> {
    let app = deploy.app.0;
    let name = match deploy.name {
        Some(name) => name,
        None => app.id.as_str().parse().map_err(|_| {
            Failure::Usage(format!("{} cannot be the name of an assignment\n  next: give one with --name", app.id))
        })?,
    };
    let targets = targets(deploy.targets)
        .ok_or_else(|| Failure::Usage("where to?\n  next: give --to SITE/NODE or --to-site SITE".to_owned()))?;
    let attempt = format!("deploying {}@{} as {name}", app.id, app.version);
    let parameters = typed(client, &attempt, &app, &deploy.set).await?;
    let spec = AssignmentSpec { app, profile: deploy.profile, parameters, targets, volumes: None };
    let body = CreateAssignment { name, spec, reason: deploy.order.reason.clone() };
    let accepted = client.order(&attempt, client.request(Method::POST, "assignments").json(&body)).await?;
    follow(client, accepted, &deploy.order, format).await
}

/// Orders a change of an assignment, on the condition that it is still at the revision that was read.
pub(crate) async fn update(client: &Client, update: Update, format: Format) -> Result<(), Failure> {
    let Update { name, app, set, targets: target_args, volumes, order } = update;
    let targets = targets(target_args);
    if app.is_none() && set.is_empty() && targets.is_none() && volumes.is_none() {
        let next = "give --app, --set, --to, --to-site or --volumes";
        return Err(Failure::Usage(format!("nothing to change\n  next: {next}")));
    }
    let attempt = format!("updating {name}");
    let held = get(client, &attempt, &name).await?;
    let app = app.map(|app| app.0);
    let parameters = typed(client, &attempt, app.as_ref().unwrap_or(&held.spec.app), &set).await?;
    let spec = merged(held.spec, Replacements { app, parameters, targets, volumes });
    let accepted = put(client, &attempt, &name, held.revision, spec, order.reason.clone()).await?;
    follow(client, accepted, &order, format).await
}

/// Puts another meaning in the place of what an assignment has at this revision.
async fn put(
    client: &Client,
    attempt: &str,
    name: &AssignmentName,
    revision: u64,
    spec: AssignmentSpec,
    reason: Option<String>,
) -> Result<Answer<Accepted>, Failure> {
    let body = UpdateAssignment { spec, reason };
    let request = client.request(Method::PUT, &format!("assignments/{name}"));
    client.order(attempt, request.header(header::IF_MATCH, etag(revision)).json(&body)).await
}

/// Orders the removal of an assignment, on the condition that it is still at the revision that was read.
pub(crate) async fn remove(client: &Client, remove: Remove, format: Format) -> Result<(), Failure> {
    let Remove { name, delete_volumes, order } = remove;
    let attempt = format!("removing {name}");
    let mut held = get(client, &attempt, &name).await?;
    if delete_volumes && held.spec.volumes != Some(Volumes::Delete) {
        // A node that is not told before would keep them: with the removal, the document that says so goes, too.
        let spec = AssignmentSpec { volumes: Some(Volumes::Delete), ..held.spec };
        held = put(client, &attempt, &name, held.revision, spec, order.reason.clone()).await?.body.assignment;
    }
    if delete_volumes {
        let told = wait::until_reached(client, &name, &wait::goals(&held), order.timeout).await;
        told.map_err(|failure| not_removed(&name, failure))?;
    }
    let request = client.request(Method::DELETE, &format!("assignments/{name}"));
    let request = request.header(header::IF_MATCH, etag(held.revision)).query(&[("reason", &order.reason)]);
    let accepted = client.order(&attempt, request).await?;
    follow(client, accepted, &order, format).await
}

/// What is to be said when a node has not been told that its volumes are to go: nothing was removed, and nothing will be by itself.
fn not_removed(name: &AssignmentName, failure: Failure) -> Failure {
    let said = match failure {
        Failure::TimedOut(said) | Failure::Failed(said) => said,
        other => return other,
    };
    // What it says of the next step is that of a wait for something else.
    let why = said.split("\n  next: ").next().unwrap_or_default();
    Failure::Failed(format!(
        "{name} was not removed, because not every node knows yet that its volumes are to go: {why}\n  \
         next: repeat it when the node can be reached, or remove it without --delete-volumes: then the volumes of nodes that \
         do not know stay; `edgectl co update {name} --volumes keep` takes the wish back"
    ))
}

async fn get(client: &Client, attempt: &str, name: &AssignmentName) -> Result<Assignment, Failure> {
    client.get(attempt, &format!("assignments/{name}")).await.map(|answer| answer.body)
}

fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// `None` when no target is given.
fn targets(TargetArgs { to, to_site }: TargetArgs) -> Option<Targets> {
    let targets = Targets { nodes: to, sites: to_site };
    (targets != Targets::default()).then_some(targets)
}

/// The values of `--set` in the types that the application's description gives them.
async fn typed(
    client: &Client,
    attempt: &str,
    app: &AppRef,
    settings: &[Setting],
) -> Result<BTreeMap<String, ParameterValue>, Failure> {
    if settings.is_empty() {
        return Ok(BTreeMap::new());
    }
    let content = client.get::<AppContent>(attempt, &format!("apps/{}/{}", app.id, app.version)).await?.body;
    let description = ApplicationDescription::parse_accepted(content.description.as_bytes(), "margo.yaml");
    let description = description.map_err(|error| Failure::Failed(format!("{attempt}: {error}")))?;
    parameters::typed(&description, settings).map_err(|problem| Failure::refused(attempt, problem))
}

/// What an update puts in the place of what an assignment has. Everything that it does not name stays.
struct Replacements {
    app: Option<AppRef>,
    parameters: BTreeMap<String, ParameterValue>,
    targets: Option<Targets>,
    volumes: Option<Volumes>,
}

/// The held assignment with the replacements in their places. A parameter replaces the one of its name; targets are one
/// thing, so given ones replace all that there were.
fn merged(held: AssignmentSpec, replacements: Replacements) -> AssignmentSpec {
    let mut parameters = held.parameters;
    parameters.extend(replacements.parameters);
    AssignmentSpec {
        app: replacements.app.unwrap_or(held.app),
        profile: held.profile,
        parameters,
        targets: replacements.targets.unwrap_or(held.targets),
        volumes: replacements.volumes.or(held.volumes),
    }
}

/// Shows the accepted order; with `--wait`, waits until it is carried out and shows the deployments instead.
async fn follow(client: &Client, accepted: Answer<Accepted>, order: &OrderArgs, format: Format) -> Result<(), Failure> {
    if !order.wait {
        return print(format, &accepted.json, || tables::accepted(&accepted.body));
    }
    let assignment = &accepted.body.assignment;
    let goals = wait::goals(assignment);
    if goals.is_empty() {
        eprintln!("no node is there yet; it is deployed to each that joins");
    }
    let reached = wait::until_reached(client, &assignment.name, &goals, order.timeout).await?;
    print(format, &reached.json, || tables::deployments(&reached.body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> AssignmentSpec {
        let text = |text: &str| ParameterValue::Text(text.to_owned());
        AssignmentSpec {
            app: AppRef { id: "hello".parse().unwrap(), version: "1.0.0".parse().unwrap() },
            profile: Some("wasm".to_owned()),
            parameters: BTreeMap::from([("greeting".to_owned(), text("Moin")), ("name".to_owned(), text("Ada"))]),
            targets: Targets { nodes: vec!["plant/press".parse().unwrap()], sites: vec!["bakery".parse().unwrap()] },
            volumes: Some(Volumes::Keep),
        }
    }

    fn nothing() -> Replacements {
        Replacements { app: None, parameters: BTreeMap::new(), targets: None, volumes: None }
    }

    #[test]
    fn what_an_update_is_not_given_stays() {
        assert_eq!(merged(held(), nothing()), held());
        let app = AppRef { version: "2.0.0".parse().unwrap(), ..held().app };
        let replacements = Replacements { app: Some(app.clone()), ..nothing() };
        assert_eq!(merged(held(), replacements), AssignmentSpec { app, ..held() });
    }

    #[test]
    fn a_set_parameter_takes_the_place_of_its_own_only() {
        let set = BTreeMap::from([("greeting".to_owned(), ParameterValue::Integer(7))]);
        let spec = merged(held(), Replacements { parameters: set, ..nothing() });
        assert_eq!(spec.parameters["greeting"], ParameterValue::Integer(7));
        assert_eq!(spec.parameters["name"], held().parameters["name"]);
    }

    #[test]
    fn given_targets_take_the_place_of_all() {
        let to = TargetArgs { to: vec!["plant/oven".parse().unwrap()], to_site: Vec::new() };
        let spec = merged(held(), Replacements { targets: targets(to), ..nothing() });
        assert_eq!(spec.targets, Targets { nodes: vec!["plant/oven".parse().unwrap()], sites: Vec::new() });
        assert_eq!(targets(TargetArgs { to: Vec::new(), to_site: Vec::new() }), None);
    }

    #[test]
    fn the_wish_to_delete_volumes_can_be_taken_back() {
        let wished = AssignmentSpec { volumes: Some(Volumes::Delete), ..held() };
        assert_eq!(merged(wished.clone(), nothing()), wished);
        assert_eq!(merged(wished, Replacements { volumes: Some(Volumes::Keep), ..nothing() }), held());
    }

    #[test]
    fn a_removal_that_waited_in_vain_says_that_nothing_was_removed() {
        let name = "shop".parse().unwrap();
        for failure in [
            Failure::TimedOut("shop is not done after 120 s: plant/press is pending".to_owned()),
            Failure::Failed("shop: plant/press is pending\n  next: look".to_owned()),
        ] {
            let told = not_removed(&name, failure).to_string();
            assert!(told.starts_with("shop was not removed") && told.contains("plant/press is pending\n"), "{told}");
            assert!(!told.contains("goes on without you") && told.matches("next:").count() == 1, "{told}");
        }
        let lost = Failure::Unreachable { attempt: String::new(), url: String::new(), reason: String::new() };
        assert_eq!(not_removed(&name, lost).exit_code(), 3);
    }
}
