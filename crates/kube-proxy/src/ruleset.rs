//! The rules as values: what a table of ours holds, in the words of nftables, before anything is encoded.
//!
//! A [`Fragment`] is what one owner (the base, or one Service) contributes; [`crate::state::Ruleset`] keeps them all and works out
//! deltas. Chains and affinity sets belong to exactly one owner because their names carry it; set elements may be claimed by several.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use net::Field;

use crate::model::{Backend, Protocol};

/// The name of our table, in whichever family.
pub const TABLE: &str = "ferrokube";
/// The packet mark that asks the postrouting chain to masquerade (bit 14, as Kubernetes has it).
pub const MASQUERADE_MARK: u32 = 0x4000;
/// Clients that can be remembered for one backend; past it, new clients are balanced without being remembered.
pub const STICKY_CAPACITY: u32 = 65_536;
/// The chain that refuses a connection at once.
pub const REJECT: &str = "reject";

/// The name of a chain or set. Cloning is cheap.
pub type Name = Arc<str>;

/// A set or map of the table. All but [`SetKind::Sticky`] exist once, whatever the services are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetKind {
    /// Every ClusterIP: where strangers are masqueraded and unknown ports refused.
    ClusterIps,
    /// Pairs (pod, same pod): connections of a pod to itself through a Service.
    Hairpins,
    /// (address, protocol, port) → chain, for cluster and load-balancer addresses with endpoints.
    Services,
    /// As [`SetKind::Services`], for external addresses, which anyone may write into a Service: never asked about addresses of this host.
    External,
    /// (protocol, port) → chain, for node ports with endpoints.
    NodePorts,
    /// (address, protocol, port) → refusal, for service ports that nothing serves.
    Unserved,
    /// As [`SetKind::Unserved`], for external addresses.
    UnservedExternal,
    /// (protocol, port) → refusal, for node ports that nothing serves.
    UnservedNodePorts,
    /// The clients of one backend of a Service with affinity, each with a timeout; filled by the packets themselves.
    Sticky,
}

/// The key of an element of a static set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// An address, or the pair of an address with itself in [`SetKind::Hairpins`].
    Address(IpAddr),
    /// A service address and port.
    Frontend(IpAddr, Protocol, u16),
    /// A port of the node.
    NodePort(Protocol, u16),
}

/// Names one element of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ElementId {
    /// The set it is in; never [`SetKind::Sticky`], whose elements belong to the kernel.
    pub set: SetKind,
    /// Its key.
    pub key: Key,
}

/// What an element says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It is in the set, and that is all.
    Member,
    /// Go to this chain.
    Goto(Name),
    /// Drop the packet.
    Drop,
}

/// One step of a rule. A match that fails ends the rule; the next rule goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// The source address lies in the prefix.
    SourceIn(IpNet),
    /// The source address lies outside the prefix.
    SourceNotIn(IpNet),
    /// The destination address lies outside the prefix.
    DestinationNotIn(IpNet),
    /// The source is an address of this host.
    SourceLocal,
    /// The destination is an address of this host.
    DestinationLocal,
    /// The destination is no address of this host.
    DestinationElsewhere,
    /// The packet begins a connection.
    NewConnection,
    /// The transport protocol is this one.
    Is(Protocol),
    /// The fields are a member of the set.
    Member(SetKind),
    /// Look the fields up in the map and obey what it says.
    Dispatch(SetKind),
    /// Ask for masquerading later on.
    Mark,
    /// The mark was set; clear it.
    TakeMark,
    /// The source is among the remembered clients of this set.
    Known(Name),
    /// Remember the source in this set, for this long from now.
    Remember(Name, Duration),
    /// Go on in the next of these chains in turn.
    Balance(Arc<[Name]>),
    /// Send the connection to the next of these backends in turn.
    Dnat(Arc<[Backend]>),
    /// Rewrite the source to an address of the outgoing link.
    Masquerade,
    /// Answer with a TCP reset.
    Reset,
    /// Answer with ICMP port unreachable.
    Unreachable,
    /// Drop.
    Drop,
    /// Go on in another chain and come back.
    Jump(Name),
    /// Go on in another chain for good.
    Goto(Name),
}

/// A rule: its steps in order.
pub type Rule = Vec<Statement>;

