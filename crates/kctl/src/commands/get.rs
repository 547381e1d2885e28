//! `kctl get`

use anyhow::bail;
use api::{Kind, StatusError};
use client::Dynamic;
use futures::{StreamExt as _, stream::SelectAll};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Session,
    failures::Failures,
    follow::changes,
    objects,
    output::{OutputArgs, Printer, TableOptions, Tables, sort_by},
    resource_args::{ShowArgs, Target},
    rest::{self, Answer, Request},
};

/// Show objects
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl get pods                                   pods of the namespace
  kctl get pods -A -o wide                        pods of all namespaces, with address and node
  kctl get pods,svc -l app=web                    pods and Services with a label
  kctl get node/node-1 rc/web -o yaml             objects by name, as YAML
  kctl get pods -w --field-selector status.phase=Running
  kctl get pods -o go-template='{{range .items}}{{.metadata.name}}{{\"\\n\"}}{{end}}'
  kctl get pod web -o jsonpath='{.status.podIP}'
  kctl get --raw '/api/v1/namespaces/shop/pods?labelSelector=app%3Dweb'
  kctl get pods --sort-by=.metadata.creationTimestamp -L app")]
pub struct Args {
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// After showing the objects, show what becomes of them
    #[arg(short = 'w', long)]
    watch: bool,
    /// Show only what becomes of the objects
    #[arg(long)]
    watch_only: bool,
    /// With --watch, begin each line with what happened: ADDED, MODIFIED or DELETED
    #[arg(long)]
    output_watch_events: bool,
    /// No heading
    #[arg(long)]
    no_headers: bool,
    /// All labels in the last column
    #[arg(long)]
    show_labels: bool,
    /// Kind before each name
    #[arg(long)]
    show_kind: bool,
    /// A column for the value of this label; several with commas between them
    #[arg(short = 'L', long, value_name = "LABEL", value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Order by the value at this JSON path
    #[arg(long, value_name = "PATH")]
    sort_by: Option<String>,
    /// It is no error if a named object does not exist
    #[arg(long)]
    ignore_not_found: bool,
    /// Show a subresource of one object instead: status or scale
    #[arg(long, value_name = "NAME")]
    subresource: Option<String>,
    /// Show what a path of the HTTP API names, such as /api/v1/nodes or /readyz, as JSON
    #[arg(long, value_name = "PATH")]
    raw: Option<String>,
}

/// An object with its kind and JSON.
type Shown = (&'static Kind, Value);

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    if let Some(path) = &args.raw {
        return raw(session, &args, path).await;
    }
    if !args.show.is_given() {
        session.console.note(
            "You must specify the type of resource to get. Use \"kctl api-resources\" for a complete list of supported resources.\n",
        );
        bail!("Required resource not specified.");
    }
    let targets = args.show.targets(session)?;
    if args.watch || args.watch_only {
        return watch(session, &args, targets).await;
    }
    let single = matches!(targets.as_slice(), [Target { name: Some(_), .. }]);
    let (mut failures, mut found) = (Failures::default(), Vec::new());
    for target in &targets {
        let outcome = read(session, &args, target).await;
        if args.ignore_not_found && outcome.as_ref().is_err_and(is_not_found) {
            continue;
        }
        let objects = failures.check(session, outcome)?.unwrap_or_default();
        found.extend(objects::shown(session, &mut failures, &objects)?);
    }
    if let Some(path) = &args.sort_by {
        sort_by(&mut found, path, |(_, object)| object)?;
    }
    match args.output.printer() {
        Some(printer) => print(session, &args, &printer, found, single)?,
        None if found.is_empty() => nothing_found(session, &args, &targets, &failures)?,
        None => {
            let mut tables = Tables::new(args.table_options(targets.as_slice()));
            let mut out = String::new();
            let now = Timestamp::now();
            for (kind, object) in &found {
                out += &tables.push(kind, object, now, "");
            }
            session.console.print(out + &tables.take())?;
        }
    }
    failures.finish()
}

impl Args {
    fn table_options(&self, targets: &[Target]) -> TableOptions {
        let several = targets.windows(2).any(|pair| pair[0].kind != pair[1].kind);
        TableOptions {
            wide: self.output.wide(),
            no_headers: self.no_headers,
            namespace: self.show.select.all_namespaces && targets.iter().any(|target| target.kind.namespaced),
            labels: self.show_labels,
            label_columns: self.label_columns.clone(),
            kind_prefix: self.show_kind || several,
            events: self.output_watch_events && (self.watch || self.watch_only),
        }
    }
}

