//! How much a review holds, found out before any of it is built.

use thiserror::Error;

/// Values in one review: the object, the old one, and what is said about the request. An object of the size that
/// an API server stores has far fewer, unless it is made to be large.
pub const MAX_VALUES: usize = 100_000;
/// Deepest nesting: that of an object as it is read from a file, and the review around it.
pub const MAX_DEPTH: usize = 64 + 4;

/// Why a review is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TooMuch {
    #[error("a review has at most {MAX_VALUES} values")]
    Values,
    #[error("a review is nested at most {MAX_DEPTH} levels deep")]
    Depth,
}

/// The number of values that a JSON text stands for; of a text that is no JSON, one that a parser does not exceed
/// before it finds that out.
///
/// # Errors
/// When they are too many, or too deep.
pub fn measure(text: &[u8]) -> Result<usize, TooMuch> {
    let (mut values, mut depth) = (1_usize, 0_usize);
    let (mut inside, mut escaped) = (false, false);
    for byte in text {
        if inside {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => inside = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => inside = true,
            // The first of a list, and each after a comma.
            b'[' | b'{' => {
                depth += 1;
                values += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(TooMuch::Depth);
        }
        if values > MAX_VALUES {
            return Err(TooMuch::Values);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(list) => list.iter().map(count).sum(),
            Value::Object(map) => map.values().map(count).sum(),
            _ => 0,
        }
    }

    #[test]
    fn there_are_never_more_values_than_were_counted() {
        for value in [
            json!(null),
            json!("[{,"),
            json!("a \"quoted\" [,] \\"),
            json!([]),
            json!([1, [2, 3], {"a,": "}", "b": []}]),
            json!({"x": vec![0; 500], "y": {"z": ["\\", ","]}}),
        ] {
            let counted = measure(value.to_string().as_bytes()).unwrap();
            let there = count(&value);
            assert!(counted >= there && counted <= 2 * there, "{counted} {there} {value}");
        }
        assert_eq!(measure(&[b'['; MAX_DEPTH]), Ok(MAX_DEPTH + 1));
        assert_eq!(measure(&[b'['; MAX_DEPTH + 1]), Err(TooMuch::Depth));
        assert_eq!(measure("[]".repeat(MAX_DEPTH * 2).as_bytes()), Ok(MAX_DEPTH * 2 + 1));
        assert_eq!(measure(&vec![b','; MAX_VALUES]), Err(TooMuch::Values));
        assert_eq!(measure(format!("\"{}\"", "[,".repeat(MAX_VALUES)).as_bytes()), Ok(1));
    }
}
