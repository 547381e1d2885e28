//! Values as text, in the forms of Go's package fmt.

use super::value::Val;

/// Widest a value may be padded to, and most digits: a typing error must not fill the memory.
const MAX_WIDTH: usize = 10_000;
/// From this power of ten on a number has an exponent, if no precision is given.
const SHORT: i32 = 6;

/// `%v`.
pub fn sprint(value: &Val) -> String {
    match value {
        Val::Missing | Val::Nil => "<nil>".to_owned(),
        Val::Bool(value) => value.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Float(number) => shortest(*number, None),
        Val::Text(text) => text.to_string(),
        Val::List(items) => format!("[{}]", items.iter().map(sprint).collect::<Vec<_>>().join(" ")),
        Val::Map(members) => {
            let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}:{}", sprint(value))).collect();
            format!("map[{}]", members.join(" "))
        }
    }
}

/// `print`: spaces between operands of which neither is text.
pub fn print(values: &[Val]) -> String {
    let mut out = String::new();
    for (i, value) in values.iter().enumerate() {
        let text = |value: &Val| matches!(value, Val::Text(_));
        if i > 0 && !text(value) && !text(&values[i - 1]) {
            out.push(' ');
        }
        out += &sprint(value);
    }
    out
}

/// `println`: spaces between all operands.
pub fn println(values: &[Val]) -> String {
    values.iter().map(sprint).collect::<Vec<_>>().join(" ") + "\n"
}

#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    sharp: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// `printf`. What does not fit is said in the text, as Go does.
pub fn printf(format: &str, values: &[Val]) -> String {
    let (mut out, mut used, mut rest) = (String::new(), 0, format);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let spec = read_spec(&mut rest, values, &mut used);
        let Some(verb) = rest.chars().next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        rest = &rest[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        match values.get(used) {
            Some(value) => out.push_str(&pad(&spec, &one(&spec, verb, value))),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
        }
        used += 1;
    }
    out.push_str(rest);
    if let Some(extra) = values.get(used..).filter(|extra| !extra.is_empty()) {
        let extra: Vec<_> = extra
            .iter()
            .map(|value| if value.is_nil() { "<nil>".to_owned() } else { format!("{}={}", value.type_name(), sprint(value)) })
            .collect();
        out += &format!("%!(EXTRA {})", extra.join(", "));
    }
    out
}

/// The flags, width and precision before a verb.
fn read_spec(rest: &mut &str, values: &[Val], used: &mut usize) -> Spec {
    let mut spec = Spec::default();
    loop {
        match rest.chars().next() {
            Some('-') => spec.left = true,
            Some('+') => spec.plus = true,
            Some(' ') => spec.space = true,
            Some('0') => spec.zero = true,
            Some('#') => spec.sharp = true,
            _ => break,
        }
        *rest = &rest[1..];
    }
    let mut number = |rest: &mut &str| {
        if let Some(after) = rest.strip_prefix('*') {
            *rest = after;
            *used += 1;
            return match values.get(*used - 1) {
                Some(Val::Int(number)) => usize::try_from(*number).ok().map(|number| number.min(MAX_WIDTH)),
                _ => None,
            };
        }
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        *rest = after;
        (!digits.is_empty()).then(|| digits.parse().unwrap_or(MAX_WIDTH).min(MAX_WIDTH))
    };
    spec.width = number(rest);
    if let Some(after) = rest.strip_prefix('.') {
        *rest = after;
        spec.precision = Some(number(rest).unwrap_or(0));
    }
    spec
}

