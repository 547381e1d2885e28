//! A pod as the scheduler sees it: what it asks for, worked out once.

use std::sync::Arc;

use api::{
    Resource,
    core::v1::{self as core, Affinity, Pod},
    selector::{NodeSelector, NodeSelectorTerm, Selector, SelectorError},
    taint::tolerated_by,
};

use crate::resources::Resources;

/// A pod with what it asks for.
#[derive(Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it takes from a node.
    pub requested: Resources,
    /// What it counts as when nodes are scored.
    pub scored: Resources,
    /// Higher goes first and may preempt lower.
    pub priority: i32,
    /// Host ports it opens.
    pub ports: Vec<HostPort>,
    /// Labels its node must have (`spec.nodeSelector`).
    pub node_selector: Selector,
    /// What its node must match (`requiredDuringSchedulingIgnoredDuringExecution`), if anything.
    pub node_affinity: Option<NodeSelector>,
    /// What its node should match, with weights.
    pub preferred_nodes: Vec<(i32, NodeSelectorTerm)>,
    /// Pods it must be near.
    pub affinity: Vec<AffinityTerm>,
    /// Pods it must be away from.
    pub anti_affinity: Vec<AffinityTerm>,
    /// Pods it should be near (positive weight) or away from (negative).
    pub preferred_pods: Vec<(i32, AffinityTerm)>,
    /// How it is to be spread.
    pub spread: Vec<SpreadConstraint>,
}

/// A port opened on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address it is opened on; `0.0.0.0` is all of them.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

/// Which pods an affinity rule is about, and what counts as one place.
#[derive(Clone, Debug)]
pub struct AffinityTerm {
    /// Labels of the pods.
    pub selector: Selector,
    /// Namespaces of the pods by name.
    pub namespaces: Vec<String>,
    /// Namespaces of the pods by label; selects nothing if unset.
    pub namespace_selector: Option<Selector>,
    /// Nodes with the same value of this label are one place.
    pub topology_key: String,
}

/// How evenly pods are to be spread.
#[derive(Clone, Debug)]
pub struct SpreadConstraint {
    /// By how much the fullest place may exceed the emptiest.
    pub max_skew: i64,
    /// Nodes with the same value of this label are one place.
    pub topology_key: String,
    /// Refuse the node (`DoNotSchedule`) rather than score it lower.
    pub required: bool,
    /// Labels of the pods that are counted.
    pub selector: Selector,
    /// Least number of places; with fewer, the emptiest counts as empty.
    pub min_domains: Option<i64>,
    /// Count only nodes that match the pod's node selector and affinity.
    pub honor_affinity: bool,
    /// Count only nodes whose taints the pod tolerates.
    pub honor_taints: bool,
}

impl PodInfo {
    /// Works out what a pod asks for.
    ///
    /// # Errors
    /// When one of its selectors is not valid; such pods are never scheduled.
    pub fn new(pod: Arc<Pod>) -> Result<Self, SelectorError> {
        let spec = pod.spec();
        let affinity = spec.affinity();
        let required = affinity.node_affinity().required_during_scheduling_ignored_during_execution.as_ref();
        Ok(Self {
            requested: Resources::requested_by(&pod),
            scored: Resources::scored_for(&pod),
            priority: spec.priority.unwrap_or_default(),
            ports: host_ports(&pod),
            node_selector: Selector::from_map(&spec.node_selector),
            node_affinity: required.map(NodeSelector::new).transpose()?,
            preferred_nodes: preferred_nodes(affinity)?,
            affinity: terms(&pod, &affinity.pod_affinity().required_during_scheduling_ignored_during_execution)?,
            anti_affinity: terms(&pod, &affinity.pod_anti_affinity().required_during_scheduling_ignored_during_execution)?,
            preferred_pods: preferred_pods(&pod, affinity)?,
            spread: spread(&pod)?,
            pod,
        })
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        &self.pod.metadata().uid
    }

    /// `namespace/name`, for people.
    pub fn key(&self) -> String {
        format!("{}/{}", self.pod.namespace(), self.pod.name())
    }

