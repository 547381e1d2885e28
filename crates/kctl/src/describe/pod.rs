//! A pod: where it is, its containers and how they fare, its volumes.

use api::{meta::v1::LabelSelector, selector::Selector};
use jiff::Timestamp;
use serde_json::Value;

use super::{controller, labels_and_annotations, moment, or_none, pairs, template, text::Text, volumes};
use crate::objects::{list, number, text};

/// Describes a pod.
pub fn describe(out: &mut Text, pod: &Value, now: Timestamp) {
    out.field(0, "Name", text(pod, "/metadata/name"));
    out.field(0, "Namespace", text(pod, "/metadata/namespace"));
    out.field(0, "Priority", number(pod, "/spec/priority").to_string());
    for (key, pointer) in [
        ("Priority Class Name", "/spec/priorityClassName"),
        ("Runtime Class Name", "/spec/runtimeClassName"),
        ("Service Account", "/spec/serviceAccountName"),
    ] {
        if !text(pod, pointer).is_empty() {
            out.field(0, key, text(pod, pointer));
        }
    }
    let node = text(pod, "/spec/nodeName");
    out.field(0, "Node", if node.is_empty() { "<none>".to_owned() } else { format!("{node}/{}", text(pod, "/status/hostIP")) });
    if !text(pod, "/status/startTime").is_empty() {
        out.field(0, "Start Time", moment(text(pod, "/status/startTime")));
    }
    labels_and_annotations(out, pod);
    let deleted = text(pod, "/metadata/deletionTimestamp");
    if deleted.is_empty() {
        out.field(0, "Status", text(pod, "/status/phase"));
    } else {
        out.field(0, "Status", format!("Terminating (lasts {})", super::age(pod, "/metadata/deletionTimestamp", now)));
        out.field(0, "Termination Grace Period", format!("{}s", number(pod, "/metadata/deletionGracePeriodSeconds")));
    }
    for (key, pointer) in [("Reason", "/status/reason"), ("Message", "/status/message")] {
        if !text(pod, pointer).is_empty() {
            out.field(0, key, text(pod, pointer));
        }
    }
    if !text(pod, "/spec/securityContext/seccompProfile/type").is_empty() {
        out.field(0, "SeccompProfile", text(pod, "/spec/securityContext/seccompProfile/type"));
    }
    out.field(0, "IP", text(pod, "/status/podIP"));
    match list(pod, "/status/podIPs") {
        [] => out.field(0, "IPs", "<none>"),
        ips => {
            out.line(0, "IPs:");
            ips.iter().for_each(|ip| out.field(1, "IP", text(ip, "/ip")));
        }
    }
    if let Some(owner) = controller(pod) {
        out.field(0, "Controlled By", owner);
    }
    if !text(pod, "/status/nominatedNodeName").is_empty() {
        out.field(0, "NominatedNodeName", text(pod, "/status/nominatedNodeName"));
    }
    for (title, spec, status) in [
        ("Init Containers", "/spec/initContainers", "/status/initContainerStatuses"),
        ("Containers", "/spec/containers", "/status/containerStatuses"),
        ("Ephemeral Containers", "/spec/ephemeralContainers", "/status/ephemeralContainerStatuses"),
    ] {
        if !list(pod, spec).is_empty() {
            out.line(0, format!("{title}:"));
            for container in list(pod, spec) {
                let status = list(pod, status).iter().find(|status| text(status, "/name") == text(container, "/name"));
                template::container(out, 1, container, status, Some(pod));
            }
        }
    }
    if !list(pod, "/spec/readinessGates").is_empty() {
        out.line(0, "Readiness Gates:");
        out.line(1, "Type\tStatus");
        for gate in list(pod, "/spec/readinessGates") {
            let found = list(pod, "/status/conditions").iter().find(|have| have["type"] == gate["conditionType"]);
            let status = found.map(|found| text(found, "/status")).unwrap_or_default();
            out.line(1, format!("{} \t{}", text(gate, "/conditionType"), or_none(status)));
        }
    }
    if !list(pod, "/status/conditions").is_empty() {
        out.line(0, "Conditions:");
        out.line(1, "Type\tStatus");
        for condition in list(pod, "/status/conditions") {
            out.line(1, format!("{} \t{}", text(condition, "/type"), text(condition, "/status")));
        }
    }
    volumes::describe(out, 0, list(pod, "/spec/volumes"));
    out.field(0, "QoS Class", or_none(text(pod, "/status/qosClass")));
    out.entries(0, "Node-Selectors", pairs(pod, "/spec/nodeSelector", "="));
    out.entries(0, "Tolerations", list(pod, "/spec/tolerations").iter().map(toleration));
    let spread = list(pod, "/spec/topologySpreadConstraints");
    if !spread.is_empty() {
        out.entries(0, "Topology Spread Constraints", spread.iter().map(constraint));
    }
}

