//! `kctl exec` and `kctl attach`

use anyhow::bail;
use api::{
    Resource as _,
    core::v1::Pod,
    ferrokube::v1::{ExecStart, PodRef},
};

use crate::{
    Session, pods,
    terminal::{self, Mode},
};

/// The process to talk to.
#[derive(Debug, clap::Args)]
struct ProcessArgs {
    /// The pod, or TYPE/NAME of what has pods
    #[arg(value_name = "POD")]
    pod: String,
    /// The container
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input to the process
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The process has a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Say nothing but what the process writes
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Run a command in a container
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl exec web -- ls -l /                        its output here
  kctl exec -it web -- sh                         a shell on this terminal
  kctl exec -i web -c db -- psql < dump.sql       with standard input
  kctl exec rc/web -- date                        in one of a controller's pods

The exit code is that of the command.")]
pub struct Args {
    #[command(flatten)]
    to: ProcessArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Connect to a container's main process
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl attach web                                 see its output
  kctl attach -it web -c app                      with keys and terminal")]
pub struct AttachArgs {
    #[command(flatten)]
    to: ProcessArgs,
}

/// Runs `exec`.
///
/// # Errors
/// What went wrong, for the user; the command's exit code.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let Args { to, command } = args;
    let pod = pods::find(session, &to.pod).await?;
    let container = pods::container(session, &pod, to.container.as_deref(), !to.quiet)?;
    let tty = terminal_wanted(session, to.tty, to.stdin);
    terminal::connect(session, Mode::Exec, start(&pod, container, command, to.stdin, tty)).await
}

/// Runs `attach`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run_attach(session: &Session, AttachArgs { to }: AttachArgs) -> anyhow::Result<()> {
    let pod = pods::find(session, &to.pod).await?;
    let phase = pod.status().phase.as_str();
    if matches!(phase, "Succeeded" | "Failed") {
        bail!("cannot attach a container in a completed pod; current phase is {phase}");
    }
    let container = pods::container(session, &pod, to.container.as_deref(), !to.quiet)?;
    let tty = terminal_wanted(session, to.tty, to.stdin);
    if tty && to.stdin && !to.quiet {
        session.console.note("If you don't see a command prompt, try pressing enter.");
    }
    terminal::connect(session, Mode::Attach, start(&pod, container, Vec::new(), to.stdin, tty)).await
}

/// A terminal makes sense only if there is one here.
pub fn terminal_wanted(session: &Session, tty: bool, stdin: bool) -> bool {
    if tty && stdin && !terminal::is_terminal() {
        session.console.note("Unable to use a TTY - input is not a terminal or the right kind of file");
        return false;
    }
    tty
}

/// What a session with a process in a container begins with.
pub fn start(pod: &Pod, container: String, command: Vec<String>, stdin: bool, tty: bool) -> ExecStart {
    let pod = PodRef { namespace: pod.namespace().to_owned(), name: pod.name().to_owned(), uid: pod.metadata().uid.clone() };
    ExecStart { pod: Some(pod), container, command, stdin, tty, size: None }
}
