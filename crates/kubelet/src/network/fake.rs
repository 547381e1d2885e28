//! A pod network in memory that hands out addresses and remembers who has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;

use super::{Addresses, AttachError, Error, PodNetwork, Result, Sandbox};

/// The fake; clones share their state.
#[derive(Clone, Default)]
pub(crate) struct FakeNetwork {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    given: u8,
    addresses: BTreeMap<(String, u32), Addresses>,
    broken: bool,
    /// Sandboxes get an address of each family.
    dual: bool,
}

impl FakeNetwork {
    /// Lets set-up fail, or work again.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.inner.lock().broken = broken;
    }

    /// Gives sandboxes an address of each family from now on.
    pub(crate) fn set_dual(&self) {
        self.inner.lock().dual = true;
    }

    pub(crate) fn attached(&self) -> usize {
        self.inner.lock().addresses.len()
    }
}

impl PodNetwork for FakeNetwork {
    fn attach<'a>(&'a self, sandbox: &'a Sandbox) -> BoxFuture<'a, Result<Addresses, AttachError>> {
        async move {
            let mut inner = self.inner.lock();
            if inner.broken {
                return Err(Error::NotConfigured.into());
            }
            inner.given += 1;
            let (v4, v6) = (Ipv4Addr::new(10, 0, 0, inner.given), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, inner.given.into()));
            let address: Vec<IpAddr> = if inner.dual { vec![v4.into(), v6.into()] } else { vec![v4.into()] };
            let addresses = inner.addresses.entry((sandbox.pod_uid.clone(), sandbox.attempt));
            Ok(addresses.or_insert_with(|| address.into_iter().collect()).clone())
        }
        .boxed()
    }

    fn detach<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<(), AttachError>> {
        async move {
            self.inner.lock().addresses.retain(|(uid, _), _| uid != pod_uid);
            Ok(())
        }
        .boxed()
    }

    fn addresses(&self, pod_uid: &str, attempt: u32) -> Addresses {
        self.inner.lock().addresses.get(&(pod_uid.into(), attempt)).cloned().unwrap_or_default()
    }

    fn sweep<'a>(&'a self, live: &'a BTreeSet<String>) -> BoxFuture<'a, Result<(), AttachError>> {
        async move {
            self.inner.lock().addresses.retain(|(uid, _), _| live.contains(uid));
            Ok(())
        }
        .boxed()
    }
}
