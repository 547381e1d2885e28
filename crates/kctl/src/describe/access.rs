//! Who may do what: service accounts, roles and their bindings.

use serde_json::Value;

use super::{labels_and_annotations, or_none, text::Text};
use crate::objects::{list, text};

/// Describes a service account.
pub fn service_account(out: &mut Text, account: &Value) {
    out.field(0, "Name", text(account, "/metadata/name"));
    out.field(0, "Namespace", text(account, "/metadata/namespace"));
    labels_and_annotations(out, account);
    let names = |pointer| list(account, pointer).iter().map(|named| text(named, "/name").to_owned());
    out.entries(0, "Image pull secrets", names("/imagePullSecrets"));
    out.entries(0, "Mountable secrets", names("/secrets"));
}

/// Describes a role or cluster role.
pub fn role(out: &mut Text, role: &Value) {
    head(out, role);
    out.line(0, "PolicyRule:");
    out.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    out.line(1, "---------\t-----------------\t--------------\t-----");
    for rule in list(role, "/rules") {
        let words = |pointer| list(rule, pointer).iter().map(api::jsonpath::text).collect::<Vec<_>>();
        let shown = |pointer| format!("[{}]", words(pointer).join(" "));
        let rest = format!("{}\t{}\t{}", shown("/nonResourceURLs"), shown("/resourceNames"), shown("/verbs"));
        for group in words("/apiGroups") {
            for resource in words("/resources") {
                let suffix = if group.is_empty() { String::new() } else { format!(".{group}") };
                out.line(1, format!("{resource}{suffix}\t{rest}"));
            }
        }
        if words("/resources").is_empty() {
            out.line(1, format!("\t{rest}"));
        }
    }
}

/// Describes a role binding or cluster role binding.
pub fn binding(out: &mut Text, binding: &Value) {
    head(out, binding);
    out.line(0, "Role:");
    out.field(1, "Kind", text(binding, "/roleRef/kind"));
    out.field(1, "Name", text(binding, "/roleRef/name"));
    out.line(0, "Subjects:");
    out.line(1, "Kind\tName\tNamespace");
    out.line(1, "----\t----\t---------");
    for subject in list(binding, "/subjects") {
        out.line(1, format!("{}\t{}\t{}", text(subject, "/kind"), text(subject, "/name"), text(subject, "/namespace")));
    }
}

fn head(out: &mut Text, object: &Value) {
    out.field(0, "Name", text(object, "/metadata/name"));
    if !text(object, "/metadata/namespace").is_empty() {
        out.field(0, "Namespace", or_none(text(object, "/metadata/namespace")));
    }
    labels_and_annotations(out, object);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn roles_and_bindings_are_tables() {
        let mut out = Text::default();
        let rules = json!([
            {"apiGroups": ["", "apps"], "resources": ["pods"], "verbs": ["get", "list"]},
            {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
        ]);
        role(&mut out, &json!({"metadata": {"name": "r"}, "rules": rules}));
        let text = out.render();
        assert!(text.contains("\n  pods       []                 []              [get list]\n"), "{text}");
        assert!(text.contains("\n  pods.apps  []                 []              [get list]\n"), "{text}");
        assert!(text.contains("\n             [/metrics]         []              [get]\n"), "{text}");

        let mut out = Text::default();
        let subject = json!({"kind": "ServiceAccount", "name": "a", "namespace": "d"});
        let role_ref = json!({"kind": "Role", "name": "r"});
        binding(&mut out, &json!({"metadata": {"name": "b", "namespace": "d"}, "roleRef": role_ref, "subjects": [subject]}));
        let text = out.render();
        assert!(text.contains("Role:\n  Kind:  Role\n  Name:  r\nSubjects:\n"), "{text}");
        assert!(text.contains("  ServiceAccount  a     d\n"), "{text}");
    }
}
