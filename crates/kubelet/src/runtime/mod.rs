//! The container runtime, seen through a narrow trait: what the pod machine needs from Docker and nothing else.
//!
//! Everything a container is found by again (its pod, name, attempt, spec hash) lives in its [`Labels`]; there is no other register of
//! containers. *Invariant:* no call here blocks on another pod; every call is bounded in time except the streams.

mod docker;
pub mod exec;
#[cfg(test)]
pub(crate) mod fake;
mod frames;
mod labels;
mod logs;
mod pause;
mod processes;
mod streams;
mod wire;

use std::{collections::BTreeMap, pin::Pin};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use jiff::Timestamp;
use tokio::io::AsyncWrite;

pub use self::{
    docker::Docker,
    labels::{ContainerKind, Labels, container_name},
    pause::{PauseError, ensure_pause_image},
};

/// A container's identity in the runtime: 64 hexadecimal digits.
pub type ContainerId = String;

/// The runtime's operations. Object safe, so that the pod machine can be tested against a recording fake.
pub trait Runtime: Send + Sync {
    /// Creates a container without starting it. [`Error::Conflict`] when the name is taken.
    fn create(&self, spec: ContainerSpec) -> BoxFuture<'_, Result<ContainerId>>;
    /// Starts a created container; starting a running one is no error.
    fn start<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Sends a signal (`SIGTERM`, `SIGKILL`, …) to the container's first process; no error if it does not run any more.
    fn signal<'a>(&'a self, id: &'a str, signal: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Removes a container and its anonymous volumes, killing it if need be; no error if it is gone.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Everything about one container; `None` if there is none.
    fn inspect<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Container>>>;
    /// The containers that carry our labels, of one pod or (with `None`) of all, running or not.
    fn list<'a>(&'a self, pod_uid: Option<&'a str>) -> BoxFuture<'a, Result<Vec<ContainerSummary>>>;
    /// What happens to our containers from this call on, whenever the stream is polled. Ends with an error when the runtime goes away.
    fn events(&self) -> BoxStream<'static, Result<ContainerEvent>>;

    /// Starts a process in a running container.
    fn exec<'a>(&'a self, id: &'a str, exec: ExecSpec) -> BoxFuture<'a, Result<Session>>;
    /// The exit code of an exec session; `None` while it runs.
    fn exec_exit_code<'a>(&'a self, session: &'a str) -> BoxFuture<'a, Result<Option<i64>>>;
    /// Kills the process of an exec session, and what it has started in its own session; no error if it has ended.
    fn kill_exec<'a>(&'a self, session: &'a str) -> BoxFuture<'a, Result<()>>;
    /// The sessions of commands that run in a container and that a kubelet before this one started; none that people started with the engine's tools.
    fn leftover_execs<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<String>>>;
    /// Sets the terminal size of an exec session.
    fn resize_exec<'a>(&'a self, session: &'a str, size: TerminalSize) -> BoxFuture<'a, Result<()>>;
    /// Connects to the standard streams of a container's first process, which has a terminal or not.
    fn attach<'a>(&'a self, id: &'a str, stdin: bool, tty: bool) -> BoxFuture<'a, Result<Session>>;
    /// Sets the terminal size of a container's first process.
    fn resize<'a>(&'a self, id: &'a str, size: TerminalSize) -> BoxFuture<'a, Result<()>>;
    /// What the container has written, and with `follow` what it goes on to write until it ends.
    fn logs(&self, id: &str, options: LogOptions) -> BoxStream<'static, Result<Output>>;

    /// Fetches an image from its registry.
    fn pull<'a>(&'a self, image: &'a str, credentials: Option<Credentials>) -> BoxFuture<'a, Result<()>>;
    /// An image that is present under that reference; `None` if none is. Its id, or a part of it, is no reference.
    fn image<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Image>>>;
    /// All images that are present.
    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>>>;
    /// Makes an image of one layer from a root file system (tar) and Dockerfile instructions.
    fn import_image<'a>(&'a self, reference: &'a str, root: Bytes, changes: Vec<String>) -> BoxFuture<'a, Result<()>>;
    /// The engine's version, as in `20.10.24`. Answered whatever else the engine is busy with.
    fn version(&self) -> BoxFuture<'_, Result<String>>;
}