/// `zone:DoNotSchedule when max skew 1 is exceeded for selector app=web`.
fn constraint(constraint: &Value) -> String {
    let (key, what) = (text(constraint, "/topologyKey"), text(constraint, "/whenUnsatisfiable"));
    let mut out = format!("{key}:{what} when max skew {} is exceeded", number(constraint, "/maxSkew"));
    if let Some(selector) = constraint.get("labelSelector")
        && let Ok(selector) = serde_json::from_value::<LabelSelector>(selector.clone())
        && let Ok(selector) = Selector::from_label_selector(Some(&selector))
    {
        out += &format!(" for selector {selector}");
    }
    out
}

/// `key=value:Effect op=Exists for 300s`.
fn toleration(toleration: &Value) -> String {
    let (key, value, effect) = (text(toleration, "/key"), text(toleration, "/value"), text(toleration, "/effect"));
    let mut out = key.to_owned();
    if !value.is_empty() {
        out += &format!("={value}");
    }
    if !effect.is_empty() {
        out += &format!(":{effect}");
    }
    if text(toleration, "/operator") == "Exists" {
        out += if out.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration.get("tolerationSeconds").and_then(Value::as_i64) {
        out += &format!(" for {seconds}s");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GOLDEN: &str = "\
Name:             web
Namespace:        d
Priority:         0
Service Account:  default
Node:             n1/1.2.3.4
Start Time:       Mon, 01 Jan 2024 10:00:00 +0000
Labels:           app=web
Annotations:      <none>
Status:           Running
IP:               10.0.0.1
IPs:
  IP:           10.0.0.1
Controlled By:  ReplicationController/web
Containers:
  c:
    Container ID:   docker://x
    Image:          i:1
    Image ID:
    Port:           80/TCP
    Host Port:      0/TCP
    State:          Running
      Started:      Mon, 01 Jan 2024 10:00:01 +0000
    Last State:     Terminated
      Reason:       Error
      Exit Code:    1
      Started:
      Finished:
    Ready:          True
    Restart Count:  2
    Limits:
      cpu:     1
    Liveness:  http-get http://:80/ delay=0s timeout=1s period=10s #success=1 #failure=3
    Environment:
      A:     b
      NAME:  web (v1:metadata.name)
      IP:     (v1:status.podIP)
      CPU:   1 (limits.cpu)
      MEM:   node allocatable (limits.memory)
      KEY:   <set to the key 'k' of config map 'm'>  Optional: false
    Mounts:
      /v from v (ro)
Conditions:
  Type    Status
  Ready   True
Volumes:
  v:
    Type:                     EmptyDir (a temporary directory that shares a pod's lifetime)
    Medium:
    SizeLimit:                <unset>
QoS Class:                    Burstable
Node-Selectors:               <none>
Tolerations:                  k:NoExecute op=Exists for 300s
Topology Spread Constraints:  zone:DoNotSchedule when max skew 1 is exceeded for selector app=web
";

    #[test]
    fn a_pod_is_described_as_in_kubectl() {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "d", "labels": {"app": "web"},
                "ownerReferences": [{"kind": "ReplicationController", "name": "web", "controller": true}]},
            "spec": {"nodeName": "n1", "serviceAccountName": "default",
                "containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1"}},
                    "env": [{"name": "A", "value": "b"},
                        {"name": "NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                        {"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
                        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}},
                        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                        {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
                    "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                        "successThreshold": 1, "failureThreshold": 3},
                    "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app": "web"}}}],
                "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
            "status": {"phase": "Running", "hostIP": "1.2.3.4", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "Burstable",
                "startTime": "2024-01-01T10:00:00Z",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "c", "ready": true, "restartCount": 2, "containerID": "docker://x",
                    "state": {"running": {"startedAt": "2024-01-01T10:00:01Z"}},
                    "lastState": {"terminated": {"reason": "Error", "exitCode": 1}}}]},
        });
        let mut out = Text::default();
        describe(&mut out, &pod, Timestamp::UNIX_EPOCH);
        assert_eq!(out.render(), GOLDEN);
    }
}
