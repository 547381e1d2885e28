//! Bad input gets a clear answer, nothing of it is stored, and the server goes on.

use api::{
    Object, Resource,
    core::v1::{ConfigMap, Container, EnvVar, Pod, PodTemplate},
    ferrokube::v1::{
        CreateRequest, DeleteRequest, GetRequest, ListRequest, LogsRequest, PatchRequest, PodRef, PortForwardRequest,
        ResourceName, UpdateRequest, WatchRequest, WriteOptions, patch_request::Type, pods_client::PodsClient,
    },
    google::protobuf::Any,
    meta::v1::DeleteOptions,
    status::{Reason, StatusError},
};
use client::Transport;
use futures::stream;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::support::World;

type Objects = api::ferrokube::v1::objects_client::ObjectsClient<Transport>;

fn resource(plural: &str) -> Option<ResourceName> {
    Some(ResourceName { resource: plural.to_owned(), ..ResourceName::default() })
}

fn create_json(plural: &str, json: impl Into<Vec<u8>>) -> CreateRequest {
    CreateRequest {
        resource: resource(plural),
        namespace: "default".to_owned(),
        json: json.into().into(),
        ..CreateRequest::default()
    }
}

async fn refused(objects: &mut Objects, request: CreateRequest) -> (Reason, String) {
    let error = StatusError::from(objects.create(request).await.unwrap_err());
    (error.reason(), error.message().to_owned())
}

fn pod(spec: Value) -> Vec<u8> {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}).to_string().into_bytes()
}

fn service(ports: Value) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"ports": ports}})
}

/// An encoded template of about this many bytes.
fn template(bytes: usize) -> Any {
    let mut template = PodTemplate::default();
    template.metadata_mut().name = "large".to_owned();
    let value = EnvVar { name: "A".to_owned(), value: "x".repeat(bytes), ..EnvVar::default() };
    let container = Container { name: "a".to_owned(), image: "web:1".to_owned(), env: vec![value], ..Container::default() };
    template.template_mut().spec_mut().containers.push(container);
    template.template_mut().metadata_mut().labels.insert("app".to_owned(), "web".to_owned());
    Any { type_url: <PodTemplate as Resource>::KIND.type_url.to_string(), value: Object::encode(&template) }
}

