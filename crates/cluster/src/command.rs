//! Running other programs and saying what went wrong.

use std::{
    ffi::OsStr,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, bail};

/// Runs a program to its end and returns what it wrote to stdout.
///
/// # Errors
/// When it cannot be started or fails; the error holds the command line and what it wrote to stderr.
pub fn run(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    output_of(&mut command)
}

/// Runs a program given as words separated by spaces.
///
/// # Errors
/// As [`run`].
pub fn sh(words: &str) -> anyhow::Result<String> {
    let mut words = words.split_whitespace();
    run(words.next().unwrap_or_default(), words)
}

/// Whether a program given as words succeeds.
pub fn succeeds(words: &str) -> bool {
    sh(words).is_ok()
}

/// Runs `command` to its end, without input, and returns its stdout.
///
/// # Errors
/// As [`run`].
pub fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", describe(command)))?;
    check(command, output)
}

/// stdout of a finished command.
///
/// # Errors
/// When it failed.
pub fn check(command: &Command, output: Output) -> anyhow::Result<String> {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", describe(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_command_and_stderr() {
        let error = sh("ls /nonexistent-dir").unwrap_err().to_string();
        assert!(error.contains("ls /nonexistent-dir") && error.contains("No such file"), "{error}");
    }
}
