//! Changes to one table as one netlink transaction.
//!
//! The kernel applies everything between the two batch markers or nothing, provided it arrives in one `sendmsg`; so a batch is one
//! buffer, however large. Only the last message asks for an answer: failures are reported for every message anyway, and one answer
//! a message would overrun the receive buffer.

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook as HookAttribute, HookNumber, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    SetElementList, SetElementMessage, SetMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner};

use crate::{Element, Family, Rule, Set};

/// nfnetlink's number for nftables, which the batch markers name.
const SUBSYSTEM: u16 = 10;
/// Bytes of elements in one message; their list's length is a 16-bit number.
const ELEMENT_BYTES: usize = 32 * 1024;

/// Where a base chain is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The chain's type, such as `nat` or `filter`.
    pub kind: &'static str,
    /// The number of the place in the packet's way.
    pub number: u32,
    /// Where among the chains of that place: lower ones come first.
    pub priority: i32,
}

/// Changes to one table, in order.
#[derive(Debug)]
pub struct Batch {
    family: Family,
    table: &'static str,
    bytes: Vec<u8>,
    first: u32,
    next: u32,
    last_message: usize,
    set_id: u32,
}

/// A whole batch, ready to be sent by [`Channel::transact`](crate::Channel::transact).
#[derive(Debug)]
pub struct Transaction {
    bytes: Vec<u8>,
    sequence: std::ops::Range<u32>,
}

// === impl Hook ===

impl Hook {
    /// nat, before routing of what arrives.
    pub const NAT_PREROUTING: Self = Self { kind: "nat", number: 0, priority: -100 };
    /// nat, before routing of what this host sends.
    pub const NAT_OUTPUT: Self = Self { kind: "nat", number: 3, priority: -100 };
    /// nat, last thing before leaving.
    pub const NAT_POSTROUTING: Self = Self { kind: "nat", number: 4, priority: 100 };
    /// filter, for this host.
    pub const FILTER_INPUT: Self = Self { kind: "filter", number: 1, priority: 0 };
    /// filter, passing through.
    pub const FILTER_FORWARD: Self = Self { kind: "filter", number: 2, priority: 0 };
    /// filter, from this host.
    pub const FILTER_OUTPUT: Self = Self { kind: "filter", number: 3, priority: 0 };
}

// === impl Transaction ===

impl Transaction {
    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The numbers of its messages.
    pub fn sequence(&self) -> std::ops::Range<u32> {
        self.sequence.clone()
    }

    /// The number of the message that is answered when all went well.
    pub fn acknowledged(&self) -> u32 {
        self.sequence.end.wrapping_sub(2)
    }
}

// === impl Batch ===

impl Batch {
    /// A batch for a table; its messages are numbered from `first` on, as [`Channel::batch`](crate::Channel::batch) does.
    pub fn new(family: Family, table: &'static str, first: u32) -> Self {
        let mut batch = Self { family, table, bytes: Vec::new(), first, next: first, last_message: 0, set_id: 0 };
        batch.marker(ControlMessage::BatchBegin);
        batch
    }

    /// Makes the table unless it is there.
    pub fn make_table(&mut self) {
        self.push(NfTablesMessage::NewTable(self.named_table()), NLM_F_CREATE);
    }

    /// Deletes the table with all that is in it. It must be there.
    pub fn delete_table(&mut self) {
        self.push(NfTablesMessage::DeleteTable(self.named_table()), 0);
    }

    /// Makes the table anew and empty, whether it was there or not.
    pub fn replace_table(&mut self) {
        self.make_table();
        self.delete_table();
        self.make_table();
    }

    /// Makes a set.
    pub fn make_set(&mut self, name: &str, set: &Set) {
        let id = self.next_set_id();
        self.set_id = id;
        self.set(name, id, set);
    }

    /// Deletes a set that no rule looks into.
    pub fn delete_set(&mut self, name: &str) {
        let attributes = vec![SetAttribute::Table(self.table.into()), SetAttribute::Name(name.to_owned())];
        self.push(NfTablesMessage::DeleteSet(SetMessage { attributes }), 0);
    }

    /// The id of the next set that is made here, which a [`Rule`] with anonymous sets begins at.
    pub fn next_set_id(&self) -> u32 {
        self.set_id.wrapping_add(1)
    }

    /// Makes a chain, attached to a hook or only jumped to.
    pub fn make_chain(&mut self, name: &str, hook: Option<Hook>) {
        let mut attributes = vec![ChainAttribute::Table(self.table.into()), ChainAttribute::Name(name.to_owned())];
        if let Some(Hook { kind, number, priority }) = hook {
            let place = vec![HookAttribute::Number(HookNumber::Other(number)), HookAttribute::Priority(priority.cast_unsigned())];
            attributes.push(ChainAttribute::Hook(place));
            attributes.push(ChainAttribute::Type(kind.into()));
        }
        self.push(NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE);
    }

    /// Removes a chain's rules.
    pub fn empty_chain(&mut self, name: &str) {
        let attributes = vec![RuleAttribute::Table(self.table.into()), RuleAttribute::Chain(name.to_owned())];
        self.push(NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0);
    }

    /// Deletes an empty chain that nothing leads to.
    pub fn delete_chain(&mut self, name: &str) {
        let attributes = vec![ChainAttribute::Table(self.table.into()), ChainAttribute::Name(name.to_owned())];
        self.push(NfTablesMessage::DeleteChain(ChainMessage { attributes }), 0);
    }

