//! The kctl binary.

fn main() -> std::process::ExitCode {
    kctl::main(std::env::args_os())
}
