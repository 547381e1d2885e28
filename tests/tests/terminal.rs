//! Terminals, logs and figures: item 9 of what the first cluster must show.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::ensure;
use nix::pty::{Winsize, openpty};
use tests::{
    Cluster, command, images,
    kube::{Namespace, busybox},
    wait,
};

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(mut command: Command, rows: u16, columns: u16) -> Self {
        use std::os::unix::process::CommandExt;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        command.stdin(end(&pty.slave)).stdout(end(&pty.slave)).stderr(end(&pty.slave)).env("TERM", "xterm");
        // SAFETY: two system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(pty.slave);
        let keyboard = File::from(pty.master);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, seen) = (keyboard.try_clone().unwrap(), screen.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { child, keyboard, screen }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn expect(&self, text: &str) {
        wait::until(&format!("`{text}` on the screen"), Duration::from_secs(10), || {
            let screen = self.screen.lock().unwrap();
            ensure!(screen.contains(text), "{screen:?}");
            Ok(())
        })
        .unwrap();
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the size outlives the call.
        let outcome = unsafe { libc::ioctl(self.keyboard.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(outcome, 0);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already if the test succeeded.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn exec_is_a_working_terminal() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "terminal").unwrap();
    namespace.apply(&busybox("shell", "")).unwrap();
    namespace.wait_pod("shell").unwrap();
    let mut command = cluster.kctl_command();
    command.args(["-n", &namespace.name, "exec", "-it", "shell", "--", "sh"]);
    let mut terminal = Terminal::open(command, 31, 97);
    terminal.press("echo ready-$((1+1))\n");
    terminal.expect("ready-2");
    terminal.press("stty size\n");
    terminal.expect("31 97");
    terminal.resize(42, 120);
    thread::sleep(Duration::from_millis(300));
    terminal.press("stty size\n");
    terminal.expect("42 120");
    terminal.press("sleep 1000\n");
    thread::sleep(Duration::from_millis(300));
    terminal.press("\u{3}");
    terminal.press("echo alive-$((2+3))\n");
    terminal.expect("alive-5");
    terminal.press("exit 7\n");
    let code = wait::until("kctl to end", Duration::from_secs(10), || {
        let status = terminal.child.try_wait()?;
        ensure!(status.is_some(), "still running");
        Ok(status.and_then(|status| status.code()))
    });
    assert_eq!(code.unwrap(), Some(7));
}

#[test]
fn logs_follow_what_a_container_writes() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "logs").unwrap();
    let pod = busybox("talker", "")
        .replace("trap exit TERM; while :; do sleep 1; done", "n=0; while :; do n=$((n+1)); echo line $n; sleep 1; done");
    namespace.apply(&pod).unwrap();
    namespace.wait_pod("talker").unwrap();
    let mut command = cluster.kctl_command();
    command.args(["-n", &namespace.name, "logs", "-f", "talker"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first: Vec<_> = lines.take(4).map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(first, ["line 1", "line 2", "line 3", "line 4"]);
    let tail = namespace.kctl(&["logs", "talker", "--since=1h"]).unwrap();
    assert!(tail.starts_with("line 1\n"), "{tail}");
}

#[test]
fn top_agrees_with_docker() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "top").unwrap();
    // 40 MiB that stay resident: dd keeps a block of that size in its buffer while it waits for its slow input.
    let pod = busybox("eater", "").replace(
        "trap exit TERM; while :; do sleep 1; done",
        "sleep 1000 | dd bs=40M count=1 of=/dev/null & dd if=/dev/zero of=/dev/shm/x bs=1M count=40; wait",
    );
    namespace.apply(&pod).unwrap();
    let pod = namespace.wait_pod("eater").unwrap();
    let id = pod.containers[0].trim_start_matches("docker://").to_owned();
    let host = pod.host(&cluster).unwrap();
    wait::until("kctl top to agree with docker stats", Duration::from_secs(60), || {
        let docker =
            command::output_of(images::docker(&cluster, &host).args(["stats", "--no-stream", "--format", "{{.MemUsage}}", &id]))?;
        let docker = mebibytes(docker.split('/').next().unwrap_or_default())?;
        let table = namespace.kctl(&["top", "pods"])?;
        let row = table.lines().find(|line| line.starts_with("eater")).unwrap_or_default();
        let ours = mebibytes(row.split_whitespace().nth(2).unwrap_or_default())?;
        ensure!((ours - docker).abs() < 8.0, "kctl: {ours} MiB, docker: {docker} MiB");
        Ok(())
    })
    .unwrap();
    let table = cluster.kctl(&["top", "nodes"]).unwrap();
    assert_eq!(table.lines().count(), 1 + usize::from(cluster.size.nodes), "{table}");
}

/// `12.5MiB` and `12Mi` alike.
fn mebibytes(text: &str) -> anyhow::Result<f64> {
    let text = text.trim().trim_end_matches('B');
    let (number, scale) = match (text.strip_suffix("Ki"), text.strip_suffix("Mi"), text.strip_suffix("Gi")) {
        (Some(number), ..) => (number, 1.0 / 1024.0),
        (_, Some(number), _) => (number, 1.0),
        (.., Some(number)) => (number, 1024.0),
        _ => anyhow::bail!("`{text}` is no amount of memory"),
    };
    Ok(number.parse::<f64>()? * scale)
}
