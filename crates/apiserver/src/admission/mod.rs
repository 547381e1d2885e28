//! Admission: what may change or refuse a write with knowledge of other objects, and what must be written along with it.
//!
//! Plugins run in the order of [`Chain`]: first every `admit`, then the schema's and the strategy's validation, then every `check`. What
//! a plugin decides from state that may change meanwhile goes into [`Effects`] as a guard, so that it is decided in the same etcd
//! transaction as the write. If a guard does not hold, the pipeline runs the plugins again.

use std::{future::Future, pin::Pin};

use api::{Object, StatusError};
use bytes::Bytes;
use store::{Guard, Txn};

use crate::request::Request;

mod action;
mod allocator;
mod bitmap;
mod chain;
mod cluster_ips;
mod default_toleration_seconds;
mod external_ips;
mod limit_ranger;
mod namespace_lifecycle;
mod node_ports;
mod pod_cidrs;
mod priority;
mod quota;
mod repair;
mod runtime_class;
mod service_account;
mod service_cidr;
mod taint_nodes;

pub use self::{
    chain::{AdmissionConfig, Plugins, PluginsError, chain},
    repair::repair,
    service_cidr::{ServiceCidr, ServiceCidrError},
};

/// What is written along with the object, in the same transaction.
#[derive(Default)]
pub struct Effects {
    changes: Vec<Box<dyn FnOnce(Txn) -> Txn + Send>>,
}

impl Effects {
    /// Demands something of another key.
    pub fn guard(&mut self, key: impl Into<String>, guard: Guard) {
        let key = key.into();
        self.change(move |txn| txn.guard(key, guard));
    }

    /// Writes another key.
    pub fn put(&mut self, key: impl Into<String>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.change(move |txn| txn.put(key, value, None));
    }

    /// Deletes another key.
    pub fn delete(&mut self, key: impl Into<String>) {
        let key = key.into();
        self.change(move |txn| txn.delete(key));
    }

    /// Changes the transaction in a way that has no shorthand here.
    pub fn change(&mut self, change: impl FnOnce(Txn) -> Txn + Send + 'static) {
        self.changes.push(Box::new(change));
    }

    /// A transaction with the effects added to it.
    pub fn onto(self, txn: Txn) -> Txn {
        self.changes.into_iter().fold(txn, |txn, change| change(txn))
    }
}

/// What a plugin answers.
pub type Admitted<'a> = Pin<Box<dyn Future<Output = Result<(), StatusError>> + Send + 'a>>;

/// A write under admission.
pub struct Write<'a> {
    /// The request. Its verb tells create, update (patch included) and delete apart.
    pub request: &'a Request,
    /// The object as stored; `None` on create.
    pub old: Option<&'a dyn Object>,
}

/// One concern of admission.
pub trait Plugin: Send + Sync {
    /// Upstream's name of the plugin, or the allocator's.
    fn name(&self) -> &'static str;

    /// Refuses a deletion before it begins. `object` is as stored.
    fn permit_deletion<'a>(&'a self, _write: &'a Write<'a>, _object: &'a dyn Object) -> Admitted<'a> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Changes the object, or refuses it. Runs before validation; not for deletions.
    fn admit<'a>(&'a self, _write: &'a Write<'a>, _object: &'a mut dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Refuses the valid object, or adds effects. On deletion `object` is the object that goes away for good.
    fn check<'a>(&'a self, _write: &'a Write<'a>, _object: &'a dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The plugins in their order.
#[derive(Default)]
pub struct Chain(Vec<Box<dyn Plugin>>);

impl Chain {
    /// Adds a plugin at the end.
    #[must_use]
    pub fn with(mut self, plugin: impl Plugin + 'static) -> Self {
        self.0.push(Box::new(plugin));
        self
    }

    /// Adds plugins at the end.
    #[must_use]
    pub fn with_all(mut self, plugins: impl IntoIterator<Item = Box<dyn Plugin>>) -> Self {
        self.0.extend(plugins);
        self
    }

    /// Runs every plugin's `permit_deletion`.
    ///
    /// # Errors
    /// What the first plugin that refuses says.
    pub async fn permit_deletion(&self, write: &Write<'_>, object: &dyn Object) -> Result<(), StatusError> {
        for plugin in &self.0 {
            plugin.permit_deletion(write, object).await?;
        }
        Ok(())
    }

    /// Runs every plugin's `admit`.
    ///
    /// # Errors
    /// What the first plugin that refuses says.
    pub async fn admit(&self, write: &Write<'_>, object: &mut dyn Object, effects: &mut Effects) -> Result<(), StatusError> {
        for plugin in &self.0 {
            plugin.admit(write, object, effects).await?;
        }
        Ok(())
    }

    /// Runs every plugin's `check`.
    ///
    /// # Errors
    /// What the first plugin that refuses says.
    pub async fn check(&self, write: &Write<'_>, object: &dyn Object, effects: &mut Effects) -> Result<(), StatusError> {
        for plugin in &self.0 {
            plugin.check(write, object, effects).await?;
        }
        Ok(())
    }
}
