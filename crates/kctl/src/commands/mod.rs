//! The commands, one file each.

use std::time::Duration;

pub mod api_resources;
pub mod apply;
pub mod attached;
pub mod auth;
pub mod config;
pub mod cp;
pub mod create;
pub mod create_data;
pub mod create_rbac;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod dump;
pub mod edit;
pub mod events;
pub mod exec;
pub mod explain;
pub mod get;
pub mod info;
pub mod kustomize;
pub mod last_applied;
pub mod logs;
pub mod metadata;
pub mod nodes;
pub mod patch;
pub mod plugin;
pub mod port_forward;
pub mod proxy;
pub mod reconcile;
pub mod run;
pub mod scale;
pub mod set;
pub mod set_env;
pub mod top;
pub mod wait;

/// Reads a length of time such as `30s`, `1m30s` or `5` (seconds).
///
/// # Errors
/// When it is none, or negative.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    api::duration::parse_unsigned(text).map_err(|error| error.to_string())
}
