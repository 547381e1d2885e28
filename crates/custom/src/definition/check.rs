//! What upstream demands of definitions.

use api::{
    apiextensions::v1::{
        CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
        CustomResourceDefinitionVersion, CustomResourceSubresourceScale,
    },
    jsonpath::Template,
    names::{self, Format},
    rules::{FieldErrors, Path},
};

use super::is_established;
use crate::{
    cel,
    schema::{self, Schema, Type, resolve},
};

/// Most fields of a version that selectors may name.
const MAX_SELECTABLE: usize = 8;
/// Longest warning about a deprecated version, in bytes.
const MAX_WARNING: usize = 256;
/// Annotation without which nobody defines kinds in Kubernetes' own groups.
const APPROVED: &str = "api-approved.kubernetes.io";

/// Types of columns, as messages list them.
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
/// Formats of columns.
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// Says what is wrong with a definition that has its defaults; a changed one against the old one.
pub fn check(definition: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>) -> FieldErrors {
    let mut errors = FieldErrors::default();
    let root = Path::root();
    let (at, meta) = (root.field("spec"), root.field("metadata"));
    let spec = definition.spec();
    let name = format!("{}.{}", spec.names().plural, spec.group);
    if definition.metadata().name != name {
        errors.invalid(&meta.field("name"), &definition.metadata().name, "must be spec.names.plural+\".\"+spec.group");
    }
    let owned = |owner: &str| spec.group == owner || spec.group.ends_with(&format!(".{owner}"));
    if (owned("k8s.io") || owned("kubernetes.io")) && !definition.metadata().annotations.contains_key(APPROVED) {
        errors.required_because(
            &meta.field("annotations").key(APPROVED),
            format_args!("protected groups must have approval annotation {APPROVED:?}, see https://github.com/kubernetes/enhancements/pull/1111"),
        );
    }
    check_spec(spec, old.map(CustomResourceDefinition::spec), &at, &mut errors);
    if let Some(old) = old {
        update(definition, old, &at, &mut errors);
    }
    let status = root.field("status");
    check_names(definition.status().accepted_names(), &status.field("acceptedNames"), &mut errors);
    stored_versions(definition, &status.field("storedVersions"), &mut errors);
    errors
}

fn check_spec(
    spec: &CustomResourceDefinitionSpec,
    old: Option<&CustomResourceDefinitionSpec>,
    at: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let group = at.field("group");
    if spec.group.is_empty() {
        errors.required(&group);
    } else if let Err(why) = names::check(Format::DnsSubdomain, &spec.group) {
        errors.invalid(&group, &spec.group, why);
    } else if !spec.group.contains('.') {
        errors.invalid(&group, &spec.group, "should be a domain with at least one dot");
    }
    match spec.scope.as_str() {
        "" => errors.required(&at.field("scope")),
        "Cluster" | "Namespaced" => {}
        other => errors.not_supported(&at.field("scope"), other, &["Cluster", "Namespaced"]),
    }
    if spec.preserve_unknown_fields {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&at.field("preserveUnknownFields"), true, why);
    }
    let here = at.field("names");
    let required = [
        ("plural", &spec.names().plural),
        ("singular", &spec.names().singular),
        ("kind", &spec.names().kind),
        ("listKind", &spec.names().list_kind),
    ];
    for (name, _) in required.iter().filter(|(_, value)| value.is_empty()) {
        errors.required(&here.field(name));
    }
    check_names(spec.names(), &here, errors);
    check_versions(spec, old, &at.field("versions"), errors);
    let conversion = at.field("conversion");
    match spec.conversion().strategy.as_str() {
        "None" | "" => {
            if spec.conversion().webhook.is_some() {
                errors.forbidden(&conversion.field("webhook"), "should not be set when strategy is not set to Webhook");
            }
        }
        "Webhook" => errors.forbidden(
            &conversion.field("strategy"),
            "conversion by webhook is not served here; with None, versions differ in apiVersion alone",
        ),
        other => errors.not_supported(&conversion.field("strategy"), other, &["None", "Webhook"]),
    }
}

