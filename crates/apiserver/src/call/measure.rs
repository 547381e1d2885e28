//! `metrics.k8s.io`: what kubelets measure, as NodeMetrics and PodMetrics. Asked of the nodes at each request, which have them at hand;
//! nothing is kept here.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    Kind, Resource, StatusError,
    core::v1::{Node, Pod},
    ferrokube::v1::{PodUsage, StatsRequest, StatsResponse, Usage},
    meta::v1::{Duration, ObjectMeta, Time},
    metrics::v1beta1::{ContainerMetrics, NodeMetrics, PodMetrics},
    quantity,
    resource::Quantity,
    status::Reason,
};
use futures::{StreamExt, stream};
use store::ReadAt;

use super::Server;
use crate::{
    pipeline::{Selectors, Stored},
    reader::Reader,
    request::Request,
};

/// How many nodes are asked at the same time.
const PARALLEL: usize = 32;
/// How long a node has to answer.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

impl Server {
    /// The objects of a measured kind that the request is about: of the nodes, or the pods, that the selectors select.
    pub(super) async fn measure(&self, request: &Request, selectors: &Selectors) -> Result<Vec<Stored>, StatusError> {
        let kind = &request.kind;
        if *kind == NodeMetrics::KIND {
            let nodes = self.selected::<Node>(request, selectors).await?;
            let measured = self.measured(nodes, true).await;
            return Ok(measured.iter().filter_map(|(node, stats)| Some(node_metrics(node, stats.node.as_ref()?))).collect());
        }
        if *kind != PodMetrics::KIND {
            let message = format!("{} can only be created", kind.qualified_plural());
            return Err(StatusError::new(Reason::MethodNotAllowed, message));
        }
        let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
        for pod in self.selected::<Pod>(request, selectors).await? {
            pods.insert(pod.metadata().uid.clone(), pod);
        }
        let hosts: BTreeSet<&str> = pods.values().map(|pod| pod.spec().node_name.as_str()).collect();
        let nodes = match pods.is_empty() {
            true => Vec::new(),
            false => Reader::<Node>::new(self.pipeline.store()).list("", ReadAt::Any).await?,
        };
        let nodes = nodes.into_iter().map(|found| found.object).filter(|node| hosts.contains(node.name())).collect();
        let measured = self.measured(nodes, false).await;
        let figures = measured.iter().flat_map(|(_, stats)| &stats.pods);
        Ok(figures.filter_map(|figures| Some(pod_metrics(pods.get(&figures.pod.as_ref()?.uid)?, figures))).collect())
    }

    /// The stored objects that a request for their figures selects, as this server has heard of them.
    async fn selected<K: Resource>(&self, request: &Request, selectors: &Selectors) -> Result<Vec<K>, StatusError> {
        let reader = Reader::<K>::new(self.pipeline.store());
        let selection = match request.name.as_str() {
            "" => selectors.selection(K::KIND, reader.collection()?.layout(), &request.namespace)?,
            name => store::Selection::object(&request.namespace, name),
        };
        Ok(reader.select(&selection, ReadAt::Any).await?.into_iter().map(|found| found.object).collect())
    }

    /// Asks the nodes, several at a time.
    async fn measured(&self, nodes: Vec<Node>, node_only: bool) -> Vec<(Node, StatsResponse)> {
        stream::iter(nodes)
            .map(|node| async move {
                let stats = self.stats(&node, node_only).await?;
                Some((node, stats))
            })
            .buffered(PARALLEL)
            .filter_map(|stats| async move { stats })
            .collect()
            .await
    }

    /// What a node measures; nothing if it does not answer, since the others' figures are of use without it.
    async fn stats(&self, node: &Node, node_only: bool) -> Option<StatsResponse> {
        let asked = async { self.kubelets.client(node)?.stats(StatsRequest { node_only }).await.map_err(StatusError::from) };
        match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(Ok(response)) => Some(response.into_inner()),
            Ok(Err(error)) => {
                tracing::debug!(node = node.name(), %error, "no figures");
                None
            }
            Err(_) => {
                tracing::debug!(node = node.name(), "no figures in time");
                None
            }
        }
    }
}

fn stored<K: Resource>(object: &K) -> Stored {
    Stored { kind: K::HANDLE.clone(), bytes: object.encode_to_vec().into() }
}

fn meta(kind: &Kind, namespace: &str, name: &str) -> ObjectMeta {
    debug_assert_eq!(kind.namespaced, !namespace.is_empty());
    ObjectMeta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        creation_timestamp: Some(Time::now()),
        ..ObjectMeta::default()
    }
}

fn window(usage: &Usage) -> (Option<Time>, Option<Duration>) {
    let time = usage.time.as_ref().map(|t| Time { seconds: t.seconds, nanos: 0 });
    (time, Some(Duration { duration: usage.window_millis.saturating_mul(1_000_000) }))
}

fn amounts(usage: &Usage) -> BTreeMap<String, Quantity> {
    let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let cpu = quantity::Quantity::from_nanos(signed(usage.cpu_nanocores));
    let memory = quantity::Quantity::from_bytes(signed(usage.memory_working_set_bytes));
    BTreeMap::from([
        ("cpu".to_owned(), Quantity { string: cpu.to_string() }),
        ("memory".to_owned(), Quantity { string: memory.to_string() }),
    ])
}

fn node_metrics(node: &Node, usage: &Usage) -> Stored {
    let (timestamp, window) = window(usage);
    let mut metadata = meta(NodeMetrics::KIND, "", node.name());
    metadata.labels.clone_from(&node.metadata().labels);
    stored(&NodeMetrics { metadata: Some(metadata), timestamp, window, usage: amounts(usage) })
}

fn pod_metrics(pod: &Pod, figures: &PodUsage) -> Stored {
    let first = figures.containers.iter().find_map(|c| c.usage.as_ref());
    let (timestamp, window) = first.map(window).unwrap_or_default();
    let containers = figures
        .containers
        .iter()
        .filter_map(|c| Some(ContainerMetrics { name: c.name.clone(), usage: amounts(c.usage.as_ref()?) }))
        .collect();
    let mut metadata = meta(PodMetrics::KIND, pod.namespace(), pod.name());
    metadata.labels.clone_from(&pod.metadata().labels);
    stored(&PodMetrics { metadata: Some(metadata), timestamp, window, containers })
}
