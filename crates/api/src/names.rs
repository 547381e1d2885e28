//! Textual forms: what a name, label, port name or path must look like, with upstream's messages.
//!
//! One function checks them all, so that a form is defined once; the schema names the form of a field.

use std::net::IpAddr;

use crate::quantity::Quantity;

/// A textual form, named after the document that defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 1123 label: lower-case alphanumerics and `-`, at most 63.
    DnsLabel,
    /// RFC 1123 subdomain: labels joined by `.`, at most 253.
    DnsSubdomain,
    /// RFC 1035 label: like [`Format::DnsLabel`], starting with a letter.
    Dns1035Label,
    /// A label key: `[prefix/]name`.
    QualifiedName,
    /// A label value.
    LabelValue,
    /// IPv4 or IPv6 address.
    Ip,
    /// Network in CIDR notation.
    Cidr,
    /// Service name of RFC 6335, at most 15 characters.
    PortName,
    /// Port number from 1 to 65535, or a [`Format::PortName`].
    PortOrName,
    /// Name of an environment variable.
    EnvName,
    /// Key of a ConfigMap or Secret.
    ConfigKey,
    /// Absolute path.
    AbsolutePath,
    /// A single path segment: not `.`, `..`, and without `/` or `%`.
    PathSegment,
    /// Labels: keys are [`Format::QualifiedName`], values [`Format::LabelValue`]. A single text is taken for a key.
    Labels,
    /// A quantity that is not negative.
    NonNegativeQuantity,
    /// A relative path without `..`.
    RelativePath,
    /// IP address that means the same on every machine: neither unspecified, loopback nor link-local.
    ReachableIp,
    /// Name of an HTTP header.
    HeaderName,
    /// Name of a kernel parameter, its segments joined by `.` or `/`.
    Sysctl,
    /// Domain that is appended to short host names: `.`, or a [`Format::DnsSubdomain`] in which `_` is allowed and which may end with `.`.
    SearchDomain,
}

/// Greatest length of an RFC 1123 label.
pub const LABEL_MAX: usize = 63;
/// Greatest length of an RFC 1123 subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

/// Namespaces that every cluster has and that cannot be deleted.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["default", SYSTEM_NAMESPACE, "kube-public", LEASE_NAMESPACE];
/// Namespace of what belongs to the cluster itself.
pub const SYSTEM_NAMESPACE: &str = "kube-system";
/// Namespace of the nodes' heartbeats.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;

const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
    end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
    start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
    character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
    '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
    character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
    start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
    'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const HEADER_NAME: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
    validation is '[-A-Za-z0-9]+')";
const SYSCTL: &str = "must have at most 253 characters and match regex \
    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const ENV_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";

/// Checks a text.
///
/// # Errors
/// What the text must be and is not, in upstream's words; several reasons are joined by `; `.
pub fn check(format: Format, text: &str) -> Result<(), String> {
    let mut wrong = Wrong::default();
    match format {
        Format::DnsLabel => dns_label(text, &mut wrong),
        Format::DnsSubdomain => subdomain(text, "", &mut wrong),
        Format::Dns1035Label => {
            wrong.longer_than(text, LABEL_MAX);
            wrong.unless(is_dns_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase()), DNS_1035_LABEL);
        }
        Format::QualifiedName | Format::Labels => qualified_name(text, &mut wrong),
        Format::LabelValue => {
            wrong.longer_than(text, LABEL_MAX);
            wrong.unless(text.is_empty() || is_name(text), LABEL_VALUE);
        }
        Format::Ip => {
            wrong.unless(text.parse::<IpAddr>().is_ok(), IP);
        }
        Format::Cidr => {
            wrong.unless(crate::cidr::parse(text).is_ok(), "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
        Format::PortName => port_name(text, &mut wrong),
        Format::PortOrName => match text.parse::<i64>() {
            Ok(port) => wrong.unless((1..=65535).contains(&port), "must be between 1 and 65535, inclusive"),
            Err(_) => port_name(text, &mut wrong),
        },
        Format::EnvName => {
            wrong.unless(!text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'='), ENV_NAME);
        }
        Format::ConfigKey => config_key(text, &mut wrong),
        Format::AbsolutePath => wrong.unless(text.starts_with('/'), "must be an absolute path"),
        Format::PathSegment => path_segment(text, &mut wrong),
        Format::NonNegativeQuantity => match Quantity::parse(text) {
            Ok(quantity) => wrong.unless(!quantity.is_negative(), "must be greater than or equal to 0"),
            Err(error) => wrong.0.push(error.to_string()),
        },
        Format::RelativePath => {
            wrong.unless(!text.starts_with('/'), "must be a relative path");
            wrong.unless(text.split('/').all(|part| part != ".."), "must not contain '..'");
        }
        Format::ReachableIp => match text.parse() {
            Ok(address) => reachable(address, &mut wrong),
            Err(_) => wrong.unless(false, IP),
        },
        Format::HeaderName => {
            let right = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            wrong.unless(right, HEADER_NAME);
        }
        Format::Sysctl => {
            let segment =
                |segment: &str| is_dns_label(&segment.replace('_', "-")) && !segment.starts_with('_') && !segment.ends_with('_');
            wrong.unless(text.len() <= SUBDOMAIN_MAX && text.split(['.', '/']).all(segment), SYSCTL);
        }
        Format::SearchDomain => {
            // A trailing dot says that the name is complete.
            if text != "." {
                let name = text.strip_suffix('.').unwrap_or(text);
                let label = |label: &str| is_dns_label(&label.strip_prefix('_').unwrap_or(label).replace('_', "-"));
                wrong.longer_than(name, SUBDOMAIN_MAX);
                wrong.unless(name.split('.').all(label), DNS_SUBDOMAIN);
            }
        }
    }
    if wrong.0.is_empty() { Ok(()) } else { Err(wrong.0.join("; ")) }
}

