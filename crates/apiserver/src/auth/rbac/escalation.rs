//! Nobody gives away more than they have: writes of roles and bindings are refused if they would grant what the writer does not hold,
//! unless the writer may `escalate` (roles) or `bind` (bindings) explicitly.

use std::sync::Arc;

use api::{
    Kind, Object, Resource, StatusError,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef},
};

use super::rules;
use crate::{
    admission::{Admitted, Effects, Plugin, Write},
    auth::{Attributes, MASTERS, ResourceAttributes, Target, identity::Authority},
    request::{Request, Verb},
};

/// The admission plugin.
pub(crate) struct Escalation(pub(crate) Arc<Authority>);

impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn check<'a>(&'a self, write: &'a Write<'a>, object: &'a dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            let request = write.request;
            if !matches!(request.verb, Verb::Create | Verb::Update | Verb::Patch) || request.user.in_group(MASTERS) {
                return Ok(());
            }
            if let Some((role, _)) = changed::<Role>(write, object) {
                self.role(request, role.name(), &role.rules, false).await
            } else if let Some((role, old)) = changed::<ClusterRole>(write, object) {
                let aggregates = role.aggregation_rule.is_some() || old.is_some_and(|old| old.aggregation_rule.is_some());
                self.role(request, role.name(), &role.rules, aggregates).await
            } else if let Some((binding, _)) = changed::<RoleBinding>(write, object) {
                self.binding(request, binding.name(), binding.role_ref()).await
            } else if let Some((binding, _)) = changed::<ClusterRoleBinding>(write, object) {
                self.binding(request, binding.name(), binding.role_ref()).await
            } else {
                Ok(())
            }
        })
    }
}

/// The object and its former state, if it is of this kind and more changed than what garbage collection needs.
fn changed<'a, K: Resource>(write: &Write<'a>, object: &'a dyn Object) -> Option<(&'a K, Option<&'a K>)> {
    let new = object.downcast_ref::<K>()?;
    let old = write.old.and_then(|old| old.downcast_ref::<K>());
    let rest = |object: &K| {
        let mut object = object.clone();
        let meta = object.metadata_mut();
        meta.finalizers.clear();
        meta.owner_references.clear();
        meta.resource_version.clear();
        object
    };
    old.is_none_or(|old| rest(old) != rest(new)).then_some((new, old))
}

impl Escalation {
    /// Refuses a role whose rules the user does not hold.
    async fn role(&self, request: &Request, name: &str, rules: &[PolicyRule], aggregates: bool) -> Result<(), StatusError> {
        if self.may(request, "escalate", &request.kind, &request.namespace, name).await? {
            return Ok(());
        }
        self.covered(request, name, rules).await?;
        // Which rules an aggregation will bring, or takes away, cannot be known now, so that it takes all of them.
        if aggregates && !rules::uncovered(&self.0.held(&request.user, "").await?.rules, &everything()).is_empty() {
            return Err(StatusError::forbidden(
                &request.kind,
                name,
                "must have cluster-admin privileges to use an aggregationRule",
            ));
        }
        Ok(())
    }

    /// Refuses a binding of a role whose rules the user does not hold.
    async fn binding(&self, request: &Request, name: &str, role: &RoleRef) -> Result<(), StatusError> {
        let kind = if role.kind == "Role" { Role::KIND } else { ClusterRole::KIND };
        if self.may(request, "bind", kind, &request.namespace, &role.name).await? {
            return Ok(());
        }
        let rules = self.0.rbac().await?.rules_of(&request.namespace, role)?;
        self.covered(request, name, &rules).await
    }

    async fn may(&self, request: &Request, verb: &str, kind: &Kind, namespace: &str, name: &str) -> Result<bool, StatusError> {
        let target =
            ResourceAttributes { group: &kind.group, resource: &kind.plural, namespace, name, ..ResourceAttributes::default() };
        let attributes = Attributes { user: &request.user, verb, target: Target::Resource(target) };
        Ok(self.0.decide(&attributes).await?.allowed)
    }

    async fn covered(&self, request: &Request, name: &str, wanted: &[PolicyRule]) -> Result<(), StatusError> {
        let held = self.0.held(&request.user, &request.namespace).await?;
        let missing = rules::uncovered(&held.rules, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = missing.iter().map(rules::compact).collect();
        lines.sort();
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            request.user.name,
            rules::quoted(&request.user.groups),
            lines.join("\n")
        );
        if !held.problems.is_empty() {
            why.push_str(&format!("; resolution errors: {}", rules::quoted(&held.problems)));
        }
        Err(StatusError::forbidden(&request.kind, name, why))
    }
}

/// All that can be granted.
fn everything() -> [PolicyRule; 2] {
    let all = || vec!["*".to_owned()];
    [
        PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() },
    ]
}
