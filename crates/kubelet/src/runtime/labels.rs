//! Who a container is: the labels and the name that it carries in Docker.
//!
//! *Invariant:* [`Labels::parse`] of [`Labels::to_map`] gives back the same labels, so that a restarted kubelet knows every container.
//! Label names are those that Kubernetes' Docker integration used, so that tools made for it keep working.

use std::collections::HashMap;

/// Label of a container's role.
const TYPE: &str = "io.kubernetes.docker.type";
const CONTAINER: &str = "io.kubernetes.container.name";
const POD: &str = "io.kubernetes.pod.name";
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label of the pod's UID; what we list and filter by.
pub(super) const UID: &str = "io.kubernetes.pod.uid";
const SANDBOX: &str = "io.kubernetes.sandbox.id";
const ATTEMPT: &str = "annotation.io.kubernetes.container.restartCount";
const HASH: &str = "annotation.io.kubernetes.container.hash";
const MESSAGE_PATH: &str = "annotation.io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "annotation.io.kubernetes.container.terminationMessagePolicy";
const GRACE: &str = "annotation.io.kubernetes.pod.terminationGracePeriod";
/// The container name of a sandbox.
const SANDBOX_NAME: &str = "POD";

/// What a container is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ContainerKind {
    /// Holds the pod's namespaces.
    Sandbox,
    /// One of the pod's containers.
    #[default]
    Application,
}

/// Who a container is and what must be known about it after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Sandbox or application container.
    pub kind: ContainerKind,
    /// Name in the pod's spec; `POD` for a sandbox.
    pub container: String,
    /// Pod name.
    pub pod: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod UID.
    pub uid: String,
    /// How many incarnations there were before this one.
    pub attempt: u32,
    /// Hash of the container's spec; a change makes a new container. Empty for a sandbox.
    pub hash: String,
    /// Id of the sandbox that an application container lives in.
    pub sandbox: String,
    /// Where the container leaves its termination message.
    pub message_path: String,
    /// `File` or `FallbackToLogsOnError`.
    pub message_policy: String,
    /// The pod's termination grace in seconds, for pods whose object is gone.
    pub grace_seconds: i64,
}

/// The name of a container: unique over containers, pods, namespaces, re-created pods and restarts.
pub fn container_name(labels: &Labels) -> String {
    let Labels { container, pod, namespace, uid, attempt, .. } = labels;
    format!("k8s_{container}_{pod}_{namespace}_{uid}_{attempt}")
}

// === impl Labels ===

impl Labels {
    /// The labels of a pod's sandbox.
    pub fn sandbox(namespace: &str, pod: &str, uid: &str, attempt: u32) -> Self {
        Self {
            kind: ContainerKind::Sandbox,
            container: SANDBOX_NAME.into(),
            pod: pod.into(),
            namespace: namespace.into(),
            uid: uid.into(),
            attempt,
            ..Self::default()
        }
    }

    /// Whether this is a sandbox.
    pub fn is_sandbox(&self) -> bool {
        self.kind == ContainerKind::Sandbox
    }

    pub(super) fn to_map(&self) -> HashMap<String, String> {
        let kind = if self.is_sandbox() { "podsandbox" } else { "container" };
        let mut map: HashMap<String, String> = [
            (TYPE, kind.to_owned()),
            (CONTAINER, self.container.clone()),
            (POD, self.pod.clone()),
            (NAMESPACE, self.namespace.clone()),
            (UID, self.uid.clone()),
            (ATTEMPT, self.attempt.to_string()),
            (GRACE, self.grace_seconds.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if !self.is_sandbox() {
            map.extend(
                [
                    (HASH, &self.hash),
                    (SANDBOX, &self.sandbox),
                    (MESSAGE_PATH, &self.message_path),
                    (MESSAGE_POLICY, &self.message_policy),
                ]
                .map(|(name, value)| (name.to_owned(), value.clone())),
            );
        }
        map
    }

    /// Reads labels back; `None` if they are not ours.
    pub(super) fn parse(map: &HashMap<String, String>) -> Option<Self> {
        let get = |name: &str| map.get(name).cloned();
        let text = |name: &str| get(name).unwrap_or_default();
        Some(Self {
            kind: match get(TYPE)?.as_str() {
                "podsandbox" => ContainerKind::Sandbox,
                "container" => ContainerKind::Application,
                _ => return None,
            },
            container: get(CONTAINER)?,
            pod: get(POD)?,
            namespace: get(NAMESPACE)?,
            uid: get(UID)?,
            attempt: get(ATTEMPT)?.parse().ok()?,
            hash: text(HASH),
            sandbox: text(SANDBOX),
            message_path: text(MESSAGE_PATH),
            message_policy: text(MESSAGE_POLICY),
            grace_seconds: text(GRACE).parse().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_survive_the_engine() {
        let sandbox = Labels::sandbox("ns", "web", "u-1", 3);
        assert_eq!(Labels::parse(&sandbox.to_map()), Some(sandbox.clone()));
        let app = Labels {
            kind: ContainerKind::Application,
            container: "main".into(),
            hash: "abc".into(),
            sandbox: "f00".into(),
            message_path: "/dev/termination-log".into(),
            message_policy: "File".into(),
            grace_seconds: 30,
            ..sandbox
        };
        assert_eq!(Labels::parse(&app.to_map()), Some(app));
    }

    #[test]
    fn foreign_labels_are_not_ours() {
        assert_eq!(Labels::parse(&HashMap::from([("com.example".to_owned(), "x".to_owned())])), None);
    }

    #[test]
    fn names_tell_namespaces_and_incarnations_apart() {
        let a = Labels { attempt: 1, ..Labels::sandbox("ns", "web", "u", 0) };
        assert_eq!(container_name(&a), "k8s_POD_web_ns_u_1");
    }
}
