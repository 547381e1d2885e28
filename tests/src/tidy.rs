//! The rules of this tree that no compiler knows. Each is a function from a text to what is wrong with it, so that each can be shown to fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{command::run, topology::repository};

/// Past this a file is usually two.
const LINES: usize = 600;
/// The library crates, and which of our own crates each may use. A program may use any library, and no program.
const LIBRARIES: [(&str, &[&str]); 6] = [
    ("api", &[]),
    ("net", &[]),
    ("store", &["api"]),
    ("daemon", &["api"]),
    ("client", &["api", "daemon"]),
    ("workload", &["api", "client"]),
];
/// Files and directories of these names hold tests, or what only tests use.
const TESTS: [&str; 4] = ["tests", "testing", "fake", "support"];

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

/// The sources of the crates that run, without their tests.
fn sources() -> Vec<PathBuf> {
    files("crates/*/src/*.rs").into_iter().filter(|path| !is_test(path)).collect()
}

/// Whether a file holds nothing but tests, as its name or its directory's says.
fn is_test(path: &Path) -> bool {
    let names = path.with_extension("");
    let inside = names.iter().skip_while(|name| *name != "src").filter_map(|name| name.to_str());
    inside.into_iter().any(|name| TESTS.contains(&name) || name.ends_with("_tests"))
}

/// Panics with what `rule` finds in any of the files.
fn holds(files: Vec<PathBuf>, rule: impl Fn(&str) -> Vec<(usize, String)>) {
    let mut wrong = Vec::new();
    for path in files {
        wrong.extend(rule(&read(&path)).into_iter().map(|(line, what)| format!("{}:{line}: {what}", path.display())));
    }
    assert!(wrong.is_empty(), "{} places:\n{}", wrong.len(), wrong.join("\n"));
}

/// The lines, with their numbers from 1, that are not of items under `#[cfg(test)]`. Relies on rustfmt: an item ends at its own indentation.
fn code(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        if !line.trim_start().starts_with("#[cfg(test)]") && !line.trim_start().starts_with("#[cfg(any(test") {
            kept.push((number, line));
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let item = lines.by_ref().find(|(_, line)| !line.trim_start().starts_with("#["));
        if item.is_some_and(|(_, line)| !line.trim_end().ends_with([';', '}', ','])) {
            let ends = |line: &str| line.strip_prefix(indent).is_some_and(|rest| rest.starts_with(['}', ')', ']']));
            lines.by_ref().find(|(_, line)| ends(line));
        }
    }
    kept
}

/// A line without its comment.
fn uncommented(line: &str) -> &str {
    if line.trim_start().starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) }
}

#[test]
fn no_file_holds_everything() {
    holds(files("*.rs").into_iter().filter(|path| path.iter().any(|name| name == "src")).collect(), too_long);
}

fn too_long(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().count();
    if lines > LINES { vec![(lines, format!("{lines} lines, more than {LINES}; find the second room"))] } else { Vec::new() }
}

/// Clippy's lints find these too, by type; this finds where one was allowed.
#[test]
fn nothing_panics_on_purpose() {
    holds(sources(), panics);
}

fn panics(text: &str) -> Vec<(usize, String)> {
    const CALLS: [&str; 5] = [".unwrap()", ".expect(\"", "panic!(", "todo!(", "unimplemented!("];
    const ALLOWED: [&str; 3] = ["clippy::unwrap_used", "clippy::expect_used", "clippy::panic"];
    // A parser's own `expect` is another's; what is generated is checked where it is generated.
    let own = |line: &str| line.contains("self.expect(") || line.starts_with("#[allow(missing_docs, clippy::");
    let found =
        |line: &str| CALLS.iter().chain(&ALLOWED).find(|call| line.contains(**call) && !own(line)).map(|call| (*call).to_owned());
    code(text).into_iter().filter_map(|(number, line)| Some((number, found(uncommented(line))?))).collect()
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    holds(sources(), unexplained_unsafe);
}

fn unexplained_unsafe(text: &str) -> Vec<(usize, String)> {
    let lines = code(text);
    let begins = |line: &str| ["unsafe {", "unsafe impl", "unsafe fn"].iter().any(|word| uncommented(line).contains(word));
    // The comment stands before the statement, whose first lines may come between.
    let said = |at: usize| lines[at.saturating_sub(4)..at].iter().any(|(_, line)| line.contains("// SAFETY: "));
    let wrong = lines.iter().enumerate().filter(|(at, (_, line))| begins(line) && !said(*at));
    wrong.map(|(_, (number, _))| (*number, "unsafe without `// SAFETY: ` above".to_owned())).collect()
}

