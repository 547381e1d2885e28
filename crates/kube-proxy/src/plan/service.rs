//! What one Service adds to the table.
//!
//! Chains of a port, all named after namespace, name, protocol and port:
//! `all/…` balances over every backend, `local/…` over this node's, `ext/…` is where traffic from outside enters (and is marked for
//! masquerading unless the policy is Local), `lb/…` guards it with the allowed source ranges; with client-IP affinity there is also
//! `pod/…` for each backend and a set of that name with its clients. A chain exists only if something leads to it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::endpoints::{Choice, choose};
use crate::model::{Backend, Family, Node, Port, Protocol, Service, ServiceKey};
use crate::ruleset::{Fragment, Frontend, Key, Name, Rule, SetKind, Statement, Verdict};

/// The fragment of a Service. A Service without addresses of the node's family has an empty one.
pub fn service(key: &ServiceKey, service: &Service, node: &Node) -> Fragment {
    let mut fragment = Fragment::default();
    for address in of_family(&service.cluster_ips, node.family) {
        fragment.element(SetKind::ClusterIps, Key::Address(address), Verdict::Member);
    }
    for port in &service.ports {
        PortPlan::new(key, service, port, node).add_to(&mut fragment);
    }
    fragment
}

struct PortPlan<'a> {
    id: String,
    service: &'a Service,
    port: &'a Port,
    node: &'a Node,
    choice: Choice,
}

impl<'a> PortPlan<'a> {
    fn new(key: &ServiceKey, service: &'a Service, port: &'a Port, node: &'a Node) -> Self {
        let id = format!("{key}/{}/{}", port.protocol.as_str(), port.port);
        Self { id, service, port, node, choice: choose(&port.endpoints, node) }
    }

    fn add_to(&self, fragment: &mut Fragment) {
        for address in of_family(&self.service.cluster_ips, self.node.family) {
            self.internal(address, fragment);
        }
        self.external(fragment);
        for backend in &self.choice.here {
            fragment.element(SetKind::Hairpins, Key::Address(backend.address), Verdict::Member);
        }
        self.udp(fragment);
    }

    /// A ClusterIP: straight to the backends the internal policy allows.
    fn internal(&self, address: IpAddr, fragment: &mut Fragment) {
        let key = Key::Frontend(address, self.port.protocol, self.port.port);
        let (scope, backends) =
            if self.service.internal_local { (LOCAL, &self.choice.local) } else { (ALL, &self.choice.cluster) };
        if backends.is_empty() {
            fragment.element(SetKind::Unserved, key, self.refusal());
        } else {
            let chain = self.balance(scope, backends, fragment);
            fragment.element(SetKind::Services, key, Verdict::Goto(chain));
        }
    }

    /// External and load-balancer addresses and the node port: all enter by the `ext` chain.
    fn external(&self, fragment: &mut Fragment) {
        let frontend = |address| Key::Frontend(address, self.port.protocol, self.port.port);
        let addresses: Vec<Key> = self.external_ips().map(frontend).collect();
        let balancers: Vec<Key> = of_family(&self.service.load_balancer_ips, self.node.family).map(frontend).collect();
        let node_port = self.port.node_port.map(|port| Key::NodePort(self.port.protocol, port));
        if addresses.is_empty() && balancers.is_empty() && node_port.is_none() {
            return;
        }
        if !self.choice.cluster.is_empty() || (self.service.external_local && !self.choice.local.is_empty()) {
            let entry = self.entry(fragment);
            let guard = if balancers.is_empty() { entry.clone() } else { self.guard(&entry, fragment) };
            for key in &addresses {
                fragment.element(SetKind::External, *key, Verdict::Goto(entry.clone()));
            }
            for key in &balancers {
                fragment.element(SetKind::Services, *key, Verdict::Goto(guard.clone()));
            }
            if let Some(key) = node_port {
                fragment.element(SetKind::NodePorts, key, Verdict::Goto(entry));
            }
        }
        let served = if self.service.external_local { &self.choice.local } else { &self.choice.cluster };
        if served.is_empty() {
            for key in addresses {
                fragment.element(SetKind::UnservedExternal, key, self.refusal());
            }
            for key in balancers {
                fragment.element(SetKind::Unserved, key, self.refusal());
            }
            if let Some(key) = node_port {
                fragment.element(SetKind::UnservedNodePorts, key, self.refusal());
            }
        }
    }

