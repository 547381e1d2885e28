//! Pods that fail as soon as they are made: how long to wait before the next one. No I/O.
//!
//! Everything is read from the pods there are, so a controller manager that starts anew is as patient as the one before. The wait is as long
//! as it has gone on already, which doubles it each time; and one pod at a time is tried until one lives.

use std::sync::Arc;

use api::{core::v1::Pod, pod::is_terminal};

use crate::{pods, reads::SeenPod};

/// A pod that lasted so many seconds lived.
const LIFE: i64 = 60;
/// So many may fail before anything waits, or as many as are wanted if that is less: one failure need not be a habit.
const ALLOWED: usize = 10;
/// Shortest and longest wait in seconds.
const WAIT: (i64, i64) = (1, 300);

/// Pods that failed one after the other, with none that lived since.
#[derive(Debug)]
pub(super) struct Failing {
    count: usize,
    last: Arc<SeenPod>,
    /// When another one may be created, in seconds since 1970.
    next: i64,
    /// One that was made since the first failure is on its way: it may yet live.
    pub(super) trying: bool,
}

/// Looks for pods that failed at once among all pods of a controller that wants so many. Those made up to `since` say nothing: they were
/// made from another template. Times are in seconds since 1970. `None` if too few failed to speak of.
pub(super) fn failing(pods: &[Arc<SeenPod>], wanted: usize, since: i64, now: i64) -> Option<Failing> {
    let lived = pods.iter().filter(|pod| lives(pod, now)).map(|pod| created(pod)).max();
    let since = lived.map_or(since, |lived| lived.max(since));
    let failed = || pods.iter().filter(|pod| created(pod) > since && lasted(pod).is_some_and(|lasted| lasted < LIFE));
    if failed().count() <= wanted.min(ALLOWED) {
        return None;
    }
    let first = failed().map(|pod| created(pod)).min()?;
    let last = failed().max_by_key(|pod| created(pod))?.clone();
    let next = created(&last) + (created(&last) - first).clamp(WAIT.0, WAIT.1);
    let trying = pods.iter().any(|pod| pods::is_active(pod) && created(pod) >= first);
    Some(Failing { count: failed().count(), last, next, trying })
}

fn created(pod: &Pod) -> i64 {
    pod.metadata().creation_timestamp().seconds
}

/// True if the pod serves, or has been there for long enough to count as one that can.
fn lives(pod: &Pod, now: i64) -> bool {
    match lasted(pod) {
        Some(lasted) => lasted >= LIFE,
        None => pods::is_active(pod) && (pods::is_ready(pod) || pod.status().start_time.is_some_and(|t| now - t.seconds >= LIFE)),
    }
}

/// How many seconds a pod lasted that failed or was driven from its node; `None` for any other. Both ends are told by one clock.
fn lasted(pod: &Pod) -> Option<i64> {
    let (meta, status) = (pod.metadata(), pod.status());
    if is_terminal(pod) {
        let failed = status.phase == "Failed";
        let begun = status.start_time.map(|time| time.seconds);
        let turned = status.conditions.iter().filter_map(|condition| condition.last_transition_time);
        let finished = status.container_statuses.iter().filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at);
        let ended = turned.chain(finished).map(|time| time.seconds).max();
        return failed.then(|| begun.zip(ended).map_or(0, |(begun, ended)| ended - begun));
    }
    let driven = pods::condition(pod, "DisruptionTarget").is_some_and(|target| target.status == "True");
    let told = meta.deletion_timestamp.filter(|_| driven)?.seconds - meta.deletion_grace_period_seconds.unwrap_or(0);
    Some(told - created(pod))
}

// === impl Failing ===

impl Failing {
    /// How many seconds to wait before another pod is made; 0 for not at all.
    pub(super) fn wait(&self, now: i64) -> u64 {
        let wait = if self.trying { LIFE } else { self.next - now };
        wait.max(0).unsigned_abs()
    }

