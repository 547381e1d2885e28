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
mod tests;
