//! What a pod asks for that this kubelet cannot do (yet), as [`api::unsupported`] has it. Such a pod is refused as a whole, with the field's
//! name. What will be supported has its place: init containers in `plan::run`, before the others are wanted; hooks in `jobs::start_container`
//! and `Worker::stop`; gRPC probes in `probe`.

use api::{core::v1::Pod, unsupported};

/// Why a pod cannot be run here at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs, such as `FieldNotSupported`.
    pub reason: &'static str,
    /// For people: the field, and what is the matter with it.
    pub message: String,
}

/// Why this kubelet cannot run the pod; `None` if it can.
pub fn rejection(pod: &Pod) -> Option<Rejection> {
    let found = unsupported::first(pod.spec())?;
    let message = format!("Pod was rejected: spec.{}: {}", found.field, found.message);
    Some(Rejection { reason: found.reason.as_str(), message })
}
