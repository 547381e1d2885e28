//! Which pod and container a command means.

use anyhow::{Context as _, bail};
use api::{
    Resource as _,
    core::v1::{Pod, ReplicationController, Service},
    jsonpath,
};
use client::ListParams;

use crate::{
    Session, kinds,
    objects::{self, members},
    resource_args,
};

/// Annotation that names the container to use if none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pods with labels of a selector in text form, oldest name first.
///
/// # Errors
/// Whatever the server says.
pub async fn select(session: &Session, namespace: &str, selector: &str) -> anyhow::Result<Vec<Pod>> {
    let api = session.client()?.namespaced::<Pod>(namespace);
    Ok(session.list(&api, &ListParams::default().labels(selector)).await?.items)
}

/// The pod that `POD` or `TYPE/NAME` means: of a controller or Service the best of its pods.
///
/// # Errors
/// When there is none.
pub async fn find(session: &Session, word: &str) -> anyhow::Result<Pod> {
    let namespace = session.namespace()?;
    let words = [if word.contains('/') { word.to_owned() } else { format!("pod/{word}") }];
    let (kind, name) = resource_args::parse(&words)?.into_iter().next().context("no pod named")?;
    let name = name.unwrap_or_default();
    let client = session.client()?;
    if kind == Pod::KIND {
        return Ok(session.shown(&format!("reading pod/{name}"), client.namespaced::<Pod>(&namespace).get(&name)).await?);
    }
    let mut pods = of(session, kind, &namespace, &name).await?;
    // The best one: on a node, running, ready.
    pods.sort_by_key(|pod| (pod.spec().node_name.is_empty(), pod.status().phase != "Running", !api::pod::is_ready(pod)));
    let count = pods.len();
    let Some(pod) = pods.into_iter().next() else { bail!("{} selects no pods now", kinds::display(kind, &name)) };
    if count > 1 {
        session.console.note(format!("Found {count} pods, using pod/{}", pod.name()));
    }
    Ok(pod)
}

/// The pods of a controller or Service.
///
/// # Errors
/// When it does not exist, or objects of its kind have no pods.
pub async fn of(session: &Session, kind: &'static api::Kind, namespace: &str, name: &str) -> anyhow::Result<Vec<Pod>> {
    if kind != ReplicationController::KIND && kind != Service::KIND {
        bail!("objects of kind {} have no pods: name a pod, a replication controller or a Service", kind.kind);
    }
    let object = objects::to_value(&objects::get(session, kind, namespace, name).await?)?;
    let labels: Vec<String> =
        members(&object, "/spec/selector").into_iter().map(|(key, value)| format!("{key}={}", jsonpath::text(value))).collect();
    if labels.is_empty() {
        bail!("{} has no selector, so it has no pods", kinds::display(kind, name));
    }
    select(session, namespace, &labels.join(",")).await
}

/// Names of all containers, the ordinary ones first.
pub fn container_names(pod: &Pod) -> Vec<&str> {
    let spec = pod.spec();
    spec.containers.iter().chain(&spec.init_containers).map(|container| container.name.as_str()).collect()
}

/// The container to use: the named one, the annotated one, or the first one, which is said (if wished) if there are
/// several.
///
/// # Errors
/// When there is no such container.
pub fn container(session: &Session, pod: &Pod, wanted: Option<&str>, say: bool) -> anyhow::Result<String> {
    let names = container_names(pod);
    if let Some(wanted) = wanted {
        if !names.contains(&wanted) {
            bail!("container {wanted} not found in pod {}; it has: {}", pod.name(), names.join(", "));
        }
        return Ok(wanted.to_owned());
    }
    if let Some(annotated) = pod.metadata().annotations.get(DEFAULT_CONTAINER).filter(|name| names.contains(&name.as_str())) {
        return Ok(annotated.clone());
    }
    let first = names.first().with_context(|| format!("pod {} has no containers", pod.name()))?;
    if say && names.len() > 1 {
        let listed: Vec<String> = names.iter().map(|&name| marked(pod, name)).collect();
        session.console.note(format!("Defaulted container \"{first}\" out of: {}", listed.join(", ")));
    }
    Ok((*first).to_owned())
}

fn marked(pod: &Pod, name: &str) -> String {
    let init = pod.spec().init_containers.iter().any(|container| container.name == name);
    if init { format!("{name} (init)") } else { name.to_owned() }
}
