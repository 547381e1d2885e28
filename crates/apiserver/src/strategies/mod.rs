//! What is special about each kind, one file a kind. Kinds without a file have nothing special.
//!
//! The form of single fields is checked from the schema's options; here is what looks at several fields, at the old object, or depends
//! on the state an object is in.

mod config_map;
mod endpoint_slice;
mod endpoints;
mod event;
mod lease;
mod limit_range;
pub mod metadata;
pub mod namespace;
mod node;
mod pod;
mod pod_template;
pub mod priority_class;
mod rbac;
mod replication_controller;
mod resource_quota;
mod secret;
pub mod service;
#[cfg(test)]
mod testing;

use std::net::IpAddr;

use api::{
    Resource,
    rules::{FieldErrors, Path},
};

use crate::strategy::Strategies;

pub use pod::MIRROR;

/// Most bytes that the values of a ConfigMap or a Secret may have together.
const DATA_MAX: usize = 1024 * 1024;

const ROOT: &Path<'static> = &Path::root();
const META: &Path<'static> = &ROOT.field("metadata");
const SPEC: &Path<'static> = &ROOT.field("spec");
const STATUS: &Path<'static> = &ROOT.field("status");

/// The strategies of all kinds.
pub fn all() -> Strategies {
    Strategies::default()
        .with(config_map::ConfigMapStrategy)
        .with(endpoint_slice::EndpointSliceStrategy)
        .with(endpoints::EndpointsStrategy)
        .with(event::EventStrategy)
        .with(lease::LeaseStrategy)
        .with(limit_range::LimitRangeStrategy)
        .with(namespace::NamespaceStrategy)
        .with(node::NodeStrategy)
        .with(pod::PodStrategy)
        .with(pod_template::PodTemplateStrategy)
        .with(priority_class::PriorityClassStrategy)
        .with(rbac::RoleStrategy)
        .with(rbac::ClusterRoleStrategy)
        .with(rbac::RoleBindingStrategy)
        .with(rbac::ClusterRoleBindingStrategy)
        .with(replication_controller::ReplicationControllerStrategy)
        .with(resource_quota::ResourceQuotaStrategy)
        .with(secret::SecretStrategy)
        .with(service::ServiceStrategy)
}

/// Makes `new` the old object with what `copy` takes over from the object as sent, and the resource version that was sent.
fn take_over<K: Resource>(new: &mut K, old: &K, copy: impl FnOnce(&mut K, &K)) {
    let sent = std::mem::replace(new, old.clone());
    new.metadata_mut().resource_version.clone_from(&sent.metadata().resource_version);
    copy(new, &sent);
}

/// Counts a change of what is desired.
fn raise_generation(object: &mut impl Resource) {
    let meta = object.metadata_mut();
    meta.generation = meta.generation.saturating_add(1);
}

/// Refuses addresses that mean something else on every machine.
fn ordinary_address(address: IpAddr, at: &Path<'_>, text: &str, errors: &mut FieldErrors) {
    if address.is_unspecified() {
        errors.invalid(at, text, "may not be unspecified (0.0.0.0 or ::)");
    } else if address.is_loopback() {
        errors.invalid(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    } else if match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    } {
        errors.invalid(at, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    } else if match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    } {
        errors.invalid(at, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}
