//! The environment of a container, with what is known of the values that come from elsewhere.

use api::quantity::Quantity;
use serde_json::Value;

use super::text::Text;
use crate::objects::{list, text};

/// Describes the environment of a container in a pod, if that is known.
pub fn describe(out: &mut Text, level: usize, container: &Value, pod: Option<&Value>) {
    let from = list(container, "/envFrom");
    if !from.is_empty() {
        out.line(level, "Environment Variables from:");
        for source in from {
            let (kind, source_ref) = match source.get("configMapRef") {
                Some(map) => ("ConfigMap", map),
                None => ("Secret", source.get("secretRef").unwrap_or(&Value::Null)),
            };
            let prefix = text(source, "/prefix");
            let with = if prefix.is_empty() { String::new() } else { format!(" with prefix '{prefix}'") };
            out.line(
                level + 1,
                format!("{}\t{kind}{with}\tOptional: {}", text(source_ref, "/name"), source_ref["optional"] == true),
            );
        }
    }
    let variables = list(container, "/env");
    if variables.is_empty() {
        out.field(level, "Environment", "<none>");
        return;
    }
    out.line(level, "Environment:");
    for variable in variables {
        let name = text(variable, "/name");
        let Some(from) = variable.get("valueFrom") else {
            out.field(level + 1, name, text(variable, "/value"));
            continue;
        };
        let optional = |source: &Value| source["optional"] == true;
        let line = if let Some(field) = from.get("fieldRef") {
            let (version, path) = (text(field, "/apiVersion"), text(field, "/fieldPath"));
            let value = pod.map(|pod| field_value(pod, path)).unwrap_or_default();
            format!("{value} ({}:{path})", if version.is_empty() { "v1" } else { version })
        } else if let Some(resource) = from.get("resourceFieldRef") {
            format!("{} ({})", resource_value(container, resource), text(resource, "/resource"))
        } else if let Some(key) = from.get("configMapKeyRef") {
            let (name, key, optional) = (text(key, "/name"), text(key, "/key"), optional(key));
            format!("<set to the key '{key}' of config map '{name}'>\tOptional: {optional}")
        } else if let Some(key) = from.get("secretKeyRef") {
            let (name, key, optional) = (text(key, "/name"), text(key, "/key"), optional(key));
            format!("<set to the key '{key}' in secret '{name}'>\tOptional: {optional}")
        } else {
            String::new()
        };
        out.line(level + 1, format!("{name}:\t{line}"));
    }
}

/// What kubectl tells of a pod's fields: those of its metadata.
fn field_value(pod: &Value, path: &str) -> String {
    let entry = |pointer: &str, key: &str| {
        let key = key.strip_suffix("']").unwrap_or(key);
        pod.pointer(pointer).and_then(|map| map.get(key)).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    if let Some(key) = path.strip_prefix("metadata.labels['") {
        return entry("/metadata/labels", key);
    }
    if let Some(key) = path.strip_prefix("metadata.annotations['") {
        return entry("/metadata/annotations", key);
    }
    match path {
        "metadata.name" | "metadata.namespace" | "metadata.uid" => text(pod, &format!("/{}", path.replace('.', "/"))).to_owned(),
        _ => String::new(),
    }
}

/// A container's request or limit in units of the divisor, rounded up.
fn resource_value(container: &Value, source: &Value) -> String {
    let resource = text(source, "/resource");
    let (list, name) = resource.split_once('.').unwrap_or_default();
    let amount = container.pointer(&format!("/resources/{list}")).and_then(|amounts| amounts.get(name)).and_then(Value::as_str);
    let amount = amount.and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::ZERO);
    if amount.is_zero() && matches!(resource, "limits.cpu" | "limits.memory") {
        return "node allocatable".to_owned();
    }
    let divisor = Quantity::parse(text(source, "/divisor")).ok().filter(|divisor| !divisor.is_zero() && !divisor.is_negative());
    let (amount, divisor) = (i128::from(amount.milli_value()), divisor.map_or(1000, |divisor| i128::from(divisor.milli_value())));
    ((amount + divisor - 1) / divisor.max(1)).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_from_elsewhere_are_told_as_far_as_they_are_known() {
        let pod = json!({"metadata": {"uid": "u", "labels": {"a/b": "c"}, "annotations": {"x": "y"}}, "spec": {"nodeName": "n"}});
        assert_eq!(field_value(&pod, "metadata.uid"), "u");
        assert_eq!(field_value(&pod, "metadata.labels['a/b']"), "c");
        assert_eq!(field_value(&pod, "metadata.annotations['x']"), "y");
        assert_eq!(field_value(&pod, "spec.nodeName"), "");
        let container = json!({"resources": {"requests": {"cpu": "1500m", "memory": "3Mi"}}});
        let value =
            |resource: &str, divisor: &str| resource_value(&container, &json!({"resource": resource, "divisor": divisor}));
        assert_eq!((value("requests.cpu", "0"), value("requests.cpu", "1m")), ("2".to_owned(), "1500".to_owned()));
        assert_eq!((value("requests.memory", "1Mi"), value("limits.cpu", "1")), ("3".to_owned(), "node allocatable".to_owned()));
        assert_eq!(value("requests.ephemeral-storage", "0"), "0");
    }
}
