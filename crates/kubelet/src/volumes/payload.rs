//! What the files of ConfigMap, Secret, downward API and projected volumes hold.

use std::{collections::BTreeMap, sync::Arc};

use api::core::v1::{DownwardApiVolumeFile, KeyToPath, Pod, ProjectedVolumeSource};
use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Problem,
    atomic::{File, Payload, is_safe},
};
use crate::{
    cluster::{Cluster, TokenSpec},
    pod::fields::{self, NodeFacts},
};

/// Permission bits of files whose mode nobody gave.
pub(super) const DEFAULT_MODE: i32 = 0o644;
/// Life of a token whose life nobody gave.
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// Reads what a volume is made of.
pub(super) struct Source<'a> {
    pub cluster: &'a dyn Cluster,
    pub pod: &'a Pod,
    pub node: &'a NodeFacts,
    /// Set to the earliest time at which a file has to be made anew.
    pub renew_at: Option<Timestamp>,
}

// === impl Source ===

impl Source<'_> {
    pub(super) async fn config_map(
        &self,
        name: &str,
        items: &[KeyToPath],
        optional: bool,
        mode: i32,
    ) -> Result<Payload, Problem> {
        let namespace = &self.pod.metadata().namespace;
        let Some(map) = self.cluster.config_map(namespace, name).await.map_err(Problem::Cluster)? else {
            return if optional {
                Ok(Payload::new())
            } else {
                Err(Problem::Missing { kind: "configmap", name: name.to_owned() })
            };
        };
        let data: BTreeMap<&str, &[u8]> = map
            .data
            .iter()
            .map(|(key, text)| (key.as_str(), text.as_bytes()))
            .chain(map.binary_data.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])))
            .collect();
        select("configmap", name, &data, items, optional, mode)
    }

    pub(super) async fn secret(&self, name: &str, items: &[KeyToPath], optional: bool, mode: i32) -> Result<Payload, Problem> {
        let namespace = &self.pod.metadata().namespace;
        let Some(secret) = self.cluster.secret(namespace, name).await.map_err(Problem::Cluster)? else {
            return if optional { Ok(Payload::new()) } else { Err(Problem::Missing { kind: "secret", name: name.to_owned() }) };
        };
        let data: BTreeMap<&str, &[u8]> = secret.data.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
        select("secret", name, &data, items, optional, mode)
    }

    pub(super) fn downward(&self, items: &[DownwardApiVolumeFile], mode: i32) -> Result<Payload, Problem> {
        let mut payload = Payload::new();
        for item in items {
            let text = if let Some(selector) = &item.field_ref {
                fields::pod_field(self.pod, &selector.field_path, self.node)
            } else if let Some(selector) = &item.resource_field_ref {
                let container = self.pod.spec().containers.iter().find(|container| container.name == selector.container_name);
                container
                    .ok_or_else(|| fields::FieldError::NoContainer(selector.container_name.clone()))
                    .and_then(|container| fields::resource_field(container, selector, self.node))
            } else {
                continue;
            };
            insert(&mut payload, &item.path, text.map_err(Problem::Field)?.into_bytes(), item.mode.unwrap_or(mode))?;
        }
        Ok(payload)
    }

    pub(super) async fn projected(&mut self, source: &ProjectedVolumeSource) -> Result<Payload, Problem> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut payload = Payload::new();
        for projection in &source.sources {
            if let Some(map) = &projection.config_map {
                let name = &map.local_object_reference().name;
                payload.extend(self.config_map(name, &map.items, map.optional.unwrap_or_default(), mode).await?);
            }
            if let Some(secret) = &projection.secret {
                let name = &secret.local_object_reference().name;
                payload.extend(self.secret(name, &secret.items, secret.optional.unwrap_or_default(), mode).await?);
            }
            if let Some(downward) = &projection.downward_api {
                payload.extend(self.downward(&downward.items, mode)?);
            }
            if let Some(token) = &projection.service_account_token {
                let request = TokenSpec {
                    audience: token.audience.clone(),
                    expiration_seconds: token.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS),
                };
                let issued = self.cluster.token(self.pod, &request).await.map_err(Problem::Cluster)?;
                let renew_at = issued.renew_at();
                self.renew_at = Some(self.renew_at.map_or(renew_at, |earlier| earlier.min(renew_at)));
                insert(&mut payload, &token.path, issued.token.into_bytes(), mode)?;
            }
            if projection.cluster_trust_bundle.is_some() {
                return Err(Problem::Unsupported("clusterTrustBundle"));
            }
        }
        Ok(payload)
    }
}

/// The chosen keys (all, if none is named) as files.
fn select(
    kind: &'static str,
    name: &str,
    data: &BTreeMap<&str, &[u8]>,
    items: &[KeyToPath],
    optional: bool,
    mode: i32,
) -> Result<Payload, Problem> {
    let mut payload = Payload::new();
    if items.is_empty() {
        for (key, bytes) in data {
            insert(&mut payload, key, Bytes::copy_from_slice(bytes), mode)?;
        }
    }
    // However many files a key becomes, it is held once.
    let mut held: BTreeMap<&str, Bytes> = BTreeMap::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                let bytes = held.entry(&item.key).or_insert_with(|| Bytes::copy_from_slice(bytes));
                insert(&mut payload, &item.path, bytes.clone(), item.mode.unwrap_or(mode))?;
            }
            None if optional => {}
            None => return Err(Problem::MissingKey { kind, name: name.to_owned(), key: item.key.clone() }),
        }
    }
    Ok(payload)
}

fn insert(payload: &mut Payload, path: &str, data: impl Into<Bytes>, mode: i32) -> Result<(), Problem> {
    if !is_safe(path) {
        return Err(Problem::BadPath(path.to_owned()));
    }
    payload.insert(path.to_owned(), File { data: data.into(), mode: mode as u32 & 0o777 });
    Ok(())
}

/// A shared cluster, for the tasks that outlive a borrow.
pub(super) type SharedCluster = Arc<dyn Cluster>;
