//! Pieces into a tree.

use std::collections::BTreeMap;

use super::{
    Error,
    lex::{Piece, Token, pieces},
};

/// Deepest nesting of actions and parentheses.
const MAX_DEPTH: usize = 100;

/// A parsed template and those it defines.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// What is printed.
    pub main: Vec<Node>,
    /// What `define` and `block` name.
    pub defined: BTreeMap<String, Vec<Node>>,
}

/// A part of a template.
#[derive(Clone, Debug)]
pub enum Node {
    /// Printed as it is.
    Text(String),
    /// Its value is printed, unless it sets variables.
    Print(Pipeline),
    /// `if`, `with` and `range`.
    Block {
        what: Block,
        pipeline: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `template` and `block`.
    Call {
        name: String,
        argument: Option<Pipeline>,
        at: usize,
    },
    Break,
    Continue,
}

/// What is done with a pipeline's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    If,
    With,
    Range,
}

/// Commands, each of which has the value of the one before as its last argument.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Variables that get the value.
    pub variables: Vec<String>,
    /// They are new.
    pub declares: bool,
    /// At least one.
    pub commands: Vec<Vec<Operand>>,
}

/// A value or function with the fields that are taken of it.
#[derive(Clone, Debug)]
pub struct Operand {
    /// What it begins with.
    pub base: Base,
    /// Fields, from left to right.
    pub fields: Vec<String>,
    /// First byte and past the last one.
    pub span: (usize, usize),
}

/// What an operand begins with.
#[derive(Clone, Debug)]
pub enum Base {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Variable(String),
    Function(String),
    Pipeline(Box<Pipeline>),
}

/// Parses a template.
///
/// # Errors
/// What is wrong, with its place.
pub fn parse(text: &str) -> Result<Tree, Error> {
    let mut parser = Parser { text, pieces: pieces(text)?.into_iter(), tree: Tree::default(), depth: 0, loops: 0 };
    let (main, end) = parser.list()?;
    if let Some((end, _, at)) = end {
        return Err(Error::at(text, at, format!("unexpected {{{{{end}}}}}")));
    }
    Ok(Tree { main, ..parser.tree })
}

struct Parser<'a> {
    text: &'a str,
    pieces: std::vec::IntoIter<Piece>,
    tree: Tree,
    depth: usize,
    /// How many `range` stand around.
    loops: usize,
}

/// `end` or `else`, with what follows it.
type End = Option<(&'static str, Tokens, usize)>;

impl Parser<'_> {
    fn error(&self, at: usize, what: impl std::fmt::Display) -> Error {
        Error::at(self.text, at, what)
    }

    /// Nodes until `end`, `else` or the end of the text.
    fn list(&mut self) -> Result<(Vec<Node>, End), Error> {
        self.depth += 1;
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (tokens, at) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { tokens, at } => (tokens, at),
            };
            if self.depth > MAX_DEPTH {
                return Err(self.error(at, "actions are nested too deeply"));
            }
            let mut tokens = Tokens { tokens, next: 0, depth: 0, end: at };
            let word = match tokens.peek() {
                Some(Token::Word(word)) => word.clone(),
                Some(_) => String::new(),
                None => return Err(self.error(at, "missing value for command")),
            };
            match word.as_str() {
                "end" | "else" => {
                    tokens.next += 1;
                    self.depth -= 1;
                    return Ok((nodes, Some((if word == "end" { "end" } else { "else" }, tokens, at))));
                }
                "if" | "with" | "range" => {
                    tokens.next += 1;
                    nodes.push(self.block(&word, tokens, at)?);
                }
                "define" | "block" | "template" => {
                    tokens.next += 1;
                    nodes.extend(self.named(&word, tokens, at)?);
                }
                "break" | "continue" => {
                    if self.loops == 0 {
                        return Err(self.error(at, format!("{{{{{word}}}}} outside {{{{range}}}}")));
                    }
                    tokens.next += 1;
                    tokens.finish(self.text)?;
                    nodes.push(if word == "break" { Node::Break } else { Node::Continue });
                }
                _ => nodes.push(Node::Print(tokens.whole(self.text, false)?)),
            }
        }
        self.depth -= 1;
        Ok((nodes, None))
    }

    fn block(&mut self, word: &str, mut tokens: Tokens, at: usize) -> Result<Node, Error> {
        let what = match word {
            "if" => Block::If,
            "with" => Block::With,
            _ => Block::Range,
        };
        let pipeline = tokens.whole(self.text, what == Block::Range)?;
        self.loops += usize::from(what == Block::Range);
        let (body, end) = self.list()?;
        self.loops -= usize::from(what == Block::Range);
        let otherwise = match end {
            Some(("end", mut rest, _)) => {
                rest.finish(self.text)?;
                Vec::new()
            }
            Some((_, mut rest, at)) => match rest.peek() {
                None => {
                    let (otherwise, end) = self.list()?;
                    self.end(end, at)?;
                    otherwise
                }
                // `else if` shares the `end` of its `if`.
                Some(Token::Word(next)) if next == word && what != Block::Range => {
                    rest.next += 1;
                    self.depth += 1;
                    let inner = self.block(word, rest, at)?;
                    self.depth -= 1;
                    vec![inner]
                }
                Some(_) => return Err(self.error(at, "unexpected words after {{else}}")),
            },
            None => return Err(self.error(at, format!("unexpected EOF: {{{{{word}}}}} has no {{{{end}}}}"))),
        };
        Ok(Node::Block { what, pipeline, body, otherwise })
    }

    fn end(&self, end: End, at: usize) -> Result<(), Error> {
        match end {
            Some(("end", mut rest, _)) => rest.finish(self.text),
            Some((_, _, at)) => Err(self.error(at, "expected end; found {{else}}")),
            None => Err(self.error(at, "unexpected EOF: {{end}} is missing")),
        }
    }

    fn named(&mut self, word: &str, mut tokens: Tokens, at: usize) -> Result<Option<Node>, Error> {
        let Some(Token::Text(name)) = tokens.peek().cloned() else {
            return Err(self.error(at, format!("{{{{{word}}}}} needs a name in quotes")));
        };
        tokens.next += 1;
        let argument = if word != "define" && tokens.peek().is_some() { Some(tokens.whole(self.text, false)?) } else { None };
        tokens.finish(self.text)?;
        if word != "template" {
            let loops = std::mem::take(&mut self.loops);
            let (body, end) = self.list()?;
            self.loops = loops;
            self.end(end, at)?;
            self.tree.defined.insert(name.clone(), body);
        }
        Ok((word != "define").then_some(Node::Call { name, argument, at }))
    }
}

