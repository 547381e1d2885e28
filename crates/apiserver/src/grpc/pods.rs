//! The Pods service: binding and eviction, and streams passed on to the pod's kubelet.

use std::{pin::Pin, time::Duration};

use api::{
    Object, Resource, StatusError,
    core::v1::{Node, Pod},
    ferrokube::v1::{self as proto, PodRef, exec_request, kubelet_client::KubeletClient, pods_server::Pods},
    rules::{FieldErrors, Path},
    status::Reason,
};
use client::{OwnConnection, Transport};
use futures::{Stream, StreamExt, stream};
use tonic::{Response, Status, Streaming};

use super::{Server, Services, asked, fence};
use crate::{
    decode,
    reader::Reader,
    request::{Request, Verb},
};

/// How long a client has to say which pod its stream is about.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Server {
    /// The node a pod is on.
    async fn node_of(&self, pod: &Pod) -> Result<Node, StatusError> {
        match pod.spec().node_name.as_str() {
            "" => Err(StatusError::bad_request(format!("pod {:?} does not have a host assigned", pod.name()))),
            node => Reader::<Node>::new(self.pipeline.store()).latest("", node).await,
        }
    }

    /// Checks that the user may do this with the pod, and finds the kubelet and the container to do it with.
    async fn reach<T>(
        &self,
        call: &tonic::Request<T>,
        verb: Verb,
        subresource: &str,
        pod: &mut PodRef,
        container: &mut String,
    ) -> Result<KubeletClient<Transport>, StatusError> {
        let asked = asked(call)?;
        let request = request(asked.user.clone(), verb, subresource, &pod.namespace, &pod.name);
        self.authorize(&asked, &request).await?;
        let found = Reader::<Pod>::new(self.pipeline.store()).latest(&pod.namespace, &pod.name).await?;
        if !pod.uid.is_empty() && pod.uid != found.metadata().uid {
            return Err(StatusError::not_found(Pod::KIND, &pod.name));
        }
        pod.uid.clone_from(&found.metadata().uid);
        if subresource != "portforward" {
            *container = pick_container(&found, container)?;
        }
        self.kubelets.client(&self.node_of(&found).await?)
    }
}

fn request(user: std::sync::Arc<crate::request::User>, verb: Verb, subresource: &str, namespace: &str, name: &str) -> Request {
    Request {
        user,
        verb,
        kind: Pod::HANDLE.clone(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        dry_run: false,
        selected_name: None,
        selected_node: None,
    }
}

/// The container that is meant: the named one, the default one, or the only one.
fn pick_container(pod: &Pod, wanted: &str) -> Result<String, StatusError> {
    let spec = pod.spec();
    let names = || spec.containers.iter().map(|c| &c.name).chain(spec.init_containers.iter().map(|c| &c.name));
    let default = pod.metadata().annotations.get("kubectl.kubernetes.io/default-container");
    match (wanted, spec.containers.as_slice()) {
        ("", _) if default.is_some_and(|d| names().any(|n| n == d)) => Ok(default.cloned().unwrap_or_default()),
        ("", [only]) => Ok(only.name.clone()),
        ("", _) => {
            let list: Vec<&str> = names().map(String::as_str).collect();
            Err(StatusError::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name(),
                list.join(" ")
            )))
        }
        (wanted, _) if names().any(|n| n == wanted) => Ok(wanted.to_owned()),
        (wanted, _) => Err(StatusError::bad_request(format!("container {wanted} is not valid for pod {}", pod.name()))),
    }
}

/// Checks what upstream checks of PodLogOptions.
fn check_logs(request: &proto::LogsRequest) -> Result<(), StatusError> {
    let (mut errors, root) = (FieldErrors::default(), Path::root());
    let numbers = [("tailLines", request.tail_lines), ("limitBytes", Some(request.limit_bytes))];
    for (field, number) in numbers.into_iter().filter_map(|(field, number)| Some((field, number.filter(|n| *n < 0)?))) {
        errors.invalid(&root.field(field), number, "must be greater than or equal to 0");
    }
    if let Some(since) = request.since.filter(|since| jiff::Timestamp::new(since.seconds, since.nanos).is_err()) {
        errors.invalid(&root.field("since"), format!("{} s", since.seconds), "must be a time between the years -9999 and 9999");
    }
    if errors.is_empty() { Ok(()) } else { Err(decode::invalid("LogsRequest", &errors)) }
}

fn check_port(port: u32) -> Result<(), StatusError> {
    let (mut errors, root) = (FieldErrors::default(), Path::root());
    if !(1..=65_535).contains(&port) {
        errors.invalid(&root.field("port"), port, "must be between 1 and 65535, inclusive");
    }
    if errors.is_empty() { Ok(()) } else { Err(decode::invalid("PortForwardRequest", &errors)) }
}

/// The first message of a stream that must have one.
async fn first<T>(messages: &mut Streaming<T>) -> Result<T, StatusError> {
    let unreadable = |e: Status| StatusError::bad_request(format!("the stream's first message cannot be read: {}", e.message()));
    let first = tokio::time::timeout(FIRST_MESSAGE, messages.message())
        .await
        .map_err(|_| StatusError::new(Reason::Timeout, "the stream did not say in time which pod is meant; please try again"))?;
    let first = first.map_err(unreadable)?;
    first.ok_or_else(|| StatusError::bad_request("the stream ended before it said which pod is meant"))
}

