//! Who a request counts for.

use std::{net::IpAddr, sync::Arc};

use super::limits::{Account, Class};
use crate::{
    auth::{ANONYMOUS, MASTERS, POD_UID},
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
    /// The user; with its address, where many share one name; with its pod, if its token is bound to one.
    pub(super) user: Arc<str>,
    /// The service account, if the user is one.
    pub(super) service_account: Option<Arc<str>>,
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
        let pod = user.extra.get(POD_UID).and_then(|uids| uids.first()).filter(|_| class == Class::Other);
        let counted = match pod {
            Some(uid) => format!("{name} in pod {uid}"),
            None if matches!(name, ANONYMOUS | PROXY) => format!("{name} at {address}"),
            None => name.to_owned(),
        };
        let service_account = name.starts_with("system:serviceaccount:").then(|| name.into());
        Self { class, user: counted.into(), service_account, address }
    }

    /// The accounts that its calls are charged to, its own last.
    pub(super) fn accounts(&self) -> Vec<Account> {
        let own = match self.class {
            Class::Anonymous => Account::AnonymousAddress(self.address),
            Class::Other | Class::Node | Class::Leader => Account::User(self.user.clone(), self.class),
        };
        let service_account = self.service_account.clone().map(Account::Tokens);
        [Account::Class(self.class)].into_iter().chain(service_account).chain([own]).collect()
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

    #[test]
    fn pods_of_one_service_account_count_each_and_together() {
        let caller = |uid: &str| {
            let extra = [(POD_UID.to_owned(), vec![uid.to_owned()])].into();
            let user = User { name: "system:serviceaccount:a:agent".to_owned(), extra, ..User::default() };
            Caller::new(&user, IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)).accounts()
        };
        let (one, other) = (caller("1"), caller("2"));
        assert_eq!((one.len(), &one[..2]), (3, &other[..2]));
        assert_ne!(one[2], other[2]);
    }
}
