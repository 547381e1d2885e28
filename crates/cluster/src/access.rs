//! The cluster's API as the administrator and as anybody else.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use client::{Client, Config, config::Token};
use daemon::tls::{self, Pem};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{
    pki,
    topology::{API_PORT, Cluster, Daemon, Host},
};

/// A window for [`Cluster::channel`] that never holds up a reader, bytes.
pub const LARGE_WINDOW: u32 = 16 << 20;

impl Cluster {
    /// A client for the administrator that knows every API server.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn client(&self) -> anyhow::Result<Client> {
        self.client_of("admin", &self.api_urls())
    }

    /// A client for the administrator that knows only the API server on `host`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn client_to(&self, host: &Host) -> anyhow::Result<Client> {
        self.client_of("admin", &[format!("https://{}:{}", host.address, API_PORT)])
    }

    /// A client with the certificate of a daemon, such as `kubelet-node-1`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn client_as(&self, certificate: &str) -> anyhow::Result<Client> {
        self.client_of(certificate, &self.api_urls())
    }

    /// A client with a new certificate for `user` in `group`.
    ///
    /// # Errors
    /// When the CA cannot be read.
    pub fn client_for(&self, user: &str, group: Option<&str>) -> anyhow::Result<Client> {
        let pair = pki::issue_client(self, user, group)?;
        let identity = (Pem::Inline(pair.public_pem.clone().into_bytes()), Pem::Inline(pair.private_pem.clone().into_bytes()));
        Ok(Client::new(Config { identity: Some(identity), ..self.config(&self.api_urls())? })?)
    }

    /// A client with a bearer token; without one, nobody at all.
    ///
    /// # Errors
    /// When the CA's certificate cannot be read.
    pub fn client_with_token(&self, token: Option<&str>) -> anyhow::Result<Client> {
        let token = token.map(|token| Token::Inline(token.to_owned()));
        Ok(Client::new(Config { token, ..self.config(&self.api_urls())? })?)
    }

    fn client_of(&self, certificate: &str, urls: &[String]) -> anyhow::Result<Client> {
        let pem = |extension: &str| Pem::File(self.pki(&format!("{certificate}.{extension}")));
        Ok(Client::new(Config { identity: Some((pem("crt"), pem("key"))), ..self.config(urls)? })?)
    }

    fn config(&self, urls: &[String]) -> anyhow::Result<Config> {
        let servers = urls.iter().map(|url| url.parse().with_context(|| url.clone())).collect::<anyhow::Result<_>>()?;
        Ok(Config { servers, ..Config::new(Pem::File(self.pki("ca.crt"))).named("tests/1") })
    }

    /// A bare gRPC channel to the first API server as the administrator: one connection that takes `window` bytes of a stream, and four times
    /// as much in all, before they are read.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn channel(&self, window: u32) -> anyhow::Result<Channel> {
        let host = self.hosts_of(Daemon::Apiserver).into_iter().next().context("no API server")?;
        let address = SocketAddr::from((host.address, API_PORT));
        let pem = |name: &str| Pem::File(self.pki(name));
        let tls = tls::client_tls(pem("ca.crt"), Some((pem("admin.crt"), pem("admin.key"))))?;
        let connect = tower::service_fn(move |_: http::Uri| {
            let tls = TlsConnector::from(tls.current());
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let name = rustls::pki_types::ServerName::from(address.ip());
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
            }
        });
        // TLS is the connector's business; the URL only names the authority.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let endpoint = endpoint.initial_stream_window_size(window).initial_connection_window_size(4 * window);
        Ok(endpoint.connect_with_connector(connect).await?)
    }

    /// The certificate and key files of the administrator, and the CA's certificate: for clients that are none of ours.
    pub fn admin_files(&self) -> (PathBuf, PathBuf, PathBuf) {
        (self.pki("admin.crt"), self.pki("admin.key"), self.pki("ca.crt"))
    }
}
