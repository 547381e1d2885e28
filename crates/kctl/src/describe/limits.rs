//! Namespaces, resource quotas and limit ranges: what may be used, and what is.

use api::{
    Resource as _,
    core::v1::{LimitRange, ResourceQuota},
};
use client::ListParams;
use serde_json::Value;

use super::{labels_and_annotations, text::Text};
use crate::{
    Session,
    objects::{self, list, members, text},
};

/// What a limit range can say about a resource, in the order of the columns.
const AMOUNTS: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];

/// Describes a namespace with the quotas and limit ranges in it.
///
/// # Errors
/// When those cannot be read.
pub async fn namespace(session: &Session, out: &mut Text, namespace: &Value) -> anyhow::Result<()> {
    let name = text(namespace, "/metadata/name");
    out.field(0, "Name", name);
    labels_and_annotations(out, namespace);
    out.field(0, "Status", text(namespace, "/status/phase"));
    let conditions = list(namespace, "/status/conditions");
    if !conditions.is_empty() {
        out.line(0, "Conditions:");
        out.line(1, "Type\tStatus\tReason\tMessage");
        out.line(1, "----\t------\t------\t-------");
        for condition in conditions {
            let cell = |pointer| text(condition, pointer).replace('\t', " ");
            out.line(1, format!("{}\t{}\t{}\t{}", cell("/type"), cell("/status"), cell("/reason"), cell("/message")));
        }
    }
    let quotas = objects::list_all(session, ResourceQuota::KIND, name, &ListParams::default()).await?;
    let ranges = objects::list_all(session, LimitRange::KIND, name, &ListParams::default()).await?;
    out.line(0, "");
    if quotas.items.is_empty() {
        out.line(0, "No resource quota.");
    } else {
        out.line(0, "Resource Quotas");
        for quota in shown(out, &quotas.items) {
            out.field(1, "Name", text(&quota, "/metadata/name"));
            used(out, 1, &quota);
        }
    }
    out.line(0, "");
    if ranges.items.is_empty() {
        out.line(0, "No LimitRange resource.");
    } else {
        out.line(0, "Resource Limits");
        let ranges = shown(out, &ranges.items);
        bounds(out, 1, ranges.iter().flat_map(|range| list(range, "/spec/limits")));
    }
    out.line(0, "");
    Ok(())
}

/// The JSON of objects; one that has none gets a line that says so.
fn shown(out: &mut Text, objects: &[client::Dynamic]) -> Vec<Value> {
    let mut found = Vec::with_capacity(objects.len());
    for object in objects {
        match objects::to_value(object) {
            Ok(value) => found.push(value),
            Err(error) => out.line(1, format!("<{error:#}>")),
        }
    }
    found
}

/// Describes a resource quota.
pub fn quota(out: &mut Text, quota: &Value) {
    out.field(0, "Name", text(quota, "/metadata/name"));
    out.field(0, "Namespace", text(quota, "/metadata/namespace"));
    labels_and_annotations(out, quota);
    let scopes = list(quota, "/spec/scopes");
    if !scopes.is_empty() {
        out.field(0, "Scopes", scopes.iter().map(api::jsonpath::text).collect::<Vec<_>>().join(", "));
    }
    used(out, 0, quota);
}

/// How much of each resource is used and how much may be.
fn used(out: &mut Text, level: usize, quota: &Value) {
    out.line(level, "Resource\tUsed\tHard");
    out.line(level, "--------\t----\t----");
    // Until the quota has been counted for the first time, its spec is all that is known.
    let counted = members(quota, "/status/hard");
    for (resource, hard) in if counted.is_empty() { members(quota, "/spec/hard") } else { counted } {
        let used = quota.pointer("/status/used").and_then(|used| used.get(resource)).map(api::jsonpath::text);
        out.line(level, format!("{resource}\t{}\t{}", used.unwrap_or_default(), api::jsonpath::text(hard)));
    }
}

