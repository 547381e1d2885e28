//! `kctl create`

use anyhow::{Context as _, bail};
use api::{
    Object, Resource,
    authentication::v1::TokenRequest,
    core::v1::{Namespace, ServiceAccount},
    meta::v1::ObjectMeta,
    scheduling::v1::PriorityClass,
};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    apply::remembered,
    create_data::{self, SECRET_EXAMPLES, SERVICE_EXAMPLES},
    create_rbac, duration,
};
use crate::{
    Session,
    failures::Failures,
    manifest::{FileArgs, ValidateArgs},
    objects,
    write::WriteArgs,
};

/// Create objects from files or from flags
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  kctl create -f web.yaml
  kctl create namespace shop
  kctl create configmap settings --from-literal=colour=blue --from-file=app.conf
  kctl create secret generic keys --from-file=id=./key
  kctl create token builder --duration=1h
  kctl create role reader --verb=get,list,watch --resource=pods
  kctl create rolebinding readers --role=reader --user=ann --serviceaccount=shop:builder"
)]
pub struct Args {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    validate: ValidateArgs,
    /// Remember what was created, so that it can be changed with `kctl apply`
    #[arg(long)]
    save_config: bool,
    #[command(subcommand)]
    what: Option<What>,
}

/// What can be created from flags.
#[derive(Debug, Subcommand)]
enum What {
    /// A namespace
    #[command(visible_alias = "ns")]
    Namespace(Plain),
    /// A service account
    #[command(visible_alias = "sa")]
    Serviceaccount(Plain),
    #[command(visible_alias = "cm")]
    Configmap(create_data::ConfigMapArgs),
    /// A Secret
    #[command(subcommand, after_help = SECRET_EXAMPLES)]
    Secret(create_data::SecretKind),
    Token(TokenArgs),
    Role(create_rbac::RoleArgs),
    Clusterrole(create_rbac::ClusterRoleArgs),
    Rolebinding(create_rbac::BindingArgs),
    Clusterrolebinding(create_rbac::BindingArgs),
    Quota(create_data::QuotaArgs),
    #[command(visible_alias = "pc")]
    Priorityclass(PriorityArgs),
    /// A Service
    #[command(subcommand, visible_alias = "svc", after_help = SERVICE_EXAMPLES)]
    Service(create_data::ServiceKind),
}

/// An object that needs a name only.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl create namespace shop
  kctl create serviceaccount builder -n shop
  kctl create namespace shop --dry-run=client -o yaml   only show it")]
pub struct Plain {
    /// Its name
    name: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// A token for a service account
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl create token builder
  kctl create token builder --duration=1h --audience=https://vault.example
  kctl create token builder --bound-object-kind=Pod --bound-object-name=web")]
pub struct TokenArgs {
    /// Name of the service account
    name: String,
    /// Whom the token is for; can be given several times
    #[arg(long, value_name = "AUDIENCE", value_delimiter = ',')]
    audience: Vec<String>,
    /// How long the token is good for, such as 1h; at least 10m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<std::time::Duration>,
    /// Kind of an object with which the token ends: Pod or Secret
    #[arg(long, value_name = "KIND", requires = "bound_object_name", value_parser = ["Pod", "Secret", "Node"])]
    bound_object_kind: Option<String>,
    /// Name of that object
    #[arg(long, value_name = "NAME", requires = "bound_object_kind")]
    bound_object_name: Option<String>,
    /// UID of that object
    #[arg(long, value_name = "UID", requires = "bound_object_kind")]
    bound_object_uid: Option<String>,
}

/// A priority class
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl create priorityclass high --value=1000 --description='before others'
  kctl create priorityclass usual --value=10 --global-default")]
pub struct PriorityArgs {
    /// Its name
    name: String,
    /// The priority
    #[arg(long, allow_negative_numbers = true)]
    value: i32,
    /// It is the priority of pods that name none
    #[arg(long)]
    global_default: bool,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Whether its pods may make room for themselves: PreemptLowerPriority or Never
    #[arg(long, value_name = "HOW", default_value = "PreemptLowerPriority", value_parser = ["PreemptLowerPriority", "Never"],
        hide_possible_values = true)]
    preemption_policy: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, mut args: Args) -> anyhow::Result<()> {
    args.write.validation = args.validate.validate;
    // Boxed, so that the largest of them does not set the size of all.
    match args.what {
        None => Box::pin(from_files(session, &args)).await,
        Some(What::Namespace(plain)) => Box::pin(create(session, &plain.write, named::<Namespace>(&plain.name))).await,
        Some(What::Serviceaccount(plain)) => Box::pin(create(session, &plain.write, named::<ServiceAccount>(&plain.name))).await,
        Some(What::Configmap(map)) => Box::pin(create_data::config_map(session, map)).await,
        Some(What::Secret(kind)) => Box::pin(create_data::secret(session, kind)).await,
        Some(What::Token(token)) => Box::pin(create_token(session, token)).await,
        Some(What::Role(role)) => Box::pin(create_rbac::role(session, role)).await,
        Some(What::Clusterrole(role)) => Box::pin(create_rbac::cluster_role(session, role)).await,
        Some(What::Rolebinding(binding)) => Box::pin(create_rbac::binding(session, binding)).await,
        Some(What::Clusterrolebinding(binding)) => Box::pin(create_rbac::cluster_binding(session, binding)).await,
        Some(What::Quota(quota)) => Box::pin(create_data::quota(session, quota)).await,
        Some(What::Service(kind)) => Box::pin(create_data::service(session, kind)).await,
        Some(What::Priorityclass(priority)) => {
            let mut class = named::<PriorityClass>(&priority.name);
            class.value = priority.value;
            class.global_default = priority.global_default;
            class.description = priority.description;
            class.preemption_policy = Some(priority.preemption_policy);
            Box::pin(create(session, &priority.write, class)).await
        }
    }
}

