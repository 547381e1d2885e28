//! The network from which Services get their addresses.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

/// A range of IPv4 addresses for Services, such as `10.96.0.0/16`. Its first and last address are never given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCidr(Ipv4Net);

/// The text is no network that Services can live in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network for Services: an IPv4 network of length 12 to 30, such as 10.96.0.0/16, is wanted")]
pub struct ServiceCidrError(String);

impl ServiceCidr {
    /// How many addresses can be given out.
    pub fn size(self) -> u32 {
        (1 << (32 - self.0.prefix_len())) - 2
    }

    /// The address at an offset from 0 to below [`ServiceCidr::size`].
    pub fn address(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base() + 1 + offset)
    }

    /// The offset of an address that can be given out; `None` for every other.
    pub fn offset(self, address: Ipv4Addr) -> Option<u32> {
        let offset = address.to_bits().checked_sub(self.base() + 1)?;
        (offset < self.size()).then_some(offset)
    }

    /// The address of the Service `kubernetes`.
    pub fn first(self) -> Ipv4Addr {
        self.address(0)
    }

    /// The whole range.
    pub fn network(self) -> IpNet {
        self.0.into()
    }

    fn base(self) -> u32 {
        self.0.network().to_bits()
    }
}

impl FromStr for ServiceCidr {
    type Err = ServiceCidrError;

    fn from_str(text: &str) -> Result<Self, ServiceCidrError> {
        let network = api::cidr::parse_v4(text).ok().filter(|network| (12..=30).contains(&network.prefix_len()));
        network.map(Self).ok_or_else(|| ServiceCidrError(text.to_owned()))
    }
}

impl fmt::Display for ServiceCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
        assert_eq!("10.96.0.1/24".parse(), Ok(cidr), "as every other network flag is read");
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
        for text in ["10.96.0.0", "10.0.0.0/8", "fd00::/108", "10.96.0.0/31", ""] {
            assert!(text.parse::<ServiceCidr>().is_err(), "{text}");
        }
    }
}
