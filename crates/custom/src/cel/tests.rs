//! Expressions and what comes of them, after upstream's documentation of the language and of each library; and that no rule gets away.

use api::rules::{FieldErrors, Path};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Budget, Fault, RULE_BUDGET, Rules, check,
    compile::{compile, with_stack},
    eval::evaluate,
    types::declare,
    value::Val,
};
use crate::schema::{Schema, tests::schema};

const SCHEMA: &str = "{type: object, properties: {
    n: {type: integer}, d: {type: number}, s: {type: string, maxLength: 50}, b: {type: boolean}, t: {type: string, format: date-time},
    dur: {type: string, format: duration}, any: {x-kubernetes-int-or-string: true}, bytes: {type: string, format: byte}, gone: {type: string},
    nil: {type: string, nullable: true}, x-y: {type: integer}, namespace: {type: integer}, a__b: {type: integer},
    list: {type: array, maxItems: 10, items: {type: integer}}, texts: {type: array, maxItems: 10, items: {type: string, maxLength: 20}},
    set: {type: array, maxItems: 10, x-kubernetes-list-type: set, items: {type: integer}},
    ports: {type: array, maxItems: 10, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string, maxLength: 20}, port: {type: integer}}}},
    map: {type: object, maxProperties: 10, additionalProperties: {type: integer}}, o: {type: object, properties: {p: {type: string, maxLength: 9}}},
    free: {type: object, x-kubernetes-preserve-unknown-fields: true}}}";

fn object() -> Value {
    json!({
        "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "labels": {"x": "y"}},
        "n": 5, "d": 1.5, "s": "hello", "b": true, "t": "2024-01-02T03:04:05Z", "dur": "1h30m", "any": "50%", "bytes": "aGk=", "nil": null,
        "x-y": 1, "namespace": 2, "a__b": 3, "list": [3, 1, 2], "texts": ["b", "a"], "set": [1, 2], "map": {"k": 1, "l": 2}, "o": {"p": "q"},
        "ports": [{"name": "a", "port": 1}, {"name": "b"}],
    })
}

/// What comes of an expression over an object, or what is wrong with it.
fn run(schema: &Schema, source: &str, this: &Value, old: Option<&Value>, budget: u64) -> Result<bool, String> {
    let decl = declare(schema, true).unwrap();
    let program = with_stack(|| compile(source, &decl, false)).unwrap()?;
    let old = old.map_or(Val::Null, |old| Val::from_json(old, &decl));
    match evaluate(&program.node, Val::from_json(this, &decl), old, &mut Budget::new(budget)) {
        Ok(Val::Bool(b)) => Ok(b),
        Ok(other) => Err(format!("{other:?}")),
        Err(fault) => Err(fault.to_string()),
    }
}

fn answer(source: &str) -> Result<bool, String> {
    run(&schema(SCHEMA), source, &object(), None, RULE_BUDGET)
}

#[test]
fn expressions_say_what_they_say_upstream() {
    for source in include_str!("tests.cel").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert_eq!(answer(source), Ok(true), "{source}");
    }
}

