//! Amounts such as `500m`, `1.5Gi` or `2e3`: exact arithmetic and upstream's canonical text.
//!
//! An amount is a whole number of billionths in 128 bits, so sums never round; only what is finer than a billionth rounds, away from
//! zero. The suffix family it was written with stays with it and decides how it is printed. Invariant: `parse(q.to_string()) == q`.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    iter::Sum,
    ops::{Add, AddAssign, Neg, Sub, SubAssign},
    str::FromStr,
};

use crate::resource::Quantity as Message;

const NANOS: i128 = 1_000_000_000;
/// Greatest amount with a binary suffix, as upstream caps it.
const MAX_BINARY: i128 = i64::MAX as i128 * NANOS;
/// Greatest amount: 1e29. Whatever is written larger is this much.
const MAX: i128 = 100_000_000_000_000_000_000_000_000_000_000_000_000;

/// Decimal suffixes and their power of ten.
const DECIMAL: &[(&str, i64)] =
    &[("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
/// Binary suffixes and their power of 1024.
const BINARY: &[(&str, u32)] = &[("Ki", 1), ("Mi", 2), ("Gi", 3), ("Ti", 4), ("Pi", 5), ("Ei", 6)];

/// How an amount is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notation {
    /// `n u m k M G T P E`, or no suffix.
    #[default]
    Decimal,
    /// `Ki Mi Gi Ti Pi Ei`.
    Binary,
    /// `e3`.
    Exponent,
}

/// An amount. Compares by value: `1Gi` equals `1073741824`.
#[derive(Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    notation: Notation,
}

/// Why a text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number and a suffix.
    #[error("{input:?} is not a quantity: a number with an optional suffix such as 500m, 1.5Gi or 2e3 is wanted")]
    Malformed {
        /// The text.
        input: String,
    },
    /// A suffix that does not exist.
    #[error(
        "{input:?} is not a quantity: unknown suffix {suffix:?}{hint}; suffixes are n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or an \
         exponent such as e3"
    )]
    Suffix {
        /// The text.
        input: String,
        /// Its suffix.
        suffix: String,
        /// What may have been meant, as `, did you mean …?`.
        hint: String,
    },
}

/// The text under which an amount is stored: as it was written where that is short and plain (`100m`, `+1`, `1E3`), otherwise the canonical
/// form (`1536Mi` for `1.5Gi`, `1` for `1000m`). Upstream's rule, which decides whether a manifest differs from what is stored.
///
/// # Errors
/// When the text is no quantity.
pub fn stored(text: &str) -> Result<String, QuantityError> {
    let canonical = Quantity::parse(text)?;
    Ok(if is_plain(text.trim()) { text.trim().to_owned() } else { canonical.to_string() })
}

/// True for a quantity with few enough digits for 64 bits, a power of a thousand and no factor that a larger suffix would take up.
fn is_plain(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = Some(whole.trim_start_matches('0')).filter(|digits| !digits.is_empty()).unwrap_or("0");
    let digits = format!("{whole}{fraction}");
    let (length, places) = (digits.len() as i64, fraction.len() as i64);
    match interpret(text, suffix) {
        Ok((Notation::Binary, _, powers)) => {
            let odd = digits.parse::<i64>().is_ok_and(|value| value % 8 != 0);
            fraction.is_empty() && odd && length + 3 * i64::from(powers) <= 14
        }
        Ok((_, exponent, _)) => {
            let scale = exponent - places;
            length <= 18 && scale >= -9 && scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0')
        }
        Err(_) => false,
    }
}

/// The amount under `name` in a resource list; `None` if it is missing or no quantity.
pub fn get(list: &BTreeMap<String, Message>, name: &str) -> Option<Quantity> {
    list.get(name).and_then(|q| Quantity::try_from(q).ok())
}

