//! The metrics registry, and what the kernel knows of the process.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

/// Where metrics are registered, and from which `/metrics` is served. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
struct Process {
    start_seconds: f64,
}

/// One reading of `/proc/self`.
#[derive(Debug, Default)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    open_fds: u64,
    threads: u64,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry that holds the process's own metrics.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let build = [("git_version", format!("v{}", crate::VERSION)), ("platform", crate::platform())];
        registry.register("ferrokube_build", "What this program was built from; always 1", Info::new(Vec::from(build)));
        registry.register_collector(Box::new(Process { start_seconds: start_seconds() }));
        Self { registry: Arc::new(Mutex::new(registry)) }
    }

    /// Registers metrics. `register` must be short: scrapes wait for it.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock())
    }

    /// All metrics in OpenMetrics text.
    ///
    /// # Errors
    /// When a collector fails to encode itself.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

// === impl Process ===

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let usage = Usage::read();
        let cpu = ConstCounter::new(usage.cpu_seconds);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "User and system CPU time spent.",
            None,
            MetricType::Counter,
        )?)?;
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory.", usage.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory.", usage.virtual_bytes),
            ("process_open_fds", "Open file descriptors.", usage.open_fds),
            ("process_threads", "Threads.", usage.threads),
        ];
        for (name, help, value) in gauges {
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        ConstGauge::new(self.start_seconds).encode(encoder.encode_descriptor(
            "process_start_time_seconds",
            "Start of the process since the Unix epoch.",
            None,
            MetricType::Gauge,
        )?)
    }
}

// === impl Usage ===

impl Usage {
    fn read() -> Self {
        let mut usage = Self::default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for line in status.lines() {
            let (name, value) = line.split_once(':').unwrap_or_default();
            let number = value.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
            match name {
                "VmRSS" => usage.resident_bytes = number * 1024,
                "VmSize" => usage.virtual_bytes = number * 1024,
                "Threads" => usage.threads = number,
                _ => {}
            }
        }
        usage.open_fds = std::fs::read_dir("/proc/self/fd").map(|entries| entries.count() as u64).unwrap_or_default();
        if let Ok(rusage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) {
            let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            usage.cpu_seconds = seconds(rusage.user_time()) + seconds(rusage.system_time());
        }
        usage
    }
}

/// When the process registered its metrics, which is when it started but for a few milliseconds.
fn start_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn the_process_reports_itself_beside_registered_metrics() {
        let metrics = Metrics::new();
        let counter = Counter::<u64>::default();
        metrics.register(|registry| registry.register("pods_bound", "Pods bound", counter.clone()));
        counter.inc();
        let text = metrics.encode().unwrap();
        assert!(text.contains("pods_bound_total 1"), "{text}");
        let resident = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
        assert!(resident.parse::<u64>().unwrap() > 100_000);
        let build = format!("ferrokube_build_info{{git_version=\"v{}\",platform=\"{}\"}} 1", crate::VERSION, crate::platform());
        assert!(text.contains(&build), "{build} in {text}");
        for name in ["process_cpu_seconds_total", "process_open_fds", "process_start_time_seconds"] {
            assert!(text.contains(name), "{name} in {text}");
        }
    }
}
