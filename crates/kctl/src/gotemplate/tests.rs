use serde_json::json;

use super::*;

fn object() -> Value {
    json!({
        "kind": "List", "count": 3, "large": 1_234_567, "half": 0.5, "empty": "", "none": null, "ok": true, "text": "a<b> \"c\"",
        "data": {"b": "Mg==", "a": "MQ=="},
        "items": [
            {"metadata": {"name": "one", "labels": {"app": "web"}}, "ports": [80, 443]},
            {"metadata": {"name": "two"}, "ports": []},
        ],
    })
}

fn printed(template: &str) -> String {
    Template::parse(template).and_then(|template| template.execute(&object())).unwrap_or_else(|error| format!("ERROR {error}"))
}

#[test]
fn fields_and_text() {
    for (template, wanted) in [
        ("plain", "plain"),
        ("{{.kind}}!", "List!"),
        ("{{.data.a}} {{ $.data.b }}", "MQ== Mg=="),
        ("{{.missing}} {{.missing.deeper}} {{.none}}", "<no value> <no value> <no value>"),
        ("{{.count}} {{.large}} {{.half}} {{.ok}}", "3 1.234567e+06 0.5 true"),
        ("{{.data}} {{(index .items 0).ports}}", "map[a:MQ== b:Mg==] [80 443]"),
        ("a {{- .kind -}} \n b", "aListb"),
        ("a{{/* nothing */}}b {{- /* trimmed */ -}} c", "abc"),
        ("{{\"q\\n\\u00e9\"}}{{`r\\n`}}{{'a'}} {{0x10}} {{1_000}} {{-2.5}}", "q\nér\\n97 16 1000 -2.5"),
    ] {
        assert_eq!(printed(template), wanted, "{template}");
    }
}

