//! The words of RBAC rules that no list of served kinds has: verbs about rights, and resources that stand for users.

use anyhow::bail;

use crate::kinds;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Verbs that rules know for resources.
const VERBS: &[&str] = &[
    "*",
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "proxy",
    "use",
    "bind",
    "escalate",
    "impersonate",
    "approve",
    "sign",
    "attest",
];

/// Verbs that rules know for paths of the HTTP API.
const PATH_VERBS: &[&str] = &["*", "get", "put", "post", "head", "options", "delete", "patch"];

/// Verbs that hold only for these resources (group and plural). Some of them are served by nobody.
const SPECIAL: &[(&str, &[(&str, &str)])] = &[
    ("bind", &[(RBAC, "roles"), (RBAC, "clusterroles")]),
    ("escalate", &[(RBAC, "roles"), (RBAC, "clusterroles")]),
    (
        "impersonate",
        &[
            ("", "users"),
            ("", "groups"),
            ("", "serviceaccounts"),
            ("authentication.k8s.io", "userextras"),
            ("authentication.k8s.io", "uids"),
        ],
    ),
    ("approve", &[("certificates.k8s.io", "signers"), ("certificates.k8s.io", "certificatesigningrequests")]),
    ("sign", &[("certificates.k8s.io", "signers")]),
    ("attest", &[("certificates.k8s.io", "signers")]),
];

/// True if rules know the verb for resources.
pub fn is_verb(verb: &str) -> bool {
    VERBS.contains(&verb)
}

/// True if rules know the verb for paths.
pub fn is_path_verb(verb: &str) -> bool {
    PATH_VERBS.contains(&verb)
}

/// The group and plural of a resource that no kind stands for, such as `users`, with or without its group behind a dot.
pub fn unserved(word: &str) -> Option<(&'static str, &'static str)> {
    let (plural, group) = word.split_once('.').map_or((word, None), |(plural, group)| (plural, Some(group)));
    let mut all = SPECIAL.iter().flat_map(|(_, resources)| resources.iter().copied());
    all.find(|(own, resource)| *resource == plural && group.is_none_or(|group| group == *own))
}

/// The group and plural of the resource that a word means in a rule with these verbs.
///
/// # Errors
/// When there is no such resource, or a verb cannot be done to it.
pub fn resource(word: &str, verbs: &[String]) -> anyhow::Result<(String, String)> {
    if word == "*" {
        return Ok((String::new(), word.to_owned()));
    }
    let known = kinds::find(word).map(|kind| (kind.group.to_string(), kind.plural.to_string()));
    let owned = |(group, plural): (&str, &str)| (group.to_owned(), plural.to_owned());
    let found = known.as_ref().ok().cloned().or_else(|| unserved(word).map(owned));
    let mut special = false;
    for verb in verbs {
        let Some((_, resources)) = SPECIAL.iter().find(|(special, _)| special == verb) else { continue };
        let (group, plural) = match &found {
            Some((group, plural)) => (group.as_str(), plural.as_str()),
            None => word.split_once('.').map_or(("", word), |(plural, group)| (group, plural)),
        };
        if !resources.contains(&(group, plural)) {
            bail!("can not perform '{verb}' on '{plural}' in group '{group}'");
        }
        special = true;
    }
    if special { found.map_or(known, Ok) } else { known }
}
