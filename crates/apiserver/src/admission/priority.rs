//! A pod's priority is what its PriorityClass says, and at most one class is the default.

use api::{Object, Resource, StatusError, core::v1::Pod, scheduling::v1::PriorityClass};
use store::{ReadAt, Store};

use super::{Admitted, Effects, Plugin, Write, action::Action};
use crate::reader::Reader;

const PREEMPT: &str = "PreemptLowerPriority";

/// See the module.
pub(super) struct Priority {
    classes: Reader<PriorityClass>,
}

impl Priority {
    pub(super) fn new(store: &Store) -> Self {
        Self { classes: Reader::new(store) }
    }

    async fn pod(&self, pod: &mut Pod) -> Result<(), StatusError> {
        let forbidden = |pod: &Pod, why: String| Err(StatusError::forbidden(Pod::KIND, pod.name(), why));
        let asked = pod.spec().priority_class_name.clone();
        let class = if asked.is_empty() {
            self.default_class().await?
        } else {
            match self.classes.cached("", &asked).await? {
                Some(found) => Some(found.object),
                None => return forbidden(pod, format!("no PriorityClass with name {asked} was found")),
            }
        };
        let (name, value, policy) = match &class {
            Some(class) => (class.name(), class.value, class.preemption_policy.as_deref().unwrap_or(PREEMPT)),
            None => ("", 0, PREEMPT),
        };
        if let Some(given) = pod.spec().priority.filter(|given| *given != value) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed \
                 {value} from the given PriorityClass name"
            );
            return forbidden(pod, why);
        }
        if let Some(given) = pod.spec().preemption_policy.as_deref().filter(|given| *given != policy) {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller \
                 computed {policy} from the given PriorityClass name"
            );
            return forbidden(pod, why);
        }
        let (name, policy) = (name.to_owned(), policy.to_owned());
        let spec = pod.spec_mut();
        spec.priority_class_name = name;
        spec.priority = Some(value);
        spec.preemption_policy = Some(policy);
        Ok(())
    }

    /// The class of pods that name none; should there be several, the lowest.
    async fn default_class(&self) -> Result<Option<PriorityClass>, StatusError> {
        let classes = self.classes.list("", ReadAt::Any).await?;
        let defaults = classes.into_iter().map(|found| found.object).filter(|class| class.global_default);
        Ok(defaults.min_by_key(|class| class.value))
    }

    async fn class(&self, class: &PriorityClass) -> Result<(), StatusError> {
        if !class.global_default {
            return Ok(());
        }
        let others = self.classes.list("", ReadAt::Latest).await?;
        match others.iter().map(|found| &found.object).find(|other| other.global_default && other.name() != class.name()) {
            None => Ok(()),
            Some(other) => {
                let why = format!("PriorityClass {} is already marked as default. Only one default can exist", other.name());
                Err(StatusError::forbidden(PriorityClass::KIND, class.name(), why))
            }
        }
    }
}

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn admit<'a>(&'a self, write: &'a Write<'a>, object: &'a mut dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            match write.created::<Pod>(object) {
                Some(pod) => self.pod(pod).await,
                None => Ok(()),
            }
        })
    }

    fn check<'a>(&'a self, write: &'a Write<'a>, object: &'a dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            match object.downcast_ref::<PriorityClass>() {
                Some(class) if write.action() != Action::Delete => self.class(class).await,
                _ => Ok(()),
            }
        })
    }
}
