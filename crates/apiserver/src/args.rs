//! The API server's flags. Names and defaults are upstream's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use api::duration::DurationError;
use ipnet::IpNet;

use crate::admission::ServiceCidr;

/// Flags of the API server.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// etcd members, https://HOST:PORT
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true)]
    pub etcd_servers: Vec<String>,
    /// CA of etcd's certificates
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: PathBuf,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_certfile: PathBuf,
    /// Key of the client certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_keyfile: PathBuf,

    /// Address to serve on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to serve gRPC on
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub secure_port: u16,
    /// Address other hosts reach this server at; it becomes an endpoint of the Service kubernetes [default: the bind address if it is
    /// that of an interface, else the one that the default route goes out from]
    #[arg(long, value_name = "IPV4")]
    pub advertise_address: Option<Ipv4Addr>,
    /// Serving certificate
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: PathBuf,
    /// Key of the serving certificate
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: PathBuf,
    /// CA of the client certificates that are accepted
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: PathBuf,

    /// Private key that signs service-account tokens (ES256, PEM)
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: PathBuf,
    /// Public keys that service-account tokens may be signed with (PEM; may be given several times)
    #[arg(long, value_name = "FILE", required = true)]
    pub service_account_key_file: Vec<PathBuf>,
    /// Issuer of service-account tokens
    #[arg(long, value_name = "URL", default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: String,
    /// Audiences that tokens for the API must have one of [default: the issuer]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub api_audiences: Vec<String>,

    /// Network that Services get their addresses from
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    pub service_cluster_ip_range: ServiceCidr,
    /// Network that pods get their addresses from, as the controller manager has it; if given, nodes' pod networks must lie in it
    #[arg(long, value_name = "CIDR", value_parser = api::cidr::parse)]
    pub cluster_cidr: Option<IpNet>,
    /// Ports that node ports are taken from, FIRST-LAST
    #[arg(long, value_name = "RANGE", default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: RangeInclusive<u16>,

    /// Admission plugins to run besides the usual ones, such as DenyServiceExternalIPs
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run, such as LimitRanger
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,

    /// CA of the kubelets' serving certificates
    #[arg(long, value_name = "FILE")]
    pub kubelet_certificate_authority: PathBuf,
    /// Client certificate for the kubelets
    #[arg(long, value_name = "FILE")]
    pub kubelet_client_certificate: PathBuf,
    /// Key of the client certificate for the kubelets
    #[arg(long, value_name = "FILE")]
    pub kubelet_client_key: PathBuf,

    /// How long Events are kept, such as 1h or 1h30m
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = event_ttl)]
    pub event_ttl: Duration,
    /// Most requests that are handled at once, watches and other streams aside; more are refused with TooManyRequests
    #[arg(long, value_name = "N", default_value_t = 600)]
    pub max_requests_inflight: usize,
    /// Most watches, logs and other streams that one user may have open at once; more are refused with TooManyRequests
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub max_streams_per_user: usize,
}

impl Args {
    /// The address other hosts reach this server at.
    ///
    /// # Errors
    /// When it is not given and there is no default route to find it by.
    pub fn advertised(&self) -> io::Result<Ipv4Addr> {
        match (self.advertise_address, self.bind_address) {
            (Some(address), _) => Ok(address),
            (None, IpAddr::V4(bound)) if !bound.is_unspecified() && !bound.is_loopback() => Ok(bound),
            _ => outgoing(),
        }
    }
}

/// The address that this host has on its default route.
fn outgoing() -> io::Result<Ipv4Addr> {
    // A documentation address, which only the default route leads to. Connecting this way asks the kernel and sends nothing.
    const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(ELSEWHERE)?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(address) if !address.is_loopback() => Ok(address),
        other => Err(io::Error::other(format!("the default route goes out from {other}"))),
    }
}

/// etcd's leases are in whole seconds, of which a signed 32-bit number is safe.
fn event_ttl(text: &str) -> Result<Duration, DurationError> {
    api::duration::parse_within(text, Duration::from_secs(1)..=Duration::from_secs(i32::MAX.unsigned_abs().into()))
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let parsed = text.split_once('-').and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    match parsed {
        Some((first, last)) if 0 < first && first <= last => Ok(first..=last),
        _ => Err("ports FIRST-LAST are wanted here, such as 30000-32767".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        let files = [
            "etcd-servers",
            "etcd-cafile",
            "etcd-certfile",
            "etcd-keyfile",
            "tls-cert-file",
            "tls-private-key-file",
            "client-ca-file",
            "service-account-signing-key-file",
            "service-account-key-file",
            "kubelet-certificate-authority",
            "kubelet-client-certificate",
            "kubelet-client-key",
        ];
        let needed = files.iter().map(|name| format!("--{name}=x"));
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        Flags::try_parse_from(std::iter::once("apiserver".to_owned()).chain(needed).chain(flags)).map(|flags| flags.args)
    }

    fn advertised(flags: &[&str]) -> io::Result<Ipv4Addr> {
        parse(flags).unwrap().advertised()
    }

    #[test]
    fn events_are_kept_for_a_duration() {
        let ttl = |flags: &[&str]| parse(flags).map(|args| args.event_ttl).map_err(|error| error.to_string());
        assert_eq!(ttl(&[]), Ok(Duration::from_secs(3600)));
        for (flag, secs) in [("--event-ttl=40s", 40), ("--event-ttl=1m30s", 90), ("--event-ttl=1h0m0s", 3600)] {
            assert_eq!(ttl(&[flag]), Ok(Duration::from_secs(secs)), "{flag}");
        }
        for wrong in ["--event-ttl=3600", "--event-ttl=0s", "--event-ttl=1d"] {
            assert!(ttl(&[wrong]).unwrap_err().contains("--event-ttl"), "{wrong}");
        }
    }

    #[test]
    fn only_an_address_that_others_can_reach_is_advertised() {
        let given = Ipv4Addr::new(10, 0, 0, 9);
        assert_eq!(advertised(&["--advertise-address=10.0.0.9"]).unwrap(), given);
        assert_eq!(advertised(&["--bind-address=10.0.0.9"]).unwrap(), given);
        assert_eq!(advertised(&["--advertise-address=10.0.0.9", "--bind-address=::"]).unwrap(), given);
        for bound in ["0.0.0.0", "127.0.0.1", "::"] {
            // On a machine without a default route there is an error instead.
            if let Ok(found) = advertised(&[&format!("--bind-address={bound}")]) {
                assert!(!found.is_unspecified() && !found.is_loopback(), "{found}");
            }
        }
    }

    #[test]
    fn ports_are_a_range() {
        assert_eq!(port_range("30000-32767"), Ok(30_000..=32_767));
        for wrong in ["", "30000", "0-5", "9-5", "1-70000", "a-b"] {
            assert!(port_range(wrong).is_err(), "{wrong}");
        }
    }
}
