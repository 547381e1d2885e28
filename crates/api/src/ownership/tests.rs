use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    KINDS, Object, Resource,
    core::v1::{ConfigMap, Pod, ReplicationController, Service},
    meta::v1::{ManagedFieldsEntry, Time},
    sample::Sampler,
};

fn shape_of<K: Resource>() -> Shape<'static> {
    K::KIND.message().unwrap().shape()
}

fn set(fields: Value) -> FieldSet {
    FieldSet::decode(fields.to_string().as_bytes()).unwrap()
}

fn text(set: &FieldSet) -> String {
    String::from_utf8(set.encode().raw.to_vec()).unwrap()
}

fn paths(set: &FieldSet) -> Vec<String> {
    set.paths().iter().map(ToString::to_string).collect()
}

fn at(seconds: i64) -> Time {
    Time { seconds, nanos: 0 }
}

fn applier(name: &str) -> ManagerId {
    ManagerId { manager: name.into(), operation: Operation::Apply, api_version: "v1".into(), subresource: String::new() }
}

fn updater(name: &str) -> ManagerId {
    ManagerId { operation: Operation::Update, ..applier(name) }
}

// === the form ===

#[test]
fn a_set_is_written_as_upstream_writes_it() {
    let fields = r#"{"f:data":{".":{},"f:a\"b":{}},"f:metadata":{"f:finalizers":{"v:\"a.io/b\"":{}},"f:labels":{"f:x":{}}},"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}},"k:{\"port\":443,\"protocol\":\"TCP\"}":{}}},"i:3":{}}"#;
    assert_eq!(text(&FieldSet::decode(fields.as_bytes()).unwrap()), fields);
    assert_eq!(text(&FieldSet::default()), "{}");
}

#[test]
fn steps_are_in_upstreams_order_however_they_come() {
    let read = set(json!({"i:10": {}, "i:9": {}, "v:true": {}, "v:\"a\"": {}, "v:2": {}, "v:10": {}, "v:1.5": {},
        "k:{\"n\":10}": {}, "k:{\"n\":9}": {}, "k:{\"n\":\"a\"}": {}, "f:b": {}, "f:a": {}}));
    let names: Vec<String> = read.paths().iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [".a", ".b", "[n=9]", "[n=10]", "[n=\"a\"]", "[=1.5]", "[=2]", "[=10]", "[=\"a\"]", "[=true]", "[9]", "[10]"]
    );
    assert_eq!(FieldSet::decode(text(&read).as_bytes()).unwrap(), read);
}

#[test]
fn what_is_no_set_is_refused_with_the_key() {
    for bad in
        [r#"{"x:a":{}}"#, r#"{"f":{}}"#, r#"{"k:{}":{}}"#, r#"{"k:[1]":{}}"#, r#"{"i:x":{}}"#, r#"{"v:":{}}"#, "[]", "{", "1"]
    {
        assert!(FieldSet::decode(bad.as_bytes()).is_err(), "{bad}");
    }
    let error = FieldSet::decode(br#"{"f:spec":{"q:a":{}}}"#).unwrap_err().to_string();
    assert!(error.contains("\"q:a\""), "{error}");
    let deep = "{\"f:a\":".repeat(10_000);
    assert!(FieldSet::decode(deep.as_bytes()).is_err());
}

#[test]
fn sets_are_combined_by_their_places() {
    let a = set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}));
    let b = set(json!({"f:a": {"f:b": {}, "f:x": {}}, "f:e": {}}));
    assert_eq!(paths(&a.union(&b)), [".a", ".a.b", ".a.c", ".a.x", ".d", ".e"]);
    assert_eq!(paths(&a.intersection(&b)), [".a.b"]);
    assert_eq!(paths(&a.difference(&b)), [".a", ".a.c", ".d"]);
    assert_eq!(paths(&a.outside(&set(json!({"f:a": {}})))), [".d"]);
    assert_eq!(paths(&b.outside(&set(json!({"f:a": {"f:x": {}}})))), [".a.b", ".e"]);
    assert_eq!(a.len(), 4);
    assert!(a.contains(&FieldPath::of(&["a", "b"])) && !b.contains(&FieldPath::of(&["a"])));
}

