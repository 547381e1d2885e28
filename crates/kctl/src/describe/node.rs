//! A node: its condition, what it has, what runs on it and how much of the node that asks for.

use api::{
    Resource as _,
    amounts::{self, Amounts},
    coordination::v1::Lease,
    core::v1::Pod,
    pod, print,
    quantity::Quantity,
};
use client::ListParams;
use jiff::Timestamp;
use serde_json::Value;

use super::{labels_and_annotations, moment, or_none, text::Text};
use crate::{
    Session,
    objects::{self, list, members, text},
};

/// Namespace of the leases that nodes renew.
const LEASES: &str = "kube-node-lease";

/// Describes a node.
///
/// # Errors
/// When its pods cannot be read.
pub async fn describe(session: &Session, out: &mut Text, node: &Value, now: Timestamp) -> anyhow::Result<()> {
    let name = text(node, "/metadata/name");
    out.field(0, "Name", name);
    out.field(0, "Roles", roles(node));
    labels_and_annotations(out, node);
    out.field(0, "CreationTimestamp", moment(text(node, "/metadata/creationTimestamp")));
    out.entries(0, "Taints", list(node, "/spec/taints").iter().map(taint));
    out.field(0, "Unschedulable", (node["spec"]["unschedulable"] == true).to_string());
    lease(session, out, name).await?;
    out.line(0, "Conditions:");
    out.line(1, "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
    out.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    for condition in list(node, "/status/conditions") {
        let time = |pointer| moment(text(condition, pointer));
        out.line(
            1,
            format!(
                "{} \t{} \t{} \t{} \t{} \t{}",
                text(condition, "/type"),
                text(condition, "/status"),
                time("/lastHeartbeatTime"),
                time("/lastTransitionTime"),
                text(condition, "/reason"),
                text(condition, "/message")
            ),
        );
    }
    out.line(0, "Addresses:");
    list(node, "/status/addresses").iter().for_each(|address| out.field(1, text(address, "/type"), text(address, "/address")));
    for (title, pointer) in [("Capacity", "/status/capacity"), ("Allocatable", "/status/allocatable")] {
        out.line(0, format!("{title}:"));
        members(node, pointer).into_iter().for_each(|(name, amount)| out.field(1, name, api::jsonpath::text(amount)));
    }
    out.line(0, "System Info:");
    for (key, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        out.field(1, key, text(node, &format!("/status/nodeInfo/{field}")));
    }
    let ranges: Vec<String> = list(node, "/spec/podCIDRs").iter().map(api::jsonpath::text).collect();
    for (key, value) in [
        ("PodCIDR", text(node, "/spec/podCIDR")),
        ("PodCIDRs", &ranges.join(",")),
        ("ProviderID", text(node, "/spec/providerID")),
    ] {
        if !value.is_empty() {
            out.field(0, key, value);
        }
    }
    let api = session.client()?.all::<Pod>();
    let params = ListParams::default().fields(format!("spec.nodeName={name},status.phase!=Failed,status.phase!=Succeeded"));
    let pods = session.list(&api, &params).await?.items;
    allocated(out, node, &pods, now);
    Ok(())
}

/// The node's sign of life.
async fn lease(session: &Session, out: &mut Text, node: &str) -> anyhow::Result<()> {
    let Some(lease) = objects::get_opt(session, Lease::KIND, LEASES, node).await? else {
        out.field(0, "Lease", "<none>");
        return Ok(());
    };
    let lease = match objects::to_value(&lease) {
        Ok(lease) => lease,
        Err(error) => {
            out.field(0, "Lease", format!("<{error:#}>"));
            return Ok(());
        }
    };
    out.line(0, "Lease:");
    out.field(1, "HolderIdentity", or_unset(text(&lease, "/spec/holderIdentity")));
    for (key, pointer) in [("AcquireTime", "/spec/acquireTime"), ("RenewTime", "/spec/renewTime")] {
        out.field(1, key, or_unset(&moment(text(&lease, pointer))));
    }
    Ok(())
}

fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

fn roles(node: &Value) -> String {
    let prefix = "node-role.kubernetes.io/";
    let labels = members(node, "/metadata/labels");
    let roles: Vec<&str> = labels.iter().filter_map(|(key, _)| key.strip_prefix(prefix)).collect();
    or_none(&roles.join(",")).to_owned()
}

fn taint(taint: &Value) -> String {
    let value = text(taint, "/value");
    let equals = if value.is_empty() { "" } else { "=" };
    format!("{}{equals}{value}:{}", text(taint, "/key"), text(taint, "/effect"))
}

/// The pods on the node, and what they ask for and may use in all.
fn allocated(out: &mut Text, node: &Value, pods: &[Pod], now: Timestamp) {
    let capacity = members(node, "/status/allocatable");
    let whole = |name: &str| {
        let found = capacity.iter().find(|(key, _)| *key == name).and_then(|(_, amount)| amount.as_str());
        found.and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::ZERO)
    };
    let share = |amounts: &Amounts, name: &str| {
        let (part, whole) = (amounts.get(name).copied().unwrap_or(Quantity::ZERO), whole(name));
        // Whole percents, rounded down.
        let percent = (i128::from(part.milli_value()) * 100).checked_div(i128::from(whole.milli_value())).unwrap_or(0);
        format!("{part} ({percent}%)")
    };
    out.line(0, format!("Non-terminated Pods:\t({} in total)", pods.len()));
    out.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    out.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let (mut all_requests, mut all_limits) = (Amounts::new(), Amounts::new());
    for pod in pods {
        let (requests, limits) = (pod::requests(pod.spec()), pod::limits(pod.spec()));
        let shares = [("cpu", &requests), ("cpu", &limits), ("memory", &requests), ("memory", &limits)];
        let shares = shares.map(|(name, amounts)| share(amounts, name)).join("\t");
        let age = print::human_duration(now.duration_since(pod.metadata().creation_timestamp().timestamp()));
        out.line(1, format!("{}\t{}\t\t{shares}\t{age}", pod.namespace(), pod.name()));
        amounts::add(&mut all_requests, &requests);
        amounts::add(&mut all_limits, &limits);
    }
    out.line(0, "Allocated resources:");
    out.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    out.line(1, "Resource\tRequests\tLimits");
    out.line(1, "--------\t--------\t------");
    // Beside CPU and memory, what else the node has that pods can ask for: storage, huge pages, devices.
    let more = capacity.iter().map(|(name, _)| *name).filter(|name| !matches!(*name, "cpu" | "memory" | "pods"));
    for name in ["cpu", "memory"].into_iter().chain(more) {
        out.line(1, format!("{name}\t{}\t{}", share(&all_requests, name), share(&all_limits, name)));
    }
}

