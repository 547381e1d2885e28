//! A pod as the scheduler sees it: what it asks for, worked out once.

use std::sync::Arc;

use api::{
    Resource,
    core::v1::{self as core, Affinity, Pod},
    pod::{HostPort, host_ports},
    selector::{NodeSelector, NodeSelectorTerm, Selector, SelectorError},
    taint::tolerated_by,
};

use crate::{pod_set::PodSet, resources::Resources, topology::EACH_NODE};

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
    /// The pods that all of [`Self::affinity`] are about.
    pub group: PodSet,
    /// Pods it must be away from.
    pub anti_affinity: Vec<AffinityTerm>,
    /// Pods it should be near (positive weight) or away from (negative).
    pub preferred_pods: Vec<(i32, AffinityTerm)>,
    /// How it is to be spread.
    pub spread: Vec<SpreadConstraint>,
}

/// Which pods an affinity rule is about, and what counts as one place.
#[derive(Clone, Debug)]
pub struct AffinityTerm {
    /// The pods.
    pub set: PodSet,
    /// Nodes with the same value of this label are one place.
    pub topology_key: String,
}

/// What a pod wants of the pods of an [`AffinityTerm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It must be near them.
    Near,
    /// It must be away from them.
    Away,
    /// It should be near them (positive weight) or away from them (negative).
    Prefers(i32),
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
    /// The pods that are counted.
    pub set: PodSet,
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
        let near = terms(&pod, &affinity.pod_affinity().required_during_scheduling_ignored_during_execution)?;
        Ok(Self {
            requested: Resources::requested_by(&pod),
            scored: Resources::scored_for(&pod),
            priority: spec.priority.unwrap_or_default(),
            ports: host_ports(spec),
            node_selector: Selector::from_map(&spec.node_selector),
            node_affinity: required.map(NodeSelector::new).transpose()?,
            preferred_nodes: preferred_nodes(affinity)?,
            group: PodSet::intersection(near.iter().map(|term| &term.set)),
            affinity: near,
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

    /// What the pod wants of other pods.
    pub fn rules(&self) -> impl Iterator<Item = (Rule, &AffinityTerm)> {
        let near = self.affinity.iter().map(|term| (Rule::Near, term));
        let away = self.anti_affinity.iter().map(|term| (Rule::Away, term));
        near.chain(away).chain(self.preferred_pods.iter().map(|(weight, term)| (Rule::Prefers(*weight), term)))
    }

    /// The sets of pods, and by which labels they are counted, that a decision on this pod asks about.
    pub(crate) fn asks(&self) -> impl Iterator<Item = (&PodSet, &str)> {
        let near = self.affinity.iter().map(|term| (&self.group, term.topology_key.as_str()));
        let others = self.anti_affinity.iter().chain(self.preferred_pods.iter().map(|(_, term)| term));
        let others = others.map(|term| (&term.set, term.topology_key.as_str()));
        near.chain(others).chain(self.spread.iter().map(|constraint| (&constraint.set, EACH_NODE)))
    }

    /// True if the pod, on the same node, makes no difference to other pods.
    pub(crate) fn same_for_others(&self, other: &Self) -> bool {
        let seen = |pod: &Self| pod.pod.metadata().deletion_timestamp.is_some();
        self.pod.metadata().labels == other.pod.metadata().labels
            && seen(self) == seen(other)
            && self.requested == other.requested
    }

    /// True if one of the pod's tolerations covers the taint.
    pub fn tolerates(&self, taint: &core::Taint) -> bool {
        tolerated_by(taint, &self.pod.spec().tolerations).is_some()
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
        Ok(SpreadConstraint {
            max_skew: i64::from(c.max_skew),
            topology_key: c.topology_key.clone(),
            required: c.when_unsatisfiable != "ScheduleAnyway",
            set: PodSet::of_spread(pod, c)?,
            min_domains: c.min_domains.map(i64::from),
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        })
    });
    constraints.collect()
}

impl AffinityTerm {
    fn new(pod: &Pod, term: &core::PodAffinityTerm) -> Result<Self, SelectorError> {
        Ok(Self { set: PodSet::of_affinity(pod, term)?, topology_key: term.topology_key.clone() })
    }
}
