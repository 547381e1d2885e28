//! etcd: the storage envelope, guarded transactions and the watch cache over encoded objects.
//!
//! ```text
//!  Collection ── create, modify, delete ──► etcd::Etcd ──► etcd members (TLS, failover)
//!      │                                                        │
//!      └── get, list, watch ──► cache ◄── Runner ◄── one watch over the whole keyspace
//! ```
//!
//! [`Store::new`] takes the addresses and the kinds ([`KindLayout`]) and answers a [`Store`] and a [`Runner`]; whoever
//! owns the process spawns `runner.run(shutdown)` and ends if it ends. A [`Collection`] is the handle of one kind:
//!
//! ```no_run
//! # async fn example(config: store::Config, kinds: Vec<store::KindLayout>, encoded: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! use store::{ListOptions, ReadAt, Selection, Store, WatchStart};
//! let (store, runner) = Store::new(config, kinds)?;
//! let shutdown = tokio_util::sync::CancellationToken::new();
//! tokio::spawn(runner.run(shutdown.clone()));
//! store.ready().await;
//!
//! let pods = store.collection("pods").ok_or("no such kind")?;
//! let created = pods.create("default", "web", encoded).await?;
//! let list = pods.list(&Selection::all(), ListOptions::default()).await?;
//! let mut watch = pods.watch(Selection::namespace("default"), WatchStart::After(list.revision)).await?;
//! loop {
//!     for event in watch.next().await?.events {
//!         println!("{:?} {} {}", event.kind, event.entry.key(), event.entry.revision());
//!     }
//! }
//! # }
//! ```
//!
//! What holds:
//!
//! * Objects go in encoded (a `resourceVersion` inside is removed) and come out as [`Entry`]s, whose
//!   [`object`](Entry::object) carries the resource version. Nothing is decoded here.
//! * A read at [`ReadAt::Latest`] sees every write acknowledged before it began, by whichever API server. It costs a
//!   share of one small etcd read.
//! * A write either is acknowledged with its revision, is refused with a reason ([`Error::Conflict`] carries the current
//!   object), or is [`EtcdError::Undetermined`]; the latter only if even reading back failed.
//! * Every watcher sees each change of what it selects exactly once and in order, or gets [`Error::Expired`]. A slow watcher
//!   costs nobody but itself.

pub mod cache;
mod config;
pub mod entry;
pub mod envelope;
pub mod error;
pub mod etcd;
pub mod layout;
pub mod metrics;
pub mod selection;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod wire;

pub use crate::cache::list::{List, ListOptions};
pub use crate::cache::watch::{Batch, EventKind, Watch, WatchEvent, WatchStart};
pub use crate::config::{Config, TlsFiles};
pub use crate::entry::Entry;
pub use crate::error::Error;
pub use crate::etcd::{Etcd, EtcdError, Guard, KeyState, Outcome, Quorum, Txn, Value};
pub use crate::layout::{Encoding, FieldKind, FieldLayout, KindLayout};
pub use crate::metrics::{Counters, Stats};
pub use crate::selection::{Filter, IndexKey, Scope, Selection};
pub use crate::store::{Change, Collection, ReadAt, Runner, Store};
