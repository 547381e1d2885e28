//! The cluster's API as the administrator and as anybody else.

use std::path::PathBuf;

use anyhow::Context;
use client::{Client, Config, config::Token};
use daemon::tls::Pem;

use crate::{
    pki,
    topology::{Cluster, Host},
};

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
        self.client_of("admin", &[format!("https://{}:{}", host.address, crate::topology::API_PORT)])
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
        Ok(Config::new(servers, Pem::File(self.pki("ca.crt"))).named("tests/1"))
    }

    /// The certificate and key files of the administrator, and the CA's certificate: for clients that are none of ours.
    pub fn admin_files(&self) -> (PathBuf, PathBuf, PathBuf) {
        (self.pki("admin.crt"), self.pki("admin.key"), self.pki("ca.crt"))
    }
}
