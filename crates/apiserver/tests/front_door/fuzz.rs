//! Whatever a client sends, it gets an answer, and nothing panics.

use std::sync::atomic::{AtomicUsize, Ordering};

use api::{
    KINDS, Kind,
    ferrokube::v1::{
        CreateRequest, DeleteCollectionRequest, DeleteRequest, ListRequest, PatchRequest, ResourceName, UpdateRequest,
        WatchRequest, WriteOptions, patch_request::Type,
    },
    google::protobuf::Any,
    meta::v1::DeleteOptions,
};
use bytes::{Buf, BufMut, Bytes};
use client::Transport;
use http::uri::PathAndQuery;
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};
use prost::Message;
use serde_json::{Value, json};
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::support::World;

/// Sends bytes as they are: what no generated client would send.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Panics of this process; those of handlers would show only as a broken stream.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // A failed case of a property is a panic as well, of its own thread.
        if info.location().is_some_and(|at| !at.file().contains("tests/front_door")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        before(info);
    }));
}

const METHODS: &[&str] = &[
    "/ferrokube.v1.Objects/Get",
    "/ferrokube.v1.Objects/List",
    "/ferrokube.v1.Objects/Watch",
    "/ferrokube.v1.Objects/Create",
    "/ferrokube.v1.Objects/Update",
    "/ferrokube.v1.Objects/Patch",
    "/ferrokube.v1.Objects/Delete",
    "/ferrokube.v1.Objects/DeleteCollection",
    "/ferrokube.v1.Objects/Kinds",
    "/ferrokube.v1.Objects/Version",
    "/ferrokube.v1.Pods/Bind",
    "/ferrokube.v1.Pods/Evict",
    "/ferrokube.v1.Pods/Logs",
    "/ferrokube.v1.Pods/Exec",
    "/ferrokube.v1.Pods/PortForward",
];

/// The first thing the server answers.
async fn answer(transport: &Transport, method: &'static str, message: Bytes) -> Result<(), Status> {
    let mut grpc = Grpc::new(transport.clone());
    grpc.ready().await?;
    let request = tonic::Request::new(futures::stream::iter([message]));
    let mut answers = grpc.streaming(request, PathAndQuery::from_static(method), Raw).await?.into_inner();
    // Watches answer when there is something to tell.
    let first = tokio::time::timeout(std::time::Duration::from_millis(20), answers.message());
    first.await.unwrap_or(Ok(None)).map(drop)
}

fn resource(kind: &Kind) -> Option<ResourceName> {
    Some(ResourceName { group: kind.group.to_string(), version: kind.version.to_string(), resource: kind.plural.to_string() })
}

fn kinds() -> impl Strategy<Value = &'static Kind> {
    select(KINDS.iter().copied().filter(|kind| !kind.plural.is_empty()).collect::<Vec<_>>())
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("default".to_owned()), Just("web".to_owned()), ".{0,12}"]
}

/// Objects of every kind, and what is no object.
fn body(kind: &'static Kind) -> impl Strategy<Value = (Option<Any>, Bytes)> {
    let typed = |bytes: Vec<u8>| Any { type_url: kind.type_url.to_string(), value: bytes.into() };
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(move |bytes| (Some(typed(bytes)), Bytes::new())),
        document(4).prop_map(|value| (None, value.to_string().into())),
        proptest::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| (None, bytes.into())),
        Just((Some(Any::default()), Bytes::new())),
        Just((None, Bytes::new())),
    ]
}