#[test]
fn what_has_no_value_says_why() {
    for (source, why) in [
        ("self.gone == 'x'", "no such key: gone"),
        ("self.map['z'] == 1", "no such key: z"),
        ("self.list[7] == 1", "index out of bounds: 7"),
        ("self.n / 0 == 1", "division by zero"),
        ("self.n % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + self.n > 0", "integer overflow"),
        ("self.any > 3", "no such overload"),
        ("int(self.s) == 1", "type conversion error from string to int: \"hello\""),
        ("[].min() == 1", "min called on empty list"),
        ("quantity('x') == quantity('1')", "\"x\" is not a quantity"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("self.s.substring(3, 1) == ''", "invalid substring range. start: 3, end: 1"),
        ("self.list.all(x, 1 / (x - 1) == 9 || x > 0 && self.gone == '')", "no such key: gone"),
    ] {
        let found = answer(source).unwrap_err();
        assert!(found.starts_with(why), "{source}: {found}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_it_runs() {
    for (source, why) in [
        ("self.unheard == 1", "undefined field 'unheard'"),
        ("self.metadata.labels.size() == 1", "undefined field 'labels'"),
        ("self.free.x == 1", "undefined field 'x'"),
        ("other == 1", "undeclared reference to 'other' (in container '')"),
        ("self.n == 'x'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.n + self.d > 1.0", "found no matching overload for '_+_' applied to '(int, double)'"),
        ("self.s.frobnicate()", "undeclared reference to 'frobnicate' (in container '')"),
        ("self.s.contains(1)", "found no matching overload for 'contains' applied to 'string.(int)'"),
        ("self.s && true", "found no matching overload for '_&&_' applied to '(string, bool)'"),
        ("self.n.all(x, true)", "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)"),
        ("self.list.all(x, x)", "expected type 'bool' but found 'int'"),
        ("self.s.matches('(')", "invalid matches argument: "),
        ("self.s ==", "ERROR: <input>:1:"),
        ("has(self)", "ERROR: <input>:1:"),
    ] {
        let found = answer(source).unwrap_err();
        assert!(found.starts_with(why), "{source}: {found}");
    }
}

#[test]
fn rules_that_nest_without_end_are_refused_and_use_no_stack_up() {
    let n = 16_000;
    for source in [
        format!("{}true", "true?true:".repeat(n / 3)),
        format!("{}true{}", "(".repeat(n), ")".repeat(n)),
        format!("{}true", "!".repeat(n)),
        format!("{}1", "-".repeat(n)),
        vec!["1"; n].join("+") + " > 0",
        format!("self{}", ".o".repeat(n)),
        format!("{}1{}", "[".repeat(n), "]".repeat(n)),
        format!("{}1", "{1:".repeat(n)),
        "a(".repeat(n),
        format!("{}true", "[1].all(x, ".repeat(n / 5)),
        "x".repeat(100_000),
    ] {
        // Two negations are none, and brackets leave nothing behind: these are not deep.
        if let Err(why) = answer(&source) {
            assert!(why.len() < 100_000, "{}", source.len());
        }
    }
    assert_eq!(answer(&vec!["true"; 5_000].join(" && ")), Ok(true));
}

#[test]
fn rules_that_never_end_are_stopped() {
    let many = json!({"list": vec![1; 10_000], "texts": vec!["a".repeat(10_000); 300], "s": "x".repeat(1 << 20)});
    for source in [
        "self.list.all(a, self.list.all(b, self.list.all(c, true)))",
        "self.list.map(a, self.list.map(b, self.list)).size() > 0",
        "self.list.all(a, self.list == self.list)",
        "self.list.all(a, self.list.all(b, self.s.contains('xy') || true))",
        "self.texts.all(t, t.matches('(a*)*b') || self.texts.all(u, u.matches(t) || true))",
        "cel.bind(a, [self.list, self.list], cel.bind(b, [a, a], cel.bind(c, [b, b], cel.bind(d, [c, c], cel.bind(e, [d, d], cel.bind(f, [e, e], cel.bind(g, [f, f], g == g)))))))",
        "cel.bind(a, [self.texts, self.texts], cel.bind(b, [a, a], cel.bind(c, [b, b], '%s'.format([[c, c, c]]) == '')))",
        "self.s.replace('', self.s) == ''",
        "self.s.split('').size() == 3",
        "self.texts.join(self.s) == ''",
        "[self.s + self.s + self.s + self.s + self.s].size() == 1",
        "sets.equivalent(self.list, self.list) && sets.equivalent(self.list, self.list)",
    ] {
        let started = std::time::Instant::now();
        let why = run(&schema(SCHEMA), source, &many, None, RULE_BUDGET).unwrap_err();
        assert!(why.contains("cost limit exceeded") || why.contains("too large"), "{source}: {why}");
        assert!(started.elapsed().as_secs() < 10, "{source}: {:?}", started.elapsed());
    }
}

fn judged(schema_yaml: &str, this: Value, old: Option<Value>) -> Vec<String> {
    let rules = Rules::new(&schema(schema_yaml)).unwrap();
    let mut errors = FieldErrors::default();
    rules.validate(&this, old.as_ref(), &mut errors);
    errors.0.iter().map(|e| format!("{} {}: {}", e.reason, e.field, e.message)).collect()
}

#[test]
fn rules_blame_the_field_and_say_why() {
    let s = "{type: object, properties: {spec: {type: object, properties: {min: {type: integer}, max: {type: integer}, name: {type: string, maxLength: 9, x-kubernetes-validations: [{rule: \"self != 'bad'\"}]}},
        x-kubernetes-validations: [
          {rule: 'self.min <= self.max', messageExpression: \"'min %d is above max %d'.format([self.min, self.max])\", fieldPath: .min, reason: FieldValueForbidden},
          {rule: '!has(self.name) || self.name.size() > 1', message: 'name is too short', reason: FieldValueRequired, fieldPath: .name}]}}}";
    assert_eq!(judged(s, json!({"spec": {"min": 1, "max": 2}}), None), Vec::<String>::new());
    assert_eq!(
        judged(s, json!({"spec": {"min": 3, "max": 2, "name": "x"}}), None),
        [
            "FieldValueForbidden spec.min: Forbidden: min 3 is above max 2",
            "FieldValueRequired spec.name: Required value: name is too short",
        ]
    );
    assert_eq!(
        judged(s, json!({"spec": {"min": 1, "max": 2, "name": "bad"}}), None),
        ["FieldValueInvalid spec.name: Invalid value: \"bad\": failed rule: self != 'bad'"]
    );
    assert_eq!(
        judged(s, json!({"spec": {"min": 1}}), None),
        ["FieldValueInvalid spec: Invalid value: no such key: max evaluating rule: self.min <= self.max"]
    );
}

#[test]
fn transition_rules_see_the_old_value_of_the_same_item() {
    let s = "{type: object, properties: {
        ports: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer, x-kubernetes-validations: [{rule: 'self == oldSelf', message: immutable}]}}}},
        map: {type: object, additionalProperties: {type: integer, x-kubernetes-validations: [{rule: 'self >= oldSelf', message: grows}]}},
        first: {type: integer, x-kubernetes-validations: [{rule: '!oldSelf.hasValue() || oldSelf.value() == self', optionalOldSelf: true, message: once}]},
        once: {type: integer, x-kubernetes-validations: [{rule: 'oldSelf.hasValue()', optionalOldSelf: true, message: new}]}}}";
    let old = json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}], "map": {"x": 5}, "first": 1});
    assert_eq!(judged(s, old.clone(), None), Vec::<String>::new());
    let new = json!({"ports": [{"name": "c", "port": 9}, {"name": "b", "port": 3}, {"name": "a", "port": 1}], "map": {"x": 4, "y": 0}, "first": 2, "once": 1});
    assert_eq!(
        judged(s, new, Some(old)),
        [
            "FieldValueInvalid first: Invalid value: 2: once",
            "FieldValueInvalid map[x]: Invalid value: 4: grows",
            "FieldValueInvalid once: Invalid value: 1: new",
            "FieldValueInvalid ports[1].port: Invalid value: 3: immutable",
        ]
    );
}

