//! Who a request counts for.

use std::{net::IpAddr, sync::Arc};

use super::limits::{Account, Class};
use crate::{
    auth::{ANONYMOUS, MASTERS},
    request::User,
};

/// Users that the cluster cannot go on without.
const LEADERS: &[&str] = &["system:kube-scheduler", "system:kube-controller-manager"];
/// The one user of all kube-proxies.
const PROXY: &str = "system:kube-proxy";

/// Who makes a request, as far as limits are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) class: Class,
    /// The user; with its address, where many share one name.
    pub(super) user: Arc<str>,
    address: IpAddr,
}

impl Caller {
    /// A user at an address. It counts as who it is, whomever it impersonates.
    pub(super) fn new(user: &User, address: IpAddr) -> Self {
        let address = daemon::tls::origin(address);
        let name = user.name.as_str();
        let class = match name {
            ANONYMOUS => Class::Anonymous,
            _ if LEADERS.contains(&name) || user.in_group(MASTERS) => Class::Leader,
            _ if name == PROXY || user.node_name().is_some() => Class::Node,
            _ => Class::Other,
        };
        let shared = matches!(name, ANONYMOUS | PROXY);
        let user = if shared { format!("{name} at {address}").into() } else { name.into() };
        Self { class, user, address }
    }

    /// The accounts that its calls are charged to.
    pub(super) fn accounts(&self) -> Vec<Account> {
        Account::of(self.class, &self.user, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_lives_on_is_told_from_the_rest() {
        let address = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let class = |name: &str, groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            Caller::new(&User { name: name.to_owned(), groups, ..User::default() }, address).class
        };
        assert_eq!(class("system:anonymous", &["system:unauthenticated"]), Class::Anonymous);
        assert_eq!(class("ann", &["system:authenticated"]), Class::Other);
        assert_eq!(class("ann", &["system:masters"]), Class::Leader);
        assert_eq!(class("system:kube-scheduler", &[]), Class::Leader);
        assert_eq!(class("system:node:a", &["system:nodes"]), Class::Node);
        assert_eq!(class("system:node:a", &[]), Class::Other);
        assert_eq!(class("system:serviceaccount:kube-system:x", &["system:serviceaccounts"]), Class::Other);
    }
}
