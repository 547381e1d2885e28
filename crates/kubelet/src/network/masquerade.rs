//! The one packet filter table of the pod network: traffic from this node's pods to anywhere outside the cluster leaves under the node's address.
//!
//! The table is static and written whole in one transaction, so it can be written again at any time:
//!
//! ```text
//! table ip ferrokube-pods {
//!   chain postrouting {
//!     type nat hook postrouting priority srcnat
//!     ip saddr POD-CIDR ip daddr != CLUSTER-CIDR masquerade fully-random
//!   }
//! }
//! ```

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, InetHookNumber, NfTablesMessage, Operator,
        Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
    },
    none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::Cidr;

const TABLE: &str = "ferrokube-pods";
const CHAIN: &str = "postrouting";
/// `srcnat`, the customary place of source translation.
const PRIORITY: u32 = 100;
/// The nftables subsystem, which a batch names.
const SUBSYSTEM: u16 = 10;
/// The network header as the base of a payload expression, and where the addresses lie in it.
const NETWORK_HEADER: u32 = 1;
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
/// The attribute that holds a masquerade's flags, and the flag.
const MASQUERADE_FLAGS: u16 = 1;
const FULLY_RANDOM: u32 = 1 << 4;

/// Replaces the table. Blocks for some milliseconds.
pub(super) fn install(pods: Cidr, cluster: Cidr) -> io::Result<()> {
    let table = || TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] };
    let chain = ChainMessage {
        attributes: vec![
            ChainAttribute::Table(TABLE.into()),
            ChainAttribute::Name(CHAIN.into()),
            ChainAttribute::Type("nat".into()),
            ChainAttribute::Hook(vec![Hook::Number(InetHookNumber::PostRouting.into()), Hook::Priority(PRIORITY)]),
        ],
    };
    // Ports are picked at random, so that two CPUs do not pick the same one.
    let flags = DefaultNla::new(MASQUERADE_FLAGS, FULLY_RANDOM.to_be_bytes().to_vec());
    let masquerade = Expressions::Other { expression_type: "masq".into(), attributes: vec![flags] };
    let expressions = [
        address_matches(SOURCE_OFFSET, Operator::Equal, pods),
        address_matches(DESTINATION_OFFSET, Operator::NotEqual, cluster),
        vec![masquerade],
    ];
    let rule = RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.into()),
            RuleAttribute::Chain(CHAIN.into()),
            RuleAttribute::Expressions(expressions.into_iter().flatten().map(Into::into).collect()),
        ],
    };
    // Created first so that the deletion never fails; then it is made anew.
    transact(vec![
        NfTablesMessage::NewTable(table()),
        NfTablesMessage::DeleteTable(table()),
        NfTablesMessage::NewTable(table()),
        NfTablesMessage::NewChain(chain),
        NfTablesMessage::NewRule(rule),
    ])
}

/// Loads an IPv4 address from the packet, masks it and compares it with the network.
fn address_matches(offset: u32, operator: Operator, cidr: Cidr) -> Vec<Expressions> {
    let value = |bytes: [u8; 4]| DataAttribute::Value(bytes.to_vec());
    vec![
        Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(offset),
            Payload::Len(4),
        ]),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(4),
            Bitwise::Mask(value(cidr.mask().octets())),
            Bitwise::Xor(value([0; 4])),
        ]),
        Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), Cmp::Data(value(cidr.network().octets()))]),
    ]
}

/// Sends messages as one transaction and waits for the kernel's word on each.
fn transact(messages: Vec<NfTablesMessage>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut batch = Vec::new();
    let mut awaited = 0;
    append(&mut batch, SUBSYSTEM, NetfilterProtoFamily::Unspec, ControlMessage::BatchBegin.into(), NLM_F_REQUEST);
    for message in messages {
        awaited += 1;
        append(
            &mut batch,
            0,
            NetfilterProtoFamily::IPv4,
            message.into(),
            NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK,
        );
    }
    append(&mut batch, SUBSYSTEM, NetfilterProtoFamily::Unspec, ControlMessage::BatchEnd.into(), NLM_F_REQUEST);
    socket.send(&batch, 0)?;
    while awaited > 0 {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
            if let NetlinkPayload::Error(error) = message.payload {
                if error.raw_code() != 0 {
                    return Err(error.to_io());
                }
                awaited -= 1;
            }
            // Messages are padded to four bytes.
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    Ok(())
}

fn append(batch: &mut Vec<u8>, resource: u16, family: NetfilterProtoFamily, inner: NetfilterMessageInner, flags: u16) {
    let mut message = NetlinkMessage::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), inner));
    message.header.flags = flags;
    message.finalize();
    let at = batch.len();
    batch.resize(at + message.buffer_len(), 0);
    message.serialize(&mut batch[at..]);
}
