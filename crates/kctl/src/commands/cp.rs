//! `kctl cp`: files as a tar archive through a container's `tar`.

use std::{
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, bail};
use api::{
    Bytes,
    core::v1::Pod,
    ferrokube::v1::{exec_request::Message, exec_response},
};
use futures::TryStreamExt as _;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;

use super::exec;
use crate::{Session, error::Exit, pods};

/// Pieces that may wait on their way.
const QUEUE: usize = 16;
/// Bytes in one piece towards the container.
const PIECE: usize = 32 << 10;

/// Copy files to and from containers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl cp ./site web:/srv/site                    a folder into a pod
  kctl cp shop/web:/var/log/app.log ./app.log     a file out of a pod in the namespace shop
  kctl cp ./app.conf web:/etc -c app              into one of its containers

The container needs the program tar. A local name with a colon is written with ./ before it. Of what a container holds, files and \
folders are copied; links and devices are left out with a warning.")]
pub struct Args {
    /// What to copy: a local path, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to: the other of the two
    #[arg(value_name = "TO")]
    to: String,
    /// The container
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Files in the container belong to the user there and have its usual permissions, not those that they have here
    #[arg(long)]
    no_preserve: bool,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Local(PathBuf),
    Remote { namespace: Option<String>, pod: String, path: String },
}

/// A container that can run commands.
struct Target<'a> {
    session: &'a Session,
    pod: Pod,
    container: String,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user; the exit code of the container's `tar`.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match (place(&args.from)?, place(&args.to)?) {
        (Place::Local(from), Place::Remote { namespace, pod, path }) => {
            if !from.exists() {
                bail!("{} doesn't exist in local filesystem", from.display());
            }
            let target = Target::find(session, &args, namespace, &pod).await?;
            upload(&target, from, &path, args.no_preserve).await
        }
        (Place::Remote { namespace, pod, path }, Place::Local(to)) => {
            let target = Target::find(session, &args, namespace, &pod).await?;
            download(&target, &path, to).await
        }
        (Place::Local(_), Place::Local(_)) => {
            bail!("one of src or dest must be a remote file specification: [NAMESPACE/]POD:PATH")
        }
        (Place::Remote { .. }, Place::Remote { .. }) => bail!("one of src or dest must be a local file specification"),
    }
}

fn place(text: &str) -> anyhow::Result<Place> {
    let wrong = || anyhow::anyhow!("\"{text}\": filespec must match the canonical format: [[namespace/]pod:]file/path");
    let (pod, path) = match text.split_once(':') {
        // A path with a colon in it.
        Some((before, _)) if before.starts_with(['.', '/']) => ("", text),
        Some((pod, path)) => (pod, path),
        None => ("", text),
    };
    if path.is_empty() {
        bail!("\"{text}\": filepath can not be empty");
    }
    if pod.is_empty() {
        return if text.starts_with(':') { Err(wrong()) } else { Ok(Place::Local(path.into())) };
    }
    let (namespace, pod) = match pod.split_once('/') {
        Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
        None => (None, pod),
    };
    if pod.is_empty() || pod.contains('/') || namespace.as_ref().is_some_and(String::is_empty) {
        return Err(wrong());
    }
    Ok(Place::Remote { namespace, pod: pod.to_owned(), path: path.to_owned() })
}

// === impl Target ===

impl<'a> Target<'a> {
    async fn find(session: &'a Session, args: &Args, namespace: Option<String>, name: &str) -> anyhow::Result<Self> {
        let namespace = namespace.map_or_else(|| session.namespace(), Ok)?;
        let request = session.client()?;
        let request = request.namespaced::<Pod>(&namespace);
        let pod = session.shown(&format!("reading pod/{name}"), request.get(name)).await?;
        if matches!(pod.status().phase.as_str(), "Succeeded" | "Failed") {
            bail!("cannot exec into a container in a completed pod; current phase is {}", pod.status().phase);
        }
        let container = pods::container(session, &pod, args.container.as_deref(), true)?;
        Ok(Self { session, pod, container })
    }

    /// Runs a command; its standard output goes to `out`, its standard error to ours. Returns its exit code.
    async fn exec(
        &self,
        command: &[&str],
        input: Option<mpsc::Receiver<Message>>,
        out: Option<mpsc::Sender<Bytes>>,
    ) -> anyhow::Result<i32> {
        let words = command.iter().map(|&word| word.to_owned()).collect();
        let start = exec::start(&self.pod, self.container.clone(), words, input.is_some(), false);
        let input = input.unwrap_or_else(|| mpsc::channel(1).1);
        let client = self.session.client()?.pods();
        let opened = client.exec(start, ReceiverStream::new(input));
        let mut output = self.session.shown("connecting to the container", opened).await?;
        while let Some(response) = output.try_next().await? {
            match response.message {
                Some(exec_response::Message::Stdout(bytes)) => {
                    let Some(out) = &out else { continue };
                    if out.send(bytes).await.is_err() {
                        bail!("nobody reads what the container sends");
                    }
                }
                Some(exec_response::Message::Stderr(bytes)) => self.session.console.print_error(bytes)?,
                Some(exec_response::Message::ExitCode(code)) => return Ok(code),
                None => {}
            }
        }
        bail!("the connection ended before the command did: what became of it is not known")
    }
}

