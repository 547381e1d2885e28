//! What the server is and which kinds it serves, as its HTTP API says it.

use std::collections::BTreeMap;

use api::ferrokube::v1::KindInfo;
use client::{Client, PathAnswer};
use serde_json::{Value, json};

use super::{Answer, Request};

/// The answer to a path that names no objects; `None` if it may name some.
///
/// # Errors
/// When no server answers.
pub async fn answer(client: &Client, request: &Request, segments: &[&str]) -> client::Result<Option<Answer>> {
    let value = match segments {
        ["version"] => version(client).await?,
        ["livez" | "readyz" | "healthz" | "metrics", ..] => {
            let PathAnswer { code, body, .. } = client.get_path(&request.target).await?;
            return Ok(Some(Answer::Text(code, String::from_utf8_lossy(&body).into_owned())));
        }
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(&served(client).await?).into_iter().map(|(name, versions)| group(name, &versions)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", name] => {
            let kinds = served(client).await?;
            let Some(versions) = groups(&kinds).remove(name) else { return Ok(None) };
            let mut group = group(name, &versions);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }
        ["api", version] => match resources(client, "", version).await? {
            Some(value) => value,
            None => return Ok(None),
        },
        ["apis", group, version] => match resources(client, group, version).await? {
            Some(value) => value,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(Answer::Json(200, value)))
}

async fn version(client: &Client) -> client::Result<Value> {
    let version = client.version().await?;
    let level = version.api_level.trim_start_matches('v').to_owned();
    let (major, minor) = level.split_once('.').unwrap_or((&level, "0"));
    Ok(json!({"major": major, "minor": minor, "gitVersion": version.git_version, "platform": version.platform}))
}

async fn served(client: &Client) -> client::Result<Vec<KindInfo>> {
    let mut kinds = client.kinds().await?;
    kinds.retain(|info| info.resource.as_ref().is_some_and(|name| !name.resource.is_empty()));
    Ok(kinds)
}

/// Named groups with their versions.
fn groups(kinds: &[KindInfo]) -> BTreeMap<&str, Vec<&str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in kinds.iter().filter_map(|info| info.resource.as_ref()).filter(|name| !name.group.is_empty()) {
        let versions = groups.entry(&name.group).or_default();
        if !versions.contains(&name.version.as_str()) {
            versions.push(&name.version);
        }
    }
    groups
}

fn group(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> =
        versions.iter().map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version})).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

async fn resources(client: &Client, group: &str, version: &str) -> client::Result<Option<Value>> {
    let mut resources = Vec::new();
    for info in served(client).await? {
        let Some(name) = info.resource.as_ref().filter(|name| name.group == group && name.version == version) else { continue };
        let mut entry = json!({
            "name": name.resource, "singularName": info.singular, "namespaced": info.namespaced, "kind": info.kind, "verbs": info.verbs,
        });
        if !info.short_names.is_empty() {
            entry["shortNames"] = info.short_names.clone().into();
        }
        if !info.categories.is_empty() {
            entry["categories"] = info.categories.clone().into();
        }
        resources.push(entry);
        for subresource in &info.subresources {
            let name = format!("{}/{subresource}", name.resource);
            resources.push(json!({
                "name": name, "singularName": "", "namespaced": info.namespaced, "kind": info.kind, "verbs": [],
            }));
        }
    }
    if resources.is_empty() {
        return Ok(None);
    }
    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})))
}
