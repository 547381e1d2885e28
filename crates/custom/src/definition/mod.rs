//! What a `CustomResourceDefinition` must hold, what it gets by default, and which of its names are served.

mod check;
mod names;

use api::apiextensions::v1::{CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionVersion};

pub use check::check;
pub use names::{ACCEPTED, CONDITIONS, ESTABLISHED, TERMINATING, accept, condition, is_established, set_condition};

/// Sets what the names and the status have by default: the singular, the kind of lists, no conversion, and the storage version among those
/// that objects may be stored in.
pub fn set_defaults(definition: &mut CustomResourceDefinition) {
    let spec = definition.spec_mut();
    let names = spec.names_mut();
    if names.singular.is_empty() {
        names.singular = names.kind.to_lowercase();
    }
    if names.list_kind.is_empty() && !names.kind.is_empty() {
        names.list_kind = format!("{}List", names.kind);
    }
    let conversion = spec.conversion.get_or_insert_default();
    if conversion.strategy.is_empty() {
        *conversion = CustomResourceConversion { strategy: "None".to_owned(), ..Default::default() };
    }
    let stored: Vec<String> =
        spec.versions.iter().filter(|version| version.storage).map(|version| version.name.clone()).collect();
    let known = &mut definition.status_mut().stored_versions;
    known.extend(stored.into_iter().filter(|name| !known.contains(name)).collect::<Vec<_>>());
}

/// The version in which objects are stored.
pub fn storage_version(definition: &CustomResourceDefinition) -> Option<&CustomResourceDefinitionVersion> {
    definition.spec().versions.iter().find(|version| version.storage)
}
