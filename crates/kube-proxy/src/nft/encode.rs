//! From the words of [`crate::ruleset`] to netlink attributes.
//!
//! A rule may need an anonymous map (what comes in turn); it lives and dies with the rule. Every rule carries as
//! its comment a fingerprint of what was encoded, so that a restarted proxy, of this build or another, knows which rules it would
//! write the same way without decoding any.

use netlink_packet_core::Emitable;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, MetaKey, Operator, Register, SetAttribute, SetDescription, SetElementAttribute, SetFlags,
    Verdict as Code,
};

use super::expr::{self, BACKEND, Expr, KEY, key_word};
use crate::model::{Backend, Family, octets};
use crate::ruleset::{ElementId, Field, Hook, Key, MASQUERADE_MARK, Name, Rule, STICKY_CAPACITY, SetKind, Statement, Verdict};

/// A rule, ready to be sent.
#[derive(Debug)]
pub struct Encoded {
    /// The expressions in order.
    pub expressions: Vec<Expr>,
    /// The anonymous sets they look into, in the order of their ids.
    pub anonymous: Vec<Anonymous>,
    start: u32,
}

/// An anonymous set of a rule.
#[derive(Debug)]
pub struct Anonymous {
    /// Its template name; the kernel puts a number in.
    pub name: &'static str,
    /// Its id in the transaction.
    pub id: u32,
    /// What it is made of, without table, name and id.
    pub attributes: Vec<SetAttribute>,
    /// Its elements.
    pub elements: Vec<Element>,
}

/// An element as netlink attributes.
pub type Element = ListAttribute<SetElementAttribute>;

// nft's numbers for data types, which let `nft list` print our sets; the kernel does not look at them.
const TYPE_INTEGER: u32 = 4;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_VERDICT: u32 = 0xffff_ff00;
/// Tells nft that the key is in host byte order (type 0, length, number of that order).
const HOST_ORDER_KEY: [u8; 6] = [0, 4, 1, 0, 0, 0];

/// Encodes a rule whose anonymous sets get the ids from `first_id` on. What comes in turn begins with the choice at `start`, counted round: the
/// kernel begins each rule that is written at its first turn, so with a fixed order the first choice would get more than its share.
pub fn rule(family: Family, rule: &Rule, first_id: u32, start: u32) -> Encoded {
    let mut out = Encoded { expressions: Vec::with_capacity(rule.len() * 3), anonymous: Vec::new(), start };
    for statement in rule {
        out.statement(family, statement, first_id);
    }
    out
}

/// A number that differs (as good as surely) for rules that are encoded differently, wherever they start. Stable across processes and builds.
pub fn fingerprint(family: Family, rule: &Rule) -> u64 {
    let encoded = self::rule(family, rule, 0, 0);
    let mut hash = Fnv::default();
    hash.add(encoded.expressions.as_slice());
    for set in &encoded.anonymous {
        hash.add(set.attributes.as_slice());
        hash.add(set.elements.as_slice());
    }
    hash.0
}

/// The comment that carries a fingerprint, in nft's layout (type 0, length, NUL-terminated text).
pub fn comment(fingerprint: u64) -> Vec<u8> {
    let mut bytes = vec![0, 17];
    bytes.extend_from_slice(format!("{fingerprint:016x}\0").as_bytes());
    bytes
}

/// What a set is made of: all its attributes but table, name and id.
pub fn set(family: Family, kind: SetKind) -> Vec<SetAttribute> {
    let fields = kind.fields();
    let mut flags = SetFlags::empty();
    let mut attributes = vec![
        SetAttribute::KeyType(concat(fields.iter().map(|field| field_type(family, *field)))),
        SetAttribute::KeyLen(len_u32(fields.iter().map(|field| field_words(family, *field) * 4).sum())),
    ];
    if kind.is_verdict_map() {
        flags |= SetFlags::Map;
        attributes.push(SetAttribute::DataType(TYPE_VERDICT));
        attributes.push(SetAttribute::DataLen(0));
    }
    if kind == SetKind::Sticky {
        flags |= SetFlags::Timeout | SetFlags::Eval;
        attributes.push(SetAttribute::Description(vec![SetDescription::Size(STICKY_CAPACITY)]));
    }
    // The kernel does not list what is zero, and would not need it either.
    if !flags.is_empty() {
        attributes.push(SetAttribute::Flags(flags));
    }
    attributes
}

/// An element of a static set.
pub fn element(family: Family, id: ElementId, verdict: &Verdict) -> Element {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(key(id)))];
    match verdict {
        Verdict::Member => {}
        Verdict::Goto(chain) => attributes.push(SetElementAttribute::Data(expr::to_chain(Code::Goto, chain))),
        Verdict::Drop => attributes.push(SetElementAttribute::Data(expr::to_drop())),
    }
    debug_assert!(key(id).len() == id.set.fields().iter().map(|f| field_words(family, *f) * 4).sum::<usize>());
    ListAttribute::Element(attributes)
}

