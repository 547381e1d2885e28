//! Which plugins there are, in which order they run, and which of them can be chosen.

use std::{ops::RangeInclusive, sync::Arc};

use store::Store;

use super::{
    Chain, Plugin, ServiceCidr,
    allocator::Allocator,
    cluster_ips::ClusterIps,
    default_toleration_seconds::DefaultTolerationSeconds,
    external_ips::{DenyServiceExternalIps, ExternalIps},
    limit_ranger::LimitRanger,
    namespace_lifecycle::NamespaceLifecycle,
    node_ports::NodePorts,
    pod_cidrs::PodCidrs,
    priority::Priority,
    quota::Quotas,
    runtime_class::RuntimeClass,
    service_account::ServiceAccounts,
    taint_nodes::TaintNodesByCondition,
};

/// Plugins that can be chosen, by upstream's names, and whether each runs if nobody chooses.
const OPTIONAL: [(&str, bool); 8] = [
    ("DefaultTolerationSeconds", true),
    ("DenyServiceExternalIPs", false),
    ("LimitRanger", true),
    ("Priority", true),
    ("ResourceQuota", true),
    ("RuntimeClass", true),
    ("ServiceAccount", true),
    ("TaintNodesByCondition", true),
];
/// Plugins of upstream's on which the safety of the cluster rests: they always run.
const ALWAYS: [&str; 2] = ["NamespaceLifecycle", "NodeRestriction"];

/// What the plugins must be told of the cluster.
#[derive(Clone, Debug)]
pub struct AdmissionConfig {
    /// Where the ClusterIPs of Services are from.
    pub service_cidr: ServiceCidr,
    /// Where node ports are from; upstream's default is 30000 to 32767.
    pub node_ports: RangeInclusive<u16>,
    /// Where the addresses of pods are from, if that is known.
    pub cluster_cidr: Option<ipnet::IpNet>,
    /// Which of the plugins that can be chosen run.
    pub plugins: Plugins,
}

/// A choice of plugins. The default is upstream's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plugins {
    enabled: Vec<String>,
    disabled: Vec<String>,
}

/// Why plugins cannot be chosen like that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluginsError {
    /// There is no such plugin.
    #[error("there is no admission plugin {name:?}; there are {}", names())]
    Unknown {
        /// The name.
        name: String,
    },
    /// The plugin always runs.
    #[error("the admission plugin {name} cannot be disabled: the safety of the cluster rests on it")]
    Needed {
        /// The plugin.
        name: String,
    },
    /// The plugin is in both lists.
    #[error("the admission plugin {name} is both enabled and disabled; choose one")]
    Both {
        /// The plugin.
        name: String,
    },
}

fn names() -> String {
    let mut names: Vec<&str> = OPTIONAL.iter().map(|(name, _)| *name).chain(ALWAYS).collect();
    names.sort_unstable();
    names.join(", ")
}

impl Plugins {
    /// Chooses what runs besides the default, and what of the default does not.
    ///
    /// # Errors
    /// When a plugin does not exist, cannot be disabled, or stands in both lists.
    pub fn new(enabled: Vec<String>, disabled: Vec<String>) -> Result<Self, PluginsError> {
        for name in enabled.iter().chain(&disabled) {
            if !OPTIONAL.iter().any(|(optional, _)| optional == name) && !ALWAYS.contains(&name.as_str()) {
                return Err(PluginsError::Unknown { name: name.clone() });
            }
        }
        if let Some(name) = disabled.iter().find(|name| ALWAYS.contains(&name.as_str())) {
            return Err(PluginsError::Needed { name: name.clone() });
        }
        match enabled.iter().find(|name| disabled.contains(name)) {
            Some(name) => Err(PluginsError::Both { name: name.clone() }),
            None => Ok(Self { enabled, disabled }),
        }
    }

    /// True unless the plugin is one that can be chosen and is not.
    fn runs(&self, name: &str) -> bool {
        let listed = |list: &[String]| list.iter().any(|listed| listed == name);
        match OPTIONAL.iter().find(|(optional, _)| *optional == name) {
            Some((_, by_default)) => listed(&self.enabled) || (*by_default && !listed(&self.disabled)),
            None => true,
        }
    }
}

/// The plugins over a store, in upstream's order: what changes objects before what only judges them, quotas last.
pub fn chain(store: &Store, config: &AdmissionConfig) -> Chain {
    let allocator = Arc::new(Allocator::new(store, config));
    let all: [Box<dyn Plugin>; 13] = [
        Box::new(NamespaceLifecycle::new(store)),
        Box::new(LimitRanger::new(store)),
        Box::new(ServiceAccounts::new(store)),
        Box::new(TaintNodesByCondition),
        Box::new(Priority::new(store)),
        Box::new(DefaultTolerationSeconds),
        Box::new(RuntimeClass),
        Box::new(DenyServiceExternalIps),
        Box::new(ExternalIps::new(store, config)),
        Box::new(PodCidrs::new(store, config)),
        Box::new(ClusterIps(allocator.clone())),
        Box::new(NodePorts(allocator)),
        Box::new(Quotas::new(store)),
    ];
    Chain::default().with_all(all.into_iter().filter(|plugin| config.plugins.runs(plugin.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugins(enabled: &[&str], disabled: &[&str]) -> Result<Plugins, PluginsError> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Plugins::new(owned(enabled), owned(disabled))
    }

    #[test]
    fn plugins_run_by_default_or_by_choice() {
        let default = Plugins::default();
        assert!(default.runs("ResourceQuota") && default.runs("ServiceClusterIP") && !default.runs("DenyServiceExternalIPs"));
        let chosen = plugins(&["DenyServiceExternalIPs", "NodeRestriction"], &["ResourceQuota"]).unwrap();
        assert!(chosen.runs("DenyServiceExternalIPs") && !chosen.runs("ResourceQuota") && chosen.runs("LimitRanger"));
    }

    #[test]
    fn what_cannot_be_chosen_is_refused() {
        let message = |result: Result<Plugins, PluginsError>| result.unwrap_err().to_string();
        assert!(
            message(plugins(&["AlwaysAdmit"], &[]))
                .starts_with("there is no admission plugin \"AlwaysAdmit\"; there are Default")
        );
        assert!(message(plugins(&[], &["NodeRestriction"])).contains("cannot be disabled"));
        assert!(message(plugins(&["Priority"], &["Priority"])).contains("choose one"));
    }
}
