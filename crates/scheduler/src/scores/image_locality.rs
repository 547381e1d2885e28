//! Prefers nodes that have the pod's images already.

use crate::{cluster::Cluster, node::NodeInfo, plugin::Score, pod::PodInfo};

/// Images smaller than this count for nothing, in bytes.
const MIN: i64 = 23 << 20;
/// Images larger than this, per container, count no more, in bytes.
const MAX_PER_CONTAINER: i64 = 1000 << 20;

/// The bytes of the pod's images that are there, each less the fewer nodes have it.
pub struct ImageLocality;

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, cluster: &Cluster, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let spec = pod.pod.spec();
        let images: Vec<String> = spec.containers.iter().chain(&spec.init_containers).map(|c| normalized(&c.image)).collect();
        let total = i64::try_from(cluster.node_count()).ok().filter(|n| *n > 0)?;
        let having = |image: &String| i64::try_from(cluster.nodes_with_image(image)).unwrap_or(i64::MAX);
        let spread: Vec<i64> = images.iter().map(having).collect();
        if spread.iter().all(|n| *n == 0) {
            return None;
        }
        let max = MAX_PER_CONTAINER * i64::try_from(images.len()).ok()?;
        let of = |node: &&NodeInfo| {
            let here =
                |(image, nodes): (&String, &i64)| node.images.get(image).map_or(0, |size| size.saturating_mul(*nodes) / total);
            let sum = images.iter().zip(&spread).map(here).fold(0, i64::saturating_add);
            (sum.clamp(MIN, max) - MIN) * 100 / (max - MIN)
        };
        Some(nodes.iter().map(of).collect())
    }
}

/// The name with a tag, as nodes report it.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}