async fn count(objects: &mut Objects, plural: &str) -> usize {
    let list = ListRequest { resource: resource(plural), ..ListRequest::default() };
    let mut chunks = objects.list(list).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(chunk) = chunks.message().await.unwrap() {
        count += chunk.items.len();
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_named_with_its_place_and_what_would_be_right() {
    let world = World::new().await;
    let mut objects = world.objects();

    let (reason, text) = refused(&mut objects, create_json("podz", "{}")).await;
    assert_eq!(reason, Reason::NotFound);
    assert_eq!(text, "the server has no resource \"podz\" in API group \"\"; `kctl api-resources` lists what it has");
    let other_version = Some(ResourceName { version: "v9".to_owned(), ..resource("pods").unwrap() });
    let (_, text) = refused(&mut objects, CreateRequest { resource: other_version, ..create_json("pods", "{}") }).await;
    assert!(text.contains("no resource \"pods\" in API group \"\" in version \"v9\""), "{text}");
    assert_eq!(refused(&mut objects, CreateRequest::default()).await.0, Reason::BadRequest);

    let (reason, text) = refused(&mut objects, create_json("pods", pod(json!({"containers": [{"imge": "a"}]})))).await;
    assert_eq!(reason, Reason::BadRequest);
    assert!(text.contains("strict decoding error: unknown field \"spec.containers[0].imge\"; did you mean \"image\"?"), "{text}");
    let (reason, text) = refused(&mut objects, create_json("pods", pod(json!({"containers": "a"})))).await;
    assert_eq!(reason, Reason::BadRequest);
    assert!(text.contains("spec.containers: ") && text.contains("list"), "{text}");
    let (_, text) = refused(&mut objects, create_json("pods", pod(json!({"hostNetwork": "yes"})))).await;
    assert!(text.contains("spec.hostNetwork: "), "{text}");
    let (_, text) = refused(&mut objects, create_json("pods", "{\"metadata\": {")).await;
    assert!(text.starts_with("json: the object is not JSON: EOF while parsing"), "{text}");
    let other_kind = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}).to_string();
    assert_eq!(refused(&mut objects, create_json("configmaps", other_kind)).await.0, Reason::BadRequest);
    let (_, text) = refused(&mut objects, create_json("configmaps", r#"{"metadata": {"name": "a", "name": "b"}}"#)).await;
    assert!(text.contains("duplicate field \"metadata.name\""), "{text}");
    let deep = format!("{{\"metadata\": {}1{}}}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let (reason, text) = refused(&mut objects, create_json("configmaps", deep)).await;
    assert_eq!(reason, Reason::BadRequest);
    assert!(text.contains("recursion limit exceeded"), "{text}");

    for (plural, body, wanted) in [
        ("configmaps", json!({"metadata": {"name": "Web_1"}}), "metadata.name: Invalid value: \"Web_1\""),
        (
            "replicationcontrollers",
            json!({"metadata": {"name": "web"}, "spec": {"replicas": -1, "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "web:1"}]}}}}),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "services",
            service(json!([{"port": 70_000}])),
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
    ] {
        let (reason, text) = refused(&mut objects, create_json(plural, body.to_string())).await;
        assert!(reason == Reason::Invalid && text.contains(wanted), "{reason:?} {text}");
    }
    // A list of faults longer than what HTTP/2 clients take of headers.
    let ports: Vec<Value> = (0..500).map(|i| json!({"name": format!("p{i}"), "port": 70_000 + i})).collect();
    let (reason, text) = refused(&mut objects, create_json("services", service(json!(ports)).to_string())).await;
    assert_eq!(reason, Reason::Invalid);
    assert!(
        text.contains("spec.ports[0].port: Invalid value: 70000") && text.ends_with("of 500 causes are not listed)"),
        "{text}"
    );
    let resources = json!({"containers": [{"name": "a", "image": "i", "resources": {"limits": {"memory": "1.5Gb"}}}]});
    let (_, text) = refused(&mut objects, create_json("pods", pod(resources))).await;
    assert!(text.contains("spec.containers[0].resources.limits") && text.contains("1.5Gb"), "{text}");
    for plural in ["pods", "replicationcontrollers", "secrets", "configmaps"] {
        let list = count(&mut objects, plural).await;
        assert_eq!(list, 0, "{plural}: nothing is half stored");
    }

    // Who says so gets what is known, and is told what is dropped.
    let options = Some(WriteOptions { field_validation: "Warn".to_owned(), ..WriteOptions::default() });
    let typo = json!({"metadata": {"name": "a"}, "dat": {"k": "v"}}).to_string();
    let stored = objects.create(CreateRequest { options, ..create_json("configmaps", typo) }).await.unwrap().into_inner();
    assert_eq!(stored.warnings, ["unknown field \"dat\"; did you mean \"data\"?"]);
    let value = stored.object.unwrap().value;
    let stale: ConfigMap = prost::Message::decode(value).unwrap();
    let update = |object: &ConfigMap, label: &str| {
        let mut object = object.clone();
        object.metadata_mut().labels.insert("l".to_owned(), label.to_owned());
        let any = Any { type_url: ConfigMap::KIND.type_url.to_string(), value: Object::encode(&object) };
        UpdateRequest { resource: resource("configmaps"), object: Some(any), ..UpdateRequest::default() }
    };
    objects.update(update(&stale, "x")).await.unwrap();
    let status = objects.update(update(&stale, "y")).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(
        StatusError::from(status).message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest \
         version and try again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_request_itself_is_invalid_and_names_the_field() {
    let world = World::new().await;
    let (mut objects, mut pods) = (world.objects(), PodsClient::new(world.transport()));
    let mut refusals = Vec::new();
    let pod_ref = || Some(PodRef { namespace: "default".to_owned(), name: "a".to_owned(), uid: String::new() });
    for (tail_lines, limit_bytes) in [(Some(-1), 0), (None, -1)] {
        let request = LogsRequest { pod: pod_ref(), tail_lines, limit_bytes, ..LogsRequest::default() };
        refusals.push((if limit_bytes < 0 { "limitBytes" } else { "tailLines" }, pods.logs(request).await.err().unwrap()));
    }
    let forward = stream::iter([PortForwardRequest { pod: pod_ref(), port: 70_000, ..PortForwardRequest::default() }]);
    refusals.push(("port", pods.port_forward(forward).await.err().unwrap()));
    let watch = WatchRequest { resource: resource("pods"), timeout_seconds: -1, ..WatchRequest::default() };
    refusals.push(("timeoutSeconds", objects.watch(watch).await.err().unwrap()));
    let options = Some(WriteOptions { field_validation: "Loose".to_owned(), ..WriteOptions::default() });
    let create = CreateRequest { options, ..create_json("configmaps", "{}") };
    refusals.push(("fieldValidation", objects.create(create).await.err().unwrap()));
    let delete = |options: DeleteOptions| DeleteRequest {
        resource: resource("configmaps"),
        namespace: "default".to_owned(),
        name: "kube-root-ca.crt".to_owned(),
        options: Some(options),
        ..DeleteRequest::default()
    };
    let dry = DeleteOptions { dry_run: vec!["Some".to_owned()], ..DeleteOptions::default() };
    refusals.push(("dryRun", objects.delete(delete(dry)).await.err().unwrap()));
    let sideways = DeleteOptions { propagation_policy: Some("Sideways".to_owned()), ..DeleteOptions::default() };
    refusals.push(("propagationPolicy", objects.delete(delete(sideways)).await.err().unwrap()));
    for (field, refusal) in refusals {
        let error = StatusError::from(refusal);
        assert_eq!((error.reason(), error.status().code), (Reason::Invalid, 422), "{error}");
        let causes = error.status().details.clone().unwrap_or_default().causes;
        assert_eq!(causes.first().map(|cause| cause.field.as_str()), Some(field), "{error}");
    }

    let get = GetRequest {
        resource: resource("pods"),
        namespace: "default".to_owned(),
        name: "a".to_owned(),
        subresource: "nothing".to_owned(),
        ..GetRequest::default()
    };
    let status = objects.get(get).await.unwrap_err();
    assert_eq!((status.code(), StatusError::from(status).reason()), (Code::NotFound, Reason::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_told_so_whichever_limit_it_meets() {
    let world = World::new().await;
    let mut objects = world.objects();
    let create = |bytes| CreateRequest {
        resource: resource("podtemplates"),
        namespace: "default".to_owned(),
        object: Some(template(bytes)),
        ..CreateRequest::default()
    };
    // etcd takes 1.5 MiB and its gRPC server 2; the API server looks at objects of up to 3 MiB and at messages of up to 8.
    for bytes in [1_700_000, 2_500_000] {
        let (reason, text) = refused(&mut objects, create(bytes)).await;
        assert_eq!(reason, Reason::RequestEntityTooLarge, "{text}");
        assert_eq!(text, "PodTemplate \"large\" is too large to be stored: etcd takes at most 1.5 MiB; split it up");
    }
    let (reason, text) = refused(&mut objects, create(3 << 20)).await;
    assert_eq!(reason, Reason::RequestEntityTooLarge);
    assert!(text.starts_with("Request entity too large: the object has 31") && text.contains("the limit is 3145728"), "{text}");
    let (reason, text) = refused(&mut objects, create(9 << 20)).await;
    assert_eq!(reason, Reason::RequestEntityTooLarge, "{text}");
    assert!(text.starts_with("Request entity too large: ") && text.contains("8388608"), "{text}");
    assert_eq!(count(&mut objects, "podtemplates").await, 0);
    objects.create(create(1_000_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_protobuf_is_refused() {
    let world = World::new().await;
    let mut objects = world.objects();
    let request = |type_url: &str, value: &[u8]| CreateRequest {
        resource: resource("podtemplates"),
        namespace: "default".to_owned(),
        object: Some(Any { type_url: type_url.to_owned(), value: value.to_vec().into() }),
        ..CreateRequest::default()
    };
    let whole = template(100);
    let truncated = &whole.value[..whole.value.len() - 7];
    let (reason, text) = refused(&mut objects, request(&whole.type_url, truncated)).await;
    assert_eq!(reason, Reason::BadRequest);
    assert!(text.starts_with("object: the protobuf encoding of a PodTemplate is broken: "), "{text}");
    // Groups within groups within groups.
    let (reason, _) = refused(&mut objects, request(&whole.type_url, &[0x7b; 100_000])).await;
    assert_eq!(reason, Reason::BadRequest);
    let (reason, text) = refused(&mut objects, request(&Pod::KIND.type_url, &whole.value)).await;
    assert_eq!(reason, Reason::BadRequest);
    assert!(text.contains("k8s.io.api.core.v1.Pod\" is not what is wanted here: "), "{text}");
    let (reason, _) = refused(&mut objects, CreateRequest { object: None, ..request("", b"") }).await;
    assert_eq!(reason, Reason::BadRequest);
    assert_eq!(count(&mut objects, "podtemplates").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_on_a_pods_streams_does_not_open_the_pod() {
    let world = World::new().await;
    let mut objects = world.objects();
    for subresource in ["exec", "log", "binding", "eviction"] {
        let patch = PatchRequest {
            resource: resource("pods"),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            subresource: subresource.to_owned(),
            r#type: Type::Merge as i32,
            patch: b"{\"spec\": {\"nodeName\": \"mine\"}}"[..].into(),
            ..PatchRequest::default()
        };
        let error = StatusError::from(objects.patch(patch).await.unwrap_err());
        assert_eq!(error.message(), format!("the server does not allow patch of pods/{subresource}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_disturbs_nobody() {
    let world = World::new().await;
    let mut objects = world.objects();
    count(&mut objects, "pods").await;
    // What looks like the beginning of a handshake and never goes on is left open meanwhile.
    let mut silent = Vec::new();
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 4096], &[0xff; 70_000], b"\x16\x03\x01\xff\xff\x01", b""] {
        let mut connection = tokio::net::TcpStream::connect(&world.address).await.unwrap();
        // The server may have hung up already.
        connection.write_all(garbage).await.ok();
        if garbage.len() > 16 {
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(std::time::Duration::from_secs(20), connection.read_to_end(&mut answer));
            assert!(ended.await.is_ok(), "it is hung up on");
            assert!(answer.len() < 100, "{answer:?}");
        } else {
            silent.push(connection);
        }
    }
    count(&mut objects, "pods").await;
    count(&mut world.objects(), "pods").await;
    assert_eq!(world.kit.tasks.failed_already(), None);
}
