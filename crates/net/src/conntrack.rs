//! Tracked UDP flows, and the end of those that lead nowhere any more.
//!
//! UDP has no end of connection: as long as a client keeps sending from the same port, connection tracking repeats the translation
//! it chose first. When what it chose is gone, the flow is deleted; the client's next packet is translated anew.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{DefaultNla, NlasIterator, Parseable};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage};

use crate::expr::nested;
use crate::{Channel, Error, Family};

/// A tracked UDP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where the client sends to.
    pub destination: SocketAddr,
    /// Where the reply comes from.
    pub backend: SocketAddr,
    /// Whether the destination was rewritten.
    pub translated: bool,
    /// Whether the source was rewritten.
    pub masqueraded: bool,
}

/// Deletes the UDP flows of a family that are stale. Returns how many; one that ended by itself meanwhile counts too.
///
/// # Errors
/// When the kernel does not list flows or refuses to delete one.
pub fn forget(channel: &mut Channel, family: Family, is_stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
    let stale = channel
        .dump(&list(family), |answer| Ok(parse(answer).filter(|(flow, _)| is_stale(flow)).map(|(_, original)| original)))?;
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
    let protocol = DefaultNla::new(CTA_PROTO_NUM, vec![crate::Protocol::Udp.number()]);
    let flags = DefaultNla::new(CTA_FILTER_ORIG_FLAGS, PROTOCOL_NUMBER.to_ne_bytes().to_vec());
    let attributes = vec![nested(CTA_TUPLE_ORIG, &[nested(CTA_TUPLE_PROTO, &[protocol])]), nested(CTA_FILTER, &[flags])];
    let message_type = u8::from(ConntrackMessageType::Get);
    conntrack(family, ConntrackMessage::Other { message_type, attributes })
}

fn conntrack(family: Family, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family.number().into(), 0, 0), message)
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

fn ends(tuple: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
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
    Some((SocketAddr::new(source?, source_port?), SocketAddr::new(destination?, destination_port?)))
}