// === impl Quantity ===

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, notation: Notation::Decimal };

    /// Reads an amount; surrounding white space is ignored.
    ///
    /// # Errors
    /// When the text is no quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed { input: text.to_owned() };
        let trimmed = text.trim();
        let (negative, rest) = match trimmed.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(malformed());
        }
        let (mut notation, exponent, powers) = interpret(text, suffix)?;
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
        for _ in 0..powers {
            times_1024(&mut digits);
        }
        let point = i64::try_from(fraction.len()).map_err(|_| malformed())?;
        // The digits stand for billionths once they are shifted by this many places.
        let shift = exponent.saturating_add(9).saturating_sub(point);
        let most = if notation == Notation::Binary { MAX_BINARY } else { MAX };
        let nanos = shifted(&digits, shift).map_or(most, |nanos| nanos.min(most));
        if notation == Notation::Binary && nanos > 0 && nanos < NANOS {
            notation = Notation::Decimal;
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, notation })
    }

    /// So many thousandths, such as CPU in millicores.
    pub const fn from_milli(milli: i64) -> Self {
        Self { nanos: milli as i128 * 1_000_000, notation: Notation::Decimal }
    }

    /// So many billionths, such as CPU time per second in nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos: nanos as i128, notation: Notation::Decimal }
    }

    /// So many units, printed with decimal suffixes.
    pub const fn from_value(value: i64) -> Self {
        Self { nanos: value as i128 * NANOS, notation: Notation::Decimal }
    }

    /// So many bytes, printed with binary suffixes.
    pub const fn from_bytes(bytes: i64) -> Self {
        Self { nanos: bytes as i128 * NANOS, notation: Notation::Binary }
    }

    /// In units, rounded away from zero; the nearest 64-bit number if it does not fit.
    pub fn value(self) -> i64 {
        saturate(self.divided(NANOS))
    }

    /// In thousandths, rounded away from zero; the nearest 64-bit number if it does not fit.
    pub fn milli_value(self) -> i64 {
        saturate(self.divided(1_000_000))
    }

    /// In units, for ratios and scores where exactness does not matter.
    pub fn to_f64(self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// The amount rounded away from zero to thousandths: the finest that resource lists hold.
    #[must_use]
    pub fn round_to_milli(self) -> Self {
        Self { nanos: self.divided(1_000_000).saturating_mul(1_000_000), ..self }
    }

    /// True for a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANOS == 0
    }

    /// True for nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// True below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// How it is printed.
    pub fn notation(&self) -> Notation {
        self.notation
    }

    fn divided(self, unit: i128) -> i128 {
        let (quotient, rest) = (self.nanos / unit, self.nanos % unit);
        quotient + rest.signum()
    }

    fn plus(self, nanos: i128, other: Notation) -> Self {
        let notation = if self.is_zero() { other } else { self.notation };
        Self { nanos: self.nanos.saturating_add(nanos).clamp(-MAX, MAX), notation }
    }
}

/// Notation, power of ten and power of 1024 of a suffix.
fn interpret(input: &str, suffix: &str) -> Result<(Notation, i64, u32), QuantityError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((Notation::Decimal, *exponent, 0));
    }
    if let Some((_, powers)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Ok((Notation::Binary, 0, *powers));
    }
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|e| is_exponent(e)) {
        // An exponent too long to read only has to keep its sign: it rounds up or is out of range anyway.
        let far = if exponent.starts_with('-') { -1_000_000 } else { 1_000_000 };
        return Ok((Notation::Exponent, exponent.parse().unwrap_or(far).clamp(-1_000_000, 1_000_000), 0));
    }
    if suffix.starts_with(|c: char| c.is_alphabetic()) && suffix.chars().count() <= 8 {
        return Err(QuantityError::Suffix { input: input.to_owned(), suffix: suffix.to_owned(), hint: hint(suffix) });
    }
    Err(QuantityError::Malformed { input: input.to_owned() })
}

