//! The textual forms that `format` names. Unknown names demand nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::civil::Date;

use super::Pattern;

/// True if the text has the form, or the form demands nothing of texts.
pub fn is_valid(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => is_request_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some(b'3')),
        "uuid4" => is_uuid(text, Some(b'4')),
        "uuid5" => is_uuid(text, Some(b'5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => matches(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$", text),
        "hexcolor" => matches(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$", text),
        "rgbcolor" => is_rgb(text),
        "byte" => STANDARD.decode(text).is_ok(),
        "date" => is_date(text),
        "datetime" => is_date_time(text),
        "duration" => is_duration(text),
        "k8sshortname" => api::names::check(api::names::Format::DnsLabel, text).is_ok(),
        "k8slongname" => api::names::check(api::names::Format::DnsSubdomain, text).is_ok(),
        _ => true,
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(text))
}

/// An absolute URI, or an absolute path.
pub(crate) fn is_request_uri(text: &str) -> bool {
    !text.is_empty()
        && !text.bytes().any(|b| b.is_ascii_control() || b == b' ')
        && (text.starts_with('/') || !text.contains('#') && url::Url::parse(text).is_ok())
}

/// `local@domain`, or that in angle brackets after a name.
fn is_email(text: &str) -> bool {
    let address = match text.trim().strip_suffix('>').and_then(|rest| rest.split_once('<')) {
        Some((_, address)) => address,
        None => text.trim(),
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let dotted = |text: &str| text.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let literal =
        domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')).is_some_and(|d| d.parse::<std::net::IpAddr>().is_ok());
    (quoted || dotted(local)) && (literal || dotted(domain))
}

fn is_hostname(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let inner = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
        bytes.len() <= 63
            && bytes.iter().all(inner)
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last() != Some(&b'-')
    };
    text.len() <= 255 && labels.split('.').all(label)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let digits = bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let within = |max: u8| digits && bits.parse::<u8>().is_ok_and(|bits| bits <= max);
    address.parse::<Ipv4Addr>().is_ok() && within(32) || address.parse::<Ipv6Addr>().is_ok() && within(128)
}

/// 6, 8 or 20 octets with colons or hyphens between them, or in fours with dots.
fn is_mac(text: &str) -> bool {
    let separated = |separator: char, width: usize, counts: [usize; 3]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len()) && parts.iter().all(|p| p.len() == width && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    separated(':', 2, [6, 8, 20]) || separated('-', 2, [6, 8, 20]) || separated('.', 4, [3, 4, 10])
}

fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let mut rest = text;
    let mut hex = String::with_capacity(32);
    for (i, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some((part, after)) = rest.split_at_checked(length) else { return false };
        hex.push_str(part);
        rest = after;
    }
    let hex = hex.into_bytes();
    let variant = |b: u8| matches!(b, b'8' | b'9' | b'a' | b'b' | b'A' | b'B');
    rest.is_empty()
        && hex.iter().all(u8::is_ascii_hexdigit)
        && version.is_none_or(|version| hex[12] == version && (version == b'3' || variant(hex[16])))
}

fn is_isbn10(text: &str) -> bool {
    let digits: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'-' | b' ')).collect();
    let value = |(i, b): (usize, &u8)| match b {
        b'0'..=b'9' => Some(u32::from(b - b'0')),
        b'X' if i == 9 => Some(10),
        _ => None,
    };
    let values: Option<Vec<u32>> = digits.iter().enumerate().map(value).collect();
    digits.len() == 10 && values.is_some_and(|v| v.iter().zip((1..=10).rev()).map(|(d, w)| d * w).sum::<u32>() % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let digits: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'-' | b' ')).collect();
    let weighted = digits.iter().zip([1, 3].into_iter().cycle()).map(|(d, w)| u32::from(d.wrapping_sub(b'0')) * w);
    digits.len() == 13 && digits.iter().all(u8::is_ascii_digit) && weighted.sum::<u32>() % 10 == 0
}

fn is_credit_card(text: &str) -> bool {
    const FORM: &str = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$";
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let double = |d: u32| if d > 4 { d * 2 - 9 } else { d * 2 };
    let values = digits.bytes().rev().map(|b| u32::from(b - b'0')).enumerate();
    let sum: u32 = values.map(|(i, d)| if i % 2 == 1 { double(d) } else { d }).sum();
    sum.is_multiple_of(10) && matches(FORM, &digits)
}

