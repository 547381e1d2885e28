//! Images without a registry: a static binary, a few directories, imported into each node's Docker Engine.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use crate::{
    command::check,
    progress::Progress,
    topology::{Cluster, Host},
};

/// The example application.
pub const GUESTBOOK: &str = "ferrokube/guestbook:1";
/// Debian's static busybox, with a shell and its usual tools.
pub const BUSYBOX: &str = "busybox:1.35";

/// Docker's client for a node's engine.
pub fn docker(cluster: &Cluster, host: &Host) -> Command {
    let mut command = Command::new("docker");
    command
        .arg("-H")
        .arg(format!("unix://{}", cluster.docker_socket(host).display()))
        .env("DOCKER_CONFIG", cluster.dir.join("conf"));
    command
}

/// Whether a node's engine answers.
///
/// # Errors
/// Why not.
pub fn ping(cluster: &Cluster, host: &Host) -> anyhow::Result<()> {
    let version = crate::command::output_of(docker(cluster, host).args(["version", "--format", "{{.Server.Version}}"]))?;
    ensure!(!version.trim().is_empty(), "no answer");
    Ok(())
}

/// Imports the images that a node's engine lacks.
///
/// # Errors
/// When an image cannot be made or imported.
pub fn up(cluster: &Cluster, progress: &Progress) -> anyhow::Result<()> {
    let mut loaded = Vec::new();
    for host in cluster.nodes() {
        if load_busybox(cluster, &host)? {
            loaded.push(format!("{BUSYBOX} on {}", host.name));
        }
        if load_guestbook(cluster, &host)? {
            loaded.push(format!("{GUESTBOOK} on {}", host.name));
        }
    }
    if !loaded.is_empty() {
        progress.did(format!("images: {}", loaded.join(", ")));
    }
    Ok(())
}

/// Imports [`BUSYBOX`] unless a node's engine has it. Says whether it did.
///
/// # Errors
/// When it cannot be made or imported.
pub fn load_busybox(cluster: &Cluster, host: &Host) -> anyhow::Result<bool> {
    import_unless_there(cluster, host, BUSYBOX, r#"CMD ["sh"]"#, busybox)
}

/// Imports [`GUESTBOOK`] unless a node's engine has it. Says whether it did.
///
/// # Errors
/// When it cannot be made or imported.
pub fn load_guestbook(cluster: &Cluster, host: &Host) -> anyhow::Result<bool> {
    let binary = cluster.bin("guestbook");
    let make = || archive(&[("guestbook", &binary)], &[]);
    import_unless_there(cluster, host, GUESTBOOK, r#"ENTRYPOINT ["/guestbook"]"#, make)
}

fn import_unless_there(
    cluster: &Cluster,
    host: &Host,
    name: &str,
    change: &str,
    make: impl FnOnce() -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<bool> {
    if crate::command::output_of(docker(cluster, host).args(["image", "inspect", name])).is_ok() {
        return Ok(false);
    }
    import(cluster, host, name, change, &make()?).map(|()| true)
}

/// Makes an image of one layer. `change` is a Dockerfile instruction such as `CMD ["sh"]`.
///
/// # Errors
/// When the engine refuses it.
pub fn import(cluster: &Cluster, host: &Host, name: &str, change: &str, layer: &[u8]) -> anyhow::Result<()> {
    let mut command = docker(cluster, host);
    command.args(["import", "--change", change, "--change", "ENV PATH=/bin", "-", name]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot run docker")?;
    let written = child.stdin.take().context("no stdin")?.write_all(layer);
    check(&command, child.wait_with_output()?)?;
    written.context("docker import took only a part")
}

/// The one layer of [`BUSYBOX`], a tar archive.
///
/// # Errors
/// When the machine's busybox cannot be read.
pub fn busybox() -> anyhow::Result<Vec<u8>> {
    let binary = Path::new("/bin/busybox");
    let applets = crate::command::sh("/bin/busybox --list")?;
    let links: Vec<_> = applets.lines().filter(|applet| *applet != "busybox").collect();
    archive(&[("bin/busybox", binary)], &links)
}

/// A root file system: `files` from this machine, `applets` as links to busybox, and the directories programs expect.
fn archive(files: &[(&str, &Path)], applets: &[&str]) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (directory, mode) in [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755)] {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        tar.append_data(&mut header, directory, std::io::empty())?;
    }
    for (path, source) in files {
        let contents = fs::read(source).with_context(|| source.display().to_string())?;
        tar.append_data(&mut header(tar::EntryType::Regular, 0o755, contents.len()), path, contents.as_slice())?;
    }
    for applet in applets {
        tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox")?;
    }
    for (path, contents) in [("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")] {
        tar.append_data(&mut header(tar::EntryType::Regular, 0o644, contents.len()), path, contents.as_bytes())?;
    }
    Ok(tar.into_inner()?)
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header
}
