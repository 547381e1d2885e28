//! How many pods of a set there are in each place, kept up to date pod by pod, so that no decision counts all pods again.
//!
//! A *place* is a value of a topology label: the nodes that have it are one place. Two things are counted: the pods of the sets that
//! pods to be placed ask about, from the first time one asks; and the rules that pods which have a place carry, since those may be about
//! the pod to be placed.
//!
//! Invariant: each count is what counting all pods anew would give. Only [`crate::cluster::Cluster`] changes them, with each pod that comes
//! to or leaves a node, and with each node whose labels change.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use crate::{
    node::NodeInfo,
    pod::{AffinityTerm, PodInfo, Rule},
    pod_set::{Namespaces, PodSet},
};

/// Instead of a label: each node is a place of its own, by its name.
pub const EACH_NODE: &str = "";
/// Sets that are counted at most; the one that was not asked about for the longest time is given up first.
const MAX_SETS: usize = 256;

/// How many pods are in each place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    counts: HashMap<String, i64>,
    total: i64,
}

/// Counts of one set of pods and one topology label as they would be after some pods came and went: for asking what if.
#[derive(Debug)]
pub struct Tally<'a> {
    key: Cow<'a, str>,
    base: Cow<'a, Places>,
    changes: Places,
}

/// All counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    /// By [`PodSet::id`].
    counted: HashMap<Arc<str>, Vec<Counted>>,
    /// By [`PodSet::id`] of the rule's set.
    carried: HashMap<Arc<str>, Vec<Carried>>,
    /// Counts the questions.
    clock: u64,
}

#[derive(Clone, Debug)]
struct Counted {
    set: PodSet,
    key: String,
    places: Places,
    /// [`Topology::clock`] when it was asked about last.
    asked: u64,
}

/// A rule and the places of the pods that carry it.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) rule: Rule,
    pub(crate) term: AffinityTerm,
    pub(crate) places: Places,
}

/// The place a node is in by a topology label, or by its name for [`EACH_NODE`].
pub fn place_of<'a>(key: &str, node: &'a NodeInfo) -> Option<&'a str> {
    if key == EACH_NODE { Some(node.name()).filter(|name| !name.is_empty()) } else { node.label(key) }
}

// === impl Places ===

impl Places {
    /// How many are in a place.
    pub fn at(&self, place: &str) -> i64 {
        self.counts.get(place).copied().unwrap_or_default()
    }

    /// True if there are none anywhere.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    fn change(&mut self, place: &str, by: i64) {
        self.total += by;
        match self.counts.get_mut(place) {
            Some(count) => {
                *count += by;
                if *count == 0 {
                    self.counts.remove(place);
                }
            }
            None => drop(self.counts.insert(place.to_owned(), by)),
        }
    }
}

// === impl Tally ===

impl<'a> Tally<'a> {
    /// Counts by `key` that are `base` now.
    pub fn new(key: impl Into<Cow<'a, str>>, base: Cow<'a, Places>) -> Self {
        Self { key: key.into(), base, changes: Places::default() }
    }

    /// How many are in the node's place; 0 if it is in none.
    pub fn at(&self, node: &NodeInfo) -> i64 {
        place_of(&self.key, node).map_or(0, |place| self.base.at(place) + self.changes.at(place))
    }

    /// True if the node is in a place.
    pub fn has_place(&self, node: &NodeInfo) -> bool {
        place_of(&self.key, node).is_some()
    }

    /// How many there are in all places.
    pub fn total(&self) -> i64 {
        self.base.total + self.changes.total
    }

    /// So many more of the set are on the node.
    pub fn change(&mut self, node: &NodeInfo, by: i64) {
        if let Some(place) = place_of(&self.key, node) {
            self.changes.change(place, by);
        }
    }
}

// === impl Topology ===

impl Topology {
    /// A pod came to (`by` = 1) or left (-1) a node that has, or had, these labels.
    pub(crate) fn change(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64, namespaces: &Namespaces) {
        for (rule, term) in pod.rules() {
            if let Some(place) = place_of(&term.topology_key, node) {
                self.carry(rule, term, place, by);
            }
        }
        for counted in self.counted.values_mut().flatten() {
            if let Some(place) = place_of(&counted.key, node)
                && counted.set.contains(pod, namespaces)
            {
                counted.places.change(place, by);
            }
        }
    }

