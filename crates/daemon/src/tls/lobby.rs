//! Who waits for a handshake, who is in the middle of one, and who has a connection. Pure: what is to be ended is handed to the caller.
//!
//! ```text
//! arrived ──ClientHello──► greeted ──Finished──► connected
//! ```
//!
//! A newcomer is never refused and never waits for others: where there is no place left, the one gives way that has shown no progress
//! for longest, of the address that has the most. So stalled clients, however many, cost only each other, and none costs another
//! address anything. Arrivals and handshakes have places of their own: who has said what a client must say is out of reach of those
//! that say nothing, and costs the server its signature, so that a flood of those is slower.
//!
//! Established connections are counted by who holds them: by address until somebody has shown who it is, then by holder.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
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

/// How many may be in the lobby.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// Clients at once that have not sent their ClientHello.
    pub(super) arrivals: Most,
    /// Clients at once that have sent it and whose handshake is not done.
    pub(super) handshakes: Most,
    /// Established connections of which nobody knows whose they are.
    pub(super) connections: Most,
    /// Established connections of one known holder.
    pub(super) of_holder: usize,
}

/// The most of something, altogether and of one address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) all: usize,
    pub(super) of_address: usize,
}

/// Who a connection counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// Nobody has shown who it is yet.
    Address(IpAddr),
    /// Who its certificate, or the first good credentials of a request over it, have shown.
    Known(Arc<str>),
}

/// All clients, by what is wanted to end one whose handshake is not done.
#[derive(Debug)]
pub(super) struct Lobby<T> {
    places: Places,
    arrivals: Room<T>,
    handshakes: Room<T>,
    /// What lets the handshakes of an address be computed, for each that has any.
    turns: HashMap<IpAddr, Arc<Semaphore>>,
    connections: HashMap<Holder, Vec<Arc<Activity>>>,
    /// Connections of no known holder.
    unknown: usize,
    next: u64,
}

/// Where a client is: in which room, and since when in the order of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    address: IpAddr,
    greeted: bool,
    since: u64,
}

/// Clients at one stage.
#[derive(Debug)]
struct Room<T> {
    most: Most,
    count: usize,
    /// Of each address, the one that has made no progress for longest first.
    of: HashMap<IpAddr, BTreeMap<u64, T>>,
}

// === impl Room ===

impl<T> Room<T> {
    fn new(most: Most) -> Self {
        Self { most, count: 0, of: HashMap::new() }
    }

    /// Lets one in: answers the one that is to end for it.
    fn enter(&mut self, address: IpAddr, since: u64, client: T) -> Option<T> {
        let of_address = self.of.get(&address).map_or(0, BTreeMap::len);
        let victim = if of_address >= self.most.of_address {
            Some(address)
        } else if self.count >= self.most.all {
            let order = |clients: &BTreeMap<u64, T>| (clients.len(), clients.keys().next().map(|since| u64::MAX - since));
            self.of.iter().max_by_key(|(_, clients)| order(clients)).map(|(address, _)| *address)
        } else {
            None
        };
        let ended = victim.and_then(|victim| {
            let oldest = *self.of.get(&victim)?.keys().next()?;
            self.leave(victim, oldest)
        });
        self.of.entry(address).or_default().insert(since, client);
        self.count += 1;
        ended
    }

    fn leave(&mut self, address: IpAddr, since: u64) -> Option<T> {
        let clients = self.of.get_mut(&address)?;
        let client = clients.remove(&since)?;
        if clients.is_empty() {
            self.of.remove(&address);
        }
        self.count -= 1;
        Some(client)
    }
}

// === impl Lobby ===

impl<T> Lobby<T> {
    pub(super) fn new(places: Places) -> Self {
        Self {
            places,
            arrivals: Room::new(places.arrivals),
            handshakes: Room::new(places.handshakes),
            turns: HashMap::new(),
            connections: HashMap::new(),
            unknown: 0,
            next: 0,
        }
    }

    /// A client arrives: answers its place, and the one that is to end for it.
    pub(super) fn arrive(&mut self, address: IpAddr, client: impl FnOnce(Place) -> T) -> (Place, Option<T>) {
        let place = Place { address, greeted: false, since: self.tick() };
        let ended = self.arrivals.enter(address, place.since, client(place));
        (place, ended)
    }

