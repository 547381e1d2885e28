//! One decision: which node a pod goes to, or why there is none. No I/O.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    cluster::Cluster,
    filters,
    node::NodeInfo,
    plugin::{Check, Refusal},
    pod::PodInfo,
    scores,
};

/// Clusters up to this size have every node looked at.
const MIN_FEASIBLE: usize = 100;
/// Least share of nodes that is looked for in large clusters, in percent.
const MIN_PERCENT: usize = 5;

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Name of the node.
    pub node: String,
}

/// Why a pod can go nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unplaceable {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes were refused for each reason.
    pub reasons: BTreeMap<String, usize>,
    /// Names of the filters that refused.
    pub filters: Vec<&'static str>,
    /// Nodes on which evicting pods may help.
    pub candidates: Vec<String>,
}

/// Decides for one pod after another.
#[derive(Debug, Default)]
pub struct Algorithm {
    /// Where the search for feasible nodes begins, so that all nodes get their turn in clusters where not all are looked at.
    next: usize,
}

impl Algorithm {
    /// Finds the best node for a pod.
    ///
    /// # Errors
    /// Why no node will do.
    pub fn place(&mut self, pod: &PodInfo, cluster: &Cluster) -> Result<Placement, Unplaceable> {
        let mut checks = Checks::new(pod, cluster);
        // The node an earlier preemption was made on, if it is free now.
        let nominated = cluster.nomination(pod.uid()).and_then(|name| cluster.node(name));
        if let Some(node) = nominated.filter(|n| n.exists())
            && checks.refusals(node).is_none()
        {
            return Ok(Placement { node: node.name().to_owned() });
        }
        let (nodes, wanted) = (cluster.nodes(), enough(cluster.node_count()));
        let mut feasible: Vec<&NodeInfo> = Vec::with_capacity(wanted);
        let mut unplaceable = Unplaceable::default();
        let mut looked_at = 0;
        for at in 0..nodes.len() {
            let node = &nodes[(self.next + at) % nodes.len()];
            if !node.exists() {
                continue;
            }
            looked_at = at + 1;
            match checks.refusals(node) {
                None => feasible.push(node),
                Some((filter, refusals)) => unplaceable.note(node, filter, refusals),
            }
            if feasible.len() >= wanted {
                break;
            }
        }
        if !nodes.is_empty() {
            self.next = (self.next + looked_at) % nodes.len();
        }
        match feasible.as_slice() {
            [] => {
                unplaceable.nodes = cluster.node_count();
                Err(unplaceable)
            }
            [only] => Ok(Placement { node: only.name().to_owned() }),
            several => Ok(Placement { node: best(pod, cluster, several).to_owned() }),
        }
    }
}

/// How many feasible nodes are enough to choose from: all in small clusters, a falling share in large ones (upstream's formula).
fn enough(nodes: usize) -> usize {
    if nodes <= MIN_FEASIBLE {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(MIN_PERCENT);
    (nodes * percent / 100).max(MIN_FEASIBLE)
}

/// What a filter that refuses a node says, after its name.
pub(crate) type Refused = (&'static str, Vec<Refusal>);

/// The filters made ready for a pod.
pub(crate) struct Checks<'a> {
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    checks: Vec<(&'static str, Box<dyn Check + 'a>)>,
}

impl<'a> Checks<'a> {
    pub(crate) fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Self {
        let checks = filters::ALL.iter().filter_map(|filter| Some((filter.name(), filter.prepare(pod, cluster)?)));
        Self { pod, cluster, checks: checks.collect() }
    }

    /// What the first filter that refuses the node says. The node must do as it is, and also once the pods are there that room is being
    /// made for and that come before this one.
    pub(crate) fn refusals(&mut self, node: &NodeInfo) -> Option<Refused> {
        if self.cluster.has_nominations()
            && let Some(refused) = self.refusals_with_nominated(node)
        {
            return Some(refused);
        }
        self.refusals_as_is(node)
    }

    fn refusals_as_is(&self, node: &NodeInfo) -> Option<Refused> {
        self.checks.iter().find_map(|(name, check)| check.check(node).err().map(|refusals| (*name, refusals)))
    }

    fn refusals_with_nominated(&mut self, node: &NodeInfo) -> Option<Refused> {
        let nominated = self.cluster.nominated_on(node.name());
        let before = |other: &&Arc<PodInfo>| other.priority >= self.pod.priority && other.uid() != self.pod.uid();
        let before: Vec<Arc<PodInfo>> = nominated.filter(before).cloned().collect();
        if before.is_empty() {
            return None;
        }
        let mut with = node.clone();
        for other in &before {
            with.add(other.clone());
            self.changed(other, node, 1);
        }
        let refused = self.refusals_as_is(&with);
        before.iter().for_each(|other| self.changed(other, node, -1));
        refused
    }

    /// See [`Check::changed`].
    pub(crate) fn changed(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        self.checks.iter_mut().for_each(|(_, check)| check.changed(other, node, by));
    }
}

fn best<'a>(pod: &PodInfo, cluster: &Cluster, nodes: &[&'a NodeInfo]) -> &'a str {
    let mut totals = vec![0i64; nodes.len()];
    for score in scores::ALL {
        let Some(scores) = score.score(pod, cluster, nodes) else { continue };
        for (total, score_of_node) in totals.iter_mut().zip(scores) {
            *total += score_of_node * score.weight();
        }
    }
    let most = totals.iter().copied().max().unwrap_or_default();
    let leaders: Vec<&'a str> = nodes.iter().zip(&totals).filter(|(_, t)| **t == most).map(|(n, _)| n.name()).collect();
    // Any of the best will do; always the first would fill nodes in their order.
    leaders.get(rand::random_range(0..leaders.len().max(1))).copied().unwrap_or_default()
}

