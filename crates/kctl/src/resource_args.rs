//! What objects a command is about: `TYPE`, `TYPE NAME`, `TYPE/NAME`, files, selectors.

use anyhow::bail;
use api::Kind;
use client::ListParams;

use crate::{
    Session, kinds,
    manifest::{FileArgs, Manifest, Validation},
    objects,
};

/// Objects of one kind: one by name, or all that the selectors match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub kind: &'static Kind,
    /// The namespace; empty for all or for cluster-scoped kinds.
    pub namespace: String,
    /// The name; `None` for all.
    pub name: Option<String>,
}

/// One existing object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The kind.
    pub kind: &'static Kind,
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Which objects of a kind are meant.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SelectorArgs {
    /// Only objects whose labels match, such as app=web,tier!=cache or 'env in (a,b)'
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only objects whose fields match, such as status.phase=Running
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// Objects to change, by name, file or selector.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ObjectArgs {
    /// TYPE NAME …, TYPE/NAME …, or TYPE with a selector or --all
    #[arg(value_name = "TYPE[/NAME]")]
    pub resources: Vec<String>,
    /// Files that name the objects.
    #[command(flatten)]
    pub files: FileArgs,
    /// Selectors.
    #[command(flatten)]
    pub select: SelectorArgs,
    /// All objects of the kind in the namespace
    #[arg(long)]
    pub all: bool,
}

/// Objects to show: types, names, files, selectors.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    /// TYPE[,TYPE …] [NAME …], or TYPE/NAME …
    #[arg(value_name = "TYPE[/NAME]")]
    pub resources: Vec<String>,
    /// Files that name the objects.
    #[command(flatten)]
    pub files: FileArgs,
    /// Selectors.
    #[command(flatten)]
    pub select: SelectorArgs,
    /// Ask the server for so many objects at a time; 0 for all at once
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    pub chunk_size: i64,
}

// === impl SelectorArgs ===

impl SelectorArgs {
    /// The selectors as the server takes them, checked here first.
    ///
    /// # Errors
    /// When a selector cannot be read.
    pub fn params(&self) -> anyhow::Result<ListParams> {
        let (labels, fields) = (self.selector.clone().unwrap_or_default(), self.field_selector.clone().unwrap_or_default());
        api::selector::Selector::parse(&labels)?;
        api::selector::FieldSelector::parse(&fields)?;
        Ok(ListParams::default().labels(labels).fields(fields))
    }

    /// True if a label or field selector is given.
    pub fn is_set(&self) -> bool {
        self.selector.is_some() || self.field_selector.is_some()
    }
}

// === impl ShowArgs ===

impl ShowArgs {
    /// True if the arguments name something at all.
    pub fn is_given(&self) -> bool {
        !self.resources.is_empty() || !self.files.is_empty()
    }

    /// What the arguments mean in this session.
    ///
    /// # Errors
    /// When they contradict, or a file cannot be read.
    pub fn targets(&self, session: &Session) -> anyhow::Result<Vec<Target>> {
        if self.files.is_empty() {
            return targets(session, &self.resources, &self.select);
        }
        if !self.resources.is_empty() {
            bail!("when files are given with -f, no resources can be named on the command line");
        }
        let target = |m: &Manifest| Target { kind: m.kind, namespace: m.namespace().to_owned(), name: Some(m.name().to_owned()) };
        Ok(self.files.objects(session, Validation::Ignore)?.iter().map(target).collect())
    }

    /// Selectors and chunk size for a list.
    ///
    /// # Errors
    /// When a selector cannot be read.
    pub fn params(&self) -> anyhow::Result<ListParams> {
        Ok(self.select.params()?.limit(self.chunk_size.max(0)))
    }
}

// === impl Named ===

impl Named {
    /// `pod/web`.
    pub fn display(&self) -> String {
        kinds::display(self.kind, &self.name)
    }
}

// === impl ObjectArgs ===

