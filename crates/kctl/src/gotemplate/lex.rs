//! Text into pieces: what stands between actions, and the tokens of actions.

use super::Error;

/// What an action is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// `if`, `range`, `eq`, `true` and the like.
    Word(String),
    /// `.name`, without a space before it if it belongs to what stands there.
    Field { name: String, joined: bool },
    /// `$` or `$name`.
    Variable(String),
    /// A string in any of Go's quotes.
    Text(String),
    /// A whole number, or a character.
    Int(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// `.`
    Dot,
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
}

/// A part of a template.
#[derive(Debug)]
pub enum Piece {
    /// What is printed as it is.
    Text(String),
    /// The tokens between two pairs of braces, each with the offset of its first and past its last byte.
    Action { tokens: Vec<(Token, usize, usize)>, at: usize },
}

/// The pieces of a template, with spaces trimmed where the braces say so.
///
/// # Errors
/// What is wrong, with its place.
pub fn pieces(text: &str) -> Result<Vec<Piece>, Error> {
    let (mut pieces, mut at, mut trim) = (Vec::new(), 0, false);
    loop {
        let (plain, action) = match text[at..].find("{{") {
            Some(open) => (&text[at..at + open], Some(at + open)),
            None => (&text[at..], None),
        };
        let mut plain = if trim { plain.trim_start_matches(is_space) } else { plain };
        let begun = action.map(|open| &text[open + 2..]);
        let trims_before = begun.is_some_and(|rest| rest.starts_with('-') && rest[1..].starts_with(is_space));
        if trims_before {
            plain = plain.trim_end_matches(is_space);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.to_owned()));
        }
        let Some(open) = action else { return Ok(pieces) };
        let inside = open + 2 + if trims_before { 2 } else { 0 };
        let rest = &text[inside..];
        let (tokens, end) = if let Some(comment) = rest.strip_prefix("/*") {
            let close = comment.find("*/").ok_or_else(|| Error::at(text, open, "unclosed comment"))?;
            (None, inside + 2 + close + 2)
        } else {
            let mut lexer = Lexer { text, at: inside, tokens: Vec::new(), depth: 0 };
            let end = lexer.action(open)?;
            (Some(lexer.tokens), end)
        };
        let rest = &text[end..];
        trim = rest.starts_with(is_space) && rest.trim_start_matches(is_space).starts_with("-}}");
        let skipped = rest.len() - rest.trim_start_matches(is_space).len();
        at = end + if trim { skipped + 3 } else { 2 };
        if !trim && !rest.starts_with("}}") {
            return Err(Error::at(text, open, "comment ends before closing delimiter"));
        }
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action { tokens, at: open });
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<(Token, usize, usize)>,
    depth: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Reads until the closing braces, whose offset (or that of the space before their dash) is returned.
    fn action(&mut self, open: usize) -> Result<usize, Error> {
        loop {
            let rest = self.rest();
            let tight = rest.trim_start_matches(is_space);
            let spaced = tight.len() < rest.len();
            if rest.starts_with("}}") || (spaced && tight.starts_with("-}}")) {
                if self.depth > 0 {
                    return Err(Error::at(self.text, self.at, "unclosed left paren"));
                }
                return Ok(self.at);
            }
            if spaced {
                self.at += rest.len() - tight.len();
                continue;
            }
            let Some(first) = rest.chars().next() else { return Err(Error::at(self.text, open, "unclosed action")) };
            let begin = self.at;
            let token = self.token(first)?;
            self.tokens.push((token, begin, self.at));
        }
    }

    fn token(&mut self, first: char) -> Result<Token, Error> {
        let begin = self.at;
        let second = self.rest().chars().nth(1).unwrap_or(' ');
        match first {
            '|' => Ok(self.take(1, Token::Pipe)),
            ',' => Ok(self.take(1, Token::Comma)),
            '=' => Ok(self.take(1, Token::Assign)),
            ':' if second == '=' => Ok(self.take(2, Token::Declare)),
            '(' => {
                self.depth += 1;
                Ok(self.take(1, Token::Open))
            }
            ')' if self.depth == 0 => Err(Error::at(self.text, begin, "unexpected right paren")),
            ')' => {
                self.depth -= 1;
                Ok(self.take(1, Token::Close))
            }
            '"' | '`' | '\'' => self.quoted(first),
            '.' if !second.is_ascii_digit() => {
                self.at += 1;
                let name = self.word();
                let joined = self.tokens.last().is_some_and(|(token, _, end)| {
                    *end == begin && !matches!(token, Token::Pipe | Token::Comma | Token::Open | Token::Declare | Token::Assign)
                });
                Ok(if name.is_empty() { Token::Dot } else { Token::Field { name, joined } })
            }
            '$' => {
                self.at += 1;
                Ok(Token::Variable(format!("${}", self.word())))
            }
            '+' | '-' | '.' | '0'..='9' => self.number(),
            c if is_word(c) => Ok(Token::Word(self.word())),
            c => Err(Error::at(self.text, begin, format!("unrecognized character in action: {c:?}"))),
        }
    }

    fn take(&mut self, length: usize, token: Token) -> Token {
        self.at += length;
        token
    }

    fn word(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let word = rest[..end].to_owned();
        self.at += end;
        word
    }

    fn number(&mut self) -> Result<Token, Error> {
        let rest = self.rest();
        let hexadecimal = rest.trim_start_matches(['+', '-']).starts_with("0x");
        let mut before = ' ';
        let end = rest
            .find(|c: char| {
                let sign = matches!(c, '+' | '-') && (before == ' ' || matches!(before, 'e' | 'E') && !hexadecimal);
                before = c;
                !(sign || c == '.' || c == '_' || c.is_alphanumeric())
            })
            .unwrap_or(rest.len());
        let written = rest[..end].to_owned();
        let begin = self.at;
        self.at += end;
        let plain = written.replace('_', "");
        let (sign, digits) = match plain.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
        };
        let prefixed = |prefix: &str, base| {
            digits.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(&format!("{sign}{digits}"), base).ok())
        };
        let whole = prefixed("0x", 16).or_else(|| prefixed("0o", 8)).or_else(|| prefixed("0b", 2));
        let number = whole.or_else(|| format!("{sign}{digits}").parse().ok()).map(Token::Int);
        let float = || digits.starts_with(|c: char| c.is_ascii_digit() || c == '.').then(|| plain.parse().ok()).flatten();
        number
            .or_else(|| float().map(Token::Float))
            .ok_or_else(|| Error::at(self.text, begin, format!("bad number syntax: {written:?}")))
    }

    fn quoted(&mut self, quote: char) -> Result<Token, Error> {
        let begin = self.at;
        let unclosed = match quote {
            '`' => "unterminated raw quoted string",
            '"' => "unterminated quoted string",
            _ => "unterminated character constant",
        };
        let rest = self.rest();
        let (mut out, mut chars) = (String::new(), rest.char_indices().skip(1));
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.at += at + 1;
                if quote != '\'' {
                    return Ok(Token::Text(out));
                }
                let mut only = out.chars();
                return match (only.next(), only.next()) {
                    (Some(c), None) => Ok(Token::Int(i64::from(u32::from(c)))),
                    _ => Err(Error::at(self.text, begin, "malformed character constant")),
                };
            }
            match c {
                _ if quote == '`' => out.push(c),
                '\n' => break,
                '\\' => {
                    let Some(c) = escape(&mut chars) else {
                        return Err(Error::at(self.text, begin, "invalid escape in a quoted string"));
                    };
                    out.push(c);
                }
                c => out.push(c),
            }
        }
        Err(Error::at(self.text, begin, unclosed))
    }
}

/// What an escape stands for, after its backslash.
fn escape(chars: &mut impl Iterator<Item = (usize, char)>) -> Option<char> {
    let (_, c) = chars.next()?;
    let digits = match c {
        'a' => return Some('\u{7}'),
        'b' => return Some('\u{8}'),
        'f' => return Some('\u{c}'),
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        'v' => return Some('\u{b}'),
        '\\' | '"' | '\'' => return Some(c),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let digits: String = chars.take(digits).map(|(_, c)| c).collect();
    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)
}
