//! The Docker Engine behind [`Runtime`], over its Unix socket. Translates our specs to the engine's and its answers back; decides nothing.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use bollard::{
    ClientVersion,
    auth::DockerCredentials,
    errors::Error as DockerError,
    models,
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder, KillContainerOptionsBuilder,
        ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream::BoxStream};
use hyper::Method;
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    Container, ContainerEvent, ContainerId, ContainerSpec, ContainerSummary, Credentials, Error, ExecSpec, Exit, Image, Labels,
    LogOptions, Mount, Output, Propagation, Result, Runtime, Session, State, TerminalSize, container_name, labels, logs::Watcher,
    processes::kill_session, streams::ExecMark, wire::Wire,
};
use crate::reference::Reference;

/// The oldest API that has all we use; Debian's engine speaks it.
const OLDEST_API: (usize, usize) = (1, 41);
/// The API that is spoken with engines that know it: the oldest that all from 29 on know.
const PREFERRED_API: (usize, usize) = (1, 44);
/// Bound on one call. Creating a container on a loaded machine takes seconds; nothing healthy takes minutes.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// The exit code of a process that SIGKILL ended.
const KILLED: i32 = 128 + 9;
/// Rotation of a container's log file, upstream's defaults (10 MiB, 5 files).
const LOG_MAX_SIZE: &str = "10m";
const LOG_MAX_FILES: &str = "5";

/// A connection to a Docker Engine. Cheap to clone; every call opens its own connection.
#[derive(Clone)]
pub struct Docker {
    pub(super) client: bollard::Docker,
    pub(super) wire: Wire,
    /// Begun when the first log is followed.
    pub(super) watcher: Watcher,
    /// By which our execs are told from others'.
    pub(super) mark: Arc<ExecMark>,
}

/// The APIs that an engine speaks.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versions {
    version: String,
    api_version: String,
    #[serde(rename = "MinAPIVersion", default)]
    oldest: String,
}

// === impl Docker ===

impl Docker {
    /// Talks to the engine at a Unix socket, in an API that both know.
    ///
    /// # Errors
    /// When there is no engine (yet), or one that is too old.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let mut wire = Wire { socket: socket.to_owned(), prefix: String::new() };
        let (major_version, minor_version) = versions(&wire).await?.choose()?;
        wire.prefix = format!("/v{major_version}.{minor_version}");
        let version = ClientVersion { major_version, minor_version };
        let client = bollard::Docker::connect_with_unix(&socket.to_string_lossy(), CALL_TIMEOUT.as_secs(), &version)?;
        Ok(Self { client, wire, watcher: Watcher::default(), mark: Arc::new(ExecMark::new()) })
    }

    /// Whether the engine makes control groups itself rather than systemd. Slow while the engine looks up the name of a registry in vain.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn makes_cgroups(&self) -> Result<bool> {
        Ok(self.client.info().await?.cgroup_driver == Some(models::SystemInfoCgroupDriverEnum::CGROUPFS))
    }
}

async fn versions(wire: &Wire) -> Result<Versions> {
    serde_json::from_slice(&wire.ask(Method::GET, "/version").await?).map_err(Error::transport)
}

// === impl Versions ===

impl Versions {
    fn choose(&self) -> Result<(usize, usize)> {
        let read = |text: &str| -> Option<(usize, usize)> {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        let newest = read(&self.api_version).filter(|newest| *newest >= OLDEST_API);
        let newest = newest.ok_or_else(|| Error::TooOld(self.api_version.clone()))?;
        Ok(PREFERRED_API.min(newest).max(read(&self.oldest).unwrap_or(OLDEST_API)))
    }
}

impl Runtime for Docker {
    fn create(&self, spec: ContainerSpec) -> BoxFuture<'_, Result<ContainerId>> {
        async move {
            let options = CreateContainerOptionsBuilder::default().name(&container_name(&spec.labels)).build();
            let created = self.client.create_container(Some(options), create_body(spec)).await?;
            Ok(created.id)
        }
        .boxed()
    }

