//! `kctl auth`

use anyhow::bail;
use api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{
        NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SelfSubjectRulesReview,
    },
};
use clap::Subcommand;

use super::reconcile;

use crate::{
    Session,
    error::Exit,
    kinds,
    output::{OutputArgs, Table},
    rbac,
};

/// Ask who one is and what one may do
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl auth whoami
  kctl auth can-i create pods -n shop
  kctl auth can-i --list")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    CanI(CanIArgs),
    Whoami(WhoamiArgs),
    Reconcile(reconcile::Args),
}

/// Ask whether something is allowed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl auth can-i create pods
  kctl auth can-i delete pod/web -n shop
  kctl auth can-i get pods --subresource=log -A
  kctl auth can-i get /metrics
  kctl auth can-i --list

Prints yes or no; the exit code is 1 for no.")]
pub struct CanIArgs {
    /// What one wants to do, such as get, list, create
    #[arg(value_name = "VERB", required_unless_present = "list")]
    verb: Option<String>,
    /// With what: TYPE, TYPE/NAME or a path
    #[arg(value_name = "TYPE[/NAME]|PATH", required_unless_present = "list")]
    object: Option<String>,
    /// With which object only
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Part of the object, such as log or scale
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    subresource: String,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// List all that is allowed
    #[arg(long)]
    list: bool,
    /// Print nothing
    #[arg(short = 'q', long)]
    quiet: bool,
    /// No heading
    #[arg(long)]
    no_headers: bool,
}

/// Ask who the server takes one for
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl auth whoami
  kctl auth whoami -o yaml")]
pub struct WhoamiArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user; a silent exit with 1 for no.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match args.what {
        What::CanI(args) if args.list => list(session, &args).await,
        What::CanI(args) => can_i(session, &args).await,
        What::Whoami(args) => whoami(session, &args).await,
        What::Reconcile(args) => reconcile::run(session, args).await,
    }
}

async fn can_i(session: &Session, args: &CanIArgs) -> anyhow::Result<()> {
    let (verb, object) = (args.verb.clone().unwrap_or_default(), args.object.clone().unwrap_or_default());
    let mut spec = SelfSubjectAccessReviewSpec::default();
    if object.starts_with('/') {
        spec.non_resource_attributes = Some(NonResourceAttributes { verb, path: object });
    } else {
        let (word, name) =
            object.split_once('/').map_or((object.as_str(), args.name.clone()), |(word, name)| (word, Some(name.to_owned())));
        let namespace = if args.all_namespaces { String::new() } else { session.namespace()? };
        let mut attributes = ResourceAttributes {
            verb,
            namespace,
            subresource: args.subresource.clone(),
            name: name.unwrap_or_default(),
            version: "*".to_owned(),
            ..ResourceAttributes::default()
        };
        match kinds::find(word) {
            Ok(kind) => {
                (attributes.group, attributes.resource) = (kind.group.to_string(), kind.plural.to_string());
                if !kind.namespaced {
                    attributes.namespace.clear();
                    if session.explicit_namespace().is_none() && !args.quiet && !args.all_namespaces {
                        session.console.note(format!("Warning: resource '{}' is not namespace scoped", kind.qualified_plural()));
                    }
                }
            }
            Err(_) if word == "*" => (attributes.group, attributes.resource) = ("*".to_owned(), "*".to_owned()),
            Err(error) => {
                if rbac::unserved(word).is_none() && !args.quiet {
                    session.console.note(format!("Warning: {error:#}"));
                }
                let (group, resource) = rbac::unserved(word).unwrap_or_else(|| {
                    let (resource, group) = word.split_once('.').unwrap_or((word, ""));
                    (group, resource)
                });
                (attributes.resource, attributes.group) = (resource.to_owned(), group.to_owned());
            }
        }
        spec.resource_attributes = Some(attributes);
    }
    let verb = args.verb.as_deref().unwrap_or_default();
    let known = if spec.non_resource_attributes.is_some() { rbac::is_path_verb(verb) } else { rbac::is_verb(verb) };
    if !known && !args.quiet {
        session.console.note(format!("Warning: verb '{verb}' is not a known verb"));
    }
    let review = SelfSubjectAccessReview { spec: Some(spec), ..SelfSubjectAccessReview::default() };
    let api = session.client()?.all::<SelfSubjectAccessReview>();
    let answer = session.shown("asking what is allowed", api.create(&review)).await?;
    let status = answer.status();
    if !args.quiet {
        let mut line = if status.allowed { "yes" } else { "no" }.to_owned();
        if !status.reason.is_empty() && !status.allowed {
            line += &format!(" - {}", status.reason);
        }
        if !status.evaluation_error.is_empty() {
            line += &format!(" - {}", status.evaluation_error);
        }
        session.console.line(line)?;
    }
    if status.allowed { Ok(()) } else { Err(Exit::silent(1)) }
}

async fn list(session: &Session, args: &CanIArgs) -> anyhow::Result<()> {
    if args.all_namespaces {
        bail!("--list is about one namespace; leave out --all-namespaces");
    }
    let mut review = SelfSubjectRulesReview::default();
    review.spec_mut().namespace = session.namespace()?;
    let api = session.client()?.all::<SelfSubjectRulesReview>();
    let answer = session.shown("asking what is allowed", api.create(&review)).await?;
    let status = answer.status();
    let show = |words: &[String]| format!("[{}]", words.join(" "));
    let heading = ["Resources", "Non-Resource URLs", "Resource Names", "Verbs"];
    let mut table = if args.no_headers { Table::default() } else { Table::new(heading) };
    for rule in &status.resource_rules {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let resource = if group.is_empty() || resource == "*" && group == "*" {
                    if group == "*" { "*.*".to_owned() } else { resource.clone() }
                } else {
                    format!("{resource}.{group}")
                };
                table.push([resource, "[]".to_owned(), show(&rule.resource_names), show(&rule.verbs)]);
            }
        }
    }
    for rule in &status.non_resource_rules {
        table.push(["".to_owned(), show(&rule.non_resource_urls), "[]".to_owned(), show(&rule.verbs)]);
    }
    session.console.print(table.take())?;
    if status.incomplete {
        session.console.note(format!("Warning: the list may be incomplete: {}", status.evaluation_error));
    }
    Ok(())
}

async fn whoami(session: &Session, args: &WhoamiArgs) -> anyhow::Result<()> {
    let api = session.client()?.all::<SelfSubjectReview>();
    let answer = session.shown("asking who we are", api.create(&SelfSubjectReview::default())).await?;
    if let Some(printer) = args.output.printer() {
        session.console.print(printer.value(&api::json::to_value(&answer)?)?)?;
        return Ok(());
    }
    let user = answer.status().user_info();
    let mut table = Table::new(["ATTRIBUTE", "VALUE"]);
    table.push(["Username", &user.username]);
    if !user.uid.is_empty() {
        table.push(["UID", &user.uid]);
    }
    if !user.groups.is_empty() {
        table.push(["Groups", &format!("[{}]", user.groups.join(" "))]);
    }
    for (key, values) in &user.extra {
        table.push([format!("Extra: {key}"), format!("[{}]", values.items.join(" "))]);
    }
    session.console.print(table.take())?;
    Ok(())
}
