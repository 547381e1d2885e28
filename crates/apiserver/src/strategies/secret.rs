//! Secrets: `stringData` is only a way to write `data`, types demand keys, and values are bounded in size.

use api::{Bytes, core::v1::Secret, rules::FieldErrors};

use super::{DATA_MAX, META, ROOT};
use crate::strategy::Strategy;

/// See the module.
pub struct SecretStrategy;

impl Strategy for SecretStrategy {
    type Kind = Secret;

    fn set_defaults(&self, object: &mut Secret) {
        for (key, value) in std::mem::take(&mut object.string_data) {
            object.data.insert(key, Bytes::from(value));
        }
    }

    fn validate(&self, object: &Secret, errors: &mut FieldErrors) {
        let data = ROOT.field("data");
        if object.data.values().map(|value| value.len()).sum::<usize>() > DATA_MAX {
            errors.too_long(&data, DATA_MAX);
        }
        let missing = |key: &str| object.data.get(key).is_none_or(|value| value.is_empty());
        match object.r#type.as_str() {
            "kubernetes.io/service-account-token" => {
                const ACCOUNT: &str = "kubernetes.io/service-account.name";
                if object.metadata().annotations.get(ACCOUNT).is_none_or(String::is_empty) {
                    errors.required(&META.field("annotations").key(ACCOUNT));
                }
            }
            "kubernetes.io/dockercfg" => registry_logins(object, ".dockercfg", errors),
            "kubernetes.io/dockerconfigjson" => registry_logins(object, ".dockerconfigjson", errors),
            "kubernetes.io/basic-auth" if !["username", "password"].iter().any(|key| object.data.contains_key(*key)) => {
                errors.required(&data.key("username"));
                errors.required(&data.key("password"));
            }
            "kubernetes.io/ssh-auth" if missing("ssh-privatekey") => errors.required(&data.key("ssh-privatekey")),
            "kubernetes.io/tls" => {
                for key in ["tls.crt", "tls.key"].into_iter().filter(|key| !object.data.contains_key(*key)) {
                    errors.required(&data.key(key));
                }
            }
            _ => {}
        }
    }

    fn validate_update(&self, _subresource: &str, new: &Secret, old: &Secret, errors: &mut FieldErrors) {
        if old.immutable != Some(true) {
            return;
        }
        for (field, changed) in [("immutable", new.immutable != Some(true)), ("data", new.data != old.data)] {
            if changed {
                errors.forbidden(&ROOT.field(field), "field is immutable when `immutable` is set");
            }
        }
    }
}

fn registry_logins(object: &Secret, key: &str, errors: &mut FieldErrors) {
    let at = &ROOT.field("data");
    match object.data.get(key) {
        None => errors.required(&at.key(key)),
        Some(value) => {
            // Where the JSON goes wrong may be said, what stands there may not.
            if let Err(e) = serde_json::from_slice::<serde::de::IgnoredAny>(value) {
                let why = format_args!("not valid JSON at line {}, column {}", e.line(), e.column());
                errors.invalid(&at.key(key), "<secret contents redacted>", why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    #[test]
    fn text_becomes_data_over_what_is_there_and_is_not_kept() {
        let secret = testing::json(r#"{"data": {"a": "eA==", "b": "eA=="}, "stringData": {"a": "new"}}"#);
        let secret = testing::created(SecretStrategy, secret);
        assert_eq!((&secret.data["a"][..], &secret.data["b"][..]), (&b"new"[..], &b"x"[..]));
        assert!(secret.string_data.is_empty());
        assert_eq!(secret.r#type, "Opaque");
    }

    #[test]
    fn types_demand_their_keys() {
        for (kind, wanted) in [
            ("kubernetes.io/tls", "data[tls.crt]: Required value"),
            ("kubernetes.io/ssh-auth", "data[ssh-privatekey]: Required value"),
            ("kubernetes.io/basic-auth", "data[username]: Required value"),
            ("kubernetes.io/dockerconfigjson", "data[.dockerconfigjson]: Required value"),
            ("kubernetes.io/service-account-token", "metadata.annotations[kubernetes.io/service-account.name]: Required value"),
        ] {
            let secret = Secret { r#type: kind.to_owned(), ..Default::default() };
            assert_eq!(testing::errors(&SecretStrategy, &secret)[0], wanted);
        }
    }

    #[test]
    fn an_error_never_shows_a_secret() {
        let secret = testing::json(r#"{"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "aHVudGVyMg=="}}"#);
        let found = testing::errors(&SecretStrategy, &secret);
        assert!(found[0].contains("redacted") && !found[0].contains("hunter2"), "{found:?}");
    }

    #[test]
    fn the_type_of_a_secret_cannot_change() {
        let old = Secret { r#type: "Opaque".into(), ..Default::default() };
        let new = Secret { r#type: "kubernetes.io/tls".into(), ..Default::default() };
        let found = testing::update_errors(&SecretStrategy, "", &new, &old);
        assert_eq!(found, ["type: Invalid value: field is immutable"]);
    }
}
