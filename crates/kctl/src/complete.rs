//! Completion of command lines in shells: commands and flags as they are defined, kinds, names and the like as the server has them.
//!
//! The script that `kctl completion` prints runs kctl for each completion, with [`VARIABLE`] set. Nothing but candidates is printed: a
//! server that does not answer in time has none.

use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use api::{
    Kind, Resource as _,
    core::v1::{Namespace, Node, Pod, ServiceAccount},
    schema::Message,
};
use clap::{ArgMatches, Command, FromArgMatches as _};
use clap_complete::{CompleteEnv, CompletionCandidate, Shell, engine::ArgValueCompleter, env::Shells};
use client::{Item as _, ListParams};

use crate::{
    console::Console,
    kinds, pods,
    session::{GlobalArgs, Session},
};

/// The environment variable that names the shell which asks.
const VARIABLE: &str = "KCTL_COMPLETE";
/// How long whoever presses the key is kept waiting.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names that are offered at most.
const MAX_NAMES: i64 = 500;

/// What an argument's values are.
#[derive(Clone, Copy)]
enum What {
    /// `TYPE NAME …` or `TYPE/NAME …`.
    Objects(&'static str),
    /// A pod, or `TYPE/NAME` of what has pods.
    Pod,
    /// A container of that pod.
    Container,
    /// Names of objects of one kind.
    Names(&'static Kind),
    Contexts,
    Clusters,
    Users,
    /// A kind, and the path of a field.
    Field,
    /// Forms of output.
    Format,
}

/// The command line so far.
struct Line {
    session: Session,
    /// What the command has been given.
    given: ArgMatches,
    /// The word to complete is the beginning of a flag.
    flag_begun: bool,
}

/// Prints the script that makes a shell complete kctl's command lines.
///
/// # Errors
/// When the shell is not known.
pub fn script(shell: Shell) -> anyhow::Result<Vec<u8>> {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    let completer = shells.completer(&shell.to_string()).ok_or_else(|| anyhow::anyhow!("{shell} is not known"))?;
    completer.write_registration(VARIABLE, "kctl", "kctl", "kctl", &mut script)?;
    Ok(script)
}

/// Answers a shell that asks for candidates; `None` if none does.
pub fn answer(args: &[OsString], command: fn() -> Command) -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    let words = args.iter().position(|arg| arg == "--").map(|at| &args[at + 1..]).unwrap_or_default();
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
    let before = index.unwrap_or(words.len().saturating_sub(1)).min(words.len());
    let line = Arc::new(Line::read(command(), words, before, |flags| Session::new(flags, Console::process())));
    let complete = CompleteEnv::with_factory(|| with_candidates(command(), &line)).var(VARIABLE);
    match complete.try_complete(args, std::env::current_dir().ok().as_deref()) {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(_) => Some(ExitCode::FAILURE),
    }
}

/// The command line with candidates for its values.
fn with_candidates(command: Command, line: &Arc<Line>) -> Command {
    let name = command.get_name().to_owned();
    // Flags are offered to whoever begins one, and where there is nothing else.
    let command = command.disable_help_flag(!line.flag_begun).mut_args(|arg| {
        let hidden = arg.is_hide_set() || !arg.is_positional() && !line.flag_begun;
        let arg = arg.hide(hidden);
        match what(&name, arg.get_id().as_str()) {
            // What has a list of its own needs none.
            Some(what) if arg.get_possible_values().is_empty() => {
                let line = line.clone();
                arg.add(ArgValueCompleter::new(move |word: &OsStr| line.candidates(what, word)))
            }
            _ => arg,
        }
    });
    command.mut_subcommands(|sub| with_candidates(sub, line))
}

/// What the values of a command's argument are.
fn what(command: &str, arg: &str) -> Option<What> {
    Some(match (command, arg) {
        ("create" | "rolebinding" | "clusterrolebinding" | "subject", "user") => return None,
        (_, "namespace") => What::Names(Namespace::KIND),
        (_, "context") => What::Contexts,
        (_, "cluster") => What::Clusters,
        (_, "user") => What::Users,
        (_, "resources") => What::Objects("resources"),
        ("can-i", "object") => What::Objects("object"),
        (_, "pod") => What::Pod,
        ("logs" | "exec" | "attach", "container" | "container_word") => What::Container,
        ("cordon" | "uncordon" | "drain", "names") | ("taint", "words") | ("node", "name") => What::Names(Node::KIND),
        ("pod", "name") => What::Names(Pod::KIND),
        ("token", "name") => What::Names(ServiceAccount::KIND),
        ("use-context" | "delete-context" | "get-contexts" | "set-context", "name") | ("rename-context", "old") => What::Contexts,
        ("delete-cluster" | "set-cluster", "name") => What::Clusters,
        ("delete-user" | "set-credentials", "name") => What::Users,
        ("explain", "path") => What::Field,
        (_, "output") => What::Format,
        _ => return None,
    })
}

// === impl Line ===

impl Line {
    /// Reads the `before` words before the one to complete. What is wrong with them, or missing yet, does not matter.
    fn read(command: Command, words: &[OsString], before: usize, session: impl FnOnce(GlobalArgs) -> Session) -> Self {
        let flag_begun = words.get(before).is_some_and(|word| word.to_string_lossy().starts_with('-'));
        let mut given = command.ignore_errors(true).try_get_matches_from(&words[..before]).unwrap_or_default();
        let flags = GlobalArgs::from_arg_matches(&given).unwrap_or_default();
        while let Some((_, inner)) = given.remove_subcommand() {
            given = inner;
        }
        Self { session: session(flags), given, flag_begun }
    }