/// The first message followed by the rest as they come. Ends when the client's stream breaks: the kubelet then sees the end.
fn followed_by<T: Send + 'static>(first: T, rest: Streaming<T>) -> impl Stream<Item = T> + Send {
    stream::once(std::future::ready(first))
        .chain(rest.take_while(|m| std::future::ready(m.is_ok())).filter_map(|m| std::future::ready(m.ok())))
}

/// A call that sends the kubelet what it may not read for long, which must not hold up the calls to it for other clients.
fn alone<T>(messages: T) -> tonic::Request<T> {
    let mut call = tonic::Request::new(messages);
    call.extensions_mut().insert(OwnConnection);
    call
}

#[tonic::async_trait]
impl Pods for Services {
    type LogsStream = Answers<proto::LogsResponse>;
    type ExecStream = Answers<proto::ExecResponse>;
    type AttachStream = Answers<proto::ExecResponse>;
    type PortForwardStream = Answers<proto::PortForwardResponse>;

    async fn bind(&self, call: tonic::Request<proto::BindRequest>) -> Result<Response<proto::BindResponse>, Status> {
        let (asked, fence) = (asked(&call)?, fence(call.metadata())?);
        let binding = call.into_inner().binding.unwrap_or_default();
        let request = request(asked.user.clone(), Verb::Create, "binding", binding.namespace(), binding.name());
        self.0.authorize_write(&asked, &request, fence.as_ref()).await?;
        self.0.pipeline.act(&request, &binding as &dyn Object, fence.as_ref()).await?;
        Ok(Response::new(proto::BindResponse {}))
    }

    async fn evict(&self, call: tonic::Request<proto::EvictRequest>) -> Result<Response<proto::EvictResponse>, Status> {
        let (asked, fence) = (asked(&call)?, fence(call.metadata())?);
        let eviction = call.into_inner().eviction.unwrap_or_default();
        let request = request(asked.user.clone(), Verb::Create, "eviction", eviction.namespace(), eviction.name());
        self.0.authorize_write(&asked, &request, fence.as_ref()).await?;
        self.0.evict(&request, eviction.delete_options(), fence.as_ref()).await?;
        Ok(Response::new(proto::EvictResponse {}))
    }

    async fn logs(&self, call: tonic::Request<proto::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let mut r = call.get_ref().clone();
        check_logs(&r)?;
        let mut pod = r.pod.take().unwrap_or_default();
        let mut kubelet = self.0.reach(&call, Verb::Get, "log", &mut pod, &mut r.container).await?;
        let answers = kubelet.logs(proto::LogsRequest { pod: Some(pod), ..r }).await?;
        Ok(Response::new(answers.into_inner().boxed()))
    }

    async fn exec(&self, call: tonic::Request<Streaming<proto::ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        let (mut kubelet, messages) = self.interactive(call, "exec").await?;
        Ok(Response::new(kubelet.exec(alone(messages)).await?.into_inner().boxed()))
    }

    async fn attach(&self, call: tonic::Request<Streaming<proto::ExecRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        let (mut kubelet, messages) = self.interactive(call, "attach").await?;
        Ok(Response::new(kubelet.attach(alone(messages)).await?.into_inner().boxed()))
    }

    async fn port_forward(
        &self,
        call: tonic::Request<Streaming<proto::PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let (metadata, extensions, mut messages) = call.into_parts();
        let mut start = first(&mut messages).await?;
        check_port(start.port)?;
        let mut pod = start.pod.take().unwrap_or_default();
        let call = tonic::Request::from_parts(metadata, extensions, ());
        let mut kubelet = self.0.reach(&call, Verb::Create, "portforward", &mut pod, &mut String::new()).await?;
        start.pod = Some(pod);
        Ok(Response::new(kubelet.port_forward(alone(followed_by(start, messages))).await?.into_inner().boxed()))
    }
}

impl Services {
    /// The kubelet and the messages for it.
    async fn interactive(
        &self,
        call: tonic::Request<Streaming<proto::ExecRequest>>,
        subresource: &str,
    ) -> Result<(KubeletClient<Transport>, impl Stream<Item = proto::ExecRequest> + Send + use<>), StatusError> {
        let (metadata, extensions, mut messages) = call.into_parts();
        let Some(exec_request::Message::Start(mut start)) = first(&mut messages).await?.message else {
            return Err(StatusError::bad_request("start: the first message must say which pod is meant"));
        };
        let mut pod = start.pod.take().unwrap_or_default();
        let call = tonic::Request::from_parts(metadata, extensions, ());
        let kubelet = self.0.reach(&call, Verb::Create, subresource, &mut pod, &mut start.container).await?;
        start.pod = Some(pod);
        let start = proto::ExecRequest { message: Some(exec_request::Message::Start(start)) };
        Ok((kubelet, followed_by(start, messages)))
    }
}
