//! What the kubelet counts: pods and containers, how long pods take to start, what is asked of the runtime. Names and labels are upstream's.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use api::core::v1::Pod;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::pod::{probe::Kind, unit::units};

/// Upper bounds of the buckets for the start of a pod, in seconds.
const START_SECONDS: [f64; 16] = [0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// The same for what the runtime is asked, and for pulls of images.
const OPERATION_SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

/// The kubelet's metrics. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct KubeletMetrics {
    node: Family<NodeLabel, Gauge>,
    pods: Gauge,
    containers: Family<StateLabel, Gauge>,
    starts: Histogram,
    started_pods: Counter,
    failed_pods: Counter,
    started_containers: Family<TypeLabel, Counter>,
    failed_containers: Family<CodeLabel, Counter>,
    rejections: Family<ReasonLabel, Counter>,
    pulls: Histogram,
    operations: Family<OperationLabel, Counter>,
    failures: Family<OperationLabel, Counter>,
    times: Family<OperationLabel, Histogram>,
    probes: Family<ProbeLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabel {
    node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    container_state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    container_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    container_type: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    probe_type: &'static str,
    result: &'static str,
    container: String,
    pod: String,
    namespace: String,
    pod_uid: String,
}

/// How a probe went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The container is as it should be.
    Successful,
    /// It is not.
    Failed,
    /// It could not be found out.
    Unknown,
}

/// All containers are of this type so far.
const CONTAINER: &str = "container";

// === impl KubeletMetrics ===

impl KubeletMetrics {
    /// Makes the metrics known to `/metrics`.
    pub fn new(metrics: &daemon::Metrics) -> Self {
        let this = Self {
            node: Family::default(),
            pods: Gauge::default(),
            containers: Family::default(),
            starts: Histogram::new(START_SECONDS),
            started_pods: Counter::default(),
            failed_pods: Counter::default(),
            started_containers: Family::default(),
            failed_containers: Family::default(),
            rejections: Family::default(),
            pulls: Histogram::new(OPERATION_SECONDS),
            operations: Family::default(),
            failures: Family::default(),
            times: Family::new_with_constructor(|| Histogram::new(OPERATION_SECONDS)),
            probes: Family::default(),
        };
        metrics.register(|registry| {
            registry.register("prober_probe", "Probes of containers, by how they went", this.probes.clone());
            let registry = registry.sub_registry_with_prefix("kubelet");
            registry.register("node_name", "The node's name; always 1", this.node.clone());
            registry.register("running_pods", "Pods that have a running sandbox", this.pods.clone());
            registry.register("running_containers", "Containers by their state", this.containers.clone());
            let help = "Seconds from when the kubelet first saw a pod until the API server had heard that it is ready";
            registry.register("pod_start_duration_seconds", help, this.starts.clone());
            registry.register("started_pods", "Sandboxes made", this.started_pods.clone());
            registry.register("started_pods_errors", "Sandboxes that could not be made", this.failed_pods.clone());
            registry.register("started_containers", "Containers started", this.started_containers.clone());
            registry.register(
                "started_containers_errors",
                "Containers that could not be started",
                this.failed_containers.clone(),
            );
            registry.register("admission_rejections", "Pods that the node did not take", this.rejections.clone());
            registry.register("image_pull_duration_seconds", "Seconds to pull an image", this.pulls.clone());
            registry.register("runtime_operations", "What the runtime was asked", this.operations.clone());
            registry.register("runtime_operations_errors", "What the runtime did not do", this.failures.clone());
            registry.register(
                "runtime_operations_duration_seconds",
                "Seconds until the runtime had answered",
                this.times.clone(),
            );
        });
        this
    }

    /// Says which node this is.
    pub fn name_node(&self, node: &str) {
        self.node.get_or_create(&NodeLabel { node: node.to_owned() }).set(1);
    }

    /// What there is now.
    pub fn set_running(&self, pods: usize, running: usize, created: usize, exited: usize) {
        self.pods.set(pods as i64);
        for (container_state, count) in [("running", running), ("created", created), ("exited", exited)] {
            self.containers.get_or_create(&StateLabel { container_state }).set(count as i64);
        }
    }

    /// A pod has become ready for the first time.
    pub fn pod_started(&self, took: Duration) {
        self.starts.observe(took.as_secs_f64());
    }

