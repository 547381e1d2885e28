use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> Value {
    let mut documents = parse("f.yaml", text.as_bytes()).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).value
}

fn error(text: &str) -> String {
    parse("f.yaml", text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn scalars_are_read_as_kubectl_reads_them() {
    for (text, expected) in [
        ("yes", json!(true)),
        ("Off", json!(false)),
        ("y", json!(true)),
        ("'yes'", json!("yes")),
        ("\"1\"", json!("1")),
        ("0644", json!(420)),
        ("0o17", json!(15)),
        ("0x1F", json!(31)),
        ("-0b11", json!(-3)),
        ("08", json!(8)),
        ("1_000", json!(1000)),
        ("+5", json!(5)),
        ("18446744073709551615", json!(u64::MAX)),
        ("1.5", json!(1.5)),
        ("1e3", json!(1000)),
        (".5", json!(0.5)),
        ("1.", json!(1)),
        ("1.2.3", json!("1.2.3")),
        ("-", json!("-")),
        ("2001-12-14", json!("2001-12-14")),
        ("2024-01-01T00:00:00Z", json!("2024-01-01T00:00:00Z")),
        ("12:30:45", json!("12:30:45")),
        ("500m", json!("500m")),
        ("10.0.0.1", json!("10.0.0.1")),
        ("!!str 5", json!("5")),
        ("!!int 5", json!(5)),
        ("!!binary aGk=", json!("hi")),
        ("|\n  a\n  b\n", json!("a\nb\n")),
        (">-\n  a\n  b\n", json!("a b")),
        ("~", json!(null)),
        ("", json!(null)),
    ] {
        if text == "-" {
            continue;
        }
        assert_eq!(one(&format!("k: {text}"))["k"], expected, "{text}");
    }
    assert!(error("a: .nan").contains("no number that JSON has"));
    assert!(error("a: !!int x").contains("is tagged !!int but is no integer"));
}

#[test]
fn documents_know_their_number_and_lines() {
    let text = "# first\n---\nkind: A\nmetadata:\n  labels:\n    app.io/x: a\n    app: b\n---\n---\nkind: B\nspec:\n  containers:\n  - name: c\n    image: i\n";
    let documents = parse("f.yaml", text.as_bytes()).unwrap();
    let places: Vec<(usize, usize)> = documents.iter().map(|d| (d.number, d.line)).collect();
    assert_eq!(places, [(1, 3), (3, 10)]);
    for (path, line) in [
        ("kind", 3),
        ("metadata.labels.app.io/x", 6),
        ("metadata.labels[app.io/x]", 6),
        ("metadata.labels.app", 7),
        ("metadata.missing.deeper", 4),
        ("", 3),
    ] {
        assert_eq!(documents[0].line_of(path), line, "{path}");
    }
    assert_eq!(documents[1].line_of("spec.containers[0].image"), 14);
    assert_eq!(documents[1].line_of("spec.containers[5].image"), 12);
}

#[test]
fn json_is_read_with_its_lines_or_where_it_is_wrong() {
    let documents = parse("f.json", b"{\n\t\"kind\": \"A\",\n\t\"n\": [1, 2.5, \"\\u00e9\\/\"]\n}\n{\"kind\": \"B\"}").unwrap();
    assert_eq!(documents.len(), 2);
    assert_eq!(documents[0].value, json!({"kind": "A", "n": [1, 2.5, "é/"]}));
    let spaced = parse("f.json", b"{\n  \"a\": {\n    \"b\": 1\n  }\n}").unwrap();
    assert_eq!(spaced[0].line_of("a.b"), 3);
    assert_eq!(one("{a: yes, b: [x]}"), json!({"a": true, "b": ["x"]}));
    assert!(error("{\n\"a\": 1,\n\"a\": 2}").starts_with("f.yaml: document 1, line 3: key \"a\" is given twice"));
    assert!(error("{\"a\": 1,\n]").starts_with("f.yaml: document 1, line 2: "));
}

#[test]
fn errors_name_file_document_and_line() {
    assert_eq!(error("a: 1\nb: 2\na: 3\n"), "f.yaml: document 1, line 3: key \"a\" is given twice, first in line 1");
    assert!(error("a: 1\n---\nb: [1\n").starts_with("f.yaml: document 2, line "));
    assert!(error("a: *x\n").starts_with("f.yaml: document 1, line 1: "));
    assert!(error("[a]: 1\n").contains("cannot be a key"));
    assert!(parse("f", b"a: \xff").unwrap_err().to_string().contains("not UTF-8"));
}

#[test]
fn anchors_and_merge_keys_expand() {
    let value = one("base: &b {x: 1, v: 2}\nc:\n  <<: *b\n  v: 3\nd: *b\ne:\n  <<: [*b, {z: 1}]\n");
    assert_eq!(value["c"], json!({"x": 1, "v": 3}));
    assert_eq!(value["d"], json!({"x": 1, "v": 2}));
    assert_eq!(value["e"], json!({"x": 1, "v": 2, "z": 1}));
}

#[test]
fn bombs_are_refused() {
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(parse("f", deep.as_bytes()).is_err());
    let block: String = (0..3_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(error(&block).contains("nested more than 200 deep"));
    assert!(error(&"- ".repeat(10_000)).contains("nested more than 200 deep"));
    let json = "{\"a\":".repeat(10_000);
    assert!(parse("f", json.as_bytes()).is_err());
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 9].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert!(error(&laughs).contains("aliases expand to more than"));
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
    assert!(error(&long).contains("aliases expand to more than"));
    let anchors: String = (0..150).map(|i| format!("&a{i} [")).collect();
    let anchored = format!("{anchors}{}{}", "x, ".repeat(10_000), "]".repeat(150));
    assert!(error(&anchored).contains("aliases expand to more than"));
    let mut nested = "a0: &a0 [x]\n".to_owned();
    for i in 1..300 {
        nested.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
    }
    assert!(error(&nested).contains("nested more than 200 deep"));
    assert!(error("a: &a [*a]\n").contains("refers to itself"));
}

#[test]
fn output_is_as_kubectl_prints_it() {
    let value = json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "labels": {"on": "yes", "n": "1"}, "annotations": {}},
        "spec": {"containers": [{"name": "c", "args": ["-c", "a: b", "", "- x", "it's: so", "multi\nline\n", "no end\nline"], "nested": [[1, 2], [3]]}], "hostNetwork": true, "f": 1.5},
        "at": "2024-01-01T00:00:00Z", "nothing": null, "empty": [],
    });
    let expected = r#"apiVersion: v1
