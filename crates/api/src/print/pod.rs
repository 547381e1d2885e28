//! A pod's row: what its containers' states add up to.

use jiff::Timestamp;
use serde_json::Value;

use super::{NONE, flag, human_duration, list, number, text};

/// What several columns of a pod need.
pub(super) struct Summary {
    pub ready: String,
    pub status: String,
    pub restarts: String,
}

/// Restarts of some containers, and when the last of them was.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += number(status, "/restartCount");
        let finished = text(status, "/lastState/terminated/finishedAt").parse().ok();
        self.last = self.last.max(finished);
    }
}

impl Summary {
    pub fn new(pod: &Value, now: Timestamp) -> Self {
        let mut reason = initial_reason(pod);
        let sidecars = list(pod, "/spec/initContainers").filter(|c| is_sidecar(c)).count();
        let total = list(pod, "/spec/containers").len() + sidecars;
        let init = InitPhase::new(pod);
        let (mut ready, mut restarts) = (init.ready, init.restarts);
        if let Some(failure) = &init.reason {
            reason.clone_from(failure);
        }
        if init.reason.is_none() || condition(pod, "Initialized") == Some("True") {
            restarts = init.sidecar_restarts;
            let mut running = false;
            for status in list(pod, "/status/containerStatuses").rev() {
                restarts.add(status);
                match container_reason(status) {
                    Some(why) => reason = why,
                    None if flag(status, "/ready") && status.pointer("/state/running").is_some() => {
                        running = true;
                        ready += 1;
                    }
                    None => {}
                }
            }
            if reason == "Completed" && running {
                let is_ready = condition(pod, "Ready") == Some("True");
                reason = if is_ready { "Running" } else { "NotReady" }.to_owned();
            }
        }
        if !text(pod, "/metadata/deletionTimestamp").is_empty() {
            if text(pod, "/status/reason") == "NodeLost" {
                reason = "Unknown".to_owned();
            } else if !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
                reason = "Terminating".to_owned();
            }
        }
        let restarts = match restarts {
            Restarts { count, last: Some(last) } if count != 0 => {
                format!("{count} ({} ago)", human_duration(now.duration_since(last)))
            }
            Restarts { count, .. } => count.to_string(),
        };
        Self { ready: format!("{ready}/{total}"), status: reason, restarts }
    }
}

fn initial_reason(pod: &Value) -> String {
    let gated = |c: &Value| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated";
    if list(pod, "/status/conditions").any(gated) {
        return "SchedulingGated".to_owned();
    }
    let reason = text(pod, "/status/reason");
    if reason.is_empty() { text(pod, "/status/phase").to_owned() } else { reason.to_owned() }
}

/// How far the init containers are.
struct InitPhase {
    /// Why the pod is not past them; `None` if it is.
    reason: Option<String>,
    restarts: Restarts,
    sidecar_restarts: Restarts,
    /// Sidecars that are ready.
    ready: usize,
}

impl InitPhase {
    fn new(pod: &Value) -> Self {
        let mut phase = Self { reason: None, restarts: Restarts::default(), sidecar_restarts: Restarts::default(), ready: 0 };
        let total = list(pod, "/spec/initContainers").len();
        for (i, status) in list(pod, "/status/initContainerStatuses").enumerate() {
            let spec = list(pod, "/spec/initContainers").find(|c| text(c, "/name") == text(status, "/name"));
            let sidecar = spec.is_some_and(is_sidecar);
            phase.restarts.add(status);
            if sidecar {
                phase.sidecar_restarts.add(status);
            }
            let terminated = status.pointer("/state/terminated");
            if terminated.is_some_and(|t| number(t, "/exitCode") == 0) {
                continue;
            }
            if sidecar && flag(status, "/started") {
                phase.ready += usize::from(flag(status, "/ready"));
                continue;
            }
            let waiting = text(status, "/state/waiting/reason");
            phase.reason = Some(match terminated {
                Some(terminated) => format!("Init:{}", termination_reason(terminated)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{i}/{total}"),
            });
            break;
        }
        phase
    }
}

/// Why a container does not run; `None` if it does or nothing is known.
fn container_reason(status: &Value) -> Option<String> {
    let waiting = text(status, "/state/waiting/reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    status.pointer("/state/terminated").map(termination_reason)
}

fn termination_reason(terminated: &Value) -> String {
    match (text(terminated, "/reason"), number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a str> {
    list(pod, "/status/conditions").find(|c| text(c, "/type") == kind).map(|c| text(c, "/status"))
}

/// How many of the pod's readiness gates are open.
pub(super) fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    let total = gates.len();
    if total == 0 {
        return NONE.to_owned();
    }
    let open = gates.filter(|gate| condition(pod, text(gate, "/conditionType")) == Some("True")).count();
    format!("{open}/{total}")
}
