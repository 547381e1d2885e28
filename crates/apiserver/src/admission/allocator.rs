//! The allocator of Service addresses and node ports: which are held, as far as this server has seen, and the choice of a free one.
//!
//! Read from a watch on Services that is taken in whenever something is to be allocated: no task follows it. What is seen here only helps
//! to choose; each address and port has a key of its own in etcd, written in the Service's transaction under the condition that it does
//! not exist. *Invariant:* two Services never have one address or node port, however many servers there are and however stale this is.

use std::{collections::HashMap, net::Ipv4Addr, ops::RangeInclusive, time::Instant};

use api::{Resource, StatusError, core::v1::Service};
use parking_lot::Mutex;
use prost::Message;
use store::{EventKind, ReadAt, Selection, Store, Watch, WatchStart};

use super::{AdmissionConfig, ServiceCidr, bitmap::Bitmap};
use crate::reader::{self, etcd_error, store_error};
use crate::strategies::service::{HEADLESS, needs_address, needs_health_check_port};

/// Prefix of the keys that hold addresses.
pub(super) const ADDRESS_KEYS: &str = "/registry/ferrokube/clusterips/";
/// Prefix of the keys that hold node ports.
pub(super) const PORT_KEYS: &str = "/registry/ferrokube/nodeports/";

/// See the module.
pub(super) struct Allocator {
    store: Store,
    pub cidr: ServiceCidr,
    pub ports: RangeInclusive<u16>,
    state: Mutex<State>,
}

struct State {
    watch: Option<Watch>,
    /// What each Service holds: an offset into the network, and offsets into the range of ports.
    held: HashMap<String, (Option<u32>, Vec<u32>)>,
    addresses: Bitmap,
    ports: Bitmap,
}

impl Allocator {
    pub fn new(store: &Store, config: &AdmissionConfig) -> Self {
        let (addresses, ports) =
            (config.service_cidr.size(), u32::from(*config.node_ports.end() - *config.node_ports.start()) + 1);
        let state = State {
            watch: None,
            held: HashMap::new(),
            // As upstream: a sixteenth of the addresses, and a 32nd of the ports, are left for those who choose themselves.
            addresses: Bitmap::new(addresses, (addresses / 16).clamp(16, 256)),
            ports: Bitmap::new(ports, (ports / 32).clamp(16, 128)),
        };
        Self { store: store.clone(), cidr: config.service_cidr, ports: config.node_ports.clone(), state: Mutex::new(state) }
    }

    /// A free address.
    ///
    /// # Errors
    /// When none is left, or the store does not answer.
    pub async fn choose_address(&self) -> Result<Ipv4Addr, StatusError> {
        let offset = self.choose(|state| &mut state.addresses, &[]).await?.ok_or_else(|| {
            StatusError::internal(format!(
                "failed to allocate a serviceIP: range is full: all {} addresses of {} are taken; delete Services that are not needed",
                self.cidr.size(),
                self.cidr
            ))
        })?;
        Ok(self.cidr.address(offset))
    }

    /// A free node port, other than those that the Service names itself.
    ///
    /// # Errors
    /// When none is left, or the store does not answer.
    pub async fn choose_port(&self, named: &[u16]) -> Result<u16, StatusError> {
        let named: Vec<u32> = named.iter().filter_map(|port| self.port_offset(*port)).collect();
        let chosen = self.choose(|state| &mut state.ports, &named).await?;
        let offset = chosen.and_then(|offset| u16::try_from(offset).ok()).ok_or_else(|| {
            StatusError::internal(format!(
                "failed to allocate a nodePort: range is full: all ports from {} to {} are taken; delete Services that are not needed",
                self.ports.start(),
                self.ports.end()
            ))
        })?;
        Ok(self.ports.start() + offset)
    }

    fn port_offset(&self, port: u16) -> Option<u32> {
        self.ports.contains(&port).then(|| u32::from(port - self.ports.start()))
    }

