//! The Pods service: what it is sent as calls. The streams are passed on to the pod's kubelet.

use std::time::Duration;

use api::{
    Object, Resource, StatusError,
    core::v1::Pod,
    ferrokube::v1::{self as proto, PodRef, exec_request, pods_server::Pods},
    status::Reason,
};
use futures::{Stream, StreamExt};
use tonic::{Response, Status, Streaming};

use super::{Answers, Services, asked, fence, sent};
use crate::{
    call::{Action, Answer, Body, Call, Options, Purpose, ResourceName, Wanted},
    kubelets::Link,
    request::Asked,
    subresource::{self, Subresource},
};

/// How long a client has to say which pod its stream is about.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// The first message of a stream that must have one.
async fn first<T>(messages: &mut Streaming<T>) -> Result<T, StatusError> {
    let unreadable = |e: Status| StatusError::bad_request(format!("the stream's first message cannot be read: {}", e.message()));
    let first = tokio::time::timeout(FIRST_MESSAGE, messages.message())
        .await
        .map_err(|_| StatusError::new(Reason::Timeout, "the stream did not say in time which pod is meant; please try again"))?;
    let first = first.map_err(unreadable)?;
    first.ok_or_else(|| StatusError::bad_request("the stream ended before it said which pod is meant"))
}

/// The messages as they come. Ends when the client's stream breaks: the kubelet then sees the end.
fn rest<T: Send + 'static>(messages: Streaming<T>) -> impl Stream<Item = T> + Send + 'static {
    messages.take_while(|m| std::future::ready(m.is_ok())).filter_map(|m| std::future::ready(m.ok()))
}

/// A call on a subresource of a pod.
fn call(subresource: &Subresource, namespace: &str, name: &str, action: Action) -> Call {
    let resource = ResourceName { plural: Pod::KIND.plural.to_string(), ..ResourceName::default() };
    Call::new(resource, action).on(namespace.to_owned(), name.to_owned(), subresource.name.to_owned())
}

impl Services {
    /// Creates a subresource of the pod that its body names.
    async fn act<T, K: Resource>(
        &self,
        request: &tonic::Request<T>,
        subresource: &Subresource,
        body: Option<&K>,
    ) -> Result<(), StatusError> {
        let sent = |body| Body::Protobuf { type_url: K::KIND.type_url.to_string(), bytes: Object::encode(body) };
        let call = call(subresource, "", "", Action::Create(body.map(sent).unwrap_or_default()));
        let call = call.with(Options::default(), fence(request.metadata())?);
        self.server.call(&*asked(request)?, call).await.map(drop)
    }

    /// The way to a pod, for a stream of this sort.
    async fn link(
        &self,
        asked: &Asked,
        sort: &Subresource,
        pod: Option<PodRef>,
        container: &str,
        purpose: Purpose,
    ) -> Result<Link, StatusError> {
        let PodRef { namespace, name, uid } = pod.unwrap_or_default();
        let wanted = Action::Connect(Wanted { uid, container: container.to_owned(), purpose });
        match self.server.call(asked, call(sort, &namespace, &name, wanted)).await? {
            Answer::Link(link) => Ok(*link),
            other => Err(other.unexpected()),
        }
    }

    /// The way to a pod, and the messages for it.
    async fn interactive(
        &self,
        request: tonic::Request<Streaming<proto::ExecRequest>>,
        sort: &Subresource,
    ) -> Result<(Link, proto::ExecStart, Streaming<proto::ExecRequest>), StatusError> {
        let asked = asked(&request)?;
        let mut messages = request.into_inner();
        let Some(exec_request::Message::Start(mut start)) = first(&mut messages).await?.message else {
            return Err(StatusError::bad_request("start: the first message must say which pod is meant"));
        };
        let link = self.link(&asked, sort, start.pod.take(), &start.container, Purpose::Process).await?;
        Ok((link, start, messages))
    }
}

#[tonic::async_trait]
impl Pods for Services {
    type LogsStream = Answers<proto::LogsResponse>;
    type ExecStream = Answers<proto::ExecResponse>;
    type AttachStream = Answers<proto::ExecResponse>;
    type PortForwardStream = Answers<proto::PortForwardResponse>;

    async fn bind(&self, request: tonic::Request<proto::BindRequest>) -> Result<Response<proto::BindResponse>, Status> {
        self.act(&request, &subresource::BINDING, request.get_ref().binding.as_ref()).await?;
        Ok(Response::new(proto::BindResponse {}))
    }

    async fn evict(&self, request: tonic::Request<proto::EvictRequest>) -> Result<Response<proto::EvictResponse>, Status> {
        self.act(&request, &subresource::EVICTION, request.get_ref().eviction.as_ref()).await?;
        Ok(Response::new(proto::EvictResponse {}))
    }

    async fn logs(&self, request: tonic::Request<proto::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let asked = asked(&request)?;
        let mut r = request.into_inner();
        let link = self.link(&asked, &subresource::LOG, r.pod.take(), &r.container, Purpose::Logs(r.clone())).await?;
        Ok(sent(link.logs(r).await?))
    }

    async fn exec(&self, request: tonic::Request<Streaming<proto::ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        let (link, start, messages) = self.interactive(request, &subresource::EXEC).await?;
        Ok(sent(link.exec(start, rest(messages)).await?))
    }

    async fn attach(
        &self,
        request: tonic::Request<Streaming<proto::ExecRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (link, start, messages) = self.interactive(request, &subresource::ATTACH).await?;
        Ok(sent(link.attach(start, rest(messages)).await?))
    }

    async fn port_forward(
        &self,
        request: tonic::Request<Streaming<proto::PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let asked = asked(&request)?;
        let mut messages = request.into_inner();
        let mut start = first(&mut messages).await?;
        let purpose = Purpose::Port(start.port);
        let link = self.link(&asked, &subresource::PORT_FORWARD, start.pod.take(), "", purpose).await?;
        Ok(sent(link.port_forward(start, rest(messages)).await?))
    }
}
