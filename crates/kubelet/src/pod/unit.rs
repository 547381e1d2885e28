//! What a pod is made of: its spec compiled into units, each a container with its role, its place, its restart rule and its hooks.
//!
//! Planner, status, jobs, probes and outcomes speak of units and ask the spec nothing. *Invariant:* units come in the order in which they are started:
//! init units and sidecars as they are listed, then the main ones, then ephemeral ones.

use std::borrow::Cow;

use api::{
    core::v1::{Container, ContainerStatus, EphemeralContainer, LifecycleHandler, Pod, PodSpec},
    pod::is_sidecar,
};
use prost::Message as _;

/// What a unit is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before what comes after it begins.
    Init,
    /// Is started before what comes after it begins, runs beside it, and ends after it.
    Sidecar,
    /// What the pod is for: once all of these have ended, so has the pod.
    Main,
    /// Put into a pod that runs, to look at it.
    Ephemeral,
}

/// When a unit that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// However it has ended.
    Always,
    /// If it has failed.
    OnFailure,
    /// Never.
    Never,
}

/// One container of a pod.
#[derive(Clone, Debug)]
pub struct Unit<'a> {
    /// What it is to its pod.
    pub role: Role,
    /// When it is started again.
    pub restart: Restart,
    /// What it runs.
    pub spec: Cow<'a, Container>,
}

/// What is done in a container at the turns of its life.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hooks<'a> {
    /// Once it has been started, before it counts as running.
    pub post_start: Option<&'a LifecycleHandler>,
    /// Before it is asked to stop, within its grace.
    pub pre_stop: Option<&'a LifecycleHandler>,
}

/// The units of a pod, in order.
pub fn units(spec: &PodSpec) -> impl Iterator<Item = Unit<'_>> {
    let of_pod = Restart::of(&spec.restart_policy);
    let before = spec.init_containers.iter().map(move |container| {
        let (role, restart) = match (is_sidecar(container), of_pod) {
            (true, _) => (Role::Sidecar, Restart::Always),
            // One that has done its work has nothing more to do.
            (false, Restart::Always) => (Role::Init, Restart::OnFailure),
            (false, restart) => (Role::Init, restart),
        };
        Unit { role, restart, spec: Cow::Borrowed(container) }
    });
    let main =
        spec.containers.iter().map(move |container| Unit { role: Role::Main, restart: of_pod, spec: Cow::Borrowed(container) });
    let later = spec.ephemeral_containers.iter().map(|container| Unit {
        role: Role::Ephemeral,
        restart: Restart::Never,
        spec: Cow::Owned(as_container(container)),
    });
    before.chain(main).chain(later)
}

/// The unit of that name.
pub fn unit<'a>(spec: &'a PodSpec, name: &str) -> Option<Unit<'a>> {
    units(spec).find(|unit| unit.name() == name)
}

/// The status of a unit as last reported.
pub fn reported<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status();
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().find(|status| status.name == name)
}

/// An ephemeral container is written as any other, but for the one that it looks at.
fn as_container(container: &EphemeralContainer) -> Container {
    let encoded = container.ephemeral_container_common().encode_to_vec();
    // The same fields under the same numbers.
    Container::decode(&*encoded).unwrap_or_default()
}

// === impl Restart ===

impl Restart {
    fn of(policy: &str) -> Self {
        match policy {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Whether what ended with this code is started again.
    pub fn after(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

// === impl Unit ===

impl Unit<'_> {
    /// Its name, unique in the pod.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether it runs as long as the pod does.
    pub fn stays(&self) -> bool {
        matches!(self.role, Role::Main | Role::Sidecar)
    }

    /// What is done in it at the turns of its life.
    pub fn hooks(&self) -> Hooks<'_> {
        let lifecycle = self.spec.lifecycle();
        Hooks { post_start: lifecycle.post_start.as_ref(), pre_stop: lifecycle.pre_stop.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(policy: &str) -> PodSpec {
        let hook = json!({"exec": {"command": ["true"]}});
        let spec = json!({
            "restartPolicy": policy,
            "initContainers": [{"name": "prepare"}, {"name": "proxy", "restartPolicy": "Always"}, {"name": "migrate"}],
            "containers": [{"name": "web", "lifecycle": {"preStop": hook, "postStart": hook}}, {"name": "log"}],
            "ephemeralContainers": [{"name": "debug", "image": "busybox", "command": ["sh"], "targetContainerName": "web"}],
        });
        api::json::read(spec).unwrap()
    }

    #[test]
    fn a_spec_becomes_units_in_the_order_in_which_they_start() {
        use Restart::{Always, Never, OnFailure};
        for (policy, init, main) in
            [("Always", OnFailure, Always), ("", OnFailure, Always), ("OnFailure", OnFailure, OnFailure), ("Never", Never, Never)]
        {
            let spec = spec(policy);
            let found: Vec<_> = units(&spec).map(|unit| (unit.name().to_owned(), unit.role, unit.restart)).collect();
            let expected = [
                ("prepare", Role::Init, init),
                ("proxy", Role::Sidecar, Always),
                ("migrate", Role::Init, init),
                ("web", Role::Main, main),
                ("log", Role::Main, main),
                ("debug", Role::Ephemeral, Never),
            ];
            assert_eq!(found, expected.map(|(name, role, restart)| (name.to_owned(), role, restart)), "{policy}");
        }
    }

    #[test]
    fn a_unit_has_what_its_container_says() {
        let spec = spec("Always");
        let debug = unit(&spec, "debug").unwrap();
        assert_eq!((debug.spec.image.as_str(), debug.spec.command.as_slice()), ("busybox", &["sh".to_owned()][..]));
        let web = unit(&spec, "web").unwrap();
        assert!(web.hooks().pre_stop.is_some() && web.hooks().post_start.is_some());
        assert_eq!(unit(&spec, "log").unwrap().hooks(), Hooks::default());
        assert!(unit(&spec, "none").is_none());
    }
}
