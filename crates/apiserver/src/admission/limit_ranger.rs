//! Bounds on single pods and containers, and defaults for containers that say nothing, from the namespace's LimitRanges.

use std::collections::BTreeMap;

use api::{
    Object, Resource, StatusError,
    amounts::{self, Amounts},
    core::v1::{Container, LimitRange, LimitRangeItem, Pod},
    pod::{self, Qos},
    quantity::Quantity,
    resource::Quantity as Text,
};
use store::{ReadAt, Store};

use super::{Admitted, Effects, Plugin, Write, action::Action};
use crate::reader::Reader;

/// Annotation that says what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// See the module.
pub(super) struct LimitRanger {
    ranges: Reader<LimitRange>,
}

impl LimitRanger {
    pub(super) fn new(store: &Store) -> Self {
        Self { ranges: Reader::new(store) }
    }

    async fn items(&self, namespace: &str) -> Result<Vec<LimitRangeItem>, StatusError> {
        let ranges = self.ranges.list(namespace, ReadAt::Any).await?;
        Ok(ranges.into_iter().flat_map(|found| found.object.spec.unwrap_or_default().limits).collect())
    }
}

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn admit<'a>(&'a self, write: &'a Write<'a>, object: &'a mut dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            let Some(pod) = write.created::<Pod>(object) else { return Ok(()) };
            for item in self.items(&write.request.namespace).await?.iter().filter(|item| item.r#type == "Container") {
                fill(item, pod);
            }
            Ok(())
        })
    }

    fn check<'a>(&'a self, write: &'a Write<'a>, object: &'a dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            let created = write.action() == Action::Create && write.request.subresource.is_none();
            let Some(pod) = object.downcast_ref::<Pod>().filter(|_| created) else { return Ok(()) };
            let mut wrong = Vec::new();
            for item in &self.items(&write.request.namespace).await? {
                bounds(item, pod, &mut wrong);
            }
            match wrong.as_slice() {
                [] => Ok(()),
                [one] => Err(StatusError::forbidden(Pod::KIND, pod.name(), one)),
                many => Err(StatusError::forbidden(Pod::KIND, pod.name(), format!("[{}]", many.join(", ")))),
            }
        })
    }
}

/// Gives each container what it lacks.
fn fill(item: &LimitRangeItem, pod: &mut Pod) {
    let mut notes = Vec::new();
    let spec = pod.spec_mut();
    for (what, list) in [("container", &mut spec.containers), ("init container", &mut spec.init_containers)] {
        for container in list {
            let resources = container.resources.get_or_insert_default();
            let requests = missing(&mut resources.requests, &item.default_request);
            let limits = missing(&mut resources.limits, &item.default);
            for (kind, names) in [("request", requests), ("limit", limits)] {
                if !names.is_empty() {
                    notes.push(format!("{} {kind} for {what} {}", names.join(", "), container.name));
                }
            }
        }
    }
    if notes.is_empty() {
        return;
    }
    let note = format!("LimitRanger plugin set: {}", notes.join("; "));
    pod.metadata_mut().annotations.insert(ANNOTATION.to_owned(), note);
    // The class follows from what has just changed.
    pod.status_mut().qos_class = Qos::of(pod.spec()).as_str().to_owned();
}

fn missing(list: &mut BTreeMap<String, Text>, defaults: &BTreeMap<String, Text>) -> Vec<String> {
    let mut names = Vec::new();
    for (name, amount) in defaults {
        list.entry(name.clone()).or_insert_with(|| {
            names.push(name.clone());
            amount.clone()
        });
    }
    names
}

fn bounds(item: &LimitRangeItem, pod: &Pod, wrong: &mut Vec<String>) {
    let spec = pod.spec();
    match item.r#type.as_str() {
        "Container" => {
            for container in spec.containers.iter().chain(&spec.init_containers) {
                of_container(item, container, wrong);
            }
        }
        "Pod" => check(item, &pod::requests(spec), &pod::limits(spec), wrong),
        _ => {}
    }
}

fn of_container(item: &LimitRangeItem, container: &Container, wrong: &mut Vec<String>) {
    let resources = container.resources();
    check(item, &amounts::read(&resources.requests), &amounts::read(&resources.limits), wrong);
}

