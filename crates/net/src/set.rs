//! What sets and their elements are made of.

use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, SetAttribute, SetDescription, SetElementAttribute, SetFlags,
};

use crate::{Family, expr::emitted};

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

/// A part of a packet that can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// Transport protocol number.
    Protocol,
    /// Destination port.
    DestinationPort,
}

/// What a set is made of: everything but its table, name and id.
#[derive(Clone, Debug)]
pub struct Set {
    key: (u32, u32),
    data: Option<(u32, u32)>,
    size: Option<u32>,
    flags: SetFlags,
    host_order: bool,
}

/// An element with this key; in a map it leads to `data`.
pub fn element(key: Vec<u8>, data: Option<DataAttribute>) -> Element {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(key))];
    attributes.extend(data.map(SetElementAttribute::Data));
    ListAttribute::Element(attributes)
}

// === impl Set ===

impl Set {
    /// A set whose keys are these fields in a row.
    pub fn of(family: Family, fields: &[Field]) -> Self {
        Self { key: described(family, fields), data: None, size: None, flags: SetFlags::empty(), host_order: false }
    }

    /// The anonymous map of one rule: from 0, 1, … to below `count`, in host byte order.
    pub fn of_turns(count: u32) -> Self {
        let flags = SetFlags::Anonymous | SetFlags::Constant;
        Self { key: (TYPE_INTEGER, 4), data: None, size: Some(count), flags, host_order: true }
    }

    /// Maps to verdicts.
    pub fn of_verdicts(mut self) -> Self {
        self.flags |= SetFlags::Map;
        self.data = Some((TYPE_VERDICT, 0));
        self
    }

    /// Maps to values for these fields in a row.
    pub fn of_values(mut self, family: Family, fields: &[Field]) -> Self {
        self.flags |= SetFlags::Map;
        self.data = Some(described(family, fields));
        self
    }

    /// Is filled by the packets themselves, with elements that time out, up to `capacity` of them.
    pub fn of_passers(mut self, capacity: u32) -> Self {
        self.flags |= SetFlags::Timeout | SetFlags::Eval;
        self.size = Some(capacity);
        self
    }

    /// As netlink attributes.
    pub fn attributes(&self) -> Vec<SetAttribute> {
        let mut attributes = vec![SetAttribute::KeyType(self.key.0), SetAttribute::KeyLen(self.key.1)];
        if let Some((kind, len)) = self.data {
            attributes.push(SetAttribute::DataType(kind));
            attributes.push(SetAttribute::DataLen(len));
        }
        attributes.extend(self.size.map(|size| SetAttribute::Description(vec![SetDescription::Size(size)])));
        // The kernel does not list what is zero, and would not need it either.
        if !self.flags.is_empty() {
            attributes.push(SetAttribute::Flags(self.flags));
        }
        if self.host_order {
            attributes.push(SetAttribute::UserData(HOST_ORDER_KEY.to_vec()));
        }
        attributes
    }

    /// The attributes, encoded, that the kernel lists as they were given. The others it leaves out or completes.
    pub fn listed(&self) -> Vec<u8> {
        let mut attributes = self.attributes();
        attributes.retain(|attribute| !matches!(attribute, SetAttribute::DataLen(0) | SetAttribute::Description(_)));
        emitted(attributes.as_slice())
    }
}

// === impl Field ===

impl Field {
    /// How many 32-bit words the field takes in a key.
    pub fn words(self, family: Family) -> usize {
        match self {
            Self::Source | Self::Destination => family.address_len() / 4,
            Self::Protocol | Self::DestinationPort => 1,
        }
    }

    fn number(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Source | Self::Destination, Family::V4) => TYPE_IPV4,
            (Self::Source | Self::Destination, Family::V6) => TYPE_IPV6,
            (Self::Protocol, _) => TYPE_PROTOCOL,
            (Self::DestinationPort, _) => TYPE_SERVICE,
        }
    }
}

/// nft's number for fields in a row, six bits each, and their length in bytes.
fn described(family: Family, fields: &[Field]) -> (u32, u32) {
    let number = fields.iter().fold(0, |sum, field| sum << 6 | field.number(family));
    let words: usize = fields.iter().map(|field| field.words(family)).sum();
    (number, u32::try_from(words * 4).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_in_a_row_have_nfts_numbers() {
        let set = Set::of(Family::V4, &[Field::Destination, Field::Protocol, Field::DestinationPort]);
        let SetAttribute::KeyType(number) = set.attributes()[0] else { panic!("a key type") };
        assert_eq!(number, (7 << 12) | (12 << 6) | 13);
        assert_eq!(set.attributes()[1], SetAttribute::KeyLen(12));
    }
}
