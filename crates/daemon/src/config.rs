//! The configuration file: a YAML mapping in which every flag stands under its camelCase name.
//!
//! The file is turned into flags before clap sees them, so a value means the same in both places and is checked once.
//! Invariant: a flag given on the command line, or by its environment variable, beats the file.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use clap::{ArgAction, Command, parser::ValueSource};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Why a configuration file cannot be used. Each names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not YAML.
    #[error("{path}:{line}: not YAML: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// The file is YAML of another shape than a mapping of flags.
    #[error("{path}:{line}: {reason}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was found and what belongs there.
        reason: String,
    },
    /// No flag has this name.
    #[error("{path}:{line}: unknown key `{key}`{}", suggestion.as_deref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The known key nearest to it.
        suggestion: Option<String>,
    },
}

/// The flags that a configuration file stands for.
#[derive(Debug, Default)]
pub(crate) struct FileFlags {
    /// Arguments as clap reads them, `--name=value`.
    pub(crate) argv: Vec<OsString>,
    /// Where each flag was set, as file, line and key, by long flag name.
    pub(crate) origin: BTreeMap<String, String>,
}

/// One key of the file with its values as written.
#[derive(Debug)]
struct Entry {
    key: String,
    line: usize,
    values: Vec<String>,
}

/// Reads `path` and turns every key that the command line does not set into a flag of `command`.
pub(crate) fn flags_from_file(command: &Command, argv: &[OsString], path: &Path) -> Result<FileFlags, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    let given = command.clone().ignore_errors(true).try_get_matches_from(argv).ok();
    let mut flags = FileFlags::default();
    for entry in parse(path, &text)? {
        let Some((long, arg)) = find_flag(command, &entry.key) else {
            return Err(ConfigError::UnknownKey {
                path: path.into(),
                line: entry.line,
                suggestion: nearest(command, &entry.key),
                key: entry.key,
            });
        };
        let source =
            given.as_ref().and_then(|m| m.try_contains_id(arg.get_id().as_str()).ok().and(m.value_source(arg.get_id().as_str())));
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        let shape = |reason: String| ConfigError::Shape { path: path.into(), line: entry.line, reason };
        match arg.get_action() {
            ArgAction::SetTrue => match entry.values.as_slice() {
                [value] if value == "true" => flags.argv.push(format!("--{long}").into()),
                [value] if value == "false" => continue,
                _ => return Err(shape(format!("`{}` takes true or false", entry.key))),
            },
            ArgAction::Append => flags.argv.extend(entry.values.iter().map(|value| format!("--{long}={value}").into())),
            _ => match entry.values.as_slice() {
                [value] => flags.argv.push(format!("--{long}={value}").into()),
                _ => return Err(shape(format!("`{}` takes one value", entry.key))),
            },
        }
        flags.origin.insert(long, format!("{}:{}: `{}`", path.display(), entry.line, entry.key));
    }
    Ok(flags)
}

/// The flag that `key` stands for, with its long name.
fn find_flag<'a>(command: &'a Command, key: &str) -> Option<(String, &'a clap::Arg)> {
    flags(command).find(|(long, _)| camel_case(long) == key).map(|(long, arg)| (long.to_owned(), arg))
}

/// Every flag that may stand in a file.
fn flags(command: &Command) -> impl Iterator<Item = (&str, &clap::Arg)> {
    command
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(|long| (long, arg)))
        .filter(|(long, _)| !matches!(*long, "config" | "help" | "version"))
}

fn nearest(command: &Command, key: &str) -> Option<String> {
    flags(command)
        .map(|(long, _)| camel_case(long))
        .map(|known| (strsim::osa_distance(&known.to_lowercase(), &key.to_lowercase().replace(['-', '_'], "")), known))
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .min()
        .map(|(_, known)| known)
}

