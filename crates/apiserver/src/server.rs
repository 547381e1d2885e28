//! Wiring: store, identity, pipeline and services behind one TLS port.
//!
//! ```text
//! TLS ─► authenticate ─► limit ─► tonic services ─► authorise ─► pipeline ─► store
//! ```

use std::{
    convert::Infallible,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use api::{
    StatusError,
    ferrokube::v1::{objects_server::ObjectsServer, pods_server::PodsServer},
    status::Reason,
};
use axum::{
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use daemon::{
    Kit,
    serve::HttpOptions,
    tls::{self, ClientAuth, IncomingOptions, PeerInfo, Pem},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;

use crate::{
    admission,
    args::Args,
    auth::{Credentials, Identity, IdentityConfig},
    bootstrap,
    grpc::{Kubelets, KubeletsConfig, Server, Services, answers},
    layout,
    metrics::{RequestMetrics, StoreMetrics},
    pipeline::Pipeline,
    strategies,
};

/// Largest message taken: more than any object may have, so that one that is too large gets an answer that says so.
const MAX_MESSAGE: usize = 8 << 20;
/// How long a request waits for its turn when too many are handled already.
const TURN: Duration = Duration::from_secs(5);
/// What needs no credentials: health and version.
const PUBLIC: &[&str] = &["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/ferrokube.v1.Objects/Version"];
/// What metrics call the method of a request that reaches none.
const OTHER: &str = "other";
/// Requests that last as long as their client likes; they take no turn.
const STREAMS: &[&str] = &["/Watch", "/Logs", "/Exec", "/Attach", "/PortForward", "/ServerReflectionInfo"];

/// Starts the API server: spawns its tasks and returns once they run.
///
/// # Errors
/// When a file cannot be used or the port is taken.
pub async fn run(args: Args, kit: Kit) -> anyhow::Result<()> {
    let shutdown = kit.shutdown.clone();
    let files =
        store::TlsFiles { ca: args.etcd_cafile.clone(), cert: args.etcd_certfile.clone(), key: args.etcd_keyfile.clone() };
    let config = store::Config::new(args.etcd_servers.clone(), Some(files));
    let (store, runner) =
        store::Store::new(config, layout::layouts(Duration::from_secs(args.event_ttl_seconds))).context("etcd")?;
    let (filled, known) = (kit.health.ready_gate("etcd"), kit.health.ready_gate("identity"));
    // What is under way when the shutdown begins still reads and writes: the store ends after the last who uses it.
    let store_unused = CancellationToken::new();
    let store_in_use = Arc::new(store_unused.clone().drop_guard());
    kit.tasks.spawn_infallible("store", runner.run(store_unused));

    let file = |path: &std::path::PathBuf| Pem::File(path.clone());
    let serving = tls::server_tls(
        file(&args.tls_cert_file),
        file(&args.tls_private_key_file),
        file(&args.client_ca_file),
        ClientAuth::Optional,
    )?;
    let address = SocketAddr::new(args.bind_address, args.secure_port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    kit.tasks.spawn("certificates", serving.clone().watch(shutdown.clone()));

    let identity = Arc::new(Identity::new(&store, identity_config(&args)).context("identity")?);
    kit.tasks.spawn_infallible("identity", identity.clone().run(shutdown.clone()));
    let admission_config = admission::AdmissionConfig {
        service_cidr: args.service_cluster_ip_range,
        node_ports: args.service_node_port_range.clone(),
        cluster_cidr: args.cluster_cidr,
        plugins: admission::Plugins::new(args.enable_admission_plugins.clone(), args.disable_admission_plugins.clone())?,
    };
    let chain = admission::chain(&store, &admission_config).with_all(identity.plugins());
    let pipeline = Arc::new(Pipeline::new(store.clone(), strategies::all(), chain));
    let kubelets = Kubelets::new(KubeletsConfig {
        certificate_authority: args.kubelet_certificate_authority.clone(),
        certificate: args.kubelet_client_certificate.clone(),
        key: args.kubelet_client_key.clone(),
    });
    let reachable =
        args.advertised().context("cannot find an address that others reach this server at: set --advertise-address")?;
    let advertised = bootstrap::Advertised {
        address: SocketAddrV4::new(reachable, args.secure_port),
        services: args.service_cluster_ip_range,
    };
    let bootstrap = bootstrap::run(pipeline.clone(), advertised, kit.health.ready_gate("bootstrap"), shutdown.clone());
    kit.tasks.spawn_infallible("bootstrap", using(store_in_use.clone(), bootstrap));
    kit.tasks.spawn_infallible("allocations", admission::repair(store.clone(), shutdown.token().clone()));

    let server = Arc::new(Server { pipeline, identity: identity.clone(), kubelets, shutdown: shutdown.clone() });
    let (health, follow) = daemon::rpc::health(&kit.health, &["ferrokube.v1.Objects", "ferrokube.v1.Pods"], shutdown.clone());
    kit.tasks.spawn_infallible("health", follow);
    let services = Services(server);
    let routes = Routes::new(health)
        .add_service(daemon::rpc::reflection(&[api::FILE_DESCRIPTOR_SET])?)
        .add_service(daemon::rpc::reflection_v1alpha(&[api::FILE_DESCRIPTOR_SET])?)
        .add_service(
            ObjectsServer::new(services.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(usize::MAX),
        )
        .add_service(PodsServer::new(services).max_decoding_message_size(MAX_MESSAGE));
    let (metrics, of_store) = (RequestMetrics::register(&kit.metrics), StoreMetrics(store.clone()));
    kit.metrics.register(|registry| registry.register_collector(Box::new(of_store)));
    let gate = Arc::new(FrontDoor { identity: identity.clone(), turns: Semaphore::new(args.max_requests_inflight), metrics });
    let router = routes.prepare().into_axum_router().layer(middleware::from_fn_with_state(gate, admit));

    let incoming = tls::server(listener, serving, IncomingOptions::default(), shutdown.clone());
    let serve = daemon::serve::serve(incoming, router, HttpOptions::default(), shutdown.clone());
    kit.tasks.spawn_infallible("server", using(store_in_use, serve));
    tracing::info!(%address, "serving");

    let opened = async {
        store.ready().await;
        filled.open();
        identity.ready().await;
        known.open();
    };
    tokio::select! {
        () = opened => {}
        () = shutdown.started() => {}
    }
    Ok(())
}

/// A task that keeps the store running until it ends.
async fn using(store: Arc<DropGuard>, task: impl Future<Output = ()>) {
    task.await;
    drop(store);
}

fn identity_config(args: &Args) -> IdentityConfig {
    let audiences =
        if args.api_audiences.is_empty() { vec![args.service_account_issuer.clone()] } else { args.api_audiences.clone() };
    IdentityConfig {
        issuer: args.service_account_issuer.clone(),
        audiences,
        signing_key_file: args.service_account_signing_key_file.clone(),
        key_files: args.service_account_key_file.clone(),
    }
}

/// What every request passes first.
struct FrontDoor {
    identity: Arc<Identity>,
    turns: Semaphore,
    metrics: RequestMetrics,
}

/// Finds out who asks, and lets no more requests in than are to be handled at once.
async fn admit(State(door): State<Arc<FrontDoor>>, mut request: Request, next: Next) -> Result<Response, Infallible> {
    let refuse = |error: StatusError| {
        let status = tonic::Status::from(error);
        door.metrics.answered(OTHER, status.code(), None);
        Ok(status.into_http())
    };
    let path = request.uri().path().to_owned();
    let user = match door.identity.authenticate(&credentials(&request)).await {
        Ok(user) => user,
        Err(error) => return refuse(error),
    };
    if !user.in_group("system:authenticated") && !PUBLIC.contains(&path.as_str()) {
        return refuse(StatusError::new(
            Reason::Unauthorized,
            "Unauthorized: a client certificate or bearer token is wanted here",
        ));
    }
    request.extensions_mut().insert(Arc::new(user));
    if STREAMS.iter().any(|stream| path.ends_with(stream)) {
        let response = answers::presentable(next.run(request).await);
        door.count(&path, &response, None);
        return Ok(response);
    }
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN, door.turns.acquire()).await else {
        return refuse(StatusError::too_many_requests("the server has too many requests to handle; please try again later", 1));
    };
    let begun = Instant::now();
    let response = answers::presentable(next.run(request).await);
    door.count(&path, &response, Some(begun.elapsed()));
    Ok(response)
}

impl FrontDoor {
    fn count(&self, path: &str, response: &Response, took: Option<Duration>) {
        let status = response.extensions().get::<tonic::Status>();
        let code = status.map_or(tonic::Code::Ok, tonic::Status::code);
        // A method that is not served may have any name.
        let served = code != tonic::Code::Unimplemented || status.is_some_and(|status| !status.details().is_empty());
        if served { self.metrics.answered(path, code, took) } else { self.metrics.answered(OTHER, code, None) }
    }
}

fn credentials(request: &Request) -> Credentials {
    let authorization = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = authorization.and_then(|text| text.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Credentials {
        certificate: request.extensions().get::<PeerInfo>().and_then(|peer| peer.identity.clone()),
        token: token.map(|(_, token)| token.trim().to_owned()),
    }
}
