//! `kctl cordon`, `uncordon`, `drain` and `taint`

use std::time::Duration;

use anyhow::{Context as _, bail};
use api::{
    Resource as _,
    core::v1::{Node, Pod},
    meta::v1::{DeleteOptions, ObjectMeta},
    pod::is_mirror,
    policy::v1::Eviction,
};
use client::ListParams;
use serde_json::{Value, json};

use super::delete::wait_gone;
use crate::{
    Session,
    failures::Failures,
    objects,
    resource_args::{Named, SelectorArgs},
    write::WriteArgs,
};

/// How long between attempts to evict a pod that may not be evicted yet.
const EVICT_AGAIN: Duration = Duration::from_secs(5);

/// Let no new pods onto nodes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl cordon node-1")]
pub struct CordonArgs {
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// Let new pods onto nodes again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl uncordon node-1")]
pub struct UncordonArgs {
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// Empty nodes for maintenance: cordon them and evict their pods
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl drain node-1
  kctl drain node-1 --force --grace-period=10 --timeout=2m")]
pub struct DrainArgs {
    #[command(flatten)]
    nodes: NodeArgs,
    /// Also delete pods that nothing will create again
    #[arg(long)]
    force: bool,
    /// Taken for kubectl's sake: there are no daemon sets
    #[arg(long, hide = true)]
    ignore_daemonsets: bool,
    /// Also evict pods whose emptyDir volumes will be lost
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Delete pods instead of asking whether they may go
    #[arg(long)]
    disable_eviction: bool,
    /// Seconds that pods get to end; their own figure if negative
    #[arg(long, value_name = "SECONDS", default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
    grace_period: i64,
    /// How long at most; 0 for as long as it takes
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = super::duration)]
    timeout: Duration,
    /// Only pods with these labels
    #[arg(long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pod_selector: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// Keep pods off nodes unless they tolerate it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl taint node node-1 dedicated=db:NoSchedule
  kctl taint node node-1 dedicated=db:NoExecute --overwrite
  kctl taint node node-1 dedicated:NoSchedule-    remove it
  kctl taint nodes --all dedicated-")]
pub struct TaintArgs {
    /// node NAME … KEY=VALUE:EFFECT … or KEY[:EFFECT]- to remove
    #[arg(value_name = "NODE TAINT", required = true)]
    words: Vec<String>,
    /// All nodes
    #[arg(long)]
    all: bool,
    /// Nodes with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Change taints that are there with another value
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    write: WriteArgs,
}

/// Which nodes.
#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// The nodes
    #[arg(value_name = "NODE", required_unless_present = "selector")]
    names: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "names")]
    selector: Option<String>,
}

impl NodeArgs {
    async fn resolve(&self, session: &Session) -> anyhow::Result<Vec<String>> {
        let Some(selector) = &self.selector else {
            let plain = |name: &String| {
                let short = name.split_once('/').filter(|(kind, _)| matches!(*kind, "node" | "nodes" | "no"));
                short.map_or_else(|| name.clone(), |(_, name)| name.to_owned())
            };
            return Ok(self.names.iter().map(plain).collect());
        };
        selected(session, selector).await
    }
}

async fn selected(session: &Session, selector: &str) -> anyhow::Result<Vec<String>> {
    let select = SelectorArgs { selector: Some(selector.to_owned()), ..SelectorArgs::default() };
    let nodes = objects::list_metadata(session, Node::KIND, "", &select.params()?).await?;
    Ok(nodes.into_iter().map(|meta| meta.name).collect())
}

/// Runs `cordon`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn cordon(session: &Session, args: CordonArgs) -> anyhow::Result<()> {
    set_all(session, &args.nodes, &args.write, true).await
}

/// Runs `uncordon`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn uncordon(session: &Session, args: UncordonArgs) -> anyhow::Result<()> {
    set_all(session, &args.nodes, &args.write, false).await
}

