//! How the pod machine puts a sandbox on a network, whichever network that is.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use futures::future::BoxFuture;

/// A network that sandboxes are attached to. What it makes for a pod it finds again by the pod's UID, also after a restart of the kubelet.
pub trait PodNetwork: Send + Sync {
    /// Attaches a sandbox and gives it addresses that no other sandbox has, and that none had recently. Asked again for the same sandbox, it gives the
    /// same addresses.
    fn attach<'a>(&'a self, sandbox: &'a Sandbox) -> BoxFuture<'a, Result<Addresses>>;
    /// Takes a pod off the network and gives up its addresses. No error if it is not on it.
    fn detach<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<()>>;
    /// The addresses of a sandbox that is attached, also by an earlier kubelet process; none if it is not.
    fn addresses(&self, pod_uid: &str, attempt: u32) -> Addresses;
    /// Removes what belongs to no pod of `live`.
    fn sweep<'a>(&'a self, live: &'a BTreeSet<String>) -> BoxFuture<'a, Result<()>>;
}

/// Why a network did not do what was asked; each has its own errors.
pub type AttachError = Box<dyn std::error::Error + Send + Sync>;

/// The result of asking a network.
pub type Result<T, E = AttachError> = std::result::Result<T, E>;

/// A sandbox that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// UID of its pod.
    pub pod_uid: String,
    /// Namespace of its pod.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
    /// How many sandboxes its pod had before.
    pub attempt: u32,
    /// A process of the host that lives in its network namespace.
    pub pid: i32,
}

/// The addresses of a sandbox in the order of its network, the primary one first; none while it is not attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Vec<IpAddr>);

// === impl Addresses ===

impl Addresses {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address by which the pod is known.
    pub fn primary(&self) -> Option<IpAddr> {
        self.0.first().copied()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().copied()
    }

    /// Those that a pod's status shows: the first of each family.
    pub fn by_family(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let first = |family: IpAddr| self.0.iter().find(|address| address.is_ipv4() == family.is_ipv4()).copied();
        self.iter().filter(move |address| first(*address) == Some(*address))
    }
}

impl<A: Into<IpAddr>> FromIterator<A> for Addresses {
    fn from_iter<I: IntoIterator<Item = A>>(addresses: I) -> Self {
        Self(addresses.into_iter().map(Into::into).collect())
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.iter().map(|address| address.to_string()).collect();
        f.write_str(&shown.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_shows_the_first_address_of_each_family() {
        let of = |list: &[&str]| list.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect::<Addresses>();
        let all = of(&["fd00::7", "10.0.0.7", "fd00::8", "10.0.0.8"]);
        assert_eq!(all.by_family().collect::<Addresses>(), of(&["fd00::7", "10.0.0.7"]));
        assert_eq!(all.primary(), "fd00::7".parse().ok());
        assert_eq!(all.to_string(), "fd00::7,10.0.0.7,fd00::8,10.0.0.8");
        assert!(of(&[]).is_empty() && of(&[]).primary().is_none());
    }
}