    fn start<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move { Ok(self.client.start_container(id, None).await?) }.boxed()
    }

    fn signal<'a>(&'a self, id: &'a str, signal: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let options = KillContainerOptionsBuilder::default().signal(signal).build();
            match self.client.kill_container(id, Some(options)).await.map_err(Error::from) {
                // Gone, or not running any more: what was asked for.
                Err(Error::NotFound { .. } | Error::Conflict { .. }) | Ok(()) => Ok(()),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            match self.client.remove_container(id, Some(options)).await.map_err(Error::from) {
                // Gone, or its removal is under way.
                Err(Error::NotFound { .. } | Error::Conflict { .. }) | Ok(()) => Ok(()),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn inspect<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Container>>> {
        async move {
            match self.client.inspect_container(id, None).await.map_err(Error::from) {
                Ok(answer) => container(answer).map(Some),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn list<'a>(&'a self, pod_uid: Option<&'a str>) -> BoxFuture<'a, Result<Vec<ContainerSummary>>> {
        async move {
            let label = pod_uid.map_or_else(|| labels::UID.to_owned(), |uid| format!("{}={uid}", labels::UID));
            let options = ListContainersOptionsBuilder::default().all(true).filters(&filter("label", &[&label])).build();
            let listed = self.client.list_containers(Some(options)).await?;
            Ok(listed
                .into_iter()
                .filter_map(|summary| {
                    Some(ContainerSummary {
                        id: summary.id?,
                        labels: Labels::parse(summary.labels.as_ref()?)?,
                        running: summary.state == Some(models::ContainerSummaryStateEnum::RUNNING),
                    })
                })
                .collect())
        }
        .boxed()
    }

    fn events(&self) -> BoxStream<'static, Result<ContainerEvent>> {
        let mut filters = filter("event", &["start", "die", "oom", "destroy"]);
        filters.extend(filter("type", &["container"]));
        filters.extend(filter("label", &[labels::UID]));
        // The engine is asked when the stream is first polled; what happens between now and then must not be missed.
        let now = Timestamp::now();
        let since = format!("{}.{:09}", now.as_second(), now.subsec_nanosecond());
        let options = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
        let client = self.client.clone();
        // The engine's stream borrows nothing, but its type says it does; own the client beside it.
        async_stream::stream! {
            let mut events = std::pin::pin!(client.events(Some(options)));
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => if let Some(event) = container_event(event) { yield Ok(event) },
                    Err(error) => yield Err(Error::from(error)),
                }
            }
        }
        .boxed()
    }

    fn exec<'a>(&'a self, id: &'a str, exec: ExecSpec) -> BoxFuture<'a, Result<Session>> {
        self.start_exec_session(id, exec).boxed()
    }

    fn exec_exit_code<'a>(&'a self, session: &'a str) -> BoxFuture<'a, Result<Option<i64>>> {
        async move {
            let answer = self.client.inspect_exec(session).await?;
            Ok(if answer.running == Some(true) { None } else { answer.exit_code })
        }
        .boxed()
    }

    fn kill_exec<'a>(&'a self, session: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let answer = self.client.inspect_exec(session).await?;
            let pid = answer.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| answer.running == Some(true) && *pid > 1);
            if let Some(pid) = pid {
                // The engine has no call for this; it makes each process of an exec the leader of a session.
                let killed = tokio::task::spawn_blocking(move || kill_session(pid)).await.map_err(Error::transport)?;
                killed.map_err(Error::transport)?;
            }
            Ok(())
        }
        .boxed()
    }

    fn leftover_execs<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        self.find_leftover_execs(id).boxed()
    }

    fn resize_exec<'a>(&'a self, session: &'a str, size: TerminalSize) -> BoxFuture<'a, Result<()>> {
        self.resize_exec_session(session, size).boxed()
    }

    fn attach<'a>(&'a self, id: &'a str, stdin: bool, tty: bool) -> BoxFuture<'a, Result<Session>> {
        self.attach_session(id, stdin, tty).boxed()
    }

    fn resize<'a>(&'a self, id: &'a str, size: TerminalSize) -> BoxFuture<'a, Result<()>> {
        self.resize_container(id, size).boxed()
    }

    fn logs(&self, id: &str, options: LogOptions) -> BoxStream<'static, Result<Output>> {
        self.log_stream(id, options)
    }

    fn pull<'a>(&'a self, image: &'a str, credentials: Option<Credentials>) -> BoxFuture<'a, Result<()>> {
        async move {
            let (name, tag) = split_reference(image);
            let options = CreateImageOptionsBuilder::default().from_image(name).tag(tag).build();
            let credentials = credentials.map(|c| DockerCredentials {
                username: Some(c.username),
                password: Some(c.password),
                serveraddress: Some(c.server),
                ..Default::default()
            });
            let progress = self.client.create_image(Some(options), None, credentials);
            Ok(progress.try_for_each(|_| async { Ok(()) }).await?)
        }
        .boxed()
    }

    fn image<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Image>>> {
        async move {
            match self.client.inspect_image(image).await.map_err(Error::from) {
                Ok(answer) => {
                    let digests = answer.repo_digests.unwrap_or_default();
                    let names = [answer.repo_tags.unwrap_or_default(), digests.clone()].concat();
                    // The engine also finds images by the beginning of their ids, which is nobody's name for them.
                    if !Reference::parse(image).is_ok_and(|wanted| wanted.is_among(&names)) {
                        return Ok(None);
                    }
                    Ok(Some(Image {
                        id: answer.id.ok_or(Error::Incomplete("the image's id"))?,
                        names,
                        size: answer.size.unwrap_or_default(),
                        digests,
                        user: answer.config.and_then(|config| config.user).unwrap_or_default(),
                    }))
                }
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        async move {
            let listed = self.client.list_images(None::<bollard::query_parameters::ListImagesOptions>).await?;
            let real = |names: Vec<String>| names.into_iter().filter(|name| !name.contains("<none>")).collect::<Vec<_>>();
            Ok(listed
                .into_iter()
                .map(|image| {
                    let digests = real(image.repo_digests);
                    Image {
                        id: image.id,
                        names: [digests.clone(), real(image.repo_tags)].concat(),
                        size: image.size,
                        digests,
                        ..Image::default()
                    }
                })
                .collect())
        }
        .boxed()
    }

    fn import_image<'a>(&'a self, reference: &'a str, root: Bytes, changes: Vec<String>) -> BoxFuture<'a, Result<()>> {
        async move {
            let (repository, tag) = split_reference(reference);
            let options = CreateImageOptionsBuilder::default().from_src("-").repo(repository).tag(tag).changes(changes).build();
            let progress = self.client.create_image(Some(options), Some(bollard::body_full(root)), None);
            Ok(progress.try_for_each(|_| async { Ok(()) }).await?)
        }
        .boxed()
    }

    fn version(&self) -> BoxFuture<'_, Result<String>> {
        async move { Ok(versions(&self.wire).await?.version) }.boxed()
    }
}

