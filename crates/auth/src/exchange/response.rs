//! What the token endpoint says (RFC 6749 §5, RFC 8693 §2.2), strictly.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::ExchangerMode;
use crate::client::{FetchError, Reply};

/// When to try again, where the endpoint does not say.
pub(super) const RETRY: Duration = Duration::from_secs(5);

const SHORTEST_RETRY: u64 = 1;
const LONGEST_RETRY: u64 = 300;

/// Deepest nesting of an answer.
const MAX_DEPTH: usize = 16;

/// Longest token, in bytes. No server takes a header that is longer.
const MAX_TOKEN: usize = 64 * 1024;

/// Longest list of scopes, in bytes: it is kept with the token and stands in every audit record.
const MAX_SCOPE: usize = 8 * 1024;

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A usable answer.
pub(super) struct Granted {
    /// `Bearer TOKEN`, marked as sensitive.
    pub(super) authorization: HeaderValue,
    /// Seconds; zero when it is over already.
    pub(super) expires_in: Option<u64>,
    /// The scopes that were granted, where the endpoint says.
    pub(super) scopes: Option<Vec<String>>,
}

/// Why there is no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The subject's token is not accepted.
    Subject,
    /// The client's credential is not accepted.
    Client,
    /// The actor's token has expired; nothing was asked.
    ActorExpired,
    /// Something else that was asked for is not granted.
    Refused(&'static str),
    /// The answer is not what RFC 8693 says.
    Response(&'static str),
    /// Nobody answers, or the endpoint has a fault.
    Unavailable(Duration),
}

impl Granted {
    /// The same, unless it is the very token that was to be exchanged: the backend never gets that.
    ///
    /// # Errors
    /// When it is.
    pub(super) fn other_than(self, subject: &str) -> Result<Self, Failure> {
        match self.authorization.as_bytes().strip_prefix(b"Bearer ") {
            Some(token) if token == subject.as_bytes() => {
                Err(Failure::Response("access_token is the subject's token again"))
            }
            _ => Ok(self),
        }
    }
}

/// Judges an answer.
pub(super) fn judge(mode: ExchangerMode, reply: &Reply, now: Timestamp) -> Result<Granted, Failure> {
    match reply.status {
        200 => granted(mode, &reply.body),
        408 | 429 | 500.. => Err(Failure::Unavailable(retry_after(&reply.headers, now))),
        400..=499 => Err(match (error_code(&reply.body), reply.status) {
            (Some(code), _) => refusal(mode, &code, &reply.headers, now),
            // 401 has one meaning at a token endpoint (RFC 6749 §5.2), with or without a body.
            (None, 401) => Failure::Client,
            (None, _) => Failure::Response("it refuses without an OAuth error"),
        }),
        300..=399 => Err(Failure::Response("it redirects, which is not followed")),
        _ => Err(Failure::Response("its status is not 200")),
    }
}

/// Judges a call that had no answer.
pub(super) fn unanswered(error: &FetchError) -> Failure {
    match error {
        FetchError::TooLarge { .. } => Failure::Response("it is too large"),
        _ => Failure::Unavailable(RETRY),
    }
}

fn granted(mode: ExchangerMode, body: &[u8]) -> Result<Granted, Failure> {
    let fields = object(body).ok_or(Failure::Response("it is no JSON object"))?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let token = text("access_token");
    if token.is_empty() {
        return Err(Failure::Response("access_token is missing"));
    }
    if token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::Response("access_token does not fit into a header"));
    }
    let kind = text("token_type");
    if kind.is_empty() {
        return Err(Failure::Response("token_type is missing"));
    }
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err(Failure::Response("token_type is not Bearer"));
    }
    if mode == ExchangerMode::Caller {
        match text("issued_token_type") {
            ACCESS_TOKEN | JWT => {}
            "" => return Err(Failure::Response("issued_token_type is missing")),
            _ => return Err(Failure::Response("issued_token_type is neither access_token nor jwt")),
        }
    }
    let scopes = match fields.get("scope") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.len() > MAX_SCOPE => {
            return Err(Failure::Response("scope is too long"));
        }
        Some(Value::String(text)) => Some(text.split_ascii_whitespace().map(str::to_owned).collect()),
        Some(_) => return Err(Failure::Response("scope is not a string")),
    };
    let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Failure::Response("access_token does not fit into a header"))?;
    authorization.set_sensitive(true);
    Ok(Granted { authorization, expires_in: expires_in(fields.get("expires_in"))?, scopes })
}

