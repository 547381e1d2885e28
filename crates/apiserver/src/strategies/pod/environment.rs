//! Environment variables and the fields of the pod that they, and downward API files, can show.

use api::{
    core::v1::{Container, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector},
    names::{self, Format},
    quantity::Quantity,
    rules::{FieldErrors, Path},
};

/// Fields that a variable can show; labels and annotations one at a time besides.
const VARIABLE_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a file can show.
const FILE_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Resources of a container that can be shown.
const RESOURCES: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const ONE_AT_A_TIME: &str = "may not have more than one field specified at a time";

/// Checks a container's `env` and `envFrom`.
pub(super) fn validate(container: &Container, at: &Path<'_>, errors: &mut FieldErrors) {
    let list = at.field("env");
    for (i, variable) in container.env.iter().enumerate() {
        let Some(source) = &variable.value_from else { continue };
        let at = list.index(i);
        let at = at.field("valueFrom");
        if !variable.value.is_empty() {
            errors.invalid(&at, "", "may not be specified when `value` is not empty");
        }
        value_from(source, &at, errors);
    }
    let list = at.field("envFrom");
    for (i, source) in container.env_from.iter().enumerate() {
        let at = list.index(i);
        match (&source.config_map_ref, &source.secret_ref) {
            (None, None) => errors.invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`"),
            (Some(_), Some(_)) => errors.invalid(&at, "", ONE_AT_A_TIME),
            (Some(map), None) => named(&map.local_object_reference().name, &at.field("configMapRef"), errors),
            (None, Some(secret)) => named(&secret.local_object_reference().name, &at.field("secretRef"), errors),
        }
    }
}

fn value_from(source: &EnvVarSource, at: &Path<'_>, errors: &mut FieldErrors) {
    let mut count = 0;
    if let Some(field) = &source.field_ref {
        count += 1;
        field_ref(field, VARIABLE_FIELDS, true, &at.field("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        count += 1;
        resource_ref(resource, false, &at.field("resourceFieldRef"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        count += 1;
        named(&key.local_object_reference().name, &at.field("configMapKeyRef"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        count += 1;
        named(&key.local_object_reference().name, &at.field("secretKeyRef"), errors);
    }
    match count {
        0 => errors.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"),
        1 => {}
        _ => errors.invalid(at, "", ONE_AT_A_TIME),
    }
}

/// A reference needs a name.
pub(super) fn named(name: &str, at: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(&at.field("name"));
    }
}

/// Checks a field shown in a file.
pub(super) fn file_field(field: &ObjectFieldSelector, at: &Path<'_>, errors: &mut FieldErrors) {
    field_ref(field, FILE_FIELDS, true, at, errors);
}

fn field_ref(field: &ObjectFieldSelector, allowed: &[&str], subscripts: bool, at: &Path<'_>, errors: &mut FieldErrors) {
    let (path, at) = (field.field_path.as_str(), at.field("fieldPath"));
    if !matches!(field.api_version.as_str(), "" | "v1") {
        errors.invalid(&at, path, format_args!("error converting fieldPath: unsupported pod version: {}", field.api_version));
        return;
    }
    if path.is_empty() || allowed.contains(&path) {
        return;
    }
    let subscript = path.strip_suffix("']").and_then(|path| path.split_once("['"));
    match subscript {
        Some(("metadata.labels" | "metadata.annotations", key)) if subscripts => {
            if let Err(why) = names::check(Format::QualifiedName, &key.to_lowercase()) {
                errors.invalid(&at, path, why);
            }
        }
        Some(_) => errors.invalid(&at, path, "does not support subscript"),
        None => errors.not_supported(&at, path, allowed),
    }
}

/// Checks a container's resource that is shown. `file`: the container must be named.
pub(super) fn resource_ref(field: &ResourceFieldSelector, file: bool, at: &Path<'_>, errors: &mut FieldErrors) {
    if file && field.container_name.is_empty() {
        errors.required(&at.field("containerName"));
    }
    let resource = field.resource.as_str();
    let hugepages = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if !resource.is_empty() && !RESOURCES.contains(&resource) && !hugepages {
        errors.not_supported(&at.field("resource"), resource, RESOURCES);
        return;
    }
    let Some(divisor) = field.divisor.as_ref() else { return };
    let at = at.field("divisor");
    let Ok(divisor) = Quantity::try_from(divisor) else {
        errors.invalid(&at, &divisor.string, "must be a quantity such as 1, 1m or 1Mi");
        return;
    };
    let allowed: &[&str] = if resource.ends_with(".cpu") {
        &["1m", "1"]
    } else {
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"]
    };
    let zero = divisor.is_zero();
    if !zero && !allowed.iter().any(|text| Quantity::parse(text).is_ok_and(|unit| unit == divisor)) {
        errors.not_supported(&at, divisor.to_string(), allowed);
    }
}
