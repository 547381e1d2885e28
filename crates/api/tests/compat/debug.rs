//! What a message holds, field by field, read from its `Debug` text: the one place where a protobuf type of another crate tells the
//! names of its fields.

use std::collections::BTreeSet;

/// Every value that is set, as `path: value`. Names are compared without case and underscores, since generators differ in how they
/// break up names such as `podIPs`.
pub fn leaves(message: &impl std::fmt::Debug) -> BTreeSet<String> {
    let text = format!("{message:?}");
    let mut reader = Reader { rest: &text, found: BTreeSet::new() };
    reader.value("");
    assert!(reader.rest.is_empty(), "not understood: {}", reader.rest);
    reader.found
}

struct Reader<'a> {
    rest: &'a str,
    found: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn eat(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && !"_-.#".contains(c)).unwrap_or(self.rest.len());
        assert!(end > 0, "a word is wanted: {}", self.rest);
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn quoted(&mut self) -> String {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[i + 1..];
                    return text;
                }
                '\\' => text.extend(chars.next().map(|(_, c)| c)),
                c => text.push(c),
            }
        }
        assert!(chars.next().is_some(), "a quote is not closed: {}", self.rest);
        text
    }

    fn leaf(&mut self, path: &str, value: &str) {
        if !matches!(value, "" | "None" | "false" | "0" | "0.0") {
            self.found.insert(format!("{path}: {value}"));
        }
    }

    fn value(&mut self, path: &str) {
        if self.eat("b\"") {
            let bytes = self.quoted();
            for byte in bytes.bytes() {
                self.leaf(&format!("{path}[]"), &byte.to_string());
            }
        } else if self.eat("\"") {
            let text = self.quoted();
            self.leaf(path, &text);
        } else if self.eat("[") {
            while !self.eat("]") {
                self.value(&format!("{path}[]"));
                self.eat(", ");
            }
        } else if self.eat("{") {
            while !self.eat("}") {
                assert!(self.eat("\""), "a key is wanted: {}", self.rest);
                let key = self.quoted();
                self.eat(": ");
                self.value(&format!("{path}.{key}"));
                self.eat(", ");
            }
        } else {
            let word = self.word();
            if self.eat("(") {
                self.value(path);
                assert!(self.eat(")"), "a bracket is not closed: {}", self.rest);
            } else if self.eat(" { ") {
                while !self.eat(" }") {
                    let name = self.word().trim_start_matches("r#").replace('_', "").to_lowercase();
                    assert!(self.eat(": "), "a field's value is wanted: {}", self.rest);
                    self.value(&format!("{path}.{name}"));
                    self.eat(", ");
                }
            } else {
                self.leaf(path, word);
            }
        }
    }
}
