//! Manifests: files, folders and standard input into objects that know where they come from.
//!
//! Everything is read and checked before anything is done with it, so that a bad document leaves nothing half done.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use api::{
    Kind,
    strict::{self, Problem},
    yaml::{self, Document},
};
use serde_json::Value;

use crate::{Session, error::Exit, fetch, kinds, kustomize};

/// File endings that are read from folders.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];
/// Deepest nesting of folders.
const MAX_FOLDERS: usize = 32;

/// Where objects are read from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FileArgs {
    /// File, folder or URL with manifests, or - for standard input; can be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',', value_hint = clap::ValueHint::AnyPath)]
    pub files: Vec<String>,
    /// Also read the folders inside a folder
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Folder with a kustomization.yaml instead; `kctl kustomize --help` says what may be in it
    #[arg(short = 'k', long, value_name = "FOLDER", conflicts_with_all = ["files", "recursive"], value_hint = clap::ValueHint::DirPath)]
    pub kustomize: Option<PathBuf>,
}

/// What is done about fields that the schema does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Validation {
    /// They are errors.
    #[default]
    #[value(alias = "true")]
    Strict,
    /// The server drops them and warns.
    Warn,
    /// The server drops them.
    #[value(alias = "false")]
    Ignore,
}

/// What is to be done about fields that the schema does not know.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ValidateArgs {
    /// What to do about fields that the schema does not know: strict (refuse), warn, ignore
    #[arg(long, value_enum, value_name = "HOW", default_value_t, num_args = 0..=1, default_missing_value = "strict",
        require_equals = true, hide_possible_values = true)]
    pub validate: Validation,
}

/// An object of a manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its kind.
    pub kind: &'static Kind,
    /// What the document says, with the namespace it goes to.
    pub value: Value,
    /// Where it stands.
    pub origin: Origin,
    document: Document,
    /// Path of the object in its document: not empty for items of a List.
    base: String,
}

/// File, document and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file as the user named it.
    pub file: String,
    /// Which of its documents, from 1.
    pub document: usize,
    /// Line, from 1.
    pub line: usize,
}

// === impl Validation ===

impl Validation {
    /// The word for it in requests.
    pub fn wire(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Warn => "Warn",
            Self::Ignore => "Ignore",
        }
    }
}

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}, line {}", self.file, self.document, self.line)
    }
}

// === impl FileArgs ===

impl FileArgs {
    /// True if no file is named.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.kustomize.is_none()
    }

    /// Reads every document of every file, without judging what they say.
    ///
    /// # Errors
    /// When a file cannot be read or is no YAML or JSON, with file, document and line.
    pub fn documents(&self, session: &Session) -> anyhow::Result<Vec<(String, Document)>> {
        let mut documents = Vec::new();
        if let Some(folder) = &self.kustomize {
            let (name, text) = (folder.display().to_string(), kustomize::render(folder)?);
            documents.extend(yaml::parse(&name, text.as_bytes())?.into_iter().map(|document| (name.clone(), document)));
        }
        for name in &self.files {
            for (file, text) in self.texts(session, name)? {
                documents.extend(yaml::parse(&file, &text)?.into_iter().map(|document| (file.clone(), document)));
            }
        }
        Ok(documents)
    }

    /// Reads the objects of all files. Objects of namespaced kinds get the session's namespace unless they name one.
    ///
    /// # Errors
    /// When anything cannot be read or does not fit the schema; each problem is printed with its file, document and line.
    pub fn objects(&self, session: &Session, validation: Validation) -> anyhow::Result<Vec<Manifest>> {
        let (mut manifests, mut problems) = (Vec::new(), 0);
        for (file, document) in self.documents(session)? {
            let mut found = Vec::new();
            collect(&file, &document, &document.value, "", ("", ""), &mut found);
            for item in found {
                match item.and_then(|manifest| settle(session, manifest, validation)) {
                    Ok(manifest) => manifests.push(manifest),
                    Err(messages) => {
                        problems += messages.len();
                        messages.iter().for_each(|message| session.console.note(format!("error: {message}")));
                    }
                }
            }
        }
        if problems > 0 {
            return Err(Exit::silent(1));
        }
        if manifests.is_empty() {
            let folder = self.kustomize.iter().map(|folder| folder.display().to_string());
            let all: Vec<String> = self.files.iter().cloned().chain(folder).collect();
            bail!("no objects passed to kctl: {} holds none", all.join(", "));
        }
        Ok(manifests)
    }

    fn texts(&self, session: &Session, name: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        if name == "-" {
            let text = session.console.read_input().context("cannot read standard input")?;
            return Ok(vec![("standard input".to_owned(), text)]);
        }
        if fetch::is_url(name) {
            return Ok(vec![(name.to_owned(), fetch::fetch(session, name)?)]);
        }
        let path = PathBuf::from(name);
        let metadata = std::fs::metadata(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!("the path \"{name}\" does not exist"),
            _ => anyhow::Error::new(error).context(format!("cannot read {name}")),
        })?;
        let mut paths = Vec::new();
        if metadata.is_dir() {
            self.walk(&path, 0, &mut paths)?;
            if paths.is_empty() {
                bail!("error reading {name}: recognized file extensions are [.{}]", ENDINGS.join(" ."));
            }
        } else {
            paths.push(path);
        }
        let read = |path: PathBuf| {
            // One more byte than is read, so that the reader can tell a file that is too large.
            use std::io::Read as _;
            let mut text = Vec::new();
            let file = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            file.take(yaml::MAX_SIZE as u64 + 1)
                .read_to_end(&mut text)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok((path.display().to_string(), text))
        };
        paths.into_iter().map(read).collect()
    }

    fn walk(&self, folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        let context = || format!("cannot read {}", folder.display());
        let mut entries: Vec<_> =
            std::fs::read_dir(folder).with_context(context)?.collect::<Result<_, _>>().with_context(context)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            if path.is_dir() {
                if self.recursive && depth < MAX_FOLDERS {
                    self.walk(&path, depth + 1, paths)?;
                }
            } else if path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending)) {
                paths.push(path);
            }
        }
        Ok(())
    }
}