    fn candidates(&self, what: What, word: &OsStr) -> Vec<CompletionCandidate> {
        let word = word.to_str().unwrap_or_default();
        let all = match what {
            What::Objects(arg) => self.objects(arg, word),
            What::Pod => match word.split_once('/') {
                Some((kind, _)) => self.qualified(kind),
                None => self.names(Pod::KIND),
            },
            What::Container => self.containers(),
            What::Names(kind) => self.names(kind),
            What::Contexts => self.configured(|config| config.contexts.into_iter().map(|context| context.name).collect()),
            What::Clusters => self.configured(|config| config.clusters.into_iter().map(|cluster| cluster.name).collect()),
            What::Users => self.configured(|config| config.users.into_iter().map(|user| user.name).collect()),
            What::Field => fields(word),
            What::Format => {
                ["wide", "yaml", "json", "name", "jsonpath=", "custom-columns="].into_iter().map(str::to_owned).collect()
            }
        };
        all.into_iter().filter(|candidate| candidate.starts_with(word)).map(CompletionCandidate::new).collect()
    }

    fn given(&self, arg: &str) -> Vec<String> {
        self.given.try_get_many::<String>(arg).ok().flatten().into_iter().flatten().cloned().collect()
    }

    /// Kinds first; then names of the kind, or the like of what has been given.
    fn objects(&self, arg: &str, word: &str) -> Vec<String> {
        let given = self.given(arg);
        if let Some((kind, _)) = word.split_once('/') {
            return self.qualified(kind);
        }
        match given.first() {
            None => {
                let (before, _) = word.rsplit_once(',').map_or(("", word), |(before, _)| word.split_at(before.len() + 1));
                plurals().map(|plural| format!("{before}{plural}")).collect()
            }
            Some(first) if first.contains('/') => plurals().map(|plural| format!("{plural}/")).collect(),
            Some(first) => {
                let kind = first.split(',').next().and_then(|word| kinds::find(word).ok());
                let mut names = kind.map(|kind| self.names(kind)).unwrap_or_default();
                names.retain(|name| !given.contains(name));
                names
            }
        }
    }

    /// `TYPE/NAME` of all objects of a kind.
    fn qualified(&self, word: &str) -> Vec<String> {
        let names = kinds::find(word).map(|kind| self.names(kind)).unwrap_or_default();
        names.into_iter().map(|name| format!("{word}/{name}")).collect()
    }

    fn names(&self, kind: &'static Kind) -> Vec<String> {
        let question = async {
            let api = self.session.client()?.metadata(kind, &self.session.scope(kind, false)?);
            let list = api.list_readable(&ListParams::default().limit(MAX_NAMES)).await?;
            anyhow::Ok(list.items.iter().map(|item| item.meta().name.clone()).collect())
        };
        ask(question).unwrap_or_default()
    }

    fn containers(&self) -> Vec<String> {
        let Some(word) = self.given("pod").into_iter().next() else { return Vec::new() };
        let question = async {
            let name = word.strip_prefix("pod/").unwrap_or(&word);
            let pod = self.session.client()?.namespaced::<Pod>(&self.session.namespace()?).get(name).await?;
            anyhow::Ok(pods::container_names(&pod).into_iter().map(str::to_owned).collect())
        };
        ask(question).unwrap_or_default()
    }

