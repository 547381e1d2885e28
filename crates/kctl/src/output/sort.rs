//! `--sort-by`: objects in the order of one of their fields.

use std::cmp::Ordering;

use anyhow::Context as _;
use api::{jsonpath::Template, quantity::Quantity};
use serde_json::Value;

/// Sorts by the value at a JSON path; objects without it come first.
///
/// # Errors
/// When the path cannot be read, or no object has it.
pub fn sort_by<T>(items: &mut [T], path: &str, object: impl Fn(&T) -> &Value) -> anyhow::Result<()> {
    let template = Template::parse_relaxed(path).context("--sort-by")?.allow_missing(true);
    let mut keys = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        keys.push((template.values(object(item)).context("--sort-by")?.first().map(|&value| value.clone()), i));
    }
    if !keys.is_empty() && keys.iter().all(|(key, _)| key.is_none()) {
        anyhow::bail!("couldn't find any field with path \"{path}\" in the list of objects");
    }
    keys.sort_by(|(a, i), (b, j)| compare(a.as_ref(), b.as_ref()).then(i.cmp(j)));
    // Where each item goes, applied by swaps.
    let mut place = vec![0; keys.len()];
    for (to, (_, from)) in keys.iter().enumerate() {
        place[*from] = to;
    }
    for i in 0..items.len() {
        while place[i] != i {
            let to = place[i];
            items.swap(i, to);
            place.swap(i, to);
        }
    }
    Ok(())
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Some(Value::String(a)), Some(Value::String(b))) => match (Quantity::parse(a), Quantity::parse(b)) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.cmp(b),
        },
        (Some(a), Some(b)) => a.to_string().cmp(&b.to_string()),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sorted(values: Value) -> Value {
        let mut items: Vec<Value> = values.as_array().unwrap().iter().map(|v| json!({"a": v})).collect();
        sort_by(&mut items, ".a", |item| item).unwrap();
        items.into_iter().map(|mut item| item["a"].take()).collect()
    }

    #[test]
    fn numbers_quantities_and_text_sort_by_their_own_order() {
        assert_eq!(sorted(json!([10, 9, 2])), json!([2, 9, 10]));
        assert_eq!(sorted(json!(["1Gi", "900Mi", "2"])), json!(["2", "900Mi", "1Gi"]));
        assert_eq!(sorted(json!(["b", "c", "a"])), json!(["a", "b", "c"]));
    }

    #[test]
    fn a_path_that_no_object_has_is_an_error() {
        let error = sort_by(&mut [json!({})], ".b", |item| item).unwrap_err();
        assert!(error.to_string().contains("couldn't find any field"));
    }
}