    /// The external addresses that the Service may have.
    fn external_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        of_family(&self.service.external_ips, self.node.family).filter(|address| !self.node.is_taken(*address))
    }

    fn entry(&self, fragment: &mut Fragment) -> Name {
        let mut rules: Vec<Rule> = Vec::new();
        if self.service.external_local {
            // Pods and the host itself are inside the cluster: for them an external address is only another name of the Service.
            if !self.choice.cluster.is_empty() {
                let all = self.balance(ALL, &self.choice.cluster, fragment);
                for cidr in self.node.pod_cidrs() {
                    rules.push(vec![Statement::SourceIn(cidr), Statement::Goto(all.clone())]);
                }
                rules.push(vec![Statement::SourceLocal, Statement::Mark, Statement::Goto(all)]);
            }
            if !self.choice.local.is_empty() {
                rules.push(vec![Statement::Goto(self.balance(LOCAL, &self.choice.local, fragment))]);
            }
        } else {
            let all = self.balance(ALL, &self.choice.cluster, fragment);
            rules.push(vec![Statement::Mark, Statement::Goto(all)]);
        }
        let name: Name = format!("ext/{}", self.id).into();
        fragment.chain(&name, rules);
        name
    }

    fn guard(&self, entry: &Name, fragment: &mut Fragment) -> Name {
        if self.service.source_ranges.is_empty() {
            return entry.clone();
        }
        let allowed = self.service.source_ranges.iter().filter(|cidr| Family::of(cidr.addr()) == self.node.family);
        let mut rules: Vec<Rule> = allowed.map(|cidr| vec![Statement::SourceIn(*cidr), Statement::Goto(entry.clone())]).collect();
        rules.push(vec![Statement::Drop]);
        let name: Name = format!("lb/{}", self.id).into();
        fragment.chain(&name, rules);
        name
    }

    /// The chain that shares connections among `backends`, made on first use.
    fn balance(&self, scope: &str, backends: &[Backend], fragment: &mut Fragment) -> Name {
        let name: Name = format!("{scope}/{}", self.id).into();
        if fragment.chains.contains_key(&name) {
            return name;
        }
        let rules = match self.service.affinity {
            None => vec![vec![Statement::Dnat(backends.into())]],
            Some(timeout) => self.sticky(backends, timeout, fragment),
        };
        fragment.chain(&name, rules);
        name
    }

    /// Known clients go back to their backend; the others are shared out in turn, and remembered in their backend's chain. The set
    /// of a backend goes with it, so its clients are then shared out anew.
    fn sticky(&self, backends: &[Backend], timeout: Duration, fragment: &mut Fragment) -> Vec<Rule> {
        let pods: Vec<Name> = backends.iter().map(|backend| self.pod(*backend, timeout, fragment)).collect();
        let known = |pod: &Name| vec![Statement::Known(pod.clone()), Statement::Goto(pod.clone())];
        let mut rules: Vec<Rule> = pods.iter().map(known).collect();
        rules.push(vec![Statement::Balance(pods.into())]);
        rules
    }

    fn pod(&self, backend: Backend, timeout: Duration, fragment: &mut Fragment) -> Name {
        // nft's grammar allows no colons in names.
        let address = backend.address.to_string().replace(':', "-");
        let name: Name = format!("pod/{}/{address}/{}", self.id, backend.port).into();
        fragment.sets.insert(name.clone(), SetKind::Sticky);
        // Remembering fails when the set is full, and with it its rule, but not the next one.
        let remember = vec![Statement::Remember(name.clone(), timeout)];
        fragment.chain(&name, vec![remember, vec![Statement::Dnat([backend].into())]]);
        name
    }

    /// Nothing anywhere: say so. Something, but not on this node: the client should try another node, so stay silent.
    fn refusal(&self) -> Verdict {
        if self.choice.cluster.is_empty() { Verdict::reject() } else { Verdict::Drop }
    }

    fn udp(&self, fragment: &mut Fragment) {
        if self.port.protocol != Protocol::Udp {
            return;
        }
        let backends: BTreeSet<Backend> = self.choice.cluster.iter().chain(&self.choice.local).copied().collect();
        let given = [&self.service.cluster_ips, &self.service.load_balancer_ips];
        let given = given.into_iter().flat_map(|list| of_family(list, self.node.family));
        for address in given.chain(self.external_ips()) {
            let frontend = Frontend { address: Some(address), port: self.port.port };
            fragment.udp.insert(frontend, backends.clone());
        }
        if let Some(port) = self.port.node_port {
            fragment.udp.insert(Frontend { address: None, port }, backends);
        }
    }
}

