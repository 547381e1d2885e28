//! What the machine is: capacity, names, versions. Read from the kernel's files; nothing here changes while the kubelet runs.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
};

use api::{core::v1::NodeSystemInfo, quantity::Quantity, resource::Quantity as Message};

/// Memory that is kept from pods, so that the node can act before the kernel must: upstream's eviction threshold.
const MEMORY_RESERVE: i64 = 100 << 20;
/// The part of the local storage that is kept from pods, in percent: upstream's eviction threshold.
const STORAGE_RESERVE_PERCENT: i64 = 10;

/// The machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Cores.
    pub cores: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of local storage.
    pub storage: i64,
    /// Names and versions.
    pub info: NodeSystemInfo,
    /// The kernel's host name.
    pub hostname: String,
}

// === impl Machine ===

impl Machine {
    /// Looks at the machine. What cannot be read is left empty. `root` tells which file system holds pods' data.
    pub fn detect(root: &Path) -> Self {
        let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let uname = nix::sys::utsname::uname().ok();
        let (kernel_version, hostname) = uname
            .map(|uname| (uname.release().to_string_lossy().into_owned(), uname.nodename().to_string_lossy().into_owned()))
            .unwrap_or_default();
        let machine_id = line("/etc/machine-id");
        let system_uuid =
            Some(line("/sys/class/dmi/id/product_uuid")).filter(|uuid| !uuid.is_empty()).unwrap_or_else(|| machine_id.clone());
        let version = format!("{}.0-ferrokube.{}", api::API_LEVEL, env!("CARGO_PKG_VERSION"));
        let info = NodeSystemInfo {
            machine_id,
            system_uuid,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel_version,
            os_image: os_image(),
            kubelet_version: version,
            operating_system: "linux".into(),
            architecture: architecture().into(),
            ..NodeSystemInfo::default()
        };
        let storage =
            nix::sys::statvfs::statvfs(root).map_or(0, |fs| (fs.blocks() as i64).saturating_mul(fs.fragment_size() as i64));
        Self {
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as i64),
            memory: meminfo("MemTotal"),
            storage,
            info,
            hostname: hostname.to_lowercase(),
        }
    }

    /// All there is.
    pub fn capacity(&self, pods: u32) -> BTreeMap<String, Message> {
        resources(Quantity::from_value(self.cores), self.memory, self.storage, pods)
    }

    /// What pods may use.
    pub fn allocatable(&self, pods: u32) -> BTreeMap<String, Message> {
        resources(Quantity::from_value(self.cores), self.allocatable_memory(), self.allocatable_storage(), pods)
    }

    /// Bytes of memory that pods may use.
    pub fn allocatable_memory(&self) -> i64 {
        (self.memory - MEMORY_RESERVE).max(0)
    }

    /// Bytes of local storage that pods may use.
    pub fn allocatable_storage(&self) -> i64 {
        self.storage / 100 * (100 - STORAGE_RESERVE_PERCENT)
    }
}

fn resources(cpu: Quantity, memory: i64, storage: i64, pods: u32) -> BTreeMap<String, Message> {
    [
        ("cpu", cpu),
        ("memory", Quantity::from_bytes(memory)),
        ("ephemeral-storage", Quantity::from_bytes(storage)),
        ("pods", Quantity::from_value(pods.into())),
        ("hugepages-1Gi", Quantity::from_value(0)),
        ("hugepages-2Mi", Quantity::from_value(0)),
    ]
    .map(|(name, amount)| (name.to_owned(), amount.into()))
    .into()
}

/// A figure of `/proc/meminfo` in bytes; 0 if it is not there.
fn meminfo(name: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The architecture by the name that Go and container images use.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The lowest OOM score adjustment that processes of this host can be given: without CAP_SYS_RESOURCE, as in some containers, our own.
pub fn oom_score_floor() -> i64 {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    if effective.is_some_and(|effective| effective & (1 << CAP_SYS_RESOURCE) != 0) {
        return -1000;
    }
    fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether the kernel confines programs by AppArmor profiles.
pub fn has_app_armor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// The address from which the machine reaches another; nothing is sent.
pub fn address_towards(other: IpAddr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((other, 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_something_to_offer() {
        let machine = Machine::detect(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory > MEMORY_RESERVE && machine.storage > 0);
        assert!(!machine.info.kernel_version.is_empty() && machine.info.kubelet_version.starts_with("v1.33"));
        assert_eq!(machine.capacity(110)["pods"].string, "110");
    }
}