    fn carry(&mut self, rule: Rule, term: &AffinityTerm, place: &str, by: i64) {
        let same_set = self.carried.entry(term.set.id().clone()).or_default();
        let known = same_set.iter().position(|known| known.rule == rule && known.term.topology_key == term.topology_key);
        let at = known.unwrap_or_else(|| {
            same_set.push(Carried { rule, term: term.clone(), places: Places::default() });
            same_set.len() - 1
        });
        same_set[at].places.change(place, by);
        if same_set[at].places.is_empty() {
            same_set.swap_remove(at);
            if same_set.is_empty() {
                self.carried.remove(term.set.id());
            }
        }
    }

    /// Every rule of pods that have a place.
    pub(crate) fn carried(&self) -> impl Iterator<Item = &Carried> {
        self.carried.values().flatten()
    }

    /// Counts a set from now on, if it is not counted already.
    pub(crate) fn follow(&mut self, set: &PodSet, key: &str, nodes: &[NodeInfo], namespaces: &Namespaces) {
        self.clock += 1;
        let (clock, same_set) = (self.clock, self.counted.entry(set.id().clone()).or_default());
        if let Some(counted) = same_set.iter_mut().find(|counted| counted.key == key) {
            counted.asked = clock;
            return;
        }
        let places = count(set, key, nodes, namespaces);
        same_set.push(Counted { set: set.clone(), key: key.to_owned(), places, asked: clock });
        if self.followed() > MAX_SETS {
            let oldest = self.counted.values().flatten().map(|counted| counted.asked).min();
            self.retain(|counted| Some(counted.asked) != oldest);
        }
    }

    /// How many sets and labels are counted.
    pub(crate) fn followed(&self) -> usize {
        self.counted.values().map(Vec::len).sum()
    }

    /// The places of a set; counted now if it is not followed.
    pub(crate) fn places(&self, set: &PodSet, key: &str, nodes: &[NodeInfo], namespaces: &Namespaces) -> Cow<'_, Places> {
        let followed = self.counted.get(set.id()).into_iter().flatten().find(|counted| counted.key == key);
        followed.map_or_else(|| Cow::Owned(count(set, key, nodes, namespaces)), |counted| Cow::Borrowed(&counted.places))
    }

    /// Labels of a namespace changed: what depends on them is counted anew when it is asked for.
    pub(crate) fn namespace_changed(&mut self) {
        self.retain(|counted| !counted.set.depends_on_namespaces());
    }

    fn retain(&mut self, keep: impl Fn(&Counted) -> bool) {
        self.counted.retain(|_, same_set| {
            same_set.retain(&keep);
            !same_set.is_empty()
        });
    }
}