// === impl Error ===

impl From<DockerError> for Error {
    fn from(error: DockerError) -> Self {
        match error {
            DockerError::DockerResponseServerError { status_code, message } => Self::refused(status_code, message),
            DockerError::DockerStreamError { error } => Self::Engine { status: 0, message: error },
            error @ (DockerError::SocketNotFoundError(_)
            | DockerError::RequestTimeoutError
            | DockerError::HyperLegacyError { .. }
            | DockerError::HyperResponseError { .. }) => Self::unreachable(error),
            error => Self::transport(error),
        }
    }
}

pub(super) fn filter(name: &str, values: &[&str]) -> HashMap<String, Vec<String>> {
    HashMap::from([(name.to_owned(), values.iter().map(|v| (*v).to_owned()).collect())])
}

/// Splits an image reference in its name and its tag or digest; the engine wants them apart, and a tag at all.
fn split_reference(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, digest);
    }
    match image.rsplit_once(':') {
        // A colon before a slash is a registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn some_list(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}

fn create_body(spec: ContainerSpec) -> models::ContainerCreateBody {
    let resources = spec.resources;
    let host_config = models::HostConfig {
        network_mode: some(spec.network_mode),
        ipc_mode: some(spec.ipc_mode),
        pid_mode: some(spec.pid_mode),
        uts_mode: some(spec.uts_mode),
        mounts: Some(spec.mounts.into_iter().map(bind).collect()),
        cpu_shares: Some(resources.cpu_shares),
        cpu_quota: Some(resources.cpu_quota),
        cpu_period: Some(resources.cpu_period),
        memory: Some(resources.memory),
        memory_swap: (resources.memory > 0).then_some(resources.memory),
        oom_score_adj: Some(resources.oom_score_adj),
        cgroup_parent: some(resources.cgroup_parent),
        privileged: Some(spec.privileged),
        readonly_rootfs: Some(spec.read_only_root),
        cap_add: some_list(spec.cap_add),
        cap_drop: some_list(spec.cap_drop),
        security_opt: some_list(spec.security_opt),
        group_add: some_list(spec.groups),
        sysctls: (!spec.sysctls.is_empty()).then(|| spec.sysctls.into_iter().collect()),
        restart_policy: Some(models::RestartPolicy { name: Some(models::RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        log_config: Some(models::HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(
                // Read by us, so never compressed.
                [("max-size", LOG_MAX_SIZE), ("max-file", LOG_MAX_FILES), ("compress", "false")]
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .into(),
            ),
        }),
        ..Default::default()
    };
    models::ContainerCreateBody {
        image: Some(spec.image),
        entrypoint: some_list(spec.entrypoint),
        cmd: some_list(spec.args),
        env: Some(spec.env),
        working_dir: some(spec.working_dir),
        hostname: some(spec.hostname),
        domainname: some(spec.domainname),
        user: some(spec.user),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin),
        stdin_once: Some(spec.stdin_once),
        stop_signal: some(spec.stop_signal),
        labels: Some(spec.labels.to_map()),
        // An image's own health check is Docker's business, not the pod's: probes are.
        healthcheck: Some(models::HealthConfig { test: Some(vec!["NONE".into()]), ..Default::default() }),
        host_config: Some(host_config),
        ..Default::default()
    }
}

fn bind(mount: Mount) -> models::Mount {
    use models::MountBindOptionsPropagationEnum as Kind;
    let propagation = match mount.propagation {
        Propagation::Private => Kind::RPRIVATE,
        Propagation::HostToContainer => Kind::RSLAVE,
        Propagation::Bidirectional => Kind::RSHARED,
    };
    models::Mount {
        target: Some(mount.container_path),
        source: Some(mount.host_path),
        typ: Some(models::MountType::BIND),
        read_only: Some(mount.read_only),
        bind_options: Some(models::MountBindOptions { propagation: Some(propagation), ..Default::default() }),
        ..Default::default()
    }
}

/// A time of the engine; it writes "never" as the year 1.
fn time(text: Option<&str>) -> Option<Timestamp> {
    let time: Timestamp = text?.parse().ok()?;
    (time.as_second() > 0).then_some(time)
}

fn container(answer: models::ContainerInspectResponse) -> Result<Container> {
    let config = answer.config.unwrap_or_default();
    let engine = answer.state.unwrap_or_default();
    let created_at = time(answer.created.as_deref()).ok_or(Error::Incomplete("the container's creation time"))?;
    let running = engine.running == Some(true);
    let started_at = time(engine.started_at.as_deref());
    let error = engine.error.unwrap_or_default();
    let code = engine.exit_code.unwrap_or_default() as i32;
    let state = match started_at {
        _ if running => State::Running,
        // Also while it is being removed: what never ran has not ended.
        None if error.is_empty() => State::Created,
        _ => State::Exited(Exit {
            code,
            // The engine says so too when some other process in it was killed for memory, and the first ended as it liked.
            oom_killed: engine.oom_killed == Some(true) && code == KILLED,
            error,
            finished_at: time(engine.finished_at.as_deref()).unwrap_or(created_at),
        }),
    };
    Ok(Container {
        id: answer.id.ok_or(Error::Incomplete("the container's id"))?,
        labels: config.labels.as_ref().and_then(Labels::parse).ok_or(Error::Incomplete("the container's labels"))?,
        image: config.image.unwrap_or_default(),
        image_id: answer.image.unwrap_or_default(),
        pid: if running { engine.pid.unwrap_or_default() as i32 } else { 0 },
        state,
        created_at,
        started_at,
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()).unwrap_or_else(|| "SIGTERM".into()),
        tty: config.tty == Some(true),
    })
}

fn container_event(event: models::EventMessage) -> Option<ContainerEvent> {
    let actor = event.actor?;
    Some(ContainerEvent { id: actor.id?, pod_uid: actor.attributes?.remove(labels::UID)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_split_where_the_engine_wants_them_split() {
        assert_eq!(split_reference("busybox"), ("busybox", "latest"));
        assert_eq!(split_reference("reg:5000/a/b"), ("reg:5000/a/b", "latest"));
        assert_eq!(split_reference("reg:5000/a/b:v1"), ("reg:5000/a/b", "v1"));
        assert_eq!(split_reference("a@sha256:00"), ("a", "sha256:00"));
    }

    #[test]
    fn an_api_is_chosen_that_both_know() {
        let choose = |newest: &str, oldest: &str| {
            Versions { version: String::new(), api_version: newest.into(), oldest: oldest.into() }
                .choose()
                .map_err(|error| error.to_string())
        };
        assert_eq!(choose("1.41", "1.12"), Ok((1, 41)));
        assert_eq!(choose("1.52", "1.44"), Ok((1, 44)));
        assert_eq!(choose("1.60", "1.50"), Ok((1, 50)));
        assert_eq!(choose("1.40", ""), Err("the Docker Engine speaks API 1.40 at most; 1.41 or later is needed".into()));
    }

    fn inspected(status: models::ContainerStateStatusEnum, state: models::ContainerState) -> Container {
        let labels = Labels::sandbox("n", "p", "u", 0).to_map();
        let answer = models::ContainerInspectResponse {
            id: Some("c".into()),
            created: Some("2026-01-02T03:04:05.6Z".into()),
            state: Some(models::ContainerState {
                status: Some(status),
                finished_at: Some("0001-01-01T00:00:00Z".into()),
                ..state
            }),
            config: Some(models::ContainerConfig { labels: Some(labels), ..Default::default() }),
            ..Default::default()
        };
        container(answer).unwrap()
    }

    #[test]
    fn a_container_that_could_not_be_run_counts_as_ended_and_one_that_never_was_does_not() {
        use models::ContainerStateStatusEnum::{CREATED, REMOVING};
        let failed = models::ContainerState { error: Some("no such file".into()), exit_code: Some(127), ..Default::default() };
        let container = inspected(CREATED, failed);
        let exit = container.exit().unwrap();
        assert_eq!((exit.code, exit.error.as_str(), container.started_at), (127, "no such file", None));
        assert_eq!(inspected(REMOVING, models::ContainerState::default()).state, State::Created);
    }

    #[test]
    fn only_one_whose_first_process_was_killed_was_killed_for_memory() {
        for (code, killed) in [(137, true), (0, false), (5, false), (143, false)] {
            let state = models::ContainerState {
                oom_killed: Some(true),
                exit_code: Some(code),
                started_at: Some("2026-01-02T03:04:05Z".into()),
                ..Default::default()
            };
            assert_eq!(inspected(models::ContainerStateStatusEnum::EXITED, state).exit().unwrap().oom_killed, killed, "{code}");
        }
    }
}