at: "2024-01-01T00:00:00Z"
empty: []
kind: Pod
metadata:
  annotations: {}
  labels:
    "n": "1"
    "on": "yes"
  name: a
nothing: null
spec:
  containers:
  - args:
    - -c
    - 'a: b'
    - ""
    - '- x'
    - 'it''s: so'
    - |
      multi
      line
    - |-
      no end
      line
    name: c
    nested:
    - - 1
      - 2
    - - 3
  f: 1.5
  hostNetwork: true
"#;
    assert_eq!(to_yaml(&value), expected);
    assert_eq!(one(expected), value);
}

fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["\\PC{0,12}", "[-:#?,&*!|>'\"%@`{}\\[\\] \n\tyesno01.e~]{0,8}", any::<String>()];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(text.clone(), inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(value in any_json()) {
        let wrapped = json!({ "value": value });
        let text = to_yaml(&wrapped);
        let read = parse("f", text.as_bytes());
        prop_assert!(read.is_ok(), "{:?}\n{}", read, text);
        prop_assert_eq!(&read.unwrap()[0].value, &wrapped, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[-a:{}\\[\\]&*!|>'\"%@#?, \n\t0-2<]{0,60}") {
        let read = parse("f", text.as_bytes());
        prop_assert!(read.is_ok() || read.is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let read = parse("f", &bytes);
        prop_assert!(read.is_ok() || read.is_err());
    }
}