    /// True if a label of the pod has this value; for selectors.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.pod.metadata().labels.get(key).map(String::as_str)
    }

    /// True if the pod has any rule about other pods.
    pub fn has_pod_affinity(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred_pods.is_empty())
    }

    /// True if one of the pod's tolerations covers the taint.
    pub fn tolerates(&self, taint: &core::Taint) -> bool {
        tolerated_by(taint, &self.pod.spec().tolerations).is_some()
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers = &pod.spec().containers;
    let ports = containers.iter().flat_map(|c| &c.ports).filter(|p| p.host_port > 0);
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    ports.map(|p| HostPort { ip: or(&p.host_ip, "0.0.0.0"), protocol: or(&p.protocol, "TCP"), port: p.host_port }).collect()
}

impl HostPort {
    /// True if both cannot be open on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let same_address = self.ip == other.ip || self.ip == "0.0.0.0" || other.ip == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

fn preferred_nodes(affinity: &Affinity) -> Result<Vec<(i32, NodeSelectorTerm)>, SelectorError> {
    let terms = &affinity.node_affinity().preferred_during_scheduling_ignored_during_execution;
    terms.iter().filter(|t| t.weight != 0).map(|t| Ok((t.weight, NodeSelectorTerm::new(t.preference())?))).collect()
}

fn terms(pod: &Pod, terms: &[core::PodAffinityTerm]) -> Result<Vec<AffinityTerm>, SelectorError> {
    terms.iter().map(|t| AffinityTerm::new(pod, t)).collect()
}

fn preferred_pods(pod: &Pod, affinity: &Affinity) -> Result<Vec<(i32, AffinityTerm)>, SelectorError> {
    let near = affinity.pod_affinity().preferred_during_scheduling_ignored_during_execution.iter().map(|t| (1, t));
    let away = affinity.pod_anti_affinity().preferred_during_scheduling_ignored_during_execution.iter().map(|t| (-1, t));
    near.chain(away).map(|(sign, t)| Ok((sign * t.weight, AffinityTerm::new(pod, t.pod_affinity_term())?))).collect()
}

fn spread(pod: &Pod) -> Result<Vec<SpreadConstraint>, SelectorError> {
    let constraints = pod.spec().topology_spread_constraints.iter().map(|c| {
        let selector = Selector::from_label_selector(c.label_selector.as_ref())?;
        Ok(SpreadConstraint {
            max_skew: i64::from(c.max_skew),
            topology_key: c.topology_key.clone(),
            required: c.when_unsatisfiable != "ScheduleAnyway",
            selector: with_own_values(selector, pod, &c.match_label_keys, false)?,
            min_domains: c.min_domains.map(i64::from),
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        })
    });
    constraints.collect()
}

/// Adds requirements that the labels named by `keys` have (or lack) the pod's own values.
fn with_own_values(selector: Selector, pod: &Pod, keys: &[String], mismatch: bool) -> Result<Selector, SelectorError> {
    use api::selector::{Operator, Requirement};
    if keys.is_empty() || selector.is_nothing() {
        return Ok(selector);
    }
    let mut requirements = selector.requirements().to_vec();
    for key in keys {
        if let Some(value) = pod.metadata().labels.get(key) {
            let operator = if mismatch { Operator::NotIn } else { Operator::In };
            requirements.push(Requirement::new(key, operator, vec![value.clone()])?);
        }
    }
    Ok(Selector::new(requirements))
}

impl AffinityTerm {
    fn new(pod: &Pod, term: &core::PodAffinityTerm) -> Result<Self, SelectorError> {
        let selector = Selector::from_label_selector(term.label_selector.as_ref())?;
        let selector = with_own_values(selector, pod, &term.match_label_keys, false)?;
        let selector = with_own_values(selector, pod, &term.mismatch_label_keys, true)?;
        let own_namespace_only = term.namespaces.is_empty() && term.namespace_selector.is_none();
        Ok(Self {
            selector,
            namespaces: if own_namespace_only { vec![pod.namespace().to_owned()] } else { term.namespaces.clone() },
            namespace_selector: term.namespace_selector.as_ref().map(|s| Selector::from_label_selector(Some(s))).transpose()?,
            topology_key: term.topology_key.clone(),
        })
    }

    /// True if the term is about this pod. `namespace_label` looks up a label of a namespace.
    pub fn selects<'a>(&self, pod: &PodInfo, namespace_label: impl Fn(&str, &str) -> Option<&'a str>) -> bool {
        let namespace = pod.pod.namespace();
        let in_namespace = self.namespaces.iter().any(|n| n == namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| s.matches(|key| namespace_label(namespace, key)));
        in_namespace && self.selector.matches(|key| pod.label(key))
    }
}