/// A name made of `generateName` and five random characters, as upstream makes it. The caller supplies the randomness.
pub fn generate_name(prefix: &str, random: u64) -> String {
    let mut end = prefix.len().min(LABEL_MAX - SUFFIX_LENGTH);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &prefix[..end], suffix(random))
}

/// Five characters that spell no word, chosen by a random number.
pub fn suffix(mut random: u64) -> String {
    let base = SUFFIX_ALPHABET.len() as u64;
    let mut draw = || {
        let index = (random % base) as usize;
        random /= base;
        char::from(SUFFIX_ALPHABET[index])
    };
    (0..SUFFIX_LENGTH).map(|_| draw()).collect()
}

/// What is wrong with a text so far.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, right: bool, message: &str) {
        if !right {
            self.0.push(message.to_owned());
        }
    }

    fn longer_than(&mut self, text: &str, max: usize) {
        if text.len() > max {
            self.0.push(format!("must be no more than {max} bytes"));
        }
    }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// Refuses addresses that mean something else on every machine.
fn reachable(address: IpAddr, wrong: &mut Wrong) {
    let (link_local, multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    wrong.unless(!address.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)");
    wrong.unless(!address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    wrong.unless(!link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    wrong.unless(!multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
}

fn dns_label(text: &str, wrong: &mut Wrong) {
    wrong.longer_than(text, LABEL_MAX);
    wrong.unless(is_dns_label(text), DNS_LABEL);
}

fn subdomain(text: &str, prefix: &str, wrong: &mut Wrong) {
    if text.len() > SUBDOMAIN_MAX {
        wrong.0.push(format!("{prefix}must be no more than {SUBDOMAIN_MAX} bytes"));
    }
    if !text.split('.').all(is_dns_label) {
        wrong.0.push(format!("{prefix}{DNS_SUBDOMAIN}"));
    }
}

fn qualified_name(text: &str, wrong: &mut Wrong) {
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                wrong.unless(false, "prefix part must be non-empty");
            } else {
                subdomain(prefix, "prefix part ", wrong);
            }
            name
        }
        _ => {
            wrong.0.push(format!(
                "a qualified name {QUALIFIED_NAME} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return;
        }
    };
    if name.is_empty() {
        wrong.unless(false, "name part must be non-empty");
    } else if name.len() > LABEL_MAX {
        wrong.0.push(format!("name part must be no more than {LABEL_MAX} bytes"));
    }
    if !is_name(name) {
        wrong.0.push(format!("name part {QUALIFIED_NAME}"));
    }
}

fn port_name(text: &str, wrong: &mut Wrong) {
    wrong.longer_than(text, 15);
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let right = !text.is_empty() && text.bytes().all(allowed);
    wrong.unless(right, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    wrong.unless(text.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    wrong.unless(!text.contains("--"), "must not contain consecutive hyphens");
    wrong.unless(!text.starts_with('-') && !text.ends_with('-'), "must not begin or end with a hyphen");
}

fn config_key(text: &str, wrong: &mut Wrong) {
    wrong.longer_than(text, SUBDOMAIN_MAX);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    wrong.unless(!text.is_empty() && text.bytes().all(allowed), CONFIG_KEY);
    match text {
        "." => wrong.unless(false, "must not be '.'"),
        ".." => wrong.unless(false, "must not be '..'"),
        _ => wrong.unless(!text.starts_with(".."), "must not start with '..'"),
    }
}

fn path_segment(text: &str, wrong: &mut Wrong) {
    for whole in [".", ".."] {
        if text == whole {
            wrong.0.push(format!("may not be '{whole}'"));
        }
    }
    for part in ['/', '%'] {
        if text.contains(part) {
            wrong.0.push(format!("may not contain '{part}'"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: &[Format] = &[
        Format::DnsLabel,
        Format::DnsSubdomain,
        Format::Dns1035Label,
        Format::QualifiedName,
        Format::LabelValue,
        Format::Ip,
        Format::Cidr,
        Format::PortName,
        Format::PortOrName,
        Format::EnvName,
        Format::ConfigKey,
        Format::AbsolutePath,
        Format::PathSegment,
        Format::Labels,
        Format::NonNegativeQuantity,
        Format::RelativePath,
        Format::ReachableIp,
        Format::HeaderName,
        Format::Sysctl,
        Format::SearchDomain,
    ];

    #[test]
    fn each_form_takes_what_it_should_and_nothing_else() {
        let long = "a".repeat(64);
        for (format, good, bad) in [
            (Format::DnsLabel, vec!["a", "a-1", "1a", "0"], vec!["", "-a", "a-", "A", "a.b", "a_b", "é", &long]),
            (Format::DnsSubdomain, vec!["a", "a.b-c.1"], vec!["", ".", "a..b", "a.", "-a.b", "a/b"]),
            (Format::Dns1035Label, vec!["a", "a-1"], vec!["1a", "", "a-"]),
            (
                Format::QualifiedName,
                vec!["a", "A_b.c-d", "example.com/Name"],
                vec!["", "/a", "a/", "a/b/c", "_a", "Ex.com/a", &long],
            ),
            (Format::LabelValue, vec!["", "a", "A_b.1"], vec!["-a", "a.", "a b", "a/b", &long]),
            (Format::Ip, vec!["10.0.0.1", "::1"], vec!["10.0.0", "10.0.0.256", "a", "10.0.0.1/8"]),
            (
                Format::Cidr,
                vec!["10.0.0.0/8", "::/0"],
                vec!["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "::ffff:10.0.0.0/104"],
            ),
            (Format::PortName, vec!["http", "a-1"], vec!["", "80", "a--b", "-a", "HTTP", "sixteen-letters-x"]),
            (Format::PortOrName, vec!["80", "http"], vec!["0", "65536", "-1", ""]),
            (Format::EnvName, vec!["PATH", "a.b-c"], vec!["", "A=B", "é"]),
            (Format::ConfigKey, vec!["a.b", "_"], vec!["", ".", "..", "..a", "a/b"]),
            (Format::AbsolutePath, vec!["/", "/a"], vec!["", "a"]),
            (Format::PathSegment, vec!["system:node", "a"], vec![".", "..", "a/b", "a%b"]),
            (Format::NonNegativeQuantity, vec!["0", "1Gi"], vec!["-1", "x"]),
            (Format::RelativePath, vec!["a/b", "a..b"], vec!["/a", "../a", "a/.."]),
            (
                Format::ReachableIp,
                vec!["10.244.1.7", "192.0.2.1", "fd00::1"],
                vec!["", "not-an-ip", "127.0.0.1", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "224.0.0.1", "ff02::1"],
            ),
            (Format::HeaderName, vec!["Host", "X-1"], vec!["", "X Y", "a:b", "a_b", "é"]),
            (
                Format::Sysctl,
                vec!["kernel.shm_rmid_forced", "net/ipv4/tcp_wmem", "net.ipv4.conf.eth0/1.forwarding"],
                vec!["", "a..b", ".a", "a.", "a b", "A.b", "_a", "a.b_"],
            ),
            (Format::SearchDomain, vec![".", "a.b", "a.b.", "_tcp.a", "a_b"], vec!["", "a b", "..", "a..b", "-a", "A.b"]),
        ] {
            for text in good {
                assert_eq!(check(format, text), Ok(()), "{format:?} {text:?}");
            }
            for text in bad {
                assert!(check(format, text).is_err(), "{format:?} {text:?}");
            }
        }
    }

    #[test]
    fn messages_are_upstreams() {
        let message = check(Format::DnsSubdomain, "My_App").unwrap_err();
        assert_eq!(
            message,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
             with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
    }

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generate_name("web-", 0), "web-bbbbb");
        assert_eq!(generate_name(&"é".repeat(40), u64::MAX).len(), 63);
        assert_ne!(suffix(1), suffix(2));
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in "\\PC{0,80}") {
            for format in ALL {
                let judged = check(*format, &text);
                prop_assert!(judged.is_ok() || judged.is_err());
            }
        }

        #[test]
        fn generated_names_are_subdomains(prefix in "[a-z]([-a-z0-9]{0,70}[a-z0-9])?", random: u64) {
            prop_assert_eq!(check(Format::DnsLabel, &generate_name(&prefix, random)), Ok(()));
        }
    }
}
