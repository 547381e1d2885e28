//! Selectors: which objects a label selector, node selector or field selector means. The one implementation of each.
//!
//! Matching asks a closure for a label's value, so that it runs on encoded objects as well as on maps.

mod field;
mod node;
mod parse;

use std::{collections::BTreeMap, fmt};

use crate::{
    meta::v1::LabelSelector,
    names::{self, Format},
};

pub use field::{FieldSelector, FieldTerm};
pub use node::{NodeSelector, NodeSelectorTerm};

/// Why a selector means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text cannot be read.
    #[error("unable to parse requirement: {0}")]
    Requirement(String),
    /// The text goes on where it should not.
    #[error("{0}")]
    Syntax(String),
    /// A key or value is not of the right form, or there are too many or too few values.
    #[error("{field}: Invalid value: {value:?}: {why}")]
    Invalid {
        /// `key` or `values`, with the index in brackets.
        field: String,
        /// What is not right.
        value: String,
        /// What would be.
        why: String,
    },
    /// An operator that does not exist here.
    #[error("{operator:?} is not a valid {place} selector operator")]
    Operator {
        /// The operator.
        operator: String,
        /// `label` or `node`.
        place: &'static str,
    },
}

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// `key=value`.
    Equals,
    /// `key==value`.
    DoubleEquals,
    /// `key!=value`; true without the label.
    NotEquals,
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`; true without the label.
    NotIn,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>5`.
    GreaterThan,
    /// `key<5`.
    LessThan,
}

/// One thing asked of the labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, without duplicates.
    values: Vec<String>,
}

/// A label selector: every requirement must hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    nothing: bool,
    /// Sorted by key.
    requirements: Vec<Requirement>,
}

// === impl Requirement ===

