//! Errors as text for people and objects.

/// An error and its causes in one line, none of them said twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] std::io::Error);

    #[test]
    fn causes_follow_the_error_unless_it_says_them_itself() {
        assert_eq!(chain(&Outer("cannot read", std::io::Error::other("gone"))), "cannot read: gone");
        assert_eq!(chain(&Outer("cannot read, gone", std::io::Error::other("gone"))), "cannot read, gone");
    }
}
