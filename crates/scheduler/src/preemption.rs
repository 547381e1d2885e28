//! Preemption: which pods to evict so that a more important one fits. No I/O.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use crate::{
    algorithm::{Checks, Refused, Unplaceable, by_count},
    cluster::Cluster,
    node::NodeInfo,
    pod::PodInfo,
};

/// Condition by which a pod says that it is going to make room for another.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// The reason that condition has then.
pub const BY_SCHEDULER: &str = "PreemptionByScheduler";
/// Why evicting pods from a node does not help, if none of them may be evicted.
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
/// In small clusters the choice is made among so many nodes, in percent in large ones (upstream's figures).
const MIN_CANDIDATES: usize = 100;
const CANDIDATES_PERCENT: usize = 10;

/// Whom to evict from where.
#[derive(Debug)]
pub struct Preemption {
    /// The node.
    pub node: String,
    /// The pods, most important first. All have a lower priority than the pod they make room for.
    pub victims: Vec<Arc<PodInfo>>,
}

/// Why no eviction helps, in the words of `FailedScheduling` events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPreemption {
    /// The pod does not want to.
    Never,
    /// An earlier preemption is under way: its victims are going.
    UnderWay,
    /// On no node; how many nodes there are, and on how many why not.
    Nowhere {
        /// How many nodes there are.
        nodes: usize,
        /// How many of them for each reason.
        reasons: BTreeMap<String, usize>,
    },
}

impl std::fmt::Display for NoPreemption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Never => f.write_str("not eligible due to preemptionPolicy=Never."),
            Self::UnderWay => f.write_str("not eligible due to a terminating pod on the nominated node."),
            Self::Nowhere { nodes, reasons } => write!(f, "0/{nodes} nodes are available: {}.", by_count(reasons)),
        }
    }
}

/// Finds the node where evicting pods of lower priority makes room at the least cost.
///
/// # Errors
/// Why there is none.
pub fn preempt(pod: &PodInfo, cluster: &Cluster, why: &Unplaceable) -> Result<Preemption, NoPreemption> {
    if pod.pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Err(NoPreemption::Never);
    }
    if is_under_way(pod, cluster, why) {
        return Err(NoPreemption::UnderWay);
    }
    let mut reasons = BTreeMap::new();
    let unhelpful = why.nodes.saturating_sub(why.candidates.len());
    if unhelpful > 0 {
        reasons.insert("Preemption is not helpful for scheduling".to_owned(), unhelpful);
    }
    let (mut found, wanted) = (Vec::new(), (why.nodes * CANDIDATES_PERCENT / 100).max(MIN_CANDIDATES));
    let mut checks = Checks::new(pod, cluster);
    // Not always the first ones, which would bear all preemptions of a large cluster.
    let start = rand::random_range(0..why.candidates.len().max(1));
    let (early, late) = why.candidates.split_at(start.min(why.candidates.len()));
    for node in late.iter().chain(early).filter_map(|name| cluster.node(name)) {
        match victims(pod, &mut checks, node) {
            Ok(victims) => found.push(Preemption { node: node.name().to_owned(), victims }),
            Err(refused) => refused.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
        if found.len() >= wanted {
            break;
        }
    }
    let best = found.into_iter().min_by_key(cost);
    best.ok_or(NoPreemption::Nowhere { nodes: why.nodes, reasons })
}

/// Upstream's order: the lowest highest priority, the lowest sum of priorities, the fewest victims, the youngest of the most important ones.
fn cost(preemption: &Preemption) -> (i32, i64, usize, Reverse<i64>) {
    let highest = preemption.victims.iter().map(|p| p.priority).max().unwrap_or(i32::MIN);
    // Shifted to be positive, so that more victims never cost less.
    let sum = preemption.victims.iter().map(|p| i64::from(p.priority) + i64::from(i32::MAX) + 1).sum();
    let oldest = preemption.victims.iter().filter(|p| p.priority == highest).map(|p| started(p)).min();
    (highest, sum, preemption.victims.len(), Reverse(oldest.unwrap_or(i64::MAX)))
}

/// When the pod began to run, in seconds since 1970; now, as it were, if it does not run yet.
fn started(pod: &PodInfo) -> i64 {
    pod.pod.status().start_time.map_or(i64::MAX, |time| time.seconds)
}

