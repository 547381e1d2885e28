//! Topology spread constraints that must hold.

use std::collections::HashMap;

use super::node_affinity::node_matches;
use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Change, Check, Filter, Helped, Refusal},
    pod::{PodInfo, SpreadConstraint},
    pod_set::Namespaces,
    topology::EACH_NODE,
};

/// Refuses nodes where one more pod would make the spread too uneven.
pub struct PodTopologySpread;

/// How many pods there are in each place of a constraint, over the nodes that count for it.
pub(crate) struct Spread<'a> {
    pub(crate) constraint: &'a SpreadConstraint,
    by_place: HashMap<&'a str, i64>,
    /// Pods in the emptiest place.
    least: i64,
}

struct Prepared<'a> {
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    spreads: Vec<Spread<'a>>,
}

impl Filter for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        let spreads = Spread::over(pod, cluster, pod.spread.iter().filter(|c| c.required).collect(), true);
        if spreads.is_empty() { None } else { Some(Box::new(Prepared { pod, cluster, spreads })) }
    }

    fn helped_by<'a>(&self, change: Change<'a>, namespaces: &'a Namespaces) -> Helped<'a> {
        let counts = |pod: &PodInfo, other: &PodInfo| pod.spread.iter().any(|c| c.set.contains(other, namespaces));
        match change {
            Change::Node | Change::NodeGone => Helped::All,
            Change::PodGone(other) | Change::PodPlaced(other) => Helped::when(move |pod| counts(pod, other)),
            Change::PodChanged { from, to } => Helped::when(move |pod| counts(pod, from) != counts(pod, to)),
            Change::Namespace => Helped::None,
        }
    }
}

impl Check for Prepared<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Vec<Refusal>> {
        for spread in &self.spreads {
            let constraint = spread.constraint;
            let Some(place) = node.label(&constraint.topology_key) else {
                return Err(vec![Refusal::lasting(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                )]);
            };
            let own = i64::from(constraint.set.contains(self.pod, self.cluster.namespaces()));
            if spread.at(place) + own - spread.least > constraint.max_skew {
                return Err(vec![Refusal::resolvable("node(s) didn't match pod topology spread constraints")]);
            }
        }
        Ok(())
    }

    fn changed(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        let (pod, namespaces) = (self.pod, self.cluster.namespaces());
        for spread in &mut self.spreads {
            let constraint = spread.constraint;
            let place = node.label(&constraint.topology_key).and_then(|place| spread.by_place.get_mut(place));
            if let Some(count) = place
                && counts(pod, constraint, node)
                && constraint.set.contains(other, namespaces)
            {
                *count += by;
                spread.least = least(constraint, &spread.by_place);
            }
        }
    }
}

impl<'a> Spread<'a> {
    /// Counts for each of the constraints. With `all_keys`, nodes that lack the label of any of them count for none.
    pub(crate) fn over(pod: &PodInfo, cluster: &'a Cluster, constraints: Vec<&'a SpreadConstraint>, all_keys: bool) -> Vec<Self> {
        let has_keys = |node: &NodeInfo| !all_keys || constraints.iter().all(|c| node.label(&c.topology_key).is_some());
        constraints.iter().map(|c| Self::count(pod, cluster, c, &has_keys)).collect()
    }

    fn count(
        pod: &PodInfo,
        cluster: &'a Cluster,
        constraint: &'a SpreadConstraint,
        has_keys: &impl Fn(&NodeInfo) -> bool,
    ) -> Self {
        let (mut by_place, by_node) = (HashMap::new(), cluster.places(&constraint.set, EACH_NODE));
        for node in cluster.nodes().iter().filter(|n| n.exists() && has_keys(n) && counts(pod, constraint, n)) {
            if let Some(place) = node.label(&constraint.topology_key) {
                *by_place.entry(place).or_default() += by_node.at(node.name());
            }
        }
        Self { constraint, least: least(constraint, &by_place), by_place }
    }

    /// Matching pods in a place.
    pub(crate) fn at(&self, place: &str) -> i64 {
        self.by_place.get(place).copied().unwrap_or_default()
    }

    /// How many places there are.
    pub(crate) fn places(&self) -> usize {
        self.by_place.len()
    }
}

/// True if pods on the node count, as far as the constraint's policies say.
fn counts(pod: &PodInfo, constraint: &SpreadConstraint, node: &NodeInfo) -> bool {
    let tolerated = || node.node.spec().taints.iter().all(|t| t.effect == "PreferNoSchedule" || pod.tolerates(t));
    (!constraint.honor_affinity || node_matches(pod, node)) && (!constraint.honor_taints || tolerated())
}

/// Matching pods in the emptiest place.
fn least(constraint: &SpreadConstraint, by_place: &HashMap<&str, i64>) -> i64 {
    let places = i64::try_from(by_place.len()).unwrap_or(i64::MAX);
    if constraint.min_domains.is_some_and(|min| places < min) {
        return 0;
    }
    by_place.values().copied().min().unwrap_or_default()
}