    /// A client makes progress: its ClientHello has come, or has been answered. Answers its place from now on, and the one that is to end
    /// for it; nothing if it has lost its place.
    pub(super) fn progress(&mut self, place: Place) -> Option<(Place, Option<T>)> {
        let client = self.leave(place)?;
        let place = Place { greeted: true, since: self.tick(), ..place };
        let ended = self.handshakes.enter(place.address, place.since, client);
        Some((place, ended))
    }

    /// A handshake is over; it may have lost its place before.
    pub(super) fn end(&mut self, place: Place) {
        self.leave(place);
        if self.turns.get(&place.address).is_some_and(|turns| Arc::strong_count(turns) == 1) {
            self.turns.remove(&place.address);
        }
    }

    /// What a client acquires while its handshake is computed: one at a time of each address, so that a flood from one delays only itself.
    pub(super) fn turns(&mut self, address: IpAddr) -> Arc<Semaphore> {
        self.turns.entry(address).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }

    fn leave(&mut self, place: Place) -> Option<T> {
        let room = if place.greeted { &mut self.handshakes } else { &mut self.arrivals };
        room.leave(place.address, place.since)
    }

    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Counts an established connection. If there are too many, the one that has been idle for longest is closed for it. Where nobody
    /// has shown who it is and none is idle, the oldest is; a known holder that has none idle gets no other: false.
    pub(super) fn connect(&mut self, holder: Holder, activity: Arc<Activity>) -> bool {
        let most = if holder.is_known() { self.places.of_holder } else { self.places.connections.of_address };
        let is_full = |held: &Vec<_>| held.len() >= most;
        let from = if self.connections.get(&holder).is_some_and(is_full) {
            Some(holder.clone())
        } else if !holder.is_known() && self.unknown >= self.places.connections.all {
            let unknown = self.connections.iter().filter(|(holder, _)| !holder.is_known());
            unknown.max_by_key(|(_, held)| held.len()).map(|(holder, _)| holder.clone())
        } else {
            None
        };
        if let Some(from) = from
            && let Some(held) = self.connections.get(&from)
        {
            let idle = held.iter().filter_map(|one| one.idle_since().map(|since| (since, one)));
            let longest = idle.min_by_key(|(since, _)| *since).map(|(_, one)| one);
            let Some(one) = longest.or(held.first().filter(|_| !from.is_known())).cloned() else { return false };
            one.close();
            self.disconnect(&from, &one);
        }
        self.unknown += usize::from(!holder.is_known());
        self.connections.entry(holder).or_default().push(activity);
        true
    }

    /// A connection has ended, or counts for another; it may have been closed before.
    pub(super) fn disconnect(&mut self, holder: &Holder, activity: &Arc<Activity>) {
        let Some(held) = self.connections.get_mut(holder) else { return };
        let before = held.len();
        held.retain(|one| !Arc::ptr_eq(one, activity));
        if !holder.is_known() {
            self.unknown -= before - held.len();
        }
        if held.is_empty() {
            self.connections.remove(holder);
        }
    }
}

// === impl Holder ===

