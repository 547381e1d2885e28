//! From the words of [`crate::ruleset`] to netfilter's.
//!
//! Every rule carries as its comment a fingerprint of what was encoded, so that a restarted proxy, of this build or another, knows which
//! rules it would write the same way without decoding any.

use net::expr::{self, KEY, MetaKey, Operator, Register, Verdict as Code};
use net::{Element, Field, Set, octets};

use crate::model::{Backend, Family};
use crate::ruleset::{ElementId, Hook, Key, MASQUERADE_MARK, Rule, STICKY_CAPACITY, SetKind, Statement, Verdict};

/// Where the chosen backend lies: its address, then its port in [`backend_port`].
const BACKEND: Register = Register::Reg32_04;

/// Encodes a rule whose anonymous sets get the ids from `first_id` on, and whose turns begin with the choice at `start`.
pub fn rule(family: Family, rule: &Rule, first_id: u32, start: u32) -> net::Rule {
    let mut out = net::Rule::new(first_id);
    for step in rule {
        statement(&mut out, family, step, start);
    }
    out
}

/// A number that differs (as good as surely) for rules that are encoded differently, wherever they start. Stable across processes and builds.
pub fn fingerprint(family: Family, rule: &Rule) -> u64 {
    self::rule(family, rule, 0, 0).fingerprint()
}

/// The comment that carries a fingerprint, in nft's layout (type 0, length, NUL-terminated text).
pub fn comment(fingerprint: u64) -> Vec<u8> {
    let mut bytes = vec![0, 17];
    bytes.extend_from_slice(format!("{fingerprint:016x}\0").as_bytes());
    bytes
}

/// What a set is made of.
pub fn set(family: Family, kind: SetKind) -> Set {
    let set = Set::of(family, kind.fields());
    match kind {
        SetKind::Sticky => set.of_passers(STICKY_CAPACITY),
        _ if kind.is_verdict_map() => set.of_verdicts(),
        _ => set,
    }
}

/// An element of a static set.
pub fn element(id: ElementId, verdict: &Verdict) -> Element {
    let data = match verdict {
        Verdict::Member => None,
        Verdict::Goto(chain) => Some(expr::to_chain(Code::Goto, chain)),
        Verdict::Drop => Some(expr::to_drop()),
    };
    net::element(key(id), data)
}

/// How a base chain is attached.
pub fn hook(hook: Hook) -> net::Hook {
    match hook {
        Hook::NatPrerouting => net::Hook::NAT_PREROUTING,
        Hook::NatOutput => net::Hook::NAT_OUTPUT,
        Hook::NatPostrouting => net::Hook::NAT_POSTROUTING,
        Hook::FilterInput => net::Hook::FILTER_INPUT,
        Hook::FilterForward => net::Hook::FILTER_FORWARD,
        Hook::FilterOutput => net::Hook::FILTER_OUTPUT,
    }
}