// === what a configuration owns ===

#[test]
fn a_configuration_owns_its_leaves_and_items_and_what_is_null_or_empty() {
    let service = |spec: Value| paths(&fields_of(shape_of::<Service>(), &json!({ "spec": spec })));
    for (spec, owned) in [
        (json!({"type": "ClusterIP"}), vec![".spec.type"]),
        // A key that is left out has its default.
        (
            json!({"ports": [{"port": 80, "name": "a"}]}),
            vec![
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].name",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
            ],
        ),
        (json!({"ports": []}), vec![]),
        (json!({"ports": null}), vec![".spec.ports"]),
        // Atomic: one owner.
        (json!({"selector": {"a": "b", "c": "d"}}), vec![".spec.selector"]),
        (json!({"externalIPs": []}), vec![".spec.externalIPs"]),
        (json!({}), vec![".spec"]),
    ] {
        assert_eq!(service(spec.clone()), owned, "{spec}");
    }
    let map = |value: Value| paths(&fields_of(shape_of::<ConfigMap>(), &value));
    assert_eq!(map(json!({"data": {"a": "1", "b": null}})), [".data.a", ".data.b"]);
    assert_eq!(map(json!({"data": {}})), [".data"]);
    assert_eq!(map(json!({"data": null})), [".data"]);
    assert_eq!(map(json!({"metadata": {"finalizers": ["a.io/b"]}})), [".metadata.finalizers[=\"a.io/b\"]"]);
    let pod = fields_of(
        shape_of::<Pod>(),
        &json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "env": [{"name": "E",
            "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}], "imagePullSecrets": [{"name": "p"}]}}),
    );
    assert_eq!(
        paths(&pod),
        [
            ".spec.containers[name=\"c\"]",
            ".spec.containers[name=\"c\"].env[name=\"E\"]",
            ".spec.containers[name=\"c\"].env[name=\"E\"].name",
            ".spec.containers[name=\"c\"].env[name=\"E\"].valueFrom.secretKeyRef",
            ".spec.containers[name=\"c\"].name",
            ".spec.imagePullSecrets[name=\"p\"]",
            ".spec.volumes[name=\"v\"]",
            ".spec.volumes[name=\"v\"].emptyDir",
            ".spec.volumes[name=\"v\"].name",
        ]
    );
}

#[test]
fn items_that_cannot_be_told_apart_are_refused_with_their_list() {
    let service = |ports: Value| check(shape_of::<Service>(), &json!({"spec": {"ports": ports}})).unwrap_err().to_string();
    assert_eq!(
        service(json!([{"port": 80}, {"port": 80, "protocol": "TCP"}])),
        ".spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]"
    );
    assert_eq!(
        service(json!([{"name": "a"}])),
        ".spec.ports: element 0: associative list with keys has an element that omits key field \"port\" (and doesn't have default value)"
    );
    assert!(service(json!([null])).starts_with(".spec.ports: element 0: null"));
    let twice = json!({"metadata": {"finalizers": ["a", "a"]}});
    assert_eq!(
        check(shape_of::<Pod>(), &twice).unwrap_err().to_string(),
        ".metadata.finalizers: duplicate entries for key [=\"a\"]"
    );
    assert_eq!(
        check(shape_of::<Service>(), &json!({"spec": {"ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}]}})),
        Ok(())
    );
}

// === comparing ===

#[test]
fn a_comparison_tells_what_came_changed_and_went() {
    let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "data": {"x": "1"}});
    let new = json!({"metadata": {"labels": {"a": "1", "b": "3"}, "annotations": {"n": "1"}}, "data": {"y": "1"}});
    let change = Comparison::of_values(shape_of::<ConfigMap>(), &old, &new);
    assert_eq!(paths(&change.added), [".data.y", ".metadata.annotations", ".metadata.annotations.n"]);
    assert_eq!(paths(&change.modified), [".metadata.labels.b"]);
    assert_eq!(paths(&change.removed), [".data.x"]);
    assert!(Comparison::of_values(shape_of::<ConfigMap>(), &old, &old).is_empty());
}

#[test]
fn duplicates_of_a_live_list_are_one_value_together() {
    let list = |items: Value| json!({"spec": {"containers": [{"name": "c", "env": items}]}});
    let compared = |old: Value, new: Value| Comparison::of_values(shape_of::<Pod>(), &list(old), &list(new));
    let twice = json!([{"name": "E", "value": "1"}, {"name": "E", "value": "2"}]);
    let change = compared(twice.clone(), json!([{"name": "E", "value": "1"}]));
    assert_eq!(paths(&change.modified), [".spec.containers[name=\"c\"].env[name=\"E\"]"]);
    assert!(compared(twice.clone(), twice).is_empty());
}

// === merging ===

#[test]
fn a_configuration_is_merged_by_the_schema() {
    let rows: Vec<(&str, Shape<'_>, Value, Value, Value)> = vec![
        (
            "granular maps keep what others set",
            shape_of::<ConfigMap>(),
            json!({"data": {"a": "1", "b": "2"}}),
            json!({"data": {"b": "3", "c": "4"}}),
            json!({"data": {"a": "1", "b": "3", "c": "4"}}),
        ),
        (
            "atomic maps are replaced",
            shape_of::<Service>(),
            json!({"spec": {"selector": {"a": "1"}}}),
            json!({"spec": {"selector": {"b": "2"}}}),
            json!({"spec": {"selector": {"b": "2"}}}),
        ),
        (
            "atomic lists are replaced",
            shape_of::<Service>(),
            json!({"spec": {"externalIPs": ["1.1.1.1", "2.2.2.2"]}}),
            json!({"spec": {"externalIPs": ["3.3.3.3"]}}),
            json!({"spec": {"externalIPs": ["3.3.3.3"]}}),
        ),
        (
            "sets take in, in the configuration's order",
            shape_of::<Pod>(),
            json!({"metadata": {"finalizers": ["x", "a", "b"]}}),
            json!({"metadata": {"finalizers": ["b", "c", "a"]}}),
            json!({"metadata": {"finalizers": ["x", "b", "c", "a"]}}),
        ),
        (
            "keyed lists are merged item by item",
            shape_of::<Service>(),
            json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "name": "a"}, {"port": 53, "protocol": "UDP"}]}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}),
            json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "name": "a", "targetPort": 8080}, {"port": 53, "protocol": "UDP"}]}}),
        ),
        (
            "null empties a leaf and leaves parts alone",
            shape_of::<ReplicationController>(),
            json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 3}}),
            json!({"metadata": {"labels": null}, "spec": {"replicas": null}}),
            json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": null}}),
        ),
        (
            "duplicates are replaced as one",
            shape_of::<Pod>(),
            json!({"spec": {"containers": [{"name": "c", "env": [{"name": "E"}, {"name": "F"}, {"name": "E", "value": "2"}]}]}}),
            json!({"spec": {"containers": [{"name": "c", "env": [{"name": "E", "value": "3"}]}]}}),
            json!({"spec": {"containers": [{"name": "c", "env": [{"name": "E", "value": "3"}, {"name": "F"}]}]}}),
        ),
    ];
    for (what, shape, live, config, wanted) in rows {
        assert_eq!(merge(shape, &live, &config), wanted, "{what}");
    }
}