/// A number, also as text; less than nothing is nothing.
fn expires_in(value: Option<&Value>) -> Result<Option<u64>, Failure> {
    const FAILURE: Failure = Failure::Response("expires_in is no number");
    let number = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.clone(),
        Some(Value::String(text)) => text.trim().parse().map_err(|_| FAILURE)?,
        Some(_) => return Err(FAILURE),
    };
    if let Some(seconds) = number.as_u64() {
        return Ok(Some(seconds));
    }
    let seconds = number.as_f64().filter(|seconds| seconds.is_finite()).ok_or(FAILURE)?;
    // A float is clamped to what fits, so a negative one is 0.
    Ok(Some(seconds as u64))
}

/// `error` of a refusal (RFC 6749 §5.2).
fn error_code(body: &[u8]) -> Option<String> {
    let fields = object(body)?;
    fields.get("error").and_then(Value::as_str).filter(|code| !code.is_empty()).map(str::to_owned)
}

fn object(body: &[u8]) -> Option<Map<String, Value>> {
    let text = skep_api::json::check(body, MAX_DEPTH).ok()?;
    serde_json::from_str(text).ok()
}

fn refusal(mode: ExchangerMode, code: &str, headers: &HeaderMap, now: Timestamp) -> Failure {
    match (mode, code) {
        // RFC 8693 §2.2.2 has invalid_request for a bad subject token, others say invalid_grant, and some
        // take the code of RFC 6750 §3.1.
        (ExchangerMode::Caller, "invalid_grant" | "invalid_request" | "invalid_token") => Failure::Subject,
        (_, "invalid_client") => Failure::Client,
        (_, "temporarily_unavailable" | "server_error" | "slow_down") => {
            Failure::Unavailable(retry_after(headers, now))
        }
        _ => Failure::Refused(known(code)),
    }
}

