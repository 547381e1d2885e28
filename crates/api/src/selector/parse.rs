//! The text form of label selectors: a lexer and a parser of upstream's grammar.

use std::{iter::Peekable, str::CharIndices};

use super::{Operator, Requirement, SelectorError};
use crate::names::{self, Format};

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A word; `in` and `notin` are operators only where one is expected.
    Word(&'a str),
    Symbol(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Word(text) | Self::Symbol(text) => text,
            Self::End => "",
        }
    }
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

/// Splits a text into tokens.
struct Lexer<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Token<'a> {
        while self.chars.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
        let Some((start, first)) = self.chars.next() else { return Token::End };
        if is_special(first) {
            // The longest of the known symbols: `==` and `!=` beside the single characters.
            let double = matches!(first, '=' | '!') && self.chars.next_if(|(_, c)| *c == '=').is_some();
            return Token::Symbol(&self.text[start..start + 1 + usize::from(double)]);
        }
        while self.chars.next_if(|(_, c)| !is_special(*c) && !c.is_ascii_whitespace()).is_some() {}
        let end = self.chars.peek().map_or(self.text.len(), |(i, _)| *i);
        Token::Word(&self.text[start..end])
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: Token<'a>,
}

impl<'a> Parser<'a> {
    fn consume(&mut self) -> Token<'a> {
        std::mem::replace(&mut self.ahead, self.lexer.next())
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.ahead == Token::Symbol("!");
        if negated {
            self.consume();
        }
        let key = match self.consume() {
            Token::Word(key) => key,
            other => return Err(found(other, "identifier")),
        };
        names::check(Format::QualifiedName, key).map_err(|why| SelectorError::Invalid {
            field: "key".to_owned(),
            value: key.to_owned(),
            why,
        })?;
        if negated || matches!(self.ahead, Token::End | Token::Symbol(",")) {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return Requirement::new(key, operator, Vec::new());
        }
        let operator = match self.consume() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => return Err(found(other, OPERATORS)),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    /// `(a, b)`; an item may be empty, and `()` is the empty item.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.consume() {
            Token::Symbol("(") => {}
            other => return Err(found(other, "'('")),
        }
        let mut values = Vec::new();
        loop {
            values.push(match self.ahead {
                Token::Word(value) => {
                    self.consume();
                    value.to_owned()
                }
                Token::Symbol("," | ")") => String::new(),
                other => return Err(found(other, "',', or identifier")),
            });
            match self.consume() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values),
                other => return Err(found(other, "',' or ')'")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        match self.ahead {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(value) => {
                self.consume();
                Ok(value.to_owned())
            }
            other => Err(found(other, "identifier")),
        }
    }
}

fn found(token: Token<'_>, expected: &str) -> SelectorError {
    SelectorError::Requirement(format!("found '{}', expected: {expected}", token.text()))
}

/// The requirements of a text, in its order.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut lexer = Lexer { text, chars: text.char_indices().peekable() };
    let ahead = lexer.next();
    let mut parser = Parser { lexer, ahead };
    let mut requirements = Vec::new();
    let syntax =
        |found: Token<'_>, expected: &str| Err(SelectorError::Syntax(format!("found '{}', expected: {expected}", found.text())));
    loop {
        match parser.ahead {
            Token::Word(_) | Token::Symbol("!") => requirements.push(parser.requirement().map_err(|error| match error {
                SelectorError::Invalid { .. } => SelectorError::Requirement(error.to_string()),
                other => other,
            })?),
            Token::End => return Ok(requirements),
            other @ Token::Symbol(_) => return syntax(other, "!, identifier, or 'end of string'"),
        }
        match parser.consume() {
            Token::End => return Ok(requirements),
            Token::Symbol(",") => {}
            other => return syntax(other, "',' or 'end of string'"),
        }
        if !matches!(parser.ahead, Token::Word(_) | Token::Symbol("!")) {
            return syntax(parser.ahead, "identifier after ','");
        }
    }
}
