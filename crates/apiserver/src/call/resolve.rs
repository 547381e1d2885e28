//! From a call to a request: which kind it is about, whether that is served in this way, and what it is on.

use std::sync::Arc;

use api::{Kind, KindRef, StatusError, status::Reason};

use super::{Action, Body, Call, ResourceName, Server};
use crate::{
    decode::Named,
    pipeline::Selectors,
    request::{Request, User, Verb},
    subresource::Subresource,
};

impl Server {
    /// The request that a call is, and what it selects.
    ///
    /// # Errors
    /// When the server has no such kind or subresource, does not serve it with this verb, or what must be named is not.
    pub(super) fn resolve(&self, user: &Arc<User>, call: &Call) -> Result<(Request, Selectors), StatusError> {
        let kind = self.kind(&call.resource)?;
        let subresource = self.subresource(&kind, &call.subresource)?;
        let verb = call.action.verb(subresource);
        check_verb(&kind, verb, subresource, matches!(call.action, Action::Connect(_)))?;
        let (many, body, selected) = match &call.action {
            Action::List(selected, _) | Action::Watch(selected, _) | Action::DeleteCollection(selected, _) => {
                (true, &Body::Missing, Some(selected))
            }
            Action::Create(body) | Action::Update(body) => (false, body, None),
            Action::Get | Action::Patch(..) | Action::Delete(_) | Action::Connect(_) => (false, &Body::Missing, None),
        };
        let in_body = Named::of(body);
        let or = |given: &String, own: String| if given.is_empty() { own } else { given.clone() };
        let namespace = if kind.namespaced { or(&call.namespace, in_body.namespace) } else { call.namespace.clone() };
        check_namespace(&kind, &namespace, many)?;
        // A new object is nobody's to name before it is there: it may be created under whichever name.
        let is_new = verb == Verb::Create && subresource.is_none();
        let name = if is_new || many { call.name.clone() } else { or(&call.name, in_body.name) };
        if !is_new && !many && !matches!(body, Body::Awaited) {
            check_name(&kind, &name)?;
        }
        let mut request = Request::new(user.clone(), verb, &kind, &namespace, &name);
        request.subresource = subresource;
        request.dry_run = call.options.dry_run;
        request.field_manager.clone_from(&call.options.field_manager);
        if let Action::Delete(options) | Action::DeleteCollection(_, options) = &call.action {
            request.dry_run |= !options.dry_run.is_empty();
        }
        let mut selectors = Selectors::default();
        if let Some(selected) = selected {
            selectors = Selectors::parse(&selected.labels, &selected.fields)?;
            request.selected_name = selectors.exact("metadata.name").map(str::to_owned);
            request.selected_node = selectors.exact("spec.nodeName").map(str::to_owned);
        }
        Ok((request, selectors))
    }

    fn kind(&self, wanted: &ResourceName) -> Result<KindRef, StatusError> {
        if wanted.plural.is_empty() {
            return Err(StatusError::bad_request("resource: a kind is wanted here, such as {resource: \"pods\"}"));
        }
        let kinds = self.pipeline.kinds();
        kinds.resource(&wanted.group, &wanted.version, &wanted.plural).cloned().map_err(|unknown| {
            let ResourceName { group, version, plural } = wanted;
            let version = if version.is_empty() { String::new() } else { format!(" in version {version:?}") };
            let served = match unknown.served.as_slice() {
                [] => String::new(),
                served => format!(", but in {}", served.join(", ")),
            };
            let message = format!(
                "the server has no resource {plural:?} in API group {group:?}{version}{served}; `kctl api-resources` lists what it has"
            );
            StatusError::new(Reason::NotFound, message)
        })
    }

    fn subresource(&self, kind: &Kind, name: &str) -> Result<Option<&'static Subresource>, StatusError> {
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.subresources.iter().find(|subresource| subresource.name == name && kind.has_subresource(name));
        found.map(|found| Some(*found)).ok_or_else(|| {
            let message = format!(
                "the server has no subresource {name:?} of {}; `kctl api-resources` lists what it has",
                kind.qualified_plural()
            );
            StatusError::new(Reason::NotFound, message)
        })
    }
}

/// Checks that the kind or its subresource is served with this verb. What is a stream is nothing but that: a permission on one must never
/// open the object itself.
fn check_verb(kind: &Kind, verb: Verb, subresource: Option<&Subresource>, connects: bool) -> Result<(), StatusError> {
    let (served, what) = match subresource {
        None => (!connects && kind.verbs.iter().any(|served| served == verb.as_str()), kind.qualified_plural()),
        Some(part) => {
            let served = part.verbs.contains(&verb) && part.stream().is_some() == connects;
            (served, format!("{}/{}", kind.qualified_plural(), part.name))
        }
    };
    if served {
        return Ok(());
    }
    Err(StatusError::new(Reason::MethodNotAllowed, format!("the server does not allow {verb} of {what}")))
}

/// Checks that a namespace is given exactly where the kind has one; `all` allows none, for all namespaces.
fn check_namespace(kind: &Kind, namespace: &str, all: bool) -> Result<(), StatusError> {
    match (kind.namespaced, namespace.is_empty()) {
        (true, true) if !all => {
            Err(StatusError::bad_request(format!("namespace: {} live in a namespace; name one", kind.plural)))
        }
        (false, false) => Err(StatusError::bad_request(format!("namespace: {} live in no namespace", kind.plural))),
        _ => Ok(()),
    }
}

/// Checks that an object is named.
pub(super) fn check_name(kind: &Kind, name: &str) -> Result<(), StatusError> {
    if name.is_empty() {
        return Err(StatusError::bad_request(format!("name: the name of one of the {} is wanted here", kind.plural)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::{Resource, core::v1::Pod};

    use super::*;
    use crate::subresource::{ALL, BINDING, EVICTION, STATUS};

    #[test]
    fn a_permission_on_a_stream_opens_no_object() {
        for stream in ALL.iter().filter(|subresource| subresource.stream().is_some()) {
            for verb in [Verb::Get, Verb::Create, Verb::Update, Verb::Patch] {
                let refused = check_verb(Pod::KIND, verb, Some(stream), false).unwrap_err();
                assert_eq!(refused.reason(), Reason::MethodNotAllowed, "{verb} {stream:?}");
            }
            assert!(check_verb(Pod::KIND, stream.verbs[0], Some(stream), true).is_ok());
        }
        let allowed = |verb, subresource| check_verb(Pod::KIND, verb, Some(subresource), false).is_ok();
        for action in [&BINDING, &EVICTION] {
            assert!(allowed(Verb::Create, action) && !allowed(Verb::Update, action) && !allowed(Verb::Get, action));
        }
        assert!(allowed(Verb::Patch, &STATUS) && !allowed(Verb::Create, &STATUS));
        for verb in [Verb::Get, Verb::Create] {
            assert!(check_verb(Pod::KIND, verb, Some(&STATUS), true).is_err());
            assert!(check_verb(Pod::KIND, verb, None, true).is_err());
        }
    }
}