// === impl Manifest ===

impl Manifest {
    /// `metadata.name`; empty if there is none.
    pub fn name(&self) -> &str {
        self.value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
    }

    /// `metadata.namespace`; empty for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        if self.kind.namespaced {
            self.value.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default()
        } else {
            ""
        }
    }

    /// The line of a field.
    pub fn line_of(&self, path: &str) -> usize {
        self.document.line_of(&join(&self.base, path))
    }

    /// Adds to an error of the server where the object stands, and where the fields that it names stand.
    pub fn locate(&self, error: anyhow::Error, doing: &str) -> anyhow::Error {
        let mut context =
            format!("error when {doing} \"{}\" (document {}, line {})", self.origin.file, self.origin.document, self.origin.line);
        let status = error.downcast_ref::<client::Error>().and_then(client::Error::status);
        let causes = status.map(|status| status.status().details().causes.as_slice()).unwrap_or_default();
        for cause in causes.iter().filter(|cause| !cause.field.is_empty()) {
            let place = format!(" [{} is at line {}]", cause.field, self.line_of(&cause.field));
            if !context.contains(&place) {
                context += &place;
            }
        }
        error.context(context)
    }
}

fn join(base: &str, path: &str) -> String {
    if base.is_empty() || path.is_empty() { format!("{base}{path}") } else { format!("{base}.{path}") }
}

type Found = Result<Manifest, Vec<String>>;

/// The objects of a document: itself, or the items of a List. An item that says neither `apiVersion` nor `kind` has those that its
/// list's kind, such as ConfigMapList, gives it: `inherited`.
fn collect(file: &str, document: &Document, value: &Value, base: &str, inherited: (&str, &str), found: &mut Vec<Found>) {
    let at = |path: &str| {
        let line = document.line_of(&join(base, path));
        Origin { file: file.to_owned(), document: document.number, line }
    };
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let own = (text("apiVersion"), text("kind"));
    let (api_version, name) = if own == ("", "") { inherited } else { own };
    if !value.is_object() {
        found.push(Err(vec![format!("{}: a Kubernetes object is wanted here, with apiVersion, kind and metadata", at(""))]));
        return;
    }
    if let (Some(Value::Array(items)), Some(item_kind)) = (value.get("items"), name.strip_suffix("List")) {
        let inherited = if item_kind.is_empty() { ("", "") } else { (api_version, item_kind) };
        for (i, item) in items.iter().enumerate() {
            collect(file, document, item, &join(base, &format!("items[{i}]")), inherited, found);
        }
        return;
    }
    for (key, given) in [("apiVersion", api_version), ("kind", name)] {
        if given.is_empty() {
            found.push(Err(vec![format!("{}: {key} is not set, so it is not known what this object is", at(""))]));
            return;
        }
    }
    found.push(match kinds::by_api_version(api_version, name) {
        Ok(kind) => {
            let mut value = value.clone();
            value["apiVersion"] = api_version.into();
            value["kind"] = name.into();
            Ok(Manifest { kind, value, origin: at(""), document: document.clone(), base: base.to_owned() })
        }
        Err(message) => Err(vec![format!("{}: {message}", at("kind"))]),
    });
}

