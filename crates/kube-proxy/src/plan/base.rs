//! The frame of the table: hooks, dispatch, masquerading and refusal.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::{Family, Node, Protocol};
use crate::ruleset::{Fragment, Hook, REJECT, SetKind, Statement};

const SERVICES: &str = "services";
const UNSERVED: &str = "unserved";

/// The chains and sets that exist whatever the services are.
pub fn base(node: &Node) -> Fragment {
    let mut table = Fragment::default();
    for kind in SetKind::STATIC {
        if let Some(name) = kind.name() {
            table.sets.insert(name.into(), kind);
        }
    }
    let to_services = vec![vec![Statement::Jump(SERVICES.into())]];
    table.base_chain("nat-prerouting", Hook::NatPrerouting, to_services.clone());
    table.base_chain("nat-output", Hook::NatOutput, to_services);
    table.base_chain(
        "nat-postrouting",
        Hook::NatPostrouting,
        vec![vec![Statement::TakeMark, Statement::Masquerade], vec![Statement::Member(SetKind::Hairpins), Statement::Masquerade]],
    );

    let mut dispatch = Vec::new();
    let strangers: Vec<Statement> = node.pod_cidrs().map(Statement::SourceNotIn).collect();
    if !strangers.is_empty() {
        let mut rule = vec![Statement::Member(SetKind::ClusterIps)];
        rule.extend(strangers);
        rule.push(Statement::Mark);
        dispatch.push(rule);
    }
    dispatch.push(vec![Statement::Dispatch(SetKind::Services)]);
    dispatch.push(vec![Statement::DestinationElsewhere, Statement::Dispatch(SetKind::External)]);
    dispatch.push(vec![
        Statement::DestinationLocal,
        Statement::DestinationNotIn(loopback(node.family)),
        Statement::Dispatch(SetKind::NodePorts),
    ]);
    table.chain(&SERVICES.into(), dispatch);

    // Refusal happens after translation: whatever still carries a service's address was not sent to a backend.
    let check = vec![vec![Statement::NewConnection, Statement::Jump(UNSERVED.into())]];
    table.base_chain("filter-input", Hook::FilterInput, check.clone());
    table.base_chain("filter-forward", Hook::FilterForward, check.clone());
    table.base_chain("filter-output", Hook::FilterOutput, check);
    table.chain(
        &UNSERVED.into(),
        vec![
            vec![Statement::Dispatch(SetKind::Unserved)],
            vec![Statement::DestinationElsewhere, Statement::Dispatch(SetKind::UnservedExternal)],
            vec![Statement::DestinationLocal, Statement::Dispatch(SetKind::UnservedNodePorts)],
            vec![Statement::Member(SetKind::ClusterIps), Statement::Goto(REJECT.into())],
        ],
    );
    table.chain(&REJECT.into(), vec![vec![Statement::Is(Protocol::Tcp), Statement::Reset], vec![Statement::Unreachable]]);
    table
}

/// Node ports are not served on loopback: the reply could not leave it.
fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn strangers_are_marked_only_when_the_pods_prefix_is_known() {
        let unknown = Node { family: Family::V4, pod_cidrs: vec![], zone: None, api_servers: BTreeSet::new() };
        let known = Node { pod_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()], ..unknown.clone() };
        assert_eq!(base(&unknown).chains[SERVICES].rules.len(), 3);
        let rules = &base(&known).chains[SERVICES].rules;
        assert_eq!(
            rules[0],
            [Statement::Member(SetKind::ClusterIps), Statement::SourceNotIn("10.244.0.0/16".parse().unwrap()), Statement::Mark]
        );
    }

    #[test]
    fn every_chain_gone_to_is_there() {
        let table = base(&Node { family: Family::V4, pod_cidrs: vec![], zone: None, api_servers: BTreeSet::new() });
        for rule in table.chains.values().flat_map(|chain| &chain.rules) {
            for statement in rule {
                if let Statement::Goto(name) | Statement::Jump(name) = statement {
                    assert!(table.chains.contains_key(name), "{name}");
                }
            }
        }
    }
}
