#!/usr/bin/env bash
# Linux's rtnetlink (seen on 6.18), and the crate rtnetlink 0.24.0 (netlink-proto 0.14.1, tokio 1.54.1). Runs as root,
# in a network namespace of its own, in which there is the loopback device and nothing else.
#
# 1. A netlink socket carries one dump at a time. A second RTM_GETLINK with NLM_F_DUMP, sent on the same socket before
#    the end of the first was read, is taken by send() and then answered by an error message with EBUSY (os error 16).
#    One single link is enough: its dump takes two reads, as NLMSG_DONE comes in a datagram of its own.
# 2. All clones of a Handle of rtnetlink share one socket, and the connection sends a request as soon as it is woken,
#    also in the middle of a dump. With one link and with 51 alike: of 200 lists by 50 tasks, 76 failed on a runtime of
#    one thread and 6 to 171 on several, each with "Received a netlink error message Device or resource busy (os error
#    16)" and no link; two tasks were enough (3 of 8 lists). One task alone never failed, and of 50 tasks that
#    list once each, on one thread, one did or none: it takes a request that comes while another's answer is being read.
#
# What follows: who shares a Handle makes one list at a time (a mutex held until the stream's end), or takes a
# connection for each list, or tries again on EBUSY, which says nothing about the links: it must count neither as "the
# link is absent" nor as a broken node. A test that lists one after the other, or once in a burst, hardly shows it.
set -euo pipefail

if [[ ${1:-} != inside ]]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    mkdir "$dir/src"
    cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "probe"
version = "0.0.0"
edition = "2021"

[dependencies]
futures-util = "0.3"
netlink-proto = "=0.14.1"
rtnetlink = "=0.24.0"
tokio = { version = "=1.54.1", features = ["rt-multi-thread"] }

[workspace]
TOML
    cat >"$dir/src/main.rs" <<'RUST'
use std::collections::BTreeMap;

use futures_util::stream::TryStreamExt;
use tokio::runtime::Builder;

async fn list(handle: &rtnetlink::Handle) -> String {
    let mut links = handle.link().get().execute();
    let mut n = 0;
    loop {
        match links.try_next().await {
            Ok(Some(_)) => n += 1,
            Ok(None) => return format!("{n} found"),
            Err(e) => return format!("{n} found, then: {e}"),
        }
    }
}

async fn probe(tasks: usize, rounds: usize) {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let mut running = Vec::new();
    for _ in 0..tasks {
        let handle = handle.clone();
        running.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..rounds {
                seen.push(list(&handle).await);
            }
            seen
        }));
    }
    let mut seen = BTreeMap::<String, u32>::new();
    for task in running {
        for one in task.await.unwrap() {
            *seen.entry(one).or_default() += 1;
        }
    }
    for (what, n) in seen {
        println!("  {n} x {what}");
    }
}

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    println!("1 thread, 50 tasks with 1 list each:");
    runtime.block_on(probe(50, 1));
    for workers in [1, 2, 4] {
        let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        let runtime = builder.worker_threads(workers).enable_all().build().unwrap();
        for tasks in [1, 2, 50] {
            println!("{workers} threads, {tasks} tasks with 4 lists each:");
            runtime.block_on(probe(tasks, 4));
        }
    }
}
RUST
    CARGO_TARGET_DIR=$dir/target cargo build -q -j 1 --manifest-path "$dir/Cargo.toml"
    unshare -n "$0" inside "$dir"
    exit
fi

# In the namespace, which goes with its last process.
dir=$2
failed=0
cat >"$dir/bare.py" <<'PY'
import errno, socket, struct

DONE, ERROR, GETLINK, REQUEST, DUMP = 3, 2, 18, 1, 0x300
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
s.bind((0, 0))
s.settimeout(5)
for seq in (1, 2):
    s.send(struct.pack("=IHHII", 32, GETLINK, REQUEST | DUMP, seq, 0) + bytes(16))
ends = {}
while len(ends) < 2:
    data = s.recv(1 << 20)
    while data:
        length, kind, _, seq, _ = struct.unpack_from("=IHHII", data)
        if kind == DONE:
            ends[seq] = "done"
        elif kind == ERROR:
            ends[seq] = errno.errorcode[-struct.unpack_from("=i", data, 16)[0]]
        data = data[(length + 3) & ~3:]
print("first %s, second %s" % (ends[1], ends[2]))
PY

# expect WHAT SEEN WANTED
expect() {
    printf '%s: %s\n' "$1" "$2"
    if [[ $2 != "$3" ]]; then printf '  CHANGED, it was: %s\n' "$3"; failed=1; fi
}
expect 'bare socket, two dumps' "$(python3 "$dir/bare.py")" 'first done, second EBUSY'

timeout 60 "$dir/target/debug/probe" | tee "$dir/seen"
busy='0 found, then: Received a netlink error message Device or resource busy (os error 16)'
awk -v busy="$busy" '
    /tasks with/ { tasks = $3 " x " $6; next }
    index($0, " x 1 found") { good[tasks] += $1; next }
    index($0, " x " busy) { bad[tasks] += $1; next }
    { other++ }
    END { exit !(good["1 x 4"] == 12 && good["50 x 4"] > 0 && bad["50 x 4"] > 0 && !other) }
' "$dir/seen" || { echo 'CHANGED, it was: of the lists of 50 tasks some fail with EBUSY, the others never'; failed=1; }
exit "$failed"