/// Checks an object against the schema and settles its namespace.
fn settle(session: &Session, mut manifest: Manifest, validation: Validation) -> Found {
    let mut errors = Vec::new();
    for problem in strict::check(manifest.kind, &manifest.value) {
        let Problem { path, unknown, .. } = &problem;
        let at = Origin { line: manifest.line_of(path), ..manifest.origin.clone() };
        // What the server drops it is also the one to tell.
        if !unknown || validation == Validation::Strict {
            errors.push(format!("{at}: {problem}"));
        }
    }
    if manifest.kind.namespaced && errors.is_empty() {
        match manifest.namespace() {
            "" => match session.namespace() {
                Ok(namespace) => crate::objects::set(&mut manifest.value, &["metadata", "namespace"], namespace.into()),
                Err(error) => errors.push(format!("{error:#}")),
            },
            own => {
                if let Some(wanted) = session.explicit_namespace().filter(|wanted| *wanted != own) {
                    let line = manifest.line_of("metadata.namespace");
                    let at = Origin { line, ..manifest.origin.clone() };
                    errors.push(format!(
                        "{at}: the namespace from the provided object \"{own}\" does not match the namespace \"{wanted}\". \
                         You must pass '--namespace={own}' to perform this operation."
                    ));
                }
            }
        }
    }
    if errors.is_empty() { Ok(manifest) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    fn read(text: &str) -> (anyhow::Result<Vec<Manifest>>, String) {
        let bench = Bench::new().input(text);
        let files = FileArgs { files: vec!["-".to_owned()], ..FileArgs::default() };
        let outcome = files.objects(&bench.session(&["apply"]), Validation::Strict);
        (outcome, bench.errors())
    }

    #[test]
    fn several_documents_and_lists_are_objects_with_their_lines() {
        let (objects, _) = read(
            "kind: Namespace\napiVersion: v1\nmetadata: {name: a}\n---\n\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: b}\n",
        );
        let objects = objects.unwrap();
        let seen: Vec<_> = objects.iter().map(|o| (&*o.kind.kind, o.name(), o.namespace(), o.origin.line)).collect();
        assert_eq!(seen, [("Namespace", "a", "", 1), ("ConfigMap", "b", "default", 10)]);
    }

    #[test]
    fn items_of_a_typed_list_have_its_kind_unless_they_say_another() {
        let (objects, _) = read(
            "apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: a}\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n",
        );
        let objects = objects.unwrap();
        let seen: Vec<_> = objects.iter().map(|o| (&*o.kind.kind, o.name(), crate::objects::text(&o.value, "/kind"))).collect();
        assert_eq!(seen, [("ConfigMap", "a", "ConfigMap"), ("Secret", "b", "Secret")]);
        let (outcome, errors) = read("apiVersion: v1\nkind: List\nitems:\n- metadata: {name: a}\n");
        assert!(outcome.is_err() && errors.contains("line 4: apiVersion is not set"), "{errors}");
    }

    #[test]
    fn every_problem_is_named_with_file_document_and_line() {
        let (outcome, errors) = read(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n  - name: c\n    imge: x\n  hostNetwork: perhaps\n---\nkind: Pdo\napiVersion: v1\n",
        );
        assert!(outcome.is_err());
        assert_eq!(
            errors.lines().collect::<Vec<_>>(),
            [
                "error: standard input: document 2, line 12: unknown field \"spec.containers[0].imge\"; did you mean \"image\"?",
                "error: standard input: document 2, line 13: spec.hostNetwork: wrong type: true or false is wanted here, found the text \"perhaps\"",
                "error: standard input: document 3, line 15: no matches for kind \"Pdo\" in version \"v1\"; did you mean \"Pod\"?",
            ]
        );
    }

    #[test]
    fn folders_are_read_in_order_and_deeper_ones_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, object: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {object}}}\n")).unwrap();
        };
        write("b.yml", "b");
        write("a.yaml", "a");
        write("deep/c.json", "c");
        std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
        let bench = Bench::new();
        let names = |recursive| {
            let files = FileArgs { files: vec![folder.path().display().to_string()], recursive, ..FileArgs::default() };
            let objects = files.objects(&bench.session(&["apply"]), Validation::Strict).unwrap();
            objects.iter().map(|o| o.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["a", "b"]);
        assert_eq!(names(true), ["a", "b", "c"]);
    }
}
