//! A pod network in memory that hands out addresses and remembers who has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;

use super::{Error, PodNetwork, Result};

/// The fake; clones share their state.
#[derive(Clone, Default)]
pub(crate) struct FakeNetwork {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    given: u8,
    addresses: BTreeMap<(String, u32), Ipv4Addr>,
    broken: bool,
}

impl FakeNetwork {
    /// Lets set-up fail, or work again.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.inner.lock().broken = broken;
    }

    pub(crate) fn addresses(&self) -> usize {
        self.inner.lock().addresses.len()
    }
}

impl PodNetwork for FakeNetwork {
    fn set_up<'a>(&'a self, pod_uid: &'a str, attempt: u32, _: i32) -> BoxFuture<'a, Result<Ipv4Addr>> {
        async move {
            let mut inner = self.inner.lock();
            if inner.broken {
                return Err(Error::NotConfigured);
            }
            inner.given += 1;
            let address = Ipv4Addr::new(10, 0, 0, inner.given);
            Ok(*inner.addresses.entry((pod_uid.into(), attempt)).or_insert(address))
        }
        .boxed()
    }

    fn tear_down<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.inner.lock().addresses.retain(|(uid, _), _| uid != pod_uid);
            Ok(())
        }
        .boxed()
    }

    fn address(&self, pod_uid: &str, attempt: u32) -> Option<Ipv4Addr> {
        self.inner.lock().addresses.get(&(pod_uid.into(), attempt)).copied()
    }

    fn sweep<'a>(&'a self, live: &'a BTreeSet<String>) -> BoxFuture<'a, Result<()>> {
        async move {
            self.inner.lock().addresses.retain(|(uid, _), _| live.contains(uid));
            Ok(())
        }
        .boxed()
    }
}
