//! Quantities such as `500m` and `2Gi`.

use api::quantity::Quantity;

use super::{
    super::{Budget, Fault, value::Val},
    text,
};

type Answer<'a> = Result<Val<'a>, Fault>;

fn of(args: &[Val<'_>], i: usize) -> Result<Quantity, Fault> {
    match args.get(i) {
        Some(Val::Quantity(amount)) => Ok(*amount),
        Some(Val::Int(int)) => Ok(Quantity::from_value(*int)),
        _ => Err(Fault::Overload),
    }
}

/// An amount.
pub fn quantity<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Quantity::parse(text(args, 0)?).map(Val::Quantity).map_err(|e| Fault::other(e.to_string()))
}

/// True if the text is an amount.
pub fn is_quantity<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(Quantity::parse(text(args, 0)?).is_ok()))
}

/// -1, 0 or 1.
pub fn sign<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let amount = of(args, 0)?;
    Ok(Val::Int(if amount.is_zero() {
        0
    } else if amount.is_negative() {
        -1
    } else {
        1
    }))
}

/// True if it is a whole number.
pub fn is_integer<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(of(args, 0)?.is_whole()))
}

/// The whole number.
pub fn as_integer<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let amount = of(args, 0)?;
    if amount.is_whole() { Ok(Val::Int(amount.value())) } else { Err(Fault::other("cannot convert value to integer")) }
}

/// The number, as near as it gets.
pub fn as_float<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Double(of(args, 0)?.to_f64()))
}

/// Both together.
pub fn add<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Quantity(of(args, 0)? + of(args, 1)?))
}

/// What is left without the second.
pub fn sub<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Quantity(of(args, 0)? - of(args, 1)?))
}

/// True if it is more.
pub fn is_greater<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(of(args, 0)? > of(args, 1)?))
}

/// True if it is less.
pub fn is_less<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(of(args, 0)? < of(args, 1)?))
}

/// -1, 0 or 1 for less, as much or more.
pub fn compare_to<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Int(of(args, 0)?.cmp(&of(args, 1)?) as i64))
}
