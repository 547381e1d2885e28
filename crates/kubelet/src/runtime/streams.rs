//! Docker's streams: exec and attach sessions, terminal sizes, logs.

use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
    query_parameters::{
        AttachContainerOptionsBuilder, LogsOptionsBuilder, ResizeContainerTTYOptionsBuilder, ResizeExecOptionsBuilder,
    },
};
use futures::{StreamExt as _, stream::BoxStream};

use super::{Docker, Error, ExecSpec, LogOptions, Output, Result, Session, TerminalSize, docker::failed};

// === impl Docker ===

impl Docker {
    pub(super) async fn start_exec_session(&self, id: &str, exec: ExecSpec) -> Result<Session> {
        let options = CreateExecOptions {
            attach_stdin: Some(exec.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(!exec.tty),
            tty: Some(exec.tty),
            cmd: Some(exec.command),
            ..Default::default()
        };
        let session = self.client.create_exec(id, options).await?.id;
        let start = StartExecOptions { detach: false, tty: exec.tty, output_capacity: None };
        match self.client.start_exec(&session, Some(start)).await? {
            StartExecResults::Attached { output, input } => Ok(Session { id: session, output: convert(output), input }),
            StartExecResults::Detached => Err(Error::Incomplete("the session's streams")),
        }
    }

    pub(super) async fn resize_exec_session(&self, session: &str, size: TerminalSize) -> Result<()> {
        let options = ResizeExecOptionsBuilder::default().w(size.width.into()).h(size.height.into()).build();
        Ok(self.client.resize_exec(session, options).await?)
    }

    pub(super) async fn attach_session(&self, id: &str, stdin: bool) -> Result<Session> {
        let options = AttachContainerOptionsBuilder::default().stream(true).stdin(stdin).stdout(true).stderr(true).build();
        let attached = self.client.attach_container(id, Some(options)).await?;
        Ok(Session { id: String::new(), output: convert(attached.output), input: attached.input })
    }

    pub(super) async fn resize_container(&self, id: &str, size: TerminalSize) -> Result<()> {
        let options = ResizeContainerTTYOptionsBuilder::default().w(size.width.into()).h(size.height.into()).build();
        Ok(self.client.resize_container_tty(id, options).await?)
    }

    pub(super) fn log_stream(&self, id: &str, options: LogOptions) -> BoxStream<'static, Result<Output>> {
        let since = match options.since.map(i32::try_from).transpose() {
            Ok(since) => since.unwrap_or(0),
            Err(_) => return failed(Error::Engine { status: 400, message: "sinceTime is out of the engine's range".into() }),
        };
        let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let query = LogsOptionsBuilder::default()
            .follow(options.follow)
            .stdout(true)
            .stderr(true)
            .since(since)
            .timestamps(options.timestamps)
            .tail(&tail)
            .build();
        let (client, id) = (self.client.clone(), id.to_owned());
        async_stream::stream! {
            let mut logs = convert(client.logs(&id, Some(query)).boxed());
            while let Some(chunk) = logs.next().await {
                yield chunk;
            }
        }
        .boxed()
    }
}

type EngineStream<'a> = std::pin::Pin<Box<dyn futures::Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send + 'a>>;

fn convert(stream: EngineStream<'_>) -> BoxStream<'_, Result<Output>> {
    stream
        .map(|chunk| {
            Ok(match chunk? {
                LogOutput::StdErr { message } => Output::Stderr(message),
                LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                    Output::Stdout(message)
                }
            })
        })
        .boxed()
}
