//! Policy rules: whether one allows an action, and whether some cover others.

use api::rbac::v1::PolicyRule;

use crate::auth::{Attributes, Target};

const ALL: &str = "*";

/// True if one of the rules allows the action.
pub(crate) fn allow<'a>(attributes: &Attributes<'_>, rules: impl IntoIterator<Item = &'a PolicyRule>) -> bool {
    rules.into_iter().any(|rule| allows(attributes, rule))
}

fn allows(attributes: &Attributes<'_>, rule: &PolicyRule) -> bool {
    if !has(&rule.verbs, attributes.verb) {
        return false;
    }
    match &attributes.target {
        Target::Path(path) => rule.non_resource_urls.iter().any(|pattern| path_matches(pattern, path)),
        Target::Resource(r) => {
            has(&rule.api_groups, r.group)
                && rule.resources.iter().any(|pattern| resource_matches(pattern, r.resource, r.subresource))
                && (rule.resource_names.is_empty() || rule.resource_names.iter().any(|name| name == r.name))
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

/// `*` is everything, `pods` only the object itself, `pods/log` one subresource, `*/scale` that subresource of every kind.
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    match pattern.split_once('/') {
        None => pattern == ALL || (subresource.is_empty() && pattern == resource),
        Some((left, right)) => !subresource.is_empty() && right == subresource && (left == ALL || left == resource),
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix.trim_end_matches('*')),
        None => pattern == path,
    }
}

/// Of what `wanted` allows, the parts that `held` does not allow.
pub(crate) fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = wanted.iter().flat_map(split);
    let mut missing = Vec::new();
    for part in parts.filter(|part| !held.iter().any(|rule| covers(rule, part))) {
        if !missing.contains(&part) {
            missing.push(part);
        }
    }
    missing
}

/// Takes a rule apart into rules of one verb on one resource (and one name), or on one path.
fn split(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for path in &rule.non_resource_urls {
            parts.push(PolicyRule { verbs: vec![verb.clone()], non_resource_urls: vec![path.clone()], ..PolicyRule::default() });
        }
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let part = PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..PolicyRule::default()
                };
                match rule.resource_names.as_slice() {
                    [] => parts.push(part),
                    names => parts.extend(names.iter().map(|n| PolicyRule { resource_names: vec![n.clone()], ..part.clone() })),
                }
            }
        }
    }
    parts
}

/// True if the rule allows all that the part (see [`split`]) does.
fn covers(rule: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |list: &[String], wanted: &[String]| wanted.iter().all(|item| has(list, item));
    let names = rule.resource_names.is_empty()
        || (!part.resource_names.is_empty() && part.resource_names.iter().all(|name| rule.resource_names.contains(name)));
    let resource = |wanted: &String| {
        let subresource = wanted.split_once('/').map(|(_, subresource)| subresource);
        rule.resources
            .iter()
            .any(|held| held == ALL || held == wanted || subresource.is_some_and(|s| held.strip_prefix("*/") == Some(s)))
    };
    let path = |wanted: &String| {
        rule.non_resource_urls.iter().any(|held| held == wanted || held.strip_suffix('*').is_some_and(|p| wanted.starts_with(p)))
    };
    all(&rule.verbs, &part.verbs)
        && all(&rule.api_groups, &part.api_groups)
        && part.resources.iter().all(resource)
        && part.non_resource_urls.iter().all(path)
        && names
}

/// A rule in one line, as upstream writes it in messages.
pub(crate) fn compact(rule: &PolicyRule) -> String {
    let fields = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let fields: Vec<String> = fields.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| format!("{n}:{}", quoted(v))).collect();
    format!("{{{}}}", fields.join(", "))
}

