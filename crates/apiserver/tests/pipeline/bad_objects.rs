//! One object of each kind as no server would store it: times beyond the calendar, numbers beyond all bounds, every field set to something.
//! It is read, listed, labelled and deleted all the same, and hides no other.

use std::sync::Arc;

use api::{
    KINDS, Kind, KindRef, Object,
    meta::v1::DeleteOptions,
    patch::PatchType as Type,
    sample::Sampler,
    schema::{Cardinality, FieldType, Message},
};
use apiserver::{
    decode::FieldValidation,
    request::{Request, Verb},
};
use bytes::Bytes;
use serde_json::Value;
use store::{ReadAt, Txn};

use crate::support::{Cluster, Server, config};

/// A second late in the calendar, and one beyond it that takes protobuf as many bytes.
const LATE: (&str, u64) = ("9999-01-01T00:00:00Z", 253_370_764_800);
const BEYOND: u64 = (1 << 42) - 1;

/// Sets every time to a late one, and every number that may be large to one that is too large.
fn spoil(value: &mut Value, message: &Message) {
    for field in message.json_fields() {
        let Some(found) = value.get_mut(field.json) else { continue };
        let values: Vec<&mut Value> = match (field.cardinality, found) {
            (Cardinality::List, Value::Array(items)) => items.iter_mut().collect(),
            (Cardinality::Map, Value::Object(map)) => map.values_mut().collect(),
            (_, one) => vec![one],
        };
        for value in values {
            match field.ty {
                FieldType::Message(message) => spoil(value, message),
                FieldType::I64 => *value = (1_i64 << 62).into(),
                FieldType::Time => *value = LATE.0.into(),
                _ => {}
            }
        }
    }
}

fn varint(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(number, &mut bytes);
    bytes
}

fn bad(kind: &'static Kind) -> Box<dyn Object> {
    // No deeper: what is wrong in more than a hundred places can only be read and deleted.
    let mut value = Sampler::full(2).object(kind.message().unwrap());
    spoil(&mut value, kind.message().unwrap());
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        // One field with two names, and what comes with a source always.
        spec.remove("serviceAccount");
        spec.remove("serviceAccountName");
        spec.remove("volumes");
    }
    if let Some(immutable) = value.get_mut("immutable") {
        *immutable = false.into();
    }
    let mut object = KindRef::of(kind).from_value(value).unwrap();
    let meta = object.meta_mut();
    meta.name = "bad".into();
    meta.namespace = if kind.namespaced { "default".into() } else { String::new() };
    meta.generate_name.clear();
    meta.resource_version.clear();
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.finalizers.clear();
    let mut bytes = object.encode().to_vec();
    let (late, beyond) = (varint(LATE.1), varint(BEYOND));
    assert_eq!(late.len(), beyond.len());
    let places: Vec<usize> =
        bytes.windows(late.len()).enumerate().filter(|(_, found)| **found == *late).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{kind:?}");
    for at in places {
        bytes[at..at + beyond.len()].copy_from_slice(&beyond);
    }
    KindRef::of(kind).decode(Bytes::from(bytes)).unwrap()
}

fn request(verb: Verb, object: &dyn Object) -> Request {
    Request::new(Arc::default(), verb, object.kind(), &object.meta().namespace, &object.meta().name)
}

async fn put(server: &Server, object: &dyn Object) {
    let collection = server.store.collection(&object.kind().qualified_plural()).unwrap();
    let meta = object.meta();
    let txn = Txn::new().put_object(collection.layout(), &meta.namespace, &meta.name, &object.encode()).unwrap();
    server.store.commit(&txn).await.unwrap();
    server.store.fresh(ReadAt::Latest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_object_of_each_kind_is_read_labelled_and_deleted() {
    let cluster = Cluster::start(1, &config("10.96.0.0/16", 30000..=32767)).await;
    let server = &cluster.servers[0];
    let mut failed = Vec::new();
    for kind in KINDS.iter().copied().filter(|kind| kind.storage.is_some()) {
        let object = bad(kind);
        put(server, &*object).await;
        let stored = server.pipeline.get(&request(Verb::Get, &*object)).await.unwrap();
        let read = KindRef::of(kind).decode(stored.bytes).unwrap();
        let shown = read.to_value().unwrap();
        assert!(shown["metadata"]["creationTimestamp"].as_str().unwrap().starts_with("9999-12-3"), "{kind:?}: {shown}");
        let patch = br#"{"metadata": {"labels": {"seen": "yes"}}}"#;
        let request = |verb| request(verb, &*object);
        match server.pipeline.patch(&request(Verb::Patch), Type::Merge, patch, FieldValidation::Strict, None).await {
            Ok((labelled, _)) => assert_eq!(KindRef::of(kind).decode(labelled.bytes).unwrap().meta().labels["seen"], "yes"),
            Err(error) => failed.push(format!("label {kind:?}: {error}")),
        }
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        if let Err(error) = server.pipeline.delete(&request(Verb::Delete), &now, None).await {
            failed.push(format!("delete {kind:?}: {error}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
