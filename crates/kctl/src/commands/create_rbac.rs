//! `kctl create role`, `clusterrole`, `rolebinding` and `clusterrolebinding`

use anyhow::{Context as _, bail};
use api::{
    meta::v1::LabelSelector,
    rbac::v1::{AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
};

use super::create::{create, named};
use crate::{Session, rbac, write::WriteArgs};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A role in a namespace
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl create role reader --verb=get,list,watch --resource=pods,pods/log
  kctl create role one --verb=get --resource=secrets --resource-name=keys")]
pub struct RoleArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    rule: RuleArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// A role in the whole cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl create clusterrole reader --verb=get,list,watch --resource=nodes,namespaces
  kctl create clusterrole scraper --verb=get --non-resource-url=/metrics
  kctl create clusterrole monitor --aggregation-rule=example.org/to-monitor=true    the rules of all with that label")]
pub struct ClusterRoleArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    rule: RuleArgs,
    /// Paths that are no resources, such as /metrics
    #[arg(long = "non-resource-url", value_name = "PATH", value_delimiter = ',')]
    non_resource_urls: Vec<String>,
    /// Labels of the cluster roles whose rules it gets, instead of rules of its own
    #[arg(long, value_name = "LABELS", value_delimiter = ',',
        conflicts_with_all = ["verb", "resource", "resource_name", "non_resource_urls"])]
    aggregation_rule: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// What may be done.
#[derive(Debug, clap::Args)]
pub struct RuleArgs {
    /// What may be done, such as get,list,watch
    #[arg(long, value_name = "VERB", value_delimiter = ',')]
    verb: Vec<String>,
    /// With which kinds, such as pods,pods/log or leases.coordination.k8s.io
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    resource: Vec<String>,
    /// With which objects only
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    resource_name: Vec<String>,
}

/// Gives a role to users, groups and service accounts
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl create rolebinding readers --role=reader --user=ann --group=testers
  kctl create rolebinding builder --clusterrole=edit --serviceaccount=shop:builder
  kctl create clusterrolebinding admins --clusterrole=cluster-admin --group=admins")]
pub struct BindingArgs {
    /// Its name
    name: String,
    /// The cluster role
    #[arg(long, value_name = "NAME", conflicts_with = "role", required_unless_present = "role")]
    clusterrole: Option<String>,
    /// The role
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    #[command(flatten)]
    subjects: SubjectFlags,
    #[command(flatten)]
    write: WriteArgs,
}

/// To whom a role is given.
#[derive(Debug, clap::Args)]
pub struct SubjectFlags {
    /// To whom
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    user: Vec<String>,
    /// To which groups
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    group: Vec<String>,
    /// To which service accounts
    #[arg(long, value_name = "NAMESPACE:NAME", value_delimiter = ',')]
    serviceaccount: Vec<String>,
}

/// Creates a role.
///
/// # Errors
/// What went wrong, for the user.
pub async fn role(session: &Session, args: RoleArgs) -> anyhow::Result<()> {
    let mut role = named::<Role>(&args.name);
    role.rules = args.rule.rules(session)?;
    if role.rules.is_empty() {
        bail!("at least one resource must be specified with --resource");
    }
    create(session, &args.write, role).await
}

/// Creates a cluster role.
///
/// # Errors
/// What went wrong, for the user.
pub async fn cluster_role(session: &Session, args: ClusterRoleArgs) -> anyhow::Result<()> {
    let mut role = named::<ClusterRole>(&args.name);
    if !args.aggregation_rule.is_empty() {
        let pair = |pair: &String| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => bail!("--aggregation-rule={pair}: <label>=<value> is wanted"),
        };
        let match_labels = args.aggregation_rule.iter().map(pair).collect::<anyhow::Result<_>>()?;
        let selector = LabelSelector { match_labels, ..LabelSelector::default() };
        role.aggregation_rule = Some(AggregationRule { cluster_role_selectors: vec![selector] });
        return create(session, &args.write, role).await;
    }
    role.rules = args.rule.rules(session)?;
    if !args.non_resource_urls.is_empty() {
        role.rules.push(PolicyRule {
            verbs: args.rule.verb.clone(),
            non_resource_urls: args.non_resource_urls,
            ..PolicyRule::default()
        });
    }
    if role.rules.is_empty() {
        bail!("at least one resource or path must be specified with --resource or --non-resource-url");
    }
    create(session, &args.write, role).await
}

/// Creates a role binding.
///
/// # Errors
/// What went wrong, for the user.
pub async fn binding(session: &Session, args: BindingArgs) -> anyhow::Result<()> {
    let mut binding = named::<RoleBinding>(&args.name);
    binding.role_ref = Some(args.role_ref());
    binding.subjects = args.subjects.subjects()?;
    create(session, &args.write, binding).await
}

/// Creates a cluster role binding.
///
/// # Errors
/// What went wrong, for the user.
pub async fn cluster_binding(session: &Session, args: BindingArgs) -> anyhow::Result<()> {
    if args.role.is_some() {
        bail!("a cluster role binding gives a cluster role: use --clusterrole");
    }
    let mut binding = named::<ClusterRoleBinding>(&args.name);
    binding.role_ref = Some(args.role_ref());
    binding.subjects = args.subjects.subjects()?;
    create(session, &args.write, binding).await
}

