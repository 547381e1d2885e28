//! Our objects are upstream's, in protobuf and in JSON: every kind, with every field filled, goes through the published crates
//! `k8s-pb` (a newer level than ours) and `k8s-openapi` (the same level) and comes back as it was.

#![expect(clippy::expect_used, reason = "tests state their claims by unwrapping")]

use std::collections::BTreeSet;

use api::{KINDS, Kind, Object, Resource, rules::FieldErrors, sample::Sampler};
use jiff::Timestamp;
use k8s_openapi::serde::{Serialize, de::DeserializeOwned};
use proptest::prelude::*;
use prost::Message;
use serde_json::Value;

/// Deep enough to reach every field of every kind.
const DEPTH: usize = 14;

/// `k8s-openapi` writes the empty name of a LocalObjectReference, which upstream and we leave out.
const EMPTY_NAME: &str = ".name: \"<missing>\" / \"\"";

/// A kind and how it goes through the other crates.
struct Case {
    kind: &'static Kind,
    through_pb: fn(&Value) -> Value,
    through_openapi: Option<fn(&Value) -> Value>,
}

fn through_pb<Ours: Resource, Theirs: Message + Default>(value: &Value) -> Value {
    let ours: Ours = api::json::from_value(value.clone()).expect("ours reads what the schema makes");
    let theirs = Theirs::decode(ours.encode_to_vec().as_slice()).expect("k8s-pb decodes ours");
    let back = Ours::decode(theirs.encode_to_vec().as_slice()).expect("ours decodes k8s-pb's");
    back.to_value().expect("ours has JSON")
}

fn through_openapi<Ours: Resource, Theirs: Serialize + DeserializeOwned>(value: &Value) -> Value {
    let ours: Ours = api::json::from_value(value.clone()).expect("ours reads what the schema makes");
    let json = api::json::to_value(&ours).expect("ours has JSON");
    let theirs: Theirs = serde_json::from_value(json.clone()).expect("k8s-openapi reads ours");
    let theirs = serde_json::to_value(theirs).expect("k8s-openapi has JSON");
    let back: Ours = api::json::from_value(theirs.clone()).expect("ours reads k8s-openapi's");
    assert_eq!(back.to_value().expect("ours has JSON"), json, "what comes back is not what went out");
    theirs
}

macro_rules! cases {
    ($($group:ident :: $version:ident { $($kind:ident),* })*) => {
        vec![$($(Case {
            kind: <api::$group::$version::$kind as Resource>::KIND,
            through_pb: through_pb::<api::$group::$version::$kind, k8s_pb::api::$group::$version::$kind>,
            through_openapi: Some(through_openapi::<api::$group::$version::$kind, k8s_openapi::api::$group::$version::$kind>),
        }),*),*]
    };
}

fn cases() -> Vec<Case> {
    let mut cases = cases! {
        core::v1 {
            Pod, PodTemplate, Binding, ReplicationController, Service, Endpoints, Node, Namespace, ServiceAccount, ResourceQuota,
            LimitRange, Secret, ConfigMap, Event
        }
        coordination::v1 { Lease }
        discovery::v1 { EndpointSlice }
        rbac::v1 { Role, RoleBinding, ClusterRole, ClusterRoleBinding }
        scheduling::v1 { PriorityClass }
        policy::v1 { Eviction }
        autoscaling::v1 { Scale }
        authentication::v1 { TokenReview, TokenRequest, SelfSubjectReview }
        authorization::v1 { SubjectAccessReview, SelfSubjectAccessReview, LocalSubjectAccessReview, SelfSubjectRulesReview }
    };
    // The metrics API is not in the OpenAPI document.
    cases.push(Case {
        kind: api::metrics::v1beta1::NodeMetrics::KIND,
        through_pb: through_pb::<api::metrics::v1beta1::NodeMetrics, k8s_pb::metrics::pkg::apis::metrics::v1beta1::NodeMetrics>,
        through_openapi: None,
    });
    cases.push(Case {
        kind: api::metrics::v1beta1::PodMetrics::KIND,
        through_pb: through_pb::<api::metrics::v1beta1::PodMetrics, k8s_pb::metrics::pkg::apis::metrics::v1beta1::PodMetrics>,
        through_openapi: None,
    });
    cases
}

