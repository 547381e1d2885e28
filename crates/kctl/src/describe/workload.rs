//! A replication controller: how many pods it has, and what they are made from.

use api::core::v1::Pod;
use client::ListParams;
use serde_json::Value;

use super::{labels_and_annotations, pairs, template, text::Text};
use crate::{
    Session,
    objects::{list, number, text},
};

/// Describes a replication controller.
///
/// # Errors
/// When its pods cannot be read.
pub async fn describe(session: &Session, out: &mut Text, rc: &Value) -> anyhow::Result<()> {
    out.field(0, "Name", text(rc, "/metadata/name"));
    out.field(0, "Namespace", text(rc, "/metadata/namespace"));
    out.field(0, "Selector", pairs(rc, "/spec/selector", "=").join(","));
    labels_and_annotations(out, rc);
    out.field(0, "Replicas", format!("{} current / {} desired", number(rc, "/status/replicas"), number(rc, "/spec/replicas")));
    let selector = pairs(rc, "/spec/selector", "=").join(",");
    if !selector.is_empty() {
        let api = session.client()?.namespaced::<Pod>(text(rc, "/metadata/namespace"));
        let pods = session.list(&api, &ListParams::default().labels(selector)).await?.items;
        let uid = text(rc, "/metadata/uid");
        let mine =
            |pod: &&Pod| pod.metadata().owner_references.iter().any(|owner| owner.uid == uid && owner.controller == Some(true));
        let count = |phase: &str| pods.iter().filter(mine).filter(|pod| pod.status().phase == phase).count();
        out.field(
            0,
            "Pods Status",
            format!(
                "{} Running / {} Waiting / {} Succeeded / {} Failed",
                count("Running"),
                count("Pending"),
                count("Succeeded"),
                count("Failed")
            ),
        );
    }
    if let Some(found) = rc.pointer("/spec/template") {
        template::describe(out, found);
    }
    if !list(rc, "/status/conditions").is_empty() {
        out.line(0, "Conditions:");
        out.line(1, "Type\tStatus\tReason");
        out.line(1, "----\t------\t------");
        for condition in list(rc, "/status/conditions") {
            let cell = |pointer| text(condition, pointer);
            out.line(1, format!("{} \t{}\t{}", cell("/type"), cell("/status"), cell("/reason")));
        }
    }
    Ok(())
}
