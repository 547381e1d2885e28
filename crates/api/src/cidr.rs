//! Networks in CIDR notation, such as `10.244.0.0/16`: the one way in which flags, files and objects are read.
//!
//! Bits past the prefix length are cut off (`10.244.3.7/16` is `10.244.0.0/16`). Not taken are addresses with leading zeros, which some read as
//! octal, and IPv4 networks written as IPv6 ones (`::ffff:10.0.0.0/104`), which some would match and some would not.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// The text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Neither an IPv4 nor an IPv6 network.
    #[error("{0:?} is no network: an address and a prefix length are wanted here, such as 10.244.0.0/16")]
    Malformed(String),
    /// An IPv6 network where only IPv4 is understood.
    #[error("{0} is an IPv6 network; an IPv4 network such as 10.244.0.0/16 is wanted here")]
    NotV4(IpNet),
}

/// Reads a network of either family.
///
/// # Errors
/// When the text is none.
pub fn parse(text: &str) -> Result<IpNet, CidrError> {
    let read = || {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        if mapped || length.is_empty() || length.len() > 3 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        IpNet::new(address, length.parse().ok()?).ok()
    };
    read().map(|network| network.trunc()).ok_or_else(|| CidrError::Malformed(text.to_owned()))
}

/// Reads an IPv4 network.
///
/// # Errors
/// When the text is none.
pub fn parse_v4(text: &str) -> Result<Ipv4Net, CidrError> {
    match parse(text)? {
        IpNet::V4(network) => Ok(network),
        network @ IpNet::V6(_) => Err(CidrError::NotV4(network)),
    }
}

/// True if an address is in both networks.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_network_is_cut_to_its_length() {
        for (text, network) in [
            ("10.244.3.7/16", "10.244.0.0/16"),
            ("10.0.0.7/32", "10.0.0.7/32"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("fd00::1/9", "fd00::/9"),
            ("::/0", "::/0"),
            ("10.0.0.0/08", "10.0.0.0/8"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), network, "{text}");
        }
        assert_eq!(parse_v4("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_no_network_is_refused_with_an_example() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "010.0.0.0/8",
            " 10.0.0.0/8",
            "::/129",
            "::ffff:10.0.0.0/104",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error, CidrError::Malformed(bad.to_owned()));
            assert!(error.to_string().contains("10.244.0.0/16"));
        }
        assert_eq!(
            parse_v4("fd00::/64").unwrap_err().to_string(),
            "fd00::/64 is an IPv6 network; an IPv4 network such as 10.244.0.0/16 is wanted here"
        );
    }

    proptest! {
        #[test]
        fn networks_that_overlap_have_an_address_in_common(a: u32, b: u32, m in 0..=32_u8, n in 0..=32_u8) {
            let make = |bits: u32, length| IpNet::new(IpAddr::V4(bits.into()), length).unwrap().trunc();
            let (x, y) = (make(a, m), make(b, n));
            let common = make(a, m.min(n)) == make(b, m.min(n));
            prop_assert_eq!(overlap(x, y), common);
        }
    }
}