/// A failed runtime call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such container, image or exec session.
    #[error("{message}")]
    NotFound {
        /// The engine's words.
        message: String,
    },
    /// The state of the object forbids the call (name taken, not running …).
    #[error("{message}")]
    Conflict {
        /// The engine's words.
        message: String,
    },
    /// The engine refused the request or failed at it.
    #[error("{message}")]
    Engine {
        /// The HTTP status code, 0 when the failure came in the middle of a stream.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The engine did not answer.
    #[error("the Docker Engine is not reachable")]
    Unreachable(#[source] Cause),
    /// Anything else on the way: protocol, encoding, input and output.
    #[error("talking to the Docker Engine failed")]
    Transport(#[source] Cause),
    /// The engine is older than what we can speak with.
    #[error("the Docker Engine speaks API {0} at most; 1.41 or later is needed")]
    TooOld(String),
    /// A container's log files cannot be read.
    #[error("cannot read the container's log")]
    Log(#[source] std::io::Error),
    /// The engine's answer lacks a field that it must have.
    #[error("the Docker Engine's answer lacks {0}")]
    Incomplete(&'static str),
}

/// What lies behind a failed call.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The result of a runtime call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to create: a sandbox or an application container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSpec {
    /// Who it is; its name derives from this.
    pub labels: Labels,
    /// Image reference or id; must be present.
    pub image: String,
    /// Replaces the image's entry point when not empty.
    pub entrypoint: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Replaces the image's working directory when not empty.
    pub working_dir: String,
    /// Host name of the UTS namespace (sandbox only).
    pub hostname: String,
    /// Domain name of the UTS namespace (sandbox only).
    pub domainname: String,
    /// `uid[:gid]` or a name; the image's user when empty.
    pub user: String,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attach.
    pub stdin_once: bool,
    /// The signal that asks it to stop; the image's when empty.
    pub stop_signal: String,
    /// Network namespace: `none`, `host`, or `container:<id>`.
    pub network_mode: String,
    /// IPC namespace, in the engine's words.
    pub ipc_mode: String,
    /// Process namespace, in the engine's words; its own when empty.
    pub pid_mode: String,
    /// Host name namespace: `host` or empty.
    pub uts_mode: String,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// CPU, memory and OOM settings.
    pub resources: Resources,
    /// Full access to the host.
    pub privileged: bool,
    /// Root file system read-only.
    pub read_only_root: bool,
    /// Capabilities to add, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop, without `CAP_`.
    pub cap_drop: Vec<String>,
    /// `no-new-privileges`, `seccomp=…`, `apparmor=…`, `label=…`.
    pub security_opt: Vec<String>,
    /// Kernel parameters of the pod's namespaces (sandbox only).
    pub sysctls: BTreeMap<String, String>,
}

/// A host directory or file in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path on the host; must exist.
    pub host_path: String,
    /// Absolute path in the container.
    pub container_path: String,
    /// Mounted read-only.
    pub read_only: bool,
    /// How mounts made later travel.
    pub propagation: Propagation,
}

/// Mount propagation of a bind mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// None (`rprivate`).
    #[default]
    Private,
    /// From the host into the container (`rslave`).
    HostToContainer,
    /// Both ways (`rshared`).
    Bidirectional,
}

/// Control-group settings of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative CPU weight, 2 to 262144; 0 leaves the engine's default.
    pub cpu_shares: i64,
    /// CPU time per period in microseconds; 0 means no limit.
    pub cpu_quota: i64,
    /// Scheduling period in microseconds; 0 leaves the default.
    pub cpu_period: i64,
    /// Memory limit in bytes; 0 means no limit. Swap is never allowed on top.
    pub memory: i64,
    /// −1000 (never killed) to 1000 (killed first).
    pub oom_score_adj: i64,
    /// Parent control group, absolute; the engine's own when empty.
    pub cgroup_parent: String,
}

/// One line of the list of containers.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSummary {
    /// Its id.
    pub id: ContainerId,
    /// Who it is.
    pub labels: Labels,
    /// Whether its process runs.
    pub running: bool,
}

/// A container as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Who it is.
    pub labels: Labels,
    /// The image reference that it was created with.
    pub image: String,
    /// The image's id (`sha256:…`).
    pub image_id: String,
    /// What it does now.
    pub state: State,
    /// Process id of its first process on the host; 0 unless running.
    pub pid: i32,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last started, if ever.
    pub started_at: Option<Timestamp>,
    /// The signal that asks it to stop.
    pub stop_signal: String,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Created, never started.
    Created,
    /// Its process runs (or is paused).
    Running,
    /// Its process has ended, or could not be started.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// Exit code; 128 + n after signal n.
    pub code: i32,
    /// The kernel's memory limit killed it.
    pub oom_killed: bool,
    /// The engine's reason when it could not be run at all, else empty.
    pub error: String,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// A change of one of our containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container.
    pub id: ContainerId,
    /// UID of its pod.
    pub pod_uid: String,
}

/// A process to start in a running container.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Connect standard input.
    pub stdin: bool,
    /// Allocate a terminal.
    pub tty: bool,
}

/// Open streams to a process in a container.
pub struct Session {
    /// The exec session's id; empty for an attach.
    pub id: String,
    /// What it writes; ends when it ends.
    pub output: BoxStream<'static, Result<Output>>,
    /// Its standard input; shutting it down closes it.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output, or everything when there is a terminal.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Which part of a container's log to read.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only lines that were begun at or after this time.
    pub since: Option<Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Only that many lines at the end.
    pub tail: Option<i64>,
}

/// How to log in to a registry.
#[derive(Clone, Default)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// Registry host.
    pub server: String,
}

/// An image that is present.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// `sha256:…`.
    pub id: String,
    /// Tags and digests that name it.
    pub names: Vec<String>,
    /// Size in bytes, shared layers included.
    pub size: i64,
    /// `repository@sha256:…`, when it came from a registry.
    pub digests: Vec<String>,
    /// The user that it runs as by default (only by [`Runtime::image`]).
    pub user: String,
}

// === impl Credentials ===

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("server", &self.server).finish_non_exhaustive()
    }
}

// === impl Container ===

impl Container {
    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

// === impl Output ===

impl Output {
    /// The bytes, whichever stream they came from.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Stdout(bytes) | Self::Stderr(bytes) => bytes,
        }
    }
}

// === impl Error ===

impl Error {
    /// Whether the engine, not the request, is at fault, so that the same call may succeed later.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// What the engine means by a status code that is no success.
    fn refused(status: u16, message: String) -> Self {
        match status {
            404 => Self::NotFound { message },
            409 => Self::Conflict { message },
            status => Self::Engine { status, message },
        }
    }

    fn unreachable(cause: impl Into<Cause>) -> Self {
        Self::Unreachable(cause.into())
    }

    fn transport(cause: impl Into<Cause>) -> Self {
        Self::Transport(cause.into())
    }

    fn log(error: std::io::Error) -> Self {
        Self::Log(error)
    }
}
