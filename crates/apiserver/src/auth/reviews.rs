//! The kinds that are questions about identity: who is this, and may they. Answered at once, never stored.

use std::collections::BTreeMap;

use api::{
    Object, Resource, StatusError,
    authentication::v1::{
        self as authentication, SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo,
    },
    authorization::v1::{
        self as authorization, LocalSubjectAccessReview, NonResourceRule, ResourceRule, SelfSubjectAccessReview,
        SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
        SubjectRulesReviewStatus,
    },
    rules::{FieldErrors, Path},
    status::Reason,
};

use super::{Attributes, ResourceAttributes, Target, identity::Identity};
use crate::{
    decode::expect,
    request::{Request, User},
};

/// Answers a question.
pub(super) async fn review(
    identity: &Identity,
    request: &Request,
    object: Box<dyn Object>,
) -> Result<Box<dyn Object>, StatusError> {
    let object = &*object;
    match (&*request.kind.group, &*request.kind.plural) {
        ("authentication.k8s.io", "tokenreviews") => answer(token(identity, expect(object)?).await),
        ("authentication.k8s.io", "selfsubjectreviews") => answer(Ok(who_am_i(request, expect(object)?))),
        ("authorization.k8s.io", "subjectaccessreviews") => answer(access(identity, expect(object)?).await),
        ("authorization.k8s.io", "localsubjectaccessreviews") => answer(local_access(identity, request, expect(object)?).await),
        ("authorization.k8s.io", "selfsubjectaccessreviews") => answer(own_access(identity, request, expect(object)?).await),
        ("authorization.k8s.io", "selfsubjectrulesreviews") => answer(own_rules(identity, request, expect(object)?).await),
        _ => Err(StatusError::new(Reason::MethodNotAllowed, format!("{} cannot be created", request.kind.qualified_plural()))),
    }
}

fn answer<K: Resource>(answer: Result<K, StatusError>) -> Result<Box<dyn Object>, StatusError> {
    answer.map(|review| Box::new(review) as Box<dyn Object>)
}

async fn token(identity: &Identity, review: &TokenReview) -> Result<TokenReview, StatusError> {
    let spec = review.spec();
    if spec.token.is_empty() {
        return Err(StatusError::bad_request("token is required for TokenReview in authentication"));
    }
    let authenticator = &identity.authenticator;
    let audiences = if spec.audiences.is_empty() { &authenticator.audiences } else { &spec.audiences };
    let status = match authenticator.authenticate_token(&spec.token, audiences).await {
        Ok((user, audiences)) => {
            TokenReviewStatus { authenticated: true, user: Some(info(&user)), audiences, ..Default::default() }
        }
        Err(error) if error.reason() == Reason::Unauthorized => {
            TokenReviewStatus { error: error.message().to_owned(), ..Default::default() }
        }
        Err(error) => return Err(error),
    };
    // The token itself is not sent back: answers end up in logs.
    let mut answer = review.clone();
    answer.spec_mut().token.clear();
    answer.status = Some(status);
    Ok(answer)
}

fn who_am_i(request: &Request, review: &SelfSubjectReview) -> SelfSubjectReview {
    SelfSubjectReview { status: Some(SelfSubjectReviewStatus { user_info: Some(info(&request.user)) }), ..review.clone() }
}

fn info(user: &User) -> UserInfo {
    let extra = user.extra.iter().map(|(key, values)| (key.clone(), authentication::ExtraValue { items: values.clone() }));
    UserInfo { username: user.name.clone(), uid: user.uid.clone(), groups: user.groups.clone(), extra: extra.collect() }
}

async fn access(identity: &Identity, review: &SubjectAccessReview) -> Result<SubjectAccessReview, StatusError> {
    check(review, |errors| check_spec(review.spec(), errors))?;
    let status = of_spec(identity, review.spec()).await?;
    Ok(SubjectAccessReview { status: Some(status), ..review.clone() })
}

async fn local_access(
    identity: &Identity,
    request: &Request,
    review: &LocalSubjectAccessReview,
) -> Result<LocalSubjectAccessReview, StatusError> {
    let namespace = request.namespace.as_str();
    check(review, |errors| {
        let (root, spec) = (Path::root(), review.spec());
        let at = root.field("spec");
        check_spec(spec, errors);
        if spec.non_resource_attributes.is_some() {
            errors.invalid(&at.field("nonResourceAttributes"), "", "disallowed on this kind of request");
        }
        let found = &spec.resource_attributes().namespace;
        if spec.resource_attributes.is_some() && found != namespace {
            errors.invalid(&at.field("resourceAttributes").field("namespace"), found, "must match metadata.namespace");
        }
    })?;
    let status = of_spec(identity, review.spec()).await?;
    Ok(LocalSubjectAccessReview { status: Some(status), ..review.clone() })
}

async fn own_access(
    identity: &Identity,
    request: &Request,
    review: &SelfSubjectAccessReview,
) -> Result<SelfSubjectAccessReview, StatusError> {
    let spec = review.spec();
    check(review, |errors| one_of(spec.resource_attributes.is_some(), spec.non_resource_attributes.is_some(), errors))?;
    let target = target(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref())?;
    let status = decide(identity, &request.user, target).await?;
    Ok(SelfSubjectAccessReview { status: Some(status), ..review.clone() })
}

