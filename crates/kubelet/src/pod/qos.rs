//! Quality of service: a pod's class, and what it and the containers' resources mean to the kernel.

use api::{
    core::v1::{Container, Pod},
    quantity,
};

/// The CPU scheduling period in microseconds.
const PERIOD: i64 = 100_000;
/// The shortest quota that the kernel takes, in microseconds.
const MIN_QUOTA: i64 = 1000;
/// CPU shares of one core, and the fewest and most there are.
const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// The sandbox is the last to be killed when memory runs out.
pub(super) const SANDBOX_OOM_SCORE: i64 = -998;

/// Upstream's three classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits for CPU and memory, and asks for just that.
    Guaranteed,
    /// Neither of the others.
    Burstable,
    /// No container asks for or limits anything.
    BestEffort,
}

// === impl Qos ===

impl Qos {
    /// The class of a pod.
    pub fn of(pod: &Pod) -> Self {
        let containers = || pod.spec().init_containers.iter().chain(&pod.spec().containers);
        let mut any = false;
        let mut guaranteed = true;
        for container in containers() {
            for name in ["cpu", "memory"] {
                let limit = quantity::get(&container.resources().limits, name).filter(|q| !q.is_zero());
                let request = quantity::get(&container.resources().requests, name).filter(|q| !q.is_zero());
                any |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
            }
        }
        match (any, guaranteed) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// CPU shares for a request in thousandths of a core.
pub fn cpu_shares(milli: i64) -> i64 {
    (milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Quota and period in microseconds for a limit in thousandths of a core; zeros for none.
pub fn cpu_quota(milli: i64) -> (i64, i64) {
    if milli <= 0 { (0, 0) } else { ((milli.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA), PERIOD) }
}

/// How early a container is killed when the node's memory runs out.
pub fn oom_score(qos: Qos, memory_request: i64, node_memory: i64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let share = if node_memory > 0 { 1000 * i128::from(memory_request) / i128::from(node_memory) } else { 0 };
            (1000 - share.clamp(0, 1000) as i64).clamp(3, 999)
        }
    }
}

/// A container's request of a resource (its limit, if it only has that): thousandths for `cpu`, else whole units.
pub fn request(container: &Container, name: &str) -> i64 {
    let resources = container.resources();
    let amount = quantity::get(&resources.requests, name).or_else(|| quantity::get(&resources.limits, name));
    amount.map_or(0, |amount| if name == "cpu" { amount.milli_value() } else { amount.value() })
}

/// A container's limit of a resource; 0 for none.
pub fn limit(container: &Container, name: &str) -> i64 {
    quantity::get(&container.resources().limits, name)
        .map_or(0, |amount| if name == "cpu" { amount.milli_value() } else { amount.value() })
}

#[cfg(test)]
mod tests {
    use api::quantity::Quantity;

    use super::*;

    fn pod(requests: &[(&str, i64)], limits: &[(&str, i64)]) -> Pod {
        let mut container = Container::default();
        let map = |list: &[(&str, i64)]| list.iter().map(|(k, v)| ((*k).to_owned(), Quantity::from_value(*v).into())).collect();
        container.resources_mut().requests = map(requests);
        container.resources_mut().limits = map(limits);
        let mut pod = Pod::default();
        pod.spec_mut().containers.push(container);
        pod
    }

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        assert_eq!(Qos::of(&pod(&[], &[])), Qos::BestEffort);
        assert_eq!(Qos::of(&pod(&[("cpu", 1)], &[])), Qos::Burstable);
        assert_eq!(Qos::of(&pod(&[], &[("cpu", 1), ("memory", 5)])), Qos::Guaranteed);
        assert_eq!(Qos::of(&pod(&[("cpu", 1), ("memory", 4)], &[("cpu", 1), ("memory", 5)])), Qos::Burstable);
    }

    #[test]
    fn shares_quotas_and_scores_are_upstreams() {
        assert_eq!((cpu_shares(0), cpu_shares(250), cpu_shares(2000)), (2, 256, 2048));
        assert_eq!((cpu_quota(0), cpu_quota(500), cpu_quota(1)), ((0, 0), (50_000, 100_000), (1000, 100_000)));
        assert_eq!(oom_score(Qos::Burstable, 1 << 30, 4 << 30), 750);
        assert_eq!(oom_score(Qos::Burstable, 4 << 30, 4 << 30), 3);
        assert_eq!(oom_score(Qos::Burstable, 0, 4 << 30), 999);
    }
}
