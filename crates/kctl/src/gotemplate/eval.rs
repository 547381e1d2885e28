//! Executing a tree.

use super::{
    Error,
    format::sprint,
    functions,
    parse::{Base, Block, Node, Operand, Pipeline, Tree},
    value::Val,
};

/// Deepest nesting of templates that call each other.
const MAX_DEPTH: usize = 100;
/// Most bytes that a template may print.
const MAX_OUTPUT: usize = 256 << 20;

/// What a template prints.
///
/// # Errors
/// What cannot be done, with its place.
pub fn execute(text: &str, tree: &Tree, data: Val, allow_missing: bool) -> Result<String, Error> {
    let variables = vec![("$".to_owned(), data.clone())];
    let mut run = Run { text, tree, allow_missing, variables, out: String::new(), depth: 0 };
    run.list(&tree.main, &data)?;
    Ok(run.out)
}

struct Run<'a> {
    text: &'a str,
    tree: &'a Tree,
    allow_missing: bool,
    /// Names and values, the innermost last.
    variables: Vec<(String, Val)>,
    out: String,
    depth: usize,
}

/// Whether the loop around goes on as usual.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl Run<'_> {
    fn error(&self, span: (usize, usize), what: impl std::fmt::Display) -> Error {
        Error::executing(self.text, span, what)
    }

    fn list(&mut self, nodes: &[Node], dot: &Val) -> Result<Flow, Error> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Val) -> Result<Flow, Error> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    match value {
                        value if value.is_nil() => self.out.push_str("<no value>"),
                        value => self.out.push_str(&sprint(&value)),
                    }
                }
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::Call { name, argument, at } => self.call(name, argument.as_ref(), *at, dot)?,
            Node::Block { what: Block::Range, pipeline, body, otherwise } => return self.range(pipeline, body, otherwise, dot),
            Node::Block { what, pipeline, body, otherwise } => {
                let outer = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                let flow = match (value.truth(), what) {
                    (true, Block::With) => self.list(body, &value),
                    (true, _) => self.list(body, dot),
                    (false, _) => self.list(otherwise, dot),
                };
                self.variables.truncate(outer);
                return flow;
            }
        }
        if self.out.len() > MAX_OUTPUT {
            return Err(Error(format!("template: output: more than {MAX_OUTPUT} bytes are printed")));
        }
        Ok(Flow::On)
    }

    fn call(&mut self, name: &str, argument: Option<&Pipeline>, at: usize, dot: &Val) -> Result<(), Error> {
        let tree = self.tree;
        let Some(body) = tree.defined.get(name) else {
            return Err(self.error((at, at), format!("template {name:?} not defined")));
        };
        if self.depth == MAX_DEPTH {
            return Err(self.error((at, at), format!("exceeded maximum template depth ({MAX_DEPTH})")));
        }
        let argument = argument.map(|argument| self.pipeline(argument, dot)).transpose()?.unwrap_or(Val::Nil);
        // It sees no variables but its own argument.
        let outer = std::mem::replace(&mut self.variables, vec![("$".to_owned(), argument.clone())]);
        self.depth += 1;
        self.list(body, &argument)?;
        self.depth -= 1;
        self.variables = outer;
        Ok(())
    }

    fn range(&mut self, pipeline: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Val) -> Result<Flow, Error> {
        let outer = self.variables.len();
        let value = self.commands(pipeline, dot)?;
        let pairs: Box<dyn Iterator<Item = (Val, Val)>> = match &value {
            Val::Missing | Val::Nil => Box::new(std::iter::empty()),
            Val::Int(count) => Box::new((0..*count).map(|i| (Val::Int(i), Val::Int(i)))),
            Val::List(items) => Box::new((0_i64..).map(Val::Int).zip(items.iter().cloned())),
            Val::Map(members) => Box::new(members.iter().map(|(key, value)| (Val::text(key), value.clone()))),
            other => {
                let span = span(pipeline);
                return Err(self.error(span, format!("range can't iterate over {}", sprint(other))));
            }
        };
        let mut any = false;
        for (key, item) in pairs {
            any = true;
            let values: &[Val] = if pipeline.variables.len() == 2 { &[key, item.clone()] } else { std::slice::from_ref(&item) };
            for (name, value) in pipeline.variables.iter().zip(values) {
                self.set(name, value.clone(), pipeline.declares, pipeline)?;
            }
            let flow = self.list(body, &item)?;
            self.variables.truncate(outer);
            if flow == Flow::Break {
                break;
            }
        }
        let flow = if any { Flow::On } else { self.list(otherwise, dot)? };
        self.variables.truncate(outer);
        Ok(flow)
    }

    fn set(&mut self, name: &str, value: Val, declares: bool, pipeline: &Pipeline) -> Result<(), Error> {
        if declares {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => return Err(self.error(span(pipeline), format!("undefined variable: {name}"))),
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Val) -> Result<Val, Error> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.declares, pipeline)?;
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Val) -> Result<Val, Error> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Val::Nil))
    }

    fn command(&mut self, command: &[Operand], dot: &Val, last: Option<Val>) -> Result<Val, Error> {
        let Some((first, rest)) = command.split_first() else { return Ok(Val::Nil) };
        let Base::Function(name) = &first.base else {
            if rest.is_empty() && last.is_none() {
                return self.operand(first, dot);
            }
            let what = &self.text[first.span.0..first.span.1];
            return Err(self.error(first.span, format!("can't give argument to non-function {what}")));
        };
        if name == "and" || name == "or" {
            return self.decide(name == "and", first, rest, dot, last);
        }
        let mut arguments = rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(last);
        functions::call(name, &arguments).map_err(|what| self.error(first.span, what))
    }

    /// `and` and `or`, which look no further than they must.
    fn decide(&mut self, all: bool, first: &Operand, rest: &[Operand], dot: &Val, last: Option<Val>) -> Result<Val, Error> {
        let mut value = None;
        for operand in rest {
            let next = self.operand(operand, dot)?;
            if next.truth() != all {
                return Ok(next);
            }
            value = Some(next);
        }
        let name = if all { "and" } else { "or" };
        last.or(value).ok_or_else(|| self.error(first.span, format!("wrong number of args for {name}: want at least 1 got 0")))
    }

    fn operand(&mut self, operand: &Operand, dot: &Val) -> Result<Val, Error> {
        let mut value = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Nil => Val::Nil,
            Base::Bool(value) => Val::Bool(*value),
            Base::Int(number) => Val::Int(*number),
            Base::Float(number) => Val::Float(*number),
            Base::Text(text) => Val::text(text),
            Base::Variable(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => value.clone(),
                None => return Err(self.error(operand.span, format!("undefined variable: {name}"))),
            },
            Base::Function(name) => functions::call(name, &[]).map_err(|what| self.error(operand.span, what))?,
            Base::Pipeline(inner) => self.pipeline(inner, dot)?,
        };
        for field in &operand.fields {
            value = self.field(&value, field, operand.span)?;
        }
        Ok(value)
    }

    fn field(&self, value: &Val, field: &str, span: (usize, usize)) -> Result<Val, Error> {
        match value {
            Val::Map(members) => match members.get(field) {
                Some(value) => Ok(value.clone()),
                None if self.allow_missing => Ok(Val::Missing),
                None => Err(self.error(span, format!("map has no entry for key {field:?}"))),
            },
            Val::Missing => Ok(Val::Missing),
            Val::Nil => Err(self.error(span, format!("nil pointer evaluating interface {{}}.{field}"))),
            other => Err(self.error(span, format!("can't evaluate field {field} in type {}", other.type_name()))),
        }
    }
}

fn span(pipeline: &Pipeline) -> (usize, usize) {
    pipeline.commands.first().and_then(|command| command.first()).map_or((0, 0), |operand| operand.span)
}
