//! What a plan asks for, carried out: one function each, told all it needs, reporting what came of it.
//!
//! Jobs of one pod run side by side and meet where they must: a container is created as soon as its sandbox exists, and started when the sandbox is
//! on the network and the volumes are there. *Invariant:* no job is cancelled in the middle of a change; only waiting (for pulls, for
//! each other) is cut short.

use std::sync::Arc;

use api::{
    core::v1::{Container as Spec, Pod, PodIp},
    error::chain,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    Context, env,
    files::{self, PodFiles},
    plan::TearDown,
    pull_secrets,
    spec::{ContainerInput, container_spec, sandbox_spec, sub_paths},
    state::Observed,
    worker::short,
};
use crate::{
    cluster::PodEvent,
    images::ImageError,
    network::{Addresses, Sandbox},
    runtime::{self, Container, ContainerId, Image},
    volumes::Mounted,
};

/// How far the sandbox is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SandboxStage {
    /// Nothing yet.
    Pending,
    /// Created: containers can be created to live in it.
    Created(ContainerId),
    /// Running and on the network: they can be started.
    Ready(ContainerId, Addresses),
    /// It cannot be made now.
    Failed,
}

/// How far the volumes are.
#[derive(Clone, Debug)]
pub(super) enum VolumeStage {
    /// Not yet.
    Pending,
    /// There.
    Ready(Arc<Mounted>),
    /// They cannot be made now.
    Failed,
}

/// Why a container was not started.
#[derive(Debug)]
pub(super) enum StartFailure {
    /// The pod ends, or its sandbox or volumes could not be made: not the container's fault.
    Aborted,
    /// Its image is not there.
    Image(ImageError),
    /// Its configuration cannot be had.
    Config(String),
    /// The runtime did not create it.
    Create(runtime::Error),
    /// The runtime did not start it.
    Run(runtime::Error),
}

/// A container to start, and what it waits for.
pub(super) struct StartJob {
    pub pod: Arc<Pod>,
    pub spec: Spec,
    pub attempt: u32,
    pub sandbox: watch::Receiver<SandboxStage>,
    pub volumes: watch::Receiver<VolumeStage>,
    pub cancel: CancellationToken,
}

/// Makes a sandbox: its container, its network, the pod's `/etc/hosts`.
pub(super) async fn create_sandbox(
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    attempt: u32,
    stage: Arc<watch::Sender<SandboxStage>>,
) -> Result<(Container, Addresses), String> {
    let failed = |what: &str, error: &dyn std::error::Error| format!("Failed to create pod sandbox: {what}: {}", chain(error));
    let hostname =
        files::hostname(&pod, &ctx.dns.domain).map_err(|message| format!("Failed to create pod sandbox: {message}"))?;
    let parent = ctx.cgroups.pod_parent(&pod);
    let (groups, grouped) = (ctx.cgroups.clone(), pod.clone());
    let prepared = tokio::task::spawn_blocking(move || groups.prepare(&grouped)).await;
    prepared
        .map_err(|error| failed("cannot make its control group", &error))?
        .map_err(|error| failed("cannot make its control group", &error))?;
    let spec = sandbox_spec(&pod, &ctx.pause_image, &hostname, attempt, &parent, &ctx.node);
    let id = match ctx.metrics.timed("run_podsandbox", ctx.runtime.create(spec.clone())).await {
        // Left by a kubelet that died before it could start it.
        Err(runtime::Error::Conflict { .. }) => {
            remove_by_name(&ctx, &spec.labels).await.map_err(|error| failed("cannot remove its leftover", &error))?;
            ctx.runtime.create(spec).await
        }
        result => result,
    }
    .map_err(|error| failed("cannot create the sandbox container", &error))?;
    stage.send_replace(SandboxStage::Created(id.clone()));
    ctx.runtime.start(&id).await.map_err(|error| failed("cannot start the sandbox container", &error))?;
    connect_sandbox(ctx, pod, id, stage).await
}

/// Connects a running sandbox to the network.
pub(super) async fn connect_sandbox(
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    id: ContainerId,
    stage: Arc<watch::Sender<SandboxStage>>,
) -> Result<(Container, Addresses), String> {
    let failed = |what: &str, error: &dyn std::error::Error| format!("Failed to create pod sandbox: {what}: {}", chain(error));
    let inspected = ctx
        .metrics
        .timed("podsandbox_status", ctx.runtime.inspect(&id))
        .await
        .map_err(|error| failed("cannot inspect the sandbox container", &error))?;
    let container = inspected.filter(Container::is_running).ok_or("Failed to create pod sandbox: its container ended at once")?;
    let addresses = if pod.spec().host_network {
        Addresses::default()
    } else {
        let metadata = pod.metadata();
        let sandbox = Sandbox {
            pod_uid: metadata.uid.clone(),
            namespace: metadata.namespace.clone(),
            pod: metadata.name.clone(),
            attempt: container.labels.attempt,
            pid: container.pid,
        };
        ctx.network.attach(&sandbox).await.map_err(|error| failed("cannot set up its network", &*error))?
    };
    let files = PodFiles::new(ctx.volumes.pod_dir(&pod.metadata().uid));
    let (domain, own) = (ctx.dns.domain.clone(), addresses.clone());
    let written =
        tokio::task::spawn_blocking(move || files.prepare(&pod, &ctx.dns).and_then(|()| files.write_hosts(&pod, &own, &domain)));
    written
        .await
        .map_err(|error| failed("cannot write its files", &error))?
        .map_err(|error| failed("cannot write its files", &error))?;
    stage.send_replace(SandboxStage::Ready(id, addresses.clone()));
    Ok((container, addresses))
}

