//! A container that was started to be watched: all that it writes, standard input to it, and what it ended with.
//!
//! Output comes from the container's log, so that nothing is lost of what it wrote before anybody could attach, and nothing comes
//! twice; the attached stream carries standard input. A terminal is attached to as it is: its log knows whole lines only.

use std::time::Duration;

use anyhow::{Context as _, bail};
use api::{
    Resource as _,
    core::v1::Pod,
    ferrokube::v1::{LogsRequest, PodRef},
};
use futures::TryStreamExt as _;
use serde_json::Value;

use super::{exec, wait};
use crate::{
    Session,
    error::Exit,
    objects::{self, list, number, text},
    resource_args::Named,
    terminal,
};

/// How long it may take until it is known what a container ended with.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// How a container is followed.
#[derive(Clone, Copy, Debug)]
pub struct Follow {
    /// Pass standard input to it.
    pub stdin: bool,
    /// It has a terminal.
    pub tty: bool,
    /// Say nothing but what it writes.
    pub quiet: bool,
    /// What it ends with is what the command ends with.
    pub exit_code: bool,
}

/// Shows what the first container of a pod that has started writes until it ends.
///
/// # Errors
/// An [`Exit`] with the container's exit code unless that is 0; else what went wrong.
pub async fn follow(session: &Session, pod: &Pod, how: Follow) -> anyhow::Result<()> {
    let container = pod.spec().containers.first().map(|container| container.name.clone()).context("the pod has no containers")?;
    if how.tty {
        with_terminal(session, pod, &container, how).await?;
    } else if how.stdin {
        let input = terminal::feed(session, exec::start(pod, container.clone(), Vec::new(), true, false));
        let (mut input, mut output) = (std::pin::pin!(input), std::pin::pin!(show_log(session, pod, &container)));
        tokio::select! {
            outcome = &mut output => outcome?,
            outcome = &mut input => {
                // A container that has ended takes no input, and its output is still there.
                if let Err(error) = outcome
                    && !is_bad_request(&error)
                {
                    session.console.note(format!("warning: couldn't attach to pod/{}: {error}", pod.name()));
                }
                output.await?;
            }
        }
    } else {
        show_log(session, pod, &container).await?;
    }
    if how.exit_code { report_end(session, pod, &container).await } else { Ok(()) }
}

async fn with_terminal(session: &Session, pod: &Pod, container: &str, how: Follow) -> anyhow::Result<()> {
    if how.stdin && !how.quiet {
        session.console.note("If you don't see a command prompt, try pressing enter.");
    }
    let start = exec::start(pod, container.to_owned(), Vec::new(), how.stdin, exec::terminal_wanted(session, true, how.stdin));
    match terminal::join(session, start).await {
        Ok(ended) if ended.seen => Ok(()),
        Ok(_) => show_log(session, pod, container).await,
        Err(error) if error.is::<Exit>() => Err(error),
        Err(error) => {
            if !how.quiet {
                let name = pod.name();
                session.console.note(format!("warning: couldn't attach to pod/{name}, falling back to streaming logs: {error}"));
            }
            show_log(session, pod, container).await
        }
    }
}

fn is_bad_request(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<client::Error>().and_then(client::Error::status);
    status.is_some_and(|status| status.reason() == api::status::Reason::BadRequest)
}

/// Prints a container's output from its beginning to its end, each stream to ours of that name.
async fn show_log(session: &Session, pod: &Pod, container: &str) -> anyhow::Result<()> {
    let request = LogsRequest {
        pod: Some(PodRef { namespace: pod.namespace().to_owned(), name: pod.name().to_owned(), uid: pod.metadata().uid.clone() }),
        container: container.to_owned(),
        follow: true,
        ..Default::default()
    };
    let pods = session.client()?.pods();
    let mut pieces = session.shown("waiting for the container's output", pods.output(request)).await?;
    while let Some(piece) = pieces.try_next().await? {
        if piece.stderr { session.console.print_error(piece.data)? } else { session.console.print(piece.data)? }
    }
    Ok(())
}

/// Ends with what the container ended with.
async fn report_end(session: &Session, pod: &Pod, container: &str) -> anyhow::Result<()> {
    let named = Named { kind: Pod::KIND, namespace: pod.namespace().to_owned(), name: pod.name().to_owned() };
    let known = |pod: Option<&Value>| Ok(pod.is_none_or(|pod| terminated(pod, container).is_some()));
    wait::until(session, &named, "waiting to learn what the container ended with", END_TIMEOUT, known).await?;
    let place = format!("{}/{}", named.namespace, named.name);
    let Some(object) = objects::get_opt(session, named.kind, &named.namespace, &named.name).await? else {
        bail!("pod {place} was deleted: what its container ended with is not known");
    };
    let object = objects::to_value(&object)?;
    let end = terminated(&object, container).with_context(|| format!("pod {place} failed with unknown exit code"))?;
    match number(end, "/exitCode") {
        0 => Ok(()),
        code => {
            let message = format!("pod {place} terminated ({})\n{}", text(end, "/reason"), text(end, "/message"));
            Err(Exit { code: u8::try_from(code).unwrap_or(1), message: Some(message.trim_end().to_owned()) }.into())
        }
    }
}

/// How a container ended, the last time that it did.
fn terminated<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let status = list(pod, "/status/containerStatuses").iter().find(|status| text(status, "/name") == container)?;
    status.pointer("/state/terminated").or_else(|| status.pointer("/lastState/terminated"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_container_ended_with_is_known_also_when_it_runs_again() {
        let pod = |state: Value| json!({"status": {"containerStatuses": [{"name": "b"}, state]}});
        let ended = json!({"terminated": {"exitCode": 3}});
        let code = |state| terminated(&pod(state), "c").map(|end| number(end, "/exitCode"));
        assert_eq!(code(json!({"name": "c", "state": ended})), Some(3));
        assert_eq!(code(json!({"name": "c", "state": {"running": {}}, "lastState": ended})), Some(3));
        assert_eq!(code(json!({"name": "c", "state": {"running": {}}})), None);
    }
}
