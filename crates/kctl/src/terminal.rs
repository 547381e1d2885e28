//! The user's terminal as the other end of a process in a container, and the streams between them.
//!
//! Invariant: the terminal's settings are put back whenever [`Raw`] goes, and before the process ends by a signal.

use std::{
    io::{self, IsTerminal as _, Read as _},
    os::fd::BorrowedFd,
};

use anyhow::{Context as _, bail};
use api::{
    Bytes,
    ferrokube::v1::{ExecResponse, ExecStart, TerminalSize, exec_request::Message, exec_response},
};
use client::Client;
use futures::{TryStreamExt as _, stream::BoxStream};
use nix::sys::termios::{self, SetArg, Termios};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{Session, error::Exit};

/// Pieces of input that may wait to be sent.
const INPUT_QUEUE: usize = 16;
/// Bytes in one piece of input.
const INPUT_PIECE: usize = 16 << 10;

/// Whether a new process is started or the main one joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Start the command.
    Exec,
    /// Join the main process.
    Attach,
}

/// Standard input as it is typed, without the terminal's own treatment of keys.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> anyhow::Result<Self> {
        let before = termios::tcgetattr(stdin()).context("standard input is no terminal")?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin(), SetArg::TCSANOW, &raw).context("cannot set up the terminal")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing more can be done if the terminal is gone.
        termios::tcsetattr(stdin(), SetArg::TCSANOW, &self.before).ok();
    }
}

fn stdin() -> BorrowedFd<'static> {
    // SAFETY: descriptor 0 is open for as long as the process runs; if it is not, calls on it fail and nothing else happens.
    unsafe { BorrowedFd::borrow_raw(0) }
}

/// The size of the terminal, if there is one.
pub fn size() -> Option<TerminalSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    for descriptor in [1, 0, 2] {
        // SAFETY: the call writes into `size`, which outlives it.
        let outcome = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &raw mut size) };
        if outcome == 0 && size.ws_col > 0 {
            return Some(TerminalSize { width: size.ws_col.into(), height: size.ws_row.into() });
        }
    }
    None
}

/// True if keys can be passed on as they are typed.
pub fn is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The process's exit code; `None` if the stream ended without one.
    pub code: Option<i32>,
    /// The process has written something.
    pub seen: bool,
}

/// Connects the user to a process until it ends.
///
/// # Errors
/// An [`Exit`] with the process's exit code unless that is 0; else what went wrong.
pub async fn connect(session: &Session, mode: Mode, start: ExecStart) -> anyhow::Result<()> {
    match run(session, mode, start, true).await?.code {
        None if mode == Mode::Exec => bail!("the connection ended before the command did: what became of it is not known"),
        None | Some(0) => Ok(()),
        Some(code) => {
            let message = (mode == Mode::Exec).then(|| format!("command terminated with exit code {code}"));
            Err(Exit { code: u8::try_from(code).unwrap_or(1), message }.into())
        }
    }
}

/// Joins the main process of a container until that ends, whatever it ends with.
///
/// # Errors
/// What went wrong.
pub async fn join(session: &Session, start: ExecStart) -> anyhow::Result<Ended> {
    run(session, Mode::Attach, start, true).await
}

/// Passes standard input to the main process of a container until that ends; what it writes is not shown.
///
/// # Errors
/// What went wrong.
pub async fn feed(session: &Session, start: ExecStart) -> anyhow::Result<()> {
    run(session, Mode::Attach, start, false).await.map(drop)
}

async fn run(session: &Session, mode: Mode, mut start: ExecStart, show: bool) -> anyhow::Result<Ended> {
    let client = session.client()?;
    if start.tty {
        start.size = size();
    }
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    let (with_input, with_terminal) = (start.stdin, start.tty && is_terminal());
    let output = session.shown("connecting to the container", open(&client, mode, start, receiver)).await?;
    // From here on keys belong to the process.
    let raw = if with_terminal && with_input { Some(Raw::enter()?) } else { None };
    if with_input {
        let sender = sender.clone();
        // Not a task: reading a terminal cannot be cancelled, and the process need not wait for this thread to end.
        std::thread::Builder::new().name("input".to_owned()).spawn(move || forward_input(&sender))?;
    }
    let outcome = relay(session, output, &sender, with_terminal, show).await;
    drop(raw);
    outcome
}

async fn open(
    client: &Client,
    mode: Mode,
    start: ExecStart,
    input: mpsc::Receiver<Message>,
) -> client::Result<BoxStream<'static, client::Result<ExecResponse>>> {
    let (pods, input) = (client.pods(), ReceiverStream::new(input));
    match mode {
        Mode::Exec => pods.exec(start, input).await,
        Mode::Attach => pods.attach(start, input).await,
    }
}

/// Sends standard input until it or the connection ends.
fn forward_input(sender: &mpsc::Sender<Message>) {
    let (mut input, mut piece) = (io::stdin(), vec![0; INPUT_PIECE]);
    loop {
        let message = match input.read(&mut piece) {
            Ok(0) => Message::StdinClosed(true),
            Ok(count) => Message::Stdin(Bytes::copy_from_slice(&piece[..count])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => Message::StdinClosed(true),
        };
        let last = matches!(message, Message::StdinClosed(_));
        if sender.blocking_send(message).is_err() || last {
            return;
        }
    }
}

/// Shows output, if wished, and passes on changes of the terminal's size.
async fn relay(
    session: &Session,
    mut output: BoxStream<'static, client::Result<ExecResponse>>,
    sender: &mpsc::Sender<Message>,
    with_terminal: bool,
    show: bool,
) -> anyhow::Result<Ended> {
    let mut seen = false;
    let (mut resized, mut hung_up, mut ended) =
        (listen(SignalKind::window_change())?, listen(SignalKind::hangup())?, listen(SignalKind::terminate())?);
    loop {
        tokio::select! {
            message = output.try_next() => match message?.map(|response| response.message) {
                None => return Ok(Ended { code: None, seen }),
                Some(Some(exec_response::Message::ExitCode(code))) => return Ok(Ended { code: Some(code), seen }),
                Some(Some(_)) if !show => {}
                Some(Some(exec_response::Message::Stdout(bytes))) => {
                    seen |= !bytes.is_empty();
                    session.console.print(bytes)?;
                }
                Some(Some(exec_response::Message::Stderr(bytes))) => {
                    seen |= !bytes.is_empty();
                    session.console.print_error(bytes)?;
                }
                Some(None) => {}
            },
            _ = resized.recv(), if with_terminal => {
                if let Some(size) = size() {
                    // Waiting here would hold up output; a queue this full means that the next size will do.
                    sender.try_send(Message::Resize(size)).ok();
                }
            }
            _ = hung_up.recv() => return Err(Exit::silent(129)),
            _ = ended.recv() => return Err(Exit::silent(143)),
        }
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot listen for signals")
}
