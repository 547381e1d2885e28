use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    Resource,
    core::v1::{Endpoints, Event, Node, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service},
    discovery::v1::EndpointSlice,
    rbac::v1::RoleBinding,
    sample::Sampler,
};

const NOW: &str = "2024-01-01T01:00:00Z";

fn row<K: Resource>(object: Value) -> Vec<String> {
    cells(K::KIND, &object, NOW.parse().unwrap())
}

fn pod(spec: Value, status: Value) -> Vec<String> {
    let object = json!({"metadata": {"creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": spec, "status": status});
    row::<Pod>(object).into_iter().take(3).collect()
}

#[test]
fn every_printer_that_the_schema_names_exists() {
    for kind in crate::KINDS {
        let row = Row { kind, object: &Value::Null, now: Timestamp::UNIX_EPOCH, pod: OnceCell::new() };
        for column in &*kind.columns {
            if let Some(printer) = column.path.strip_prefix('=') {
                let (name, argument) = printer.split_once(' ').unwrap_or((printer, ""));
                assert!(row.call(name, argument).is_some(), "{kind:?}: {}", column.path);
            }
        }
    }
}

#[test]
fn a_pods_status_follows_its_containers() {
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let one = json!({"containers": [{"name": "a"}]});
    assert_eq!(pod(one.clone(), json!({"phase": "Pending"})), ["0/1", "Pending", "0"]);
    assert_eq!(pod(two.clone(), json!({"phase": "Running", "containerStatuses": [running, running]})), ["2/2", "Running", "0"]);
    let crash = json!({"ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2024-01-01T00:55:00Z"}}});
    assert_eq!(
        pod(two.clone(), json!({"phase": "Running", "containerStatuses": [running, crash]})),
        ["1/2", "CrashLoopBackOff", "3 (5m ago)"]
    );
    let done = |extra: Value| json!({"restartCount": 0, "state": {"terminated": extra}});
    let completed = done(json!({"reason": "Completed", "exitCode": 0}));
    assert_eq!(pod(one.clone(), json!({"phase": "Succeeded", "containerStatuses": [completed]})), ["0/1", "Completed", "0"]);
    let mixed = json!({"phase": "Running", "containerStatuses": [completed, running]});
    assert_eq!(pod(two.clone(), mixed.clone()), ["1/2", "NotReady", "0"]);
    let mut ready = mixed;
    ready["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    assert_eq!(pod(two.clone(), ready), ["1/2", "Running", "0"]);
    assert_eq!(pod(one.clone(), json!({"containerStatuses": [done(json!({"exitCode": 3}))]}))[1], "ExitCode:3");
    assert_eq!(pod(one.clone(), json!({"containerStatuses": [done(json!({"exitCode": 137, "signal": 9}))]}))[1], "Signal:9");
    assert_eq!(pod(one.clone(), json!({"phase": "Failed", "reason": "Evicted"})), ["0/1", "Evicted", "0"]);
    let gated =
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]});
    assert_eq!(pod(one, gated)[1], "SchedulingGated");
}

#[test]
fn init_containers_show_until_they_are_done() {
    let spec = json!({"initContainers": [{"name": "i1"}, {"name": "i2"}], "containers": [{"name": "a"}]});
    let status = |first: Value| json!({"phase": "Pending", "initContainerStatuses": [first, {"name": "i2", "state": {"waiting": {"reason": "PodInitializing"}}}]});
    let done = json!({"name": "i1", "state": {"terminated": {"exitCode": 0}}});
    assert_eq!(pod(spec.clone(), status(json!({"name": "i1", "state": {"running": {}}})))[1], "Init:0/2");
    assert_eq!(pod(spec.clone(), status(done))[1], "Init:1/2");
    assert_eq!(pod(spec.clone(), status(json!({"name": "i1", "state": {"terminated": {"exitCode": 2}}})))[1], "Init:ExitCode:2");
    assert_eq!(
        pod(spec.clone(), status(json!({"name": "i1", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}})))[1],
        "Init:Error"
    );
    assert_eq!(
        pod(spec, status(json!({"name": "i1", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}))),
        ["0/1", "Init:CrashLoopBackOff", "4"]
    );
    let sidecar = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
    let status = json!({"phase": "Running",
        "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
        "containerStatuses": [{"ready": true, "restartCount": 1, "state": {"running": {}}}]});
    assert_eq!(pod(sidecar, status), ["2/2", "Running", "2"]);
}

#[test]
fn a_pod_on_its_way_out_says_so() {
    let deleted = |status: Value| {
        let object = json!({"metadata": {"deletionTimestamp": NOW}, "spec": {"containers": [{}]}, "status": status});
        row::<Pod>(object)[1].clone()
    };
    assert_eq!(deleted(json!({"phase": "Running"})), "Terminating");
    assert_eq!(deleted(json!({"phase": "Running", "reason": "NodeLost"})), "Unknown");
    assert_eq!(deleted(json!({"phase": "Succeeded"})), "Succeeded");
}

