//! Which pods a rule about other pods is about.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    Resource,
    core::v1::{Pod, PodAffinityTerm, TopologySpreadConstraint},
    selector::{Operator, Requirement, Selector, SelectorError},
};

use crate::pod::PodInfo;

/// Labels of namespaces by their names.
pub type Namespaces = std::collections::HashMap<String, BTreeMap<String, String>>;

/// The pods that every one of some selections matches. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PodSet {
    selections: Arc<[Selection]>,
    /// Pods that are on their way out are in it too.
    terminating: bool,
    /// Says what the set is: equal for equal sets.
    id: Arc<str>,
}

/// Pods by namespace and labels.
#[derive(Clone, Debug)]
struct Selection {
    /// Labels of the pods.
    selector: Selector,
    /// Namespaces of the pods by name.
    namespaces: Vec<String>,
    /// Namespaces of the pods by label; selects none if unset.
    namespace_selector: Option<Selector>,
}

// === impl PodSet ===

impl PodSet {
    fn new(selections: Vec<Selection>, terminating: bool) -> Self {
        let id = format!("{terminating} {selections:?}").into();
        Self { selections: selections.into(), terminating, id }
    }

    /// The pods that a rule of `pod` is about.
    pub(crate) fn of_affinity(pod: &Pod, term: &PodAffinityTerm) -> Result<Self, SelectorError> {
        let selector = Selector::from_label_selector(term.label_selector.as_ref())?;
        let selector = with_own_values(selector, pod, &term.match_label_keys, Operator::In)?;
        let selector = with_own_values(selector, pod, &term.mismatch_label_keys, Operator::NotIn)?;
        let own_namespace_only = term.namespaces.is_empty() && term.namespace_selector.is_none();
        let selection = Selection {
            selector,
            namespaces: if own_namespace_only { vec![pod.namespace().to_owned()] } else { term.namespaces.clone() },
            namespace_selector: term.namespace_selector.as_ref().map(|s| Selector::from_label_selector(Some(s))).transpose()?,
        };
        Ok(Self::new(vec![selection], true))
    }

    /// The pods that a constraint of `pod` counts.
    pub(crate) fn of_spread(pod: &Pod, constraint: &TopologySpreadConstraint) -> Result<Self, SelectorError> {
        let selector = Selector::from_label_selector(constraint.label_selector.as_ref())?;
        let selector = with_own_values(selector, pod, &constraint.match_label_keys, Operator::In)?;
        let selection = Selection { selector, namespaces: vec![pod.namespace().to_owned()], namespace_selector: None };
        Ok(Self::new(vec![selection], false))
    }

    /// The pods of a namespace that have these labels and are there to stay.
    pub(crate) fn of_labels(namespace: &str, labels: &BTreeMap<String, String>) -> Self {
        let selector = Selector::from_map(labels);
        let selection = Selection { selector, namespaces: vec![namespace.to_owned()], namespace_selector: None };
        Self::new(vec![selection], false)
    }

    /// The pods that are in every one of `sets`; all pods if there are none.
    pub(crate) fn intersection<'a>(sets: impl Iterator<Item = &'a Self>) -> Self {
        Self::new(sets.flat_map(|set| set.selections.iter().cloned()).collect(), true)
    }

    /// Equal for equal sets.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// True if the pod is in the set.
    pub fn contains(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        (self.terminating || pod.pod.metadata().deletion_timestamp.is_none())
            && self.selections.iter().all(|selection| selection.contains(pod, namespaces))
    }

    /// True if who is in the set depends on the labels of namespaces.
    pub fn depends_on_namespaces(&self) -> bool {
        self.selections.iter().any(|selection| selection.namespace_selector.is_some())
    }
}

// === impl Selection ===

impl Selection {
    fn contains(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let namespace = pod.pod.namespace();
        let by_label = |selector: &Selector| {
            let labels = namespaces.get(namespace);
            selector.matches(|key| labels?.get(key).map(String::as_str))
        };
        (self.namespaces.iter().any(|n| n == namespace) || self.namespace_selector.as_ref().is_some_and(by_label))
            && self.selector.matches(|key| pod.label(key))
    }
}

/// Adds requirements that the labels named by `keys` have (or lack) the pod's own values. The API server writes them into the selector when it
/// creates the pod; what stands there counts, even if the pod's labels have changed since.
fn with_own_values(selector: Selector, pod: &Pod, keys: &[String], operator: Operator) -> Result<Selector, SelectorError> {
    if keys.is_empty() || selector.is_nothing() {
        return Ok(selector);
    }
    let mut requirements = selector.requirements().to_vec();
    let stands = |key: &str| selector.requirements().iter().any(|requirement| requirement.key() == key);
    for key in keys.iter().filter(|key| !stands(key)) {
        if let Some(value) = pod.metadata().labels.get(key) {
            requirements.push(Requirement::new(key, operator, vec![value.clone()])?);
        }
    }
    Ok(Selector::new(requirements))
}
