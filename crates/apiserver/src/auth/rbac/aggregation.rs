//! Cluster roles that are made of others: their selectors pick roles by label, and all rules of those count as theirs.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::{
    rbac::v1::{ClusterRole, PolicyRule},
    selector::Selector,
};

/// What each cluster role allows, its own rules or those of the roles it is made of.
pub(crate) fn aggregate(roles: &HashMap<String, Arc<ClusterRole>>) -> HashMap<String, Arc<[PolicyRule]>> {
    let rules = |(name, role): (&String, &Arc<ClusterRole>)| {
        let mut rules = Vec::new();
        collect(role, roles, &mut BTreeSet::new(), &mut rules);
        (name.clone(), rules.into())
    };
    roles.iter().map(rules).collect()
}

/// Adds the rules of a role. `seen` keeps roles that pick each other from going round in circles.
fn collect<'a>(
    role: &'a ClusterRole,
    roles: &'a HashMap<String, Arc<ClusterRole>>,
    seen: &mut BTreeSet<&'a str>,
    rules: &mut Vec<PolicyRule>,
) {
    if !seen.insert(&role.metadata().name) {
        return;
    }
    if role.aggregation_rule.is_none() {
        let new: Vec<_> = role.rules.iter().filter(|rule| !rules.contains(rule)).cloned().collect();
        rules.extend(new);
        return;
    }
    let mut picked: Vec<_> = roles.values().filter(|other| picks(role, other)).collect();
    picked.sort_by(|a, b| a.metadata().name.cmp(&b.metadata().name));
    for other in picked {
        collect(other, roles, seen, rules);
    }
}

fn picks(role: &ClusterRole, other: &ClusterRole) -> bool {
    let selectors = &role.aggregation_rule().cluster_role_selectors;
    selectors.iter().any(|selector| {
        // One that is malformed picks nothing; validation keeps such out.
        Selector::from_label_selector(Some(selector)).is_ok_and(|selector| selector.matches_map(&other.metadata().labels))
    })
}
