//! The way to the nodes: one connection to each kubelet that was asked something lately, and one for each stream that carries a client's
//! bytes to it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use api::{StatusError, core::v1::Node, ferrokube::v1::kubelet_client::KubeletClient};
use client::{Config, Transport, config::Windows};
use daemon::tls::Pem;
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
