//! Probes: asking a container whether it has started, lives, is ready.
//!
//! Each probe of a container is a task of its own with its own period, so a probe that hangs delays nothing. It says only what changes, past its
//! thresholds; what follows from that is the planner's business.

use std::{sync::Arc, time::Duration};

use api::core::v1::{Container as Spec, HttpGetAction, Pod, Probe};
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::{sync::mpsc, time};

use super::http::{self, Found};
use crate::{
    cluster::{Cluster, PodEvent},
    metrics::{KubeletMetrics, ProbeResult},
    runtime::{ContainerId, ExecSpec, Runtime, exec},
};

/// How much of a probe's output is shown, in bytes.
const OUTPUT_MAX: usize = 1024;

/// What a probe is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Whether the container has started; the others wait for it.
    Startup,
    /// Whether it must be restarted.
    Liveness,
    /// Whether it can serve.
    Readiness,
}

/// A probe's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The container.
    pub container: ContainerId,
    /// Which probe.
    pub kind: Kind,
    /// Its word.
    pub good: bool,
}

/// Why a probe did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// The container is not as it should be.
    Bad(String),
    /// It could not be found out: that says nothing about the container.
    Unknown(String),
}

/// A probe of one incarnation of a container.
pub struct Prober {
    /// The runtime, for exec.
    pub runtime: Arc<dyn Runtime>,
    /// The API server, for events.
    pub cluster: Arc<dyn Cluster>,
    /// Where results are counted.
    pub metrics: KubeletMetrics,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container's spec.
    pub spec: Spec,
    /// The incarnation.
    pub id: ContainerId,
    /// When it was started.
    pub started_at: Timestamp,
    /// The pod's address.
    pub address: String,
    /// Which probe.
    pub kind: Kind,
}

// === impl Kind ===

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The container's probe of that kind.
    pub fn of(self, spec: &Spec) -> Option<&Probe> {
        match self {
            Self::Startup => spec.startup_probe.as_ref(),
            Self::Liveness => spec.liveness_probe.as_ref(),
            Self::Readiness => spec.readiness_probe.as_ref(),
        }
    }

    /// How it is called, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

// === impl Prober ===

impl Prober {
    /// Probes until dropped, or until nothing more can be learnt.
    pub async fn run(self, reports: mpsc::Sender<Report>) {
        let Some(probe) = self.kind.of(&self.spec) else { return };
        let seconds = |given: i32, default: u64| {
            Duration::from_secs(u64::try_from(given).ok().filter(|given| *given > 0).unwrap_or(default))
        };
        let (period, timeout) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
        let running = Timestamp::now().duration_since(self.started_at).unsigned_abs();
        time::sleep(seconds(probe.initial_delay_seconds, 0).saturating_sub(running)).await;
        let mut ticks = time::interval(period);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let (mut last, mut count, mut said) = (None, 0, None);
        loop {
            ticks.tick().await;
            let result = match time::timeout(timeout, self.once(probe)).await {
                Ok(result) => result,
                Err(_) => Err(Failure::Bad(self.timed_out(probe))),
            };
            let (title, known) = (self.kind.title(), !matches!(&result, Err(Failure::Unknown(_))));
            let counted = match &result {
                Ok(_) => ProbeResult::Successful,
                Err(Failure::Bad(_)) => ProbeResult::Failed,
                Err(Failure::Unknown(_)) => ProbeResult::Unknown,
            };
            self.metrics.probed(&self.pod, &self.spec.name, title, counted);
            let news = match &result {
                Ok(Found::Fine) => None,
                Ok(Found::LedAway(output)) => Some(("ProbeWarning", format!("{title} probe warning: {output}"))),
                Err(Failure::Bad(output)) => Some(("Unhealthy", format!("{title} probe failed: {}", output.trim_end()))),
                Err(Failure::Unknown(error)) => {
                    Some(("Unhealthy", format!("{title} probe errored and resulted in unknown state: {error}")))
                }
            };
            if let Some((reason, message)) = news {
                self.cluster.event(&self.pod, PodEvent::warning(reason, message).about(&self.spec.name));
            }
            if !known {
                continue;
            }
            let good = result.is_ok();
            count = if last == Some(good) { count + 1 } else { 1 };
            last = Some(good);
            let threshold = if good {
                probe.success_threshold.max(1)
            } else {
                if probe.failure_threshold > 0 { probe.failure_threshold } else { 3 }
            };
            if count < threshold || said == Some(good) {
                continue;
            }
            said = Some(good);
            let report = Report { container: self.id.clone(), kind: self.kind, good };
            if reports.send(report).await.is_err() {
                return;
            }
            // The container has started once and for all, or is about to be killed.
            if self.kind == Kind::Startup || (self.kind == Kind::Liveness && !good) {
                return;
            }
        }
    }

