//! Acting as somebody else: upstream's headers, each of which needs a permission of its own.

use std::collections::BTreeMap;

use api::{StatusError, status::Reason};
use http::HeaderMap;

use crate::{
    auth::{ANONYMOUS, AUTHENTICATED, Attributes, Identity, ResourceAttributes, Target, UNAUTHENTICATED, service_account_groups},
    request::User,
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// Group of the resources that extra fields and UIDs are impersonated as.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user that a request is to be made as: the one the headers name, if `user` may impersonate each part of it; `None` if the headers
/// name nobody.
///
/// # Errors
/// When the headers make no sense, or `user` may not.
pub(super) async fn impersonated(identity: &Identity, user: &User, headers: &HeaderMap) -> Result<Option<User>, StatusError> {
    let Some(wanted) = wanted(headers)? else { return Ok(None) };
    for action in actions(&wanted) {
        let target = Target::Resource(action);
        let verdict = identity.decide(&Attributes { user, verb: "impersonate", target }).await?;
        if !verdict.allowed {
            return Err(forbidden(user, &action, &verdict.reason));
        }
    }
    Ok(Some(with_implied_groups(wanted)))
}

/// The user that the headers name.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, StatusError> {
    let texts = |name: &str| -> Result<Vec<String>, StatusError> {
        // Bytes beyond ASCII are what upstream's clients send as UTF-8.
        let text = |value: &http::HeaderValue| std::str::from_utf8(value.as_bytes()).map(str::to_owned);
        let values: Result<_, _> = headers.get_all(name).iter().map(text).collect();
        values.map_err(|_| StatusError::bad_request(format!("{name}: the header is not UTF-8")))
    };
    let first = |name: &str| texts(name).map(|values| values.into_iter().next().unwrap_or_default());
    let mut extra = BTreeMap::new();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.insert(unescaped(key), texts(name.as_str())?);
        }
    }
    let user = User { name: first(USER)?, uid: first(UID)?, groups: texts(GROUP)?, extra };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user == User::default() {
        return Ok(None);
    }
    Err(StatusError::bad_request(format!("{USER}: a user is wanted here, as groups, a UID or extra fields are impersonated")))
}

/// What must be allowed for it.
fn actions(wanted: &User) -> Vec<ResourceAttributes<'_>> {
    let of = |group, resource, name| ResourceAttributes { group, resource, name, ..ResourceAttributes::default() };
    let account = wanted.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let mut actions = vec![match account {
        Some((namespace, name)) => ResourceAttributes { namespace, ..of("", "serviceaccounts", name) },
        None => of("", "users", &wanted.name),
    }];
    actions.extend(wanted.groups.iter().map(|group| of("", "groups", group)));
    if !wanted.uid.is_empty() {
        actions.push(of(AUTHENTICATION, "uids", &wanted.uid));
    }
    for (key, values) in &wanted.extra {
        let one = |value| ResourceAttributes { subresource: key.as_str(), ..of(AUTHENTICATION, "userextras", value) };
        actions.extend(values.iter().map(|value| one(value.as_str())));
    }
    actions
}

/// The user with the groups that everyone of its sort is in.
fn with_implied_groups(mut user: User) -> User {
    let account = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    if let (Some((namespace, _)), true) = (account, user.groups.is_empty()) {
        user.groups = service_account_groups(namespace);
    }
    let implied = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.groups.push(implied.to_owned());
    }
    user
}

fn forbidden(user: &User, action: &ResourceAttributes<'_>, reason: &str) -> StatusError {
    let resource = [action.resource, if action.subresource.is_empty() { "" } else { "/" }, action.subresource].concat();
    let qualified = if action.group.is_empty() { resource.clone() } else { format!("{}.{}", action.resource, action.group) };
    let place = match action.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let message = format!(
        "{qualified} {:?} is forbidden: User {:?} cannot impersonate resource {resource:?} in API group {:?} {place}{because}",
        action.name, user.name, action.group
    );
    StatusError::new(Reason::Forbidden, message)
}

/// A key as it stands in a header's name, percent-encoded where it holds what a name may not.
fn unescaped(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    // Keys that are no text after all are taken as they came.
    String::from_utf8(bytes).unwrap_or_else(|_| key.to_owned()).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_headers_name_a_user_and_each_part_of_it_is_asked_about() {
        assert_eq!(wanted(&headers(&[("accept", "x")])).unwrap(), None);
        assert!(wanted(&headers(&[(GROUP, "dev")])).unwrap_err().message().starts_with("impersonate-user: "));
        let user = wanted(&headers(&[
            (USER, "bob"),
            (GROUP, "dev"),
            (GROUP, "ops"),
            (UID, "7"),
            ("impersonate-extra-example.com%2freason", "why"),
        ]));
        let user = user.unwrap().unwrap();
        assert_eq!((user.groups.as_slice(), user.uid.as_str()), (&["dev".to_owned(), "ops".to_owned()][..], "7"));
        assert_eq!(user.extra["example.com/reason"], ["why"]);
        let asked: Vec<_> = actions(&user).iter().map(|a| (a.group, a.resource, a.subresource, a.name)).collect();
        assert_eq!(
            asked,
            [
                ("", "users", "", "bob"),
                ("", "groups", "", "dev"),
                ("", "groups", "", "ops"),
                (AUTHENTICATION, "uids", "", "7"),
                (AUTHENTICATION, "userextras", "example.com/reason", "why"),
            ]
        );
        assert_eq!(with_implied_groups(user).groups, ["dev", "ops", AUTHENTICATED]);
    }

    #[test]
    fn names_are_utf8() {
        let of = |bytes: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.append(USER, http::HeaderValue::from_bytes(bytes).unwrap());
            headers.append(GROUP, "büro".as_bytes().try_into().unwrap());
            wanted(&headers)
        };
        let user = of("jürgen".as_bytes()).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("jürgen", &["büro".to_owned()][..]));
        assert_eq!(of(b"j\xfcrgen").unwrap_err().message(), "impersonate-user: the header is not UTF-8");
    }

    #[test]
    fn a_service_account_is_asked_about_as_one_and_has_its_groups() {
        let user = wanted(&headers(&[(USER, "system:serviceaccount:default:builder")])).unwrap().unwrap();
        let [action] = actions(&user)[..] else { panic!("{user:?}") };
        assert_eq!((action.resource, action.namespace, action.name), ("serviceaccounts", "default", "builder"));
        let groups = with_implied_groups(user).groups;
        assert_eq!(groups, ["system:serviceaccounts", "system:serviceaccounts:default", AUTHENTICATED]);
        let nobody = wanted(&headers(&[(USER, ANONYMOUS)])).unwrap().unwrap();
        assert_eq!(with_implied_groups(nobody).groups, [UNAUTHENTICATED]);
    }

    #[test]
    fn keys_are_unescaped() {
        for (key, meant) in [("reason", "reason"), ("a%2Fb", "a/b"), ("a%2", "a%2"), ("a%zz", "a%zz"), ("%e4", "%e4")] {
            assert_eq!(unescaped(key), meant);
        }
    }
}
