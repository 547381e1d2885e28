//! The API server's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::main("apiserver", "127.0.0.1:10255", apiserver::run)
}
