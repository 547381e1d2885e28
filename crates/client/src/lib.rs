//! How everything but the API server itself talks to the API server, and the runtime that controllers live in.
//!
//! * [`Client`] — typed, dynamic and metadata-only access to every kind over one connection, with failover.
//! * [`Informers`] — shared local copies of the objects of a kind, kept in step by one watch each.
//! * [`Controller`] — runs a [`Reconcile`] over a [`WorkQueue`] that never works on one key twice at once.
//! * [`LeaderElection`] — one of several processes works, and one that lost its lease cannot write.
//! * [`EventRecorder`] — events about objects, aggregated and rate limited.
//! * `testing` — an in-memory API server behind the real client (feature `testing`).

mod api;
mod backoff;
mod client;
pub mod config;
mod controller;
mod error;
mod events;
pub mod fence;
mod informer;
mod key;
pub mod kubeconfig;
mod leader;
mod metrics;
mod observe;
mod path;
mod pods;
mod queue;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;

pub use self::{
    api::{
        Api, Body, Change, Deleted, Dynamic, Item, List, ListParams, Metadata, Patch, Readable, Reads, Trimmed, WatchEvent,
        WatchParams, WatchStream, delete,
    },
    backoff::Backoff,
    client::Client,
    config::{Args, Config, ConfigError, Impersonation},
    controller::{Controller, Reconcile, Requeue},
    error::{Error, Result},
    events::{EventRecorder, EventType, reference},
    informer::{Changed, Informer, Informers, ObjectChange, Scope, Store, Subscription, Transform},
    key::ObjectKey,
    leader::{LeaderElection, LeaderError, Leadership},
    metrics::{ControllerMetrics, QueueMetrics},
    observe::Observer,
    path::PathAnswer,
    pods::Pods,
    queue::{Key, Work, WorkQueue},
    transport::{OwnConnection, Transport},
};
