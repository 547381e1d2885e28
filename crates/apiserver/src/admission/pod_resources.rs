//! What a pod asks for and may use as a whole: what its containers do together, or what one init container does before them.

use std::collections::BTreeMap;

use api::{
    core::v1::{Container, PodSpec},
    quantity::{self, Quantity},
    resource::Quantity as Text,
};

/// Amounts by resource.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// The amounts of a list whose texts can be read. Others do not pass validation.
pub(super) fn amounts(list: &BTreeMap<String, Text>) -> Amounts {
    list.keys().filter_map(|name| Some((name.clone(), quantity::get(list, name)?))).collect()
}

/// What the pod asks for.
pub(super) fn requests(spec: &PodSpec) -> Amounts {
    let mut total = of_pod(spec, |container| amounts(&container.resources().requests));
    add(&mut total, &amounts(&spec.overhead));
    total
}

/// What the pod may use. A resource that some container may use without limit counts what the others may.
pub(super) fn limits(spec: &PodSpec) -> Amounts {
    let mut total = of_pod(spec, |container| amounts(&container.resources().limits));
    for (name, overhead) in amounts(&spec.overhead) {
        if let Some(limit) = total.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit += overhead;
        }
    }
    total
}

fn of_pod(spec: &PodSpec, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    // Init containers run one after another, each beside the sidecars that started before it.
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in &spec.init_containers {
        let own = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut beside = sidecars.clone();
            add(&mut beside, &own);
            raise(&mut peak, &beside);
        }
    }
    raise(&mut total, &peak);
    total
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_insert(Quantity::ZERO) += *amount;
    }
}

fn raise(total: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let entry = total.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cpu: &str, sidecar: bool) -> Container {
        let mut container = Container { restart_policy: sidecar.then(|| "Always".to_owned()), ..Default::default() };
        container.resources_mut().requests.insert("cpu".into(), Text { string: cpu.into() });
        container
    }

    fn cpu(containers: &[(&str, bool)], init: &[(&str, bool)]) -> String {
        let list = |list: &[(&str, bool)]| list.iter().map(|(cpu, sidecar)| container(cpu, *sidecar)).collect();
        let spec = PodSpec { containers: list(containers), init_containers: list(init), ..Default::default() };
        requests(&spec)["cpu"].to_string()
    }

    #[test]
    fn a_pod_asks_for_the_most_it_needs_at_any_time() {
        assert_eq!(cpu(&[("500m", false), ("1", false)], &[]), "1500m");
        assert_eq!(cpu(&[("500m", false)], &[("2", false), ("1", false)]), "2");
        assert_eq!(cpu(&[("500m", false)], &[("1", true)]), "1500m");
        assert_eq!(cpu(&[("500m", false)], &[("1", true), ("2", false)]), "3");
        assert_eq!(cpu(&[("500m", false)], &[("2", false), ("1", true)]), "2");
    }
}