#[test]
fn control_flow() {
    for (template, wanted) in [
        ("{{if .ok}}y{{else}}n{{end}}{{if .empty}}y{{else if .none}}m{{else}}n{{end}}", "yn"),
        ("{{range .items}}{{.metadata.name}} {{end}}", "one two "),
        ("{{range $i, $e := .items}}{{$i}}:{{$e.metadata.name}};{{end}}", "0:one;1:two;"),
        ("{{range $k, $v := .data}}{{$k}}={{$v | base64decode}} {{end}}", "a=1 b=2 "),
        ("{{range (index .items 1).ports}}x{{else}}none{{end}}{{range .none}}x{{else}}none{{end}}", "nonenone"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{range .items}}{{if eq .metadata.name \"two\"}}{{break}}{{end}}{{.metadata.name}}{{end}}", "one"),
        ("{{range .items}}{{if eq .metadata.name \"one\"}}{{continue}}{{end}}{{.metadata.name}}{{end}}", "two"),
        ("{{with .data}}{{.a}} {{$.kind}}{{end}}{{with .none}}x{{else}}y{{end}}", "MQ== Listy"),
        ("{{with .none}}x{{else with .kind}}{{.}}{{end}}", "List"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{$y := 3}}{{$x}}{{$y}}{{end}}{{$x}}", "232"),
        ("{{define \"n\"}}<{{.metadata.name}}>{{end}}{{range .items}}{{template \"n\" .}}{{end}}", "<one><two>"),
        ("{{block \"b\" .kind}}[{{.}}]{{end}}", "[List]"),
    ] {
        assert_eq!(printed(template), wanted, "{template}");
    }
}

#[test]
fn functions_and_pipelines() {
    for (template, wanted) in [
        ("{{len .items}} {{len .kind}} {{.items | len}}", "2 4 2"),
        ("{{index .items 0 \"metadata\" \"name\"}} {{index .data \"x\"}}", "one <no value>"),
        ("{{slice .kind 1 3}} {{slice .kind 2}}", "is st"),
        (
            "{{eq .kind \"Pod\" \"List\"}} {{ne .kind \"Pod\"}} {{eq .none \"x\"}} {{lt 1 2}} {{ge 1.5 1.5}}",
            "true true false true true",
        ),
        ("{{and .ok .kind}} {{and .ok .empty}}| {{or .none .kind}} {{not .ok}}", "List | List false"),
        ("{{or .ok (index .items 99)}}", "true"),
        ("{{print 1 2 \"a\" 3}} {{println \"a\" 1}}", "1 2a3 a 1\n"),
        (
            "{{printf \"%s-%5s|%-5s|%05d|%q|%v\" .kind \"a\" \"b\" 42 \"q\" .data}}",
            "List-    a|b    |00042|\"q\"|map[a:MQ== b:Mg==]",
        ),
        ("{{printf \"%.2f %.0f %e %x %t %%\" .half .count 1.5 255 .ok}}", "0.50 3 1.500000e+00 ff true %"),
        ("{{printf \"%d %s\" .count}}", "%!d(float64=3) %!s(MISSING)"),
        ("{{printf \"%d\" 1 2}}", "1%!(EXTRA int=2)"),
        ("{{.kind | printf \"%s %s\" \"a\"}}", "a List"),
        ("{{html .text}} {{urlquery \"a b&c\"}} {{js \"it's\"}}", "a&lt;b&gt; &#34;c&#34; a+b%26c it\\'s"),
        ("{{exists .data \"a\"}} {{exists .data \"x\"}} {{exists .items 5}}", "true false false"),
        ("{{base64decode .data.a}}", "1"),
        ("{{(printf \"%s\" .kind) | len}}", "4"),
    ] {
        assert_eq!(printed(template), wanted, "{template}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (template, wanted) in [
        ("a\n{{.kind", "template: output:2: unclosed action"),
        ("{{if .ok}}", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{frob 1}}", "function \"frob\" not defined"),
        ("{{$x}}", "undefined variable: $x"),
        ("{{.kind.x}}", "output:1:2: executing \"output\" at <.kind.x>: can't evaluate field x in type string"),
        ("{{.none.x}}", "nil pointer evaluating interface {}.x"),
        ("{{index .items 7}}", "error calling index: index out of range: 7"),
        ("{{eq .count 3}}", "error calling eq: incompatible types for comparison"),
        ("{{range .kind}}{{end}}", "range can't iterate over List"),
        ("{{break}}", "{{break}} outside {{range}}"),
        ("{{template \"t\"}}", "template \"t\" not defined"),
        ("{{define \"t\"}}{{template \"t\"}}{{end}}{{template \"t\"}}", "exceeded maximum template depth"),
        ("{{1 | 2}}", "non executable command in pipeline: 2"),
        ("{{\"a\n\"}}", "unterminated quoted string"),
        ("{{(.a}}", "unclosed left paren"),
        ("{{}}", "missing value for command"),
        ("{{len}}", "wrong number of args for len: want 1 got 0"),
    ] {
        let printed = printed(template);
        assert!(printed.starts_with("ERROR ") && printed.contains(wanted), "{template}: {printed}");
    }
    let deep = format!("{}{{{{.}}}}", "{{if true}}".repeat(5000));
    assert!(printed(&deep).contains("nested too deeply"));
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(printed(&deep).contains("nested too deeply"));
}

#[test]
fn missing_keys_can_be_errors() {
    let template = Template::parse("{{.a.b}}").unwrap().allow_missing(false);
    let error = template.execute(&object()).unwrap_err().to_string();
    assert_eq!(error, "template: output:1:2: executing \"output\" at <.a.b>: map has no entry for key \"a\"");
}

mod any_text {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn does_not_panic(template in "(\\{\\{|\\}\\}|-| |if|end|range|\\$x|:=|\\.|\\.a|\\(|\\)|\\||\"|1|e|len|printf|%[a-z]|é|,){0,24}") {
            super::printed(&template);
        }
    }
}