/// The tokens of one action.
struct Tokens {
    tokens: Vec<(Token, usize, usize)>,
    next: usize,
    depth: usize,
    /// Where the action is.
    end: usize,
}

impl Tokens {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(token, ..)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(_, at, _)| *at)
    }

    fn finish(&mut self, text: &str) -> Result<(), Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(Error::at(text, self.at(), "unexpected words at the end of the action")),
        }
    }

    /// A pipeline that ends with the action.
    fn whole(&mut self, text: &str, range: bool) -> Result<Pipeline, Error> {
        let pipeline = self.pipeline(text, range)?;
        self.finish(text)?;
        Ok(pipeline)
    }

    fn pipeline(&mut self, text: &str, range: bool) -> Result<Pipeline, Error> {
        let (variables, declares) = self.variables(range);
        let mut commands = Vec::new();
        loop {
            let mut command = Vec::new();
            while self.peek().is_some_and(|token| !matches!(token, Token::Pipe | Token::Close)) {
                command.push(self.operand(text)?);
            }
            let callable = |operand: &Operand| matches!(operand.base, Base::Function(_)) || !operand.fields.is_empty();
            match command.first() {
                None => return Err(Error::at(text, self.at(), "missing value for command")),
                Some(first) if !commands.is_empty() && !callable(first) => {
                    let (from, to) = first.span;
                    return Err(Error::at(text, from, format!("non executable command in pipeline: {}", &text[from..to])));
                }
                Some(_) => commands.push(command),
            }
            if self.peek() != Some(&Token::Pipe) {
                return Ok(Pipeline { variables, declares, commands });
            }
            self.next += 1;
        }
    }

    /// `$a :=`, `$a =`, and for `range` `$a, $b :=`.
    fn variables(&mut self, range: bool) -> (Vec<String>, bool) {
        let token = |at: usize| self.tokens.get(self.next + at).map(|(token, ..)| token);
        let (variables, length) = match (token(0), token(1), token(2)) {
            (Some(Token::Variable(a)), Some(Token::Comma), Some(Token::Variable(b))) if range => (vec![a.clone(), b.clone()], 3),
            (Some(Token::Variable(a)), ..) => (vec![a.clone()], 1),
            _ => return (Vec::new(), false),
        };
        let declares = match token(length) {
            Some(Token::Declare) => true,
            Some(Token::Assign) => false,
            _ => return (Vec::new(), false),
        };
        self.next += length + 1;
        (variables, declares)
    }

    fn operand(&mut self, text: &str) -> Result<Operand, Error> {
        let Some((token, from, mut to)) = self.tokens.get(self.next).cloned() else {
            return Err(Error::at(text, self.end, "missing value for command"));
        };
        self.next += 1;
        let mut fields = Vec::new();
        let base = match token {
            Token::Dot => Base::Dot,
            Token::Field { name, joined: false } => {
                fields.push(name);
                Base::Dot
            }
            Token::Word(word) => match word.as_str() {
                "nil" => Base::Nil,
                "true" | "false" => Base::Bool(word == "true"),
                _ => Base::Function(word),
            },
            Token::Variable(name) => Base::Variable(name),
            Token::Text(text) => Base::Text(text),
            Token::Int(number) => Base::Int(number),
            Token::Float(number) => Base::Float(number),
            Token::Open => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(Error::at(text, from, "parentheses are nested too deeply"));
                }
                let inner = self.pipeline(text, false)?;
                self.depth -= 1;
                match self.tokens.get(self.next) {
                    Some((Token::Close, _, end)) => to = *end,
                    _ => return Err(Error::at(text, from, "unclosed left paren")),
                }
                self.next += 1;
                Base::Pipeline(Box::new(inner))
            }
            Token::Field { joined: true, .. } | Token::Pipe | Token::Close | Token::Declare | Token::Assign | Token::Comma => {
                return Err(Error::at(text, from, format!("unexpected {:?} in operand", &text[from..to])));
            }
        };
        while let Some((Token::Field { name, joined: true }, _, end)) = self.tokens.get(self.next) {
            if !matches!(base, Base::Dot | Base::Variable(_) | Base::Pipeline(_)) {
                return Err(Error::at(text, from, format!("unexpected .{name} after {}", &text[from..to])));
            }
            fields.push(name.clone());
            to = *end;
            self.next += 1;
        }
        Ok(Operand { base, fields, span: (from, to) })
    }
}