fn check_names(names: &CustomResourceDefinitionNames, at: &Path<'_>, errors: &mut FieldErrors) {
    let label = |text: &str| if text.is_empty() { Ok(()) } else { names::check(Format::Dns1035Label, text) };
    for (field, value) in [("plural", &names.plural), ("singular", &names.singular)] {
        if let Err(why) = label(value) {
            errors.invalid(&at.field(field), value, why);
        }
    }
    for (field, value) in [("kind", &names.kind), ("listKind", &names.list_kind)] {
        if let Err(why) = label(&value.to_lowercase()) {
            errors.invalid(&at.field(field), value, format_args!("may have mixed case, but should otherwise match: {why}"));
        }
    }
    for (field, list) in [("shortNames", &names.short_names), ("categories", &names.categories)] {
        for (i, name) in list.iter().enumerate() {
            if let Err(why) = names::check(Format::Dns1035Label, name) {
                errors.invalid(&at.field(field).index(i), name, why);
            }
        }
    }
    if !names.kind.is_empty() && names.kind == names.list_kind {
        errors.invalid(&at.field("listKind"), &names.list_kind, "kind and listKind may not be the same");
    }
}

fn check_versions(
    spec: &CustomResourceDefinitionSpec,
    old: Option<&CustomResourceDefinitionSpec>,
    at: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let versions = &spec.versions;
    if versions.iter().enumerate().any(|(i, version)| versions[..i].iter().any(|other| other.name == version.name)) {
        errors.invalid_because(at, "must contain unique version names");
    }
    if versions.iter().filter(|version| version.storage).count() != 1 {
        errors.invalid_because(at, "must have exactly one version marked as storage version");
    }
    for (i, version) in versions.iter().enumerate() {
        let before = old.and_then(|old| old.versions.iter().find(|other| other.name == version.name));
        check_version(version, before, &at.index(i), errors);
    }
}

fn check_version(
    version: &CustomResourceDefinitionVersion,
    old: Option<&CustomResourceDefinitionVersion>,
    at: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if let Err(why) = names::check(Format::Dns1035Label, &version.name) {
        errors.invalid(&at.field("name"), &version.name, why);
    }
    warning(version, at, errors);
    let schema_at = at.field("schema");
    let here = schema_at.field("openAPIV3Schema");
    let has_status = version.subresources().status.is_some();
    let schema = match &version.schema().open_api_v3_schema {
        None => {
            errors.required_because(&here, "schemas are required");
            None
        }
        // What was accepted before stays accepted.
        Some(props) if old.is_some_and(|old| old.schema == version.schema) => Schema::new(props).ok(),
        Some(props) => {
            let before = errors.0.len();
            schema::check(props, has_status, &here, errors);
            let schema = Schema::new(props).ok().filter(|_| errors.0.len() == before);
            if let Some(schema) = &schema {
                cel::check(schema, &here, errors);
            }
            schema
        }
    };
    if let Some(scale) = &version.subresources().scale {
        check_scale(scale, &at.field("subresources").field("scale"), errors);
    }
    for (i, column) in version.additional_printer_columns.iter().enumerate() {
        check_column(column, &at.field("additionalPrinterColumns").index(i), errors);
    }
    if let Some(schema) = schema {
        check_selectable(version, &schema, &at.field("selectableFields"), errors);
    }
}

