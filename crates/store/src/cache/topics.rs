//! Who is to be woken by which event.
//!
//! A watcher that selects one object, one value of an indexed field or one namespace subscribes to that topic: a ring with only
//! the events that concern it and a wake-up of its own. A thousand kubelets watching their own pods cost no more than the events
//! they get. A topic exists while somebody subscribes to it. *Invariant:* it holds exactly those events of the kind's ring that
//! concern it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use super::ring::{Event, Ring};
use crate::entry::Entry;
use crate::layout::KindLayout;
use crate::selection::{IndexKey, Scope, Selection};

/// What a watcher subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopicId {
    /// Every event of the kind.
    All,
    /// One object, by its path.
    Object(String),
    /// One value of an indexed field.
    Field(usize, String),
    /// One namespace.
    Namespace(String),
}

/// The events of one topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) ring: Ring,
    pub(crate) wake: Arc<Notify>,
    subscribers: usize,
}

/// The topics of a kind that have subscribers.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    objects: HashMap<String, Topic>,
    namespaces: HashMap<String, Topic>,
    /// By the field's place in the layout.
    fields: Vec<HashMap<String, Topic>>,
}

// === impl TopicId ===

impl TopicId {
    /// The narrowest topic with all events that can concern a selection.
    pub(crate) fn of(selection: &Selection, layout: &KindLayout) -> Self {
        match (&selection.scope, &selection.index) {
            (Scope::Object { namespace, name }, _) => {
                let key = layout.key(namespace, name);
                Self::Object(key[layout.prefix.len()..].to_owned())
            }
            (_, Some(IndexKey::Field { field, value })) if layout.fields.get(*field).is_some_and(|f| f.indexed) => {
                Self::Field(*field, value.clone())
            }
            (Scope::Namespace(namespace), _) => Self::Namespace(namespace.clone()),
            _ => Self::All,
        }
    }

    fn concerns(&self, layout: &KindLayout, event: &Event) -> bool {
        let either = |test: &dyn Fn(&Entry) -> bool| test(&event.entry) || event.previous.as_deref().is_some_and(test);
        match self {
            Self::All => true,
            Self::Object(path) => event.entry.path() == path,
            Self::Namespace(namespace) => event.entry.namespace() == namespace,
            Self::Field(field, value) => {
                layout.fields.get(*field).is_some_and(|field| either(&|entry| entry.field(field) == value.as_str()))
            }
        }
    }
}

// === impl Topics ===

impl Topics {
    pub(crate) fn new(layout: &KindLayout) -> Self {
        Self { fields: layout.fields.iter().map(|_| HashMap::new()).collect(), ..Self::default() }
    }

    /// The topic, if it has subscribers.
    pub(crate) fn get(&self, id: &TopicId) -> Option<&Topic> {
        match id {
            TopicId::All => None,
            TopicId::Object(path) => self.objects.get(path),
            TopicId::Namespace(namespace) => self.namespaces.get(namespace),
            TopicId::Field(field, value) => self.fields.get(*field)?.get(value),
        }
    }

    /// Counts one more subscriber; `all` is the kind's ring, of which a new topic takes what concerns it.
    pub(crate) fn subscribe(&mut self, id: &TopicId, layout: &KindLayout, all: &Ring) {
        let Some((topics, name)) = self.table(id) else {
            return;
        };
        let topic = topics.entry(name.to_owned()).or_insert_with(|| {
            let mut ring = Ring::new(all.floor(), all.first_seq());
            all.iter().filter(|event| id.concerns(layout, event)).for_each(|event| ring.push(event.clone()));
            Topic { ring, wake: Arc::default(), subscribers: 0 }
        });
        topic.subscribers += 1;
    }

    /// Counts one subscriber less.
    pub(crate) fn unsubscribe(&mut self, id: &TopicId) {
        let Some((topics, name)) = self.table(id) else {
            return;
        };
        if let Some(topic) = topics.get_mut(name) {
            topic.subscribers -= 1;
            if topic.subscribers == 0 {
                topics.remove(name);
            }
        }
    }

    /// Adds an event to the topics it concerns and their wake-ups to `wakes`.
    pub(crate) fn push(&mut self, layout: &KindLayout, event: &Arc<Event>, wakes: &mut Vec<Arc<Notify>>) {
        self.concerned(layout, event, |topic| {
            topic.ring.push(event.clone());
            wakes.push(topic.wake.clone());
        });
    }

    /// Drops an event that the kind's ring has let go.
    pub(crate) fn forget(&mut self, layout: &KindLayout, event: &Event) {
        self.concerned(layout, event, |topic| topic.ring.forget(event));
    }

    /// Empties every topic, and wakes those who wait.
    pub(crate) fn reset(&mut self, floor: i64, first_seq: u64, wakes: &mut Vec<Arc<Notify>>) {
        let topics = self.fields.iter_mut().chain([&mut self.objects, &mut self.namespaces]);
        for topic in topics.flat_map(HashMap::values_mut) {
            topic.ring = Ring::new(floor, first_seq);
            wakes.push(topic.wake.clone());
        }
    }

    /// Adds the wake-ups of every topic to `wakes`.
    pub(crate) fn wake_all(&self, wakes: &mut Vec<Arc<Notify>>) {
        let topics = self.fields.iter().chain([&self.objects, &self.namespaces]);
        wakes.extend(topics.flat_map(HashMap::values).map(|topic| topic.wake.clone()));
    }

    fn table<'a>(&mut self, id: &'a TopicId) -> Option<(&mut HashMap<String, Topic>, &'a str)> {
        match id {
            TopicId::All => None,
            TopicId::Object(path) => Some((&mut self.objects, path)),
            TopicId::Namespace(namespace) => Some((&mut self.namespaces, namespace)),
            TopicId::Field(field, value) => Some((self.fields.get_mut(*field)?, value)),
        }
    }

    fn concerned(&mut self, layout: &KindLayout, event: &Event, mut visit: impl FnMut(&mut Topic)) {
        if let Some(topic) = self.objects.get_mut(event.entry.path()) {
            visit(topic);
        }
        if let Some(topic) = self.namespaces.get_mut(event.entry.namespace()) {
            visit(topic);
        }
        for (field, topics) in layout.fields.iter().zip(&mut self.fields).filter(|(_, topics)| !topics.is_empty()) {
            let value = event.entry.field(field);
            if let Some(topic) = topics.get_mut(&*value) {
                visit(topic);
            }
            let before = event.previous.as_ref().map(|previous| previous.field(field)).filter(|before| *before != value);
            if let Some(topic) = before.and_then(|before| topics.get_mut(&*before)) {
                visit(topic);
            }
        }
    }
}
