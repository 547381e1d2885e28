//! Docker's streams: exec and attach sessions, terminal sizes, logs.

use base64::{Engine as _, engine::general_purpose::STANDARD};
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
const EXEC_DETACH_KEYS: [u8; 6] = *b"\x00\x1e\x00\x1f\x00\x1e";
/// How many keys after those tell one kubelet's execs from another's.
const EXEC_OWN_KEYS: usize = 8;

/// The detach keys of this process' execs. The engine remembers them with each exec, and nobody else has keys that begin with ours, so that after a
/// restart it is known what an earlier kubelet began.
pub(super) struct ExecMark(Vec<u8>);

// === impl ExecMark ===

impl ExecMark {
    pub(super) fn new() -> Self {
        let own = rand::random::<[u8; EXEC_OWN_KEYS]>().map(|byte| byte % 26 + 1);
        Self([&EXEC_DETACH_KEYS[..], &own].concat())
    }

    /// As the engine takes keys: `ctrl-a,ctrl-b`.
    fn keys(&self) -> String {
        self.0.iter().map(|key| format!("ctrl-{}", char::from(key | 0x40).to_ascii_lowercase())).collect::<Vec<_>>().join(",")
    }

    /// Whether keys, as the engine tells them (base64), are of a kubelet's exec but not of one of ours.
    fn is_earlier(&self, told: &str) -> bool {
        STANDARD.decode(told).is_ok_and(|keys| keys.starts_with(&EXEC_DETACH_KEYS) && keys != self.0)
    }
}

// === impl Docker ===

impl Docker {
    pub(super) async fn start_exec_session(&self, id: &str, exec: ExecSpec) -> Result<Session> {
        let options = CreateExecOptions {
            attach_stdin: Some(exec.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(!exec.tty),
            detach_keys: Some(self.mark.keys()),
            tty: Some(exec.tty),
            cmd: Some(exec.command),
            ..Default::default()
        };
        let session = self.client.create_exec(id, options).await?.id;
        let start = json!({ "Detach": false, "Tty": exec.tty }).to_string();
        let (output, input) = self.wire.hijack(&format!("/exec/{session}/start"), start.into()).await?;
        Ok(Session { id: session, output: frames::output(output, exec.tty), input: Box::pin(input) })
    }

    pub(super) async fn find_leftover_execs(&self, id: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for session in self.client.inspect_container(id, None).await?.exec_ids.unwrap_or_default() {
            let exec = self.client.inspect_exec(&session).await?;
            if exec.running == Some(true) && exec.detach_keys.is_some_and(|keys| self.mark.is_earlier(&keys)) {
                found.push(session);
            }
        }
        Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_known_by_its_keys() {
        let (ours, earlier) = (ExecMark::new(), ExecMark::new());
        assert!(ours.keys().starts_with("ctrl-@,ctrl-^,ctrl-@,ctrl-_,ctrl-@,ctrl-^,ctrl-"), "{}", ours.keys());
        for (told, is_earlier) in [
            (STANDARD.encode(&earlier.0), true),
            // What kubelets gave before each had keys of its own.
            (STANDARD.encode(EXEC_DETACH_KEYS), true),
            (STANDARD.encode(&ours.0), false),
            (STANDARD.encode([16, 17]), false),
            (String::new(), false),
            ("no base64".to_owned(), false),
        ] {
            assert_eq!(ours.is_earlier(&told), is_earlier, "{told}");
        }
    }
}