#[test]
fn every_public_function_that_can_fail_says_when() {
    holds(sources(), silent_about_errors);
}

fn silent_about_errors(text: &str) -> Vec<(usize, String)> {
    let lines = code(text);
    let mut wrong = Vec::new();
    for (at, (number, line)) in lines.iter().enumerate() {
        let Some(name) = public_function(line) else { continue };
        let mut signature = String::new();
        for (_, line) in &lines[at..] {
            signature.push_str(line.trim());
            if signature.ends_with(['{', ';', '}']) {
                break;
            }
        }
        let returned = signature.rsplit_once("-> ").map(|(_, returned)| returned.split('<').next().unwrap_or(returned));
        let fallible = returned.is_some_and(|kind| kind.rsplit("::").next() == Some("Result"));
        let mut documented =
            lines[..at].iter().rev().map(|(_, line)| line.trim()).take_while(|line| line.starts_with(['/', '#']));
        if fallible && !documented.any(|line| line == "/// # Errors") {
            wrong.push((*number, format!("`{name}` returns a Result and has no `# Errors`")));
        }
    }
    wrong
}

/// The name of the function that a line declares for everybody.
fn public_function(line: &str) -> Option<&str> {
    let mut rest = line.trim_start().strip_prefix("pub ")?;
    for word in ["const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// Reflection and `kctl explain` show them.
#[test]
fn everything_in_the_schema_is_explained() {
    holds(files("*.proto"), unexplained);
}

fn unexplained(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let bare = |at: usize| !at.checked_sub(1).is_some_and(|before| lines[before].starts_with("//"));
    let wrong = lines.iter().enumerate().filter(|(at, line)| declares(line) && bare(*at));
    wrong.map(|(at, line)| (at + 1, format!("no comment above: {line}"))).collect()
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
    let manifests = files("crates/*/Cargo.toml");
    let crates: BTreeMap<String, String> =
        manifests.iter().filter_map(|path| Some((path.parent()?.file_name()?.to_str()?.to_owned(), read(path)))).collect();
    let wrong = wrong_dependencies(&crates);
    assert!(wrong.is_empty(), "see Rules and The tree in ARCHITECTURE.md: {wrong:#?}");
}

/// What uses what it may not, of our own crates' manifests by name.
fn wrong_dependencies(crates: &BTreeMap<String, String>) -> Vec<String> {
    let uses = |text: &str, other: &str| {
        let mut section = "";
        text.lines().any(|line| {
            section = if line.starts_with('[') { line } else { section };
            section == "[dependencies]" && line.split(['.', ' ', '=']).next() == Some(other)
        })
    };
    let libraries = BTreeMap::from(LIBRARIES);
    let mut wrong = Vec::new();
    for (name, text) in crates {
        for other in crates.keys().filter(|other| *other != name && uses(text, other)) {
            let may = match libraries.get(name.as_str()) {
                Some(may) => may.contains(&other.as_str()),
                None => libraries.contains_key(other.as_str()),
            };
            if !may {
                wrong.push(format!("{name} uses {other}"));
            }
        }
    }
    wrong
}

/// `cargo deny` checks this too, where it is installed.
#[test]
fn what_stands_twice_in_the_lock_is_known() {
    let root = repository();
    let unknown = unknown_duplicates(&read(&root.join("Cargo.lock")), &read(&root.join("deny.toml")));
    assert!(unknown.is_empty(), "neither one version nor a reason under `skip` in deny.toml: {unknown:?}");
}

/// The crates that a lock file holds in several versions and `deny.toml` does not skip.
fn unknown_duplicates(lock: &str, deny: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let twice: BTreeSet<&str> = names.filter(|name| !seen.insert(*name)).collect();
    // Only for systems that this does not run on.
    let elsewhere = |name: &str| name.starts_with("windows") || name.starts_with("wasi") || name == "r-efi";
    let skipped = |name: &str| deny.contains(&format!("crate = \"{name}@"));
    twice.into_iter().filter(|name| !elsewhere(name) && !skipped(name)).map(str::to_owned).collect()
}

// === the rules themselves ===

#[test]
fn what_is_only_for_tests_is_passed_over() {
    let text = "fn a() {}\n#[cfg(test)]\nuse x::y;\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n";
    assert_eq!(code(text), [(1, "fn a() {}"), (9, "fn c() {}")]);
    for (path, test) in [("crates/a/src/tests.rs", true), ("crates/a/src/b/testing/c.rs", true), ("tests/src/x.rs", false)] {
        assert_eq!(is_test(Path::new(path)), test, "{path}");
    }
    assert!(is_test(Path::new("crates/a/src/plan_tests.rs")) && !is_test(Path::new("crates/a/src/contests.rs")));
}

#[test]
fn a_long_file_is_found() {
    assert!(too_long(&"x\n".repeat(LINES)).is_empty());
    assert_eq!(too_long(&"x\n".repeat(LINES + 1)).len(), 1);
}

#[test]
fn a_panic_is_found_unless_a_test_makes_it() {
    for bad in [
        "let x = y.unwrap();",
        "y.expect(\"there is one\");",
        "    panic!(\"no\");",
        "#[allow(clippy::unwrap_used)]",
        "#![expect(clippy::panic, reason = \"x\")]",
    ] {
        assert_eq!(panics(bad).len(), 1, "{bad}");
    }
    for good in
        ["self.expect(Token::Comma)?;", "// never y.unwrap()", "y.unwrap_or(1)", "#[cfg(test)]\nmod tests {\n    x.unwrap()\n}"]
    {
        assert_eq!(panics(good), [], "{good}");
    }
}

#[test]
fn an_unexplained_unsafe_is_found() {
    assert_eq!(unexplained_unsafe("// It is sound.\nlet x = unsafe { y() };").len(), 1);
    assert_eq!(unexplained_unsafe("unsafe impl Send for X {}").len(), 1);
    assert_eq!(unexplained_unsafe("// SAFETY: the file is open.\nlet x =\n    unsafe { y() };"), []);
}

#[test]
fn a_result_without_errors_is_found() {
    for bad in [
        "/// Does.\npub fn a() -> Result<(), E> {",
        "pub async fn a(\n    b: u8,\n) -> io::Result<()> {",
        "/// # Errors\n/// Never.\npub fn a() {}\npub fn b() -> anyhow::Result<()> {",
    ] {
        assert_eq!(silent_about_errors(bad).len(), 1, "{bad}");
    }
    for good in [
        "/// Does.\n///\n/// # Errors\n/// When not.\n#[must_use]\npub fn a() -> Result<(), E> {",
        "fn a() -> Result<(), E> {",
        "pub(crate) fn a() -> Result<(), E> {",
        "pub fn a(f: impl Fn() -> Result<(), E>) -> bool {",
        "pub fn a() -> Option<Result<(), E>> {",
    ] {
        assert_eq!(silent_about_errors(good), [], "{good}");
    }
}

#[test]
fn a_field_without_a_comment_is_found() {
    assert_eq!(
        unexplained("// A pod.\nmessage Pod {\n  string name = 1;\n}"),
        [(3, "no comment above: string name = 1;".to_owned())]
    );
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

#[test]
fn a_dependency_in_the_wrong_direction_is_found() {
    let crates = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
        let manifest =
            |uses: &str| format!("[dependencies]\n{uses}.workspace = true\n[dev-dependencies]\nclient.workspace = true\n");
        all.iter().map(|(name, uses)| ((*name).to_owned(), manifest(uses))).collect()
    };
    let good = crates(&[("api", "bytes"), ("client", "api"), ("kubelet", "client"), ("net", "libc")]);
    assert_eq!(wrong_dependencies(&good), [] as [&str; 0]);
    let bad = crates(&[
        ("api", "net"),
        ("client", "store"),
        ("kubelet", "scheduler"),
        ("net", "libc"),
        ("scheduler", "api"),
        ("store", "api"),
    ]);
    assert_eq!(wrong_dependencies(&bad), ["api uses net", "client uses store", "kubelet uses scheduler"]);
}

#[test]
fn a_crate_that_stands_twice_without_a_reason_is_found() {
    let lock = "name = \"a\"\nname = \"b\"\nname = \"a\"\nname = \"b\"\nname = \"windows-sys\"\nname = \"windows-sys\"\n";
    assert_eq!(unknown_duplicates(lock, "skip = [{ crate = \"a@1\", reason = \"x\" }]"), ["b"]);
}
