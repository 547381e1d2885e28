//! What a pod needs of its namespace: the objects that its spec names, which its node may therefore read, and whose changes it follows.

use std::collections::BTreeSet;

use crate::{
    core::v1::{EnvFromSource, EnvVar, LocalObjectReference, Pod, PodSpec, VolumeSource},
    pod::is_mirror,
};

/// Names of the objects that a pod needs, all in its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// The account whose tokens it has; empty if the spec says none.
    pub service_account: String,
    /// Secrets, those for pulling images among them.
    pub secrets: BTreeSet<String>,
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Claims of persistent volumes, those that are made for the pod's ephemeral volumes among them.
    pub claims: BTreeSet<String>,
}

// === impl References ===

impl References {
    /// Those of a pod as the node authoriser counts them. A mirror pod has none: nobody but its node wrote it.
    pub fn of(pod: &Pod) -> Self {
        if is_mirror(pod) {
            return Self::default();
        }
        Self::of_spec(&pod.metadata().name, pod.spec())
    }

    /// Those of a spec.
    pub fn of_spec(pod_name: &str, spec: &PodSpec) -> Self {
        let mut references = Self { service_account: spec.service_account_name.clone(), ..Self::default() };
        references.secret(spec.image_pull_secrets.iter());
        for container in spec.init_containers.iter().chain(&spec.containers) {
            references.environment(&container.env, &container.env_from);
        }
        for container in &spec.ephemeral_containers {
            let common = container.ephemeral_container_common();
            references.environment(&common.env, &common.env_from);
        }
        for volume in &spec.volumes {
            references.volume(volume.volume_source());
            if volume.volume_source().ephemeral.is_some() {
                references.claims.insert(format!("{pod_name}-{}", volume.name));
            }
        }
        references.secrets.remove("");
        references.config_maps.remove("");
        references
    }

    fn secret<'a>(&mut self, references: impl IntoIterator<Item = &'a LocalObjectReference>) {
        self.secrets.extend(references.into_iter().map(|reference| reference.name.clone()));
    }

    fn environment(&mut self, env: &[EnvVar], env_from: &[EnvFromSource]) {
        for source in env.iter().filter_map(|var| var.value_from.as_ref()) {
            self.secret(source.secret_key_ref.as_ref().map(|r| r.local_object_reference()));
            self.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.local_object_reference().name.clone()));
        }
        for source in env_from {
            self.secret(source.secret_ref.as_ref().map(|r| r.local_object_reference()));
            self.config_maps.extend(source.config_map_ref.as_ref().map(|r| r.local_object_reference().name.clone()));
        }
    }

    fn volume(&mut self, source: &VolumeSource) {
        self.secrets.extend(source.secret.as_ref().map(|s| s.secret_name.clone()));
        self.secrets.extend(source.azure_file.as_ref().map(|s| s.secret_name.clone()));
        self.config_maps.extend(source.config_map.as_ref().map(|s| s.local_object_reference().name.clone()));
        self.claims.extend(source.persistent_volume_claim.as_ref().map(|s| s.claim_name.clone()));
        let references = [
            source.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()),
            source.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()),
            source.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()),
            source.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()),
            source.scale_io.as_ref().and_then(|s| s.secret_ref.as_ref()),
            source.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()),
            source.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()),
            source.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()),
        ];
        self.secret(references.into_iter().flatten());
        for projection in source.projected.iter().flat_map(|p| &p.sources) {
            self.secret(projection.secret.as_ref().map(|s| s.local_object_reference()));
            self.config_maps.extend(projection.config_map.as_ref().map(|s| s.local_object_reference().name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json, pod::MIRROR};

    #[test]
    fn every_way_to_name_a_secret_or_config_map_counts() {
        let pod: Pod = json::from_value(serde_json::json!({
            "metadata": {"name": "web"},
            "spec": {
                "serviceAccountName": "builder",
                "imagePullSecrets": [{"name": "s1"}, {}],
                "initContainers": [{"name": "i", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
                "containers": [{
                    "name": "c",
                    "env": [{"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}}, {"name": "C", "value": "x"}],
                    "envFrom": [{"secretRef": {"name": "s3"}}, {"configMapRef": {"name": "c2"}}]
                }],
                "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "s4"}}]}],
                "volumes": [
                    {"name": "v1", "secret": {"secretName": "s5"}},
                    {"name": "v2", "configMap": {"name": "c3"}},
                    {"name": "v3", "projected": {"sources": [{"secret": {"name": "s6"}}, {"configMap": {"name": "c4"}}]}},
                    {"name": "v4", "persistentVolumeClaim": {"claimName": "p1"}},
                    {"name": "v5", "ephemeral": {}},
                    {"name": "v6", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s7"}}}
                ]
            }
        }))
        .unwrap();
        let found = References::of(&pod);
        assert_eq!(found.service_account, "builder");
        assert_eq!(found.secrets.iter().collect::<Vec<_>>(), ["s1", "s2", "s3", "s4", "s5", "s6", "s7"]);
        assert_eq!(found.config_maps.iter().collect::<Vec<_>>(), ["c1", "c2", "c3", "c4"]);
        assert_eq!(found.claims.iter().collect::<Vec<_>>(), ["p1", "web-v5"]);

        let mut mirror = pod;
        mirror.metadata_mut().annotations.insert(MIRROR.into(), "x".into());
        assert_eq!(References::of(&mirror), References::default());
    }
}
