//! Kubernetes quantities (`500m`, `1Gi`), which the server writes in a form of its own.

use serde_json::Value;

/// True when two quantities are the same amount. Text that is no quantity is compared as text.
pub(super) fn same_quantity(one: &Value, other: &Value) -> bool {
    one == other || matches!((amount(one), amount(other)), (Some(one), Some(other)) if one == other)
}

/// The amount that a quantity stands for, in billionths; none for what is no quantity.
pub(crate) fn amount(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => parse(text),
        Value::Number(number) => parse(&number.to_string()),
        _ => None,
    }
}

/// The amount in billionths, the smallest there are. More exact ones are rounded up, as the server does.
fn parse(text: &str) -> Option<i128> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (binary, exponent) = suffix_of(suffix)?;
    let mut amount = digits.checked_mul(1_i128.checked_shl(binary)?)?;
    let places = i32::try_from(fraction.len()).ok()?;
    let exponent = exponent.checked_add(9)?.checked_sub(places)?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    if exponent >= 0 {
        amount = amount.checked_mul(power)?;
    } else {
        let rest = amount % power;
        amount = amount / power + i128::from(rest != 0);
    }
    Some(if negative { -amount } else { amount })
}

/// A suffix as powers of two and of ten.
fn suffix_of(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_compared_however_they_are_written() {
        for (one, other, same) in [
            (json!("0.5"), json!("500m"), true),
            (json!(1), json!("1"), true),
            (json!(0.1), json!("100m"), true),
            (json!("1024Mi"), json!("1Gi"), true),
            (json!("1e3"), json!("1k"), true),
            (json!("1E3"), json!("1000"), true),
            (json!("1E"), json!("1000000000000000000"), true),
            (json!("1.5Gi"), json!("1536Mi"), true),
            (json!("-1"), json!("-1000m"), true),
            (json!("+1"), json!("1"), true),
            (json!(".5"), json!("500m"), true),
            (json!("0.0000000001"), json!("1n"), true),
            (json!("8Ei"), json!("8192Pi"), true),
            (json!("0"), json!("0m"), true),
            (json!("1G"), json!("1Gi"), false),
            (json!("100m"), json!("100M"), false),
            (json!("1"), json!("-1"), false),
            (json!("what"), json!("what"), true),
            (json!("what"), json!("ever"), false),
            (json!(""), json!("0"), false),
            (json!("."), json!("0"), false),
            (json!("1.2.3"), json!("1.23"), false),
            (json!("1e999999999999"), json!("1"), false),
            (json!("99999999999999999999999999999999999999999"), json!("1"), false),
            (json!(null), json!(0), false),
        ] {
            assert_eq!(same_quantity(&one, &other), same, "{one} {other}");
            assert_eq!(same_quantity(&other, &one), same, "{other} {one}");
        }
    }
}
