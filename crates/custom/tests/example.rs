//! The example of a kind of one's own, from its manifest to an object that is judged.

#![expect(clippy::unwrap_used, reason = "tests state their claims by unwrapping")]

use api::{
    Resource,
    apiextensions::v1::CustomResourceDefinition,
    meta::v1::Time,
    rules::{FieldErrors, Path},
};
use custom::{cel::Rules, definition, schema};
use serde_json::{Value, json};

fn documents() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/website.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    api::yaml::parse("website.yaml", text.as_bytes()).unwrap().into_iter().map(|document| document.value).collect()
}

fn definition() -> CustomResourceDefinition {
    let mut definition = api::json::from_value(documents().remove(0)).unwrap();
    definition::set_defaults(&mut definition);
    definition
}

/// What becomes of an object on its way in, and what is wrong with it.
fn judged(mut object: Value, old: Option<&Value>) -> (Value, Vec<String>) {
    let definition = definition();
    let version = definition::storage_version(&definition).unwrap();
    let schema = schema::Schema::new(version.schema().open_api_v3_schema()).unwrap();
    let rules = Rules::new(&schema).unwrap();
    let map = object.as_object_mut().unwrap();
    let pruned = schema::prune(map, &schema);
    schema::set_defaults(map, &schema);
    let mut errors = FieldErrors::default();
    schema::validate(&object, &schema, &Path::root(), &mut errors);
    rules.validate(&object, old, &mut errors);
    let unknown = pruned.0.into_iter().map(|path| format!("unknown {path}"));
    let said = unknown.chain(errors.0.iter().map(|e| format!("{}: {}", e.field, e.message))).collect();
    (object, said)
}

#[test]
fn the_example_is_a_good_definition_and_is_established() {
    let strict = api::strict::check(CustomResourceDefinition::KIND, &documents()[0]);
    assert!(strict.is_empty(), "{strict:#?}");
    let mut definition = definition();
    let errors = definition::check(&definition, None);
    assert!(errors.is_empty(), "{errors}");
    assert_eq!(definition.spec().names().list_kind, "WebsiteList");
    assert_eq!(definition.status().stored_versions, ["v1"]);
    definition.status = Some(definition::accept(&definition, [], Time::default()));
    assert!(definition::is_established(&definition));
}

