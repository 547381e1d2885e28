//! The kubelet's own gRPC service: logs, exec, attach, port-forward and resource use, for the API server and nobody else.

mod streams;

use std::{sync::Arc, time::Duration};

use api::{
    StatusError,
    core::v1::Pod,
    ferrokube::v1::{
        ExecRequest, ExecResponse, ExecStart, LogsRequest, LogsResponse, PodRef, PortForwardRequest, PortForwardResponse,
        StatsRequest, StatsResponse, exec_request,
        kubelet_server::{Kubelet, KubeletServer},
    },
    resource::Resource as _,
};
use bytes::Bytes;
use daemon::tls::PeerInfo;
use futures::{StreamExt as _, stream::BoxStream};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    manager::Pods,
    network::in_network_of,
    pod::{
        reason::Reason,
        state::Observed,
        unit::{reported, unit},
    },
    runtime::{self, Container, ExecSpec, LogOptions, Output, Runtime, State, TerminalSize, exec},
    stats::Stats,
};

/// The name in the API server's client certificate.
pub const API_SERVER: &str = "kube-apiserver-kubelet-client";

/// How long a command whose client has left may take to notice that its standard input has ended.
const LEFT_PATIENCE: Duration = Duration::from_secs(2);

/// The service.
#[derive(Clone)]
pub struct NodeService {
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The pods.
    pub pods: Pods,
    /// Resource use.
    pub stats: Arc<Stats>,
}

type Answer<T> = Result<Response<BoxStream<'static, Result<T, Status>>>, Status>;

/// The service behind its check: a client certificate of the cluster's CA is not enough, it has to be the API server's.
#[derive(Clone)]
pub struct OnlyFor {
    name: Arc<str>,
}

impl tonic::service::Interceptor for OnlyFor {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let identity = request.extensions().get::<PeerInfo>().and_then(|peer| peer.identity.as_ref());
        match identity {
            Some(identity) if identity.common_name == *self.name => Ok(request),
            Some(identity) => Err(Status::permission_denied(format!(
                "the kubelet serves {:?} only, not {:?}",
                &*self.name, identity.common_name
            ))),
            None => Err(Status::unauthenticated("a client certificate is needed")),
        }
    }
}

// === impl NodeService ===

impl NodeService {
    /// The service for who has a certificate of that name.
    pub fn only_for(self, name: &str) -> tonic::service::interceptor::InterceptedService<KubeletServer<Self>, OnlyFor> {
        KubeletServer::with_interceptor(self, OnlyFor { name: name.into() })
    }

    fn pod(&self, reference: Option<PodRef>) -> Result<Arc<Pod>, Status> {
        let reference = reference.ok_or_else(|| StatusError::bad_request("the request names no pod"))?;
        let pod = self.pods.find(&reference.namespace, &reference.name);
        let pod = pod.filter(|pod| reference.uid.is_empty() || pod.metadata().uid == reference.uid);
        pod.ok_or_else(|| StatusError::not_found(Pod::KIND, &reference.name).into())
    }

    /// The incarnations of a pod's container, newest first.
    async fn incarnations(&self, pod: &Pod, name: &str) -> Result<(String, Vec<Container>), Status> {
        let containers = &pod.spec().containers;
        let name = match (name, containers.as_slice()) {
            ("", [only]) => only.name.clone(),
            ("", _) => {
                let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
                let message = format!(
                    "a container name must be specified for pod {}, choose one of: [{}]",
                    pod.metadata().name,
                    names.join(" ")
                );
                return Err(StatusError::bad_request(message).into());
            }
            (name, _) => name.to_owned(),
        };
        if unit(pod.spec(), &name).is_none() {
            return Err(StatusError::bad_request(format!("container {name} is not valid for pod {}", pod.metadata().name)).into());
        }
        let mut found = Vec::new();
        for summary in self.runtime.list(Some(&pod.metadata().uid)).await.map_err(failed)? {
            if summary.labels.container == name {
                found.extend(self.runtime.inspect(&summary.id).await.map_err(failed)?);
            }
        }
        let mut observed = Observed::new(found);
        let list = observed.containers.remove(&name).unwrap_or_default();
        Ok((name, list))
    }

