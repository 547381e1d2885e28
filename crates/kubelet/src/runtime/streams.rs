//! Docker's streams: exec and attach sessions, terminal sizes, logs.

use bollard::{
    exec::CreateExecOptions,
    query_parameters::{ResizeContainerTTYOptionsBuilder, ResizeExecOptionsBuilder},
};
use futures::{StreamExt as _, stream::BoxStream};
use serde_json::json;

use super::{Docker, Error, ExecSpec, LogOptions, Output, Result, Session, TerminalSize, frames, logs};

/// With a terminal the engine looks for keys by which people leave, Ctrl-P Ctrl-Q unless it is told others, and holds the first back until it knows the
/// second. There is no way to have none. An attach can name bytes that no UTF-8 text holds; an exec, whose keys travel in JSON, control characters
/// only, so its first is the one that nobody waits for an answer to.
const ATTACH_DETACH_KEYS: &str = "%FF,%FE,%FF,%FE";
const EXEC_DETACH_KEYS: &str = "ctrl-@,ctrl-^,ctrl-@,ctrl-_,ctrl-@,ctrl-^";

// === impl Docker ===

impl Docker {
    pub(super) async fn start_exec_session(&self, id: &str, exec: ExecSpec) -> Result<Session> {
        let options = CreateExecOptions {
            attach_stdin: Some(exec.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(!exec.tty),
            detach_keys: Some(EXEC_DETACH_KEYS.to_owned()),
            tty: Some(exec.tty),
            cmd: Some(exec.command),
            ..Default::default()
        };
        let session = self.client.create_exec(id, options).await?.id;
        let start = json!({ "Detach": false, "Tty": exec.tty }).to_string();
        let (output, input) = self.wire.hijack(&format!("/exec/{session}/start"), start.into()).await?;
        Ok(Session { id: session, output: frames::output(output, exec.tty), input: Box::pin(input) })
    }

    pub(super) async fn resize_exec_session(&self, session: &str, size: TerminalSize) -> Result<()> {
        let options = ResizeExecOptionsBuilder::default().w(size.width.into()).h(size.height.into()).build();
        Ok(self.client.resize_exec(session, options).await?)
    }

    pub(super) async fn attach_session(&self, id: &str, stdin: bool, tty: bool) -> Result<Session> {
        let stdin = u8::from(stdin);
        let query = format!("stream=1&stdin={stdin}&stdout=1&stderr=1&detachKeys={ATTACH_DETACH_KEYS}");
        let (output, input) = self.wire.hijack(&format!("/containers/{id}/attach?{query}"), Default::default()).await?;
        Ok(Session { id: String::new(), output: frames::output(output, tty), input: Box::pin(input) })
    }

    pub(super) async fn resize_container(&self, id: &str, size: TerminalSize) -> Result<()> {
        let options = ResizeContainerTTYOptionsBuilder::default().w(size.width.into()).h(size.height.into()).build();
        Ok(self.client.resize_container_tty(id, options).await?)
    }

    pub(super) fn log_stream(&self, id: &str, options: LogOptions) -> BoxStream<'static, Result<Output>> {
        let (docker, id) = (self.clone(), id.to_owned());
        async_stream::try_stream! {
            let path = docker.client.inspect_container(&id, None).await.map_err(Error::from)?.log_path.filter(|path| !path.is_empty());
            let path = path.ok_or(Error::Incomplete("the container's log file"))?;
            let mut log = logs::read(docker.wire, docker.watcher, id, path.into(), options);
            while let Some(output) = log.next().await {
                yield output?;
            }
        }
        .boxed()
    }
}