async fn set_all(session: &Session, nodes: &NodeArgs, write: &WriteArgs, unschedulable: bool) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    for name in nodes.resolve(session).await? {
        failures.check(session, set(session, write, &name, unschedulable).await)?;
    }
    failures.finish()
}

async fn set(session: &Session, write: &WriteArgs, name: &str, unschedulable: bool) -> anyhow::Result<()> {
    let decide = |old: &Value| {
        let mut new = old.clone();
        if unschedulable {
            objects::set(&mut new, &["spec", "unschedulable"], true.into());
        } else if let Some(Value::Object(spec)) = new.get_mut("spec") {
            spec.remove("unschedulable");
        }
        Ok(Some(new))
    };
    let (node, changed) = write.change(session, Node::KIND, "", name, decide).await?;
    let what = if unschedulable { "cordoned" } else { "uncordoned" };
    write.done(session, Node::KIND, &node, &if changed { what.to_owned() } else { format!("already {what}") })
}

/// Runs `drain`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn drain(session: &Session, args: DrainArgs) -> anyhow::Result<()> {
    let work = async {
        for node in args.nodes.resolve(session).await? {
            set(session, &args.write, &node, true).await?;
            drain_one(session, &args, &node).await?;
        }
        anyhow::Ok(())
    };
    if args.timeout.is_zero() {
        return work.await;
    }
    tokio::time::timeout(args.timeout, work).await.unwrap_or_else(|_| bail!("the nodes are not empty after {:?}", args.timeout))
}

async fn drain_one(session: &Session, args: &DrainArgs, node: &str) -> anyhow::Result<()> {
    let api = session.client()?.all::<Pod>();
    let params = ListParams::default().fields(format!("spec.nodeName={node}")).labels(&*args.pod_selector);
    let mut pods = session.shown("reading the node's pods", api.list(&params)).await?.items;
    pods.retain(|pod| !is_mirror(pod));
    let mut blockers = Vec::new();
    for pod in &pods {
        let done = matches!(pod.status().phase.as_str(), "Succeeded" | "Failed");
        let owned = pod.metadata().owner_references.iter().any(|owner| owner.controller == Some(true));
        let name = format!("{}/{}", pod.namespace(), pod.name());
        if !owned && !done && !args.force {
            blockers.push(format!("nothing will create {name} again (use --force to delete it)"));
        }
        let empty_dir = pod.spec().volumes.iter().any(|volume| volume.volume_source().empty_dir.is_some());
        if empty_dir && !done && !args.delete_emptydir_data {
            blockers.push(format!("{name} has an emptyDir volume (use --delete-emptydir-data to lose it)"));
        }
    }
    if !blockers.is_empty() {
        bail!("unable to drain node \"{node}\": {}", blockers.join("; "));
    }
    if args.write.dry_run != crate::write::DryRun::None {
        for pod in &pods {
            session.console.line(format!("evicting pod {}/{}{}", pod.namespace(), pod.name(), args.write.suffix()))?;
        }
        session.console.line(format!("node/{node} drained{}", args.write.suffix()))?;
        return Ok(());
    }
    for pod in &pods {
        session.console.note(format!("evicting pod {}/{}", pod.namespace(), pod.name()));
        evict(session, args, pod).await?;
    }
    for pod in &pods {
        let named = Named { kind: Pod::KIND, namespace: pod.namespace().to_owned(), name: pod.name().to_owned() };
        session
            .shown(&format!("waiting until {} is gone", named.display()), wait_gone(session, &named, &pod.metadata().uid))
            .await?;
        session.console.line(format!("pod/{} evicted", pod.name()))?;
    }
    session.console.line(format!("node/{node} drained"))?;
    Ok(())
}

