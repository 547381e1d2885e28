//! `kctl run` and `kctl expose`

use std::time::Duration;

use anyhow::{Context as _, bail};
use api::{
    Resource as _,
    core::v1::{Pod, Service},
    meta::v1::DeleteOptions,
    names::{Format, check},
};
use serde_json::{Value, json};

use super::{create::send, exec, wait};
use crate::{
    Session, kinds, objects, pods,
    resource_args::{self, Named},
    write::{DryRun, WriteArgs},
};

/// How long a pod gets until it runs.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Run an image in a pod
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl run web --image=web:1 --port=80
  kctl run shell -it --rm --image=busybox -- sh
  kctl run once --image=busybox --restart=Never --env=A=b -- env
  kctl run web --image=web:1 --dry-run=client -o yaml")]
pub struct Args {
    /// Name of the pod
    name: String,
    /// The image
    #[arg(long)]
    image: String,
    /// When to pull it: Always, IfNotPresent, Never
    #[arg(long, value_name = "WHEN")]
    image_pull_policy: Option<String>,
    /// Variable of the environment; can be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Port the container serves
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Labels instead of run=NAME
    #[arg(short = 'l', long, value_name = "KEY=VALUE", value_delimiter = ',')]
    labels: Vec<String>,
    /// When to start it again: Always, OnFailure, Never
    #[arg(long, value_name = "WHEN", default_value = "Always", value_parser = ["Always", "OnFailure", "Never"])]
    restart: String,
    /// What comes after -- is the command, not its arguments
    #[arg(long)]
    command: bool,
    /// Pass standard input to it
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Connect to it once it runs
    #[arg(long)]
    attach: bool,
    /// Delete the pod at the end
    #[arg(long)]
    rm: bool,
    /// Name of its service account
    #[arg(long, value_name = "NAME", hide = true)]
    serviceaccount: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
    /// Arguments
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

/// Put a Service before the pods of a controller, a pod or another Service
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl expose rc web --port=80 --target-port=8080
  kctl expose pod web --port=80 --type=NodePort --name=web-out")]
pub struct ExposeArgs {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "TYPE[/NAME]", required = true)]
    resources: Vec<String>,
    /// Name of the Service; that of the object if not given
    #[arg(long)]
    name: Option<String>,
    /// Port of the Service; that of the containers if not given
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Port of the pods, or its name
    #[arg(long, value_name = "PORT")]
    target_port: Option<String>,
    /// TCP or UDP
    #[arg(long, default_value = "TCP")]
    protocol: String,
    /// ClusterIP, NodePort or LoadBalancer
    #[arg(long = "type", value_name = "TYPE", default_value = "ClusterIP")]
    service_type: String,
    /// Labels of the pods instead of those that the object selects
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    selector: Vec<String>,
    /// Address, or None for no address
    #[arg(long = "cluster-ip", value_name = "ADDRESS")]
    cluster_ip: Option<String>,
    /// None or ClientIP
    #[arg(long, value_name = "HOW")]
    session_affinity: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs `run`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let attach = args.attach || args.stdin;
    if args.rm && !attach {
        bail!("--rm should only be used for attached containers: add -i or --attach");
    }
    let namespace = session.namespace()?;
    let pod = args.pod(&namespace)?;
    if args.write.dry_run != DryRun::None || !attach {
        return send(session, &args.write, Pod::KIND, &namespace, &pod).await;
    }
    let api = session.client()?.dynamic(Pod::KIND, &namespace);
    session.shown("creating the pod", api.create_json(&pod)).await?;
    let named = Named { kind: Pod::KIND, namespace: namespace.clone(), name: args.name.clone() };
    let outcome = follow(session, &args, &named).await;
    if args.rm {
        // Waiting until it is gone would keep whoever has left its shell for the whole grace period.
        let deleted = session.shown("deleting the pod", api.delete(&args.name, &DeleteOptions::default())).await;
        let deleted =
            deleted.map(|_| session.console.note(format!("pod \"{}\" deleted", args.name))).map_err(anyhow::Error::from);
        // What the process ended with says more than what became of the pod.
        outcome.and(deleted)
    } else {
        outcome
    }
}

impl Args {
    fn pod(&self, namespace: &str) -> anyhow::Result<Value> {
        check(Format::DnsSubdomain, &self.name).map_err(|why| anyhow::anyhow!("invalid pod name \"{}\": {why}", self.name))?;
        let labels =
            if self.labels.is_empty() { json!({"run": self.name}) } else { Value::Object(pairs(&self.labels, "--labels")?) };
        let mut container = json!({"name": self.name, "image": self.image, "resources": {}});
        if let Some(policy) = &self.image_pull_policy {
            container["imagePullPolicy"] = policy.as_str().into();
        }
        let env: Vec<Value> =
            pairs(&self.env, "--env")?.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        if !env.is_empty() {
            container["env"] = env.into();
        }
        if let Some(port) = self.port {
            container["ports"] = json!([{ "containerPort": port }]);
        }
        if !self.arguments.is_empty() {
            container[if self.command { "command" } else { "args" }] = self.arguments.clone().into();
        }
        for (field, set) in [("stdin", self.stdin), ("stdinOnce", self.stdin), ("tty", self.tty)] {
            if set {
                container[field] = true.into();
            }
        }
        let mut spec = json!({"containers": [container], "restartPolicy": self.restart});
        if let Some(account) = &self.serviceaccount {
            spec["serviceAccountName"] = account.as_str().into();
        }
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": namespace, "labels": labels},
            "spec": spec,
        }))
    }
}

