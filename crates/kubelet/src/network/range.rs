//! How the addresses of a node's pod network are used: the first is the gateway's, the last nobody's, the others are for pods.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The first host address; the node's bridge holds it.
pub(super) fn gateway(pods: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(pods.network().to_bits().saturating_add(1))
}

/// How many addresses there are for pods: all but network, gateway and broadcast.
pub(super) fn size(pods: Ipv4Net) -> u32 {
    u32::try_from((1_u64 << (32 - pods.prefix_len())).saturating_sub(3)).unwrap_or(u32::MAX)
}

/// The pod address of an index below [`size`].
pub(super) fn address(pods: Ipv4Net, index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(pods.network().to_bits().wrapping_add(2).wrapping_add(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_a_gateway_and_pods() {
        let pods: Ipv4Net = "10.244.3.0/24".parse().unwrap();
        assert_eq!(gateway(pods), Ipv4Addr::new(10, 244, 3, 1));
        assert_eq!(size(pods), 253);
        assert_eq!((address(pods, 0), address(pods, 252)), (Ipv4Addr::new(10, 244, 3, 2), Ipv4Addr::new(10, 244, 3, 254)));
        assert_eq!(size("1.2.3.4/32".parse().unwrap()), 0);
        assert_eq!(size("0.0.0.0/0".parse().unwrap()), u32::MAX - 2);
    }
}
