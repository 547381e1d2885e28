//! `kctl set`: parts of objects that are changed often.

use anyhow::{Context as _, bail};
use api::{Kind, quantity::Quantity};
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{create_rbac, set_env};
use crate::{Session, failures::Failures, kinds, manifest::Validation, objects, resource_args::ObjectArgs, write::WriteArgs};

/// Set parts of objects: images, environment, resources, service accounts, selectors, subjects
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl set image rc/web app=web:2
  kctl set env rc/web COLOUR=blue
  kctl set resources rc/web --limits=cpu=200m,memory=256Mi")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

/// What can be set.
#[derive(Debug, Subcommand)]
enum What {
    Image(Box<ImageArgs>),
    Env(Box<set_env::Args>),
    Resources(Box<ResourcesArgs>),
    #[command(visible_alias = "sa")]
    Serviceaccount(Box<ServiceAccountArgs>),
    Selector(Box<SelectorOfArgs>),
    Subject(Box<SubjectArgs>),
}

/// Objects to change, after which stands what to change.
#[derive(Debug, clap::Args)]
pub struct Objects {
    /// Which objects; their names are followed by what to set.
    #[command(flatten)]
    pub named: ObjectArgs,
    /// Change what the files say, not what is stored, and print it; the server is not asked
    #[arg(long)]
    pub local: bool,
    /// Dry runs and output.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Set the images of containers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl set image rc/web app=web:2 helper=helper:7
  kctl set image rc --all '*=web:2'               all containers of all replication controllers
  kctl set image -f web.yaml app=web:2 --local -o yaml")]
pub struct ImageArgs {
    #[command(flatten)]
    objects: Objects,
}

/// Set what containers request and may use at most
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl set resources rc/web --requests=cpu=100m --limits=cpu=200m,memory=256Mi
  kctl set resources rc/web -c app --limits=cpu=0,memory=0    no limits")]
pub struct ResourcesArgs {
    #[command(flatten)]
    objects: Objects,
    /// Containers to change, with * for any text
    #[arg(short = 'c', long, value_name = "NAMES", default_value = "*")]
    containers: String,
    /// At most so much, such as cpu=200m,memory=256Mi
    #[arg(long, value_name = "AMOUNTS")]
    limits: Option<String>,
    /// So much is set aside, such as cpu=100m,memory=128Mi
    #[arg(long, value_name = "AMOUNTS")]
    requests: Option<String>,
}

/// Set the service account that pods run as
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl set serviceaccount rc/web builder")]
pub struct ServiceAccountArgs {
    #[command(flatten)]
    objects: Objects,
}

/// Set the selector of a Service
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl set selector service web app=web,tier=front

The selector becomes what is given: labels that were in it and are not given go.")]
pub struct SelectorOfArgs {
    #[command(flatten)]
    objects: Objects,
    /// Change the Service only if it is at this version
    #[arg(long, value_name = "VERSION")]
    resource_version: Option<String>,
}

/// Add users, groups and service accounts to a role binding
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl set subject rolebinding readers --user=ann --user=bob --group=testers
  kctl set subject clusterrolebinding admins --serviceaccount=shop:builder")]
pub struct SubjectArgs {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    subjects: create_rbac::SubjectFlags,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Image(args) => image(session, *args).await,
        What::Env(args) => set_env::run(session, *args).await,
        What::Resources(args) => resources(session, *args).await,
        What::Serviceaccount(args) => service_account(session, *args).await,
        What::Selector(args) => selector(session, *args).await,
        What::Subject(args) => subject(session, *args).await,
    }
}

// === impl Objects ===

impl Objects {
    /// Takes the words from the first one that is no name of an object on.
    pub fn split(&mut self, is_setting: impl Fn(&str) -> bool) -> Vec<String> {
        let words = &mut self.named.resources;
        let at = words.iter().position(|word| is_setting(word)).unwrap_or(words.len());
        words.split_off(at)
    }

    /// Changes each of the objects and says so of those that became another.
    ///
    /// # Errors
    /// What went wrong; the other objects are changed all the same.
    pub async fn change(
        &self,
        session: &Session,
        what: &str,
        decide: impl Fn(&'static Kind, &mut Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let named = |kind: &'static Kind, object: &mut Value| {
            let name = objects::text(object, "/metadata/name").to_owned();
            decide(kind, object).with_context(|| kinds::display(kind, &name))
        };
        let mut failures = Failures::default();
        if self.local {
            if self.named.files.is_empty() {
                bail!("--local changes what files say: name them with -f");
            }
            for mut manifest in self.named.files.objects(session, Validation::Strict)? {
                let outcome = named(manifest.kind, &mut manifest.value);
                if failures.check(session, outcome)?.is_some() {
                    self.write.done(session, manifest.kind, &manifest.value, what)?;
                }
            }
            return failures.finish();
        }
        for object in &self.named.resolve(session).await? {
            let decide = |old: &Value| {
                let mut new = old.clone();
                named(object.kind, &mut new)?;
                Ok(Some(new))
            };
            let outcome = self.write.change(session, object.kind, &object.namespace, &object.name, decide).await;
            if let Some((new, true)) = failures.check(session, outcome)? {
                self.write.done(session, object.kind, &new, what)?;
            }
        }
        failures.finish()
    }
}

/// The pod's spec: an object's own, or that of its template.
///
/// # Errors
/// When it is no pod and has no template of one.
pub fn pod_spec<'a>(kind: &Kind, object: &'a mut Value) -> anyhow::Result<&'a mut Map<String, Value>> {
    let pointer = match &*kind.kind {
        "Pod" => "/spec",
        "PodTemplate" => "/template/spec",
        _ => "/spec/template/spec",
    };
    match object.pointer_mut(pointer) {
        Some(Value::Object(spec)) => Ok(spec),
        _ => bail!("the object is not a pod and has no pod template"),
    }
}