fn check(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, wrong: &mut Vec<String>) {
    let per = &item.r#type;
    for (name, least) in amounts::read(&item.min) {
        let rule = format!("minimum {name} usage per {per} is {least}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => wrong.push(format!("{rule}.  No request is specified")),
            (Some(request), _) if *request < least => wrong.push(format!("{rule}, but request is {request}")),
            (_, Some(limit)) if *limit < least => wrong.push(format!("{rule}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, most) in amounts::read(&item.max) {
        let rule = format!("maximum {name} usage per {per} is {most}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => wrong.push(format!("{rule}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => wrong.push(format!("{rule}, but limit is {limit}")),
            (Some(request), _) if *request > most => wrong.push(format!("{rule}, but request is {request}")),
            _ => {}
        }
    }
    for (name, most) in amounts::read(&item.max_limit_request_ratio) {
        let rule = format!("{name} max limit to request ratio per {per} is {most}");
        let given = |list: &Amounts| list.get(&name).copied().filter(|amount| !amount.is_zero());
        match (given(requests), given(limits)) {
            (None, _) => wrong.push(format!("{rule}, but no request is specified or request is 0")),
            (_, None) => wrong.push(format!("{rule}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = ratio(limit, request);
                if ratio > most.to_f64() {
                    wrong.push(format!("{rule}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn ratio(limit: Quantity, request: Quantity) -> f64 {
    limit.to_f64() / request.to_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str) -> LimitRangeItem {
        serde_json::from_str(json).unwrap()
    }

    fn pod(resources: &str) -> Pod {
        let json = format!(
            r#"{{"metadata": {{"name": "web"}}, "spec": {{"containers": [{{"name": "a", "image": "i", "resources": {resources}}}]}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn wrong(item_json: &str, resources: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        bounds(&item(item_json), &pod(resources), &mut wrong);
        wrong
    }

    #[test]
    fn defaults_fill_what_is_missing_and_are_noted() {
        let mut pod = pod(r#"{"requests": {"cpu": "2"}}"#);
        fill(
            &item(r#"{"type": "Container", "default": {"cpu": "3"}, "defaultRequest": {"cpu": "1", "memory": "1Mi"}}"#),
            &mut pod,
        );
        let resources = pod.spec().containers[0].resources();
        assert_eq!((resources.requests["cpu"].string.as_str(), resources.limits["cpu"].string.as_str()), ("2", "3"));
        assert_eq!(
            pod.metadata().annotations[ANNOTATION],
            "LimitRanger plugin set: memory request for container a; cpu limit for container a"
        );
        assert_eq!(pod.status().qos_class, "Burstable");
    }

    #[test]
    fn amounts_stay_within_their_bounds() {
        let min = r#"{"type": "Container", "min": {"cpu": "100m"}}"#;
        assert_eq!(wrong(min, "{}"), ["minimum cpu usage per Container is 100m.  No request is specified"]);
        assert_eq!(
            wrong(min, r#"{"requests": {"cpu": "50m"}}"#),
            ["minimum cpu usage per Container is 100m, but request is 50m"]
        );
        let max = r#"{"type": "Pod", "max": {"memory": "1Gi"}}"#;
        assert_eq!(wrong(max, r#"{"limits": {"memory": "2Gi"}}"#), ["maximum memory usage per Pod is 1Gi, but limit is 2Gi"]);
        assert_eq!(wrong(max, "{}"), ["maximum memory usage per Pod is 1Gi.  No limit is specified"]);
        assert_eq!(wrong(max, r#"{"limits": {"memory": "1024Mi"}}"#), [""; 0]);
    }

    #[test]
    fn limits_stay_near_their_requests() {
        let item = r#"{"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}"#;
        assert_eq!(wrong(item, r#"{"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}"#), [""; 0]);
        assert_eq!(
            wrong(item, r#"{"requests": {"cpu": "1"}, "limits": {"cpu": "5"}}"#),
            ["cpu max limit to request ratio per Container is 2, but provided ratio is 5.000000"]
        );
    }
}