#[cfg(test)]
mod tests {
    use api::{
        core::v1::{Container, Node},
        resource::Quantity,
    };

    use super::*;
    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn what_its_pods_ask_for_is_added_up() {
        let bench = Bench::new();
        let amount = |text: &str| Quantity { string: text.to_owned() };
        let mut node: Node = named("n");
        node.status_mut().allocatable = [("cpu".to_owned(), amount("2600m")), ("memory".to_owned(), amount("1Gi"))].into();
        node.spec_mut().pod_cidrs = vec!["10.1.0.0/24".into(), "fd00::/64".into()];
        bench.server.put(node);
        for name in ["a", "b"] {
            let mut pod: Pod = named(name);
            pod.spec_mut().node_name = "n".into();
            let mut container = Container::default();
            container.resources_mut().requests.insert("cpu".into(), amount("250m"));
            container.resources_mut().limits.insert("memory".into(), amount("256Mi"));
            pod.spec_mut().containers.push(container);
            bench.server.put(pod);
        }
        let text = bench.ok("describe node n").await;
        let row = |name: &str| text.lines().rfind(|line| line.trim_start().starts_with(name)).unwrap_or_default().to_owned();
        assert_eq!(row("cpu").split_whitespace().collect::<Vec<_>>(), ["cpu", "500m", "(19%)", "0", "(0%)"], "{text}");
        assert_eq!(row("memory").split_whitespace().collect::<Vec<_>>(), ["memory", "0", "(0%)", "512Mi", "(50%)"], "{text}");
        assert!(text.contains("Non-terminated Pods:") && text.contains("(2 in total)"), "{text}");
        assert!(text.contains("\nLease:") && text.contains("\nPodCIDRs:"), "{text}");
        assert!(text.contains("10.1.0.0/24,fd00::/64\n"), "{text}");
    }
}
