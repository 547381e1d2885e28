//! Reads the kernel's table. Needed at start-up and after a failure, never while all goes well.

use net::decode::{attributes, find, text};
use net::{Channel, Error, list};

use super::decode;
use crate::model::Family;
use crate::ruleset::{Hook, Name, SetKind, TABLE};
use crate::state::{ChainContents, Contents};

/// What our table of a family holds.
///
/// # Errors
/// When the kernel does not list it.
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

// Every listed object begins with the name of its table.
const IN_TABLE: u16 = 1;

fn exists(channel: &mut Channel, family: Family) -> Result<bool, Error> {
    let tables = channel.dump(&list::tables(family), |table| Ok(ours(table).then_some(())))?;
    Ok(!tables.is_empty())
}

fn chains(channel: &mut Channel, family: Family, found: &mut Contents) -> Result<(), Error> {
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    let listed = channel.dump(&list::chains(family, TABLE), |chain| {
        // Some kernels list the chains of every table.
        let Some(name) = find(chain, NAME).and_then(text).filter(|_| ours(chain)) else {
            return Ok(None);
        };
        Ok(Some((Name::from(name), find(chain, HOOK).is_some(), hook(chain))))
    })?;
    for (name, based, hook) in listed {
        found.foreign |= based && hook.is_none();
        found.chains.insert(name, ChainContents { hook, rules: vec![] });
    }
    Ok(())
}

/// The hook of a listed chain, if it is attached like one of ours.
fn hook(chain: &[u8]) -> Option<Hook> {
    const HOOK: u16 = 4;
    const TYPE: u16 = 7;
    const NUMBER: u16 = 1;
    const PRIORITY: u16 = 2;
    let place = find(chain, HOOK)?;
    let number = u32::from_be_bytes(find(place, NUMBER)?.try_into().ok()?);
    let priority = i32::from_be_bytes(find(place, PRIORITY)?.try_into().ok()?);
    decode::hook_from(text(find(chain, TYPE)?)?, number, priority)
}

fn rules(channel: &mut Channel, family: Family, found: &mut Contents) -> Result<(), Error> {
    const CHAIN: u16 = 2;
    const COMMENT: u16 = 7;
    let listed = channel.dump(&list::rules(family, TABLE), |rule| {
        let Some(chain) = find(rule, CHAIN).and_then(text).filter(|_| ours(rule)) else {
            return Ok(None);
        };
        Ok(Some((chain.to_owned(), find(rule, COMMENT).and_then(decode::fingerprint_in))))
    })?;
    for (chain, fingerprint) in listed {
        if let Some(chain) = found.chains.get_mut(chain.as_str()) {
            chain.rules.push(fingerprint);
        }
    }
    Ok(())
}

fn sets(channel: &mut Channel, family: Family, found: &mut Contents) -> Result<(), Error> {
    const NAME: u16 = 2;
    const FLAGS: u16 = 3;
    const ANONYMOUS: u32 = 1;
    let listed = channel.dump(&list::sets(family, TABLE), |set| {
        let Some(name) = find(set, NAME).and_then(text).filter(|_| ours(set)) else {
            return Ok(None);
        };
        let flags = find(set, FLAGS).and_then(|flags| Some(u32::from_be_bytes(flags.try_into().ok()?))).unwrap_or(0);
        if flags & ANONYMOUS != 0 {
            return Ok(None);
        }
        let kind = decode::set_kind(family, name, &attributes(set).collect::<Vec<_>>());
        Ok(Some((Name::from(name), kind)))
    })?;
    for (name, kind) in listed {
        match kind {
            Some(kind) => {
                found.sets.insert(name, kind);
            }
            None => found.foreign = true,
        }
    }
    Ok(())
}

fn elements(channel: &mut Channel, family: Family, name: &Name, kind: SetKind, found: &mut Contents) -> Result<(), Error> {
    const ELEMENTS: u16 = 3;
    let listed = channel.dump(&list::elements(family, TABLE, name), |set| {
        let elements = find(set, ELEMENTS).unwrap_or_default();
        Ok(Some(attributes(elements).map(|(_, element)| decode::parse_element(family, kind, element)).collect::<Vec<_>>()))
    })?;
    for element in listed.into_iter().flatten() {
        match element {
            Some((id, verdict)) => {
                found.elements.insert(id, verdict);
            }
            None => found.foreign = true,
        }
    }
    Ok(())
}

fn ours(object: &[u8]) -> bool {
    find(object, IN_TABLE).and_then(text) == Some(TABLE)
}