impl RuleArgs {
    /// One rule for each API group.
    fn rules(&self, session: &Session) -> anyhow::Result<Vec<PolicyRule>> {
        if self.verb.is_empty() {
            bail!("at least one verb must be specified with --verb");
        }
        let known = |verb: &str| rbac::is_verb(verb) || (self.resource.is_empty() && rbac::is_path_verb(verb));
        for verb in self.verb.iter().filter(|verb| !known(verb)) {
            session.console.note(format!("Warning: '{verb}' is not a standard resource verb"));
        }
        let mut rules: Vec<PolicyRule> = Vec::new();
        for word in &self.resource {
            let (word, subresource) = word.split_once('/').unwrap_or((word, ""));
            let (group, mut resource) = rbac::resource(word, &self.verb).context("--resource")?;
            if !subresource.is_empty() {
                resource += &format!("/{subresource}");
            }
            match rules.iter_mut().find(|rule| rule.api_groups == [&*group]) {
                Some(rule) if rule.resources.contains(&resource) => {}
                Some(rule) => rule.resources.push(resource),
                None => rules.push(PolicyRule {
                    verbs: self.verb.clone(),
                    api_groups: vec![group],
                    resources: vec![resource],
                    resource_names: self.resource_name.clone(),
                    ..PolicyRule::default()
                }),
            }
        }
        Ok(rules)
    }
}

impl BindingArgs {
    fn role_ref(&self) -> RoleRef {
        let (kind, name) = match (&self.role, &self.clusterrole) {
            (Some(name), _) => ("Role", name.clone()),
            (None, name) => ("ClusterRole", name.clone().unwrap_or_default()),
        };
        RoleRef { api_group: GROUP.to_owned(), kind: kind.to_owned(), name }
    }
}

impl SubjectFlags {
    /// The subjects.
    ///
    /// # Errors
    /// When a service account is not named with its namespace.
    pub fn subjects(&self) -> anyhow::Result<Vec<Subject>> {
        let person = |kind: &str, name: &String| Subject {
            kind: kind.to_owned(),
            api_group: GROUP.to_owned(),
            name: name.clone(),
            ..Subject::default()
        };
        let mut subjects: Vec<Subject> = self.user.iter().map(|name| person("User", name)).collect();
        subjects.extend(self.group.iter().map(|name| person("Group", name)));
        for account in &self.serviceaccount {
            let (namespace, name) =
                account.split_once(':').with_context(|| format!("--serviceaccount={account}: <namespace>:<name> is wanted"))?;
            subjects.push(Subject {
                kind: "ServiceAccount".to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                ..Subject::default()
            });
        }
        Ok(subjects)
    }
}

#[cfg(test)]
mod tests {
    use api::rbac::v1::{ClusterRole, Role, RoleBinding};

    use crate::testing::Bench;

    #[tokio::test]
    async fn roles_and_bindings_come_from_flags() {
        let bench = Bench::new();
        bench.ok("create role r --verb=get,list --resource=pods,pods/log,leases").await;
        let role = bench.server.find::<Role>("default", "r").unwrap();
        assert_eq!(role.rules.len(), 2);
        assert_eq!(role.rules[0].resources, ["pods", "pods/log"]);
        assert_eq!(role.rules[1].api_groups, ["coordination.k8s.io"]);
        bench.ok("create rolebinding b --role=r --user=ann --serviceaccount=x:y").await;
        let binding = bench.server.find::<RoleBinding>("default", "b").unwrap();
        bench.ok("create clusterrole all --aggregation-rule=example.org/to-all=true,x=y").await;
        let role = bench.server.all::<ClusterRole>().remove(0);
        assert_eq!(role.aggregation_rule().cluster_role_selectors[0].match_labels.len(), 2);
        assert!(
            bench
                .fails("create clusterrole a --aggregation-rule=x=y --verb=get --resource=pods")
                .await
                .contains("cannot be used")
        );
        assert!(bench.fails("create role a --resource=pods").await.contains("at least one verb"));
        // What only rules know.
        bench.ok("create clusterrole i --verb=impersonate --resource=users,groups,serviceaccounts,sa,userextras/scopes").await;
        let role = bench.server.find::<ClusterRole>("", "i").unwrap();
        assert_eq!(role.rules[0].resources, ["users", "groups", "serviceaccounts"]);
        assert_eq!((&*role.rules[1].api_groups[0], &*role.rules[1].resources[0]), ("authentication.k8s.io", "userextras/scopes"));
        bench.ok("create clusterrole e --verb=bind,escalate --resource=roles,clusterroles").await;
        bench.ok("create clusterrole s --verb=approve --resource=signers.certificates.k8s.io --resource-name=a/b").await;
        bench.ok("create role all --verb=* --resource=*").await;
        assert_eq!(bench.errors(), "");
        let error = bench.fails("create clusterrole x --verb=impersonate --resource=pods").await;
        assert!(error.contains("can not perform 'impersonate' on 'pods' in group ''"), "{error}");
        assert!(bench.fails("create clusterrole x --verb=get --resource=users").await.contains("resource type \"users\""));
        bench.ok("create clusterrole odd --verb=frob --resource=pods").await;
        assert_eq!(bench.errors(), "Warning: 'frob' is not a standard resource verb\n");
        assert_eq!((binding.subjects[0].name.as_str(), binding.subjects[1].namespace.as_str()), ("ann", "x"));
    }
}