fn camel_case(long: &str) -> String {
    let mut words = long.split('-');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

/// Reads the mapping. Values are kept as written: what they mean is the flag's business.
fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, ConfigError> {
    let shape =
        |span: Span, reason: &str| ConfigError::Shape { path: path.into(), line: span.start.line(), reason: reason.to_owned() };
    let mut events = Parser::new_from_str(text)
        .map(|event| {
            event.map_err(|error| ConfigError::Syntax {
                path: path.into(),
                line: error.marker().line(),
                reason: error.info().to_owned(),
            })
        })
        .filter(|event| !matches!(event, Ok((Event::Nothing | Event::StreamStart | Event::DocumentStart(_), _))));
    let mut entries: Vec<Entry> = Vec::new();
    match events.next().transpose()? {
        None | Some((Event::StreamEnd | Event::DocumentEnd, _)) => return Ok(entries),
        Some((Event::MappingStart(..), _)) => {}
        Some((Event::Scalar(value, ..), _)) if value.is_empty() || &*value == "~" => {
            return Ok(entries);
        }
        Some((_, span)) => return Err(shape(span, "expected a mapping of flag names to values")),
    }
    while let Some((event, span)) = events.next().transpose()? {
        let (key, line) = match event {
            Event::MappingEnd => break,
            Event::Scalar(key, ..) => (key.into_owned(), span.start.line()),
            _ => return Err(shape(span, "expected the name of a flag")),
        };
        if let Some(earlier) = entries.iter().find(|entry| entry.key == key) {
            return Err(shape(span, &format!("`{key}` is already set in line {}", earlier.line)));
        }
        let mut values = Vec::new();
        match events.next().transpose()? {
            Some((Event::Scalar(value, style, ..), span)) => {
                values.push(scalar(&value, style).ok_or_else(|| shape(span, "expected a value"))?)
            }
            Some((Event::SequenceStart(..), _)) => loop {
                match events.next().transpose()? {
                    Some((Event::Scalar(value, style, ..), span)) => {
                        values.push(scalar(&value, style).ok_or_else(|| shape(span, "expected a value"))?);
                    }
                    Some((Event::SequenceEnd, _)) | None => break,
                    Some((_, span)) => return Err(shape(span, "expected a list of plain values")),
                }
            },
            Some((_, span)) => return Err(shape(span, "expected a value or a list of values")),
            None => break,
        }
        entries.push(Entry { key, line, values });
    }
    if let Some((Event::MappingStart(..) | Event::SequenceStart(..) | Event::Scalar(..), span)) =
        events.find(|event| !matches!(event, Ok((Event::DocumentEnd, _)))).transpose()?
    {
        return Err(shape(span, "a configuration file holds one document"));
    }
    Ok(entries)
}

/// The text of a scalar; nothing for null.
fn scalar(value: &str, style: ScalarStyle) -> Option<String> {
    (style != ScalarStyle::Plain || !matches!(value, "" | "~" | "null")).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
        parse(Path::new("c.yaml"), text)
            .map(|entries| entries.into_iter().map(|e| (e.key, e.values)).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_kept_as_written() {
        let entries = read("a: 010\nb: \"x: y\"\nc: [1, two]\nd:\n- e\n").unwrap();
        assert_eq!(entries[0], ("a".into(), vec!["010".into()]));
        assert_eq!(entries[1], ("b".into(), vec!["x: y".into()]));
        assert_eq!(entries[2], ("c".into(), vec!["1".into(), "two".into()]));
        assert_eq!(entries[3], ("d".into(), vec!["e".into()]));
    }

    #[test]
    fn an_empty_file_sets_nothing() {
        assert!(read("").unwrap().is_empty());
        assert!(read("# only a comment\n").unwrap().is_empty());
        assert!(read("---\n").unwrap().is_empty());
    }

    #[test]
    fn errors_name_file_and_line() {
        assert_eq!(read("a: 1\n\na: 2\n").unwrap_err(), "c.yaml:3: `a` is already set in line 1");
        assert_eq!(read("a: 1\nb:\n  c: d\n").unwrap_err(), "c.yaml:3: expected a value or a list of values");
        assert_eq!(read("- a\n").unwrap_err(), "c.yaml:1: expected a mapping of flag names to values");
        assert_eq!(read("a:\n").unwrap_err(), "c.yaml:1: expected a value");
        assert!(read("a: 1\nb: [1,\n").unwrap_err().starts_with("c.yaml:"));
        assert!(read("a: 1\n---\nb: 2\n").unwrap_err().ends_with("one document"));
        assert!(read("a: &x 1\nb: *x\n").is_err());
    }

    #[test]
    fn flag_names_become_camel_case() {
        assert_eq!(camel_case("tls-cert-file"), "tlsCertFile");
        assert_eq!(camel_case("config"), "config");
    }
}