impl ObjectArgs {
    /// The objects that are meant. Named ones are not looked up; with a selector or `--all` they exist.
    ///
    /// # Errors
    /// When the arguments do not say, or the server cannot list.
    pub async fn resolve(&self, session: &Session) -> anyhow::Result<Vec<Named>> {
        for (flag, given) in [("selector", &self.select.selector), ("field-selector", &self.select.field_selector)] {
            if self.all && given.as_ref().is_some_and(|selector| !selector.is_empty()) {
                bail!("cannot set --all and --{flag} at the same time");
            }
        }
        if !self.files.is_empty() {
            if !self.resources.is_empty() {
                bail!("when files are given with -f, no resources can be named on the command line");
            }
            let manifests = self.files.objects(session, Validation::Ignore)?;
            return manifests
                .iter()
                .map(|m| match m.name() {
                    "" => bail!("{}: metadata.name is not set", m.origin),
                    name => Ok(Named { kind: m.kind, namespace: m.namespace().to_owned(), name: name.to_owned() }),
                })
                .collect();
        }
        let mut found = Vec::new();
        for target in targets(session, &self.resources, &self.select)? {
            match target.name {
                Some(name) if self.all => bail!("name {name} cannot be given together with --all"),
                Some(name) => found.push(Named { kind: target.kind, namespace: target.namespace, name }),
                None if self.all || self.select.is_set() => {
                    let list = objects::list_metadata(session, target.kind, &target.namespace, &self.select.params()?).await?;
                    found.extend(list.into_iter().map(|meta| Named {
                        kind: target.kind,
                        namespace: meta.namespace,
                        name: meta.name,
                    }));
                }
                None => bail!("resource(s) were provided, but no name was specified: give a name, a selector with -l, or --all"),
            }
        }
        Ok(found)
    }
}

/// The kinds and names that words on the command line mean; a kind without names means all of it.
///
/// # Errors
/// When a kind does not exist or the words do not fit together.
pub fn parse(words: &[String]) -> anyhow::Result<Vec<(&'static Kind, Option<String>)>> {
    let Some(first) = words.first() else {
        bail!("Required resource not specified: give a type such as pods; `kctl api-resources` lists them")
    };
    if words.iter().any(|word| word.contains('/')) {
        let pair = |word: &String| match word.split_once('/') {
            Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') && !kind.contains(',') => {
                Ok((kinds::find(kind)?, Some(name.to_owned())))
            }
            Some(_) => bail!("arguments in resource/name form must have a single resource and name, not \"{word}\""),
            None => bail!(
                "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form \
                 (e.g. 'kctl get {first}/<name>' instead of 'kctl get {first} <name>')"
            ),
        };
        return words.iter().map(pair).collect();
    }
    let mut kinds = Vec::new();
    for word in first.split(',').filter(|word| !word.is_empty()) {
        for kind in kinds::expand(word)? {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    let names: Vec<Option<String>> =
        if words.len() == 1 { vec![None] } else { words[1..].iter().map(|name| Some(name.clone())).collect() };
    Ok(kinds.into_iter().flat_map(|kind| names.iter().map(move |name| (kind, name.clone()))).collect())
}

/// What words on the command line mean in this session.
///
/// # Errors
/// As those of [`parse`], and when names and selectors contradict.
pub fn targets(session: &Session, words: &[String], select: &SelectorArgs) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for (kind, name) in parse(words)? {
        if name.is_some() && select.is_set() {
            bail!("name cannot be provided when a selector is specified");
        }
        if name.is_some() && select.all_namespaces && kind.namespaced {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        targets.push(Target { kind, namespace: session.scope(kind, select.all_namespaces)?, name });
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> anyhow::Result<Vec<String>> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        Ok(parse(&words)?.into_iter().map(|(kind, name)| format!("{}:{}", kind.plural, name.unwrap_or_default())).collect())
    }

    #[test]
    fn every_form_of_naming_objects_is_understood() {
        assert_eq!(parsed(&["po"]).unwrap(), ["pods:"]);
        assert_eq!(parsed(&["po", "a", "b"]).unwrap(), ["pods:a", "pods:b"]);
        assert_eq!(parsed(&["po,svc"]).unwrap(), ["pods:", "services:"]);
        assert_eq!(parsed(&["po,svc", "a"]).unwrap(), ["pods:a", "services:a"]);
        assert_eq!(parsed(&["po/a", "svc/b"]).unwrap(), ["pods:a", "services:b"]);
    }

    #[test]
    fn forms_that_do_not_fit_together_are_refused() {
        assert!(parsed(&["po", "po/a"]).unwrap_err().to_string().contains("no need to specify a resource type"));
        assert!(parsed(&["po/a/b"]).unwrap_err().to_string().contains("single resource and name"));
        assert!(parsed(&[]).unwrap_err().to_string().contains("Required resource not specified"));
    }
}
