//! Reading templates.

use serde_json::Value;

use super::{Comparison, Filter, MAX_DEPTH, Node, Operand, Slice, Step};

type Result<T> = std::result::Result<T, String>;

/// Reads text and expressions in braces.
pub(super) fn template(text: &str) -> Result<Vec<Node>> {
    let mut scanner = Scanner { rest: text, depth: 0 };
    let (nodes, _) = scanner.nodes(false)?;
    Ok(nodes)
}

struct Scanner<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn eat(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, prefix: &str) -> Result<()> {
        if self.eat(prefix) { Ok(()) } else { Err(self.unexpected(&format!("'{prefix}'"))) }
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.peek() {
            Some(c) => format!("unexpected '{c}', {wanted} is wanted here"),
            None => format!("it ends where {wanted} is wanted"),
        }
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Parts up to the end of the text, or to `{end}` inside a range; true if that was there.
    fn nodes(&mut self, in_range: bool) -> Result<(Vec<Node>, bool)> {
        let mut nodes = Vec::new();
        loop {
            let text = self.take_while(|c| c != '{');
            if !text.is_empty() {
                nodes.push(Node::Text(text.to_owned()));
            }
            if !self.eat("{") {
                return Ok((nodes, false));
            }
            loop {
                self.spaces();
                if self.eat("}") {
                    break;
                }
                if self.word("end") {
                    self.spaces();
                    self.expect("}")?;
                    return if in_range { Ok((nodes, true)) } else { Err("not in range, nothing to end".to_owned()) };
                }
                if self.word("range") {
                    self.spaces();
                    let steps = self.path()?;
                    self.spaces();
                    self.expect("}")?;
                    let (body, closed) = self.nested(|s| s.nodes(true))?;
                    nodes.push(Node::Range { steps, body, closed });
                    break;
                }
                nodes.push(self.expression()?);
            }
        }
    }

    /// Eats a word that is not the start of a longer one.
    fn word(&mut self, word: &str) -> bool {
        let follows = self.rest.strip_prefix(word).map(|rest| rest.chars().next());
        let whole = follows.is_some_and(|next| next.is_none_or(|c| c.is_whitespace() || c == '}'));
        whole && self.eat(word)
    }

    fn expression(&mut self) -> Result<Node> {
        match self.peek() {
            None => Err("unclosed action, '}' is missing".to_owned()),
            Some('"' | '\'') => Ok(Node::Literal(Value::String(self.quoted()?))),
            Some('-' | '+' | '0'..='9') => Ok(Node::Literal(self.number()?)),
            Some('.' | '[' | '$' | '@') => Ok(Node::Path(self.path()?)),
            Some(c) if c.is_alphabetic() => match self.take_while(char::is_alphanumeric) {
                "true" => Ok(Node::Literal(Value::Bool(true))),
                "false" => Ok(Node::Literal(Value::Bool(false))),
                other => Err(format!("unrecognized identifier {other}; a path starts with a dot")),
            },
            Some(c) => Err(format!("unrecognized character in action: {c:?}")),
        }
    }

