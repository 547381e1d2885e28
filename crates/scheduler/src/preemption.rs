//! Preemption: which pods to evict so that a more important one fits. No I/O.

use std::sync::Arc;

use crate::{
    algorithm::{Unplaceable, first_refusals, prepare},
    cluster::Cluster,
    node::NodeInfo,
    pod::PodInfo,
};

/// How many nodes are tried at the most; the choice is made among those.
const MAX_CANDIDATES: usize = 100;

/// Whom to evict from where.
#[derive(Debug)]
pub struct Preemption {
    /// The node.
    pub node: String,
    /// The pods, most important first. All have a lower priority than the pod they make room for.
    pub victims: Vec<Arc<PodInfo>>,
}

/// Why no eviction helps, in the words of `FailedScheduling` events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoPreemption {
    nodes: usize,
    unhelpful: usize,
    without_victims: usize,
    never: bool,
}

impl std::fmt::Display for NoPreemption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.never {
            return write!(f, "not eligible due to preemptionPolicy=Never.");
        }
        let mut reasons = Vec::new();
        if self.without_victims > 0 {
            reasons.push(format!("{} No preemption victims found for incoming pod", self.without_victims));
        }
        if self.unhelpful > 0 {
            reasons.push(format!("{} Preemption is not helpful for scheduling", self.unhelpful));
        }
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

/// Finds the node where evicting pods of lower priority makes room at the least cost.
///
/// # Errors
/// Why there is none.
pub fn preempt(pod: &PodInfo, cluster: &Cluster, why: &Unplaceable) -> Result<Preemption, NoPreemption> {
    let mut no = NoPreemption { nodes: why.nodes, unhelpful: why.nodes - why.candidates.len(), ..NoPreemption::default() };
    if pod.pod.spec().preemption_policy.as_deref() == Some("Never") {
        no.never = true;
        return Err(no);
    }
    let mut best: Option<Preemption> = None;
    for node in why.candidates.iter().filter_map(|name| cluster.node(name)).take(MAX_CANDIDATES) {
        let Some(victims) = victims(pod, cluster, node) else { continue };
        let found = Preemption { node: node.name().to_owned(), victims };
        if best.as_ref().is_none_or(|best| cost(&found) < cost(best)) {
            best = Some(found);
        }
    }
    no.without_victims = why.candidates.len();
    best.ok_or(no)
}

/// Upstream's order: the lowest highest priority, the lowest sum of priorities, the fewest victims.
fn cost(preemption: &Preemption) -> (i32, i64, usize) {
    let highest = preemption.victims.iter().map(|p| p.priority).max().unwrap_or(i32::MIN);
    let sum = preemption.victims.iter().map(|p| i64::from(p.priority)).sum();
    (highest, sum, preemption.victims.len())
}

/// The fewest and least important pods of the node that have to go; `None` if not even all of them would do.
fn victims(pod: &PodInfo, cluster: &Cluster, node: &NodeInfo) -> Option<Vec<Arc<PodInfo>>> {
    let mut lower: Vec<Arc<PodInfo>> = node.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    let mut without = node.clone();
    for victim in &lower {
        without.remove(victim.uid());
    }
    if !fits(pod, cluster, &without) {
        return None;
    }
    // Give back the most important first; of equals, the one that runs longest.
    let started = |p: &PodInfo| p.pod.status().start_time.unwrap_or_default().seconds;
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| started(a).cmp(&started(b))));
    let mut victims = Vec::new();
    for candidate in lower {
        without.add(candidate.clone());
        if !fits(pod, cluster, &without) {
            without.remove(candidate.uid());
            victims.push(candidate);
        }
    }
    Some(victims)
}

fn fits(pod: &PodInfo, cluster: &Cluster, node: &NodeInfo) -> bool {
    // Rules between pods look at the whole cluster, so they are asked about one in which the victims are gone.
    let depends_on_others =
        !pod.spread.is_empty() || pod.has_pod_affinity() || cluster.nodes().iter().any(|n| !n.with_affinity.is_empty());
    if depends_on_others {
        let changed = cluster.with_node(node.clone());
        first_refusals(&prepare(pod, &changed), node).is_none()
    } else {
        first_refusals(&prepare(pod, cluster), node).is_none()
    }
}

/// True if an earlier preemption for this pod is still under way: its victims are going.
pub fn is_under_way(pod: &PodInfo, cluster: &Cluster) -> bool {
    let nominated = &pod.pod.status().nominated_node_name;
    let going = |p: &Arc<PodInfo>| p.priority < pod.priority && p.pod.metadata().deletion_timestamp.is_some();
    cluster.node(nominated).is_some_and(|node| node.pods.iter().any(going))
}

#[cfg(test)]
mod tests {
    use api::Resource;

    use super::*;
    use crate::{
        algorithm::Algorithm,
        testing::{cluster, node, pod},
    };

    #[test]
    fn the_fewest_and_least_important_pods_go() {
        let mut cluster = cluster([node("a").cpu("2").build(), node("b").cpu("2").build()]);
        for (name, on, priority, cpu) in [("a1", "a", 5, "1"), ("a2", "a", 1, "1"), ("b1", "b", 5, "2")] {
            cluster.place(Arc::new(pod(name).priority(priority).cpu(cpu).build()), on);
        }
        let vip = pod("vip").priority(10).cpu("1").build();
        let why = Algorithm::default().place(&vip, &cluster).unwrap_err();
        let preemption = preempt(&vip, &cluster, &why).unwrap();
        assert_eq!(preemption.node, "a");
        assert_eq!(preemption.victims.iter().map(|p| p.pod.name()).collect::<Vec<_>>(), ["a2"]);
    }

    #[test]
    fn equals_are_never_evicted() {
        let mut cluster = cluster([node("a").cpu("1").build()]);
        cluster.place(Arc::new(pod("old").priority(1).cpu("1").build()), "a");
        let equal = pod("new").priority(1).cpu("1").build();
        let why = Algorithm::default().place(&equal, &cluster).unwrap_err();
        let no = preempt(&equal, &cluster, &why).unwrap_err();
        assert_eq!(no.to_string(), "0/1 nodes are available: 1 No preemption victims found for incoming pod.");
    }

    #[test]
    fn taints_are_not_preempted_away() {
        let cluster = cluster([node("a").taint("x", "", "NoSchedule").build()]);
        let vip = pod("vip").priority(10).build();
        let why = Algorithm::default().place(&vip, &cluster).unwrap_err();
        let no = preempt(&vip, &cluster, &why).unwrap_err();
        assert_eq!(no.to_string(), "0/1 nodes are available: 1 Preemption is not helpful for scheduling.");
    }
}
