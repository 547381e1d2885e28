//! Every pod acts as a service account, and finds a token of it where client libraries look.

use api::{
    Object, Resource, StatusError,
    core::v1::{
        ConfigMapProjection, Container, DownwardApiProjection, DownwardApiVolumeFile, KeyToPath, LocalObjectReference,
        ObjectFieldSelector, Pod, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount,
        VolumeProjection, VolumeSource,
    },
    names,
    pod::is_mirror,
};
use store::Store;

use super::{
    Admitted, Effects, Plugin, Write,
    action::{LOOKS, pause},
};
use crate::reader::Reader;

const DEFAULT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// ConfigMap that every namespace gets with the cluster's CA.
const ROOT_CA: &str = "kube-root-ca.crt";
/// Seconds a token is good for: an hour, and a little so that it can be told from one that was asked for.
const TOKEN_SECONDS: i64 = 3607;
/// `rw-r--r--`
const FILE_MODE: i32 = 0o644;

/// See the module.
pub(super) struct ServiceAccounts {
    accounts: Reader<ServiceAccount>,
}

impl ServiceAccounts {
    pub(super) fn new(store: &Store) -> Self {
        Self { accounts: Reader::new(store) }
    }

    /// The account. That of a new namespace is about to be made: it is awaited.
    async fn account(&self, namespace: &str, name: &str) -> Result<Option<ServiceAccount>, StatusError> {
        let looks = if name == DEFAULT { LOOKS } else { 1 };
        for look in 1..=looks {
            if let Some(found) = self.accounts.cached(namespace, name).await? {
                return Ok(Some(found.object));
            }
            if look < looks {
                pause().await;
            }
        }
        Ok(None)
    }

    async fn pod(&self, namespace: &str, pod: &mut Pod) -> Result<(), StatusError> {
        if is_mirror(pod) {
            return mirror(pod);
        }
        if pod.spec().service_account_name.is_empty() {
            let spec = pod.spec_mut();
            spec.service_account_name = DEFAULT.to_owned();
            spec.service_account = DEFAULT.to_owned();
        }
        let name = pod.spec().service_account_name.clone();
        let Some(account) = self.account(namespace, &name).await? else {
            let why = format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
            return Err(StatusError::forbidden(Pod::KIND, pod.name(), why));
        };
        let mount = pod.spec().automount_service_account_token.or(account.automount_service_account_token).unwrap_or(true);
        if mount {
            mount_token(pod);
        }
        if pod.spec().image_pull_secrets.is_empty() {
            pod.spec_mut().image_pull_secrets = account.image_pull_secrets;
        }
        Ok(())
    }
}

impl Plugin for ServiceAccounts {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn admit<'a>(&'a self, write: &'a Write<'a>, object: &'a mut dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            match write.created::<Pod>(object) {
                Some(pod) => self.pod(&write.request.namespace, pod).await,
                None => Ok(()),
            }
        })
    }
}

/// A pod that a kubelet runs from a file cannot use what only the API has.
fn mirror(pod: &Pod) -> Result<(), StatusError> {
    let forbidden = |what: &str| Err(StatusError::forbidden(Pod::KIND, pod.name(), format!("a mirror pod may not {what}")));
    let spec = pod.spec();
    if !spec.service_account_name.is_empty() {
        return forbidden("reference service accounts");
    }
    let uses_secrets = spec.volumes.iter().any(|volume| volume.volume_source().secret.is_some());
    let tokens =
        |projected: &ProjectedVolumeSource| projected.sources.iter().any(|source| source.service_account_token.is_some());
    if uses_secrets {
        return forbidden("reference secrets");
    }
    if spec.volumes.iter().any(|volume| volume.volume_source().projected.as_ref().is_some_and(tokens)) {
        return forbidden("use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Mounts the token into every container that has nothing else at its place.
fn mount_token(pod: &mut Pod) {
    let spec = pod.spec_mut();
    let existing = spec.volumes.iter().find(|volume| volume.name.starts_with(VOLUME_PREFIX)).map(|volume| volume.name.clone());
    let name = existing.clone().unwrap_or_else(|| names::generate_name(VOLUME_PREFIX, rand::random()));
    let lacks = |container: &Container| container.volume_mounts.iter().all(|mount| mount.mount_path != MOUNT_PATH);
    let mut mounted = false;
    for container in spec.init_containers.iter_mut().chain(&mut spec.containers).filter(|container| lacks(container)) {
        container.volume_mounts.push(VolumeMount {
            name: name.clone(),
            mount_path: MOUNT_PATH.to_owned(),
            read_only: true,
            ..VolumeMount::default()
        });
        mounted = true;
    }
    if mounted && existing.is_none() {
        spec.volumes.push(token_volume(name));
    }
}

fn token_volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
        ..ServiceAccountTokenProjection::default()
    };
    let root_ca = ConfigMapProjection {
        local_object_reference: Some(LocalObjectReference { name: ROOT_CA.to_owned() }),
        items: vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }],
        optional: None,
    };
    let namespace = DownwardApiVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(ObjectFieldSelector { api_version: "v1".to_owned(), field_path: "metadata.namespace".to_owned() }),
        ..DownwardApiVolumeFile::default()
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(root_ca), ..VolumeProjection::default() },
        VolumeProjection { downward_api: Some(DownwardApiProjection { items: vec![namespace] }), ..VolumeProjection::default() },
    ];
    let projected = ProjectedVolumeSource { sources, default_mode: Some(FILE_MODE) };
    Volume { name, volume_source: Some(VolumeSource { projected: Some(projected), ..VolumeSource::default() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        let mut pod = Pod::default();
        let container = |name: &str| Container { name: name.to_owned(), ..Default::default() };
        pod.spec_mut().containers = vec![container("a"), container("b")];
        pod.spec_mut().init_containers = vec![container("i")];
        pod
    }

    #[test]
    fn the_token_is_mounted_once_into_every_container() {
        let mut pod = pod();
        mount_token(&mut pod);
        let volume = pod.spec().volumes[0].name.clone();
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5, "{volume}");
        for container in pod.spec().containers.iter().chain(&pod.spec().init_containers) {
            let mount = &container.volume_mounts[0];
            assert_eq!((mount.name.as_str(), mount.mount_path.as_str(), mount.read_only), (volume.as_str(), MOUNT_PATH, true));
        }
        let before = pod.clone();
        mount_token(&mut pod);
        assert_eq!(pod, before);
    }

    #[test]
    fn a_mount_of_the_pods_own_is_left_alone() {
        let mut pod = pod();
        let own = VolumeMount { name: "mine".into(), mount_path: MOUNT_PATH.into(), ..Default::default() };
        for container in &mut pod.spec_mut().containers {
            container.volume_mounts.push(own.clone());
        }
        pod.spec_mut().init_containers.clear();
        mount_token(&mut pod);
        assert!(pod.spec().volumes.is_empty());
    }

    #[test]
    fn a_mirror_pod_uses_nothing_of_the_api() {
        assert!(mirror(&pod()).is_ok());
        let mut with_account = pod();
        with_account.spec_mut().service_account_name = "default".into();
        assert!(mirror(&with_account).unwrap_err().message().ends_with("a mirror pod may not reference service accounts"));
    }
}
