//! `kctl top`

use std::collections::BTreeMap;

use anyhow::Context as _;
use api::{
    Resource as _,
    core::v1::Node,
    metrics::v1beta1::{NodeMetrics, PodMetrics},
    quantity::{self, Quantity},
};
use clap::Subcommand;
use client::ListParams;

use crate::{Session, output::Table};

/// Show how much CPU and memory nodes and pods use
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl top nodes
  kctl top pods -A --sort-by=memory
  kctl top pod web --containers")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Nodes
    #[command(
        visible_alias = "nodes",
        alias = "no",
        after_help = "Examples:
  kctl top node
  kctl top node node-1
  kctl top node --sort-by=cpu"
    )]
    Node(TopNodeArgs),
    /// Pods
    #[command(
        visible_alias = "pods",
        alias = "po",
        after_help = "Examples:
  kctl top pod
  kctl top pod web --containers
  kctl top pod -A --sort-by=memory --sum"
    )]
    Pod(TopPodArgs),
}

/// Flags of both.
#[derive(Debug, clap::Args)]
struct TopArgs {
    /// Only this one
    #[arg(value_name = "NAME", conflicts_with = "selector")]
    name: Option<String>,
    /// Only those with these labels
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    selector: String,
    /// Order by cpu or memory, largest first
    #[arg(long, value_name = "WHAT", value_parser = ["cpu", "memory"])]
    sort_by: Option<String>,
    /// No heading
    #[arg(long)]
    no_headers: bool,
    /// Taken for kubectl's sake
    #[arg(long, hide = true)]
    use_protocol_buffers: bool,
}

#[derive(Debug, clap::Args)]
struct TopNodeArgs {
    #[command(flatten)]
    common: TopArgs,
    /// Percents of what the nodes have, not of what pods may have of it
    #[arg(long)]
    show_capacity: bool,
}

#[derive(Debug, clap::Args)]
struct TopPodArgs {
    #[command(flatten)]
    common: TopArgs,
    /// Only pods whose fields match
    #[arg(long, value_name = "FIELDS", default_value = "", hide_default_value = true, conflicts_with = "name")]
    field_selector: String,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Each container on its own
    #[arg(long)]
    containers: bool,
    /// Also the sum
    #[arg(long)]
    sum: bool,
}

/// Use of CPU and memory.
#[derive(Clone, Copy)]
struct Use {
    cpu: Quantity,
    memory: Quantity,
}

impl Use {
    const NONE: Self = Self { cpu: Quantity::ZERO, memory: Quantity::ZERO };

    fn of(usage: &BTreeMap<String, api::resource::Quantity>) -> Self {
        let amount = |name| quantity::get(usage, name).unwrap_or(Quantity::ZERO);
        Self { cpu: amount("cpu"), memory: amount("memory") }
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }

    /// Thousandths of a core.
    fn cpu_text(self) -> String {
        format!("{}m", self.cpu.milli_value())
    }

    /// Whole mebibytes.
    fn memory_text(self) -> String {
        format!("{}Mi", self.memory.value() / (1 << 20))
    }

    /// The larger one first, unless order is by name.
    fn order(self, other: Self, by: Option<&str>) -> std::cmp::Ordering {
        match by {
            Some("cpu") => other.cpu.cmp(&self.cpu),
            Some(_) => other.memory.cmp(&self.memory),
            None => std::cmp::Ordering::Equal,
        }
    }
}

impl TopArgs {
    fn params(&self) -> anyhow::Result<ListParams> {
        api::selector::Selector::parse(&self.selector)?;
        let params = ListParams::default().labels(&*self.selector);
        Ok(match &self.name {
            Some(name) => params.fields(format!("metadata.name={name}")),
            None => params,
        })
    }

    fn table(&self, heading: &[&str]) -> Table {
        if self.no_headers { Table::default() } else { Table::new(heading) }
    }
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Node(args) => nodes(session, &args.common, args.show_capacity).await,
        What::Pod(args) => pods(session, &args).await,
    }
}

