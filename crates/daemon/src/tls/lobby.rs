//! Who waits for a handshake and who has had one, counted by address. Pure: what is to be ended is handed to the caller.
//!
//! Whoever is let in waits until it has said something and then for its turn to have a handshake. A client that finds the lobby full
//! gets the place of the oldest that has said nothing for a while, so that silent ones, however many, cost only each other; one that
//! has spoken keeps its place. Established connections are counted only if they have no certificate.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::activity::Activity;

/// What counts as one place that clients come from: an IPv4 address, or an IPv6 network of 64 bits, which is what one host can have.
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// How long a client may take to say something before its place can be given to another.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many may be in the lobby.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// Clients at once whose handshake is not done.
    pub(super) arrivals: usize,
    /// Such clients from one address.
    pub(super) arrivals_per_address: usize,
    /// Handshakes at once from one address.
    pub(super) handshakes_per_address: usize,
    /// Connections without a certificate from one address.
    pub(super) connections_per_address: usize,
}

/// All clients, by what is wanted to end one that has not had its handshake.
#[derive(Debug)]
pub(super) struct Lobby<T> {
    places: Places,
    /// The oldest first.
    waiting: VecDeque<Waiting<T>>,
    /// Established connections without a certificate, by address.
    anonymous: HashMap<IpAddr, Vec<Arc<Activity>>>,
    next: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    id: u64,
    address: IpAddr,
    since: Instant,
    spoke: Arc<AtomicBool>,
    /// The handshakes that this address may have at once.
    turns: Arc<Semaphore>,
    handle: T,
}

/// There is no place for one more, and nobody who can be made to leave for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

// === impl Lobby ===

impl<T> Lobby<T> {
    pub(super) fn new(places: Places) -> Self {
        Self { places, waiting: VecDeque::new(), anonymous: HashMap::new(), next: 0 }
    }

    /// Makes room for one more client from an address: answers the one that is to end for it.
    pub(super) fn make_room(&mut self, address: IpAddr, now: Instant) -> Result<Option<T>, Full> {
        let of_address = self.waiting.iter().filter(|one| one.address == address).count();
        let full_for_address = of_address >= self.places.arrivals_per_address;
        if !full_for_address && self.waiting.len() < self.places.arrivals {
            return Ok(None);
        }
        let silent = |one: &Waiting<T>| {
            (!full_for_address || one.address == address)
                && !one.spoke.load(Ordering::Relaxed)
                && now.saturating_duration_since(one.since) >= PATIENCE
        };
        let at = self.waiting.iter().position(silent).ok_or(Full)?;
        Ok(self.waiting.remove(at).map(|one| one.handle))
    }

    /// What a client from an address has to acquire for its handshake, shared by all from there that wait.
    pub(super) fn turns(&self, address: IpAddr) -> Arc<Semaphore> {
        match self.waiting.iter().find(|one| one.address == address) {
            Some(one) => one.turns.clone(),
            None => Arc::new(Semaphore::new(self.places.handshakes_per_address)),
        }
    }

    /// A client waits. `spoke` is set once it has sent anything. Answers the number to end it by.
    pub(super) fn begin(
        &mut self,
        address: IpAddr,
        since: Instant,
        spoke: Arc<AtomicBool>,
        turns: Arc<Semaphore>,
        handle: T,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        self.waiting.push_back(Waiting { id, address, since, spoke, turns, handle });
        id
    }

    /// A handshake is over; it may have lost its place before.
    pub(super) fn end(&mut self, id: u64) {
        self.waiting.retain(|one| one.id != id);
    }

    /// Counts an established connection without a certificate. If there are too many from its address, the one that has been idle for
    /// longest is closed for it; false if none is idle.
    pub(super) fn connect(&mut self, address: IpAddr, activity: Arc<Activity>) -> bool {
        let connections = self.anonymous.entry(address).or_default();
        if connections.len() >= self.places.connections_per_address {
            let idle = connections.iter().enumerate().filter_map(|(at, one)| one.idle_since().map(|since| (since, at)));
            let Some((_, at)) = idle.min() else { return false };
            connections.remove(at).close();
        }
        connections.push(activity);
        true
    }