fn count(set: &PodSet, key: &str, nodes: &[NodeInfo], namespaces: &Namespaces) -> Places {
    let mut places = Places::default();
    for node in nodes {
        let Some(place) = place_of(key, node) else { continue };
        let here = node.pods.iter().filter(|pod| set.contains(pod, namespaces)).count();
        if here > 0 {
            places.change(place, i64::try_from(here).unwrap_or(i64::MAX));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use api::core::v1::Affinity;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        cluster::Cluster,
        testing::{node, pod},
    };

    /// A pod with rules about pods of the same application, or of its whole team.
    fn ruled(name: &str, app: u8) -> PodInfo {
        let term = |labels: serde_json::Value, key: &str, namespaces: serde_json::Value| json!({"labelSelector": {"matchLabels": labels}, "topologyKey": key, "namespaceSelector": namespaces});
        let own = json!({"app": app.to_string()});
        let affinity = json!({
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(json!({"team": "t"}), "zone", json!(null))]},
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [term(own.clone(), "kubernetes.io/hostname", json!(null))],
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 7, "podAffinityTerm": term(own.clone(), "zone", json!({"matchLabels": {"kind": "prod"}}))}],
            },
        });
        let spread = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": own}});
        pod(name)
            .label("app", &app.to_string())
            .label("team", "t")
            .with(|pod| {
                pod.spec_mut().affinity = Some(serde_json::from_value::<Affinity>(affinity).unwrap());
                pod.spec_mut().topology_spread_constraints.push(serde_json::from_value(spread).unwrap());
            })
            .build()
    }

    /// Every count there is, sorted.
    fn counts(cluster: &Cluster, asking: &[PodInfo]) -> Vec<String> {
        let asked = asking.iter().flat_map(PodInfo::asks).map(|(set, key)| (set, key, cluster.places(set, key)));
        let sorted = |places: &Places| places.counts.clone().into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let asked = asked.map(|(set, key, places)| format!("{} {key} {:?} {}", set.id(), sorted(&places), places.total));
        let carried = cluster.carried().map(|carried| {
            let (set, key) = (carried.term.set.id(), &carried.term.topology_key);
            format!("{:?} {set} {key} {:?} {}", carried.rule, sorted(&carried.places), carried.places.total)
        });
        let mut all: Vec<String> = asked.chain(carried).collect();
        all.sort();
        all
    }

    #[derive(Clone, Debug)]
    enum Step {
        Place { pod: u8, app: u8, node: u8 },
        Remove { pod: u8 },
        Node { node: u8, zone: u8 },
        Gone { node: u8 },
        Namespace { prod: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12u8, 0..3u8, 0..5u8).prop_map(|(pod, app, node)| Step::Place { pod, app, node }),
            2 => (0..12u8).prop_map(|pod| Step::Remove { pod }),
            2 => (0..5u8, 0..3u8).prop_map(|(node, zone)| Step::Node { node, zone }),
            1 => (0..5u8).prop_map(|node| Step::Gone { node }),
            1 => any::<bool>().prop_map(|prod| Step::Namespace { prod }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn counts_kept_up_to_date_are_those_of_counting_anew(steps in proptest::collection::vec(step(), 1..40)) {
            let (mut cluster, asking) = (Cluster::default(), [0, 1, 2].map(|app| ruled("asks", app)));
            for (at, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Place { pod, app, node } => {
                        cluster.place(Arc::new(ruled(&format!("p{pod}"), app)), &format!("n{node}"));
                    }
                    Step::Remove { pod } => drop(cluster.remove_pod(&format!("p{pod}"))),
                    Step::Node { node: n, zone } => {
                        cluster.set_node(node(&format!("n{n}")).label("zone", &format!("z{zone}")).build());
                    }
                    Step::Gone { node } => cluster.remove_node(&format!("n{node}")),
                    Step::Namespace { prod } => {
                        let kind = if prod { "prod" } else { "test" };
                        cluster.set_namespace("default", [("kind".to_owned(), kind.to_owned())].into());
                    }
                }
                if at % 3 == 0 {
                    asking.iter().for_each(|pod| cluster.follow(pod));
                }
                let mut anew = Cluster::default();
                for (name, labels) in cluster.namespaces() {
                    anew.set_namespace(name, labels.clone());
                }
                for node in cluster.nodes().iter().filter(|node| node.exists()) {
                    anew.set_node(node.node.clone());
                    node.pods.iter().for_each(|pod| anew.place(pod.clone(), node.name()));
                }
                prop_assert_eq!(counts(&cluster, &asking), counts(&anew, &asking));
                prop_assert_eq!(cluster.node_count(), anew.nodes().len());
            }
        }
    }

    #[test]
    fn what_was_not_asked_about_for_long_is_given_up() {
        let mut cluster = Cluster::default();
        for n in 0..2 * MAX_SETS {
            cluster.follow(&ruled("p", u8::try_from(n % 250).unwrap()));
            let own = pod("q").label("n", &n.to_string()).with(|pod| {
                let term = json!({"labelSelector": {"matchLabels": {"n": n.to_string()}}, "topologyKey": "zone"});
                let affinity = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
                pod.spec_mut().affinity = Some(serde_json::from_value::<Affinity>(affinity).unwrap());
            });
            cluster.follow(&own.build());
        }
        assert_eq!(cluster.followed(), MAX_SETS);
    }
}
