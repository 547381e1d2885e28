//! Which event becomes a new object, which counts up one that exists, and which is dropped. No I/O.
//!
//! Upstream's rules: the same event again counts up; from the tenth different message of one reason about one object within ten minutes on,
//! they are combined into one; of one object, 25 events at once and one every five minutes are written.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    time::Duration,
};

use api::core::v1::ObjectReference;
use tokio::time::Instant;

use super::{EventType, Record};

/// Different messages of one reason about one object before they are combined.
const DIFFERENT_MESSAGES: usize = 10;
/// Silence after which they are no longer combined.
const COMBINE_WITHIN: Duration = Duration::from_secs(600);
/// Events about one object at once.
const BURST: f64 = 25.0;
/// Time in which one more is allowed.
const REFILL: Duration = Duration::from_secs(300);
/// How many objects, reasons and events are remembered.
const REMEMBERED: usize = 4096;

/// What makes two events similar; with the message, what makes them the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct EventKey {
    object: ObjectId,
    event_type: EventType,
    reason: String,
    /// `None` for the event that combines similar ones.
    message: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ObjectId {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    field_path: String,
}

/// An event that was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) count: i32,
}

/// What to do about a record.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// Write a new event.
    Create { key: EventKey, message: String },
    /// Count up an event that was written.
    CountUp { key: EventKey, message: String, written: Written },
    /// Too many about this object.
    Drop,
}

/// What is remembered of the events so far.
#[derive(Debug)]
pub(super) struct Correlator {
    similar: Recent<EventKey, (HashSet<String>, Instant)>,
    written: Recent<EventKey, Written>,
    tokens: Recent<ObjectId, (f64, Instant)>,
}

/// A map that forgets what came first.
#[derive(Debug)]
struct Recent<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

// === impl Correlator ===

impl Correlator {
    pub(super) fn new() -> Self {
        Self { similar: Recent::new(), written: Recent::new(), tokens: Recent::new() }
    }

    pub(super) fn decide(&mut self, record: &Record, now: Instant) -> Decision {
        let object = ObjectId::of(&record.about);
        let mut key =
            EventKey { object: object.clone(), event_type: record.event_type, reason: record.reason.clone(), message: None };
        let mut message = record.message.clone();
        let (messages, last) = self.similar.entry(&key, || (HashSet::new(), now));
        if now - *last > COMBINE_WITHIN {
            messages.clear();
        }
        *last = now;
        if messages.len() < DIFFERENT_MESSAGES {
            messages.insert(message.clone());
        }
        if messages.len() < DIFFERENT_MESSAGES {
            key.message = Some(message.clone());
        } else {
            message = format!("(combined from similar events): {message}");
        }
        let (tokens, since) = self.tokens.entry(&object, || (BURST, now));
        *tokens = (*tokens + (now - *since).div_duration_f64(REFILL)).min(BURST);
        *since = now;
        if *tokens < 1.0 {
            return Decision::Drop;
        }
        *tokens -= 1.0;
        match self.written.map.get(&key) {
            Some(written) => Decision::CountUp { written: Written { count: written.count + 1, ..written.clone() }, key, message },
            None => Decision::Create { key, message },
        }
    }

    pub(super) fn wrote(&mut self, key: EventKey, written: Written) {
        self.written.entry(&key, || written.clone()).clone_from(&written);
    }

    pub(super) fn gone(&mut self, key: &EventKey) {
        self.written.map.remove(key);
    }
}

// === impl ObjectId ===

impl ObjectId {
    fn of(about: &ObjectReference) -> Self {
        Self {
            kind: about.kind.clone(),
            namespace: about.namespace.clone(),
            name: about.name.clone(),
            uid: about.uid.clone(),
            field_path: about.field_path.clone(),
        }
    }
}

// === impl Recent ===

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn new() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }

    fn entry(&mut self, key: &K, new: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(key) {
            while self.order.len() >= REMEMBERED {
                if let Some(oldest) = self.order.pop_front() {
                    self.map.remove(&oldest);
                }
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key.clone()).or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, message: &str) -> Record {
        Record {
            source: std::sync::Arc::default(),
            about: ObjectReference { kind: "Pod".into(), name: name.into(), ..ObjectReference::default() },
            event_type: EventType::Normal,
            reason: "R".into(),
            message: message.into(),
            at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn write(correlator: &mut Correlator, record: &Record, now: Instant) -> Option<(i32, String)> {
        match correlator.decide(record, now) {
            Decision::Create { key, message } => {
                correlator.wrote(key, Written { namespace: "d".into(), name: "n".into(), count: 1 });
                Some((1, message))
            }
            Decision::CountUp { key, message, written } => {
                let count = written.count;
                correlator.wrote(key, written);
                Some((count, message))
            }
            Decision::Drop => None,
        }
    }

    #[test]
    fn the_same_event_counts_up() {
        let (mut correlator, now) = (Correlator::new(), Instant::now());
        assert_eq!(write(&mut correlator, &record("a", "m"), now), Some((1, "m".into())));
        assert_eq!(write(&mut correlator, &record("a", "m"), now), Some((2, "m".into())));
        assert_eq!(write(&mut correlator, &record("b", "m"), now), Some((1, "m".into())));
    }

    #[test]
    fn many_different_messages_are_combined() {
        let (mut correlator, now) = (Correlator::new(), Instant::now());
        let all: Vec<_> = (0..12).map(|n| write(&mut correlator, &record("a", &n.to_string()), now).unwrap()).collect();
        assert_eq!(all[8], (1, "8".into()));
        assert_eq!(all[9], (1, "(combined from similar events): 9".into()));
        assert_eq!(all[11], (3, "(combined from similar events): 11".into()));
        let later = now + Duration::from_secs(601);
        assert_eq!(write(&mut correlator, &record("a", "x"), later), Some((1, "x".into())));
    }

    #[test]
    fn one_object_cannot_flood() {
        let (mut correlator, now) = (Correlator::new(), Instant::now());
        let written = (0..40).filter_map(|_| write(&mut correlator, &record("a", "m"), now)).count();
        assert_eq!(written, 25);
        assert!(write(&mut correlator, &record("b", "m"), now).is_some());
        assert!(write(&mut correlator, &record("a", "m"), now + Duration::from_secs(299)).is_none());
        assert!(write(&mut correlator, &record("a", "m"), now + Duration::from_secs(301)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut correlator, now) = (Correlator::new(), Instant::now());
        for n in 0..REMEMBERED * 2 {
            write(&mut correlator, &record(&n.to_string(), "m"), now);
        }
        assert_eq!((correlator.tokens.map.len(), correlator.written.map.len()), (REMEMBERED, REMEMBERED));
    }
}
