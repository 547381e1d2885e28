//! The files that the kubelet writes for a pod besides its volumes: `/etc/hosts`, `/etc/resolv.conf`, termination messages.

use std::{
    fs,
    io::{self, Read as _, Seek as _, Write as _},
    net::Ipv4Addr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use api::core::v1::Pod;

use crate::{network::Addresses, volumes::private_dir};

/// The longest host name that Linux takes.
const KERNEL_HOSTNAME_MAX: usize = 64;
/// The longest termination message that is read from a file, in bytes.
const MESSAGE_MAX: u64 = 4096;
/// How a file that containers may write is opened: whatever has become of it, nothing else is meant and nothing is waited for.
const WARY: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
/// The first line of the files, so that people know who writes them.
const HEADER: &str = "# Kubernetes-managed hosts file.\n";

/// How names are resolved in pods.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    /// Cluster DNS servers; pods that ask for cluster DNS get the host's without.
    pub servers: Vec<Ipv4Addr>,
    /// Cluster domain, such as `cluster.local`.
    pub domain: String,
    /// The host's resolver configuration.
    pub host_file: PathBuf,
}

/// Where a pod's own files lie.
#[derive(Clone, Debug)]
pub struct PodFiles {
    dir: PathBuf,
}

// === impl PodFiles ===

impl PodFiles {
    /// The files of the pod whose directory that is.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// `/etc/hosts` of the pod's containers.
    pub fn hosts(&self) -> PathBuf {
        self.dir.join("etc-hosts")
    }

    /// `/etc/resolv.conf` of the pod's containers.
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    /// Makes the files; `hosts` stays empty until the pod has its address.
    ///
    /// # Errors
    /// When a file or its directory cannot be made.
    pub fn prepare(&self, pod: &Pod, dns: &Dns) -> io::Result<()> {
        private_dir(&self.dir)?;
        let host = fs::read_to_string(&dns.host_file).unwrap_or_default();
        write_in_place(&self.resolv_conf(), &resolv_conf(pod, dns, &host))?;
        if !self.hosts().exists() {
            write_in_place(&self.hosts(), HEADER)?;
        }
        Ok(())
    }

    /// Writes `/etc/hosts` for a pod that has its addresses, or (without any) uses the host's network.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_hosts(&self, pod: &Pod, addresses: &Addresses, domain: &str) -> io::Result<()> {
        let mut text = if addresses.is_empty() {
            format!("{HEADER}{}", fs::read_to_string("/etc/hosts").unwrap_or_default())
        } else {
            pod_hosts(pod, addresses, domain)
        };
        for alias in &pod.spec().host_aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
        }
        write_in_place(&self.hosts(), &text)
    }

    /// Where a container leaves its termination message.
    pub fn message(&self, container: &str, attempt: u32) -> PathBuf {
        self.dir.join("containers").join(container).join(attempt.to_string())
    }

    /// Makes an empty termination message that any user in the container can write.
    ///
    /// # Errors
    /// When the file or its directory cannot be made.
    pub fn prepare_message(&self, container: &str, attempt: u32) -> io::Result<PathBuf> {
        let path = self.message(container, attempt);
        if let Some(parent) = path.parent() {
            private_dir(parent)?;
        }
        fs::write(&path, "")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(path)
    }

    /// The termination message that a container left: its end, if it is longer than the greatest length; empty if there is none.
    pub fn read_message(&self, container: &str, attempt: u32) -> String {
        let mut bytes = Vec::new();
        let read =
            fs::OpenOptions::new().read(true).custom_flags(WARY).open(self.message(container, attempt)).and_then(|mut file| {
                let start = file.metadata()?.len().saturating_sub(MESSAGE_MAX);
                file.seek(io::SeekFrom::Start(start))?;
                file.take(MESSAGE_MAX).read_to_end(&mut bytes)
            });
        if read.is_ok() { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() }
    }
}

