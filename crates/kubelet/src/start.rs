//! Wiring: from flags to the running parts.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::{
    Resource as _,
    core::v1::{Node, Pod, Service},
};
use client::{Client, EventRecorder, Informers, Scope};
use daemon::{
    Kit,
    serve::HttpOptions,
    tls::{self, ClientAuth, IncomingOptions, Pem},
};
use tokio::{
    net::{TcpListener, lookup_host},
    sync::{Notify, watch},
};
use tracing::{debug, info, warn};

use crate::{
    Args,
    api_server::ApiServer,
    cgroups::Cgroups,
    images::Images,
    manager::{self, OwnNode, Pods},
    metrics::KubeletMetrics,
    network::{self, Bridge},
    node::{Agent, Machine, NodeConfig, follow_peers, keep_lease},
    pod::{Context, fields::NodeFacts, files::Dns},
    running::Running,
    runtime::{self, Docker, PauseError, Runtime, ensure_pause_image},
    server::NodeService,
    stats::Stats,
    volumes::{self, Volumes},
};

/// Pause before an engine that is not there yet is asked again.
const ENGINE_RETRY: Duration = Duration::from_secs(1);
/// What one stream from the API server may send before it is read, bytes.
const STREAM_WINDOW: u32 = 64 << 10;

/// Why the kubelet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The API server's address or our identity is missing or wrong.
    #[error("cannot use the client configuration")]
    Client(#[from] client::ConfigError),
    /// The pod network's flags or the kernel's.
    #[error("cannot open the pod network")]
    Network(#[from] network::Error),
    /// The sandbox's image.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// The state directory.
    #[error("cannot make the state directory {path}")]
    RootDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody would see our mounts.
    #[error(
        "the kubelet's mounts are not seen by the rest of the host, so pods would find their Secrets and memory volumes empty: run it in the \
         host's mount namespace; in a systemd unit remove PrivateTmp=, PrivateDevices=, PrivateMounts=, ProtectSystem=, ProtectHome=, \
         ProtectKernelLogs=, ProtectKernelModules=, ProtectKernelTunables=, ProtectControlGroups=, ReadOnlyPaths=, ReadWritePaths=, \
         InaccessiblePaths=, BindPaths=, TemporaryFileSystem=, RootDirectory= and their like"
    )]
    MountNamespace,
    /// Whether they are seen cannot be told.
    #[error("cannot make a mount below {path} and look for it in /proc/1/mountinfo")]
    MountCheck {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The serving certificate.
    #[error("cannot use the serving certificate")]
    Tls(#[from] tls::TlsError),
    /// The port is not to be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The node's own address is not known.
    #[error("cannot tell the node's address; give it with --node-ip")]
    NoAddress,
    /// This program's own place is not known.
    #[error("cannot tell where this program is; give the pause binary with --pause-binary")]
    NoProgram(#[source] std::io::Error),
    /// Control groups would be systemd's to make.
    #[error("the Docker Engine leaves control groups to systemd: start it with --exec-opt native.cgroupdriver=cgroupfs")]
    CgroupDriver,
    /// The schema for reflection.
    #[error("cannot serve reflection")]
    Reflection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The daemon was asked to end before it had begun.
    #[error("asked to end while starting")]
    Ended,
}

/// Starts the kubelet's parts as tasks of the kit.
///
/// # Errors
/// When flags, files or the machine do not let it start.
pub async fn run(args: Args, kit: Kit) -> Result<(), StartError> {
    let config = client::Config::load(&args.client)?;
    let address = match args.node_ip {
        Some(address) => address,
        None => own_address(&config).await.ok_or(StartError::NoAddress)?,
    };
    let client = Client::new(config.named("kubelet"))?;
    run_with(args, client, address, kit).await
}

/// As [`run`], for a client that is there already and a node whose address is known.
///
/// # Errors
/// As those of [`run`].
pub async fn run_with(mut args: Args, client: Client, address: Ipv4Addr, kit: Kit) -> Result<(), StartError> {
    // Containers run as other users: what is made for them must be readable, whatever umask the kubelet was started with.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    args.root_dir = state_dir(&args.root_dir)?;
    let machine = Machine::detect(&args.root_dir);
    let name = args.hostname_override.clone().unwrap_or_else(|| machine.hostname.clone());
    let node = Arc::new(NodeFacts {
        name: name.clone(),
        address: address.to_string(),
        cpu_milli: machine.cores * 1000,
        memory: machine.allocatable_memory(),
        storage: machine.allocatable_storage(),
        oom_score_floor: crate::node::oom_score_floor(),
        app_armor: crate::node::has_app_armor(),
    });
    let allocatable = machine.allocatable(args.max_pods);
    let cidr = args.cluster_cidr;
    let network = Arc::new(Bridge::open(&args.root_dir.join("network"), cidr)?);
    let docker = connect_engine(&args, &kit).await?;
    kit.tasks.spawn("control-groups", check_control_groups(docker.clone(), kit.shutdown.clone()));
    let docker: Arc<dyn Runtime> = Arc::new(docker);
    let pause = pause_binary(&args)?;
    let pause_image = ensure_pause_image(&*docker, &pause).await?;

    let recorder = EventRecorder::spawn(client.clone(), "kubelet", &name, &kit);
    let informers = Informers::new(client.clone(), kit.clone());
    informers.transform::<Pod>(|pod| pod.metadata_mut().managed_fields.clear());
    informers.transform::<Service>(|service| service.metadata_mut().managed_fields.clear());
    let own = name.clone();
    informers.transform::<Node>(move |node| slim_node(node, &own));
    let changed = Arc::new(Notify::new());
    let (state, runtime_state) = watch::channel(Ok(()));
    let (network_reports, network_state) = watch::channel(None);
    let agent = Agent {
        client: client.clone(),
        recorder: recorder.clone(),
        config: NodeConfig {
            name: name.clone(),
            address,
            labels: args.node_labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            taints: args.register_with_taints.clone(),
            max_pods: args.max_pods,
            port: args.port,
        },
        machine,
        runtime: docker.clone(),
        runtime_state,
        network_state,
        changed: changed.clone(),
        nodes: informers.of::<Node>(),
    };
    let pods = Pods::default();
    let listeners = pods.clone();
    let cluster = Arc::new(ApiServer::new(
        client.clone(),
        recorder,
        informers.of::<Service>(),
        Arc::new(move |reference| listeners.source_changed(reference)),
    ));
    let cgroups = Cgroups::new(&args.cgroup_root);
    let metrics = KubeletMetrics::new(&kit.metrics);
    metrics.name_node(&name);
    let running = Running::new(metrics.clone());
    let context = Arc::new(Context {
        runtime: docker.clone(),
        network: network.clone(),
        cluster: cluster.clone(),
        volumes: Volumes::new(&args.root_dir, cluster, node.clone()),
        images: Images::new(docker.clone(), changed.clone()),
        cgroups: cgroups.clone(),
        metrics,
        running: running.clone(),
        node,
        dns: Dns { servers: args.cluster_dns.clone(), domain: args.cluster_domain.clone(), host_file: args.resolv_conf.clone() },
        pause_image,
    });
    let stats = Arc::new(Stats::new(pods.clone(), running, cgroups, args.cgroup_root.clone()));
    let left = docker.clone();
    tokio::spawn(async move {
        if let Err(error) = runtime::exec::end_leftovers(&*left).await {
            warn!(error = &error as &dyn std::error::Error, "cannot look for commands that an earlier kubelet left");
        }
    });
    spawn(&kit, "stats", stats.clone().keep_looking());
    serve(&args, address, NodeService { runtime: docker.clone(), pods: pods.clone(), stats }, &kit).await?;

    let scope = Scope { field_selector: format!("spec.nodeName={name}"), ..Scope::default() };
    let own_pods = informers.with::<Pod>(scope);
    let nodes = informers.of::<Node>();
    let own_node = OwnNode::new(nodes.clone(), name.clone(), allocatable);
    spawn(&kit, "network", follow_peers(network, cidr, nodes, name.clone(), network_reports));
    spawn(&kit, "container-events", manager::route_events(docker.clone(), pods.clone(), state));
    spawn(&kit, "pods", manager::run(context, pods, own_pods, own_node));
    let reported = kit.health.ready_gate("node-status");
    spawn(&kit, "node", async move {
        let node = agent.register().await;
        let uid = node.metadata().uid.clone();
        tokio::join!(keep_lease(client, name, uid), agent.run(node, reported));
    });
    Ok(())
}

/// Makes the state directory, for the kubelet alone and where its mounts are seen; says its path as the kernel lists mounts by it.
fn state_dir(root: &Path) -> Result<PathBuf, StartError> {
    let path = || root.to_owned();
    let made = volumes::private_root(root).and_then(|()| root.canonicalize());
    let made = made.map_err(|source| StartError::RootDir { path: path(), source })?;
    match volumes::reaches_the_host(&made) {
        Ok(true) => Ok(made),
        Ok(false) => Err(StartError::MountNamespace),
        Err(source) => Err(StartError::MountCheck { path: path(), source }),
    }
}

/// Runs a critical task until the shutdown begins. Wherever it is then it is dropped: what it left half done is found again at the next start, as
/// after a kill.
fn spawn(kit: &Kit, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    let shutdown = kit.shutdown.clone();
    kit.tasks.spawn_infallible(name, async move {
        tokio::select! {
            () = shutdown.started() => {}
            () = task => {}
        }
    });
}

/// Of the other nodes only their pods' network and their address matter here; of our own what pods may use, too.
fn slim_node(node: &mut Node, own: &str) {
    node.metadata_mut().managed_fields.clear();
    node.metadata_mut().annotations.clear();
    let status = node.status_mut();
    status.images.clear();
    status.conditions.clear();
    status.capacity.clear();
    if node.name() != own {
        node.status_mut().allocatable.clear();
    }
}

/// Pods' control groups are plain directories, so the engine must make its own in the same way. An engine that is slow to say so holds nothing up:
/// one that would not refuses pods' groups by itself.
async fn check_control_groups(docker: Docker, shutdown: daemon::Shutdown) -> Result<(), StartError> {
    let asking = async {
        loop {
            match docker.makes_cgroups().await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(StartError::CgroupDriver),
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, "the Docker Engine does not say who makes control groups")
                }
            }
            tokio::time::sleep(ENGINE_RETRY).await;
        }
    };
    tokio::select! {
        checked = asking => checked?,
        () = shutdown.started() => {}
    }
    shutdown.started().await;
    Ok(())
}

