//! A node: its condition, what it has, what runs on it and how much of the node that asks for.

use api::{
    Resource as _,
    coordination::v1::Lease,
    core::v1::{Container, Pod},
    print,
    quantity::{self, Quantity},
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

/// What pods ask for and may use of one resource.
#[derive(Clone, Copy)]
struct Asked {
    requests: Quantity,
    limits: Quantity,
}

impl Asked {
    fn plus(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, limits: self.limits + other.limits }
    }
}

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
    for (key, pointer) in [("PodCIDR", "/spec/podCIDR"), ("ProviderID", "/spec/providerID")] {
        if !text(node, pointer).is_empty() {
            out.field(0, key, text(node, pointer));
        }
    }
    let api = session.client()?.all::<Pod>();
    let params = ListParams::default().fields(format!("spec.nodeName={name},status.phase!=Failed,status.phase!=Succeeded"));
    let pods = session.shown("reading the node's pods", api.list(&params)).await?.items;
    allocated(out, node, &pods, now);
    Ok(())
}

/// The node's sign of life.
async fn lease(session: &Session, out: &mut Text, node: &str) -> anyhow::Result<()> {
    let Some(lease) = objects::get_opt(session, Lease::KIND, LEASES, node).await? else {
        out.field(0, "Lease", "<none>");
        return Ok(());
    };
    let lease = objects::to_value(&lease)?;
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

fn allocated(out: &mut Text, node: &Value, pods: &[Pod], now: Timestamp) {
    let capacity = |name: &str| {
        let found = node.pointer("/status/allocatable").and_then(|all| all.get(name)).and_then(Value::as_str);
        found.and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::ZERO)
    };
    let (all_cpu, all_memory) = (capacity("cpu"), capacity("memory"));
    // What a node has beside CPU and memory that pods can ask for: storage, huge pages, devices.
    let more = members(node, "/status/allocatable").into_iter().map(|(name, _)| name);
    let more: Vec<&str> = more.filter(|name| !matches!(*name, "cpu" | "memory" | "pods")).collect();
    out.line(0, format!("Non-terminated Pods:\t({} in total)", pods.len()));
    out.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    out.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let share = |part: Quantity, whole: Quantity| {
        let percent = if whole.is_zero() { 0.0 } else { part.to_f64() * 100.0 / whole.to_f64() };
        format!("{part} ({percent:.0}%)")
    };
    let zero = Asked { requests: Quantity::ZERO, limits: Quantity::ZERO };
    let (mut cpu_sum, mut memory_sum) = (zero, zero);
    for pod in pods {
        let (cpu, memory) = (asked(pod, "cpu"), asked(pod, "memory"));
        (cpu_sum, memory_sum) = (cpu_sum.plus(cpu), memory_sum.plus(memory));
        let created = pod.metadata().creation_timestamp().timestamp();
        out.line(
            1,
            format!(
                "{}\t{}\t\t{}\t{}\t{}\t{}\t{}",
                pod.namespace(),
                pod.name(),
                share(cpu.requests, all_cpu),
                share(cpu.limits, all_cpu),
                share(memory.requests, all_memory),
                share(memory.limits, all_memory),
                print::human_duration(now.duration_since(created))
            ),
        );
    }
    out.line(0, "Allocated resources:");
    out.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    out.line(1, "Resource\tRequests\tLimits");
    out.line(1, "--------\t--------\t------");
    out.line(1, format!("cpu\t{}\t{}", share(cpu_sum.requests, all_cpu), share(cpu_sum.limits, all_cpu)));
    out.line(1, format!("memory\t{}\t{}", share(memory_sum.requests, all_memory), share(memory_sum.limits, all_memory)));
    for name in more {
        let sum = pods.iter().map(|pod| asked(pod, name)).fold(zero, |sum, pod| sum.plus(pod));
        out.line(1, format!("{name}\t{}\t{}", share(sum.requests, capacity(name)), share(sum.limits, capacity(name))));
    }
}

/// What a pod asks for: the sum of its containers.
fn asked(pod: &Pod, resource: &str) -> Asked {
    let sum = |of: fn(&Container) -> &std::collections::BTreeMap<String, api::resource::Quantity>| {
        let amounts = pod.spec().containers.iter().filter_map(|container| quantity::get(of(container), resource));
        amounts.fold(Quantity::ZERO, |sum, amount| sum + amount)
    };
    Asked { requests: sum(|container| &container.resources().requests), limits: sum(|container| &container.resources().limits) }
}
