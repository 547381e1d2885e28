//! The rules of a whole schema: compiled, checked and bounded when it is defined, evaluated for each object.

use std::collections::BTreeMap;

use api::{
    apiextensions::v1::ValidationRule,
    rules::{FieldErrors, Path},
};
use serde_json::{Map, Value};

use super::{
    Budget, Fault, OBJECT_BUDGET, RULE_BUDGET, RULE_COST, SCHEMA_COST,
    compile::{Program, compile, with_stack},
    eval::evaluate,
    types::{Decl, Kind, MAX_REQUEST, declare, least_size},
    value::Val,
};
use crate::schema::{Identity, ListType, Schema, Type, resolve, same};

/// Longest text that `messageExpression` may make, in bytes.
const MAX_MESSAGE: usize = 5120;
/// Reasons that a rule may give.
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// The rules of a schema, ready to be evaluated.
#[derive(Debug, Default)]
pub struct Rules(Option<Box<Level>>);

/// The rules of one schema inside, and of what is in it.
#[derive(Debug)]
struct Level {
    decl: Option<Decl>,
    rules: Vec<Rule>,
    scalar: bool,
    items: Option<Box<Level>>,
    properties: BTreeMap<String, Level>,
    values: Option<Box<Level>>,
    /// What tells the items of a list apart.
    identity: Option<Identity>,
    /// What is inside of an atomic object is not compared to what was.
    atomic: bool,
}

#[derive(Debug)]
struct Rule {
    said: ValidationRule,
    program: Result<Program, String>,
    message: Option<Result<Program, String>>,
    path: Option<Result<String, String>>,
}

impl Rules {
    /// Compiles the rules of a schema.
    ///
    /// # Errors
    /// When the system has no thread to compile on.
    pub fn new(schema: &Schema) -> std::io::Result<Self> {
        if !has_rules(schema) {
            return Ok(Self(None));
        }
        with_stack(|| Self(level(schema, declare(schema, true)).map(Box::new)))
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Judges a whole object by the rules; a changed one against the old one.
    pub fn validate(&self, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        if let Some(level) = &self.0 {
            let mut budget = Budget::new(OBJECT_BUDGET);
            // A rule that ran out of budget has said so.
            if let Err(Stop) = level.validate(object, old, &Path::root(), errors, &mut budget) {}
        }
    }
}

fn has_rules(schema: &Schema) -> bool {
    let inside = schema.properties.values().chain(schema.items.as_deref()).chain(schema.values());
    !schema.rules.is_empty() || inside.into_iter().any(has_rules)
}

/// The rules of a schema and of what is in it; none if there are none.
fn level(schema: &Schema, decl: Option<Decl>) -> Option<Level> {
    if !has_rules(schema) {
        return None;
    }
    let inner = |schema: &Schema| level(schema, declare(schema, schema.embedded));
    let rules = schema.rules.iter().map(|rule| compile_rule(rule, schema, decl.as_ref())).collect();
    let identity = if let ListType::Map(keys) = &schema.list { Some(Identity::new(keys, schema)) } else { None };
    Some(Level {
        rules,
        scalar: !matches!(schema.ty, Type::Object | Type::Array),
        items: schema.items.as_deref().and_then(inner).map(Box::new),
        properties: schema.properties.iter().filter_map(|(name, field)| Some((name.clone(), inner(field)?))).collect(),
        values: schema.values().and_then(inner).map(Box::new),
        identity,
        atomic: schema.atomic,
        decl,
    })
}

fn compile_rule(rule: &ValidationRule, schema: &Schema, decl: Option<&Decl>) -> Rule {
    let unknown = || Err("a rule needs a schema that says of what type the value is".to_owned());
    let optional = rule.optional_old_self.unwrap_or_default();
    let program = decl.map_or_else(unknown, |decl| {
        let program = compile(&rule.rule, decl, optional).map_err(|why| format!("compilation failed: {why}"))?;
        match program.decl.kind {
            Kind::Bool => Ok(program),
            _ => Err("cel expression must evaluate to a bool".to_owned()),
        }
    });
    let message = Some(rule.message_expression.trim()).filter(|text| !text.is_empty()).zip(decl).map(|(text, decl)| {
        let program = compile(text, decl, optional).map_err(|why| format!("messageExpression compilation failed: {why}"))?;
        match program.decl.kind {
            Kind::String => Ok(program),
            _ => Err("messageExpression must evaluate to a string".to_owned()),
        }
    });
    let path = Some(&rule.field_path).filter(|path| !path.is_empty());
    let path = path.map(|path| resolve(path, schema, true).map(|(shown, _)| shown));
    Rule { said: rule.clone(), program, message, path }
}

// === judging an object ===

/// No further rule is looked at.
struct Stop;

impl Level {
    fn validate(
        &self,
        value: &Value,
        old: Option<&Value>,
        at: &Path<'_>,
        errors: &mut FieldErrors,
        budget: &mut Budget,
    ) -> Result<(), Stop> {
        // Of what may be null, the schema around it judges.
        if value.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        if let Some(decl) = &self.decl {
            let unchanged = old.is_some_and(|old| same(old, value));
            for rule in &self.rules {
                self.judge(rule, decl, value, old, unchanged, at, errors, budget)?;
            }
        }
        match value {
            Value::Array(list) => self.each(list, old.and_then(Value::as_array), at, errors, budget),
            Value::Object(map) => self.fields(map, old.and_then(Value::as_object), at, errors, budget),
            _ => Ok(()),
        }
    }

