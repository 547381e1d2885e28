//! What fingers type for a kind: plural, singular, short name, kind, with or without version and group.

use std::sync::{Arc, LazyLock};

use anyhow::bail;
use api::{Kind, Registry, registry::Kinds};

/// The kinds that are known.
static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::compiled);

/// The kinds that are known at this moment.
pub fn known() -> Arc<Kinds> {
    REGISTRY.kinds()
}

/// Kinds that can be named: those of a resource of their own.
pub fn all() -> impl Iterator<Item = &'static Kind> {
    let kinds: Vec<_> = known().resources().map(|kind| kind.forever()).collect();
    kinds.into_iter()
}

/// The kinds that a word stands for: several for a category such as `all`.
///
/// # Errors
/// When there is no such kind; the error names the likely one.
pub fn expand(word: &str) -> anyhow::Result<Vec<&'static Kind>> {
    let in_category: Vec<_> = all().filter(|kind| kind.categories.iter().any(|category| category == word)).collect();
    if in_category.is_empty() { Ok(vec![find(word)?]) } else { Ok(in_category) }
}

/// The kind that a word such as `pods`, `po`, `Pod`, `leases.coordination.k8s.io` or `pods.v1.` stands for. Metrics are found by their
/// group only.
///
/// # Errors
/// When there is no such kind; the error names the likely one.
pub fn find(word: &str) -> anyhow::Result<&'static Kind> {
    let lower = word.to_lowercase();
    let (name, rest) = lower.split_once('.').unwrap_or((&lower, ""));
    let named = |kind: &Kind| {
        kind.plural == name
            || kind.singular == name
            || kind.short_names.iter().any(|short| short == name)
            || kind.kind.to_lowercase() == name
    };
    let qualified = lower.contains('.');
    let matches = |kind: &&Kind| {
        let versioned = rest.strip_prefix(&*kind.version).and_then(|rest| rest.strip_prefix('.'));
        named(kind) && if qualified { rest == kind.group || versioned == Some(&*kind.group) } else { !is_metrics(kind) }
    };
    if let Some(kind) = all().find(matches) {
        return Ok(kind);
    }
    match closest(name, all().filter(|kind| !is_metrics(kind)).flat_map(|kind| [&*kind.plural, &*kind.singular])) {
        Some(likely) => bail!("the server doesn't have a resource type \"{word}\"; did you mean \"{likely}\"?"),
        None => bail!("the server doesn't have a resource type \"{word}\"; `kctl api-resources` lists them"),
    }
}

/// The kind with this `apiVersion` and `kind`, or what is wrong with them.
///
/// # Errors
/// A message that says what would be right.
pub fn by_api_version(api_version: &str, name: &str) -> Result<&'static Kind, String> {
    let kinds = known();
    if let Some(kind) = kinds.by_api_version(api_version, name) {
        return Ok(kind.forever());
    }
    let mut message = format!("no matches for kind \"{name}\" in version \"{api_version}\"");
    if let Some(elsewhere) = kinds.all().find(|kind| kind.kind == name && !is_metrics(kind)) {
        message += &format!("; {name} is in version \"{}\"", elsewhere.api_version);
    } else if let Some(likely) = closest(name, kinds.all().map(|kind| &*kind.kind)) {
        message += &format!("; did you mean \"{likely}\"?");
    } else {
        message += "; `kctl api-resources` lists the kinds there are";
    }
    Err(message)
}

/// `pod/web` or `lease.coordination.k8s.io/web`.
pub fn display(kind: &Kind, name: &str) -> String {
    format!("{}/{name}", qualified_singular(kind))
}

/// `pod` or `lease.coordination.k8s.io`.
pub fn qualified_singular(kind: &Kind) -> String {
    let lower = kind.kind.to_lowercase();
    if kind.group.is_empty() { lower } else { format!("{lower}.{}", kind.group) }
}

/// True for the computed kinds that share their names with stored ones.
pub fn is_metrics(kind: &Kind) -> bool {
    kind.group == "metrics.k8s.io"
}

/// The candidate that differs least from a word, if it is near enough to be a slip of the fingers.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = candidates.map(|candidate| {
        let lower = candidate.to_lowercase();
        (distance(&lower, &word), lower.len().abs_diff(word.len()), candidate)
    });
    near.filter(|(distance, _, candidate)| *distance <= 1 + candidate.len() / 5).min().map(|(.., candidate)| candidate)
}

/// Edit distance in which two neighbours swapped count as one edit.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j - 1] + same).min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_kind_is_understood() {
        for word in ["pods", "pod", "po", "Pod", "PODS", "pods.v1.", "pod."] {
            assert_eq!(find(word).unwrap().kind, "Pod", "{word}");
        }
        assert_eq!(find("leases.coordination.k8s.io").unwrap().kind, "Lease");
        assert_eq!(find("lease.v1.coordination.k8s.io").unwrap().kind, "Lease");
        assert_eq!(find("pods.metrics.k8s.io").unwrap().kind, "PodMetrics");
        assert_eq!(find("no").unwrap().kind, "Node");
    }

    #[test]
    fn a_slip_of_the_fingers_is_named() {
        assert!(find("podz").unwrap_err().to_string().contains("did you mean \"pods\"?"));
        assert!(find("frobnicators").unwrap_err().to_string().contains("api-resources"));
        assert!(by_api_version("v2", "Pod").unwrap_err().contains("Pod is in version \"v1\""));
        assert!(by_api_version("v1", "Pdo").unwrap_err().contains("did you mean \"Pod\"?"));
    }

    #[test]
    fn a_category_stands_for_its_kinds() {
        let kinds: Vec<_> = expand("all").unwrap().iter().map(|kind| &*kind.kind).collect();
        assert!(kinds.contains(&"Pod") && kinds.contains(&"Service"), "{kinds:?}");
    }
}
