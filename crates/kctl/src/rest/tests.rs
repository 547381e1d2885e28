use api::core::v1::{ConfigMap, Namespace};

use super::*;
use crate::testing::{Bench, named};

fn bench() -> Bench {
    let bench = Bench::new();
    for name in ["a", "b"] {
        let mut map: ConfigMap = named(name);
        map.metadata_mut().labels.insert("app".into(), name.into());
        bench.server.put(map);
    }
    bench.server.put::<Namespace>(named("default"));
    bench
}

async fn ask(bench: &Bench, method: &str, target: &str, content_type: &str, body: &str) -> (u16, Value) {
    let request = Request {
        method: method.to_owned(),
        content_type: content_type.to_owned(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        ..Request::get(target)
    };
    match answer(&bench.server.client(), &request).await {
        Ok(Answer::Json(code, value)) => (code, value),
        Ok(Answer::Text(code, text)) => (code, text.into()),
        Ok(_) => panic!("a stream"),
        Err(error) => {
            let status = status(&error);
            (u16::try_from(status["code"].as_i64().unwrap()).unwrap(), status)
        }
    }
}

#[tokio::test]
async fn objects_lists_and_discovery_are_read() {
    let bench = bench();
    let get = async |target: &str| ask(&bench, "GET", target, "", "").await;
    assert_eq!(get("/api/v1/namespaces/default/configmaps/a").await.1["metadata"]["name"], "a");
    let (_, list) = get("/api/v1/configmaps?labelSelector=app%3Db&limit=5").await;
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("ConfigMapList"), 1));
    assert!(list["items"][0].get("kind").is_none() && list["metadata"]["resourceVersion"].is_string());
    assert_eq!(get("/api/v1/namespaces/default").await.1["kind"], "Namespace");
    assert_eq!(get("/version").await.1["gitVersion"], "v0.0.0-test");
    let (_, groups) = get("/apis").await;
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "coordination.k8s.io"), "{groups}");
    assert_eq!(get("/apis/coordination.k8s.io/v1").await.1["resources"][0]["name"], "leases");
    assert_eq!(get("/apis/coordination.k8s.io").await.1["kind"], "APIGroup");
    for wrong in
        ["/", "/frob", "/api/v1/frobs", "/apis/apps/v1", "/api/v2/pods", "/api/v1/pods/a", "/api/v1/namespaces/d/nodes/a"]
    {
        let (code, status) = get(wrong).await;
        assert_eq!((code, &status["kind"]), (404, &json!("Status")), "{wrong}");
    }
    assert_eq!(get("/api/v1/configmaps?limit=x").await.0, 400);
    assert_eq!(get("/api/v1/namespaces/default/pods/p/exec").await.0, 400);
}

#[tokio::test]
async fn objects_are_written() {
    let bench = bench();
    let object = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"},"data":{"k":"v"}}"#;
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(ask(&bench, "POST", maps, "application/json", object).await.0, 201);
    let one = format!("{maps}/new");
    assert_eq!(ask(&bench, "PATCH", &one, "application/merge-patch+json", r#"{"data":{"k":"w"}}"#).await.1["data"]["k"], "w");
    assert_eq!(ask(&bench, "PATCH", &one, "application/apply-patch+yaml", "{}").await.0, 400);
    assert_eq!(ask(&bench, "PUT", &one, "", &object.replace("\"v\"", "\"x\"")).await.1["data"]["k"], "x");
    assert_eq!(ask(&bench, "DELETE", &one, "", "").await.1["status"], "Success");
    assert_eq!(ask(&bench, "GET", &one, "", "").await.0, 404);
    assert_eq!(ask(&bench, "POST", &one, "", object).await.0, 405);
    assert_eq!(ask(&bench, "DELETE", &format!("{maps}?labelSelector=app=a"), "", "").await.1["status"], "Success");
    assert_eq!(bench.server.all::<ConfigMap>().len(), 1);
}

#[tokio::test]
async fn a_watch_begins_with_what_there_is() {
    let bench = bench();
    let request = Request::get("/api/v1/configmaps?watch=true&fieldSelector=metadata.name=b");
    let Answer::Watch(mut events) = answer(&bench.server.client(), &request).await.unwrap() else { panic!("no watch") };
    let event = events.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("b")));
}

#[tokio::test]
async fn get_raw_prints_what_the_path_names() {
    let bench = bench();
    let text = bench.ok("get --raw /api/v1/namespaces/default/configmaps/a").await;
    assert!(text.starts_with('{') && text.ends_with("}\n") && !text.contains(": "), "{text}");
    assert!(bench.fails("get --raw /nowhere").await.contains("the server could not find the requested resource"));
    assert_eq!(bench.ok("get --raw /livez").await, "ok");
    assert_eq!(bench.ok("get --raw /healthz/ping").await, "ok");
    assert_eq!(bench.ok("get --raw /readyz?verbose").await, "[+]ping ok\ncheck passed\n");
    let error = bench.fails("get --raw /readyz").await;
    assert!(
        error.starts_with("Error from server (InternalError): an error on the server (\"[-]etcd failed: it is away\n"),
        "{error}"
    );
    assert!(bench.fails("get --raw /metrics").await.contains("cannot get path \"/metrics\""));
    assert!(bench.fails("get --raw nowhere").await.contains("begins with /"));
    assert!(bench.fails("get pods --raw /version").await.contains("arguments may not be passed when --raw is specified"));
}

#[test]
fn paths_are_decoded() {
    assert_eq!(decode("a%2Fb%zz%4"), "a/b%zz%4");
    assert_eq!(parse_query("a=1+2&b=%26&c"), [("a".into(), "1 2".into()), ("b".into(), "&".into()), ("c".into(), String::new())]);
}
