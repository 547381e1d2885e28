//! `kctl run` and `kctl expose`

use std::time::Duration;

use anyhow::{Context as _, bail};
use api::{
    Resource as _,
    core::v1::{Pod, Service},
    meta::v1::DeleteOptions,
    names::{Format, check},
    patch::PatchType,
};
use serde_json::{Value, json};

use super::{
    attached::{self, Follow},
    create::send,
    wait,
};
use crate::{
    Session, kinds, objects, pods,
    resource_args::{self, Named},
    write::{DryRun, WriteArgs},
};

/// Run an image in a pod
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl run web --image=web:1 --port=80
  kctl run shell -it --rm --image=busybox -- sh
  kctl run once --image=busybox --restart=Never --env=A=b -- env
  kctl run words -i --rm --restart=Never --image=busybox -- wc -w < text
  kctl run web --image=web:1 --port=80 --expose   with a Service of the same name
  kctl run web --image=web:1 --overrides='{\"spec\":{\"nodeName\":\"node-1\"}}'
  kctl run web --image=web:1 --dry-run=client -o yaml

With -i or --attach the exit code is that of the container.")]
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
    /// Leave its standard input open when ours ends; the exit code is not the container's then
    #[arg(long)]
    leave_stdin_open: bool,
    /// Say nothing but what the container writes
    #[arg(short = 'q', long)]
    quiet: bool,
    /// How long the pod gets until it runs
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = super::duration)]
    pod_running_timeout: Duration,
    /// Also create a Service of the same name before it; needs --port
    #[arg(long)]
    expose: bool,
    #[command(flatten)]
    overrides: OverrideArgs,
    /// Annotation; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    annotations: Vec<String>,
    /// With all rights on its node
    #[arg(long)]
    privileged: bool,
    /// Name of its service account
    #[arg(long, value_name = "NAME", hide = true)]
    serviceaccount: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
    /// Arguments
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

/// A last change to an object that flags have made.
#[derive(Debug, clap::Args)]
struct OverrideArgs {
    /// A change to the object before it is created, JSON or YAML
    #[arg(long, value_name = "PATCH")]
    overrides: Option<String>,
    /// How that change is written: merge, strategic, json
    #[arg(long, value_name = "TYPE", default_value = "merge", value_parser = ["merge", "strategic", "json"],
        hide_possible_values = true)]
    override_type: String,
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
    /// Labels of the Service instead of those of the object
    #[arg(short = 'l', long, value_name = "KEY=VALUE", value_delimiter = ',')]
    labels: Vec<String>,
    /// Address from outside at which nodes take traffic for it too
    #[arg(long = "external-ip", value_name = "ADDRESS")]
    external_ip: Option<String>,
    /// Address to ask the load balancer for
    #[arg(long = "load-balancer-ip", value_name = "ADDRESS")]
    load_balancer_ip: Option<String>,
    #[command(flatten)]
    overrides: OverrideArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs `run`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let attach = args.attach || args.stdin;
    if args.tty && !args.stdin {
        bail!("-i/--stdin is required for containers with -t/--tty=true");
    }
    if args.rm && !attach {
        bail!("--rm should only be used for attached containers: add -i or --attach");
    }
    if attach && args.write.dry_run != DryRun::None {
        bail!("--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)");
    }
    let namespace = session.namespace()?;
    let pod = args.pod(&namespace)?;
    let mut made = Vec::new();
    if args.expose {
        let service = args.service(&pod)?;
        send(session, &args.write, Service::KIND, &namespace, &service).await?;
        made.push(Named { kind: Service::KIND, namespace: namespace.clone(), name: args.name.clone() });
    }
    if !attach {
        return send(session, &args.write, Pod::KIND, &namespace, &pod).await;
    }
    let api = args.write.api(session, Pod::KIND, &namespace)?;
    session.shown("creating the pod", api.create_json(&pod)).await?;
    let named = Named { kind: Pod::KIND, namespace, name: objects::text(&pod, "/metadata/name").to_owned() };
    made.push(named.clone());
    let mut outcome = follow(session, &args, &named).await;
    if args.rm {
        for named in made.iter().rev() {
            // What the process ended with says more than what became of the pod.
            outcome = outcome.and(remove(session, &args, named).await);
        }
    }
    outcome
}

/// Deletes what was made. Waiting until it is gone would keep whoever has left its shell for the whole grace period.
async fn remove(session: &Session, args: &Args, named: &Named) -> anyhow::Result<()> {
    let api = session.client()?.dynamic(named.kind, &named.namespace);
    session.shown(&format!("deleting {}", named.display()), api.delete(&named.name, &DeleteOptions::default())).await?;
    if !args.quiet {
        session.console.note(format!("{} \"{}\" deleted", kinds::qualified_singular(named.kind), named.name));
    }
    Ok(())
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
        if self.privileged {
            container["securityContext"] = json!({"privileged": true});
        }
        for (field, set) in [("stdin", self.stdin), ("stdinOnce", self.stdin && !self.leave_stdin_open), ("tty", self.tty)] {
            if set {
                container[field] = true.into();
            }
        }
        let mut spec = json!({"containers": [container], "restartPolicy": self.restart});
        if let Some(account) = &self.serviceaccount {
            spec["serviceAccountName"] = account.as_str().into();
        }
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": namespace, "labels": labels},
            "spec": spec,
        });
        if !self.annotations.is_empty() {
            pod["metadata"]["annotations"] = Value::Object(pairs(&self.annotations, "--annotations")?);
        }
        self.overrides.apply(Pod::KIND, pod)
    }

    /// The Service before the pod.
    fn service(&self, pod: &Value) -> anyhow::Result<Value> {
        let port = self.port.context("--port must be set when exposing a service")?;
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": objects::text(pod, "/metadata/namespace")},
            "spec": {
                "ports": [{"port": port, "protocol": "TCP", "targetPort": port}],
                "selector": pod.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({})),
            },
        }))
    }
}

