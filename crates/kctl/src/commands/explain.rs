//! `kctl explain`

use anyhow::bail;
use api::{
    Kind,
    schema::{Cardinality, Field, Message},
};

use crate::{Session, kinds};

/// Widest line of a description.
const WIDTH: usize = 80;

/// Show what a kind's fields are
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl explain pods
  kctl explain pod.spec.containers.resources
  kctl explain rc --recursive")]
pub struct Args {
    /// The kind, and the path of a field
    #[arg(value_name = "TYPE[.FIELD …]")]
    path: String,
    /// Show the fields of the fields too
    #[arg(long)]
    recursive: bool,
    /// Only in this version
    #[arg(long, value_name = "VERSION")]
    api_version: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let (kind, fields) = resolve(&args.path)?;
    if let Some(version) = args.api_version.as_ref().filter(|version| **version != kind.api_version) {
        bail!("{} is in version {}, not {version}", kind.kind, kind.api_version);
    }
    session.console.print(explain(kind, &fields, args.recursive)?)?;
    Ok(())
}

/// The kind that a path begins with, and the names of the fields after it. Groups hold dots, so the longest word that is a kind counts.
fn resolve(path: &str) -> anyhow::Result<(&'static Kind, Vec<&str>)> {
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]).rev();
    for end in ends {
        let word = &path[..end];
        if word.contains('.') && kinds::find(word).is_err() {
            continue;
        }
        let kind = kinds::find(word)?;
        return Ok((kind, path[end..].split('.').filter(|name| !name.is_empty()).collect()));
    }
    Ok((kinds::find(path)?, Vec::new()))
}

fn explain(kind: &Kind, path: &[&str], recursive: bool) -> anyhow::Result<String> {
    let mut out = String::new();
    if !kind.group.is_empty() {
        out += &format!("GROUP:      {}\n", kind.group);
    }
    out += &format!("KIND:       {}\nVERSION:    {}\n\n", kind.kind, kind.version);
    let (mut message, mut field) = (kind.message(), None);
    let mut walked = kind.kind.to_lowercase();
    for name in path {
        let Some(found) = message.and_then(|message| message.field(name)) else {
            let known = message.map(Message::json_fields).unwrap_or_default();
            let hint = match kinds::closest(name, known.iter().map(|field| field.json)) {
                Some(likely) => format!("; did you mean \"{likely}\"?"),
                None if known.is_empty() => format!("; {walked} has no fields"),
                None => format!("; `kctl explain {walked}` lists its fields"),
            };
            bail!("field \"{name}\" does not exist in {walked}{hint}");
        };
        walked += &format!(".{name}");
        message = found.ty.message();
        field = Some(found);
    }
    if let Some(field) = field {
        out += &format!("FIELD: {} <{}>{}\n", field.json, type_name(field), required(field));
        out += &values(field, 0);
        out.push('\n');
    }
    out += "DESCRIPTION:\n";
    // What a field is for says more than what its type is for.
    let doc = field.map(|field| field.doc).filter(|doc| !doc.is_empty()).or(message.map(|message| message.doc));
    wrap(&mut out, doc.unwrap_or_default(), 4);
    if let Some(message) = message {
        out += "    \nFIELDS:\n";
        let top = field.is_none();
        if recursive { tree(&mut out, message, 2, top, &[]) } else { flat(&mut out, message, top) }
    } else {
        out += "    \n";
    }
    Ok(out + "\n")
}

/// The fields with what they are.
fn flat(out: &mut String, message: &Message, top: bool) {
    for (name, doc) in implied(message, top) {
        *out += &format!("  {name}\t<string>\n");
        wrap(out, doc, 4);
        out.push('\n');
    }
    for field in sorted(message) {
        *out += &format!("  {}\t<{}>{}\n", field.json, type_name(field), required(field));
        *out += &values(field, 2);
        wrap(out, field.doc, 4);
        out.push('\n');
    }
}

