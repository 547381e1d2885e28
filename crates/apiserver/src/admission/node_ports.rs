//! Gives Services their ports on every node.

use std::sync::Arc;

use api::{
    Object, Resource, StatusError,
    core::v1::Service,
    rules::{FieldErrors, Path},
};
use store::Guard;

use super::{
    Admitted, Effects, Plugin, Write,
    action::Action,
    allocator::{Allocator, PORT_KEYS, held_ports},
};
use crate::strategies::service::{needs_health_check_port, needs_node_ports};

/// See the module.
pub(super) struct NodePorts(pub Arc<Allocator>);

impl NodePorts {
    async fn service(&self, old: Option<&Service>, new: &mut Service, effects: &mut Effects) -> Result<(), StatusError> {
        let had = old.map(held_ports).unwrap_or_default();
        let asked: Vec<u16> = held_ports(new).into_iter().filter(|port| !had.contains(port)).collect();
        self.permit(&asked, new).await?;
        let chosen = self.choose(new).await?;
        let has = held_ports(new);
        for port in asked.into_iter().chain(chosen) {
            effects.guard(key(port), Guard::Absent);
            effects.put(key(port), new.metadata().uid.clone());
        }
        for port in had.into_iter().filter(|port| !has.contains(port)) {
            effects.delete(key(port));
        }
        Ok(())
    }

    /// Refuses ports asked for that are not to be had.
    async fn permit(&self, asked: &[u16], service: &Service) -> Result<(), StatusError> {
        let (mut errors, range) = (FieldErrors::default(), &self.0.ports);
        let root = Path::root();
        let spec = root.field("spec");
        for port in asked {
            let why = if !range.contains(port) {
                format!("provided port is not in the valid range. The range of valid ports is {}-{}", range.start(), range.end())
            } else if self.0.is_held(&key(*port)).await? {
                "provided port is already allocated".to_owned()
            } else {
                continue;
            };
            let list = spec.field("ports");
            match service.spec().ports.iter().position(|p| p.node_port == i32::from(*port)) {
                Some(i) => errors.invalid(&list.index(i).field("nodePort"), port, why),
                None => errors.invalid(&spec.field("healthCheckNodePort"), port, why),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid(Service::KIND, service.name(), &errors)) }
    }

    /// Chooses ports where none are given. One port number of several protocols gets one node port.
    async fn choose(&self, service: &mut Service) -> Result<Vec<u16>, StatusError> {
        let mut chosen = Vec::new();
        if needs_node_ports(service) {
            for i in 0..service.spec().ports.len() {
                let ports = &service.spec().ports;
                if ports[i].node_port != 0 {
                    continue;
                }
                let twin = ports
                    .iter()
                    .find(|twin| twin.port == ports[i].port && twin.protocol != ports[i].protocol && twin.node_port != 0);
                let number = match twin {
                    Some(twin) => twin.node_port,
                    None => {
                        let port = self.0.choose_port(&held_ports(service)).await?;
                        chosen.push(port);
                        i32::from(port)
                    }
                };
                service.spec_mut().ports[i].node_port = number;
            }
        }
        if needs_health_check_port(service) && service.spec().health_check_node_port == 0 {
            let port = self.0.choose_port(&held_ports(service)).await?;
            chosen.push(port);
            service.spec_mut().health_check_node_port = i32::from(port);
        }
        Ok(chosen)
    }
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "ServiceNodePort"
    }

    fn admit<'a>(&'a self, write: &'a Write<'a>, object: &'a mut dyn Object, effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            match object.downcast_mut::<Service>() {
                Some(service) if write.request.subresource.is_none() => {
                    self.service(write.old.and_then(|old| old.downcast_ref()), service, effects).await
                }
                _ => Ok(()),
            }
        })
    }

    fn check<'a>(&'a self, write: &'a Write<'a>, object: &'a dyn Object, effects: &'a mut Effects) -> Admitted<'a> {
        if let Some(service) = object.downcast_ref::<Service>().filter(|_| write.action() == Action::Delete) {
            held_ports(service).into_iter().for_each(|port| effects.delete(key(port)));
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn key(port: u16) -> String {
    format!("{PORT_KEYS}{port}")
}