/// The fewest and least important pods of the node that have to go, or why not even evicting all of them would do.
fn victims(pod: &PodInfo, checks: &mut Checks<'_>, node: &NodeInfo) -> Result<Vec<Arc<PodInfo>>, Vec<String>> {
    let mut lower: Vec<Arc<PodInfo>> = node.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    let mut without = node.clone();
    for victim in &lower {
        without.remove(victim.uid());
        checks.changed(victim, node, -1);
    }
    let told = |(_, refusals): Refused| refusals.into_iter().map(|refusal| refusal.reason.into_owned()).collect();
    let hopeless: Option<Vec<String>> = checks.refusals(&without).map(told);
    let mut victims = Vec::new();
    if hopeless.is_none() {
        // Give back the most important first; of equals, the one that runs longest.
        lower.sort_by_key(|p| (Reverse(p.priority), started(p)));
        for candidate in std::mem::take(&mut lower) {
            without.add(candidate.clone());
            checks.changed(&candidate, node, 1);
            if checks.refusals(&without).is_some() {
                without.remove(candidate.uid());
                checks.changed(&candidate, node, -1);
                victims.push(candidate);
            }
        }
    }
    // The next node is looked at as if nobody had to go here.
    lower.iter().chain(&victims).for_each(|gone| checks.changed(gone, node, 1));
    match hopeless {
        Some(reasons) => Err(reasons),
        None if victims.is_empty() => Err(vec![NO_VICTIMS.to_owned()]),
        None => Ok(victims),
    }
}

/// True if an earlier preemption for this pod is still under way: its victims are going, and the node will do once they are gone.
fn is_under_way(pod: &PodInfo, cluster: &Cluster, why: &Unplaceable) -> bool {
    let Some(node) = cluster.nomination(pod.uid()).filter(|name| why.candidates.iter().any(|candidate| candidate == name)) else {
        return false;
    };
    let going = |p: &Arc<PodInfo>| {
        let preempted =
            |c: &api::core::v1::PodCondition| c.r#type == DISRUPTION_TARGET && c.status == "True" && c.reason == BY_SCHEDULER;
        p.priority < pod.priority
            && p.pod.metadata().deletion_timestamp.is_some()
            && p.pod.status().conditions.iter().any(preempted)
    };
    cluster.node(node).is_some_and(|node| node.pods.iter().any(going))
}

#[cfg(test)]
mod tests {
    use api::Resource;
    use serde_json::json;

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

    #[test]
    fn room_that_is_made_for_one_pod_is_not_made_again_for_another() {
        let mut cluster = cluster([node("a").cpu("2").build()]);
        cluster.place(Arc::new(pod("low").priority(1).cpu("2").build()), "a");
        cluster.nominate(Arc::new(pod("vip").priority(10).cpu("2").build()), "a");
        let second = pod("second").priority(10).cpu("1").build();
        let why = Algorithm::default().place(&second, &cluster).unwrap_err();
        let no = preempt(&second, &cluster, &why).unwrap_err();
        assert_eq!(no.to_string(), "0/1 nodes are available: 1 Insufficient cpu.");
        // A more important one takes it all the same.
        let first = pod("first").priority(11).cpu("1").build();
        let why = Algorithm::default().place(&first, &cluster).unwrap_err();
        assert_eq!(preempt(&first, &cluster, &why).unwrap().victims.len(), 1);
    }

    #[test]
    fn pods_whose_rules_stand_against_the_pod_are_victims_and_those_beside_them_stay() {
        let mut cluster = cluster([node("a").label("zone", "z").build(), node("b").label("zone", "z").cpu("0").build()]);
        let rule = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"}]}});
        let loner = pod("loner").with(|pod| pod.spec_mut().affinity = Some(serde_json::from_value(rule).unwrap()));
        cluster.place(Arc::new(loner.build()), "a");
        cluster.place(Arc::new(pod("bystander").build()), "a");
        let vip = pod("vip").label("app", "web").priority(1).cpu("1").build();
        let why = Algorithm::default().place(&vip, &cluster).unwrap_err();
        let text = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy existing pods anti-affinity rules.";
        assert_eq!(why.to_string(), text);
        let preemption = preempt(&vip, &cluster, &why).unwrap();
        assert_eq!(preemption.victims.iter().map(|p| p.pod.name()).collect::<Vec<_>>(), ["loner"]);
    }

    #[test]
    fn one_victim_is_cheaper_than_two_also_below_zero() {
        let victims = |priorities: &[i32]| Preemption {
            node: String::new(),
            victims: priorities.iter().map(|priority| Arc::new(pod("p").priority(*priority).build())).collect(),
        };
        assert!(cost(&victims(&[-5])) < cost(&victims(&[-5, -10])));
        assert!(cost(&victims(&[-5, -10])) < cost(&victims(&[-4])));
    }
}