async fn nodes(session: &Session, args: &TopArgs, capacity: bool) -> anyhow::Result<()> {
    let client = session.client()?;
    let metrics = client.all::<NodeMetrics>();
    let mut found: Vec<NodeMetrics> = match &args.name {
        Some(name) => vec![session.shown("reading metrics", metrics.get(name)).await.context("metrics not available")?],
        None => session.list(&metrics, &args.params()?).await.context("metrics not available")?.items,
    };
    let nodes = session.list(&client.all::<Node>(), &args.params()?).await?.items;
    let by = args.sort_by.as_deref();
    found.sort_by(|a, b| Use::of(&a.usage).order(Use::of(&b.usage), by).then_with(|| a.name().cmp(b.name())));
    let mut table = args.table(&["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]);
    for metrics in &found {
        let usage = Use::of(&metrics.usage);
        let all = |node: &Node| Use::of(if capacity { &node.status().capacity } else { &node.status().allocatable });
        let allocatable = nodes.iter().find(|node| node.name() == metrics.name()).map(all);
        let percent = |part: Quantity, whole: Option<Quantity>| match whole {
            Some(whole) if !whole.is_zero() => format!("{:.0}%", (part.to_f64() * 100.0 / whole.to_f64()).floor()),
            _ => "<unknown>".to_owned(),
        };
        table.push([
            metrics.name(),
            &usage.cpu_text(),
            &percent(usage.cpu, allocatable.map(|all| all.cpu)),
            &usage.memory_text(),
            &percent(usage.memory, allocatable.map(|all| all.memory)),
        ]);
    }
    // Nodes that answer nothing are there too.
    for node in nodes.iter().filter(|node| !found.iter().any(|metrics| metrics.name() == node.name())) {
        table.push([node.name(), "<unknown>", "<unknown>", "<unknown>", "<unknown>"]);
    }
    session.console.print(table.take())?;
    Ok(())
}

async fn pods(session: &Session, args: &TopPodArgs) -> anyhow::Result<()> {
    let namespace = if args.all_namespaces { String::new() } else { session.namespace()? };
    let api = session.client()?.namespaced::<PodMetrics>(&namespace);
    let mut found: Vec<PodMetrics> = match &args.common.name {
        Some(name) => vec![session.shown("reading metrics", api.get(name)).await.context("metrics not available")?],
        None => {
            api::selector::FieldSelector::parse(&args.field_selector)?;
            let params = args.common.params()?.fields(&*args.field_selector);
            session.list(&api, &params).await.context("metrics not available")?.items
        }
    };
    if found.is_empty() {
        match namespace.as_str() {
            "" => session.console.note("No resources found"),
            namespace => session.console.note(format!("No resources found in {namespace} namespace.")),
        }
        return Ok(());
    }
    let total = |pod: &PodMetrics| pod.containers.iter().fold(Use::NONE, |sum, container| sum.plus(Use::of(&container.usage)));
    let (by, place) = (args.common.sort_by.as_deref(), |pod: &PodMetrics| (pod.namespace().to_owned(), pod.name().to_owned()));
    found.sort_by(|a, b| total(a).order(total(b), by).then_with(|| place(a).cmp(&place(b))));
    let mut heading = Vec::new();
    heading.extend(args.all_namespaces.then_some("NAMESPACE"));
    heading.extend(args.containers.then_some("POD"));
    heading.extend(["NAME", "CPU(cores)", "MEMORY(bytes)"]);
    let mut table = args.common.table(&heading);
    let mut sum = Use::NONE;
    for pod in &found {
        sum = sum.plus(total(pod));
        let mut row = |container: Option<&str>, usage: Use| {
            let mut cells = Vec::new();
            cells.extend(args.all_namespaces.then(|| pod.namespace().to_owned()));
            cells.push(pod.name().to_owned());
            cells.extend(container.map(str::to_owned));
            cells.extend([usage.cpu_text(), usage.memory_text()]);
            table.push(cells);
        };
        if args.containers {
            pod.containers.iter().for_each(|container| row(Some(&container.name), Use::of(&container.usage)));
        } else {
            row(None, total(pod));
        }
    }
    if args.sum {
        let empty = heading.len() - 2;
        let mut line = vec![String::new(); empty];
        line.extend(["________".to_owned(), "________".to_owned()]);
        table.push(&line);
        line.truncate(empty);
        line.extend([sum.cpu_text(), sum.memory_text()]);
        table.push(&line);
    }
    session.console.print(table.take())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::{
        core::v1::Node,
        metrics::v1beta1::{ContainerMetrics, NodeMetrics, PodMetrics},
        resource::Quantity,
    };

    use crate::testing::{Bench, named};

    fn usage(cpu: &str, memory: &str) -> std::collections::BTreeMap<String, Quantity> {
        let amount = |string: &str| Quantity { string: string.to_owned() };
        [("cpu".to_owned(), amount(cpu)), ("memory".to_owned(), amount(memory))].into()
    }

    #[tokio::test]
    async fn use_is_shown_in_thousandths_and_mebibytes() {
        let bench = Bench::new();
        let mut node: Node = named("n");
        node.status_mut().allocatable = usage("2", "4Gi");
        bench.server.put(node);
        let mut metrics: NodeMetrics = named("n");
        metrics.usage = usage("250m", "1Gi");
        bench.server.put(metrics);
        assert_eq!(
            bench.ok("top nodes").await,
            "NAME   CPU(cores)   CPU(%)   MEMORY(bytes)   MEMORY(%)\nn      250m         12%      1024Mi          25%\n"
        );
        for (name, cpu) in [("a", "1m"), ("b", "1500000n")] {
            let mut metrics: PodMetrics = named(name);
            metrics.containers.push(ContainerMetrics { name: "c".into(), usage: usage(cpu, "40Mi") });
            bench.server.put(metrics);
        }
        assert_eq!(bench.ok("top pod --sort-by=cpu --no-headers").await, "b     2m    40Mi\na     1m    40Mi\n");
    }
}