fn warning(version: &CustomResourceDefinitionVersion, at: &Path<'_>, errors: &mut FieldErrors) {
    let here = at.field("deprecationWarning");
    let Some(text) = &version.deprecation_warning else { return };
    if !version.deprecated {
        errors.invalid(&here, text, "can only be set for deprecated versions");
    }
    if text.len() > MAX_WARNING {
        errors.invalid(&here, text, format_args!("must be <= {MAX_WARNING} characters long"));
    }
    if text.is_empty() {
        errors.invalid(&here, text, "must not be an empty string");
    }
    if let Some((i, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        errors.invalid(
            &here,
            text,
            format_args!("must only contain printable UTF-8 characters; control character found at index {i}"),
        );
    }
}

fn check_scale(scale: &CustomResourceSubresourceScale, at: &Path<'_>, errors: &mut FieldErrors) {
    let mut path = |field: &str, path: &str, required: bool, below: &[&str], why: &str| {
        let here = at.field(field);
        if path.is_empty() && required {
            errors.required(&here);
        } else if !path.is_empty() && !path.starts_with('.') {
            errors.invalid(&here, path, "must be a simple json path starting with .");
        } else if !path.is_empty() && !below.iter().any(|below| path.starts_with(below)) {
            errors.invalid(&here, path, why);
        }
    };
    path("specReplicasPath", &scale.spec_replicas_path, true, &[".spec."], "should be a json path under .spec");
    path("statusReplicasPath", &scale.status_replicas_path, true, &[".status."], "should be a json path under .status");
    let selector = scale.label_selector_path.as_deref().unwrap_or_default();
    path("labelSelectorPath", selector, false, &[".spec.", ".status."], "should be a json path under either .spec or .status");
}

fn check_column(column: &CustomResourceColumnDefinition, at: &Path<'_>, errors: &mut FieldErrors) {
    if column.name.is_empty() {
        errors.required(&at.field("name"));
    }
    let one_of = |list: &[&str]| format!("must be one of {}", list.join(","));
    if column.r#type.is_empty() {
        errors.required_because(&at.field("type"), one_of(&COLUMN_TYPES));
    } else if !COLUMN_TYPES.contains(&column.r#type.as_str()) {
        errors.invalid(&at.field("type"), &column.r#type, one_of(&COLUMN_TYPES));
    }
    if !column.format.is_empty() && !COLUMN_FORMATS.contains(&column.format.as_str()) {
        errors.invalid(&at.field("format"), &column.format, one_of(&COLUMN_FORMATS));
    }
    let here = at.field("jsonPath");
    if column.json_path.is_empty() {
        errors.required(&here);
    } else if !column.json_path.starts_with('.') {
        errors.invalid(&here, &column.json_path, "must be a simple json path starting with .");
    } else if let Err(why) = Template::parse_relaxed(&column.json_path) {
        errors.invalid(&here, &column.json_path, format_args!("must be a JSON path: {why}"));
    }
}

fn check_selectable(version: &CustomResourceDefinitionVersion, schema: &Schema, at: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<String> = Vec::new();
    for (i, field) in version.selectable_fields.iter().enumerate() {
        let item = at.index(i);
        let (here, path) = (item.field("jsonPath"), &field.json_path);
        if path.is_empty() {
            errors.required(&here);
            continue;
        }
        let (shown, found) = match resolve(path, schema, false) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(&here, path, format_args!("is an invalid path: {why}"));
                continue;
            }
        };
        if shown == "metadata" || shown.starts_with("metadata.") {
            errors.invalid(&here, path, "must not point to fields in metadata");
        }
        if !matches!(found.ty, Type::String | Type::Boolean | Type::Integer) {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(&here, path, why);
        }
        if seen.contains(&shown) {
            errors.duplicate(&here, path);
        } else {
            seen.push(shown);
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.too_many(at, seen.len(), MAX_SELECTABLE);
    }
}

/// What is part of a kind's identity, and of how its objects are stored.
fn update(definition: &CustomResourceDefinition, old: &CustomResourceDefinition, at: &Path<'_>, errors: &mut FieldErrors) {
    let (spec, before) = (definition.spec(), old.spec());
    let names = at.field("names");
    let mut same = |here: &Path<'_>, new: &str, old: &str| {
        if new != old {
            errors.invalid(here, new, "field is immutable");
        }
    };
    if is_established(old) {
        same(&at.field("scope"), &spec.scope, &before.scope);
        same(&names.field("kind"), &spec.names().kind, &before.names().kind);
    }
    same(&at.field("group"), &spec.group, &before.group);
    same(&names.field("plural"), &spec.names().plural, &before.names().plural);
}

fn stored_versions(definition: &CustomResourceDefinition, at: &Path<'_>, errors: &mut FieldErrors) {
    let (stored, versions) = (&definition.status().stored_versions, &definition.spec().versions);
    if stored.is_empty() {
        errors.invalid_because(at, "must have at least one stored version");
        return;
    }
    for version in versions.iter().filter(|version| version.storage && !stored.contains(&version.name)) {
        errors.invalid_because(at, format_args!("must have the storage version {}", version.name));
    }
    for (i, name) in stored.iter().enumerate().filter(|(_, name)| !versions.iter().any(|version| version.name == **name)) {
        let why = format_args!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage \
             migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        errors.invalid(&at.index(i), name, why);
    }
}
