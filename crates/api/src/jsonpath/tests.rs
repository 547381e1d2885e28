use proptest::prelude::*;
use serde_json::json;

use super::*;

fn list() -> Value {
    json!({
        "kind": "List",
        "items": [
            {"kind": "None", "metadata": {"name": "a", "labels": {"app.io/x": "1", "k8s.io": "v"}}, "status": {"cpu": 4, "ready": true, "ip": "1"}},
            {"kind": "None", "metadata": {"name": "b"}, "status": {"cpu": 8, "ready": false, "ip": "2"}},
            {"kind": "None", "metadata": {"name": "c"}, "status": {"cpu": 12, "load": 1.5}},
        ],
        "users": [{"name": "me", "user": {}}, {"name": "e2e", "user": {"username": "admin", "password": "secret"}}],
    })
}

fn print(template: &str) -> String {
    Template::parse(template).unwrap().print(&list()).unwrap_or_else(|e| format!("error: {e}"))
}

#[test]
fn templates_print_as_kubectl_prints_them() {
    for (template, expected) in [
        ("text", "text"),
        ("kind is {.kind}", "kind is List"),
        ("{$.kind}{@.kind}", "ListList"),
        ("{['kind']}", "List"),
        ("{.items[*].metadata.name}", "a b c"),
        ("{.items[0].metadata.name}", "a"),
        ("{.items[-1].metadata.name}", "c"),
        ("{.items[0:2].metadata.name}", "a b"),
        ("{.items[:-1].metadata.name}", "a b"),
        ("{.items[0:3:2].metadata.name}", "a c"),
        ("{.items[0,2].metadata.name}", "a c"),
        ("{.items[*]['metadata.name', 'status.cpu']}", "error: metadata.name is not found"),
        ("{.items[0]['kind','metadata']['name']}", "a"),
        ("{.items[0].metadata.labels.app\\.io/x}", "1"),
        ("{.items[0].metadata.labels['k8s\\.io']}", "v"),
        ("{.items[0].metadata.labels['app.io/x']}", "1"),
        ("{.users[?(@.name==\"e2e\")].user.password}", "secret"),
        ("{.users[?(@.name=='e2e')].user.password}", "secret"),
        ("{.items[?(@.status.cpu>4)].metadata.name}", "b c"),
        ("{.items[?(@.status.cpu<=8)].metadata.name}", "a b"),
        ("{.items[?(@.status.ready==true)].metadata.name}", "a"),
        ("{.items[?(@.status.ready!=true)].metadata.name}", "b"),
        ("{.items[?(@.status.load)].metadata.name}", "c"),
        ("{range .items[*]}[{.metadata.name}, {.status.cpu}] {end}", "[a, 4] [b, 8] [c, 12] "),
        ("{range .items[*]}{.metadata.name}{\"\\t\"}{.status.cpu}{\"\\n\"}{end}", "a\t4\nb\t8\nc\t12\n"),
        ("{range .users[*]}{.name}:{range .user.*}{@}{end};{end}", "me:;e2e:secretadmin;"),
        ("{..cpu}", "4 8 12"),
        ("{.items..name}", "a b c"),
        ("{..metadata.name}", "a b c"),
        ("{.users[1].user}", "{\"password\":\"secret\",\"username\":\"admin\"}"),
        ("{.items[2].status.load}", "1.5"),
        ("{.missing}", "error: missing is not found"),
        ("{.items[7]}", "error: array index out of bounds: index 7, length 3"),
        ("{.kind[0]}", "error: text is not array or slice"),
        ("{\"a\"}{'b'}{5}{true}", "ab5true"),
        ("{.kind} {.users[0].name}", "List me"),
        ("{.items[0:3].metadata.name}", "a b c"),
        ("{.items[1:1].metadata.name}", ""),
        ("{.items[7:7].metadata.name}", ""),
        ("{.items[-4]}", "error: array index out of bounds: index -1, length 3"),
        ("{.items[0:4]}", "error: array index out of bounds: index 3, length 3"),
        ("{.items[2:1]}", "error: starting index 2 is greater than ending index 1"),
        ("{.items[0:2:0]}", "error: step must be > 0"),
        ("{.items[*].status.ip}", "1 2"),
        ("{.items[?(@.status.cpu>\"x\")].kind}", "error: cannot compare a number with text"),
    ] {
        assert_eq!(print(template), expected, "{template}");
    }
}

