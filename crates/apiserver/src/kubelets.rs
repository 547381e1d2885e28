//! The kubelet client: one connection to each kubelet that was asked something lately, and one for each stream that carries a client's
//! bytes to it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use api::{
    StatusError,
    core::v1::Node,
    ferrokube::v1::{
        ExecRequest, ExecResponse, ExecStart, LogsRequest, LogsResponse, PodRef, PortForwardRequest, PortForwardResponse,
        exec_request, kubelet_client::KubeletClient,
    },
};
use client::{Config, OwnConnection, Transport, config::Windows};
use daemon::tls::Pem;
use futures::{Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use parking_lot::Mutex;

/// The kubelet's port where a node does not say.
const PORT: u16 = 10250;
/// Logs and the like wait here for clients that do not read them: a little of each, and never so much that they hold up the others.
const WINDOWS: Windows = Windows { stream: 128 << 10, connection: 1 << 30 };
/// A connection that was not used for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// How the API server proves to kubelets who it is, and they to it.
#[derive(Clone, Debug)]
pub struct KubeletsConfig {
    /// CA of the kubelets' serving certificates.
    pub certificate_authority: PathBuf,
    /// Client certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Connections to kubelets by address.
pub struct Kubelets {
    config: KubeletsConfig,
    open: Mutex<HashMap<SocketAddr, (Transport, Instant)>>,
}

impl Kubelets {
    /// No connections yet.
    pub fn new(config: KubeletsConfig) -> Self {
        Self { config, open: Mutex::default() }
    }

    /// The way to a pod on its node, or to a container of it; for what is with the pod as a whole, the container is empty.
    ///
    /// # Errors
    /// As [`Kubelets::client`].
    pub(crate) fn link(&self, node: &Node, pod: PodRef, container: String) -> Result<Link, StatusError> {
        Ok(Link { kubelet: self.client(node)?, pod, container })
    }

    /// A client of the node's kubelet. Connects when it is used.
    ///
    /// # Errors
    /// When the node has no address, or our certificates cannot be read.
    pub fn client(&self, node: &Node) -> Result<KubeletClient<Transport>, StatusError> {
        let address = address(node)?;
        let mut open = self.open.lock();
        open.retain(|_, (_, used)| used.elapsed() < IDLE);
        let transport = match open.get_mut(&address) {
            Some((transport, used)) => {
                *used = Instant::now();
                transport.clone()
            }
            None => {
                let transport = self.connect(address)?;
                open.insert(address, (transport.clone(), Instant::now()));
                transport
            }
        };
        Ok(KubeletClient::new(transport).max_decoding_message_size(16 << 20))
    }

    fn connect(&self, address: SocketAddr) -> Result<Transport, StatusError> {
        let pem = |path: &PathBuf| Pem::File(path.clone());
        let server = format!("https://{address}").parse().map_err(|e| StatusError::internal(format!("{address}: {e}")))?;
        let config = Config {
            servers: vec![server],
            identity: Some((pem(&self.config.certificate), pem(&self.config.key))),
            connect_timeout: Duration::from_secs(3),
            windows: WINDOWS,
            ..Config::new(pem(&self.config.certificate_authority))
        };
        Transport::network(config).map_err(|e| StatusError::unavailable(format!("kubelet at {address}: {e}")))
    }
}

fn address(node: &Node) -> Result<SocketAddr, StatusError> {
    let addresses = &node.status().addresses;
    let internal = addresses.iter().find(|a| a.r#type == "InternalIP").and_then(|a| a.address.parse().ok());
    let ip = internal.ok_or_else(|| {
        StatusError::unavailable(format!(
            "node {:?} has no InternalIP in its status: has its kubelet started?",
            node.metadata().name
        ))
    })?;
    let port = u16::try_from(node.status().daemon_endpoints().kubelet_endpoint().port).ok().filter(|p| *p > 0).unwrap_or(PORT);
    Ok(SocketAddr::new(ip, port))
}

/// The way to a pod, or to one of its containers. For one stream.
pub struct Link {
    kubelet: KubeletClient<Transport>,
    pod: PodRef,
    container: String,
}

/// Messages from a kubelet.
pub type Messages<T> = BoxStream<'static, Result<T, StatusError>>;

// === impl Link ===

impl Link {
    /// The container's output. The request's own pod and container do not count.
    ///
    /// # Errors
    /// When the kubelet refuses or cannot be reached.
    pub async fn logs(mut self, request: LogsRequest) -> Result<Messages<LogsResponse>, StatusError> {
        let request = LogsRequest { pod: Some(self.pod), container: self.container, ..request };
        Ok(messages(self.kubelet.logs(request).await?))
    }

    /// Runs a command in the container: the start, and what follows from the client. The start's own pod and container do not count.
    ///
    /// # Errors
    /// When the kubelet refuses or cannot be reached.
    pub async fn exec(
        mut self,
        start: ExecStart,
        rest: impl Stream<Item = ExecRequest> + Send + 'static,
    ) -> Result<Messages<ExecResponse>, StatusError> {
        let sent = interactive(self.pod, self.container, start, rest);
        Ok(messages(self.kubelet.exec(sent).await?))
    }

    /// Connects to the container's main process. As [`Link::exec`].
    ///
    /// # Errors
    /// When the kubelet refuses or cannot be reached.
    pub async fn attach(
        mut self,
        start: ExecStart,
        rest: impl Stream<Item = ExecRequest> + Send + 'static,
    ) -> Result<Messages<ExecResponse>, StatusError> {
        let sent = interactive(self.pod, self.container, start, rest);
        Ok(messages(self.kubelet.attach(sent).await?))
    }

    /// Carries bytes to and from a port of the pod: the first message, and what follows from the client.
    ///
    /// # Errors
    /// When the kubelet refuses or cannot be reached.
    pub async fn port_forward(
        mut self,
        first: PortForwardRequest,
        rest: impl Stream<Item = PortForwardRequest> + Send + 'static,
    ) -> Result<Messages<PortForwardResponse>, StatusError> {
        let first = PortForwardRequest { pod: Some(self.pod), ..first };
        let sent = alone(stream::once(std::future::ready(first)).chain(rest));
        Ok(messages(self.kubelet.port_forward(sent).await?))
    }
}

fn interactive(
    pod: PodRef,
    container: String,
    start: ExecStart,
    rest: impl Stream<Item = ExecRequest> + Send + 'static,
) -> tonic::Request<impl Stream<Item = ExecRequest> + Send + 'static> {
    let start = exec_request::Message::Start(ExecStart { pod: Some(pod), container, ..start });
    alone(stream::once(std::future::ready(ExecRequest { message: Some(start) })).chain(rest))
}

/// A call that sends the kubelet what it may not read for long, which must not hold up the calls to it for other clients.
fn alone<T>(messages: T) -> tonic::Request<T> {
    let mut call = tonic::Request::new(messages);
    call.extensions_mut().insert(OwnConnection);
    call
}

fn messages<T: Send + 'static>(response: tonic::Response<tonic::Streaming<T>>) -> Messages<T> {
    response.into_inner().map_err(StatusError::from).boxed()
}
