//! Quotas: what the objects of a namespace may use together.
//!
//! A quota's status holds how much is used. The write that uses more puts the new figure in the same transaction, under the condition
//! that the quota is as it was read: however many servers create at once, the sum is never above the limit. What ends or goes away is
//! given back in the same way. The controller manager computes the figures for new and changed quotas.

use std::collections::BTreeMap;

use api::{
    Object, Resource, StatusError,
    amounts::Amounts,
    core::v1::{Pod, ResourceQuota, Service},
    quantity::{self, Quantity},
    quota,
    resource::Quantity as Text,
};
use jiff::Timestamp;
use prost::Message;
use store::{Guard, ReadAt, Store, envelope};

use super::{
    Admitted, Effects, Plugin, Write,
    action::{Action, LOOKS, pause},
};
use crate::reader::{Found, Reader};

/// See the module.
pub(super) struct Quotas {
    quotas: Reader<ResourceQuota>,
}

/// What a write changes of the use of one quota.
struct Difference<'a> {
    quota: &'a ResourceQuota,
    /// By resource of the quota; never zero.
    amounts: Amounts,
}

impl Quotas {
    pub(super) fn new(store: &Store) -> Self {
        Self { quotas: Reader::new(store) }
    }

    async fn write(&self, write: &Write<'_>, object: &dyn Object, effects: &mut Effects) -> Result<(), StatusError> {
        let action = write.action();
        let (before, after) = match action {
            Action::Create => (None, Some(object)),
            Action::Delete => (Some(object), None),
            Action::Update => (write.old, Some(object)),
        };
        // Of other kinds nothing is counted that an update could change.
        let changes = action != Action::Update || *object.kind() == Pod::KIND || *object.kind() == Service::KIND;
        if !changes || !write.request.kind.namespaced {
            return Ok(());
        }
        // Most namespaces have no quota: that much the cache may say.
        let namespace = &write.request.namespace;
        let cached = self.quotas.list(namespace, ReadAt::Any).await?;
        if cached.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now().as_second();
        let (before, after) = (Used::of(before, now), Used::of(after, now));
        if before.amounts == after.amounts && action == Action::Update {
            return Ok(());
        }
        let counted = |found: &Found<ResourceQuota>| {
            let quota = &found.object;
            let itself = *object.kind() == ResourceQuota::KIND && object.meta().uid == quota.metadata().uid;
            !itself && (!difference(quota, &before, &after).amounts.is_empty() || !silent_on(quota, action, object).is_empty())
        };
        if !cached.iter().any(counted) {
            return Ok(());
        }
        let mut looks = LOOKS;
        loop {
            looks -= 1;
            // The quota's figures change with every object; an old one would only make the transaction fail.
            let newest = self.quotas.list(namespace, ReadAt::Latest).await?;
            let changes: Vec<_> = newest
                .iter()
                .filter(|found| counted(found))
                .map(|found| (found, difference(&found.object, &before, &after)))
                .collect();
            // The figures of a new quota are about to be computed: they are awaited.
            let waits = action != Action::Delete && changes.iter().any(|(_, difference)| !unknown(difference).is_empty());
            if waits && looks > 0 {
                pause().await;
                continue;
            }
            if action != Action::Delete {
                changes.iter().try_for_each(|(_, difference)| permit(object, action, difference))?;
            }
            return changes.iter().try_for_each(|(found, difference)| self.charge(found, difference, effects));
        }
    }

    /// Writes the quota's new figures along with the object.
    fn charge(
        &self,
        found: &Found<ResourceQuota>,
        difference: &Difference<'_>,
        effects: &mut Effects,
    ) -> Result<(), StatusError> {
        let mut quota = found.object.clone();
        let used = &mut quota.status_mut().used;
        for (name, amount) in &difference.amounts {
            // What is not computed yet is the controller's to compute.
            let Some(now) = quantity::get(used, name) else { continue };
            let sum = (now + *amount).max(Quantity::ZERO);
            used.insert(name.clone(), Text { string: sum.to_string() });
        }
        if quota == found.object {
            return Ok(());
        }
        quota.metadata_mut().resource_version.clear();
        let collection = self.quotas.collection()?;
        let layout = collection.layout();
        let value = envelope::encode(&layout.api_version, &layout.kind, &quota.encode_to_vec());
        effects.guard(found.entry.key(), Guard::At(found.entry.revision()));
        effects.put(found.entry.key(), value);
        Ok(())
    }
}

impl Plugin for Quotas {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn check<'a>(&'a self, write: &'a Write<'a>, object: &'a dyn Object, effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(self.write(write, object, effects))
    }
}

/// An object and what it uses.
struct Used<'a> {
    object: Option<&'a dyn Object>,
    amounts: Amounts,
}

impl<'a> Used<'a> {
    /// `now` is in seconds since 1970.
    fn of(object: Option<&'a dyn Object>, now: i64) -> Self {
        Self { object, amounts: object.map(|object| quota::usage(object, now)).unwrap_or_default() }
    }

    fn against(&self, quota: &ResourceQuota, name: &str) -> Quantity {
        let picked = self.object.is_some_and(|object| quota::selects(quota.spec(), object));
        self.amounts.get(name).copied().filter(|_| picked).unwrap_or(Quantity::ZERO)
    }
}

