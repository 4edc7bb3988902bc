//! How a client says who it is (RFC 6749 §2.3.1).

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skep_api::secret::Secret;

use super::form::{Form, decode};
use crate::error::OAuthError;

/// What a client sent to authenticate.
pub(super) struct Credentials {
    pub(super) client_id: String,
    pub(super) client_secret: Secret,
}

/// Finds the credentials in the header (client_secret_basic) or in the form (client_secret_post).
/// Both at once are refused, as is a client_id in the form that differs from that of the header.
pub(super) fn find(headers: &HeaderMap, form: &Form) -> Result<Credentials, OAuthError> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    match (fields.next(), fields.next()) {
        (None, _) => from_form(form).ok_or(OAuthError::InvalidClient),
        (Some(_), Some(_)) => {
            Err(OAuthError::InvalidRequest { problem: "there are two Authorization headers" })
        }
        (Some(value), None) => {
            if form.get("client_secret").is_some() {
                let problem = "the client authenticates twice; use the Authorization header or the form";
                return Err(OAuthError::InvalidRequest { problem });
            }
            let credentials = from_basic(value.as_bytes()).ok_or(OAuthError::InvalidClient)?;
            match form.get("client_id") {
                Some(id) if id != credentials.client_id => {
                    let problem = "client_id differs from the one in the Authorization header";
                    Err(OAuthError::InvalidRequest { problem })
                }
                _ => Ok(credentials),
            }
        }
    }
}

fn from_form(form: &Form) -> Option<Credentials> {
    Some(Credentials {
        client_id: form.get("client_id")?.to_owned(),
        client_secret: Secret::new(form.get("client_secret")?),
    })
}

/// `Basic` and the base64 of id, colon and secret, where id and secret are form-encoded first.
fn from_basic(value: &[u8]) -> Option<Credentials> {
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let pair = STANDARD.decode(encoded.trim_ascii()).ok()?;
    let mut halves = pair.splitn(2, |b| *b == b':');
    let client_id = decode(halves.next()?).ok()?;
    let client_secret = Secret::new(decode(halves.next()?).ok()?);
    (!client_id.is_empty() && !client_secret.is_empty()).then_some(Credentials { client_id, client_secret })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn basic(text: &str) -> Option<(String, String)> {
        let value = format!("Basic {}", STANDARD.encode(text));
        from_basic(value.as_bytes()).map(|c| (c.client_id.clone(), c.client_secret.expose().to_owned()))
    }

    #[test]
    fn id_and_secret_are_form_decoded() {
        let both = |id: &str, secret: &str| Some((id.to_owned(), secret.to_owned()));
        assert_eq!(basic("ci:s3cret"), both("ci", "s3cret"));
        assert_eq!(basic("a%3Ab:x%2By+z"), both("a:b", "x+y z"));
        assert_eq!(basic("ci:a:b"), both("ci", "a:b"));
        for bad in ["ci", ":secret", "ci:", "", "ci:%zz", "ci:%ff"] {
            assert_eq!(basic(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_scheme_has_no_case_and_anything_else_is_refused() {
        assert!(from_basic(b"basic Y2k6czNjcmV0").is_some());
        assert!(from_basic(b"BASIC  Y2k6czNjcmV0 ").is_some());
        for bad in [
            &b"Bearer Y2k6czNjcmV0"[..],
            b"BasicY2k6czNjcmV0",
            b"Basic",
            b"Basic !!",
            b"",
            b"Basic Y2k6czNjcmV0 x",
        ] {
            assert!(from_basic(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }

    fn encode(text: &str) -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = from_basic(&value);
        }

        #[test]
        fn any_id_and_secret_come_through(id in "\\PC{1,20}", secret in "\\PC{1,20}") {
            prop_assert_eq!(basic(&format!("{}:{}", encode(&id), encode(&secret))), Some((id, secret)));
        }
    }
}