    /// A connection without a certificate has ended; it may have been closed for another.
    pub(super) fn disconnect(&mut self, address: IpAddr, activity: &Arc<Activity>) {
        if let Some(connections) = self.anonymous.get_mut(&address) {
            connections.retain(|one| !Arc::ptr_eq(one, activity));
            if connections.is_empty() {
                self.anonymous.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn lobby() -> Lobby<&'static str> {
        Lobby::new(Places { arrivals: 3, arrivals_per_address: 2, handshakes_per_address: 1, connections_per_address: 2 })
    }

    /// One that arrives after `seconds`.
    fn begin(
        lobby: &mut Lobby<&'static str>,
        (start, seconds): (Instant, u64),
        address: IpAddr,
        spoke: bool,
        name: &'static str,
    ) -> Result<Option<&'static str>, Full> {
        let now = start + Duration::from_secs(seconds);
        let ended = lobby.make_room(address, now)?;
        let turns = lobby.turns(address);
        lobby.begin(address, now, Arc::new(AtomicBool::new(spoke)), turns, name);
        Ok(ended)
    }

    #[test]
    fn only_the_oldest_silent_client_of_an_address_goes_and_never_at_once() {
        let (mut lobby, start) = (lobby(), Instant::now());
        assert_eq!(begin(&mut lobby, (start, 0), OTHER, false, "other"), Ok(None));
        assert_eq!(begin(&mut lobby, (start, 0), ONE, true, "speaks"), Ok(None));
        assert_eq!(begin(&mut lobby, (start, 5), ONE, false, "silent"), Ok(None));
        assert_eq!(begin(&mut lobby, (start, 5), ONE, true, "too early"), Err(Full));
        assert_eq!(begin(&mut lobby, (start, 6), ONE, true, "speaks too"), Ok(Some("silent")));
        assert_eq!(begin(&mut lobby, (start, 60), ONE, false, "third"), Err(Full));
    }

    #[test]
    fn the_oldest_silent_client_of_all_goes_when_the_lobby_is_full() {
        let (mut lobby, start) = (lobby(), Instant::now());
        begin(&mut lobby, (start, 0), OTHER, true, "a").unwrap();
        begin(&mut lobby, (start, 0), OTHER, false, "b").unwrap();
        begin(&mut lobby, (start, 0), ONE, false, "c").unwrap();
        assert_eq!(begin(&mut lobby, (start, 1), ONE, false, "d"), Ok(Some("b")));
        lobby.end(0);
        assert_eq!(begin(&mut lobby, (start, 1), OTHER, false, "e"), Ok(None));
    }

    #[test]
    fn those_of_an_address_share_its_turns() {
        let (mut lobby, start) = (lobby(), Instant::now());
        begin(&mut lobby, (start, 0), ONE, true, "a").unwrap();
        let turn = lobby.turns(ONE).try_acquire_owned().unwrap();
        assert!(lobby.turns(ONE).try_acquire_owned().is_err() && lobby.turns(OTHER).try_acquire_owned().is_ok());
        drop(turn);
        assert!(lobby.turns(ONE).try_acquire_owned().is_ok());
    }

    #[test]
    fn connections_are_counted_by_address_and_the_longest_idle_goes() {
        let mut lobby = lobby();
        let [first, second, third, fourth] = std::array::from_fn(|_| Arc::new(Activity::default()));
        assert!(lobby.connect(ONE, first.clone()) && lobby.connect(ONE, second.clone()));
        let busy = first.begin();
        assert!(lobby.connect(OTHER, third.clone()) && lobby.connect(ONE, third.clone()));
        assert!(second.is_closed() && !first.is_closed());
        let _busy_too = third.begin();
        assert!(!lobby.connect(ONE, fourth.clone()));
        drop(busy);
        assert!(lobby.connect(ONE, fourth.clone()) && first.is_closed() && !third.is_closed());
        for (address, activity) in [(ONE, &first), (ONE, &third), (ONE, &fourth), (OTHER, &third)] {
            lobby.disconnect(address, activity);
        }
        assert!(lobby.anonymous.is_empty());
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(origin(parse("2001:db8::1")), origin(parse("2001:db8::ffff:1")));
        assert_ne!(origin(parse("2001:db8::1")), origin(parse("2001:db8:0:1::1")));
        assert_eq!(origin(parse("::ffff:10.0.0.1")), ONE);
    }
}
