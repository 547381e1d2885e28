//! Single expressions, including those the netlink crate has no types for: nat, masquerade, numgen, ct, fib, reject and dynset.
//!
//! Attribute numbers are those of `include/uapi/linux/netfilter/nf_tables.h`; netlink carries their values in network byte order.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta, Payload,
    VerdictAttribute,
};
pub use netlink_packet_netfilter::nftables::{MetaKey, Operator, Register, Verdict};

use crate::Family;

/// An expression as an element of a rule's list.
pub type Expr = ListAttribute<ExpressionAttribute>;

/// Where keys are built for lookups; runs on through the following 32-bit registers.
pub const KEY: Register = Register::Reg32_00;

/// The register `words` 32-bit words after the first key register.
pub fn key_word(words: usize) -> Register {
    Register::from(u32::from(KEY).saturating_add(u32::try_from(words).unwrap_or(u32::MAX)))
}

/// Loads `len` bytes at `offset` of the network header.
pub fn network_header(offset: u32, len: u32, to: Register) -> Expr {
    payload(1, offset, len, to)
}

/// Loads the destination port, which all our protocols have at the same place.
pub fn destination_port(to: Register) -> Expr {
    payload(2, 2, 2, to)
}

fn payload(base: u32, offset: u32, len: u32, to: Register) -> Expr {
    Expressions::Payload(vec![Payload::DestinationRegister(to), Payload::Base(base), Payload::Offset(offset), Payload::Len(len)])
        .into()
}

/// Loads a packet property.
pub fn meta_load(key: MetaKey, to: Register) -> Expr {
    Expressions::Meta(vec![Meta::DestinationRegister(to), Meta::Key(key)]).into()
}

/// Sets a packet property.
pub fn meta_set(key: MetaKey, from: Register) -> Expr {
    Expressions::Meta(vec![Meta::SourceRegister(from), Meta::Key(key)]).into()
}

/// Goes on only if the register compares so with `data`.
pub fn cmp(register: Register, operator: Operator, data: Vec<u8>) -> Expr {
    Expressions::Cmp(vec![Cmp::SourceRegister(register), Cmp::Op(operator), Cmp::Data(DataAttribute::Value(data))]).into()
}

/// `register = (register & mask) ^ xor`.
pub fn bitwise(register: Register, mask: Vec<u8>, xor: Vec<u8>) -> Expr {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register),
        Bitwise::DestinationRegister(register),
        Bitwise::Length(u32::try_from(mask.len()).unwrap_or(u32::MAX)),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(xor)),
    ])
    .into()
}

/// Loads a constant.
pub fn immediate(to: Register, data: Vec<u8>) -> Expr {
    Expressions::Immediate(vec![Immediate::DestinationRegister(to), Immediate::Data(DataAttribute::Value(data))]).into()
}

/// Ends the rule with a verdict.
pub fn verdict(data: DataAttribute) -> Expr {
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(data)]).into()
}

/// The data of a verdict that leads to a chain: [`Verdict::Jump`] and back, or [`Verdict::Goto`] for good.
pub fn to_chain(code: Verdict, chain: &str) -> DataAttribute {
    DataAttribute::Verdict(vec![VerdictAttribute::Code(code), VerdictAttribute::Chain(chain.to_owned())])
}

/// The data of the drop verdict.
pub fn to_drop() -> DataAttribute {
    const NF_DROP: u32 = 0;
    DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_DROP))])
}

/// Looks a key up; with `to`, what it maps to is loaded (or, for [`Register::Verdict`], obeyed). `id` is given for sets made in the
/// same transaction.
pub fn lookup(set: &str, id: Option<u32>, from: Register, to: Option<Register>) -> Expr {
    let mut attributes = vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(from)];
    attributes.extend(to.map(Lookup::DestinationRegister));
    attributes.extend(id.map(Lookup::SetId));
    Expressions::Lookup(attributes).into()
}

