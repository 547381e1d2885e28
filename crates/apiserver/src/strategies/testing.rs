//! Drives a strategy as the pipeline does, without store and admission.

use api::{Object, Resource, rules::FieldErrors};

use super::metadata;
use crate::{
    strategy::Strategy,
    subresource::{Handler, Subresource},
};

/// An object from JSON without `apiVersion` and `kind`.
pub fn json<K: Resource>(text: &str) -> K {
    let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
    value["apiVersion"] = K::KIND.api_version.as_ref().into();
    value["kind"] = K::KIND.kind.as_ref().into();
    api::json::from_value(value).unwrap()
}

/// The object after defaults and preparation.
pub fn created<S: Strategy>(strategy: S, mut object: S::Kind) -> S::Kind {
    Object::set_defaults(&mut object);
    strategy.set_defaults(&mut object);
    Resource::copy_status_from(&mut object, &S::Kind::default());
    strategy.prepare_for_create(&mut object);
    object
}

/// The object after an update, as it would be validated.
pub fn updated<S: Strategy>(strategy: &S, mut new: S::Kind, old: &S::Kind) -> S::Kind {
    if S::Kind::KIND.has_subresource("status") {
        Resource::copy_status_from(&mut new, old);
    }
    Object::set_defaults(&mut new);
    strategy.set_defaults(&mut new);
    strategy.prepare_for_update(&mut new, old);
    new
}

/// The object after an update of a subresource that is a part of it, as it would be validated.
pub fn part_updated<S: Strategy>(strategy: &S, part: &Subresource, sent: S::Kind, old: &S::Kind) -> S::Kind {
    let Handler::Part(of) = part.handler else { panic!("{part:?} is no part of an object") };
    let mut new = of(Box::new(sent), old).downcast_ref::<S::Kind>().unwrap().clone();
    strategy.prepare_for_subresource_update(part.name, &mut new, old);
    new
}

/// Everything wrong with a new object, as `field: message`.
pub fn errors<S: Strategy>(strategy: &S, object: &S::Kind) -> Vec<String> {
    let mut errors = FieldErrors::default();
    let mut object = object.clone();
    if object.metadata().name.is_empty() {
        object.metadata_mut().name = "x".to_owned();
    }
    if S::Kind::KIND.namespaced && object.metadata().namespace.is_empty() {
        object.metadata_mut().namespace = "default".to_owned();
    }
    metadata::validate(&object, None, &mut errors);
    Object::validate(&object, None, &mut errors);
    strategy.validate(&object, &mut errors);
    texts(errors)
}

/// What the strategy finds wrong with a change.
pub fn update_errors<S: Strategy>(strategy: &S, subresource: &str, new: &S::Kind, old: &S::Kind) -> Vec<String> {
    let (mut errors, mut of_itself) = (FieldErrors::default(), FieldErrors::default());
    Object::validate(new, Some(old), &mut errors);
    Object::validate(new, None, &mut of_itself);
    errors.forgive(&of_itself);
    strategy.validate_update(subresource, new, old, &mut errors);
    texts(errors)
}

fn texts(errors: FieldErrors) -> Vec<String> {
    errors.0.into_iter().map(|e| format!("{}: {}", e.field, e.message)).collect()
}
