//! Our objects are upstream's, in protobuf and in JSON: every kind, with every field filled, goes through the published crates
//! `k8s-pb` (a newer level than ours) and `k8s-openapi` (the same level) and comes back as it was. What those crates know of a kind is
//! asked of them, so that a field that our schema lacks is missed.

#![expect(clippy::expect_used, reason = "tests state their claims by unwrapping")]

mod debug;
mod filled;

use std::{collections::BTreeSet, fmt::Debug};

use api::{
    KINDS, Kind, KindRef, MESSAGES, Object, Resource,
    rules::FieldErrors,
    sample::Sampler,
    schema::{Cardinality, FieldType, Message as Schema},
};
use jiff::Timestamp;
use k8s_openapi::serde::{Serialize, de::DeserializeOwned};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

/// Deep enough to reach every field of every kind.
const DEPTH: usize = 14;

/// `k8s-openapi` writes the empty name of a LocalObjectReference, which upstream and we leave out.
const EMPTY_NAME: &str = ".name: \"<missing>\" / \"\"";

/// A kind and how it goes through the other crates.
struct Case {
    kind: &'static Kind,
    through_pb: fn(&Value) -> Value,
    /// What is set in ours and in `k8s-pb`'s, field by field.
    in_pb: Compared,
    openapi: Option<OpenApi>,
}

