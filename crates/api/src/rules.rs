//! Defaults and validation of single fields. The implementations are generated from the schema's options; rules that look at several
//! fields belong to the kind's strategy in the API server.

use std::fmt;

use crate::{
    apiextensions::v1::Json,
    intstr::IntOrString,
    meta::v1::{FieldsV1, MicroTime, StatusCause, Time},
    names::{self, Format},
    quantity,
    resource::Quantity,
    time,
};

/// Why a number of seconds is no time.
const NO_TIME: &str = "must be the seconds since 1970 of a time in the years 0 to 9999, and 0 to 999999999 nanoseconds";

/// What the schema says a message's fields must be.
pub trait Rules {
    /// Sets the fields that are unset and have a default, here and in nested messages.
    fn set_defaults(&mut self);
    /// Checks each field on its own, here and in nested messages.
    fn validate(&self, at: &Path<'_>, errors: &mut FieldErrors);
    /// Checks that immutable fields are as in `old`, here and in nested messages.
    fn validate_update(&self, old: &Self, at: &Path<'_>, errors: &mut FieldErrors);
}

/// Where a field is, as a chain that ends at the object. Costs nothing until it is printed.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl Path<'_> {
    /// The object itself.
    pub const fn root() -> Self {
        Self { parent: None, segment: Segment::Root }
    }

    /// A field of what is here.
    pub const fn field<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Field(name) }
    }

    /// An item of the list that is here.
    pub const fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// An entry of the map that is here.
    pub const fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_root = self.parent.is_none_or(|p| matches!(p.segment, Segment::Root));
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Field(name) if at_root => f.write_str(name),
            Segment::Field(name) => write!(f, ".{name}"),
            Segment::Index(i) => write!(f, "[{i}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Most errors that are kept of one object: a megabyte of wrong items would make hundreds of megabytes of text that nobody reads.
const MAX_ERRORS: usize = 500;

/// What is wrong with an object, field by field.
#[derive(Debug, Default)]
pub struct FieldErrors(pub Vec<FieldError>);

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `spec.containers[0].name`.
    pub field: String,
    /// Machine-readable reason, one of upstream's cause types such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl FieldErrors {
    /// True if nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, at: &Path<'_>, reason: &'static str, message: String) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError { field: at.to_string(), reason, message });
        }
    }

    /// The field must be given.
    pub fn required(&mut self, at: &Path<'_>) {
        self.push(at, "FieldValueRequired", "Required value".to_owned());
    }

    /// The field must be given, and why.
    pub fn required_because(&mut self, at: &Path<'_>, why: impl fmt::Display) {
        self.push(at, "FieldValueRequired", format!("Required value: {why}"));
    }

    /// The value is not of the right form.
    pub fn invalid(&mut self, at: &Path<'_>, value: impl fmt::Debug, why: impl fmt::Display) {
        self.push(at, "FieldValueInvalid", format!("Invalid value: {value:?}: {why}"));
    }

    /// The value is wrong, which is not shown since it may be large.
    pub fn invalid_because(&mut self, at: &Path<'_>, why: impl fmt::Display) {
        self.push(at, "FieldValueInvalid", format!("Invalid value: {why}"));
    }

    /// The value is of another type.
    pub fn type_invalid(&mut self, at: &Path<'_>, value: impl fmt::Debug, why: impl fmt::Display) {
        self.push(at, "FieldValueTypeInvalid", format!("Invalid value: {value:?}: {why}"));
    }

    /// The value is none of those allowed.
    pub fn not_supported(&mut self, at: &Path<'_>, value: impl fmt::Debug, allowed: &[&str]) {
        let allowed: Vec<String> = allowed.iter().map(|v| format!("{v:?}")).collect();
        self.push(
            at,
            "FieldValueNotSupported",
            format!("Unsupported value: {value:?}: supported values: {}", allowed.join(", ")),
        );
    }

    /// The value stands in the list already.
    pub fn duplicate(&mut self, at: &Path<'_>, value: impl fmt::Debug) {
        self.push(at, "FieldValueDuplicate", format!("Duplicate value: {value:?}"));
    }

    /// The field may not be set here.
    pub fn forbidden(&mut self, at: &Path<'_>, why: impl fmt::Display) {
        self.push(at, "FieldValueForbidden", format!("Forbidden: {why}"));
    }

    /// The value has too many bytes or items.
    pub fn too_long(&mut self, at: &Path<'_>, max: usize) {
        self.push(at, "FieldValueTooLong", format!("Too long: may not be more than {max} bytes"));
    }

    /// The list has too many items.
    pub fn too_many(&mut self, at: &Path<'_>, count: usize, max: usize) {
        self.push(at, "FieldValueTooMany", format!("Too many: {count}: must have at most {max} items"));
    }

    /// Takes out what is said of `old` as well: what was wrong before may stay, so that an object that was stored under older rules can still
    /// be changed and deleted. Of two long lists, which are cut, nothing is taken out.
    pub fn forgive(&mut self, old: &Self) {
        if self.0.len() < MAX_ERRORS {
            self.0.retain(|error| !old.0.contains(error));
        }
    }

    /// What the value names does not exist.
    pub fn not_found(&mut self, at: &Path<'_>, value: impl fmt::Debug) {
        self.push(at, "FieldValueNotFound", format!("Not found: {value:?}"));
    }

    /// The field cannot change.
    pub fn immutable(&mut self, at: &Path<'_>) {
        self.push(at, "FieldValueInvalid", "Invalid value: field is immutable".to_owned());
    }

    /// The causes of a `Status`.
    pub fn causes(&self) -> Vec<StatusCause> {
        let cause =
            |e: &FieldError| StatusCause { reason: e.reason.to_owned(), message: e.message.clone(), field: e.field.clone() };
        self.0.iter().map(cause).collect()
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.0.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        match list.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

/// A value whose textual form can be checked.
pub(crate) trait CheckFormat {
    fn check_format(&self, format: Format, at: &Path<'_>, errors: &mut FieldErrors);
}

impl CheckFormat for String {
    fn check_format(&self, format: Format, at: &Path<'_>, errors: &mut FieldErrors) {
        if let Err(why) = names::check(format, self) {
            errors.invalid(at, self, why);
        }
    }
}

impl CheckFormat for Quantity {
    fn check_format(&self, _: Format, at: &Path<'_>, errors: &mut FieldErrors) {
        match quantity::Quantity::parse(&self.string) {
            Err(e) => errors.invalid(at, &self.string, e),
            Ok(q) if q.is_negative() => errors.invalid(at, &self.string, "must be greater than or equal to 0"),
            Ok(_) => {}
        }
    }
}

impl CheckFormat for IntOrString {
    fn check_format(&self, format: Format, at: &Path<'_>, errors: &mut FieldErrors) {
        match self.as_int() {
            Some(port) => range(i64::from(port), Some(1), Some(65535), at, errors),
            None => self.str_val.check_format(if format == Format::PortOrName { Format::PortName } else { format }, at, errors),
        }
    }
}

/// A value whose protobuf encoding can hold what no JSON says.
pub(crate) trait CheckValue {
    fn check_value(&self, at: &Path<'_>, errors: &mut FieldErrors);
}

impl CheckValue for Quantity {
    fn check_value(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        if let Err(e) = quantity::Quantity::try_from(self) {
            errors.invalid(at, &self.string, e);
        }
    }
}

impl CheckValue for Time {
    fn check_value(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        if !time::exists(self.seconds, self.nanos) {
            errors.invalid(at, self.seconds, NO_TIME);
        }
    }
}

impl CheckValue for MicroTime {
    fn check_value(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        if !time::exists(self.seconds, self.nanos) {
            errors.invalid(at, self.seconds, NO_TIME);
        }
    }
}

impl CheckValue for FieldsV1 {
    fn check_value(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        check_json(&self.raw, at, errors);
    }
}

impl CheckValue for Json {
    fn check_value(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        check_json(&self.raw, at, errors);
    }
}

/// Nothing stands for `null`.
fn check_json(raw: &[u8], at: &Path<'_>, errors: &mut FieldErrors) {
    if !raw.is_empty()
        && let Err(e) = serde_json::from_slice::<serde_json::Value>(raw)
    {
        errors.invalid(at, String::from_utf8_lossy(raw), format_args!("must be JSON: {e}"));
    }
}

/// Puts an amount into the form in which it is stored; what is no amount stays for validation to refuse.
pub(crate) fn settle(amount: &mut Quantity) {
    if amount.string.is_empty() {
        amount.string = quantity::Quantity::ZERO.to_string();
    } else if let Ok(text) = quantity::stored(&amount.string) {
        amount.string = text;
    }
}

/// As [`settle`], for a list of resources, which holds nothing finer than thousandths.
pub(crate) fn settle_in_list(amount: &mut Quantity) {
    settle(amount);
    if let Ok(parsed) = quantity::Quantity::parse(&amount.string)
        && parsed.round_to_milli() != parsed
    {
        amount.string = parsed.round_to_milli().to_string();
    }
}

/// True for the value that stands for unset. A function, since `==` alone leaves the right-hand type open.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(crate) fn one_of(value: &str, allowed: &[&str], at: &Path<'_>, errors: &mut FieldErrors) {
    if !allowed.contains(&value) {
        errors.not_supported(at, value, allowed);
    }
}

pub(crate) fn range(value: i64, min: Option<i64>, max: Option<i64>, at: &Path<'_>, errors: &mut FieldErrors) {
    match (min, max) {
        (Some(min), Some(max)) if !(min..=max).contains(&value) => {
            errors.invalid(at, value, format_args!("must be between {min} and {max}, inclusive"));
        }
        (Some(min), None) if value < min => errors.invalid(at, value, format_args!("must be greater than or equal to {min}")),
        (None, Some(max)) if value > max => errors.invalid(at, value, format_args!("must be less than or equal to {max}")),
        _ => {}
    }
}

pub(crate) fn map_key(key: &str, format: Format, at: &Path<'_>, errors: &mut FieldErrors) {
    if let Err(why) = names::check(format, key) {
        errors.invalid(at, key, why);
    }
}

pub(crate) fn label(key: &str, value: &str, at: &Path<'_>, errors: &mut FieldErrors) {
    map_key(key, Format::QualifiedName, at, errors);
    if let Err(why) = names::check(Format::LabelValue, value) {
        errors.invalid(at, value, why);
    }
}
