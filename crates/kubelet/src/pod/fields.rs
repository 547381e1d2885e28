//! What a pod may learn about itself: the fields of `fieldRef` and `resourceFieldRef`, for environment and files alike.

use std::collections::BTreeMap;

use api::{
    core::v1::{Container, Pod, ResourceFieldSelector},
    quantity::{self, Quantity},
};

/// What pods are told about the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Name of the node.
    pub name: String,
    /// Address of the node.
    pub address: String,
    /// Thousandths of a core that pods may use.
    pub cpu_milli: i64,
    /// Bytes of memory that pods may use.
    pub memory: i64,
    /// Bytes of local storage that pods may use.
    pub storage: i64,
    /// The lowest OOM score adjustment that can be given on this host.
    pub oom_score_floor: i64,
    /// Whether the kernel confines programs by AppArmor profiles.
    pub app_armor: bool,
}

/// A field that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// There is no such field for pods.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// There is no such resource.
    #[error("unsupported container resource: {0}")]
    Resource(String),
    /// There is no such container.
    #[error("container {0} not found")]
    NoContainer(String),
    /// The divisor is no positive quantity.
    #[error("invalid divisor {0:?}")]
    Divisor(String),
}

/// The value of a `fieldRef`. Fields that are not known yet (the pod's address before it has one) are empty.
///
/// # Errors
/// When there is no such field.
pub fn pod_field(pod: &Pod, path: &str, node: &NodeFacts) -> Result<String, FieldError> {
    let (metadata, spec, status) = (pod.metadata(), pod.spec(), pod.status());
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(FieldError::Field(path.to_owned())),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => lines(&metadata.labels),
        "metadata.annotations" => lines(&metadata.annotations),
        "spec.nodeName" => node.name.clone(),
        "spec.serviceAccountName" => spec.service_account_name.clone(),
        "status.hostIP" | "status.hostIPs" => node.address.clone(),
        "status.podIP" => status.pod_ip.clone(),
        "status.podIPs" => status.pod_ips.iter().map(|ip| ip.ip.as_str()).collect::<Vec<_>>().join(","),
        _ => return Err(FieldError::Field(path.to_owned())),
    })
}

/// Whether a `fieldRef` needs the pod's address, so that the network must be up first.
pub fn needs_address(path: &str) -> bool {
    path.starts_with("status.podIP")
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up. A limit that is not set is what the node has.
///
/// # Errors
/// When there is no such resource, or the divisor is none.
pub fn resource_field(container: &Container, selector: &ResourceFieldSelector, node: &NodeFacts) -> Result<String, FieldError> {
    let unknown = || FieldError::Resource(selector.resource.clone());
    let (which, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources();
    let fallback = match name {
        "cpu" => Quantity::from_milli(node.cpu_milli),
        "memory" => Quantity::from_bytes(node.memory),
        "ephemeral-storage" => Quantity::from_bytes(node.storage),
        _ => return Err(unknown()),
    };
    let value = match which {
        "limits" => quantity::get(&resources.limits, name).unwrap_or(fallback),
        "requests" => quantity::get(&resources.requests, name).unwrap_or(Quantity::from_value(0)),
        _ => return Err(unknown()),
    };
    let divisor = match &selector.divisor {
        Some(divisor) if !matches!(divisor.string.as_str(), "" | "0") => {
            Quantity::try_from(divisor).map_err(|_| FieldError::Divisor(divisor.string.clone()))?
        }
        _ => Quantity::from_value(1),
    };
    let bad = || FieldError::Divisor(selector.divisor().string.clone());
    // CPU divides in thousandths, bytes would overflow there.
    let (value, divisor) =
        if name == "cpu" { (value.milli_value(), divisor.milli_value()) } else { (value.value(), divisor.value()) };
    if divisor <= 0 {
        return Err(bad());
    }
    Ok(((i128::from(value) + i128::from(divisor) - 1) / i128::from(divisor)).to_string())
}

/// Splits `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as lines of `key="escaped value"`.
fn lines(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("{key}={value:?}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_learns_its_name_labels_and_address() {
        let mut pod = Pod::default();
        pod.metadata_mut().name = "web".into();
        pod.metadata_mut().labels = BTreeMap::from([("app".into(), "a\"b".into()), ("tier".into(), "x".into())]);
        pod.status_mut().pod_ip = "10.0.0.9".into();
        let node = NodeFacts { name: "n1".into(), ..NodeFacts::default() };
        let field = |path| pod_field(&pod, path, &node);
        assert_eq!(field("metadata.name").unwrap(), "web");
        assert_eq!(field("metadata.labels['tier']").unwrap(), "x");
        assert_eq!(field("metadata.labels").unwrap(), "app=\"a\\\"b\"\ntier=\"x\"");
        assert_eq!(field("status.podIP").unwrap(), "10.0.0.9");
        assert_eq!(field("spec.nodeName").unwrap(), "n1");
        assert_eq!(field("spec.secret"), Err(FieldError::Field("spec.secret".into())));
    }

    #[test]
    fn resources_are_rounded_up_in_units_of_the_divisor() {
        let mut container = Container::default();
        container.resources_mut().limits.insert("cpu".into(), Quantity::from_milli(1500).into());
        container.resources_mut().requests.insert("memory".into(), Quantity::from_bytes(100 << 20).into());
        let node = NodeFacts { memory: 8 << 30, ..NodeFacts::default() };
        let field = |resource: &str, divisor: &str| {
            let mut selector = ResourceFieldSelector { resource: resource.into(), ..Default::default() };
            selector.divisor_mut().string = divisor.into();
            resource_field(&container, &selector, &node)
        };
        assert_eq!(field("limits.cpu", "0").unwrap(), "2");
        assert_eq!(field("limits.cpu", "1m").unwrap(), "1500");
        assert_eq!(field("requests.memory", "1Mi").unwrap(), "100");
        assert_eq!(field("limits.memory", "1Gi").unwrap(), "8", "the node's memory when there is no limit");
        assert!(field("limits.gpu", "1").is_err() && field("cpu", "1").is_err());
    }
}
