//! Output that is passed on from kubelets, to clients that read it and to clients that do not, and input to processes that do not read it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{
    core::v1::{Node, Pod},
    ferrokube::v1::{
        ExecRequest, ExecResponse, ExecStart, LogsRequest, LogsResponse, PodRef, PortForwardRequest, PortForwardResponse,
        StatsRequest, StatsResponse, exec_request, exec_response,
        kubelet_server::{Kubelet, KubeletServer},
        pods_client::PodsClient,
    },
};
use bytes::Bytes;
use client::{Api, OwnConnection, Patch};
use daemon::{
    pki::{Request, Usage},
    serve::{HttpOptions, serve},
    tls::{self, ClientAuth, IncomingOptions, Pem},
};
use futures::{Stream, StreamExt, stream};
use serde_json::json;
use tokio::net::TcpListener;
use tonic::{Response, Status, Streaming, service::Routes};

use crate::support::{HOUR, World, eventually, object, request};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A kubelet's port behind which every container writes without end, and processes never read their input. `true` ends at once.
#[derive(Default)]
struct Talkative {
    processes: Arc<AtomicUsize>,
}

/// A process that runs until it is dropped.
struct Process(Arc<AtomicUsize>);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Kubelet for Talkative {
    type LogsStream = Answers<LogsResponse>;
    type ExecStream = Answers<ExecResponse>;
    type AttachStream = Answers<ExecResponse>;
    type PortForwardStream = Answers<PortForwardResponse>;

    async fn logs(&self, _: tonic::Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let piece = Bytes::from(vec![b'x'; 32 << 10]);
        Ok(Response::new(stream::repeat_with(move || Ok(LogsResponse { data: piece.clone(), ..Default::default() })).boxed()))
    }

    async fn exec(&self, call: tonic::Request<Streaming<ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        let mut input = call.into_inner();
        let Some(exec_request::Message::Start(start)) = input.message().await?.unwrap().message else { panic!("no start") };
        if start.command == ["true"] {
            let message = Some(exec_response::Message::ExitCode(7));
            return Ok(Response::new(stream::iter([Ok(ExecResponse { message })]).boxed()));
        }
        self.processes.fetch_add(1, Ordering::Relaxed);
        let unread = (input, Process(self.processes.clone()));
        let silence = stream::once(async move {
            std::future::pending::<()>().await;
            drop(unread);
            Err(Status::internal("it was to run for ever"))
        });
        Ok(Response::new(silence.boxed()))
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

/// A node whose kubelet is a talkative one, and a pod on it. Returns the number of its processes.
async fn node(world: &World) -> Arc<AtomicUsize> {
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
    let kubelet = Talkative::default();
    let processes = kubelet.processes.clone();
    let incoming = tls::server(listener, tls, IncomingOptions::default(), shutdown.clone());
    let router = Routes::new(KubeletServer::new(kubelet)).prepare().into_axum_router();
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
    processes
}

fn pod() -> Option<PodRef> {
    Some(PodRef { namespace: "kube-system".to_owned(), name: "talks".to_owned(), uid: String::new() })
}

/// What `kctl exec -i talks -- command </dev/zero` sends.
fn zeros_to(command: &str) -> impl Stream<Item = ExecRequest> + Send + use<> {
    let start = ExecStart { pod: pod(), command: vec![command.to_owned()], stdin: true, ..ExecStart::default() };
    let zeros = Bytes::from(vec![0; 32 << 10]);
    let messages = stream::once(std::future::ready(exec_request::Message::Start(start)))
        .chain(stream::repeat_with(move || exec_request::Message::Stdin(zeros.clone())));
    messages.map(|message| ExecRequest { message: Some(message) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_nobody_reads_holds_up_nobody_who_does() {
    let world = World::new().await;
    node(&world).await;
    let logs = || LogsRequest { pod: pod(), follow: true, ..LogsRequest::default() };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_nobody_reads_holds_up_nobody_and_ends_with_its_client() {
    let world = World::new().await;
    let processes = node(&world).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut call = tonic::Request::new(zeros_to("sleep"));
        // Its connection ends with it, as that of a client that is killed.
        call.extensions_mut().insert(OwnConnection);
        let mut client = PodsClient::new(world.transport());
        let begun = tokio::time::timeout(Duration::from_secs(5), client.exec(call)).await;
        clients.push(begun.expect("it is held up by input that nobody reads").unwrap());
    }
    // Until what can be under way is.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let others = async {
        let logs = LogsRequest { pod: pod(), follow: true, ..LogsRequest::default() };
        let mut logs = PodsClient::new(world.transport()).logs(logs).await.unwrap().into_inner();
        logs.message().await.unwrap().unwrap();
        let mut output = PodsClient::new(world.transport()).exec(zeros_to("true")).await.unwrap().into_inner();
        let end = output.message().await.unwrap().unwrap().message;
        assert_eq!(end, Some(exec_response::Message::ExitCode(7)));
        assert!(output.message().await.unwrap().is_none());
    };
    tokio::time::timeout(Duration::from_secs(5), others).await.expect("they are held up by input that nobody reads");
    assert_eq!(processes.load(Ordering::Relaxed), 8);
    drop(clients);
    let ended = eventually(async || processes.load(Ordering::Relaxed) == 0);
    tokio::time::timeout(Duration::from_secs(2), ended).await.expect("processes run on without their clients");
}
