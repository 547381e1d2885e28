//! A pod stays five minutes on a node that is gone, unless it says how long.

use api::{
    Object,
    core::v1::{Pod, Toleration},
    taint::{NOT_READY, UNREACHABLE},
};

use super::{Admitted, Effects, Plugin, Write, action::Action};

const KEYS: [&str; 2] = [NOT_READY, UNREACHABLE];
const NO_EXECUTE: &str = "NoExecute";
const SECONDS: i64 = 300;

/// See the module.
pub(super) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn admit<'a>(&'a self, write: &'a Write<'a>, object: &'a mut dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        if let Some(pod) = object.downcast_mut::<Pod>()
            && write.action() != Action::Delete
            && write.request.subresource.is_none()
        {
            tolerate(pod);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn tolerate(pod: &mut Pod) {
    for key in KEYS {
        let covers = |t: &Toleration| (t.key == key || t.key.is_empty()) && (t.effect == NO_EXECUTE || t.effect.is_empty());
        let tolerations = &mut pod.spec_mut().tolerations;
        if !tolerations.iter().any(covers) {
            tolerations.push(Toleration {
                key: key.to_owned(),
                operator: "Exists".to_owned(),
                effect: NO_EXECUTE.to_owned(),
                toleration_seconds: Some(SECONDS),
                ..Toleration::default()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_says_itself_counts() {
        let mut pod = Pod::default();
        let own = Toleration { key: KEYS[0].into(), operator: "Exists".into(), ..Default::default() };
        pod.spec_mut().tolerations = vec![own];
        tolerate(&mut pod);
        let keys: Vec<_> = pod.spec().tolerations.iter().map(|t| (t.key.as_str(), t.toleration_seconds)).collect();
        assert_eq!(keys, [(KEYS[0], None), (KEYS[1], Some(300))]);
        let before = pod.clone();
        tolerate(&mut pod);
        assert_eq!(pod, before);
    }
}
