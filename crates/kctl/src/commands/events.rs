//! `kctl events`

use api::{Resource as _, core::v1::Event, print};
use client::{Change, ListParams, WatchParams};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Session, objects,
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
    let params = ListParams::default().fields(&*selector);
    let list = objects::list_all(session, Event::KIND, &namespace, &params).await?;
    let mut found: Vec<(i64, Value)> = Vec::new();
    for object in &list.items {
        if let Some(event) = object.downcast_ref::<Event>().filter(|event| args.shows(event)) {
            found.push((crate::describe::last_seen(event), objects::to_value(object)?));
        }
    }
    found.sort_by_key(|(seen, _)| *seen);
    if let (Some(printer), false) = (args.output.printer(), args.watch) {
        let events = found.into_iter().map(|(_, event)| (Event::KIND, event)).collect();
        return Ok(session.console.print(printer.list(events, !args.no_headers)?)?);
    }
    if found.is_empty() && !args.watch {
        match namespace.as_str() {
            "" => session.console.note("No events found."),
            namespace => session.console.note(format!("No events found in {namespace} namespace.")),
        }
        return Ok(());
    }
    let mut table = Table::default();
    if !args.no_headers {
        let heading = args.all_namespaces.then_some("NAMESPACE").into_iter().chain(COLUMNS);
        table.push(heading.map(str::to_uppercase));
    }
    found.iter().for_each(|(_, event)| table.push(args.row(event)));
    session.console.print(table.take())?;
    if !args.watch {
        return Ok(());
    }
    let api = session.client()?.dynamic(Event::KIND, &namespace);
    let mut revision = list.metadata.resource_version;
    loop {
        let mut changes = api.watch(&WatchParams::after(&*revision).fields(&*selector)).await?;
        while let Some(change) = changes.try_next().await? {
            revision = change.revision.to_string();
            let (Change::Added(object) | Change::Modified(object)) = change.change else { continue };
            if object.downcast_ref::<Event>().is_some_and(|event| args.shows(event)) {
                table.push(args.row(&objects::to_value(&object)?));
                session.console.print(table.take())?;
            }
        }
    }
}

impl Args {
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
    }
}
