//! A rule: expressions in a row, and the anonymous maps that live and die with it.

use ipnet::IpNet;
use netlink_packet_netfilter::nftables::{DataAttribute, MetaKey, Operator, Register, Verdict};

use crate::{
    Element, Expr, Family, Field, Set, element,
    expr::{self, KEY},
    octets,
};

/// The anonymous map's template name; the kernel puts a number in.
const ANONYMOUS: &str = "__map%d";

/// A rule, ready to be sent. An expression that does not match ends it; the next rule goes on.
#[derive(Debug, Default)]
pub struct Rule {
    pub(crate) expressions: Vec<Expr>,
    pub(crate) anonymous: Vec<Anonymous>,
    first_id: u32,
}

/// An anonymous set of a rule.
#[derive(Debug)]
pub(crate) struct Anonymous {
    pub(crate) name: &'static str,
    pub(crate) id: u32,
    pub(crate) set: Set,
    pub(crate) elements: Vec<Element>,
}

impl Rule {
    /// An empty rule, whose anonymous sets get the ids from `first_id` on, as [`Batch::next_set_id`](crate::Batch::next_set_id) says them.
    pub fn new(first_id: u32) -> Self {
        Self { first_id, ..Self::default() }
    }

    /// Adds an expression.
    pub fn push(&mut self, expression: Expr) {
        self.expressions.push(expression);
    }

    /// Loads a field of the packet.
    pub fn load(&mut self, family: Family, field: Field, to: Register) {
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

    /// Goes on only if an address lies in the network ([`Operator::Equal`]) or outside ([`Operator::NotEqual`]).
    pub fn network(&mut self, field: Field, operator: Operator, network: IpNet) {
        self.load(Family::of(network.addr()), field, KEY);
        let mask = octets(network.netmask());
        let zeros = vec![0; mask.len()];
        self.push(expr::bitwise(KEY, mask, zeros));
        self.push(expr::cmp(KEY, operator, octets(network.network())));
    }

    /// Looks fields up in a set or map; with `to`, what they map to is loaded (or, for [`Register::Verdict`], obeyed).
    pub fn lookup(&mut self, family: Family, fields: &[Field], set: &str, to: Option<Register>) {
        let mut word = 0;
        for field in fields {
            self.load(family, *field, expr::key_word(word));
            word += field.words(family);
        }
        self.push(expr::lookup(set, None, KEY, to));
    }

    /// Goes on in one of these chains after the other. What comes in turn begins with the choice at `start`, counted round: the kernel begins each
    /// rule that is written at its first turn, so with a fixed order the first choice would get more than its share.
    pub fn goto_in_turn(&mut self, chains: &[impl AsRef<str>], start: u32) {
        let verdict = |chain: &_| expr::to_chain(Verdict::Goto, AsRef::<str>::as_ref(chain));
        match chains {
            [only] => self.push(expr::verdict(verdict(only))),
            _ => self.in_turn(chains.iter().map(verdict).collect(), Set::of_verdicts, start, Register::Verdict),
        }
    }

    /// Loads one of these choices after the other, as values of `fields`; see [`Self::goto_in_turn`].
    pub fn load_in_turn(&mut self, family: Family, fields: &[Field], choices: Vec<Vec<u8>>, start: u32, to: Register) {
        let choices = choices.into_iter().map(DataAttribute::Value).collect();
        self.in_turn(choices, |set| set.of_values(family, fields), start, to);
    }

    fn in_turn(&mut self, mut choices: Vec<DataAttribute>, data: impl FnOnce(Set) -> Set, start: u32, to: Register) {
        let count = len_u32(choices.len());
        choices.rotate_left(start.checked_rem(count).unwrap_or(0) as usize);
        let elements = (0..count).zip(choices).map(|(turn, choice)| element(turn.to_ne_bytes().to_vec(), Some(choice))).collect();
        let id = self.first_id.wrapping_add(len_u32(self.anonymous.len()));
        self.anonymous.push(Anonymous { name: ANONYMOUS, id, set: data(Set::of_turns(count)), elements });
        self.push(expr::numgen_inc(count, KEY));
        self.push(expr::lookup(ANONYMOUS, Some(id), KEY, Some(to)));
    }

    /// A number that differs (as good as surely) for rules that are sent differently. Stable across processes and builds.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.add(expr::emitted(self.expressions.as_slice()));
        for set in &self.anonymous {
            hash.add(expr::emitted(set.set.attributes().as_slice()));
            hash.add(expr::emitted(set.elements.as_slice()));
        }
        hash.0
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
    fn add(&mut self, bytes: Vec<u8>) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_masked_and_compared_in_either_family() {
        for (text, mask, first) in
            [("10.244.3.7/17", vec![255, 255, 128, 0], vec![10, 244, 0, 0]), ("0.0.0.0/0", vec![0; 4], vec![0; 4])]
        {
            let (mut rule, mut expected) = (Rule::new(0), Rule::new(0));
            rule.network(Field::Source, Operator::Equal, text.parse().unwrap());
            expected.load(Family::V4, Field::Source, KEY);
            expected.push(expr::bitwise(KEY, mask, vec![0; 4]));
            expected.push(expr::cmp(KEY, Operator::Equal, first));
            assert_eq!(rule.fingerprint(), expected.fingerprint(), "{text}");
        }
        let mut rule = Rule::new(0);
        rule.network(Field::Destination, Operator::NotEqual, "fd00::1/9".parse().unwrap());
        let bytes = expr::emitted(rule.expressions.as_slice());
        let mask = [255, 128, 0, 0, 0, 0, 0, 0];
        assert!(bytes.windows(mask.len()).any(|window| window == mask), "the mask of 9 bits");
    }
}
