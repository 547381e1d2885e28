//! Reads the kernel's table. Needed at start-up and after a failure, never while all goes well.

use std::collections::BTreeMap;

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook as HookAttribute, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner};

use super::encode;
use super::expr::family_number;
use super::socket::{Channel, Error};
use crate::model::Family;
use crate::ruleset::{ElementId, Name, SetKind, TABLE, Verdict};
use crate::state::{ChainContents, Contents};

/// What our table of a family holds.
pub fn contents(channel: &mut Channel, family: Family) -> Result<Contents, Error> {
    let mut found = Contents { exists: exists(channel, family)?, ..Contents::default() };
    if !found.exists {
        return Ok(found);
    }
    chains(channel, family, &mut found)?;
    rules(channel, family, &mut found)?;
    sets(channel, family, &mut found)?;
    for (name, kind) in found.sets.clone() {
        if kind != SetKind::Sticky {
            elements(channel, family, &name, kind, &mut found)?;
        }
    }
    Ok(found)
}

fn exists(channel: &mut Channel, family: Family) -> Result<bool, Error> {
    let request = message(family, NfTablesMessage::GetTable(TableMessage { attributes: vec![] }));
    let tables = channel.dump(&request, |answer| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = answer.inner else { return Ok(None) };
        Ok(table.attributes.contains(&TableAttribute::Name(TABLE.into())).then_some(()))
    })?;
    Ok(!tables.is_empty())
}

fn chains(channel: &mut Channel, family: Family, found: &mut Contents) -> Result<(), Error> {
    let request = message(
        family,
        NfTablesMessage::GetChain(ChainMessage { attributes: vec![ChainAttribute::Table(TABLE.into())] }),
    );
    let listed = channel.dump(&request, |answer| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = answer.inner else { return Ok(None) };
        // Some kernels list the chains of every table.
        Ok(chain.attributes.contains(&ChainAttribute::Table(TABLE.into())).then_some(chain.attributes))
    })?;
    for attributes in listed {
        let mut name = None;
        let (mut kind, mut number, mut priority) = (None, None, None);
        for attribute in attributes {
            match attribute {
                ChainAttribute::Name(text) => name = Some(text),
                ChainAttribute::Type(text) => kind = Some(text),
                ChainAttribute::Hook(hook) => {
                    for part in hook {
                        match part {
                            HookAttribute::Number(n) => number = Some(u32::from(n)),
                            HookAttribute::Priority(p) => priority = Some(p.cast_signed()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let hook = match (kind, number, priority) {
            (Some(kind), Some(number), Some(priority)) => {
                let hook = encode::hook_from(&kind, number, priority);
                found.foreign |= hook.is_none();
                hook
            }
            _ => None,
        };
        if let Some(name) = name {
            found.chains.insert(name.into(), ChainContents { hook, rules: vec![] });
        }
    }
    Ok(())
}

fn rules(channel: &mut Channel, family: Family, found: &mut Contents) -> Result<(), Error> {
    let request = message(
        family,
        NfTablesMessage::GetRule(RuleMessage { attributes: vec![RuleAttribute::Table(TABLE.into())] }),
    );
    let listed = channel.dump(&request, |answer| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = answer.inner else { return Ok(None) };
        if !rule.attributes.contains(&RuleAttribute::Table(TABLE.into())) {
            return Ok(None);
        }
        let (mut chain, mut fingerprint) = (None, None);
        for attribute in rule.attributes {
            match attribute {
                RuleAttribute::Chain(name) => chain = Some(name),
                RuleAttribute::UserData(comment) => fingerprint = encode::fingerprint_in(&comment),
                _ => {}
            }
        }
        Ok(chain.map(|chain| (chain, fingerprint)))
    })?;
    for (chain, fingerprint) in listed {
        if let Some(chain) = found.chains.get_mut(chain.as_str()) {
            chain.rules.push(fingerprint);
        }
    }
    Ok(())
}

fn sets(channel: &mut Channel, family: Family, found: &mut Contents) -> Result<(), Error> {
    let request =
        message(family, NfTablesMessage::GetSet(SetMessage { attributes: vec![SetAttribute::Table(TABLE.into())] }));
    let listed = channel.dump(&request, |answer| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewSet(set)) = answer.inner else { return Ok(None) };
        Ok(set.attributes.contains(&SetAttribute::Table(TABLE.into())).then_some(set.attributes))
    })?;
    for attributes in listed {
        let anonymous = |a: &SetAttribute| matches!(a, SetAttribute::Flags(flags) if flags.contains(SetFlags::Anonymous));
        if attributes.iter().any(anonymous) {
            continue;
        }
        let name = attributes.iter().find_map(|attribute| match attribute {
            SetAttribute::Name(name) => Some(name.as_str()),
            _ => None,
        });
        let kind = name.and_then(|name| encode::set_kind(family, name, &attributes));
        match (name, kind) {
            (Some(name), Some(kind)) => {
                found.sets.insert(name.into(), kind);
            }
            _ => found.foreign = true,
        }
    }
    Ok(())
}

fn elements(channel: &mut Channel, family: Family, name: &Name, kind: SetKind, found: &mut Contents) -> Result<(), Error> {
    let attributes = vec![SetElementList::Table(TABLE.into()), SetElementList::Set(name.to_string())];
    let request = message(family, NfTablesMessage::GetSetElement(SetElementMessage { attributes }));
    let listed = channel.dump(&request, |answer| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(set)) = answer.inner else { return Ok(None) };
        Ok(Some(set.attributes))
    })?;
    let elements = listed.into_iter().flatten().filter_map(|attribute| match attribute {
        SetElementList::Elements(elements) => Some(elements),
        _ => None,
    });
    let mut parsed: BTreeMap<ElementId, Verdict> = BTreeMap::new();
    for element in elements.flatten() {
        let ListAttribute::Element(attributes) = element else { continue };
        match encode::parse_element(family, kind, &attributes) {
            Some((id, verdict)) => {
                parsed.insert(id, verdict);
            }
            None => found.foreign = true,
        }
    }
    found.elements.append(&mut parsed);
    Ok(())
}

fn message(family: Family, inner: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family_number(family).into(), 0, 0), inner)
}
