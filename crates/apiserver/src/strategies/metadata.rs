//! What must hold of the metadata of any object, beyond the form of single fields.

use std::collections::BTreeSet;

use api::{
    Object,
    finalizers::{FOREGROUND, KUBERNETES, ORPHAN},
    meta::v1::{ObjectMeta, OwnerReference},
    names,
    rules::{FieldErrors, Path},
};
use prost::Message;

/// Most bytes that the keys and values of all annotations of an object may have together.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Finalizers whose names need no domain, because they are the system's own.
const STANDARD_FINALIZERS: &[&str] = &[KUBERNETES, ORPHAN, FOREGROUND];

/// Removes owner references that stand in the list twice, as upstream does.
pub fn remove_duplicates(meta: &mut ObjectMeta) {
    let mut seen = BTreeSet::new();
    meta.owner_references.retain(|owner| seen.insert(owner.encode_to_vec()));
}

/// Remarks on metadata as it was sent.
pub fn warnings(meta: &ObjectMeta) -> Vec<String> {
    let mut uids = BTreeSet::new();
    let twice: Vec<&str> =
        meta.owner_references.iter().map(|owner| owner.uid.as_str()).filter(|uid| !uids.insert(*uid)).collect();
    if twice.is_empty() {
        return Vec::new();
    }
    vec![format!("metadata.ownerReferences contains duplicate entries, of which one is kept: UID {}", twice.join(", "))]
}

/// Gives `meta` what an update of the status can change beside the status.
pub fn take_over(meta: &mut ObjectMeta, sent: &mut ObjectMeta) {
    meta.labels = std::mem::take(&mut sent.labels);
    meta.annotations = std::mem::take(&mut sent.annotations);
    meta.finalizers = std::mem::take(&mut sent.finalizers);
}

/// Checks the metadata of a new object, or of a changed one against the old.
pub fn validate(new: &dyn Object, old: Option<&dyn Object>, errors: &mut FieldErrors) {
    let root = Path::root();
    let at = root.field("metadata");
    let meta = new.meta();
    names(new, &at, errors);
    annotations(meta, &at, errors);
    owners(&meta.owner_references, &at.field("ownerReferences"), errors);
    finalizers(meta, old.map(Object::meta), &at.field("finalizers"), errors);
}

fn names(object: &dyn Object, at: &Path<'_>, errors: &mut FieldErrors) {
    let (kind, meta) = (object.kind(), object.meta());
    let generated = meta.name.starts_with(&meta.generate_name) && !meta.generate_name.is_empty();
    if !meta.generate_name.is_empty()
        && let Err(why) = names::check(kind.name_format, &without_trailing_dash(&meta.generate_name))
    {
        errors.invalid(&at.field("generateName"), &meta.generate_name, why);
    } else if meta.name.is_empty() {
        errors.required_because(&at.field("name"), "name or generateName is required");
    } else if let Err(why) = names::check(kind.name_format, &meta.name) {
        let field = if generated { "generateName" } else { "name" };
        errors.invalid(&at.field(field), &meta.name, why);
    }
    match (kind.namespaced, meta.namespace.is_empty()) {
        (true, true) => errors.required(&at.field("namespace")),
        (false, false) => errors.forbidden(&at.field("namespace"), "not allowed on this type"),
        _ => {}
    }
}

/// The prefix as the beginning of a name: what the server adds makes a trailing dash right.
fn without_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => prefix.to_owned(),
    }
}

fn annotations(meta: &ObjectMeta, at: &Path<'_>, errors: &mut FieldErrors) {
    let at = at.field("annotations");
    let mut total = 0;
    for (key, value) in &meta.annotations {
        // Unlike labels, annotations may be written in upper case where a domain allows only lower.
        if let Err(why) = names::check(names::Format::QualifiedName, &key.to_lowercase()) {
            errors.invalid(&at, key, why);
        }
        total += key.len() + value.len();
    }
    if total > ANNOTATIONS_MAX {
        errors.too_long(&at, ANNOTATIONS_MAX);
    }
}

fn owners(owners: &[OwnerReference], at: &Path<'_>, errors: &mut FieldErrors) {
    let mut controller: Option<&str> = None;
    for (i, owner) in owners.iter().enumerate() {
        let at_owner = at.index(i);
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        if !owner.api_version.is_empty() && (version.is_empty() || owner.api_version.matches('/').count() > 1) {
            errors.invalid(&at_owner.field("apiVersion"), &owner.api_version, "version must not be empty");
        }
        if owner.kind == "Event" && matches!(owner.api_version.as_str(), "v1" | "events.k8s.io/v1" | "events.k8s.io/v1beta1") {
            errors.invalid(
                &at_owner,
                &owner.kind,
                format_args!("{}, Kind=Event is disallowed from being an owner", owner.api_version),
            );
        }
        if owner.controller == Some(true) {
            match controller {
                None => controller = Some(&owner.name),
                Some(first) => errors.invalid(
                    at,
                    &owner.name,
                    format_args!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                        owner.name
                    ),
                ),
            }
        }
    }
}

