//! From netlink attributes back to the words of [`crate::ruleset`]: the little that is needed to compare tables.
//!
//! Works on the bytes as the kernel sent them. Rules are never decoded, only their fingerprints read.

use std::net::IpAddr;

use net::address_from;
use net::decode::{attributes, find, text};
use net::expr::Verdict as Code;

use super::encode;
use crate::model::{Family, Protocol};
use crate::ruleset::{ElementId, Hook, Key, SetKind, Verdict};

// Attribute numbers of a listed element.
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// The fingerprint in a rule's comment, if it is one.
pub fn fingerprint_in(comment: &[u8]) -> Option<u64> {
    let text = comment.strip_prefix(&[0, 17])?.get(..16)?;
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// The kind of a set from its attributes as the kernel lists them, or `None` if it is none of ours.
pub fn set_kind(family: Family, name: &str, listed: &[(u16, &[u8])]) -> Option<SetKind> {
    let named = SetKind::STATIC.into_iter().find(|kind| kind.name() == Some(name));
    let kind = named.or_else(|| name.starts_with("pod/").then_some(SetKind::Sticky))?;
    let bytes = encode::set(family, kind).listed();
    attributes(&bytes).all(|expected| listed.contains(&expected)).then_some(kind)
}

/// An element of a static set as the kernel lists it, or `None` if we would not have put it there.
pub fn parse_element(family: Family, set: SetKind, listed: &[u8]) -> Option<(ElementId, Verdict)> {
    let id = ElementId::new(set, parse_key(family, set, find(find(listed, ELEMENT_KEY)?, DATA_VALUE)?)?);
    let Some(data) = find(listed, ELEMENT_DATA) else {
        return Some((id, Verdict::Member));
    };
    let verdict = find(data, DATA_VERDICT)?;
    let code = Code::from(u32::from_be_bytes(find(verdict, VERDICT_CODE)?.try_into().ok()?));
    let verdict = match (code, find(verdict, VERDICT_CHAIN)) {
        (Code::Goto, Some(chain)) => Verdict::Goto(text(chain)?.into()),
        (Code::Other(0), None) => Verdict::Drop,
        _ => return None,
    };
    Some((id, verdict))
}

/// The hook with these properties, if one of ours has them.
pub fn hook_from(kind: &str, number: u32, priority: i32) -> Option<Hook> {
    let all =
        [Hook::NatPrerouting, Hook::NatOutput, Hook::NatPostrouting, Hook::FilterInput, Hook::FilterForward, Hook::FilterOutput];
    all.into_iter().find(|candidate| {
        let known = encode::hook(*candidate);
        (known.kind, known.number, known.priority) == (kind, number, priority)
    })
}

fn parse_key(family: Family, set: SetKind, bytes: &[u8]) -> Option<Key> {
    let take = |from: usize| -> Option<IpAddr> { address_from(bytes.get(from..from + family.address_len())?) };
    let port = |from: usize| -> Option<(Protocol, u16)> {
        let protocol = Protocol::from_number(*bytes.get(from)?)?;
        Some((protocol, u16::from_be_bytes([*bytes.get(from + 4)?, *bytes.get(from + 5)?])))
    };
    match set {
        SetKind::ClusterIps => Some(Key::Address(take(0)?)),
        SetKind::Hairpins => {
            let address = take(0)?;
            (take(family.address_len())? == address).then_some(Key::Address(address))
        }
        SetKind::Services | SetKind::External | SetKind::Unserved | SetKind::UnservedExternal => {
            let (protocol, port) = port(family.address_len())?;
            Some(Key::Frontend(take(0)?, protocol, port))
        }
        SetKind::NodePorts | SetKind::UnservedNodePorts => {
            let (protocol, port) = port(0)?;
            Some(Key::NodePort(protocol, port))
        }
        SetKind::Sticky => None,
    }
}

#[cfg(test)]
mod tests {
    use net::expr::emitted;

    use super::*;

    fn ids() -> Vec<ElementId> {
        let v4 = IpAddr::from([10, 96, 0, 1]);
        vec![
            ElementId::new(SetKind::ClusterIps, Key::Address(v4)),
            ElementId::new(SetKind::Hairpins, Key::Address(v4)),
            ElementId::new(SetKind::Services, Key::Frontend(v4, Protocol::Sctp, 65_535)),
            ElementId::new(SetKind::UnservedNodePorts, Key::NodePort(Protocol::Udp, 30_000)),
        ]
    }

    #[test]
    fn an_element_reads_back_as_it_was_written() {
        for (id, verdict) in
            ids().into_iter().zip([Verdict::Member, Verdict::Member, Verdict::Goto("all/x".into()), Verdict::Drop])
        {
            let listed = emitted([encode::element(id, &verdict)].as_slice());
            let (_, element) = attributes(&listed).next().expect("an element");
            assert_eq!(parse_element(Family::V4, id.set, element), Some((id, verdict)));
        }
    }

    #[test]
    fn a_key_of_another_size_is_no_key_of_ours() {
        for id in ids() {
            let bytes = encode::key(id);
            assert_eq!(parse_key(Family::V4, id.set, &bytes), Some(id.key));
            assert_eq!(parse_key(Family::V4, id.set, &bytes[..bytes.len() - 3]), None);
            assert_eq!(parse_key(Family::V4, id.set, &[]), None);
        }
    }

    #[test]
    fn a_set_that_differs_is_not_ours() {
        let listed = |kind| encode::set(Family::V4, kind).listed();
        let kind = |name: &str, bytes: &[u8]| set_kind(Family::V4, name, &attributes(bytes).collect::<Vec<_>>());
        assert_eq!(kind("services", &listed(SetKind::Services)), Some(SetKind::Services));
        assert_eq!(kind("node-ports", &listed(SetKind::Services)), None);
        assert_eq!(kind("strange", &listed(SetKind::Services)), None);
        assert_eq!(kind("pod/x", &listed(SetKind::Sticky)), Some(SetKind::Sticky));
        assert_eq!(kind("services", &[]), None);
    }
}
