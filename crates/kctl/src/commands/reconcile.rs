//! `kctl auth reconcile`

use anyhow::bail;
use api::core::v1::Namespace;
use serde_json::{Value, json};

use crate::{
    Session,
    failures::Failures,
    manifest::{FileArgs, Manifest, Validation},
    objects,
    resource_args::Named,
    write::WriteArgs,
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// See to it that roles and bindings allow what files say
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl auth reconcile -f rbac.yaml
  kctl auth reconcile -f rbac.yaml --remove-extra-subjects --remove-extra-permissions
  kctl auth reconcile -f rbac.yaml --dry-run=client

Rules and subjects that are missing are added; others stay unless they are to be removed. A binding of another role is made anew, since \
a binding's role cannot change. Objects of other kinds are left alone.")]
pub struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Take away rules that the files do not have
    #[arg(long)]
    remove_extra_permissions: bool,
    /// Take away subjects that the files do not have
    #[arg(long)]
    remove_extra_subjects: bool,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    if args.files.is_empty() {
        bail!("must specify -f or -k: the file, folder or - (standard input) with the roles and bindings");
    }
    let mut failures = Failures::default();
    for manifest in args.files.objects(session, Validation::Strict)? {
        if manifest.kind.group == GROUP {
            let outcome = reconcile(session, &args, &manifest).await;
            failures.check(session, outcome.map_err(|error| manifest.locate(error, "reconciling")))?;
        }
    }
    failures.finish()
}

async fn reconcile(session: &Session, args: &Args, manifest: &Manifest) -> anyhow::Result<()> {
    let (kind, namespace, name) = (manifest.kind, manifest.namespace(), manifest.name());
    let Some(live) = objects::get_opt(session, kind, namespace, name).await? else {
        return create(session, args, manifest).await;
    };
    let live = objects::to_value(&live)?;
    if live.get("roleRef").is_some_and(|role| !same_role(role, &manifest.value["roleRef"])) {
        if !args.write.client_only() {
            let named = Named { kind, namespace: namespace.to_owned(), name: name.to_owned() };
            super::delete::delete_and_wait(session, &named).await?;
        }
        return create(session, args, manifest).await;
    }
    let (new, _) = args.write.change(session, kind, namespace, name, |old| Ok(Some(wanted(args, old, &manifest.value)))).await?;
    args.write.done(session, kind, &new, "reconciled")
}

async fn create(session: &Session, args: &Args, manifest: &Manifest) -> anyhow::Result<()> {
    if args.write.client_only() {
        return args.write.done(session, manifest.kind, &manifest.value, "reconciled");
    }
    if manifest.kind.namespaced {
        let namespaces = session.client()?.all::<Namespace>();
        let mut namespace = Namespace::default();
        api::Resource::metadata_mut(&mut namespace).name = manifest.namespace().to_owned();
        if namespaces.get_opt(manifest.namespace()).await?.is_none() {
            namespaces.create(&namespace).await?;
        }
    }
    let api = args.write.api(session, manifest.kind, manifest.namespace())?;
    let created = session.shown("creating it", api.create_json(&manifest.value)).await?;
    args.write.done_with(session, &created, "reconciled")
}

fn same_role(a: &Value, b: &Value) -> bool {
    ["/kind", "/name"].iter().all(|field| objects::text(a, field) == objects::text(b, field))
}

/// The object with what is missing in it.
fn wanted(args: &Args, old: &Value, expected: &Value) -> Value {
    let mut new = old.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in objects::members(expected, &format!("/metadata/{field}")) {
            objects::set(&mut new, &["metadata", field, key], value.clone());
        }
    }
    if let Some(aggregation) = expected.get("aggregationRule") {
        new["aggregationRule"] = aggregation.clone();
    }
    let (own, theirs) = (objects::list(old, "/rules"), objects::list(expected, "/rules"));
    let missing: Vec<Value> = theirs.iter().filter(|rule| !is_covered(rule, own)).cloned().collect();
    // Rules of aggregated roles are the controller's.
    if expected.get("aggregationRule").is_none() {
        if args.remove_extra_permissions && own.iter().any(|rule| !is_covered(rule, theirs)) {
            new["rules"] = json!(theirs);
        } else if !missing.is_empty() {
            new["rules"] = json!([own, &missing].concat());
        }
    }
    let (own, theirs) = (objects::list(old, "/subjects"), objects::list(expected, "/subjects"));
    let among = |subject: &Value, all: &[Value]| all.iter().any(|other| same_subject(subject, other));
    let mut subjects: Vec<Value> =
        own.iter().filter(|subject| !args.remove_extra_subjects || among(subject, theirs)).cloned().collect();
    subjects.extend(theirs.iter().filter(|subject| !among(subject, own)).cloned());
    if subjects != own {
        new["subjects"] = json!(subjects);
    }
    new
}

