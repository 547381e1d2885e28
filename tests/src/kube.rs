//! What the end-to-end suites do all the time: a namespace of their own, manifests, waiting for pods, commands in containers.
//!
//! Everything goes through `kctl`, as a user would do it.

use std::{
    io::Write,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::{
    command::{check, output_of},
    topology::{Cluster, Host},
    wait,
};

/// How long pods may take to be Ready when their image is there and nothing is broken.
pub const PODS_READY: Duration = Duration::from_secs(30);

/// A namespace that lives as long as the value does.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    /// Its name.
    pub name: String,
}

/// What tests ask of a pod, read from its JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`, empty until it is bound.
    pub node: String,
    /// `status.podIP`, empty until it has one.
    pub ip: String,
    /// Whether its condition Ready is True.
    pub ready: bool,
    /// Whether it has a deletion timestamp.
    pub terminating: bool,
    /// Restarts of all its containers.
    pub restarts: u64,
    /// `status.containerStatuses[].containerID`, in order.
    pub containers: Vec<String>,
}

// === impl Namespace ===

impl<'a> Namespace<'a> {
    /// A new namespace whose name begins with `what`.
    ///
    /// # Errors
    /// When it cannot be created, or does not get its default service account.
    pub fn new(cluster: &'a Cluster, what: &str) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        cluster.kctl(&["create", "namespace", &name])?;
        let namespace = Self { cluster, name };
        // Pods are refused until it is there.
        wait::until("the default service account", Duration::from_secs(10), || namespace.get("serviceaccount", "default"))?;
        Ok(namespace)
    }

    /// Runs `kctl` in this namespace.
    ///
    /// # Errors
    /// When it fails.
    pub fn kctl(&self, args: &[&str]) -> anyhow::Result<String> {
        output_of(self.cluster.kctl_command().args(["-n", &self.name]).args(args))
    }

    /// Applies manifests given as text.
    ///
    /// # Errors
    /// When `kctl apply` does not take them.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        let mut command = self.cluster.kctl_command();
        command.args(["-n", &self.name, "apply", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let written = child.stdin.take().context("no stdin")?.write_all(manifests.as_bytes());
        check(&command, child.wait_with_output()?)?;
        written.context("kctl apply took only a part")
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn get(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        self.cluster.kctl_json(&["-n", &self.name, "get", kind, name])
    }

    /// Objects of a kind with the labels of `selector`, as JSON.
    ///
    /// # Errors
    /// When `kctl` fails.
    pub fn list(&self, kind: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let mut list = self.cluster.kctl_json(&["-n", &self.name, "get", kind, "-l", selector])?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("kctl get {kind} -l {selector} printed no list but {other}"),
        }
    }

    /// The pods with the labels of `selector`, by name.
    ///
    /// # Errors
    /// When `kctl` fails.
    pub fn pods(&self, selector: &str) -> anyhow::Result<Vec<Pod>> {
        let mut pods: Vec<_> = self.list("pods", selector)?.iter().map(Pod::read).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// The pod of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        Ok(Pod::read(&self.get("pod", name)?))
    }

    /// Waits until exactly `count` pods have the labels of `selector`, all of them Ready and none on its way out.
    ///
    /// # Errors
    /// When that is not so within `limit`; the error says how it is.
    pub fn wait_pods(&self, selector: &str, count: usize, limit: Duration) -> anyhow::Result<Vec<Pod>> {
        wait::until(&format!("{count} Ready pods with {selector}"), limit, || {
            let pods = self.pods(selector)?;
            let good = pods.iter().filter(|pod| pod.ready && !pod.terminating).count();
            ensure!(good == count && pods.len() == count, "{} pods, {good} of them Ready: {pods:?}", pods.len());
            Ok(pods)
        })
    }

    /// Waits until the pod of that name is Ready.
    ///
    /// # Errors
    /// When it is not within [`PODS_READY`].
    pub fn wait_pod(&self, name: &str) -> anyhow::Result<Pod> {
        wait::until(&format!("pod {name} to be Ready"), PODS_READY, || {
            let pod = self.pod(name)?;
            ensure!(pod.ready, "{}", self.get("pod", name)?["status"]);
            Ok(pod)
        })
    }

    /// Runs a command in a container of a pod, without a terminal, and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn exec(&self, pod: &str, container: &str, command: &[&str]) -> anyhow::Result<String> {
        let mut args = vec!["exec", pod, "-c", container, "--"];
        args.extend(command);
        self.kctl(&args)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // A test that fails leaves its traces in what it printed, not in the next test's cluster.
        if let Err(error) = self.cluster.kctl(&["delete", "namespace", &self.name, "--wait=false"]) {
            eprintln!("namespace {}: {error:#}", self.name);
        }
    }
}

// === impl Pod ===

impl Pod {
    /// From a pod's JSON.
    pub fn read(pod: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let statuses = pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            name: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
            node: text(&pod["spec"]["nodeName"]),
            ip: text(&pod["status"]["podIP"]),
            ready: conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"),
            terminating: !pod["metadata"]["deletionTimestamp"].is_null(),
            restarts: statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum(),
            containers: statuses.iter().map(|status| text(&status["containerID"])).collect(),
        }
    }

    /// The host it runs on.
    ///
    /// # Errors
    /// When it is not bound to one.
    pub fn host(&self, cluster: &Cluster) -> anyhow::Result<Host> {
        cluster.host_named(&self.node).with_context(|| format!("pod {}", self.name))
    }
}

/// A replication controller of guestbooks labelled `app: <name>`, whose evicted pods move after five seconds.
pub fn guestbooks(name: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: v1
kind: ReplicationController
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{app: {name}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 2
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}}
      - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}}
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {{matchLabels: {{app: {name}}}}}
      containers:
      - name: guestbook
        image: {image}
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
",
        image = crate::images::GUESTBOOK
    )
}

/// A Service over the pods labelled `app: <app>`, port 80 to the guestbook's; `extra` are further fields of its spec, in flow style.
pub fn service(name: &str, app: &str, extra: &str) -> String {
    let comma = if extra.is_empty() { "" } else { ", " };
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {app}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]{comma}{extra}}}
"
    )
}

/// A pod with one busybox container `main` that sleeps; `extra` are further fields of the container, in flow style.
pub fn busybox(name: &str, extra: &str) -> String {
    let comma = if extra.is_empty() { "" } else { ", " };
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: {image}, command: [sh, -c, 'trap exit TERM; while :; do sleep 1; done']{comma}{extra}}}
",
        image = crate::images::BUSYBOX
    )
}
