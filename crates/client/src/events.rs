//! Events about objects: what happened, for people to read.
//!
//! Recording never waits: a bounded queue takes records, one task writes them. Events are a courtesy: when the queue is full or the server
//! stays away, they are dropped.

mod correlate;

use std::{sync::Arc, time::Duration};

use api::{
    Resource,
    core::v1::{Event, EventSource, ObjectReference},
    meta::v1::{ObjectMeta, Time},
};
use daemon::{Kit, Shutdown};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use self::correlate::{Correlator, Decision, EventKey, Written};
use crate::{Backoff, Client, Item, Patch, error::Result};

/// Records that wait to be written.
const QUEUE: usize = 1000;
/// How often writing one event is tried while no server answers.
const ATTEMPTS: u32 = 8;
/// How long the last records have to be written once the shutdown begins.
const FLUSH: Duration = Duration::from_secs(2);
/// Longest name of an object.
const LONGEST_NAME: usize = 253;

/// Whether an event is good or bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things go as they should.
    Normal,
    /// Somebody may have to look.
    Warning,
}

/// Records events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    queue: mpsc::Sender<Record>,
    source: Arc<EventSource>,
}

/// One thing that happened.
#[derive(Clone, Debug)]
struct Record {
    source: Arc<EventSource>,
    about: ObjectReference,
    event_type: EventType,
    reason: String,
    message: String,
    at: jiff::Timestamp,
}

struct Writer {
    client: Client,
    correlator: Correlator,
}

// === impl EventRecorder ===

impl EventRecorder {
    /// Records events as those of `component`, on `host` if it belongs to one. They are written by a critical task of the kit.
    pub fn spawn(client: Client, component: &str, host: &str, kit: &Kit) -> Self {
        let (recorder, run) = Self::new(client, component, host, kit.shutdown.clone());
        kit.tasks.spawn_infallible("events", run);
        recorder
    }

    /// As [`Self::spawn`], with the task left to the caller.
    pub fn new(
        client: Client,
        component: &str,
        host: &str,
        shutdown: Shutdown,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (queue, records) = mpsc::channel(QUEUE);
        let source = Arc::new(EventSource { component: component.to_owned(), host: host.to_owned() });
        let writer = Writer { client, correlator: Correlator::new() };
        (Self { queue, source }, writer.run(records, shutdown))
    }

    /// A recorder that records nothing.
    pub fn none() -> Self {
        Self { queue: mpsc::channel(1).0, source: Arc::default() }
    }

    /// The same queue, with events recorded as those of another component: what one process does may have several names.
    #[must_use]
    pub fn of(&self, component: &str) -> Self {
        let source = EventSource { component: component.to_owned(), host: self.source.host.clone() };
        Self { queue: self.queue.clone(), source: Arc::new(source) }
    }

    /// Something happened to `about`. `reason` is a CamelCase word that programs may look for, `message` a sentence for people.
    pub fn event<K: Resource>(&self, about: &K, event_type: EventType, reason: &str, message: impl Into<String>) {
        self.event_about(reference(about), event_type, reason, message);
    }

    /// As [`Self::event`], about whatever the reference names.
    pub fn event_about(&self, about: ObjectReference, event_type: EventType, reason: &str, message: impl Into<String>) {
        let record = Record {
            source: self.source.clone(),
            about,
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
            at: jiff::Timestamp::now(),
        };
        if let Err(mpsc::error::TrySendError::Full(record)) = self.queue.try_send(record) {
            tracing::debug!(reason = record.reason, object = record.about.name, "event dropped, too many are waiting");
        }
    }
}

/// A reference to an object.
pub fn reference<K: Resource>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        kind: K::KIND.kind.to_string(),
        api_version: K::KIND.api_version.to_string(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

// === impl EventType ===

impl EventType {
    /// As the API has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Ends when the shutdown begins, after writing what waits as far as time allows.
    async fn run(mut self, mut records: mpsc::Receiver<Record>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.started() => break,
                record = records.recv() => match record {
                    Some(record) => tokio::select! {
                        () = shutdown.started() => break,
                        () = self.write(record) => {}
                    },
                    // Nobody can record any more, but a critical task ends with the process.
                    None => shutdown.started().await,
                },
            }
        }
        records.close();
        let flush = async {
            while let Some(record) = records.recv().await {
                self.write(record).await;
            }
        };
        if timeout(FLUSH, flush).await.is_err() {
            tracing::debug!("the last events were not written");
        }
    }

    async fn write(&mut self, record: Record) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let decision = self.correlator.decide(&record, Instant::now());
        for _ in 0..ATTEMPTS {
            match self.attempt(&record, &decision).await {
                Err(error) if error.is_unavailable() => tokio::time::sleep(backoff.next_delay()).await,
                Err(error) => return tracing::debug!(%error, reason = record.reason, "event not written"),
                Ok(()) => return,
            }
        }
        tracing::debug!(reason = record.reason, "event not written, no server answers");
    }

    async fn attempt(&mut self, record: &Record, decision: &Decision) -> Result<()> {
        match decision {
            Decision::Drop => Ok(()),
            Decision::Create { key, message } => self.create(record, key, message).await,
            Decision::CountUp { key, message, written } => {
                let change = json!({ "count": written.count, "message": message, "lastTimestamp": record.at.strftime("%FT%TZ").to_string() });
                let events = self.client.namespaced::<Event>(&written.namespace);
                match events.patch(&written.name, &Patch::Merge(change)).await {
                    // Events are kept for a while only.
                    Err(error) if error.is_not_found() => {
                        self.correlator.gone(key);
                        self.create(record, key, message).await
                    }
                    outcome => outcome.map(|_| self.correlator.wrote(key.clone(), written.clone())),
                }
            }
        }
    }

    async fn create(&mut self, record: &Record, key: &EventKey, message: &str) -> Result<()> {
        let event = event(record, message);
        let namespace = event.metadata().namespace.clone();
        match self.client.namespaced::<Event>(&namespace).create(&event).await {
            // An earlier attempt arrived although its answer did not.
            Err(error) if error.is_already_exists() => {}
            outcome => drop(outcome?),
        }
        let written = Written { namespace, name: event.metadata().name.clone(), count: 1 };
        self.correlator.wrote(key.clone(), written);
        Ok(())
    }
}