/// The fields and theirs, names only. What contains itself is not looked into again.
fn tree(out: &mut String, message: &Message, indent: usize, top: bool, around: &[&str]) {
    let around = [around, &[message.name]].concat();
    let space = " ".repeat(indent);
    for (name, _) in implied(message, top) {
        *out += &format!("{space}{name}\t<string>\n");
    }
    for field in sorted(message) {
        *out += &format!("{space}{}\t<{}>{}\n", field.json, type_name(field), required(field));
        *out += &values(field, indent);
        if let Some(inner) = field.ty.message().filter(|inner| !around.contains(&inner.name)) {
            tree(out, inner, indent + 2, false, &around);
        }
    }
}

/// What every object has in JSON and no message has.
fn implied(message: &Message, top: bool) -> Vec<(&'static str, &'static str)> {
    if !top || message.field("apiVersion").is_some() {
        return Vec::new();
    }
    vec![
        ("apiVersion", "Group and version of the object's schema, such as v1 or coordination.k8s.io/v1."),
        ("kind", "What the object is, in CamelCase."),
    ]
}

fn sorted(message: &Message) -> Vec<&'static Field> {
    let mut fields = message.json_fields();
    fields.sort_by_key(|field| field.json);
    fields
}

fn type_name(field: &Field) -> String {
    let name = field.ty.display_name();
    match field.cardinality {
        Cardinality::Singular => name.to_owned(),
        Cardinality::List => format!("[]{name}"),
        Cardinality::Map => format!("map[string]{name}"),
    }
}

fn required(field: &Field) -> &'static str {
    if field.required { " -required-" } else { "" }
}

/// What values a field may have and has by itself.
fn values(field: &Field, indent: usize) -> String {
    let space = " ".repeat(indent);
    let mut out = String::new();
    if !field.one_of.is_empty() {
        out += &format!("{space}enum: {}\n", field.one_of.join(", "));
    }
    if let Some(default) = field.default {
        out += &format!("{space}default: {default}\n");
    }
    match (field.min, field.max) {
        (Some(min), Some(max)) => out += &format!("{space}range: {min} to {max}\n"),
        (Some(min), None) => out += &format!("{space}minimum: {min}\n"),
        (None, Some(max)) => out += &format!("{space}maximum: {max}\n"),
        (None, None) => {}
    }
    if field.immutable {
        out += &format!("{space}cannot be changed after creation\n");
    }
    out
}

fn wrap(out: &mut String, text: &str, indent: usize) {
    let space = " ".repeat(indent);
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
            *out += &format!("{space}{line}\n");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        *out += &format!("{space}{line}\n");
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[tokio::test]
    async fn kinds_and_fields_are_explained() {
        let bench = Bench::new();
        let pod = bench.ok("explain po").await;
        assert!(pod.starts_with("KIND:       Pod\nVERSION:    v1\n\nDESCRIPTION:\n"), "{pod}");
        assert!(pod.contains("\n  spec\t<PodSpec> -required-\n"), "{pod}");
        let field = bench.ok("explain pod.spec.containers").await;
        assert!(field.contains("FIELD: containers <[]Container> -required-"), "{field}");
        let lease = bench.ok("explain leases.coordination.k8s.io.spec.holderIdentity").await;
        assert!(
            lease.starts_with("GROUP:      coordination.k8s.io\n") && lease.contains("FIELD: holderIdentity <string>"),
            "{lease}"
        );
        let tree = bench.ok("explain rc --recursive").await;
        assert!(tree.contains("\n      spec\t<PodSpec> -required-\n"), "{tree}");
    }

    #[tokio::test]
    async fn a_wrong_field_names_the_likely_one() {
        let bench = Bench::new();
        let errors = bench.fails("explain pod.spec.contaners").await;
        assert!(errors.contains("field \"contaners\" does not exist in pod.spec; did you mean \"containers\"?"), "{errors}");
        assert!(bench.fails("explain pdo").await.contains("did you mean"));
    }
}