/// JSON made of names that objects and patches have.
fn document(depth: u32) -> impl Strategy<Value = Value> {
    const NAMES: &[&str] = &[
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "uid",
        "generateName",
        "resourceVersion",
        "deletionTimestamp",
        "spec",
        "status",
        "data",
        "replicas",
        "selector",
        "template",
        "containers",
        "image",
        "ports",
        "containerPort",
        "protocol",
        "port",
        "env",
        "value",
        "resources",
        "limits",
        "requests",
        "cpu",
        "memory",
        "volumes",
        "tolerations",
        "nodeName",
        "type",
        "clusterIP",
        "rules",
        "verbs",
        "subsets",
        "addresses",
        "conditions",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "op",
        "path",
        "from",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(
            &["", "web", "v1", "Pod", "merge", "replace", "delete", "1Gi", "-1", "1e400", "2026-01-01T00:00:00Z", "/spec/-"][..]
        )
        .prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(depth, 48, 5, |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => proptest::collection::btree_map(select(NAMES), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

/// Operations of a JSON patch, some of which apply.
fn operations() -> impl Strategy<Value = Value> {
    let path = prop_oneof![
        select(
            &[
                "",
                "/",
                "/metadata/labels/a",
                "/metadata/labels",
                "/data",
                "/data/a",
                "/spec",
                "/metadata/finalizers/-",
                "/x/9/~2"
            ][..]
        )
        .prop_map(str::to_owned),
        "(/[a-z0-9~-]{0,4}){0,4}",
    ];
    let one = (select(&["add", "remove", "replace", "move", "copy", "test", "x"][..]), path.clone(), path, document(2));
    let one = one.prop_map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}));
    proptest::collection::vec(one, 0..6).prop_map(Value::from)
}

/// A message of some method: good, damaged, or nothing like it.
fn message() -> impl Strategy<Value = (&'static str, Bytes)> {
    let dry = || Some(WriteOptions { dry_run: true, ..WriteOptions::default() });
    let dry_deletion = || Some(DeleteOptions { dry_run: vec!["All".to_owned()], ..DeleteOptions::default() });
    let good = (kinds(), word(), word(), word()).prop_flat_map(move |(kind, namespace, name, text)| {
        (Just((kind, namespace, name, text)), body(kind), patch(), 0..8usize)
    });
    let good = good.prop_map(move |((kind, namespace, name, text), (object, json), (patch_type, patch), method)| {
        let resource = resource(kind);
        let (method, message) = match method {
            0 => (
                "Create",
                CreateRequest { resource, namespace, name, object, json, options: dry(), ..Default::default() }.encode_to_vec(),
            ),
            1 => {
                let message = UpdateRequest { resource, namespace, name, subresource: text, object, json, options: dry() };
                ("Update", message.encode_to_vec())
            }
            2 => {
                let r#type = patch_type as i32;
                let message = PatchRequest { resource, namespace, name, r#type, patch, options: dry(), ..Default::default() };
                ("Patch", message.encode_to_vec())
            }
            3 => ("Delete", DeleteRequest { resource, namespace, name, options: dry_deletion(), as_json: true }.encode_to_vec()),
            4 => {
                let message = DeleteCollectionRequest {
                    resource,
                    namespace,
                    label_selector: name,
                    field_selector: text,
                    options: dry_deletion(),
                };
                ("DeleteCollection", message.encode_to_vec())
            }
            5 | 6 => {
                let message = ListRequest {
                    resource,
                    namespace,
                    label_selector: name,
                    continue_token: text,
                    limit: 3,
                    as_json: true,
                    ..Default::default()
                };
                ("List", message.encode_to_vec())
            }
            _ => {
                let message =
                    WatchRequest { resource, namespace, field_selector: name, resource_version: text, ..Default::default() };
                ("Watch", message.encode_to_vec())
            }
        };
        let method = METHODS.iter().find(|known| known.rsplit('/').next() == Some(method)).copied().unwrap_or(METHODS[0]);
        (method, message)
    });
    let good = good.boxed();
    let damaged = (good.clone(), any::<Index>(), any::<u8>(), any::<Index>()).prop_map(|((method, mut bytes), at, byte, end)| {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(end.index(bytes.len()) + 1);
        }
        (method, bytes)
    });
    let random = (select(METHODS), proptest::collection::vec(any::<u8>(), 0..300));
    prop_oneof![4 => good, 2 => damaged, 1 => random].prop_map(|(method, bytes)| (method, bytes.into()))
}

fn patch() -> impl Strategy<Value = (Type, Bytes)> {
    let text = |value: Value| Bytes::from(value.to_string());
    prop_oneof![
        operations().prop_map(move |value| (Type::Json, text(value))),
        document(4).prop_map(move |value| (Type::Merge, text(value))),
        document(4).prop_map(move |value| (Type::Strategic, text(value))),
        proptest::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| (Type::Strategic, bytes.into())),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_panics_the_server() {
    let world = World::new().await;
    let admin = world.admin();
    // Something that patches and lists meet.
    for name in ["web", "default"] {
        let map = json!({"metadata": {"name": name, "labels": {"a": "b"}}, "data": {"a": "b"}});
        admin.namespaced::<api::core::v1::ConfigMap>("default").create(&crate::support::object(map)).await.unwrap();
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "web:1"}]}});
        let controller = json!({"metadata": {"name": name}, "spec": {"template": template}});
        let controllers = admin.namespaced::<api::core::v1::ReplicationController>("default");
        controllers.create(&crate::support::object(controller)).await.unwrap();
    }
    count_panics();
    let (transport, runtime) = (world.transport(), tokio::runtime::Handle::current());
    let properties = tokio::task::spawn_blocking(move || {
        let mut runner =
            TestRunner::new(Config { cases: 1_500, max_shrink_iters: 200, failure_persistence: None, ..Config::default() });
        runner.run(&message(), |(method, message)| {
            let before = PANICS.load(Ordering::SeqCst);
            let answered = runtime.block_on(answer(&transport, method, message));
            let code = answered.as_ref().err().map_or(Code::Ok, Status::code);
            // Unavailable is what a client says when its stream breaks.
            prop_assert!(!matches!(code, Code::Internal | Code::Unavailable | Code::Unknown), "{method}: {answered:?}");
            prop_assert_eq!(PANICS.load(Ordering::SeqCst), before);
            Ok(())
        })
    });
    properties.await.unwrap().unwrap();
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    assert_eq!(world.kit.tasks.failed_already(), None);
}