fn statement(out: &mut net::Rule, family: Family, statement: &Statement, start: u32) {
    match statement {
        Statement::SourceIn(cidr) => out.network(Field::Source, Operator::Equal, *cidr),
        Statement::SourceNotIn(cidr) => out.network(Field::Source, Operator::NotEqual, *cidr),
        Statement::DestinationNotIn(cidr) => out.network(Field::Destination, Operator::NotEqual, *cidr),
        Statement::SourceLocal => local(out, true, Operator::Equal),
        Statement::DestinationLocal => local(out, false, Operator::Equal),
        Statement::DestinationElsewhere => local(out, false, Operator::NotEqual),
        Statement::NewConnection => {
            const NEW: u32 = 1 << 3;
            out.push(expr::ct_state(KEY));
            out.push(expr::bitwise(KEY, host(NEW), host(0)));
            out.push(expr::cmp(KEY, Operator::NotEqual, host(0)));
        }
        Statement::Is(protocol) => {
            out.push(expr::meta_load(MetaKey::L4Proto, KEY));
            out.push(expr::cmp(KEY, Operator::Equal, vec![protocol.number()]));
        }
        Statement::Member(set) => out.lookup(family, set.fields(), set.name().unwrap_or_default(), None),
        Statement::Dispatch(set) => out.lookup(family, set.fields(), set.name().unwrap_or_default(), Some(Register::Verdict)),
        Statement::Mark => {
            out.push(expr::meta_load(MetaKey::Mark, KEY));
            out.push(expr::bitwise(KEY, host(!MASQUERADE_MARK), host(MASQUERADE_MARK)));
            out.push(expr::meta_set(MetaKey::Mark, KEY));
        }
        Statement::TakeMark => {
            out.push(expr::meta_load(MetaKey::Mark, KEY));
            out.push(expr::bitwise(KEY, host(MASQUERADE_MARK), host(0)));
            out.push(expr::cmp(KEY, Operator::NotEqual, host(0)));
            out.push(expr::meta_load(MetaKey::Mark, KEY));
            out.push(expr::bitwise(KEY, host(!MASQUERADE_MARK), host(0)));
            out.push(expr::meta_set(MetaKey::Mark, KEY));
        }
        Statement::Known(set) => out.lookup(family, &[Field::Source], set, None),
        Statement::Remember(set, timeout) => {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            out.load(family, Field::Source, KEY);
            out.push(expr::dynset_update(set, millis));
        }
        Statement::Balance(chains) => out.goto_in_turn(chains, start),
        Statement::Dnat(backends) => {
            backend(out, family, backends, start);
            out.push(expr::dnat(family, BACKEND, backend_port(family)));
        }
        Statement::Masquerade => out.push(expr::masquerade()),
        Statement::Reset => out.push(expr::reject_reset()),
        Statement::Unreachable => out.push(expr::reject_unreachable(family)),
        Statement::Drop => out.push(expr::verdict(expr::to_drop())),
        Statement::Jump(chain) => out.push(expr::verdict(expr::to_chain(Code::Jump, chain))),
        Statement::Goto(chain) => out.push(expr::verdict(expr::to_chain(Code::Goto, chain))),
    }
}

fn local(out: &mut net::Rule, source: bool, operator: Operator) {
    const RTN_LOCAL: u32 = 2;
    out.push(expr::fib_type(source, KEY));
    out.push(expr::cmp(KEY, operator, host(RTN_LOCAL)));
}

/// Loads a backend's address and port.
fn backend(out: &mut net::Rule, family: Family, backends: &[Backend], start: u32) {
    if let [only] = backends {
        out.push(expr::immediate(BACKEND, octets(only.address)));
        out.push(expr::immediate(backend_port(family), only.port.to_be_bytes().to_vec()));
        return;
    }
    let choices = backends.iter().map(|backend| backend_bytes(*backend)).collect();
    out.load_in_turn(family, &[Field::Destination, Field::DestinationPort], choices, start, BACKEND);
}

/// The register of the backend's port, right after its address.
fn backend_port(family: Family) -> Register {
    expr::key_word(4 + family.address_len() / 4)
}

fn host(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

fn padded_port(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![high, low, 0, 0]
}

fn backend_bytes(backend: Backend) -> Vec<u8> {
    let mut bytes = octets(backend.address);
    bytes.extend(padded_port(backend.port));
    bytes
}

/// The bytes of a key.
pub fn key(id: ElementId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16);
    match id.key {
        Key::Address(address) => {
            for _ in id.set.fields() {
                bytes.extend(octets(address));
            }
        }
        Key::Frontend(address, protocol, port) => {
            bytes.extend(octets(address));
            bytes.extend([protocol.number(), 0, 0, 0]);
            bytes.extend(padded_port(port));
        }
        Key::NodePort(protocol, port) => {
            bytes.extend([protocol.number(), 0, 0, 0]);
            bytes.extend(padded_port(port));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::decode::fingerprint_in;
    use super::*;

    #[test]
    fn fingerprints_survive_the_comment_and_tell_rules_apart() {
        let backend = |port| Backend { address: [10, 244, 0, 1].into(), port };
        let balance = |ports: &[u16]| vec![Statement::Dnat(ports.iter().map(|p| backend(*p)).collect())];
        let one = fingerprint(Family::V4, &balance(&[80, 81]));
        assert_eq!(fingerprint_in(&comment(one)), Some(one));
        assert_eq!(one, fingerprint(Family::V4, &balance(&[80, 81])));
        assert_ne!(one, fingerprint(Family::V4, &balance(&[80, 82])));
        assert_ne!(one, fingerprint(Family::V4, &balance(&[80])));
        for other in [&b""[..], b"\0\x11short", b"\x01\x110123456789abcdef\0"] {
            assert_eq!(fingerprint_in(other), None);
        }
    }
}