#[test]
fn what_was_wrong_before_and_did_not_change_may_stay() {
    let s = "{type: object, properties: {a: {type: integer, x-kubernetes-validations: [{rule: 'self > 5', message: more}]}, b: {type: integer}}}";
    let old = json!({"a": 1, "b": 1});
    assert_eq!(judged(s, json!({"a": 1, "b": 2}), Some(old.clone())), Vec::<String>::new());
    assert_eq!(judged(s, json!({"a": 2, "b": 1}), Some(old)), ["FieldValueInvalid a: Invalid value: 2: more"]);
}

fn refused(schema_yaml: &str) -> Vec<String> {
    let mut errors = FieldErrors::default();
    check(&schema(schema_yaml), &Path::root(), &mut errors);
    errors.0.iter().map(|e| format!("{}: {}", e.field, e.message)).collect()
}

#[test]
fn rules_cost_what_upstream_says_they_cost() {
    let list = |items: u64, length: u64| {
        format!(
            "{{type: object, properties: {{tags: {{type: array, maxItems: {items}, items: {{type: string, maxLength: {length}}}, x-kubernetes-validations: [{{rule: \"self.all(x, x.contains('gpu'))\"}}]}}}}}}"
        )
    };
    // The largest lists that upstream takes, found by trying.
    for (items, length) in [(909_090, 16), (333_333, 63), (94_339, 253), (24_154, 1_024)] {
        assert_eq!(refused(&list(items, length)), Vec::<String>::new(), "{items} {length}");
        let found = refused(&list(items + items / 100, length));
        assert!(found[0].contains("estimated rule cost exceeds budget by factor of 1.0"), "{found:?}");
    }
    let unbounded = "{type: object, properties: {tags: {type: array, items: {type: string}, x-kubernetes-validations: [{rule: \"self.all(x, x.contains('gpu'))\"}]}}}";
    let found = refused(unbounded);
    assert!(found[0].starts_with("properties[tags].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x"), "{found:?}");
    assert!(
        found[1].starts_with(
            "properties[tags].x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total"
        ),
        "{found:?}"
    );
    assert!(
        found[2].contains("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget"),
        "{found:?}"
    );
}