/// Where a base chain is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// nat, before routing of what arrives.
    NatPrerouting,
    /// nat, before routing of what this host sends.
    NatOutput,
    /// nat, last thing before leaving.
    NatPostrouting,
    /// filter, for this host.
    FilterInput,
    /// filter, passing through.
    FilterForward,
    /// filter, from this host.
    FilterOutput,
}

/// A chain: attached to a hook or only jumped to, and its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The hook of a base chain.
    pub hook: Option<Hook>,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

/// A UDP address and port as clients see it, for telling which tracked flows have outlived their backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// The service address, or `None` for a node port on any address of the host.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// What one owner puts into the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Its chains by name.
    pub chains: BTreeMap<Name, Chain>,
    /// Its sets and maps by name.
    pub sets: BTreeMap<Name, SetKind>,
    /// Its elements of the static sets.
    pub elements: BTreeMap<ElementId, Verdict>,
    /// Its UDP frontends and the backends that may serve them.
    pub udp: BTreeMap<Frontend, BTreeSet<Backend>>,
}

// === impl SetKind ===

impl SetKind {
    /// The sets that exist once, in the order they are made.
    pub const STATIC: [Self; 8] = [
        Self::ClusterIps,
        Self::Hairpins,
        Self::Services,
        Self::External,
        Self::NodePorts,
        Self::Unserved,
        Self::UnservedExternal,
        Self::UnservedNodePorts,
    ];

    /// The name of a static set; `None` for [`SetKind::Sticky`], which is named after its backend.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::ClusterIps => Some("cluster-ips"),
            Self::Hairpins => Some("hairpins"),
            Self::Services => Some("services"),
            Self::External => Some("external"),
            Self::NodePorts => Some("node-ports"),
            Self::Unserved => Some("unserved"),
            Self::UnservedExternal => Some("unserved-external"),
            Self::UnservedNodePorts => Some("unserved-node-ports"),
            Self::Sticky => None,
        }
    }

    /// The packet fields its key is made of.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::ClusterIps => &[Field::Destination],
            Self::Hairpins => &[Field::Source, Field::Destination],
            Self::Services | Self::External | Self::Unserved | Self::UnservedExternal => {
                &[Field::Destination, Field::Protocol, Field::DestinationPort]
            }
            Self::NodePorts | Self::UnservedNodePorts => &[Field::Protocol, Field::DestinationPort],
            Self::Sticky => &[Field::Source],
        }
    }

    /// Whether its elements carry a verdict.
    pub fn is_verdict_map(self) -> bool {
        !matches!(self, Self::ClusterIps | Self::Hairpins | Self::Sticky)
    }
}

// === impl Verdict ===

impl Verdict {
    /// Refuse the connection so that the client knows at once.
    pub fn reject() -> Self {
        Self::Goto(REJECT.into())
    }
}

// === impl ElementId ===

impl ElementId {
    /// The element `key` of `set`.
    pub fn new(set: SetKind, key: Key) -> Self {
        Self { set, key }
    }
}

impl fmt::Display for ElementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.set.name().unwrap_or("sticky");
        match self.key {
            Key::Address(address) => write!(f, "{set} {{ {address} }}"),
            Key::Frontend(address, protocol, port) => {
                write!(f, "{set} {{ {address} . {} . {port} }}", protocol.as_str())
            }
            Key::NodePort(protocol, port) => {
                write!(f, "{set} {{ {} . {port} }}", protocol.as_str())
            }
        }
    }
}

// === impl Fragment ===

impl Fragment {
    /// Adds a chain that is only jumped to.
    pub fn chain(&mut self, name: &Name, rules: Vec<Rule>) {
        self.chains.insert(name.clone(), Chain { hook: None, rules });
    }

    /// Adds a base chain.
    pub fn base_chain(&mut self, name: &str, hook: Hook, rules: Vec<Rule>) {
        self.chains.insert(name.into(), Chain { hook: Some(hook), rules });
    }

    /// Adds an element.
    pub fn element(&mut self, set: SetKind, key: Key, verdict: Verdict) {
        self.elements.insert(ElementId::new(set, key), verdict);
    }

    /// Rules in all chains.
    pub fn rule_count(&self) -> usize {
        self.chains.values().map(|chain| chain.rules.len()).sum()
    }
}
