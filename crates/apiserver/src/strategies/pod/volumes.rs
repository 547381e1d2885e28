//! A pod's volumes: different names, one source each, and no two files of one path.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    core::v1::{DownwardApiVolumeFile, PodSpec, ProjectedVolumeSource, Volume, VolumeSource},
    rules::{FieldErrors, Path},
};

use super::environment::{file_field, named, resource_ref};

/// The volumes that containers can mount, by name.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

/// Checks the volumes and answers them by name.
pub(super) fn validate<'a>(spec: &'a PodSpec, at: &Path<'_>, errors: &mut FieldErrors) -> Volumes<'a> {
    let list = at.field("volumes");
    let mut volumes = Volumes::new();
    for (i, volume) in spec.volumes.iter().enumerate() {
        let at = list.index(i);
        let sources = sources(volume.volume_source());
        let mut given = sources.iter().filter(|(_, given)| *given);
        if given.next().is_none() {
            errors.required_because(&at, "must specify a volume type");
        }
        for (field, _) in given {
            errors.forbidden(&at.field(field), "may not specify more than 1 volume type");
        }
        source(volume.volume_source(), &at, errors);
        if volumes.insert(&volume.name, volume).is_some() {
            errors.duplicate(&at.field("name"), &volume.name);
        }
    }
    volumes
}

fn sources(source: &VolumeSource) -> [(&'static str, bool); 30] {
    [
        ("hostPath", source.host_path.is_some()),
        ("emptyDir", source.empty_dir.is_some()),
        ("gcePersistentDisk", source.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", source.aws_elastic_block_store.is_some()),
        ("gitRepo", source.git_repo.is_some()),
        ("secret", source.secret.is_some()),
        ("nfs", source.nfs.is_some()),
        ("iscsi", source.iscsi.is_some()),
        ("glusterfs", source.glusterfs.is_some()),
        ("persistentVolumeClaim", source.persistent_volume_claim.is_some()),
        ("rbd", source.rbd.is_some()),
        ("flexVolume", source.flex_volume.is_some()),
        ("cinder", source.cinder.is_some()),
        ("cephfs", source.cephfs.is_some()),
        ("flocker", source.flocker.is_some()),
        ("downwardAPI", source.downward_api.is_some()),
        ("fc", source.fc.is_some()),
        ("azureFile", source.azure_file.is_some()),
        ("configMap", source.config_map.is_some()),
        ("vsphereVolume", source.vsphere_volume.is_some()),
        ("quobyte", source.quobyte.is_some()),
        ("azureDisk", source.azure_disk.is_some()),
        ("photonPersistentDisk", source.photon_persistent_disk.is_some()),
        ("portworxVolume", source.portworx_volume.is_some()),
        ("scaleIO", source.scale_io.is_some()),
        ("projected", source.projected.is_some()),
        ("storageos", source.storageos.is_some()),
        ("csi", source.csi.is_some()),
        ("ephemeral", source.ephemeral.is_some()),
        ("image", source.image.is_some()),
    ]
}

fn source(source: &VolumeSource, at: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(host) = &source.host_path
        && host.path.split('/').any(|part| part == "..")
    {
        errors.invalid(&at.field("hostPath").field("path"), &host.path, "must not contain '..'");
    }
    if let Some(map) = &source.config_map {
        named(&map.local_object_reference().name, &at.field("configMap"), errors);
    }
    if let Some(files) = &source.downward_api {
        let at = at.field("downwardAPI");
        downward(&files.items, &at.field("items"), errors);
        unique(files.items.iter().map(|file| &file.path), &at.field("items"), errors);
    }
    if let Some(projected) = &source.projected {
        self::projected(projected, &at.field("projected"), errors);
    }
    if let Some(image) = &source.image
        && image.reference.is_empty()
    {
        errors.required(&at.field("image").field("reference"));
    }
}

fn downward(files: &[DownwardApiVolumeFile], list: &Path<'_>, errors: &mut FieldErrors) {
    for (i, file) in files.iter().enumerate() {
        let at = list.index(i);
        match (&file.field_ref, &file.resource_field_ref) {
            (Some(field), resource) => {
                file_field(field, &at.field("fieldRef"), errors);
                if resource.is_some() {
                    errors.invalid(&at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
                }
            }
            (None, Some(resource)) => resource_ref(resource, true, &at.field("resourceFieldRef"), errors),
            (None, None) => errors.required_because(&at, "one of fieldRef and resourceFieldRef is required"),
        }
    }
}

fn projected(volume: &ProjectedVolumeSource, at: &Path<'_>, errors: &mut FieldErrors) {
    let list = at.field("sources");
    let mut paths = Vec::new();
    for (i, source) in volume.sources.iter().enumerate() {
        let at = list.index(i);
        let given = [
            ("secret", source.secret.is_some()),
            ("configMap", source.config_map.is_some()),
            ("downwardAPI", source.downward_api.is_some()),
            ("serviceAccountToken", source.service_account_token.is_some()),
            ("clusterTrustBundle", source.cluster_trust_bundle.is_some()),
        ];
        match given.iter().filter(|(_, given)| *given).count() {
            0 => errors.required_because(&at, "must specify a projection"),
            1 => {}
            _ => errors.forbidden(&at, "may not specify more than 1 volume type"),
        }
        if let Some(secret) = &source.secret {
            named(&secret.local_object_reference().name, &at.field("secret"), errors);
            paths.extend(secret.items.iter().map(|item| &item.path));
        }
        if let Some(map) = &source.config_map {
            named(&map.local_object_reference().name, &at.field("configMap"), errors);
            paths.extend(map.items.iter().map(|item| &item.path));
        }
        if let Some(files) = &source.downward_api {
            downward(&files.items, &at.field("downwardAPI").field("items"), errors);
            paths.extend(files.items.iter().map(|item| &item.path));
        }
        if let Some(token) = &source.service_account_token {
            paths.push(&token.path);
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            paths.push(&bundle.path);
        }
    }
    unique(paths.into_iter(), at, errors);
}

fn unique<'a>(paths: impl Iterator<Item = &'a String>, at: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for path in paths {
        if !path.is_empty() && !seen.insert(path) {
            errors.invalid(at, path, "conflicting duplicate paths");
        }
    }
}