/// Evicts one pod, again and again while it may not go yet.
async fn evict(session: &Session, args: &DrainArgs, pod: &Pod) -> anyhow::Result<()> {
    let client = session.client()?;
    let options = DeleteOptions {
        grace_period_seconds: Some(args.grace_period).filter(|grace| *grace >= 0),
        ..client::delete::uid(&pod.metadata().uid)
    };
    loop {
        let what = format!("evicting {}/{}", pod.namespace(), pod.name());
        let outcome = if args.disable_eviction {
            let api = client.namespaced::<Pod>(pod.namespace());
            session.shown(&what, api.delete(pod.name(), &options)).await.map(drop)
        } else {
            let metadata =
                ObjectMeta { name: pod.name().to_owned(), namespace: pod.namespace().to_owned(), ..ObjectMeta::default() };
            let eviction = Eviction { metadata: Some(metadata), delete_options: Some(options.clone()) };
            let pods = client.pods();
            session.shown(&what, pods.evict(eviction)).await
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
            Err(error) if error.status().is_some_and(|status| status.reason() == api::status::Reason::TooManyRequests) => {
                session.console.note(format!("error when evicting pods/{:?} (will retry after 5s): {error}", pod.name()));
                tokio::time::sleep(EVICT_AGAIN).await;
            }
            Err(error) => return Err(error).with_context(|| format!("error when evicting pod \"{}\"", pod.name())),
        }
    }
}

/// A taint to set or, without a value, to remove.
struct Taint {
    key: String,
    value: String,
    /// Empty only when removing: any effect.
    effect: String,
    remove: bool,
}

// === impl Taint ===

impl Taint {
    /// True if it is about this taint of a node.
    fn is(&self, have: &Value) -> bool {
        have["key"] == self.key && (self.effect.is_empty() || have["effect"] == self.effect)
    }
}

impl std::fmt::Display for Taint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        if self.effect.is_empty() { Ok(()) } else { write!(f, ":{}", self.effect) }
    }
}

/// Runs `taint`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn taint(session: &Session, args: TaintArgs) -> anyhow::Result<()> {
    let mut words = args.words.as_slice();
    if let [kind, rest @ ..] = words
        && matches!(kind.as_str(), "node" | "nodes" | "no")
    {
        words = rest;
    }
    let is_taint = |word: &&String| word.contains([':', '=']) || word.ends_with('-');
    let names = words.iter().take_while(|word| !is_taint(word)).map(|name| name.trim_start_matches("node/").to_owned());
    let names: Vec<String> = names.collect();
    let taints: Vec<Taint> = words[names.len()..].iter().map(|word| read_taint(word)).collect::<anyhow::Result<_>>()?;
    if taints.is_empty() {
        bail!("at least one taint update is required: KEY=VALUE:EFFECT to set, KEY[:EFFECT]- to remove");
    }
    let nodes = match (&args.selector, args.all, names.is_empty()) {
        (Some(selector), false, true) => selected(session, selector).await?,
        (None, true, true) => selected(session, "").await?,
        (None, false, false) => names,
        _ => bail!("name the nodes, or select them with -l or --all"),
    };
    let clash = |add: &&Taint| {
        let same = |gone: &&Taint| gone.remove && gone.key == add.key && (gone.effect.is_empty() || gone.effect == add.effect);
        !add.remove && taints.iter().any(|gone| same(&gone))
    };
    if let Some(both) = taints.iter().find(clash) {
        let (key, effect) = (&both.key, &both.effect);
        bail!("can not both modify and remove the following taint(s) in the same command: {{\"{key}\":\"{effect}\"}}");
    }
    let mut failures = Failures::default();
    for node in nodes {
        failures.check(session, taint_one(session, &args, &node, &taints).await)?;
    }
    failures.finish()
}

