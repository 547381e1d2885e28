//! Plugins: programs named `kctl-…` on PATH, and `kctl plugin list`.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
};

use anyhow::bail;
use clap::Subcommand;

use crate::{Session, console::Console};

/// What the names of plugins begin with.
const PREFIX: &str = "kctl-";

/// Programs that add commands
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl plugin list

A program kctl-foo-bar on PATH is the command `kctl foo bar`; of several that fit, the longest name wins. Underscores in its name are \
dashes in the command: kctl-foo_bar is `kctl foo-bar`. Commands of kctl itself cannot be replaced.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    List(ListArgs),
}

/// List the programs on PATH that are plugins
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl plugin list
  kctl plugin list --name-only")]
pub struct ListArgs {
    /// Only the names of the programs, without their folders
    #[arg(long)]
    name_only: bool,
}

/// Runs the command.
///
/// # Errors
/// When there are no plugins, or some cannot be used.
pub fn run(session: &Session, args: &Args, command: &clap::Command) -> anyhow::Result<()> {
    let What::List(args) = &args.what;
    list(session, args, command, &std::env::var_os("PATH").unwrap_or_default())
}

fn list(session: &Session, args: &ListArgs, command: &clap::Command, path: &OsStr) -> anyhow::Result<()> {
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    let (mut found, mut warnings) = (Vec::new(), 0);
    for folder in std::env::split_paths(path).filter(|folder| !folder.as_os_str().is_empty()) {
        // A folder of PATH that is not there is nobody's fault.
        let mut entries: Vec<_> = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for file in entries {
            let Some(name) = file.file_name().and_then(OsStr::to_str).filter(|name| name.starts_with(PREFIX)) else { continue };
            let name = name.to_owned();
            found.push(if args.name_only { name.clone() } else { file.display().to_string() });
            let mut warn = |text: String| {
                found.push(format!("  - warning: {text}"));
                warnings += 1;
            };
            let words: Vec<String> = name[PREFIX.len()..].split('-').map(|word| word.replace('_', "-")).collect();
            if words.first().is_some_and(|word| is_own(command, word)) {
                warn(format!("{name} overwrites existing command: \"kctl {}\"", words.join(" ")));
            }
            if !is_executable(&file) {
                warn(format!("{} identified as a kctl plugin, but it is not executable", file.display()));
            }
            match seen.get(&name) {
                Some(first) => {
                    warn(format!("{} is overshadowed by a similarly named plugin: {}", file.display(), first.display()));
                }
                None => {
                    seen.insert(name, file);
                }
            }
        }
    }
    if found.is_empty() {
        bail!("unable to find any kctl plugins in your PATH");
    }
    session.console.line(format!("The following compatible plugins are available:\n\n{}", found.join("\n")))?;
    match warnings {
        0 => Ok(()),
        1 => bail!("one plugin warning was found"),
        count => bail!("{count} plugin warnings were found"),
    }
}

fn is_own(command: &clap::Command, word: &str) -> bool {
    word == "help" || command.find_subcommand(word).is_some()
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Becomes the plugin that a command line means. Returns if there is none.
pub fn become_one(args: &[OsString], command: &clap::Command, console: &Console) {
    let Some((program, rest)) = find(args, command, &std::env::var_os("PATH").unwrap_or_default()) else { return };
    let error = std::process::Command::new(&program).args(rest).exec();
    console.note(format!("error: cannot run {}: {error}", program.display()));
    std::process::exit(1);
}

/// The plugin with the longest name that the words before the first flag spell, and what is left for it.
fn find<'a>(args: &'a [OsString], command: &clap::Command, path: &OsStr) -> Option<(PathBuf, &'a [OsString])> {
    let args = args.get(1..)?;
    let words: Vec<&str> = args
        .iter()
        .map_while(|arg| arg.to_str().filter(|word| !word.starts_with('-') && !word.is_empty() && !word.contains('/')))
        .collect();
    if is_own(command, words.first()?) {
        return None;
    }
    for count in (1..=words.len()).rev() {
        let name: Vec<String> = words[..count].iter().map(|word| word.replace('-', "_")).collect();
        let name = format!("{PREFIX}{}", name.join("-"));
        let program = std::env::split_paths(path).map(|folder| folder.join(&name)).find(|file| is_executable(file));
        if let Some(program) = program {
            return Some((program, &args[count..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli, testing::Bench};

    fn folder(names: &[(&str, u32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in names {
            let path = folder.path().join(name);
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode)).unwrap();
        }
        folder
    }

    #[test]
    fn the_longest_name_wins_and_commands_of_our_own_stay() {
        let folder = folder(&[
            ("kctl-foo", 0o755),
            ("kctl-foo-bar", 0o755),
            ("kctl-foo-baz", 0o644),
            ("kctl-a_b", 0o755),
            ("kctl-get", 0o755),
        ]);
        let found = |line: &str| {
            let args: Vec<OsString> = std::iter::once("kctl").chain(line.split(' ')).map(OsString::from).collect();
            let (program, rest) = find(&args, &cli::command(), folder.path().as_os_str())?;
            let rest: Vec<_> = rest.iter().map(|arg| arg.to_str().unwrap().to_owned()).collect();
            Some(format!("{} {}", program.file_name().unwrap().to_str().unwrap(), rest.join(" ")))
        };
        assert_eq!(found("foo bar x -n y").unwrap(), "kctl-foo-bar x -n y");
        assert_eq!(found("foo baz").unwrap(), "kctl-foo baz");
        assert_eq!(found("foo -x bar").unwrap(), "kctl-foo -x bar");
        assert_eq!(found("a-b").unwrap(), "kctl-a_b ");
        for line in ["get pods", "nobody", "-n x foo", "help foo", "log x"] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn plugins_are_listed_with_what_is_wrong_with_them() {
        let (first, second) =
            (folder(&[("kctl-foo", 0o755), ("kctl-get-x", 0o755)]), folder(&[("kctl-foo", 0o644), ("other", 0o755)]));
        let path = std::env::join_paths([first.path(), second.path(), Path::new("/nowhere")]).unwrap();
        let bench = Bench::new();
        let outcome = list(&bench.session(&[]), &ListArgs { name_only: true }, &cli::command(), &path);
        assert_eq!(outcome.unwrap_err().to_string(), "3 plugin warnings were found");
        let text = bench.output();
        assert!(text.starts_with("The following compatible plugins are available:\n\nkctl-foo\nkctl-get-x\n"), "{text}");
        assert!(text.contains("overwrites existing command: \"kctl get x\"") && text.contains("overshadowed"), "{text}");
        assert!(list(&bench.session(&[]), &ListArgs { name_only: true }, &cli::command(), OsStr::new("/nowhere")).is_err());
    }
}
