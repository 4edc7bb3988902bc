//! Form parameters, strictly (RFC 6749 §3.2 and appendix B).

use std::collections::BTreeMap;

/// The parameters of a request. A parameter with an empty value counts as absent.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Form {
    parameters: BTreeMap<String, Vec<String>>,
}

/// Why a body is no form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormError {
    /// A percent sign without two hexadecimal digits.
    #[error("the form has a broken percent encoding")]
    Percent,
    /// Bytes that are no UTF-8.
    #[error("the form is not UTF-8")]
    Utf8,
    /// A parameter came twice.
    #[error("a parameter is there twice")]
    Duplicate,
}

/// Parameters that may come several times (RFC 8707 §2, RFC 8693 §2.1).
const REPEATABLE: [&str; 2] = ["resource", "audience"];

impl Form {
    /// Parses a body of the type application/x-www-form-urlencoded.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, FormError> {
        let mut form = Self::default();
        for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |b| *b == b'=');
            let name = decode(halves.next().unwrap_or_default())?;
            let value = decode(halves.next().unwrap_or_default())?;
            let values = form.parameters.entry(name).or_default();
            values.push(value);
        }
        for (name, values) in &mut form.parameters {
            if values.len() > 1 && !REPEATABLE.contains(&name.as_str()) {
                return Err(FormError::Duplicate);
            }
            values.retain(|value| !value.is_empty());
        }
        Ok(form)
    }

    /// The value of a parameter that comes at most once.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().map(String::as_str)
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.parameters.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Undoes the form encoding of one name or value: `+` is a space, `%XX` a byte of UTF-8.
pub(crate) fn decode(encoded: &[u8]) -> Result<String, FormError> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = rest.next().and_then(hex).ok_or(FormError::Percent)?;
                let low = rest.next().and_then(hex).ok_or(FormError::Percent)?;
                high * 16 + low
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).map_err(|_| FormError::Utf8)
}

fn hex(digit: &u8) -> Option<u8> {
    char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(body: &str, name: &str) -> Result<Vec<String>, FormError> {
        Form::parse(body.as_bytes()).map(|form| form.all(name).to_vec())
    }

    #[test]
    fn parameters_are_decoded() {
        let table: [(&str, &[&str]); 10] = [
            ("a=1", &["1"]),
            ("a=1&&b=2&", &["1"]),
            ("a=x+y%2Bz", &["x y+z"]),
            ("a=%C3%a4", &["ä"]),
            ("a=b=c", &["b=c"]),
            ("%61=1", &["1"]),
            ("a", &[]),
            ("a=", &[]),
            ("A=1", &[]),
            ("", &[]),
        ];
        for (body, expected) in table {
            assert_eq!(values(body, "a").unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn broken_forms_are_refused() {
        let table: [(&[u8], FormError); 8] = [
            (b"a=%", FormError::Percent),
            (b"a=%4", FormError::Percent),
            (b"a=%zz", FormError::Percent),
            (b"a=%+1", FormError::Percent),
            (b"a=\xff", FormError::Utf8),
            (b"a=%ff", FormError::Utf8),
            (b"a=1&a=1", FormError::Duplicate),
            (b"a=&%61=1", FormError::Duplicate),
        ];
        for (body, expected) in table {
            assert!(Form::parse(body).is_err_and(|e| e == expected), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn only_resource_and_audience_repeat() {
        assert_eq!(values("resource=a&resource=b", "resource").unwrap(), ["a", "b"]);
        assert_eq!(values("scope=a&scope=b", "scope"), Err(FormError::Duplicate));
    }

    fn encode(text: &str) -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Form::parse(&body);
        }

        #[test]
        fn what_was_encoded_is_decoded(name in "\\PC{1,20}", value in "\\PC{1,40}") {
            let body = format!("{}={}", encode(&name), encode(&value));
            let form = Form::parse(body.as_bytes()).unwrap();
            prop_assert_eq!(form.get(&name), Some(value.as_str()));
        }
    }
}