#[test]
fn missing_fields_may_be_allowed() {
    let print = |template: &str| {
        let template = Template::parse(template).unwrap().allow_missing(true);
        template.print(&list()).unwrap_or_else(|error| format!("error: {error}"))
    };
    assert_eq!(print("{.items[*].status.ip}|{.none.deeper}|{.none[0].x}"), "1 2||");
    assert_eq!(print("{.items[7]}"), "error: array index out of bounds: index 7, length 3");
    assert_eq!(print("{.kind[0]}"), "error: text is not array or slice");
}

#[test]
fn a_range_without_end_goes_on_with_the_value_around_it() {
    let print = |template: &str| Template::parse(template).unwrap().allow_missing(true).print(&list()).unwrap();
    assert_eq!(print("{range .items[*]}<{.metadata.name}>{.kind}"), "<a>None<b>None<c>None<>List");
    assert_eq!(print("{range .users[*]}{range .user.*}<{@}>{end}{.name};"), "me;<secret><admin>e2e;;");
}

#[test]
fn relaxed_expressions_need_neither_braces_nor_dot() {
    for expression in ["kind", ".kind", "{.kind}", "{kind}", "$.kind"] {
        let template = Template::parse_relaxed(expression).unwrap();
        assert_eq!(template.values(&list()).unwrap(), [&json!("List")], "{expression}");
    }
}

#[test]
fn templates_that_make_no_sense_are_refused() {
    for bad in [
        "{.a",
        "{end}",
        "{.a[}",
        "{.a[?(@.b]}",
        "{\"x}",
        "{.a[?(@.b==)]}",
        "{foo}",
        "{.a[x]}",
        "{.a[1}",
        "{#}",
        "{.a[]}",
        "{.a[?(@.x==1)}",
    ] {
        let error = Template::parse(bad).unwrap_err().to_string();
        assert!(error.starts_with(&format!("error parsing jsonpath {bad}, ")), "{error}");
    }
    let deep = format!("{{{}", "[?(@".repeat(100_000));
    assert!(Template::parse(&deep).is_err());
    let deep = "{range .a}".repeat(100_000);
    assert!(Template::parse(&deep).is_err());
}

#[test]
fn a_template_cannot_yield_without_end() {
    let mut value = json!([1]);
    for _ in 0..20 {
        value = json!([value, 1, 2, 3]);
    }
    let template = Template::parse(&format!("{{{}}}", "..".repeat(12))).map(|t| t.print(&value));
    assert!(matches!(template, Err(_) | Ok(Err(JsonPathError::TooMany))));
    let items = json!(vec![json!({"a": [1, 2, 3]}); 1000]);
    let nested = format!("{}x{}", "{range $[*]}".repeat(20), "{end}".repeat(20));
    for template in [nested.as_str(), "{[?(@.a)]..[?($..a)]}"] {
        assert_eq!(Template::parse(template).unwrap().print(&items), Err(JsonPathError::TooMany), "{template}");
    }
}

proptest! {
    #[test]
    fn any_template_is_read_or_refused(template in "[{}.a\\[\\]*?()@=$'\",:0-2\\\\ -]{0,40}") {
        if let Ok(template) = Template::parse(&template) {
            let printed = template.print(&json!({"a": [{"a": 1}, "x", {"aa": [0, 1]}]}));
            prop_assert!(printed.is_ok() || printed.is_err());
        }
    }

    #[test]
    fn any_parts_of_templates_are_read_or_refused_in_bounded_time(
        parts in proptest::collection::vec(proptest::sample::select(&[
            "{", "}", "range ", "{end}", ".a", "..", "[*]", "[?(@.a==1)]", "[0:2]", "[-1]", "$", "@", "\"x\"", "['a',.b]", "[?($..a)]", " ",
        ][..]), 0..24)
    ) {
        if let Ok(template) = Template::parse(&parts.concat()) {
            let printed = template.print(&json!({"a": [{"a": 1, "b": {"a": [1, 2]}}, "x", {"a": [0, 1]}], "b": [[1], [2, {"a": 1}]]}));
            prop_assert!(printed.is_ok() || printed.is_err());
        }
    }

    #[test]
    fn any_text_never_panics(template in "\\PC{0,40}") {
        let parsed = Template::parse(&template);
        prop_assert!(parsed.is_ok() || parsed.is_err());
    }
}
