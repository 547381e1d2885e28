//! The probes of one pod's containers: which should run now, and which do.

use std::{collections::BTreeMap, sync::Arc};

use api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{
    Context,
    probe::{Kind, Prober, Report},
    state::{Memory, Observed},
    unit::{Unit, units},
};
use crate::runtime::ContainerId;

/// Reports that wait for the pod's task.
const REPORTS: usize = 16;

/// The running probes; dropping it ends them.
pub(super) struct Probing {
    tasks: BTreeMap<(ContainerId, Kind), AbortOnDropHandle<()>>,
    sender: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
}

// === impl Probing ===

impl Probing {
    pub(super) fn new() -> Self {
        let (sender, reports) = mpsc::channel(REPORTS);
        Self { tasks: BTreeMap::new(), sender, reports }
    }

    /// The next report; waits for ever if no probe has anything to say.
    pub(super) async fn next(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// Starts the probes that should run and ends the others.
    pub(super) fn sync(&mut self, ctx: &Arc<Context>, pod: &Arc<Pod>, observed: &Observed, memory: &Memory, wanted: bool) {
        let mut keep = Vec::new();
        for unit in units(pod.spec()).filter(Unit::stays) {
            let spec = &*unit.spec;
            let Some(container) = observed.newest(unit.name()).filter(|container| container.is_running() && wanted) else {
                continue;
            };
            let kinds: &[Kind] =
                if memory.health(spec, container).0 { &[Kind::Liveness, Kind::Readiness] } else { &[Kind::Startup] };
            for kind in kinds.iter().copied().filter(|kind| kind.of(spec).is_some()) {
                let key = (container.id.clone(), kind);
                keep.push(key.clone());
                self.tasks.entry(key).or_insert_with(|| {
                    let address = if pod.spec().host_network {
                        ctx.node.address.clone()
                    } else {
                        observed.addresses.primary().map(|address| address.to_string()).unwrap_or_default()
                    };
                    let prober = Prober {
                        runtime: ctx.runtime.clone(),
                        cluster: ctx.cluster.clone(),
                        metrics: ctx.metrics.clone(),
                        pod: pod.clone(),
                        spec: spec.clone(),
                        id: container.id.clone(),
                        started_at: container.started_at.unwrap_or(container.created_at),
                        address,
                        kind,
                    };
                    AbortOnDropHandle::new(tokio::spawn(prober.run(self.sender.clone()).in_current_span()))
                });
            }
        }
        self.tasks.retain(|key, _| keep.contains(key));
    }
}