impl Holder {
    fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn lobby() -> Lobby<&'static str> {
        let most = Most { all: 3, of_address: 2 };
        Lobby::new(Places { arrivals: most, handshakes: most, connections: most, of_holder: 2 })
    }

    fn arrive(lobby: &mut Lobby<&'static str>, address: IpAddr, name: &'static str) -> (Place, Option<&'static str>) {
        lobby.arrive(address, |_| name)
    }

    #[test]
    fn the_oldest_of_an_address_gives_way_to_a_newcomer_from_there() {
        let mut lobby = lobby();
        assert_eq!(arrive(&mut lobby, OTHER, "other").1, None);
        let (first, ended) = arrive(&mut lobby, ONE, "first");
        assert_eq!(ended, None);
        assert_eq!(arrive(&mut lobby, ONE, "second").1, None);
        assert_eq!(arrive(&mut lobby, ONE, "third").1, Some("first"));
        assert_eq!(arrive(&mut lobby, ONE, "fourth").1, Some("second"));
        // What was ended is so for good, and its end costs nobody a place.
        assert_eq!(lobby.progress(first), None);
        lobby.end(first);
        assert_eq!(lobby.arrivals.count, 3);
    }

    #[test]
    fn who_is_of_few_never_gives_way_to_who_is_of_many() {
        let mut lobby = lobby();
        arrive(&mut lobby, OTHER, "of few");
        arrive(&mut lobby, ONE, "a");
        arrive(&mut lobby, ONE, "b");
        let third = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3));
        assert_eq!(arrive(&mut lobby, third, "new").1, Some("a"));
        // Among equals, the one that has been there for longest.
        assert_eq!(arrive(&mut lobby, "10.0.0.4".parse().unwrap(), "newer").1, Some("of few"));
    }

    #[test]
    fn those_that_progress_are_out_of_reach_of_those_that_do_not() {
        let mut lobby = lobby();
        let (place, _) = arrive(&mut lobby, ONE, "speaks");
        let (place, ended) = lobby.progress(place).unwrap();
        assert_eq!(ended, None);
        for _ in 0..10 {
            arrive(&mut lobby, ONE, "silent");
        }
        assert_eq!(lobby.handshakes.count, 1);
        // Progress makes it the last to give way.
        let (second, _) = arrive(&mut lobby, ONE, "second");
        lobby.progress(second).unwrap();
        let (place, _) = lobby.progress(place).unwrap();
        let (third, _) = arrive(&mut lobby, ONE, "third");
        assert_eq!(lobby.progress(third).unwrap().1, Some("second"));
        lobby.end(place);
        assert_eq!(lobby.handshakes.count, 1);
    }

    #[test]
    fn an_address_computes_one_handshake_at_a_time_and_leaves_nothing_behind() {
        let mut lobby = lobby();
        let (place, _) = arrive(&mut lobby, ONE, "a");
        let turns = lobby.turns(ONE);
        let turn = turns.clone().try_acquire_owned().unwrap();
        assert!(lobby.turns(ONE).try_acquire_owned().is_err() && lobby.turns(OTHER).try_acquire_owned().is_ok());
        drop((turn, turns));
        lobby.end(place);
        lobby.end(Place { address: OTHER, ..place });
        assert!(lobby.turns.is_empty() && lobby.arrivals.of.is_empty());
    }

    #[test]
    fn connections_are_counted_by_holder_and_the_longest_idle_goes() {
        for (holder, is_known) in [(Holder::Address(ONE), false), (Holder::Known("ann".into()), true)] {
            let mut lobby = lobby();
            let [first, second, third, fourth] = std::array::from_fn(|_| Arc::new(Activity::default()));
            assert!(lobby.connect(holder.clone(), first.clone()) && lobby.connect(holder.clone(), second.clone()));
            let busy = first.begin();
            assert!(lobby.connect(Holder::Address(OTHER), third.clone()) && lobby.connect(holder.clone(), third.clone()));
            assert!(second.is_closed() && !first.is_closed());
            let _busy_too = third.begin();
            // All are busy: those of nobody known give way all the same.
            assert_eq!(lobby.connect(holder.clone(), fourth.clone()), !is_known);
            assert_eq!(first.is_closed(), !is_known);
            drop(busy);
            for (holder, activity) in
                [(&holder, &first), (&holder, &third), (&holder, &fourth), (&Holder::Address(OTHER), &third)]
            {
                lobby.disconnect(holder, activity);
            }
            assert!(lobby.connections.is_empty() && lobby.unknown == 0);
        }
    }

    #[test]
    fn however_many_addresses_there_are_their_connections_are_bounded() {
        let mut lobby = lobby();
        let connections: Vec<_> =
            (0..10u8).map(|i| (Holder::Address([10, 0, 0, i].into()), Arc::<Activity>::default())).collect();
        for (holder, activity) in &connections {
            assert!(lobby.connect(holder.clone(), activity.clone()));
        }
        assert_eq!((lobby.unknown, connections.iter().filter(|(_, one)| !one.is_closed()).count()), (3, 3));
        assert!(lobby.connect(Holder::Known("ann".into()), Arc::default()) && lobby.unknown == 3);
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(origin(parse("2001:db8::1")), origin(parse("2001:db8::ffff:1")));
        assert_ne!(origin(parse("2001:db8::1")), origin(parse("2001:db8:0:1::1")));
        assert_eq!(origin(parse("::ffff:10.0.0.1")), ONE);
    }
}