    /// The UID of the pod that failed last.
    pub(super) fn last(&self) -> &str {
        &self.last.metadata().uid
    }
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, status) = (&self.last.metadata().name, self.last.status());
        let target = pods::condition(&self.last, "DisruptionTarget");
        let told = target.map_or((&status.reason, &status.message), |target| (&target.reason, &target.message));
        let why = match told {
            (reason, message) if reason.is_empty() && message.is_empty() => "it ended at once",
            (reason, message) if message.is_empty() => reason,
            (_, message) => message,
        };
        match self.count {
            1 => write!(f, "pod {name} failed within {LIFE}s: {why}"),
            count => write!(f, "{count} pods failed within {LIFE}s each, the last of them {name}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{object, seen};

    fn time(seconds: i64) -> Value {
        jiff::Timestamp::from_second(seconds).unwrap().to_string().into()
    }

    fn pod(created: i64, status: Value) -> Arc<SeenPod> {
        seen(&object(json!({"metadata": {"name": format!("p{created}"), "creationTimestamp": time(created)}, "status": status})))
    }

    fn refused(created: i64) -> Arc<SeenPod> {
        pod(created, json!({"phase": "Failed", "reason": "OutOfcpu", "message": "no CPU left"}))
    }

    fn ran(created: i64, seconds: i64) -> Arc<SeenPod> {
        let state = json!({"terminated": {"finishedAt": time(created + seconds)}});
        let containers = json!([{"name": "c", "state": state}]);
        pod(created, json!({"phase": "Failed", "startTime": time(created), "containerStatuses": containers}))
    }

    fn waits(pods: &[Arc<SeenPod>], since: i64) -> Option<i64> {
        failing(pods, 0, since, 10_000).map(|failing| failing.next)
    }

    #[test]
    fn the_wait_doubles_up_to_five_minutes() {
        let (mut pods, mut now, mut waited) = (vec![refused(1000)], 1000, Vec::new());
        assert!(failing(&pods, 1, 0, now).is_none());
        for _ in 0..12 {
            pods.push(refused(now));
            let next = failing(&pods, 1, 0, now).unwrap().next;
            waited.push(next - now);
            now = next;
        }
        assert_eq!(waited, [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn a_pod_that_lives_or_another_template_ends_the_wait() {
        let failed = || vec![refused(1000), refused(1010)];
        assert_eq!(waits(&failed(), 0), Some(1020));
        assert_eq!(waits(&failed(), 1005), Some(1011));
        assert_eq!(waits(&failed(), 1010), None);
        let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let starting = json!({"phase": "Pending"});
        let up = json!({"phase": "Running", "startTime": time(9_000)});
        let trying = [failed(), vec![pod(1020, starting.clone())]].concat();
        assert!(failing(&trying, 1, 0, 1020).unwrap().trying && !failing(&failed(), 1, 0, 1020).unwrap().trying);
        for (status, created, expected) in [
            (ready.clone(), 1020, None),
            // One of the same round lives.
            (ready.clone(), 1010, None),
            // It lived already while the others failed.
            (ready, 990, Some(1020)),
            (starting, 1020, Some(1020)),
            (up, 1020, None),
        ] {
            let pods = [failed(), vec![pod(created, status.clone())]].concat();
            assert_eq!(waits(&pods, 0), expected, "{status} {created}");
        }
        assert_eq!(waits(&[failed(), vec![ran(1015, 59)]].concat(), 0), Some(1030));
        assert_eq!(waits(&[failed(), vec![ran(1015, 60)]].concat(), 0), None);
    }

    #[test]
    fn a_pod_that_succeeded_or_was_deleted_by_a_person_did_not_fail_and_one_driven_from_its_node_did() {
        assert_eq!(waits(&[pod(1000, json!({"phase": "Succeeded"}))], 0), None);
        let driven = json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "message": "a taint"}]});
        for (status, expected) in [(json!({}), None), (driven, Some(1001))] {
            let mut gone = Pod::clone(&pod(1000, status));
            gone.metadata_mut().deletion_timestamp = Some(api::meta::v1::Time { seconds: 1032, nanos: 0 });
            gone.metadata_mut().deletion_grace_period_seconds = Some(30);
            assert_eq!(waits(&[seen(&gone)], 0), expected);
        }
    }

    #[test]
    fn what_happened_is_said() {
        let text = failing(&[refused(1), refused(2)], 1, 0, 10).unwrap().to_string();
        assert_eq!(text, "2 pods failed within 60s each, the last of them p2: no CPU left");
        assert_eq!(failing(&[ran(1, 1)], 0, 0, 10).unwrap().to_string(), "pod p1 failed within 60s: it ended at once");
    }
}
