//! ConfigMaps: bounded in size, and fixed for good if they say so.

use api::{core::v1::ConfigMap, rules::FieldErrors};

use super::{DATA_MAX, ROOT};
use crate::strategy::Strategy;

/// See the module.
pub struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
    type Kind = ConfigMap;

    fn validate(&self, object: &ConfigMap, errors: &mut FieldErrors) {
        for key in object.data.keys().filter(|key| object.binary_data.contains_key(*key)) {
            errors.invalid(&ROOT.field("data").key(key), key, "duplicate of key present in binaryData");
        }
        let text: usize = object.data.values().map(String::len).sum();
        let binary: usize = object.binary_data.values().map(|value| value.len()).sum();
        if text + binary > DATA_MAX {
            errors.too_long(&ROOT.field("data"), DATA_MAX);
        }
    }

    fn validate_update(&self, _subresource: &str, new: &ConfigMap, old: &ConfigMap, errors: &mut FieldErrors) {
        if old.immutable != Some(true) {
            return;
        }
        let changed = [
            ("immutable", new.immutable != Some(true)),
            ("data", new.data != old.data),
            ("binaryData", new.binary_data != old.binary_data),
        ];
        for (field, _) in changed.iter().filter(|(_, changed)| *changed) {
            errors.forbidden(&ROOT.field(field), "field is immutable when `immutable` is set");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    #[test]
    fn a_key_is_text_or_bytes_and_not_both() {
        let map = testing::json(r#"{"data": {"a": "x"}, "binaryData": {"a": "eA=="}}"#);
        let found = testing::errors(&ConfigMapStrategy, &map);
        assert_eq!(found, [r#"data[a]: Invalid value: "a": duplicate of key present in binaryData"#]);
    }

    #[test]
    fn a_config_map_holds_at_most_a_mebibyte() {
        let mut map = ConfigMap::default();
        map.data.insert("a".into(), "x".repeat(DATA_MAX));
        assert_eq!(testing::errors(&ConfigMapStrategy, &map), [""; 0]);
        map.binary_data.insert("b".into(), "x".into());
        assert_eq!(testing::errors(&ConfigMapStrategy, &map), ["data: Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn an_immutable_config_map_stays_as_it_is() {
        let old: ConfigMap = testing::json(r#"{"data": {"a": "x"}, "immutable": true}"#);
        let new: ConfigMap = testing::json(r#"{"data": {"a": "y"}}"#);
        let found = testing::update_errors(&ConfigMapStrategy, "", &new, &old);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], "data: Forbidden: field is immutable when `immutable` is set");
        let mut new = old.clone();
        new.metadata.get_or_insert_default().labels.insert("a".into(), "b".into());
        assert_eq!(testing::update_errors(&ConfigMapStrategy, "", &new, &old), [""; 0]);
    }
}
