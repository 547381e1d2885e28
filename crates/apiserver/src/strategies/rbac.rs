//! Roles and their bindings.

use api::{
    names::{self, Format},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject},
    rules::FieldErrors,
};

use super::{ROOT, pod};
use crate::strategy::Strategy;

const GROUP: &str = "rbac.authorization.k8s.io";
const SERVICE_ACCOUNT: &str = "ServiceAccount";

/// Roles of one namespace.
pub struct RoleStrategy;
/// Roles of the whole cluster.
pub struct ClusterRoleStrategy;
/// Who has which role in a namespace.
pub struct RoleBindingStrategy;
/// Who has which role everywhere.
pub struct ClusterRoleBindingStrategy;

impl Strategy for RoleStrategy {
    type Kind = Role;

    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Role, errors: &mut FieldErrors) {
        rules(&object.rules, true, errors);
    }
}

impl Strategy for ClusterRoleStrategy {
    type Kind = ClusterRole;

    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &ClusterRole, errors: &mut FieldErrors) {
        rules(&object.rules, false, errors);
        let at = ROOT.field("aggregationRule");
        let list = at.field("clusterRoleSelectors");
        for (i, selector) in object.aggregation_rule().cluster_role_selectors.iter().enumerate() {
            pod::label_selector(Some(selector), &list.index(i), errors);
        }
    }
}

impl Strategy for RoleBindingStrategy {
    type Kind = RoleBinding;

    fn creates_on_update(&self) -> bool {
        true
    }

    fn set_defaults(&self, object: &mut RoleBinding) {
        default_groups(&mut object.subjects);
    }

    fn validate(&self, object: &RoleBinding, errors: &mut FieldErrors) {
        subjects(&object.subjects, true, errors);
    }
}

impl Strategy for ClusterRoleBindingStrategy {
    type Kind = ClusterRoleBinding;

    fn creates_on_update(&self) -> bool {
        true
    }

    fn set_defaults(&self, object: &mut ClusterRoleBinding) {
        default_groups(&mut object.subjects);
    }

    fn validate(&self, object: &ClusterRoleBinding, errors: &mut FieldErrors) {
        let kind = &object.role_ref().kind;
        // An unknown kind is the schema's to refuse.
        if kind == "Role" {
            errors.not_supported(&ROOT.field("roleRef").field("kind"), kind, &["ClusterRole"]);
        }
        subjects(&object.subjects, false, errors);
    }
}

fn rules(rules: &[PolicyRule], namespaced: bool, errors: &mut FieldErrors) {
    let list = ROOT.field("rules");
    for (i, rule) in rules.iter().enumerate() {
        let at = list.index(i);
        if !rule.non_resource_urls.is_empty() {
            let at = at.field("nonResourceURLs");
            if namespaced {
                errors.invalid(&at, &rule.non_resource_urls, "namespaced rules cannot apply to non-resource URLs");
            }
            if !rule.api_groups.is_empty() || !rule.resources.is_empty() || !rule.resource_names.is_empty() {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&at, &rule.non_resource_urls, why);
            }
            continue;
        }
        if rule.api_groups.is_empty() {
            errors.required_because(&at.field("apiGroups"), "resource rules must supply at least one api group");
        }
        if rule.resources.is_empty() {
            errors.required_because(&at.field("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn default_groups(subjects: &mut [Subject]) {
    for subject in subjects.iter_mut().filter(|s| s.api_group.is_empty() && matches!(s.kind.as_str(), "User" | "Group")) {
        subject.api_group = GROUP.to_owned();
    }
}

fn subjects(subjects: &[Subject], namespaced: bool, errors: &mut FieldErrors) {
    let list = ROOT.field("subjects");
    for (i, subject) in subjects.iter().enumerate() {
        let at = list.index(i);
        if subject.kind == SERVICE_ACCOUNT {
            if !subject.api_group.is_empty() {
                errors.not_supported(&at.field("apiGroup"), &subject.api_group, &[""]);
            }
            if !namespaced && subject.namespace.is_empty() {
                errors.required(&at.field("namespace"));
            }
            if !subject.name.is_empty()
                && let Err(why) = names::check(Format::DnsSubdomain, &subject.name)
            {
                errors.invalid(&at.field("name"), &subject.name, why);
            }
        } else if matches!(subject.kind.as_str(), "User" | "Group") && subject.api_group != GROUP {
            errors.not_supported(&at.field("apiGroup"), &subject.api_group, &[GROUP]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    #[test]
    fn a_rule_is_for_resources_or_for_urls() {
        let url = r#"{"rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]}"#;
        assert_eq!(testing::errors(&ClusterRoleStrategy, &testing::json(url)), [""; 0]);
        let found = testing::errors(&RoleStrategy, &testing::json(url));
        assert!(found[0].ends_with("namespaced rules cannot apply to non-resource URLs"), "{found:?}");
        let both = r#"{"rules": [{"verbs": ["get"], "nonResourceURLs": ["/"], "resources": ["pods"]}]}"#;
        assert_eq!(testing::errors(&ClusterRoleStrategy, &testing::json(both)).len(), 1);
        let neither = testing::errors(&RoleStrategy, &testing::json(r#"{"rules": [{"verbs": ["get"]}]}"#));
        assert_eq!(neither[0], "rules[0].apiGroups: Required value: resource rules must supply at least one api group");
        assert_eq!(neither[1], "rules[0].resources: Required value: resource rules must supply at least one resource");
    }

    #[test]
    fn a_binding_names_a_role_and_accounts_that_can_be() {
        let binding =
            testing::created(RoleBindingStrategy, testing::json(r#"{"subjects": [{"kind": "ServiceAccount", "name": "A b"}]}"#));
        let found = testing::errors(&RoleBindingStrategy, &binding);
        assert_eq!(found[0], "roleRef: Required value");
        assert!(found[1].starts_with(r#"subjects[0].name: Invalid value: "A b": a lowercase RFC 1123 subdomain"#), "{found:?}");
    }

    #[test]
    fn an_aggregation_selects_by_whole_conditions() {
        let role = r#"{"aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}"#;
        let found = testing::errors(&ClusterRoleStrategy, &testing::json(role));
        let at = "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].values";
        assert_eq!(found, [format!("{at}: Required value: must be specified when `operator` is 'In' or 'NotIn'")]);
    }

    #[test]
    fn users_and_groups_get_their_api_group() {
        let binding = testing::created(
            RoleBindingStrategy,
            testing::json(
                r#"{"subjects": [{"kind": "User", "name": "a"}, {"kind": "ServiceAccount", "name": "b"}],
                    "roleRef": {"kind": "Role", "name": "r"}}"#,
            ),
        );
        assert_eq!((binding.subjects[0].api_group.as_str(), binding.subjects[1].api_group.as_str()), (GROUP, ""));
        assert_eq!(testing::errors(&RoleBindingStrategy, &binding), [""; 0]);
    }

    #[test]
    fn a_cluster_wide_binding_gives_cluster_roles_and_names_the_accounts_namespace() {
        let binding = testing::created(
            ClusterRoleBindingStrategy,
            testing::json(r#"{"subjects": [{"kind": "ServiceAccount", "name": "b"}], "roleRef": {"kind": "Role", "name": "r"}}"#),
        );
        let found = testing::errors(&ClusterRoleBindingStrategy, &binding);
        assert_eq!(found[0], r#"roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole""#);
        assert_eq!(found[1], "subjects[0].namespace: Required value");
    }
}
