//! `kctl events`

use api::{Resource as _, core::v1::Event, print};
use client::ListParams;
use futures::TryStreamExt as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Session,
    describe::last_seen,
    follow::changes,
    objects,
    output::{OutputArgs, Table},
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
    #[command(flatten)]
    output: OutputArgs,
}

const COLUMNS: [&str; 5] = ["Last Seen", "Type", "Reason", "Object", "Message"];

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let mut selector = String::new();
    if let Some(word) = &args.object {
        let (kind, name) = resource_args::parse(std::slice::from_ref(word))?.swap_remove(0);
        selector = format!("involvedObject.kind={},involvedObject.name={}", kind.kind, name.unwrap_or_default());
    }
    let namespace = session.scope(Event::KIND, args.all_namespaces)?;
    let params = ListParams::default().fields(selector);
    if args.watch {
        return watch(session, &args, &namespace, params).await;
    }
    let list = objects::list_all(session, Event::KIND, &namespace, &params).await?;
    let mut found: Vec<(i64, Value)> = Vec::new();
    for object in &list.items {
        if let Some(event) = object.downcast_ref::<Event>().filter(|event| args.shows(event)) {
            found.push((last_seen(event), objects::to_value(object)?));
        }
    }
    found.sort_by_key(|(seen, _)| *seen);
    if let Some(printer) = args.output.printer() {
        let events = found.into_iter().map(|(_, event)| (Event::KIND, event)).collect();
        return Ok(session.console.print(printer.list(events, !args.no_headers)?)?);
    }
    if found.is_empty() {
        match namespace.as_str() {
            "" => session.console.note("No events found."),
            namespace => session.console.note(format!("No events found in {namespace} namespace.")),
        }
        return Ok(());
    }
    let mut table = args.table();
    found.iter().for_each(|(_, event)| table.push(args.row(event)));
    Ok(session.console.print(table.take())?)
}

/// Shows the events there are, oldest first, and then what comes.
async fn watch(session: &Session, args: &Args, namespace: &str, params: ListParams) -> anyhow::Result<()> {
    let api = session.client()?.dynamic(Event::KIND, namespace);
    let (mut table, mut first) = (args.table(), Some(Vec::new()));
    let mut changes = std::pin::pin!(changes(api, params, false));
    while let Some(seen) = changes.try_next().await? {
        let Some((what, object)) = seen else {
            let mut known = first.take().unwrap_or_default();
            known.sort_by_key(|(seen, _)| *seen);
            known.iter().for_each(|(_, event)| table.push(args.row(event)));
            session.console.print(table.take())?;
            continue;
        };
        let Some(event) = object.downcast_ref::<Event>().filter(|event| what != "DELETED" && args.shows(event)) else { continue };
        let value = objects::to_value(&object)?;
        match &mut first {
            Some(known) => known.push((last_seen(event), value)),
            None => {
                table.push(args.row(&value));
                session.console.print(table.take())?;
            }
        }
    }
    Ok(())
}

impl Args {
    /// An empty table.
    fn table(&self) -> Table {
        if self.no_headers {
            return Table::default();
        }
        Table::new(self.all_namespaces.then_some("NAMESPACE").into_iter().chain(COLUMNS).map(str::to_uppercase))
    }

    fn shows(&self, event: &Event) -> bool {
        self.types.is_empty() || self.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(&event.r#type))
    }

    fn row(&self, event: &Value) -> Vec<String> {
        let cells = print::cells(Event::KIND, event, Timestamp::now());
        let cell = |name: &str| {
            let at = Event::KIND.columns.iter().position(|column| column.name == name);
            at.and_then(|at| cells.get(at)).cloned().unwrap_or_default()
        };
        let namespace = self.all_namespaces.then(|| objects::text(event, "/metadata/namespace").to_owned());
        namespace.into_iter().chain(COLUMNS.map(cell)).collect()
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
            event.last_timestamp_mut().seconds = seconds;
            bench.server.put(event);
        }
        let table = bench.ok("events --no-headers").await;
        let reasons: Vec<_> = table.lines().map(|line| line.split_whitespace().nth(2).unwrap_or_default()).collect();
        assert_eq!(reasons, ["old", "new"], "{table}");
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
