//! Cluster roles that are made of others: their selectors pick roles by label, and all rules of those count as theirs.
//!
//! Decisions use what is computed here. It is also written into the roles, so that people see it; several API servers compute the same,
//! and each write is guarded by the role's revision.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{
    rbac::v1::{ClusterRole, PolicyRule},
    selector::Selector,
};
use prost::Message as _;
use store::{Change, Collection};

use super::index::Index;

/// How long changes are gathered before roles are written, and pause after a write that failed.
const PAUSE: Duration = Duration::from_millis(250);

/// Writes into the stored roles what they are made of. Never ends by itself.
pub(super) async fn write_back(index: &Index, roles: &Collection) {
    let mut changes = index.changes();
    loop {
        // The sender is the index's and outlives us.
        changes.changed().await.ok();
        loop {
            tokio::time::sleep(PAUSE).await;
            changes.mark_unchanged();
            let outdated = index.state.read().outdated();
            let mut failed = false;
            for (name, rules) in outdated {
                if let Err(error) = write(roles, &name, &rules).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, name, "an aggregated role could not be written");
                    failed = true;
                }
            }
            if !failed {
                break;
            }
        }
    }
}

async fn write(roles: &Collection, name: &str, rules: &Arc<[PolicyRule]>) -> Result<(), store::Error> {
    let written = roles.modify("", name, |entry| {
        Ok(match ClusterRole::decode(entry.object()) {
            Ok(mut role) if role.aggregation_rule.is_some() && role.rules[..] != rules[..] => {
                role.rules = rules.to_vec();
                role.metadata_mut().resource_version.clear();
                Change::Put(role.encode_to_vec().into())
            }
            // One that cannot be decoded is reported where it is followed.
            _ => Change::Keep,
        })
    });
    match written.await {
        Ok(_) | Err(store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

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