fn same_subject(a: &Value, b: &Value) -> bool {
    ["/kind", "/name", "/namespace"].iter().all(|field| objects::text(a, field) == objects::text(b, field))
}

/// True if rules allow together everything that one allows.
fn is_covered(rule: &Value, by: &[Value]) -> bool {
    // Nothing named means anything by that name, which is a value of its own.
    let field = |rule: &Value, name: &str| -> Vec<String> {
        let list = objects::list(rule, name).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        if list.is_empty() { vec![String::new()] } else { list }
    };
    let has = |rule: &Value, name: &str, wanted: &str| field(rule, name).iter().any(|value| value == "*" || value == wanted);
    let named = |rule: &Value, wanted: &str| {
        let names = field(rule, "/resourceNames");
        names == [String::new()] || names.iter().any(|name| name == wanted)
    };
    let allowed = |verb: &str, group: &str, resource: &str, name: &str, path: &str| {
        by.iter().any(|rule| {
            has(rule, "/verbs", verb)
                && has(rule, "/apiGroups", group)
                && has(rule, "/resources", resource)
                && named(rule, name)
                && has(rule, "/nonResourceURLs", path)
        })
    };
    field(rule, "/verbs").iter().all(|verb| {
        field(rule, "/apiGroups").iter().all(|group| {
            field(rule, "/resources").iter().all(|resource| {
                field(rule, "/resourceNames")
                    .iter()
                    .all(|name| field(rule, "/nonResourceURLs").iter().all(|path| allowed(verb, group, resource, name, path)))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use api::rbac::v1::{Role, RoleBinding};

    use super::*;
    use crate::testing::Bench;

    const RULES: &str = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r}\nrules:\n- {apiGroups: [''], resources: [pods, \
                         services], verbs: [get, list]}\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: b}\n\
                         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}\nsubjects: [{kind: User, apiGroup: \
                         rbac.authorization.k8s.io, name: ann}]\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n";

    #[tokio::test]
    async fn what_is_missing_is_added_and_what_is_extra_removed_when_asked() {
        let bench = Bench::new();
        let printed = bench.with_input(RULES).ok("auth reconcile -f -").await;
        assert_eq!(printed, "role.rbac.authorization.k8s.io/r reconciled\nrolebinding.rbac.authorization.k8s.io/b reconciled\n");
        let role = || bench.server.find::<Role>("default", "r").unwrap();
        let binding = || bench.server.find::<RoleBinding>("default", "b").unwrap();
        let more = RULES.replace("[get, list]", "[get, watch]").replace("name: ann", "name: bob");
        bench.with_input(&more).ok("auth reconcile -f -").await;
        assert_eq!((role().rules.len(), binding().subjects.len()), (2, 2));
        bench.with_input(&more).ok("auth reconcile -f -").await;
        assert_eq!(role().rules.len(), 2);
        bench.with_input(&more).ok("auth reconcile -f - --remove-extra-permissions --remove-extra-subjects").await;
        assert_eq!((role().rules.len(), binding().subjects[0].name.as_str()), (1, "bob"));
        // Another role: the binding is made anew.
        let uid = binding().metadata().uid.clone();
        bench.with_input(&more.replace("kind: Role, name: r", "kind: ClusterRole, name: view")).ok("auth reconcile -f -").await;
        assert_ne!(binding().metadata().uid, uid);
        assert!(bench.server.all::<api::core::v1::ConfigMap>().is_empty());
    }

    #[test]
    fn rules_cover_each_other() {
        let rule = |verbs: &[&str], resources: &[&str], names: &[&str]| json!({"apiGroups": [""], "verbs": verbs, "resources": resources, "resourceNames": names});
        let wanted = rule(&["get", "list"], &["pods"], &[]);
        assert!(is_covered(&wanted, &[rule(&["get"], &["pods"], &[]), rule(&["list"], &["*"], &[])]));
        assert!(!is_covered(&wanted, &[rule(&["get"], &["pods"], &[])]));
        assert!(!is_covered(&wanted, &[rule(&["*"], &["pods"], &["a"])]));
        assert!(is_covered(&rule(&["get"], &["pods"], &["a"]), &[wanted]));
    }
}