    fn configured(&self, names: impl FnOnce(client::kubeconfig::Kubeconfig) -> Vec<String>) -> Vec<String> {
        self.session.kubeconfig().map(names).unwrap_or_default()
    }
}

/// Waits for an answer as long as somebody at a keyboard would.
fn ask<T>(question: impl Future<Output = anyhow::Result<T>>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, question).await });
    runtime.shutdown_background();
    answer.ok()?.ok()
}

fn plurals() -> impl Iterator<Item = &'static str> {
    kinds::all().filter(|kind| !kinds::is_metrics(kind)).map(|kind| &*kind.plural)
}

/// Kinds, or the fields that a path can go on with.
fn fields(word: &str) -> Vec<String> {
    let Some((before, _)) = word.rsplit_once('.') else { return plurals().map(str::to_owned).collect() };
    let mut steps = before.split('.');
    let mut message: Option<&Message> = steps.next().and_then(|word| kinds::find(word).ok()).and_then(|kind| kind.message());
    for step in steps {
        message = message.and_then(|message| message.field(step)).and_then(|field| field.ty.message());
    }
    let fields = message.map(Message::json_fields).unwrap_or_default();
    let mut paths: Vec<String> = fields.into_iter().map(|field| format!("{before}.{}", field.json)).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use api::core::v1::{ConfigMap, Container};

    use super::*;
    use crate::testing::{Bench, named};

    /// The candidates for the last word of a command line.
    async fn completed(bench: &Bench, line: &str) -> Vec<String> {
        let session = bench.session(&[]);
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let work = move || {
            let with_flags = |flags| {
                let mut session = session;
                session.flags = flags;
                session
            };
            let last = words.len() - 1;
            let line = Arc::new(Line::read(crate::cli::command(), &words, last, with_flags));
            let mut command = with_candidates(crate::cli::command(), &line);
            let found = clap_complete::engine::complete(&mut command, words, last, None).unwrap();
            found.iter().map(|candidate| candidate.get_value().to_str().unwrap().to_owned()).collect()
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    #[tokio::test]
    async fn kinds_names_and_fields_are_completed() {
        let bench = Bench::new();
        for name in ["map-a", "map-b", "other"] {
            bench.server.put::<ConfigMap>(named(name));
        }
        let mut elsewhere: ConfigMap = named("map-c");
        elsewhere.metadata_mut().namespace = "shop".into();
        bench.server.put(elsewhere);
        assert_eq!(completed(&bench, "kctl get conf").await, ["configmaps"]);
        assert_eq!(completed(&bench, "kctl get pods,conf").await, ["pods,configmaps"]);
        assert_eq!(completed(&bench, "kctl describe cm map").await, ["map-a", "map-b"]);
        assert_eq!(completed(&bench, "kctl delete cm map-a map").await, ["map-b"]);
        assert_eq!(completed(&bench, "kctl -n shop get cm map").await, ["map-c"]);
        assert_eq!(completed(&bench, "kctl get cm map --namespace shop").await, Vec::<String>::new());
        assert_eq!(completed(&bench, "kctl edit cm/map").await, ["cm/map-a", "cm/map-b"]);
        assert_eq!(completed(&bench, "kctl explain pod.spec.cont").await, ["pod.spec.containers"]);
        assert_eq!(completed(&bench, "kctl des").await, ["describe"]);
        assert_eq!(completed(&bench, "kctl label cm other ").await, ["map-a", "map-b"]);
        assert!(completed(&bench, "kctl version ").await.contains(&"--client".to_owned()));
        assert!(completed(&bench, "kctl get pods --no-h").await.contains(&"--no-headers".to_owned()));
    }

    #[tokio::test]
    async fn a_pods_containers_are_completed() {
        let bench = Bench::new();
        let mut pod: Pod = named("web");
        for name in ["app", "side"] {
            pod.spec_mut().containers.push(Container { name: name.into(), ..Container::default() });
        }
        bench.server.put(pod);
        assert_eq!(completed(&bench, "kctl logs we").await, ["web"]);
        assert_eq!(completed(&bench, "kctl exec web -c s").await, ["side"]);
    }
}