impl Requirement {
    /// A requirement with its key and values checked.
    ///
    /// # Errors
    /// When the key is no label key, a value no label value, or the number of values does not fit the operator.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectorError> {
        let invalid = |field: &str, value: &str, why: &str| SelectorError::Invalid {
            field: field.to_owned(),
            value: value.to_owned(),
            why: why.to_owned(),
        };
        names::check(Format::QualifiedName, key).map_err(|why| invalid("key", key, &why))?;
        let listed = values.join(",");
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return Err(invalid("values", &listed, "for 'in', 'notin' operators, values set can't be empty"));
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                return Err(invalid("values", &listed, "exact-match compatibility requires one single value"));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return Err(invalid("values", &listed, "values set must be empty for exists and does not exist"));
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                return Err(invalid("values", &listed, "for 'Gt', 'Lt' operators, exactly one value is required"));
            }
            Operator::GreaterThan | Operator::LessThan if values[0].parse::<i64>().is_err() => {
                return Err(invalid("values[0]", &listed, "for 'Gt', 'Lt' operators, the value must be an integer"));
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            names::check(Format::LabelValue, value).map_err(|why| invalid(&format!("values[{i}][{key}]"), value, &why))?;
        }
        values.sort();
        values.dedup();
        Ok(Self { key: key.to_owned(), operator, values })
    }

    /// The label asked about.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is asked.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values it is asked with, sorted.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// True if a label of this value (`None`: no such label) is what is asked for.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|candidate| candidate == v);
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = || self.values.first().and_then(|v| number(v));
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => value.is_none_or(|v| !listed(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => value.and_then(number).zip(bound()).is_some_and(|(v, bound)| v > bound),
            Operator::LessThan => value.and_then(number).zip(bound()).is_some_and(|(v, bound)| v < bound),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

// === impl Selector ===

impl Selector {
    /// Selects every object.
    pub const fn everything() -> Self {
        Self { nothing: false, requirements: Vec::new() }
    }

    /// Selects no object.
    pub const fn nothing() -> Self {
        Self { nothing: true, requirements: Vec::new() }
    }

    /// All of these requirements.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { nothing: false, requirements }
    }

    /// Reads the text form, such as `app=web,tier in (a,b),!old`; an empty text selects everything.
    ///
    /// # Errors
    /// When the text is no selector, in upstream's words.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::requirements(text).map(Self::new)
    }

    /// The selector of a `LabelSelector` field: unset selects nothing, empty selects everything.
    ///
    /// # Errors
    /// When a requirement is not valid.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::with_capacity(selector.match_labels.len() + selector.match_expressions.len());
        for (key, value) in &selector.match_labels {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
        }
        for expression in &selector.match_expressions {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator { operator: other.to_owned(), place: "label" }),
            };
            requirements.push(Requirement::new(&expression.key, operator, expression.values.clone())?);
        }
        Ok(Self::new(requirements))
    }

    /// Labels that must be exactly so; an empty map selects everything. Nothing is checked: such maps were validated when stored.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self::new(labels.iter().map(requirement).collect())
    }

    /// True if it selects every object.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// True if it can select no object.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// What is asked, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The value that `key` must have for an object to be selected, if there is just one.
    pub fn requires_exact(&self, key: &str) -> Option<&str> {
        let single = |r: &&Requirement| {
            r.key == key && r.values.len() == 1 && matches!(r.operator, Operator::Equals | Operator::DoubleEquals | Operator::In)
        };
        self.requirements.iter().find(single).and_then(|r| r.values.first()).map(String::as_str)
    }

    /// True if an object whose labels `label` looks up is selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// True if an object with these labels is selected.
    pub fn matches_map(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches(|key| labels.get(key).map(String::as_str))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
        Selector::parse(selector).unwrap().matches_map(&labels(pairs))
    }

    #[test]
    fn every_operator_means_what_upstream_means() {
        let web = [("app", "web"), ("n", "5")];
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("tier!=x", true),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("tier in (x)", false),
            ("app notin (db)", true),
            ("tier notin (x)", true),
            ("app notin (web)", false),
            ("app", true),
            ("tier", false),
            ("!tier", true),
            ("! app", false),
            ("n>4", true),
            ("n > 5", false),
            ("n<6", true),
            ("app>1", false),
            ("tier<1", false),
            ("app=web,n=5,!tier", true),
            ("app=web,n=6", false),
            ("app=", false),
        ] {
            assert_eq!(matches(selector, &web), expected, "{selector}");
        }
        assert!(matches("app=", &[("app", "")]) && matches("app in (,x)", &[("app", "")]));
        assert!(matches("in in (in,notin)", &[("in", "notin")]));
    }

    #[test]
    fn errors_are_upstreams() {
        let error = |text: &str| Selector::parse(text).unwrap_err().to_string();
        assert_eq!(error("a in b"), "unable to parse requirement: found 'b', expected: '('");
        assert_eq!(error("a=b,,c"), "found ',', expected: identifier after ','");
        assert_eq!(error("a=b c"), "found 'c', expected: ',' or 'end of string'");
        assert_eq!(error("a b"), "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        assert_eq!(error("=a"), "found '=', expected: !, identifier, or 'end of string'");
        assert!(error("a>x").contains("the value must be an integer"));
        assert!(error("_a=b").starts_with("unable to parse requirement: key: Invalid value: \"_a\": name part must consist of"));
        assert!(error("a in (-b)").starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": "));
        for bad in ["a in (b", "a in (b c)", "a,", "!", "(", "a=)", "a===b", "!a=b", "a in (b,", "a!b"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unset_selector_selects_nothing_and_an_empty_one_everything() {
        assert!(!Selector::from_label_selector(None).unwrap().matches_map(&labels(&[])));
        assert!(Selector::from_label_selector(Some(&LabelSelector::default())).unwrap().matches_map(&labels(&[])));
        assert!(Selector::from_map(&labels(&[])).is_everything());
    }

    #[test]
    fn labels_and_expressions_must_all_hold() {
        let expression = |operator: &str, values: &[&str]| LabelSelectorRequirement {
            key: "tier".to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        };
        let selector =
            LabelSelector { match_labels: labels(&[("app", "web")]), match_expressions: vec![expression("In", &["b", "a"])] };
        let compiled = Selector::from_label_selector(Some(&selector)).unwrap();
        assert_eq!(compiled.to_string(), "app=web,tier in (a,b)");
        assert!(compiled.matches_map(&labels(&[("app", "web"), ("tier", "a")])));
        assert!(!compiled.matches_map(&labels(&[("app", "web")])));
        assert_eq!(compiled.requires_exact("app"), Some("web"));
        let wrong = LabelSelector { match_expressions: vec![expression("Gt", &["1"])], ..LabelSelector::default() };
        assert_eq!(
            Selector::from_label_selector(Some(&wrong)).unwrap_err().to_string(),
            "\"Gt\" is not a valid label selector operator"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_prints_back(text in "[a-z0-9!=<>(), inot.\\-_/]{0,40}") {
            if let Ok(selector) = Selector::parse(&text) {
                let printed = selector.to_string();
                prop_assert_eq!(Selector::parse(&printed).unwrap(), selector, "{}", printed);
            }
        }

        #[test]
        fn arbitrary_unicode_never_panics(text in "\\PC{0,60}") {
            let parsed = Selector::parse(&text);
            prop_assert!(parsed.is_ok() || parsed.is_err());
        }

        #[test]
        fn in_and_notin_are_opposites(value in proptest::option::of("[a-c]"), set in proptest::collection::vec("[a-c]", 1..3)) {
            let isin = Requirement::new("k", Operator::In, set.clone()).unwrap();
            let notin = Requirement::new("k", Operator::NotIn, set).unwrap();
            prop_assert_ne!(isin.matches(value.as_deref()), notin.matches(value.as_deref()));
        }
    }
}