fn event(record: &Record, message: &str) -> Event {
    let about = &record.about;
    let suffix = format!(".{:x}", record.at.as_nanosecond());
    let name: String = about.name.chars().take(LONGEST_NAME - suffix.len()).collect();
    let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
    let at = Some(Time::from(record.at));
    Event {
        metadata: Some(ObjectMeta { name: name + &suffix, namespace: namespace.to_owned(), ..ObjectMeta::default() }),
        involved_object: Some(about.clone()),
        reason: record.reason.clone(),
        message: message.to_owned(),
        source: Some(EventSource::clone(&record.source)),
        first_timestamp: at,
        last_timestamp: at,
        count: 1,
        r#type: record.event_type.as_str().to_owned(),
        reporting_component: record.source.component.clone(),
        reporting_instance: record.source.host.clone(),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::Pod;

    use super::*;
    use crate::testing::MemoryServer;

    fn pod() -> Pod {
        let mut pod = Pod::default();
        pod.metadata_mut().namespace = "d".into();
        pod.metadata_mut().name = "web".into();
        pod
    }

    #[tokio::test]
    async fn the_same_event_again_counts_up_one_object() {
        let (server, kit) = (MemoryServer::new(), Kit::new());
        let recorder = EventRecorder::spawn(server.client(), "test", "host", &kit);
        for _ in 0..3 {
            recorder.event(&pod(), EventType::Warning, "BackOff", "restarting");
        }
        server.eventually(|server| server.all::<Event>().iter().any(|event| event.count == 3)).await;
        let events = server.all::<Event>();
        assert_eq!(events.len(), 1);
        let (event, meta) = (&events[0], events[0].metadata());
        assert_eq!((event.r#type.as_str(), event.reason.as_str(), event.message.as_str()), ("Warning", "BackOff", "restarting"));
        assert_eq!(event.source().component, "test");
        assert_eq!((event.involved_object().kind.as_str(), event.source().host.as_str()), ("Pod", "host"));
        assert!(meta.name.starts_with("web.") && meta.namespace == "d");
    }

    #[tokio::test]
    async fn parts_of_a_process_record_under_their_own_names() {
        let (server, kit) = (MemoryServer::new(), Kit::new());
        let recorder = EventRecorder::spawn(server.client(), "test", "host", &kit);
        recorder.of("part").event(&pod(), EventType::Normal, "R", "m");
        server.eventually(|server| server.all::<Event>().len() == 1).await;
        let event = server.all::<Event>().remove(0);
        assert_eq!((event.source().component.as_str(), event.source().host.as_str()), ("part", "host"));
        assert_eq!(event.reporting_component, "part");
    }

    #[tokio::test]
    async fn an_event_that_the_server_forgot_is_written_anew() {
        let (server, kit) = (MemoryServer::new(), Kit::new());
        let recorder = EventRecorder::spawn(server.client(), "test", "", &kit);
        recorder.event(&pod(), EventType::Normal, "R", "m");
        server.eventually(|server| !server.all::<Event>().is_empty()).await;
        let name = server.all::<Event>()[0].metadata().name.clone();
        server.remove::<Event>("d", &name);
        recorder.event(&pod(), EventType::Normal, "R", "m");
        server.eventually(|server| !server.all::<Event>().is_empty()).await;
    }

    #[tokio::test]
    async fn recording_never_waits_and_what_waits_is_written_at_the_end() {
        let (server, shutdown) = (MemoryServer::new(), Shutdown::new());
        let (recorder, run) = EventRecorder::new(server.client(), "test", "", shutdown.clone());
        for n in 0..QUEUE * 2 {
            let mut pod = pod();
            pod.metadata_mut().name = format!("p{n}");
            recorder.event(&pod, EventType::Normal, "R", "m");
        }
        shutdown.start();
        run.await;
        assert_eq!(server.all::<Event>().len(), QUEUE);
    }
}