// === impl Unplaceable ===

impl Unplaceable {
    fn note(&mut self, node: &NodeInfo, filter: &'static str, refusals: Vec<Refusal>) {
        if refusals.iter().all(|r| r.preemption_helps) {
            self.candidates.push(node.name().to_owned());
        }
        if !self.filters.contains(&filter) {
            self.filters.push(filter);
        }
        for refusal in refusals {
            *self.reasons.entry(refusal.reason.into_owned()).or_default() += 1;
        }
    }
}

impl std::fmt::Display for Unplaceable {
    /// `0/5 nodes are available: 2 node(s) had untolerated taint {x: y}, 3 Insufficient cpu.`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available: {}.", self.nodes, by_count(&self.reasons))
    }
}

/// Reasons with their counts in upstream's order, which is that of the text.
pub(crate) fn by_count(reasons: &BTreeMap<String, usize>) -> String {
    let mut reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    reasons.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, node, pod};

    #[test]
    fn the_message_counts_nodes_by_reason() {
        let mut nodes: Vec<_> = (0..3).map(|i| node(&format!("small-{i}")).cpu("100m").build()).collect();
        nodes.extend((0..2).map(|i| node(&format!("tainted-{i}")).taint("x", "y", "NoSchedule").build()));
        let error = Algorithm::default().place(&pod("p").cpu("1").build(), &cluster(nodes)).unwrap_err();
        assert_eq!(error.to_string(), "0/5 nodes are available: 2 node(s) had untolerated taint {x: y}, 3 Insufficient cpu.");
    }

    #[test]
    fn without_nodes_the_message_says_so() {
        let error = Algorithm::default().place(&pod("p").build(), &Cluster::default()).unwrap_err();
        assert_eq!(error.to_string(), "no nodes available to schedule pods");
    }

    #[test]
    fn pods_spread_over_equal_nodes() {
        let mut cluster = cluster((0..3).map(|i| node(&format!("n{i}")).build()));
        let mut algorithm = Algorithm::default();
        for i in 0..6 {
            let pod = std::sync::Arc::new(pod(&format!("p{i}")).build());
            let placement = algorithm.place(&pod, &cluster).unwrap();
            cluster.place(pod, &placement.node);
        }
        assert!(cluster.nodes().iter().all(|n| n.pods.len() == 2));
    }

    #[test]
    fn a_large_cluster_is_searched_in_part_and_in_turn() {
        assert_eq!((enough(100), enough(1000), enough(5000)), (100, 420, 500));
        let cluster = cluster((0..500).map(|i| node(&format!("n{i}")).build()));
        let mut algorithm = Algorithm::default();
        algorithm.place(&pod("p").build(), &cluster).unwrap();
        assert_eq!(algorithm.next, enough(500));
    }
}
