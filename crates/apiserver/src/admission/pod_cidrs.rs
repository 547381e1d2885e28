//! A node's pod network lies in the cluster's and is nobody else's: all nodes send what is addressed to it to this node.

use api::{
    Object, Resource, StatusError, cidr,
    core::v1::Node,
    rules::{FieldErrors, Path},
};
use ipnet::IpNet;
use store::{Guard, ReadAt, Store};

use super::{AdmissionConfig, Admitted, Effects, Plugin, Write, action::Action};
use crate::reader::{Reader, etcd_error};

/// Written with each pod network that is given, so that two servers never give one twice.
const LAST_GIVEN: &str = "/registry/ferrokube/podcidrs";

/// See the module.
pub(super) struct PodCidrs {
    store: Store,
    nodes: Reader<Node>,
    services: IpNet,
    pods: Option<IpNet>,
}

impl PodCidrs {
    pub(super) fn new(store: &Store, config: &AdmissionConfig) -> Self {
        let services = config.service_cidr.network();
        Self { store: store.clone(), nodes: Reader::new(store), services, pods: config.cluster_cidr }
    }

    async fn judge(&self, node: &Node, effects: &mut Effects) -> Result<(), StatusError> {
        // Read before the nodes: who writes one after that fails the guard.
        let given = self.store.etcd().get(LAST_GIVEN).await.map_err(|error| etcd_error(&error))?;
        let nodes = self.nodes.list("", ReadAt::Latest).await?;
        let mut errors = FieldErrors::default();
        let root = Path::root();
        let spec = root.field("spec");
        let list = spec.field("podCIDRs");
        for (i, text) in node.spec().pod_cidrs.iter().enumerate() {
            // Of what is no network the schema has spoken.
            let Ok(network) = cidr::parse(text) else { continue };
            let taken = |other: &Node| {
                let mut theirs = other.spec().pod_cidrs.iter().filter_map(|text| cidr::parse(text).ok());
                other.name() != node.name() && theirs.any(|theirs| cidr::overlap(theirs, network))
            };
            if let Some(pods) = self.pods.filter(|pods| !pods.contains(&network)) {
                errors.invalid(&list.index(i), text, format_args!("must lie in the cluster's network for pods, {pods}"));
            } else if cidr::overlap(self.services, network) {
                let why = format_args!("may not overlap the network of Services, {}", self.services);
                errors.invalid(&list.index(i), text, why);
            } else if let Some(other) = nodes.iter().find(|other| taken(&other.object)) {
                errors.invalid(&list.index(i), text, format_args!("may not overlap that of node {:?}", other.object.name()));
            }
        }
        if !errors.is_empty() {
            return Err(StatusError::invalid(Node::KIND, node.name(), &errors));
        }
        effects.guard(LAST_GIVEN, given.map_or(Guard::Absent, |state| Guard::At(state.revision)));
        effects.put(LAST_GIVEN, node.name().to_owned());
        Ok(())
    }
}

impl Plugin for PodCidrs {
    fn name(&self) -> &'static str {
        "NodePodCIDRs"
    }

    fn check<'a>(&'a self, write: &'a Write<'a>, object: &'a dyn Object, effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            let Some(node) = object.downcast_ref::<Node>().filter(|_| write.action() != Action::Delete) else { return Ok(()) };
            let old = write.old.and_then(|old| old.downcast_ref::<Node>());
            let same = old.is_some_and(|old| old.spec().pod_cidrs == node.spec().pod_cidrs);
            if same || node.spec().pod_cidrs.is_empty() { Ok(()) } else { self.judge(node, effects).await }
        })
    }
}
