//! The command line: which commands there are, and running one.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{
    commands::{apply, delete, describe, exec, get, logs},
    console::Console,
    error,
    session::{GlobalArgs, Session},
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

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Get(get::Args),
    Describe(describe::Args),
    Apply(apply::Args),
    Delete(delete::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Attach(exec::AttachArgs),
}

/// Runs a command line and returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let console = Console::process();
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&console, &error),
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
        Ok(()) => 0,
        Err(error) => error::report(&session.console, &error),
    }
}

async fn dispatch(session: &Session, command: Command) -> anyhow::Result<()> {
    // Boxed, so that the largest command does not set the size of all.
    match command {
        Command::Get(args) => Box::pin(get::run(session, args)).await,
        Command::Describe(args) => Box::pin(describe::run(session, args)).await,
        Command::Apply(args) => Box::pin(apply::run(session, args)).await,
        Command::Delete(args) => Box::pin(delete::run(session, args)).await,
        Command::Logs(args) => Box::pin(logs::run(session, args)).await,
        Command::Exec(args) => Box::pin(exec::run(session, args)).await,
        Command::Attach(args) => Box::pin(exec::run_attach(session, args)).await,
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    command.build();
    let args = plain_flags(&command, args.into_iter().collect());
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

/// `--flag=true` and `--flag=false` of flags that take no value, as kubectl takes them.
fn plain_flags(command: &clap::Command, args: Vec<OsString>) -> Vec<OsString> {
    let mut flags = Vec::new();
    collect_flags(command, &mut flags);
    let mut passed_on = false;
    args.into_iter()
        .filter_map(|arg| {
            let text = arg.to_str().unwrap_or_default();
            passed_on |= text == "--";
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
    command.get_subcommands().for_each(|sub| collect_flags(sub, flags));
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
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Runs a command line in a session made for it.
#[cfg(test)]
pub async fn run(mut session: Session, words: &[&str]) -> u8 {
    let args = std::iter::once("kctl").chain(words.iter().copied()).map(OsString::from);
    match parse(args) {
        Ok(cli) => {
            session.flags = cli.global;
            execute(&session, cli.command).await
        }
        Err(error) => {
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

    #[test]
    fn flags_take_true_and_false_before_the_dashes() {
        let words = ["kctl", "exec", "--stdin=true", "--tty=false", "p", "--", "--stdin=true"];
        let args = plain_flags(&Cli::command(), words.iter().map(OsString::from).collect());
        assert_eq!(args, ["kctl", "exec", "--stdin", "p", "--", "--stdin=true"]);
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["kctl -n x get pods", "kctl get pods -n x", "kctl get -nx pods"] {
            let cli = parse(line.split(' ').map(OsString::from)).unwrap();
            assert_eq!(cli.global.namespace.as_deref(), Some("x"), "{line}");
        }
    }
}
