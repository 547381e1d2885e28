//! Default spreading: pods that the same Services select and the same controller manages are kept apart unless they say otherwise themselves.

use std::collections::{BTreeMap, HashMap};

use api::Resource;

use crate::{
    pod::{PodInfo, SpreadConstraint},
    pod_set::PodSet,
};

/// Upstream's defaults: by how much the fullest place may exceed the emptiest before another is better, by topology label.
const DEFAULT_SPREAD: [(&str, i64); 2] = [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];

type Labels = BTreeMap<String, String>;

/// The selectors that group pods.
#[derive(Clone, Debug, Default)]
pub struct DefaultSpreading {
    /// Of Services, by namespace and name.
    services: HashMap<String, HashMap<String, Labels>>,
    /// Of replication controllers, by namespace and name.
    controllers: HashMap<String, HashMap<String, Labels>>,
}

impl DefaultSpreading {
    /// Takes over the selector of a Service; `None` if it is gone.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<Labels>) {
        set(&mut self.services, namespace, name, selector);
    }

    /// Takes over the selector of a replication controller; `None` if it is gone.
    pub fn set_controller(&mut self, namespace: &str, name: &str, selector: Option<Labels>) {
        set(&mut self.controllers, namespace, name, selector);
    }

    /// The pods that the same Services select and the same controller manages as far as labels tell; `None` if there are no such.
    pub(crate) fn group_of(&self, pod: &PodInfo) -> Option<PodSet> {
        let namespace = pod.pod.namespace();
        let services = self.services.get(namespace).into_iter().flat_map(HashMap::values);
        let selecting = services.filter(|selector| selector.iter().all(|(key, value)| pod.label(key) == Some(value)));
        let mut owners = pod.pod.metadata().owner_references.iter();
        let owner = owners.find(|owner| owner.controller == Some(true) && owner.kind == "ReplicationController");
        let managing = owner.and_then(|owner| self.controllers.get(namespace)?.get(&owner.name));
        let labels: Labels = selecting.chain(managing).flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        if labels.is_empty() { None } else { Some(PodSet::of_labels(namespace, &labels)) }
    }
}

fn set(selectors: &mut HashMap<String, HashMap<String, Labels>>, namespace: &str, name: &str, selector: Option<Labels>) {
    // Without a selector nothing is selected.
    match selector.filter(|selector| !selector.is_empty()) {
        Some(selector) => drop(selectors.entry(namespace.to_owned()).or_default().insert(name.to_owned(), selector)),
        None => {
            if let Some(in_namespace) = selectors.get_mut(namespace) {
                in_namespace.remove(name);
                if in_namespace.is_empty() {
                    selectors.remove(namespace);
                }
            }
        }
    }
}

/// The constraints of a group.
pub(crate) fn constraints(set: PodSet) -> Vec<SpreadConstraint> {
    let constraint = |(topology_key, max_skew): (&str, i64)| SpreadConstraint {
        max_skew,
        topology_key: topology_key.to_owned(),
        required: false,
        set: set.clone(),
        min_domains: None,
        honor_affinity: true,
        honor_taints: false,
    };
    DEFAULT_SPREAD.map(constraint).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{
        algorithm::Algorithm,
        cluster::Cluster,
        testing::{cluster, node, pod},
    };

    fn place(cluster: &mut Cluster, name: &str) -> String {
        let pod = Arc::new(pod(name).label("app", "web").cpu("100m").build());
        cluster.follow(&pod);
        let node = Algorithm::default().place(&pod, cluster).unwrap().node;
        cluster.place(pod, &node);
        node
    }

    #[test]
    fn pods_of_one_service_are_spread_although_one_node_has_more_left() {
        let mut cluster = cluster([node("large").cpu("64").memory("512Gi").build(), node("small").cpu("2").build()]);
        let alone: Vec<_> = (0..4).map(|n| place(&mut cluster, &format!("a{n}"))).collect();
        assert_eq!(alone, ["large"; 4]);
        (0..4).for_each(|n| drop(cluster.remove_pod(&format!("a{n}"))));
        cluster.default_spreading_mut().set_service("default", "web", Some([("app".to_owned(), "web".to_owned())].into()));
        let mut spread: Vec<_> = (0..4).map(|n| place(&mut cluster, &format!("b{n}"))).collect();
        spread.sort();
        assert_eq!(spread, ["large", "large", "small", "small"]);
        cluster.default_spreading_mut().set_service("default", "web", None);
        assert_eq!(place(&mut cluster, "c"), "large");
    }
}