/// A list of quoted words, as upstream writes it in messages.
pub(crate) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    format!("[{}]", words.join(" "))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{auth::ResourceAttributes, request::User};

    pub(crate) fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> PolicyRule {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        PolicyRule { verbs: owned(verbs), api_groups: owned(groups), resources: owned(resources), ..PolicyRule::default() }
    }

    fn allowed(rule: &PolicyRule, verb: &str, group: &str, resource: &str, subresource: &str, name: &str) -> bool {
        let user = User::default();
        let target = ResourceAttributes { group, resource, subresource, name, ..ResourceAttributes::default() };
        allow(&Attributes { user: &user, verb, target: Target::Resource(target) }, [rule])
    }

    #[test]
    fn a_rule_allows_its_verbs_groups_and_resources_and_nothing_else() {
        let r = rule(&["get", "list"], &["", "apps"], &["pods"]);
        assert!(allowed(&r, "get", "", "pods", "", "web"));
        assert!(allowed(&r, "list", "apps", "pods", "", ""));
        assert!(!allowed(&r, "delete", "", "pods", "", "web"));
        assert!(!allowed(&r, "get", "batch", "pods", "", "web"));
        assert!(!allowed(&r, "get", "", "secrets", "", "web"));
        assert!(!allowed(&r, "get", "", "pods", "log", "web"));
    }

    #[test]
    fn wildcards_reach_as_far_as_upstream_says() {
        let all = rule(&["*"], &["*"], &["*"]);
        assert!(allowed(&all, "escalate", "x.io", "things", "status", "a"));
        let scale = rule(&["update"], &["*"], &["*/scale"]);
        assert!(allowed(&scale, "update", "apps", "deployments", "scale", "a"));
        assert!(!allowed(&scale, "update", "apps", "deployments", "", "a"));
        assert!(!allowed(&scale, "update", "apps", "deployments", "status", "a"));
        // A kind's name with a wildcard behind it is nothing that rules know.
        assert!(!allowed(&rule(&["get"], &[""], &["pods/*"]), "get", "", "pods", "log", "a"));
    }

    #[test]
    fn resource_names_shut_out_requests_without_a_name() {
        let named = PolicyRule { resource_names: vec!["a".into()], ..rule(&["get", "list", "create"], &[""], &["secrets"]) };
        assert!(allowed(&named, "get", "", "secrets", "", "a"));
        assert!(!allowed(&named, "get", "", "secrets", "", "b"));
        assert!(!allowed(&named, "list", "", "secrets", "", ""));
    }

    #[test]
    fn paths_match_exactly_or_by_prefix() {
        let user = User::default();
        let paths = |urls: &[&str], path: &str| {
            let rule = PolicyRule { non_resource_urls: urls.iter().map(|u| (*u).into()).collect(), ..rule(&["get"], &[], &[]) };
            allow(&Attributes { user: &user, verb: "get", target: Target::Path(path) }, [&rule])
        };
        assert!(paths(&["/healthz"], "/healthz"));
        assert!(!paths(&["/healthz"], "/healthz/etcd"));
        assert!(paths(&["/healthz/*"], "/healthz/etcd"));
        assert!(!paths(&["/healthz/*"], "/healthz"));
        assert!(paths(&["*"], "/anything"));
    }

    #[test]
    fn what_is_not_held_is_named_part_by_part() {
        let held = [rule(&["get", "list"], &[""], &["pods", "*/status"])];
        let missing = uncovered(&held, &[rule(&["get", "delete"], &[""], &["pods", "nodes/status"])]);
        let texts: Vec<String> = missing.iter().map(compact).collect();
        assert_eq!(
            texts,
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#,
                r#"{APIGroups:[""], Resources:["nodes/status"], Verbs:["delete"]}"#
            ]
        );
    }

    #[test]
    fn a_rule_for_some_names_does_not_cover_one_for_all() {
        let some = PolicyRule { resource_names: vec!["a".into(), "b".into()], ..rule(&["get"], &[""], &["secrets"]) };
        let all = rule(&["get"], &[""], &["secrets"]);
        assert!(uncovered(std::slice::from_ref(&all), std::slice::from_ref(&some)).is_empty());
        assert_eq!(uncovered(&[some], &[all]).len(), 1);
    }

    fn words(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        proptest::sample::subsequence(of, 0..=of.len()).prop_map(|v| v.into_iter().map(str::to_owned).collect())
    }

    prop_compose! {
        fn any_rule()(
            verbs in words(&["*", "get", "list"]),
            api_groups in words(&["*", "", "apps"]),
            resources in words(&["*", "pods", "pods/log", "*/log"]),
            resource_names in words(&["a", "b"]),
        ) -> PolicyRule {
            PolicyRule { verbs, api_groups, resources, resource_names, ..PolicyRule::default() }
        }
    }

    proptest! {
        #[test]
        fn rules_that_are_covered_allow_nothing_that_is_not_held(
            held in proptest::collection::vec(any_rule(), 0..4),
            wanted in any_rule(),
            verb in proptest::sample::select(vec!["get", "list", "watch"]),
            group in proptest::sample::select(vec!["", "apps", "batch"]),
            resource in proptest::sample::select(vec!["pods", "nodes"]),
            subresource in proptest::sample::select(vec!["", "log"]),
            name in proptest::sample::select(vec!["", "a", "c"]),
        ) {
            let user = User::default();
            let target = ResourceAttributes { group, resource, subresource, name, ..ResourceAttributes::default() };
            let attributes = Attributes { user: &user, verb, target: Target::Resource(target) };
            if uncovered(&held, std::slice::from_ref(&wanted)).is_empty() && allow(&attributes, [&wanted]) {
                prop_assert!(allow(&attributes, &held));
            }
        }
    }
}
