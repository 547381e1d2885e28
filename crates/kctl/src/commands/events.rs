//! `kctl events`

use anyhow::bail;
use api::{Resource as _, core::v1::Event};
use client::ListParams;
use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Session,
    describe::{interval, last_seen},
    failures::Failures,
    follow::changes,
    objects,
    output::{OutputArgs, Printer, Table},
    resource_args,
};

/// Show events, oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl events
  kctl events --for pod/web
  kctl events -A --types=Warning
  kctl events -w")]
pub struct Args {
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// About one object
    #[arg(long = "for", value_name = "TYPE/NAME")]
    object: Option<String>,
    /// Only of these types: Normal, Warning
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Keep showing events as they come
    #[arg(short = 'w', long)]
    watch: bool,
    /// No heading
    #[arg(long)]
    no_headers: bool,
    /// Ask the server for so many events at a time; 0 for all at once
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    chunk_size: i64,
    #[command(flatten)]
    output: OutputArgs,
}

const HEADING: [&str; 5] = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let known = |word: &String| ["normal", "warning"].iter().any(|known| word.eq_ignore_ascii_case(known));
    if !args.types.iter().all(known) {
        bail!("valid --types are Normal or Warning");
    }
    let mut selector = String::new();
    if let Some(word) = &args.object {
        if !word.contains('/') {
            bail!("--for must be in resource/name form");
        }
        let (kind, name) = resource_args::parse(std::slice::from_ref(word))?.swap_remove(0);
        selector = format!("involvedObject.kind={},involvedObject.name={}", kind.kind, name.unwrap_or_default());
    }
    let namespace = session.scope(Event::KIND, args.all_namespaces)?;
    let params = ListParams::default().fields(selector).limit(args.chunk_size.max(0));
    if args.watch {
        return watch(session, &args, &namespace, params).await;
    }
    let mut failures = Failures::default();
    let mut found: Vec<(i64, Value)> = Vec::new();
    for object in objects::list_chunked(session, Event::KIND, &namespace, params).await? {
        if let Some(event) = object.downcast_ref::<Event>().filter(|event| args.shows(event)) {
            found.extend(failures.check(session, objects::to_value(&object))?.map(|value| (last_seen(event), value)));
        }
    }
    found.sort_by_key(|(seen, _)| *seen);
    if let Some(printer) = args.output.printer() {
        let events = found.into_iter().map(|(_, event)| (Event::KIND, event)).collect();
        session.console.print(printer.list(events, !args.no_headers)?)?;
        return failures.finish();
    }
    if found.is_empty() && !failures.any() && !session.passed_over() {
        match namespace.as_str() {
            "" => session.console.note("No events found."),
            namespace => session.console.note(format!("No events found in {namespace} namespace.")),
        }
        return Ok(());
    }
    let mut table = args.table();
    found.iter().for_each(|(_, event)| table.push(args.row(event)));
    session.console.print(table.take())?;
    failures.finish()
}

/// Shows the events there are, oldest first, and then what comes.
async fn watch(session: &Session, args: &Args, namespace: &str, params: ListParams) -> anyhow::Result<()> {
    let api = session.client()?.dynamic(Event::KIND, namespace);
    let (mut table, mut first, mut failures) = (args.table(), Some(Vec::new()), Failures::default());
    let printer = args.output.printer();
    let mut changes = std::pin::pin!(changes(api, params, false));
    while let Some(seen) = changes.next().await {
        let Some(seen) = failures.check(session, seen.map_err(Into::into))? else { continue };
        let Some((what, object)) = seen else {
            let mut known = first.take().unwrap_or_default();
            known.sort_by_key(|(seen, _)| *seen);
            for (_, event) in known {
                args.show(session, printer.as_ref(), &mut table, event)?;
            }
            session.console.print(table.take())?;
            continue;
        };
        let Some(event) = object.downcast_ref::<Event>().filter(|event| what != "DELETED" && args.shows(event)) else { continue };
        let Some(value) = failures.check(session, objects::to_value(&object))? else { continue };
        match &mut first {
            Some(known) => known.push((last_seen(event), value)),
            None => {
                args.show(session, printer.as_ref(), &mut table, value)?;
                session.console.print(table.take())?;
            }
        }
    }
    failures.finish()
}

impl Args {
    /// An empty table.
    fn table(&self) -> Table {
        if self.no_headers {
            return Table::default();
        }
        Table::new(self.all_namespaces.then_some("NAMESPACE").into_iter().chain(HEADING))
    }

    /// Prints an event, or adds it to the table.
    fn show(&self, session: &Session, printer: Option<&Printer>, table: &mut Table, event: Value) -> anyhow::Result<()> {
        let Some(printer) = printer else {
            table.push(self.row(&event));
            return Ok(());
        };
        let separator = if printer.separates_documents() && session.printed_before() { "---\n" } else { "" };
        Ok(session.console.print(format!("{separator}{}", printer.one(Event::KIND, event)?))?)
    }

    fn shows(&self, event: &Event) -> bool {
        self.types.is_empty() || self.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(&event.r#type))
    }

    fn row(&self, event: &Value) -> Vec<String> {
        let about = |field: &str| objects::text(event, &format!("/involvedObject/{field}"));
        let cells = [
            interval(event, Timestamp::now()),
            objects::text(event, "/type").to_owned(),
            objects::text(event, "/reason").to_owned(),
            format!("{}/{}", about("kind"), about("name")),
            objects::text(event, "/message").trim().to_owned(),
        ];
        let namespace = self.all_namespaces.then(|| objects::text(event, "/metadata/namespace").to_owned());
        namespace.into_iter().chain(cells).collect()
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::Event;

    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn events_are_shown_oldest_first_and_by_type() {
        let bench = Bench::new();
        for (name, kind, seconds) in [("new", "Warning", 200), ("old", "Normal", 100)] {
            let mut event: Event = named(name);
            event.reason = name.into();
            event.r#type = kind.into();
            event.first_timestamp_mut().seconds = seconds - 60;
            event.last_timestamp_mut().seconds = seconds;
            event.involved_object_mut().kind = "Pod".into();
            event.involved_object_mut().name = "p".into();
            event.count = if name == "new" { 3 } else { 1 };
            bench.server.put(event);
        }
        let table = bench.ok("events --no-headers").await;
        let words: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0][1..], ["Normal", "old", "Pod/p"], "{table}");
        assert_eq!((words[1][1], words[1][2], words[1][5]), ("(x3", "over", "new"), "{table}");
        assert!(bench.fails("events --types=Odd").await.contains("valid --types are Normal or Warning"));
        assert!(bench.fails("events --for=p").await.contains("--for must be in resource/name form"));
        assert_eq!(bench.ok("events --types=warning --no-headers").await.lines().count(), 1);
        let session = bench.session(&[]);
        let watching = tokio::spawn(async move { crate::cli::run_line(session, &["events", "-w", "--no-headers"]).await });
        bench.output_has("new").await;
        assert!(bench.output().find("old") < bench.output().find("new"), "{}", bench.output());
        bench.server.put::<Event>(Event { reason: "later".into(), ..named("later") });
        bench.output_has("later").await;
        watching.abort();
    }
}