    /// Adds a rule at the end of a chain. `user_data` comes back when the rule is listed.
    pub fn add_rule(&mut self, chain: &str, rule: Rule, user_data: Option<Vec<u8>>) {
        for set in rule.anonymous {
            self.set_id = set.id;
            self.set(set.name, set.id, &set.set);
            self.elements(set.name, Some(set.id), set.elements, NfTablesMessage::NewSetElement, NLM_F_CREATE);
        }
        let mut attributes = vec![
            RuleAttribute::Table(self.table.into()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(rule.expressions),
        ];
        attributes.extend(user_data.map(RuleAttribute::UserData));
        self.push(NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND);
    }

    /// Adds elements to a set.
    pub fn add_elements(&mut self, set: &str, elements: Vec<Element>) {
        self.elements(set, None, elements, NfTablesMessage::NewSetElement, NLM_F_CREATE);
    }

    /// Deletes elements of a set by their keys. They must be there.
    pub fn delete_elements(&mut self, set: &str, elements: Vec<Element>) {
        self.elements(set, None, elements, NfTablesMessage::DeleteSetElement, 0);
    }

    /// Ends the batch.
    pub fn finish(mut self) -> Transaction {
        // The header's flags are its third field, after a 32-bit length and a 16-bit type.
        let flags = self.last_message + 6;
        if let Some(field) = self.bytes.get_mut(flags..flags + 2) {
            field.copy_from_slice(&(u16::from_ne_bytes([field[0], field[1]]) | NLM_F_ACK).to_ne_bytes());
        }
        self.marker(ControlMessage::BatchEnd);
        Transaction { bytes: self.bytes, sequence: self.first..self.next }
    }

    fn named_table(&self) -> TableMessage {
        TableMessage { attributes: vec![TableAttribute::Name(self.table.into())] }
    }

    fn set(&mut self, name: &str, id: u32, set: &Set) {
        let mut attributes =
            vec![SetAttribute::Table(self.table.into()), SetAttribute::Name(name.to_owned()), SetAttribute::Id(id)];
        attributes.append(&mut set.attributes());
        self.push(NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
    }

    fn elements(
        &mut self,
        set: &str,
        id: Option<u32>,
        elements: Vec<Element>,
        message: fn(SetElementMessage) -> NfTablesMessage,
        flags: u16,
    ) {
        let mut rest = elements.into_iter().peekable();
        while rest.peek().is_some() {
            let mut part = Vec::new();
            let mut bytes = 0;
            while let Some(element) = rest.next_if(|element| part.is_empty() || bytes + element.buffer_len() <= ELEMENT_BYTES) {
                bytes += element.buffer_len();
                part.push(element);
            }
            let mut attributes = vec![SetElementList::Table(self.table.into()), SetElementList::Set(set.to_owned())];
            attributes.extend(id.map(SetElementList::SetId));
            attributes.push(SetElementList::Elements(part));
            self.push(message(SetElementMessage { attributes }), flags);
        }
    }

    fn push(&mut self, message: NfTablesMessage, flags: u16) {
        let header = NetfilterHeader::new(self.family.number().into(), 0, 0);
        self.append(NetfilterMessage::new(header, message), flags);
    }

    fn marker(&mut self, marker: ControlMessage) {
        let header = NetfilterHeader::new(0.into(), 0, SUBSYSTEM);
        self.append(NetfilterMessage::new(header, NetfilterMessageInner::from(marker)), 0);
    }

    fn append(&mut self, message: NetfilterMessage, flags: u16) {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.next;
        self.next = self.next.wrapping_add(1);
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        self.last_message = self.bytes.len();
        let end = self.last_message + message.buffer_len().next_multiple_of(4);
        self.bytes.resize(end, 0);
        message.serialize(&mut self.bytes[self.last_message..]);
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkBuffer;

    use super::*;
    use crate::{
        Field,
        decode::{attributes, find},
        element, expr,
    };

    /// The attributes of each message of a batch.
    fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut messages = Vec::new();
        while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
            let length = message.length() as usize;
            messages.push(&bytes[20..length]);
            bytes = &bytes[length.next_multiple_of(4)..];
        }
        messages
    }

    #[test]
    fn elements_with_the_longest_names_still_fit_their_lists() {
        let chain = format!("all/{0}/{0}/sctp/65535", "n".repeat(63));
        let to_chain = || expr::to_chain(netlink_packet_netfilter::nftables::Verdict::Goto, &chain);
        let elements = (1..=3_000_u32).map(|n| element(n.to_be_bytes().to_vec(), Some(to_chain()))).collect();
        let mut batch = Batch::new(Family::V4, "ours", 1);
        batch.make_set("services", &Set::of(Family::V4, &[Field::Source]).of_verdicts());
        batch.add_elements("services", elements);
        let transaction = batch.finish();
        // The set itself has the same number for its flags, which are 4 bytes.
        let lists =
            messages(transaction.bytes()).into_iter().filter_map(|message| find(message, 3)).filter(|list| list.len() > 4);
        let lists: Vec<&[u8]> = lists.collect();
        assert!(lists.len() > 1);
        assert_eq!(lists.into_iter().map(|list| attributes(list).count()).sum::<usize>(), 3_000);
    }
}
