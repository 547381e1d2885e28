//! Which endpoints take connections.

use crate::model::{Backend, Endpoint, Family, Node};

/// The backends of one service port, by who may use them. Each list is sorted and free of duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// For traffic that may go to any node.
    pub cluster: Vec<Backend>,
    /// For traffic that must stay on this node.
    pub local: Vec<Backend>,
    /// Backends of either list that run on this node: those that can meet themselves.
    pub here: Vec<Backend>,
}

/// Chooses among a port's endpoints. Ready ones win; if there are none, those that are terminating but still serve are better than
/// refusing. Topology hints narrow the cluster-wide list if every ready endpoint has some and some name our zone.
pub fn choose(endpoints: &[Endpoint], node: &Node) -> Choice {
    let ours: Vec<&Endpoint> = endpoints.iter().filter(|e| Family::of(e.backend.address) == node.family).collect();
    let cluster = in_zone(usable(&ours), node);
    let local = usable(&ours.iter().copied().filter(|e| e.local).collect::<Vec<_>>());
    let here = cluster.iter().filter(|e| e.local).chain(&local).copied().collect();
    Choice { cluster: backends(cluster), local: backends(local), here: backends(here) }
}

fn usable<'a>(endpoints: &[&'a Endpoint]) -> Vec<&'a Endpoint> {
    let ready: Vec<_> = endpoints.iter().copied().filter(|e| e.ready).collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.iter().copied().filter(|e| e.serving && e.terminating).collect()
}

fn in_zone<'a>(endpoints: Vec<&'a Endpoint>, node: &Node) -> Vec<&'a Endpoint> {
    let Some(zone) = &node.zone else {
        return endpoints;
    };
    if endpoints.iter().any(|e| e.zones.is_empty()) {
        return endpoints;
    }
    let near: Vec<_> = endpoints.iter().copied().filter(|e| e.zones.contains(zone)).collect();
    if near.is_empty() { endpoints } else { near }
}

fn backends(endpoints: Vec<&Endpoint>) -> Vec<Backend> {
    let mut backends: Vec<_> = endpoints.into_iter().map(|e| e.backend).collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn node(zone: Option<&str>) -> Node {
        Node { family: Family::V4, pod_cidrs: vec![], zone: zone.map(Into::into), api_servers: BTreeSet::new() }
    }

    fn endpoint(last: u8) -> Endpoint {
        let backend = Backend { address: [10, 244, 0, last].into(), port: 80 };
        Endpoint { backend, ready: true, serving: true, terminating: false, local: last < 10, zones: vec![] }
    }

    fn last(backends: &[Backend]) -> Vec<u8> {
        backends.iter().map(|b| net::octets(b.address)[3]).collect()
    }

    #[test]
    fn terminating_endpoints_serve_only_when_none_is_ready() {
        let leaving = Endpoint { ready: false, terminating: true, ..endpoint(1) };
        let broken = Endpoint { ready: false, serving: false, terminating: true, ..endpoint(2) };
        let choice = choose(&[leaving.clone(), broken.clone(), endpoint(20)], &node(None));
        assert_eq!(last(&choice.cluster), [20]);
        assert_eq!(last(&choice.local), [1], "no local endpoint is ready, so a leaving one serves local traffic");
        assert_eq!(last(&choose(&[leaving, broken], &node(None)).cluster), [1]);
    }

    #[test]
    fn an_endpoint_that_is_neither_ready_nor_terminating_serves_nobody() {
        let unready = Endpoint { ready: false, ..endpoint(1) };
        assert_eq!(choose(&[unready], &node(None)), Choice::default());
    }

    #[test]
    fn hints_count_only_if_all_have_them_and_one_names_our_zone() {
        let hinted = |n, zone: &str| Endpoint { zones: vec![zone.into()], ..endpoint(n) };
        let all = [hinted(1, "a"), hinted(2, "b")];
        assert_eq!(last(&choose(&all, &node(Some("b"))).cluster), [2]);
        assert_eq!(last(&choose(&all, &node(Some("c"))).cluster), [1, 2]);
        assert_eq!(last(&choose(&all, &node(None)).cluster), [1, 2]);
        assert_eq!(last(&choose(&[hinted(1, "a"), endpoint(2)], &node(Some("a"))).cluster), [1, 2]);
    }

    #[test]
    fn duplicates_and_other_families_are_left_out() {
        let v6 = Endpoint { backend: Backend { address: "fd00::1".parse().unwrap(), port: 80 }, ..endpoint(1) };
        assert_eq!(last(&choose(&[endpoint(2), endpoint(1), endpoint(2), v6], &node(None)).cluster), [1, 2]);
    }
}
