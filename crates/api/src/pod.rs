//! What a pod is to those who place, admit, count and run it: what it needs, how it is treated when its node runs short, whether it has
//! ended. One answer for all of them.

use std::collections::BTreeMap;

use crate::{
    amounts::{self, Amounts},
    core::v1::{Container, Pod, PodCondition, PodSpec},
    quantity::{self, Quantity},
    resource::Quantity as Message,
};

/// Annotation of a pod that a kubelet made from a file of its host.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// How long a pod that does not say may take to end, in seconds.
pub const DEFAULT_GRACE_SECONDS: i64 = 30;

/// The resources that decide about the class.
const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// Quality of service: upstream's three classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits for CPU and memory, and together they ask for just that.
    Guaranteed,
    /// Neither of the others.
    Burstable,
    /// No container asks for CPU or memory, or limits it.
    BestEffort,
}

/// A port opened on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address it is opened on; `0.0.0.0` is all of them.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

/// What the pod asks for: what its containers need together, or what one init container needs before them if that is more, plus overhead.
/// Sidecars, which are init containers that restart always, run beside all that come after them.
pub fn requests(spec: &PodSpec) -> Amounts {
    requests_or(spec, &Amounts::new())
}

/// As [`requests`], with each container that says nothing of a resource counted as asking for what stands in `unsaid`.
pub fn requests_or(spec: &PodSpec, unsaid: &Amounts) -> Amounts {
    let mut total = total(spec, |container| {
        let mut own = amounts::read(&container.resources().requests);
        for (name, amount) in unsaid {
            own.entry(name.clone()).or_insert(*amount);
        }
        own
    });
    amounts::add(&mut total, &amounts::read(&spec.overhead));
    total
}

/// What the pod may use, reckoned as [`requests`]. Of a resource that some container may use without limit it is what the others may; overhead
/// is added only to what is limited.
pub fn limits(spec: &PodSpec) -> Amounts {
    let mut total = total(spec, |container| amounts::read(&container.resources().limits));
    for (name, overhead) in amounts::read(&spec.overhead) {
        if let Some(limit) = total.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit += overhead;
        }
    }
    total
}

/// The ports that the pod's containers open on their node.
pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let ports = spec.containers.iter().flat_map(|container| &container.ports).filter(|port| port.host_port > 0);
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    ports.map(|p| HostPort { ip: or(&p.host_ip, "0.0.0.0"), protocol: or(&p.protocol, "TCP"), port: p.host_port }).collect()
}

/// True for an init container that keeps running beside those that come after it.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// True once no container of the pod will run again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status().phase.as_str(), "Succeeded" | "Failed")
}

/// The condition of a type, if the pod has one.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status().conditions.iter().find(|condition| condition.r#type == kind)
}

/// True if the pod is ready to serve.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// True for the image of a pod that its node runs on its own account.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata().annotations.contains_key(MIRROR)
}

/// How long a pod may take to end, in seconds.
pub fn grace_seconds(spec: &PodSpec) -> i64 {
    spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS)
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Amounts) -> Amounts {
    // `running` is what goes on beside what comes next, `peak` the most there was at any time.
    let (mut running, mut peak) = (Amounts::new(), Amounts::new());
    for container in &spec.init_containers {
        let own = of(container);
        if is_sidecar(container) {
            amounts::add(&mut running, &own);
            amounts::raise(&mut peak, &running);
        } else {
            let mut beside = running.clone();
            amounts::add(&mut beside, &own);
            amounts::raise(&mut peak, &beside);
        }
    }
    for container in &spec.containers {
        amounts::add(&mut running, &of(container));
    }
    amounts::raise(&mut running, &peak);
    running
}

// === impl HostPort ===

