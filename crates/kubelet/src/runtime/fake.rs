//! A runtime in memory that records what it is told: the pod machine's tests drive it and look at what was asked of it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use super::*;

/// The fake; clones share their state.
#[derive(Clone)]
pub(crate) struct FakeRuntime {
    inner: Arc<Mutex<Inner>>,
    events: broadcast::Sender<ContainerEvent>,
}

#[derive(Default)]
struct Inner {
    containers: BTreeMap<ContainerId, Container>,
    specs: BTreeMap<ContainerId, ContainerSpec>,
    images: BTreeMap<String, Image>,
    /// Images that can be pulled.
    registry: BTreeMap<String, Image>,
    calls: Vec<String>,
    next: u32,
    /// Message with which starting a container of that name fails.
    start_failures: BTreeMap<String, String>,
    /// How many signals will fail.
    signal_failures: u32,
    /// Containers that do not end on SIGTERM.
    stubborn: Vec<String>,
    exec_exit_code: i64,
    exec: Exec,
    /// Containers in which an earlier kubelet's command runs.
    left: Vec<ContainerId>,
    /// It does not say how it is.
    down: bool,
    /// How long it takes to list its images.
    images_delay: std::time::Duration,
}

/// What executing a command in a container is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Exec {
    /// It ends at once.
    #[default]
    Ends,
    /// It never ends.
    Hangs,
    /// It never ends, and the engine takes half a minute to say that it has begun.
    Slow,
    /// The engine does not answer.
    Fails,
}

impl FakeRuntime {
    pub(crate) fn new(images: &[&str]) -> Self {
        let images = images.iter().map(|name| {
            ((*name).to_owned(), Image { id: format!("sha256:{name}"), names: vec![(*name).to_owned()], ..Image::default() })
        });
        let inner = Inner { images: images.collect(), ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), events: broadcast::channel(1024).0 }
    }

    /// Lets an image be pulled.
    pub(crate) fn offer(&self, name: &str) {
        let image = Image { id: format!("sha256:{name}"), names: vec![name.to_owned()], ..Image::default() };
        self.inner.lock().registry.insert(name.to_owned(), image);
    }

    /// What was asked so far, as `verb name_attempt`, and forgets it.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().calls)
    }

    pub(crate) fn containers(&self) -> Vec<Container> {
        self.inner.lock().containers.values().cloned().collect()
    }

    pub(crate) fn spec(&self, id: &str) -> Option<ContainerSpec> {
        self.inner.lock().specs.get(id).cloned()
    }

    /// The newest container of that name.
    pub(crate) fn newest(&self, name: &str) -> Option<Container> {
        self.containers().into_iter().filter(|c| c.labels.container == name).max_by_key(|c| c.labels.attempt)
    }

    pub(crate) fn fail_start(&self, name: &str, message: &str) {
        self.inner.lock().start_failures.insert(name.into(), message.into());
    }

    pub(crate) fn fail_signals(&self, count: u32) {
        self.inner.lock().signal_failures = count;
    }

    pub(crate) fn make_stubborn(&self, name: &str) {
        self.inner.lock().stubborn.push(name.into());
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.inner.lock().down = down;
    }

    /// Lets a command of an earlier kubelet run in a container.
    pub(crate) fn leave_exec(&self, id: &str) {
        self.inner.lock().left.push(id.into());
    }

    pub(crate) fn set_images_delay(&self, delay: std::time::Duration) {
        self.inner.lock().images_delay = delay;
    }

    pub(crate) fn set_exec(&self, exec: Exec) {
        self.inner.lock().exec = exec;
    }

    pub(crate) fn set_exec_exit_code(&self, code: i64) {
        self.inner.lock().exec_exit_code = code;
    }

    /// Ends a container from outside.
    pub(crate) fn exit(&self, id: &str, code: i32) {
        let event = {
            let mut inner = self.inner.lock();
            let Some(container) = inner.containers.get_mut(id) else { return };
            container.pid = 0;
            container.state =
                State::Exited(Exit { code, oom_killed: false, error: String::new(), finished_at: Timestamp::now() });
            ContainerEvent { id: id.into(), pod_uid: container.labels.uid.clone() }
        };
        self.emit(event);
    }

    fn emit(&self, event: ContainerEvent) {
        // Nobody listening is fine.
        drop(self.events.send(event));
    }

    fn record(&self, verb: &str, id: &str) {
        let mut inner = self.inner.lock();
        let name =
            inner.containers.get(id).map_or_else(|| id.to_owned(), |c| format!("{}_{}", c.labels.container, c.labels.attempt));
        inner.calls.push(format!("{verb} {name}"));
    }
}

fn missing(id: &str) -> Error {
    Error::NotFound { message: format!("No such container: {id}") }
}