/// Paths at which two values differ, without the indices of lists.
fn differences(a: &Value, b: &Value) -> BTreeSet<String> {
    fn walk(a: &Value, b: &Value, path: &str, out: &mut BTreeSet<String>) {
        match (a, b) {
            (Value::Object(a), Value::Object(b)) => {
                for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                    let missing = Value::String("<missing>".to_owned());
                    let (a, b) = (a.get(key).unwrap_or(&missing), b.get(key).unwrap_or(&missing));
                    walk(a, b, &format!("{path}.{key}"), out);
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (a, b) in a.iter().zip(b) {
                    walk(a, b, &format!("{path}[]"), out);
                }
            }
            _ if a == b => {}
            _ => {
                out.insert(format!("{path}: {} / {}", brief(a), brief(b)));
            }
        }
    }
    fn brief(value: &Value) -> String {
        value.to_string().chars().take(60).collect()
    }
    let mut out = BTreeSet::new();
    walk(a, b, "", &mut out);
    out
}

fn unexpected(found: BTreeSet<String>) -> Vec<String> {
    found.into_iter().filter(|difference| !difference.ends_with(EMPTY_NAME)).collect()
}

/// A filled object as our own JSON has it.
fn sample(kind: &Kind, mut sampler: Sampler) -> Value {
    let object = (kind.from_value)(sampler.object(kind.message)).expect("the schema's own objects are valid JSON for it");
    object.to_value().expect("ours has JSON")
}

#[test]
fn every_kind_is_compared() {
    let compared: BTreeSet<String> = cases().iter().map(|c| format!("{:?}", c.kind)).collect();
    let all: BTreeSet<String> = KINDS.iter().map(|k| format!("{k:?}")).collect();
    assert_eq!(compared, all);
}

#[test]
fn every_field_survives_our_own_encoding() {
    for kind in KINDS {
        let value = sample(kind, Sampler::full(DEPTH));
        let object = (kind.from_value)(value.clone()).unwrap();
        let back: Box<dyn Object> = (kind.decode)(object.encode()).unwrap();
        assert!(back.equals(object.as_ref()), "{kind:?}");
        assert_eq!(back.to_value().unwrap(), value, "{kind:?}");
    }
}

#[test]
fn every_field_is_where_the_schema_says() {
    for kind in KINDS {
        let raw = Sampler::full(DEPTH).object(kind.message);
        let problems: Vec<_> = api::strict::check(kind, &raw);
        assert!(problems.is_empty(), "{kind:?}: {problems:?}");
        let value = sample(kind, Sampler::full(DEPTH));
        let lost: Vec<String> = differences(&raw, &value).into_iter().filter(|d| d.contains("/ \"<missing>\"")).collect();
        assert!(lost.is_empty(), "{kind:?}: {lost:#?}");
    }
}

#[test]
fn every_field_survives_upstreams_protobuf() {
    let mut wrong = Vec::new();
    for case in cases() {
        let value = sample(case.kind, Sampler::full(DEPTH));
        let found = unexpected(differences(&value, &(case.through_pb)(&value)));
        wrong.extend(found.into_iter().map(|d| format!("{:?}{d}", case.kind)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_field_survives_upstreams_json() {
    let mut wrong = Vec::new();
    for case in cases() {
        let Some(through) = case.through_openapi else { continue };
        let value = sample(case.kind, Sampler::full(DEPTH));
        let found = unexpected(differences(&value, &through(&value)));
        wrong.extend(found.into_iter().map(|d| format!("{:?}{d}", case.kind)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn objects_with_some_fields_survive_both(seed: u64) {
        for case in cases() {
            let value = sample(case.kind, Sampler::random(seed, 50, 5));
            let found = unexpected(differences(&value, &(case.through_pb)(&value)));
            prop_assert!(found.is_empty(), "{:?}: {:?}", case.kind, found);
            if let Some(through) = case.through_openapi {
                let found = unexpected(differences(&value, &through(&value)));
                prop_assert!(found.is_empty(), "{:?}: {:?}", case.kind, found);
            }
        }
    }

    #[test]
    fn damaged_protobuf_is_refused_or_read_but_never_panics(seed: u64, cut: prop::sample::Index, flip: prop::sample::Index) {
        for kind in KINDS {
            let object = (kind.from_value)(sample(kind, Sampler::random(seed, 50, 3))).unwrap();
            let mut bytes = object.encode().to_vec();
            if bytes.is_empty() {
                continue;
            }
            let at = flip.index(bytes.len());
            bytes[at] ^= 0x41;
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Ok(mut object) = (kind.decode)(bytes.into()) {
                object.set_defaults();
                object.validate(&mut FieldErrors::default());
                let value = object.to_value().unwrap_or_default();
                prop_assert_eq!(api::print::cells(kind, &value, Timestamp::UNIX_EPOCH).len(), kind.columns.len());
            }
        }
    }
}
