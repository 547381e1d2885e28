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
pub mod pod;
mod pod_template;
pub mod priority_class;
mod rbac;
mod replication_controller;
mod resource_quota;
pub mod scale;
mod secret;
pub mod service;
#[cfg(test)]
mod testing;

use api::{Object, Resource, rules::Path};

use crate::strategy::Strategies;

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

/// The stored object with what `copy` takes of the one that was sent.
fn taking<K: Resource>(sent: Box<dyn Object>, stored: &dyn Object, copy: impl FnOnce(&mut K, &K)) -> Box<dyn Object> {
    let (Some(old), Some(sent)) = (stored.downcast_ref::<K>(), sent.downcast_ref::<K>()) else { return stored.boxed_clone() };
    let mut new = old.clone();
    copy(&mut new, sent);
    Box::new(new)
}

/// Counts a change of what is desired.
fn raise_generation(object: &mut impl Resource) {
    let meta = object.metadata_mut();
    meta.generation = meta.generation.saturating_add(1);
}