async fn taint_one(session: &Session, args: &TaintArgs, node: &str, taints: &[Taint]) -> anyhow::Result<()> {
    let (mut added, mut removed) = (false, false);
    let decide = |old: &Value| {
        let mut list = objects::list(old, "/spec/taints").to_vec();
        let there: Vec<&str> = taints
            .iter()
            .filter(|taint| !taint.remove && list.iter().any(|have| taint.is(have)))
            .map(|taint| taint.key.as_str())
            .collect();
        if !there.is_empty() && !args.overwrite {
            bail!("node {node} already has {} taint(s) with same effect(s) and --overwrite is false", there.join(","));
        }
        for taint in taints {
            let before = list.len();
            list.retain(|have| !taint.is(have));
            match (taint.remove, list.len() < before) {
                (true, false) => bail!("taint \"{taint}\" not found"),
                (true, true) => removed = true,
                (false, found) => added |= !found,
            }
            if !taint.remove {
                list.push(json!({"key": taint.key, "value": taint.value, "effect": taint.effect}));
            }
        }
        let mut new = old.clone();
        objects::set(&mut new, &["spec", "taints"], list.into());
        Ok(Some(new))
    };
    let (object, _) = args.write.change(session, Node::KIND, "", node, decide).await?;
    let what = match (added, removed) {
        _ if args.overwrite => "modified",
        (true, true) => "modified",
        (true, false) => "tainted",
        (false, _) => "untainted",
    };
    args.write.done(session, Node::KIND, &object, what)
}

fn read_taint(word: &str) -> anyhow::Result<Taint> {
    let (text, remove) = word.strip_suffix('-').map_or((word, false), |text| (text, true));
    let (pair, effect) = text.split_once(':').unwrap_or((text, ""));
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    if effect.is_empty() && !remove {
        bail!("invalid taint spec: {word}, KEY=VALUE:EFFECT is wanted");
    }
    if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        bail!("invalid taint effect: {effect}, known are NoSchedule, PreferNoSchedule and NoExecute");
    }
    api::names::check(api::names::Format::QualifiedName, key)
        .map_err(|why| anyhow::anyhow!("invalid taint key \"{key}\": {why}"))?;
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned(), remove })
}

#[cfg(test)]
mod tests {
    use api::core::v1::{Node, Pod};

    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn a_node_is_cordoned_and_drained() {
        let bench = Bench::new();
        bench.server.put::<Node>(named("n"));
        assert_eq!(bench.ok("cordon n").await, "node/n cordoned\n");
        assert_eq!(bench.ok("cordon n").await, "node/n already cordoned\n");
        assert_eq!(bench.ok("uncordon node/n").await, "node/n uncordoned\n");

        let mut pod: Pod = named("p");
        pod.spec_mut().node_name = "n".into();
        bench.server.put(pod);
        assert!(bench.fails("drain n").await.contains("nothing will create default/p again"));
        assert!(bench.ok("drain n --force --grace-period=0").await.ends_with("node/n drained\n"));
        assert!(bench.server.find::<Pod>("default", "p").is_none());
        assert!(bench.server.find::<Node>("", "n").unwrap().spec().unschedulable);
    }

    #[tokio::test]
    async fn taints_are_set_changed_and_removed() {
        let bench = Bench::new();
        bench.server.put::<Node>(named("n"));
        assert_eq!(bench.ok("taint node n a=b:NoSchedule").await, "node/n tainted\n");
        let there = "error: node n already has a taint(s) with same effect(s) and --overwrite is false\n";
        assert_eq!(bench.fails("taint node n a=c:NoSchedule").await, there);
        // Also when nothing would change.
        assert_eq!(bench.fails("taint node n a=b:NoSchedule").await, there);
        assert_eq!(bench.ok("taint node n a=b:NoSchedule --overwrite").await, "node/n modified\n");
        assert_eq!(bench.ok("taint node n x=y:NoExecute a:NoSchedule-").await, "node/n modified\n");
        assert_eq!(bench.fails("taint node n a:NoSchedule-").await, "error: taint \"a:NoSchedule\" not found\n");
        assert!(bench.fails("taint node n x=z:NoExecute x-").await.contains("can not both modify and remove"));
        assert_eq!(bench.ok("taint nodes --all x-").await, "node/n untainted\n");
        assert!(bench.fails("taint node n a=b:Never").await.contains("invalid taint effect"));
    }
}
