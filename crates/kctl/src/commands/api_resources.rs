//! `kctl api-resources` and `kctl api-versions`

use std::collections::BTreeSet;

use api::ferrokube::v1::KindInfo;

use crate::{Session, output::Table};

/// List the kinds that the server serves
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl api-resources
  kctl api-resources --namespaced=false -o name
  kctl api-resources --api-group=rbac.authorization.k8s.io
  kctl api-resources --verbs=list,delete -o wide")]
pub struct Args {
    /// Only those of this group
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,
    /// Only those that live in namespaces, or only those that do not
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    namespaced: Option<bool>,
    /// Only those with all these verbs
    #[arg(long, value_name = "VERB", value_delimiter = ',')]
    verbs: Vec<String>,
    /// Only those in all these categories
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    categories: Vec<String>,
    /// Order by name or kind
    #[arg(long, value_name = "WHAT", value_parser = ["name", "kind"])]
    sort_by: Option<String>,
    /// No heading
    #[arg(long)]
    no_headers: bool,
    /// Taken for kubectl's sake: nothing is kept from one run to the next
    #[arg(long, hide = true)]
    cached: bool,
    /// wide or name
    #[arg(short = 'o', long, value_name = "FORMAT", value_parser = ["wide", "name"])]
    output: Option<String>,
}

/// Runs `api-resources`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let mut kinds = read(session).await?;
    kinds.retain(|info| args.selects(info));
    kinds.sort_by(|a, b| {
        let (x, y) = (group(a), group(b));
        match args.sort_by.as_deref() {
            Some("kind") => a.kind.cmp(&b.kind),
            Some(_) => resource(a).cmp(resource(b)),
            None => x.cmp(y).then_with(|| resource(a).cmp(resource(b))),
        }
    });
    let output = args.output.as_deref();
    if output == Some("name") {
        let names: String = kinds.iter().map(|info| qualified(info) + "\n").collect();
        session.console.print(names)?;
        return Ok(());
    }
    let mut heading = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
    heading.extend(output.is_some().then_some(["VERBS", "CATEGORIES"]).into_iter().flatten());
    let mut table = if args.no_headers { Table::default() } else { Table::new(heading) };
    for info in &kinds {
        let mut row = vec![
            resource(info).to_owned(),
            info.short_names.join(","),
            api_version(info),
            info.namespaced.to_string(),
            info.kind.clone(),
        ];
        if output.is_some() {
            row.extend([info.verbs.join(","), info.categories.join(",")]);
        }
        table.push(row);
    }
    session.console.print(table.take())?;
    Ok(())
}

impl Args {
    fn selects(&self, info: &KindInfo) -> bool {
        let all = |wanted: &[String], have: &[String]| wanted.iter().all(|one| have.contains(one));
        self.api_group.as_ref().is_none_or(|wanted| wanted == group(info))
            && self.namespaced.is_none_or(|wanted| wanted == info.namespaced)
            && all(&self.verbs, &info.verbs)
            && all(&self.categories, &info.categories)
    }
}

/// Runs `api-versions`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn versions(session: &Session) -> anyhow::Result<()> {
    let versions: BTreeSet<String> = read(session).await?.iter().map(api_version).collect();
    session.console.print(versions.into_iter().map(|version| version + "\n").collect::<String>())?;
    Ok(())
}

async fn read(session: &Session) -> anyhow::Result<Vec<KindInfo>> {
    let client = session.client()?;
    let mut kinds = session.shown("asking which kinds there are", client.kinds()).await?;
    kinds.retain(|info| !resource(info).is_empty());
    Ok(kinds)
}

fn group(info: &KindInfo) -> &str {
    info.resource.as_ref().map(|name| name.group.as_str()).unwrap_or_default()
}

fn resource(info: &KindInfo) -> &str {
    info.resource.as_ref().map(|name| name.resource.as_str()).unwrap_or_default()
}

fn api_version(info: &KindInfo) -> String {
    let (group, version) = (group(info), info.resource.as_ref().map(|name| name.version.as_str()).unwrap_or_default());
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn qualified(info: &KindInfo) -> String {
    if group(info).is_empty() { resource(info).to_owned() } else { format!("{}.{}", resource(info), group(info)) }
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[tokio::test]
    async fn kinds_are_listed_and_chosen() {
        let bench = Bench::new();
        let table = bench.ok("api-resources").await;
        assert!(table.starts_with("NAME ") && table.contains("replicationcontrollers"), "{table}");
        assert_eq!(bench.ok("api-resources --api-group=coordination.k8s.io -o name").await, "leases.coordination.k8s.io\n");
        let cluster = bench.ok("api-resources --namespaced=false -o name").await;
        assert!(cluster.contains("nodes\n") && !cluster.contains("secrets\n"), "{cluster}");
        assert!(bench.ok("api-versions").await.contains("rbac.authorization.k8s.io/v1\nscheduling.k8s.io/v1\nv1\n"));
    }
}