impl Runtime for FakeRuntime {
    fn create(&self, spec: ContainerSpec) -> BoxFuture<'_, Result<ContainerId>> {
        async move {
            let mut inner = self.inner.lock();
            inner.next += 1;
            let id = format!("id{:04}", inner.next);
            inner.calls.push(format!("create {}_{}", spec.labels.container, spec.labels.attempt));
            let container = Container {
                id: id.clone(),
                labels: spec.labels.clone(),
                image: spec.image.clone(),
                image_id: format!("sha256:{}", spec.image),
                state: State::Created,
                pid: 0,
                created_at: Timestamp::now(),
                started_at: None,
                stop_signal: "SIGTERM".into(),
                tty: spec.tty,
            };
            inner.containers.insert(id.clone(), container);
            inner.specs.insert(id.clone(), spec);
            Ok(id)
        }
        .boxed()
    }

    fn start<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.record("start", id);
            let event = {
                let mut inner = self.inner.lock();
                let Inner { containers, start_failures, .. } = &mut *inner;
                let container = containers.get_mut(id).ok_or_else(|| missing(id))?;
                if let Some(message) = start_failures.get(&container.labels.container) {
                    let exit = Exit { code: 127, oom_killed: false, error: message.clone(), finished_at: Timestamp::now() };
                    container.state = State::Exited(exit);
                    return Err(Error::Engine { status: 400, message: message.clone() });
                }
                container.state = State::Running;
                container.pid = 4242;
                container.started_at = Some(Timestamp::now());
                ContainerEvent { id: id.into(), pod_uid: container.labels.uid.clone() }
            };
            self.emit(event);
            Ok(())
        }
        .boxed()
    }

    fn signal<'a>(&'a self, id: &'a str, signal: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.record(signal, id);
            {
                let mut inner = self.inner.lock();
                if let Some(left) = inner.signal_failures.checked_sub(1) {
                    inner.signal_failures = left;
                    return Err(Error::Incomplete("an answer"));
                }
            }
            let ends = {
                let inner = self.inner.lock();
                inner
                    .containers
                    .get(id)
                    .is_some_and(|c| c.is_running() && (signal == "SIGKILL" || !inner.stubborn.contains(&c.labels.container)))
            };
            if ends {
                self.exit(id, if signal == "SIGKILL" { 137 } else { 143 });
            }
            Ok(())
        }
        .boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.record("remove", id);
            let removed = self.inner.lock().containers.remove(id);
            if let Some(container) = removed {
                self.emit(ContainerEvent { id: id.into(), pod_uid: container.labels.uid });
            }
            Ok(())
        }
        .boxed()
    }

    fn inspect<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Container>>> {
        async move { Ok(self.inner.lock().containers.get(id).cloned()) }.boxed()
    }

    fn list<'a>(&'a self, pod_uid: Option<&'a str>) -> BoxFuture<'a, Result<Vec<ContainerSummary>>> {
        async move {
            Ok(self
                .containers()
                .into_iter()
                .filter(|c| pod_uid.is_none_or(|uid| c.labels.uid == uid))
                .map(|c| ContainerSummary { running: c.is_running(), id: c.id, labels: c.labels })
                .collect())
        }
        .boxed()
    }

    fn events(&self) -> BoxStream<'static, Result<ContainerEvent>> {
        BroadcastStream::new(self.events.subscribe()).filter_map(|event| async { event.ok().map(Ok) }).boxed()
    }

    fn exec<'a>(&'a self, id: &'a str, exec: ExecSpec) -> BoxFuture<'a, Result<Session>> {
        async move {
            self.record(&format!("exec {:?}", exec.command), id);
            let output = futures::stream::iter([Ok(Output::Stdout(Bytes::from_static(b"done\n")))]);
            let exec = self.inner.lock().exec;
            if exec == Exec::Slow {
                tokio::time::sleep(std::time::Duration::from_secs(30)).await;
            }
            let output = match exec {
                Exec::Ends => output.boxed(),
                Exec::Hangs | Exec::Slow => output.chain(futures::stream::pending()).boxed(),
                Exec::Fails => return Err(Error::Incomplete("an answer")),
            };
            Ok(Session { id: "exec".into(), output, input: Box::pin(tokio::io::sink()) })
        }
        .boxed()
    }

    fn exec_exit_code<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<i64>>> {
        async move { Ok(Some(self.inner.lock().exec_exit_code)) }.boxed()
    }

    fn kill_exec<'a>(&'a self, session: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.record("kill", session);
            Ok(())
        }
        .boxed()
    }

    fn leftover_execs<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        async move { Ok(self.inner.lock().left.iter().filter(|left| *left == id).map(|id| format!("left-{id}")).collect()) }
            .boxed()
    }

    fn resize_exec<'a>(&'a self, _: &'a str, _: TerminalSize) -> BoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn attach<'a>(&'a self, id: &'a str, _: bool, _: bool) -> BoxFuture<'a, Result<Session>> {
        self.exec(id, ExecSpec::default())
    }

    fn resize<'a>(&'a self, _: &'a str, _: TerminalSize) -> BoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn logs(&self, _: &str, _: LogOptions) -> BoxStream<'static, Result<Output>> {
        futures::stream::iter([Ok(Output::Stdout(Bytes::from_static(b"last words\n")))]).boxed()
    }

    fn pull<'a>(&'a self, image: &'a str, _: Option<Credentials>) -> BoxFuture<'a, Result<()>> {
        async move {
            self.record("pull", image);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let mut inner = self.inner.lock();
            if let Some(found) = inner.registry.get(image).cloned() {
                inner.images.insert(image.to_owned(), found);
                return Ok(());
            }
            Err(Error::Engine { status: 404, message: format!("pull access denied for {image}") })
        }
        .boxed()
    }

    fn image<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Image>>> {
        async move { Ok(self.inner.lock().images.get(image).cloned()) }.boxed()
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        async move {
            let delay = self.inner.lock().images_delay;
            tokio::time::sleep(delay).await;
            Ok(self.inner.lock().images.values().cloned().collect())
        }
        .boxed()
    }

    fn import_image<'a>(&'a self, reference: &'a str, _: Bytes, _: Vec<String>) -> BoxFuture<'a, Result<()>> {
        async move {
            let image = Image { id: format!("sha256:{reference}"), names: vec![reference.into()], ..Image::default() };
            self.inner.lock().images.insert(reference.into(), image);
            Ok(())
        }
        .boxed()
    }

    fn version(&self) -> BoxFuture<'_, Result<String>> {
        async { if self.inner.lock().down { Err(Error::Incomplete("everything")) } else { Ok("20.10".into()) } }.boxed()
    }
}