fn is_exponent(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// What may have been meant by an unknown suffix.
fn hint(suffix: &str) -> String {
    let lower = suffix.to_ascii_lowercase();
    let letter = lower.trim_end_matches("bytes").trim_end_matches("byte").trim_end_matches('b').trim_end_matches('i');
    let decimal = DECIMAL.iter().find(|(s, e)| *e > 0 && s.eq_ignore_ascii_case(letter));
    let binary = BINARY.iter().find(|(s, _)| s[..1].eq_ignore_ascii_case(letter));
    match (decimal, binary) {
        (Some((d, e)), Some((b, p))) => format!(", did you mean {b} (1024^{p}) or {d} (1000^{})?", e / 3),
        _ if letter.is_empty() => ", did you mean no suffix? Memory is in bytes".to_owned(),
        _ => String::new(),
    }
}

/// Multiplies a decimal number, most significant digit first.
fn times_1024(digits: &mut Vec<u8>) {
    let mut carry = 0_u32;
    for digit in digits.iter_mut().rev() {
        let product = u32::from(*digit) * 1024 + carry;
        *digit = (product % 10) as u8;
        carry = product / 10;
    }
    let mut front = Vec::new();
    while carry > 0 {
        front.push((carry % 10) as u8);
        carry /= 10;
    }
    front.reverse();
    digits.splice(0..0, front);
}

/// The number shifted by so many decimal places, what falls off rounded up; `None` if it does not fit.
fn shifted(digits: &[u8], shift: i64) -> Option<i128> {
    let first = digits.iter().position(|d| *d != 0);
    let Some(digits) = first.map(|i| &digits[i..]) else { return Some(0) };
    let kept = i64::try_from(digits.len()).ok()?.saturating_add(shift);
    if kept > 39 {
        return None;
    }
    let kept = usize::try_from(kept).unwrap_or(0);
    let (whole, rest) = digits.split_at(kept.min(digits.len()));
    let mut value = 0_i128;
    for digit in whole.iter().copied().chain(std::iter::repeat_n(0, kept - whole.len())) {
        value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
    }
    value.checked_add(i128::from(rest.iter().any(|d| *d != 0)))
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.unsigned_abs() < 1024 * NANOS.unsigned_abs();
        if self.notation == Notation::Binary && !small && self.nanos % NANOS == 0 {
            let (mut mantissa, mut power) = (self.nanos / NANOS, 0);
            while mantissa % 1024 == 0 && power < BINARY.len() {
                mantissa /= 1024;
                power += 1;
            }
            let suffix = power.checked_sub(1).and_then(|p| BINARY.get(p)).map_or("", |(s, _)| s);
            return write!(f, "{mantissa}{suffix}");
        }
        let (mut mantissa, mut exponent) = (self.nanos, -9);
        while mantissa % 1000 == 0 && (exponent < 18 || self.notation == Notation::Exponent) {
            mantissa /= 1000;
            exponent += 3;
        }
        let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("", |(s, _)| s);
        match (self.notation, exponent) {
            (Notation::Exponent, 0) => write!(f, "{mantissa}"),
            (Notation::Exponent, e) => write!(f, "{mantissa}e{e}"),
            _ => write!(f, "{mantissa}{suffix}"),
        }
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quantity({self})")
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl Add for Quantity {
    type Output = Self;

    /// The sum, in the notation of the first that is not zero.
    fn add(self, other: Self) -> Self {
        self.plus(other.nanos, other.notation)
    }
}

impl Sub for Quantity {
    type Output = Self;

    /// The difference, in the notation of the first that is not zero.
    fn sub(self, other: Self) -> Self {
        self.plus(other.nanos.saturating_neg(), other.notation)
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: self.nanos.saturating_neg(), ..self }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl TryFrom<&Message> for Quantity {
    type Error = QuantityError;

    /// Reads the API's message; an empty one is zero, as upstream has it.
    fn try_from(message: &Message) -> Result<Self, QuantityError> {
        if message.string.is_empty() { Ok(Self::ZERO) } else { Self::parse(&message.string) }
    }
}

impl From<Quantity> for Message {
    fn from(quantity: Quantity) -> Self {
        Self { string: quantity.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).unwrap()
    }

    #[test]
    fn the_canonical_form_is_upstreams() {
        for (text, expected) in [
            ("1.5Gi", "1536Mi"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("0", "0"),
            ("0Ki", "0"),
            ("-0", "0"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("1024Ki", "1Mi"),
            ("0.5Ki", "512"),
            ("1023", "1023"),
            ("1023.5Ki", "1048064"),
            ("0.1Gi", "107374182400m"),
            ("+.5", "500m"),
            ("5.", "5"),
            ("1e3", "1e3"),
            ("12E6", "12e6"),
            ("1e2", "100"),
            ("1e-3", "1e-3"),
            ("1E", "1E"),
            ("100E", "100E"),
            ("1000E", "1000E"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("1e-400", "1e-9"),
            ("8Ei", "9223372036854775807"),
            ("-9Ei", "-9223372036854775807"),
            ("1.0000000001", "1000000001n"),
            ("00100m", "100m"),
            ("500u", "500u"),
            ("0.0005Ki", "512m"),
            (" 1Gi ", "1Gi"),
        ] {
            assert_eq!(q(text).to_string(), expected, "{text}");
        }
    }

    #[test]
    fn plain_texts_are_stored_as_written() {
        for kept in [
            "1",
            "+1",
            "-1",
            "100m",
            "1E3",
            "1e3",
            "1.500",
            "007",
            "1025Ki",
            "3Gi",
            "12E6",
            "500u",
            "999999999999999999",
            "1500u",
        ] {
            assert_eq!(stored(kept).unwrap(), kept);
        }
        for (text, expected) in [
            ("1000m", "1"),
            ("1000", "1k"),
            ("0.5", "500m"),
            ("0.500", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("8Gi", "8Gi"),
            ("0", "0"),
            ("+0", "0"),
            ("0Ki", "0"),
            ("0.1m", "100u"),
            ("1e2", "100"),
            ("1e100", "100e27"),
            (" 2 ", "2"),
        ] {
            assert_eq!(stored(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_too_much_to_count_is_as_much_as_can_be_counted() {
        let most = q("1e29");
        for text in ["1e30", "1e100", "1e999999999999999999999", "99999999999999999999999999999999E", "1.7e29"] {
            assert_eq!(q(text), most, "{text}");
            assert_eq!(q(&format!("-{text}")), -most, "{text}");
        }
        assert_eq!((q("1e100").value(), q("1e100") + q("1e100") == most), (i64::MAX, true));
    }

    #[test]
    fn errors_name_the_text_and_what_would_be_right() {
        let message = |text: &str| stored(text).unwrap_err().to_string();
        assert!(message("1.5Gb").contains("\"1.5Gb\"") && message("1.5Gb").contains("did you mean Gi (1024^3) or G (1000^3)?"));
        assert!(message("1K").contains("did you mean Ki (1024^1) or k (1000^1)?"));
        assert!(message("64B").contains("did you mean no suffix?"));
        assert!(message("1X").contains("unknown suffix \"X\"; suffixes are"));
        for bad in ["", "m", "-", ".", "1.2.3", "1 Gi", "--1", "1e", "1e+", "0x10", "1,5", "１", "1Gi1"] {
            assert!(stored(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn whole_values_round_away_from_zero_and_saturate() {
        assert_eq!((q("1.1").value(), q("-1.1").value(), q("1500m").milli_value()), (2, -2, 1500));
        assert_eq!((q("1n").milli_value(), q("1e20").value(), q("-1e20").value()), (1, i64::MAX, i64::MIN));
        assert_eq!(q("0.0001").round_to_milli().to_string(), "1m");
        assert!(q("1e29").is_whole() && q("1000m").is_whole() && !q("1.5").is_whole() && !q("1n").is_whole());
    }

    #[test]
    fn sums_keep_the_notation_of_the_first_that_counts() {
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1Gi") + q("1k")).to_string(), "1073742824");
        assert_eq!([q("100m"), q("1"), q("900m")].into_iter().sum::<Quantity>().to_string(), "2");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert_eq!((-q("1Mi")).to_string(), "-1Mi");
        assert_eq!(q("1Gi"), q("1073741824"));
        assert!(q("1Gi") > q("1G") && q("1m") < q("1"));
    }

    /// A number as a fraction of whole numbers of any size, in the simplest possible terms: digits over a power of ten.
    fn model(digits: &str, fraction: usize, exponent: i32, powers: u32) -> Option<i128> {
        let whole: i128 = digits.parse().ok()?;
        let scaled = whole.checked_mul(1024_i128.checked_pow(powers)?)?;
        let shift = 9 + exponent - i32::try_from(fraction).ok()?;
        let ten = 10_i128.checked_pow(shift.unsigned_abs())?;
        if shift >= 0 { scaled.checked_mul(ten) } else { Some(scaled / ten + i128::from(scaled % ten != 0)) }
    }

    proptest! {
        #[test]
        fn parsing_agrees_with_exact_fractions(whole in "[0-9]{1,9}", fraction in "[0-9]{0,9}", suffix in 0..16_usize, negative: bool) {
            let (name, exponent, powers) = match suffix {
                0..10 => (DECIMAL[suffix].0, DECIMAL[suffix].1 as i32, 0),
                _ => (BINARY[suffix - 10].0, 0, BINARY[suffix - 10].1),
            };
            let sign = if negative { "-" } else { "" };
            let expected = model(&format!("{whole}{fraction}"), fraction.len(), exponent, powers);
            prop_assume!(expected.is_some());
            let expected = expected.unwrap_or_default();
            let expected = if powers > 0 { expected.min(MAX_BINARY) } else { expected };
            let parsed = q(&format!("{sign}{whole}.{fraction}{name}"));
            prop_assert_eq!(parsed.nanos, if negative { -expected } else { expected });
            prop_assert_eq!(q(&parsed.to_string()), parsed);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                prop_assert_eq!(q(&quantity.to_string()), quantity);
            }
        }

        #[test]
        fn number_like_text_is_read_or_refused(text in "[-+]?[0-9.]{0,60}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,25}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                prop_assert_eq!(q(&quantity.to_string()), quantity);
                let kept = stored(&text).unwrap();
                prop_assert_eq!(q(&kept), quantity);
                prop_assert_eq!(stored(&kept).unwrap(), kept);
            }
        }

        #[test]
        fn addition_is_exact(a in -1_000_000_000_000_i64..1_000_000_000_000, b in any::<i32>()) {
            let (x, y) = (Quantity::from_milli(a), Quantity::from_nanos(i64::from(b)));
            prop_assert_eq!((x + y) - y, x);
            prop_assert_eq!((x + y).nanos, i128::from(a) * 1_000_000 + i128::from(b));
        }
    }
}
