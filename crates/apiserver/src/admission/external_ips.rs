//! `externalIPs`: nodes send what is addressed to them to the Service's pods. Whoever may write Services must not get what is meant for
//! somebody else in that way.

use std::{collections::BTreeSet, net::IpAddr};

use api::{
    Object, Resource, StatusError, cidr,
    core::v1::{Node, Service},
    rules::{FieldErrors, Path},
};
use ipnet::IpNet;
use store::{ReadAt, Store};

use super::{AdmissionConfig, Admitted, Effects, Plugin, Write, action::Action};
use crate::bootstrap;
use crate::reader::Reader;

/// Refuses addresses of nodes, API servers, Services and pods.
pub(super) struct ExternalIps {
    store: Store,
    nodes: Reader<Node>,
    services: IpNet,
    pods: Option<IpNet>,
}

/// Refuses external addresses altogether.
pub(super) struct DenyServiceExternalIps;

/// The external addresses that a write adds to a Service; those that were there may stay.
fn added<'a>(write: &Write<'_>, object: &'a dyn Object) -> Vec<(usize, &'a String)> {
    let Some(service) = object.downcast_ref::<Service>().filter(|_| write.action() != Action::Delete) else {
        return Vec::new();
    };
    let old: BTreeSet<&String> =
        write.old.and_then(|old| old.downcast_ref::<Service>()).into_iter().flat_map(|old| &old.spec().external_ips).collect();
    service.spec().external_ips.iter().enumerate().filter(|(_, ip)| !old.contains(ip)).collect()
}

impl ExternalIps {
    pub(super) fn new(store: &Store, config: &AdmissionConfig) -> Self {
        let services = config.service_cidr.network();
        Self { store: store.clone(), nodes: Reader::new(store), services, pods: config.cluster_cidr }
    }

    async fn judge(&self, object: &dyn Object, added: &[(usize, &String)]) -> Result<(), StatusError> {
        let nodes = self.nodes.list("", ReadAt::Latest).await?;
        let servers = bootstrap::alive(&self.store).await?;
        let mut errors = FieldErrors::default();
        let (root, mut told) = (Path::root(), BTreeSet::new());
        let spec = root.field("spec");
        let list = spec.field("externalIPs");
        for (i, text) in added {
            // Of what is no address the schema has spoken.
            let Ok(address) = text.parse::<IpAddr>() else { continue };
            let address = address.to_canonical();
            let is_in = |text: &str| cidr::parse(text).is_ok_and(|network| network.contains(&address));
            let of_node = |node: &Node| {
                let mut own = node.status().addresses.iter().filter_map(|own| own.address.parse::<IpAddr>().ok());
                own.any(|own| own.to_canonical() == address)
            };
            let whose = if servers.iter().any(|server| *server.ip() == address) {
                "an API server".to_owned()
            } else if let Some(node) = nodes.iter().find(|node| of_node(&node.object)) {
                format!("node {:?}", node.object.name())
            } else if self.services.contains(&address) {
                "the range of Services".to_owned()
            } else if self.pods.is_some_and(|pods| pods.contains(&address))
                || nodes.iter().any(|node| node.object.spec().pod_cidrs.iter().any(|cidr| is_in(cidr)))
            {
                "the range of pods".to_owned()
            } else {
                continue;
            };
            if told.insert(text) {
                errors.invalid(&list.index(*i), text, format_args!("may not be an address of {whose}"));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid(Service::KIND, &object.meta().name, &errors)) }
    }
}

impl Plugin for ExternalIps {
    fn name(&self) -> &'static str {
        "ServiceExternalIPs"
    }

    fn check<'a>(&'a self, write: &'a Write<'a>, object: &'a dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            match added(write, object) {
                added if added.is_empty() => Ok(()),
                added => self.judge(object, &added).await,
            }
        })
    }
}

impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn check<'a>(&'a self, write: &'a Write<'a>, object: &'a dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        let answer = if added(write, object).is_empty() {
            Ok(())
        } else {
            let why = "Use of external IPs is denied by admission control.";
            Err(StatusError::forbidden(Service::KIND, &object.meta().name, why))
        };
        Box::pin(std::future::ready(answer))
    }
}
