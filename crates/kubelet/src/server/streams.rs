//! Streams between a client and a process or a port: bytes in, bytes out, sizes on the way, an exit code at the end.
//!
//! Each stream has one task for what comes in; it ends with the client's stream, or with the answer's. Nothing is buffered but a few chunks.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api::ferrokube::v1::{
    ExecRequest, ExecResponse, ExecStart, PortForwardRequest, PortForwardResponse, exec_request, exec_response,
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};
use tracing::debug;

use super::{failed, size};
use crate::runtime::{Output, Runtime, Session, TerminalSize, exec::Begun};

/// How long a process may take to be gone after its output has ended.
const EXIT_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to exist.
const START_PATIENCE: Duration = Duration::from_secs(1);
const EXIT_POLL: Duration = Duration::from_millis(20);
/// How long a connection into a pod may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes read from a port at once.
const CHUNK: usize = 32 << 10;

/// Whose terminal it is.
#[derive(Clone)]
pub(super) enum Target {
    /// An exec session's.
    Exec(String),
    /// A container's first process's.
    Container(String),
}

/// Connects a session with a client.
pub(super) async fn interact(
    runtime: Arc<dyn Runtime>,
    target: Target,
    session: Session,
    messages: Streaming<ExecRequest>,
    start: ExecStart,
    mut begun: Option<Begun>,
) -> BoxStream<'static, Result<ExecResponse, Status>> {
    if let Some(first) = start.size.as_ref().filter(|_| start.tty) {
        first_size(&*runtime, &target, size(first)).await;
    }
    let Session { mut output, input, .. } = session;
    let inward = AbortOnDropHandle::new(tokio::spawn(feed(runtime.clone(), target.clone(), input, messages, start.stdin)));
    async_stream::stream! {
        // Held so that it ends with this stream.
        let _inward = inward;
        while let Some(chunk) = output.next().await {
            match chunk {
                Ok(Output::Stdout(bytes)) => yield Ok(answer(exec_response::Message::Stdout(bytes))),
                Ok(Output::Stderr(bytes)) => yield Ok(answer(exec_response::Message::Stderr(bytes))),
                Err(error) => {
                    yield Err(failed(error));
                    return;
                }
            }
        }
        if let Some(begun) = &mut begun {
            begun.has_ended();
        }
        match exit_code(&*runtime, &target).await {
            Ok(code) => yield Ok(answer(exec_response::Message::ExitCode(code))),
            Err(status) => yield Err(status),
        }
    }
    .boxed()
}

fn answer(message: exec_response::Message) -> ExecResponse {
    ExecResponse { message: Some(message) }
}

async fn feed(
    runtime: Arc<dyn Runtime>,
    target: Target,
    mut input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    mut messages: Streaming<ExecRequest>,
    stdin: bool,
) {
    if !stdin && let Err(error) = input.shutdown().await {
        debug!(%error, "cannot close standard input");
    }
    // The client's stream broken or ended is the end of standard input.
    while let Ok(Some(request)) = messages.message().await {
        let written = match request.message {
            Some(exec_request::Message::Stdin(bytes)) if stdin => input.write_all(&bytes).await,
            Some(exec_request::Message::StdinClosed(true)) => input.shutdown().await,
            Some(exec_request::Message::Resize(new)) => {
                resize(&*runtime, &target, size(&new)).await;
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = written {
            debug!(%error, "the process takes no more input");
            return;
        }
    }
    if let Err(error) = input.shutdown().await {
        debug!(%error, "cannot close standard input");
    }
}

/// The engine answers before the process exists, and has no terminal to resize until then.
async fn first_size(runtime: &dyn Runtime, target: &Target, size: TerminalSize) {
    let deadline = tokio::time::Instant::now() + START_PATIENCE;
    while !resize(runtime, target, size).await && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(EXIT_POLL).await;
    }
}

/// Sets the size; false if that is not possible (now).
async fn resize(runtime: &dyn Runtime, target: &Target, size: TerminalSize) -> bool {
    if size.width == 0 || size.height == 0 {
        return true;
    }
    let resized = match target {
        Target::Exec(id) => runtime.resize_exec(id, size).await,
        Target::Container(id) => runtime.resize(id, size).await,
    };
    if let Err(error) = &resized {
        debug!(%error, "cannot resize the terminal");
    }
    resized.is_ok()
}

/// The exit code of what has closed its output; the runtime may need a moment to know it.
async fn exit_code(runtime: &dyn Runtime, target: &Target) -> Result<i32, Status> {
    let asking = async {
        loop {
            let code = match target {
                Target::Exec(id) => runtime.exec_exit_code(id).await.map_err(failed)?,
                Target::Container(id) => match runtime.inspect(id).await.map_err(failed)? {
                    Some(container) => container.exit().map(|exit| i64::from(exit.code)),
                    None => Some(0),
                },
            };
            if let Some(code) = code {
                return Ok(code as i32);
            }
            tokio::time::sleep(EXIT_POLL).await;
        }
    };
    match tokio::time::timeout(EXIT_PATIENCE, asking).await {
        Ok(result) => result,
        // Detached from what goes on, which is no failure.
        Err(_) => Ok(0),
    }
}

/// Connects to a port of the calling thread's network namespace. Blocks.
pub(super) fn connect_loopback(port: u16) -> std::io::Result<TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT_TIMEOUT)?;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// Connects a port with a client.
pub(super) fn forward(
    stream: TcpStream,
    first: Bytes,
    mut messages: Streaming<PortForwardRequest>,
) -> BoxStream<'static, Result<PortForwardResponse, Status>> {
    let (mut from_port, mut to_port) = stream.into_split();
    let inward = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(data) = next {
            if let Err(error) = to_port.write_all(&data).await {
                debug!(%error, "the port takes no more");
                return;
            }
            next = messages.message().await.ok().flatten().map(|request| request.data);
        }
        if let Err(error) = to_port.shutdown().await {
            debug!(%error, "cannot close the connection");
        }
    }));
    async_stream::stream! {
        let _inward = inward;
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            match from_port.read_buf(&mut buffer).await {
                Ok(0) => return,
                Ok(_) => yield Ok(PortForwardResponse { data: buffer.split().freeze() }),
                Err(error) => {
                    yield Err(Status::unavailable(format!("the connection into the pod broke: {error}")));
                    return;
                }
            }
        }
    }
    .boxed()
}
