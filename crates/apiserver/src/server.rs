//! Wiring: store, identity, pipeline and services behind one TLS port.
//!
//! ```text
//! TLS ─► gate: authenticate, count, read ─► front end: parse ─► call: resolve, authorise, turn, decode ─► pipeline ─► store
//! ```

use std::{
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
};

use anyhow::Context;
use api::ferrokube::v1::{objects_server::ObjectsServer, pods_server::PodsServer};
use axum::middleware;
use daemon::{
    Kit,
    serve::HttpOptions,
    tls::{self, ClientAuth, IncomingOptions, Pem},
};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;

use crate::{
    admission,
    args::Args,
    auth::{Identity, IdentityConfig},
    bootstrap,
    call::Server,
    gate::{Gate, MAX_MESSAGE, admit},
    grpc::Services,
    kubelets::{Kubelets, KubeletsConfig},
    layout,
    metrics::StoreMetrics,
    pipeline::Pipeline,
    strategies, subresource,
};

/// Starts the API server: spawns its tasks and returns once they run.
///
/// # Errors
/// When a file cannot be used or the port is taken.
pub async fn run(args: Args, kit: Kit) -> anyhow::Result<()> {
    let shutdown = kit.shutdown.clone();
    let files =
        store::TlsFiles { ca: args.etcd_cafile.clone(), cert: args.etcd_certfile.clone(), key: args.etcd_keyfile.clone() };
    let config = store::Config::new(args.etcd_servers.clone(), Some(files));
    let (store, runner) = store::Store::new(config, layout::layouts(args.event_ttl)).context("etcd")?;
    let registry = Arc::new(api::Registry::compiled());
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
    let pipeline = Arc::new(Pipeline::new(store.clone(), registry, strategies::all(), chain));
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

    let server = Arc::new(Server { pipeline, identity: identity.clone(), kubelets, subresources: subresource::ALL });
    let (health, follow) = daemon::rpc::health(&kit.health, &["ferrokube.v1.Objects", "ferrokube.v1.Pods"], shutdown.clone());
    kit.tasks.spawn_infallible("health", follow);
    let services = Services { server: server.clone(), shutdown: shutdown.clone() };
    let routes = Routes::new(health)
        .add_service(daemon::rpc::reflection(&[api::FILE_DESCRIPTOR_SET])?)
        .add_service(daemon::rpc::reflection_v1alpha(&[api::FILE_DESCRIPTOR_SET])?)
        .add_service(
            ObjectsServer::new(services.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(usize::MAX),
        )
        .add_service(PodsServer::new(services).max_decoding_message_size(MAX_MESSAGE));
    let of_store = StoreMetrics(store.clone());
    let of_etcd = store.counters().latencies.family();
    kit.metrics.register(|registry| {
        registry.register_collector(Box::new(of_store));
        registry.register("etcd_request_duration_seconds", "Time that requests to etcd about objects take", of_etcd);
    });
    let gate = Arc::new(Gate::new(server, args.max_requests_inflight, args.max_streams_per_user, &kit));
    kit.tasks.spawn_infallible("memory", gate.clone().give_memory_back(shutdown.clone()));
    let router = routes.prepare().into_axum_router().layer(middleware::from_fn_with_state(gate, admit));

    let incoming = tls::server(listener, serving, IncomingOptions::default(), shutdown.clone());
    let serve = daemon::serve::serve(incoming, router, HttpOptions::default(), shutdown.clone());
    kit.tasks.spawn_infallible("server", using(store_in_use, serve));
    tracing::info!(%address, "serving");

    kit.tasks.spawn_infallible("etcd-readiness", follow_etcd(store, filled, shutdown.clone()));
    tokio::select! {
        () = identity.ready() => known.open(),
        () = shutdown.started() => {}
    }
    Ok(())
}

/// Keeps the gate open while the caches are filled and etcd answers.
async fn follow_etcd(store: store::Store, gate: daemon::Gate, shutdown: daemon::Shutdown) {
    let mut quorum = store.etcd().quorum();
    loop {
        let (state, filled) = (quorum.borrow_and_update().clone(), store.is_ready());
        match state {
            store::Quorum::Lost(why) => gate.close(format!("etcd has no quorum: {why}")),
            store::Quorum::Held | store::Quorum::Unknown if filled => gate.open(),
            store::Quorum::Held | store::Quorum::Unknown => gate.close("the caches are not filled yet"),
        }
        tokio::select! {
            // It cannot fail: the sender lives in the store.
            _ = quorum.changed() => {}
            () = store.ready(), if !filled => {}
            () = shutdown.started() => return,
        }
    }
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
