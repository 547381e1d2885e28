//! Amounts by the name of a resource, read once so that they can be reckoned with.

use std::collections::BTreeMap;

use crate::{
    quantity::{self, Quantity},
    resource::Quantity as Message,
};

/// Amounts by name, such as `cpu` or `requests.memory`.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts of a list. What is no quantity is left out: it does not pass validation.
pub fn read(list: &BTreeMap<String, Message>) -> Amounts {
    list.keys().filter_map(|name| Some((name.clone(), quantity::get(list, name)?))).collect()
}

/// Adds amounts name by name.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        sum.entry(name.clone()).and_modify(|sum| *sum += *amount).or_insert(*amount);
    }
}

/// Raises each amount to at least what the other list has.
pub fn raise(most: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        most.entry(name.clone()).and_modify(|most| *most = (*most).max(*amount)).or_insert(*amount);
    }
}
