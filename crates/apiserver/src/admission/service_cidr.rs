//! The network from which Services get their addresses.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// A range of IPv4 addresses for Services, such as `10.96.0.0/16`. Its first and last address are never given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    base: u32,
    length: u8,
}

/// The text is no network that Services can live in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network for Services: an IPv4 network of length 12 to 30, such as 10.96.0.0/16, is wanted")]
pub struct ServiceCidrError(String);

impl ServiceCidr {
    /// How many addresses can be given out.
    pub fn size(self) -> u32 {
        (1 << (32 - self.length)) - 2
    }

    /// The address at an offset from 0 to below [`ServiceCidr::size`].
    pub fn address(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + 1 + offset)
    }

    /// The offset of an address that can be given out; `None` for every other.
    pub fn offset(self, address: Ipv4Addr) -> Option<u32> {
        let offset = address.to_bits().checked_sub(self.base + 1)?;
        (offset < self.size()).then_some(offset)
    }

    /// The address of the Service `kubernetes`.
    pub fn first(self) -> Ipv4Addr {
        self.address(0)
    }
}

impl FromStr for ServiceCidr {
    type Err = ServiceCidrError;

    fn from_str(text: &str) -> Result<Self, ServiceCidrError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let base = address.parse::<Ipv4Addr>().ok()?.to_bits();
            let length: u8 = length.parse().ok().filter(|length| (12..=30).contains(length))?;
            (base.trailing_zeros() >= u32::from(32 - length)).then_some(Self { base, length })
        };
        parse().ok_or_else(|| ServiceCidrError(text.to_owned()))
    }
}

impl fmt::Display for ServiceCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.base), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_addresses_are_each_others_inverse() {
        let cidr: ServiceCidr = "10.96.0.0/24".parse().unwrap();
        assert_eq!((cidr.size(), cidr.first()), (254, Ipv4Addr::new(10, 96, 0, 1)));
        assert_eq!(cidr.address(253), Ipv4Addr::new(10, 96, 0, 254));
        assert!((0..254).all(|i| cidr.offset(cidr.address(i)) == Some(i)));
        assert_eq!(cidr.to_string(), "10.96.0.0/24");
    }

    #[test]
    fn network_broadcast_and_foreign_addresses_have_no_offset() {
        let cidr: ServiceCidr = "10.96.0.0/24".parse().unwrap();
        for foreign in ["10.96.0.0", "10.96.0.255", "10.95.255.255", "10.96.1.0", "0.0.0.0", "255.255.255.255"] {
            assert_eq!(cidr.offset(foreign.parse().unwrap()), None, "{foreign}");
        }
    }

    #[test]
    fn what_is_no_ipv4_network_is_refused() {
        for text in ["10.96.0.0", "10.96.0.1/16", "10.0.0.0/8", "fd00::/108", "10.96.0.0/31", ""] {
            assert!(text.parse::<ServiceCidr>().is_err(), "{text}");
        }
    }
}
