//! What quantities are, read, written and reckoned with.

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
    for kept in
        ["1", "+1", "-1", "100m", "1E3", "1e3", "1.500", "007", "1025Ki", "3Gi", "12E6", "500u", "999999999999999999", "1500u"]
    {
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
