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

use api::{Resource, rules::Path};

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