    /// Steps, as far as they go.
    fn path(&mut self) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        if self.eat("$") {
            steps.push(Step::Root);
        } else {
            self.eat("@");
        }
        loop {
            if self.eat("..") {
                steps.push(Step::Recursive);
                // What follows may be a name without a dot of its own.
                if !self.rest.starts_with('[') {
                    self.field(&mut steps)?;
                }
            } else if self.eat(".") {
                // A dot alone is the value itself; `.[0]` and `.{` are fine.
                self.field(&mut steps)?;
            } else if self.eat("[") {
                let step = self.nested(Self::bracket)?;
                steps.push(step);
            } else {
                return Ok(steps);
            }
        }
    }

    /// The name after a dot: a backslash takes away a character's meaning.
    fn field(&mut self, steps: &mut Vec<Step>) -> Result<()> {
        if self.eat("*") {
            steps.push(Step::Wildcard);
            return Ok(());
        }
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if c == '\\' {
                self.eat("\\");
                let escaped = self.peek().ok_or_else(|| self.unexpected("the character after '\\'"))?;
                name.push(escaped);
                self.rest = &self.rest[escaped.len_utf8()..];
            } else if c.is_whitespace() || ".[](){}=!<>,|$@'\"".contains(c) {
                break;
            } else {
                name.push(c);
                self.rest = &self.rest[c.len_utf8()..];
            }
        }
        if !name.is_empty() {
            steps.push(Step::Field(name));
        }
        Ok(())
    }

    /// What stands in brackets; the opening one is eaten.
    fn bracket(&mut self) -> Result<Step> {
        self.spaces();
        if self.eat("*") {
            self.spaces();
            self.expect("]")?;
            return Ok(Step::Wildcard);
        }
        if self.eat("?(") {
            let filter = self.filter()?;
            self.spaces();
            self.expect(")")?;
            self.spaces();
            self.expect("]")?;
            return Ok(Step::Filter(filter));
        }
        let mut choices = Vec::new();
        loop {
            self.spaces();
            choices.push(match self.peek() {
                Some('\'' | '"') => vec![Step::Field(self.quoted()?)],
                Some('.' | '@' | '$') => self.path()?,
                _ => vec![Step::Slice(self.slice()?)],
            });
            self.spaces();
            if self.eat("]") {
                break;
            }
            self.expect(",")?;
        }
        match (choices.pop(), choices.is_empty()) {
            (Some(mut only), true) if only.len() == 1 => only.pop().ok_or_else(|| self.unexpected("an index")),
            (last, _) => {
                choices.extend(last);
                Ok(Step::Union(choices))
            }
        }
    }

    fn slice(&mut self) -> Result<Slice> {
        let mut slice = Slice { start: self.integer()?, single: true, ..Slice::default() };
        self.spaces();
        if self.eat(":") {
            slice.single = false;
            slice.end = self.integer()?;
            self.spaces();
            if self.eat(":") {
                slice.step = self.integer()?;
            }
        }
        if slice.single && slice.start.is_none() {
            return Err(self.unexpected("an index, a slice, '*', a quoted name or a filter"));
        }
        Ok(slice)
    }

    fn integer(&mut self) -> Result<Option<i64>> {
        self.spaces();
        let text = self.take_while(|c| c.is_ascii_digit() || c == '-' || c == '+');
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| format!("invalid array index {text}"))
    }

    fn filter(&mut self) -> Result<Filter> {
        let left = self.operand()?;
        self.spaces();
        let operators = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let comparison = match operators.into_iter().find(|(text, _)| self.eat(text)) {
            Some((_, operator)) => Some((operator, self.operand()?)),
            None => None,
        };
        Ok(Filter { left, comparison })
    }

    fn operand(&mut self) -> Result<Operand> {
        self.spaces();
        match self.peek() {
            Some('"' | '\'') => Ok(Operand::Literal(Value::String(self.quoted()?))),
            Some('-' | '+' | '0'..='9') => Ok(Operand::Literal(self.number()?)),
            Some('.' | '@' | '$' | '[') => Ok(Operand::Path(self.path()?)),
            _ => match self.take_while(char::is_alphanumeric) {
                "true" => Ok(Operand::Literal(Value::Bool(true))),
                "false" => Ok(Operand::Literal(Value::Bool(false))),
                _ => Err(self.unexpected("a path, a quoted text, a number, true or false")),
            },
        }
    }

    fn number(&mut self) -> Result<Value> {
        let text = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
        let number = text.strip_prefix('+').unwrap_or(text);
        if let Ok(integer) = number.parse::<i64>() {
            return Ok(integer.into());
        }
        number.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from).ok_or_else(|| format!("cannot read number {text}"))
    }

    /// Text in single or double quotes, with Go's escapes.
    fn quoted(&mut self) -> Result<String> {
        let quote = self.peek().unwrap_or('"');
        self.rest = &self.rest[1..];
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.rest = &self.rest[i + 1..];
                return Ok(text);
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            match chars.next().map(|(_, c)| c) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some('0') => text.push('\0'),
                Some(other) => text.push(other),
                None => break,
            }
        }
        Err("unterminated quoted string".to_owned())
    }
}
