//! Networks as ranges of addresses, IPv4 and IPv6 alike.

use std::{fmt, net::IpAddr, str::FromStr};

use api::names;

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    length: u8,
}

/// The text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: an address and a length are wanted here, such as 10.244.0.0/16")]
pub struct NetworkError(String);

impl Network {
    /// The bits that all addresses of the network have in common, and those that can differ, in 128 bits.
    fn split(self) -> (u128, u32) {
        let (bits, free) = match self.first {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32 - u32::from(self.length.min(32))),
            IpAddr::V6(v6) => (v6.to_bits(), 128 - u32::from(self.length.min(128))),
        };
        (bits.checked_shr(free).unwrap_or(0), free)
    }

    /// True if the address is in the network. An IPv4 address written as an IPv6 one is the same address.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && Self { first: address, ..self }.split() == self.split()
    }

    /// True if the whole of `other` is in this network.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.first)
    }

    /// True if an address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (first, length) = names::parse_cidr(text).ok_or_else(|| NetworkError(text.to_owned()))?;
        match first {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(NetworkError(text.to_owned())),
            _ => Ok(Self { first, length }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_in_a_network_or_not() {
        for (net, inside, outside) in [
            ("10.96.0.0/16", "10.96.255.255", "10.97.0.0"),
            ("10.96.0.0/16", "::ffff:10.96.0.1", "::10.96.0.1"),
            ("10.0.0.7/32", "10.0.0.7", "10.0.0.6"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("fd00::/64", "fd00::ffff", "fd00:0:0:1::"),
            ("::/0", "ffff::", "1.2.3.4"),
        ] {
            let net = network(net);
            assert!(net.contains(inside.parse().unwrap()) && !net.contains(outside.parse().unwrap()), "{net}");
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::ffff:10.0.0.0/104"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn networks_that_overlap_have_an_address_in_common(a: u32, b: u32, m in 0..=32_u8, n in 0..=32_u8) {
            let mask = |bits: u32, length: u8| if length == 0 { 0 } else { bits >> (32 - u32::from(length)) << (32 - u32::from(length)) };
            let make = |bits: u32, length: u8| Network { first: IpAddr::V4(mask(bits, length).into()), length };
            let (x, y) = (make(a, m), make(b, n));
            let common = mask(a, m.min(n)) == mask(b, m.min(n));
            prop_assert_eq!(x.overlaps(y), common);
            prop_assert_eq!(x.covers(y), common && m <= n);
        }
    }
}
