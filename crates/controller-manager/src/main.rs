//! The controller manager's process.

fn main() -> std::process::ExitCode {
    daemon::main("controller-manager", "127.0.0.1:10257", controller_manager::run)
}
