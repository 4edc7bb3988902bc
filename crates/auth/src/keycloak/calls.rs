//! One call to Keycloak: its address, its credentials, and what a refusal means.

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Map, Value};
use skep_api::address::Reach;
use skep_api::secret::Secret;
use url::Url;

use super::error::said;
use super::{KeycloakError, KeycloakSettings};
use crate::client::{ClientConfig, FetchError, GuardedClient, Reply};

/// Largest answer. The list of a realm's client scopes has one for every registered server.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Deepest nesting of an answer.
const MAX_DEPTH: usize = 32;

/// What is asked for, as in "may not ...", and what helps when it is not allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) what: &'static str,
    pub(super) remedy: &'static str,
}

/// The way to one realm.
#[derive(Debug)]
pub(super) struct Calls {
    http: GuardedClient,
    base: Url,
    realm: String,
}

impl Calls {
    pub(super) fn new(settings: &KeycloakSettings) -> Result<Self, KeycloakError> {
        let mut config = ClientConfig::new(settings.egress.clone());
        config.reach = Reach { http: true, private: true };
        config.ca_pem.clone_from(&settings.ca_pem);
        config.timeout = settings.timeout;
        config.max_bytes = MAX_ANSWER;
        let http = GuardedClient::new(config).map_err(KeycloakError::Setup)?;
        http.permits(&settings.url).map_err(KeycloakError::Setup)?;
        Ok(Self { http, base: settings.url.clone(), realm: settings.realm.clone() })
    }

    /// The realm that clients are registered in.
    pub(super) fn realm(&self) -> &str {
        &self.realm
    }

    /// A URL below Keycloak's own, each segment percent-encoded.
    pub(super) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // An http URL always has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// A URL of the realm's admin REST API.
    pub(super) fn admin(&self, segments: &[&str]) -> Url {
        let start = ["admin", "realms", self.realm.as_str()];
        self.url(&start.iter().chain(segments).copied().collect::<Vec<_>>())
    }

    /// Sends a request with a bearer token, and a JSON body where there is one.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        bearer: &Secret,
        body: Option<&Value>,
        step: Step,
    ) -> Result<Reply, KeycloakError> {
        let mut headers = HeaderMap::new();
        let value = Secret::new(format!("Bearer {}", bearer.expose()));
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| KeycloakError::Credentials { what: "the token" })?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let body = body.map(|body| {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            body.to_string().into_bytes()
        });
        self.http.send(method, url, headers, body).await.map_err(|error| transport(error, step))
    }

    /// Posts a form, as token endpoints want it.
    pub(super) async fn form(
        &self,
        url: &Url,
        fields: &[(&str, &str)],
        step: Step,
    ) -> Result<Reply, KeycloakError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.http.post(url, headers, body.into_bytes()).await.map_err(|error| transport(error, step))
    }
}

fn transport(error: FetchError, step: Step) -> KeycloakError {
    match error {
        FetchError::Unreachable { ref source, .. } if source.is_timeout() => {
            KeycloakError::Timeout { step: step.what, source: error }
        }
        FetchError::Unreachable { .. } => KeycloakError::Unreachable(error),
        FetchError::TooLarge { .. } => {
            KeycloakError::Answer { step: step.what, reason: "it is larger than 16 MiB" }
        }
        error => KeycloakError::Setup(error),
    }
}

/// Lets through what went well, and says what the rest means. `who` came, to `realm`; `what` is the thing that
/// the URL names.
pub(super) fn judge(
    reply: Reply,
    who: &str,
    realm: &str,
    what: &str,
    step: Step,
) -> Result<Reply, KeycloakError> {
    let said = || said(&reply);
    match reply.status {
        200..=299 => Ok(reply),
        401 => Err(KeycloakError::Token { who: who.to_owned(), realm: realm.to_owned(), said: said() }),
        403 => Err(KeycloakError::Forbidden {
            who: who.to_owned(),
            step: step.what,
            remedy: step.remedy,
            said: said(),
        }),
        404 if no_realm(&reply) => Err(KeycloakError::RealmMissing { realm: realm.to_owned() }),
        404 => Err(KeycloakError::NotFound { what: what.to_owned() }),
        status @ (408 | 429 | 500..=599) => Err(KeycloakError::Unavailable { step: step.what, status }),
        status => Err(KeycloakError::Rejected { step: step.what, status, said: said() }),
    }
}

/// True when a 404 is about the realm and not about what is in it.
pub(super) fn no_realm(reply: &Reply) -> bool {
    reply.status == 404 && said(reply).to_ascii_lowercase().starts_with("realm ")
}

/// The object in an answer.
pub(super) fn object(reply: &Reply, step: Step) -> Result<Map<String, Value>, KeycloakError> {
    match value(reply, step)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(KeycloakError::Answer { step: step.what, reason: "it is no JSON object" }),
    }
}

/// The objects of the list in an answer.
pub(super) fn list(reply: &Reply, step: Step) -> Result<Vec<Map<String, Value>>, KeycloakError> {
    let Value::Array(values) = value(reply, step)? else {
        return Err(KeycloakError::Answer { step: step.what, reason: "it is no JSON list" });
    };
    Ok(values
        .into_iter()
        .filter_map(|value| match value {
            Value::Object(fields) => Some(fields),
            _ => None,
        })
        .collect())
}

fn value(reply: &Reply, step: Step) -> Result<Value, KeycloakError> {
    let unreadable = KeycloakError::Answer { step: step.what, reason: "it is no strict JSON" };
    let Ok(text) = skep_api::json::check(&reply.body, MAX_DEPTH) else { return Err(unreadable) };
    serde_json::from_str(text).map_err(|_| unreadable)
}

/// A text of an object, which is missing when it is empty.
pub(super) fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded_into_paths() {
        for (base, expected) in [
            ("https://k.example", "https://k.example/admin/realms/a%20b/x/spiffe:%2F%2Ftd%2Fns%2F%C3%A4%3F"),
            (
                "http://k.example/auth/",
                "http://k.example/auth/admin/realms/a%20b/x/spiffe:%2F%2Ftd%2Fns%2F%C3%A4%3F",
            ),
        ] {
            let calls = Calls::new(&KeycloakSettings::new(base, "a b").unwrap()).unwrap();
            assert_eq!(calls.admin(&["x", "spiffe://td/ns/ä?"]).as_str(), expected);
        }
    }

    #[test]
    fn a_refusal_has_a_kind_and_a_reason() {
        use super::super::KeycloakErrorKind::*;
        let step = Step { what: "make the client", remedy: "give it the role" };
        for (status, body, kind, shown) in [
            (401, r#"{"error":"HTTP 401 Unauthorized"}"#, Credentials, "HTTP 401"),
            (
                403,
                r#"{"error":"HTTP 403 Forbidden"}"#,
                Forbidden,
                "me may not make the client (HTTP 403 Forbidden)",
            ),
            (404, r#"{"error":"Realm not found."}"#, RealmMissing, "no realm \"r\""),
            (404, r#"{"error":"Could not find client"}"#, NotFound, "no client \"c\""),
            (400, r#"{"errorMessage":"bad\u0007 name"}"#, Rejected, "(400) (bad name)"),
            (400, "<html>", Rejected, "(400)"),
            (302, "", Rejected, "(302)"),
            (429, "", Unavailable, "429"),
            (503, "", Unavailable, "503"),
        ] {
            let reply = Reply { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec() };
            let error = judge(reply, "me", "r", "client \"c\"", step).unwrap_err();
            assert_eq!(error.kind(), kind, "{status} {body}");
            assert!(error.to_string().contains(shown), "{error}");
        }
    }
}