impl HostPort {
    /// True if both cannot be open on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let same_address = self.ip == other.ip || self.ip == "0.0.0.0" || other.ip == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

// === impl Qos ===

impl Qos {
    /// The class of a pod.
    pub fn of(spec: &PodSpec) -> Self {
        let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
        let mut all_limited = true;
        for container in spec.init_containers.iter().chain(&spec.containers) {
            let resources = container.resources();
            let own = compute(&resources.limits);
            all_limited &= own.len() == COMPUTE.len();
            amounts::add(&mut limits, &own);
            amounts::add(&mut requests, &compute(&resources.requests));
        }
        if requests.is_empty() && limits.is_empty() {
            Self::BestEffort
        } else if all_limited && requests == limits {
            Self::Guaranteed
        } else {
            Self::Burstable
        }
    }

    /// As `status.qosClass` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn compute(list: &BTreeMap<String, Message>) -> Amounts {
    let amount = |name: &str| quantity::get(list, name).filter(|amount| *amount > Quantity::ZERO);
    COMPUTE.iter().filter_map(|name| Some(((*name).to_owned(), amount(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(spec: Value) -> PodSpec {
        crate::json::read(spec).unwrap()
    }

    fn asks(cpu: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Value {
        json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
    }

    fn text(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_pod_asks_for_the_most_it_needs_at_any_time() {
        let cpu = |containers, init| text(&requests(&spec(json!({"containers": containers, "initContainers": init}))));
        assert_eq!(cpu(json!([asks("500m"), asks("1")]), json!([])), "cpu=1500m");
        assert_eq!(cpu(json!([asks("500m")]), json!([asks("2"), asks("1")])), "cpu=2");
        assert_eq!(cpu(json!([asks("500m")]), json!([sidecar("1")])), "cpu=1500m");
        assert_eq!(cpu(json!([asks("500m")]), json!([sidecar("1"), asks("2")])), "cpu=3");
        assert_eq!(cpu(json!([asks("500m")]), json!([asks("2"), sidecar("1")])), "cpu=2");
        assert_eq!(cpu(json!([asks("100m"), asks("200m")]), json!([sidecar("50m"), asks("400m")])), "cpu=450m");
    }

    #[test]
    fn overhead_adds_to_every_request_but_only_to_limits_that_there_are() {
        let resources = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}});
        let spec = spec(json!({"containers": [{"resources": resources}], "overhead": {"cpu": "100m", "memory": "1Mi"}}));
        assert_eq!((text(&requests(&spec)).as_str(), text(&limits(&spec)).as_str()), ("cpu=1100m,memory=1Mi", "cpu=2100m"));
    }

    #[test]
    fn what_containers_do_not_say_counts_as_told() {
        let spec = spec(json!({"containers": [asks("1"), {}], "initContainers": [{"restartPolicy": "Always"}]}));
        let unsaid = Amounts::from([("cpu".to_owned(), Quantity::from_milli(100))]);
        assert_eq!(text(&requests_or(&spec, &unsaid)), "cpu=1200m");
    }

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        let class = |containers| Qos::of(&spec(json!({"containers": containers}))).as_str();
        let both = |cpu, memory| json!({"cpu": cpu, "memory": memory});
        let same = |amounts: Value| json!({"resources": {"requests": amounts.clone(), "limits": amounts}});
        assert_eq!(class(json!([{}])), "BestEffort");
        assert_eq!(class(json!([same(json!({"x.io/gpu": "1", "cpu": "0"}))])), "BestEffort");
        assert_eq!(class(json!([asks("1")])), "Burstable");
        assert_eq!(class(json!([same(both("1", "1Gi")), same(both("1000m", "1"))])), "Guaranteed");
        assert_eq!(class(json!([same(both("1", "1Gi")), {}])), "Burstable");
        let more = json!({"resources": {"requests": both("1", "1Gi"), "limits": both("2", "1Gi")}});
        assert_eq!(class(json!([more])), "Burstable");
        // An init container counts as any other.
        let spec = spec(json!({"containers": [same(both("1", "1Gi"))], "initContainers": [{}]}));
        assert_eq!(Qos::of(&spec), Qos::Burstable);
    }
}