fn ended(code: i32) -> anyhow::Result<()> {
    if code == 0 {
        return Ok(());
    }
    let message = Some(format!("command terminated with exit code {code}"));
    Err(Exit { code: u8::try_from(code).unwrap_or(1), message }.into())
}

/// What a thread that reads or writes an archive came to.
async fn joined(task: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    task.await.context("the archive's thread ended early")?
}

// === Into a container ===

async fn upload(target: &Target<'_>, from: PathBuf, to: &str, no_preserve: bool) -> anyhow::Result<()> {
    let own_name = from.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_owned()));
    let mut to = to.trim_end_matches('/').to_owned();
    let is_folder = to.is_empty() || target.exec(&["test", "-d", &to], None, None).await? == 0;
    if is_folder {
        let name = own_name.with_context(|| format!("{} has no name to copy it by", from.display()))?;
        to = format!("{to}/{}", name.to_str().context("its name is no UTF-8")?);
    }
    let (folder, name) = match to.rsplit_once('/') {
        Some(("", name)) => ("/", name.to_owned()),
        Some((folder, name)) => (folder, name.to_owned()),
        None => ("", to.clone()),
    };
    let mut command = vec!["tar"];
    if no_preserve {
        command.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    command.extend(["-xmf", "-"]);
    if !folder.is_empty() {
        command.extend(["-C", folder]);
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    let packing = tokio::task::spawn_blocking(move || {
        pack(&from, &name, Pieces { sender: sender.clone(), piece: Vec::new() })?;
        // A container that has ended wants no more.
        sender.blocking_send(Message::StdinClosed(true)).ok();
        Ok(())
    });
    let outcome = target.exec(&command, Some(receiver), None).await;
    let packed = joined(packing).await;
    match outcome {
        Ok(0) => packed,
        // Why it could not be written follows from this.
        Ok(code) => ended(code),
        Err(error) => Err(error),
    }
}

/// Writes a file or folder as an archive in which it has this name.
fn pack(from: &Path, name: &str, out: impl Write) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    let metadata = from.metadata().with_context(|| format!("cannot read {}", from.display()))?;
    let packed = if metadata.is_dir() {
        archive.append_dir_all(name, from)
    } else {
        // A link that is named is what it points to.
        archive.append_path_with_name(from.canonicalize().unwrap_or_else(|_| from.to_owned()), name)
    };
    packed.with_context(|| format!("cannot send {}", from.display()))?;
    archive.into_inner()?.flush().context("cannot send the end of the archive")
}

/// Sends what is written in pieces.
struct Pieces {
    sender: mpsc::Sender<Message>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        let gone = |_| io::Error::other("the container takes no more");
        self.sender.blocking_send(Message::Stdin(piece)).map_err(gone)
    }
}

// === Out of a container ===

async fn download(target: &Target<'_>, from: &str, to: PathBuf) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (console, prefix) = (target.session.console.clone(), from.to_owned());
    let unpacking = tokio::task::spawn_blocking(move || {
        unpack(Incoming { receiver, piece: Bytes::new() }, &prefix, &to, |warning| console.note(warning))
    });
    let outcome = target.exec(&["tar", "cf", "-", from], None, Some(sender)).await;
    // What could not be written here is why the container's end failed, if it did.
    let unpacked = joined(unpacking).await;
    match outcome {
        Ok(0) => unpacked,
        Ok(code) => ended(code),
        Err(error) => unpacked.and(Err(error)),
    }
}

/// Reads what comes in pieces.
struct Incoming {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// The names of a path, without its root and what `.` and leading `..` say: what `tar` calls the files by.
fn names(path: &Path) -> Vec<&std::ffi::OsStr> {
    let mut names: Vec<_> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => {
                names.pop();
            }
            _ => {}
        }
    }
    names
}

