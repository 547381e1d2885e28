//! Binding, evicting, and the streams into and out of pods.

use api::{
    Bytes,
    core::v1::Binding,
    ferrokube::v1::{
        BindRequest, EvictRequest, ExecRequest, ExecResponse, ExecStart, LogsRequest, LogsResponse, PodRef, PortForwardRequest,
        exec_request::Message,
    },
    policy::v1::Eviction,
};
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use crate::{
    Client,
    error::{Error, Result},
};

/// Acts on pods.
#[derive(Clone, Debug)]
pub struct Pods {
    pub(crate) client: Client,
}

// === impl Pods ===

impl Pods {
    /// Assigns a pod to a node.
    ///
    /// # Errors
    /// Conflict if the pod is assigned already or is another one than the binding's UID says; not found if it is gone.
    pub async fn bind(&self, binding: Binding) -> Result<()> {
        let request = self.client.write_request(BindRequest { binding: Some(binding) })?;
        self.client.within(self.client.pods_service().bind(request)).await?;
        Ok(())
    }

    /// Deletes a pod if that is allowed now.
    ///
    /// # Errors
    /// Too many requests if it is not allowed now.
    pub async fn evict(&self, eviction: Eviction) -> Result<()> {
        let request = self.client.write_request(EvictRequest { eviction: Some(eviction) })?;
        self.client.within(self.client.pods_service().evict(request)).await?;
        Ok(())
    }

    /// A container's output in pieces that need not be whole lines.
    ///
    /// # Errors
    /// When there is no such pod or container, or its node does not answer.
    pub async fn logs(&self, request: LogsRequest) -> Result<BoxStream<'static, Result<Bytes>>> {
        Ok(self.output(request).await?.map_ok(|piece| piece.data).boxed())
    }

    /// As [`Self::logs`], each piece with the stream that it was written to.
    ///
    /// # Errors
    /// As those of [`Self::logs`].
    pub async fn output(&self, request: LogsRequest) -> Result<BoxStream<'static, Result<LogsResponse>>> {
        let pieces = self.client.pods_service().logs(self.client.request(request)).await?.into_inner();
        Ok(pieces.map_err(Error::from).boxed())
    }

    /// Runs a command in a container. `input` is what goes to it after `start`; its end does not close standard input, which
    /// [`Message::StdinClosed`] does.
    ///
    /// # Errors
    /// When there is no such pod or container, the command cannot be started, or the node does not answer.
    pub async fn exec(
        &self,
        start: ExecStart,
        input: impl Stream<Item = Message> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<ExecResponse>>> {
        let request = self.client.request(exec_messages(start, input));
        let output = self.client.pods_service().exec(request).await?.into_inner();
        Ok(output.map_err(Error::from).boxed())
    }

    /// Connects to a container's main process, as [`Self::exec`] to a new one.
    ///
    /// # Errors
    /// As those of [`Self::exec`].
    pub async fn attach(
        &self,
        start: ExecStart,
        input: impl Stream<Item = Message> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<ExecResponse>>> {
        let request = self.client.request(exec_messages(start, input));
        let output = self.client.pods_service().attach(request).await?.into_inner();
        Ok(output.map_err(Error::from).boxed())
    }

    /// Carries bytes to and from one port of a pod. The end of `input` closes the connection's sending half.
    ///
    /// # Errors
    /// When there is no such pod, nothing listens on the port, or the node does not answer.
    pub async fn port_forward(
        &self,
        pod: PodRef,
        port: u16,
        input: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let first = PortForwardRequest { pod: Some(pod), port: port.into(), data: Bytes::new() };
        let rest = input.map(|data| PortForwardRequest { data, ..PortForwardRequest::default() });
        let request = self.client.request(stream::once(async { first }).chain(rest));
        let output = self.client.pods_service().port_forward(request).await?.into_inner();
        Ok(output.map_ok(|piece| piece.data).map_err(Error::from).boxed())
    }
}

fn exec_messages(
    start: ExecStart,
    input: impl Stream<Item = Message> + Send + 'static,
) -> impl Stream<Item = ExecRequest> + Send + 'static {
    let start = stream::once(async { Message::Start(start) });
    start.chain(input).map(|message| ExecRequest { message: Some(message) })
}
