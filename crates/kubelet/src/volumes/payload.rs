//! What the files of ConfigMap, Secret, downward API and projected volumes hold.

use std::collections::BTreeMap;

use api::{
    core::v1::{DownwardApiVolumeFile, KeyToPath, Pod, ProjectedVolumeSource},
    volume::Unsupported,
};
use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Problem,
    atomic::{File, Payload, is_safe},
};
use crate::{
    cluster::{Cluster, TokenSpec},
    pod::{
        fields::{self, NodeFacts},
        unit::unit,
    },
};

/// Permission bits of files whose mode nobody gave.
const DEFAULT_MODE: i32 = 0o644;
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
        optional: Option<bool>,
        mode: Option<i32>,
    ) -> Result<Payload, Problem> {
        let (optional, namespace) = (optional.unwrap_or_default(), &self.pod.metadata().namespace);
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
        select("configmap", name, &data, items, optional, mode.unwrap_or(DEFAULT_MODE))
    }

    pub(super) async fn secret(
        &self,
        name: &str,
        items: &[KeyToPath],
        optional: Option<bool>,
        mode: Option<i32>,
    ) -> Result<Payload, Problem> {
        let (optional, namespace) = (optional.unwrap_or_default(), &self.pod.metadata().namespace);
        let Some(secret) = self.cluster.secret(namespace, name).await.map_err(Problem::Cluster)? else {
            return if optional { Ok(Payload::new()) } else { Err(Problem::Missing { kind: "secret", name: name.to_owned() }) };
        };
        let data: BTreeMap<&str, &[u8]> = secret.data.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
        select("secret", name, &data, items, optional, mode.unwrap_or(DEFAULT_MODE))
    }

    pub(super) fn downward(&self, items: &[DownwardApiVolumeFile], mode: Option<i32>) -> Result<Payload, Problem> {
        let mode = mode.unwrap_or(DEFAULT_MODE);
        let mut payload = Payload::new();
        for item in items {
            let text = if let Some(selector) = &item.field_ref {
                fields::pod_field(self.pod, &selector.field_path, self.node)
            } else if let Some(selector) = &item.resource_field_ref {
                unit(self.pod.spec(), &selector.container_name)
                    .ok_or_else(|| fields::FieldError::NoContainer(selector.container_name.clone()))
                    .and_then(|unit| fields::resource_field(&unit.spec, selector, self.node))
            } else {
                continue;
            };
            insert(&mut payload, &item.path, text.map_err(Problem::Field)?.into_bytes(), item.mode.unwrap_or(mode))?;
        }
        Ok(payload)
    }

    pub(super) async fn projected(&mut self, source: &ProjectedVolumeSource) -> Result<Payload, Problem> {
        let mode = source.default_mode;
        let mut payload = Payload::new();
        for projection in &source.sources {
            if let Some(map) = &projection.config_map {
                let name = &map.local_object_reference().name;
                payload.extend(self.config_map(name, &map.items, map.optional, mode).await?);
            }
            if let Some(secret) = &projection.secret {
                let name = &secret.local_object_reference().name;
                payload.extend(self.secret(name, &secret.items, secret.optional, mode).await?);
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
                insert(&mut payload, &token.path, issued.token.into_bytes(), mode.unwrap_or(DEFAULT_MODE))?;
            }
            if projection.cluster_trust_bundle.is_some() {
                return Err(Unsupported("clusterTrustBundle").into());
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