/// Writes the files and folders of an archive of `from` to `to`, and nothing anywhere else.
fn unpack(archive: impl Read, from: &str, to: &Path, mut warn: impl FnMut(String)) -> anyhow::Result<()> {
    let prefix = names(Path::new(from));
    let mut archive = tar::Archive::new(archive);
    let mut any = false;
    for entry in archive.entries()? {
        let mut entry = entry.context("cannot read what the container sends")?;
        let path = entry.path().context("a name in the archive cannot be read")?.into_owned();
        let escapes = path.components().any(|component| component == Component::ParentDir);
        let inside =
            (!escapes).then(|| names(&path)).and_then(|names| Some(names.strip_prefix(&*prefix)?.iter().collect::<PathBuf>()));
        let Some(inside) = inside else {
            bail!("tar contents corrupted: {} is outside of {from}, nothing more is copied", path.display());
        };
        any = true;
        let mut target = if inside.as_os_str().is_empty() { to.to_owned() } else { to.join(&inside) };
        let kind = entry.header().entry_type();
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        if kind.is_dir() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(mode | 0o700).create(&target);
            made.with_context(|| format!("cannot make the folder {}", target.display()))?;
        } else if kind.is_file() {
            if inside.as_os_str().is_empty() && target.is_dir() {
                target.extend(prefix.last());
            }
            write_file(&mut entry, &target, mode).with_context(|| format!("cannot write {}", target.display()))?;
        } else if kind.is_symlink() || kind.is_hard_link() {
            let link = entry.link_name().ok().flatten().unwrap_or_default();
            warn(format!("warning: skipping symlink: {:?} -> {:?}", target.display(), link.display()));
        } else {
            warn(format!("warning: skipping {:?}: it is no file, folder or link", target.display()));
        }
    }
    if any { Ok(()) } else { bail!("{from}: the container sent nothing") }
}

fn write_file(entry: &mut impl Read, target: &Path, mode: u32) -> io::Result<()> {
    if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(target)?;
    io::copy(entry, &mut file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    fn remote(namespace: Option<&str>, pod: &str, path: &str) -> Place {
        Place::Remote { namespace: namespace.map(str::to_owned), pod: pod.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn places_are_read_as_kubectl_reads_them() {
        assert_eq!(place("web:/tmp/a").unwrap(), remote(None, "web", "/tmp/a"));
        assert_eq!(place("shop/web:a:b").unwrap(), remote(Some("shop"), "web", "a:b"));
        assert_eq!(place("/tmp/a").unwrap(), Place::Local("/tmp/a".into()));
        assert_eq!(place("./a:b").unwrap(), Place::Local("./a:b".into()));
        for wrong in ["", ":a", "web:", "a/b/c:d", "/web:", "/:a:"] {
            assert!(place(wrong).is_err() || matches!(place(wrong), Ok(Place::Local(_))), "{wrong}");
        }
        assert!(place("a/b/c:d").is_err() && place(":a").is_err() && place("web:").is_err());
    }

    #[test]
    fn what_is_packed_is_what_is_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("site");
        std::fs::create_dir_all(source.join("deep/empty")).unwrap();
        std::fs::write(source.join("index.html"), "hello").unwrap();
        std::fs::write(source.join("deep/large"), vec![7; 100_000]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", source.join("link")).unwrap();
        let mut archive = Vec::new();
        pack(&source, "srv", &mut archive).unwrap();
        let (target, mut warnings) = (folder.path().join("copy"), Vec::new());
        unpack(archive.as_slice(), "/./srv/", &target, |warning| warnings.push(warning)).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("index.html")).unwrap(), "hello");
        assert_eq!(std::fs::read(target.join("deep/large")).unwrap().len(), 100_000);
        assert!(target.join("deep/empty").is_dir() && !target.join("link").exists());
        assert!(warnings.len() == 1 && warnings[0].contains("skipping symlink"), "{warnings:?}");
        // One file, into a folder and to a name.
        let mut archive = Vec::new();
        pack(&source.join("index.html"), "tmp/x.html", &mut archive).unwrap();
        unpack(archive.as_slice(), "/tmp/x.html", &target, |_| ()).unwrap();
        unpack(archive.as_slice(), "/tmp/x.html", &target.join("new/y.html"), |_| ()).unwrap();
        assert!(target.join("x.html").is_file() && target.join("new/y.html").is_file());
    }

    #[test]
    fn an_archive_that_reaches_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("in");
        for name in ["a/../../out", "/etc/out", "b/out", "../out"] {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(1);
            header.set_mode(0o644);
            header.set_cksum();
            let mut archive = tar::Builder::new(Vec::new());
            archive.append(&header, [7].as_slice()).unwrap();
            let archive = archive.into_inner().unwrap();
            let error = unpack(archive.as_slice(), "/a", &target, |_| ()).unwrap_err().to_string();
            assert!(error.starts_with("tar contents corrupted"), "{name}: {error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn both_sides_are_told_apart() {
        let bench = Bench::new();
        assert!(bench.fails("cp a b").await.contains("remote file specification"));
        assert!(bench.fails("cp a:/x b:/y").await.contains("local file specification"));
        assert!(bench.fails("cp /nowhere web:/x").await.contains("doesn't exist in local filesystem"));
        assert!(bench.fails("cp web:/x ./y").await.contains("pods \"web\" not found"));
    }
}