fn finalizers(meta: &ObjectMeta, old: Option<&ObjectMeta>, at: &Path<'_>, errors: &mut FieldErrors) {
    for (i, name) in meta.finalizers.iter().enumerate() {
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name.as_str()) {
            errors.invalid(&at.index(i), name, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
    let has = |wanted: &str| meta.finalizers.iter().any(|f| f == wanted);
    if has(ORPHAN) && has(FOREGROUND) {
        errors.invalid(at, &meta.finalizers, format_args!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set"));
    }
    let Some(old) = old.filter(|old| old.deletion_timestamp.is_some()) else { return };
    let added: Vec<&String> = meta.finalizers.iter().filter(|f| !old.finalizers.contains(f)).collect();
    if !added.is_empty() {
        let why = format_args!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}");
        errors.forbidden(at, why);
    }
}

#[cfg(test)]
mod tests {
    use api::{
        core::v1::{Namespace, Pod},
        meta::v1::Time,
    };

    use super::*;

    fn pod(change: impl FnOnce(&mut ObjectMeta)) -> Pod {
        let mut pod = Pod::default();
        pod.metadata_mut().name = "web".into();
        pod.metadata_mut().namespace = "default".into();
        change(pod.metadata_mut());
        pod
    }

    fn fields(new: &dyn Object, old: Option<&dyn Object>) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(new, old, &mut errors);
        errors.0.into_iter().map(|e| format!("{}: {}", e.field, e.message)).collect()
    }

    #[test]
    fn a_good_object_has_no_errors() {
        assert_eq!(fields(&pod(|_| {}), None), Vec::<String>::new());
    }

    #[test]
    fn an_object_needs_a_name_or_a_prefix_for_one() {
        let found = fields(&pod(|m| m.name.clear()), None);
        assert_eq!(found, ["metadata.name: Required value: name or generateName is required"]);
    }

    #[test]
    fn a_cluster_scoped_object_has_no_namespace() {
        let mut namespace = Namespace::default();
        namespace.metadata_mut().name = "a".into();
        namespace.metadata_mut().namespace = "b".into();
        assert_eq!(fields(&namespace, None), ["metadata.namespace: Forbidden: not allowed on this type"]);
    }

    #[test]
    fn annotations_are_at_most_256_kib() {
        let found = fields(&pod(|m| drop(m.annotations.insert("a".into(), "x".repeat(ANNOTATIONS_MAX)))), None);
        assert_eq!(found, ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
    }

    #[test]
    fn only_one_owner_controls() {
        let owner = |name: &str| OwnerReference {
            api_version: "v1".into(),
            kind: "ReplicationController".into(),
            name: name.into(),
            uid: name.into(),
            controller: Some(true),
            ..Default::default()
        };
        let found = fields(&pod(|m| m.owner_references = vec![owner("a"), owner("b")]), None);
        assert_eq!(found.len(), 1);
        assert!(found[0].ends_with("Found \"true\" in references for a and b"), "{found:?}");
    }

    #[test]
    fn an_owner_that_is_named_twice_is_kept_once_and_told() {
        let owner = |uid: &str| OwnerReference { uid: uid.into(), name: uid.into(), ..Default::default() };
        let mut pod = pod(|m| m.owner_references = vec![owner("a"), owner("b"), owner("a")]);
        let said = warnings(pod.metadata());
        assert_eq!(said, ["metadata.ownerReferences contains duplicate entries, of which one is kept: UID a"]);
        remove_duplicates(pod.metadata_mut());
        assert_eq!(pod.metadata().owner_references, [owner("a"), owner("b")]);
        assert_eq!(warnings(pod.metadata()), [""; 0]);
    }

    #[test]
    fn finalizers_are_the_systems_or_qualified() {
        assert_eq!(
            fields(&pod(|m| m.finalizers = vec!["foregroundDeletion".into(), "a.io/b".into()]), None),
            Vec::<String>::new()
        );
        let found = fields(&pod(|m| m.finalizers = vec!["mine".into()]), None);
        assert!(found[0].starts_with("metadata.finalizers[0]: Invalid value: \"mine\": name is neither"), "{found:?}");
    }

    #[test]
    fn an_object_on_its_way_out_gets_no_new_finalizers() {
        let old = pod(|m| m.deletion_timestamp = Some(Time::now()));
        let new = pod(|m| m.finalizers = vec!["a.io/b".into()]);
        assert!(fields(&new, Some(&old))[0].starts_with("metadata.finalizers: Forbidden: no new finalizers can be added"));
        let (old, new) = (pod(|m| m.finalizers = vec!["a.io/b".into()]), pod(|_| {}));
        assert_eq!(fields(&new, Some(&old)), Vec::<String>::new());
    }
}
