//! How an endpoint that knows tokens is spoken to, and how its answers become claims.

use std::time::Duration;

use serde_json::{Map, Value, json};
use url::Url;

use super::IntrospectionError;

/// Google's endpoint.
const GOOGLE: &str = "https://oauth2.googleapis.com/tokeninfo";
/// Google's issuer.
const GOOGLE_ISSUER: &str = "https://accounts.google.com";
/// GitHub's issuer, and the audience of its tokens, which name none, as in ToolHive.
const GITHUB_ISSUER: &str = "https://github.com";
/// How long a token is taken to be good that never ends; it is asked about again long before.
const ENDLESS: i64 = 60 * 60;

type Claims = Map<String, Value>;

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Token introspection (RFC 7662).
    Rfc7662,
    /// Google's tokeninfo. It is given the token in the body: a URL ends up in logs.
    Google,
    /// GitHub's "check a token" of an OAuth app.
    GitHub,
}

impl Dialect {
    /// The dialect of an endpoint: that of Google's and of GitHub's own, else RFC 7662.
    pub fn of(url: &Url) -> Self {
        let is_github = || {
            let mut segments = url.path_segments()?;
            let app = segments.next()? == "applications" && !segments.next()?.is_empty();
            Some(app && segments.next()? == "token" && segments.next().is_none())
        };
        match (url.scheme(), url.host_str(), url.port()) {
            ("https", Some("oauth2.googleapis.com"), None) if url.as_str() == GOOGLE => Self::Google,
            ("https", Some("api.github.com"), None) if is_github() == Some(true) => Self::GitHub,
            _ => Self::Rfc7662,
        }
    }

    /// True when the issuer has no keys: none of its tokens are JWTs.
    pub fn is_keyless(self) -> bool {
        self == Self::GitHub
    }

    /// True when a status says that the token is bad, not that the call is.
    pub(super) fn refuses(self, status: u16) -> bool {
        match self {
            Self::Rfc7662 => false,
            Self::Google => status == 400,
            Self::GitHub => matches!(status, 404 | 422),
        }
    }

    /// The claims in an answer; `None` when the token is not active.
    pub(super) fn claims(
        self,
        answer: Claims,
        now: i64,
        ttl: Duration,
    ) -> Result<Option<Claims>, IntrospectionError> {
        match self {
            Self::Rfc7662 => introspected(answer),
            Self::Google => google(answer).map(Some),
            Self::GitHub => github(&answer, now, ttl).map(Some),
        }
    }
}

fn bad(reason: &'static str) -> IntrospectionError {
    IntrospectionError::Answer { reason }
}

/// RFC 7662 §2.2. Everything but `active` is a claim.
fn introspected(mut answer: Claims) -> Result<Option<Claims>, IntrospectionError> {
    match answer.remove("active") {
        Some(Value::Bool(true)) => Ok(Some(answer)),
        Some(Value::Bool(false)) => Ok(None),
        _ => Err(bad("it does not say whether the token is active")),
    }
}

/// Every value is text, also the numbers.
fn google(mut answer: Claims) -> Result<Claims, IntrospectionError> {
    let whole = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let expires = answer.get("exp").and_then(whole).ok_or(bad("it has no expiry"))?;
    answer.insert("exp".to_owned(), json!(expires));
    answer.remove("expires_in");
    if let Some(verified) = answer.get_mut("email_verified") {
        *verified = json!(*verified == true || *verified == "true");
    }
    answer.insert("iss".to_owned(), json!(GOOGLE_ISSUER));
    Ok(answer)
}

/// The answer has the token in it, so only what is known to be no secret is taken over.
fn github(answer: &Claims, now: i64, ttl: Duration) -> Result<Claims, IntrospectionError> {
    let user = answer.get("user").and_then(Value::as_object).ok_or(bad("it names no user"))?;
    let id = user.get("id").and_then(Value::as_u64).ok_or(bad("its user has no id"))?;
    let app = answer.get("app").and_then(Value::as_object);
    let client = app.and_then(|app| app.get("client_id")).and_then(Value::as_str);
    let expires = match answer.get("expires_at").and_then(Value::as_str) {
        Some(text) => {
            let time: jiff::Timestamp = text.parse().map_err(|_| bad("its expiry is no time"))?;
            time.as_second()
        }
        None => now.saturating_add(ENDLESS.max(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))),
    };
    let scopes = answer.get("scopes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let scopes: Vec<&str> = scopes.iter().filter_map(Value::as_str).collect();
    let audiences: Vec<&str> = std::iter::once(GITHUB_ISSUER).chain(client).collect();
    let claims = json!({
        "iss": GITHUB_ISSUER, "aud": audiences, "sub": id.to_string(), "exp": expires,
        "scope": scopes.join(" "),
    });
    let mut claims = match claims {
        Value::Object(claims) => claims,
        _ => Claims::new(),
    };
    let mut add = |name: &str, value: Option<&Value>| {
        if let Some(value @ (Value::String(_) | Value::Bool(_))) = value {
            claims.insert(name.to_owned(), value.clone());
        }
    };
    add("azp", app.and_then(|app| app.get("client_id")));
    add("app_name", app.and_then(|app| app.get("name")));
    add("login", user.get("login"));
    add("preferred_username", user.get("login"));
    add("name", user.get("name"));
    add("email", user.get("email"));
    add("user_type", user.get("type"));
    add("site_admin", user.get("site_admin"));
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_urls_of_google_and_github_are_spoken_to_in_their_way() {
        for (url, dialect) in [
            ("https://oauth2.googleapis.com/tokeninfo", Dialect::Google),
            ("https://oauth2.googleapis.com/tokeninfo?x=1", Dialect::Rfc7662),
            ("http://oauth2.googleapis.com/tokeninfo", Dialect::Rfc7662),
            ("https://oauth2.googleapis.com.evil.example/tokeninfo", Dialect::Rfc7662),
            ("https://api.github.com/applications/Iv1.abc/token", Dialect::GitHub),
            ("https://api.github.com/applications//token", Dialect::Rfc7662),
            ("https://api.github.com/applications/Iv1.abc/token/x", Dialect::Rfc7662),
            ("https://api.github.com/applications/Iv1.abc/grant", Dialect::Rfc7662),
            ("https://api.github.com:8443/applications/Iv1.abc/token", Dialect::Rfc7662),
            ("https://github.example/applications/Iv1.abc/token", Dialect::Rfc7662),
            ("https://idp.example/introspect", Dialect::Rfc7662),
        ] {
            assert_eq!(Dialect::of(&Url::parse(url).unwrap()), dialect, "{url}");
        }
    }

    #[test]
    fn an_answer_without_a_clear_word_is_none() {
        for answer in [json!({}), json!({"active": "true"}), json!({"active": 1}), json!({"active": null})] {
            assert!(introspected(answer.as_object().unwrap().clone()).is_err(), "{answer}");
        }
    }
}