/// The containers, init containers too, whose names match.
pub fn containers<'a>(
    spec: &'a mut Map<String, Value>,
    pattern: &'a str,
) -> impl Iterator<Item = (String, &'a mut Map<String, Value>)> {
    let lists = spec.iter_mut().filter(|(key, _)| *key == "containers" || *key == "initContainers");
    let all = lists.filter_map(|(_, list)| list.as_array_mut()).flatten().filter_map(Value::as_object_mut);
    all.filter_map(move |container| {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        matches(pattern, &name).then_some((name, container))
    })
}

/// True if a name fits a pattern in which `*` is any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, inner)) = pieces.split_last() else { return rest.is_empty() };
    for piece in inner {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// `a=b` pairs with commas between them.
fn pairs(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |part: &str| match part.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("\"{part}\": <key>=<value> is wanted"),
    };
    text.split(',').filter(|part| !part.is_empty()).map(pair).collect()
}

async fn image(session: &Session, mut args: ImageArgs) -> anyhow::Result<()> {
    let settings = args.objects.split(|word| word.contains('='));
    let images: Vec<_> = settings.iter().map(|setting| pairs(setting)).collect::<anyhow::Result<Vec<_>>>()?.concat();
    if images.is_empty() {
        bail!("at least one image update is required: <container>=<image>");
    }
    if let Some((name, _)) = images.iter().find(|(_, image)| image.is_empty()) {
        bail!("{name}=: the image is missing");
    }
    let set = |kind: &'static Kind, object: &mut Value| {
        let spec = pod_spec(kind, object)?;
        for (name, image) in &images {
            let mut any = false;
            let all = if name == "*" { "*" } else { name.as_str() };
            for (found, container) in containers(spec, all) {
                if name == "*" || found == *name {
                    container.insert("image".to_owned(), image.as_str().into());
                    any = true;
                }
            }
            if !any {
                bail!("unable to find container named \"{name}\"");
            }
        }
        Ok(())
    };
    args.objects.change(session, "image updated", set).await
}

async fn resources(session: &Session, args: ResourcesArgs) -> anyhow::Result<()> {
    if args.limits.is_none() && args.requests.is_none() {
        bail!("you must specify an update to requests or limits (in the form of --requests/--limits)");
    }
    let mut wanted = Vec::new();
    for (field, text) in [("limits", &args.limits), ("requests", &args.requests)] {
        for (resource, amount) in pairs(text.as_deref().unwrap_or_default()).with_context(|| format!("--{field}"))? {
            Quantity::parse(&amount).with_context(|| format!("--{field}: {resource}={amount}"))?;
            wanted.push((field, resource, amount));
        }
    }
    let set = |kind: &'static Kind, object: &mut Value| {
        let mut any = false;
        for (_, container) in containers(pod_spec(kind, object)?, &args.containers) {
            any = true;
            let resources = container.entry("resources").or_insert_with(|| json!({}));
            for (field, resource, amount) in &wanted {
                objects::set(resources, &[field, resource], amount.as_str().into());
            }
        }
        if any { Ok(()) } else { bail!("unable to find container named {}", args.containers) }
    };
    args.objects.change(session, "resource requirements updated", set).await
}

async fn service_account(session: &Session, mut args: ServiceAccountArgs) -> anyhow::Result<()> {
    let Some(account) = args.objects.named.resources.pop() else { bail!("serviceaccount is required") };
    if args.objects.named.resources.is_empty() && args.objects.named.files.is_empty() {
        bail!("one or more resources must be specified as <resource> <name> or <resource>/<name>, then the service account");
    }
    let set = |kind: &'static Kind, object: &mut Value| {
        let spec = pod_spec(kind, object)?;
        for field in ["serviceAccountName", "serviceAccount"] {
            spec.insert(field.to_owned(), account.as_str().into());
        }
        Ok(())
    };
    args.objects.change(session, "serviceaccount updated", set).await
}

