//! A pod: where it is, its containers and how they fare, its volumes.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    controller, labels_and_annotations, moment, or_none, pairs, template,
    text::Text,
    volumes,
};
use crate::objects::{list, number, text};

/// Describes a pod.
pub fn describe(out: &mut Text, pod: &Value, now: Timestamp) {
    out.field(0, "Name", text(pod, "/metadata/name"));
    out.field(0, "Namespace", text(pod, "/metadata/namespace"));
    out.field(0, "Priority", number(pod, "/spec/priority").to_string());
    for (key, pointer) in [("Priority Class Name", "/spec/priorityClassName"), ("Service Account", "/spec/serviceAccountName")] {
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
                template::container(out, 1, container, status);
            }
        }
    }
    if !list(pod, "/status/conditions").is_empty() {
        out.line(0, "Conditions:");
        out.line(1, "Type\tStatus");
        for condition in list(pod, "/status/conditions") {
            out.line(1, format!("{}\t{}", text(condition, "/type"), text(condition, "/status")));
        }
    }
    volumes::describe(out, 0, list(pod, "/spec/volumes"));
    out.field(0, "QoS Class", or_none(text(pod, "/status/qosClass")));
    out.entries(0, "Node-Selectors", pairs(pod, "/spec/nodeSelector", "="));
    out.entries(0, "Tolerations", list(pod, "/spec/tolerations").iter().map(toleration));
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

    const GOLDEN: &str = "";

    #[test]
    fn a_pod_is_described_as_in_kubectl() {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "d", "labels": {"app": "web"},
                "ownerReferences": [{"kind": "ReplicationController", "name": "web", "controller": true}]},
            "spec": {"nodeName": "n1", "serviceAccountName": "default",
                "containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1"}},
                    "env": [{"name": "A", "value": "b"}, {"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                    "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                        "successThreshold": 1, "failureThreshold": 3},
                    "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}],
                "volumes": [{"name": "v", "emptyDir": {}}],
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
