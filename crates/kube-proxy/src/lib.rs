//! Services as nftables verdict maps, over netlink.

pub mod dataplane;
pub mod model;
pub mod nft;
pub mod plan;
pub mod ruleset;
pub mod state;
pub mod sync;
