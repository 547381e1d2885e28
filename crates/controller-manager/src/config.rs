//! The flags.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

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
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_parser = cidr)]
    pub cluster_cidr: Cidr,
    /// Seconds without a sign of life after which a node's state is unknown
    #[arg(long, value_name = "SECONDS", default_value = "40", value_parser = seconds)]
    pub node_monitor_grace_period: Duration,
    /// The same for a node that has just been registered
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub node_startup_grace_period: Duration,
    /// Nodes a second whose pods are evicted at most
    #[arg(long, value_name = "RATE", default_value = "0.1")]
    pub node_eviction_rate: f64,
    /// Share of nodes that are not ready from which on nothing is evicted, since rather the network is at fault
    #[arg(long, value_name = "SHARE", default_value = "0.55")]
    pub unhealthy_zone_threshold: f64,
}

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// First address.
    pub first: Ipv4Addr,
    /// Bits of the prefix, 8 to 24.
    pub prefix: u8,
}

fn cidr(text: &str) -> Result<Cidr, String> {
    let wrong = || "expected an IPv4 range such as 10.244.0.0/16, from /8 to /24".to_owned();
    let (first, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let (first, prefix): (Ipv4Addr, u8) = (first.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
    if !(8..=24).contains(&prefix) {
        return Err(wrong());
    }
    let mask = u32::MAX << (32 - prefix);
    let masked = Ipv4Addr::from(u32::from(first) & mask);
    if masked != first {
        return Err(format!("the range begins at {masked}/{prefix}"));
    }
    Ok(Cidr { first, prefix })
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds from 0.1 to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_fit_together() {
        let argv = ["controller-manager", "--kubeconfig=k", "--cluster-cidr", "10.0.0.0/8", "--node-monitor-grace-period=0.5"];
        let (_, args) = daemon::parse::<Args>("controller-manager", "127.0.0.1:0", argv.map(Into::into)).unwrap();
        assert_eq!((args.node.cluster_cidr.prefix, args.node.node_monitor_grace_period.as_millis()), (8, 500));
        assert_eq!(args.api.kubeconfig, Some("k".into()));
    }

    #[test]
    fn a_range_must_begin_where_it_begins() {
        assert_eq!(cidr("10.244.0.0/16").unwrap(), Cidr { first: Ipv4Addr::new(10, 244, 0, 0), prefix: 16 });
        assert_eq!(cidr("10.244.1.0/16").unwrap_err(), "the range begins at 10.244.0.0/16");
        for wrong in ["10.0.0.0", "x/16", "10.0.0.0/30", "fd00::/64"] {
            assert!(cidr(wrong).unwrap_err().starts_with("expected"), "{wrong}");
        }
    }
}
