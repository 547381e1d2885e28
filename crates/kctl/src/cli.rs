//! The command line: which commands there are, and running one.

use std::{ffi::OsString, process::ExitCode};

use clap::{
    Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use futures::future::BoxFuture;

use crate::{
    commands::{
        api_resources, apply, auth, config, cp, create, delete, describe, diff, edit, events, exec, explain, get, info,
        kustomize, logs, metadata, nodes, patch, plugin, port_forward, proxy, run, scale, set, top, wait,
    },
    complete,
    console::Console,
    error, kinds,
    session::{GlobalArgs, Session},
    trace,
};

/// Controls a Ferrokube cluster
#[derive(Debug, Parser)]
#[command(name = "kctl", version, disable_help_subcommand = false, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// The commands, each on the heap, so that the largest does not set the size of all.
#[derive(Debug, Subcommand)]
pub enum Command {
    Get(Box<get::Args>),
    Describe(Box<describe::Args>),
    Apply(Box<apply::Args>),
    Diff(Box<diff::Args>),
    Create(Box<create::Args>),
    Delete(Box<delete::Args>),
    Edit(Box<edit::Args>),
    Replace(Box<patch::ReplaceArgs>),
    Patch(Box<patch::Args>),
    Label(Box<metadata::LabelArgs>),
    Annotate(Box<metadata::AnnotateArgs>),
    Set(Box<set::Args>),
    Scale(Box<scale::Args>),
    Run(Box<run::Args>),
    Expose(Box<run::ExposeArgs>),
    #[command(visible_alias = "log")]
    Logs(Box<logs::Args>),
    Exec(Box<exec::Args>),
    Attach(Box<exec::AttachArgs>),
    PortForward(Box<port_forward::Args>),
    Cp(Box<cp::Args>),
    Kustomize(Box<kustomize::Args>),
    Proxy(Box<proxy::Args>),
    Top(Box<top::Args>),
    Events(Box<events::Args>),
    Wait(Box<wait::Args>),
    Explain(Box<explain::Args>),
    ApiResources(Box<api_resources::Args>),
    /// List the versions that the server serves
    #[command(after_help = "Examples:
  kctl api-versions")]
    ApiVersions,
    Cordon(Box<nodes::CordonArgs>),
    Uncordon(Box<nodes::UncordonArgs>),
    Drain(Box<nodes::DrainArgs>),
    Taint(Box<nodes::TaintArgs>),
    Auth(Box<auth::Args>),
    Config(Box<config::Args>),
    ClusterInfo(Box<info::ClusterInfoArgs>),
    Version(Box<info::VersionArgs>),
    Plugin(Box<plugin::Args>),
    /// List the flags that every command takes
    #[command(after_help = "Examples:
  kctl options")]
    Options,
    Completion(Box<info::CompletionArgs>),
}

/// Runs a command line and returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(code) = complete::answer(&args, Cli::command) {
        return code;
    }
    let console = Console::process();
    plugin::become_one(&args, &Cli::command(), &console);
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(mut error) => {
            drop_far_tips(&mut error);
            return usage(&console, &error);
        }
    };
    start_logging(cli.global.verbosity);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            console.note(format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let session = Session::new(cli.global, console);
    let code = runtime.block_on(execute(&session, cli.command));
    // A thread that waits for a key must not hold up the end.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Runs a command, reports what goes wrong, and returns the exit code.
pub async fn execute(session: &Session, command: Command) -> u8 {
    match dispatch(session, command).await {
        Ok(()) => u8::from(session.passed_over()),
        Err(error) => error::report(&session.console, &error),
    }
}

/// Begins a command on the heap, in a frame of its own: else the frame of whoever begins one of many has room for all of them.
fn on_heap<'a, F>(begin: impl FnOnce() -> F) -> BoxFuture<'a, anyhow::Result<()>>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'a,
{
    Box::pin(begin())
}

async fn dispatch(session: &Session, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Get(args) => on_heap(move || get::run(session, *args)).await,
        Command::Describe(args) => on_heap(move || describe::run(session, *args)).await,
        Command::Apply(args) => on_heap(move || apply::run(session, *args)).await,
        Command::Diff(args) => on_heap(move || diff::run(session, *args)).await,
        Command::Create(args) => on_heap(move || create::run(session, *args)).await,
        Command::Delete(args) => on_heap(move || delete::run(session, *args)).await,
        Command::Edit(args) => on_heap(move || edit::run(session, *args)).await,
        Command::Replace(args) => on_heap(move || patch::run_replace(session, *args)).await,
        Command::Patch(args) => on_heap(move || patch::run(session, *args)).await,
        Command::Label(args) => on_heap(move || metadata::label(session, *args)).await,
        Command::Annotate(args) => on_heap(move || metadata::annotate(session, *args)).await,
        Command::Set(args) => on_heap(move || set::run(session, *args)).await,
        Command::Scale(args) => on_heap(move || scale::run(session, *args)).await,
        Command::Run(args) => on_heap(move || run::run(session, *args)).await,
        Command::Expose(args) => on_heap(move || run::expose(session, *args)).await,
        Command::Logs(args) => on_heap(move || logs::run(session, *args)).await,
        Command::Exec(args) => on_heap(move || exec::run(session, *args)).await,
        Command::Attach(args) => on_heap(move || exec::run_attach(session, *args)).await,
        Command::PortForward(args) => on_heap(move || port_forward::run(session, *args)).await,
        Command::Cp(args) => on_heap(move || cp::run(session, *args)).await,
        Command::Kustomize(args) => kustomize::run(session, &args),
        Command::Proxy(args) => on_heap(move || proxy::run(session, *args)).await,
        Command::Top(args) => on_heap(move || top::run(session, *args)).await,
        Command::Events(args) => on_heap(move || events::run(session, *args)).await,
        Command::Wait(args) => on_heap(move || wait::run(session, *args)).await,
        Command::Explain(args) => on_heap(move || explain::run(session, *args)).await,
        Command::ApiResources(args) => on_heap(move || api_resources::run(session, *args)).await,
        Command::Cordon(args) => on_heap(move || nodes::cordon(session, *args)).await,
        Command::Uncordon(args) => on_heap(move || nodes::uncordon(session, *args)).await,
        Command::Drain(args) => on_heap(move || nodes::drain(session, *args)).await,
        Command::Taint(args) => on_heap(move || nodes::taint(session, *args)).await,
        Command::Auth(args) => on_heap(move || auth::run(session, *args)).await,
        Command::Config(args) => on_heap(move || config::run(session, *args)).await,
        Command::ClusterInfo(args) => on_heap(move || info::cluster_info(session, *args)).await,
        Command::Plugin(args) => plugin::run(session, &args, &Cli::command()),
        Command::Options => options(session),
        Command::Version(args) => on_heap(move || info::version(session, *args)).await,
        Command::ApiVersions => api_resources::versions(session).await,
        Command::Completion(args) => info::completion(session, &args),
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    command.build();
    let args = plain_flags(&command, args.into_iter().collect());
    let matches = command.try_get_matches_from_mut(args)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if defines(&command, &matches, "user") {
        cli.global.user = None;
    }
    Ok(cli)
}

/// Prints the global flags.
fn options(session: &Session) -> anyhow::Result<()> {
    // A command that has nothing else.
    let only = GlobalArgs::augment_args(clap::Command::new("kctl").max_term_width(120).disable_help_flag(true));
    let help = only.help_template("{options}").render_help();
    session.console.line(format!("The following options can be passed to any command:\n\n{help}"))?;
    Ok(())
}

/// True if the command that was called has a flag of its own by the name of a global one, so that the global one was not given.
fn defines(command: &clap::Command, matches: &clap::ArgMatches, flag: &str) -> bool {
    let (mut command, mut matches) = (command, matches);
    while let Some((name, inner)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { return false };
        (command, matches) = (found, inner);
    }
    command.get_arguments().any(|arg| arg.get_id() == flag && !arg.is_global_set())
}

/// `--flag=true` and `--flag=false` of flags that take no value, as kubectl takes them.
fn plain_flags(command: &clap::Command, args: Vec<OsString>) -> Vec<OsString> {
    let mut flags = Vec::new();
    collect_flags(command, &mut flags);
    let (mut command, mut passed_on) = (command, false);
    args.into_iter()
        .filter_map(|arg| {
            let text = arg.to_str().unwrap_or_default();
            passed_on |= text == "--";
            if let Some(inner) = command.find_subcommand(text).filter(|_| !passed_on) {
                // Another command's flag of that name may take a value.
                collect_flags(inner, &mut flags);
                command = inner;
            }
            let (name, value) = text.strip_prefix("--").and_then(|rest| rest.split_once('=')).unwrap_or_default();
            match value {
                "true" if !passed_on && flags.iter().any(|flag| flag == name) => Some(format!("--{name}").into()),
                "false" if !passed_on && flags.iter().any(|flag| flag == name) => None,
                _ => Some(arg),
            }
        })
        .collect()
}

fn collect_flags(command: &clap::Command, flags: &mut Vec<String>) {
    let plain = command.get_arguments().filter(|arg| matches!(arg.get_action(), clap::ArgAction::SetTrue));
    flags.extend(plain.filter_map(|arg| arg.get_long().map(str::to_owned)));
}

/// Takes out of an error the tips that are too far from what was typed to be of use: not a slip of the fingers, nor its beginning.
fn drop_far_tips(error: &mut clap::Error) {
    let given = match error.get(ContextKind::InvalidArg).or_else(|| error.get(ContextKind::InvalidSubcommand)) {
        Some(ContextValue::String(given)) => bare(given).to_owned(),
        _ => return,
    };
    let near = |tip: &str| {
        let tip = bare(tip);
        (given.len() > 1 && tip.starts_with(&given)) || kinds::closest(&given, std::iter::once(tip)).is_some()
    };
    for kind in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand] {
        let kept = match error.get(kind) {
            Some(ContextValue::String(tip)) if !near(tip) => None,
            Some(ContextValue::Strings(tips)) => Some(tips.iter().filter(|tip| near(tip)).cloned().collect::<Vec<_>>()),
            _ => continue,
        };
        match kept {
            Some(tips) if !tips.is_empty() => error.insert(kind, ContextValue::Strings(tips)),
            // The usage is that of the tip.
            _ => error.remove(kind).and(error.remove(ContextKind::Usage)),
        };
    }
    // What begins with dashes can be given after others only where words of another command are taken.
    let passes_on =
        matches!(error.get(ContextKind::Usage), Some(ContextValue::StyledStr(usage)) if usage.to_string().contains("-- "));
    if !passes_on {
        error.remove(ContextKind::Suggested);
    }
}

