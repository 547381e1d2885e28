//! Network namespaces and processes for the integration tests. Everything ends with the value that holds it, also when a test fails.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test states its claims by unwrapping")]

pub mod host;

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};

/// Runs a future on a runtime of one thread in a new network namespace, which goes away with it.
pub fn in_new_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(sh("ip link set lo up"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a shell command quietly in the calling thread's namespaces and says whether it succeeded.
pub fn sh(command: &str) -> bool {
    Command::new("sh").args(["-c", command]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

/// A process in a network namespace of its own, as a pod's sandbox is.
pub struct Sandbox(Child);

impl Sandbox {
    pub fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", child.id());
        wait_for("the sandbox's namespace", || std::fs::read_link(&theirs).is_ok_and(|link| link != own));
        Self(child)
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Runs a shell command in the sandbox's network namespace.
    pub fn run(&self, command: &str) -> bool {
        sh(&format!("nsenter -t {} --net sh -c '{command}'", self.pid()))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits until a condition holds, at most 20 seconds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} in time");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The pause binary, built now if it is not there: cargo builds a package's own programs for its tests, but not those of another package.
pub fn pause_binary() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let build = Command::new(env!("CARGO"))
        .current_dir(workspace)
        .args(["build", "--quiet", "-p", "pause", "--message-format=json"])
        .output();
    let messages = String::from_utf8(build.unwrap().stdout).unwrap();
    let executable =
        messages.lines().find_map(|line| line.split_once(r#""executable":""#)?.1.split_once('"').map(|(path, _)| path));
    executable.unwrap_or_else(|| panic!("cargo build -p pause made no program: {messages}")).into()
}

/// A Docker Engine of its own in a network namespace of its own.
pub struct Engine {
    dir: tempfile::TempDir,
    process: Option<Child>,
    sandbox: Sandbox,
}

impl Engine {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("fkkubelet").tempdir().unwrap();
        let mut engine = Self { dir, process: None, sandbox: Sandbox::new() };
        engine.launch();
        engine
    }

    /// Starts the engine (again) and waits until it answers.
    pub fn launch(&mut self) {
        let dir = self.dir.path().display();
        let command = format!(
            "exec nsenter -t {} --net dockerd --data-root {dir}/data --exec-root {dir}/exec --pidfile {dir}/pid -H unix://{dir}/sock \
             --bridge=none --iptables=false --cgroup-parent=/fkkubelet >>{dir}/log 2>&1",
            self.sandbox.pid()
        );
        self.process = Some(Command::new("sh").args(["-c", &command]).spawn().unwrap());
        wait_for("Docker Engine", || self.docker("info"));
    }

    /// Ends the engine as `systemctl stop docker` does.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            assert!(sh(&format!("kill {}", process.id())));
            process.wait().unwrap();
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The network namespace that the engine lives in, by a process in it.
    pub fn pid(&self) -> i32 {
        self.sandbox.pid()
    }

    /// Runs a docker command.
    pub fn docker(&self, arguments: &str) -> bool {
        sh(&format!("docker -H unix://{} {arguments}", self.socket().display()))
    }

    /// What a docker command prints.
    pub fn docker_output(&self, arguments: &str) -> String {
        let command = format!("docker -H unix://{} {arguments}", self.socket().display());
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Makes an image from the static busybox.
    pub fn add_busybox(&self, name: &str) {
        let command = format!(
            "mkdir -p {dir}/root/bin {dir}/root/tmp {dir}/root/etc && cp /bin/busybox {dir}/root/bin/ && \
             for a in sh sleep cat echo true false ls nc wget httpd id env kill ps stty dd wc hostname touch test trap vi; do ln -sf busybox {dir}/root/bin/$a; done; \
             tar -C {dir}/root -c . | docker -H unix://{sock} import -c 'CMD [\"sh\"]' -c 'ENV PATH=/bin' - {name}",
            dir = self.dir.path().display(),
            sock = self.socket().display()
        );
        assert!(sh(&command), "cannot make the image {name}");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let ids = self.docker_output("ps -aq").replace('\n', " ");
        if !ids.is_empty() {
            self.docker(&format!("rm -f {ids}"));
        }
        if let Some(mut process) = self.process.take() {
            sh(&format!("kill {}", process.id()));
            drop(process.wait());
        }
        let dir = self.dir.path().display();
        sh(&format!("grep ' {dir}' /proc/self/mountinfo | cut -d' ' -f5 | sort -r | xargs -r -n1 umount -l"));
        sh("find /sys/fs/cgroup/*/fkkubelet -depth -type d -exec rmdir {} +");
    }
}
