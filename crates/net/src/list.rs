//! Requests for [`Channel::dump`](crate::Channel::dump).

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementList, SetElementMessage,
    SetMessage, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage};

use crate::Family;

/// All tables of the family.
pub fn tables(family: Family) -> NetfilterMessage {
    message(family, NfTablesMessage::GetTable(TableMessage { attributes: vec![] }))
}

/// The chains of a table. Some kernels list those of every table.
pub fn chains(family: Family, table: &str) -> NetfilterMessage {
    message(family, NfTablesMessage::GetChain(ChainMessage { attributes: vec![ChainAttribute::Table(table.into())] }))
}

/// The rules of a table, chain by chain.
pub fn rules(family: Family, table: &str) -> NetfilterMessage {
    message(family, NfTablesMessage::GetRule(RuleMessage { attributes: vec![RuleAttribute::Table(table.into())] }))
}

/// The sets of a table, anonymous ones too.
pub fn sets(family: Family, table: &str) -> NetfilterMessage {
    message(family, NfTablesMessage::GetSet(SetMessage { attributes: vec![SetAttribute::Table(table.into())] }))
}

/// The elements of a set.
pub fn elements(family: Family, table: &str, set: &str) -> NetfilterMessage {
    let attributes = vec![SetElementList::Table(table.into()), SetElementList::Set(set.into())];
    message(family, NfTablesMessage::GetSetElement(SetElementMessage { attributes }))
}

fn message(family: Family, inner: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family.number().into(), 0, 0), inner)
}