// === managers ===

/// An object of one kind that managers apply to and update.
struct World {
    shape: Shape<'static>,
    live: Value,
    managers: Managers,
    now: i64,
}

impl World {
    fn new<K: Resource>() -> Self {
        let live = json!({"metadata": {}, "spec": {}, "status": {}});
        Self { shape: shape_of::<K>(), live, managers: Managers::default(), now: 0 }
    }

    fn apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), Conflicts> {
        self.now += 1;
        let id = applier(manager);
        check(self.shape, &config).unwrap();
        let mut merged = self.managers.merge(&id, self.shape, &self.live, &config);
        forget_null(&mut merged);
        let change = Comparison::of_values(self.shape, &self.live, &merged);
        let fields = fields_of(self.shape, &config);
        self.managers.apply(&id, fields, &change, (force, &FieldSet::default()), at(self.now))?;
        self.live = merged;
        Ok(())
    }

    fn update(&mut self, manager: &str, change: impl FnOnce(&mut Value)) {
        self.now += 1;
        let mut new = self.live.clone();
        change(&mut new);
        let change = Comparison::of_values(self.shape, &self.live, &new);
        self.managers.update(&updater(manager), change, at(self.now));
        self.live = new;
    }

    fn owned(&self, id: &ManagerId) -> Vec<String> {
        paths(&self.managers.fields_of(id))
    }
}

