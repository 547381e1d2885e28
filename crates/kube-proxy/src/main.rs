//! The kube-proxy binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::main("kube-proxy", "127.0.0.1:10256", kube_proxy::run)
}