async fn selector(session: &Session, mut args: SelectorOfArgs) -> anyhow::Result<()> {
    let settings = args.objects.split(|word| word.contains('='));
    let [setting] = settings.as_slice() else { bail!("one selector is required, such as app=web,tier=front") };
    let labels: Map<String, Value> = pairs(setting)?.into_iter().map(|(key, value)| (key, value.into())).collect();
    let set = |kind: &'static Kind, object: &mut Value| {
        if kind.kind != "Service" || !kind.group.is_empty() {
            bail!("setting a selector is only supported for Services");
        }
        if let Some(wanted) = &args.resource_version
            && objects::text(object, "/metadata/resourceVersion") != wanted
        {
            bail!("it is at version {}, not {wanted}", objects::text(object, "/metadata/resourceVersion"));
        }
        objects::set(object, &["spec", "selector"], Value::Object(labels.clone()));
        Ok(())
    };
    args.objects.change(session, "selector updated", set).await
}

async fn subject(session: &Session, args: SubjectArgs) -> anyhow::Result<()> {
    let wanted = args.subjects.subjects()?;
    if wanted.is_empty() {
        bail!("you must specify at least one value of user, group or serviceaccount");
    }
    let set = |kind: &'static Kind, object: &mut Value| {
        if !matches!(&*kind.kind, "RoleBinding" | "ClusterRoleBinding") {
            bail!("setting subjects is only supported for RoleBinding and ClusterRoleBinding");
        }
        let mut subjects = objects::list(object, "/subjects").to_vec();
        for subject in &wanted {
            let subject = serde_json::to_value(subject)?;
            let same = |known: &Value| {
                ["/kind", "/name", "/namespace"].iter().all(|field| objects::text(known, field) == objects::text(&subject, field))
            };
            if !subjects.iter().any(same) {
                subjects.push(subject);
            }
        }
        objects::set(object, &["subjects"], Value::Array(subjects));
        Ok(())
    };
    args.objects.change(session, "subjects updated", set).await
}

#[cfg(test)]
mod tests {
    use api::{
        core::v1::{ReplicationController, Service},
        rbac::v1::RoleBinding,
    };

    use super::*;
    use crate::testing::{Bench, named};

    const RC: &str = "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  template:\n    \
                      metadata: {labels: {app: web}}\n    spec:\n      initContainers: [{name: prepare, image: 'a:1'}]\n      \
                      containers: [{name: app, image: 'a:1'}, {name: helper, image: 'b:1'}]\n";

    async fn bench() -> Bench {
        let bench = Bench::new();
        bench.with_input(RC).ok("create -f -").await;
        bench
    }

    fn spec(bench: &Bench) -> api::core::v1::PodSpec {
        bench.server.find::<ReplicationController>("default", "web").unwrap().spec().template().spec().clone()
    }

    #[tokio::test]
    async fn images_of_named_and_of_all_containers() {
        let bench = bench().await;
        assert_eq!(bench.ok("set image rc/web app=a:2").await, "replicationcontroller/web image updated\n");
        let images = |bench: &Bench| spec(bench).containers.iter().map(|c| c.image.clone()).collect::<Vec<_>>();
        assert_eq!(images(&bench), ["a:2", "b:1"]);
        assert_eq!(bench.ok("set image rc web app=a:2").await, "");
        bench.ok("set image rc --all *=c:3").await;
        assert_eq!((images(&bench), spec(&bench).init_containers[0].image.as_str()), (vec!["c:3".into(), "c:3".into()], "c:3"));
        assert!(bench.fails("set image rc/web nobody=a:2").await.contains("unable to find container named \"nobody\""));
        assert!(bench.fails("set image rc/web").await.contains("at least one image update is required"));
        bench.server.put::<Service>(named("web"));
        assert!(bench.fails("set image svc/web a=b").await.contains("is not a pod"));
        let text = bench.with_input(RC).ok("set image -f - app=z:9 --local -o yaml").await;
        assert!(text.contains("image: z:9"), "{text}");
        assert_eq!(images(&bench), ["c:3", "c:3"]);
    }

    #[tokio::test]
    async fn resources_service_accounts_selectors_and_subjects() {
        let bench = bench().await;
        let what = "set resources rc/web -c app --limits=cpu=200m,memory=1Gi --requests=cpu=100m";
        assert_eq!(bench.ok(what).await, "replicationcontroller/web resource requirements updated\n");
        assert_eq!(spec(&bench).containers[0].resources().limits.len(), 2);
        assert!(spec(&bench).containers[1].resources().limits.is_empty());
        assert!(bench.fails("set resources rc/web --limits=cpu=x").await.contains("cpu=x"));
        assert!(bench.ok("set sa rc web builder").await.ends_with("serviceaccount updated\n"));
        assert_eq!(spec(&bench).service_account_name, "builder");
        bench.server.put::<Service>(named("web"));
        assert_eq!(bench.ok("set selector service web app=web,tier=x").await, "service/web selector updated\n");
        assert_eq!(bench.server.find::<Service>("default", "web").unwrap().spec().selector.len(), 2);
        bench.server.put::<RoleBinding>(named("b"));
        for _ in 0..2 {
            bench.ok("set subject rolebinding b --user=ann --serviceaccount=shop:builder").await;
        }
        assert_eq!(bench.server.find::<RoleBinding>("default", "b").unwrap().subjects.len(), 2);
    }

    #[test]
    fn patterns_of_names() {
        for (pattern, name, wanted) in [
            ("*", "a", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b*d", "abcd", true),
            ("*b", "abc", false),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
        }
    }
}