    /// The container of that name, if it runs. One that has ended is told from one that is still to come.
    async fn running(&self, pod: &Pod, name: &str) -> Result<Container, Status> {
        let (name, list) = self.incarnations(pod, name).await?;
        let pod = &pod.metadata().name;
        let newest = list.into_iter().next();
        match newest.as_ref().map(|container| &container.state) {
            Some(State::Running) => {}
            Some(State::Exited(exit)) => {
                let message = format!(
                    "container {name:?} of pod {pod:?} has ended with exit code {}; what it wrote is in its log",
                    exit.code
                );
                return Err(too_late(message));
            }
            Some(State::Created) | None => {}
        }
        newest
            .filter(Container::is_running)
            .ok_or_else(|| StatusError::bad_request(format!("container {name:?} of pod {pod:?} is not running")).into())
    }

    async fn log_container(&self, request: &LogsRequest) -> Result<Container, Status> {
        let pod = self.pod(request.pod.clone())?;
        let (name, mut list) = self.incarnations(&pod, &request.container).await?;
        let pod_name = &pod.metadata().name;
        let status = reported(&pod, &name);
        if request.previous {
            // Of a container that waits to be restarted the newest is what ran last; the status tells.
            let told = status.map(|status| status.last_state().terminated().container_id.as_str()).unwrap_or_default();
            let found =
                if list.first().is_some_and(Container::is_running) { None } else { list.iter().position(|c| is_id(told, &c.id)) };
            let index = found.unwrap_or(1);
            if index < list.len() {
                return Ok(list.swap_remove(index));
            }
            let message = format!("previous terminated container {name:?} in pod {pod_name:?} not found");
            return Err(StatusError::bad_request(message).into());
        }
        list.into_iter().find(|container| container.started_at.is_some()).ok_or_else(|| {
            let word = status.map(|status| status.state().waiting().reason.as_str()).filter(|word| !word.is_empty());
            let word = word.unwrap_or(Reason::ContainerCreating.as_str());
            let reason = match Reason::parse(word) {
                Some(Reason::ErrImagePull) => "image can't be pulled",
                Some(Reason::ImagePullBackOff) => "trying and failing to pull image",
                _ => word,
            };
            StatusError::bad_request(format!("container {name:?} in pod {pod_name:?} is waiting to start: {reason}")).into()
        })
    }

    async fn first(&self, messages: &mut Streaming<ExecRequest>) -> Result<ExecStart, Status> {
        let first = messages.message().await?.and_then(|request| request.message);
        match first {
            Some(exec_request::Message::Start(start)) => Ok(start),
            _ => Err(StatusError::bad_request("the first message must say what to run").into()),
        }
    }
}

#[tonic::async_trait]
impl Kubelet for NodeService {
    type LogsStream = BoxStream<'static, Result<LogsResponse, Status>>;
    type ExecStream = BoxStream<'static, Result<ExecResponse, Status>>;
    type AttachStream = BoxStream<'static, Result<ExecResponse, Status>>;
    type PortForwardStream = BoxStream<'static, Result<PortForwardResponse, Status>>;

    async fn logs(&self, request: Request<LogsRequest>) -> Answer<LogsResponse> {
        let request = request.into_inner();
        let options = log_options(&request)?;
        let container = self.log_container(&request).await?;
        let limit = if request.limit_bytes > 0 { request.limit_bytes as usize } else { usize::MAX };
        let mut chunks = self.runtime.logs(&container.id, options);
        let cut = async_stream::stream! {
            let mut left = limit;
            // Enough is enough, also of a log that is followed and silent now.
            while left > 0 && let Some(chunk) = chunks.next().await {
                yield chunk.map_err(failed).map(|output| {
                    let (stderr, bytes) = (matches!(output, Output::Stderr(_)), output.into_bytes());
                    let data = bytes.slice(..bytes.len().min(left));
                    left -= data.len();
                    LogsResponse { data, stderr }
                });
            }
        };
        Ok(Response::new(cut.boxed()))
    }

    async fn exec(&self, request: Request<Streaming<ExecRequest>>) -> Answer<ExecResponse> {
        let mut messages = request.into_inner();
        let start = self.first(&mut messages).await?;
        if start.command.is_empty() {
            return Err(StatusError::bad_request("you must specify at least one command for the container").into());
        }
        let pod = self.pod(start.pod.clone())?;
        let container = self.running(&pod, &start.container).await?;
        let spec = ExecSpec { command: start.command.clone(), stdin: start.stdin, tty: start.tty };
        let (session, left) = exec::begin(self.runtime.clone(), container.id, spec, LEFT_PATIENCE).await.map_err(failed)?;
        let target = streams::Target::Exec(session.id.clone());
        Ok(Response::new(streams::interact(self.runtime.clone(), target, session, messages, start, Some(left)).await))
    }

