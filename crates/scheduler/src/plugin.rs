//! The kinds of plugins, by the stage at which they are asked.
//!
//! [`Filter`] and [`Score`] decide and do no I/O; each is one file in [`crate::filters`] or [`crate::scores`], their order and weights stand in
//! one place each, the `mod.rs` there. [`Reserve`] and [`PreBind`] come between a decision and its binding; they stand in [`Stages`].

use std::{borrow::Cow, fmt, sync::Arc};

use futures::future::BoxFuture;

use crate::{cluster::Cluster, node::NodeInfo, pod::PodInfo, pod_set::Namespaces};

/// Something that happened in the cluster and may make room for pods.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A node came, or has more to give or other labels or fewer taints.
    Node,
    /// A node is gone.
    NodeGone,
    /// A pod left a node, or room is no longer made for it there.
    PodGone(&'a PodInfo),
    /// A pod came to a node, whoever put it there.
    PodPlaced(&'a PodInfo),
    /// A pod on a node has other labels, asks for less, or is on its way out.
    PodChanged {
        /// What it was.
        from: &'a PodInfo,
        /// What it is.
        to: &'a PodInfo,
    },
    /// A namespace's labels changed.
    Namespace,
}

/// Whom, of the pods that a filter refused, a change may help: who would be refused again for sure need not be tried.
pub enum Helped<'a> {
    /// Nobody.
    None,
    /// Everybody.
    All,
    /// Those of whom this is true.
    If(Box<dyn Fn(&PodInfo) -> bool + 'a>),
}

impl<'a> Helped<'a> {
    /// Those of whom this is true.
    pub fn when(is_helped: impl Fn(&PodInfo) -> bool + 'a) -> Self {
        Self::If(Box::new(is_helped))
    }

    /// What is true of a filter that looks at nothing but the nodes themselves.
    pub fn by_nodes(change: Change<'_>) -> Self {
        if matches!(change, Change::Node) { Self::All } else { Self::None }
    }
}

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

    /// Whom of those it refused a change may help. What is overlooked here is tried again only after five minutes.
    fn helped_by<'a>(&self, change: Change<'a>, _namespaces: &'a Namespaces) -> Helped<'a> {
        Helped::by_nodes(change)
    }
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

/// Why a pod cannot go, for the time being, to the node that was chosen for it; it is tried again after a pause.
pub type StageError = Box<dyn std::error::Error + Send + Sync>;

/// Sets aside, in memory, what a pod needs of a node beyond what the scheduler itself counts, as soon as the node is chosen: the next decision is
/// made before this one is bound.
pub trait Reserve: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Sets it aside. Must not block.
    ///
    /// # Errors
    /// Why it is not to be had.
    fn reserve(&self, pod: &PodInfo, node: &str) -> Result<(), StageError>;

    /// Gives it back, since the pod does not go to the node after all. Also called where nothing, or not everything, was set aside; the plugins
    /// are called in reverse order.
    fn unreserve(&self, pod: &PodInfo, node: &str);
}

/// Does what must have happened before a pod is bound, such as binding its volumes. Runs beside further decisions and may take its time.
pub trait PreBind: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Does it, or does nothing for a pod that needs nothing. Ends when the binding may follow.
    ///
    /// # Errors
    /// Why the pod cannot be bound; what was reserved is given back.
    fn pre_bind<'a>(&'a self, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, Result<(), StageError>>;
}

/// The plugins between a decision and its binding, in the order they are asked.
#[derive(Clone, Default)]
pub struct Stages {
    /// Asked when a node is chosen.
    pub reserve: Vec<Arc<dyn Reserve>>,
    /// Asked before the binding is sent.
    pub pre_bind: Vec<Arc<dyn PreBind>>,
}

/// A stage that failed: `running PreBind plugin "VolumeBinding"`, with the plugin's reason.
#[derive(Debug, thiserror::Error)]
#[error("running {stage} plugin {plugin:?}")]
pub struct StageFailed {
    /// `Reserve` or `PreBind`.
    pub stage: &'static str,
    /// The plugin's name.
    pub plugin: &'static str,
    /// What it said.
    #[source]
    pub source: StageError,
}

impl Stages {
    /// Reserves with every plugin; if one fails, all give back.
    ///
    /// # Errors
    /// The first failure.
    pub fn reserve(&self, pod: &PodInfo, node: &str) -> Result<(), StageFailed> {
        self.reserve.iter().try_for_each(|plugin| {
            plugin.reserve(pod, node).map_err(|source| {
                self.unreserve(pod, node);
                StageFailed { stage: "Reserve", plugin: plugin.name(), source }
            })
        })
    }

    /// Gives back what was reserved, in reverse order.
    pub fn unreserve(&self, pod: &PodInfo, node: &str) {
        self.reserve.iter().rev().for_each(|plugin| plugin.unreserve(pod, node));
    }

    /// Runs every plugin in order up to the first that fails.
    ///
    /// # Errors
    /// The first failure. Nothing is unreserved yet.
    pub async fn pre_bind(&self, pod: &PodInfo, node: &str) -> Result<(), StageFailed> {
        for plugin in &self.pre_bind {
            let failed = |source| StageFailed { stage: "PreBind", plugin: plugin.name(), source };
            plugin.pre_bind(pod, node).await.map_err(failed)?;
        }
        Ok(())
    }
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
