//! What a pod's class and its containers' resources mean to the kernel.

use api::{
    amounts::{self, Amounts},
    core::v1::Container,
    pod::Qos,
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
    let list = if resources.requests.contains_key(name) { &resources.requests } else { &resources.limits };
    units(&amounts::read(list), name)
}

/// A container's limit of a resource; 0 for none.
pub fn limit(container: &Container, name: &str) -> i64 {
    units(&amounts::read(&container.resources().limits), name)
}

/// The amount of a resource as the kernel counts it: thousandths for `cpu`, else whole units; 0 if it is not in the list.
pub fn units(amounts: &Amounts, name: &str) -> i64 {
    amounts.get(name).map_or(0, |amount| if name == "cpu" { amount.milli_value() } else { amount.value() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_quotas_and_scores_are_upstreams() {
        assert_eq!((cpu_shares(0), cpu_shares(250), cpu_shares(2000)), (2, 256, 2048));
        assert_eq!((cpu_quota(0), cpu_quota(500), cpu_quota(1)), ((0, 0), (50_000, 100_000), (1000, 100_000)));
        assert_eq!(oom_score(Qos::Burstable, 1 << 30, 4 << 30), 750);
        assert_eq!(oom_score(Qos::Burstable, 4 << 30, 4 << 30), 3);
        assert_eq!(oom_score(Qos::Burstable, 0, 4 << 30), 999);
    }
}
