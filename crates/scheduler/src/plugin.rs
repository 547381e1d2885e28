//! The two kinds of parts that decisions are made of. Each plugin is one file in [`crate::filters`] or [`crate::scores`]; their order and
//! weights stand in one place each, the `mod.rs` there.

use std::{borrow::Cow, fmt};

use crate::{cluster::Cluster, node::NodeInfo, pod::PodInfo};

/// Why a pod cannot go to a node, in the words of `FailedScheduling` events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong, such as `Insufficient cpu`; nodes are counted by it.
    pub reason: Cow<'static, str>,
    /// True if evicting pods from the node can help.
    pub preemption_helps: bool,
}

impl Refusal {
    /// A refusal that evicting pods can resolve.
    pub fn resolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), preemption_helps: true }
    }

    /// A refusal that lasts whatever pods are on the node.
    pub fn lasting(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), preemption_helps: false }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Rules out nodes.
pub trait Filter: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Works out what is the same for all nodes; `None` if the pod asks for nothing this filter looks at.
    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Box<dyn Check + 'a>>;
}

/// A filter made ready for one pod.
pub trait Check {
    /// Refuses the node, for one or several reasons.
    ///
    /// # Errors
    /// The reasons, never an empty list.
    fn check(&self, node: &NodeInfo) -> Result<(), Vec<Refusal>>;

    /// For asking what if: from now on `other` counts as on the node (`by` = 1), or no longer so (-1). Only filters that look beyond the
    /// node they are asked about need it.
    fn changed(&mut self, _other: &PodInfo, _node: &NodeInfo, _by: i64) {}
}

impl<F: Fn(&NodeInfo) -> Result<(), Vec<Refusal>>> Check for F {
    fn check(&self, node: &NodeInfo) -> Result<(), Vec<Refusal>> {
        self(node)
    }
}

/// Says which of the possible nodes are better.
pub trait Score: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// How much this counts beside the others.
    fn weight(&self) -> i64;

    /// A score from 0 to 100 for each of `nodes`, in their order; `None` if the pod asks for nothing this plugin looks at.
    fn score(&self, pod: &PodInfo, cluster: &Cluster, nodes: &[&NodeInfo]) -> Option<Vec<i64>>;
}

/// Brings raw scores to 0..=100, the highest to 100; `reverse` the lowest.
pub fn normalize(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let max = scores.iter().copied().max().unwrap_or_default();
    for score in &mut scores {
        *score = if max == 0 { 0 } else { *score * 100 / max };
        if reverse {
            *score = 100 - *score;
        }
    }
    scores
}

/// Brings raw scores, negative ones too, to 0..=100: the lowest to 0, the highest to 100. All equal is all 0.
pub fn normalize_range(mut scores: Vec<i64>) -> Vec<i64> {
    let (min, max) = (scores.iter().copied().min().unwrap_or_default(), scores.iter().copied().max().unwrap_or_default());
    for score in &mut scores {
        *score = if max == min { 0 } else { (*score - min) * 100 / (max - min) };
    }
    scores
}
