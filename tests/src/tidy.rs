//! The rules of this tree that no compiler knows.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{command::run, topology::repository};

/// Past this a file is usually two.
const LINES: usize = 650;
/// What the daemons may share, from the ground up: each may use those before it.
const LAYERS: [&str; 4] = ["api", "store", "daemon", "client"];

/// The files git knows, or would add, that match `pattern`.
fn files(pattern: &str) -> Vec<PathBuf> {
    let root = repository();
    let place = root.display().to_string();
    // Whoever owns the tree: it is only read.
    let args = ["-c", "safe.directory=*", "-C", &place, "ls-files", "--cached", "--others", "--exclude-standard", "--", pattern];
    let mut files: Vec<_> = run("git", args).unwrap().lines().map(|name| root.join(name)).filter(|path| path.exists()).collect();
    files.sort();
    files.dedup();
    assert!(files.len() > 5, "only {} files match {pattern}", files.len());
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn no_file_holds_everything() {
    let long: Vec<_> = files("*.rs")
        .into_iter()
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > LINES)
        .map(|(lines, path)| format!("{}: {lines} lines; find the second room", path.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Reflection and `kctl explain` show them.
#[test]
fn everything_in_the_schema_is_explained() {
    let mut bare = Vec::new();
    for path in files("*.proto") {
        let text = read(&path);
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| declares(line)) {
            if !index.checked_sub(1).is_some_and(|before| lines[before].starts_with("//")) {
                bare.push(format!("{}:{}: {line}", path.display(), index + 1));
            }
        }
    }
    assert!(bare.is_empty(), "without a comment above:\n{}", bare.join("\n"));
}

/// Whether a line of a proto file declares something that has a meaning of its own: a message, service, call, field or value.
fn declares(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    match first {
        "message" | "enum" | "service" | "rpc" => line.ends_with(['{', '}', ';']),
        "option" | "reserved" | "syntax" | "import" | "package" | "//" | "extensions" => false,
        // Zero is what nobody chose.
        _ if first.ends_with("_UNSPECIFIED") => false,
        _ => {
            let number = line.split_once(" = ").map(|(_, rest)| rest.trim_end_matches([';', '[', ' ']));
            let named =
                first.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '.') && !first.contains(['(', ':']);
            named && number.is_some_and(|rest| rest.split([' ', ';']).next().is_some_and(|word| word.parse::<u32>().is_ok()))
        }
    }
}

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    let manifests: BTreeMap<_, _> = files("*Cargo.toml")
        .into_iter()
        .filter(|path| path.starts_with(repository().join("crates")))
        .filter_map(|path| Some((path.parent()?.file_name()?.to_str()?.to_owned(), read(&path))))
        .collect();
    let depends = |text: &str, on: &str| {
        let mut section = "";
        text.lines().any(|line| {
            section = if line.starts_with('[') { line } else { section };
            section == "[dependencies]" && line.split(['.', ' ', '=']).next() == Some(on)
        })
    };
    for (name, text) in &manifests {
        let place = LAYERS.iter().position(|layer| layer == name).unwrap_or(LAYERS.len());
        for other in manifests.keys().filter(|other| *other != name && depends(text, other)) {
            if LAYERS.iter().position(|layer| layer == other).is_none_or(|below| below >= place) {
                wrong.push(format!("{name} depends on {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_declaration_is_told_from_an_option() {
    for line in [
        "message Pod {",
        "rpc Get(GetRequest) returns (Object);",
        "string name = 1;",
        "optional int64 x = 2 [(a).b = true];",
        "ADDED = 1;",
    ] {
        assert!(declares(line), "{line}");
    }
    for line in [
        "",
        "}",
        "// string name = 1;",
        "option go_package = \"x\";",
        "TYPE_UNSPECIFIED = 0;",
        "default: \"a = 1\"",
        "oneof message {",
    ] {
        assert!(!declares(line), "{line}");
    }
}
