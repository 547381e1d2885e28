//! The scheduler's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::main("scheduler", "127.0.0.1:10259", scheduler::run)
}
