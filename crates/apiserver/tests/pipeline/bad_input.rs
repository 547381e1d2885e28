//! Bad input gets an answer that names the field and what would be right, and nothing is stored.

use api::{
    Resource, StatusError,
    core::v1::{ConfigMap, Pod, ReplicationController, Secret, Service},
    patch::PatchType as Type,
    rbac::v1::RoleBinding,
    status::Reason,
};

use crate::support::{Cluster, Server, config, object};

async fn refused<K: Resource>(server: &Server, text: &str) -> String {
    let error = server.create(object::<K>(text)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Invalid, "{error}");
    error.message().to_owned()
}

fn metadata(name: &str) -> String {
    format!(r#""metadata": {{"name": "{name}", "namespace": "default"}}"#)
}

fn conflict<T: std::fmt::Debug>(result: Result<T, StatusError>) -> String {
    let error = result.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    error.message().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_named_with_its_field() {
    let cluster = Cluster::start(1, &config("10.96.0.0/16", 30000..=32767)).await;
    let server = &cluster.servers[0];

    let found = refused::<ConfigMap>(server, &format!("{{{}}}", metadata("Bad_Name"))).await;
    assert!(
        found.starts_with(r#"ConfigMap "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123"#),
        "{found}"
    );

    let found =
        refused::<Service>(server, &format!(r#"{{{}, "spec": {{"ports": [{{"port": 70000}}]}}}}"#, metadata("web"))).await;
    assert!(found.contains("spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"), "{found}");

    let ports = r#"{"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}"#;
    let found = refused::<Service>(server, &format!(r#"{{{}, "spec": {ports}}}"#, metadata("web"))).await;
    assert_eq!(found, r#"Service "web" is invalid: spec.ports[1]: Duplicate value: "80/TCP""#);

    let template = r#"{"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "web:1"}]}}"#;
    let rc = |spec: &str| format!(r#"{{{}, "spec": {{{spec}, "template": {template}}}}}"#, metadata("web"));
    let found = refused::<ReplicationController>(server, &rc(r#""replicas": -1"#)).await;
    assert!(found.ends_with("spec.replicas: Invalid value: -1: must be greater than or equal to 0"), "{found}");
    let found = refused::<ReplicationController>(server, &rc(r#""selector": {"app": "db"}"#)).await;
    assert!(found.ends_with("`selector` does not match template `labels`"), "{found}");

    let mut pod: Pod =
        object(&format!(r#"{{{}, "spec": {{"containers": [{{"name": "a", "image": "web:1"}}]}}}}"#, metadata("web")));
    let memory = api::resource::Quantity { string: "1.5Gb".to_owned() };
    pod.spec_mut().containers[0].resources_mut().limits.insert("memory".to_owned(), memory);
    let error = server.create(pod).await.unwrap_err();
    assert!(error.message().contains("spec.containers[0].resources.limits[memory]"), "{error}");
    assert!(error.message().contains("1.5Gb"), "{error}");

    let big =
        ConfigMap { data: [("a".to_owned(), "x".repeat(1 << 20 | 1))].into(), ..object(&format!("{{{}}}", metadata("big"))) };
    let error = server.create(big).await.unwrap_err();
    assert_eq!(error.message(), r#"ConfigMap "big" is invalid: data: Too long: may not be more than 1048576 bytes"#);

    assert!(server.get::<Pod>("default", "web").await.unwrap_err().is_not_found());
    assert_eq!(server.keys("/registry/ferrokube/").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_change_does_not() {
    let cluster = Cluster::start(1, &config("10.96.0.0/16", 30000..=32767)).await;
    let server = &cluster.servers[0];
    let old: Secret = server.create(object(&format!(r#"{{{}, "stringData": {{"a": "x"}}}}"#, metadata("s")))).await.unwrap();
    assert_eq!((&old.data["a"][..], old.string_data.len()), (&b"x"[..], 0));
    let typed = Secret { r#type: "kubernetes.io/tls".to_owned(), ..old.clone() };
    let error = server.update(typed).await.unwrap_err();
    assert!(error.message().contains("type: Invalid value: field is immutable"), "{error}");

    let newer = server.update(Secret { immutable: Some(true), ..old.clone() }).await.unwrap();
    let stale = conflict(server.update(old).await);
    assert_eq!(
        stale,
        "Operation cannot be fulfilled on secrets \"s\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let patched = server.patch(&newer, Type::Merge, r#"{"stringData": {"a": "y"}}"#).await.unwrap_err();
    assert_eq!(patched.message(), "Secret \"s\" is invalid: data: Forbidden: field is immutable when `immutable` is set");

    let binding = |role: &str| {
        let role = format!(r#"{{"kind": "Role", "name": "{role}"}}"#);
        object::<RoleBinding>(&format!(
            r#"{{{}, "roleRef": {role}, "subjects": [{{"kind": "User", "name": "u"}}]}}"#,
            metadata("b")
        ))
    };
    let made = server.create(binding("one")).await.unwrap();
    assert_eq!(made.subjects[0].api_group, "rbac.authorization.k8s.io");
    let error = server.update(binding("two")).await.unwrap_err();
    assert_eq!(
        error.message(),
        "RoleBinding.rbac.authorization.k8s.io \"b\" is invalid: roleRef: Invalid value: field is immutable"
    );

    let pod = format!(r#"{{{}, "spec": {{"containers": [{{"name": "a", "image": "web:1"}}]}}}}"#, metadata("web"));
    let pod: Pod = server.create(object(&pod)).await.unwrap();
    let error =
        server.patch(&pod, Type::Strategic, r#"{"spec": {"containers": [{"name": "a", "command": ["sh"]}]}}"#).await.unwrap_err();
    assert!(error.message().ends_with("; changed: spec.containers[0].command"), "{error}");
    let patched =
        server.patch(&pod, Type::Strategic, r#"{"spec": {"containers": [{"name": "a", "image": "web:2"}]}}"#).await.unwrap();
    assert_eq!((patched.spec().containers[0].image.as_str(), patched.metadata().generation), ("web:2", 2));
}