/// How a base chain is attached: chain type, hook number, priority.
pub fn hook(hook: Hook) -> (&'static str, u32, i32) {
    const PREROUTING: u32 = 0;
    const INPUT: u32 = 1;
    const FORWARD: u32 = 2;
    const OUTPUT: u32 = 3;
    const POSTROUTING: u32 = 4;
    match hook {
        Hook::NatPrerouting => ("nat", PREROUTING, -100),
        Hook::NatOutput => ("nat", OUTPUT, -100),
        Hook::NatPostrouting => ("nat", POSTROUTING, 100),
        Hook::FilterInput => ("filter", INPUT, 0),
        Hook::FilterForward => ("filter", FORWARD, 0),
        Hook::FilterOutput => ("filter", OUTPUT, 0),
    }
}

// === impl Encoded ===

impl Encoded {
    fn statement(&mut self, family: Family, statement: &Statement, first_id: u32) {
        match statement {
            Statement::SourceIn(cidr) => self.prefix(Field::Source, *cidr, Operator::Equal),
            Statement::SourceNotIn(cidr) => self.prefix(Field::Source, *cidr, Operator::NotEqual),
            Statement::DestinationNotIn(cidr) => self.prefix(Field::Destination, *cidr, Operator::NotEqual),
            Statement::SourceLocal => self.local(true, Operator::Equal),
            Statement::DestinationLocal => self.local(false, Operator::Equal),
            Statement::DestinationElsewhere => self.local(false, Operator::NotEqual),
            Statement::NewConnection => {
                const NEW: u32 = 1 << 3;
                self.push(expr::ct_state(KEY));
                self.push(expr::bitwise(KEY, host(NEW), host(0)));
                self.push(expr::cmp(KEY, Operator::NotEqual, host(0)));
            }
            Statement::Is(protocol) => {
                self.push(expr::meta_load(MetaKey::L4Proto, KEY));
                self.push(expr::cmp(KEY, Operator::Equal, vec![protocol.number()]));
            }
            Statement::Member(set) => self.lookup(family, *set, None),
            Statement::Dispatch(set) => self.lookup(family, *set, Some(Register::Verdict)),
            Statement::Mark => {
                self.push(expr::meta_load(MetaKey::Mark, KEY));
                self.push(expr::bitwise(KEY, host(!MASQUERADE_MARK), host(MASQUERADE_MARK)));
                self.push(expr::meta_set(MetaKey::Mark, KEY));
            }
            Statement::TakeMark => {
                self.push(expr::meta_load(MetaKey::Mark, KEY));
                self.push(expr::bitwise(KEY, host(MASQUERADE_MARK), host(0)));
                self.push(expr::cmp(KEY, Operator::NotEqual, host(0)));
                self.push(expr::meta_load(MetaKey::Mark, KEY));
                self.push(expr::bitwise(KEY, host(!MASQUERADE_MARK), host(0)));
                self.push(expr::meta_set(MetaKey::Mark, KEY));
            }
            Statement::Known(set) => {
                self.load(family, Field::Source, KEY);
                self.push(expr::lookup(set, None, KEY, None));
            }
            Statement::Remember(set, timeout) => {
                let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                self.load(family, Field::Source, KEY);
                self.push(expr::dynset_update(set, millis));
            }
            Statement::Balance(chains) => self.balance(chains, first_id),
            Statement::Dnat(backends) => {
                self.backend(family, backends, first_id);
                self.push(expr::dnat(family));
            }
            Statement::Masquerade => self.push(expr::masquerade()),
            Statement::Reset => self.push(expr::reject_reset()),
            Statement::Unreachable => self.push(expr::reject_unreachable(family)),
            Statement::Drop => self.push(expr::verdict(expr::to_drop())),
            Statement::Jump(chain) => self.push(expr::verdict(expr::to_chain(Code::Jump, chain))),
            Statement::Goto(chain) => self.push(expr::verdict(expr::to_chain(Code::Goto, chain))),
        }
    }

    fn push(&mut self, expression: Expr) {
        self.expressions.push(expression);
    }

    fn load(&mut self, family: Family, field: Field, to: Register) {
        let len = len_u32(family.address_len());
        let source = match family {
            Family::V4 => 12,
            Family::V6 => 8,
        };
        self.push(match field {
            Field::Source => expr::network_header(source, len, to),
            Field::Destination => expr::network_header(source + len, len, to),
            Field::Protocol => expr::meta_load(MetaKey::L4Proto, to),
            Field::DestinationPort => expr::destination_port(to),
        });
    }

    fn prefix(&mut self, field: Field, cidr: crate::model::Cidr, operator: Operator) {
        self.load(cidr.family(), field, KEY);
        let mask = cidr.mask();
        let zeros = vec![0; mask.len()];
        self.push(expr::bitwise(KEY, mask, zeros));
        self.push(expr::cmp(KEY, operator, octets(cidr.address())));
    }

