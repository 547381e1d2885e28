//! A [`Delta`] as one netlink transaction.

use net::{Batch, Channel, Transaction};

use super::encode;
use crate::model::Family;
use crate::ruleset::{SetKind, TABLE, Verdict};
use crate::state::Delta;

/// The transaction that carries out a delta.
pub fn transaction(channel: &Channel, family: Family, delta: &Delta) -> Transaction {
    let mut batch = channel.batch(family, TABLE);
    if delta.reset {
        batch.replace_table();
    } else {
        batch.make_table();
    }
    for (name, kind) in &delta.new_sets {
        batch.make_set(name, &encode::set(family, *kind));
    }
    for (name, hook) in &delta.new_chains {
        batch.make_chain(name, hook.map(encode::hook));
    }
    for (name, rules) in &delta.rules {
        if !delta.new_chains.contains_key(name) {
            batch.empty_chain(name);
        }
        for rule in rules {
            let encoded = encode::rule(family, rule, batch.next_set_id(), rand::random());
            batch.add_rule(name, encoded, Some(encode::comment(encode::fingerprint(family, rule))));
        }
    }
    for kind in SetKind::STATIC {
        elements(&mut batch, kind, delta);
    }
    // Chains may lead to each other: all are emptied before any is deleted.
    for name in &delta.old_chains {
        batch.empty_chain(name);
    }
    for name in &delta.old_chains {
        batch.delete_chain(name);
    }
    for name in &delta.old_sets {
        batch.delete_set(name);
    }
    batch.finish()
}

fn elements(batch: &mut Batch, kind: SetKind, delta: &Delta) {
    let Some(name) = kind.name() else { return };
    let old = delta.old_elements.iter().filter(|(id, _)| id.set == kind);
    // The key is enough to delete by.
    batch.delete_elements(name, old.map(|(id, _)| encode::element(*id, &Verdict::Member)).collect());
    let new = delta.new_elements.iter().filter(|(id, _)| id.set == kind);
    batch.add_elements(name, new.map(|(id, verdict)| encode::element(*id, verdict)).collect());
}