/// As decoding does: null is absent.
fn forget_null(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(forget_null);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_null),
        _ => {}
    }
}

#[test]
fn a_field_of_another_is_a_conflict_unless_forced_or_alike() {
    let mut world = World::new::<ReplicationController>();
    world.apply("a", json!({"spec": {"replicas": 1, "minReadySeconds": 5}}), false).unwrap();
    world.update("scaler", |live| live["spec"]["replicas"] = json!(3));
    assert_eq!(world.owned(&applier("a")), [".spec.minReadySeconds"]);

    let refused = world.apply("a", json!({"spec": {"replicas": 1, "minReadySeconds": 5}}), false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 1 conflict: conflict with \"scaler\" using v1 at 1970-01-01T00:00:02Z: .spec.replicas"
    );
    let status = crate::StatusError::from(refused);
    let cause = &status.status().details().causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".spec.replicas"));
    assert_eq!(world.live["spec"]["replicas"], json!(3));

    // The same value is shared.
    world.apply("b", json!({"spec": {"replicas": 3}}), false).unwrap();
    assert_eq!(world.owned(&applier("b")), [".spec.replicas"]);
    assert_eq!(world.owned(&updater("scaler")), [".spec.replicas"]);

    let refused = world.apply("a", json!({"spec": {"replicas": 1, "minReadySeconds": 5}}), false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"b\":\n- .spec.replicas\nconflicts with \"scaler\" using v1 at \
         1970-01-01T00:00:02Z:\n- .spec.replicas"
    );
    world.apply("a", json!({"spec": {"replicas": 1, "minReadySeconds": 5}}), true).unwrap();
    assert_eq!(world.owned(&applier("a")), [".spec.minReadySeconds", ".spec.replicas"]);
    assert_eq!(world.managers.entries().len(), 1);
}

#[test]
fn what_a_manager_names_no_more_goes_unless_somebody_owns_it() {
    let mut world = World::new::<ConfigMap>();
    world.apply("a", json!({"data": {"x": "1", "y": "1", "z": "1"}}), false).unwrap();
    world.apply("b", json!({"data": {"y": "1"}}), false).unwrap();
    world.update("edit", |live| live["data"]["w"] = json!("1"));
    world.apply("a", json!({"data": {"x": "1"}}), false).unwrap();
    assert_eq!(world.live["data"], json!({"w": "1", "x": "1", "y": "1"}));
    assert_eq!(world.owned(&applier("a")), [".data.x"]);
    world.apply("b", json!({}), false).unwrap();
    world.apply("a", json!({}), false).unwrap();
    assert_eq!(world.live["data"], json!({"w": "1"}));
    assert_eq!(world.managers.entries().len(), 1);
}

#[test]
fn items_of_keyed_lists_have_owners_of_their_own() {
    let mut world = World::new::<Service>();
    world.apply("a", json!({"spec": {"ports": [{"port": 80, "name": "http"}]}}), false).unwrap();
    world.apply("b", json!({"spec": {"ports": [{"port": 443, "protocol": "TCP", "name": "https"}]}}), false).unwrap();
    assert_eq!(world.live["spec"]["ports"].as_array().unwrap().len(), 2);
    let refused = world.apply("b", json!({"spec": {"ports": [{"port": 80, "name": "mine"}]}}), false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 1 conflict: conflict with \"a\": .spec.ports[port=80,protocol=\"TCP\"].name"
    );
    world.apply("a", json!({"spec": {"type": "ClusterIP"}}), false).unwrap();
    assert_eq!(world.live["spec"]["ports"], json!([{"port": 443, "protocol": "TCP", "name": "https"}]));
}

#[test]
fn a_struct_that_loses_its_last_field_goes() {
    let mut world = World::new::<Pod>();
    let containers = json!([{"name": "c", "image": "i"}]);
    world.apply("a", json!({"spec": {"containers": containers, "securityContext": {"runAsUser": 1}}}), false).unwrap();
    world.apply("a", json!({"spec": {"containers": containers}}), false).unwrap();
    assert_eq!(world.live["spec"], json!({ "containers": containers }));
}

