//! Hosts with a systemd of their own, and somebody who deploys to them: whatever follows `deploy/README.md` to the letter.
//!
//! Each host is a systemd-nspawn container over one shared Debian (`scripts/debian-root`), in a network namespace and cgroups of its own.
//! Their network has no link to the machine's. Names and directories are those of a [`Cluster`], so [`Cluster::down`] removes all of it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use crate::{
    cgroup,
    command::{check, run, sh},
    images, net,
    process::parent,
    progress::Progress,
    topology::{Cluster, Host, Size, repository},
    wait,
};

/// What a login as root has.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a host may take to boot; five of them share two cores.
const BOOT: Duration = Duration::from_secs(90);
/// `ssh` and `scp` towards the hosts, as far as the guide uses them.
const REMOTE: &str = r#"
ssh() {
    local host=${1#root@}
    nsenter --target "$(cat "inits/$host")" --all -- env -i HOME=/root PATH="$PATH" bash -c "${*:2}"
}
scp() {
    local to=${*: -1} file from
    for file in "${@:1:$#-1}"; do
        if [[ $file == root@*:* ]]; then
            from=${file%%:*}
            ssh "$from" "cat '${file#*:}'" >"$to"
        else
            ssh "${to%%:*}" "to='${to#*:}'; [ ! -d \"\$to\" ] || to=\$to/$(basename "$file")
                [ -e \"\$to\" ] || install -m $(stat -L -c %a "$file") /dev/null \"\$to\"; cat >\"\$to\"" <"$file"
        fi
    done
}
"#;

/// The five hosts of the guide, booted. They are gone when this is dropped.
#[derive(Debug)]
pub struct Hosts {
    /// Their names, addresses and directories. No daemon of it is ours to start: systemd does that.
    pub cluster: Cluster,
    /// The first process of each, by name.
    inits: BTreeMap<String, i32>,
}

/// A shell on a machine that reaches the hosts, in a directory that looks like this tree after a build.
#[derive(Debug)]
pub struct Operator {
    directory: PathBuf,
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    errors: PathBuf,
}

// === impl Hosts ===

impl Hosts {
    /// Boots them, after removing what an earlier run may have left.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn boot() -> anyhow::Result<Self> {
        run(&repository().join("scripts/debian-root").display().to_string(), [] as [&str; 0])?;
        let prefix: String = std::env::var("FERROKUBE_PREFIX").unwrap_or_else(|_| "fk".into()).chars().take(4).collect();
        // The addresses are the guide's, and nobody else's: this network is closed.
        let size = Size { nodes: 2, etcd: 3, apiservers: 2 };
        let cluster = Cluster::new(&repository().join(".cluster-hosts"), &format!("{prefix}h"), [10, 0, 0], size)?;
        cluster.down(&Progress::default())?;
        fs::create_dir_all(cluster.dir.join("log"))?;
        let mut hosts = Self { cluster, inits: BTreeMap::new() };
        hosts.connect()?;
        let all = hosts.cluster.hosts();
        let started = all.iter().map(|host| hosts.start(host)).collect::<anyhow::Result<Vec<_>>>()?;
        for (host, supervisor) in all.iter().zip(started) {
            let init = wait::until(&format!("{} to boot", host.name), BOOT, || hosts.booted(host, supervisor))
                .with_context(|| format!("see {}", hosts.console(host).display()))?;
            hosts.inits.insert(host.name.clone(), init);
            // nspawn leaves all groups but systemd's read-only; an engine on a host of its own makes some.
            hosts
                .run(host, "for group in /sys/fs/cgroup/*; do ! mountpoint -q $group || mount -o remount,bind,rw $group; done")?;
        }
        Ok(hosts)
    }

    /// A bridge in a namespace of its own, with a link to each host.
    fn connect(&self) -> anyhow::Result<()> {
        let lan = self.cluster.bridge();
        sh(&format!("ip netns add {lan}"))?;
        sh(&format!("ip -n {lan} link add br0 type bridge"))?;
        sh(&format!("ip -n {lan} addr add {}/24 dev br0", self.cluster.gateway()))?;
        sh(&format!("ip -n {lan} link set lo up"))?;
        sh(&format!("ip -n {lan} link set br0 up"))?;
        for Host { name, netns, address, .. } in self.cluster.hosts() {
            sh(&format!("ip netns add {netns}"))?;
            sh(&format!("ip -n {lan} link add {name} type veth peer name eth0 netns {netns}"))?;
            sh(&format!("ip -n {lan} link set {name} master br0 up"))?;
            sh(&format!("ip -n {netns} addr add {address}/24 dev eth0"))?;
            sh(&format!("ip -n {netns} link set lo up"))?;
            sh(&format!("ip -n {netns} link set eth0 up"))?;
            sh(&format!("ip -n {netns} route add default via {}", self.cluster.gateway()))?;
        }
        Ok(())
    }

    fn console(&self, host: &Host) -> PathBuf {
        self.cluster.dir.join("log").join(format!("{}.log", host.name))
    }

    /// Starts a host's container. Returns the process that looks after it.
    fn start(&self, host: &Host) -> anyhow::Result<i32> {
        let home = self.cluster.dir.join("data").join(&host.name);
        let [root, upper, work, docker] = ["root", "upper", "work", "docker"].map(|name| home.join(name));
        for directory in [&root, &upper.join("etc"), &work, &docker] {
            fs::create_dir_all(directory)?;
        }
        fs::write(upper.join("etc/hostname"), format!("{}\n", host.name))?;
        let lower = repository().join("target/debian");
        let layers = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        run("mount", ["-t", "overlay", "overlay", "-o", &layers, &root.display().to_string()])?;
        let console = File::create(self.console(host))?;
        let mut command = Command::new("systemd-nspawn");
        command
            .args(["--quiet", "--boot", "--register=no", "--keep-unit", "--console=read-only", "--link-journal=no"])
            .args(["--timezone=off", "--resolv-conf=off", "--capability=all", "--system-call-filter=@keyring bpf"])
            .arg(format!("--machine={}", host.name))
            .arg(format!("--directory={}", root.display()))
            // An overlay cannot lie on an overlay, and Docker's own has to.
            .arg(format!("--bind={}:/var/lib/docker", docker.display()))
            .arg(format!("--network-namespace-path={}", net::netns_path(&host.netns).display()))
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", if cgroup::is_unified() { "1" } else { "0" })
            // The daemons set sysctls of their network.
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console);
        let mut groups = cgroup::host_groups(host)?;
        let enter = move || {
            groups.iter_mut().try_for_each(|group| group.write_all(b"0"))?;
            nix::unistd::setsid()?;
            Ok(())
        };
        // SAFETY: between fork and exec only writes to open files and setsid are made.
        unsafe { command.pre_exec(enter) };
        let mut child = command.spawn().context("cannot start systemd-nspawn")?;
        let supervisor = i32::try_from(child.id())?;
        std::thread::spawn(move || child.wait());
        Ok(supervisor)
    }

    /// The first process of a host, once its systemd has started all it starts at boot.
    fn booted(&self, host: &Host, supervisor: i32) -> anyhow::Result<i32> {
        let init = cgroup::host_processes(host).into_iter().find(|pid| parent(*pid) == Some(supervisor)).context("no init")?;
        let state = inside(init, "systemctl is-system-running --wait")?;
        ensure!(state.trim() == "running", "{state}");
        Ok(init)
    }

    /// Runs a shell's words on a host, as root, and returns what they printed.
    ///
    /// # Errors
    /// When they fail.
    pub fn run(&self, host: &Host, words: &str) -> anyhow::Result<String> {
        let init = self.inits.get(&host.name).with_context(|| format!("{} is not booted", host.name))?;
        inside(*init, words).with_context(|| host.name.clone())
    }

    /// Gives a node the busybox image, which has a shell.
    ///
    /// # Errors
    /// When its engine does not take it.
    pub fn load_busybox(&self, host: &Host) -> anyhow::Result<()> {
        let init = self.inits.get(&host.name).with_context(|| format!("{} is not booted", host.name))?;
        let mut command =
            enter(*init, &format!("docker import --change 'CMD [\"sh\"]' --change 'ENV PATH=/bin' - {}", images::BUSYBOX));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let written = child.stdin.take().context("no stdin")?.write_all(&images::busybox()?);
        check(&command, child.wait_with_output()?)?;
        written.context("docker import took only a part")
    }

    /// A shell of somebody who deploys the programs in `programs`; the static ones are where cargo puts them beside it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn operator(&self, programs: &Path) -> anyhow::Result<Operator> {
        let directory = self.cluster.dir.join("operator");
        for folder in ["bin", "inits", "target/x86_64-unknown-linux-gnu"] {
            fs::create_dir_all(directory.join(folder))?;
        }
        for (name, init) in &self.inits {
            fs::write(directory.join("inits").join(name), init.to_string())?;
        }
        let link = |to: PathBuf, at: &str| {
            let to = to.canonicalize().with_context(|| to.display().to_string())?;
            std::os::unix::fs::symlink(&to, directory.join(at)).with_context(|| at.to_owned())
        };
        link(repository().join("deploy"), "deploy")?;
        link(programs.to_owned(), "target/release")?;
        link(programs.join("../x86_64-unknown-linux-gnu/release"), "target/x86_64-unknown-linux-gnu/release")?;
        let errors = self.cluster.dir.join("log/operator.log");
        let mut shell = Command::new("nsenter")
            .arg(format!("--net={}", net::netns_path(&self.cluster.bridge()).display()))
            .args(["unshare", "--mount", "bash", "--norc"])
            .current_dir(&directory)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&errors)?)
            .spawn()
            .context("cannot start a shell")?;
        let input = shell.stdin.take().context("no stdin")?;
        let output = BufReader::new(shell.stdout.take().context("no stdout")?);
        let mut operator = Operator { directory, shell, input, output, errors };
        // What the guide installs on this machine goes nowhere else.
        operator.run(&format!("set -e -o pipefail\nmount --bind bin /usr/local/bin\n{REMOTE}"))?;
        Ok(operator)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.down(&Progress::default()) {
            eprintln!("down: {error:#}");
        }
    }
}

