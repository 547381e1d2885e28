//! What the kubelet counts: pods and containers that run, and how long pods take to start. Names are upstream's.

use std::{collections::BTreeSet, time::Duration};

use prometheus_client::metrics::{gauge::Gauge, histogram::Histogram};

use crate::runtime::ContainerSummary;

/// The kubelet's metrics. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct KubeletMetrics {
    pods: Gauge,
    containers: Gauge,
    starts: Histogram,
}

// === impl KubeletMetrics ===

impl KubeletMetrics {
    /// Makes the metrics known to `/metrics`.
    pub fn new(metrics: &daemon::Metrics) -> Self {
        let buckets = [0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
        let this = Self { pods: Gauge::default(), containers: Gauge::default(), starts: Histogram::new(buckets) };
        metrics.register(|registry| {
            registry.register(
                "kubelet_running_pods",
                "Pods that have a running sandbox, as of the last sweep",
                this.pods.clone(),
            );
            registry.register("kubelet_running_containers", "Containers that run, as of the last sweep", this.containers.clone());
            let help = "Seconds from when the kubelet first saw a pod until the API server had heard that it is ready";
            registry.register("kubelet_pod_start_duration_seconds", help, this.starts.clone());
        });
        this
    }

    /// What runs now.
    pub fn set_running(&self, containers: &[ContainerSummary]) {
        let running = || containers.iter().filter(|container| container.running);
        let pods: BTreeSet<&str> = running().filter(|c| c.labels.is_sandbox()).map(|c| c.labels.uid.as_str()).collect();
        self.pods.set(pods.len() as i64);
        self.containers.set(running().filter(|container| !container.labels.is_sandbox()).count() as i64);
    }

    /// A pod has become ready for the first time.
    pub fn pod_started(&self, took: Duration) {
        self.starts.observe(took.as_secs_f64());
    }
}