#[test]
fn wide_columns_of_a_pod() {
    let object = json!({"metadata": {"creationTimestamp": "2024-01-01T00:30:00Z"},
        "spec": {"nodeName": "n1", "containers": [{}], "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]},
        "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "x", "status": "True"}]}});
    assert_eq!(row::<Pod>(object)[3..], ["30m", "10.0.0.1", "n1", "<none>", "1/2"]);
    assert_eq!(row::<Pod>(json!({}))[3..], ["<unknown>", "<none>", "<none>", "<none>", "<none>"]);
}

#[test]
fn nodes_show_readiness_roles_and_addresses() {
    let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/edge": "", "kubernetes.io/role": "x"}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "addresses": [{"type": "InternalIP", "address": "172.30.0.2"}],
                   "nodeInfo": {"kubeletVersion": "v1.33.0"}}});
    let cells = row::<Node>(node);
    assert_eq!(cells[..2], ["NotReady,SchedulingDisabled", "edge,worker,x"]);
    assert_eq!(cells[3..6], ["v1.33.0", "172.30.0.2", "<none>"]);
    assert_eq!(row::<Node>(json!({}))[..2], ["Unknown", "<none>"]);
    assert_eq!(row::<Node>(json!({}))[6..], ["<unknown>", "<unknown>", "<unknown>"]);
}

#[test]
fn services_show_addresses_and_ports() {
    let service = |spec: Value| row::<Service>(json!({"spec": spec}));
    let ports = json!([{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]);
    let cells = service(
        json!({"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": ports, "selector": {"b": "2", "a": "1"}}),
    );
    assert_eq!(cells, ["NodePort", "10.96.0.5", "<none>", "80:30080/TCP,53/UDP", "<unknown>", "a=1,b=2"]);
    assert_eq!(service(json!({"type": "LoadBalancer"}))[2], "<pending>");
    assert_eq!(service(json!({"type": "ExternalName", "externalName": "a.example"}))[1..4], ["<none>", "a.example", "<none>"]);
    assert_eq!(service(json!({"type": "ClusterIP", "externalIPs": ["1.1.1.1", "2.2.2.2"]}))[2], "1.1.1.1,2.2.2.2");
}

#[test]
fn endpoints_are_cut_after_three() {
    let addresses = |n: usize| (1..=n).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect::<Vec<_>>();
    let endpoints = |subsets: Value| row::<Endpoints>(json!({ "subsets": subsets }))[0].clone();
    assert_eq!(endpoints(json!([])), "<none>");
    assert_eq!(endpoints(json!([{"addresses": addresses(2), "ports": [{"port": 80}]}])), "10.0.0.1:80,10.0.0.2:80");
    assert_eq!(
        endpoints(json!([{"addresses": addresses(5), "ports": [{"port": 80}]}])),
        "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
    );
    assert_eq!(endpoints(json!([{"addresses": addresses(1)}])), "10.0.0.1");
    assert_eq!(endpoints(json!([{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 1}]}])), "[fd00::1]:1");
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}],
        "endpoints": (1..=4).map(|i| json!({"addresses": [format!("10.0.0.{i}")]})).collect::<Vec<_>>()});
    assert_eq!(row::<EndpointSlice>(slice)[..3], ["IPv4", "80,x,*", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more..."]);
}

#[test]
fn events_of_either_style_show_times_and_counts() {
    let old = json!({"type": "Normal", "reason": "R", "message": " m\n", "count": 4, "firstTimestamp": "2024-01-01T00:00:00Z",
        "lastTimestamp": "2024-01-01T00:59:00Z", "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "f"},
        "source": {"component": "kubelet", "host": "n1"}, "metadata": {"name": "e"}});
    assert_eq!(row::<Event>(old), ["60s", "Normal", "R", "pod/web", "f", "kubelet, n1", "m", "60m", "4", "e"]);
    let new = json!({"eventTime": "2024-01-01T00:00:00Z", "reportingComponent": "scheduler",
        "series": {"count": 7, "lastObservedTime": "2024-01-01T00:58:00Z"}});
    let cells = row::<Event>(new);
    assert_eq!((cells[0].as_str(), cells[5].as_str(), cells[7].as_str(), cells[8].as_str()), ("2m", "scheduler", "60m", "7"));
}

#[test]
fn missing_numbers_are_zero() {
    let cells = row::<ReplicationController>(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}}}),
    );
    assert_eq!(cells, ["0", "0", "0", "<unknown>", "a,b", "x,y", "<none>"]);
    let template =
        json!({"template": {"metadata": {"labels": {"k": "v"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}});
    assert_eq!(row::<PodTemplate>(template), ["a", "x", "k=v"]);
    assert_eq!(row::<Secret>(json!({"type": "Opaque", "data": {"a": "", "b": ""}}))[..2], ["Opaque", "2"]);
    let quota = json!({"status": {"hard": {"pods": "10", "limits.cpu": "4", "cpu": "2"}, "used": {"pods": "3"}}});
    assert_eq!(row::<ResourceQuota>(quota)[..2], ["cpu: 0/2, pods: 3/10", "limits.cpu: 0/4"]);
    let binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "User", "name": "v"},
        {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
    assert_eq!(row::<RoleBinding>(binding), ["Role/r", "<unknown>", "u, v", "", "n/s"]);
}

proptest! {
    #[test]
    fn every_kind_prints_a_cell_a_column(seed: u64) {
        for kind in crate::KINDS {
            let object = Sampler::random(seed, 60, 6).object(kind.message().unwrap());
            prop_assert_eq!(cells(kind, &object, Timestamp::UNIX_EPOCH).len(), kind.columns.len());
            prop_assert_eq!(cells(kind, &json!({"spec": [1], "status": 5}), Timestamp::MAX).len(), kind.columns.len());
        }
    }
}
