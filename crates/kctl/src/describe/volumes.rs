//! Volumes of pods.

use serde_json::Value;

use super::text::Text;
use crate::objects::{list, text};

/// Describes the volumes.
pub fn describe(out: &mut Text, level: usize, volumes: &[Value]) {
    if volumes.is_empty() {
        out.field(level, "Volumes", "<none>");
        return;
    }
    out.line(level, "Volumes:");
    for volume in volumes {
        out.line(level + 1, format!("{}:", text(volume, "/name")));
        source(out, level + 2, volume);
    }
}

fn source(out: &mut Text, level: usize, volume: &Value) {
    let optional = |of: &Value| if of["optional"] == true { "true" } else { "false" };
    let or = |text: &str, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text.to_owned() };
    if let Some(dir) = volume.get("emptyDir") {
        out.field(level, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
        out.field(level, "Medium", text(dir, "/medium"));
        out.field(level, "SizeLimit", or(text(dir, "/sizeLimit"), "<unset>"));
    } else if let Some(path) = volume.get("hostPath") {
        out.field(level, "Type", "HostPath (bare host directory volume)");
        out.field(level, "Path", text(path, "/path"));
        out.field(level, "HostPathType", text(path, "/type"));
    } else if let Some(map) = volume.get("configMap") {
        out.field(level, "Type", "ConfigMap (a volume populated by a ConfigMap)");
        out.field(level, "Name", text(map, "/name"));
        out.field(level, "Optional", optional(map));
    } else if let Some(secret) = volume.get("secret") {
        out.field(level, "Type", "Secret (a volume populated by a Secret)");
        out.field(level, "SecretName", text(secret, "/secretName"));
        out.field(level, "Optional", optional(secret));
    } else if let Some(projected) = volume.get("projected") {
        out.field(level, "Type", "Projected (a volume that contains injected data from multiple sources)");
        for part in list(projected, "/sources") {
            if let Some(token) = part.get("serviceAccountToken") {
                let seconds = token.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
                out.field(level, "TokenExpirationSeconds", seconds.to_string());
            } else if let Some(map) = part.get("configMap") {
                out.field(level, "ConfigMapName", text(map, "/name"));
                out.field(level, "Optional", optional(map));
            } else if let Some(secret) = part.get("secret") {
                out.field(level, "SecretName", text(secret, "/name"));
                out.field(level, "Optional", optional(secret));
            } else if part.get("downwardAPI").is_some() {
                out.field(level, "DownwardAPI", "true");
            }
        }
    } else if volume.get("downwardAPI").is_some() {
        out.field(level, "Type", "DownwardAPI (a volume populated by information about the pod)");
        out.line(level, "Items:");
        for item in list(volume, "/downwardAPI/items") {
            let field = text(item, "/fieldRef/fieldPath");
            let source = if field.is_empty() { text(item, "/resourceFieldRef/resource") } else { field };
            out.line(level + 1, format!("{source} -> {}", text(item, "/path")));
        }
    } else if let Some(claim) = volume.get("persistentVolumeClaim") {
        out.field(level, "Type", "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)");
        out.field(level, "ClaimName", text(claim, "/claimName"));
    } else {
        let kind = volume.as_object().and_then(|map| map.keys().find(|key| *key != "name").cloned());
        out.field(level, "Type", kind.unwrap_or_else(|| "<unknown>".to_owned()));
    }
}