// === impl OverrideArgs ===

impl OverrideArgs {
    /// The object with the change, if there is one.
    fn apply(&self, kind: &api::Kind, object: Value) -> anyhow::Result<Value> {
        let Some(text) = &self.overrides else { return Ok(object) };
        let documents = api::yaml::parse("--overrides", text.as_bytes())?;
        let [document] = documents.as_slice() else { bail!("--overrides: one change is wanted, found {}", documents.len()) };
        let patch_type = match self.override_type.as_str() {
            "strategic" => PatchType::Strategic,
            "json" => PatchType::Json,
            _ => PatchType::Merge,
        };
        let patch = api::patch::Patch::new(patch_type, document.value.clone()).context("--overrides")?;
        let object = patch.apply(object, kind.message()).context("--overrides")?;
        if (objects::text(&object, "/apiVersion"), objects::text(&object, "/kind")) != (&*kind.api_version, &*kind.kind) {
            let (version, kind) = (&kind.api_version, &kind.kind);
            bail!("--overrides: a change of apiVersion or kind would make it something else than a {version} {kind}");
        }
        Ok(object)
    }
}

/// Waits until the pod runs and connects to it.
async fn follow(session: &Session, args: &Args, named: &Named) -> anyhow::Result<()> {
    let started = |pod: &Value| matches!(objects::text(pod, "/status/phase"), "Running" | "Succeeded" | "Failed");
    let what = format!("waiting for pod {} to run", named.name);
    wait::until(session, named, &what, args.pod_running_timeout, |pod| Ok(pod.is_some_and(started))).await?;
    let pod = pods::find(session, &named.name).await?;
    let how = Follow { stdin: args.stdin, tty: args.tty, quiet: args.quiet, exit_code: !args.leave_stdin_open };
    attached::follow(session, &pod, how).await
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
            let pointer = match &*kind.kind {
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
        if let Some(address) = &self.external_ip {
            spec["externalIPs"] = json!([address]);
        }
        if let Some(address) = &self.load_balancer_ip {
            spec["loadBalancerIP"] = address.as_str().into();
        }
        let labels = match self.labels.as_slice() {
            [] => object.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({})),
            labels => Value::Object(pairs(labels, "--labels")?),
        };
        let own_name = self.name.as_deref().unwrap_or(name);
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": own_name, "namespace": namespace, "labels": labels},
            "spec": spec,
        });
        self.overrides.apply(Service::KIND, service)
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
        assert!(bench.fails("run web --image=i -t").await.contains("-i/--stdin is required"));
        assert!(bench.fails("run web --image=i --rm").await.contains("--rm should only be used for attached"));
        assert!(bench.fails("run web --image=i -i --dry-run=client").await.contains("can't be used with attached containers"));
    }

    #[tokio::test]
    async fn overrides_are_merged_as_their_type_says() {
        let bench = Bench::new();
        let pod = |name: &str| bench.server.find::<Pod>("default", name).unwrap();
        bench.ok("run a --image=i --overrides={\"spec\":{\"nodeName\":\"n\"}} --privileged --annotations=k=v").await;
        assert_eq!((pod("a").spec().node_name.as_str(), pod("a").spec().containers.len()), ("n", 1));
        assert!(pod("a").spec().containers[0].security_context().privileged());
        assert_eq!(pod("a").metadata().annotations["k"], "v");
        let more = "{\"spec\":{\"containers\":[{\"name\":\"side\",\"image\":\"s\"}]}}";
        bench.ok(&format!("run b --image=i --override-type=strategic --overrides={more}")).await;
        assert_eq!(pod("b").spec().containers.len(), 2);
        bench.ok(&format!("run c --image=i --overrides={more}")).await;
        assert_eq!(pod("c").spec().containers[0].name, "side");
        let add = "[{\"op\":\"add\",\"path\":\"/spec/hostname\",\"value\":\"h\"}]";
        bench.ok(&format!("run d --image=i --override-type=json --overrides={add}")).await;
        assert_eq!(pod("d").spec().hostname, "h");
        assert!(bench.fails("run e --image=i --overrides={").await.contains("--overrides: document 1"));
        assert!(bench.fails("run e --image=i --overrides={\"kind\":\"Service\"}").await.contains("v1 Pod"));
    }

    #[tokio::test]
    async fn a_pod_is_exposed_on_its_port() {
        let bench = Bench::new();
        assert!(bench.fails("run web --image=i --expose").await.contains("--port must be set when exposing a service"));
        assert_eq!(bench.ok("run web --image=i --port=80 --expose").await, "service/web created\npod/web created\n");
        let service = bench.server.find::<Service>("default", "web").unwrap();
        assert_eq!((service.spec().ports[0].port, service.spec().selector["run"].as_str()), (80, "web"));
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
        let line =
            "expose pod web --port=80 --name=out --external-ip=192.0.2.1 -l a=b --overrides={\"spec\":{\"clusterIP\":\"None\"}}";
        assert_eq!(bench.ok(line).await, "service/out exposed\n");
        let service = bench.server.find::<Service>("default", "out").unwrap();
        assert_eq!((service.spec().external_ips.join(","), service.spec().cluster_ip.as_str()), ("192.0.2.1".into(), "None"));
        assert_eq!(service.metadata().labels["a"], "b");
    }
}
