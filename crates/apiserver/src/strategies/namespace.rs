//! Namespaces: held by `spec.finalizers` until they are empty, and marked Terminating meanwhile.

use api::{Object, Resource, core::v1::Namespace, finalizers::KUBERNETES, names::Format, rules::FieldErrors};

use super::{SPEC, STATUS};
use crate::strategy::Strategy;

/// Label that every namespace carries its name under, for selectors.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const ACTIVE: &str = "Active";
const TERMINATING: &str = "Terminating";

/// See the module.
pub struct NamespaceStrategy;

impl Strategy for NamespaceStrategy {
    type Kind = Namespace;

    fn set_defaults(&self, object: &mut Namespace) {
        name_label(object);
    }

    fn prepare_for_create(&self, object: &mut Namespace) {
        object.status_mut().phase = ACTIVE.to_owned();
        let finalizers = &mut object.spec_mut().finalizers;
        if !finalizers.iter().any(|f| f == KUBERNETES) {
            finalizers.push(KUBERNETES.to_owned());
        }
    }

    fn prepare_for_update(&self, new: &mut Namespace, old: &Namespace) {
        new.spec.clone_from(&old.spec);
    }

    fn prepare_for_subresource_update(&self, subresource: &str, new: &mut Namespace, _old: &Namespace) {
        if subresource == "finalize" {
            name_label(new);
        }
    }

    fn validate(&self, object: &Namespace, errors: &mut FieldErrors) {
        finalizers(object, errors);
    }

    fn validate_update(&self, subresource: &str, new: &Namespace, _old: &Namespace, errors: &mut FieldErrors) {
        match subresource {
            "finalize" => finalizers(new, errors),
            "status" => {
                let (phase, going) = (new.status().phase.as_str(), new.metadata().deletion_timestamp.is_some());
                let at = STATUS.field("phase");
                match (phase, going) {
                    (TERMINATING, true) | (ACTIVE | "", false) => {}
                    (_, true) => errors.invalid(&at, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"),
                    (_, false) => errors.invalid(&at, phase, "may only be 'Active' if `deletionTimestamp` is empty"),
                }
            }
            _ => {}
        }
    }

    fn begin_deletion(&self, object: &mut Namespace) {
        object.status_mut().phase = TERMINATING.to_owned();
    }

    fn is_held(&self, object: &Namespace) -> bool {
        !object.spec().finalizers.is_empty()
    }
}

/// The stored namespace with the finalizers of the one that was sent.
pub fn with_finalizers_of(sent: Box<dyn Object>, stored: &dyn Object) -> Box<dyn Object> {
    super::taking(sent, stored, |new: &mut Namespace, sent| new.spec_mut().finalizers.clone_from(&sent.spec().finalizers))
}

/// Selectors rely on this label: it says the true name, whatever was sent.
fn name_label(object: &mut Namespace) {
    let name = object.name().to_owned();
    if !name.is_empty() {
        object.metadata_mut().labels.insert(NAME_LABEL.to_owned(), name);
    }
}

fn finalizers(object: &Namespace, errors: &mut FieldErrors) {
    for (i, name) in object.spec().finalizers.iter().enumerate() {
        if name != KUBERNETES && (!name.contains('/') || api::names::check(Format::QualifiedName, name).is_err()) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&SPEC.field("finalizers").index(i), name, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use api::meta::v1::Time;

    use super::*;
    use crate::{strategies::testing, subresource::FINALIZE};

    fn namespace() -> Namespace {
        testing::created(NamespaceStrategy, testing::json(r#"{"metadata": {"name": "shop"}}"#))
    }

    #[test]
    fn a_new_namespace_is_active_held_and_labelled_with_its_name() {
        let new = namespace();
        assert_eq!(new.status().phase, ACTIVE);
        assert_eq!(new.spec().finalizers, [KUBERNETES]);
        assert_eq!(new.metadata().labels[NAME_LABEL], "shop");
        assert!(NamespaceStrategy.is_held(&new));
    }

    #[test]
    fn the_name_label_cannot_lie() {
        let old = namespace();
        let lie = |namespace: &mut Namespace| drop(namespace.metadata_mut().labels.insert(NAME_LABEL.into(), "other".into()));
        let mut new = old.clone();
        lie(&mut new);
        assert_eq!(testing::updated(&NamespaceStrategy, new.clone(), &old).metadata().labels[NAME_LABEL], "shop");
        new.metadata_mut().labels.clear();
        assert_eq!(testing::updated(&NamespaceStrategy, new, &old).metadata().labels[NAME_LABEL], "shop");
        let mut stored = old;
        lie(&mut stored);
        let finalized = testing::part_updated(&NamespaceStrategy, &FINALIZE, stored.clone(), &stored);
        assert_eq!(finalized.metadata().labels[NAME_LABEL], "shop");
    }

    #[test]
    fn an_update_cannot_release_a_namespace_but_finalize_can() {
        let old = namespace();
        let mut new = old.clone();
        new.spec_mut().finalizers.clear();
        NamespaceStrategy.prepare_for_update(&mut new, &old);
        assert_eq!(new.spec().finalizers, [KUBERNETES]);
        new.spec_mut().finalizers.clear();
        new.metadata_mut().labels.clear();
        let new = testing::part_updated(&NamespaceStrategy, &FINALIZE, new, &old);
        assert!(!NamespaceStrategy.is_held(&new));
        assert_eq!(new.metadata().labels, old.metadata().labels);
    }

    #[test]
    fn a_namespace_is_terminating_exactly_while_it_is_deleted() {
        let mut old = namespace();
        NamespaceStrategy.begin_deletion(&mut old);
        let found = testing::update_errors(&NamespaceStrategy, "status", &old, &old);
        assert!(found[0].ends_with("may only be 'Active' if `deletionTimestamp` is empty"), "{found:?}");
        old.metadata_mut().deletion_timestamp = Some(Time::now());
        assert_eq!(testing::update_errors(&NamespaceStrategy, "status", &old, &old), [""; 0]);
    }
}
