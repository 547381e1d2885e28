//! A number or text, such as a port by number or by name.

pub use crate::generated::k8s::io::apimachinery::pkg::util::intstr::IntOrString;

/// `type` of a value that is text.
const STRING: i64 = 1;

impl IntOrString {
    /// The number, if it is one.
    pub fn as_int(&self) -> Option<i32> {
        (self.r#type != STRING).then_some(self.int_val)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        (self.r#type == STRING).then_some(&self.str_val)
    }
}

impl From<i32> for IntOrString {
    fn from(int_val: i32) -> Self {
        Self { r#type: 0, int_val, str_val: String::new() }
    }
}

impl From<&str> for IntOrString {
    fn from(text: &str) -> Self {
        Self { r#type: STRING, int_val: 0, str_val: text.to_owned() }
    }
}

impl std::fmt::Display for IntOrString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.as_int() {
            Some(int) => write!(f, "{int}"),
            None => f.write_str(&self.str_val),
        }
    }
}
