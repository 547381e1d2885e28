//! Services as nftables verdict maps, over netlink.
