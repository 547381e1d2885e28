//! Which names of a kind are served: those that no other kind of its group had first. The conditions that say so.

use std::collections::BTreeSet;

use api::{
    apiextensions::v1::{
        CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
        CustomResourceDefinitionStatus,
    },
    meta::v1::Time,
};

/// Type of the condition that says whether the names are served.
pub const ACCEPTED: &str = "NamesAccepted";
/// Type of the condition that says whether the kind is served.
pub const ESTABLISHED: &str = "Established";
/// Type of the condition that says whether objects are being deleted with their definition.
pub const TERMINATING: &str = "Terminating";
/// All of them.
pub const CONDITIONS: [&str; 3] = [ACCEPTED, ESTABLISHED, TERMINATING];

/// The condition of a type, if the status has it.
pub fn condition<'s>(status: &'s CustomResourceDefinitionStatus, ty: &str) -> Option<&'s CustomResourceDefinitionCondition> {
    status.conditions.iter().find(|condition| condition.r#type == ty)
}

/// True if the kind is served.
pub fn is_established(definition: &CustomResourceDefinition) -> bool {
    condition(definition.status(), ESTABLISHED).is_some_and(|condition| condition.status == "True")
}

/// Sets a condition; when its status changed last stays if it does not.
pub fn set_condition(status: &mut CustomResourceDefinitionStatus, ty: &str, holds: bool, reason: &str, message: &str, now: Time) {
    let value = if holds { "True" } else { "False" };
    let before = status.conditions.iter().position(|condition| condition.r#type == ty);
    let since = before.map(|at| &status.conditions[at]).filter(|condition| condition.status == value);
    let new = CustomResourceDefinitionCondition {
        r#type: ty.to_owned(),
        status: value.to_owned(),
        last_transition_time: since.map_or(Some(now), |condition| condition.last_transition_time),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    match before {
        Some(at) => status.conditions[at] = new,
        None => status.conditions.push(new),
    }
}

/// The status of a definition among the others: each of its names that no other definition of the group serves is accepted, the others stay
/// what they were. The kind is established once all of its names have been accepted, and stays so.
pub fn accept<'o>(
    definition: &CustomResourceDefinition,
    others: impl IntoIterator<Item = &'o CustomResourceDefinition>,
    now: Time,
) -> CustomResourceDefinitionStatus {
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    let same = |other: &&CustomResourceDefinition| {
        other.spec().group == definition.spec().group && other.metadata().name != definition.metadata().name
    };
    for other in others.into_iter().filter(same) {
        let names = other.status().accepted_names();
        resources.extend([names.plural.as_str(), names.singular.as_str()]);
        resources.extend(names.short_names.iter().map(String::as_str));
        kinds.extend([names.kind.as_str(), names.list_kind.as_str()]);
    }
    let (wanted, mut status) = (definition.spec().names(), definition.status().clone());
    let mut conflict: Option<(&str, String)> = None;
    let mut free = |name: &str, taken: &BTreeSet<&str>, reason: &'static str| {
        let free = name.is_empty() || !taken.contains(name);
        if !free {
            conflict.get_or_insert_with(|| (reason, format!("{name:?} is already in use")));
        }
        free
    };
    let before = status.accepted_names().clone();
    let pick = |free: bool, new: &String, old: &String| if free { new.clone() } else { old.clone() };
    let accepted = CustomResourceDefinitionNames {
        plural: pick(free(&wanted.plural, &resources, "PluralConflict"), &wanted.plural, &before.plural),
        singular: pick(free(&wanted.singular, &resources, "SingularConflict"), &wanted.singular, &before.singular),
        short_names: if wanted.short_names.iter().all(|name| free(name, &resources, "ShortNamesConflict")) {
            wanted.short_names.clone()
        } else {
            before.short_names.clone()
        },
        kind: pick(free(&wanted.kind, &kinds, "KindConflict"), &wanted.kind, &before.kind),
        list_kind: pick(free(&wanted.list_kind, &kinds, "ListKindConflict"), &wanted.list_kind, &before.list_kind),
        categories: wanted.categories.clone(),
    };
    status.accepted_names = Some(accepted);
    let is_accepted = conflict.is_none();
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    set_condition(&mut status, ACCEPTED, is_accepted, reason, &message, now);
    if is_accepted {
        set_condition(&mut status, ESTABLISHED, true, "InitialNamesAccepted", "the initial names have been accepted", now);
    } else if condition(&status, ESTABLISHED).is_none_or(|condition| condition.status != "True") {
        set_condition(&mut status, ESTABLISHED, false, "NotAccepted", "not all names are accepted", now);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(kind: &str, plural: &str, short: &[&str]) -> CustomResourceDefinition {
        let mut d = CustomResourceDefinition::default();
        d.metadata_mut().name = format!("{plural}.a.example");
        d.spec_mut().group = "a.example".to_owned();
        let names = d.spec_mut().names_mut();
        (names.kind, names.plural) = (kind.to_owned(), plural.to_owned());
        names.short_names = short.iter().map(|s| (*s).to_owned()).collect();
        super::super::set_defaults(&mut d);
        d
    }

    fn at(seconds: i64) -> Time {
        Time { seconds, nanos: 0 }
    }

    #[test]
    fn the_first_kind_keeps_a_name_that_two_want() {
        let mut first = definition("Widget", "widgets", &["w"]);
        first.status = Some(accept(&first, [], at(1)));
        assert!(is_established(&first));
        assert_eq!(condition(first.status(), ACCEPTED).unwrap().reason, "NoConflicts");

        let mut second = definition("Widget", "wotsits", &["w", "x"]);
        second.status = Some(accept(&second, [&first, &second], at(2)));
        let names = condition(second.status(), ACCEPTED).unwrap();
        assert_eq!((names.status.as_str(), names.reason.as_str()), ("False", "SingularConflict"));
        assert_eq!(names.message, "\"widget\" is already in use");
        assert!(!is_established(&second));
        let accepted = second.status().accepted_names();
        assert_eq!((accepted.plural.as_str(), accepted.kind.as_str(), accepted.short_names.len()), ("wotsits", "", 0));

        let mut other_group = second.clone();
        other_group.spec_mut().group = "b.example".to_owned();
        assert!(condition(&accept(&other_group, [&first], at(3)), ACCEPTED).unwrap().status == "True");
    }

    #[test]
    fn what_is_established_stays_so_and_times_tell_of_changes_alone() {
        let mut first = definition("Widget", "widgets", &[]);
        first.status = Some(accept(&first, [], at(1)));
        let mut other = definition("Gadget", "gadgets", &["g"]);
        other.status = Some(accept(&other, [], at(1)));
        first.spec_mut().names_mut().short_names.push("g".to_owned());
        first.status = Some(accept(&first, [&other], at(5)));
        let conditions = first.status();
        assert_eq!(condition(conditions, ACCEPTED).unwrap().last_transition_time, Some(at(5)));
        assert_eq!(condition(conditions, ESTABLISHED).unwrap().last_transition_time, Some(at(1)));
        assert!(is_established(&first));
    }
}
