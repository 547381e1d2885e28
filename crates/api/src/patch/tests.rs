//! What holds for every patch that is made here, tried on objects made from the schema.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Patch, PatchType, create_merge_patch, create_three_way_patch, create_two_way_patch};
use crate::{
    Resource,
    core::v1::{Pod, Service},
    sample::Sampler,
    schema::Message,
};

fn pod(seed: u64) -> Value {
    Sampler::random(seed, 40, 4).object(Pod::KIND.message().unwrap())
}

fn apply(patch: Value, document: Value, schema: Option<&'static Message>) -> Value {
    Patch::new(PatchType::Strategic, patch).unwrap().apply(document, schema).unwrap()
}

/// `modified` as `current` would have it: every field wanted is there and as wanted, except where lists are merged.
fn contains(current: &Value, wanted: &Value) -> bool {
    match (current, wanted) {
        (Value::Object(c), Value::Object(w)) => w.iter().all(|(k, w)| c.get(k).is_some_and(|c| contains(c, w))),
        (Value::Array(c), Value::Array(w)) => w.iter().all(|w| c.iter().any(|c| contains(c, w))),
        _ => current == wanted,
    }
}

#[test]
fn a_changed_volume_source_replaces_the_old_one() {
    let volumes = |source: Value| json!({"spec": {"volumes": [source]}});
    let (old, new) = (volumes(json!({"name": "v", "emptyDir": {}})), volumes(json!({"name": "v", "hostPath": {"path": "/"}})));
    let patch = create_two_way_patch(&old, &new, Pod::KIND.message()).unwrap();
    assert_eq!(patch["spec"]["volumes"][0]["$retainKeys"], json!(["hostPath", "name"]));
    assert_eq!(apply(patch, old, Pod::KIND.message()), new);
}

#[test]
fn what_others_set_stays_and_what_is_no_longer_wanted_goes() {
    let original = json!({"metadata": {"labels": {"a": "1", "gone": "x"}}, "spec": {"containers": [{"name": "a", "image": "1"}, {"name": "old"}]}});
    let modified = json!({"metadata": {"labels": {"a": "2"}}, "spec": {"containers": [{"name": "a", "image": "2"}]}});
    let current = json!({
        "metadata": {"labels": {"a": "1", "gone": "x", "theirs": "y"}},
        "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "1", "imagePullPolicy": "Always"}, {"name": "old"}, {"name": "sidecar"}]},
    });
    let patch = create_three_way_patch(&original, &modified, &current, Pod::KIND.message()).unwrap();
    let expected = json!({
        "metadata": {"labels": {"a": "2", "theirs": "y"}},
        "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "2", "imagePullPolicy": "Always"}, {"name": "sidecar"}]},
    });
    assert_eq!(apply(patch, current.clone(), Pod::KIND.message()), expected);
    let again = create_three_way_patch(&modified, &modified, &expected, Pod::KIND.message()).unwrap();
    assert_eq!(again, json!({}), "nothing is left to do");
}

#[test]
fn ports_that_share_a_number_keep_what_the_server_chose() {
    let ports = |items: Value| json!({"spec": {"ports": items}});
    let wanted = ports(json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "name": "tcp"}]));
    let current = ports(
        json!([{"port": 53, "protocol": "UDP", "nodePort": 1}, {"port": 53, "name": "tcp", "protocol": "TCP", "nodePort": 2}]),
    );
    let schema = Service::KIND.message();
    assert_eq!(create_three_way_patch(&wanted, &wanted, &current, schema).unwrap(), json!({}));
    let changed = ports(json!([{"port": 53, "protocol": "UDP", "targetPort": 5}, {"port": 53, "name": "tcp"}]));
    let patch = create_three_way_patch(&wanted, &changed, &current, schema).unwrap();
    let expected = ports(json!([
        {"port": 53, "protocol": "UDP", "nodePort": 1, "targetPort": 5},
        {"port": 53, "name": "tcp", "protocol": "TCP", "nodePort": 2},
    ]));
    assert_eq!(apply(patch, current, schema), expected);
}

#[test]
fn long_lists_merge_in_linear_time() {
    let list = |prefix: &str| (0..10_000).map(|i| json!({"name": format!("{prefix}{i}")})).collect::<Vec<_>>();
    let document = json!({"spec": {"containers": list("a")}, "metadata": {"finalizers": (0..10_000).collect::<Vec<_>>()}});
    let patch = json!({"spec": {"containers": list("b"), "$setElementOrder/containers": list("b")},
        "metadata": {"finalizers": (10_000..20_000).collect::<Vec<_>>()}});
    let started = std::time::Instant::now();
    let merged = apply(patch, document, Pod::KIND.message());
    assert_eq!(merged["spec"]["containers"].as_array().unwrap().len(), 20_000);
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_patch_made_from_two_documents_turns_one_into_the_other(a: u64, b: u64) {
        let (a, b) = (pod(a), pod(b));
        let patch = create_two_way_patch(&a, &b, Pod::KIND.message()).unwrap();
        prop_assert_eq!(apply(patch, a, Pod::KIND.message()), b);
    }

    #[test]
    fn equal_documents_need_no_patch(a: u64) {
        let a = pod(a);
        prop_assert_eq!(create_two_way_patch(&a, &a, Pod::KIND.message()).unwrap(), json!({}));
    }

    #[test]
    fn after_a_three_way_patch_all_that_is_wanted_is_there(original: u64, modified: u64, current: u64) {
        let (original, modified, current) = (pod(original), pod(modified), pod(current));
        let patch = create_three_way_patch(&original, &modified, &current, Pod::KIND.message()).unwrap();
        let result = apply(patch, current, Pod::KIND.message());
        prop_assert!(contains(&result, &modified), "{} lacks some of {}", result, modified);
        let again = create_three_way_patch(&modified, &modified, &result, Pod::KIND.message()).unwrap();
        prop_assert_eq!(again, json!({}), "applying twice changes something");
    }

    #[test]
    fn merge_patches_turn_one_into_the_other(a: u64, b: u64) {
        let (a, b) = (pod(a), pod(b));
        let patch = Patch::new(PatchType::Merge, create_merge_patch(&a, &b)).unwrap();
        prop_assert_eq!(patch.apply(a, Pod::KIND.message()).unwrap(), b);
    }

    #[test]
    fn any_json_is_patched_or_refused(seed: u64, patch in arbitrary_patch()) {
        if let Ok(patch) = Patch::new(PatchType::Strategic, patch) {
            let result = patch.apply(pod(seed), Pod::KIND.message());
            prop_assert!(result.is_ok() || result.is_err());
        }
    }
}

/// JSON whose keys are often fields or directives.
fn arbitrary_patch() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(1)),
        Just(json!("id1")),
        Just(json!("replace")),
        Just(json!("delete")),
        Just(json!([]))
    ];
    let keys = proptest::sample::select(vec![
        "metadata",
        "spec",
        "containers",
        "name",
        "volumes",
        "env",
        "finalizers",
        "labels",
        "$patch",
        "$retainKeys",
        "emptyDir",
        "$setElementOrder/containers",
        "$setElementOrder/finalizers",
        "$deleteFromPrimitiveList/finalizers",
        "$setElementOrder/",
        "ports",
    ]);
    leaf.prop_recursive(6, 64, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