#[test]
fn an_apply_that_says_nothing_new_changes_nothing() {
    let mut world = World::new::<ConfigMap>();
    world.apply("a", json!({"data": {"x": "1"}}), false).unwrap();
    let before = world.managers.clone().encode();
    world.apply("a", json!({"data": {"x": "1"}}), false).unwrap();
    assert_eq!(world.managers.clone().encode(), before);
    world.update("edit", |_| {});
    assert_eq!(world.managers.clone().encode(), before);
    world.apply("a", json!({"data": {"x": "2"}}), false).unwrap();
    assert_eq!(world.managers.entries()[0].time, Some(at(4)));
}

#[test]
fn the_oldest_of_many_updates_are_brought_together() {
    let mut world = World::new::<ConfigMap>();
    for i in 0..13 {
        world.update(&format!("m{i}"), |live| live["data"][format!("k{i:02}")] = json!("1"));
    }
    world.apply("a", json!({"data": {"mine": "1"}}), false).unwrap();
    let entries = world.managers.clone().encode();
    let names: Vec<&str> = entries.iter().map(|entry| entry.manager.as_str()).collect();
    assert_eq!(names, ["a", "ancient-changes", "m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11", "m12"]);
    let ancient = FieldSet::decode(&entries[1].fields_v1().raw).unwrap();
    assert_eq!(paths(&ancient), [".data", ".data.k00", ".data.k01", ".data.k02", ".data.k03"]);
    assert_eq!(entries[1].time, Some(at(4)));
}

#[test]
fn entries_that_are_none_are_refused_and_those_of_other_versions_left_out() {
    let entry = |manager: &str, change: fn(&mut ManagedFieldsEntry)| {
        let mut world = World::new::<ConfigMap>();
        world.update(manager, |live| live["data"] = json!({"a": "1"}));
        let mut entry = world.managers.encode().remove(0);
        change(&mut entry);
        entry
    };
    let served = |version: &str| version == "v1";
    let sent = |change| Managers::sent(&[entry("m", change)], served);
    assert_eq!(sent(|_| {}).unwrap().entries().len(), 1);
    assert!(sent(|e| e.operation = "Create".into()).unwrap_err().starts_with("operation"));
    assert!(sent(|e| e.fields_type = "FieldsV2".into()).unwrap_err().starts_with("fieldsType"));
    assert!(sent(|e| e.fields_v1_mut().raw = "{\"x\":{}}".into()).unwrap_err().starts_with("fieldsV1 of \"m\""));
    assert!(sent(|e| e.api_version = "v9".into()).unwrap().is_empty());
}

#[test]
fn what_sets_have_in_common_is_told_without_reading_them() {
    let encoded = r#"{"f:data":{".":{},"f:a":{}},"f:spec":{"f:ports":{"k:{\"port\":80}":{".":{},"f:name":{}}}}}"#;
    let common = |other: Value| FieldSet::common(encoded.as_bytes(), &set(other)).unwrap();
    for (other, count) in [
        (json!({"f:data": {"f:b": {}}, "f:status": {}}), 0),
        (json!({"f:spec": {"f:ports": {"k:{\"port\":81}": {"f:name": {}}}}}), 0),
        (json!({"f:data": {"f:a": {}}}), 1),
        (json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}), 2),
        (json!({"f:spec": {}}), 0),
        (json!({"f:spec": {"f:ports": {"k:{\"port\":80}": {".": {}, "f:name": {}}}}}), 2),
    ] {
        assert_eq!(common(other.clone()), count, "{other}");
        let read = FieldSet::decode(encoded.as_bytes()).unwrap();
        assert_eq!(read.intersection(&set(other)).len(), count);
    }
    assert_eq!(FieldSet::common(b"no set", &set(json!({"f:a": {}}))), None);
}

// === properties ===