/// Makes the pod's volumes and files, or brings them up to date.
pub(super) async fn prepare_volumes(ctx: Arc<Context>, pod: Arc<Pod>) -> Result<Mounted, String> {
    let files = PodFiles::new(ctx.volumes.pod_dir(&pod.metadata().uid));
    let (context, owned) = (ctx.clone(), pod.clone());
    let made = tokio::task::spawn_blocking(move || files.prepare(&owned, &context.dns)).await;
    match made {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(format!("cannot write the pod's files: {error}")),
        Err(error) => return Err(error.to_string()),
    }
    ctx.volumes.prepare(&pod).await.map_err(|error| chain(&error))
}

/// Starts a container: image, configuration, creation, start.
pub(super) async fn start_container(ctx: Arc<Context>, job: StartJob) -> Result<Container, StartFailure> {
    let StartJob { pod, spec, attempt, mut sandbox, mut volumes, cancel } = job;
    let waiting = async {
        let image = ensure_image(&ctx, &pod, &spec).await?;
        let created = wait_created(&mut sandbox).await?;
        let addresses = if env::needs_address(&spec) { wait_ready(&mut sandbox).await?.1 } else { Addresses::default() };
        let mounted = wait_volumes(&mut volumes).await?;
        Ok((image, created, addresses, mounted))
    };
    let (image, sandbox_id, addresses, mounted) = tokio::select! {
        ready = waiting => ready?,
        () = cancel.cancelled() => return Err(StartFailure::Aborted),
    };
    let pod = with_addresses(pod, &addresses);
    let variables =
        env::environment(&*ctx.cluster, &ctx.node, &pod, &spec).await.map_err(|error| StartFailure::Config(error.to_string()))?;
    let files = PodFiles::new(ctx.volumes.pod_dir(&pod.metadata().uid));
    let parent = ctx.cgroups.pod_parent(&pod);
    let (context, owned, name) = (ctx.clone(), pod.clone(), spec.name.clone());
    // Messages and subPaths touch the disk.
    let made = tokio::task::spawn_blocking(move || {
        files.prepare_message(&spec.name, attempt).map_err(|error| error.to_string())?;
        let asked = sub_paths(&spec, &variables).map_err(|error| error.to_string())?;
        let uid = &owned.metadata().uid;
        let sub_paths = context.volumes.mount_sub_paths(uid, &spec, &mounted, &asked).map_err(|error| error.to_string())?;
        let input = ContainerInput {
            pod: &owned,
            container: &spec,
            attempt,
            sandbox: &sandbox_id,
            image: &image,
            variables,
            volumes: &mounted,
            sub_paths,
            files: &files,
            node: &context.node,
            cgroup_parent: &parent,
        };
        container_spec(input).map_err(|error| error.to_string())
    });
    let made = made.await.map_err(|error| StartFailure::Config(error.to_string()))?.map_err(StartFailure::Config)?;
    if cancel.is_cancelled() {
        return Err(StartFailure::Aborted);
    }
    let id = match ctx.metrics.timed("create_container", ctx.runtime.create(made.clone())).await {
        Err(runtime::Error::Conflict { .. }) => {
            remove_by_name(&ctx, &made.labels).await.map_err(StartFailure::Create)?;
            ctx.runtime.create(made).await
        }
        result => result,
    }
    .map_err(StartFailure::Create)?;
    ctx.cluster.event(&pod, PodEvent::normal("Created", format!("Created container: {name}")).about(&name));
    let ready = tokio::select! {
        ready = wait_ready(&mut sandbox) => ready,
        () = cancel.cancelled() => Err(StartFailure::Aborted),
    };
    if let Err(aborted) = ready {
        ctx.runtime.remove(&id).await.map_err(StartFailure::Create)?;
        return Err(aborted);
    }
    // preStart hooks would run here, postStart hooks after the start.
    ctx.metrics.timed("start_container", ctx.runtime.start(&id)).await.map_err(StartFailure::Run)?;
    info!(container = name, id = short(&id), attempt, "container started");
    ctx.cluster.event(&pod, PodEvent::normal("Started", format!("Started container {name}")).about(&name));
    let gone = || StartFailure::Run(runtime::Error::NotFound { message: "the container vanished".to_owned() });
    ctx.runtime.inspect(&id).await.map_err(StartFailure::Run)?.ok_or_else(gone)
}

