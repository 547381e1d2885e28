//! Node selectors: terms of which one must hold, each over a node's labels and its name.

use super::{Operator, Requirement, Selector, SelectorError};
use crate::core::v1 as core;

/// The only field that node selectors may name.
const NAME_FIELD: &str = "metadata.name";

/// A node selector: one of its terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSelector {
    terms: Vec<NodeSelectorTerm>,
}

/// What must hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSelectorTerm {
    labels: Selector,
    /// Names the node must, or (`false`) must not, have.
    names: Vec<(bool, String)>,
    empty: bool,
}

impl NodeSelector {
    /// The selector of the API's message; without terms it selects nothing.
    ///
    /// # Errors
    /// When a requirement is not valid.
    pub fn new(selector: &core::NodeSelector) -> Result<Self, SelectorError> {
        let terms = selector.node_selector_terms.iter().map(NodeSelectorTerm::new);
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// True if a node of this name, whose labels `label` looks up, is selected.
    pub fn matches<'a>(&self, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().any(|term| term.matches(name, &label))
    }

    /// The terms.
    pub fn terms(&self) -> &[NodeSelectorTerm] {
        &self.terms
    }
}

impl NodeSelectorTerm {
    /// The term of the API's message; an empty one selects nothing.
    ///
    /// # Errors
    /// When a requirement is not valid.
    pub fn new(term: &core::NodeSelectorTerm) -> Result<Self, SelectorError> {
        let mut names = Vec::new();
        for requirement in &term.match_fields {
            let invalid = |field: &str, value: &str, why: &str| SelectorError::Invalid {
                field: field.to_owned(),
                value: value.to_owned(),
                why: why.to_owned(),
            };
            if requirement.key != NAME_FIELD {
                return Err(invalid("key", &requirement.key, "not a valid field selector key; only metadata.name is"));
            }
            let wanted = match requirement.operator.as_str() {
                "In" => true,
                "NotIn" => false,
                other => return Err(SelectorError::Operator { operator: other.to_owned(), place: "node" }),
            };
            match requirement.values.as_slice() {
                [name] => names.push((wanted, name.clone())),
                other => return Err(invalid("values", &other.join(","), "must be only one value")),
            }
        }
        let labels = Selector::from_node_requirements(&term.match_expressions)?;
        Ok(Self { labels, names, empty: term.match_expressions.is_empty() && term.match_fields.is_empty() })
    }

    /// True if a node of this name, whose labels `label` looks up, is selected.
    pub fn matches<'a>(&self, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.empty && self.names.iter().all(|(wanted, n)| (n == name) == *wanted) && self.labels.matches(label)
    }

    /// The names the term allows, if it names any: what a scheduler can look up instead of searching.
    pub fn wanted_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name.as_str())
    }
}

impl Selector {
    /// The selector of a node selector's `matchExpressions`: all must hold, and no requirements select everything.
    ///
    /// # Errors
    /// When a requirement is not valid.
    pub fn from_node_requirements(requirements: &[core::NodeSelectorRequirement]) -> Result<Self, SelectorError> {
        let requirement = |r: &core::NodeSelectorRequirement| {
            let operator = match r.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                "Gt" => Operator::GreaterThan,
                "Lt" => Operator::LessThan,
                other => return Err(SelectorError::Operator { operator: other.to_owned(), place: "node" }),
            };
            Requirement::new(&r.key, operator, r.values.clone())
        };
        Ok(Self::new(requirements.iter().map(requirement).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> core::NodeSelectorRequirement {
        core::NodeSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    fn selects(terms: Vec<core::NodeSelectorTerm>, name: &str) -> bool {
        let selector = NodeSelector::new(&core::NodeSelector { node_selector_terms: terms }).unwrap();
        selector.matches(name, |key| (key == "cores").then_some("8"))
    }

    #[test]
    fn one_term_must_hold_and_an_empty_one_never_does() {
        let big = || core::NodeSelectorTerm { match_expressions: vec![requirement("cores", "Gt", &["4"])], ..Default::default() };
        let named = |op| core::NodeSelectorTerm {
            match_fields: vec![requirement("metadata.name", op, &["a"])],
            match_expressions: vec![requirement("cores", "Exists", &[])],
        };
        assert!(selects(vec![big()], "x"));
        assert!(selects(vec![named("In")], "a") && !selects(vec![named("In")], "b") && selects(vec![named("NotIn")], "b"));
        assert!(!selects(vec![core::NodeSelectorTerm::default()], "a") && !selects(vec![], "a"));
        assert!(selects(vec![core::NodeSelectorTerm::default(), big()], "a"));
    }

    #[test]
    fn wrong_requirements_are_refused() {
        let term = |r| core::NodeSelectorTerm { match_fields: vec![r], ..Default::default() };
        assert!(NodeSelectorTerm::new(&term(requirement("spec.x", "In", &["a"]))).is_err());
        assert!(NodeSelectorTerm::new(&term(requirement("metadata.name", "Exists", &[]))).is_err());
        assert!(NodeSelectorTerm::new(&term(requirement("metadata.name", "In", &["a", "b"]))).is_err());
        assert!(Selector::from_node_requirements(&[requirement("a", "Near", &[])]).is_err());
    }
}