/// How the use of a quota's resources changes.
fn difference<'q>(quota: &'q ResourceQuota, before: &Used<'_>, after: &Used<'_>) -> Difference<'q> {
    let limited = quota.spec().hard.keys().filter(|name| before.amounts.contains_key(*name) || after.amounts.contains_key(*name));
    let change = |name: &String| after.against(quota, name) - before.against(quota, name);
    let amounts = limited.map(|name| (name.clone(), change(name))).filter(|(_, amount)| !amount.is_zero()).collect();
    Difference { quota, amounts }
}

/// What a new pod must say for the quota and does not; empty if nothing.
fn silent_on(quota: &ResourceQuota, action: Action, object: &dyn Object) -> String {
    match object.downcast_ref::<Pod>() {
        Some(pod) if action == Action::Create && quota::selects(quota.spec(), pod) => {
            quota::unspecified(pod.spec(), quota.spec().hard.keys())
        }
        _ => String::new(),
    }
}

/// The resources that the write uses more of and whose use is not computed yet.
fn unknown(difference: &Difference<'_>) -> Vec<String> {
    let used = &difference.quota.status().used;
    let more = difference.amounts.iter().filter(|(name, amount)| !amount.is_negative() && !used.contains_key(*name));
    more.map(|(name, _)| name.clone()).collect()
}

/// Refuses what a quota has no room for.
fn permit(object: &dyn Object, action: Action, difference: &Difference<'_>) -> Result<(), StatusError> {
    let (quota, status) = (difference.quota, difference.quota.status());
    let forbidden = |why: String| Err(StatusError::forbidden(object.kind(), &object.meta().name, why));
    let more: Amounts = difference.amounts.iter().filter(|(_, n)| !n.is_negative()).map(|(name, n)| (name.clone(), *n)).collect();
    let missing = silent_on(quota, action, object);
    if !missing.is_empty() {
        return forbidden(format!("failed quota: {}: must specify {missing}", quota.name()));
    }
    let unknown = unknown(difference);
    if !unknown.is_empty() {
        return forbidden(format!("status unknown for quota: {}, resources: {}", quota.name(), unknown.join(",")));
    }
    let (hard, used) = (&quota.spec().hard, &status.used);
    let get = |list: &BTreeMap<String, Text>, name: &String| quantity::get(list, name).unwrap_or(Quantity::ZERO);
    let exceeded: Vec<(&String, &Quantity)> =
        more.iter().filter(|(name, amount)| get(used, name) + **amount > get(hard, name)).collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let list = |amount: &dyn Fn(&String, &Quantity) -> Quantity| {
        let parts: Vec<String> = exceeded.iter().map(|(name, more)| format!("{name}={}", amount(name, more))).collect();
        parts.join(",")
    };
    forbidden(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name(),
        list(&|_, more| *more),
        list(&|name, _| get(used, name)),
        list(&|name, _| get(hard, name)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(hard: &str, used: &str) -> ResourceQuota {
        let json = format!(r#"{{"metadata": {{"name": "q"}}, "spec": {{"hard": {hard}}}, "status": {{"used": {used}}}}}"#);
        serde_json::from_str(&json).unwrap()
    }

    fn pod(resources: &str) -> Pod {
        let json = format!(
            r#"{{"metadata": {{"name": "web"}}, "spec": {{"containers": [{{"name": "a", "resources": {resources}}}]}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn create(quota: &ResourceQuota, pod: &Pod) -> Result<(), String> {
        let difference = difference(quota, &Used::of(None, 0), &Used::of(Some(pod), 0));
        permit(pod, Action::Create, &difference).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_full_quota_refuses_with_all_the_figures() {
        let full = quota(r#"{"pods": "3", "cpu": "10"}"#, r#"{"pods": "3", "cpu": "1"}"#);
        assert_eq!(
            create(&full, &pod(r#"{"requests": {"cpu": "1"}}"#)),
            Err("pods \"web\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3".into())
        );
        let room = quota(r#"{"pods": "4"}"#, r#"{"pods": "3"}"#);
        assert_eq!(create(&room, &pod("{}")), Ok(()));
    }

    #[test]
    fn what_is_limited_must_be_said() {
        let limited = quota(r#"{"limits.cpu": "3"}"#, r#"{"limits.cpu": "0"}"#);
        let said = create(&limited, &pod(r#"{"limits": {"cpu": "1"}}"#));
        assert_eq!(said, Ok(()));
        assert_eq!(
            create(&limited, &pod("{}")),
            Err("pods \"web\" is forbidden: failed quota: q: must specify limits.cpu for: a".into())
        );
    }

    #[test]
    fn a_quota_that_is_not_computed_yet_lets_nothing_through() {
        let new = quota(r#"{"pods": "3"}"#, "{}");
        assert_eq!(
            create(&new, &pod("{}")),
            Err("pods \"web\" is forbidden: status unknown for quota: q, resources: pods".into())
        );
    }

    #[test]
    fn an_end_gives_back_what_was_used() {
        let (running, mut ended) = (pod(r#"{"requests": {"cpu": "2"}}"#), pod(r#"{"requests": {"cpu": "2"}}"#));
        ended.status_mut().phase = "Failed".into();
        let quota = quota(r#"{"pods": "3", "cpu": "4", "count/pods": "9"}"#, "{}");
        let difference = difference(&quota, &Used::of(Some(&running), 0), &Used::of(Some(&ended), 0));
        let texts: Vec<String> = difference.amounts.iter().map(|(name, n)| format!("{name}={n}")).collect();
        assert_eq!(texts, ["cpu=-2", "pods=-1"]);
    }
}