/// Prints what a path names, as it comes.
async fn raw(session: &Session, args: &Args, path: &str) -> anyhow::Result<()> {
    if args.show.is_given() {
        bail!("arguments may not be passed when --raw is specified");
    }
    if !path.starts_with('/') {
        bail!("--raw must be a path of the API, which begins with /, not \"{path}\"");
    }
    let (client, request) = (session.client()?, Request::get(path));
    match session.shown(&format!("reading {path}"), rest::answer(&client, &request)).await? {
        Answer::Json(_, value) => session.console.print(format!("{value}\n"))?,
        Answer::Text(200, text) => session.console.print(text)?,
        Answer::Text(code, text) => {
            let message = format!("an error on the server (\"{}\") has prevented the request from succeeding", text.trim_end());
            return Err(client::Error::Api(StatusError::of_code(code, message)).into());
        }
        Answer::Watch(mut events) => {
            while let Some(event) = events.next().await {
                session.console.print(format!("{event}\n"))?;
            }
        }
        Answer::Log(mut pieces) => {
            while let Some(piece) = pieces.next().await {
                session.console.print(piece?)?;
            }
        }
    }
    Ok(())
}

async fn read(session: &Session, args: &Args, target: &Target) -> anyhow::Result<Vec<Dynamic>> {
    let Some(name) = &target.name else {
        return objects::list_chunked(session, target.kind, &target.namespace, args.show.params()?).await;
    };
    if let Some(subresource) = &args.subresource {
        let api = session.client()?.dynamic(target.kind, &target.namespace);
        return Ok(vec![session.shown("reading", api.get_subresource(name, subresource)).await?]);
    }
    Ok(vec![objects::get(session, target.kind, &target.namespace, name).await?])
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<client::Error>().is_some_and(client::Error::is_not_found)
}

fn print(session: &Session, args: &Args, printer: &Printer, mut found: Vec<Shown>, single: bool) -> anyhow::Result<()> {
    let text = match found.pop() {
        Some((kind, object)) if single => printer.one(kind, object)?,
        None if single => return Ok(()),
        last => {
            found.extend(last);
            printer.list(found, !args.no_headers)?
        }
    };
    session.console.print(text)?;
    Ok(())
}

fn nothing_found(session: &Session, args: &Args, targets: &[Target], failures: &Failures) -> anyhow::Result<()> {
    if args.ignore_not_found || failures.any() || session.passed_over() {
        return Ok(());
    }
    let namespace = targets.iter().map(|target| target.namespace.as_str()).find(|namespace| !namespace.is_empty());
    match namespace {
        Some(namespace) => session.console.note(format!("No resources found in {namespace} namespace.")),
        None => session.console.note("No resources found"),
    }
    Ok(())
}

