//! Runtime classes: what a pod names must exist, and only a class says what its runtime takes besides. There are none here yet.

use api::{Object, Resource, StatusError, core::v1::Pod};

use super::{Admitted, Effects, Plugin, Write};

/// See the module.
pub(super) struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn admit<'a>(&'a self, write: &'a Write<'a>, object: &'a mut dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            let Some(pod) = write.created::<Pod>(object) else { return Ok(()) };
            let spec = pod.spec();
            let why = match spec.runtime_class_name.as_deref() {
                Some(name) if !name.is_empty() => format!("pod rejected: RuntimeClass {name:?} not found"),
                _ if !spec.overhead.is_empty() => {
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned()
                }
                _ => return Ok(()),
            };
            Err(StatusError::forbidden(Pod::KIND, pod.name(), why))
        })
    }
}