fn is_rgb(text: &str) -> bool {
    let parts = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    let part = |part: &str| part.trim().parse::<u8>().is_ok();
    parts.is_some_and(|parts| parts.split(',').count() == 3 && parts.split(',').all(part))
}

/// `2006-01-02`.
pub(crate) fn is_date(text: &str) -> bool {
    text.len() == 10 && text.is_ascii() && text.as_bytes()[4] == b'-' && text.parse::<Date>().is_ok()
}

/// RFC 3339.
pub(crate) fn is_date_time(text: &str) -> bool {
    text.get(..10).is_some_and(is_date)
        && matches(r"^.{10}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.,][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$", text)
        && text.to_uppercase().replace(',', ".").parse::<jiff::Timestamp>().is_ok()
}

/// Go's `1h30m`, or a number and a unit in words, such as `2 days`.
pub(crate) fn is_duration(text: &str) -> bool {
    const UNITS: &[&str] = &[
        "ns",
        "nano",
        "nanosecond",
        "us",
        "µs",
        "micro",
        "microsecond",
        "ms",
        "milli",
        "millisecond",
        "s",
        "sec",
        "second",
        "m",
        "min",
        "minute",
        "h",
        "hr",
        "hour",
        "d",
        "day",
        "w",
        "wk",
        "week",
    ];
    if api::duration::parse(text).is_ok() {
        return true;
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = text[digits..].trim();
    digits > 0 && (UNITS.contains(&unit) || unit.strip_suffix('s').is_some_and(|unit| UNITS.contains(&unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_upstreams() {
        for (format, yes, no) in [
            ("date", &["2006-01-02"][..], &["2006-1-2", "2006-13-01", "x"][..]),
            (
                "date-time",
                &["2014-12-15T19:30:20.000Z", "2024-01-02T03:04:05+02:00"],
                &["2014-12-15", "2014-12-15 19:30:20Z", "2014-12-15T25:30:20Z"],
            ),
            ("datetime", &["2014-12-15T19:30:20Z"], &["now"]),
            ("duration", &["1h30m", "22 ns", "2 days", "0"], &["1 parsec", "h"]),
            ("byte", &["aGk=", ""], &["%", "aGk"]),
            (
                "uuid",
                &["0b5e4f6a-1c2d-4e3f-8a9b-0c1d2e3f4a5b", "0B5E4F6A1C2D4E3F8A9B0C1D2E3F4A5B"],
                &["0b5e4f6a", "0b5e4f6a-1c2d-4e3f-8a9b-0c1d2e3f4a5g"],
            ),
            ("uuid4", &["0b5e4f6a-1c2d-4e3f-8a9b-0c1d2e3f4a5b"], &["0b5e4f6a-1c2d-3e3f-8a9b-0c1d2e3f4a5b"]),
            ("email", &["a@b.example", "A B <a@b.example>"], &["a", "a@", "a b@c", ".a@b"]),
            ("ipv4", &["10.0.0.1"], &["10.0.0", "::1", "010.0.0.1"]),
            ("ipv6", &["::1", "fd00::1"], &["10.0.0.1", ":::"]),
            ("cidr", &["10.0.0.0/8", "fd00::/64"], &["10.0.0.0", "10.0.0.0/33", "10.0.0.0/08"]),
            ("mac", &["01:23:45:67:89:ab", "0123.4567.89ab"], &["01:23", "zz:23:45:67:89:ab"]),
            ("hostname", &["a.example", "1.a"], &["-a", "a_b", ""]),
            ("uri", &["https://a.example/b?c=d", "/path", "urn:x:y"], &["a b", "", "foo"]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044", "x"]),
            ("creditcard", &["4111 1111 1111 1111"], &["4111 1111 1111 1112"]),
            ("ssn", &["111-11-1111"], &["1111"]),
            ("hexcolor", &["#fff", "FFFFFF"], &["#ffff"]),
            ("rgbcolor", &["rgb(255,255,0)"], &["rgb(256,0,0)"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"]),
            ("password", &["anything"], &[]),
            ("unheard-of", &["anything"], &[]),
        ] {
            yes.iter().for_each(|text| assert!(is_valid(format, text), "{format}: {text}"));
            no.iter().for_each(|text| assert!(!is_valid(format, text), "{format}: {text}"));
        }
    }
}