/// Waits for the engine.
async fn connect_engine(args: &Args, kit: &Kit) -> Result<Docker, StartError> {
    let mut told = false;
    loop {
        let asked = match Docker::connect(&args.docker_socket).await {
            Ok(docker) => docker.version().await.map(|version| (docker, version)),
            Err(error) => Err(error),
        };
        match asked {
            Ok((docker, version)) => {
                info!(version, "Docker Engine found");
                return Ok(docker);
            }
            Err(error) if !told => {
                told = true;
                warn!(socket = %args.docker_socket.display(), error = &error as &dyn std::error::Error, "waiting for the Docker Engine");
            }
            Err(runtime::Error::Unreachable(_)) | Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(ENGINE_RETRY) => {}
            () = kit.shutdown.started() => return Err(StartError::Ended),
        }
    }
}

fn pause_binary(args: &Args) -> Result<PathBuf, StartError> {
    match &args.pause_binary {
        Some(path) => Ok(path.clone()),
        None => Ok(std::env::current_exe().map_err(StartError::NoProgram)?.with_file_name("pause")),
    }
}

/// The address from which this machine reaches the API server.
async fn own_address(config: &client::Config) -> Option<Ipv4Addr> {
    for server in &config.servers {
        let host = server.host()?.trim_matches(['[', ']']);
        let found: Vec<SocketAddr> =
            lookup_host((host, server.port_u16().unwrap_or(443))).await.map(Iterator::collect).unwrap_or_default();
        let address = found.into_iter().map(|found| found.ip()).filter(IpAddr::is_ipv4).find_map(crate::node::address_towards);
        if address.is_some() {
            return address;
        }
    }
    None
}

