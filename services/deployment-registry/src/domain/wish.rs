//! What people may mean: the limits of an order, the check against the application, and the documents made of it.

use std::collections::BTreeMap;

use api::{AppContent, AssignmentSpec, FieldError, Volumes};
use margo::{
    ApplicationDeployment, ApplicationDescription, AssignmentName, DeviceId, Digest, Lock, NodeId, ParameterError,
    ParameterValue, ProfileType, TenantName,
};

use super::broken;

/// Targets of one assignment. More documents than that could not be made within the time of a request.
pub(super) const MAX_TARGETS: usize = 10_000;
/// Parameters that an order may give, and their size as JSON in bytes. They are bounded because they stand in the
/// document of every node.
pub(super) const MAX_PARAMETERS: usize = 1_000;
pub(super) const MAX_PARAMETER_BYTES: usize = 256 << 10;
/// The longest name of a parameter or a profile, in bytes.
pub(super) const MAX_NAME: usize = 200;

/// What is meant, checked against the application that it names. Documents for nodes can always be made of it.
#[derive(Debug)]
pub struct Wish {
    pub(super) spec: AssignmentSpec,
    description: ApplicationDescription,
    lock: Lock,
    /// Digest of the application's package, for readers of the repositories.
    pub(super) package: Digest,
    /// The value of every parameter that has one: the given one, else the default of the description.
    in_force: BTreeMap<String, ParameterValue>,
}

/// Checks the limits of an order, for which neither the application nor the nodes have to be known.
pub fn check_limits(spec: &AssignmentSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let targets = spec.targets.nodes.len() + spec.targets.sites.len();
    if targets == 0 {
        errors.push(broken("targets", "at least one node or site"));
    }
    if targets > MAX_TARGETS {
        errors.push(broken("targets", format!("at most {MAX_TARGETS} nodes and sites, not {targets}")));
    }
    if spec.parameters.len() > MAX_PARAMETERS {
        errors.push(broken("parameters", format!("at most {MAX_PARAMETERS}, not {}", spec.parameters.len())));
    }
    let bytes = serde_json::to_vec(&spec.parameters).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_PARAMETER_BYTES {
        errors.push(broken("parameters", format!("at most {MAX_PARAMETER_BYTES} bytes in all")));
    }
    if spec.parameters.keys().any(|name| name.len() > MAX_NAME) {
        errors.push(broken("parameters", format!("names of at most {MAX_NAME} bytes")));
    }
    if spec.profile.as_ref().is_some_and(|profile| profile.len() > MAX_NAME) {
        errors.push(broken("profile", format!("at most {MAX_NAME} bytes")));
    }
    errors
}

impl Wish {
    /// Checks what is meant against the application that it names, and chooses the profile when there is only one.
    /// Returns all rules that are broken, not only the first one.
    pub fn new(mut spec: AssignmentSpec, app: AppContent) -> Result<Self, Vec<FieldError>> {
        let description = read(&app)?;
        let mut errors = Vec::new();
        let profile = choose_profile(&description, spec.profile.as_deref()).map_err(|wrong| errors.push(wrong));
        let chosen = profile.as_ref().ok().and_then(|id| description.profile(id));
        let in_force = margo::check_parameters(&description, chosen, &spec.parameters);
        let in_force = in_force.map_err(|wrong| errors.extend(of_parameters(wrong)));
        let has_volumes = |id: &String| description.profile(id).is_some_and(|it| it.kind == ProfileType::Compose);
        if spec.volumes.is_some() && profile.as_ref().is_ok_and(|id| !has_volumes(id)) {
            errors.push(broken("volumes", "only a profile of type compose has volumes"));
        }
        let (Ok(profile), Ok(in_force), true) = (profile, in_force, errors.is_empty()) else { return Err(errors) };
        spec.profile = Some(profile);
        spec.targets.nodes.sort();
        spec.targets.nodes.dedup();
        spec.targets.sites.sort();
        spec.targets.sites.dedup();
        Ok(Self {
            spec,
            description,
            lock: Lock { components: app.lock, images: app.images },
            package: app.app.digest,
            in_force,
        })
    }

    /// Tells whether [`Wish::immutable_changes`] has to know the application as it was before, which is another one now.
    pub fn depends_on(&self, held: &AssignmentSpec) -> bool {
        let description = &self.description;
        self.spec.app != held.app && description.parameters.keys().any(|name| description.is_immutable(name))
    }

    /// Returns the parameters that an assignment with this content must not change. `before` is its application, which may be left
    /// out where it is the same.
    pub fn immutable_changes(&self, held: &AssignmentSpec, before: Option<&AppContent>) -> Vec<FieldError> {
        let before = match before.map(read).transpose() {
            Ok(before) => before,
            Err(errors) => return errors,
        };
        let before = before.as_ref().unwrap_or(&self.description);
        let wanted = (&self.description, &self.in_force);
        of_parameters(margo::immutable_changes((before, &held.parameters), wanted)).collect()
    }

    pub(super) fn profile(&self) -> &str {
        self.spec.profile.as_deref().expect("`new` chose one")
    }

    /// The ApplicationDeployment of a node: the same wish always makes the same one.
    pub(super) fn document(
        &self,
        tenant: &TenantName,
        assignment: &AssignmentName,
        node: &NodeId,
        device: DeviceId,
    ) -> ApplicationDeployment {
        let mut document = ApplicationDeployment::new(
            tenant,
            assignment,
            node,
            device,
            &self.description,
            self.profile(),
            &self.in_force,
            &self.lock,
        )
        .expect("`new` chose a profile that the description has");
        match self.spec.volumes {
            None => {}
            Some(Volumes::Keep) => document.set_on_components("volumes", "keep"),
            Some(Volumes::Delete) => document.set_on_components("volumes", "delete"),
        }
        document
    }
}

fn read(app: &AppContent) -> Result<ApplicationDescription, Vec<FieldError>> {
    let read = ApplicationDescription::parse_accepted(app.description.as_bytes(), "margo.yaml");
    read.map_err(|unreadable| vec![broken("app", format!("its description cannot be read: {unreadable}"))])
}

fn of_parameters(wrong: Vec<(String, ParameterError)>) -> impl Iterator<Item = FieldError> {
    wrong.into_iter().map(|(name, why)| broken(format!("parameters.{name}"), why.to_string()))
}

fn choose_profile(description: &ApplicationDescription, wanted: Option<&str>) -> Result<String, FieldError> {
    let known = || description.profiles.iter().map(|profile| profile.id.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, description.profiles.as_slice()) {
        (Some(wanted), _) => match description.profile(wanted) {
            Some(profile) => Ok(profile.id.clone()),
            None => Err(broken("profile", format!("the application has {}", known()))),
        },
        (None, [only]) => Ok(only.id.clone()),
        (None, _) => Err(broken("profile", format!("choose one: the application has {}", known()))),
    }
}