    /// A free number of a bitmap, other than these.
    async fn choose(&self, bitmap: impl Fn(&mut State) -> &mut Bitmap, except: &[u32]) -> Result<Option<u32>, StatusError> {
        self.catch_up().await?;
        let choose = || bitmap(&mut self.state.lock()).choose(rand::random(), except, Instant::now());
        if let Some(number) = choose() {
            return Ok(Some(number));
        }
        // None that this server knows of; one may have been given back a moment ago.
        self.store.fresh(ReadAt::Latest).await.map_err(|e| store_error(Service::KIND, "", e))?;
        self.catch_up().await?;
        Ok(choose())
    }

    /// True if the key under which an address or port is held exists, in etcd now.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn is_held(&self, key: &str) -> Result<bool, StatusError> {
        Ok(self.store.etcd().get(key).await.map_err(|error| etcd_error(&error))?.is_some())
    }

    /// Takes in what has changed since last time.
    async fn catch_up(&self) -> Result<(), StatusError> {
        if self.drain() {
            return Ok(());
        }
        // There is no watch yet, or it fell behind: begin anew.
        let services = reader::collection(&self.store, Service::KIND)?;
        let watch = services.watch(Selection::all(), WatchStart::Initial(ReadAt::Any)).await;
        let watch = watch.map_err(|error| store_error(Service::KIND, "", error))?;
        self.state.lock().begin(watch);
        if self.drain() {
            Ok(())
        } else {
            Err(StatusError::unavailable("Services change too fast to be followed; please try again"))
        }
    }

    /// True if the watch is good and everything was taken from it.
    fn drain(&self) -> bool {
        let mut state = self.state.lock();
        let Some(mut watch) = state.watch.take() else { return false };
        loop {
            match watch.try_next() {
                Ok(Some(batch)) => {
                    for event in batch.events {
                        let service = match event.kind {
                            EventKind::Deleted => None,
                            EventKind::Added | EventKind::Modified => Service::decode(event.entry.object()).ok(),
                        };
                        let held = service.map(|service| self.offsets(&service));
                        state.record(event.entry.path(), held);
                    }
                }
                Ok(None) => {
                    state.watch = Some(watch);
                    return true;
                }
                Err(_) => return false,
            }
        }
    }

    fn offsets(&self, service: &Service) -> (Option<u32>, Vec<u32>) {
        let address = held_address(service).and_then(|ip| self.cidr.offset(ip));
        (address, held_ports(service).into_iter().filter_map(|port| self.port_offset(port)).collect())
    }
}

impl State {
    fn begin(&mut self, watch: Watch) {
        self.held.clear();
        self.addresses.clear();
        // The first address is the API servers' own.
        self.addresses.take(0);
        self.ports.clear();
        self.watch = Some(watch);
    }

    fn record(&mut self, path: &str, held: Option<(Option<u32>, Vec<u32>)>) {
        let before = match &held {
            Some(held) => self.held.insert(path.to_owned(), held.clone()),
            None => self.held.remove(path),
        };
        let (address, ports) = held.unwrap_or_default();
        address.into_iter().for_each(|n| self.addresses.take(n));
        ports.into_iter().for_each(|n| self.ports.take(n));
        let (address, ports) = before.unwrap_or_default();
        address.into_iter().for_each(|n| self.addresses.give_back(n));
        ports.into_iter().for_each(|n| self.ports.give_back(n));
    }
}

/// The address the Service holds.
pub(super) fn held_address(service: &Service) -> Option<Ipv4Addr> {
    let text = &service.spec().cluster_ip;
    (needs_address(service) && text != HEADLESS).then(|| text.parse().ok())?
}

/// The node ports the Service holds, each once.
pub(super) fn held_ports(service: &Service) -> Vec<u16> {
    let spec = service.spec();
    let health_check = if needs_health_check_port(service) { spec.health_check_node_port } else { 0 };
    let of_type = matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer");
    let ports = spec.ports.iter().filter(|_| of_type).map(|port| port.node_port).chain([health_check]);
    let mut ports: Vec<u16> = ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
