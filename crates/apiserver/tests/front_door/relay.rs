//! Output that is passed on from kubelets, to clients that read it and to clients that do not.

use std::{pin::Pin, time::Duration};

use api::{
    core::v1::{Node, Pod},
    ferrokube::v1::{
        ExecRequest, ExecResponse, LogsRequest, LogsResponse, PodRef, PortForwardRequest, PortForwardResponse, StatsRequest,
        StatsResponse,
        kubelet_server::{Kubelet, KubeletServer},
        pods_client::PodsClient,
    },
};
use bytes::Bytes;
use client::{Api, Patch};
use daemon::{
    pki::{Request, Usage},
    serve::{HttpOptions, serve},
    tls::{self, ClientAuth, IncomingOptions, Pem},
};
use futures::{Stream, StreamExt, stream};
use serde_json::json;
use tokio::net::TcpListener;
use tonic::{Response, Status, Streaming, service::Routes};

use crate::support::{HOUR, World, object, request};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A kubelet's port behind which every container writes without end.
struct Talkative;

#[tonic::async_trait]
impl Kubelet for Talkative {
    type LogsStream = Answers<LogsResponse>;
    type ExecStream = Answers<ExecResponse>;
    type AttachStream = Answers<ExecResponse>;
    type PortForwardStream = Answers<PortForwardResponse>;

    async fn logs(&self, _: tonic::Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let piece = Bytes::from(vec![b'x'; 32 << 10]);
        Ok(Response::new(stream::repeat_with(move || Ok(LogsResponse { data: piece.clone() })).boxed()))
    }

    async fn exec(&self, _: tonic::Request<Streaming<ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented("exec"))
    }

    async fn attach(&self, _: tonic::Request<Streaming<ExecRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("attach"))
    }

    async fn port_forward(
        &self,
        _: tonic::Request<Streaming<PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        Err(Status::unimplemented("port-forward"))
    }

    async fn stats(&self, _: tonic::Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        Err(Status::unimplemented("stats"))
    }
}

/// A node whose kubelet is this one, and a pod on it.
async fn node(world: &World) {
    let serving = Request {
        addresses: vec!["127.0.0.1".parse().unwrap()],
        usage: Usage::Server,
        ..request("system:node:n1", Some("system:nodes"), HOUR)
    };
    let pair = world.ca.issue(&serving).unwrap();
    let pem = |text: &str| Pem::Inline(text.as_bytes().to_vec());
    let ca = pem(world.ca.certificate_pem());
    let tls = tls::server_tls(pem(&pair.public_pem), pem(&pair.private_pem), ca, ClientAuth::Required).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = world.kit.shutdown.clone();
    let incoming = tls::server(listener, tls, IncomingOptions::default(), shutdown.clone());
    let router = Routes::new(KubeletServer::new(Talkative)).prepare().into_axum_router();
    tokio::spawn(serve(incoming, router, HttpOptions::default(), shutdown));

    let nodes: Api<Node> = world.admin().all();
    nodes.create(&object(json!({"metadata": {"name": "n1"}}))).await.unwrap();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}
    }});
    nodes.patch_status("n1", &Patch::Merge(status)).await.unwrap();
    let pods: Api<Pod> = world.admin().namespaced("kube-system");
    let accounts: Api<api::core::v1::ServiceAccount> = world.admin().namespaced("kube-system");
    accounts.create(&object(json!({"metadata": {"name": "default"}}))).await.unwrap();
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i:1"}]});
    pods.create(&object(json!({"metadata": {"name": "talks"}, "spec": spec}))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_nobody_reads_holds_up_nobody_who_does() {
    let world = World::new().await;
    node(&world).await;
    let logs = || LogsRequest {
        pod: Some(PodRef { namespace: "kube-system".to_owned(), name: "talks".to_owned(), uid: String::new() }),
        follow: true,
        ..LogsRequest::default()
    };
    let mut unread = Vec::new();
    for _ in 0..40 {
        // Each over a connection of its own, so that it is not the client that holds the next one up.
        unread.push(PodsClient::new(world.transport()).logs(logs()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut read = PodsClient::new(world.transport()).logs(logs()).await.unwrap().into_inner();
    let all = async {
        let mut bytes = 0;
        while bytes < 8 << 20 {
            bytes += read.message().await.unwrap().unwrap().data.len();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("it is held up by those that nobody reads");
    drop(unread);
}
