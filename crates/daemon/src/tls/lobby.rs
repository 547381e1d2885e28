//! Who waits for a handshake and who has had one, counted by address. Pure: what is to be ended is handed to the caller.
//!
//! A place is never waited for. A client that finds all taken gets that of the oldest that has said nothing yet, so that silent ones,
//! however many, cost only each other.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What counts as one place that clients come from: an IPv4 address, or an IPv6 network of 64 bits, which is what one host can have.
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// How many may be in the lobby.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// Handshakes at once.
    pub(super) handshakes: usize,
    /// Handshakes at once from one address.
    pub(super) handshakes_per_address: usize,
    /// Connections from one address, those in their handshake included.
    pub(super) connections_per_address: usize,
}

/// All clients, by what is wanted to end a handshake.
#[derive(Debug)]
pub(super) struct Lobby<T> {
    places: Places,
    /// The oldest first.
    waiting: VecDeque<Waiting<T>>,
    /// Connections by address, those in their handshake included.
    connections: HashMap<IpAddr, usize>,
    next: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    id: u64,
    address: IpAddr,
    spoke: Arc<AtomicBool>,
    handle: T,
}

// === impl Lobby ===

impl<T> Lobby<T> {
    pub(super) fn new(places: Places) -> Self {
        Self { places, waiting: VecDeque::new(), connections: HashMap::new(), next: 0 }
    }

    /// Counts a connection from an address; false if there are too many.
    pub(super) fn connect(&mut self, address: IpAddr) -> bool {
        let count = self.connections.entry(address).or_default();
        let fits = *count < self.places.connections_per_address;
        *count += usize::from(fits);
        fits
    }

    /// A connection from an address has ended.
    pub(super) fn disconnect(&mut self, address: IpAddr) {
        if let Some(count) = self.connections.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.connections.remove(&address);
            }
        }
    }

    /// Makes room for one more handshake from an address: answers the one that is to end for it.
    pub(super) fn make_room(&mut self, address: IpAddr) -> Option<T> {
        let of_address = self.waiting.iter().filter(|one| one.address == address).count();
        let full_for_address = of_address >= self.places.handshakes_per_address;
        if !full_for_address && self.waiting.len() < self.places.handshakes {
            return None;
        }
        let candidate = |one: &Waiting<T>| !full_for_address || one.address == address;
        let silent = |one: &Waiting<T>| candidate(one) && !one.spoke.load(Ordering::Relaxed);
        let at = self.waiting.iter().position(silent).or_else(|| self.waiting.iter().position(candidate))?;
        self.waiting.remove(at).map(|one| one.handle)
    }

    /// A handshake begins. `spoke` is set once the client has sent anything. Answers the number to end it by.
    pub(super) fn begin(&mut self, address: IpAddr, spoke: Arc<AtomicBool>, handle: T) -> u64 {
        let id = self.next;
        self.next += 1;
        self.waiting.push_back(Waiting { id, address, spoke, handle });
        id
    }

    /// A handshake is over; it may have lost its place before.
    pub(super) fn end(&mut self, id: u64) {
        self.waiting.retain(|one| one.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn lobby() -> Lobby<&'static str> {
        Lobby::new(Places { handshakes: 3, handshakes_per_address: 2, connections_per_address: 2 })
    }

    fn begin(lobby: &mut Lobby<&'static str>, address: IpAddr, spoke: bool, name: &'static str) -> Option<&'static str> {
        let ended = lobby.make_room(address);
        lobby.begin(address, Arc::new(AtomicBool::new(spoke)), name);
        ended
    }

    #[test]
    fn the_oldest_silent_client_of_an_address_goes_first() {
        let mut lobby = lobby();
        assert_eq!(begin(&mut lobby, OTHER, false, "other"), None);
        assert_eq!(begin(&mut lobby, ONE, true, "speaks"), None);
        assert_eq!(begin(&mut lobby, ONE, false, "silent"), None);
        assert_eq!(begin(&mut lobby, ONE, true, "speaks too"), Some("silent"));
        assert_eq!(begin(&mut lobby, ONE, false, "third"), Some("speaks"));
    }

    #[test]
    fn the_oldest_silent_client_of_all_goes_when_the_lobby_is_full() {
        let mut lobby = lobby();
        begin(&mut lobby, OTHER, true, "a");
        begin(&mut lobby, OTHER, false, "b");
        begin(&mut lobby, ONE, false, "c");
        assert_eq!(begin(&mut lobby, ONE, false, "d"), Some("b"));
        lobby.end(0);
        assert_eq!(begin(&mut lobby, OTHER, false, "e"), None);
    }

    #[test]
    fn connections_are_counted_and_given_back_by_address() {
        let mut lobby = lobby();
        assert!(lobby.connect(ONE) && lobby.connect(ONE) && !lobby.connect(ONE) && lobby.connect(OTHER));
        lobby.disconnect(ONE);
        assert!(lobby.connect(ONE) && !lobby.connect(ONE));
        for address in [ONE, ONE, OTHER] {
            lobby.disconnect(address);
        }
        assert!(lobby.connections.is_empty());
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(origin(parse("2001:db8::1")), origin(parse("2001:db8::ffff:1")));
        assert_ne!(origin(parse("2001:db8::1")), origin(parse("2001:db8:0:1::1")));
        assert_eq!(origin(parse("::ffff:10.0.0.1")), ONE);
    }
}