/// Waits until the pod runs and connects to it.
async fn follow(session: &Session, args: &Args, named: &Named) -> anyhow::Result<()> {
    let started = |pod: &Value| matches!(objects::text(pod, "/status/phase"), "Running" | "Succeeded" | "Failed");
    let what = format!("waiting for pod {} to run", named.name);
    wait::until(session, named, &what, START_TIMEOUT, |pod| pod.is_some_and(started)).await?;
    let pod = pods::find(session, &named.name).await?;
    if pod.status().phase == "Running" {
        return exec::attach(session, &pod, None, args.stdin, args.tty).await;
    }
    // It has ended already: what it wrote is still there.
    let request = api::ferrokube::v1::LogsRequest {
        pod: Some(api::ferrokube::v1::PodRef {
            namespace: named.namespace.clone(),
            name: named.name.clone(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pods = session.client()?.pods();
    let mut pieces = session.shown("reading what it wrote", pods.logs(request)).await?;
    while let Some(piece) = futures::TryStreamExt::try_next(&mut pieces).await? {
        session.console.print(piece)?;
    }
    Ok(())
}

/// Runs `expose`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn expose(session: &Session, args: ExposeArgs) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    for (kind, name) in resource_args::parse(&args.resources)? {
        let name = name.context("name the object to expose")?;
        let object = objects::to_value(&objects::get(session, kind, &namespace, &name).await?)?;
        let service = args.service(kind, &name, &namespace, &object)?;
        let shown = args.name.as_ref().unwrap_or(&name);
        if args.write.client_only() {
            args.write.done(session, Service::KIND, &service, "exposed")?;
            continue;
        }
        let api = args.write.api(session, Service::KIND, &namespace)?;
        let created = session.shown(&format!("creating service/{shown}"), api.create_json(&service)).await?;
        args.write.done_with(session, &created, "exposed")?;
    }
    Ok(())
}

impl ExposeArgs {
    fn service(&self, kind: &api::Kind, name: &str, namespace: &str, object: &Value) -> anyhow::Result<Value> {
        let selector = if !self.selector.is_empty() {
            Value::Object(pairs(&self.selector, "--selector")?)
        } else {
            let pointer = match kind.kind {
                "Pod" => "/metadata/labels",
                "ReplicationController" | "Service" => "/spec/selector",
                _ => bail!("cannot expose a {}: its pods are not known; use --selector", kind.kind),
            };
            let labels = object.pointer(pointer).filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()));
            labels
                .cloned()
                .with_context(|| format!("{} has no labels to select by; use --selector", kinds::display(kind, name)))?
        };
        let mut ports = Vec::new();
        if let Some(port) = self.port {
            ports.push((port, self.protocol.clone()));
        } else {
            let containers = ["/spec/containers", "/spec/template/spec/containers"];
            for container in containers.iter().flat_map(|pointer| objects::list(object, pointer)) {
                for port in objects::list(container, "/ports") {
                    let number = u16::try_from(objects::number(port, "/containerPort")).unwrap_or_default();
                    let protocol = objects::text(port, "/protocol");
                    ports.push((number, if protocol.is_empty() { self.protocol.clone() } else { protocol.to_owned() }));
                }
            }
        }
        if ports.is_empty() {
            bail!("couldn't find a port in {}; use --port", kinds::display(kind, name));
        }
        let several = ports.len() > 1;
        let entry = |(i, (port, protocol)): (usize, (u16, String))| {
            let target = self.target_port.clone().unwrap_or_else(|| port.to_string());
            let target = target.parse::<u16>().map_or_else(|_| json!(target), |number| json!(number));
            let mut entry = json!({"port": port, "protocol": protocol, "targetPort": target});
            if several {
                entry["name"] = format!("port-{}", i + 1).into();
            }
            entry
        };
        let ports: Vec<Value> = ports.into_iter().enumerate().map(entry).collect();
        let mut spec = json!({"selector": selector, "ports": ports, "type": self.service_type});
        if let Some(address) = &self.cluster_ip {
            spec["clusterIP"] = address.as_str().into();
        }
        if let Some(affinity) = &self.session_affinity {
            spec["sessionAffinity"] = affinity.as_str().into();
        }
        let labels = object.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
        let own_name = self.name.as_deref().unwrap_or(name);
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": own_name, "namespace": namespace, "labels": labels},
            "spec": spec,
        }))
    }
}

fn pairs(words: &[String], flag: &str) -> anyhow::Result<serde_json::Map<String, Value>> {
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.into())),
        _ => bail!("{flag}: {word}: NAME=VALUE is wanted"),
    };
    words.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use api::core::v1::{Pod, Service};

    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn a_pod_is_made_from_flags() {
        let bench = Bench::new();
        assert_eq!(bench.ok("run web --image=i:1 --port=80 --env=A=b -- x y").await, "pod/web created\n");
        let pod = bench.server.find::<Pod>("default", "web").unwrap();
        let container = &pod.spec().containers[0];
        assert_eq!((container.image.as_str(), container.args.join(" ").as_str()), ("i:1", "x y"));
        assert_eq!((container.env[0].value.as_str(), container.ports[0].container_port), ("b", 80));
        assert_eq!(pod.metadata().labels["run"], "web");
        assert!(bench.fails("run Web --image=i").await.contains("invalid pod name"));
    }

    #[tokio::test]
    async fn a_service_is_made_from_a_pod() {
        let bench = Bench::new();
        let mut pod: Pod = named("web");
        pod.metadata_mut().labels.insert("app".into(), "web".into());
        bench.server.put(pod);
        assert_eq!(bench.ok("expose pod web --port=80 --target-port=http").await, "service/web exposed\n");
        let service = bench.server.find::<Service>("default", "web").unwrap();
        assert_eq!(service.spec().selector["app"], "web");
        assert_eq!(service.spec().ports[0].target_port().str_val, "http");
        assert!(bench.fails("expose pod web").await.contains("use --port"));
    }
}
