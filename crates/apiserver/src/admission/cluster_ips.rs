//! Gives Services their addresses.

use std::{net::Ipv4Addr, sync::Arc};

use api::{
    Object, Resource, StatusError,
    core::v1::Service,
    rules::{FieldErrors, Path},
};
use store::Guard;

use super::{
    Admitted, Effects, Plugin, Write,
    action::Action,
    allocator::{ADDRESS_KEYS, Allocator, held_address},
};
use crate::strategies::service::needs_address;

/// See the module.
pub(super) struct ClusterIps(pub Arc<Allocator>);

impl ClusterIps {
    async fn service(&self, old: Option<&Service>, new: &mut Service, effects: &mut Effects) -> Result<(), StatusError> {
        let had = old.and_then(held_address);
        let fresh = needs_address(new) && new.spec().cluster_ip.is_empty() && new.spec().cluster_ips.is_empty();
        if fresh {
            let address = self.0.choose_address().await?;
            let spec = new.spec_mut();
            spec.cluster_ip = address.to_string();
            spec.cluster_ips = vec![address.to_string()];
            hold(address, new, effects);
        }
        let has = held_address(new);
        // A Service that keeps its need of an address keeps the address; validation says so if it does not.
        let kept = old.is_some_and(|old| needs_address(old) && !old.spec().cluster_ip.is_empty()) && needs_address(new);
        if let Some(address) = has.filter(|_| !fresh && !kept) {
            self.permit(address, new).await?;
            hold(address, new, effects);
        }
        if let Some(address) = had.filter(|_| !kept) {
            effects.delete(key(address));
        }
        Ok(())
    }

    /// Refuses an address asked for that is not to be had.
    async fn permit(&self, address: Ipv4Addr, service: &Service) -> Result<(), StatusError> {
        let cidr = self.0.cidr;
        let why = if cidr.offset(address).is_none() {
            format!(
                "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is {cidr}"
            )
        } else if (address == cidr.first() && !is_own(service)) || self.0.is_held(&key(address)).await? {
            format!("failed to allocate IP {address}: provided IP is already allocated")
        } else {
            return Ok(());
        };
        let mut errors = FieldErrors::default();
        errors.invalid(&Path::root().field("spec").field("clusterIPs"), &service.spec().cluster_ips, why);
        Err(StatusError::invalid(Service::KIND, service.name(), &errors))
    }
}

impl Plugin for ClusterIps {
    fn name(&self) -> &'static str {
        "ServiceClusterIP"
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
        if let Some(address) = object.downcast_ref().filter(|_| write.action() == Action::Delete).and_then(held_address) {
            effects.delete(key(address));
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

/// True for the Service of the API servers, to which the first address belongs.
fn is_own(service: &Service) -> bool {
    (service.namespace(), service.name()) == ("default", "kubernetes")
}

fn key(address: Ipv4Addr) -> String {
    format!("{ADDRESS_KEYS}{address}")
}

fn hold(address: Ipv4Addr, service: &Service, effects: &mut Effects) {
    effects.guard(key(address), Guard::Absent);
    effects.put(key(address), service.metadata().uid.clone());
}