/// Loads 0, 1, … `modulus` − 1, 0, … in turn, in host byte order.
pub fn numgen_inc(modulus: u32, to: Register) -> Expr {
    const DREG: u16 = 1;
    const MODULUS: u16 = 2;
    const TYPE: u16 = 3;
    const INCREMENTAL: u32 = 0;
    other("numgen", vec![u32_be(DREG, to.into()), u32_be(MODULUS, modulus), u32_be(TYPE, INCREMENTAL)])
}

/// Loads the connection-tracking state bits, in host byte order.
pub fn ct_state(to: Register) -> Expr {
    const DREG: u16 = 1;
    const KEY: u16 = 2;
    const STATE: u32 = 0;
    other("ct", vec![u32_be(DREG, to.into()), u32_be(KEY, STATE)])
}

/// Loads the routing type of the source or destination address, in host byte order.
pub fn fib_type(source: bool, to: Register) -> Expr {
    const DREG: u16 = 1;
    const RESULT: u16 = 2;
    const FLAGS: u16 = 3;
    const ADDRTYPE: u32 = 3;
    let flags = if source { 1 } else { 2 };
    other("fib", vec![u32_be(DREG, to.into()), u32_be(RESULT, ADDRTYPE), u32_be(FLAGS, flags)])
}

/// Rewrites the destination to the address and port in these registers.
pub fn dnat(family: Family, address: Register, port: Register) -> Expr {
    const TYPE: u16 = 1;
    const FAMILY: u16 = 2;
    const REG_ADDR_MIN: u16 = 3;
    const REG_PROTO_MIN: u16 = 5;
    const DNAT: u32 = 1;
    other(
        "nat",
        vec![
            u32_be(TYPE, DNAT),
            u32_be(FAMILY, family.number().into()),
            u32_be(REG_ADDR_MIN, address.into()),
            u32_be(REG_PROTO_MIN, port.into()),
        ],
    )
}

/// Rewrites the source to the outgoing link's address, with ports picked at random so that two CPUs do not pick the same one.
pub fn masquerade() -> Expr {
    const FLAGS: u16 = 1;
    const FULLY_RANDOM: u32 = 1 << 4;
    other("masq", vec![u32_be(FLAGS, FULLY_RANDOM)])
}

/// Answers with a TCP reset.
pub fn reject_reset() -> Expr {
    const TCP_RST: u32 = 1;
    other("reject", vec![u32_be(REJECT_TYPE, TCP_RST), DefaultNla::new(REJECT_CODE, vec![0])])
}

/// Answers with ICMP port unreachable.
pub fn reject_unreachable(family: Family) -> Expr {
    const ICMP_UNREACH: u32 = 0;
    let port_unreachable = match family {
        Family::V4 => 3,
        Family::V6 => 4,
    };
    other("reject", vec![u32_be(REJECT_TYPE, ICMP_UNREACH), DefaultNla::new(REJECT_CODE, vec![port_unreachable])])
}

const REJECT_TYPE: u16 = 1;
const REJECT_CODE: u16 = 2;

/// Adds the key in [`KEY`] to the set from the packet path, or begins its time anew. `timeout` is in milliseconds.
pub fn dynset_update(set: &str, timeout: u64) -> Expr {
    const SET_NAME: u16 = 1;
    const OP: u16 = 3;
    const SREG_KEY: u16 = 4;
    const TIMEOUT: u16 = 6;
    const UPDATE: u32 = 1;
    let timeout = DefaultNla::new(TIMEOUT, timeout.to_be_bytes().to_vec());
    other("dynset", vec![string(SET_NAME, set), u32_be(OP, UPDATE), u32_be(SREG_KEY, KEY.into()), timeout])
}

/// A 32-bit attribute in network byte order.
pub fn u32_be(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// A NUL-terminated text attribute.
pub fn string(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

/// An attribute that holds encoded attributes.
pub fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, emitted(attributes))
}

/// The bytes of attributes.
pub fn emitted(encoded: impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; encoded.buffer_len()];
    encoded.emit(&mut bytes);
    bytes
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expr {
    Expressions::Other { expression_type: name.to_owned(), attributes }.into()
}