    fn each(
        &self,
        list: &[Value],
        old: Option<&Vec<Value>>,
        at: &Path<'_>,
        errors: &mut FieldErrors,
        budget: &mut Budget,
    ) -> Result<(), Stop> {
        let Some(items) = &self.items else { return Ok(()) };
        let key = |item: &Value| self.identity.as_ref().and_then(|identity| identity.text(item));
        let before: BTreeMap<String, &Value> = match old {
            Some(old) if self.identity.is_some() => old.iter().filter_map(|item| Some((key(item)?, item))).collect(),
            _ => BTreeMap::new(),
        };
        for (i, item) in list.iter().enumerate() {
            let old = if before.is_empty() { None } else { key(item).and_then(|key| before.get(&key).copied()) };
            items.validate(item, old, &at.index(i), errors, budget)?;
        }
        Ok(())
    }

    fn fields(
        &self,
        map: &Map<String, Value>,
        old: Option<&Map<String, Value>>,
        at: &Path<'_>,
        errors: &mut FieldErrors,
        budget: &mut Budget,
    ) -> Result<(), Stop> {
        let old = old.filter(|_| !self.atomic);
        if let Some(values) = &self.values {
            for (key, value) in map {
                values.validate(value, old.and_then(|old| old.get(key)), &at.key(key), errors, budget)?;
            }
        }
        for (name, level) in &self.properties {
            if let Some(value) = map.get(name) {
                level.validate(value, old.and_then(|old| old.get(name)), &at.field(name), errors, budget)?;
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one judgement")]
    fn judge(
        &self,
        rule: &Rule,
        decl: &Decl,
        value: &Value,
        old: Option<&Value>,
        unchanged: bool,
        at: &Path<'_>,
        errors: &mut FieldErrors,
        budget: &mut Budget,
    ) -> Result<(), Stop> {
        let optional = rule.said.optional_old_self.unwrap_or_default();
        let program = match &rule.program {
            Ok(program) => program,
            Err(why) => {
                errors.invalid_because(at, format_args!("rule compile error: {why}"));
                return Ok(());
            }
        };
        // What was wrong before and did not change may stay.
        if program.uses_old && old.is_none() && !optional || !program.uses_old && unchanged {
            return Ok(());
        }
        let this = Val::from_json(value, decl);
        let before = old.map(|old| Val::from_json(old, decl));
        let before = if optional { Val::optional(before) } else { before.unwrap_or(Val::Null) };
        let text = rule_text(&rule.said);
        match run(program, this.clone(), before.clone(), budget) {
            Ok(Val::Bool(true)) => return Ok(()),
            Ok(Val::Bool(false)) => {}
            Err(Fault::Budget) if budget.left() == 0 => {
                let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                errors.invalid_because(at, why);
                return Err(Stop);
            }
            Err(fault @ Fault::Budget) => {
                let why = "no further validation rules will be run due to call cost exceeds limit for rule";
                errors.invalid_because(at, format_args!("'{fault}': {why}: {text}"));
                return Err(Stop);
            }
            Ok(_) | Err(Fault::Overload) => {
                let why = "call arguments did not match a supported operator, function or macro signature for rule";
                errors.invalid_because(at, format_args!("'no such overload': {why}: {text}"));
                return Ok(());
            }
            Err(fault) => {
                errors.invalid_because(at, format_args!("{fault} evaluating rule: {text}"));
                return Ok(());
            }
        }
        let made = rule.message.as_ref().and_then(|program| message(program.as_ref().ok()?, this, before, budget));
        let detail = made.unwrap_or_else(|| match rule.said.message.trim() {
            "" => format!("failed rule: {text}"),
            message => message.to_owned(),
        });
        let here = match &rule.path {
            Some(Ok(path)) => at.field(path),
            _ => *at,
        };
        self.blame(&rule.said, value, &here, &detail, errors);
        Ok(())
    }

    fn blame(&self, rule: &ValidationRule, value: &Value, at: &Path<'_>, detail: &str, errors: &mut FieldErrors) {
        match rule.reason.as_deref() {
            Some("FieldValueForbidden") => errors.forbidden(at, detail),
            Some("FieldValueRequired") => errors.required_because(at, detail),
            Some("FieldValueDuplicate") => errors.duplicate(at, crate::schema::Shown(value)),
            _ if self.scalar => errors.invalid(at, crate::schema::Shown(value), detail),
            _ => errors.invalid_because(at, detail),
        }
    }
}

/// Evaluates with what a single evaluation may take, and takes that from what all may take.
fn run<'a>(program: &'a Program, this: Val<'a>, old: Val<'a>, budget: &mut Budget) -> Result<Val<'a>, Fault> {
    let allowed = budget.left().min(RULE_BUDGET);
    let mut own = Budget::new(allowed);
    let result = evaluate(&program.node, this, old, &mut own);
    let used = if matches!(result, Err(Fault::Budget)) { allowed } else { allowed - own.left() };
    budget.spend(used)?;
    result
}

/// What a message's expression says, if that can be said.
fn message<'a>(program: &'a Program, this: Val<'a>, old: Val<'a>, budget: &mut Budget) -> Option<String> {
    let made = run(program, this, old, budget).ok()?;
    let text = made.as_str()?.trim();
    (!text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n')).then(|| text.to_owned())
}

fn rule_text(rule: &ValidationRule) -> &str {
    match rule.message.trim() {
        "" => rule.rule.trim(),
        message => message,
    }
}

// === checking a definition ===

/// Says what is wrong with the rules of a schema that is itself right.
pub fn check(schema: &Schema, at: &Path<'_>, errors: &mut FieldErrors) {
    let rules = match Rules::new(schema) {
        Ok(rules) => rules,
        Err(e) => return errors.invalid_because(at, format_args!("the rules cannot be compiled: {e}")),
    };
    let Some(level) = &rules.0 else { return };
    let mut costs = Costs::default();
    level.check(schema, Place { count: Some(1), uncorrelated: None }, at, &mut costs, errors);
    if costs.total > SCHEMA_COST {
        let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        costs.most.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        let here = Path::root();
        for (path, _) in costs.most.iter().take(4) {
            errors.forbidden(&here.field(path), why);
        }
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(at, too_dear(name, costs.total, SCHEMA_COST));
    }
}

/// What the rules cost together, and where they stand that cost more than a hundredth of what all may.
#[derive(Default)]
struct Costs {
    total: u64,
    most: Vec<(String, u64)>,
}

/// Where in the schema a level is.
#[derive(Clone)]
struct Place {
    /// How many values an object can have here, if the schema says.
    count: Option<u64>,
    /// The schema below which values have no old value.
    uncorrelated: Option<String>,
}

impl Level {
    fn check(&self, schema: &Schema, place: Place, at: &Path<'_>, costs: &mut Costs, errors: &mut FieldErrors) {
        let list = at.field("x-kubernetes-validations");
        // Where nothing bounds how many there are, the size of a request does.
        let count = place.count.unwrap_or_else(|| MAX_REQUEST / (least_size(schema) + 1));
        for (i, rule) in self.rules.iter().enumerate() {
            let here = list.index(i);
            rule.check_words(&here, errors);
            rule.check_program(count, &place, &here, costs, errors);
        }
        let times = |max: Option<i64>| Some(place.count?.saturating_mul(u64::try_from(max?).unwrap_or_default()));
        let below = |apart: bool| {
            if apart { place.uncorrelated.clone().or_else(|| Some(at.to_string())) } else { place.uncorrelated.clone() }
        };
        if let (Some(level), Some(items)) = (&self.items, &schema.items) {
            let uncorrelated = below(!matches!(schema.list, ListType::Map(_)));
            let inside = Place { count: times(schema.limits.items.max), uncorrelated };
            level.check(items, inside, &at.field("items"), costs, errors);
        }
        for (name, level) in &self.properties {
            if let Some(field) = schema.properties.get(name) {
                let inside = Place { count: place.count, uncorrelated: below(schema.atomic) };
                level.check(field, inside, &at.field("properties").key(name), costs, errors);
            }
        }
        if let (Some(level), Some(values)) = (&self.values, schema.values()) {
            let inside = Place { count: times(schema.limits.properties.max), uncorrelated: below(schema.atomic) };
            level.check(values, inside, &at.field("additionalProperties"), costs, errors);
        }
    }
}

impl Rule {
    fn check_words(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        let said = &self.said;
        let broken = |text: &str| text.contains(['\n', '\r']);
        let (rule, message) = (said.rule.trim(), said.message.trim());
        let here = at.field("message");
        if rule.is_empty() {
            errors.required_because(&at.field("rule"), "rule is not specified");
        } else if !said.message.is_empty() && message.is_empty() {
            errors.invalid(&here, &said.message, "message must be non-empty if specified");
        } else if broken(message) {
            errors.invalid(&here, &said.message, "message must not contain line breaks");
        } else if broken(rule) && message.is_empty() {
            errors.required_because(&here, "message must be specified if rule contains line breaks");
        }
        if !said.message_expression.is_empty() && said.message_expression.trim().is_empty() {
            errors.required_because(&at.field("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = said.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(&at.field("reason"), reason, &REASONS);
        }
        if let Some(Err(_)) = &self.path {
            errors.invalid(&at.field("fieldPath"), &said.field_path, "fieldPath must be a valid path");
        }
    }

    fn check_program(&self, count: u64, place: &Place, at: &Path<'_>, costs: &mut Costs, errors: &mut FieldErrors) {
        let here = at.field("rule");
        match &self.program {
            Err(_) if self.said.rule.trim().is_empty() => {}
            Err(why) => errors.invalid(&here, &self.said.rule, why),
            Ok(program) => {
                costs.add("estimated rule cost", program.cost.saturating_mul(count), &here, errors);
                let optional = at.field("optionalOldSelf");
                match (&place.uncorrelated, program.uses_old, self.said.optional_old_self) {
                    (Some(apart), true, _) => {
                        let why =
                            format_args!("oldSelf cannot be used on the uncorrelatable portion of the schema within {apart}");
                        errors.invalid(&here, &self.said.rule, why);
                    }
                    (_, false, Some(set)) => errors.invalid(&optional, set, "may not be set if oldSelf is not used in rule"),
                    _ => {}
                }
            }
        }
        let here = at.field("messageExpression");
        match &self.message {
            None => {}
            Some(Err(why)) => errors.invalid(&here, &self.said.message_expression, why),
            Some(Ok(program)) => costs.add("estimated messageExpression cost", program.cost, &here, errors),
        }
    }
}

impl Costs {
    fn add(&mut self, name: &str, cost: u64, at: &Path<'_>, errors: &mut FieldErrors) {
        if cost > RULE_COST {
            errors.forbidden(at, too_dear(name, cost, RULE_COST));
        }
        self.total = self.total.saturating_add(cost);
        if cost > SCHEMA_COST / 100 {
            self.most.push((at.to_string(), cost));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn too_dear(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where \
         arrays, maps, and strings are declared)"
    )
}
