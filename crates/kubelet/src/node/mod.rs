//! This machine as a node of the cluster: its registration, its status, its lease, and what it learns of the other nodes.

mod agent;
mod claims;
mod lease;
mod machine;
mod peers;
mod status;

pub use self::{
    agent::{Agent, NodeConfig},
    lease::keep_lease,
    machine::{Machine, address_towards, has_app_armor, oom_score_floor},
    peers::{NetworkState, follow_peers},
};
