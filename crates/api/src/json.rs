//! Strict JSON: what two parsers could read in two ways is refused before anybody reads it.
//!
//! RFC 8259 leaves duplicate names, depth and lone surrogates to the implementation. A policy that was
//! judged on one reading and a backend that acts on another is a hole, so there is only one reading.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Why a text is not strict JSON.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JsonFault {
    #[error("the text begins with a byte order mark; remove it")]
    ByteOrderMark,
    #[error("the text is not UTF-8 (byte {offset})")]
    NotUtf8 {
        /// Bytes before the first wrong one.
        offset: usize,
    },
    #[error("{message}")]
    Syntax {
        /// Cause with line and column.
        message: String,
    },
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// Levels that are allowed.
        limit: usize,
    },
}

/// Checks that `bytes` are one JSON value in UTF-8 without a byte order mark, without trailing data,
/// without two equal names in one object, without NUL in a name, without lone surrogates, and nested
/// at most `depth` levels. Returns the text.
///
/// # Errors
/// The first fault found.
pub fn check(bytes: &[u8], depth: usize) -> Result<&str, JsonFault> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(JsonFault::ByteOrderMark);
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| JsonFault::NotUtf8 { offset: error.valid_up_to() })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut too_deep = false;
    let walked = Walk { left: depth, too_deep: &mut too_deep }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    match walked {
        Ok(()) => Ok(text),
        Err(_) if too_deep => Err(JsonFault::TooDeep { limit: depth }),
        Err(error) => Err(JsonFault::Syntax { message: error.to_string() }),
    }
}

/// True when `name` is not `known` but a reader that ignores case would take it for that: ASCII case,
/// and the two letters that fold to ASCII ones (U+017F to s, U+212A to k).
pub fn folds_to(name: &str, known: &str) -> bool {
    name != known && name.chars().map(fold).eq(known.chars().map(fold))
}

fn fold(character: char) -> char {
    match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

struct Walk<'a> {
    left: usize,
    too_deep: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Walk<'_> {
    fn deeper<E: de::Error>(&mut self) -> Result<Walk<'_>, E> {
        match self.left.checked_sub(1) {
            Some(left) => Ok(Walk { left, too_deep: self.too_deep }),
            None => {
                *self.too_deep = true;
                Err(E::custom("nested too deeply"))
            }
        }
    }
}

/// Names of one object; most have few.
#[derive(Default)]
struct Names {
    few: Vec<String>,
    many: HashSet<String>,
}

impl Names {
    fn insert(&mut self, name: String) -> bool {
        if self.many.is_empty() && self.few.len() < 16 {
            if self.few.contains(&name) {
                return false;
            }
            self.few.push(name);
            return true;
        }
        self.many.extend(self.few.drain(..));
        self.many.insert(name)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut inner = self.deeper::<A::Error>()?;
        while items.next_element_seed(Walk { left: inner.left, too_deep: inner.too_deep })?.is_some() {
            inner = Walk { left: inner.left, too_deep: inner.too_deep };
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let inner = self.deeper::<A::Error>()?;
        let mut names = Names::default();
        while let Some(name) = members.next_key::<String>()? {
            if name.contains('\0') {
                return Err(de::Error::custom("a name contains NUL"));
            }
            let shown: String = name.chars().take(64).collect();
            if !names.insert(name) {
                return Err(de::Error::custom(format_args!("duplicate name {shown:?}")));
            }
            members.next_value_seed(Walk { left: inner.left, too_deep: inner.too_deep })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_json_is_read_in_one_way_only() {
        for good in [
            r#"{"a":1,"A":2}"#,
            r#"[1.50,-0,1e40,123456789012345678901234567890]"#,
            r#""\ud83d\ude00""#,
            "null",
            r#"{"a":{"b":1},"c":{"b":2}}"#,
        ] {
            assert_eq!(check(good.as_bytes(), 64), Ok(good));
        }
        for (bad, expected) in [
            (r#"{"a":1,"a":2}"#, "duplicate name \"a\""),
            (r#"{"a":1,"\u0061":2}"#, "duplicate name \"a\""),
            (r#"[{"x":{"a":1,"a":2}}]"#, "duplicate name \"a\""),
            (r#"{"a\u0000":1}"#, "NUL"),
            (r#"{"a":1} x"#, "trailing characters"),
            (r#"{"a":1}{"a":1}"#, "trailing characters"),
            (r#""\ud83d""#, "hex escape"),
            (r#""\ud83dx\ude00""#, "hex escape"),
            ("1e400", "out of range"),
            (r#"{"a":01}"#, "line 1"),
            (r#"{a:1}"#, "line 1"),
            ("", "EOF"),
        ] {
            let fault = check(bad.as_bytes(), 64).unwrap_err().to_string();
            assert!(fault.contains(expected), "{bad}: {fault}");
        }
        assert_eq!(check(b"\xef\xbb\xbf{}", 64), Err(JsonFault::ByteOrderMark));
        assert_eq!(check(b"\"\xff\"", 64), Err(JsonFault::NotUtf8 { offset: 1 }));
    }

    #[test]
    fn twenty_names_are_all_compared() {
        let mut text = String::from("{");
        for number in 0..20 {
            text.push_str(&format!("\"n{number}\":0,"));
        }
        let duplicate = format!("{text}\"n3\":1}}");
        assert!(check(duplicate.as_bytes(), 64).is_err());
        let late = format!("{text}\"n19\":1}}");
        assert!(check(late.as_bytes(), 64).is_err());
        let fine = format!("{text}\"m\":1}}");
        assert!(check(fine.as_bytes(), 64).is_ok());
    }

    #[test]
    fn depth_is_counted_from_the_outermost_value() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(check(nested(64).as_bytes(), 64).is_ok());
        assert_eq!(check(nested(65).as_bytes(), 64), Err(JsonFault::TooDeep { limit: 64 }));
        let objects = "{\"a\":".repeat(65) + "1" + &"}".repeat(65);
        assert_eq!(check(objects.as_bytes(), 64), Err(JsonFault::TooDeep { limit: 64 }));
    }

    #[test]
    fn names_fold_as_lenient_readers_fold_them() {
        assert!(folds_to("Method", "method"));
        assert!(folds_to("param\u{17f}", "params"));
        assert!(folds_to("to\u{212a}en", "token"));
        assert!(!folds_to("method", "method"));
        assert!(!folds_to("methods", "method"));
    }
}