#[test]
fn the_kind_that_comes_of_it_is_served_printed_and_judged_as_the_definition_says() {
    let mut definition = definition();
    definition.status = Some(definition::accept(&definition, [], Time::default()));
    let kind = api::KindRef::from(custom::kind::kinds(&definition).unwrap().remove(0));
    assert_eq!(
        (&*kind.api_version, &*kind.plural, kind.storage.as_deref()),
        ("example.com/v1", "websites", Some("example.com/websites"))
    );
    assert_eq!((kind.namespaced, kind.has_subresource("status"), kind.has_subresource("scale")), (true, true, true));
    assert_eq!(kind.selectable[0].label, "spec.domain");

    let mut object = kind.from_value(documents().remove(1)).unwrap();
    object.set_defaults();
    let mut errors = FieldErrors::default();
    object.validate(None, &mut errors);
    assert!(errors.is_empty(), "{errors}");
    let mut value = object.to_value().unwrap();
    value["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:00Z");
    value["status"] = json!({"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]});
    let now = "1970-01-01T00:05:00Z".parse().unwrap();
    assert_eq!(api::print::cells(&kind, &value, now), ["shop.example.com", "2", "True", "free", "5m"]);

    value["spec"]["replicas"] = json!("two");
    let wrong = kind.from_value(value).unwrap();
    let mut errors = FieldErrors::default();
    wrong.validate(Some(&*object), &mut errors);
    let fields: Vec<&str> = errors.0.iter().map(|e| e.field.as_str()).collect();
    assert_eq!(fields, ["spec.replicas", ""]);
    let api::schema::Schema::Dynamic(schema) = &kind.schema else { panic!("the kind was made at run time") };
    assert_eq!(schema.open_api()["properties"]["metadata"]["type"], "object");
}

#[test]
fn its_object_gets_defaults_and_is_valid() {
    let (object, said) = judged(documents().remove(1), None);
    assert_eq!(said, [""; 0]);
    assert_eq!(
        object["spec"],
        json!({
            "domain": "shop.example.com", "replicas": 2, "minReplicas": 0, "tier": "free", "timeout": "30s",
            "ports": [{"port": 443, "protocol": "TCP"}, {"port": 443, "protocol": "UDP"}], "settings": {"cache": {"enabled": true}},
        })
    );
}

#[test]
fn what_is_wrong_with_an_object_is_said_with_its_place() {
    let spec = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Website", "metadata": {"name": "x"}, "spec": spec});
    let old = spec(json!({"domain": "a.example", "replicas": 1, "minReplicas": 0, "tier": "free"}));
    for (new, wanted) in [
        (json!({"domain": "a.example"}), vec![]),
        (json!({"domain": "a.example", "colour": "red"}), vec!["unknown spec.colour"]),
        (json!({}), vec!["spec.domain: Required value"]),
        (json!({"domain": "a.example", "replicas": 4}), vec!["spec.replicas: Forbidden: the free tier has at most 3 replicas"]),
        (
            json!({"domain": "a.example", "replicas": 1, "minReplicas": 2}),
            vec!["spec.replicas: Invalid value: 1 replicas are fewer than the 2 that must be there"],
        ),
        (json!({"domain": "b.example"}), vec!["spec.domain: Invalid value: \"b.example\": domain cannot change"]),
        (
            json!({"domain": "a.example", "timeout": "long"}),
            vec!["spec.timeout: Invalid value: \"long\": spec.timeout in body must be of type duration: \"long\""],
        ),
        (
            json!({"domain": "a.example", "ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}]}),
            vec!["spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"],
        ),
    ] {
        let (_, said) = judged(spec(new.clone()), Some(&old));
        assert_eq!(said, wanted, "{new}");
    }
}

#[test]
fn a_definition_that_upstream_refuses_is_refused_in_its_words() {
    type Change = fn(&mut CustomResourceDefinition);
    let cases: [(Change, &str); 14] = [
        (
            |d| d.metadata_mut().name = "x".to_owned(),
            "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            |d| d.spec_mut().group = "example".to_owned(),
            "spec.group: Invalid value: \"example\": should be a domain with at least one dot",
        ),
        (
            |d| d.spec_mut().scope = "World".to_owned(),
            "spec.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (|d| d.spec_mut().preserve_unknown_fields = true, "spec.preserveUnknownFields: Invalid value: true: cannot set to true"),
        (
            |d| d.spec_mut().names_mut().kind = "Web_site".to_owned(),
            "spec.names.kind: Invalid value: \"Web_site\": may have mixed case, but should otherwise match",
        ),
        (
            |d| d.spec_mut().names_mut().list_kind = "Website".to_owned(),
            "spec.names.listKind: Invalid value: \"Website\": kind and listKind may not be the same",
        ),
        (
            |d| d.spec_mut().versions[0].storage = false,
            "spec.versions: Invalid value: must have exactly one version marked as storage version",
        ),
        (
            |d| {
                let v = d.spec().versions[0].clone();
                d.spec_mut().versions.push(v);
            },
            "spec.versions: Invalid value: must contain unique version names",
        ),
        (
            |d| d.spec_mut().versions[0].schema = None,
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ),
        (
            |d| d.spec_mut().versions[0].additional_printer_columns[0].r#type = "text".to_owned(),
            "spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
        ),
        (
            |d| d.spec_mut().versions[0].selectable_fields[0].json_path = ".metadata.name".to_owned(),
            "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".metadata.name\": is an invalid path: does not refer to a valid field",
        ),
        (
            |d| d.spec_mut().versions[0].subresources_mut().scale_mut().spec_replicas_path = ".status.x".to_owned(),
            "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.x\": should be a json path under .spec",
        ),
        (
            |d| d.spec_mut().conversion_mut().strategy = "Webhook".to_owned(),
            "spec.conversion.strategy: Forbidden: conversion by webhook is not served here",
        ),
        (
            |d| d.status_mut().stored_versions.push("v0".to_owned()),
            "status.storedVersions[1]: Invalid value: \"v0\": missing from spec.versions; v0 was previously a storage version",
        ),
    ];
    for (change, wanted) in cases {
        let mut changed = definition();
        change(&mut changed);
        let found: Vec<String> =
            definition::check(&changed, None).0.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        assert!(found.iter().any(|f| f.starts_with(wanted)), "{wanted}: {found:#?}");
    }
}

#[test]
fn what_is_part_of_a_kinds_identity_cannot_change() {
    let mut old = definition();
    old.status = Some(definition::accept(&old, [], Time::default()));
    let mut new = old.clone();
    new.spec_mut().scope = "Cluster".to_owned();
    new.spec_mut().names_mut().kind = "Site".to_owned();
    let found: Vec<String> = definition::check(&new, Some(&old)).0.iter().map(|e| e.field.clone()).collect();
    assert_eq!(found, ["spec.scope", "spec.names.kind"]);
}
