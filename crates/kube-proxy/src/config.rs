//! The flags of kube-proxy beside those all daemons have.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

/// kube-proxy's flags.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "kube-proxy")]
pub struct Args {
    /// Name of the Node object of this host [default: the host's name, in lower case]
    #[arg(long, alias = "node-name", value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Where pods' traffic comes from; traffic to a ClusterIP from elsewhere is masqueraded [default: the Node's pod CIDRs]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = api::cidr::parse)]
    pub cluster_cidr: Vec<IpNet>,
    /// Least time between two changes of the rules, such as 20ms or 1s; the first change after a pause is applied at once
    #[arg(long, value_name = "DURATION", default_value = "20ms", value_parser = api::duration::parse_unsigned)]
    pub min_sync_period: Duration,
    /// Address that serves /healthz to load balancers: whether the rules are up to date and the node is to stay
    #[arg(long, value_name = "IP:PORT")]
    pub healthz_bind_address: Option<SocketAddr>,
    /// How to reach the API server.
    #[command(flatten)]
    pub client: client::Args,
}

// === impl Args ===

impl Args {
    /// The name of our Node object.
    ///
    /// # Errors
    /// When the host's name is not text and none is given.
    pub fn node_name(&self) -> Result<String, std::io::Error> {
        if let Some(name) = &self.hostname_override {
            return Ok(name.trim().to_lowercase());
        }
        let name = nix::unistd::gethostname()?;
        let name = name.into_string().map_err(|name| std::io::Error::other(format!("the host's name {name:?} is not text")))?;
        Ok(name.trim().to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_beside_those_of_all_daemons() {
        let parse = |flags: &[&str]| {
            let argv = ["kube-proxy"].iter().chain(flags).map(Into::into);
            daemon::parse::<Args>("kube-proxy", "127.0.0.1:10256", argv)
        };
        let (_, args) = parse(&["--node-name=Node-1", "--cluster-cidr=10.244.0.0/16,fd00::/48"]).unwrap();
        assert_eq!(args.node_name().unwrap(), "node-1");
        assert_eq!(args.cluster_cidr.len(), 2);
        assert_eq!(args.min_sync_period, Duration::from_millis(20));
        let (_, args) = parse(&["--min-sync-period=1m30s"]).unwrap();
        assert_eq!(args.min_sync_period, Duration::from_secs(90));
        let error = parse(&["--min-sync-period=20"]).unwrap_err().to_string();
        assert!(error.contains("--min-sync-period") && error.contains("such as 90s"), "{error}");
        let error = parse(&["--cluster-cidr=10.244.0.0"]).unwrap_err().to_string();
        assert!(error.contains("--cluster-cidr") && error.contains("10.244.0.0/16"), "{error}");
    }
}
