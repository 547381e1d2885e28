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
            if let Some(role) = object.downcast_ref::<Role>() {
                let old = write.old.and_then(|old| old.downcast_ref::<Role>());
                if old.is_none_or(|old| old.rules != role.rules) {
                    self.role(request, &role.metadata().name, &role.rules).await?;
                }
            } else if let Some(role) = object.downcast_ref::<ClusterRole>() {
                self.cluster_role(write, role).await?;
            } else if let Some(binding) = object.downcast_ref::<RoleBinding>() {
                let old = write.old.and_then(|old| old.downcast_ref::<RoleBinding>());
                if old.is_none_or(|old| (&old.subjects, &old.role_ref) != (&binding.subjects, &binding.role_ref)) {
                    self.binding(request, &binding.metadata().name, binding.role_ref()).await?;
                }
            } else if let Some(binding) = object.downcast_ref::<ClusterRoleBinding>() {
                let old = write.old.and_then(|old| old.downcast_ref::<ClusterRoleBinding>());
                if old.is_none_or(|old| (&old.subjects, &old.role_ref) != (&binding.subjects, &binding.role_ref)) {
                    self.binding(request, &binding.metadata().name, binding.role_ref()).await?;
                }
            }
            Ok(())
        })
    }
}

impl Escalation {
    async fn cluster_role(&self, write: &Write<'_>, role: &ClusterRole) -> Result<(), StatusError> {
        let old = write.old.and_then(|old| old.downcast_ref::<ClusterRole>());
        let name = role.metadata().name.as_str();
        if old.is_none_or(|old| old.rules != role.rules) {
            self.role(write.request, name, &role.rules).await?;
        }
        // Which rules an aggregation will bring cannot be known now, so that it takes all of them.
        let aggregates = role.aggregation_rule.is_some() && old.is_none_or(|old| old.aggregation_rule != role.aggregation_rule);
        if aggregates && !self.may(write.request, "escalate", ClusterRole::KIND, "", name).await? {
            let held = self.0.held(&write.request.user, "").await?;
            if !rules::uncovered(&held.rules, &everything()).is_empty() {
                return Err(StatusError::forbidden(
                    ClusterRole::KIND,
                    name,
                    "must have cluster-admin privileges to use an aggregationRule",
                ));
            }
        }
        Ok(())
    }

    /// Refuses a role whose rules the user does not hold.
    async fn role(&self, request: &Request, name: &str, rules: &[PolicyRule]) -> Result<(), StatusError> {
        if self.may(request, "escalate", request.kind, &request.namespace, name).await? {
            return Ok(());
        }
        self.covered(request, name, rules).await
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
            ResourceAttributes { group: kind.group, resource: kind.plural, namespace, name, ..ResourceAttributes::default() };
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
        Err(StatusError::forbidden(request.kind, name, why))
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