#[test]
fn rules_are_checked_where_they_stand() {
    let rule = |rule: &str| {
        format!(
            "{{type: object, properties: {{a: {{type: array, maxItems: 3, items: {{type: object, properties: {{b: {{type: string, maxLength: 3}}}}, x-kubernetes-validations: [{rule}]}}}}}}}}"
        )
    };
    for (said, wanted) in [
        ("{rule: ''}", "rule: Required value: rule is not specified"),
        ("{rule: 'self.b'}", "rule: Invalid value: \"self.b\": cel expression must evaluate to a bool"),
        ("{rule: 'self.c == 1'}", "rule: Invalid value: \"self.c == 1\": compilation failed: undefined field 'c'"),
        ("{rule: 'true', message: \"a\\nb\"}", "message: Invalid value: \"a\\nb\": message must not contain line breaks"),
        ("{rule: 'true', message: ' '}", "message: Invalid value: \" \": message must be non-empty if specified"),
        ("{rule: \"true &&\\ntrue\"}", "message: Required value: message must be specified if rule contains line breaks"),
        (
            "{rule: 'true', messageExpression: '1'}",
            "messageExpression: Invalid value: \"1\": messageExpression must evaluate to a string",
        ),
        ("{rule: 'true', reason: Odd}", "reason: Unsupported value: \"Odd\": supported values: \"FieldValueDuplicate\""),
        ("{rule: 'true', fieldPath: .z}", "fieldPath: Invalid value: \".z\": fieldPath must be a valid path"),
        (
            "{rule: 'self == oldSelf'}",
            "rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within properties[a]",
        ),
        (
            "{rule: 'true', optionalOldSelf: true}",
            "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
    ] {
        let found = refused(&rule(said));
        let at = "properties[a].items.x-kubernetes-validations[0].";
        assert!(found.iter().any(|f| f.starts_with(&format!("{at}{wanted}"))), "{said}: {found:#?}");
    }
    assert_eq!(refused(&rule("{rule: 'self.b == \"x\"', fieldPath: .b, reason: FieldValueInvalid}")), Vec::<String>::new());
}

#[test]
fn all_rules_of_an_object_share_a_budget() {
    let rules: Vec<String> = (0..40).map(|i| format!("{{rule: 'self.l.all(x, x != {i}) || true'}}")).collect();
    let s = format!(
        "{{type: object, properties: {{l: {{type: array, items: {{type: integer}}}}}}, x-kubernetes-validations: [{}]}}",
        rules.join(", ")
    );
    let found = judged(&s, json!({"l": vec![-1; 100_000]}), None);
    assert!(
        found.last().unwrap().contains("running out of cost budget, no further validation rules will be run")
            || found.last().unwrap().contains("call cost exceeds limit"),
        "{found:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_text_is_an_expression_or_refused(source in "(self|oldSelf|x|\\.|n|s|list|all\\(x, |map\\(x, |\\)|\\(|\\[|\\]|\\?|:| \\+ | == |1|'a'|&&|!|has\\(|,|\\{|\\}|\\.size\\(\\)|`|\"|\\\\){0,14}") {
        prop_assert!(answer(&source).err().is_none_or(|why| !why.is_empty()));
    }

    #[test]
    fn a_fault_is_a_fault_whatever_the_object(n in 0_usize..40, this in prop_oneof![Just(json!({})), Just(json!({"list": "x", "map": 1, "s": [], "o": null, "n": "a"})), Just(json!(null))]) {
        let sources: Vec<&str> = include_str!("tests.cel").lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let source = sources[n * sources.len() / 40];
        let found = run(&schema(SCHEMA), source, &this, None, RULE_BUDGET);
        prop_assert!(found != Err(Fault::Budget.to_string()));
    }
}
