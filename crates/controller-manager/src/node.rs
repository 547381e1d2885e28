//! Nodes: their health, the pods of those that are lost, and their ranges of pod addresses.

mod cidr;
mod eviction;
mod lifecycle;
mod plan;

use crate::{Context, NodeArgs};

/// Starts the three controllers.
pub fn start(context: &Context, args: &NodeArgs) {
    lifecycle::start(context, args);
    eviction::start(context);
    cidr::start(context, args.cluster_cidr);
}

#[cfg(test)]
mod tests;
