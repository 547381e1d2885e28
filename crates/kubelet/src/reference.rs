//! Image references: what they may look like, and which names mean the same image.
//!
//! The grammar is that of the distribution project (`[registry/]path[:tag][@digest]`).

use std::fmt;

/// The registry of references that name none, and the first part of its own images' paths.
const DEFAULT_REGISTRY: &str = "docker.io";
const LEGACY_REGISTRY: &str = "index.docker.io";
const DEFAULT_PATH: &str = "library/";
/// The longest name, registry and path together.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A reference, with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host and port, such as `docker.io`.
    pub registry: String,
    /// Such as `library/busybox`.
    pub path: String,
    /// `latest` if neither tag nor digest is given.
    pub tag: Option<String>,
    /// `sha256:…`.
    pub digest: Option<String>,
}

/// A text that is no reference. Displays what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The path has capital letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// It could be taken for an image's id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Id(String),
    /// The name is too long.
    #[error("repository name must not be more than {NAME_MAX} characters")]
    TooLong,
}

// === impl Reference ===

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// When it cannot be one.
    pub fn parse(text: &str) -> Result<Self, BadReference> {
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadReference::Id(text.to_owned()));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) if is_digest(digest) => (name, Some(digest.to_owned())),
            Some(_) => return Err(BadReference::Format),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            // A colon before a slash is a registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(BadReference::Format);
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path))
                if host.contains(['.', ':']) || host == "localhost" || host.bytes().any(|byte| byte.is_ascii_uppercase()) =>
            {
                (if host == LEGACY_REGISTRY { DEFAULT_REGISTRY } else { host }, path)
            }
            _ => (DEFAULT_REGISTRY, name),
        };
        let prefix = if registry == DEFAULT_REGISTRY && !path.contains('/') { DEFAULT_PATH } else { "" };
        let path = format!("{prefix}{path}");
        if path.to_lowercase() != path {
            return Err(BadReference::Uppercase(path));
        }
        if !is_host(registry) || !path.split('/').all(is_path_part) {
            return Err(BadReference::Format);
        }
        if registry.len() + 1 + path.len() > NAME_MAX {
            return Err(BadReference::TooLong);
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry: registry.to_owned(), path, tag, digest })
    }

    /// Whether one of an image's names (its tags and digests) is meant by this. A digest counts more than a tag.
    pub fn is_among(&self, names: &[String]) -> bool {
        names.iter().filter_map(|name| Self::parse(name).ok()).any(|name| {
            let same = match &self.digest {
                Some(digest) => name.digest.as_ref() == Some(digest),
                None => name.digest.is_none() && name.tag == self.tag,
            };
            same && (&name.registry, &name.path) == (&self.registry, &self.path)
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// Host names joined by dots, and a port.
fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Small letters and digits, in groups that `.`, `_`, `__` or any number of `-` separate.
fn is_path_part(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().copied().is_some_and(is_word) && bytes.last().copied().is_some_and(is_word);
    let is_separator = |group: &str| matches!(group, "" | "." | "_" | "__") || group.bytes().all(|byte| byte == b'-');
    ends && text.split(|character: char| character.is_ascii() && is_word(character as u8)).all(is_separator)
}

fn is_tag(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.len() <= TAG_MAX && text.bytes().all(rest) && text.bytes().next().is_some_and(|first| !matches!(first, b'.' | b'-'))
}

/// An algorithm and at least 32 hexadecimal digits.
fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hash)| {
        algorithm.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
            && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'_' | b'-'))
            && hash.len() >= 32
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn references_are_told_from_nonsense() {
        for (good, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("8e", "docker.io/library/8e:latest"),
            ("lib/x:1", "docker.io/lib/x:1"),
            ("index.docker.io/x", "docker.io/library/x:latest"),
            ("reg.example:5000/a/b-c__d.e:v1", "reg.example:5000/a/b-c__d.e:v1"),
            ("localhost/x", "localhost/x:latest"),
        ] {
            assert_eq!(Reference::parse(good).map(|r| r.to_string()), Ok(full.to_owned()));
        }
        let both = Reference::parse(&format!("a:v1@{DIGEST}")).unwrap();
        assert_eq!((both.tag.as_deref(), both.digest.as_deref()), (Some("v1"), Some(DIGEST)));
        for bad in [
            "",
            "Busy Box",
            "a b",
            "UPPER",
            "x/",
            ":v1",
            "a:",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a//b",
            "/a",
            "a@sha256:00ff",
            "a@b",
            "a:b c",
            "a:.x",
            "re_g.example/a",
            "host:port/a",
            "a\n",
            &"a".repeat(256),
            &"0".repeat(64),
            &format!("a:{}", "t".repeat(129)),
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_is_found_by_its_names_only() {
        let names =
            ["busybox:1".to_owned(), format!("busybox@{DIGEST}"), "reg.example/x:latest".to_owned(), "<none>:<none>".to_owned()];
        let found = |text: &str| Reference::parse(text).unwrap().is_among(&names);
        assert!(found("busybox:1") && found("docker.io/library/busybox:1") && found("reg.example/x"));
        assert!(found(&format!("busybox@{DIGEST}")) && found(&format!("busybox:other@{DIGEST}")));
        assert!(!found("busybox") && !found("reg.example/x:1") && !found(&format!("reg.example/x@{DIGEST}")) && !found("8e"));
    }
}
