//! `metrics.k8s.io`: what kubelets measure, as NodeMetrics and PodMetrics. Asked of the nodes at each request; nothing is kept.

use std::collections::BTreeMap;

use api::{
    Kind, Resource, StatusError,
    core::v1::Node,
    ferrokube::v1::{StatsRequest, StatsResponse, Usage},
    google::protobuf::Any,
    meta::v1::{Duration, ObjectMeta, Time},
    metrics::v1beta1::{ContainerMetrics, NodeMetrics, PodMetrics},
    quantity,
    resource::Quantity,
};
use futures::{StreamExt, stream};

use super::{Server, objects::not_readable};
use crate::request::Request;

/// How many nodes are asked at the same time.
const PARALLEL: usize = 32;
/// How long a node has to answer.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

impl Server {
    /// The objects of a measured kind that the request is about.
    pub(super) async fn measure(&self, request: &Request) -> Result<Vec<Any>, StatusError> {
        let kind = request.kind;
        let of_nodes = kind == NodeMetrics::KIND;
        if !of_nodes && kind != PodMetrics::KIND {
            return Err(not_readable(kind));
        }
        let nodes: Vec<Node> = match (of_nodes, request.name.as_str()) {
            (true, "") | (false, "") => self.nodes().await?,
            (true, name) => vec![self.node(name).await?],
            (false, name) => vec![self.node_of_pod(&request.namespace, name).await?],
        };
        let measured: Vec<(Node, StatsResponse)> = stream::iter(nodes)
            .map(|node| async move {
                let stats = self.stats(&node, of_nodes).await?;
                Some((node, stats))
            })
            .buffered(PARALLEL)
            .filter_map(|stats| async move { stats })
            .collect()
            .await;
        let mut items = Vec::new();
        for (node, stats) in measured {
            if of_nodes {
                items.extend(stats.node.as_ref().map(|usage| node_metrics(&node, usage)));
                continue;
            }
            let wanted = |p: &&api::ferrokube::v1::PodUsage| {
                let pod = p.pod.clone().unwrap_or_default();
                (request.namespace.is_empty() || pod.namespace == request.namespace)
                    && (request.name.is_empty() || pod.name == request.name)
            };
            items.extend(stats.pods.iter().filter(wanted).map(pod_metrics));
        }
        Ok(items)
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

fn any<K: Resource>(object: &K) -> Any {
    Any { type_url: <K as Resource>::KIND.type_url.to_owned(), value: object.encode_to_vec().into() }
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

fn node_metrics(node: &Node, usage: &Usage) -> Any {
    let (timestamp, window) = window(usage);
    let mut metadata = meta(NodeMetrics::KIND, "", node.name());
    metadata.labels.clone_from(&node.metadata().labels);
    any(&NodeMetrics { metadata: Some(metadata), timestamp, window, usage: amounts(usage) })
}

fn pod_metrics(pod: &api::ferrokube::v1::PodUsage) -> Any {
    let of = pod.pod.clone().unwrap_or_default();
    let first = pod.containers.iter().find_map(|c| c.usage.as_ref());
    let (timestamp, window) = first.map(window).unwrap_or_default();
    let containers =
        pod.containers.iter().filter_map(|c| Some(ContainerMetrics { name: c.name.clone(), usage: amounts(c.usage.as_ref()?) }));
    any(&PodMetrics {
        metadata: Some(meta(PodMetrics::KIND, &of.namespace, &of.name)),
        timestamp,
        window,
        containers: containers.collect(),
    })
}