/// Shows the objects and then every change until interrupted.
async fn watch(session: &Session, args: &Args, targets: Vec<Target>) -> anyhow::Result<()> {
    let printer = args.output.printer();
    let mut tables = Tables::new(args.table_options(&targets));
    let client = session.client()?;
    let mut streams = SelectAll::new();
    for target in &targets {
        let mut select = args.show.select.params()?;
        if let Some(name) = &target.name {
            // A name that does not exist is an error, as without --watch.
            objects::get(session, target.kind, &target.namespace, name).await?;
            select.field_selector = format!("metadata.name={name}");
        }
        let api = client.dynamic(target.kind, &target.namespace);
        streams.push(Box::pin(changes(api, select, args.watch_only)));
    }
    // What exists is shown together, so that its columns line up.
    let mut unsettled = streams.len();
    let (mut waiting, mut answered, mut failures) = (String::new(), false, Failures::default());
    loop {
        let next = streams.next();
        let next = if answered { next.await } else { session.shown("waiting for the server", next).await };
        let Some(seen) = next else { return failures.finish() };
        answered = true;
        let Some(seen) = failures.check(session, seen.map_err(Into::into))? else { continue };
        if let Some((what, object)) = seen {
            let Some(value) = failures.check(session, objects::to_value(&object))? else { continue };
            match &printer {
                Some(printer) => {
                    let separator = if printer.separates_documents() && session.printed_before() { "---\n" } else { "" };
                    session.console.print(format!("{separator}{}", printer.one(object.kind(), value)?))?;
                    continue;
                }
                None => waiting += &tables.push(object.kind().forever(), &value, Timestamp::now(), what),
            }
        } else {
            unsettled = unsettled.saturating_sub(1);
        }
        if unsettled == 0 {
            session.console.print(std::mem::take(&mut waiting) + &tables.take())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use api::{
        core::v1::{ConfigMap, Namespace, Pod},
        meta::v1::{FieldsV1, ManagedFieldsEntry},
    };
    use client::testing::UNREADABLE;

    use crate::testing::{Bench, named};

    fn bench() -> Bench {
        let bench = Bench::new();
        for name in ["b", "a"] {
            let mut map: ConfigMap = named(name);
            map.data.insert("k".into(), name.into());
            map.metadata_mut().labels.insert("app".into(), name.into());
            bench.server.put(map);
        }
        bench.server.put::<Namespace>(named("n"));
        bench
    }

    #[tokio::test]
    async fn tables_names_and_selectors() {
        let bench = bench();
        assert_eq!(bench.ok("get cm").await.lines().next(), Some("NAME   DATA   AGE"));
        assert_eq!(bench.ok("get cm -o name").await, "configmap/a\nconfigmap/b\n");
        assert_eq!(bench.ok("get cm -l app=b -o name").await, "configmap/b\n");
        assert_eq!(bench.ok("get cm/b ns/n -o name").await, "configmap/b\nnamespace/n\n");
        assert_eq!(bench.ok("get cm -o jsonpath={.items[*].data.k}").await, "a b");
        assert_eq!(bench.ok("get cm b -o jsonpath={.data.k}").await, "b");
        assert_eq!(bench.ok("get cm --sort-by=.data.k --no-headers -o custom-columns=N:.metadata.name").await, "a\nb\n");
        assert!(bench.ok("get cm -A").await.starts_with("NAMESPACE   NAME   DATA   AGE\n"));
        assert!(bench.ok("get cm,ns").await.contains("\n\nNAME          STATUS"));
    }

    #[tokio::test]
    async fn templates_may_be_strict_about_what_is_missing() {
        let bench = bench();
        assert_eq!(bench.ok_words(&["get", "cm", "--template={{range .items}}{{.data.k}} {{end}}"]).await, "a b ");
        assert_eq!(bench.ok_words(&["get", "cm", "-o", "go-template", "--template", "{{len .items}}"]).await, "2");
        assert_eq!(bench.ok("get cm a -o go-template={{.x}} --allow-missing-template-keys").await, "<no value>");
        let error = bench.fails("get cm a -o go-template={{.x}} --allow-missing-template-keys=false").await;
        assert!(error.contains("map has no entry for key \"x\""), "{error}");
        assert!(bench.fails("get cm a -o jsonpath={.x} --allow-missing-template-keys=false").await.contains("x is not found"));
        assert_eq!(bench.ok("get cm a -o jsonpath={.x}").await, "");
        assert!(bench.fails("get cm a -o go-template={{.x").await.contains("unclosed action"));
        assert!(bench.fails("get cm a -o go-template").await.contains("no template given"));
    }

    #[tokio::test]
    async fn what_is_not_there_is_said() {
        let bench = bench();
        assert_eq!(bench.ok("get pods").await, "");
        assert_eq!(bench.errors(), "No resources found in default namespace.\n");
        assert_eq!(bench.fails("get cm a x").await, "Error from server (NotFound): configmaps \"x\" not found\n");
        assert_eq!(bench.ok("get cm x --ignore-not-found").await, "");
        assert!(bench.fails("get frob").await.contains("doesn't have a resource type \"frob\""));
        assert!(bench.fails("get cm a -l app=a").await.contains("name cannot be provided when a selector is specified"));
        assert!(bench.fails("get cm -l a===b").await.contains("unable to parse requirement"));
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_shown_is_named_and_hides_no_other() {
        let bench = Bench::new();
        bench.server.put::<Pod>(named("good"));
        let mut bad: Pod = named("bad");
        let fields = FieldsV1 { raw: "no JSON".into() };
        bad.metadata_mut().managed_fields.push(ManagedFieldsEntry { fields_v1: Some(fields), ..Default::default() });
        bench.server.put(bad);
        let words = ["get", "pods", "--no-headers", "-o", "name"];
        assert_eq!(crate::cli::run_line(bench.session(&words), &words).await, 1);
        assert_eq!(bench.output(), "pod/good\n");
        let errors = bench.errors();
        assert!(
            errors.starts_with("error: Pod \"default/bad\" cannot be shown as JSON: ") && errors.lines().count() == 1,
            "{errors}"
        );

        for (line, shown) in [
            ("describe pods --show-events=false", "Name:            good\n"),
            ("label pods --all a=b", "pod/good labeled\n"),
            ("wait pods --all --for=create --timeout=50ms", "pod/good condition met\n"),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(crate::cli::run_line(bench.session(&words), &words).await, 1, "{line}");
            let (output, errors) = (bench.output(), bench.errors());
            assert!(output.contains(shown) && errors.contains("/bad"), "{line}: {output}{errors}");
        }

        let session = bench.session(&[]);
        let watching = tokio::spawn(async move { crate::cli::run_line(session, &["get", "pods", "-w", "-o", "name"]).await });
        bench.output_has("pod/good\n").await;
        bench.server.put::<Pod>(named("later"));
        bench.output_has("pod/later\n").await;
        assert!(bench.errors().contains("default/bad"));
        watching.abort();
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_read_is_named_and_hides_no_other() {
        let bench = Bench::new();
        bench.server.put::<Pod>(named("good"));
        let mut bad: Pod = named("bad");
        bad.metadata_mut().annotations.insert(UNREADABLE.into(), String::new());
        bad.spec_mut().node_name = "n".to_owned();
        bench.server.put(bad);
        for (line, shown) in [
            ("get pods --no-headers -o name", "pod/good\n"),
            ("get pods -o name --chunk-size=1", "pod/good\n"),
            ("describe pods --show-events=false", "Name:            good\n"),
        ] {
            let output = bench.exits(line, 1).await;
            let errors = bench.errors();
            assert!(
                output.contains(shown) && errors.starts_with("error: cannot read the v1/Pod default/bad: "),
                "{line}: {output}{errors}"
            );
            assert_eq!(errors.lines().count(), 1, "{line}: {errors}");
        }
        let session = bench.session(&[]);
        let watching = tokio::spawn(async move { crate::cli::run_line(session, &["get", "pods", "-w", "-o", "name"]).await });
        bench.output_has("pod/good\n").await;
        bench.server.put::<Pod>(named("later"));
        bench.output_has("pod/later\n").await;
        assert!(bench.errors().contains("default/bad"));
        watching.abort();
        // What changes nodes on the word that a pod is gone does not begin.
        bench.server.put::<api::core::v1::Node>(named("n"));
        assert!(bench.fails("drain n --pod-selector=!none").await.contains("default/bad"));
    }

    #[tokio::test]
    async fn a_watch_of_changes_only_leaves_out_what_exists() {
        let bench = bench();
        let session = bench.session(&[]);
        let watching =
            tokio::spawn(async move { crate::cli::run_line(session, &["get", "cm", "--watch-only", "-o", "name"]).await });
        // It may begin before or after the first change, so changes go on until one is seen.
        let mut number = 0;
        while bench.output().is_empty() {
            number += 1;
            bench.server.put::<ConfigMap>(named(&format!("new-{number}")));
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(bench.output().starts_with("configmap/new-"), "{}", bench.output());
        watching.abort();
    }

    #[tokio::test]
    async fn a_watch_shows_changes_and_survives_a_lost_connection() {
        let bench = bench();
        let session = bench.session(&["get", "cm", "-w", "--output-watch-events"]);
        let watching = tokio::spawn(async move {
            crate::cli::run_line(session, &["get", "cm", "-w", "--output-watch-events", "-o", "name"]).await
        });
        bench.output_has("configmap/b").await;
        bench.server.put::<Pod>(named("p"));
        bench.server.put::<ConfigMap>(named("c"));
        bench.output_has("configmap/c").await;
        bench.server.disconnect();
        bench.server.put::<ConfigMap>(named("d"));
        bench.output_has("configmap/d").await;
        assert_eq!(bench.output(), "configmap/a\nconfigmap/b\nconfigmap/c\nconfigmap/d\n");
        watching.abort();
    }
}