/// The codes by which a refusal is known. What else an endpoint says goes nowhere.
fn known(code: &str) -> &'static str {
    const CODES: [&str; 12] = [
        "invalid_request",
        "invalid_grant",
        "invalid_token",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_token_type",
        "invalid_target",
        "invalid_scope",
        "access_denied",
        "consent_required",
        "interaction_required",
        "login_required",
    ];
    CODES.into_iter().find(|known| *known == code).unwrap_or("other")
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds or a date, within reason.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Duration {
    let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = text.and_then(|text| {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(text.parse().unwrap_or(LONGEST_RETRY));
        }
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
        Some(u64::try_from(date.as_second().saturating_sub(now.as_second())).unwrap_or(0))
    });
    seconds.map_or(RETRY, |seconds| Duration::from_secs(seconds.clamp(SHORTEST_RETRY, LONGEST_RETRY)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const CALLER: ExchangerMode = ExchangerMode::Caller;
    const SERVICE: ExchangerMode = ExchangerMode::Service;

    fn reply(status: u16, body: &str, headers: &[(&str, &str)]) -> Reply {
        let headers = headers.iter().map(|(name, value)| {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        Reply { status, headers: headers.collect(), body: body.as_bytes().to_vec() }
    }

    fn judged(mode: ExchangerMode, status: u16, body: &str) -> Result<Granted, Failure> {
        judge(mode, &reply(status, body, &[]), Timestamp::UNIX_EPOCH)
    }

    fn changed(name: &str, value: Value) -> String {
        let mut body = json!({
            "access_token": "t0ken.of-some~kind/+=",
            "token_type": "Bearer",
            "issued_token_type": ACCESS_TOKEN,
            "expires_in": 300,
        });
        match value {
            Value::Null => body.as_object_mut().unwrap().remove(name),
            value => body.as_object_mut().unwrap().insert(name.to_owned(), value),
        };
        body.to_string()
    }

    #[test]
    fn a_token_is_made_ready_for_use() {
        let body = changed("scope", json!("a  b"));
        let granted = judged(CALLER, 200, &body).ok().unwrap();
        assert_eq!(granted.authorization, "Bearer t0ken.of-some~kind/+=");
        assert!(granted.authorization.is_sensitive());
        assert_eq!(granted.expires_in, Some(300));
        assert_eq!(granted.scopes.unwrap(), ["a", "b"]);
        for fine in [
            changed("token_type", json!("bearer")),
            changed("token_type", json!("BEARER")),
            changed("issued_token_type", json!(JWT)),
            changed("refresh_token", json!("ignored")),
            changed("unknown", json!({"a": [1]})),
        ] {
            assert!(judged(CALLER, 200, &fine).is_ok(), "{fine}");
        }
        let no_type = changed("issued_token_type", Value::Null);
        assert!(judged(SERVICE, 200, &no_type).is_ok(), "client_credentials has no issued_token_type");
    }

    #[test]
    fn an_answer_that_breaks_the_rules_is_not_usable() {
        let table = [
            ("", "it is no JSON object"),
            ("[]", "it is no JSON object"),
            ("\"token\"", "it is no JSON object"),
            ("access_token=a&token_type=bearer", "it is no JSON object"),
            ("{\"access_token\":\"a\",\"access_token\":\"b\"}", "it is no JSON object"),
            ("{}", "access_token is missing"),
        ];
        for (body, reason) in table {
            assert_eq!(judged(CALLER, 200, body).err(), Some(Failure::Response(reason)), "{body}");
        }
        let too_long = "a".repeat(MAX_TOKEN + 1);
        let table = [
            ("access_token", Value::Null, "access_token is missing"),
            ("access_token", json!(""), "access_token is missing"),
            ("access_token", json!(7), "access_token is missing"),
            ("access_token", json!("a b"), "access_token does not fit into a header"),
            ("access_token", json!("a\r\nX-Evil: 1"), "access_token does not fit into a header"),
            ("access_token", json!("ä"), "access_token does not fit into a header"),
            ("access_token", json!(too_long), "access_token does not fit into a header"),
            ("token_type", Value::Null, "token_type is missing"),
            ("token_type", json!(""), "token_type is missing"),
            ("token_type", json!("N_A"), "token_type is not Bearer"),
            ("token_type", json!("DPoP"), "token_type is not Bearer"),
            ("issued_token_type", Value::Null, "issued_token_type is missing"),
            ("issued_token_type", json!(""), "issued_token_type is missing"),
            (
                "issued_token_type",
                json!("urn:ietf:params:oauth:token-type:id_token"),
                "issued_token_type is neither access_token nor jwt",
            ),
            ("expires_in", json!("soon"), "expires_in is no number"),
            ("expires_in", json!(true), "expires_in is no number"),
            ("expires_in", json!([300]), "expires_in is no number"),
            ("scope", json!(["a"]), "scope is not a string"),
        ];
        for (name, value, reason) in table {
            let body = changed(name, value);
            assert_eq!(judged(CALLER, 200, &body).err(), Some(Failure::Response(reason)), "{body}");
        }
    }

    #[test]
    fn expires_in_is_a_number_however_it_is_written() {
        let table = [
            (Value::Null, None),
            (json!(300), Some(300)),
            (json!("300"), Some(300)),
            (json!(" 300 "), Some(300)),
            (json!(299.9), Some(299)),
            (json!("3e2"), Some(300)),
            (json!(0), Some(0)),
            (json!(-1), Some(0)),
            (json!("-5"), Some(0)),
            (json!(u64::MAX), Some(u64::MAX)),
            (json!(1e300), Some(u64::MAX)),
        ];
        for (value, expected) in table {
            let granted = judged(CALLER, 200, &changed("expires_in", value.clone())).ok().unwrap();
            assert_eq!(granted.expires_in, expected, "{value}");
        }
    }

    #[test]
    fn each_refusal_has_its_class() {
        use Failure::{Client, Refused, Response, Subject, Unavailable};
        let code = |code: &str| json!({"error": code, "error_description": "x"}).to_string();
        let redirect = Response("it redirects, which is not followed");
        let no_error = Response("it refuses without an OAuth error");
        let table = [
            (400, code("invalid_grant"), Subject, Refused("invalid_grant")),
            (400, code("invalid_request"), Subject, Refused("invalid_request")),
            (400, code("invalid_token"), Subject, Refused("invalid_token")),
            (401, code("invalid_grant"), Subject, Refused("invalid_grant")),
            (400, code("invalid_client"), Client, Client),
            (401, code("invalid_client"), Client, Client),
            (401, String::new(), Client, Client),
            (
                400,
                code("unauthorized_client"),
                Refused("unauthorized_client"),
                Refused("unauthorized_client"),
            ),
            (403, code("access_denied"), Refused("access_denied"), Refused("access_denied")),
            (
                400,
                code("unsupported_grant_type"),
                Refused("unsupported_grant_type"),
                Refused("unsupported_grant_type"),
            ),
            (400, code("invalid_target"), Refused("invalid_target"), Refused("invalid_target")),
            (400, code("invalid_scope"), Refused("invalid_scope"), Refused("invalid_scope")),
            (422, code("tok_secret"), Refused("other"), Refused("other")),
            (400, code("INVALID_GRANT"), Refused("other"), Refused("other")),
            (400, code("temporarily_unavailable"), Unavailable(RETRY), Unavailable(RETRY)),
            (400, String::new(), no_error, no_error),
            (400, "<html>".to_owned(), no_error, no_error),
            (403, "{\"message\":\"no\"}".to_owned(), no_error, no_error),
            (400, "{\"error\":{\"code\":1}}".to_owned(), no_error, no_error),
            (400, "{\"error\":\"invalid_grant\",\"error\":\"x\"}".to_owned(), no_error, no_error),
            (404, String::new(), no_error, no_error),
            (302, String::new(), redirect, redirect),
            (307, code("invalid_grant"), redirect, redirect),
            (
                201,
                changed("scope", Value::Null),
                Response("its status is not 200"),
                Response("its status is not 200"),
            ),
            (204, String::new(), Response("its status is not 200"), Response("its status is not 200")),
            (408, String::new(), Unavailable(RETRY), Unavailable(RETRY)),
            (429, code("invalid_grant"), Unavailable(RETRY), Unavailable(RETRY)),
            (500, code("invalid_grant"), Unavailable(RETRY), Unavailable(RETRY)),
            (503, String::new(), Unavailable(RETRY), Unavailable(RETRY)),
        ];
        for (status, body, caller, service) in table {
            assert_eq!(judged(CALLER, status, &body).err(), Some(caller), "{status} {body}");
            assert_eq!(judged(SERVICE, status, &body).err(), Some(service), "{status} {body}");
        }
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let table = [
            ("7", 7),
            ("0", 1),
            ("300", 300),
            ("301", 300),
            ("99999999999999999999999", 300),
            ("", 5),
            ("-1", 5),
            ("soon", 5),
            ("1.5", 5),
            ("Thu, 01 Jan 1970 00:00:40 GMT", 40),
            ("Thu, 01 Jan 1970 10:00:00 GMT", 300),
            ("Wed, 31 Dec 1969 23:59:59 GMT", 1),
        ];
        for (value, seconds) in table {
            for status in [429, 503] {
                let reply = reply(status, "", &[("retry-after", value)]);
                let failure = judge(CALLER, &reply, Timestamp::UNIX_EPOCH).err();
                assert_eq!(failure, Some(Failure::Unavailable(Duration::from_secs(seconds))), "{value}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(
            status in 100_u16..600,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let reply = Reply { status, headers: HeaderMap::new(), body };
            let _ = judge(CALLER, &reply, Timestamp::UNIX_EPOCH);
        }

        #[test]
        fn no_value_of_a_field_makes_the_parser_panic(
            name in prop_oneof![
                Just("access_token"), Just("token_type"), Just("issued_token_type"), Just("expires_in"),
                Just("scope"), Just("error"),
            ],
            text in "\\PC{0,40}",
            number in any::<f64>(),
            status in prop_oneof![Just(200_u16), Just(400), Just(401)],
        ) {
            for value in [json!(text), json!(number), json!({&text: number}), json!([text])] {
                let _ = judged(CALLER, status, &changed(name, value.clone()));
                let _ = judged(SERVICE, status, &changed(name, value));
            }
        }

        #[test]
        fn whatever_is_granted_can_stand_in_a_header(token in "\\PC{1,80}") {
            if let Ok(granted) = judged(CALLER, 200, &changed("access_token", json!(token))) {
                prop_assert_eq!(granted.authorization.to_str().unwrap(), format!("Bearer {token}"));
                prop_assert!(!token.contains(' '));
            }
        }
    }
}
