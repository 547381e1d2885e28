//! Containers, in pods and pod templates.

use serde_json::Value;

use super::{environment, moment, or_none, pairs, text::Text, volumes};
use crate::objects::{list, number, text};

/// Describes a pod template.
pub fn describe(out: &mut Text, template: &Value) {
    out.line(0, "Pod Template:");
    out.entries(1, "Labels", pairs(template, "/metadata/labels", "="));
    let annotations = pairs(template, "/metadata/annotations", ": ");
    if !annotations.is_empty() {
        out.entries(1, "Annotations", annotations);
    }
    if !text(template, "/spec/serviceAccountName").is_empty() {
        out.field(1, "Service Account", text(template, "/spec/serviceAccountName"));
    }
    for (title, pointer) in [("Init Containers", "/spec/initContainers"), ("Containers", "/spec/containers")] {
        if !list(template, pointer).is_empty() {
            out.line(1, format!("{title}:"));
            list(template, pointer).iter().for_each(|c| container(out, 2, c, None, None));
        }
    }
    volumes::describe(out, 1, list(template, "/spec/volumes"));
    out.entries(1, "Node-Selectors", pairs(template, "/spec/nodeSelector", "="));
}

/// Describes a container and, if they are known, how it fares and the pod that it is in.
pub fn container(out: &mut Text, level: usize, container: &Value, status: Option<&Value>, pod: Option<&Value>) {
    out.line(level, format!("{}:", text(container, "/name")));
    let level = level + 1;
    if let Some(status) = status {
        out.field(level, "Container ID", text(status, "/containerID"));
    }
    out.field(level, "Image", text(container, "/image"));
    if let Some(status) = status {
        out.field(level, "Image ID", text(status, "/imageID"));
    }
    let ports = list(container, "/ports");
    let joined = |port: &str| {
        let each = ports.iter().map(|p| format!("{}/{}", number(p, port), or(text(p, "/protocol"), "TCP")));
        each.collect::<Vec<_>>().join(", ")
    };
    let (port, host_port) = if ports.len() > 1 { ("Ports", "Host Ports") } else { ("Port", "Host Port") };
    out.field(level, port, or_none(&joined("/containerPort")));
    out.field(level, host_port, or_none(&joined("/hostPort")));
    for (title, pointer) in [("Command", "/command"), ("Args", "/args")] {
        if !list(container, pointer).is_empty() {
            out.line(level, format!("{title}:"));
            for word in list(container, pointer) {
                api::jsonpath::text(word).lines().for_each(|line| out.line(level + 1, line.replace('\t', "    ")));
            }
        }
    }
    if let Some(status) = status {
        state(out, level, "State", status.get("state"));
        if status.get("lastState").and_then(Value::as_object).is_some_and(|last| !last.is_empty()) {
            state(out, level, "Last State", status.get("lastState"));
        }
        out.field(level, "Ready", if status["ready"] == true { "True" } else { "False" });
        out.field(level, "Restart Count", number(status, "/restartCount").to_string());
    }
    for (title, pointer) in [("Limits", "/resources/limits"), ("Requests", "/resources/requests")] {
        let amounts = container.pointer(pointer).and_then(Value::as_object);
        if let Some(amounts) = amounts.filter(|amounts| !amounts.is_empty()) {
            out.line(level, format!("{title}:"));
            amounts.iter().for_each(|(name, amount)| out.field(level + 1, name, api::jsonpath::text(amount)));
        }
    }
    for (title, pointer) in [("Liveness", "/livenessProbe"), ("Readiness", "/readinessProbe"), ("Startup", "/startupProbe")] {
        if let Some(probe) = container.pointer(pointer) {
            out.field(level, title, describe_probe(probe));
        }
    }
    environment::describe(out, level, container, pod);
    let mut mounts: Vec<&Value> = list(container, "/volumeMounts").iter().collect();
    mounts.sort_by_key(|mount| text(mount, "/mountPath"));
    if mounts.is_empty() {
        out.field(level, "Mounts", "<none>");
    } else {
        out.line(level, "Mounts:");
        for mount in mounts {
            let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
            let sub = text(mount, "/subPath");
            let sub = if sub.is_empty() { String::new() } else { format!(",path=\"{sub}\"") };
            out.line(level + 1, format!("{} from {} ({mode}{sub})", text(mount, "/mountPath"), text(mount, "/name")));
        }
    }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn state(out: &mut Text, level: usize, title: &str, state: Option<&Value>) {
    let part = |name: &str| state.and_then(|state| state.get(name));
    let optional = |out: &mut Text, key: &str, value: &str| {
        if !value.is_empty() {
            out.field(level + 1, key, value);
        }
    };
    if let Some(running) = part("running") {
        out.field(level, title, "Running");
        out.field(level + 1, "Started", moment(text(running, "/startedAt")));
    } else if let Some(terminated) = part("terminated") {
        out.field(level, title, "Terminated");
        optional(out, "Reason", text(terminated, "/reason"));
        optional(out, "Message", text(terminated, "/message"));
        out.field(level + 1, "Exit Code", number(terminated, "/exitCode").to_string());
        if number(terminated, "/signal") > 0 {
            out.field(level + 1, "Signal", number(terminated, "/signal").to_string());
        }
        out.field(level + 1, "Started", moment(text(terminated, "/startedAt")));
        out.field(level + 1, "Finished", moment(text(terminated, "/finishedAt")));
    } else {
        out.field(level, title, "Waiting");
        let waiting = part("waiting").unwrap_or(&Value::Null);
        optional(out, "Reason", text(waiting, "/reason"));
        optional(out, "Message", text(waiting, "/message"));
    }
}

fn describe_probe(probe: &Value) -> String {
    let number = |name: &str, otherwise: i64| probe.get(name).and_then(Value::as_i64).unwrap_or(otherwise);
    let timing = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    );
    let port = |of: &Value| of.get("port").map(api::jsonpath::text).unwrap_or_default();
    let what = if let Some(exec) = probe.get("exec") {
        let words: Vec<String> = list(exec, "/command").iter().map(api::jsonpath::text).collect();
        format!("exec [{}]", words.join(" "))
    } else if let Some(http) = probe.get("httpGet") {
        let scheme = or(text(http, "/scheme"), "HTTP").to_lowercase();
        format!("http-get {scheme}://{}:{}{}", text(http, "/host"), port(http), text(http, "/path"))
    } else if let Some(tcp) = probe.get("tcpSocket") {
        format!("tcp-socket {}:{}", text(tcp, "/host"), port(tcp))
    } else if let Some(grpc) = probe.get("grpc") {
        format!("grpc <pod>:{} {}", port(grpc), text(grpc, "/service"))
    } else {
        "unknown".to_owned()
    };
    format!("{what} {timing}")
}