fn enter(init: i32, words: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &init.to_string(), "--all", "--", "env", "-i", "HOME=/root"]);
    command.args([&format!("PATH={PATH}"), "bash", "-c", words]);
    command
}

fn inside(init: i32, words: &str) -> anyhow::Result<String> {
    crate::command::output_of(&mut enter(init, words))
}

// === impl Operator ===

impl Operator {
    /// Runs lines of shell, in the same shell as all before, and returns what they wrote to stdout.
    ///
    /// # Errors
    /// When a command fails, with the end of what was written to stderr. The shell has ended then.
    pub fn run(&mut self, lines: &str) -> anyhow::Result<String> {
        const DONE: &str = "--- done";
        fs::write(self.directory.join("lines"), lines)?;
        writeln!(self.input, "source ./lines </dev/null\necho; echo '{DONE}'")?;
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                let errors = fs::read_to_string(&self.errors).unwrap_or_default();
                let tail: Vec<_> = errors.lines().rev().take(20).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                bail!("this failed:\n{lines}\nstdout:\n{text}\nstderr ends:\n{}", tail.join("\n"));
            }
            if line.trim_end() == DONE {
                return Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned());
            }
            text.push_str(&line);
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}

/// The fenced blocks of the section of a Markdown text below `heading`, up to the next heading: those marked `language`, or without a
/// mark if that is empty.
pub fn blocks(text: &str, heading: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let mut blocks = Vec::new();
    while let Some(line) = lines.next().filter(|line| !line.starts_with('#')) {
        if !line.starts_with("```") {
            continue;
        }
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        if line == fence {
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sections_blocks_end_with_the_section() {
        let text = "# T\n```sh\na\n```\n## One\nx\n```sh\nb\n# no heading\nc\n```\n```\nd\n```\n## Two\n```sh\ne\n```\n";
        assert_eq!(blocks(text, "## One", "sh"), ["b\n# no heading\nc\n"]);
        assert_eq!(blocks(text, "## One", ""), ["d\n"]);
        assert_eq!(blocks(text, "## Two", "sh"), ["e\n"]);
    }
}
