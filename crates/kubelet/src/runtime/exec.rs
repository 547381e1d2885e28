//! Commands in containers that end with whoever asked for them: a client that leaves, a probe that waits no longer, a kubelet that was killed.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Error, ExecSpec, Result, Runtime, Session};

/// Pause before it is asked again whether a command has ended by itself.
const POLL: Duration = Duration::from_millis(200);

/// A command that was begun for somebody. When this is dropped before the command has ended, its standard input is closed and after its patience it is
/// killed with its session. What began a session of its own goes on.
pub struct Begun {
    runtime: Arc<dyn Runtime>,
    session: Option<String>,
    patience: Duration,
}

/// Starts a command that ends with who holds the answer. Dropping the future is leaving, too: the command is ended once it has started.
///
/// # Errors
/// When the runtime does not start it.
pub async fn begin(runtime: Arc<dyn Runtime>, container: String, spec: ExecSpec, patience: Duration) -> Result<(Session, Begun)> {
    // A task, so that it comes to its end whoever waits for it.
    let starting = tokio::spawn(async move {
        let session = runtime.exec(&container, spec).await?;
        let begun = Begun { runtime, session: Some(session.id.clone()), patience };
        Ok((session, begun))
    });
    starting.await.map_err(Error::transport)?
}

/// Ends the commands that an earlier kubelet began in containers that still run. What people started with the engine's own tools goes on.
///
/// # Errors
/// When the runtime does not say which containers there are.
pub async fn end_leftovers(runtime: &dyn Runtime) -> Result<()> {
    let containers = runtime.list(None).await?;
    for container in containers.into_iter().filter(|container| container.running && !container.labels.is_sandbox()) {
        let ended = async {
            for session in runtime.leftover_execs(&container.id).await? {
                runtime.kill_exec(&session).await?;
                info!(
                    uid = container.labels.uid,
                    container = container.labels.container,
                    session,
                    "ended a command without a client"
                );
            }
            Ok::<_, Error>(())
        };
        match ended.await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                warn!(container = container.id, error = &error as &dyn std::error::Error, "cannot end leftover commands")
            }
        }
    }
    Ok(())
}

// === impl Begun ===

impl Begun {
    /// The command has ended by itself.
    pub fn has_ended(&mut self) {
        self.session = None;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Without an executor the kubelet itself is ending; its successor looks for what it left.
        if let (Some(session), Ok(handle)) = (self.session.take(), tokio::runtime::Handle::try_current()) {
            handle.spawn(end(self.runtime.clone(), session, self.patience));
        }
    }
}

async fn end(runtime: Arc<dyn Runtime>, session: String, patience: Duration) {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if matches!(runtime.exec_exit_code(&session).await, Ok(Some(_))) {
            return;
        }
        sleep(POLL).await;
    }
    if let Err(error) = runtime.kill_exec(&session).await {
        warn!(session, error = &error as &dyn std::error::Error, "cannot end a command that nobody waits for");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{
        ContainerSpec, Labels,
        fake::{Exec, FakeRuntime},
    };

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_while_a_command_starts_does_not_leave_it_running() {
        let runtime = FakeRuntime::new(&[]);
        runtime.set_exec(Exec::Slow);
        let beginning = begin(Arc::new(runtime.clone()), "c".into(), ExecSpec::default(), Duration::ZERO);
        assert!(tokio::time::timeout(Duration::from_secs(1), beginning).await.is_err());
        assert_eq!(runtime.take_calls(), ["exec [] c"]);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(runtime.take_calls(), ["kill exec"]);
    }

    #[tokio::test]
    async fn what_an_earlier_kubelet_left_is_ended_and_nothing_else() {
        let runtime = FakeRuntime::new(&[]);
        let mut ids = Vec::new();
        for (container, labels) in
            [("a", Labels::default()), ("POD", Labels::sandbox("n", "p", "u", 0)), ("b", Labels::default())]
        {
            let labels = Labels { container: container.into(), ..labels };
            ids.push(runtime.create(ContainerSpec { labels, ..ContainerSpec::default() }).await.unwrap());
        }
        runtime.start(&ids[0]).await.unwrap();
        runtime.start(&ids[1]).await.unwrap();
        ids.iter().for_each(|id| runtime.leave_exec(id));
        runtime.take_calls();
        end_leftovers(&runtime).await.unwrap();
        assert_eq!(runtime.take_calls(), [format!("kill left-{}", ids[0])]);
    }
}