/// A flag or word without dashes and value.
fn bare(word: &str) -> &str {
    word.trim_start_matches('-').split(['=', ' ']).next().unwrap_or_default()
}

/// Prints help, or what is wrong with the command line; the exit code is 1 then, as kubectl's.
fn usage(console: &Console, error: &clap::Error) -> ExitCode {
    let text = error.render();
    if error.use_stderr() {
        console.note(text.to_string().trim_end());
        ExitCode::FAILURE
    } else {
        // Help that nobody reads to its end is no failure.
        console.print(text.to_string()).ok();
        ExitCode::SUCCESS
    }
}

fn start_logging(verbosity: u8) {
    let level = match verbosity {
        0 => return,
        1..=3 => "info",
        4..=6 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::new(format!("warn,kctl={level},client={level}"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    log.with_timer(trace::Clock).with_level(false).with_target(false).init();
}

/// The definition of the command line.
#[cfg(test)]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs a command line in a session made for it.
#[cfg(test)]
pub async fn run_line(mut session: Session, words: &[&str]) -> u8 {
    let args = std::iter::once("kctl").chain(words.iter().copied()).map(OsString::from);
    match parse(args) {
        Ok(cli) => {
            session.flags = cli.global;
            execute(&session, cli.command).await
        }
        Err(mut error) => {
            drop_far_tips(&mut error);
            session.console.note(error.to_string());
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// The terminal's width decides where a paragraph breaks, and nothing else.
    #[test]
    fn paragraphs_of_help_are_wrapped_once() {
        fn check(command: &clap::Command) {
            for text in [command.get_about(), command.get_long_about(), command.get_after_help()].into_iter().flatten() {
                let text = text.to_string();
                let lines: Vec<&str> = text.lines().collect();
                for pair in lines.windows(2) {
                    let prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
                    assert!(
                        pair[0].ends_with(':') || !(prose(pair[0]) && prose(pair[1])),
                        "{}: {:?} is broken before {:?}",
                        command.get_name(),
                        pair[0],
                        pair[1]
                    );
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn flags_take_true_and_false_before_the_dashes() {
        let words = ["kctl", "exec", "--stdin=true", "--tty=false", "p", "--", "--stdin=true"];
        let args = plain_flags(&Cli::command(), words.iter().map(OsString::from).collect());
        assert_eq!(args, ["kctl", "exec", "--stdin", "p", "--", "--stdin=true"]);
    }

    #[tokio::test]
    async fn the_flags_of_all_commands_are_listed() {
        let text = crate::testing::Bench::new().ok("options").await;
        assert!(text.starts_with("The following options can be passed to any command:\n"), "{text}");
        assert!(text.contains("--kubeconfig <FILE>") && text.contains("--as <USER>") && !text.contains("--help"), "{text}");
    }

    #[test]
    fn a_tip_is_what_may_have_been_meant() {
        let said = |line: &str| {
            let mut error = parse(line.split(' ').map(OsString::from)).unwrap_err();
            drop_far_tips(&mut error);
            error.to_string()
        };
        assert!(!said("kctl get --zz").contains("tip:"), "{}", said("kctl get --zz"));
        assert!(!said("kctl get --ask").contains("--namespace"), "{}", said("kctl get --ask"));
        assert!(said("kctl get --sort").contains("'--sort-by'"), "{}", said("kctl get --sort"));
        assert!(said("kctl get --outptu=x").contains("'--output'"));
        assert!(said("kctl gett pods").contains("'get'"), "{}", said("kctl gett pods"));
        assert!(!said("kctl frobnicate").contains("tip:"));
    }

    #[test]
    fn every_command_has_examples() {
        fn without(command: &clap::Command, path: &str, found: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let examples = command.get_after_help().is_some_and(|text| text.to_string().starts_with("Examples:\n"));
            if !examples && command.get_name() != "kctl" {
                found.push(path.clone());
            }
            command.get_subcommands().for_each(|sub| without(sub, &path, found));
        }
        let mut found = Vec::new();
        without(&Cli::command(), "", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_commands_own_flag_is_not_the_global_one_of_that_name() {
        let user = |line: &str| parse(line.split(' ').map(OsString::from)).unwrap().global.user;
        assert_eq!(user("kctl create rolebinding b --role=r --user=ann"), None);
        assert_eq!(user("kctl --user=ann create role r --verb=get --resource=pods").as_deref(), Some("ann"));
        assert_eq!(user("kctl config set-context c --user=ann").as_deref(), Some("ann"));
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["kctl -n x get pods", "kctl get pods -n x", "kctl get -nx pods"] {
            let cli = parse(line.split(' ').map(OsString::from)).unwrap();
            assert_eq!(cli.global.namespace.as_deref(), Some("x"), "{line}");
        }
    }
}
