//! `kctl port-forward`

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use api::{
    Bytes, Resource as _,
    core::v1::{Pod, Service},
    ferrokube::v1::PodRef,
};
use futures::TryStreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{Session, console::Console, error::describe, kinds, pods, resource_args};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 256;
/// Pieces that may wait to be sent.
const QUEUE: usize = 16;
/// Bytes in one piece.
const PIECE: usize = 32 << 10;

/// Reach ports of a pod on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl port-forward web 8080:80                   port 8080 here is port 80 there
  kctl port-forward svc/web 8080:http             of one of a Service's pods, by the Service's port
  kctl port-forward web 5000 6000                 the same ports here and there
  kctl port-forward --address 0.0.0.0 web :80     any free port, on all addresses")]
pub struct Args {
    /// The pod, or TYPE/NAME of what has pods
    #[arg(value_name = "POD")]
    pod: String,
    /// Port here and there
    #[arg(value_name = "[LOCAL:]REMOTE", required = true)]
    ports: Vec<String>,
    /// Addresses to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "localhost", value_delimiter = ',')]
    address: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let pod = pods::find(session, &args.pod).await?;
    if pod.status().phase != "Running" {
        bail!("unable to forward port because pod is not running. Current status={}", pod.status().phase);
    }
    let service = service(session, &args.pod).await?;
    let mut listeners = Vec::new();
    for text in &args.ports {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let remote = remote_port(&pod, service.as_ref(), remote)?;
        let local = match local {
            "" => 0,
            local if !text.contains(':') && local.parse::<u16>().is_err() => remote,
            local => local
                .parse::<u16>()
                .map_err(|_| anyhow::anyhow!("error parsing local port '{local}': a number up to 65535 is wanted"))?,
        };
        let before = listeners.len();
        let mut failure = None;
        for address in &args.address {
            let found =
                tokio::net::lookup_host((address.as_str(), local)).await.with_context(|| format!("--address={address}"))?;
            for address in found {
                match TcpListener::bind(address).await {
                    Ok(listener) => listeners.push((listener, remote)),
                    Err(error) => failure = Some((address, error)),
                }
            }
        }
        // On a machine without IPv6 one of localhost's addresses is enough.
        if let (Some((address, error)), true) = (failure, listeners.len() == before) {
            return Err(error).with_context(|| format!("unable to listen on {address}"));
        }
    }
    for (listener, remote) in &listeners {
        session.console.line(format!("Forwarding from {} -> {remote}", listener.local_addr()?))?;
    }
    let target = PodRef { namespace: pod.namespace().to_owned(), name: pod.name().to_owned(), uid: pod.metadata().uid.clone() };
    let connections = std::sync::Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepts = listeners.into_iter().map(|(listener, remote)| {
        let (client, console, target, connections) =
            (session.client(), session.console.clone(), target.clone(), connections.clone());
        async move {
            let client = client?;
            let local = listener.local_addr()?;
            // Held by each connection, so that many of them wait instead of piling up.
            while let Ok(permit) = connections.clone().acquire_owned().await {
                let (stream, _) = listener.accept().await?;
                console.line(format!("Handling connection for {}", local.port()))?;
                let (client, console, target) = (client.clone(), console.clone(), target.clone());
                tokio::spawn(async move {
                    if let Err(error) = forward(&client, target, remote, stream).await {
                        report(&console, local, remote, &error);
                    }
                    drop(permit);
                });
            }
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(accepts).await?;
    Ok(())
}

fn report(console: &Console, local: SocketAddr, remote: u16, error: &anyhow::Error) {
    console.note(format!("an error occurred forwarding {} -> {remote}: {}", local.port(), describe(error)));
}

async fn service(session: &Session, word: &str) -> anyhow::Result<Option<Service>> {
    if !word.contains('/') {
        return Ok(None);
    }
    let (kind, name) = resource_args::parse(&[word.to_owned()])?.swap_remove(0);
    if kind != Service::KIND {
        return Ok(None);
    }
    let api = session.client()?.namespaced::<Service>(&session.namespace()?);
    Ok(Some(session.shown("reading the Service", api.get(&name.unwrap_or_default())).await?))
}

/// The pod's port that a number or name means; of a Service, its port's target.
fn remote_port(pod: &Pod, service: Option<&Service>, text: &str) -> anyhow::Result<u16> {
    let number = text.parse::<u16>().ok().filter(|port| *port > 0);
    let by_name = |name: &str| {
        let mut ports = pod.spec().containers.iter().flat_map(|container| &container.ports);
        let found = ports.find(|port| port.name == name).and_then(|port| u16::try_from(port.container_port).ok());
        found.with_context(|| format!("pod '{}' does not have a named port '{name}'", pod.name()))
    };
    let Some(service) = service else {
        return number.map_or_else(|| by_name(text), Ok);
    };
    let matches =
        |port: &&api::core::v1::ServicePort| port.name == text || number.is_some_and(|number| port.port == i32::from(number));
    let Some(port) = service.spec().ports.iter().find(matches) else {
        bail!("{} does not have a service port {text}", kinds::display(Service::KIND, service.name()));
    };
    let target = port.target_port();
    match target.as_int() {
        Some(0) | None if !target.str_val.is_empty() => by_name(&target.str_val),
        Some(0) | None => u16::try_from(port.port).context("the Service's port is out of range"),
        Some(number) => u16::try_from(number).context("the Service's target port is out of range"),
    }
}

/// Carries one connection until both sides have ended.
async fn forward(client: &client::Client, pod: PodRef, port: u16, stream: TcpStream) -> anyhow::Result<()> {
    let (mut from_here, mut to_here) = stream.into_split();
    let (sender, receiver) = mpsc::channel(QUEUE);
    let mut answers = client.pods().port_forward(pod, port, ReceiverStream::new(receiver)).await?;
    let there = async move {
        let mut piece = vec![0; PIECE];
        loop {
            match from_here.read(&mut piece).await? {
                0 => return anyhow::Ok(()),
                count if sender.send(Bytes::copy_from_slice(&piece[..count])).await.is_err() => return Ok(()),
                _ => {}
            }
        }
    };
    let back = async move {
        while let Some(piece) = answers.try_next().await? {
            to_here.write_all(&piece).await?;
        }
        to_here.shutdown().await?;
        anyhow::Ok(())
    };
    // When the pod has said all, what is still typed here has nowhere to go.
    let mut back = std::pin::pin!(back);
    tokio::select! {
        outcome = &mut back => outcome,
        outcome = there => {
            outcome?;
            back.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_number_and_name() {
        let pod: Pod = api::json::from_value(serde_json::json!({"metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]}}))
        .unwrap();
        let service: Service = api::json::from_value(serde_json::json!({"metadata": {"name": "s"},
            "spec": {"ports": [{"name": "web", "port": 80, "targetPort": "http"}, {"name": "x", "port": 81, "targetPort": 9}]}}))
        .unwrap();
        assert_eq!(remote_port(&pod, None, "80").unwrap(), 80);
        assert_eq!(remote_port(&pod, None, "http").unwrap(), 8080);
        assert!(remote_port(&pod, None, "db").is_err());
        assert_eq!(remote_port(&pod, Some(&service), "80").unwrap(), 8080);
        assert_eq!(remote_port(&pod, Some(&service), "x").unwrap(), 9);
        assert!(remote_port(&pod, Some(&service), "8080").is_err());
    }
}