async fn own_rules(
    identity: &Identity,
    request: &Request,
    review: &SelfSubjectRulesReview,
) -> Result<SelfSubjectRulesReview, StatusError> {
    let namespace = review.spec().namespace.as_str();
    if namespace.is_empty() {
        return Err(StatusError::bad_request("no namespace on request"));
    }
    let held = identity.authority.held(&request.user, namespace).await?;
    let mut status = SubjectRulesReviewStatus {
        evaluation_error: held.problems.join(", "),
        // What a kubelet may do follows from its pods, which no list of rules can say.
        incomplete: request.user.node_name().is_some() || !held.problems.is_empty(),
        ..SubjectRulesReviewStatus::default()
    };
    if request.user.in_group(super::MASTERS) {
        let all = || vec!["*".to_owned()];
        status.resource_rules.push(ResourceRule { verbs: all(), api_groups: all(), resources: all(), ..Default::default() });
        status.non_resource_rules.push(NonResourceRule { verbs: all(), non_resource_urls: all() });
    }
    for rule in held.rules {
        if !rule.resources.is_empty() {
            let rule = ResourceRule {
                verbs: rule.verbs.clone(),
                api_groups: rule.api_groups,
                resources: rule.resources,
                resource_names: rule.resource_names,
            };
            if !status.resource_rules.contains(&rule) {
                status.resource_rules.push(rule);
            }
        }
        if !rule.non_resource_urls.is_empty() {
            let rule = NonResourceRule { verbs: rule.verbs, non_resource_urls: rule.non_resource_urls };
            if !status.non_resource_rules.contains(&rule) {
                status.non_resource_rules.push(rule);
            }
        }
    }
    Ok(SelfSubjectRulesReview { status: Some(status), ..review.clone() })
}

/// The verb and the target that a review asks about.
fn target<'a>(
    resource: Option<&'a authorization::ResourceAttributes>,
    path: Option<&'a authorization::NonResourceAttributes>,
) -> Result<(&'a str, Target<'a>), StatusError> {
    if let Some(path) = path {
        return Ok((&path.verb, Target::Path(&path.path)));
    }
    let Some(r) = resource else {
        return Err(StatusError::bad_request("spec: resourceAttributes or nonResourceAttributes is wanted here"));
    };
    let many = matches!(r.verb.as_str(), "list" | "watch" | "deletecollection");
    let requirements = r.field_selector.iter().flat_map(|selector| &selector.requirements);
    let exactly = |field: &str| {
        let mut found = requirements.clone().filter(|q| many && q.key == field && q.operator == "In");
        found.find_map(|q| if let [value] = q.values.as_slice() { Some(value.as_str()) } else { None })
    };
    let target = ResourceAttributes {
        group: &r.group,
        resource: &r.resource,
        subresource: &r.subresource,
        namespace: &r.namespace,
        name: if r.name.is_empty() { exactly("metadata.name").unwrap_or_default() } else { &r.name },
        selected_node: exactly("spec.nodeName"),
    };
    Ok((&r.verb, Target::Resource(target)))
}

async fn of_spec(identity: &Identity, spec: &SubjectAccessReviewSpec) -> Result<SubjectAccessReviewStatus, StatusError> {
    let extra: BTreeMap<_, _> = spec.extra.iter().map(|(key, value)| (key.clone(), value.items.clone())).collect();
    let user = User { name: spec.user.clone(), uid: spec.uid.clone(), groups: spec.groups.clone(), extra };
    decide(identity, &user, target(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref())?).await
}

async fn decide(
    identity: &Identity,
    user: &User,
    (verb, target): (&str, Target<'_>),
) -> Result<SubjectAccessReviewStatus, StatusError> {
    let verdict = identity.decide(&Attributes { user, verb, target }).await?;
    Ok(SubjectAccessReviewStatus { allowed: verdict.allowed, reason: verdict.reason, ..Default::default() })
}

/// Refuses a malformed question.
fn check<K: Resource>(review: &K, rules: impl FnOnce(&mut FieldErrors)) -> Result<(), StatusError> {
    let mut errors = FieldErrors::default();
    rules(&mut errors);
    let meta = review.metadata();
    if !meta.name.is_empty() || !meta.labels.is_empty() || !meta.annotations.is_empty() || !meta.generate_name.is_empty() {
        errors.invalid(&Path::root().field("metadata"), &meta.name, "must be empty");
    }
    if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid(K::KIND, "", &errors)) }
}

fn check_spec(spec: &SubjectAccessReviewSpec, errors: &mut FieldErrors) {
    one_of(spec.resource_attributes.is_some(), spec.non_resource_attributes.is_some(), errors);
    if spec.user.is_empty() && spec.groups.is_empty() {
        errors.invalid(&Path::root().field("spec").field("user"), "", "at least one of user or group must be specified");
    }
}

fn one_of(resource: bool, path: bool, errors: &mut FieldErrors) {
    let root = Path::root();
    let at = root.field("spec");
    match (resource, path) {
        (true, true) => {
            errors.invalid(&at.field("nonResourceAttributes"), "", "cannot be specified in combination with resourceAttributes")
        }
        (false, false) => errors.invalid(
            &at.field("resourceAttributes"),
            "",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
}
