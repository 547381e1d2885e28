//! Tracked UDP flows that lead to backends which are gone.
//!
//! UDP has no end of connection: as long as a client keeps sending from the same port, connection tracking repeats the translation
//! it chose first. So when a backend leaves, the flows to it are deleted; the client's next packet is balanced anew.

use std::collections::HashMap;
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NlasIterator, Parseable};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage};

use super::expr::{family_number, nested};
use super::socket::{Channel, Error};
use crate::dataplane::{Flow, FlowCheck};
use crate::model::{Backend, Family};
use crate::ruleset::Frontend;

/// Deletes the flows that a check finds stale. Returns how many; one that ended by itself meanwhile counts too.
pub fn forget(channel: &mut Channel, family: Family, checks: &[FlowCheck]) -> Result<usize, Error> {
    if checks.is_empty() {
        return Ok(0);
    }
    let by_frontend: HashMap<Frontend, &FlowCheck> = checks.iter().map(|check| (check.frontend, check)).collect();
    let stale = channel.dump(&list(family), |answer| {
        let Some((flow, original)) = parse(answer) else {
            return Ok(None);
        };
        let (address, port) = (flow.destination.address, flow.destination.port);
        let frontends = [Frontend { address: Some(address), port }, Frontend { address: None, port }];
        let stale = frontends.iter().filter_map(|frontend| by_frontend.get(frontend)).any(|check| check.is_stale(&flow));
        Ok(stale.then_some(original))
    })?;
    for original in &stale {
        let message = ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(original.clone())]);
        match channel.request(&conntrack(family, message)) {
            Err(error) if !error.is_absent() => return Err(error),
            _ => {}
        }
    }
    Ok(stale.len())
}

/// The request for all UDP flows; the kernel filters, so that a busy node's TCP connections are not copied.
fn list(family: Family) -> NetfilterMessage {
    const CTA_TUPLE_ORIG: u16 = 1;
    const CTA_FILTER: u16 = 25;
    const CTA_FILTER_ORIG_FLAGS: u16 = 1;
    const PROTOCOL_NUMBER: u32 = 1 << 3;
    const CTA_TUPLE_PROTO: u16 = 2;
    const CTA_PROTO_NUM: u16 = 1;
    // Spelt out in plain attributes: the crate's type would lose the filter's nested flag, on which the kernel insists.
    let protocol = DefaultNla::new(CTA_PROTO_NUM, vec![crate::model::Protocol::Udp.number()]);
    let flags = DefaultNla::new(CTA_FILTER_ORIG_FLAGS, PROTOCOL_NUMBER.to_ne_bytes().to_vec());
    let attributes = vec![nested(CTA_TUPLE_ORIG, &[nested(CTA_TUPLE_PROTO, &[protocol])]), nested(CTA_FILTER, &[flags])];
    let message_type = u8::from(ConntrackMessageType::Get);
    conntrack(family, ConntrackMessage::Other { message_type, attributes })
}

fn conntrack(family: Family, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family_number(family).into(), 0, 0), message)
}

/// A UDP flow and the tuple that names it.
fn parse(flow: &[u8]) -> Option<(Flow, Vec<Tuple>)> {
    let mut original = None;
    let mut reply = None;
    let (mut translated, mut masqueraded) = (false, false);
    for attribute in NlasIterator::new(flow) {
        match ConntrackAttribute::parse(&attribute.ok()?).ok()? {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = Some(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = Some(tuple),
            ConntrackAttribute::CtaStatus(status) => {
                (translated, masqueraded) = (status.contains(Status::DstNat), status.contains(Status::SrcNat));
            }
            _ => {}
        }
    }
    let original = original?;
    let (_, destination) = ends(&original)?;
    let (backend, _) = ends(&reply?)?;
    Some((Flow { destination, backend, translated, masqueraded }, original))
}

fn ends(tuple: &[Tuple]) -> Option<(Backend, Backend)> {
    let (mut source, mut destination): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut source_port, mut destination_port) = (None, None);
    for part in tuple {
        match part {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(Protocol::Udp) => {}
                        ProtoTuple::Protocol(_) => return None,
                        ProtoTuple::SourcePort(port) => source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((Backend { address: source?, port: source_port? }, Backend { address: destination?, port: destination_port? }))
}
