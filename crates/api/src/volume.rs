//! The kinds of volumes: which of them kubelets can mount, and what becomes of them.

use crate::core::v1::VolumeSource;

/// A kind of volume that kubelets can mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What the host has at a path.
    HostPath,
    /// A directory that is empty at first, on disk or in memory.
    EmptyDir,
    /// A ConfigMap's keys as files.
    ConfigMap,
    /// A Secret's keys as files.
    Secret,
    /// Fields of the pod as files.
    DownwardApi,
    /// Several of the others, and tokens, in one directory.
    Projected,
}

/// The kind of a volume that no kubelet can mount (yet), as people know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("volume source {0} is not supported by this kubelet yet")]
pub struct Unsupported(pub &'static str);

// === impl Kind ===

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::HostPath, Self::EmptyDir, Self::ConfigMap, Self::Secret, Self::DownwardApi, Self::Projected];

    /// The kind of a volume.
    ///
    /// # Errors
    /// When no kubelet can mount it.
    pub fn of(source: &VolumeSource) -> Result<Self, Unsupported> {
        match source {
            VolumeSource { host_path: Some(_), .. } => Ok(Self::HostPath),
            VolumeSource { empty_dir: Some(empty), .. } => match empty.medium.as_str() {
                "" | "Memory" => Ok(Self::EmptyDir),
                _ => Err(Unsupported("emptyDir with huge pages")),
            },
            VolumeSource { config_map: Some(_), .. } => Ok(Self::ConfigMap),
            VolumeSource { secret: Some(_), .. } => Ok(Self::Secret),
            VolumeSource { downward_api: Some(_), .. } => Ok(Self::DownwardApi),
            VolumeSource { projected: Some(_), .. } => Ok(Self::Projected),
            VolumeSource { persistent_volume_claim: Some(_), .. } => Err(Unsupported("persistentVolumeClaim")),
            VolumeSource { csi: Some(_), .. } => Err(Unsupported("csi")),
            VolumeSource { ephemeral: Some(_), .. } => Err(Unsupported("ephemeral")),
            VolumeSource { image: Some(_), .. } => Err(Unsupported("image")),
            VolumeSource { nfs: Some(_), .. } => Err(Unsupported("nfs")),
            // Without any source, upstream's default.
            source if *source == VolumeSource::default() => Ok(Self::EmptyDir),
            _ => Err(Unsupported("of this type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_mounted_is_known_by_its_source() {
        let of = |source: serde_json::Value| Kind::of(&crate::json::read(source).unwrap());
        for (source, expected) in [
            (serde_json::json!({}), Ok(Kind::EmptyDir)),
            (serde_json::json!({"hostPath": {"path": "/"}}), Ok(Kind::HostPath)),
            (serde_json::json!({"emptyDir": {}}), Ok(Kind::EmptyDir)),
            (serde_json::json!({"emptyDir": {"medium": "Memory"}}), Ok(Kind::EmptyDir)),
            (serde_json::json!({"emptyDir": {"medium": "HugePages"}}), Err(Unsupported("emptyDir with huge pages"))),
            (serde_json::json!({"configMap": {"name": "a"}}), Ok(Kind::ConfigMap)),
            (serde_json::json!({"secret": {"secretName": "a"}}), Ok(Kind::Secret)),
            (serde_json::json!({"downwardAPI": {}}), Ok(Kind::DownwardApi)),
            (serde_json::json!({"projected": {}}), Ok(Kind::Projected)),
            (serde_json::json!({"persistentVolumeClaim": {"claimName": "a"}}), Err(Unsupported("persistentVolumeClaim"))),
            (serde_json::json!({"iscsi": {"targetPortal": "a"}}), Err(Unsupported("of this type"))),
        ] {
            assert_eq!(of(source.clone()), expected, "{source}");
        }
    }
}
