//! `kctl logs`

use std::time::Duration;

use anyhow::bail;
use api::{
    Resource as _,
    core::v1::Pod,
    ferrokube::v1::{LogsRequest, PodRef},
    google::protobuf::Timestamp as ProtoTime,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use crate::{Session, failures::Failures, pods};

/// Lines of each container when a selector chooses the pods and --tail does not say.
const SELECTED_TAIL: i64 = 10;

/// Show what containers have written
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl logs web                                   of the pod's only or first container
  kctl logs -f web -c app --tail=20               the last lines, and then what comes
  kctl logs -p web                                of the container before its last restart
  kctl logs --since=1h rc/web                     of one of a controller's pods
  kctl logs -l app=web --all-containers --prefix  of all containers of all pods with a label")]
pub struct Args {
    /// The pod, or TYPE/NAME of what has pods
    #[arg(value_name = "POD", required_unless_present = "selector", conflicts_with = "selector")]
    pod: Option<String>,
    /// The container
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    container_word: Option<String>,
    /// The container
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Of all containers of the pod
    #[arg(long, conflicts_with_all = ["container", "container_word"])]
    all_containers: bool,
    /// Of all pods of TYPE/NAME
    #[arg(long)]
    all_pods: bool,
    /// Keep showing what is written
    #[arg(short = 'f', long)]
    follow: bool,
    /// Of the container before its last restart
    #[arg(short = 'p', long)]
    previous: bool,
    /// Pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Not older than this, such as 10s, 5m or 3h
    #[arg(long, value_name = "TIME", value_parser = super::duration, conflicts_with = "since_time")]
    since: Option<Duration>,
    /// Not before this moment in RFC 3339
    #[arg(long, value_name = "TIME")]
    since_time: Option<Timestamp>,
    /// Only so many of the last lines; -1 for all
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Begin each line with its pod and container
    #[arg(long)]
    prefix: bool,
    /// Stop after so many bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    limit_bytes: i64,
    /// With -f, show at most so many containers at once
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    max_log_requests: usize,
    /// When one container's output cannot be shown, go on with the others
    #[arg(long)]
    ignore_errors: bool,
}

/// One container's output.
struct Source {
    pod: Pod,
    container: String,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let sources = args.sources(session).await?;
    if sources.is_empty() {
        session.console.note(format!("No resources found in {} namespace.", session.namespace()?));
        return Ok(());
    }
    if args.follow && sources.len() > args.max_log_requests {
        bail!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to increase the limit",
            sources.len(),
            args.max_log_requests
        );
    }
    let mut failures = Failures::default();
    if args.follow {
        let width = sources.len();
        let shows: Vec<_> = sources.iter().map(|source| show(session, &args, source)).collect();
        let mut ends = stream::iter(shows).buffer_unordered(width);
        while let Some(outcome) = ends.next().await {
            if args.ignore_errors { failures.check(session, outcome).map(drop)? } else { outcome? }
        }
        return Ok(());
    }
    for source in &sources {
        let outcome = show(session, &args, source).await;
        if args.ignore_errors { failures.check(session, outcome).map(drop)? } else { outcome? }
    }
    Ok(())
}

impl Args {
    async fn sources(&self, session: &Session) -> anyhow::Result<Vec<Source>> {
        let pods = match (&self.selector, &self.pod) {
            (Some(selector), _) => {
                api::selector::Selector::parse(selector)?;
                pods::select(session, &session.namespace()?, selector).await?
            }
            (None, Some(word)) if self.all_pods && word.contains('/') => {
                let (kind, name) = crate::resource_args::parse(std::slice::from_ref(word))?.swap_remove(0);
                pods::of(session, kind, &session.namespace()?, &name.unwrap_or_default()).await?
            }
            (None, word) => vec![pods::find(session, word.as_deref().unwrap_or_default()).await?],
        };
        let mut sources = Vec::new();
        for pod in pods {
            let wanted = self.container.as_deref().or(self.container_word.as_deref());
            let containers = if self.all_containers {
                pods::container_names(&pod).into_iter().map(str::to_owned).collect()
            } else {
                vec![pods::container(session, &pod, wanted, true)?]
            };
            sources.extend(containers.into_iter().map(|container| Source { pod: pod.clone(), container }));
        }
        Ok(sources)
    }

    fn request(&self, source: &Source) -> LogsRequest {
        let since = self.since_time.or_else(|| self.since.and_then(|ago| Timestamp::now().checked_sub(ago).ok()));
        let tail = self.tail.or_else(|| self.selector.is_some().then_some(SELECTED_TAIL)).filter(|lines| *lines >= 0);
        LogsRequest {
            pod: Some(PodRef {
                namespace: source.pod.namespace().to_owned(),
                name: source.pod.name().to_owned(),
                uid: source.pod.metadata().uid.clone(),
            }),
            container: source.container.clone(),
            follow: self.follow,
            previous: self.previous,
            since: since.map(|since| ProtoTime { seconds: since.as_second(), nanos: since.subsec_nanosecond() }),
            tail_lines: tail,
            timestamps: self.timestamps,
            limit_bytes: self.limit_bytes,
        }
    }
}

async fn show(session: &Session, args: &Args, source: &Source) -> anyhow::Result<()> {
    let logs = session.client()?.pods();
    let what = format!("waiting for the output of {}/{}", source.pod.name(), source.container);
    let mut pieces = session.shown(&what, logs.logs(args.request(source))).await?;
    let mut lines = Prefixed::new(args.prefix.then(|| format!("[pod/{}/{}] ", source.pod.name(), source.container)));
    while let Some(piece) = pieces.try_next().await? {
        session.console.print(lines.add(&piece))?;
    }
    session.console.print(lines.finish())?;
    Ok(())
}

/// Puts a prefix before each line of a stream that comes in pieces. Holds back an unfinished line, so that lines of several streams
/// do not mix.
struct Prefixed {
    prefix: Option<String>,
    rest: Vec<u8>,
}

/// Longest line that is held back.
const MAX_LINE: usize = 64 << 10;

impl Prefixed {
    fn new(prefix: Option<String>) -> Self {
        Self { prefix, rest: Vec::new() }
    }

    fn add(&mut self, piece: &[u8]) -> Vec<u8> {
        let Some(prefix) = &self.prefix else { return piece.to_vec() };
        let mut out = Vec::with_capacity(piece.len());
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(line);
            if line.ends_with(b"\n") || self.rest.len() > MAX_LINE {
                out.extend_from_slice(prefix.as_bytes());
                out.append(&mut self.rest);
                if !out.ends_with(b"\n") {
                    out.push(b'\n');
                }
            }
        }
        out
    }

    fn finish(&mut self) -> Vec<u8> {
        if self.rest.is_empty() { Vec::new() } else { self.add(b"\n") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_their_prefix_however_they_come() {
        let mut lines = Prefixed::new(Some("[p] ".into()));
        assert_eq!(lines.add(b"a\nb"), b"[p] a\n");
        assert_eq!(lines.add(b"c\n\n"), b"[p] bc\n[p] \n");
        assert_eq!(lines.add(b"end"), b"");
        assert_eq!(lines.finish(), b"[p] end\n");
        assert_eq!(Prefixed::new(None).add(b"a"), b"a");
    }
}
