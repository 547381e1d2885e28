//! IPv4 networks in CIDR notation.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use super::Error;

/// An IPv4 network. *Invariant:* the host bits of the address are zero and the prefix is at most 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

// === impl Cidr ===

impl Cidr {
    /// The network's address.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// The prefix length, 0 to 32.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network mask.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }

    /// The first host address; the node's bridge holds it.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits().saturating_add(1))
    }

    /// How many addresses there are for pods: all but network, gateway and broadcast.
    pub fn pod_addresses(self) -> u32 {
        ((1u64 << (32 - self.prefix)).saturating_sub(3)).min(u64::from(u32::MAX)) as u32
    }

    /// The pod address of an index below [`Self::pod_addresses`].
    pub fn pod_address(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits().wrapping_add(2).wrapping_add(index))
    }

    /// Whether all of another network lies within.
    pub fn covers(self, other: Self) -> bool {
        other.prefix >= self.prefix && self.contains(other.network)
    }

    /// Whether the address lies within.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask().to_bits() == self.network.to_bits()
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let (address, prefix): (Ipv4Addr, u8) = (address.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?);
        if prefix > 32 {
            return Err(bad());
        }
        let mut cidr = Self { network: address, prefix };
        cidr.network = Ipv4Addr::from_bits(address.to_bits() & cidr.mask().to_bits());
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_knows_its_addresses() {
        let cidr: Cidr = "10.244.3.7/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.244.3.0/24");
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 244, 3, 1));
        assert_eq!(cidr.pod_addresses(), 253);
        assert_eq!(cidr.pod_address(252), Ipv4Addr::new(10, 244, 3, 254));
        assert!(cidr.contains(Ipv4Addr::new(10, 244, 3, 255)) && !cidr.contains(Ipv4Addr::new(10, 244, 4, 0)));
        assert_eq!("1.2.3.4/32".parse::<Cidr>().unwrap().pod_addresses(), 0);
    }

    #[test]
    fn what_is_no_cidr_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/64", "10.0.0/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