    /// What a probe that took too long says.
    fn timed_out(&self, probe: &Probe) -> String {
        let handler = probe.handler();
        if handler.exec.is_some() {
            return format!("command {:?} timed out", handler.exec().command.join(" "));
        }
        match &handler.http_get {
            Some(get) => {
                let url = self.url(get).unwrap_or_default();
                format!("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
            }
            None => "dial tcp: i/o timeout".to_owned(),
        }
    }

    /// Probes once.
    async fn once(&self, probe: &Probe) -> Result<Found, Failure> {
        let handler = probe.handler();
        if let Some(exec) = &handler.exec {
            return self.exec(exec.command.clone()).await.map(|()| Found::Fine);
        }
        if let Some(get) = &handler.http_get {
            let url = self.url(get).map_err(Failure::Unknown)?;
            return http::get(&url, &get.http_headers).await.map_err(Failure::Bad);
        }
        if let Some(tcp) = &handler.tcp_socket {
            let host = if tcp.host.is_empty() { &self.address } else { &tcp.host };
            let port = self.port(tcp.port()).map_err(Failure::Unknown)?;
            return http::connect(host, port).await.map(|_| Found::Fine).map_err(Failure::Bad);
        }
        // gRPC probes have their place here; pods that have one are refused.
        Err(Failure::Unknown("this kind of probe is not supported by this kubelet yet".to_owned()))
    }

    /// Runs a command, which does not outlive the call: what hangs would be joined by another every period.
    async fn exec(&self, command: Vec<String>) -> Result<(), Failure> {
        // An engine that does not answer, as while it is restarted, is not the container's fault.
        let failed = |error: crate::runtime::Error| Failure::Unknown(error.to_string());
        let spec = ExecSpec { command, ..ExecSpec::default() };
        let (session, mut begun) =
            exec::begin(self.runtime.clone(), self.id.clone(), spec, Duration::ZERO).await.map_err(failed)?;
        let (mut stream, mut output) = (session.output, Vec::new());
        while let Some(chunk) = stream.next().await {
            let bytes = chunk.map_err(failed)?.into_bytes();
            let room = OUTPUT_MAX.saturating_sub(output.len());
            output.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        let code = self.runtime.exec_exit_code(&session.id).await.map_err(failed)?;
        begun.has_ended();
        match code {
            Some(0) => Ok(()),
            _ => Err(Failure::Bad(String::from_utf8_lossy(&output).into_owned())),
        }
    }

    fn url(&self, get: &HttpGetAction) -> Result<String, String> {
        let host = if get.host.is_empty() { &self.address } else { &get.host };
        let host = if host.contains(':') { format!("[{}]", host.trim_matches(['[', ']'])) } else { host.clone() };
        let port = self.port(get.port())?;
        let scheme = if get.scheme.eq_ignore_ascii_case("https") { "https" } else { "http" };
        let slash = if get.path.starts_with('/') { "" } else { "/" };
        Ok(format!("{scheme}://{host}:{port}{slash}{}", get.path))
    }

    fn port(&self, port: &api::intstr::IntOrString) -> Result<u16, String> {
        let number = match port.as_int() {
            Some(number) => number,
            None => {
                let named = self.spec.ports.iter().find(|named| named.name == port.str_val);
                named.map(|named| named.container_port).ok_or_else(|| format!("couldn't find port: {port}"))?
            }
        };
        u16::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| format!("invalid port number: {number}"))
    }
}