async fn ensure_image(ctx: &Context, pod: &Pod, spec: &Spec) -> Result<Image, StartFailure> {
    let image = &spec.image;
    let pulling = || ctx.cluster.event(pod, PodEvent::normal("Pulling", format!("Pulling image {image:?}")).about(&spec.name));
    let credentials =
        pull_secrets::credentials(&*ctx.cluster, pod, image).await.map_err(|error| StartFailure::Config(error.to_string()))?;
    let present = ctx.images.ensure(image, &spec.image_pull_policy, credentials, pulling).await.map_err(StartFailure::Image)?;
    let message = match present.pulled {
        None => format!("Container image {image:?} already present on machine"),
        Some(took) => {
            info!(container = spec.name, image, seconds = took.as_secs_f64(), "image pulled");
            ctx.metrics.image_pulled(took);
            let took = format!("{:.3}s", took.as_secs_f64());
            format!(
                "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {} bytes.",
                present.image.size
            )
        }
    };
    ctx.cluster.event(pod, PodEvent::normal("Pulled", message).about(&spec.name));
    Ok(present.image)
}

async fn wait_created(stage: &mut watch::Receiver<SandboxStage>) -> Result<ContainerId, StartFailure> {
    let stage = stage.wait_for(|stage| *stage != SandboxStage::Pending).await.map_err(|_| StartFailure::Aborted)?;
    match &*stage {
        SandboxStage::Created(id) | SandboxStage::Ready(id, _) => Ok(id.clone()),
        _ => Err(StartFailure::Aborted),
    }
}

async fn wait_ready(stage: &mut watch::Receiver<SandboxStage>) -> Result<(ContainerId, Addresses), StartFailure> {
    let wanted = |stage: &SandboxStage| matches!(stage, SandboxStage::Ready(..) | SandboxStage::Failed);
    let stage = stage.wait_for(wanted).await.map_err(|_| StartFailure::Aborted)?;
    match &*stage {
        SandboxStage::Ready(id, addresses) => Ok((id.clone(), addresses.clone())),
        _ => Err(StartFailure::Aborted),
    }
}

async fn wait_volumes(stage: &mut watch::Receiver<VolumeStage>) -> Result<Arc<Mounted>, StartFailure> {
    let stage = stage.wait_for(|stage| !matches!(stage, VolumeStage::Pending)).await.map_err(|_| StartFailure::Aborted)?;
    match &*stage {
        VolumeStage::Ready(mounted) => Ok(mounted.clone()),
        _ => Err(StartFailure::Aborted),
    }
}

/// The pod with its addresses in its status, for fields that name them.
fn with_addresses(pod: Arc<Pod>, addresses: &Addresses) -> Arc<Pod> {
    let Some(primary) = addresses.primary() else { return pod };
    let mut pod = Arc::unwrap_or_clone(pod);
    let status = pod.status_mut();
    status.pod_ip = primary.to_string();
    status.pod_ips = addresses.by_family().map(|address| PodIp { ip: address.to_string() }).collect();
    Arc::new(pod)
}

async fn remove_by_name(ctx: &Context, labels: &runtime::Labels) -> runtime::Result<()> {
    for found in ctx.runtime.list(Some(&labels.uid)).await? {
        if found.labels.container == labels.container && found.labels.attempt == labels.attempt && !found.running {
            ctx.runtime.remove(&found.id).await?;
        }
    }
    Ok(())
}

/// Takes down a pod's sandbox, or everything of it. Can be repeated; stops at the first failure.
pub(super) async fn tear_down(ctx: Arc<Context>, uid: String, what: TearDown) -> Result<(), String> {
    let told = |error: &dyn std::error::Error| chain(error);
    let mut doomed = ctx.runtime.list(Some(&uid)).await.map_err(|error| told(&error))?;
    doomed.retain(|container| what == TearDown::Everything || container.labels.is_sandbox());
    // Application containers first: they live in the sandbox's namespaces.
    doomed.sort_by_key(|container| container.labels.is_sandbox());
    for container in doomed {
        ctx.runtime.remove(&container.id).await.map_err(|error| told(&error))?;
    }
    ctx.network.detach(&uid).await.map_err(|error| told(&*error))?;
    if what == TearDown::Everything {
        ctx.volumes.remove(&uid).await.map_err(|error| told(&error))?;
        let (groups, owned) = (ctx.cgroups.clone(), uid);
        tokio::task::spawn_blocking(move || groups.remove(&owned)).await.map_err(|error| told(&error))?;
    }
    Ok(())
}

/// Looks at all containers of a pod.
pub(super) async fn observe(ctx: &Context, uid: &str) -> runtime::Result<Observed> {
    let mut containers = Vec::new();
    for summary in ctx.metrics.timed("list_containers", ctx.runtime.list(Some(uid))).await? {
        containers.extend(ctx.metrics.timed("container_status", ctx.runtime.inspect(&summary.id)).await?);
    }
    Ok(with_sandbox_addresses(ctx, uid, Observed::new(containers)))
}

/// What is observed with the addresses that the network knows.
pub(super) fn with_sandbox_addresses(ctx: &Context, uid: &str, mut observed: Observed) -> Observed {
    let attached = observed.sandbox().map(|sandbox| ctx.network.addresses(uid, sandbox.labels.attempt));
    observed.addresses = attached.unwrap_or_default();
    observed
}
