//! The kubelet binary.

fn main() -> std::process::ExitCode {
    daemon::main("kubelet", "127.0.0.1:10248", kubelet::run)
}
