//! The flags.

use std::{path::PathBuf, time::Duration};

use api::duration::DurationError;
use ipnet::Ipv4Net;

/// Bits of the prefix of a node's range.
pub const NODE_PREFIX: u8 = 24;

/// The controller manager's flags.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How to reach the API server.
    #[command(flatten)]
    pub api: client::Args,
    /// CA certificate that every namespace finds in its ConfigMap kube-root-ca.crt
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// Pods that ended which are kept before the oldest are deleted; 0 keeps all
    #[arg(long, value_name = "NUMBER", default_value = "12500")]
    pub terminated_pod_gc_threshold: usize,
    /// Nodes.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// The flags about nodes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Nodes")]
pub struct NodeArgs {
    /// Range from which each node gets a /24 for its pods
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_parser = cluster_cidr)]
    pub cluster_cidr: Ipv4Net,
    /// Time without a sign of life after which a node's state is unknown, such as 40s or 1m30s
    #[arg(long, value_name = "DURATION", default_value = "40s", value_parser = grace_period)]
    pub node_monitor_grace_period: Duration,
    /// The same for a node that has just been registered
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = grace_period)]
    pub node_startup_grace_period: Duration,
    /// Nodes a second whose pods are evicted at most
    #[arg(long, value_name = "RATE", default_value = "0.1")]
    pub node_eviction_rate: f64,
    /// Share of nodes that are not ready from which on nothing is evicted, since rather the network is at fault
    #[arg(long, value_name = "SHARE", default_value = "0.55")]
    pub unhealthy_zone_threshold: f64,
}

/// The range of pods, which is given out in pieces of [`NODE_PREFIX`].
fn cluster_cidr(text: &str) -> Result<Ipv4Net, String> {
    let range = api::cidr::parse_v4(text).map_err(|error| error.to_string())?;
    if (8..=NODE_PREFIX).contains(&range.prefix_len()) {
        return Ok(range);
    }
    Err(format!(
        "{range} cannot be given out: each node gets a /{NODE_PREFIX}, and the range may have from 8 to {NODE_PREFIX} bits"
    ))
}

fn grace_period(text: &str) -> Result<Duration, DurationError> {
    api::duration::parse_within(text, Duration::from_millis(100)..=Duration::from_secs(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_fit_together() {
        let argv = ["controller-manager", "--kubeconfig=k", "--cluster-cidr", "10.0.0.0/8", "--node-monitor-grace-period=500ms"];
        let (_, args) = daemon::parse::<Args>("controller-manager", "127.0.0.1:0", argv.map(Into::into)).unwrap();
        assert_eq!((args.node.cluster_cidr.prefix_len(), args.node.node_monitor_grace_period.as_millis()), (8, 500));
        assert_eq!(args.node.node_startup_grace_period, Duration::from_secs(60));
        assert_eq!(args.api.kubeconfig, Some("k".into()));
        for (text, secs) in [("40s", 40), ("1m30s", 90), ("1h", 3600)] {
            assert_eq!(grace_period(text).unwrap(), Duration::from_secs(secs));
        }
        for wrong in ["40", "0s", "25h", "-40s"] {
            assert!(grace_period(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_range_of_pods_has_room_for_nodes() {
        assert_eq!(cluster_cidr("10.244.1.0/16").unwrap().to_string(), "10.244.0.0/16");
        for wrong in ["10.0.0.0", "x/16", "10.0.0.0/30", "10.0.0.0/7", "fd00::/64"] {
            assert!(cluster_cidr(wrong).is_err(), "{wrong}");
        }
        assert!(cluster_cidr("10.0.0.0/30").unwrap_err().contains("each node gets a /24"));
    }
}
