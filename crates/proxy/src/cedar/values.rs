//! JSON as Cedar values.

use cedar_policy::RestrictedExpression;
use serde_json::Value;

/// Deepest nesting of a claim or argument that policies see.
const MAX_DEPTH: usize = 10;

/// How JSON numbers look to policies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Numbers {
    /// A whole number is a Long, another one a decimal.
    #[default]
    Integers,
    /// Every number is a decimal, as in ToolHive.
    Decimals,
}

/// The Cedar value; `None` for what Cedar has no value for (null, too deep, numbers out of range):
/// a policy that asks for it then fails, and a failure denies.
pub(super) fn value(json: &Value, numbers: Numbers) -> Option<RestrictedExpression> {
    nested(json, numbers, MAX_DEPTH)
}

fn nested(json: &Value, numbers: Numbers, depth: usize) -> Option<RestrictedExpression> {
    match json {
        Value::Null => None,
        Value::Bool(flag) => Some(RestrictedExpression::new_bool(*flag)),
        Value::String(text) => Some(RestrictedExpression::new_string(text.clone())),
        Value::Number(number) => number_value(number, numbers),
        Value::Array(items) => {
            let depth = depth.checked_sub(1)?;
            let items: Option<Vec<_>> = items.iter().map(|item| nested(item, numbers, depth)).collect();
            Some(RestrictedExpression::new_set(items?))
        }
        Value::Object(members) => {
            let depth = depth.checked_sub(1)?;
            let fields = members
                .iter()
                .filter_map(|(name, member)| Some((name.clone(), nested(member, numbers, depth)?)));
            RestrictedExpression::new_record(fields).ok()
        }
    }
}

fn number_value(number: &serde_json::Number, numbers: Numbers) -> Option<RestrictedExpression> {
    if numbers == Numbers::Integers {
        if let Some(whole) = number.as_i64() {
            return Some(RestrictedExpression::new_long(whole));
        }
        if let Some(whole) = whole_float(number) {
            return Some(RestrictedExpression::new_long(whole));
        }
    }
    // Cedar's decimal has four digits after the point and 64 bits in all.
    let float = number.as_f64()?;
    (float.abs() < 922_337_203_685_477.0).then(|| RestrictedExpression::new_decimal(format!("{float:.4}")))
}

/// `2.0` is the same JSON number as `2` to most senders.
fn whole_float(number: &serde_json::Number) -> Option<i64> {
    let float = number.as_f64()?;
    let whole = number.as_u64().is_none() && float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked one line above")]
    whole.then_some(float as i64)
}