/// Writes a file that containers may have mounted: its content changes, it is never replaced. What they made of it is never read beyond the length of
/// what it should be.
fn write_in_place(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(WARY).open(path)?;
    let mut old = Vec::new();
    if file.metadata()?.len() == text.len() as u64 {
        (&file).take(text.len() as u64).read_to_end(&mut old)?;
    }
    if old == text.as_bytes() && !text.is_empty() {
        return Ok(());
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

/// The pod's name in its own `/etc/hosts`.
pub fn short_hostname(pod: &Pod) -> String {
    let spec = pod.spec();
    let name = if spec.hostname.is_empty() { &pod.metadata().name } else { &spec.hostname };
    // A host name has at most 63 characters and does not end with a dot or a hyphen.
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's name with its subdomain and the cluster's domain; `None` without either.
fn full_hostname(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = &pod.spec().subdomain;
    let known = !subdomain.is_empty() && !domain.is_empty();
    known.then(|| format!("{}.{subdomain}.{}.svc.{domain}", short_hostname(pod), pod.metadata().namespace))
}

/// The host name inside the pod: the full one if the pod asks for that.
///
/// # Errors
/// When the full one is longer than the kernel takes; the text is for people.
pub fn hostname(pod: &Pod, domain: &str) -> Result<String, String> {
    let full = full_hostname(pod, domain).filter(|_| pod.spec().set_hostname_as_fqdn == Some(true));
    match full {
        Some(full) if full.len() > KERNEL_HOSTNAME_MAX => Err(format!(
            "Failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({KERNEL_HOSTNAME_MAX} characters is the max, {} characters requested)",
            full.len()
        )),
        Some(full) => Ok(full),
        None => Ok(short_hostname(pod)),
    }
}

fn pod_hosts(pod: &Pod, addresses: &Addresses, domain: &str) -> String {
    let name = short_hostname(pod);
    let full = full_hostname(pod, domain).map(|full| format!("{full}\t")).unwrap_or_default();
    let own: String = addresses.iter().map(|address| format!("{address}\t{full}{name}\n")).collect();
    format!(
        "{HEADER}127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n{own}"
    )
}

fn resolv_conf(pod: &Pod, dns: &Dns, host: &str) -> String {
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    let policy = pod.spec().dns_policy.as_str();
    let cluster = !dns.servers.is_empty()
        && (policy == "ClusterFirstWithHostNet" || (matches!(policy, "" | "ClusterFirst") && !pod.spec().host_network));
    let host_lines = |keyword: &'static str| {
        host.lines()
            .filter_map(move |line| line.trim().strip_prefix(keyword))
            .flat_map(|rest| rest.split_whitespace().map(str::to_owned))
    };
    if cluster {
        servers.extend(dns.servers.iter().map(ToString::to_string));
        let (namespace, domain) = (&pod.metadata().namespace, &dns.domain);
        if !domain.is_empty() {
            searches.extend([format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()]);
        }
        options.push("ndots:5".to_owned());
        searches.extend(host_lines("search "));
    } else if policy != "None" {
        servers.extend(host_lines("nameserver "));
        searches.extend(host_lines("search "));
        options.extend(host_lines("options "));
    }
    let custom = pod.spec().dns_config();
    servers.extend(custom.nameservers.iter().cloned());
    searches.extend(custom.searches.iter().cloned());
    for option in &custom.options {
        // An option given by the pod replaces the one of that name.
        options.retain(|other: &String| other.split(':').next() != Some(option.name.as_str()));
        options.push(option.value.as_ref().map_or_else(|| option.name.clone(), |value| format!("{}:{value}", option.name)));
    }
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !searches.is_empty() {
        let mut seen = Vec::new();
        searches.retain(|search| {
            !seen.contains(search) && {
                seen.push(search.clone());
                true
            }
        });
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use api::core::v1::PodDnsConfigOption;

    use super::*;

    fn pod(policy: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata_mut().name = "web-0".into();
        pod.metadata_mut().namespace = "shop".into();
        pod.spec_mut().dns_policy = policy.into();
        pod
    }

    #[test]
    fn dns_policies_choose_the_servers() {
        let dns = Dns { servers: vec![Ipv4Addr::new(10, 96, 0, 10)], domain: "cluster.local".into(), host_file: PathBuf::new() };
        let host = "nameserver 192.0.2.53\nsearch corp.example\n";
        assert_eq!(
            resolv_conf(&pod("ClusterFirst"), &dns, host),
            "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&pod("Default"), &dns, host), "nameserver 192.0.2.53\nsearch corp.example\n");
        assert_eq!(resolv_conf(&pod("ClusterFirst"), &Dns::default(), host), "nameserver 192.0.2.53\nsearch corp.example\n");
        let mut own = pod("None");
        own.spec_mut().dns_config_mut().nameservers = vec!["1.2.3.4".into()];
        own.spec_mut().dns_config_mut().options = vec![PodDnsConfigOption { name: "ndots".into(), value: Some("2".into()) }];
        assert_eq!(resolv_conf(&own, &dns, host), "nameserver 1.2.3.4\noptions ndots:2\n");
    }

    #[test]
    fn hosts_and_messages_are_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let files = PodFiles::new(dir.path().join("pod"));
        files.prepare(&pod(""), &Dns::default()).unwrap();
        files.write_hosts(&pod(""), &Addresses::from_iter([Ipv4Addr::new(10, 0, 0, 7)]), "").unwrap();
        assert!(fs::read_to_string(files.hosts()).unwrap().contains("10.0.0.7\tweb-0\n"));
        fs::write(files.prepare_message("main", 2).unwrap(), format!("{}END", "x".repeat(5000))).unwrap();
        let message = files.read_message("main", 2);
        assert!(message.len() == MESSAGE_MAX as usize && message.ends_with("xEND"), "the end of it");
        assert_eq!(files.read_message("main", 3), "");
    }

    #[test]
    fn what_a_container_writes_is_never_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let files = PodFiles::new(dir.path().join("pod"));
        files.prepare(&pod(""), &Dns::default()).unwrap();
        let message = files.prepare_message("main", 0).unwrap();
        for file in [files.hosts(), files.resolv_conf(), message] {
            // A terabyte with nothing in it takes a container a moment.
            fs::OpenOptions::new().write(true).open(file).unwrap().set_len(1 << 40).unwrap();
        }
        files.prepare(&pod(""), &Dns::default()).unwrap();
        files.write_hosts(&pod(""), &Addresses::from_iter([Ipv4Addr::new(10, 0, 0, 7)]), "").unwrap();
        assert!(fs::read_to_string(files.hosts()).unwrap().ends_with("10.0.0.7\tweb-0\n"));
        assert!(fs::metadata(files.resolv_conf()).unwrap().len() < 4096);
        assert_eq!(files.read_message("main", 0).len(), MESSAGE_MAX as usize);
    }

    #[test]
    fn long_names_are_cut_to_a_host_name() {
        let mut long = pod("");
        long.metadata_mut().name = format!("{}-tail", "a".repeat(62));
        assert_eq!(hostname(&long, ""), Ok("a".repeat(62)));
    }

    #[test]
    fn a_pod_can_have_its_full_name_as_host_name() {
        let mut pod = pod("");
        pod.spec_mut().subdomain = "web".into();
        pod.spec_mut().set_hostname_as_fqdn = Some(true);
        assert_eq!(hostname(&pod, "cluster.local"), Ok("web-0.web.shop.svc.cluster.local".into()));
        pod.spec_mut().subdomain = "w".repeat(50);
        assert!(
            hostname(&pod, "cluster.local")
                .unwrap_err()
                .contains("is too long (64 characters is the max, 79 characters requested)")
        );
        pod.spec_mut().set_hostname_as_fqdn = None;
        assert_eq!(hostname(&pod, "cluster.local"), Ok("web-0".into()));
    }
}
