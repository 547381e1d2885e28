//! Network namespaces and processes for the integration tests. Everything ends with the value that holds it, also when a test fails.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    future::Future,
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