/// Whether two sets are the same when the encodings and the JSON trees of the same objects are compared.
fn same_both_ways(kind: &'static crate::Kind, old: &Value, new: &Value) -> Result<(), TestCaseError> {
    let message = kind.message().unwrap();
    let read = |value: &Value| crate::KindRef::of(kind).from_value(value.clone()).ok();
    let (Some(old), Some(new)) = (read(old), read(new)) else { return Ok(()) };
    let by_bytes = Comparison::of_encoded(message, &old.encode(), &new.encode());
    let tree = |object: &dyn Object| {
        let mut value = object.to_value().unwrap();
        value.as_object_mut().unwrap().retain(|key, _| key != "apiVersion" && key != "kind");
        value
    };
    let by_tree = Comparison::of_values(message.shape(), &tree(&*old), &tree(&*new));
    for (bytes, tree) in
        [(&by_bytes.added, &by_tree.added), (&by_bytes.modified, &by_tree.modified), (&by_bytes.removed, &by_tree.removed)]
    {
        prop_assert_eq!(text(bytes), text(tree), "{:?}\n{:?}\n{:?}", kind, old, new);
    }
    Ok(())
}

/// Items of keyed lists that have their keys, each once.
fn told_apart(shape: Shape<'_>, value: &mut Value) {
    match (shape, value) {
        (Shape::Struct(place), Value::Object(map)) => {
            for (name, value) in map.iter_mut() {
                told_apart(place.field(name).unwrap_or(Shape::Untyped), value);
            }
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(items)) => {
            let mut kept: Vec<Value> = Vec::new();
            for item in std::mem::take(items) {
                kept.push(item);
                let mut list = json!({});
                list["l"] = Value::Array(kept.clone());
                if check(Shape::Struct(&OneList(shape)), &list).is_err() {
                    kept.pop();
                }
            }
            if let Shape::Keyed(place) = shape {
                kept.iter_mut().for_each(|item| told_apart(place.item(), item));
            }
            *items = kept;
        }
        _ => {}
    }
}

#[derive(Debug)]
struct OneList<'s>(Shape<'s>);

impl Place for OneList<'_> {
    fn field(&self, _: &str) -> Option<Shape<'_>> {
        Some(self.0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn encodings_are_compared_as_their_json_is(seed: u64, other: u64) {
        for kind in KINDS {
            let sample = |seed| Sampler::random(seed, 40, 6).object(kind.message().unwrap());
            let (old, new) = (sample(seed), sample(other));
            same_both_ways(kind, &old, &new)?;
            same_both_ways(kind, &json!({}), &new)?;
        }
    }

    #[test]
    fn applying_twice_is_applying_once_and_applying_nothing_restores(seed in prop_oneof![Just(10_036_928_575_351_406_393), any::<u64>()]) {
        for kind in KINDS {
            let shape = kind.message().unwrap().shape();
            let mut config = Sampler::random(seed, 40, 4).object(kind.message().unwrap());
            told_apart(shape, &mut config);
            forget_null(&mut config);
            let mut world = World { shape, live: json!({}), managers: Managers::default(), now: 0 };
            world.apply("a", config.clone(), false).unwrap();
            let (live, managers) = (world.live.clone(), world.managers.clone());
            world.apply("a", config, false).unwrap();
            prop_assert_eq!(&world.live, &live);
            prop_assert_eq!(&world.managers, &managers);
            world.apply("a", json!({}), false).unwrap();
            prop_assert!(world.managers.is_empty());
            forget_empty(&mut world.live);
            prop_assert_eq!(&world.live, &json!({}));
        }
    }

    #[test]
    fn any_text_is_a_set_or_refused_and_a_set_comes_back(text in "[{}\\[\\]:,\"fkvi.a0-2\\\\]{0,40}") {
        if let Ok(set) = FieldSet::decode(text.as_bytes()) {
            prop_assert_eq!(FieldSet::decode(&set.encode().raw).unwrap(), set);
        }
    }
}

fn forget_empty(value: &mut Value) {
    if value.is_null() {
        *value = json!({});
    }
    if let Value::Object(map) = value {
        map.values_mut().for_each(forget_empty);
        // A keyed list that was applied empty is owned by nobody and stays; decoding drops it.
        map.retain(|_, value| !matches!(value, Value::Object(map) if map.is_empty()) && *value != json!([]));
    }
}