const ALL: &str = "all";
const LOCAL: &str = "local";

fn of_family(addresses: &[IpAddr], family: Family) -> impl Iterator<Item = IpAddr> + '_ {
    addresses.iter().copied().filter(move |address| Family::of(*address) == family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;
    use crate::ruleset::ElementId;

    fn node() -> Node {
        Node { family: Family::V4, pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()], zone: None, api_servers: BTreeSet::new() }
    }

    fn endpoint(last: u8, local: bool) -> Endpoint {
        let backend = Backend { address: [10, 244, 1, last].into(), port: 8080 };
        Endpoint { backend, ready: true, serving: true, terminating: false, local, zones: vec![] }
    }

    fn web(endpoints: Vec<Endpoint>) -> Service {
        let port = Port { protocol: Protocol::Tcp, port: 80, node_port: Some(30080), endpoints };
        Service { cluster_ips: vec![[10, 96, 0, 1].into()], ports: vec![port], ..Service::default() }
    }

    fn plan(service: &Service) -> Fragment {
        super::service(&ServiceKey::new("default", "web"), service, &node())
    }

    fn services(fragment: &Fragment, address: [u8; 4]) -> Option<&Verdict> {
        fragment.elements.get(&ElementId::new(SetKind::Services, Key::Frontend(address.into(), Protocol::Tcp, 80)))
    }

    fn unserved(fragment: &Fragment, address: [u8; 4]) -> Option<&Verdict> {
        fragment.elements.get(&ElementId::new(SetKind::Unserved, Key::Frontend(address.into(), Protocol::Tcp, 80)))
    }

    #[test]
    fn a_service_without_endpoints_is_refused_not_ignored() {
        let fragment = plan(&web(vec![]));
        assert!(fragment.chains.is_empty());
        assert_eq!(unserved(&fragment, [10, 96, 0, 1]), Some(&Verdict::reject()));
        let node_port = ElementId::new(SetKind::UnservedNodePorts, Key::NodePort(Protocol::Tcp, 30080));
        assert_eq!(fragment.elements.get(&node_port), Some(&Verdict::reject()));
    }

    #[test]
    fn a_node_port_is_masqueraded_and_shares_the_chain_of_the_cluster_ip() {
        let fragment = plan(&web(vec![endpoint(5, true), endpoint(6, false)]));
        let all: Name = "all/default/web/tcp/80".into();
        assert_eq!(services(&fragment, [10, 96, 0, 1]), Some(&Verdict::Goto(all.clone())));
        assert_eq!(fragment.chains["ext/default/web/tcp/80"].rules, [vec![Statement::Mark, Statement::Goto(all)]]);
        let hairpins: Vec<_> = fragment.elements.keys().filter(|id| id.set == SetKind::Hairpins).collect();
        assert_eq!(hairpins.len(), 1, "only a pod of this node can meet itself");
    }

    #[test]
    fn a_local_policy_without_a_local_endpoint_drops_instead_of_refusing() {
        let mut service = web(vec![endpoint(6, false)]);
        service.internal_local = true;
        service.external_local = true;
        service.external_ips = vec![[203, 0, 113, 1].into()];
        let fragment = plan(&service);
        assert_eq!(unserved(&fragment, [10, 96, 0, 1]), Some(&Verdict::Drop));
        let external =
            |set| fragment.elements.get(&ElementId::new(set, Key::Frontend([203, 0, 113, 1].into(), Protocol::Tcp, 80)));
        assert_eq!(external(SetKind::UnservedExternal), Some(&Verdict::Drop));
        assert!(external(SetKind::External).is_some(), "pods of this node still reach it");
        assert!(!fragment.chains.contains_key("local/default/web/tcp/80"));
    }

    #[test]
    fn the_external_local_policy_keeps_the_clients_address() {
        let mut service = web(vec![endpoint(5, true), endpoint(6, false)]);
        service.external_local = true;
        let rules = plan(&service).chains["ext/default/web/tcp/80"].rules.clone();
        assert_eq!(rules.last().unwrap(), &[Statement::Goto("local/default/web/tcp/80".into())]);
    }

    #[test]
    fn an_external_address_takes_nothing_that_is_somebody_elses() {
        let mut service = web(vec![endpoint(5, true)]);
        service.ports[0].protocol = Protocol::Udp;
        service.external_ips = [[203, 0, 113, 1], [192, 0, 2, 100], [10, 244, 1, 9]].map(Into::into).into();
        let node = Node { api_servers: BTreeSet::from([[192, 0, 2, 100].into()]), ..node() };
        let external = |service: &Service| {
            let fragment = super::service(&ServiceKey::new("default", "web"), service, &node);
            let claims = fragment.elements.keys().filter(|id| matches!(id.set, SetKind::External | SetKind::UnservedExternal));
            let claims: Vec<Key> = claims.map(|id| id.key).collect();
            assert_eq!(fragment.udp.len(), 3, "ClusterIP, node port and one external address");
            claims
        };
        let only = vec![Key::Frontend([203, 0, 113, 1].into(), Protocol::Udp, 80)];
        assert_eq!(external(&service), only);
        service.ports[0].endpoints.clear();
        assert_eq!(external(&service), only, "nor does it refuse on their behalf");
    }

    #[test]
    fn source_ranges_guard_the_load_balancer_address_only() {
        let mut service = web(vec![endpoint(5, true)]);
        service.load_balancer_ips = vec![[203, 0, 113, 9].into()];
        service.external_ips = vec![[203, 0, 113, 1].into()];
        service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
        let fragment = plan(&service);
        assert_eq!(services(&fragment, [203, 0, 113, 9]), Some(&Verdict::Goto("lb/default/web/tcp/80".into())));
        let external = ElementId::new(SetKind::External, Key::Frontend([203, 0, 113, 1].into(), Protocol::Tcp, 80));
        assert_eq!(fragment.elements.get(&external), Some(&Verdict::Goto("ext/default/web/tcp/80".into())));
        assert_eq!(fragment.chains["lb/default/web/tcp/80"].rules.last().unwrap(), &[Statement::Drop]);
    }

    #[test]
    fn affinity_adds_a_chain_and_a_set_for_each_backend() {
        let mut service = web(vec![endpoint(5, true), endpoint(6, false)]);
        service.affinity = Some(Duration::from_secs(10_800));
        service.external_local = true;
        let fragment = plan(&service);
        let pods: Vec<Name> = [5, 6].map(|n| format!("pod/default/web/tcp/80/10.244.1.{n}/8080").into()).into();
        assert_eq!(fragment.sets.keys().cloned().collect::<Vec<_>>(), pods);
        assert!(pods.iter().all(|pod| fragment.chains.contains_key(pod)));
        let all = &fragment.chains["all/default/web/tcp/80"].rules;
        assert_eq!(all.last().unwrap(), &[Statement::Balance(pods.into())]);
        assert_eq!(fragment.chains["local/default/web/tcp/80"].rules.len(), 2, "one known, one balancing rule");
    }

    #[test]
    fn every_chain_gone_to_is_there() {
        let mut service = web(vec![endpoint(5, true), endpoint(6, false)]);
        service.load_balancer_ips = vec![[203, 0, 113, 9].into()];
        service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
        for turn in 0..8 {
            service.affinity = (turn & 4 != 0).then_some(Duration::from_secs(1));
            (service.internal_local, service.external_local) = (turn & 1 != 0, turn & 2 != 0);
            let fragment = plan(&service);
            let rules = fragment.chains.values().flat_map(|chain| chain.rules.iter().flatten());
            let gone_to = rules.filter_map(|s| match s {
                Statement::Goto(name) => Some(vec![name.clone()]),
                Statement::Balance(names) => Some(names.to_vec()),
                _ => None,
            });
            let dispatched = fragment.elements.values().filter_map(|v| match v {
                Verdict::Goto(name) if **name != *crate::ruleset::REJECT => Some(vec![name.clone()]),
                _ => None,
            });
            for name in gone_to.chain(dispatched).flatten() {
                assert!(fragment.chains.contains_key(&name), "{name}");
            }
        }
    }
}