async fn from_files(session: &Session, args: &Args) -> anyhow::Result<()> {
    if args.files.is_empty() {
        bail!(
            "must specify -f: the file, folder or - (standard input) with what to create; or what to create, such as `kctl create namespace`"
        );
    }
    let mut failures = Failures::default();
    for manifest in args.files.objects(session, args.write.validation)? {
        let value = if args.save_config { remembered(&manifest.value)? } else { manifest.value.clone() };
        let outcome = send(session, &args.write, manifest.kind, manifest.namespace(), &value).await;
        failures.check(session, outcome.map_err(|error| manifest.locate(error, "creating")))?;
    }
    failures.finish()
}

/// An object of this name.
pub fn named<K: Resource>(name: &str) -> K {
    let mut object = K::default();
    *object.metadata_mut() = ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() };
    object
}

/// Creates an object in the session's namespace and says so.
///
/// # Errors
/// What the server says.
pub async fn create<K: Resource>(session: &Session, write: &WriteArgs, mut object: K) -> anyhow::Result<()> {
    let namespace = session.scope(K::KIND, false)?;
    // What only goes into a file is for any namespace, unless one was asked for.
    let named = session.explicit_namespace().is_some() || !write.client_only();
    object.metadata_mut().namespace = if named { namespace.clone() } else { String::new() };
    let value = Object::to_value(&object).context("the object has no JSON form")?;
    send(session, write, K::KIND, &namespace, &value).await
}

/// Creates an object given as JSON and says so.
///
/// # Errors
/// What the server says.
pub async fn send(
    session: &Session,
    write: &WriteArgs,
    kind: &'static api::Kind,
    namespace: &str,
    value: &Value,
) -> anyhow::Result<()> {
    if write.client_only() {
        return write.done(session, kind, value, "created");
    }
    let api = write.api(session, kind, namespace)?;
    let what = format!("creating {}", crate::kinds::display(kind, objects::text(value, "/metadata/name")));
    let created = session.shown(&what, api.create_json(value)).await?;
    write.done_with(session, &created, "created")
}

async fn create_token(session: &Session, args: TokenArgs) -> anyhow::Result<()> {
    let mut spec = json!({ "audiences": args.audience });
    if let Some(duration) = args.duration {
        spec["expirationSeconds"] = duration.as_secs().into();
    }
    if let (Some(kind), Some(name)) = (args.bound_object_kind, args.bound_object_name) {
        spec["boundObjectRef"] =
            json!({"kind": kind, "apiVersion": "v1", "name": name, "uid": args.bound_object_uid.unwrap_or_default()});
    }
    let request: TokenRequest = api::json::from_value(json!({ "spec": spec }))?;
    let api = session.client()?.namespaced::<ServiceAccount>(&session.namespace()?);
    let answer = session.shown("asking for a token", api.create_subresource(&args.name, "token", &request)).await?;
    let token = &answer.status().token;
    if token.is_empty() {
        bail!("the server did not return a token");
    }
    session.console.line(token)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::core::v1::{ConfigMap, Namespace, Secret};

    use crate::testing::Bench;

    #[tokio::test]
    async fn objects_are_created_from_files_and_flags() {
        let bench = Bench::new();
        assert_eq!(bench.ok("create namespace shop").await, "namespace/shop created\n");
        assert!(bench.server.find::<Namespace>("", "shop").is_some());
        assert_eq!(bench.ok("create cm a --from-literal=k=v=w").await, "configmap/a created\n");
        assert_eq!(bench.server.find::<ConfigMap>("default", "a").unwrap().data["k"], "v=w");
        assert_eq!(bench.ok("create secret generic s --from-literal k=v -n x").await, "secret/s created\n");
        assert_eq!(&bench.server.find::<Secret>("x", "s").unwrap().data["k"][..], b"v");
        let file = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n";
        assert_eq!(bench.with_input(file).ok("create -f -").await, "configmap/b created\n");
        let errors = bench.with_input(file).fails("create -f -").await;
        assert!(errors.contains("(AlreadyExists): error when creating \"standard input\""), "{errors}");
    }

    #[tokio::test]
    async fn a_client_side_dry_run_shows_what_would_be_sent() {
        let bench = Bench::new();
        let yaml = bench.ok("create cm a --from-literal=k=v --dry-run=client -o yaml").await;
        assert_eq!(yaml, "apiVersion: v1\ndata:\n  k: v\nkind: ConfigMap\nmetadata:\n  name: a\n");
        let yaml = bench.ok("create sa a --dry-run=client -o yaml -n x").await;
        assert_eq!(yaml, "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: a\n  namespace: x\n");
        assert!(bench.server.all::<ConfigMap>().is_empty());
    }
}