    fn local(&mut self, source: bool, operator: Operator) {
        const RTN_LOCAL: u32 = 2;
        self.push(expr::fib_type(source, KEY));
        self.push(expr::cmp(KEY, operator, host(RTN_LOCAL)));
    }

    fn lookup(&mut self, family: Family, set: SetKind, to: Option<Register>) {
        let mut word = 0;
        for field in set.fields() {
            self.load(family, *field, key_word(word));
            word += field_words(family, *field);
        }
        self.push(expr::lookup(set.name().unwrap_or_default(), None, KEY, to));
    }

    fn balance(&mut self, chains: &[Name], first_id: u32) {
        if let [only] = chains {
            self.push(expr::verdict(expr::to_chain(Code::Goto, only)));
            return;
        }
        let verdicts = chains.iter().map(|chain| expr::to_chain(Code::Goto, chain)).collect();
        let data = [SetAttribute::DataType(TYPE_VERDICT), SetAttribute::DataLen(0)];
        self.in_turn(verdicts, data, Register::Verdict, first_id);
    }

    /// Loads a backend's address and port.
    fn backend(&mut self, family: Family, backends: &[Backend], first_id: u32) {
        if let [only] = backends {
            self.push(expr::immediate(BACKEND, octets(only.address)));
            self.push(expr::immediate(expr::backend_port(family), only.port.to_be_bytes().to_vec()));
            return;
        }
        let backends = backends.iter().map(|backend| DataAttribute::Value(backend_bytes(*backend))).collect();
        let len = len_u32(family.address_len() + 4);
        let kind = concat([address_type(family), TYPE_SERVICE].into_iter());
        self.in_turn(backends, [SetAttribute::DataType(kind), SetAttribute::DataLen(len)], BACKEND, first_id);
    }

    /// Loads, or obeys, one of `choices` after the other.
    fn in_turn(&mut self, mut choices: Vec<DataAttribute>, data: [SetAttribute; 2], to: Register, first_id: u32) {
        let count = len_u32(choices.len());
        choices.rotate_left(self.start.checked_rem(count).unwrap_or(0) as usize);
        let elements = (0..count).zip(choices).map(|(turn, choice)| {
            ListAttribute::Element(vec![
                SetElementAttribute::Key(DataAttribute::Value(host(turn))),
                SetElementAttribute::Data(choice),
            ])
        });
        let mut attributes = vec![
            SetAttribute::KeyType(TYPE_INTEGER),
            SetAttribute::KeyLen(4),
            SetAttribute::Flags(SetFlags::Anonymous | SetFlags::Constant | SetFlags::Map),
            SetAttribute::UserData(HOST_ORDER_KEY.to_vec()),
        ];
        attributes.extend(data);
        let (name, id) = self.anonymous("__map%d", first_id, attributes, elements.collect());
        self.push(expr::numgen_inc(count, KEY));
        self.push(expr::lookup(name, Some(id), KEY, Some(to)));
    }

    fn anonymous(
        &mut self,
        name: &'static str,
        first_id: u32,
        mut attributes: Vec<SetAttribute>,
        elements: Vec<Element>,
    ) -> (&'static str, u32) {
        let id = first_id.wrapping_add(len_u32(self.anonymous.len()));
        attributes.push(SetAttribute::Description(vec![SetDescription::Size(len_u32(elements.len()))]));
        self.anonymous.push(Anonymous { name, id, attributes, elements });
        (name, id)
    }
}

/// FNV-1a, 64 bits: short, and the same everywhere, which [`std::hash`] does not promise.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, encoded: impl Emitable) {
        for byte in emitted(encoded) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The bytes of attributes.
pub fn emitted(encoded: impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; encoded.buffer_len()];
    encoded.emit(&mut bytes);
    bytes
}

fn host(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn field_words(family: Family, field: Field) -> usize {
    match field {
        Field::Source | Field::Destination => family.address_len() / 4,
        Field::Protocol | Field::DestinationPort => 1,
    }
}

fn address_type(family: Family) -> u32 {
    match family {
        Family::V4 => TYPE_IPV4,
        Family::V6 => TYPE_IPV6,
    }
}

fn field_type(family: Family, field: Field) -> u32 {
    match field {
        Field::Source | Field::Destination => address_type(family),
        Field::Protocol => TYPE_PROTOCOL,
        Field::DestinationPort => TYPE_SERVICE,
    }
}

/// nft's number for a concatenation: six bits a part.
fn concat(parts: impl Iterator<Item = u32>) -> u32 {
    parts.fold(0, |sum, part| sum << 6 | part)
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

    #[test]
    fn concatenations_have_nfts_numbers() {
        let SetAttribute::KeyType(number) = set(Family::V4, SetKind::Services)[0] else { panic!("a key type") };
        assert_eq!(number, (7 << 12) | (12 << 6) | 13);
    }
}