    async fn attach(&self, request: Request<Streaming<ExecRequest>>) -> Answer<ExecResponse> {
        let mut messages = request.into_inner();
        let start = self.first(&mut messages).await?;
        let pod = self.pod(start.pod.clone())?;
        let container = self.running(&pod, &start.container).await?;
        let attached = self.runtime.attach(&container.id, start.stdin, container.tty).await;
        let session = attached.map_err(|error| match error {
            // It has ended since.
            runtime::Error::Conflict { message } => too_late(message),
            error => failed(error),
        })?;
        let target = streams::Target::Container(container.id);
        Ok(Response::new(streams::interact(self.runtime.clone(), target, session, messages, start, None).await))
    }

    async fn port_forward(&self, request: Request<Streaming<PortForwardRequest>>) -> Answer<PortForwardResponse> {
        let mut messages = request.into_inner();
        let first = messages
            .message()
            .await?
            .ok_or_else(|| StatusError::bad_request("the first message must name the pod and the port"))?;
        let pod = self.pod(first.pod.clone())?;
        let port = u16::try_from(first.port).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| {
            StatusError::bad_request(format!("port: Invalid value: {}: must be between 1 and 65535", first.port))
        })?;
        let mut sandboxes = Vec::new();
        for summary in self.runtime.list(Some(&pod.metadata().uid)).await.map_err(failed)? {
            if summary.labels.is_sandbox() && summary.running {
                sandboxes.extend(self.runtime.inspect(&summary.id).await.map_err(failed)?);
            }
        }
        let sandbox = Observed::new(sandboxes).sandbox().cloned();
        let sandbox = sandbox.ok_or_else(|| StatusError::bad_request(format!("pod {:?} is not running", pod.metadata().name)))?;
        let connect = move || streams::connect_loopback(port);
        let stream = in_network_of(sandbox.pid, connect).await.map_err(|error| StatusError::internal(error.to_string()))?;
        let stream = stream.map_err(|error| StatusError::unavailable(format!("connect to port {port} in the pod: {error}")))?;
        Ok(Response::new(streams::forward(stream, first.data, messages)))
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        Ok(Response::new(self.stats.measure(request.into_inner().node_only).await))
    }
}

/// Which part of a log is asked for.
fn log_options(request: &LogsRequest) -> Result<LogOptions, Status> {
    let negative = |field: &str, value: i64| {
        StatusError::bad_request(format!("{field}: Invalid value: {value}: must be greater than or equal to 0"))
    };
    if let Some(lines) = request.tail_lines.filter(|lines| *lines < 0) {
        return Err(negative("tailLines", lines).into());
    }
    if request.limit_bytes < 0 {
        return Err(negative("limitBytes", request.limit_bytes).into());
    }
    let since = request.since.as_ref().map(|time| jiff::Timestamp::new(time.seconds, time.nanos)).transpose();
    let since = since.map_err(|error| StatusError::bad_request(format!("sinceTime: Invalid value: {error}")))?;
    Ok(LogOptions { follow: request.follow, since, timestamps: request.timestamps, tail: request.tail_lines })
}

/// Whether a status' container id, which names the runtime too, is this one.
fn is_id(told: &str, id: &str) -> bool {
    told.split_once("://").is_some_and(|(_, told)| told == id)
}

/// The refusal of what needs a container that runs, when it has ended. By its code clients know to look at the log instead.
fn too_late(message: String) -> Status {
    let refused: Status = StatusError::bad_request(message).into();
    Status::with_details(Code::FailedPrecondition, refused.message(), Bytes::copy_from_slice(refused.details()))
}

fn failed(error: runtime::Error) -> Status {
    match &error {
        runtime::Error::NotFound { message } | runtime::Error::Conflict { message } => {
            StatusError::bad_request(message.clone()).into()
        }
        runtime::Error::Unreachable(_) => StatusError::unavailable(error.to_string()).into(),
        _ => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            StatusError::internal(format!("{error}{cause}")).into()
        }
    }
}

fn size(size: &api::ferrokube::v1::TerminalSize) -> TerminalSize {
    let cut = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    TerminalSize { width: cut(size.width), height: cut(size.height) }
}
