//! The kubelet's flags, each of which can stand in the configuration file too.

use std::{net::Ipv4Addr, path::PathBuf};

/// What the kubelet is told.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "kubelet")]
pub struct Args {
    #[command(flatten)]
    pub(crate) client: client::Args,
    /// Name of the node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname_override: Option<String>,
    /// Address of the node [default: the one from which the API server is reached]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<Ipv4Addr>,
    /// Labels that the node registers with
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub(crate) node_labels: Vec<(String, String)>,
    /// Taints that the node registers with
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', value_parser = taint)]
    pub(crate) register_with_taints: Vec<api::core::v1::Taint>,
    /// How many pods the node takes
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub(crate) max_pods: u32,
    /// Unix socket of the Docker Engine
    #[arg(long, value_name = "PATH", default_value = "/run/docker.sock")]
    pub(crate) docker_socket: PathBuf,
    /// Directory for volumes and state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub(crate) root_dir: PathBuf,
    /// The static binary that the sandbox's image is made of [default: pause, beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) pause_binary: Option<PathBuf>,
    /// Network of all pods of the cluster; what leaves it is masqueraded
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_parser = api::cidr::parse_v4)]
    pub(crate) cluster_cidr: ipnet::Ipv4Net,
    /// Control group below which pods' groups are made
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(crate) cgroup_root: String,
    /// Cluster DNS servers for pods
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub(crate) cluster_dns: Vec<Ipv4Addr>,
    /// Cluster domain for pods
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Resolver configuration that pods with the host's DNS get
    #[arg(long, value_name = "PATH", default_value = "/etc/resolv.conf")]
    pub(crate) resolv_conf: PathBuf,
    /// Address on which the kubelet serves the API server [default: the node's address]
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<Ipv4Addr>,
    /// Port on which the kubelet serves the API server
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub(crate) port: u16,
    /// Certificate that the kubelet shows to the API server
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert_file: PathBuf,
    /// Key of that certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_private_key_file: PathBuf,
    /// CA of the API server's client certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: PathBuf,
    /// Name in the API server's client certificate; nobody else is served
    #[arg(long, value_name = "NAME", default_value = crate::server::API_SERVER)]
    pub(crate) api_server_name: String,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn taint(text: &str) -> Result<api::core::v1::Taint, String> {
    let wrong = "a taint is written KEY=VALUE:EFFECT or KEY:EFFECT, with the effect NoSchedule, PreferNoSchedule or NoExecute";
    let (name, effect) = text.rsplit_once(':').ok_or(wrong)?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(wrong.to_owned());
    }
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    Ok(api::core::v1::Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
        ..api::core::v1::Taint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_labels_are_checked() {
        let parsed = taint("dedicated=db:NoSchedule").unwrap();
        assert_eq!((parsed.key.as_str(), parsed.value.as_str(), parsed.effect.as_str()), ("dedicated", "db", "NoSchedule"));
        assert!(taint("dedicated=db").is_err() && taint("a:Sometimes").is_err());
        assert!(label("zone").is_err());
    }
}