    /// A sandbox has been made, or could not be.
    pub fn sandbox_made(&self, succeeded: bool) {
        if succeeded { &self.started_pods } else { &self.failed_pods }.inc();
    }

    /// A container has been started; `Err` says by which reason it could not be.
    pub fn container_started(&self, result: Result<(), &'static str>) {
        match result {
            Ok(()) => self.started_containers.get_or_create(&TypeLabel { container_type: CONTAINER }).inc(),
            Err(code) => self.failed_containers.get_or_create(&CodeLabel { container_type: CONTAINER, code }).inc(),
        };
    }

    /// The node did not take a pod.
    pub fn pod_rejected(&self, reason: &str) {
        self.rejections.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    /// An image has been pulled.
    pub fn image_pulled(&self, took: Duration) {
        self.pulls.observe(took.as_secs_f64());
    }

    /// A container has been probed; `probe_type` is `Startup`, `Liveness` or `Readiness`.
    pub fn probed(&self, pod: &Pod, container: &str, probe_type: &'static str, result: ProbeResult) {
        self.probes.get_or_create(&ProbeLabels::new(pod, container, probe_type, result.as_str())).inc();
    }

    /// The pod is gone, and with it the counts of its probes.
    pub fn forget_probes(&self, pod: &Pod) {
        for unit in units(pod.spec()) {
            for kind in Kind::ALL {
                for result in ProbeResult::ALL {
                    self.probes.remove(&ProbeLabels::new(pod, unit.name(), kind.title(), result.as_str()));
                }
            }
        }
    }

    /// Counts a question to the runtime and how long its answer takes.
    ///
    /// # Errors
    /// What the work says.
    pub async fn timed<T, E>(&self, operation_type: &'static str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let (begun, label) = (Instant::now(), OperationLabel { operation_type });
        self.operations.get_or_create(&label).inc();
        let result = work.await;
        self.times.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
        if result.is_err() {
            self.failures.get_or_create(&label).inc();
        }
        result
    }
}

// === impl ProbeLabels ===

impl ProbeLabels {
    fn new(pod: &Pod, container: &str, probe_type: &'static str, result: &'static str) -> Self {
        let metadata = pod.metadata();
        let (pod, namespace, pod_uid) = (metadata.name.clone(), metadata.namespace.clone(), metadata.uid.clone());
        Self { probe_type, result, container: container.to_owned(), pod, namespace, pod_uid }
    }
}

// === impl ProbeResult ===

impl ProbeResult {
    const ALL: [Self; 3] = [Self::Successful, Self::Failed, Self::Unknown];

    fn as_str(self) -> &'static str {
        match self {
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::Container;

    use super::*;

    #[tokio::test]
    async fn figures_have_upstreams_names_and_labels() {
        let registry = daemon::Metrics::new();
        let metrics = KubeletMetrics::new(&registry);
        metrics.name_node("n1");
        metrics.set_running(1, 2, 0, 3);
        metrics.container_started(Err("CreateContainerError"));
        metrics.pod_rejected("OutOfcpu");
        assert_eq!(metrics.timed("create_container", async { Err::<(), _>(1) }).await, Err(1));
        let mut pod = Pod::default();
        (pod.metadata_mut().name, pod.metadata_mut().namespace, pod.metadata_mut().uid) = ("web".into(), "ns".into(), "u".into());
        pod.spec_mut().containers.push(Container { name: "c".into(), ..Container::default() });
        metrics.probed(&pod, "c", Kind::Liveness.title(), ProbeResult::Failed);
        let text = registry.encode().unwrap();
        for line in [
            "kubelet_node_name{node=\"n1\"} 1",
            "prober_probe_total{probe_type=\"Liveness\",result=\"failed\",container=\"c\",pod=\"web\",namespace=\"ns\",pod_uid=\"u\"} 1",
            "kubelet_running_pods 1",
            "kubelet_running_containers{container_state=\"exited\"} 3",
            "kubelet_started_containers_errors_total{container_type=\"container\",code=\"CreateContainerError\"} 1",
            "kubelet_admission_rejections_total{reason=\"OutOfcpu\"} 1",
            "kubelet_runtime_operations_total{operation_type=\"create_container\"} 1",
            "kubelet_runtime_operations_errors_total{operation_type=\"create_container\"} 1",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"create_container\"} 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        metrics.forget_probes(&pod);
        assert!(!registry.encode().unwrap().contains("pod_uid"), "of pods that are gone nothing is kept");
    }
}
