//! A [`Delta`] as one netlink transaction.
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

use super::encode::{self, Element};
use super::expr::family_number;
use crate::model::Family;
use crate::ruleset::{Hook, Name, Rule, SetKind, TABLE, Verdict};
use crate::state::Delta;

/// nfnetlink's number for nftables, which the batch markers name.
const SUBSYSTEM: u16 = 10;
/// Bytes of elements in one message; their list's length is a 16-bit number.
const ELEMENT_BYTES: usize = 32 * 1024;

/// An encoded transaction.
#[derive(Debug)]
pub struct Batch {
    family: Family,
    bytes: Vec<u8>,
    first: u32,
    next: u32,
    last_message: usize,
    set_id: u32,
}

impl Batch {
    /// The transaction that carries out a delta; its messages are numbered from `first` on.
    pub fn of(family: Family, delta: &Delta, first: u32) -> Self {
        let mut batch = Self { family, bytes: Vec::new(), first, next: first, last_message: 0, set_id: 0 };
        batch.marker(ControlMessage::BatchBegin);
        batch.table(delta.reset);
        for (name, kind) in &delta.new_sets {
            batch.new_set(name, *kind);
        }
        for (name, hook) in &delta.new_chains {
            batch.new_chain(name, *hook);
        }
        for (name, rules) in &delta.rules {
            if !delta.new_chains.contains_key(name) {
                batch.flush(name);
            }
            for rule in rules {
                batch.new_rule(name, rule);
            }
        }
        for kind in SetKind::STATIC {
            let old = delta.old_elements.iter().filter(|(id, _)| id.set == kind);
            // The key is enough to delete by.
            let old = old.map(|(id, _)| encode::element(family, *id, &Verdict::Member)).collect();
            batch.elements(kind, old, NfTablesMessage::DeleteSetElement, 0);
            let new = delta.new_elements.iter().filter(|(id, _)| id.set == kind);
            let new = new.map(|(id, verdict)| encode::element(family, *id, verdict)).collect();
            batch.elements(kind, new, NfTablesMessage::NewSetElement, NLM_F_CREATE);
        }
        // Chains may lead to each other: all are emptied before any is deleted.
        for name in &delta.old_chains {
            batch.flush(name);
        }
        for name in &delta.old_chains {
            let attributes = vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(name.to_string())];
            batch.push(NfTablesMessage::DeleteChain(ChainMessage { attributes }), 0);
        }
        for name in &delta.old_sets {
            let attributes = vec![SetAttribute::Table(TABLE.into()), SetAttribute::Name(name.to_string())];
            batch.push(NfTablesMessage::DeleteSet(SetMessage { attributes }), 0);
        }
        batch.finish();
        batch
    }

    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The numbers of its messages.
    pub fn sequence(&self) -> std::ops::Range<u32> {
        self.first..self.next
    }

    /// The number of the message that is answered when all went well.
    pub fn acknowledged(&self) -> u32 {
        self.next.wrapping_sub(2)
    }

    fn table(&mut self, reset: bool) {
        let table = || TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] };
        self.push(NfTablesMessage::NewTable(table()), NLM_F_CREATE);
        if reset {
            self.push(NfTablesMessage::DeleteTable(table()), 0);
            self.push(NfTablesMessage::NewTable(table()), NLM_F_CREATE);
        }
    }

    fn new_set(&mut self, name: &Name, kind: SetKind) {
        self.set_id += 1;
        let id = self.set_id;
        self.set(name, id, encode::set(self.family, kind));
    }

    fn set(&mut self, name: &str, id: u32, mut described: Vec<SetAttribute>) {
        let mut attributes = vec![SetAttribute::Table(TABLE.into()), SetAttribute::Name(name.to_owned()), SetAttribute::Id(id)];
        attributes.append(&mut described);
        self.push(NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
    }

    fn new_chain(&mut self, name: &Name, hook: Option<Hook>) {
        let mut attributes = vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(name.to_string())];
        if let Some(hook) = hook {
            let (kind, number, priority) = encode::hook(hook);
            let place = vec![HookAttribute::Number(HookNumber::Other(number)), HookAttribute::Priority(priority.cast_unsigned())];
            attributes.push(ChainAttribute::Hook(place));
            attributes.push(ChainAttribute::Type(kind.into()));
        }
        self.push(NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE);
    }

    fn flush(&mut self, name: &Name) {
        let attributes = vec![RuleAttribute::Table(TABLE.into()), RuleAttribute::Chain(name.to_string())];
        self.push(NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0);
    }

    fn new_rule(&mut self, chain: &Name, rule: &Rule) {
        let encoded = encode::rule(self.family, rule, self.set_id + 1, rand::random());
        for set in encoded.anonymous {
            self.set_id = set.id;
            self.set(set.name, set.id, set.attributes);
            self.element_messages(set.name, Some(set.id), set.elements, NfTablesMessage::NewSetElement, NLM_F_CREATE);
        }
        let attributes = vec![
            RuleAttribute::Table(TABLE.into()),
            RuleAttribute::Chain(chain.to_string()),
            RuleAttribute::Expressions(encoded.expressions),
            RuleAttribute::UserData(encode::comment(encode::fingerprint(self.family, rule))),
        ];
        self.push(NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND);
    }

    fn elements(&mut self, kind: SetKind, elements: Vec<Element>, message: fn(SetElementMessage) -> NfTablesMessage, flags: u16) {
        if let Some(name) = kind.name() {
            self.element_messages(name, None, elements, message, flags);
        }
    }

    fn element_messages(
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
            let mut attributes = vec![SetElementList::Table(TABLE.into()), SetElementList::Set(set.to_owned())];
            attributes.extend(id.map(SetElementList::SetId));
            attributes.push(SetElementList::Elements(part));
            self.push(message(SetElementMessage { attributes }), flags);
        }
    }

    fn push(&mut self, message: NfTablesMessage, flags: u16) {
        let header = NetfilterHeader::new(family_number(self.family).into(), 0, 0);
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

    fn finish(&mut self) {
        // The header's flags are its third field, after a 32-bit length and a 16-bit type.
        let flags = self.last_message + 6;
        if let Some(field) = self.bytes.get_mut(flags..flags + 2) {
            field.copy_from_slice(&(u16::from_ne_bytes([field[0], field[1]]) | NLM_F_ACK).to_ne_bytes());
        }
        self.marker(ControlMessage::BatchEnd);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use netlink_packet_core::NetlinkBuffer;

    use super::*;
    use crate::model::Protocol;
    use crate::nft::decode::{attributes, find};
    use crate::ruleset::{ElementId, Key};

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
        let name: Name = Arc::from(format!("all/{0}/{0}/sctp/65535", "n".repeat(63)));
        let mut delta = Delta::default();
        for port in 1..=3_000 {
            let key = Key::Frontend([10, 96, 0, 1].into(), Protocol::Sctp, port);
            delta.new_elements.insert(ElementId::new(SetKind::Services, key), Verdict::Goto(name.clone()));
        }
        let batch = Batch::of(Family::V4, &delta, 1);
        let lists: Vec<&[u8]> = messages(batch.bytes()).into_iter().filter_map(|message| find(message, 3)).collect();
        assert!(lists.len() > 1);
        assert_eq!(lists.into_iter().map(|list| attributes(list).count()).sum::<usize>(), 3_000);
    }
}