/// Describes a priority class.
pub fn priority_class(out: &mut Text, class: &Value) {
    out.field(0, "Name", text(class, "/metadata/name"));
    out.field(0, "Value", objects::number(class, "/value").to_string());
    out.field(0, "GlobalDefault", (class["globalDefault"] == true).to_string());
    out.field(0, "PreemptionPolicy", text(class, "/preemptionPolicy"));
    out.field(0, "Description", text(class, "/description"));
    let annotations = super::pairs(class, "/metadata/annotations", "=").join(",");
    out.field(0, "Annotations", super::or_none(&annotations));
}

/// Describes a limit range.
pub fn limit_range(out: &mut Text, range: &Value) {
    out.field(0, "Name", text(range, "/metadata/name"));
    out.field(0, "Namespace", text(range, "/metadata/namespace"));
    labels_and_annotations(out, range);
    bounds(out, 0, list(range, "/spec/limits"));
}

fn bounds<'a>(out: &mut Text, level: usize, limits: impl IntoIterator<Item = &'a Value>) {
    out.line(level, "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
    out.line(level, "----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    for limit in limits {
        let of = |amount: &str| limit.get(amount).and_then(Value::as_object);
        let resources: std::collections::BTreeSet<&String> =
            AMOUNTS.iter().filter_map(|amount| of(amount)).flat_map(serde_json::Map::keys).collect();
        for resource in resources {
            let amounts = AMOUNTS.map(|amount| {
                of(amount).and_then(|amounts| amounts.get(resource)).map_or_else(|| "-".to_owned(), api::jsonpath::text)
            });
            out.line(level, format!("{}\t{resource}\t{}", text(limit, "/type"), amounts.join("\t")));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, named};

    #[test]
    fn a_limit_range_is_a_table_of_resources() {
        let mut out = Text::default();
        let container = json!({"type": "Container", "default": {"cpu": "100m"}, "max": {"cpu": "1", "memory": "1Gi"}});
        limit_range(&mut out, &json!({"metadata": {"name": "l", "namespace": "d"}, "spec": {"limits": [container]}}));
        let text = out.render();
        let rows: Vec<Vec<&str>> = text.lines().skip(5).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["Container", "cpu", "-", "1", "-", "100m", "-"], "{text}");
        assert_eq!(rows[2], ["Container", "memory", "-", "1Gi", "-", "-", "-"], "{text}");
    }

    #[test]
    fn a_priority_class_is_described_as_in_kubectl() {
        let mut out = Text::default();
        let metadata = json!({"name": "high", "annotations": {"a": "b"}});
        priority_class(
            &mut out,
            &json!({"metadata": metadata, "value": 1000, "preemptionPolicy": "Never", "description": "first"}),
        );
        assert_eq!(
            out.render(),
            "Name:              high\nValue:             1000\nGlobalDefault:     false\nPreemptionPolicy:  Never\n\
             Description:       first\nAnnotations:       a=b\n"
        );
    }

    #[tokio::test]
    async fn a_namespace_is_described_with_its_quotas() {
        let bench = Bench::new();
        let mut namespace: api::core::v1::Namespace = named("shop");
        namespace.status_mut().phase = "Active".into();
        bench.server.put(namespace);
        let text = bench.ok("describe ns shop").await;
        assert!(text.contains("Status:       Active\n\nNo resource quota.\n\nNo LimitRange resource.\n"), "{text}");
        let mut quota: ResourceQuota = named("q");
        quota.metadata_mut().namespace = "shop".into();
        let amount = |text: &str| api::resource::Quantity { string: text.to_owned() };
        quota.status_mut().hard.insert("pods".into(), amount("5"));
        quota.status_mut().used.insert("pods".into(), amount("2"));
        bench.server.put(quota);
        let text = bench.ok("describe ns shop").await;
        assert!(text.contains("Resource Quotas\n  Name:     q\n  Resource  Used  Hard\n"), "{text}");
        assert!(text.contains("  pods      2     5\n"), "{text}");
        let text = bench.ok("describe quota q -n shop").await;
        assert!(text.contains("Resource      Used  Hard\n--------      ----  ----\npods          2     5\n"), "{text}");
    }
}
