//! Gives each node a /24 of the cluster's pod addresses.
//!
//! Invariant: a range that some node has, or that this process has tried to give one, is given to no other. What nodes have is known before
//! the first range is given: work begins once the informer's first list is in, and a former leader's writes are fenced off by then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::{Resource, cidr, core::v1::Node};
use client::{Controller, Error, EventType, Informer, ObjectKey, Patch, Reconcile, Requeue};
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    Context,
    config::NODE_PREFIX,
    reads::{ReadsNode, SeenNode},
};

/// Gives ranges. Keys are nodes.
struct Ranges {
    context: Context,
    nodes: Informer<SeenNode>,
    pool: Mutex<Pool>,
}

/// Which ranges are taken.
#[derive(Debug)]
struct Pool {
    cluster: Ipv4Net,
    /// Node by the number of its range.
    taken: BTreeMap<u32, String>,
    /// Number of the range by node.
    of: HashMap<String, u32>,
}

/// Starts the controller.
pub(super) fn start(context: &Context, cluster: Ipv4Net) {
    let nodes = context.informers.trimmed::<ReadsNode>();
    let reconciler =
        Ranges { context: context.recording_as("cidrAllocator"), nodes: nodes.clone(), pool: Mutex::new(Pool::new(cluster)) };
    let others = nodes.clone();
    // One at a time: they share one pool.
    Controller::new("node-ipam", reconciler, &context.metrics)
        .workers(1)
        .watches(&nodes, move |changed| {
            let range = |node: &Arc<SeenNode>| node.spec().pod_cidr.clone();
            let same =
                changed.old.map(range) == changed.new.map(range) && changed.new.is_some_and(|node| !range(node).is_empty());
            let own = changed.newest().filter(|_| !same).map(|node| node.name().to_owned());
            // What a node that is gone gives back may be what others wait for.
            let waiting = if changed.new.is_none() { others.store().list() } else { Vec::new() };
            let waiting = waiting.into_iter().filter(move |node| range(node).is_empty()).map(|node| node.name().to_owned());
            own.into_iter().chain(waiting)
        })
        .spawn(&context.kit);
}

impl Reconcile for Ranges {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, name: &String) -> Result<Requeue, Error> {
        let Some(node) = self.nodes.store().get(&ObjectKey::new("", &**name)) else {
            self.pool.lock().release(name);
            return Ok(Requeue::Done);
        };
        if !node.spec().pod_cidr.is_empty() {
            let conflict = self.pool.lock().occupy(name, &node.spec().pod_cidr);
            if let Some(other) = conflict {
                tracing::error!(node = name, other, range = node.spec().pod_cidr, "two nodes have the same range");
            }
            return Ok(Requeue::Done);
        }
        let range = {
            let mut pool = self.pool.lock();
            // What other nodes have must be known before this one gets its own.
            for other in self.nodes.store().list() {
                pool.occupy(other.name(), &other.spec().pod_cidr);
            }
            pool.allocate(name)
        };
        let Some(range) = range else {
            let message = format!("Node {name} status is now: CIDRNotAvailable");
            self.context.recorder.event(&**node, EventType::Normal, "CIDRNotAvailable", message);
            tracing::error!(node = name, "no range of pod addresses is left");
            return Ok(Requeue::Done);
        };
        let patch = json!({
            "metadata": {"uid": node.metadata().uid, "resourceVersion": node.metadata().resource_version},
            "spec": {"podCIDR": range, "podCIDRs": [range]},
        });
        match self.context.client.metadata(Node::KIND, "").patch(name, &Patch::Merge(patch)).await {
            Err(error) if error.is_not_found() => {}
            outcome => {
                outcome?;
                tracing::info!(node = name, range, "gave a range of pod addresses");
            }
        }
        Ok(Requeue::Done)
    }
}

// === impl Pool ===

impl Pool {
    fn new(cluster: Ipv4Net) -> Self {
        Self { cluster, taken: BTreeMap::new(), of: HashMap::new() }
    }

    fn size(&self) -> u32 {
        1 << NODE_PREFIX.saturating_sub(self.cluster.prefix_len())
    }

    /// The lowest free range, or the one the node was given before.
    fn allocate(&mut self, node: &str) -> Option<String> {
        let number = match self.of.get(node) {
            Some(number) => *number,
            None => (0..self.size()).find(|number| !self.taken.contains_key(number))?,
        };
        self.take(node, number);
        let range = self.cluster.subnets(NODE_PREFIX).ok()?.nth(usize::try_from(number).ok()?)?;
        Some(range.to_string())
    }

    /// Notes what a node has; returns another node that has the same. A range from elsewhere is nobody's concern.
    fn occupy(&mut self, node: &str, range: &str) -> Option<String> {
        let range = cidr::parse_v4(range).ok().filter(|range| self.cluster.contains(range))?;
        let number = (range.network().to_bits() - self.cluster.network().to_bits()) >> (32 - NODE_PREFIX);
        if let Some(other) = self.taken.get(&number).filter(|other| *other != node) {
            return Some(other.clone());
        }
        self.take(node, number);
        None
    }

    fn take(&mut self, node: &str, number: u32) {
        if let Some(former) = self.of.insert(node.to_owned(), number)
            && former != number
        {
            self.taken.remove(&former);
        }
        self.taken.insert(number, node.to_owned());
    }

    fn release(&mut self, node: &str) {
        if let Some(number) = self.of.remove(node) {
            self.taken.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use client::testing::MemoryServer;

    use super::*;
    use crate::testing::{context, object};

    #[tokio::test]
    async fn a_node_without_a_range_gets_one_as_soon_as_another_gives_its_own_back() {
        let server = MemoryServer::new();
        (0..3).for_each(|n| drop(server.put::<Node>(object(json!({"metadata": {"name": format!("n{n}")}})))));
        let context = context(&server);
        start(&context, "10.244.0.0/23".parse().unwrap());
        let without = |server: &MemoryServer| {
            let nodes = server.all::<Node>().into_iter();
            nodes.filter(|node| node.spec().pod_cidr.is_empty()).map(|node| node.name().to_owned()).collect::<Vec<_>>()
        };
        server.eventually(|server| without(server).len() == 1).await;
        let waiting = without(&server).remove(0);
        let lucky = ["n0", "n1", "n2"].into_iter().find(|name| *name != waiting).unwrap();
        server.remove::<Node>("", lucky);
        server.eventually(|server| without(server).is_empty()).await;
        assert_eq!(server.all::<Node>().len(), 2);
    }

    #[test]
    fn a_range_is_given_once_until_it_is_released() {
        let mut pool = Pool::new("10.244.0.0/22".parse().unwrap());
        assert_eq!(pool.occupy("b", "10.244.1.0/24"), None);
        assert_eq!(pool.allocate("a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(pool.allocate("a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(pool.allocate("c").as_deref(), Some("10.244.2.0/24"));
        assert_eq!(pool.allocate("d").as_deref(), Some("10.244.3.0/24"));
        assert_eq!(pool.allocate("e"), None);
        assert_eq!(pool.occupy("x", "10.244.1.0/24").as_deref(), Some("b"));
        pool.release("b");
        assert_eq!(pool.allocate("e").as_deref(), Some("10.244.1.0/24"));
        assert_eq!(pool.occupy("f", "192.168.0.0/24"), None);
    }
}