#[derive(Clone, Copy)]
struct OpenApi {
    through: fn(&Value) -> Value,
    /// An object with every field that `k8s-openapi` knows.
    filled: fn(&'static Kind) -> Value,
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

fn in_pb<Ours, Theirs>(value: &Value) -> [BTreeSet<String>; 2]
where
    Ours: Message + Default + DeserializeOwned + Debug,
    Theirs: Message + Default + Debug,
{
    let ours: Ours = api::json::read(value.clone()).expect("ours reads what the schema makes");
    let theirs = Theirs::decode(ours.encode_to_vec().as_slice()).expect("k8s-pb decodes ours");
    [debug::leaves(&ours), debug::leaves(&theirs)]
}

fn filled<Theirs: Serialize + DeserializeOwned>(kind: &'static Kind) -> Value {
    let theirs = Theirs::deserialize(filled::Filler::new(&kind.api_version, &kind.kind)).expect("the type gets what it asks for");
    serde_json::to_value(theirs).expect("k8s-openapi has JSON")
}

macro_rules! cases {
    ($($group:ident :: $version:ident { $($kind:ident),* })*) => {
        vec![$($(Case {
            kind: <api::$group::$version::$kind as Resource>::KIND,
            through_pb: through_pb::<api::$group::$version::$kind, k8s_pb::api::$group::$version::$kind>,
            in_pb: in_pb::<api::$group::$version::$kind, k8s_pb::api::$group::$version::$kind>,
            openapi: Some(OpenApi {
                through: through_openapi::<api::$group::$version::$kind, k8s_openapi::api::$group::$version::$kind>,
                filled: filled::<k8s_openapi::api::$group::$version::$kind>,
            }),
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
    macro_rules! metrics {
        ($($kind:ident),*) => {
            cases.extend([$({
                use api::metrics::v1beta1::$kind as Ours;
                use k8s_pb::metrics::pkg::apis::metrics::v1beta1::$kind as Theirs;
                Case { kind: Ours::KIND, through_pb: through_pb::<Ours, Theirs>, in_pb: in_pb::<Ours, Theirs>, openapi: None }
            }),*])
        };
    }
    metrics!(NodeMetrics, PodMetrics);
    {
        use api::apiextensions::v1::CustomResourceDefinition as Ours;
        use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition as OpenApiTheirs;
        use k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition as Theirs;
        let openapi = OpenApi { through: through_openapi::<Ours, OpenApiTheirs>, filled: filled::<OpenApiTheirs> };
        cases.push(Case {
            kind: Ours::KIND,
            through_pb: through_pb::<Ours, Theirs>,
            in_pb: in_pb::<Ours, Theirs>,
            openapi: Some(openapi),
        });
    }
    cases
}

/// What is set in ours and in another crate's message, field by field.
type Compared = fn(&Value) -> [BTreeSet<String>; 2];

/// Messages that are not part of a kind.
fn parts() -> Vec<(&'static Schema, Compared)> {
    macro_rules! parts {
        ($($message:ident),*) => {
            vec![$({
                let name = concat!("k8s.io.apimachinery.pkg.apis.meta.v1.", stringify!($message));
                let schema = MESSAGES.iter().find(|m| m.name == name).expect("the message is in the schema");
                (*schema, in_pb::<api::meta::v1::$message, k8s_pb::apimachinery::pkg::apis::meta::v1::$message> as Compared)
            }),*]
        };
    }
    parts!(Status, DeleteOptions, Condition, PartialObjectMetadata, FieldSelectorRequirement, TypeMeta)
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
fn sample(kind: &'static Kind, mut sampler: Sampler) -> Value {
    let object = KindRef::of(kind)
        .from_value(sampler.object(kind.message().expect("a kind of the schema has a message")))
        .expect("the schema's own objects are valid JSON for it");
    object.to_value().expect("ours has JSON")
}

#[test]
fn nesting_without_end_is_refused() {
    // Groups in groups, and managed fields are no place where messages nest: nothing may use the stack up.
    for kind in KINDS {
        assert!(KindRef::of(kind).decode(vec![0x0b; 1 << 20].into()).is_err(), "{kind:?}");
    }
}

#[test]
fn quantities_sent_as_protobuf_get_the_form_they_are_stored_in_or_are_refused() {
    use api::{core::v1::Node, resource::Quantity};
    let mut node = Node::default();
    for (name, text) in [("cpu", "1000m"), ("memory", "1024Mi"), ("fine", "100u"), ("none", ""), ("bad", "1.5Gb")] {
        node.status_mut().capacity.insert(name.to_owned(), Quantity { string: text.to_owned() });
    }
    Object::set_defaults(&mut node);
    let texts: Vec<&str> = node.status().capacity.values().map(|q| q.string.as_str()).collect();
    assert_eq!(texts, ["1.5Gb", "1", "1m", "1Gi", "0"]);
    let mut errors = FieldErrors::default();
    Object::validate(&node, None, &mut errors);
    let fields: Vec<&str> = errors.0.iter().map(|e| e.field.as_str()).collect();
    assert_eq!(fields, ["status.capacity[bad]"]);
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
        let object = KindRef::of(kind).from_value(value.clone()).unwrap();
        let back: Box<dyn Object> = KindRef::of(kind).decode(object.encode()).unwrap();
        assert!(back.equals(object.as_ref()), "{kind:?}");
        assert_eq!(back.to_value().unwrap(), value, "{kind:?}");
    }
}

#[test]
fn every_field_is_where_the_schema_says() {
    for kind in KINDS {
        let raw = Sampler::full(DEPTH).object(kind.message().unwrap());
        let problems: Vec<_> = api::strict::check(kind, &raw);
        assert!(problems.is_empty(), "{kind:?}: {problems:?}");
        let value = sample(kind, Sampler::full(DEPTH));
        let lost: Vec<String> = differences(&raw, &value).into_iter().filter(|d| d.contains("/ \"<missing>\"")).collect();
        assert!(lost.is_empty(), "{kind:?}: {lost:#?}");
    }
}

/// Paths of all values, without the indices of lists.
fn paths(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, out: &mut BTreeSet<String>) {
        out.insert(path.to_owned());
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| walk(value, &format!("{path}.{key}"), out)),
            Value::Array(items) => items.iter().for_each(|item| walk(item, &format!("{path}[]"), out)),
            _ => {}
        }
    }
    let mut out = BTreeSet::new();
    walk(value, "", &mut out);
    out
}

/// For each scalar in the value, an object of this message: the value with that alone. Of messages that were looked into before, only one
/// scalar is taken.
fn singles(message: &'static Schema, value: &Value, seen: &mut BTreeSet<&'static str>) -> Vec<Value> {
    let mut found = Vec::new();
    for (key, value) in value.as_object().expect("a message is an object") {
        let field = message.field(key).expect("the schema knows the field");
        let inner = match (field.cardinality, value) {
            (Cardinality::List, Value::Array(items)) => &items[0],
            (Cardinality::Map, Value::Object(map)) => &map["k0"],
            _ => value,
        };
        let mut inner = match field.ty.message() {
            Some(message) if seen.contains(message.name) => singles(message, inner, seen).into_iter().take(1).collect(),
            Some(message) => {
                let found = singles(message, inner, seen);
                seen.insert(message.name);
                found
            }
            _ => vec![inner.clone()],
        };
        for value in inner.drain(..) {
            let value = match field.cardinality {
                Cardinality::List => json!([value]),
                Cardinality::Map => json!({ "k0": value }),
                Cardinality::Singular => value,
            };
            found.push(json!({ key: value }));
        }
    }
    found
}

#[test]
fn no_field_of_upstreams_is_missing() {
    for case in cases() {
        let Some(openapi) = case.openapi else { continue };
        let theirs = (openapi.filled)(case.kind);
        let problems = api::strict::check(case.kind, &theirs);
        assert!(problems.is_empty(), "{:?}: {problems:#?}", case.kind);
        let ours = paths(&sample(case.kind, Sampler::full(DEPTH)));
        // Options carry the type of their own that all that stands alone has; we have no use for it.
        let typed = |path: &&String| path.contains("deleteOptions.apiVersion") || path.contains("deleteOptions.kind");
        let differing: Vec<String> = paths(&theirs).symmetric_difference(&ours).filter(|path| !typed(path)).cloned().collect();
        assert!(differing.is_empty(), "{:?}: {differing:#?}", case.kind);
    }
}

#[test]
fn every_field_has_upstreams_number() {
    let parts = parts();
    let samples = cases().into_iter().map(|case| (case.kind.message().unwrap(), case.in_pb)).chain(parts);
    let mut seen = BTreeSet::new();
    for (message, in_pb) in samples {
        for value in singles(message, &Sampler::full(DEPTH).object(message), &mut seen) {
            let [ours, theirs] = in_pb(&value);
            assert!(!ours.is_empty(), "{}: {value} leaves nothing", message.name);
            assert_eq!(ours, theirs, "{}: {value}", message.name);
        }
    }
}

#[test]
fn every_message_is_part_of_a_kind_or_compared_on_its_own() {
    fn reach(message: &'static Schema, seen: &mut BTreeSet<&'static str>) {
        if seen.insert(message.name) {
            for field in message.fields {
                if let FieldType::Message(inner) | FieldType::Either(inner) = field.ty {
                    reach(inner, seen);
                }
            }
        }
    }
    let mut seen = BTreeSet::new();
    KINDS.iter().for_each(|kind| reach(kind.message().unwrap(), &mut seen));
    parts().iter().for_each(|(message, _)| reach(message, &mut seen));
    let left: Vec<&str> = MESSAGES.iter().map(|m| m.name.rsplit('.').next().unwrap_or(m.name)).collect();
    // Their JSON is no object, so that they are compared as values of the fields that hold them.
    let values = ["Time", "MicroTime", "Duration", "FieldsV1", "RawExtension", "Quantity", "IntOrString", "ExtraValue", "JSON"];
    let left: Vec<&str> = left.into_iter().filter(|name| !values.contains(name)).collect();
    let seen: BTreeSet<&str> = seen.into_iter().filter_map(|name| name.rsplit('.').next()).chain(["Unknown"]).collect();
    assert_eq!(left.into_iter().filter(|name| !seen.contains(name)).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_envelope_of_stored_objects_has_upstreams_numbers() {
    let ours = api::runtime::Unknown {
        type_meta: Some(api::runtime::TypeMeta { api_version: "v1".into(), kind: "Pod".into() }),
        raw: "raw".into(),
        content_encoding: "gzip".into(),
        content_type: "json".into(),
    };
    let theirs =
        k8s_pb::apimachinery::pkg::runtime::Unknown::decode(ours.encode_to_vec().as_slice()).expect("k8s-pb decodes ours");
    assert_eq!(debug::leaves(&ours), debug::leaves(&theirs));
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
        let Some(openapi) = case.openapi else { continue };
        let value = sample(case.kind, Sampler::full(DEPTH));
        let found = unexpected(differences(&value, &(openapi.through)(&value)));
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
            if let Some(openapi) = case.openapi {
                let found = unexpected(differences(&value, &(openapi.through)(&value)));
                prop_assert!(found.is_empty(), "{:?}: {:?}", case.kind, found);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read_as_protobuf(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        for kind in KINDS {
            if let Ok(mut object) = KindRef::of(kind).decode(bytes.clone().into()) {
                object.set_defaults();
                object.validate(None, &mut FieldErrors::default());
            }
        }
    }

    #[test]
    fn what_is_valid_has_json(seed: u64, times in proptest::collection::vec(any::<i64>(), 4)) {
        let mut pod: api::core::v1::Pod = api::json::from_value(sample(api::core::v1::Pod::KIND, Sampler::random(seed, 60, 4))).unwrap();
        let time = |seconds| api::meta::v1::Time { seconds, nanos: 0 };
        pod.metadata_mut().deletion_timestamp = Some(time(times[0]));
        pod.status_mut().start_time = Some(time(times[1]));
        pod.metadata_mut().managed_fields = vec![Default::default()];
        pod.metadata_mut().managed_fields[0].fields_v1_mut().raw = format!("{{\"f:a\":{}}}", times[2] % 3).replace('1', "x").into();
        let mut errors = FieldErrors::default();
        Object::validate(&pod, None, &mut errors);
        let spoiled = errors.0.iter().any(|e| e.message.contains("must be JSON"));
        prop_assert_eq!(pod.to_value().is_err(), spoiled, "{}", errors);
    }

    #[test]
    fn damaged_protobuf_is_refused_or_read_but_never_panics(seed: u64, cut: prop::sample::Index, flip: prop::sample::Index) {
        for kind in KINDS {
            let object = KindRef::of(kind).from_value(sample(kind, Sampler::random(seed, 50, 3))).unwrap();
            let mut bytes = object.encode().to_vec();
            if bytes.is_empty() {
                continue;
            }
            let at = flip.index(bytes.len());
            bytes[at] ^= 0x41;
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Ok(mut object) = KindRef::of(kind).decode(bytes.into()) {
                object.set_defaults();
                object.validate(None, &mut FieldErrors::default());
                let value = object.to_value().unwrap_or_default();
                prop_assert_eq!(api::print::cells(kind, &value, Timestamp::UNIX_EPOCH).len(), kind.columns.len());
            }
        }
    }
}