fn pad(spec: &Spec, text: &str) -> String {
    let missing = spec.width.unwrap_or(0).saturating_sub(text.chars().count());
    if missing == 0 {
        return text.to_owned();
    }
    if spec.left {
        return format!("{text}{}", " ".repeat(missing));
    }
    if spec.zero && !text.starts_with("%!") {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    format!("{}{text}", " ".repeat(missing))
}

fn one(spec: &Spec, verb: char, value: &Val) -> String {
    let signed = |text: String| match () {
        () if text.starts_with('-') => text,
        () if spec.plus => format!("+{text}"),
        () if spec.space => format!(" {text}"),
        () => text,
    };
    match (verb, value) {
        ('T', _) => value.type_name().to_owned(),
        ('v' | 's', Val::List(items)) => {
            format!("[{}]", items.iter().map(|item| one(spec, verb, item)).collect::<Vec<_>>().join(" "))
        }
        ('v' | 's', Val::Map(members)) => {
            let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}:{}", one(spec, verb, value))).collect();
            format!("map[{}]", members.join(" "))
        }
        ('v', Val::Text(text)) if spec.sharp => quoted(text),
        ('v' | 's', Val::Text(text)) => text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect(),
        ('q', Val::Text(text)) => quoted(text),
        ('x' | 'X', Val::Text(text)) => {
            let text: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            if verb == 'X' { text.to_uppercase() } else { text }
        }
        ('v' | 't', Val::Bool(value)) => value.to_string(),
        ('v' | 'd', Val::Int(number)) => signed(number.to_string()),
        ('x' | 'X' | 'o' | 'b', Val::Int(number)) => {
            let (size, sign) = (number.unsigned_abs(), if *number < 0 { "-" } else { "" });
            let (prefix, digits) = match verb {
                'x' => ("0x", format!("{size:x}")),
                'X' => ("0X", format!("{size:X}")),
                'o' => ("0", format!("{size:o}")),
                _ => ("0b", format!("{size:b}")),
            };
            signed(format!("{sign}{}{digits}", if spec.sharp { prefix } else { "" }))
        }
        ('c', Val::Int(number)) => u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string(),
        ('q', Val::Int(number)) => {
            format!("'{}'", u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'))
        }
        ('v' | 'g' | 'G', Val::Float(number)) => signed(shortest(*number, spec.precision)),
        ('f' | 'F', Val::Float(number)) => signed(format!("{number:.*}", spec.precision.unwrap_or(6))),
        ('e' | 'E', Val::Float(number)) => {
            let text = exponent(&format!("{number:.*e}", spec.precision.unwrap_or(6)));
            signed(if verb == 'E' { text.to_uppercase() } else { text })
        }
        (_, value) if value.is_nil() => match verb {
            'v' => "<nil>".to_owned(),
            _ => format!("%!{verb}(<nil>)"),
        },
        (_, value) => format!("%!{verb}({}={})", value.type_name(), sprint(value)),
    }
}

/// `%g`: a float as short as it can be told from others, or with so many digits; with an exponent if it is below 0.0001 or has more
/// digits before the point than asked for (6 if none are).
fn shortest(number: f64, precision: Option<usize>) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .to_owned();
    }
    let scientific = match precision {
        Some(digits) => format!("{number:.*e}", digits.max(1) - 1),
        None => format!("{number:e}"),
    };
    let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let bound = precision.map_or(SHORT, |digits| i32::try_from(digits.max(1)).unwrap_or(i32::MAX));
    if power < -4 || power >= bound {
        return exponent(&scientific);
    }
    match precision {
        None => number.to_string(),
        Some(_) => {
            let after = usize::try_from(bound - 1 - power).unwrap_or(0);
            let text = format!("{number:.after$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
    }
}

/// `1e6` as Go writes it, with a sign and two digits: `1e+06`.
fn exponent(text: &str) -> String {
    let Some((number, power)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = match power.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', power),
    };
    format!("{number}e{sign}{digits:0>2}")
}

/// A text in Go's double quotes.
pub fn quoted(text: &str) -> String {
    api::quote::double(text, |c| match c {
        '\u{7}' => Some("\\a".to_owned()),
        '\u{8}' => Some("\\b".to_owned()),
        '\u{b}' => Some("\\v".to_owned()),
        '\u{c}' => Some("\\f".to_owned()),
        c if c.is_ascii_control() => Some(format!("\\x{:02x}", u32::from(c))),
        c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => Some(format!("\\u{:04x}", u32::from(c))),
        _ => None,
    })
}