async fn serve(args: &Args, node: Ipv4Addr, service: NodeService, kit: &Kit) -> Result<(), StartError> {
    let address = SocketAddr::from((args.address.unwrap_or(node), args.port));
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
    let file = |path: &PathBuf| Pem::File(path.clone());
    let server_tls = tls::server_tls(
        file(&args.tls_cert_file),
        file(&args.tls_private_key_file),
        file(&args.client_ca_file),
        ClientAuth::Required,
    )?;
    kit.tasks.spawn("certificates", server_tls.clone().watch(kit.shutdown.clone()));
    let (health, follow) = daemon::rpc::health(&kit.health, &["ferrokube.v1.Kubelet"], kit.shutdown.clone());
    kit.tasks.spawn_infallible("grpc-health", follow);
    let reflection =
        daemon::rpc::reflection(&[api::FILE_DESCRIPTOR_SET]).map_err(|error| StartError::Reflection(Box::new(error)))?;
    let routes = tonic::service::Routes::new(service.only_for(&args.api_server_name)).add_service(health).add_service(reflection);
    let incoming = tls::server(listener, server_tls, IncomingOptions::default(), kit.shutdown.clone());
    let serving = daemon::serve::serve(incoming, routes.into_axum_router(), http_options(), kit.shutdown.clone());
    kit.tasks.spawn_infallible("grpc", serving);
    info!(%address, "serving the API server");
    Ok(())
}

/// Standard input that a process does not read stays in its stream's window: all of them together must not fill the connection's, or they
/// hold up everything else that is asked of this node.
fn http_options() -> HttpOptions {
    let options = HttpOptions::default();
    HttpOptions { stream_window: STREAM_WINDOW, connection_window: options.max_streams * STREAM_WINDOW, ..options }
}
